"""HttpProtocol is uvicorn's HTTP protocol with the limits and deadlines of a public server.

uvicorn itself does not limit the request line and the fields, check Host, drop names with
underscores, set deadlines for heads, bodies and unread answers, or send problem documents.

A connection has one deadline of what its client does, which is replaced as a request goes on:

1. a new connection, or a connection that sends a head: ``timeout`` until the head is complete,
2. a body: ``timeout`` until it is complete,
3. an idle connection after an answer: the keep-alive time,
4. a client with unread answers: ``timeout`` until it has read a part of them.

A deadline that is moved to a later time leaves its timer alone: the timer looks at the deadline
when it fires. So an answer costs no timer. While the server answers or has paused reading, a
deadline that is over counts for nothing.
"""

import asyncio
import contextlib
import fcntl
import logging
import math
import re
import sys
import termios
from asyncio import TimerHandle, Transport
from functools import lru_cache, partial
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn.protocols.http import httptools_impl

from ..serving.answers import ConditionalAnswer, problem
from ..serving.responder import LongPoll
from ..web.asgi import SOCKET, AsgiApp, request_environ

logger = logging.getLogger(__name__)

#: Requests that a client may send before the answer to its first one.
PIPELINED = 64
#: Seconds for which an ending worker waits for a client that does not read its answer.
END = 1.0
#: Bytes of a request beside its body's limit: the head, and the framing of chunks.
OVERHEAD = 512 * 1024

#: Fields of requests that are never answered at once: their bodies or upgrades must be followed.
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")


class RefusedRequestError(Exception):
    """A request that is answered by an error page; its argument is the HTTP status code."""


class NoCycle:
    """Stands in for uvicorn's cycle before the first request that a task answers."""

    response_complete = True
    message_event = asyncio.Event()  # no task waits for it


class ParkedCycle(NoCycle):
    """Stands in for uvicorn's cycle of a request that is parked without a task.

    uvicorn then queues the requests that follow, and ends the connection after the answer only.

    Args:
        poll: The long poll.
        keep_alive: Whether the connection stays open after the answer.
    """

    response_complete = False
    more_body = False

    def __init__(self, poll: LongPoll, keep_alive: bool) -> None:
        self.poll = poll
        self.keep_alive = keep_alive


class HttpProtocol(httptools_impl.HttpToolsProtocol):
    """One connection of a client.

    If the application is an ``AsgiApp``, its native routes are answered at once. The access log,
    which must see each request, wraps the application.

    Args:
        worker: The worker, an ``AsgiWorker``, with the limits of its connections.
    """

    def __init__(self, *args: Any, worker: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._worker = worker
        # Copies, since each field of each request needs them.
        self._max_fields = worker.max_fields
        self._max_field = worker.max_field
        self._until = math.inf  # the deadline; infinite until the data that began is taken in
        self._timer: TimerHandle | None = None
        self._unread = math.inf  # the size of the unread answers at the last look
        self._receiving = False  # a request has begun and is not complete
        self.cycle = NoCycle()  # type: ignore[assignment]
        # The request that is being answered; ``cycle`` is that of the last request.
        self._running: httptools_impl.RequestResponseCycle | ParkedCycle | None = None
        self._deaf = False  # the rest of what the client sends is ignored

    # -- the connection

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the first deadline, or abort a connection beyond the limit."""
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        if len(self.connections) > self._worker.connections:
            transport.abort()
        else:
            self._wait(self._worker.request_timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timer, and forget a parked request."""
        if self._timer is not None:
            self._timer.cancel()
        running = self._running
        if isinstance(running, ParkedCycle):
            self.app.polls().remove(running.poll)
        elif running is not None:
            running.disconnected = True
            running.message_event.set()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse the bytes that the client has sent, and set the deadline for the rest."""
        if self._deaf:
            return
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade:
            self._deaf = True
        except httptools.HttpParserError as error:
            cause = error.__context__
            self._refuse(cause.args[0] if isinstance(cause, RefusedRequestError) else 400)
            return
        if self._receiving:
            self._bytes += len(data)
            if self._bytes > self._worker.max_request:
                self._refuse(431 if self._in_head else 413)
        if self._until == math.inf:
            self._wait(self._worker.request_timeout)

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        """Note the first byte of a request."""
        # Without the scope that uvicorn's own method makes: few requests need one.
        self.url = b""
        self.headers = []
        self._until = math.inf
        self._receiving = self._in_head = True
        self._bytes = 0

    def on_url(self, url: bytes) -> None:
        """Append a part of the request target, within its limit."""
        self.url += url
        if len(self.url) > self._worker.max_line:
            raise RefusedRequestError(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field, within the limits; leave out a trailer and a name with underscores.

        WSGI cannot tell such a name from the name with hyphens.
        """
        headers = self.headers
        if len(headers) >= self._max_fields or len(name) + len(value) + 2 > self._max_field:
            raise RefusedRequestError(431)
        name = name.lower()
        if name == b"transfer-encoding" and value.lower() != b"chunked":
            raise RefusedRequestError(501)
        if self._in_head and b"_" not in name:
            headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, and start to answer."""
        if self._deaf:
            return  # the answer before this request closes the connection
        version = self.parser.get_http_version()
        url = self.url
        headers = self.headers
        fields = dict(headers)
        plain = _NOT_PLAIN.isdisjoint(fields)
        if not plain and fields.get(b"expect", b"100-continue").lower() != b"100-continue":
            raise RefusedRequestError(417)
        host = fields.get(b"host", b"-" if version == "1.0" else b"")  # HTTP/1.0 needs none
        several = len(fields) < len(headers) and [name for name, _ in headers].count(b"host") > 1
        if version not in {"1.0", "1.1"} or several or not _HOST.fullmatch(host):
            raise RefusedRequestError(400)
        if not url.startswith(b"/") and url != b"*":
            parts = httptools.parse_url(url)
            if parts.schema not in {b"http", b"https"}:
                raise RefusedRequestError(400)
            url = (parts.path or b"/") + (b"" if parts.query is None else b"?" + parts.query)
        if len(self.pipeline) >= PIPELINED:
            raise RefusedRequestError(400)
        self._in_head = False
        self._until = math.inf
        if plain and self._answer_at_once(version, url):
            return
        self._start_task(url, headers)
        if self.parser.should_upgrade() or not self._worker.alive:
            self.cycle.keep_alive = False

    def _start_task(self, url: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        """Make uvicorn's scope of a request, and answer it by a task, perhaps later."""
        cfg = self._worker.cfg
        fields = dict(headers)
        super().on_message_begin()
        self.url = url
        self.headers += headers
        self.expect_100_continue = b"expect" in fields
        self.scope[SOCKET] = self._socket  # type: ignore[literal-required]
        self.scope["root_path"] = self._worker.prefix
        if self.client is None or {self.client[0], "*"} & {*cfg.forwarded_allow_ips}:
            for name, value in cfg.secure_scheme_headers.items():
                if fields.get(name.lower().encode()) == value.encode():
                    self.scope["scheme"] = "https"
        super().on_headers_complete()
        self.flow.resume_reading()  # uvicorn has paused it: the client may leave

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._receiving = False
        if not self.cycle.response_complete:
            super().on_message_complete()

    # -- answers

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _answer_at_once(self, version: str, url: bytes) -> bool:
        """Answer a request without a task, unless an earlier answer is not yet sent and read."""
        app = self.app
        busy = not self.cycle.response_complete or self.flow.write_paused
        if busy or not isinstance(app, AsgiApp):
            return False
        path, _, query = url.partition(b"?")
        method = self.parser.get_method().decode()
        environ = request_environ(method, path.decode("latin-1"), query, self.headers)
        found = app.answer_at_once(environ)
        if found is None:
            return False
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        if isinstance(found, LongPoll):
            self._running = ParkedCycle(found, keep_alive)
            self.cycle = self._running  # type: ignore[assignment]
            app.polls().add(found, partial(self._end_wait, self._running))
            return True
        self._send(found, keep_alive)
        self.server_state.total_requests += 1
        self._wait(self.timeout_keep_alive)
        return True

    def _end_wait(self, parked: ParkedCycle) -> None:
        parked.response_complete = True
        self._send(self.app.answer_parked(parked.poll), parked.keep_alive)
        self.on_response_complete()

    def _send(self, answer: ConditionalAnswer, keep_alive: bool) -> None:
        """Send an answer of the application without a task."""
        close = not (keep_alive and (self._worker.alive or self.pipeline))
        fields = _lines(*self.server_state.default_headers)
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        status = httptools_impl.STATUS_LINE[answer.status]
        self.transport.write(b"".join((status, fields, answer.headers.lines, end, answer.body)))
        if close:
            self._deaf = True
            self.transport.close()

    def on_response_complete(self) -> None:
        """Go on with the next request."""
        super().on_response_complete()
        self._unset_keepalive_if_required()  # the deadline stands in for uvicorn's timer
        if not self._receiving:
            self._wait(self.timeout_keep_alive)

    def _refuse(self, status: int) -> None:
        """Answer by an error page and close, or close after the answers to earlier requests."""
        self._deaf = True
        self._receiving = False
        cycle = self.cycle
        if not (cycle.response_complete or cycle.more_body):
            cycle.keep_alive = False
        elif not cycle.response_complete and (cycle.response_started or self.pipeline):
            self.transport.close()
        else:
            peer = self.client and self.client[0]
            logger.warning("a request from %s was refused: %d", peer, status)
            self.transport.write(error_page(status))
            self.transport.close()
        self._wait(self._worker.request_timeout)

    # -- deadlines

    def _wait(self, seconds: float) -> None:
        """Set the deadline of what the client must do next."""
        self._until = self.loop.time() + seconds
        if self._timer is not None and self._timer.when() > self._until:
            self._timer.cancel()
            self._timer = None
        if self._timer is None:
            self._timer = self.loop.call_at(self._until, self._look)

    def _look(self) -> None:
        """Go on waiting if the deadline was moved, else end the request or the connection."""
        self._timer = None
        unread = self._count_unread()
        before = self._unread
        if self._until > self.loop.time():
            self._timer = self.loop.call_at(self._until, self._look)
            return
        self._unread = unread or math.inf
        if unread >= before:
            self.transport.abort()
        elif unread or (self._receiving and self.flow.read_paused):
            self._wait(self._worker.request_timeout)
        elif self._receiving and (self._in_head or not self.cycle.response_complete):
            self._refuse(408)
        elif self.cycle.response_complete:
            self.transport.close()
        else:
            self._wait(self._worker.request_timeout)

    def _count_unread(self) -> int:
        """Return how many bytes of the answers the client's host has not acknowledged."""
        left: int = self.transport.get_write_buffer_size()
        queued = bytes(4)
        if left:
            with contextlib.suppress(OSError):  # a platform that cannot tell
                queued = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, queued)
        return left + int.from_bytes(queued, sys.byteorder)

    def shutdown(self) -> None:
        """Close the connection now, or after the answer that is being sent."""
        if self.cycle.response_complete or self.cycle.more_body:
            self.transport.close()
            self.loop.call_later(END, self.transport.abort)
        else:
            super().shutdown()


# uvicorn renews its default fields, such as Date, once a second.
@lru_cache(maxsize=4)
def _lines(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)


def error_page(status_code: int) -> bytes:
    """Return a whole response with ``Connection: close`` and a problem document.

    gunicorn's own pages repeat parts of the request, and lack the security headers of our answers.

    Args:
        status_code: HTTP status code.
    """
    status = HTTPStatus(status_code)
    page = problem(status, status.description or status.phrase).adding(("Connection", "close"))
    line = httptools_impl.STATUS_LINE[status]
    return b"".join((line, page.headers.lines, b"\r\n", page.body))
