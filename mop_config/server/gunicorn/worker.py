"""The worker classes for WSGI, and ServiceWorker, which ties a gunicorn worker to its service.

The attributes of gunicorn's workers that are set here are internal. gunicorn's major version is
pinned, and tests of real workers check them.
"""

import logging
import os
import resource
import signal
from http import HTTPStatus
from types import FrameType
from typing import Any

from gunicorn import util
from gunicorn.workers import gthread, sync
from gunicorn.workers.base import Worker

from ..service import EXTENSION, ConfigService
from ..serving.answers import problem
from ..status import lost_hooks, metrics

logger = logging.getLogger(__name__)

#: Descriptors that a worker needs beside those of its connections.
OWN_DESCRIPTORS = 100
#: Descriptors requested beside those of the connections, as far as the hard limit allows.
SPARE_DESCRIPTORS = 2000


def find(app: Any) -> ConfigService | None:
    """Return the service of an application, also through middleware; None if not found."""
    for _ in range(16):
        extensions = getattr(app, "extensions", None)
        service = extensions.get(EXTENSION) if isinstance(extensions, dict) else None
        if isinstance(service, ConfigService):
            return service
        inner = (getattr(app, name, None) for name in ("app", "wsgi_app", "application"))
        app = next(filter(None, inner), None)
    return None


class ServiceWorker:
    """Mixin of all worker classes: it starts and stops the service, and handles SIGHUP.

    The mixin precedes a worker class of gunicorn. In ``init_signals`` gunicorn resets signals to
    their default action. That of SIGHUP ends the process, so the mixin leaves it out of SIGNALS:
    the master's handler, which does nothing in a worker, stands until the worker's.

    Attributes:
        service: The service of the application, once it is loaded.
    """

    SIGNALS = tuple(each for each in Worker.SIGNALS if each != signal.SIGHUP)

    cfg: Any
    wsgi: Any
    service: ConfigService | None = None
    _alive = True
    _hangup = False

    @property
    def alive(self) -> bool:
        """Whether the worker accepts new connections.

        gunicorn sets it to False at a stop signal and at the end of ``--max-requests``. Then parked
        requests are released, since gunicorn waits for them.
        """
        return self._alive

    @alive.setter
    def alive(self, alive: bool) -> None:
        self._alive = alive
        if not alive and self.service is not None:
            self.service.store.close()

    def init_signals(self) -> None:
        """Set gunicorn's signal handlers, and ours for SIGHUP."""
        lost_hooks.note("worker_class")
        super().init_signals()  # type: ignore[misc]
        signal.signal(signal.SIGHUP, self.handle_hup)
        signal.siginterrupt(signal.SIGHUP, False)

    def handle_hup(self, _number: int, _frame: FrameType | None) -> None:
        """Reload in place; a SIGHUP before the application is loaded is kept until then."""
        self._hangup = True
        # The handler that create_app may have set wakes the thread, and then calls this one.
        chained = signal.getsignal(signal.SIGHUP) != self.handle_hup
        if self.service is not None and not chained:
            self.service.wake_reload_thread()

    def load_wsgi(self) -> None:
        """Load the application, and start its service in this process."""
        util.write_error = write_error
        super().load_wsgi()  # type: ignore[misc]
        service = find(self.wsgi)
        if service is None:
            logger.warning("the application is wrapped beyond recognition: SIGHUP does nothing")
            return
        wanted, most = service.settings.max_waiters, self.room()
        service.responder.max_waiters = most if wanted is None else min(wanted, most)
        if wanted is not None and wanted > most:
            name = type(self).__name__
            logger.warning("ENDPOINT_MAX_WAITERS=%d: this %s has room for %d", wanted, name, most)
        service.metrics.start(os.environ.get(metrics.VARIABLE))
        service.start()
        self.service = service
        if self._hangup or not self._alive:
            service.wake_reload_thread()
            self.alive = self._alive

    def room(self) -> int:
        """Return how many long polls can be parked in this worker."""
        fit_connections(0)
        return 0


class SynchronousWorker(ServiceWorker, sync.SyncWorker):  # type: ignore[misc]
    """gunicorn's sync worker: one request at a time, and no long polls."""


class ThreadWorker(ServiceWorker, gthread.ThreadWorker):  # type: ignore[misc]
    """gunicorn's gthread worker: a thread for each request, also for a parked one."""

    def room(self) -> int:
        """Keep two threads free for requests that do not wait."""
        self.worker_connections: int = fit_connections(self.cfg.worker_connections)
        return max(0, int(self.cfg.threads) - 2)


def error_page(status_code: int) -> bytes:
    """Return a whole response with ``Connection: close`` and a problem document.

    gunicorn's own pages repeat parts of the request, and lack the security headers of our answers.

    Args:
        status_code: HTTP status code.
    """
    status = HTTPStatus(status_code)
    answer = problem(status, status.description or status.phrase)
    lines = [f"HTTP/1.1 {status:d} {status.phrase}", "Connection: close"]
    lines += [f"{name}: {value}" for name, value in answer.headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + answer.body


def write_error(sock: Any, status_int: int, _reason: str, _mesg: str) -> None:
    """Send an error page in place of ``gunicorn.util.write_error``.

    gunicorn's message repeats the request, which may hold a token.
    """
    util.write_nonblock(sock, error_page(status_int))


def fit_connections(wanted: int) -> int:
    """Return how many connections the limit of descriptors allows, at most ``wanted``.

    The soft limit is raised as far as needed and allowed. A worker without a spare descriptor could
    not read the endpoint file.
    """
    needed, unlimited = wanted + SPARE_DESCRIPTORS, resource.RLIM_INFINITY
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != unlimited and soft < needed:
        soft = needed if hard == unlimited else min(needed, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    room = wanted if soft == unlimited else soft - OWN_DESCRIPTORS
    if room < wanted:
        logger.warning(
            "the limit of descriptors leaves room for %d connections, not %d", room, wanted
        )
    return max(1, min(wanted, room))
