"""``mop-config push``: write an endpoint file into a key in etcd."""

from dataclasses import replace

import click

from ..errors import MopConfigError
from ..server.settings import Settings
from ..server.sources.file import FileSource
from .env_file import env_file_option
from .input import Reading, etcd_key, is_etcd, judged, not_empty
from .output import json_text, may_ask, say
from .text_difference import TextDifference
from .text_target import ChangedError, EtcdTarget


@click.command(
    epilog="Example: mop-config push config/endpoints.txt etcd://10.0.0.1,10.0.0.2/mop/endpoints"
)
@click.argument("file", callback=not_empty)
@click.argument("key", metavar="[ETCD-KEY]", required=False, callback=not_empty)
@click.option(
    "--force", is_flag=True, help="Write even if another client has changed the key meanwhile."
)
@click.option("--yes", is_flag=True, help="Write without asking.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON; never ask.")
@env_file_option
def push(file: str, key: str | None, force: bool, yes: bool, as_json: bool) -> int:
    """Write FILE into ETCD-KEY, from which servers read their list.

    ETCD-KEY is etcd://host:2379[,host:2379]/key and defaults to ENDPOINT_CONFIG_FILE; the
    login and the certificates come from ENDPOINT_ETCD_USER, _PASSWORD, _CA, _CERT and _KEY.

    A file with errors is refused. The difference is shown, and on a terminal the command
    asks before it writes. Nothing is written if another client has written the key meanwhile.
    Exit 1 if nothing could be written.
    """
    if is_etcd(file):
        raise click.UsageError("name the FILE to push")
    settings = Settings.from_environ()
    settings = replace(settings, source=etcd_key(key or settings.source).text)
    target = EtcdTarget(settings, force=force)
    reading = judged(file, lambda: FileSource(file, settings.max_bytes).read().data, settings)
    if reading.rendering is None and reading.refusal is not None:
        raise reading.refusal
    outcome: dict[str, object] = {"target": str(target)}
    problems = [problem.as_dict() for problem in reading.problems]
    if not as_json:
        _warn(reading)
    if reading.errors:
        _print({**outcome, "result": "refused", "problems": problems}, as_json=as_json)
        raise MopConfigError(f"{file} has errors ({reading.errors}): nothing is written")
    old = target.read()
    difference = TextDifference.between(old, reading.data, (str(target), file), settings)
    outcome |= {"previous_revision": target.revision, **difference.as_dict(), "problems": problems}
    if not as_json:
        difference.print()
    if target.revision is not None and old == reading.data:
        return _print({**outcome, "result": "unchanged", "revision": target.revision}, as_json)
    if not as_json and not yes and may_ask() and not click.confirm(f"Write this to {target}?"):
        raise MopConfigError("nothing is written")
    try:
        target.write(reading.data)
    except ChangedError:
        if as_json:
            _print({**outcome, "result": "conflict", "revision": None}, as_json)
        raise
    return _print({**outcome, "result": "written", "revision": target.revision}, as_json)


def _warn(reading: Reading) -> None:
    for problem in reading.problems:
        say(f"{reading.path}: {problem} [{problem.code}]", err=True)


def _print(outcome: dict[str, object], as_json: bool) -> int:
    if as_json:
        click.echo(json_text(outcome))
    elif "revision" in outcome:
        click.echo(f"{outcome['target']}: {outcome['result']}, revision {outcome['revision']}")
    return 0
