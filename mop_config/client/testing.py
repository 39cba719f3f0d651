"""``ScriptedFleet``: endpoints on this machine that fail on command, for an application's tests.

The endpoints are real HTTP servers, so that an application is tested with its real HTTP client.
The pytest fixture ``scripted_fleet`` provides a fleet.
"""

import contextlib
import math
import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple

from .background import jobs_of
from .lists.rules import is_route
from .manager import BaseManager
from .pool.session import ClientState

#: Seconds between two checks whether a server should end.
_POLL = 0.02


class ReceivedRequest(NamedTuple):
    """A request that an endpoint has received.

    Attributes:
        method: The method.
        path: The path, with the query.
        headers: The headers, with names in lower case.
        body: The body.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: bytes


class _Reply(NamedTuple):
    """The response to a request; ``sent``: body bytes after which to hang up, or None."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] | None = None
    sent: int | None = None


class ScriptedEndpoint:
    """An endpoint: an HTTP server on this machine whose behaviour the test sets.

    At first the endpoint answers 200 to every request, health checks included, and serves no
    endpoint list.

    Attributes:
        url: The URL of the endpoint.
        requests: The requests received so far, in order, health checks included.
    """

    def __init__(self) -> None:
        self.requests: list[ReceivedRequest] = []
        self._replies: dict[str | None, _Reply] = {None: _Reply()}
        self._hangs = False
        self._server: _Server | None = _Server(self, 0)
        self._port = int(self._server.server_address[1])
        self.url = f"http://127.0.0.1:{self._port}"

    def answer(
        self,
        status: int = 200,
        body: bytes | str = b"",
        *,
        headers: dict[str, str] | None = None,
        path: str | None = None,
    ) -> None:
        """Set the response to requests from now on.

        Args:
            status: The status, from 200 to 999.
            body: The body.
            headers: Headers of the response, such as ``Retry-After``.
            path: The path, without a query, that gets this response; None: every path without a
                response of its own.

        Raises:
            TypeError: If ``status`` is no number, or ``body`` neither bytes nor text.
            ValueError: If the status or the path is not possible.
        """
        content = body.encode() if isinstance(body, str) else body
        self._behave(path, _Reply(status, content, headers))

    def die_in_body(self, body: bytes = b"x" * 1000, *, path: str | None = None) -> None:
        """Answer 200 from now on, and hang up after half of the body."""
        self._behave(path, _Reply(200, body, sent=len(body) // 2))

    def hang(self) -> None:
        """Accept connections and requests from now on, but send no response."""
        self._hangs = True
        self._listen()

    def refuse(self) -> None:
        """Refuse connections from now on, and break the open connections, like a dead server."""
        server, self._server = self._server, None
        if server is not None:
            server.stop()

    def _behave(self, path: str | None, reply: _Reply) -> None:
        if not 200 <= reply.status <= 999:
            raise ValueError(f"status must be 200 to 999, not {reply.status}")
        if not isinstance(reply.body, bytes):
            raise TypeError(f"body must be bytes or a text, not {reply.body!r}")
        if path is not None and (not path.startswith("/") or "?" in path):
            raise ValueError(f"path must begin with / and have no query: {path!r}")
        self._replies[path] = reply
        self._hangs = False
        self._listen()

    def _listen(self) -> None:
        if self._server is None:
            self._server = _Server(self, self._port)

    def respond(self, request: ReceivedRequest) -> _Reply | None:
        """Return the reply to a request, or None to hang. The server calls this."""
        self.requests.append(request)
        if self._hangs:
            return None
        path = request.path.partition("?")[0]
        default = _Reply(404) if is_route(path) else self._replies[None]
        return self._replies.get(path, default)


class _Server(ThreadingHTTPServer):
    """The server of one endpoint, until it refuses connections."""

    daemon_threads = False
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, endpoint: ScriptedEndpoint, port: int) -> None:
        self.endpoint = endpoint
        self._connections: list[socket.socket] = []
        super().__init__(("127.0.0.1", port), _ScriptHandler)
        self._thread = threading.Thread(target=self.serve_forever, args=(_POLL,), daemon=True)
        self._thread.start()

    def process_request(self, request: Any, client_address: Any) -> None:
        """Serve a connection in a thread of its own."""
        self._connections.append(request)
        super().process_request(request, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: the client has gone."""

    def stop(self) -> None:
        """Stop listening, break the open connections and wait for their threads."""
        self.shutdown()
        self.socket.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        self.server_close()
        self._thread.join()


class _ScriptHandler(BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    server: _Server

    def do_GET(self) -> None:
        """Answer a request as the endpoint's script says."""
        headers = {name.lower(): value for name, value in self.headers.items()}
        if "transfer-encoding" in headers:
            self.send_error(411)  # a body in chunks is not read
            return
        body = self.rfile.read(int(headers.get("content-length", 0)))
        reply = self.server.endpoint.respond(
            ReceivedRequest(self.command, self.path, headers, body)
        )
        if reply is None:
            self.close_connection = True
            self.rfile.read(1)  # until the client or the endpoint ends the connection
            return
        self.send_response(reply.status)
        self.send_header("Content-Length", str(len(reply.body)))
        for name, value in (reply.headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body[: reply.sent])
        self.close_connection = self.close_connection or reply.sent is not None

    do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = do_GET  # noqa: N815

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


class ScriptedFleet(contextlib.ExitStack):
    """Scripted endpoints that end together, at the end of the ``with`` block or by ``close``."""

    def endpoint(self) -> ScriptedEndpoint:
        """Start an endpoint."""
        endpoint = ScriptedEndpoint()
        self.callback(endpoint.refuse)
        return endpoint

    def endpoints(self, count: int) -> list[ScriptedEndpoint]:
        """Start several endpoints."""
        return [self.endpoint() for _ in range(count)]


def turn_clock(manager: BaseManager, seconds: float) -> None:
    """Advance the time of the endpoints of a manager, without waiting.

    The health checks that become due run at once, in the order of their times. Timeouts of
    running requests and updates of the list are not affected.

    Args:
        manager: The manager.
        seconds: Seconds by which to advance the time.

    Raises:
        ValueError: If ``seconds`` is negative or not finite.
    """
    if not 0 <= seconds < math.inf:
        raise ValueError(f"seconds must be 0 or more, not {seconds}")
    state, tasks = manager._state, manager._lifecycle.tasks
    while True:
        _wait_for_checks(state)  # an endpoint under check has no next due time yet
        with state:
            now = state.clock()
            due = min(pool.next_due() for pool in state.pools)
            step = min(seconds, max(0.0, due - now))
            _age(state, step)
            jobs = [job for pool in state.pools for job in jobs_of(pool.kind, pool.take_due(now))]
        seconds -= step
        tasks.check_jobs(jobs)
        if not jobs and not seconds:
            return


def _wait_for_checks(state: ClientState) -> None:
    """Wait for the checks that the manager's own threads have begun."""
    deadline = time.monotonic() + 2 * state.policy.health_timeout
    while time.monotonic() < deadline:
        with state:
            is_checking = any(m.probing for pool in state.pools for m in pool.members())
        if not is_checking:
            return
        time.sleep(_POLL / 4)


def _age(state: ClientState, seconds: float) -> None:
    """Move every time that the pools have recorded ``seconds`` into the past."""
    for pool in state.pools:
        _move_back(pool, seconds, "_current_since", "_review_at")
        for member in pool.members():
            _move_back(member, seconds, "busy_until", "recovered_at", "failing_since")
            _move_back(member.health, seconds, "next_probe", "_recheck")
            for times in (member.answers, member.dials):
                for index, (at, duration) in enumerate(times):
                    times[index] = (at - seconds, duration)
    for host, (at, blame) in state.network.held.items():
        state.network.held[host] = (at - seconds, blame)


def _move_back(record: Any, seconds: float, *names: str) -> None:
    for name in names:
        if (at := getattr(record, name)) is not None:
            setattr(record, name, at - seconds)
