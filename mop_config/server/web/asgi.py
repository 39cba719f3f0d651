"""create_asgi_app builds the ASGI application: hot routes natively, all others through Flask.

The list, its long poll, health and readiness are answered in the event loop. Every other request
goes to the Flask application in a bounded pool of threads (``WsgiBridge``). Our own worker gets the
answers of the native routes without ASGI's messages, and parks long polls without a task.
"""

import asyncio
import contextlib
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from functools import partial
from typing import Any, TypeVar

from flask import Flask

from ..service import EXTENSION, ConfigService
from ..serving.answers import ConditionalAnswer
from ..serving.responder import LongPoll, waited
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

Found = TypeVar("Found", ConditionalAnswer, ConditionalAnswer | LongPoll)
View = Callable[[dict[str, Any]], Found]


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
        self._started = not start
        self._polls: ParkedPolls | None = None
        prefix, respond = self._service.places.prefix, self._service.responder.respond
        self._views: dict[str, View[ConditionalAnswer | LongPoll]] = {
            f"{prefix}/endpoints": respond,
            f"{prefix}/endpoints.jws": partial(respond, signed=True),
            "/health": lambda _: health_answer(self._service),
            "/api/v1/health": lambda _: health_answer(self._service),
            "/ready": partial(ready_answer, self._service),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and end (ASGI 3)."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        await self._start()
        path = local_path(scope)
        if path not in self._views or scope["method"] not in _METHODS:
            await self.bridge(scope, receive, send)
            return
        environ = request_environ(scope["method"], path, scope["query_string"], scope["headers"])
        answer = self._answer(environ, self._views[path])
        if isinstance(answer, LongPoll):
            await self._wait(answer, receive)
            answer = self.answer_parked(answer)
        await send_answer(answer, environ, scope, send)

    def answer_at_once(
        self, method: bytes, target: bytes, headers: list[tuple[bytes, bytes]]
    ) -> ConditionalAnswer | LongPoll | None:
        """Answer a request in the call itself: without a task, and without ASGI's messages.

        The service has been started by the worker, or by the server's lifespan.

        Args:
            method: The method of the request.
            target: The request target as the client sent it.
            headers: The headers, with names in lower case.

        Returns:
            What ``__call__`` would send, or a long poll, which the caller parks in ``polls``. None
            if the target is not a native route: then ``__call__`` must answer.
        """
        name, _, query = target.partition(b"?")
        path, verb = name.decode("latin-1"), method.decode()
        if path not in self._views or verb not in _METHODS or b"#" in query:
            return None
        return self._answer(request_environ(verb, path, query, headers), self._views[path])

    def polls(self) -> "ParkedPolls":
        """Return the long polls that are parked in the running event loop."""
        loop = asyncio.get_running_loop()
        if self._polls is None or self._polls.loop is not loop:
            self._polls = ParkedPolls(loop)
        return self._polls

    def answer_parked(self, poll: LongPoll) -> ConditionalAnswer:
        """Return the answer to a long poll that has ended."""
        # The guards are asked again, since the token may have been revoked meanwhile.
        return self._answer(poll.environ, lambda _: waited(poll.found))

    def _answer(self, environ: dict[str, Any], view: View[Found]) -> Found:
        """Check a request, and return the view's answer, counted and with the CORS headers."""
        answer: Found
        try:
            answer = refusal(self._service, environ) or view(environ)
        except Exception as error:
            answer = failure(environ, error)
        if isinstance(answer, LongPoll):
            return answer
        self._service.metrics.request(environ["PATH_INFO"], str(answer.status))
        more = cors(self._service, environ)
        if more:
            answer = answer.adding(*more)
        return answer._replace(body=b"") if environ["REQUEST_METHOD"] == "HEAD" else answer

    async def _wait(self, poll: LongPoll, receive: Receive) -> None:
        """Return when the long poll has ended or its client has left."""
        polls = self.polls()
        message: MutableMapping[str, Any] = {"more_body": True}
        with contextlib.suppress(TimeoutError):
            # ``receive`` returns when the client leaves. The end of the poll moves the time-out to
            # now, which needs no second task.
            async with asyncio.timeout(None) as timeout:
                try:
                    polls.add(poll, lambda: timeout.reschedule(0))
                    while message.get("more_body", False):
                        message = await receive()
                    # After the whole request, the only message left is the disconnect.
                    if message["type"] != "http.disconnect":
                        await receive()
                finally:
                    polls.remove(poll)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        kind = ""
        while kind != "lifespan.shutdown":
            kind = (await receive())["type"]
            if kind == "lifespan.startup":
                await self._start()
            else:
                await asyncio.to_thread(self._service.stop)
                self.bridge.close()
            await send({"type": f"{kind}.complete"})

    async def _start(self) -> None:
        if not self._started:
            # In a thread, since starting reads the source.
            await asyncio.to_thread(self._service.ensure_started)
            self._started = True


class ParkedPolls:
    """The long polls that are parked in one event loop, each with a callback for its end.

    Args:
        loop: The event loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._parked: dict[LongPoll, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}
        self._event: ChangeEvent | None = None  # the newest event that the loop watches

    def add(self, poll: LongPoll, end: Callable[[], None]) -> None:
        """Park a poll.

        Args:
            poll: The poll.
            end: Called once, perhaps by this function, when the list differs from the client's,
                the time is over or the process shuts down.
        """
        timer = self.loop.call_later(poll.until - time.monotonic(), self.end, poll)
        self._parked[poll] = timer, end
        self._look_at(poll)

    def end(self, poll: LongPoll) -> None:
        """End the wait of a poll now, unless it has ended."""
        parked = self.remove(poll)
        if parked is not None:
            parked[1]()

    def remove(self, poll: LongPoll) -> tuple[asyncio.TimerHandle, Callable[[], None]] | None:
        """Forget a poll, whose client may have left, and free its place."""
        parked = self._parked.pop(poll, None)
        if parked is not None:
            parked[0].cancel()
            poll.close()
            if not self._parked and self._event is not None:
                self._forget(self._event)
        return parked

    def _look_at(self, poll: LongPoll) -> None:
        """End the wait of a poll if the list differs, else watch the next event."""
        event = poll.event()
        if event is None:
            self.end(poll)
        elif event is not self._event:
            self._event = event
            self.loop.add_reader(event.fileno(), self._wake, event)

    def _forget(self, event: ChangeEvent) -> None:
        self.loop.remove_reader(event.fileno())
        if self._event is event:
            self._event = None

    def _wake(self, event: ChangeEvent) -> None:
        self._forget(event)
        self._wake_some(deque(self._parked))

    def _wake_some(self, polls: deque[LongPoll]) -> None:
        try:
            for _ in range(min(SLICE, len(polls))):
                poll = polls.popleft()
                if poll in self._parked:
                    self._look_at(poll)
        finally:
            # Also after an error, so that it concerns one client only.
            if polls:
                self.loop.call_soon(self._wake_some, polls)
