"""HTTP servers in this process that answer each request with a function of the test."""

import contextlib
import json
import ssl
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from mop_config import Endpoint
from mop_config.client import Policy

from ..servers import ENDPOINTS

#: A policy with short backoffs, so that a failed endpoint is probed again within 0.1 s.
QUICK = Policy(
    health_timeout=2.0, first_backoff=0.05, max_backoff=0.1, min_dwell=0.0, total_timeout=5.0
)

#: A TLS context without CA certificates, for servers without TLS: loading none is fast.
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: Status, headers and body of an answer.
Answer = tuple[int, dict[str, str], bytes]


class Asked(NamedTuple):
    """One received request; the names of its headers are in lower case.

    Attributes:
        client: The IP address of the client.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""
    client: str = ""

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())


OK: Answer = (200, {}, b"ok")
MISSING: Answer = (404, {}, b"")


class Handmade:
    """An HTTP server that records each request in ``asked``.

    Args:
        answer: Makes the answer to a request; called in the thread of its connection.
        tls: Server context with a certificate; None for plain HTTP.
        host: IPv4 address to listen on.
    """

    def __init__(
        self,
        answer: Callable[[Asked], Answer],
        tls: ssl.SSLContext | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                length = int(headers.get("content-length", 0)) if self.command == "POST" else 0
                body = self.rfile.read(length)
                client = self.client_address[0]
                asked = Asked(self.command, self.path, headers, body, client)
                outer.asked.append(asked)
                status, more, content = outer.answer(asked)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(content)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Suppress the log line of each request."""

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Ignore the error: the client has disconnected, and the test checks its result."""

        self._server = Server((host, 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://{host}:{self.port}"
        # shutdown() waits up to one poll interval of serve_forever, so keep the interval short.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def paths(self) -> list[str]:
        """The paths of the received requests, in order."""
        return [asked.path for asked in self.asked]

    def count(self, path: str) -> int:
        """Return the number of requests for a path."""
        return self.paths.count(path)

    def close(self) -> None:
        """Stop the server and wait for its requests to end."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def handmade(
    answer: Callable[[Asked], Answer] = lambda asked: OK,
    tls: ssl.SSLContext | None = None,
    host: str = "127.0.0.1",
) -> Iterator[Handmade]:
    """Run a handmade server."""
    server = Handmade(answer, tls, host)
    try:
        yield server
    finally:
        server.close()


def wire(api: list[str] | None = None, sockets: list[str] | None = None) -> bytes:
    """Return the JSON of an endpoint list; the position of a URL is its priority."""
    kinds = {"api_endpoints": api or [], "socketio_endpoints": sockets or []}
    document = {
        kind: [{"url": url, "priority": index} for index, url in enumerate(urls)]
        for kind, urls in kinds.items()
    }
    return json.dumps(document).encode()


class Lists:
    """A source of endpoint lists that supports ETag and, with ``holds``, long polling.

    Args:
        body: JSON of the list to serve.
        holds: Whether to hold a request with ``wait=`` until its ETag no longer matches.
    """

    def __init__(self, body: bytes, *, holds: bool = False) -> None:
        self.body = body
        self.holds = holds
        self.changed = threading.Event()
        self.server: Handmade | None = None

    @property
    def tag(self) -> str:
        return f'"{hash(self.body):x}"'

    def put(self, body: bytes) -> None:
        """Serve another list, and answer the held requests."""
        self.body = body
        self.changed.set()

    def __call__(self, asked: Asked) -> Answer:
        path, _, query = asked.path.partition("?")
        if path.endswith("/health"):
            return OK
        if path != ENDPOINTS:
            return MISSING
        headers = {}
        if self.holds and "wait=" in query:
            headers["Preference-Applied"] = "wait"
            while asked.header("if-none-match") == self.tag:
                assert self.server is not None
                if self.server.closing.is_set() or self.changed.wait(0.02):
                    break
        self.changed.clear()
        headers["ETag"] = self.tag
        if asked.header("if-none-match") == self.tag:
            return 304, headers, b""
        return 200, headers, self.body


@contextlib.contextmanager
def source(body: bytes, *, holds: bool = False) -> Iterator[tuple[Lists, Handmade]]:
    """Run a source of lists that also answers health checks with 200."""
    lists = Lists(body, holds=holds)
    with handmade(lists) as server:
        lists.server = server
        yield lists, server


def urls(endpoints: tuple[Any, ...]) -> list[str]:
    """Return the URLs of endpoints."""
    return [endpoint.url for endpoint in endpoints]


def named(url: str, name: str, priority: int = 0) -> Endpoint:
    """Make an endpoint whose certificate must be valid for ``name``."""
    return Endpoint.parse(url, priority, name)
