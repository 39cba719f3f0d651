"""gunicorn's configuration: settings from the environment, and hooks.

``gunicorn.conf.py`` at the top of a clone takes all of it over; an installed package has
it here, for ``mop-config serve`` and ``gunicorn -c python:mop_config.server.gunicorn_conf``.
"""

import os
import sys
from typing import Any

from mop_config.errors import SettingsError
from mop_config.server.gunicorn import hooks
from mop_config.server.serving import signer
from mop_config.server.settings import ProcessSettings, Settings
from mop_config.server.sources import check_source

#: The worker classes by their names in ``WORKER_CLASS``.
WORKER_CLASSES = {
    "asgi": "asgi_worker.AsgiWorker",
    "gthread": "worker.ThreadWorker",
    "sync": "worker.SynchronousWorker",
}

try:
    _process = ProcessSettings.from_environ()
    # A bad environment is refused here, in one line, before any fork.
    _settings = Settings.from_environ()
    signer.check(_settings)
    check_source(_settings)
except SettingsError as error:
    sys.exit(f"mop-config: {error}")

bind = f"{_process.host}:{_process.port}"
workers = _process.workers
worker_class = f"mop_config.server.gunicorn.{WORKER_CLASSES[_process.worker_class]}"
threads = _process.threads

# Clients keep connections in pools. gunicorn's 2 s would close many just as a request is
# sent on them.
keepalive = 30
graceful_timeout = 30
timeout = 60

# The C parser takes malformed requests that this one refuses.
http_parser = "python"
# What our longest route and an Authorization header need, and not much more: 192 KB in all.
limit_request_line = 4094
limit_request_fields = 48
limit_request_field_size = 4096
# By default an address that may forward requests (127.0.0.1 is one) may also send SCRIPT_NAME and
# PATH_INFO as headers: the path would not be the one that a proxy has let through, and one that
# does not fit is a 500.
forwarder_headers = ""
# Its default path is shared by all servers of a user: two would fight over it. Who names a
# path gets the socket.
control_socket_disable = "--control-socket" not in " ".join(
    [*sys.argv, os.environ.get("GUNICORN_CMD_ARGS", "")]
)
# With SO_REUSEPORT every change of a worker loses the requests in its queue.
reuse_port = False

accesslog = None  # --access-logfile - turns it on
errorlog = "-"
logger_class = "mop_config.server.gunicorn.logger.GunicornLogger"


def on_starting(server: Any) -> None:
    """Let SIGHUP to the master reload in place."""
    hooks.on_starting(server)


def when_ready(server: Any) -> None:
    """Log the address of the dashboard."""
    hooks.when_ready(server)


def on_exit(server: Any) -> None:
    """Remove the metrics folder that the master made at its start."""
    hooks.on_exit(server)
