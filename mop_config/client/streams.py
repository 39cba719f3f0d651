"""What lies below httpcore in the synchronous driver: dialling, and waiting for an answer.

A request that waits too long for its first byte is overtaken from here: the stream on
which its thread waits sees that a rival has its answer.
"""

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

import httpcore2

from ..faults import Fault
from ..resolve import Resolver
from .core import Call
from .dial import DialError, dial
from .failover import Outcome, Race
from .options import TransportOptions
from .pool import Member
from .route import ROUTE, Moved, Route


class Overtaken(Exception):  # noqa: N818 - no error: another endpoint has answered
    """A rival request has its answer while this one waits for its first byte."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.member.url)
        self.outcome = outcome


class Plan(Route):
    """A route that may get a rival.

    Args:
        call: The request's way over the pool.
        member: The endpoint that it goes to.
        hedge_delay: Seconds to wait for a first byte before a rival is asked.
        send: Sends the same request to another endpoint, for a rival; None forbids that.
        race: Whether a dial may be raced against other endpoints.
    """

    __slots__ = ("hedge_delay", "rival", "send", "stream")

    def __init__(
        self,
        call: Call,
        member: Member,
        hedge_delay: float,
        send: Callable[["Plan"], Outcome] | None,
        *,
        race: bool,
    ) -> None:
        super().__init__(call, member, race=race)
        self.hedge_delay = hedge_delay
        self.send = send
        self.rival: Rival | None = None
        self.stream: Stream | None = None

    def summon(self) -> "Rival | None":
        """Ask another endpoint besides, once."""
        send, self.send = self.send, None
        if send is None:
            return None
        member = self.call.rival(time.monotonic())
        if member is None:
            return None
        self.rival = Rival(Plan(self.call, member, self.hedge_delay, None, race=False), send)
        return self.rival

    def finish(self) -> None:
        """Let go of what was not needed in the end."""
        if self.deposit is not None:
            self.deposit.close()
        if self.rival is not None:
            self.rival.abandon()


class Rival:
    """The same request, sent to another endpoint in a thread of its own."""

    def __init__(self, plan: Plan, send: Callable[[Plan], Outcome]) -> None:
        self._plan = plan
        self._send = send
        self._lock = threading.Lock()
        self._abandoned = False
        self._over = threading.Event()
        self.outcome: Outcome | None = None
        self.bell, self._ring = socket.socketpair()  # readable when there is an outcome
        threading.Thread(target=self._run, name="mop-config-rival", daemon=True).start()

    def _run(self) -> None:
        outcome = self._send(self._plan)
        with self._lock:
            if self._abandoned:
                _discard(outcome)
            else:
                self.outcome = outcome
                self._ring.send(b"!")
            self._over.set()

    def take(self) -> Outcome | None:
        """Take the outcome, if there is one."""
        with self._lock:
            outcome, self.outcome = self.outcome, None
            return outcome

    def wait(self, seconds: float) -> Outcome | None:
        """Wait for the outcome, and take it."""
        self._over.wait(seconds)
        return self.take()

    def abandon(self) -> None:
        """Let go of it, whatever it is doing."""
        with self._lock:
            self._abandoned = True
            outcome, self.outcome = self.outcome, None
            self.bell.close()
            self._ring.close()
        if outcome is not None:
            _discard(outcome)
        stream = self._plan.stream
        if stream is not None and not self._over.is_set():
            stream.abort()


def _discard(outcome: Outcome) -> None:
    if outcome.status is not None:
        outcome.result.response.close()


class Stream(httpcore2.NetworkStream):
    """A connected socket, with TLS already where the endpoint has it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        negotiated = isinstance(sock, ssl.SSLSocket) and sock.selected_alpn_protocol()
        # Over HTTP/2 one read serves many requests: none of them may give the others up.
        self._exclusive = negotiated != "h2"

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, or wait for it."""
        plan = ROUTE.get()
        try:
            if isinstance(plan, Plan) and plan.send is not None and self._exclusive:
                return self._read_against_rival(max_bytes, timeout, plan)
            self._sock.settimeout(timeout)
            return self._sock.recv(max_bytes)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.ReadError(str(error)) from error

    def _read_against_rival(self, max_bytes: int, timeout: float | None, plan: Plan) -> bytes:
        patience = plan.hedge_delay if timeout is None else min(plan.hedge_delay, timeout)
        deadline = None if timeout is None else time.monotonic() + timeout
        self._sock.settimeout(patience)
        try:
            data = self._sock.recv(max_bytes)
        except TimeoutError:
            if patience == timeout:
                raise
        else:
            plan.send = None  # the first byte is here: no rival any more
            return data
        rival = plan.summon()
        try:
            return self._race(max_bytes, deadline, plan, rival)
        finally:
            self._sock.settimeout(timeout)

    def _race(
        self, max_bytes: int, deadline: float | None, plan: Plan, rival: Rival | None
    ) -> bytes:
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        if rival is not None:
            poll.register(rival.bell, select.POLLIN)
        self._sock.setblocking(False)
        while True:
            left = None if deadline is None else deadline - time.monotonic()
            if left is not None and left <= 0:
                raise TimeoutError("timed out")
            ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000 + 1)}
            if self._sock.fileno() in ready:
                # With TLS, readable may mean a message of TLS itself.
                with contextlib.suppress(BlockingIOError, ssl.SSLWantReadError):
                    return self._sock.recv(max_bytes)
            elif rival is not None and ready:
                poll.unregister(rival.bell)
                self._look_at(rival, plan)
                rival = None

    def _look_at(self, rival: Rival, plan: Plan) -> None:
        """Give way to the rival if it has a good answer, else go on waiting."""
        outcome = rival.take()
        if outcome is None:
            return
        if outcome.good:
            raise Overtaken(outcome)
        plan.losers = (*plan.losers, (outcome.member, outcome.fault or Fault.BAD_STATUS))
        _discard(outcome)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write everything."""
        try:
            self._sock.settimeout(timeout)
            self._sock.sendall(buffer)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except OSError as error:
            raise httpcore2.WriteError(str(error)) from error

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()

    def abort(self) -> None:
        """Wake whoever waits for this stream in another thread."""
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "Stream":
        """Do nothing: the dial has done it, under the endpoint's own name."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """Give what httpcore asks for."""
        match info:
            case "ssl_object":
                return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "socket":
                return self._sock
            case "is_readable":
                return self._sock.fileno() < 0 or _is_readable(self._sock)
        return None


def _is_readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class Backend(httpcore2.NetworkBackend):
    """Dials by the plan of the request that needs a connection.

    Args:
        options: How to connect.
        resolver: Looks names up.
        race_delay: Seconds until another endpoint is dialled beside a slow one.
    """

    def __init__(self, options: TransportOptions, resolver: Resolver, race_delay: float) -> None:
        self._options = options
        self._resolver = resolver
        self._race_delay = race_delay

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> Stream:
        """Connect to the plan's endpoint, or to one that is ready before it.

        Raises:
            Moved: With the connection, where another endpoint was ready first.
            httpcore2.ConnectError: If none was.
        """
        plan = cast(Plan, ROUTE.get())
        plan.dialled = True
        stream = Stream(plan.take_deposit() or self._race(plan, timeout))
        plan.ready = True
        plan.stream = stream
        return stream

    def _race(self, plan: Plan, timeout: float | None) -> socket.socket:
        race = Race(plan.member, plan.another, self._race_delay)
        options = self._options.for_dial(timeout)
        try:
            won = dial(race, options, self._resolver)
        except DialError as error:
            plan.unreachable(race.faults)
            raise httpcore2.ConnectError(str(plan.fault)) from error
        if won.member is not plan.member:
            raise Moved(won)
        plan.losers = won.losers
        return won.connection
