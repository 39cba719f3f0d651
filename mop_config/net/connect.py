"""Dial a host: TCP and verified TLS to its addresses, of which the first ready one wins.

The addresses of one host race as in RFC 8305 (Happy Eyeballs), in one thread with non-blocking
sockets, so no dial is left running after the race. "Ready" includes TLS, because a network that
blocks by name lets TCP through and stalls the TLS handshake.
"""

import contextlib
import math
import os
import selectors
import socket
import ssl
import time
from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Protocol, Self

from .faults import Fault, fault_of
from .resolver import Resolver

#: Seconds that stand for no time-out: eleven days, within the range of every clock and poll.
FOREVER = 1e6
#: Seconds until the next address is dialled in parallel (RFC 8305, section 5).
STAGGER = 0.25
#: Seconds that a look-up may take before the addresses of the last look-up are dialled; RFC 8305,
#: section 3, waits as long for the other address family.
LATE = 0.05
#: Seconds until the second resolver starts beside the first.
SECOND_AFTER = 0.25
#: Longest wait in seconds between two looks at running dials, for timeouts and the next dials.
GLANCE = 0.02
#: Faults at the false addresses of a censoring resolver, such as certificates for other names.
_LIES = frozenset({Fault.TLS, Fault.UNREACHABLE})


_Steps = Generator[tuple[socket.socket, int], None, None]


@dataclass(frozen=True, slots=True)
class Place:
    """The server to connect to.

    Attributes:
        host: A host name or an IP address, in brackets if IPv6.
        port: The port.
        tls_name: The name that the certificate must be for, or None without TLS.
    """

    host: str
    port: int
    tls_name: str | None


class Deadline:
    """The common deadline of several network operations.

    Args:
        until: The deadline in monotonic seconds.

    Attributes:
        hedge: The hedge that may interrupt a read, or None.
    """

    hedge: Any = None

    def __init__(self, until: float) -> None:
        self.until = until

    def least(self, timeout: float | None) -> float:
        """Return a time-out in seconds, bounded by the time left until the deadline."""
        left = max(0.0, self.until - time.monotonic())
        return left if timeout is None or timeout > left else timeout

    def wrote(self) -> None:
        """Record that a part of the request is written."""


class Limit(float):
    """A time-out in seconds that ends at a deadline at the latest.

    httpcore passes time-outs unchanged from a request to the stream. So a stream knows at each step
    to which request the step belongs, even on an HTTP/2 connection that many requests share.
    """

    deadline: Deadline

    @classmethod
    def of(cls, seconds: float, deadline: Deadline) -> Self:
        """Create a time-out."""
        limit = cls(seconds)
        limit.deadline = deadline
        return limit


@dataclass(frozen=True, slots=True)
class DialOptions:
    """The limits and options of a dial.

    Attributes:
        tls: Context for servers with TLS.
        timeout: Limit of each address in seconds, for TCP and TLS together.
        local_address: Address to dial from, or None for any.
        socket_options: Arguments of ``setsockopt``, one tuple for each call.
        until: End of all dials and their look-ups, in monotonic seconds.
    """

    tls: ssl.SSLContext
    timeout: float
    local_address: str | None = None
    socket_options: tuple[Any, ...] = ()
    until: float = math.inf


class Owner(Protocol):
    """The owner of connections: holds their sockets, so that another thread can abort them."""

    def adopt(self, sock: socket.socket) -> None:
        """Register a socket that an abort shuts down; raise ``OSError`` after an abort."""

    def release(self, sock: socket.socket) -> None:
        """Unregister a socket, so that an abort no longer shuts it down."""


class Ring:
    """Running dials, their common selector, and a socket pair that wakes the selector."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.dials: list[HostDial] = []
        self._woken, self.waker = socket.socketpair()
        self._woken.setblocking(False)
        self.waker.setblocking(False)
        self.selector.register(self._woken, selectors.EVENT_READ)

    def __enter__(self) -> "Ring":
        return self

    def __exit__(self, *_: object) -> None:
        for dial in self.dials:
            dial.close()
        self.selector.close()
        self._woken.close()
        self.waker.close()

    def fileno(self) -> int:
        """Return the selector's descriptor, readable when one of its sockets is ready."""
        return self.selector.fileno()

    def wake(self, _: object = None) -> None:
        """Interrupt a wait, from any thread, even after the ring was closed."""
        with contextlib.suppress(OSError):
            self.waker.send(b"!")

    def add(self, dial: "HostDial") -> None:
        """Add a dial, and start it."""
        self.dials.append(dial)
        dial.advance()

    def finished(self) -> Iterator["HostDial"]:
        """Advance the dials, and yield those that have finished.

        Raises:
            ConnectionAbortedError: If the waker was shut down.
        """
        for key, _ in self.selector.select(0.0):
            if key.data is not None:
                key.data.advance()
            elif not self._woken.recv(4096):
                raise ConnectionAbortedError("called off")
        for dial in self.dials[:]:
            dial.advance()
            if dial.is_done:
                self.dials.remove(dial)
                yield dial


class HostDial:
    """The dial of one host: its look-up, and a race of the addresses found (RFC 8305).

    Each address is dialled 250 ms after the previous address, or at once after a failure. While a
    look-up is late, the addresses of the last successful look-up are dialled; the addresses of
    the new look-up are added later.

    Attributes:
        error: The reason why the host cannot be connected to, or None.
    """

    def __init__(self, ring: Ring, place: Place, options: DialOptions, resolver: Resolver) -> None:
        now = time.monotonic()
        self.error: Exception | None = None
        self._ring = ring
        self._place = place
        self._options = options
        self._resolver = resolver
        self._sock: socket.socket | None = None
        self._dials: list[_Dial] = []
        self._tried: list[str] = []
        self._faults: set[Fault] = set()
        self._failure: Exception | None = None
        self._last = resolver.last(place.host)
        self._late_at = now + LATE
        self._next_at = now
        self._second: Future[list[str]] | None = None
        self._second_at = math.inf if resolver.second is None else now + SECOND_AFTER
        self._first = resolver.resolve(place.host)
        if not self._first.done():
            self._first.add_done_callback(ring.wake)

    @property
    def is_done(self) -> bool:
        """Whether the dial has succeeded or failed."""
        return self._sock is not None or self.error is not None

    def advance(self) -> None:
        """Continue after an event of a socket or of the resolver, or after a timeout."""
        now = time.monotonic()
        self._gather(now)
        while not self.is_done and now >= self._next_at and (left := self._waiting(now)):
            self._tried.append(left[0])
            self._next_at = now + STAGGER
            self._dials.append(_Dial(self._ring, left[0], self._place, self._options))
            self._gather(now)
        if not self.is_done:
            if self._needs_second(now) and self._resolver.second is not None:
                self._second = self._resolver.second.resolve(self._place.host)
                self._second.add_done_callback(self._ring.wake)
            self.error = self._error(now)

    def _gather(self, now: float) -> None:
        """Take the results of the dials that have ended."""
        for dial in self._dials[:]:
            if not dial.is_done and now >= dial.until:
                dial.advance(TimeoutError("timed out"))
            if not dial.is_done:
                continue
            self._dials.remove(dial)
            if dial.error is not None:
                self._next_at = -math.inf  # the next address may be dialled at once
                fault = fault_of(dial.error, connecting=True)
                self._faults.add(fault)
                # Keep the more specific failure: "no IPv6" must not hide why IPv4 failed.
                if self._failure is None or fault is not Fault.UNREACHABLE:
                    self._failure = dial.error
            elif self._sock is None:
                self._sock, dial.sock = dial.sock, None
                self._resolver.succeeded(self._place.host, dial.address)
            else:
                dial.close()

    def _waiting(self, now: float) -> list[str]:
        """Return the known addresses that are not dialled yet, in the order of dialling."""
        if self._first.done():
            found = self._last if self._first.exception() else self._first.result()
        else:
            found = self._last if now >= self._late_at else []
        if self._second is not None and self._second.done() and not self._second.exception():
            found = [*found, *self._second.result()]
        host = self._place.host
        found = [*found, *self._resolver.proven(host)]
        return [a for a in self._resolver.in_turn(host, found) if a not in self._tried]

    def _needs_second(self, now: float) -> bool:
        if self._second is not None or self._second_at == math.inf:
            return False
        if not self._first.done():
            return now >= self._second_at
        if self._first.exception() is not None:
            return True
        over = not self._dials and not self._waiting(now)
        return over and Fault.TLS in self._faults and self._faults <= _LIES

    def _error(self, now: float) -> Exception | None:
        """Return why the host cannot be connected to; None while an address may still be ready."""
        second_runs = self._second is not None and not self._second.done()
        if self._first.done() and not (self._dials or second_runs or self._waiting(now)):
            error = self._first.exception()
            if isinstance(error, Exception) and (self._second is None or self._failure is None):
                return error
            return self._failure or OSError("the host has no address")
        if now < self._options.until:
            return None
        if self._first.done():
            return self._failure or TimeoutError("timed out")
        return socket.gaierror(socket.EAI_AGAIN, "the host was not looked up in time")

    def take(self) -> socket.socket:
        """Return the connected socket, and close the other dials."""
        sock, self._sock = self._sock, None
        self.close()
        assert sock is not None  # noqa: S101 - done without an error
        return sock

    def close(self) -> None:
        """End the dial, and close its sockets."""
        for dial in self._dials:
            dial.close()
        if self._sock is not None:
            self._sock.close()
            self._sock = None


class _Dial:
    """The dial of one address: a generator over a non-blocking socket."""

    def __init__(self, ring: Ring, address: str, place: Place, options: DialOptions) -> None:
        self.address = address
        self.is_done = False
        self.error: Exception | None = None
        self.until = min(time.monotonic() + options.timeout, options.until)
        self._selector = ring.selector
        self.sock: socket.socket | None = None
        self._steps = self._run(address, place, options)
        self.advance()

    def advance(self, error: Exception | None = None) -> None:
        """Continue after an event of the socket, or end the dial by an exception."""
        self._forget()
        try:
            sock, events = next(self._steps) if error is None else self._steps.throw(error)
            self._selector.register(sock, events, self)
        except StopIteration:
            self.is_done = True
        except Exception as failure:
            self.is_done, self.error = True, failure
            self.close()

    def _forget(self) -> None:
        if self.sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._selector.unregister(self.sock)

    def close(self) -> None:
        """End the dial, and close its sockets."""
        self._forget()
        self._steps.close()
        if self.sock is not None:
            self.sock.close()
            self.sock = None

    def _run(self, address: str, place: Place, options: DialOptions) -> _Steps:
        """Run the dial, and yield the sockets and selector events to wait for."""
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self.sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in options.socket_options:
            sock.setsockopt(*option)
        if options.local_address is not None:
            sock.bind((options.local_address, 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect((address, place.port))
        yield sock, selectors.EVENT_WRITE
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # ``OSError(code, …)`` creates the subclass of the code, such as ConnectionRefusedError.
            raise OSError(code, os.strerror(code))
        if place.tls_name is None:
            return
        secured = self.sock = options.tls.wrap_socket(
            sock, server_hostname=place.tls_name, do_handshake_on_connect=False
        )
        while True:
            try:
                secured.do_handshake()
                return
            except ssl.SSLWantReadError:
                yield secured, selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                yield secured, selectors.EVENT_WRITE


def offering(context: ssl.SSLContext, protocols: Sequence[str]) -> ssl.SSLContext:
    """Return a context that verifies like the user's context and offers our ALPN protocols.

    ALPN is a property of a context, and the user's context may be in use elsewhere. So
    connections start with our own context and switch to the user's context before the handshake.
    OpenSSL then takes authorities, ciphers and the client certificate from the user's context.

    Args:
        context: The user's context. Only a context of a subclass is changed itself, because its
            own verification cannot be borrowed.
        protocols: ALPN names, the preferred name first.
    """
    lender = getattr(context.sslobject_class, "lender", context)
    if type(lender) is not ssl.SSLContext:
        lender.set_alpn_protocols(list(protocols))
        return lender

    class Socket(ssl.SSLSocket):
        def do_handshake(self, block: bool = False) -> None:
            self.context = lender
            super().do_handshake(block)

    class Object(ssl.SSLObject):
        def do_handshake(self) -> None:
            self.context = lender
            super().do_handshake()

    Object.lender = lender  # type: ignore[attr-defined]
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ours.check_hostname = False  # else the verify mode could not be changed
    for name in (
        "options",
        "verify_flags",
        "verify_mode",
        "check_hostname",
        "post_handshake_auth",
        "minimum_version",
        "maximum_version",
        "hostname_checks_common_name",
    ):
        setattr(ours, name, getattr(lender, name))
    ours.sslsocket_class, ours.sslobject_class = Socket, Object
    ours.set_alpn_protocols(list(protocols))
    return ours
