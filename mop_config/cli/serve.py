"""``serve`` and ``publish``: run the server, or write its responses as files.

``serve`` runs gunicorn with the packaged configuration, from any folder. The files of ``publish``
are for a web server, object storage or a CDN.
"""

import errno
import logging
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import click

from ..errors import MopConfigError, SettingsError
from ..server.logs import log_to_stderr
from ..server.serving.responder import check_key
from ..server.settings import ProcessSettings, Settings
from ..server.sources import check_source
from .input import env_file_option, settings_for, warn
from .output import complain, json_text, plan_lines, say

#: Seconds to wait until a stopping server releases the port, and the pause between two attempts.
_PATIENCE, _PAUSE = 5.0, 0.1


@click.command(epilog="Example: mop-config serve /etc/mop/endpoints.txt --port 8080")
# Each parameter is named after the environment variable that it overrides, in lower case.
@click.argument("endpoint_config_file", metavar="[FILE]", required=False)
@click.option("--host", metavar="ADDRESS", help="Listen here  [HOST, 127.0.0.1]")
@click.option("--port", metavar="N", help="Listen on this port, 0 for a free one  [PORT, 8000]")
@click.option("--workers", "web_concurrency", metavar="N", help="Processes  [WEB_CONCURRENCY, 2]")
@click.option("--threads", metavar="N", help="Threads of each worker  [THREADS, 16]")
@click.option("--worker-class", metavar="NAME", help="asgi, gthread or sync  [WORKER_CLASS, asgi]")
@env_file_option
def serve(**options: str | None) -> None:
    """Serve the endpoint list in FILE, and every change of it.

    FILE defaults to ENDPOINT_CONFIG_FILE, else config/endpoints.txt. gunicorn takes
    more options from GUNICORN_CMD_ARGS, such as GUNICORN_CMD_ARGS="--access-logfile -".
    """
    given = {name.upper(): value for name, value in options.items() if value is not None}
    os.environ.update(given)
    try:
        process = ProcessSettings.from_environ()
        settings = Settings.from_environ()
        check_key(settings)
        check_source(settings)
    except SettingsError as error:
        if error.variable not in given:
            raise
        context = click.get_current_context()
        parameter = next(p for p in context.command.params if p.name == error.variable.lower())
        message = f"{error.value!r} cannot be used: it must be {error.allowed}"
        raise click.BadParameter(message, context, parameter) from None
    arguments = os.environ.get("GUNICORN_CMD_ARGS", "").replace("=", " ").split()
    passed = {"LISTEN_FDS", "GUNICORN_FD"} & os.environ.keys()
    if not passed and not any(word == "--bind" or word.startswith("-b") for word in arguments):
        _check_port(process)
    command = [
        # -P keeps the current folder off the path, where a gunicorn.py would be imported.
        sys.executable,
        "-P",
        "-m",
        "mop_config.server.gunicorn.main",
        "--config=python:mop_config.server.gunicorn_conf",
        "mop_config:create_app()",
    ]
    sys.stdout.flush()
    os.execv(sys.executable, command)


def _check_port(process: ProcessSettings) -> None:
    """Check that the port is free; gunicorn's own error does not name the setting.

    Raises:
        MopConfigError: If the server cannot listen on the port; the message names the setting.
    """
    host, port = process.host.strip("[]"), process.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    deadline = time.monotonic() + _PATIENCE
    while True:
        try:
            socket.create_server((host, port), family=family).close()
            return
        except OSError as error:
            if error.errno == errno.EADDRINUSE and time.monotonic() < deadline:
                time.sleep(_PAUSE)
                continue
            of_port = {
                errno.EADDRINUSE: f"another program listens at {process.host}:{port}",
                errno.EACCES: "a port below 1024 takes root, or a socket that systemd hands over",
            }.get(error.errno or 0)
            variable = f"PORT={port}" if of_port else f"HOST={process.host}"
            reason = of_port or f"no address of this machine ({error.strerror or error})"
            raise MopConfigError(f"{variable} cannot be used: {reason}") from None


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
    # Silence this logger: the command prints the refusal itself.
    logging.getLogger("mop_config.server.reload.pipeline").disabled = True
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
