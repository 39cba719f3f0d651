"""HttpProtocol is uvicorn's HTTP protocol with the limits and deadlines of a public server.

uvicorn itself does not limit the request line and the fields, check Host, drop names with
underscores, set deadlines for heads, bodies and unread answers, or send problem documents.

One deadline of what the client sends runs at a time. It is armed while the server waits for bytes
of the client, put off while the server itself has paused reading, and replaced as the request goes
on:

1. a new connection, or a connection that sends a head: ``timeout`` until the head is complete,
2. a body: ``timeout`` and a little more, so that the bridge's 408 comes first,
3. an idle connection after an answer: uvicorn's own keep-alive time.

Beside it, a timer watches a client that has not read all of its answers.
"""

import asyncio
import contextlib
import fcntl
import logging
import re
import sys
import termios
from asyncio import TimerHandle, Transport
from functools import lru_cache, partial
from typing import Any

import httptools
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)

from ..serving.responder import LongPoll
from ..serving.snapshot import ConditionalAnswer
from ..web.asgi import AsgiApp, ParkedPolls
from ..web.bridge import SOCKET
from .limits import ConnectionLimits, RefusedRequestError, path_of
from .worker import error_page

logger = logging.getLogger(__name__)

#: Seconds by which the deadline of a body is later than the bridge's.
LATER = 2.0
#: Requests that a client may send before the answer to its first one, and how many of them may
#: wait while the server still reads, which it must do to see that the client has left.
PIPELINED, READ_AHEAD = 64, 8
#: Seconds for which an ending worker waits for a client that does not read its answer.
END = 1.0

#: Fields of requests that are never answered at once: their bodies or upgrades must be followed.
_NOT_PLAIN = frozenset({b"content-length", b"transfer-encoding", b"expect", b"upgrade"})
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=:%\[\]-]+")


class ParkedCycle:
    """Stands in for uvicorn's cycle of a request that is parked without a task.

    uvicorn then queues the requests that follow, and ends the connection after the answer only.

    Args:
        polls: The parked polls of the loop.
        poll: The long poll.
        keep_alive: Whether the connection stays open after the answer.
    """

    more_body = False
    response_complete = False
    disconnected = False
    message_event = asyncio.Event()  # nothing waits for it

    def __init__(self, polls: ParkedPolls, poll: LongPoll, keep_alive: bool) -> None:
        self.polls, self.poll = polls, poll
        self.keep_alive = keep_alive


class HttpProtocol(HttpToolsProtocol):
    """One connection of a client.

    Args:
        rules: The limits.
    """

    def __init__(self, *args: Any, rules: ConnectionLimits, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._rules = rules
        self._deadline: TimerHandle | None = None
        self._stall: TimerHandle | None = None
        self._receiving = False  # a request has begun and is not complete
        self._in_head = False
        self._plain = False  # the head names neither a body nor an upgrade
        self._answered = False  # or parked, or ignored: no task answers this request
        self._parked: ParkedCycle | None = None
        self._running: RequestResponseCycle | None = None  # ``cycle`` is that of the last request
        self._deaf = False  # the rest of what the client sends is ignored
        self._page: int | None = None  # the status of an error page that waits for its turn
        self._fields = self._bytes = 0
        self._hosts: list[bytes] = []
        self._secure = False  # a trusted proxy says that the request came by https
        self._answered_at = 0.0

    # -- the connection

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Start the first deadline, or abort a connection beyond the limit."""
        super().connection_made(transport)
        self._socket = transport.get_extra_info("socket")
        trusted, client = self._rules.trusted, self.client
        self._trusted = "*" in trusted or client is None or client[0] in trusted
        if len(self.connections) > self._rules.connections:
            transport.abort()
        else:
            self._arm(self._rules.timeout)

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timers, and forget a parked request."""
        self._disarm()
        self._unset_keepalive_if_required()
        if self._parked is not None:
            self._parked.polls.remove(self._parked.poll)
        if self._stall is not None:
            self._stall.cancel()
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Answer a client that has closed its sending side; end its long poll if one is parked."""
        if self._receiving or not self._answering() or self.scheme == "https":
            return None
        self.cycle.keep_alive = False
        if self._running is not None:
            self._running.message_event.set()
        if self._parked is not None:
            self._parked.polls.end(self._parked.poll)
        return True

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
            if self._bytes > self._rules.request:
                self._refuse(431 if self._in_head else 413)
            elif self._deadline is None:
                self._arm(self._rules.timeout + (0 if self._in_head else LATER))
        elif self._answering():
            self._disarm()
        elif self._deadline is None and self.timeout_keep_alive_task is None:
            self._arm(self._rules.timeout)

    # -- the parser's callbacks

    def on_message_begin(self) -> None:
        """Note the first byte of a request."""
        # Without the scope that uvicorn's own method makes: few requests need one.
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._receiving = self._in_head = self._plain = True
        self._answered = self._secure = False
        self._fields = self._bytes = 0
        self._hosts = []

    def on_url(self, url: bytes) -> None:
        """Append a part of the request target, within its limit."""
        self.url += url
        if len(self.url) > self._rules.line:
            raise RefusedRequestError(414)

    def on_header(self, name: bytes, value: bytes) -> None:
        """Add a header field, within the limits."""
        rules = self._rules
        self._fields += 1
        if self._fields > rules.fields or len(name) + len(value) + 2 > rules.field:
            raise RefusedRequestError(431)
        name = name.lower()
        if not self._in_head or b"_" in name:
            return  # a trailer, or a name that WSGI cannot tell from one with hyphens
        if name in _NOT_PLAIN:
            self._plain = False
        if name == b"host":
            self._hosts.append(value)
        elif name == b"transfer-encoding" and value.lower() != b"chunked":
            raise RefusedRequestError(501)
        elif name == b"expect":
            if value.lower() != b"100-continue":
                raise RefusedRequestError(417)
            self.expect_100_continue = True
        elif self._trusted and rules.secure.get(name) == value:
            self._secure = True
        self.headers.append((name, value))

    def on_headers_complete(self) -> None:
        """Check the head, and start to answer."""
        if self._deaf:
            self._answered = True  # never: the answer before this request closes the connection
            return
        version = self.parser.get_http_version()
        hosts = self._hosts
        one = len(hosts) == 1 or (not hosts and version == "1.0")
        if version not in {"1.0", "1.1"} or not one or (hosts and not _HOST.fullmatch(hosts[0])):
            raise RefusedRequestError(400)
        if not self.url.startswith(b"/") and self.url != b"*":
            self.url = path_of(self.url)
        if len(self.pipeline) >= PIPELINED:
            raise RefusedRequestError(400)
        self._in_head = False
        self._disarm()
        if self._plain and self._answer_at_once(version):
            return
        self._make_scope()
        super().on_headers_complete()
        if not self.pipeline:
            self._running = self.cycle
        elif len(self.pipeline) < READ_AHEAD:
            self.flow.resume_reading()  # uvicorn has paused it
        if self.parser.should_upgrade() or not self._rules.worker.alive:
            self.cycle.keep_alive = False

    def _make_scope(self) -> None:
        """Make the scope of a request that a task answers."""
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers
        self.scope[SOCKET] = self._socket  # type: ignore[literal-required]
        if self._secure:
            self.scope["scheme"] = "https"

    def on_message_complete(self) -> None:
        """Note that the request is complete."""
        self._receiving = False
        if not self._answered:
            super().on_message_complete()

    # -- answers

    def _answer_at_once(self, version: str) -> bool:
        """Answer a request without a task, unless an earlier answer is not yet sent and read."""
        app = self._rules.app
        if app is None or self._answering() or self.flow.write_paused:
            return False
        found = app.answer_at_once(self.parser.get_method(), self.url, self.headers)
        if found is None:
            return False
        self._answered = True
        keep_alive = version != "1.0" and self.parser.should_keep_alive()
        if isinstance(found, LongPoll):
            parked = self._parked = ParkedCycle(app.polls(), found, keep_alive)
            self.cycle = parked  # type: ignore[assignment]
            parked.polls.add(found, partial(self._end_wait, app, parked))
            return True
        self._send(found, keep_alive)
        if self._deaf:
            self.on_response_complete()
            return True
        self.server_state.total_requests += 1
        # The timer is not set anew for each answer: its handler looks at the time of the last one.
        self._answered_at = self.loop.time()
        if self.transport.get_write_buffer_size():
            self._watch_writing()
        if self.timeout_keep_alive_task is None:
            self._keep_alive(self.timeout_keep_alive)
        return True

    def _end_wait(self, app: AsgiApp, parked: ParkedCycle) -> None:
        self._parked = None
        parked.response_complete = True
        self._send(app.answer_parked(parked.poll), parked.keep_alive)
        self.on_response_complete()

    def _send(self, answer: ConditionalAnswer, keep_alive: bool) -> None:
        """Send an answer of the application without a task."""
        close = not (keep_alive and (self._rules.worker.alive or self.pipeline))
        fields = _lines(*self.server_state.default_headers)
        end = b"connection: close\r\n\r\n" if close else b"\r\n"
        parts = (STATUS_LINE[answer.status], fields, answer.headers.lines, end, answer.body)
        self.transport.write(b"".join(parts))
        if close:
            self._deaf = True
            self.transport.close()

    def _answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete

    def on_response_complete(self) -> None:
        """Go on with the next request, or send the error page that waits for the last answer."""
        self._running = self.pipeline[-1][0] if self.pipeline else None
        super().on_response_complete()
        self._watch_writing()
        if self._page is not None and self._running is None and not self.transport.is_closing():
            self._send_page(self._page)

    def _refuse(self, status: int) -> None:
        """Answer by an error page, after the answers to earlier requests, and close."""
        self._deaf = True
        self._disarm()
        if self._answering() and not self.cycle.more_body:
            self._page = status
        elif self._answering() and (self.cycle.response_started or self.pipeline):
            self.transport.close()
        else:
            self._send_page(status)

    def _send_page(self, status: int) -> None:
        logger.warning("a request from %s was refused: %d", self.client and self.client[0], status)
        self.transport.write(error_page(status))
        self.transport.close()
        self._watch_writing()

    # -- deadlines

    def _arm(self, seconds: float) -> None:
        self._deadline = self.loop.call_later(seconds, self._expire)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expire(self) -> None:
        self._deadline = None
        if self.flow.read_paused:
            self._arm(self._rules.timeout)  # the bytes may be there, unread
        elif self._receiving and (self._in_head or self._answering()):
            self._refuse(408)
        else:
            self.transport.abort()

    def _keep_alive(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def timeout_keep_alive_handler(self) -> None:
        """Close an idle connection."""
        self.timeout_keep_alive_task = None
        left = self._answered_at + self.timeout_keep_alive - self.loop.time()
        if self._receiving or self._answering():
            return  # the answer sets the timer again
        if left > 0:
            self._keep_alive(left)
        elif self._stall is not None:
            self._keep_alive(self.timeout_keep_alive)  # the client still reads its answer
        else:
            super().timeout_keep_alive_handler()

    def pause_writing(self) -> None:
        """Set the deadline for a client that does not read its answer."""
        super().pause_writing()
        self._watch_writing()

    def _watch_writing(self) -> None:
        """Watch a client that has not read all of its answers."""
        if self._stall is None and self.transport.get_write_buffer_size():
            later = self._rules.timeout
            self._stall = self.loop.call_later(later, self._look_at_writing, self._unread())

    def _unread(self) -> int:
        """Return the number of bytes that the client's host has not acknowledged."""
        queued = bytes(4)
        with contextlib.suppress(OSError):  # a platform that cannot tell
            queued = fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, queued)
        left: int = self.transport.get_write_buffer_size()
        return left + int.from_bytes(queued, sys.byteorder)

    def _look_at_writing(self, before: int) -> None:
        """Abort the connection if the client has read nothing in the time-out."""
        self._stall = None
        if self._unread() < before:
            self._watch_writing()
        else:
            self.transport.abort()

    def shutdown(self) -> None:
        """Close the connection now, or after the answer that is being sent."""
        if self._answering() and not self.cycle.more_body:
            super().shutdown()
            return
        self.transport.close()
        self.loop.call_later(END, self.transport.abort)


# uvicorn renews its default fields, such as Date, once a second.
@lru_cache(maxsize=4)
def _lines(*fields: tuple[bytes, bytes]) -> bytes:
    return b"".join(b"%b: %b\r\n" % field for field in fields)
