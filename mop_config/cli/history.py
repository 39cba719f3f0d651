"""``mop-config history``: list the good texts of the past, or compare two of them."""

from itertools import zip_longest

import click

from ..model.endpoint import Kind, rfc3339
from ..server.settings import Settings
from .input import env_file_option, settings_for
from .output import json_text, say
from .texts import GoodTexts, TextDifference, changed_endpoints, is_release


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
