"""The threaded parts of the transport: waiting, streams, dial races and hedges.

A request over an open connection stays in its caller's thread. Only a request whose answer is late
gets a second thread, which sends the hedge to another endpoint.
"""

import contextlib
import contextvars
import logging
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable
from typing import Any

import httpcore2
from httpcore2._backends.sync import SyncStream

from ...net.connect import DialOptions, Place, connect
from ...net.resolver import Resolver
from ..pool.failover import DialRace, Outcome
from .attempt import Exchange, Limit, Overtaken
from .dial import RaceWinner, dial
from .outcome import settle
from .stream import WANT_READ, SocketStream

logger = logging.getLogger(__name__)

TurnEvent = threading.Event


class FailoverStream(SocketStream, httpcore2.NetworkStream):
    """A connected socket whose operations keep the deadline of their exchange."""

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            while True:
                if self._tls is None or not self._tls.pending():
                    self._wait_to_read(timeout)
                try:
                    return self._sock.recv(max_bytes)
                except WANT_READ:
                    continue  # only a TLS message has arrived
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.ReadError(str(error)) from error

    def _wait_to_read(self, timeout: float | None) -> None:
        if isinstance(timeout, Limit):
            hedge, timeout = timeout.deadline.hedge, timeout.deadline.least(timeout)
            if hedge is not None:
                hedge.wait(self._sock, timeout)
                return
        if not self._readable.poll(None if timeout is None else timeout * 1000 + 1):
            raise TimeoutError("timed out")

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        if not buffer:
            # Empty at the end of a message, or if over HTTP/2 another thread has sent these bytes;
            # a system call could only lose an error.
            return
        deadline = timeout.deadline if isinstance(timeout, Limit) else None
        if deadline is not None:
            deadline.wrote()
        try:
            sent = self._send(buffer)
            while sent < len(buffer):
                self._wait_to_write(timeout if deadline is None else deadline.least(timeout))
                sent += self._send(memoryview(buffer)[sent:])
                if deadline is not None:
                    deadline.wrote()
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.WriteError(str(error)) from error

    def _wait_to_write(self, timeout: float | None) -> None:
        poll = select.poll()
        poll.register(self._sock, select.POLLOUT)
        if not poll.poll(None if timeout is None else timeout * 1000 + 1):
            raise TimeoutError("timed out")

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Begin TLS; for TLS within TLS, httpcore's own stream takes over."""
        secured = SyncStream(self._sock).start_tls(ssl_context, server_hostname, timeout)
        sock = secured.get_extra_info("socket")
        return secured if sock is self._sock else FailoverStream(sock)


def hang_up(stream: httpcore2.NetworkStream) -> None:
    """Shut a connection down, which wakes the thread that waits for it; from any thread."""
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown, which drops the TLS state under the reading thread.
        socket.socket.shutdown(stream.get_extra_info("socket"), socket.SHUT_RDWR)


def http2_connection(
    origin: httpcore2.Origin, stream: httpcore2.NetworkStream, keepalive_expiry: float | None
) -> httpcore2.HTTP2Connection:
    """Create an HTTP/2 connection over a stream; h2 is an optional package."""
    from .http2 import SharedHTTP2Connection

    return SharedHTTP2Connection(origin, stream, keepalive_expiry)


class Dialer:
    """Dials endpoints and proxies.

    Args:
        resolver: Resolves hosts.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver

    def race(self, race: DialRace, options: DialOptions) -> RaceWinner[FailoverStream]:
        """Dial until one endpoint is ready, including its TLS handshake.

        Raises:
            DialError: If no endpoint could be reached.
            OSError: If this process lacks descriptors or memory.
        """
        won = dial(race, options, self._resolver)
        return RaceWinner(won.member, FailoverStream(won.connection), won.losers)

    def connect(self, place: Place, options: DialOptions) -> FailoverStream:
        """Connect to one host."""
        return FailoverStream(connect(place, options, self._resolver))


def hedged(exchange: Exchange, send: Callable[[Exchange], Outcome]) -> Outcome:
    """Send a request, and a hedge to another endpoint if the answer is late.

    The first good answer wins, and the other request is cancelled.

    Args:
        exchange: The first request; at its ``hedge_at`` the answer is late.
        send: Sends the request and returns the outcome, good or bad.
    """
    hedge = exchange.hedge = Hedge(exchange, send)
    try:
        outcome = hedge.settle(send(exchange))
        exchange.forget_hedge(outcome)
        return outcome
    finally:
        hedge.abandon()


class Hedge:
    """The second request of a hedge, in a thread of its own.

    The first thread waits in ``wait`` for its own answer or for that of the second request. Each
    thread holds one end of a socket pair: the first thread's end becomes readable when the second
    request has an outcome, and the second thread's end when the first end is closed.

    Args:
        exchange: The first request.
        send: Sends the request and returns the outcome, good or bad.
    """

    def __init__(self, exchange: Exchange, send: Callable[[Exchange], Outcome]) -> None:
        self._exchange = exchange
        self._send = send
        self._late_at = exchange.hedge_at
        self._lock = threading.Lock()
        self._rival: Exchange | None = None
        self._bell: socket.socket | None = None
        self._over = threading.Event()
        self._abandoned = False
        self._overtaken = False
        self._outcome: Outcome | None = None

    def wait(self, sock: socket.socket, seconds: float) -> None:
        """Wait until the first request's socket is readable; start the hedge if that is late.

        Raises:
            TimeoutError: After ``seconds``.
            Overtaken: If the second request has a good answer.
        """
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            late = self._late_at - time.monotonic()
            bell = self._bell
            if _is_ready(sock, bell, min(left, max(0.0, late))):
                return
            if bell is not None and self._over.is_set():
                self._overtaken = self._outcome is not None and self._outcome.good
                if self._overtaken:
                    raise Overtaken("another endpoint has answered first")
                self._bell = None
                bell.close()
            elif self._rival is None and self._late_at <= time.monotonic():
                self._start()
        raise TimeoutError("timed out")

    def _start(self) -> None:
        self._late_at = float("inf")
        self._rival = rival = self._exchange.rival()
        if rival is None:
            return
        try:
            self._bell, other = socket.socketpair()
            rival.hedge = _Rival(other)
            thread = threading.Thread(
                # Run in the request's context, which holds the current trace span.
                target=contextvars.copy_context().run,
                args=(self._run, rival, other),
                name="mop-config-hedge",
                daemon=True,
            )
            thread.start()
        except (OSError, RuntimeError, MemoryError) as error:
            # Without descriptors or threads for a hedge, the first request continues alone.
            logger.info("no hedge at %s: %s", rival.member.url, error)
            rival.session.give_back({rival.member.url})
            self._over.set()
            if rival.hedge is not None:
                other.close()

    def _run(self, rival: Exchange, bell: socket.socket) -> None:
        outcome: Outcome | None = self._send(rival)
        with self._lock:
            if not self._abandoned:
                self._outcome, outcome = outcome, None
            self._over.set()
        bell.close()
        _discard(outcome)

    def settle(self, mine: Outcome) -> Outcome:
        """Return the better of the two outcomes, now that the first request has its outcome."""
        if self._rival is None:
            return mine
        if not mine.good and not self._overtaken:
            self._over.wait(self._exchange.least(None))
        with self._lock:
            theirs, self._outcome = self._outcome, None
        if theirs is None:
            return mine
        outcome = settle(self._exchange, None if self._overtaken else mine, theirs)
        _discard(mine if outcome is theirs else theirs)
        return outcome

    def abandon(self) -> None:
        """Cancel the second request in any state."""
        with self._lock:
            self._abandoned = True
            outcome, self._outcome = self._outcome, None
        if self._rival is not None:
            self._rival.call_off()
        if self._bell is not None:
            self._bell.close()
        if outcome is not None:
            _discard(outcome)


class _Rival:
    """Lets the second request of a hedge wait for its answer or its cancellation."""

    def __init__(self, bell: socket.socket) -> None:
        self._bell = bell

    def wait(self, sock: socket.socket, seconds: float) -> None:
        """Wait until the socket is readable.

        Raises:
            TimeoutError: After ``seconds``.
            Overtaken: If the first request has an outcome.
        """
        until = time.monotonic() + seconds
        if not _is_ready(sock, self._bell, seconds):
            if time.monotonic() >= until:
                raise TimeoutError("timed out")
            raise Overtaken("the first endpoint has answered")


def _is_ready(sock: socket.socket, bell: socket.socket | None, seconds: float) -> bool:
    """Wait for a socket, the bell (wake-up socket) or the time-out; return if ``sock`` is ready."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    if bell is not None:
        poll.register(bell, select.POLLIN)
    ready = poll.poll(min(seconds, 1e6) * 1000 + 1)
    return any(descriptor == sock.fileno() for descriptor, _ in ready)


def _discard(outcome: Outcome | None) -> None:
    """Close an answer that is not used."""
    if outcome is not None and outcome.status is not None:
        outcome.result.response.close()
