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
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .faults import UNREACHABLE_PROXY, Fault, ProxyError, fault_of
from .proxies import address_of, headers_for, open_tunnel
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
#: Shortest wait in seconds between two looks at a running look-up.
LOOK = 0.001


@dataclass(frozen=True, slots=True)
class ServerAddress:
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
    """The common deadline of several network operations, which get it as their time-out.

    httpcore passes time-outs unchanged from a request to the stream. So a stream knows at each step
    to which request the step belongs, even on an HTTP/2 connection that many requests share.

    Args:
        until: The deadline in monotonic seconds.

    Attributes:
        read_limit: Limit of one wait for bytes, in seconds; None for the deadline alone.
        write_limit: Limit of one wait for the send buffer, in seconds; None likewise.
        hedge: The hedge that may interrupt a read, or None.
    """

    read_limit: float | None = None
    write_limit: float | None = None
    hedge: Any = None

    def __init__(self, until: float) -> None:
        self.until = until

    def least(self, timeout: float | None) -> float:
        """Return a time-out in seconds, bounded by the time left until the deadline."""
        left = max(0.0, self.until - time.monotonic())
        return left if timeout is None or timeout > left else timeout

    def check(self) -> None:
        """Raise an exception if the deadline has passed; start the hedge if it is due.

        Raises:
            TimeoutError: If the deadline has passed.
            Exception: Raised by the hedge, to end the read.
        """
        if time.monotonic() >= self.until:
            raise TimeoutError("timed out")
        if self.hedge is not None:
            self.hedge.check()

    def wrote(self, count: int) -> None:
        """Record that a number of bytes of the request are written."""


#: A time-out of httpcore: seconds, the deadline of the request, or None for no limit.
Timeout = float | Deadline | None


@dataclass(frozen=True, slots=True)
class DialOptions:
    """The limits and options of a dial.

    Attributes:
        tls: Context for servers with TLS.
        timeout: Limit of each address in seconds, for TCP and TLS together.
        local_address: Address to dial from, or None for any.
        socket_options: Arguments of ``setsockopt``, one tuple for each call.
        until: End of all dials and their look-ups, in monotonic seconds.
        proxy_for: Returns the proxy of a server, or None.
        host_limit: Limit of the dial of one host with its look-up, in seconds.
    """

    tls: ssl.SSLContext
    timeout: float
    local_address: str | None = None
    socket_options: tuple[Any, ...] = ()
    until: float = math.inf
    proxy_for: Callable[[ServerAddress], Any] = lambda _: None
    host_limit: float = math.inf


def shut_down(sock: socket.socket) -> None:
    """Shut a socket down, which ends the reads and writes of other threads."""
    with contextlib.suppress(OSError):
        # Not SSLSocket.shutdown, which drops the TLS state under a reading thread.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


class Owner:
    """The owner of connections, whose sockets another thread can shut down.

    Attributes:
        aborted: Whether ``abort`` was called.
    """

    def __init__(self) -> None:
        self.aborted = False
        self._sockets: set[socket.socket] = set()

    def abort(self) -> None:
        """End running and later requests at once; takes no lock, so a finalizer may call it."""
        self.aborted = True
        for sock in list(self._sockets):
            shut_down(sock)

    def adopt(self, sock: socket.socket) -> None:
        """Register a socket that ``abort`` shuts down, at once if ``abort`` was called before."""
        self._sockets.add(sock)
        if self.aborted:
            self.abort()

    def release(self, sock: socket.socket) -> None:
        """Unregister a socket, so that ``abort`` no longer shuts it down."""
        self._sockets.discard(sock)


class DialGroup:
    """Running dials and their common selector."""

    def __init__(self) -> None:
        self.selector: Any = selectors.DefaultSelector()
        self.dials: list[HostDial] = []

    def __enter__(self) -> "DialGroup":
        return self

    def __exit__(self, *_: object) -> None:
        for dial in self.dials:
            dial.race.close()
        self.selector.close()

    def pause(self) -> float:
        """Return the longest wait in seconds before the dials are advanced; 0 without a dial."""
        return min((dial.pause() for dial in self.dials), default=0.0)

    def finished(self) -> Iterator["HostDial"]:
        """Advance the dials, and yield those that have finished."""
        for dial in self.dials[:]:
            if next(dial.race, True):
                self.dials.remove(dial)
                yield dial


class HostDial:
    """The dial of one host: its look-up, and a race of the addresses found (RFC 8305).

    Each address is dialled 250 ms after the previous address, or at once after a failure. While a
    look-up is late, the addresses of the last successful look-up are dialled; the addresses of
    the new look-up are added later. Known addresses of the second resolver are dialled at once.
    With a proxy, the host is the proxy, which looks up the server's host.

    Attributes:
        error: The reason why the host cannot be connected to, or None.
        socket: The connected socket, or None.
        race: Continues the dial after an event or a timeout; ends when the dial has finished.
    """

    def __init__(
        self, group: DialGroup, server: ServerAddress, options: DialOptions, resolver: Resolver
    ) -> None:
        self.error: Exception | None = None
        self.socket: Any = None
        self._server, self._options, self._resolver = server, options, resolver
        self._proxy = options.proxy_for(server)
        self._host, self._port = server.host, server.port
        if self._proxy is not None:
            self._host, self._port = address_of(self._proxy)
        self._is_reached = False  # whether TCP to the host stood, so that a proxy was reached
        self._began = self._next_at = time.monotonic()
        self._look_ups = [resolver.resolve(self._host)]
        self._has_all = False  # whether no further address was awaited at the last step
        self._dials: dict[str, tuple[float, Generator[None, None, socket.socket]]] = {}
        self._failures: dict[str, Exception] = {}
        self.race = self._run(group)
        group.dials.append(self)

    def _run(self, group: DialGroup) -> Generator[bool]:
        """Run the dial, and yield False to wait for an event or a timeout."""
        options, second = self._options, self._resolver.second
        limit = min(options.until, self._began + options.host_limit)
        dials, failures = self._dials, self._failures
        try:
            while not self._has_ended(now := time.monotonic()):
                # Before the addresses are read.
                self._has_all = all(look_up.done() for look_up in self._look_ups)
                waiting = [a for a in self._addresses(now) if a not in dials | failures]
                is_over = self._has_all and not dials and not waiting
                if waiting and now >= self._next_at:
                    self._next_at = now + STAGGER
                    until = min(now + options.timeout, limit)
                    dials[waiting[0]] = until, self._dial(group.selector, waiting[0])
                elif second is not None and self._needs_second(now, failures if is_over else {}):
                    self._look_ups.append(second.resolve(self._host))
                elif is_over or now >= limit:
                    self.error = self._error(failures)
                    return
                else:
                    yield False
        finally:
            for _, dial in dials.values():
                dial.close()

    def _has_ended(self, now: float) -> bool:
        """Advance the dials of the addresses; return whether one has ended the dial of the host."""
        for address, (until, dial) in [*self._dials.items()]:
            try:
                next(dial)
                if now >= until:
                    raise TimeoutError("timed out")
            except StopIteration as done:
                del self._dials[address]
                self.socket = done.value
                self._resolver.succeeded(self._host, address)
                return True
            except ProxyError as error:  # no other address of the proxy would help
                self.error = error
                return True
            except (OSError, ValueError) as error:  # not what a signal handler raises
                del self._dials[address]
                dial.close()
                self._failures[address] = error
                self._next_at = now  # the next address may be dialled at once
        return False

    def pause(self) -> float:
        """Return the longest wait in seconds for an event; the end of a look-up is no event."""
        lasted = time.monotonic() - self._began
        return GLANCE if self._has_all else min(GLANCE, max(LOOK, lasted / 4))

    def _addresses(self, now: float) -> list[str]:
        """Return the known addresses in the order of dialling."""
        is_pending = not self._look_ups[0].done() and now < self._began + LATE
        known = self._resolver.second if is_pending else self._resolver
        return self._resolver.in_turn(self._host, known.last(self._host) if known else [])

    def _needs_second(self, now: float, failures: dict[str, Exception]) -> bool:
        """Whether the second resolver must start: the first is late, has failed or has lied."""
        first, *others = self._look_ups
        if others:
            return False
        if not first.done():
            return now >= self._began + SECOND_AFTER
        faults = {fault_of(failure, connecting=True) for failure in failures.values()}
        return first.exception() is not None or Fault.TLS in faults

    def _error(self, failures: dict[str, Exception]) -> Exception:
        """Return why the host cannot be connected to."""
        first, *second = self._look_ups
        known = failures.values()
        # Prefer the more specific failure: "no IPv6" must not hide why IPv4 failed.
        specific = [f for f in known if fault_of(f, connecting=True) is not Fault.UNREACHABLE]
        reasons: list[Any] = [OSError("the host has no address"), *known, *specific]
        if not first.done():
            late = socket.gaierror(socket.EAI_AGAIN, "the host was not looked up in time")
            reasons.append(late)
        elif isinstance(first.exception(), Exception) and not (second and failures):
            reasons.append(first.exception())
        if self._proxy is not None and not self._is_reached:
            reasons.append(ProxyError(f"{UNREACHABLE_PROXY}: {reasons[-1]}"))
        error: Exception = reasons[-1]
        return error

    def _dial(self, selector: Any, address: str) -> Generator[None, None, socket.socket]:
        """Dial one address; yield to wait for an event of the socket, and return the socket.

        Raises:
            OSError: If the address cannot be connected to.
        """
        server, options, proxy = self._server, self._options, self._proxy
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        try:
            sock.setblocking(False)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for option in options.socket_options:
                sock.setsockopt(*option)
            if options.local_address is not None:
                sock.bind((options.local_address, 0))
            with contextlib.suppress(BlockingIOError):
                sock.connect((address, self._port))
            selector.register(sock, selectors.EVENT_WRITE)
            while not _is_connected(sock):
                yield
            self._is_reached = True
            if proxy is not None and headers_for(proxy, server.tls_name) is None:
                selector.modify(sock, selectors.EVENT_READ)
                yield from open_tunnel(sock, proxy, server.host, server.port)
            if server.tls_name is None:
                return sock
            sock = options.tls.wrap_socket(
                sock, server_hostname=server.tls_name, do_handshake_on_connect=False
            )
            while True:
                try:
                    sock.do_handshake()
                    return sock
                except ssl.SSLWantReadError:
                    selector.modify(sock, selectors.EVENT_READ)
                except ssl.SSLWantWriteError:
                    selector.modify(sock, selectors.EVENT_WRITE)
                yield
        except BaseException:
            with contextlib.suppress(KeyError):
                selector.unregister(sock)
            sock.close()
            raise


def _is_connected(sock: socket.socket) -> bool:
    """Return whether the TCP connection of a socket stands.

    Raises:
        OSError: If the address cannot be connected to.
    """
    if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        # ``OSError(code, …)`` is of the code's subclass, such as ConnectionRefusedError.
        raise OSError(code, os.strerror(code))
    with contextlib.suppress(OSError):
        sock.getpeername()
        return True
    return False


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
