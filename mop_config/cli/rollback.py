"""``mop-config rollback``: write a good text of the past back, and wait until it is served."""

import time

import click

from ..errors import MopConfigError
from ..model.endpoint import Difference, difference, rfc3339
from ..server.parsing.problems import Code
from ..server.parsing.render import EMPTY_BODY, render_body
from ..server.serving.store import Result
from ..server.sources import SCHEME
from ..server.state.directory import WorkerRecord
from ..server.state.releases import LastGood
from .input import Reading, env_file_option, judged, settings_for
from .output import json_text, say
from .texts import EtcdTarget, FileTarget, GoodTexts, TextDifference, replace_text

#: Limit of the wait for the workers, in seconds, and the pause between two reads of their records.
PATIENCE = 30.0
_PAUSE = 0.1


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
    added to it. Windows (from=, until=) are judged as of now. Exit 1 if nothing is written, or if
    a worker does not serve it within 30 s.

    SOURCE is a file or etcd://host:2379/key, and defaults to ENDPOINT_CONFIG_FILE.
    """
    settings = settings_for(source)
    kept = GoodTexts.of(settings)
    good = kept.find(release)
    number = good.release.version
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
    lines = TextDifference(old, good.data, settings, time.time(), str(target), name)
    windows = _by_windows(good, reading)
    data, added = kept.confirmed(good.data, settings)
    if not as_json:
        lines.print()
        if windows:
            say(f"{windows} since {name}, as windows (from=, until=) have begun or ended")
    began = rfc3339(time.time())
    result = replace_text(target, old, data, sure=yes or as_json)
    if not as_json:
        for line in added:
            say(f"added: {line}")
        say(f"{target}: {name} is {result}")
    if result == "unchanged":
        began = ""  # the workers have judged the text before, and do not read it again
    workers = wait_until_served(kept, {good.release.etag, reading.rendering.etag}, began)
    if as_json:
        outcome = {"target": str(target), "release": number, "etag": reading.rendering.etag}
        outcome |= {"result": result, "added": added, "workers": [w["pid"] for w in workers]}
        outcome["windows"] = windows and windows._asdict()
        click.echo(json_text({**outcome, **lines.as_dict()}))
    elif workers:
        say(f"every worker serves it ({len(workers)}), etag {workers[0]['served']['etag']}")
    else:
        say("no running worker is seen from here: the next one that starts serves it")


def _by_windows(good: LastGood, reading: Reading) -> Difference | None:
    """Return how windows have changed the list of a text since its release; None if not at all."""
    then = render_body(good.data, reading.settings.rules, good.boundary) or EMPTY_BODY
    changed = difference(then, reading.rendering.body)
    return changed if any(changed) else None


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
            newest = next(iter(worker["history"]), None)
            # After the write a worker may still note that the source was missing before.
            refused = (
                newest
                and newest["at"] >= began
                and newest["result"] == Result.REJECTED
                and newest.get("code") != Code.MISSING
            )
            if refused or time.monotonic() > deadline:
                reason = (newest and newest["error"]) or "it has not read it yet"
                raise MopConfigError(f"worker {worker['pid']} does not serve it: {reason}")
        if not late:
            return workers
        time.sleep(_PAUSE)
