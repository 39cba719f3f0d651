"""WsgiBridge runs a WSGI application for an ASGI server, in a bounded pool of threads.

A thread never waits for a client: the request's body is read before a thread is taken, and the
whole answer is collected before it is sent. Requests beyond the pool and its queue get 503.
"""

import asyncio
import contextvars
import io
import sys
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache, partial
from typing import Any

from ..auth import USER
from ..serving.answers import ConditionalAnswer, HeaderFields, problem
from .guards import failure

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
StartResponse = Callable[..., Any]
WsgiApp = Callable[[dict[str, Any], StartResponse], Iterable[bytes]]

#: Requests that wait for a thread; one more gets 503.
QUEUE = 64
#: Seconds within which a request's body must arrive.
BODY_TIMEOUT = 30.0
#: ``Retry-After`` of requests that find the queue full, in seconds.
RETRY_AFTER = "1"
#: Key of an ASGI scope or WSGI environ that holds the client's socket, set by our worker.
SOCKET = "gunicorn.socket"


def local_path(scope: Scope) -> str:
    """Return the path of a request below the place where the application is mounted."""
    path: str = scope["path"]
    below = path.removeprefix(scope.get("root_path", ""))
    return below if below[:1] in {"/", ""} else path


def request_environ(
    method: str, path: str, query: bytes, headers: Iterable[tuple[bytes, bytes]]
) -> dict[str, Any]:
    """Return the method, the path, the query and the headers of a request in WSGI's form.

    Repeated headers are joined. Names with underscores are dropped, since WSGI cannot tell them
    from the names with hyphens that proxies set.
    """
    if not path.isascii():
        path = path.encode("utf-8", "surrogateescape").decode("latin-1")
    environ: dict[str, Any] = {"REQUEST_METHOD": method, "PATH_INFO": path}
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


class WsgiBridge:
    """An ASGI application that answers each request by a WSGI application.

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
        self.occupied: set[asyncio.Future[Any]] = set()

    def close(self) -> None:
        """End the pool's threads after the requests that they answer."""
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one HTTP request (ASGI 3)."""
        environ = whole_environ(scope)
        answer = await self._answer(environ, receive)
        if answer is None:
            return  # the client has left
        if environ["REQUEST_METHOD"] == "HEAD":
            answer = answer._replace(body=b"")
        await send_answer(answer, environ, scope, send)

    async def _answer(self, environ: dict[str, Any], receive: Receive) -> ConditionalAnswer | None:
        """Read the request's body, and then run the application; None if the client has left."""
        length = environ.get("CONTENT_LENGTH", "")[:20]
        size = int(length) if length.isdecimal() else 0
        body, more = b"", True
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
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["wsgi.input"] = io.BytesIO(body)
        return await self._run(environ)

    async def _run(self, environ: dict[str, Any]) -> ConditionalAnswer:
        if len(self.occupied) >= self._threads + QUEUE:
            busy = problem(503, "all threads are busy; try again")
            return busy.adding(("Retry-After", RETRY_AFTER))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._threads, thread_name_prefix="mop-config-wsgi")
        call = partial(contextvars.copy_context().run, self._call, environ)
        work = asyncio.get_running_loop().run_in_executor(self._pool, call)
        self.occupied.add(work)
        work.add_done_callback(self.occupied.discard)
        # If the task is cancelled the thread goes on, and its request is counted until it ends.
        return await asyncio.shield(work)

    def _call(self, environ: dict[str, Any]) -> ConditionalAnswer:
        """Run the application, in a thread of the pool."""
        started: list[Any] = []
        body: list[bytes] = []

        def start_response(*given: Any) -> Callable[[bytes], None]:
            started[:] = given[:2]
            return body.append

        try:
            pieces = self._app(environ, start_response)
            try:
                body.extend(pieces)
            finally:
                if hasattr(pieces, "close"):
                    pieces.close()
            status, headers = started
        except Exception as error:
            return failure(environ, error)
        whole = b"".join(body)
        if whole and not any(name.lower() == "content-length" for name, _ in headers):
            headers = [*headers, ("Content-Length", str(len(whole)))]
        return ConditionalAnswer(int(status[:3]), HeaderFields(headers), whole)


def whole_environ(scope: Scope) -> dict[str, Any]:
    """Return a request in WSGI's form (PEP 3333), without its body."""
    path = local_path(scope)
    server, client = scope.get("server") or ("localhost", 80), scope.get("client") or ("", 0)
    query, target = scope["query_string"], scope.get("raw_path") or path.encode()
    environ = request_environ(scope["method"], path, query, scope["headers"])
    environ.pop("HTTP_TRANSFER_ENCODING", None)
    environ |= {
        "SCRIPT_NAME": scope.get("root_path", ""),
        "RAW_URI": (target + b"?" * bool(query) + query).decode("latin-1"),
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
    answer: ConditionalAnswer, environ: dict[str, Any], scope: Scope, send: Send
) -> None:
    """Send an answer by ASGI's messages, and note the name of the request's token in the scope."""
    if USER in environ:
        scope[USER] = environ[USER]
    # A copy, since an application around this one may add headers in place.
    headers = [*answer.headers.pairs]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": answer.body})
