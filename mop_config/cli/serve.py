"""``mop-config serve``: run gunicorn with the packaged configuration, from any folder."""

import os
import sys

import click

from ..errors import SettingsError
from ..server.serving.signer import check as check_key
from ..server.settings import ProcessSettings, Settings
from ..server.sources import check_source
from .env_file import env_file_option
from .input import not_empty
from .port import check_port

# The environment variable that each option overrides.
_VARIABLES = {
    "file": "ENDPOINT_CONFIG_FILE",
    "host": "HOST",
    "port": "PORT",
    "workers": "WEB_CONCURRENCY",
    "threads": "THREADS",
    "worker_class": "WORKER_CLASS",
}


@click.command(epilog="Example: mop-config serve /etc/mop/endpoints.txt --port 8080")
@click.argument("file", required=False, callback=not_empty)
@click.option("--host", metavar="ADDRESS", help="Listen here  [HOST, 127.0.0.1]")
@click.option("--port", metavar="N", help="Listen on this port, 0 for a free one  [PORT, 8000]")
@click.option("--workers", metavar="N", help="Worker processes  [WEB_CONCURRENCY, 2]")
@click.option("--threads", metavar="N", help="Threads of each worker  [THREADS, 16]")
@click.option("--worker-class", metavar="NAME", help="asgi, gthread or sync  [WORKER_CLASS, asgi]")
@env_file_option
def serve(**options: str | None) -> None:
    """Serve the endpoint list in FILE, and every change of it.

    FILE defaults to ENDPOINT_CONFIG_FILE, else config/endpoints.txt. gunicorn takes
    more options from GUNICORN_CMD_ARGS, such as GUNICORN_CMD_ARGS="--access-logfile -".
    """
    given = {_VARIABLES[name]: value for name, value in options.items() if value is not None}
    os.environ.update(given)
    try:
        process = ProcessSettings.from_environ()
        settings = Settings.from_environ()
        check_key(settings)
        check_source(settings)
    except SettingsError as error:
        if error.variable not in given:
            raise
        option = next(name for name, variable in _VARIABLES.items() if variable == error.variable)
        hint = "FILE" if option == "file" else "--" + option.replace("_", "-")
        message = f"{error.value!r} cannot be used: it must be {error.allowed}"
        raise click.BadParameter(message, param_hint=hint) from None
    check_port(process)
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
