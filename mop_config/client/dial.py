"""Dialling: TCP and verified TLS to the first of several endpoints that is ready.

One thread does a whole race, with sockets that do not block, and one task a dial in the
asynchronous twin: nothing is left running when it is over. "Ready" includes TLS, since a
network that blocks by name lets TCP through and stalls the handshake.
"""

import contextlib
import math
import selectors
import socket
import ssl
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from ..faults import Fault, fault_of
from ..resolve import Resolver
from .failover import Race
from .member import Member

Ready = TypeVar("Ready")


@dataclass(frozen=True, slots=True)
class DialOptions:
    """How to dial.

    Attributes:
        tls: For endpoints with TLS.
        timeout: Seconds for each dial.
        local_address: Address to dial from, or None.
        socket_options: Arguments of ``setsockopt``, one tuple each.
        until: When the time for all dials is over, in monotonic seconds.
    """

    tls: ssl.SSLContext
    timeout: float
    local_address: str | None = None
    socket_options: tuple[Any, ...] = ()
    until: float = math.inf

    def deadline(self, now: float) -> float:
        """Say when a dial that begins now has to be done, in monotonic seconds."""
        return min(now + self.timeout, self.until)


class DialError(OSError):
    """Every dial of a race failed; the race's ``faults`` tell of each."""


@dataclass(slots=True)
class Won(Generic[Ready]):
    """The result of a race.

    Attributes:
        member: The endpoint that was ready first.
        connection: What stands to it, with TLS where the endpoint has it.
        losers: The others, with what is held against them.
    """

    member: Member
    connection: Ready
    losers: tuple[tuple[Member, Fault], ...]


def dial(race: Race, options: DialOptions, resolver: Resolver) -> Won[socket.socket]:
    """Dial until one endpoint is ready.

    Raises:
        DialError: If none was.
    """
    failure: Exception | None = None
    with _Ring() as ring:
        while True:
            now = time.monotonic()
            while (member := race.start(now)) is not None:
                ring.add(_Dial(ring, member, options, resolver))
            if not ring.dials:
                raise DialError("no endpoint could be reached") from failure
            for done in ring.wait(race.wait(now)):
                if done.error is None:
                    sock = done.take()
                    return Won(done.member, sock, race.won(done.member, time.monotonic()))
                failure = done.error
                race.failed(done.member, fault_of(failure, connecting=True))


class _Ring:
    """The dials that are under way, the selector that they share, and a way to wake it."""

    def __init__(self) -> None:
        self.selector = selectors.DefaultSelector()
        self.dials: list[_Dial] = []
        self._woken, self._wake = socket.socketpair()
        self._woken.setblocking(False)
        self._wake.setblocking(False)
        self.selector.register(self._woken, selectors.EVENT_READ)

    def __enter__(self) -> "_Ring":
        return self

    def __exit__(self, *_: object) -> None:
        for dial in self.dials:
            dial.close()
        self.selector.close()
        self._woken.close()
        self._wake.close()

    def wake(self, _: object = None) -> None:
        """Interrupt a wait, from any thread, also when the ring is gone."""
        with contextlib.suppress(OSError):
            self._wake.send(b"!")

    def add(self, dial: "_Dial") -> None:
        self.dials.append(dial)
        dial.advance()

    def wait(self, seconds: float | None) -> Iterator["_Dial"]:
        """Move the dials on; give those that have come to an end."""
        if not any(dial.done for dial in self.dials):
            first = min(dial.until for dial in self.dials) - time.monotonic()
            timeout = max(0.0, first if seconds is None else min(seconds, first))
            for key, _ in self.selector.select(timeout):
                if key.data is not None:
                    key.data.advance()
                else:
                    self._woken.recv(4096)
            for dial in self.dials:
                dial.check()
        for dial in [dial for dial in self.dials if dial.done]:
            self.dials.remove(dial)
            yield dial


class _Dial:
    """One dial: a generator over a socket that does not block."""

    def __init__(
        self, ring: _Ring, member: Member, options: DialOptions, resolver: Resolver
    ) -> None:
        self.member = member
        self.done = False
        self.error: Exception | None = None
        self._target = member.target
        self._ring = ring
        self._options = options
        self._deadline = self.until = options.deadline(time.monotonic())
        self._names = resolver.resolve(self._target.host)
        self._sock: socket.socket | None = None
        self._steps = self._run()

    def advance(self) -> None:
        """Go on: the socket, or the resolver, has something for us."""
        self._step(lambda: next(self._steps))

    def check(self) -> None:
        """Go on if the resolver is done or the time is over."""
        if self.done:
            return
        if time.monotonic() >= self.until:
            self._step(lambda: self._steps.throw(TimeoutError("timed out")))
        elif self._sock is None and self._names.done():
            self.advance()

    def _step(self, go_on: Any) -> None:
        self._forget()
        try:
            events = go_on()
        except StopIteration:
            self.done = True
        except Exception as error:
            self.done, self.error = True, error
            self.close()
        else:
            if events:
                assert self._sock is not None  # noqa: S101 - events are of a socket
                self._ring.selector.register(self._sock, events, self)

    def _forget(self) -> None:
        if self._sock is not None:
            with contextlib.suppress(KeyError, ValueError):
                self._ring.selector.unregister(self._sock)

    def take(self) -> socket.socket:
        """Hand the ready socket over."""
        sock, self._sock = self._sock, None
        assert sock is not None  # noqa: S101 - done without an error
        sock.setblocking(True)
        return sock

    def close(self) -> None:
        """Give up."""
        self._forget()
        self._steps.close()
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def _run(self) -> Generator[int, None, None]:
        """Yield the events to wait for; 0 while only the resolver is waited for."""
        if not self._names.done():
            self._names.add_done_callback(self._ring.wake)
            while not self._names.done():
                yield 0
        addresses = self._names.result()
        failure: Exception = OSError("the host has no address")
        for index, address in enumerate(addresses):
            now = time.monotonic()
            # An address that swallows packets must leave time for the host's others.
            self.until = now + (self._deadline - now) / (len(addresses) - index)
            try:
                yield from self._connect(address)
                if self._target.server_name is not None:
                    yield from self._secure(self._target.server_name)
                return
            except OSError as error:
                failure = error
                self._forget()
                if self._sock is not None:
                    self._sock.close()
                    self._sock = None
        raise failure

    def _connect(self, address: str) -> Generator[int, None, None]:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        sock = self._sock = socket.socket(family, socket.SOCK_STREAM)
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for option in self._options.socket_options:
            sock.setsockopt(*option)
        if self._options.local_address is not None:
            sock.bind((self._options.local_address, 0))
        with contextlib.suppress(BlockingIOError):
            sock.connect((address, self._target.port))
        yield selectors.EVENT_WRITE
        if code := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            # The constructor picks the subclass that belongs to the code.
            raise OSError(code, "connection failed")

    def _secure(self, server_name: str) -> Generator[int, None, None]:
        assert self._sock is not None  # noqa: S101 - connected just before
        sock = self._options.tls.wrap_socket(
            self._sock, server_hostname=server_name, do_handshake_on_connect=False
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
