"""create_asgi_app builds the ASGI application: hot routes natively, all others through Flask.

The list, its long poll, health and readiness are answered in the event loop. Every other request
goes to the Flask application in a bounded pool of threads (``WsgiBridge``). Our own worker gets the
answers of the native routes without ASGI's messages, and parks long polls without a task.
"""

import asyncio
import contextlib
import contextvars
import io
import sys
import time
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any, TypeVar

from flask import Flask

from ..auth import USER
from ..service import EXTENSION, ConfigService
from ..serving.answers import ConditionalAnswer, HeaderFields, problem
from ..serving.responder import Environ, LongPoll, waited
from ..serving.store import SnapshotStore
from ..settings import ProcessSettings, Settings
from .app import create_app
from .guards import MAX_BODY, cors, failure, refusal
from .views import health, ready

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
WsgiApp = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]

#: Long polls that a process parks unless the settings give a number.
USUAL_WAITERS = 10_000
#: Long polls that are woken in one turn of the event loop, so that other requests run in between.
SLICE = 250
#: Requests that wait for a thread; one more gets 503.
QUEUE = 64
#: Seconds within which a request's body must arrive.
BODY_TIMEOUT = 30.0
#: ``Retry-After`` of requests that find the queue full, in seconds.
RETRY_AFTER = "1"
#: Key of an ASGI scope or WSGI environ that holds the client's socket, set by our worker.
SOCKET = "gunicorn.socket"

_METHODS = frozenset({"GET", "HEAD"})

Found = TypeVar("Found", ConditionalAnswer, ConditionalAnswer | LongPoll)


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
    if service.settings.max_waiters is None:
        service.responder.max_waiters = USUAL_WAITERS
    return AsgiApp(app, ProcessSettings.from_environ().threads, start=start)


class WsgiBridge:
    """An ASGI application that answers each request by a WSGI application in a pool of threads.

    A thread never waits for a client: the request's body is read before a thread is taken, and the
    whole answer is collected before it is sent. Requests beyond the pool and its queue get 503.

    Args:
        app: The WSGI application.
        threads: Size of the pool.
        max_body: Longest body of a request, in bytes; a longer one gets 413.
        body_timeout: Seconds within which the body must arrive, else 408.

    Attributes:
        occupied: The calls that have a thread or wait for one.
    """

    def __init__(
        self, app: WsgiApp, threads: int, max_body: int, body_timeout: float = BODY_TIMEOUT
    ) -> None:
        self._app = app
        self._threads = threads
        self._max_body = max_body
        self._body_timeout = body_timeout
        self._pool: ThreadPoolExecutor | None = None
        self.occupied: set[Future[ConditionalAnswer]] = set()

    def close(self) -> None:
        """End the pool's threads after the requests that they answer."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        environ = whole_environ(scope)
        answer = await self._run(environ, receive)
        if answer is not None:
            await send_answer(answer, environ, scope, send)

    async def _run(self, environ: Environ, receive: Receive) -> ConditionalAnswer | None:
        """Read the request's body, and then run the application; None if the client has left."""
        length = environ.get("CONTENT_LENGTH", "")[:20]
        size = int(length) if length.isdecimal() else 0
        body = bytearray()  # appending to ``bytes`` would copy all of it each time
        more = True
        try:
            async with asyncio.timeout(self._body_timeout):
                while more and size <= self._max_body:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    body += message.get("body", b"")
                    size = max(size, len(body))
                    more = message.get("more_body", False)
        except TimeoutError:
            return problem(408, "the request's body did not arrive in time")
        if size > self._max_body:
            return problem(413, f"a body may have {self._max_body} bytes here")
        if len(self.occupied) >= self._threads + QUEUE:
            busy = problem(503, "all threads are busy; try again")
            return busy.adding(("Retry-After", RETRY_AFTER))
        environ |= {"CONTENT_LENGTH": str(len(body)), "wsgi.input": io.BytesIO(body)}
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="mop-config-wsgi")
        # A thread goes on if the task is cancelled, and its request is counted until it ends.
        work = self._pool.submit(contextvars.copy_context().run, self._call, environ)
        self.occupied.add(work)
        work.add_done_callback(self.occupied.discard)
        return await asyncio.wrap_future(work)

    def _call(self, environ: Environ) -> ConditionalAnswer:
        """Run the application, in a thread of the pool."""
        started: list[Any] = []
        body: list[bytes] = []

        def start_response(*arguments: Any) -> Callable[[bytes], None]:
            started[:] = arguments[:2]
            return body.append

        try:
            pieces = self._app(environ, start_response)
            try:
                body.extend(pieces)
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
            status, given = started
        except Exception as error:
            return failure(environ, error)
        whole = b"".join(body)
        # The server sends Date with each answer; werkzeug's conditional answers have another.
        headers = [(name, value) for name, value in given if name.lower() != "date"]
        if whole and not any(name.lower() == "content-length" for name, _ in headers):
            headers.append(("Content-Length", str(len(whole))))
        return ConditionalAnswer(int(status[:3]), HeaderFields(headers), whole)


class AsgiApp(WsgiBridge):
    """An ASGI 3 application in front of the Flask application of ``create_app``.

    Args:
        app: The Flask application that ``create_app`` returned.
        threads: Size of the pool that answers the requests for routes that are not native.
        body_timeout: See ``WsgiBridge``.
        start: Whether the first request of a process starts its reload thread.

    Attributes:
        app: The Flask application.
    """

    def __init__(
        self, app: Flask, threads: int, body_timeout: float = BODY_TIMEOUT, *, start: bool = True
    ) -> None:
        super().__init__(app, threads, MAX_BODY, body_timeout)
        self.app = app
        self._service: ConfigService = app.extensions[EXTENSION]
        self._started = not start
        self._polls: ParkedPolls | None = None
        prefix = self._service.places.prefix
        respond = self._service.responder.respond
        self._views: dict[str, Callable[[Environ], ConditionalAnswer | LongPoll]] = {
            f"{prefix}/endpoints": respond,
            f"{prefix}/endpoints.jws": partial(respond, signed=True),
            "/health": partial(health, self._service),
            "/api/v1/health": partial(health, self._service),
            "/ready": partial(ready, self._service),
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or follow the server's start and end (ASGI 3)."""
        if scope["type"] != "http":
            await self._other(scope, receive, send)
            return
        await self._start()
        environ = scope_environ(scope)
        answer = self.answer_at_once(environ)
        if answer is None:
            await super().__call__(scope, receive, send)
            return
        if isinstance(answer, LongPoll):
            await self._wait(answer, receive)
            answer = self.answer_parked(answer)
        await send_answer(answer, environ, scope, send)

    def answer_at_once(self, environ: Environ) -> ConditionalAnswer | LongPoll | None:
        """Answer a request in the call itself: without a task, and without ASGI's messages.

        The service has been started by the worker, or by the server's lifespan.

        Args:
            environ: The request; see ``request_environ``.

        Returns:
            The answer, or a long poll, which the caller parks in ``polls``. None if the route is
            not native: then ``__call__`` must answer.
        """
        view = self._views.get(environ["PATH_INFO"])
        if view is None or environ["REQUEST_METHOD"] not in _METHODS:
            return None
        return self._answer(environ, view)

    def polls(self) -> "ParkedPolls":
        """Return the long polls that are parked in the running event loop."""
        loop = asyncio.get_running_loop()
        if self._polls is None or self._polls.loop is not loop:
            self._polls = ParkedPolls(loop, self._service.store)
        return self._polls

    def answer_parked(self, poll: LongPoll) -> ConditionalAnswer:
        """Return the answer to a long poll that has ended."""
        # The guards are asked again, since the token may have been revoked meanwhile.
        return self._answer(poll.environ, lambda _: waited(poll.found))

    def _answer(self, environ: Environ, view: Callable[[Environ], Found]) -> Found:
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
        with contextlib.suppress(TimeoutError):
            # ``receive`` returns when the client leaves. The end of the poll moves the time-out to
            # now, which needs no second task.
            async with asyncio.timeout(None) as timeout:
                try:
                    polls.add(poll, lambda: timeout.reschedule(0))
                    while (await receive())["type"] != "http.disconnect":
                        pass  # a part of the request's body
                finally:
                    polls.remove(poll)

    async def _other(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
            return
        await receive()  # lifespan.startup
        await self._start()
        await send({"type": "lifespan.startup.complete"})
        await receive()  # lifespan.shutdown
        await asyncio.to_thread(self._service.stop)
        self.close()
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self) -> None:
        if not self._started:
            # In a thread, since starting reads the source.
            await asyncio.to_thread(self._service.ensure_started)
            self._started = True


class ParkedPolls:
    """The long polls that are parked in one event loop, each with a callback for its end.

    Args:
        loop: The event loop.
        store: The store that wakes them.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, store: SnapshotStore) -> None:
        self.loop = loop
        self._listeners = store.listeners
        self._parked: dict[LongPoll, tuple[asyncio.TimerHandle, Callable[[], None]]] = {}

    def add(self, poll: LongPoll, end: Callable[[], None]) -> None:
        """Park a poll.

        Args:
            poll: The poll.
            end: Called once, perhaps by this function, when the list differs from the client's,
                the time is over or the process shuts down.
        """
        # Listen before reading the list, so that a change in between is not missed.
        self._listeners.add(self._changed)
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
            if not self._parked:
                self._listeners.discard(self._changed)
        return parked

    def _changed(self) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has just ended
            self.loop.call_soon_threadsafe(lambda: self._wake([*self._parked]))

    def _wake(self, polls: list[LongPoll]) -> None:
        # Each poll has a callback of its own, so that an error concerns one client only.
        for poll in polls[:SLICE]:
            self.loop.call_soon(self._look_at, poll)
        if len(polls) > SLICE:
            self.loop.call_soon(self._wake, polls[SLICE:])

    def _look_at(self, poll: LongPoll) -> None:
        """End the wait of a poll if the list differs."""
        if poll in self._parked and poll.is_over():
            self.end(poll)


def request_environ(
    method: str, path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> Environ:
    """Return the method, the path, the query and the headers of a request in WSGI's form.

    Repeated headers are joined. Names with underscores are dropped, since WSGI cannot tell them
    from the names with hyphens that proxies set.
    """
    if not path.isascii():
        path = path.encode("utf-8", "surrogateescape").decode("latin-1")
    environ: Environ = {"REQUEST_METHOD": method, "PATH_INFO": path}
    environ["QUERY_STRING"] = query.decode("latin-1")
    for name, value in headers:
        key = _environ_key(name)
        if key is None:
            continue
        text = value.decode("latin-1")
        if key in environ:
            text = f"{environ[key]}{'; ' if key == 'HTTP_COOKIE' else ','}{text}"
        environ[key] = text
    return environ


@lru_cache(maxsize=256)
def _environ_key(name: bytes) -> str | None:
    if b"_" in name:
        return None
    key = name.decode("latin-1").upper().replace("-", "_")
    return key if key in {"CONTENT_TYPE", "CONTENT_LENGTH"} else f"HTTP_{key}"


def scope_environ(scope: Scope) -> Environ:
    """Return a request in WSGI's form, with its path below the place of the application."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    if below[:1] in {"/", ""}:
        path = below
    return request_environ(scope["method"], path, scope["query_string"], scope["headers"])


def whole_environ(scope: Scope) -> Environ:
    """Return a request in WSGI's form (PEP 3333), without its body."""
    environ = scope_environ(scope)
    server = scope.get("server") or ("localhost", 80)
    client = scope.get("client") or ("", 0)
    target: bytes = scope.get("raw_path") or scope["path"].encode()
    if query := scope["query_string"]:
        target += b"?" + query
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ |= {
        "SCRIPT_NAME": scope.get("root_path", ""),
        "RAW_URI": target.decode("latin-1"),
        "REMOTE_ADDR": client[0],
        "REMOTE_PORT": str(client[1]),
        "SERVER_NAME": server[0],
        "SERVER_PORT": str(server[1] or ""),
        "SERVER_PROTOCOL": f"HTTP/{scope['http_version']}",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": scope.get("scheme", "http"),
        "wsgi.input_terminated": True,
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": True,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        SOCKET: scope.get(SOCKET),
    }
    return environ


async def send_answer(
    answer: ConditionalAnswer, environ: Environ, scope: Scope, send: Send
) -> None:
    """Send an answer by ASGI's messages, and note the name of the request's token in the scope."""
    if USER in environ:
        scope[USER] = environ[USER]
    # A copy, since an application around this one may add headers in place.
    headers = [*answer.headers.pairs]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
