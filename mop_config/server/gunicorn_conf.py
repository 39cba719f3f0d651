"""gunicorn's configuration: settings from the environment, and hooks.

``gunicorn.conf.py`` at the top of a clone imports everything from this module. An installed
package uses this module directly: ``mop-config serve`` does, and so does
``gunicorn -c python:mop_config.server.gunicorn_conf``. The path of the module is stable.
"""

import os
import sys

from mop_config.errors import SettingsError
from mop_config.server.gunicorn.hooks import on_exit, on_starting, when_ready  # noqa: F401
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
    # A bad environment ends gunicorn here with one line, before any fork.
    _settings = Settings.from_environ()
    signer.check(_settings)
    check_source(_settings)
except SettingsError as error:
    sys.exit(f"mop-config: {error}")

bind = f"{_process.host}:{_process.port}"
workers = _process.workers
worker_class = f"mop_config.server.gunicorn.{WORKER_CLASSES[_process.worker_class]}"
threads = _process.threads

# Clients keep connections in pools. gunicorn's default of 2 s would close many connections just
# as a client sends a request.
keepalive = 30
graceful_timeout = 30
timeout = 60

# gunicorn's C parser accepts malformed requests that the Python parser refuses.
http_parser = "python"
# Enough for our longest route and an Authorization header, and not much more: 192 KB in all.
limit_request_line = 4094
limit_request_fields = 48
limit_request_field_size = 4096
# By default an address that may forward requests, such as 127.0.0.1, may also send SCRIPT_NAME and
# PATH_INFO as headers. The path could then differ from the path that a proxy has let through, and
# a SCRIPT_NAME that does not fit the path causes a 500.
forwarder_headers = ""
# All servers of a user share the default path of the control socket, so that two servers would
# fight over it. The socket is enabled only if the operator names a path.
control_socket_disable = "--control-socket" not in " ".join(
    [*sys.argv, os.environ.get("GUNICORN_CMD_ARGS", "")]
)
# With SO_REUSEPORT each worker has its own accept queue, which is lost when the worker is replaced.
reuse_port = False

accesslog = None  # --access-logfile - turns it on
errorlog = "-"
logger_class = "mop_config.server.gunicorn.logger.GunicornLogger"
