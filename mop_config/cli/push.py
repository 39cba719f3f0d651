"""``mop-config push``: write an endpoint file into etcd, list its revisions, or roll back."""

import difflib
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import click

from ..errors import MopConfigError, SourceError
from ..model.address import without_userinfo
from ..model.codec import Difference
from ..model.printable import blanked
from ..server.parsing.render import EMPTY_BODY, Rendering, render
from ..server.settings import Settings
from ..server.sources import check_source
from ..server.sources.etcd import Etcd, Found
from ..server.sources.file import FileSource
from .env_file import env_file_option
from .etcd_history import ChangedError, Revision, at, history, write
from .input import Reading, etcd_key, is_etcd, judged
from .output import json_text, say

#: Number of lines above which only the figures of a difference are printed.
MOST_LINES = 20_000
#: Maximum size in bytes of etcd's messages about earlier revisions.
MOST_BYTES = 64 << 20
#: Number of revisions that --history shows.
SHOWN = 100


class _PushOptions(NamedTuple):
    """The arguments and options of one call of the command."""

    etcd: Etcd
    settings: Settings
    force: bool
    ask: bool
    as_json: bool


@click.command(
    epilog="Example: mop-config push config/endpoints.txt etcd://10.0.0.1,10.0.0.2/mop/endpoints"
)
@click.argument("words", nargs=-1, metavar="[FILE] [ETCD-KEY]")
@click.option(
    "--force", is_flag=True, help="Write even if another client has changed the key meanwhile."
)
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option(
    "--history", "list_history", is_flag=True, help="List the revisions that etcd still has."
)
@click.option(
    "--rollback",
    type=click.IntRange(min=1),
    metavar="REV",
    help="Write the text that the key had at this revision.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON; never ask.")
@env_file_option
def push(
    words: tuple[str, ...],
    force: bool,
    yes: bool,
    list_history: bool,
    rollback: int | None,
    as_json: bool,
) -> int:
    """Write FILE into ETCD-KEY, from which servers read their list.

    ETCD-KEY is etcd://host:2379[,host:2379]/key and defaults to ENDPOINT_CONFIG_FILE; the
    login and the certificates come from ENDPOINT_ETCD_USER, _PASSWORD, _CA, _CERT and _KEY.

    A file with errors is refused. The difference is shown, and on a terminal the command
    asks before it writes. Nothing is written if another client has written the key meanwhile.
    Exit 1 if nothing could be written.
    """
    if list_history and rollback is not None:
        raise click.UsageError("--history and --rollback exclude each other")
    without_file = list_history or rollback is not None
    file, key = _split(words, without_file=without_file)
    settings = Settings.from_environ()
    settings = replace(settings, source=etcd_key(key or settings.source).text)
    check_source(settings)
    address = etcd_key(settings.source)
    judging = Etcd(address, settings.etcd, settings.max_bytes)
    # Earlier texts are only shown: they may be larger than a server accepts, and one message of
    # etcd may hold several.
    etcd = Etcd(address, settings.etcd, max(settings.max_bytes, MOST_BYTES))
    ask = sys.stdin.isatty() and sys.stdout.isatty() and not yes and not as_json
    call = _PushOptions(etcd, settings, force, ask, as_json)
    if list_history:
        return _show_history(call)
    if rollback is not None:
        return _write(call, f"revision {rollback}", lambda: at(judging, rollback).data)
    source = FileSource(file, settings.max_bytes)
    return _write(call, file, lambda: source.read().data)


def _split(words: tuple[str, ...], *, without_file: bool) -> tuple[str, str]:
    """Return the file and the key; an empty key means the key of the environment."""
    most = 1 if without_file else 2
    if len(words) > most:
        raise click.UsageError(f"at most {most} argument{'s' * (most > 1)} expected")
    key = words[-1] if words and (without_file or len(words) == 2) else ""
    if not without_file and (not words or not words[0] or is_etcd(words[0])):
        raise click.UsageError("name the FILE to push")
    if words and not words[-1]:
        raise click.UsageError("an argument is empty")
    return ("" if without_file else words[0]), key


# -- writing


def _write(call: _PushOptions, name: str, read_data: Callable[[], bytes]) -> int:
    reading = judged(name, read_data, call.settings)
    if reading.rendering is None and reading.refusal is not None:
        raise reading.refusal
    if reading.errors:
        return _refused(call, reading)
    there = call.etcd.get()
    old = there.data if there else b""
    lines = _diff(old, reading.data, str(call.etcd), name)
    change = _change(old, reading.data, call.settings)
    outcome = {
        "target": str(call.etcd),
        "previous_revision": there.revision if there else None,
        "change": change._asdict() if change else None,
        "diff": lines,
        "problems": [problem.as_dict() for problem in reading.problems],
    }
    if not call.as_json:
        _show(reading, lines, change)
    if there is not None and old == reading.data:
        return _done(call, {**outcome, "result": "unchanged", "revision": there.revision})
    if call.ask and not click.confirm(f"Write this to {call.etcd}?"):
        raise MopConfigError("nothing is written")
    try:
        revision = write(call.etcd, reading.data, _expected(call, there))
    except ChangedError:
        if call.as_json:
            _done(call, {**outcome, "result": "conflict", "revision": None})
        raise
    return _done(call, {**outcome, "result": "written", "revision": revision})


def _expected(call: _PushOptions, there: Found | None) -> int | None:
    if call.force:
        return None
    return there.revision if there else 0


def _refused(call: _PushOptions, reading: Reading) -> int:
    if call.as_json:
        problems = [problem.as_dict() for problem in reading.problems]
        _done(call, {"target": str(call.etcd), "result": "refused", "problems": problems})
    else:
        _warn(reading)
    raise MopConfigError(f"{reading.path} has errors ({reading.errors}): nothing is written")


def _warn(reading: Reading) -> None:
    for problem in reading.problems:
        say(f"{reading.path}: {problem} [{problem.code}]", err=True)


def _show(reading: Reading, lines: list[str] | None, change: Difference | None) -> None:
    _warn(reading)
    for line in lines or ():
        style = {"+": "green", "-": "red"}.get(line[:1]) if sys.stdout.isatty() else None
        click.echo(click.style(line, fg=style) if style else line)
    if change is not None:
        click.echo(str(change))


def _done(call: _PushOptions, outcome: dict[str, object]) -> int:
    if call.as_json:
        click.echo(json_text(outcome))
    elif outcome["result"] == "unchanged":
        click.echo(f"{call.etcd}: unchanged, revision {outcome['revision']}")
    else:
        click.echo(f"{call.etcd}: written, revision {outcome['revision']}")
    return 0


# -- what differs


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    return [_shown(line) for line in (lines[:-1] if lines[-1] == "" else lines)]


def _shown(line: str) -> str:
    """Make a line printable, without a password."""
    shown = without_userinfo(line)
    return blanked(shown, keep="\t")


def _diff(old: bytes, new: bytes, old_name: str, new_name: str) -> list[str] | None:
    """Return the difference line by line, or None for texts too long to compare."""
    before, after = _lines(old), _lines(new)
    if max(len(before), len(after)) > MOST_LINES:
        return None
    return list(difflib.unified_diff(before, after, old_name, new_name, lineterm="", n=1))


def _rendering(data: bytes, settings: Settings, served: bytes) -> Rendering | None:
    try:
        return render(data, settings.rules, served)
    except SourceError:
        return None


def _change(old: bytes, new: bytes, settings: Settings) -> Difference | None:
    before = _rendering(old, settings, EMPTY_BODY)
    after = _rendering(new, settings, before.body if before else EMPTY_BODY)
    return after.difference if after else None


# -- the past


def _show_history(call: _PushOptions) -> int:
    # One revision more than is shown, with which the oldest one is compared.
    known = history(call.etcd, SHOWN + 1)
    rows = [
        _row(revision, known[i - 1].data if i else b"", call.settings)
        for i, revision in enumerate(known)
    ][-SHOWN:]
    rows.reverse()
    if call.as_json:
        document = {"target": str(call.etcd), "revisions": rows}
        click.echo(json_text(document))
    else:
        for row in rows:
            click.echo(_row_text(row))
    if not known:
        raise MopConfigError(f"etcd knows nothing of {call.etcd}")
    return 0


def _row(revision: Revision, before: bytes | None, settings: Settings) -> dict[str, object]:
    row: dict[str, object] = {"revision": revision.number, "deleted": revision.data is None}
    if revision.data is None:
        return row
    rendering = _rendering(revision.data, settings, EMPTY_BODY)
    change = _change(before or b"", revision.data, settings)
    return {
        **row,
        "bytes": len(revision.data),
        "counts": {
            "api": rendering.api_count if rendering else 0,
            "socketio": rendering.socketio_count if rendering else 0,
            "errors": rendering.errors if rendering else 1,
        },
        "change": change._asdict() if change else None,
    }


def _row_text(row: dict[str, object]) -> str:
    if row["deleted"]:
        return f"revision {row['revision']}: deleted"
    counts, change = row["counts"], row["change"]
    errors = (
        f", errors: {counts['errors']}" if isinstance(counts, dict) and counts["errors"] else ""
    )
    difference = Difference(**change) if isinstance(change, dict) else "no text"
    return f"revision {row['revision']}: {row['bytes']} bytes, {difference}{errors}"
