"""create_asgi_app builds the ASGI application: hot routes natively, all others through Flask.

The list, its long poll, health and readiness are answered in the event loop: a parked request is a
suspended coroutine of some kilobytes. Every other request goes to the Flask application in a
bounded pool of threads (``WsgiBridge``).
"""

import asyncio
import contextlib
import os
import time
from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any

from flask import Flask

from ..auth.policy import USER
from ..service import EXTENSION, ConfigService
from ..serving.conditional import ConditionalAnswer
from ..serving.responder import LongPoll
from ..serving.store import ChangeEvent
from ..settings import ProcessSettings, Settings
from .app import create_app
from .bridge import Receive, Scope, Send, WsgiBridge, local_path, request_environ, send_answer
from .guards import MAX_BODY, cors, failure, refusal
from .views import health_answer, ready_answer

#: Long polls that a process parks unless the settings give a number.
USUAL_WAITERS = 10_000
#: Long polls that are woken in one turn of the event loop, so that other requests run in between.
SLICE = 250

_METHODS = frozenset({"GET", "HEAD"})

View = Callable[[dict[str, Any]], ConditionalAnswer | LongPoll]


def create_asgi_app(settings: Settings | None = None, *, start: bool = True) -> "AsgiApp":
    """Build the application for an ASGI server, or for mounting in another ASGI application.

    Args:
        settings: The settings of the application; None reads the environment.
        start: As for ``create_app``. Without a lifespan, as in a mounted application, the first
            request starts the reload thread; it ends when the application is garbage-collected.

    Raises:
        SettingsError: If the environment holds a value that cannot be used.
    """
    app = create_app(settings, start=start)
    service: ConfigService = app.extensions[EXTENSION]
    wanted = service.settings.max_waiters
    service.responder.max_waiters = USUAL_WAITERS if wanted is None else wanted
    threads = ProcessSettings.from_environ().threads
    return AsgiApp(app, WsgiBridge(app, threads, MAX_BODY), start=start)


class AsgiApp:
    """An ASGI 3 application in front of the Flask application of ``create_app``.

    Args:
        app: The Flask application that ``create_app`` returned.
        bridge: Answers the requests for routes that are not native.
        start: Whether the first request of a process starts its reload thread.

    Attributes:
        app: The Flask application.
        bridge: The bridge to the Flask application.
    """

    def __init__(self, app: Flask, bridge: WsgiBridge, *, start: bool = True) -> None:
        self.app = app
        self.bridge = bridge
        self._service: ConfigService = app.extensions[EXTENSION]
        self._started_in = 0 if start else os.getpid()
        self._parked: ParkedPolls | None = None
        prefix, respond = self._service.places.prefix, self._service.responder.respond
        self._views: dict[str, View] = {
            f"{prefix}/endpoints": respond,
            f"{prefix}/endpoints.jws": partial(respond, signed=True),
            "/health": lambda _: health_answer(self._service),
            "/api/v1/health": lambda _: health_answer(self._service),
            "/ready": partial(ready_answer, self._service),
        }
        self._targets = {path.encode(): path for path in self._views}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and end (ASGI 3)."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        path = local_path(scope)
        if self._started_in != os.getpid():
            await self._start()
        if path not in self._views or scope["method"] not in _METHODS:
            await self.bridge(scope, receive, send)
            return
        environ = request_environ(scope, path)
        answer = self._decide(environ, self._views[path])
        while isinstance(answer, LongPoll):
            answer = await self._wait(answer, environ, receive)
        if USER in environ:
            scope[USER] = environ[USER]
        await send_answer(self._finished(answer, environ), send)

    def answer_at_once(self, scope: Scope, target: bytes) -> ConditionalAnswer | None:
        """Answer a request in the call itself: without a task, and without ASGI's messages.

        Args:
            scope: The method, the headers and an empty query of the request.
            target: The request target as the client sent it.

        Returns:
            What ``__call__`` would send, or None if the target is not just the path of a native
            route: then ``__call__`` must answer.
        """
        path = self._targets.get(target)
        if path is None or scope["method"] not in _METHODS or self._started_in != os.getpid():
            return None
        environ = request_environ(scope, path)
        answer = self._decide(environ, self._views[path])
        if isinstance(answer, LongPoll):
            raise TypeError("a request without a query asked for a long poll")
        return self._finished(answer, environ)

    def _decide(self, environ: dict[str, Any], view: View) -> ConditionalAnswer | LongPoll:
        try:
            return refusal(self._service, environ) or view(environ)
        except Exception as error:
            return failure(environ, error)

    def _finished(self, answer: ConditionalAnswer, environ: dict[str, Any]) -> ConditionalAnswer:
        """Count an answer, add the CORS headers, and remove the body of an answer to HEAD."""
        self._service.metrics.request(environ["PATH_INFO"], str(answer.status))
        more = cors(self._service, environ)
        if more:
            answer = answer.adding(*more)
        return answer._replace(body=b"") if environ["REQUEST_METHOD"] == "HEAD" else answer

    async def _wait(
        self, poll: LongPoll, environ: dict[str, Any], receive: Receive
    ) -> ConditionalAnswer | LongPoll:
        try:
            await self._polls().wait(poll, receive)
        finally:
            poll.close()
        # The guards are asked again, since the token may have been revoked meanwhile.
        return self._decide(environ, lambda _: poll.answer())

    def _polls(self) -> "ParkedPolls":
        loop = asyncio.get_running_loop()
        if self._parked is None or self._parked.loop is not loop:
            self._parked = ParkedPolls(loop)
        return self._parked

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        while True:
            kind = (await receive())["type"]
            if kind == "lifespan.startup" and self._started_in != os.getpid():
                await self._start()
            if kind == "lifespan.shutdown":
                await asyncio.to_thread(self._service.stop)
                self.bridge.close()
            await send({"type": f"{kind}.complete"})
            if kind == "lifespan.shutdown":
                return

    async def _start(self) -> None:
        # In a thread, since starting reads the source.
        await asyncio.to_thread(self._service.ensure_started)
        self._started_in = os.getpid()


class ParkedPolls:
    """The long polls that are parked in one event loop.

    Each parked coroutine awaits ``receive``, which returns when its client leaves, under a
    time-out. When the list changes, the time-out is moved to now: that needs neither a second task
    nor a future for each client.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._timeouts: set[asyncio.Timeout] = set()
        self._event: ChangeEvent | None = None  # the newest event that the loop watches

    async def wait(self, poll: LongPoll, receive: Receive) -> None:
        """Return when the list has changed, the time is over or the client has left."""
        complete = False
        while (event := poll.event()) is not None:
            left = poll.until - time.monotonic()
            if left <= 0:
                return
            if event is not self._event:
                self._event = event
                self.loop.add_reader(event.fileno(), self._wake, event)
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(left) as timeout:
                    self._timeouts.add(timeout)
                    try:
                        # After the whole request, the only message left is the disconnect.
                        while not complete:
                            message = await receive()
                            if message["type"] == "http.disconnect":
                                return
                            complete = not message.get("more_body", False)
                        await receive()
                        return
                    finally:
                        self._timeouts.discard(timeout)
                        if not self._timeouts:
                            self._forget(event)

    def _forget(self, event: ChangeEvent) -> None:
        self.loop.remove_reader(event.fileno())
        if self._event is event:
            self._event = None

    def _wake(self, event: ChangeEvent) -> None:
        self._forget(event)
        self._wake_some(deque(self._timeouts))

    def _wake_some(self, timeouts: deque[asyncio.Timeout]) -> None:
        for _ in range(min(SLICE, len(timeouts))):
            with contextlib.suppress(RuntimeError):  # its wait has ended meanwhile
                timeouts.popleft().reschedule(0)
        if timeouts:
            self.loop.call_soon(self._wake_some, timeouts)
