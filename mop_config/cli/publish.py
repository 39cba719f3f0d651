"""``mop-config publish``: write the list as files for a web server, object storage or a CDN."""

import logging
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import click

from ..server.logs import log_to_stderr
from .input import env_file_option, settings_for, warn
from .output import complain, json_text, plan_lines, say


@click.command(epilog="Example: mop-config publish config/endpoints.txt --out /srv/mop-config")
@click.argument("file", required=False)
@click.option("--out", metavar="DIR", required=True, help="Write into DIR.")
@click.option("--key", metavar="KEY", help="Sign with this key  [ENDPOINT_SIGNING_KEY_FILE]")
@click.option("--watch", is_flag=True, help="Keep running, and publish every change of FILE.")
@click.option("--json", "as_json", is_flag=True, help="Print the files and their types as JSON.")
@env_file_option
def publish(file: str | None, out: str, key: str | None, watch: bool, as_json: bool) -> int:
    """Write the responses of a server into DIR, each file in one step and only if it changed.

    The files are the list, its compressed and its signed form, the keys, a health check and
    QR images. A text that is refused changes nothing. Exit 1 if the text is refused, or if it has
    errors and only its good entries are published.

    FILE defaults to ENDPOINT_CONFIG_FILE, else config/endpoints.txt.
    """
    if watch and as_json:
        raise click.UsageError("--json is for one publication, without --watch")
    # Imported here, because the exporter's parts take long to import.
    from ..server.export import TYPES, StaticExporter
    from ..server.web import instance_folder

    # World-readable files: the web server usually runs as another user.
    os.umask(0o022)
    settings = settings_for(file)
    if key is not None:
        settings = replace(settings, signing_key_file=key)
    warn(settings, ())
    publisher = StaticExporter(settings, Path(out), instance_folder())
    if watch:
        log_to_stderr()
        return 130 if publisher.follow() == signal.SIGINT else 0
    # The command prints a refusal itself, so logging must not print it too for lack of a handler.
    logging.getLogger("mop_config.server.reload.pipeline").addHandler(logging.NullHandler())
    changed, view = publisher.publish()
    for problem in view.problems:
        complain(problem)
    for line in plan_lines(view.planned[:1], time.time()):
        complain(f"next change {line}: publish again then, or use --watch")
    if as_json:
        rows = [
            {
                "path": name,
                "content_type": content_type,
                "content_encoding": "gzip" if name.endswith(".gz") else None,
                "changed": name in changed,
            }
            for name, content_type in TYPES.items()
            if (Path(out) / name).exists()
        ]
        print(json_text({"files": rows}))
    else:
        for name in sorted(changed):
            say(name)
    return int(view.errors > 0)
