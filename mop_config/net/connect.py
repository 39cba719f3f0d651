"""Connect to a host: TCP and verified TLS to its addresses, of which the first ready one wins.

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
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from .resolver import Addresses, Resolver


class Place(NamedTuple):
    """The server to connect to.

    Attributes:
        host: A host name or an IP address, in brackets if IPv6.
        port: The port.
        tls_name: The name that the certificate must be for, or None without TLS.
    """

    host: str
    port: int
    tls_name: str | None


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

    def deadline(self, now: float) -> float:
        """Return the end of the dial of one address that begins now, in monotonic seconds."""
        return min(now + self.timeout, self.until)


class Owner(Protocol):
    """The owner of connections: holds their sockets, so that another thread can abort them."""

    def adopt(self, sock: socket.socket) -> None:
        """Register a socket that an abort shuts down; raise ``OSError`` after an abort."""

    def release(self, sock: socket.socket) -> None:
        """Unregister a socket, so that an abort no longer shuts it down."""


def connect(
    place: Place, options: DialOptions, resolver: Resolver, owner: Owner | None = None
) -> socket.socket:
    """Connect to a server; the first of its addresses that is ready wins.

    Args:
        place: The server.
        options: The limits and options of each dial.
        resolver: Resolves the host.
        owner: Object that may abort the connect from another thread; None for no owner.

    Raises:
        OSError: If no address was ready in time; a ``socket.gaierror`` if the host has no address.
    """
    with Ring() as ring:
        try:
            if owner is not None:
                owner.adopt(ring.waker)
            ring.add(HostDial(ring, place, options, resolver))
            while True:
                for dial in ring.wait(math.inf):
                    if dial.error is not None:
                        raise dial.error
                    return dial.take()
        finally:
            if owner is not None:
                owner.release(ring.waker)


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

    def pause(self, seconds: float) -> float:
        """Return the seconds to wait for the selector until the next timeout of a dial.

        Args:
            seconds: The longest wait; infinity for no limit.
        """
        if any(dial.done for dial in self.dials):
            return 0.0
        now = time.monotonic()
        first = min(dial.wakes_at(now) for dial in self.dials) - now
        return max(0.0, min(seconds, first))

    def wait(self, seconds: float) -> Iterator["HostDial"]:
        """Advance the dials for at most ``seconds``; return the finished dials.

        Raises:
            ConnectionAbortedError: If the waker was shut down.
        """
        seconds = self.pause(seconds)
        for key, _ in self.selector.select(None if seconds == math.inf else seconds):
            if key.data is not None:
                key.data.advance()
            elif not self._woken.recv(4096):
                raise ConnectionAbortedError("called off")
        for dial in self.dials:
            dial.advance()
        for dial in [dial for dial in self.dials if dial.done]:
            self.dials.remove(dial)
            yield dial


class HostDial:
    """The dial of one host: a look-up, and a race of the addresses found.

    Attributes:
        error: The reason why the host cannot be connected to, or None.
    """

    def __init__(self, ring: Ring, place: Place, options: DialOptions, resolver: Resolver) -> None:
        self.error: Exception | None = None
        self._ring = ring
        self._place = place
        self._options = options
        self._addresses = Addresses(resolver, place.host, time.monotonic(), ring.wake)
        self._dials: list[_Dial] = []
        self._sock: socket.socket | None = None

    @property
    def done(self) -> bool:
        """Whether the dial has succeeded or failed."""
        return self._sock is not None or self.error is not None

    def advance(self) -> None:
        """Continue after an event of a socket or of the resolver, or after a timeout."""
        now = time.monotonic()
        self._gather(now)
        while not self.done and (address := self._addresses.start(now)) is not None:
            self._dials.append(_Dial(self._ring, address, self._place, self._options))
            self._gather(now)
        if self.done:
            return
        self.error = self._addresses.failure(now)
        if self.error is None and now >= self._options.until:
            self.error = self._addresses.out_of_time()

    def _gather(self, now: float) -> None:
        for dial in self._dials[:]:
            dial.check(now)
            if not dial.done:
                continue
            self._dials.remove(dial)
            if dial.error is not None:
                self._addresses.failed(dial.error)
            elif self._sock is None:
                self._sock = dial.take()
                self._addresses.succeeded(dial.address)
            else:
                dial.close()

    def wakes_at(self, now: float) -> float:
        """Return when ``advance`` is due at the latest, in monotonic seconds."""
        ends = (dial.until for dial in self._dials)
        return min(self._options.until, now + self._addresses.wait(now), *ends)

    def take(self) -> socket.socket:
        """Return the connected socket, and close the other dials."""
        sock, self._sock = self._sock, None
        self.close()
        assert sock is not None  # noqa: S101 - done without an error
        sock.setblocking(True)
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
        self.done = False
        self.error: Exception | None = None
        self.until = options.deadline(time.monotonic())
        self._ring = ring
        self._place = place
        self._options = options
        self._sock: socket.socket | None = None
        self._steps = self._run()
        self.advance()

    def advance(self) -> None:
        """Continue after an event of the socket."""
        self._step(lambda: next(self._steps))

    def check(self, now: float) -> None:
        """End the dial if its deadline has passed."""
        if not self.done and now >= self.until:
            self._step(lambda: self._steps.throw(TimeoutError("timed out")))

    def _step(self, go_on: Callable[[], int]) -> None:
        self._forget()
        try:
            events = go_on()
        except StopIteration:
            self.done = True
        except Exception as error:
            self.done, self.error = True, error
            self.close()
        else:
            assert self._sock is not None  # noqa: S101 - only a socket has events
            self._ring.selector.register(self._sock, events, self)

    def _forget(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._ring.selector.unregister(self._sock)

    def take(self) -> socket.socket | None:
        """Return the connected socket."""
        sock, self._sock = self._sock, None
        return sock

    def close(self) -> None:
        """End the dial, and close its sockets."""
        self._forget()
        self._steps.close()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _run(self) -> Generator[int, None, None]:
        """Run the dial, and yield the selector events to wait for."""
        yield from self._connect()
        if self._place.tls_name is not None:
            yield from self._secure(self._place.tls_name)

    def _connect(self) -> Generator[int, None, None]:
        family = socket.AF_INET6 if ":" in self.address else socket.AF_INET
        sock = self._sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in self._options.socket_options:
            sock.setsockopt(*option)
        if self._options.local_address is not None:
            sock.bind((self._options.local_address, 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect((self.address, self._place.port))
        yield selectors.EVENT_WRITE
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # ``OSError(code, …)`` creates the subclass of the code, such as ConnectionRefusedError.
            raise OSError(code, os.strerror(code))

    def _secure(self, tls_name: str) -> Generator[int, None, None]:
        assert self._sock is not None  # noqa: S101 - connected just before
        sock = self._options.tls.wrap_socket(
            self._sock, server_hostname=tls_name, do_handshake_on_connect=False
        )
        self._sock = sock
        while True:
            try:
                sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                yield selectors.EVENT_READ
            except ssl.SSLWantWriteError:
                yield selectors.EVENT_WRITE
