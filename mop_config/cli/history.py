"""``mop-config history``: list the good texts of the past, or compare two of them."""

from itertools import pairwise

import click

from ..model.codec import Difference, rfc3339
from ..model.endpoint import Kind
from ..server.settings import Settings
from ..server.state.last_good import LastGood
from .env_file import env_file_option
from .good_texts import GoodTexts, is_release
from .input import not_empty, settings_for
from .output import json_text, say
from .text_difference import TextDifference, changed_endpoints


@click.command(epilog="Example: mop-config history --env-file /etc/mop-config/environment")
@click.argument("words", nargs=-1, metavar="[SOURCE]")
@click.option(
    "--diff",
    "older",
    metavar="A [B]",
    callback=not_empty,
    help="Compare release A with release B, by default the newest.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the releases as JSON.")
@env_file_option
def history(words: tuple[str, ...], older: str | None, as_json: bool) -> int:
    """List the last 50 good texts of SOURCE that the service of this machine has kept.

    Each line has the release, its time, what triggered it, the endpoints that it added (+),
    removed (-) and changed (~), and its ETag. The newest release is first. A release is named
    by its number or by the beginning of its ETag; mop-config rollback brings its text back.

    SOURCE is a file or etcd://host:2379/key, and defaults to ENDPOINT_CONFIG_FILE. The texts are
    in the state folder of the service (ENDPOINT_STATE_DIR).
    """
    source, newer = _split(words, comparing=older is not None)
    settings = settings_for(source)
    kept = GoodTexts.of(settings)
    if older is None:
        _list(kept, settings, as_json=as_json)
        return 0
    before = kept.find(older, settings)
    after = kept.texts[0] if newer is None else kept.find(newer, settings)
    names = str(before.record.release.version), str(after.record.release.version)
    difference = TextDifference.between(before.data, after.data, names, settings)
    if as_json:
        ends = {"source": kept.source, "from": int(names[0]), "to": int(names[1])}
        print(json_text({**ends, **difference.as_dict()}))
    else:
        difference.print()
    return 0


def _split(words: tuple[str, ...], *, comparing: bool) -> tuple[str | None, str | None]:
    """Return the source and the release B among the arguments.

    Raises:
        click.UsageError: If there are other arguments.
    """
    releases = [word for word in words if comparing and is_release(word)]
    sources = [word for word in words if word not in releases]
    if "" in words:
        raise click.UsageError("an argument is empty")
    if len(sources) > 1 or len(releases) > 1:
        raise click.UsageError("at most one SOURCE expected, and one release B after --diff A")
    return next(iter(sources), None), next(iter(releases), None)


def _list(kept: GoodTexts, settings: Settings, *, as_json: bool) -> None:
    changes = [
        changed_endpoints(before.data, after.data, settings)
        for after, before in pairwise(kept.texts)
    ]
    # The change of the oldest text is unknown, because its predecessor is not kept.
    rows = list(zip(kept.texts, [*changes, None], strict=True))
    if as_json:
        folder = str(kept.directory.path)
        releases = [_row(text, change) for text, change in rows]
        print(json_text({"source": kept.source, "folder": folder, "releases": releases}))
        return
    for text, change in rows:
        release = text.record.release
        shown = "the oldest" if text is kept.texts[-1] else str(change or "no list")
        at = rfc3339(text.saved_at)
        say(f"{release.version}  {at}  {text.trigger:6}  {shown:24}  {release.etag}")


def _row(text: LastGood, change: Difference | None) -> dict[str, object]:
    record = text.record
    return {
        "release": record.release.version,
        "at": rfc3339(text.saved_at),
        "trigger": text.trigger,
        "etag": record.release.etag,
        "bytes": len(text.data),
        "counts": {Kind.API: record.api, Kind.SOCKETIO: record.socketio},
        "change": change._asdict() if change else None,
    }
