"""What lies below httpcore in the synchronous driver: dialling, and waiting for an answer.

A request that waits too long for its first byte is overtaken from here: the thread that
waits for its stream sees that a rival has its answer.
"""

import contextlib
import logging
import select
import socket
import ssl
import threading
import time
import weakref
from collections.abc import Callable, Iterable
from typing import Any, cast

import httpcore2

from ....net.faults import Fault
from ....net.resolver import Resolver
from ...pool.failover import DialRace, Outcome
from ...pool.member import PoolMember
from ...pool.session import FailoverSession
from ..attempt import ROUTE, Moved, Route
from ..dial import DialError, dial
from ..options import TransportOptions
from ..outcome import beaten, connect_message

logger = logging.getLogger(__name__)

_WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
_WANT_WRITE = (BlockingIOError, ssl.SSLWantWriteError)


# Neither is an Exception: over HTTP/2 httpcore takes those for the end of a connection,
# which other requests may be using.
class Overtaken(BaseException):
    """A rival request has its answer while this one waits for its first byte."""

    def __init__(self, outcome: Outcome) -> None:
        super().__init__(outcome.member.url)
        self.outcome = outcome


class Abandoned(BaseException):
    """Nobody waits for this rival any more."""


class OpenStreams:
    """The open streams of one client, which its end ends."""

    def __init__(self) -> None:
        self.closed = False
        self._lock = threading.Lock()
        self._streams: weakref.WeakSet[FailoverStream] = weakref.WeakSet()

    def adopt(self, stream: "FailoverStream") -> None:
        """Make a stream one that ``close`` ends.

        Raises:
            httpcore2.ConnectError: If the client is closed.
        """
        with self._lock:
            self._streams.add(stream)
        if self.closed:
            stream.close()
            raise httpcore2.ConnectError("the client is closed")

    def close(self) -> None:
        """End all streams; whoever waits for one gets an error at once."""
        self.closed = True
        with self._lock:
            streams = list(self._streams)
        for stream in streams:
            stream.hang_up()


class ConnectPlan(Route):
    """A route that may get a rival, or is one.

    Args:
        call: The request's way over the pool.
        member: The endpoint that it goes to.
        until: When the request's time is over, in monotonic seconds.
        send: Sends the same request to another endpoint, for a rival; None forbids that.
        race: Whether a dial may be raced against other endpoints.

    Attributes:
        under_way: Whether the request goes out.
        rival: The rival, while it is of interest.
        lines: The open streams of the client.
        asker: For a rival: readable when nobody waits for it any more.
    """

    under_way = False
    rival: "Hedge | None" = None
    asker: socket.socket | None = None
    lines: OpenStreams

    def __init__(
        self,
        call: FailoverSession,
        member: PoolMember,
        until: float,
        send: "Callable[[ConnectPlan], Outcome] | None",
        *,
        race: bool,
    ) -> None:
        super().__init__(call, member, until, race=race)
        self.send = send

    def go(self) -> None:
        """Take note that the request goes out now.

        Raises:
            Abandoned: If nobody waits for it any more.
        """
        self.under_way = True
        if self.deposit is not None:
            # A kept connection takes the request: the server may be waiting on the other.
            self.take_deposit().close()
        if self.asker is not None and _is_readable(self.asker):
            raise Abandoned

    def summon(self) -> None:
        """Ask another endpoint besides, once."""
        send, self.send = self.send, None
        self.forget_queues()
        member = self.call.hedge_candidate(time.monotonic())
        if member is not None and send is not None:
            plan = ConnectPlan(self.call, member, self.until, None, race=False)
            plan.lines = self.lines
            try:
                self.rival = Hedge(plan, send)
            except (OSError, RuntimeError, MemoryError) as error:
                # An extra: without descriptors or threads for it, the request goes on alone.
                logger.info("no hedge at %s: %s", member.url, error)
                self.call.give_back({member.url})

    def finish(self) -> None:
        """Let go of what was not needed in the end."""
        if self.deposit is not None:
            self.deposit.close()
        if self.rival is not None:
            self.rival.abandon()


class Hedge:
    """The same request, sent to another endpoint in a thread of its own."""

    def __init__(self, plan: ConnectPlan, send: Callable[[ConnectPlan], Outcome]) -> None:
        self._plan = plan
        self._send = send
        self._lock = threading.Lock()
        self._abandoned = False
        self._over = threading.Event()
        self._outcome: Outcome | None = None
        #: Readable when there is an outcome; closing it calls the rival off.
        self.bell, plan.asker = socket.socketpair()
        try:
            threading.Thread(target=self._run, name="mop-config-rival", daemon=True).start()
        except BaseException:
            self.bell.close()
            plan.asker.close()
            raise

    def _run(self) -> None:
        asker = cast(socket.socket, self._plan.asker)
        try:
            with asker, contextlib.suppress(Abandoned):
                self._settle(self._send(self._plan), asker)
        finally:
            self._over.set()

    def _settle(self, outcome: Outcome, asker: socket.socket) -> None:
        with self._lock:
            if not self._abandoned:
                self._outcome = outcome
                asker.send(b"!")
                return
        discard(outcome)

    def take(self) -> Outcome | None:
        """Take the outcome, if there is one."""
        with self._lock:
            outcome, self._outcome = self._outcome, None
            return outcome

    def wait(self, seconds: float) -> Outcome | None:
        """Wait for the outcome, and take it."""
        self._over.wait(max(0.0, seconds))
        return self.take()

    def abandon(self) -> None:
        """Let go of it, whatever it is doing."""
        with self._lock:
            self._abandoned = True
            outcome, self._outcome = self._outcome, None
            self.bell.close()
        if outcome is not None:
            discard(outcome)


def discard(outcome: Outcome) -> None:
    """Let go of an answer that nobody wants."""
    if outcome.status is not None:
        outcome.result.response.close()


class FailoverStream(httpcore2.NetworkStream):
    """A connected socket, with TLS already where the endpoint has it.

    The socket does not block: httpcore's own streams pay a call to the system for each
    change of a time-out.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        if (plan := ROUTE.get()) is not None:
            plan.lines.adopt(self)

    def hang_up(self) -> None:
        """End the connection for whoever waits for it, from any thread."""
        with contextlib.suppress(OSError):
            # Not SSLSocket's own, which takes the TLS state away from whoever reads.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, or wait for it."""
        plan: ConnectPlan | None = ROUTE.get()
        try:
            while True:
                if self._tls is None or not self._tls.pending():
                    if plan is None:
                        self._wait(timeout)
                    else:
                        self._wait_by(plan, timeout)
                try:
                    return self._sock.recv(max_bytes)
                except _WANT_READ:
                    continue  # with TLS, readable may mean a message of TLS itself
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.ReadError(str(error)) from error

    def _wait(self, timeout: float | None) -> None:
        if not self._readable.poll(None if timeout is None else timeout * 1000 + 1):
            raise TimeoutError("timed out")

    def _wait_by(self, plan: ConnectPlan, timeout: float | None) -> None:
        """Wait for the first byte of an answer, or for a rival's."""
        now = time.monotonic()
        until = plan.until if timeout is None else min(plan.until, now + timeout)
        while True:
            if plan.send is not None and plan.hedge_at < until:
                if self._readable.poll(max(0.0, plan.hedge_at - now) * 1000 + 1):
                    return None
                plan.summon()
            elif plan.rival is None and plan.asker is None:
                return self._wait(max(0.0, until - now))
            elif self._is_next(plan, until - now):
                return None
            now = time.monotonic()

    def _is_next(self, plan: ConnectPlan, seconds: float) -> bool:
        """Wait for the stream and for the other thread; tell whether the stream was first."""
        poll = select.poll()
        poll.register(self._sock, select.POLLIN)
        other = plan.asker if plan.rival is None else plan.rival.bell
        assert other is not None  # noqa: S101 - the caller has looked
        poll.register(other, select.POLLIN)
        ready = {descriptor for descriptor, _ in poll.poll(max(0.0, seconds) * 1000 + 1)}
        if not ready:
            raise TimeoutError("timed out")
        if self._sock.fileno() in ready:
            return True
        if plan.rival is None:
            raise Abandoned
        self._look_at(plan.rival, plan)
        return False

    def _look_at(self, rival: Hedge, plan: ConnectPlan) -> None:
        """Give way to the rival if it has a good answer, else go on waiting."""
        outcome = rival.take()
        rival.abandon()
        plan.rival = None
        if outcome is None:
            return
        if outcome.good:
            raise Overtaken(outcome)
        plan.losers = (*plan.losers, *beaten(plan.call.core, outcome))
        discard(outcome)

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write everything."""
        plan: ConnectPlan | None = ROUTE.get()
        if plan is not None and (not plan.under_way or plan.asker is not None):
            try:
                plan.go()
            except Abandoned:
                if not self._is_http2():
                    raise
                # The buffer may hold other requests' frames, which h2 gives out once.
        if not buffer:
            # The end of a message: a call to the system could only lose an error. Or, over
            # HTTP/2, another thread has sent our bytes along with its own.
            return
        if plan is not None:
            if plan.written:
                plan.progressed()
            plan.written = True
        try:
            sent = self._send(buffer)
            while sent < len(buffer):
                self._wait_to_write(timeout if plan is None else plan.least(timeout))
                sent += self._send(memoryview(buffer)[sent:])
                if plan is not None:
                    plan.progressed()
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.WriteError(str(error)) from error

    def _send(self, buffer: bytes | memoryview) -> int:
        try:
            return self._sock.send(buffer)
        except _WANT_WRITE:
            return 0

    def _is_http2(self) -> bool:
        return self._tls is not None and self._tls.selected_alpn_protocol() == "h2"

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
    ) -> "FailoverStream":
        """Do nothing: the dial has done it, under the endpoint's own name."""
        return self

    def get_extra_info(self, info: str) -> Any:
        """Give what httpcore asks for."""
        match info:
            case "is_readable":
                return self._sock.fileno() < 0 or bool(self._readable.poll(0))
            case "ssl_object":
                return self._tls
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "socket":
                return self._sock
        return None


def _is_readable(sock: socket.socket) -> bool:
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    return bool(poll.poll(0))


class FailoverBackend(httpcore2.NetworkBackend):
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
    ) -> FailoverStream:
        """Connect to the plan's endpoint, or to one that is ready before it.

        Raises:
            Moved: With the connection, where another endpoint was ready first.
            httpcore2.ConnectError: If none was.
        """
        plan: ConnectPlan = ROUTE.get()
        deposit = plan.take_deposit()
        if deposit is None:
            plan.look_around()
        plan.dialled = True
        stream = FailoverStream(deposit or self._race(plan, timeout))
        plan.ready = True
        return stream

    def _race(self, plan: ConnectPlan, timeout: float | None) -> socket.socket:
        race = DialRace(plan.member, plan.another, self._race_delay)
        race.called_off = lambda: plan.lines.closed
        options = self._options.for_dial(timeout, plan.dial_until(timeout))
        try:
            won = dial(race, options, self._resolver)
        except DialError as error:
            if plan.lines.closed:
                raise httpcore2.ConnectError("the client is closed") from error
            plan.unreachable(race.faults)
            raise httpcore2.ConnectError(connect_message(plan.fault, error)) from error
        except (OSError, RuntimeError, MemoryError) as error:
            plan.fault = Fault.OURS  # before any endpoint was dialled
            raise httpcore2.ConnectError(str(error)) from error
        plan.finished(won, race.faults)
        if won.member is not plan.member:
            raise Moved(won)
        plan.losers += won.losers
        return won.connection
