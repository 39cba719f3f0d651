"""AsgiWorker is the default worker class: uvicorn's worker with the bounds of a public server.

The worker wraps the WSGI application after the fork. The hot routes are answered natively only
where the application is exactly what ``create_app`` returned, since a login or a middleware of the
user's must see every request; any other application is served whole by the bridge.
"""

import asyncio
import contextlib
import inspect
import os
import signal
import sys
from collections.abc import Iterator
from functools import partial
from typing import Any, ClassVar

from gunicorn.arbiter import Arbiter
from uvicorn.server import Server
from uvicorn_worker import UvicornWorker

from ..web.app import is_untouched
from ..web.asgi import USUAL_WAITERS, AsgiApp, WsgiBridge
from ..web.guards import MAX_BODY
from .logger import AccessLog
from .protocol import ConnectionLimits, HttpProtocol
from .worker import ServiceWorker, fit_connections

#: Connections that a worker accepts beside those of its parked requests.
SPARE_CONNECTIONS = 2000
#: Longest body of a request to an application that is not ours, unless it sets a limit.
GUEST_MAX_BODY = 16 * 1024 * 1024
#: Seconds for which an ending worker keeps idle connections: a request may be on its way.
LINGER = 0.5


class AsgiWorker(ServiceWorker, UvicornWorker):  # type: ignore[misc]
    """A gunicorn worker with an event loop (uvloop) and a C parser (httptools).

    Attributes:
        request_timeout: Seconds for the head of a request, for its body, and for an answer that
            its client does not read.
        connections: How many connections the worker accepts.
    """

    CONFIG_KWARGS: ClassVar = {
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
        app, threads = self.wsgi, self.cfg.threads
        if inspect.iscoroutinefunction(app) or inspect.iscoroutinefunction(type(app).__call__):
            self.config.lifespan = "auto"
        elif is_untouched(app):
            self.wsgi = AsgiApp(app, threads, self.request_timeout, start=False)
        else:
            limit = getattr(app, "config", {}).get("MAX_CONTENT_LENGTH")
            self.max_body = limit or GUEST_MAX_BODY
            self.wsgi = WsgiBridge(app, threads, self.max_body, self.request_timeout)

    def room(self) -> int:
        """Return the limit of long polls: by connections, or by threads without native routes."""
        if not is_untouched(self.wsgi) and not isinstance(self.wsgi, AsgiApp):
            return max(0, int(self.cfg.threads) - 2)
        return max(self.connections // 2, self.connections - SPARE_CONNECTIONS)

    async def _serve(self) -> None:
        cfg, config = self.cfg, self.config
        config.app = AccessLog(self.wsgi, self.log) if self.log.access_log_enabled else self.wsgi
        config.timeout_graceful_shutdown = max(1, cfg.graceful_timeout - 1)
        config.http = partial(HttpProtocol, rules=ConnectionLimits(self, config.app))
        server = _WorkerServer(config)
        server.worker = self
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            loop.add_signal_handler(number, server.end, number != signal.SIGTERM)
        await server.serve(sockets=self.sockets)
        if not server.started:
            sys.exit(Arbiter.WORKER_BOOT_ERROR)


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

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        # uvicorn would set handlers that send the signal again, which ends the process before
        # gunicorn's hooks run.
        yield

    async def shutdown(self, sockets: Any = None) -> None:
        self.worker.alive = False
        for server in self.servers:
            server.close()
        if self.server_state.connections and not self.force_exit:
            await asyncio.sleep(LINGER)
        await super().shutdown(sockets)
