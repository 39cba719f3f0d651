"""gunicorn's configuration: settings from the environment, and the hooks of its master.

SIGHUP to the master is forwarded to the workers, which reload in place.

``gunicorn.conf.py`` at the top of a clone imports everything from this module. An installed
package uses this module directly: ``mop-config serve`` does, and so does
``gunicorn -c python:mop_config.server.gunicorn_conf``. The path of the module is stable.
"""

import gc
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from mop_config.errors import SettingsError
from mop_config.server.service import SERVICES
from mop_config.server.serving.responder import check_key
from mop_config.server.settings import ProcessSettings, Settings
from mop_config.server.sources import check_source
from mop_config.server.state.directory import StateDirectory
from mop_config.server.status import lost_hooks, metrics
from mop_config.server.web import instance_folder

#: The application that ``mop-config serve`` starts.
OWN_APP = "mop_config:create_app()"
#: The signals that end a worker.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)
#: The worker classes by their names in ``WORKER_CLASS``.
WORKER_CLASSES = {
    "asgi": "worker.AsgiWorker",
    "gthread": "worker.ThreadWorker",
    "sync": "worker.SynchronousWorker",
}

try:
    _process = ProcessSettings.from_environ()
    # A bad environment ends gunicorn here with one line, before any fork.
    _settings = Settings.from_environ()
    check_key(_settings)
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
timeout = 60

# gunicorn's C parser accepts malformed requests that the Python parser refuses.
http_parser = "python"
# Enough for an Authorization header, and not much more: 192 KB in all.
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
logger_class = "mop_config.server.gunicorn.logger.GunicornLogger"


def on_starting(server: Any) -> None:
    """Prepare the master; SIGHUP is forwarded to the workers, which reload without a restart."""
    lost_hooks.note("on_starting")
    server.handle_hup = partial(server.kill_workers, signal.SIGHUP)
    let_newborns_end()
    _make_metrics_folder(server)
    _hand_records_over(server)


def _hand_records_over(server: Any) -> None:
    """Make the folders of records for the user that root's workers will run as (``--user``)."""
    cfg = server.cfg
    if os.geteuid() != 0 or cfg.uid == 0:
        return
    # With --preload the master has loaded the application already.
    folders = {service.state_folder for service in SERVICES}
    try:
        for folder in folders or {_settings.state_dir or instance_folder()}:
            StateDirectory.of_user(folder, cfg.uid).make()
    except OSError as error:
        server.log.warning("the state folder cannot be made: %s", error)


def when_ready(server: Any) -> None:
    """Prepare the memory for forks, and log the dashboard's address of ``mop-config serve``."""
    # A collection writes into every object that it looks at, so that each worker would copy the
    # pages of all imported modules. The master has imported them before its first fork.
    gc.freeze()
    if getattr(server.app, "app_uri", None) != OWN_APP:
        return  # another application may have the dashboard at any path
    for listener in server.LISTENERS:
        url = re.sub(r"//(0\.0\.0\.0|\[::\])(?=:)", "//127.0.0.1", str(listener))
        if url.startswith("http"):
            server.log.info("The dashboard: %s/", url)


def let_newborns_end() -> None:
    """Let a new worker end on SIGTERM before gunicorn has set its signal handlers there.

    A fork copies the master's handlers, which only put the signal into a queue that no code in
    the worker reads: the master would wait for that worker until its graceful timeout. A worker
    that serves no request yet may end at once. The signals are blocked around the fork, because
    Python forgets a signal that reaches the child before its first bytecode.
    """
    master = os.getpid()

    def begin() -> None:
        if os.getppid() == master:  # a fork of a worker keeps the worker's handlers
            for number in _ENDING:
                signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    os.register_at_fork(
        before=partial(signal.pthread_sigmask, signal.SIG_BLOCK, _ENDING),
        after_in_parent=partial(signal.pthread_sigmask, signal.SIG_UNBLOCK, _ENDING),
        after_in_child=begin,
    )


def _make_metrics_folder(server: Any) -> None:
    given = os.environ.get(metrics.VARIABLE)
    # After an upgrade by SIGUSR2 the environment names the folder of the previous master.
    if given and not Path(given).name.startswith(metrics.PREFIX):
        return  # the operator has set the folder, and collects our counters there
    os.environ.pop(metrics.VARIABLE, None)
    try:
        server.mop_config_metrics = metrics.make_folder(server.cfg.uid, server.cfg.gid)
    except OSError as error:
        server.log.warning("each worker's metrics speak for it alone: %s", error)
    else:
        os.environ[metrics.VARIABLE] = str(server.mop_config_metrics)


def on_exit(server: Any) -> None:
    """Remove the folder of the metrics when the master exits."""
    folder = getattr(server, "mop_config_metrics", None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
