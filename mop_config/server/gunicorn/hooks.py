"""The hooks of gunicorn's master: SIGHUP is forwarded to the workers, which reload in place."""

import gc
import logging
import os
import re
import shutil
import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from ...errors import SettingsError
from ..settings import Settings
from ..state.directory import StateDirectory
from ..status import lost_hooks, metrics
from ..web import instance_folder
from .worker import find

logger = logging.getLogger(__name__)

#: The application that ``mop-config serve`` starts.
OWN_APP = "mop_config:create_app()"
#: The signals that end a worker.
_ENDING = (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT)


def on_starting(server: Any) -> None:
    """Prepare the master; SIGHUP is forwarded to the workers, which reload without a restart."""
    lost_hooks.note("on_starting")
    server.handle_hup = partial(server.kill_workers, signal.SIGHUP)
    let_newborns_end()
    _repair_upgrade(server.START_CTX)
    _make_metrics_folder(server)
    _hand_records_over(server)


def _hand_records_over(server: Any) -> None:
    """Make the folder of records for the user that root's workers will run as (``--user``)."""
    cfg = server.cfg
    if os.geteuid() != 0 or cfg.uid == 0:
        return
    # With --preload the master has loaded the application already.
    service = find(getattr(server.app, "callable", None))
    try:
        folder = service.state_folder if service else Settings.from_environ().state_dir
    except SettingsError:
        return  # the environment is bad, so that the application must have settings of its own
    StateDirectory.of_user(folder or instance_folder(), cfg.uid).prepare(cfg.gid)


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
    master = os.getpid()  # forks of the workers must not be changed

    def mask(how: int) -> None:
        if os.getpid() == master:
            signal.pthread_sigmask(how, _ENDING)

    def begin() -> None:
        if os.getppid() == master:
            for number in _ENDING:
                signal.signal(number, signal.SIG_DFL)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _ENDING)

    os.register_at_fork(
        before=partial(mask, signal.SIG_BLOCK),
        after_in_parent=partial(mask, signal.SIG_UNBLOCK),
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
        logger.warning("each worker's metrics speak for it alone: %s", error)
    else:
        os.environ[metrics.VARIABLE] = str(server.mop_config_metrics)


def _repair_upgrade(start: dict[Any, Any]) -> None:
    # SIGUSR2 starts a new gunicorn by the path of its script. Under "python -m gunicorn" this path
    # is a module of the package, which cannot run as a script.
    interpreter, _, *arguments = start["args"]
    spec = getattr(sys.modules["__main__"], "__spec__", None)
    if spec is not None:
        safe = ["-P"] if sys.flags.safe_path else []
        name = spec.name.removesuffix(".__main__")
        start["args"] = [interpreter, *safe, "-m", name, *arguments]


def on_exit(server: Any) -> None:
    """Remove the folder of the metrics when the master exits."""
    folder = getattr(server, "mop_config_metrics", None)
    if folder is not None:
        shutil.rmtree(folder, ignore_errors=True)
