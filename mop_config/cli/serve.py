"""``mop-config serve``: run gunicorn with the packaged configuration, from any folder."""

import errno
import os
import socket
import sys
from pathlib import Path

import click

from ..errors import MopConfigError, SettingsError
from ..server.settings import ProcessSettings, Settings
from .input import env_file_option


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
        Settings.from_environ()  # our configuration of gunicorn checks the files that they name
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
    # The current folder stays off the import path, where a gunicorn.py would be imported. SIGUSR2
    # starts the same script again, with the same environment.
    os.environ["PYTHONSAFEPATH"] = "1"
    command = [
        sys.executable,
        str(Path(__file__).parents[1] / "server/gunicorn/main.py"),
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
    try:
        socket.create_server((host, port), family=family).close()
    except OSError as error:
        of_port = {
            errno.EADDRINUSE: f"another program listens at {process.host}:{port}",
            errno.EACCES: "a port below 1024 takes root, or a socket that systemd hands over",
        }.get(error.errno or 0)
        variable = f"PORT={port}" if of_port else f"HOST={process.host}"
        reason = of_port or f"no address of this machine ({error.strerror or error})"
        raise MopConfigError(f"{variable} cannot be used: {reason}") from None
