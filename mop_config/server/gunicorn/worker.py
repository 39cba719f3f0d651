"""The worker classes, and ServiceWorker, which ties a gunicorn worker to its services.

AsgiWorker is the default class: uvicorn's worker with the bounds of a public server. It wraps the
WSGI application after the fork. The hot routes are answered natively only where the application is
exactly what ``create_app`` returned, since a login or a middleware of the user's must see every
request; any other application is served whole by the bridge.

The attributes of gunicorn's workers that are set here are internal. gunicorn's major version is
pinned, and tests of real workers check them.
"""

import asyncio
import inspect
import os
import resource
import signal
import sys
from collections.abc import Sequence
from functools import partial
from types import FrameType
from typing import Any, ClassVar

from gunicorn import util
from gunicorn.workers import gthread, sync
from gunicorn.workers.base import Worker
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from ..service import SERVICES, ConfigService
from ..status import lost_hooks, metrics
from ..web.app import is_untouched
from ..web.asgi import USUAL_WAITERS, AsgiApp, WsgiBridge
from ..web.guards import MAX_BODY
from .logger import answer_and_log
from .protocol import OVERHEAD, HttpProtocol, error_page

#: Descriptors that a worker needs beside those of its connections.
OWN_DESCRIPTORS = 100
#: The soft limit of descriptors, as far as the hard limit allows.
MOST_DESCRIPTORS = 65_536
#: Connections that a worker accepts beside those of its parked requests.
SPARE_CONNECTIONS = 2000
#: Longest body of a request to an application that is not ours, unless it sets a limit.
GUEST_MAX_BODY = 16 * 1024 * 1024
#: Seconds for which an ending worker keeps idle connections: a request may be on its way.
LINGER = 0.5


def is_asgi(app: Any) -> bool:
    """Return whether an application is an ASGI application."""
    return inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__)


class ServiceWorker:
    """Mixin of all worker classes: it starts and stops the services, and handles SIGHUP.

    The mixin precedes a worker class of gunicorn. In ``init_signals`` gunicorn resets signals to
    their default action. That of SIGHUP ends the process, so the mixin leaves it out of SIGNALS:
    the master's handler, which does nothing in a worker, stands until the worker's.

    Attributes:
        services: The services of this process, also of mounted and wrapped applications, once the
            application is loaded.
    """

    SIGNALS = tuple(each for each in Worker.SIGNALS if each != signal.SIGHUP)

    cfg: Any
    wsgi: Any
    services: Sequence[ConfigService] = ()
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
        for service in () if alive else self.services:
            service.store.close()

    def init_signals(self) -> None:
        """Set gunicorn's signal handlers, and ours for SIGHUP."""
        lost_hooks.note("worker_class")
        super().init_signals()  # type: ignore[misc]
        signal.signal(signal.SIGHUP, self.handle_hup)
        signal.siginterrupt(signal.SIGHUP, False)

    def handle_hup(self, _number: int, _frame: FrameType | None) -> None:
        """Reload in place; a SIGHUP before the application is loaded is kept until then."""
        self._hangup = True
        for service in self.services:
            service.wake_reload_thread()

    def load_wsgi(self) -> None:
        """Load the application, and start its services in this process."""
        util.write_error = write_error
        super().load_wsgi()  # type: ignore[misc]
        services = [*SERVICES]
        room = self.room() // (len(services) or 1)
        for service in services:
            wanted = service.settings.max_waiters
            service.responder.max_waiters = room if wanted is None else min(wanted, room)
            service.metrics.start(os.environ.get(metrics.VARIABLE))
            service.start()
        self.services = services
        if self._hangup:
            self.handle_hup(signal.SIGHUP, None)
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


class AsgiWorker(ServiceWorker, UvicornWorker):  # type: ignore[misc]
    """A gunicorn worker with an event loop (uvloop) and a C parser (httptools).

    Attributes:
        request_timeout: Seconds for the head of a request, for its body, and for an answer that
            its client does not read.
        connections: How many connections the worker accepts.
    """

    CONFIG_KWARGS: ClassVar = {
        "interface": "asgi3",
        "loop": "uvloop",
        "ws": "none",
        "lifespan": "off",
        "proxy_headers": False,
        "server_header": False,
        "access_log": False,
    }
    request_timeout = 30.0
    max_body = MAX_BODY

    def load_wsgi(self) -> None:
        """Load the application, and wrap it into the ASGI front."""
        self.connections = fit_connections(USUAL_WAITERS + SPARE_CONNECTIONS)
        super().load_wsgi()
        app = self.wsgi
        threads = self.cfg.threads
        if is_asgi(app):
            self.config.lifespan = "auto"
            self.max_body = GUEST_MAX_BODY
        elif is_untouched(app):
            self.wsgi = AsgiApp(app, threads, self.request_timeout, start=False)
        else:
            limit = getattr(app, "config", {}).get("MAX_CONTENT_LENGTH")
            self.max_body = limit or GUEST_MAX_BODY
            self.wsgi = WsgiBridge(app, threads, self.max_body, self.request_timeout)

    def room(self) -> int:
        """Return the limit of long polls: by connections, or by threads without native routes."""
        if not is_asgi(self.wsgi) and not is_untouched(self.wsgi):
            return max(0, int(self.cfg.threads) - 2)
        return max(self.connections // 2, self.connections - SPARE_CONNECTIONS)

    async def _serve(self) -> None:
        cfg = self.cfg
        config = self.config
        logs = self.log.access_log_enabled
        config.app = partial(answer_and_log, self.wsgi, self.log) if logs else self.wsgi
        config.timeout_graceful_shutdown = max(1, cfg.graceful_timeout - 1)
        config.http = partial(HttpProtocol, worker=self)
        # As under gunicorn's other workers, a prefix that the proxy leaves in the path.
        self.prefix = os.environ.get("SCRIPT_NAME", "")
        # Copies, since gunicorn's configuration is slow to read.
        self.max_line = cfg.limit_request_line
        self.max_fields = cfg.limit_request_fields
        self.max_field = cfg.limit_request_field_size
        self.max_request = self.max_body + OVERHEAD
        server = _WorkerServer(config)
        server.worker = self
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, server.end, number != signal.SIGTERM)
        # Not gunicorn's own objects: uvloop closes their descriptors first, and gunicorn logs that.
        await server.serve([each.sock for each in self.sockets])


class _WorkerServer(Server):
    """uvicorn's server, which ends with the master, and releases parked requests at its end."""

    worker: AsgiWorker

    def end(self, quick: bool) -> None:
        """Shut down at once if ``quick``, else after the requests that have begun."""
        self.should_exit = True
        self.force_exit = self.force_exit or quick

    async def on_tick(self, counter: int) -> bool:
        """End the worker if its master has died; gunicorn's own workers do the same."""
        self.should_exit = self.should_exit or os.getppid() != self.worker.ppid
        return await super().on_tick(counter)

    async def serve(self, sockets: Any = None) -> None:
        # uvicorn's method sets handlers that send a signal again, which ends the process before
        # gunicorn's hooks run.
        await self._serve(sockets)

    async def shutdown(self, sockets: Any = None) -> None:
        self.worker.alive = False
        for server in self.servers:
            server.close()
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(LINGER)
        await super().shutdown(sockets)


def write_error(sock: Any, status_int: int, _reason: str, _mesg: str) -> None:
    """Send an error page in place of ``gunicorn.util.write_error``.

    gunicorn's message repeats the request, which may hold a token.
    """
    util.write_nonblock(sock, error_page(status_int))


def fit_connections(wanted: int) -> int:
    """Raise the soft limit of descriptors, and return how many of the connections it allows.

    A worker without a spare descriptor could not read the endpoint file.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft, hard = (sys.maxsize if each == resource.RLIM_INFINITY else each for each in limits)
    if soft < min(hard, MOST_DESCRIPTORS):
        soft = min(hard, MOST_DESCRIPTORS)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, limits[1]))
    return max(1, min(wanted, soft - OWN_DESCRIPTORS))
