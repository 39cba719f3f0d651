"""``history``, ``rollback`` and ``push``: the good texts of the past, and a text written back.

``history`` lists the texts of a source or compares two of them, ``rollback`` writes one of them
back and waits until it is served, and ``push`` writes a file into a key in etcd.
"""

import difflib
import time
from dataclasses import replace
from itertools import zip_longest

import click

from ..errors import MopConfigError, SourceError
from ..model.address import without_userinfo
from ..model.codec import Difference, rfc3339
from ..model.endpoint import Kind
from ..server.parsing.render import EMPTY_BODY, render, render_body
from ..server.settings import Settings
from ..server.sources import SCHEME
from ..server.sources.file import FileSource
from ..server.state.directory import WorkerRecord
from ..server.state.releases import check_removals
from .input import env_file_option, etcd_key, judged, settings_for
from .output import COLOURS, json_text, say
from .texts import ChangedError, EtcdTarget, FileTarget, GoodTexts, is_release, replace_text

#: Limit of the wait for the workers, in seconds, and the pause between two reads of their records.
PATIENCE = 30.0
_PAUSE = 0.1
#: Number of lines above which texts are compared by their endpoints only.
MOST_LINES = 20_000


@click.command(epilog="Example: mop-config history --env-file /etc/mop-config/environment")
@click.argument("words", nargs=-1, metavar="[SOURCE]")
@click.option("--diff", "older", metavar="A [B]", help="Compare release A with B  [the newest]")
@click.option("--json", "as_json", is_flag=True, help="Print the releases as JSON.")
@env_file_option
def history(words: tuple[str, ...], older: str | None, as_json: bool) -> None:
    """List the last 50 good texts of SOURCE that the service of this machine has kept.

    Each line has the release, its time, what triggered it, the endpoints that it added (+),
    removed (-) and changed (~), and its ETag. The newest release is first. A release is named
    by its number or by the beginning of its ETag; mop-config rollback brings its text back.

    SOURCE is a file or etcd://host:2379/key, and defaults to ENDPOINT_CONFIG_FILE. The texts are
    in the state folder of the service (ENDPOINT_STATE_DIR).
    """
    releases = [word for word in words if older is not None and is_release(word)]
    sources = [word for word in words if word not in releases]
    if len(sources) > 1 or len(releases) > 1:
        raise click.UsageError("at most one SOURCE expected, and one release B after --diff A")
    settings = settings_for(sources[0] if sources else None)
    kept = GoodTexts.of(settings)
    if older is None:
        _list(kept, settings, as_json=as_json)
        return
    before = kept.find(older)
    after = kept.find(releases[0]) if releases else kept.texts[0]
    names = str(before.release.version), str(after.release.version)
    difference = TextDifference(before.data, after.data, settings, after.saved_at, *names)
    if as_json:
        ends = {"source": kept.source, "from": int(names[0]), "to": int(names[1])}
        print(json_text({**ends, **difference.as_dict()}))
    else:
        difference.print()


def _list(kept: GoodTexts, settings: Settings, *, as_json: bool) -> None:
    rows = []
    # The change of the oldest text is unknown, because its predecessor is not kept.
    for text, older in zip_longest(kept.texts, kept.texts[1:]):
        change = older and changed_endpoints(older.data, text.data, settings, text.saved_at)
        release = text.release
        row = {
            "release": release.version,
            "at": rfc3339(text.saved_at),
            "trigger": text.trigger,
            "etag": release.etag,
            "bytes": len(text.data),
            "counts": {Kind.API: text.api, Kind.SOCKETIO: text.socketio},
            "change": change and change._asdict(),
        }
        rows.append(row)
        if not as_json:
            shown = str(change or "no list") if older else "the oldest"
            say(f"{release.version}  {row['at']}  {text.trigger:6}  {shown:24}  {release.etag}")
    if as_json:
        folder = str(kept.directory.path)
        print(json_text({"source": kept.source, "folder": folder, "releases": rows}))


@click.command(epilog="Example: mop-config rollback 1764403200123 --env-file /etc/mop-config/env")
@click.argument("release")
@click.argument("source", required=False)
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--in-place", is_flag=True, help="Keep hard links and mounts: write into the file.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON; never ask.")
@env_file_option
def rollback(release: str, source: str | None, yes: bool, in_place: bool, as_json: bool) -> None:
    """Write the text of RELEASE back into SOURCE, and wait until every worker serves it.

    RELEASE is a number that mop-config history shows, or the beginning of its ETag. The
    difference is shown, and on a terminal the command asks before it writes. A file is replaced
    in one step and keeps its owner, mode and symbolic links; a key in etcd is written in one
    transaction. If the text removes more than ENDPOINT_MAX_REMOVED allows, the confirming line is
    added to it. Exit 1 if nothing is written, or if a worker does not serve it within 30 s.

    SOURCE is a file or etcd://host:2379/key, and defaults to ENDPOINT_CONFIG_FILE.
    """
    settings = settings_for(source)
    kept = GoodTexts.of(settings)
    good = kept.find(release)
    number, etag = good.release.version, good.release.etag
    name = f"release {number}"
    if len(good.data) > settings.max_bytes:
        too_large = f"{name} is larger than {settings.max_bytes} bytes (ENDPOINT_MAX_BYTES)"
        raise MopConfigError(f"{too_large}: nothing is written")
    reading = judged(name, lambda: (good.data, good.saved_at), settings)
    if reading.refusal is not None:
        raise MopConfigError(f"{reading.refusal}: nothing is written")
    etcd = settings.source.startswith(SCHEME)
    target = EtcdTarget(settings) if etcd else FileTarget(settings.source, in_place=in_place)
    old = target.read()
    difference = TextDifference(old, good.data, settings, time.time(), str(target), name)
    data, added = kept.confirmed(good.data, settings)
    if not as_json:
        difference.print()
    began = rfc3339(time.time())
    result = replace_text(target, old, data, sure=yes or as_json)
    if not as_json:
        for line in added:
            say(f"added: {line}")
        say(f"{target}: {name} is {result}")
    if result == "unchanged":
        began = ""  # the workers have judged the text before, and do not read it again
    workers = wait_until_served(kept, {etag, reading.rendering.etag}, began)
    if as_json:
        outcome = {"target": str(target), "release": number, "etag": etag, "result": result}
        outcome |= {"added": added, "workers": [worker["pid"] for worker in workers]}
        click.echo(json_text({**outcome, **difference.as_dict()}))
    elif workers:
        say(f"every worker serves it ({len(workers)}), etag {workers[0]['served']['etag']}")
    else:
        say("no running worker is seen from here: the next one that starts serves it")


def wait_until_served(kept: GoodTexts, etags: set[str], began: str) -> list[WorkerRecord]:
    """Wait until every worker serves a list, and return the records of the workers.

    Args:
        kept: The texts of the source, with the records of its running workers.
        etags: The ETags of the list by the current settings and by the settings of its release.
        began: Time before the write, in RFC 3339; an earlier refusal is not of this text. Empty if
            nothing was written.

    Raises:
        MopConfigError: If a worker refuses the list, or does not serve the list in time.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        workers = kept.workers()
        late = [
            worker
            for worker in workers
            if worker["served"]["etag"] not in etags or worker["served"]["state"] != "fresh"
        ]
        for worker in late:
            newest = [reload["entry"] for reload in worker["history"][:1]]
            error = next((entry["error"] for entry in newest if entry["at"] >= began), None)
            if error or time.monotonic() > deadline:
                reason = error or "it has not read it yet"
                raise MopConfigError(f"worker {worker['pid']} does not serve it: {reason}")
        if not late:
            return workers
        time.sleep(_PAUSE)


@click.command(epilog="Example: mop-config push endpoints.txt etcd://10.0.0.1,10.0.0.2/endpoints")
@click.argument("file")
@click.argument("key", metavar="[ETCD-KEY]", required=False)
@click.option("--force", is_flag=True, help="Write even if the key has changed meanwhile.")
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON; never ask.")
@env_file_option
def push(file: str, key: str | None, force: bool, yes: bool, as_json: bool) -> None:
    """Write FILE into ETCD-KEY, from which servers read their list.

    ETCD-KEY is etcd://host:2379[,host:2379]/key and defaults to ENDPOINT_CONFIG_FILE; the
    login and the certificates come from ENDPOINT_ETCD_USER, _PASSWORD, _CA, _CERT and _KEY.

    A file with errors is refused, and so is one that removes more of a kind than
    ENDPOINT_MAX_REMOVED allows, without the confirming line. The difference is shown, and on a
    terminal the command asks before it writes. Nothing is written if another client has written
    the key meanwhile. Exit 1 if nothing could be written.
    """
    if file.startswith(SCHEME):
        raise click.UsageError("name the FILE to push")
    settings = Settings.from_environ()
    settings = replace(settings, source=etcd_key(key or settings.source))
    target = EtcdTarget(settings, force=force)
    reading = judged(file, lambda: FileSource(file, settings.max_bytes).read()[:2], settings)
    if not reading.lines and reading.refusal is not None:
        raise reading.refusal
    problems = [problem.as_dict() for problem in reading.rendering.problems]
    outcome: dict[str, object] = {"target": str(target), "problems": problems}

    def report(result: str, **more: int | None) -> None:
        if as_json:
            print(json_text({**outcome, "result": result, **more}))

    if not as_json:
        for problem in reading.rendering.problems:
            say(f"{file}: {problem} [{problem.code}]", err=True)
    if reading.rendering.errors:
        report("refused")
        raise MopConfigError(f"{file} has errors ({reading.rendering.errors}): nothing is written")
    old = target.read()
    check_removals(reading.rendering, settings, reading.data, old, time.time())
    difference = TextDifference(old, reading.data, settings, time.time(), str(target), file)
    outcome |= {"previous_revision": target.revision, **difference.as_dict()}
    if not as_json:
        difference.print()
    try:
        result = replace_text(target, old, reading.data, sure=yes or as_json)
    except ChangedError:
        report("conflict", revision=None)
        raise
    report(result, revision=target.revision)
    if not as_json:
        say(f"{target}: {result}, revision {target.revision}")


class TextDifference:
    """The difference of two texts: their lines, unless there are too many, and their endpoints.

    Args:
        old: The older text.
        new: The newer text.
        settings: Settings by which the endpoints are read.
        at: POSIX seconds for which windows are judged.
        names: The names of the older and the newer text.
    """

    def __init__(self, old: bytes, new: bytes, settings: Settings, at: float, *names: str) -> None:
        before, after = _lines(old), _lines(new)
        older, newer = names
        self._lines: list[str] | None = None
        if max(len(before), len(after)) <= MOST_LINES:
            self._lines = list(difflib.unified_diff(before, after, older, newer, n=1, lineterm=""))
        self._change = changed_endpoints(old, new, settings, at)

    def print(self) -> None:
        """Print the lines, with colours on a terminal, and the number of endpoints."""
        for line in self._lines or []:
            say(line, fg=COLOURS.get(line[:1]))
        if self._change is not None:
            say(str(self._change))

    def as_dict(self) -> dict[str, object]:
        """Return the members ``diff`` and ``change`` of a JSON document."""
        return {"diff": self._lines, "change": self._change and self._change._asdict()}


def changed_endpoints(old: bytes, new: bytes, settings: Settings, at: float) -> Difference | None:
    """Compare the endpoints of two texts at a moment; return None if the newer has no list."""
    served = render_body(old, settings.rules, at) or EMPTY_BODY
    try:
        return render(new, settings.rules, served, at).difference
    except SourceError:
        return None


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [without_userinfo(line) for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
