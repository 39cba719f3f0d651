"""``mop-config push``: write an endpoint file into a key in etcd."""

import time
from dataclasses import replace

import click

from ..errors import MopConfigError
from ..server.parsing.render import check_removals
from ..server.settings import Settings
from ..server.sources import SCHEME
from ..server.sources.file import FileSource
from .input import env_file_option, etcd_key, judged
from .output import json_text, say
from .texts import EtcdTarget, TextDifference, replace_text


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
    if key is None and not settings.source.startswith(SCHEME):
        raise click.UsageError("name the ETCD-KEY: ENDPOINT_CONFIG_FILE names none")
    settings = replace(settings, source=etcd_key(key or settings.source))
    target = EtcdTarget(settings, force=force)
    reading = judged(file, lambda: FileSource(file, settings.max_bytes).read()[:2], settings)
    if not reading.lines and reading.refusal is not None:
        raise reading.refusal
    rendering = reading.rendering
    for problem in rendering.problems:
        say(f"{file}: {problem} [{problem.code}]", err=True)
    if rendering.errors:
        raise MopConfigError(f"{file} has errors ({rendering.errors}): nothing is written")
    old = target.read()
    previous = target.revision
    check_removals(rendering, settings, old, time.time())
    difference = TextDifference(old, rendering.data, settings, time.time(), str(target), file)
    if not as_json:
        difference.print()
    result = replace_text(target, old, rendering.data, sure=yes or as_json)
    if as_json:
        outcome: dict[str, object] = {"target": str(target), "result": result}
        outcome |= {"previous_revision": previous, "revision": target.revision}
        outcome["problems"] = [problem.as_dict() for problem in rendering.problems]
        print(json_text({**outcome, **difference.as_dict()}))
    else:
        say(f"{target}: {result}, revision {target.revision}")
