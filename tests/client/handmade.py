"""HTTP servers in this process whose every answer the test makes up."""

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

#: Nothing happens by itself for a while, and what fails is looked at again soon.
QUICK = Policy(
    health_timeout=2.0, first_backoff=0.05, max_backoff=0.1, min_dwell=0.0, total_timeout=5.0
)

#: Trusts nobody, and is made in no time; for servers without TLS.
NOBODY = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

#: Status, headers, body.
Answer = tuple[int, dict[str, str], bytes]


class Asked(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes = b""

    def header(self, name: str) -> str | None:
        return self.headers.get(name.lower())


OK: Answer = (200, {}, b"ok")
MISSING: Answer = (404, {}, b"")


class Handmade:
    """An HTTP server.

    Args:
        answer: Makes the answer to each request, in a thread of that request.
        tls: Context with a certificate, or None.
    """

    def __init__(
        self, answer: Callable[[Asked], Answer], tls: ssl.SSLContext | None = None
    ) -> None:
        self.answer = answer
        self.asked: list[Asked] = []
        self.closing = threading.Event()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                headers = {name.lower(): value for name, value in self.headers.items()}
                length = int(headers.get("content-length", 0)) if self.command == "POST" else 0
                asked = Asked(self.command, self.path, headers, self.rfile.read(length))
                outer.asked.append(asked)
                status, more, body = outer.answer(asked)
                self.send_response(status)
                for name, value in {"Content-Length": str(len(body)), **more}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(body)

            do_POST = do_GET  # noqa: N815

            def log_message(self, *args: Any) -> None:
                """Say nothing."""

        class Server(ThreadingHTTPServer):
            daemon_threads = False
            request_queue_size = 256

            def handle_error(self, request: Any, client_address: Any) -> None:
                """Whoever asked has gone; a test that minds looks at what it got."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self.port = int(self._server.server_address[1])
        self.url = f"http{'s' if tls else ''}://127.0.0.1:{self.port}"
        # The accept loop looks at its own end only so often.
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def paths(self) -> list[str]:
        """The paths that were asked for, in order."""
        return [asked.path for asked in self.asked]

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return self.paths.count(path)

    def close(self) -> None:
        """End it, and every request."""
        self.closing.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


@contextlib.contextmanager
def handmade(
    answer: Callable[[Asked], Answer] = lambda asked: OK, tls: ssl.SSLContext | None = None
) -> Iterator[Handmade]:
    """Run a server."""
    server = Handmade(answer, tls)
    try:
        yield server
    finally:
        server.close()


def wire(api: list[str] | None = None, sockets: list[str] | None = None) -> bytes:
    """The JSON of a list; the position is the priority."""
    kinds = {"api_endpoints": api or [], "socketio_endpoints": sockets or []}
    document = {
        kind: [{"url": url, "priority": index} for index, url in enumerate(urls)]
        for kind, urls in kinds.items()
    }
    return json.dumps(document).encode()


class Lists:
    """A source of lists that knows tags, and holds its answers where it is asked to.

    Args:
        body: The list that it gives.
        holds: Whether it holds an answer that has nothing new.
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
        """Have another list, and let those that wait know."""
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
    """Run a source of lists, which is healthy itself."""
    lists = Lists(body, holds=holds)
    with handmade(lists) as server:
        lists.server = server
        yield lists, server


def urls(endpoints: tuple[Any, ...]) -> list[str]:
    """The URLs of endpoints."""
    return [endpoint.url for endpoint in endpoints]


def named(url: str, name: str, priority: int = 0) -> Endpoint:
    """An endpoint whose certificate is for a name."""
    return Endpoint.parse(url, priority, name)
