"""What lies below httpcore in the asynchronous driver: the twin of ``streams``."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any, cast

import httpcore2

from ....net.resolver import Resolver
from ...pool.failover import DialRace, Outcome
from ...pool.session import ClientState
from ..attempt import ROUTE, Moved, Route
from ..dial import DialError
from ..options import TransportOptions
from ..outcome import beaten, connect_message, of_rival
from .dial import dial_async

#: Dials at one time. When an endpoint dies under hundreds of tasks, all of them dial at once; one
#: thread could not keep up with as many handshakes, and would blame the endpoint for it.
DIALS = 32
#: Bytes of a body that are written at a time.
PART = 1 << 18


class AsyncConnectPlan(Route):
    """A route that may get a rival, which is kept with it."""

    rival: "AsyncHedge | None" = None


class AsyncHedge:
    """The same request, sent to another endpoint when the first takes too long.

    Args:
        core: Whose pools to use.
        route: That of the first request.
        send: Sends the same request on another route.
    """

    def __init__(
        self,
        core: ClientState,
        route: AsyncConnectPlan,
        send: Callable[[AsyncConnectPlan], Coroutine[Any, Any, Outcome]],
    ) -> None:
        self._state = core
        self._route = route
        self._send = send
        self._asker = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancellations = self._asker.cancelling()
        self._task: asyncio.Task[Outcome] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking = True  # whether the first request still waits
        self._overtaking = False

    def arm(self) -> None:
        """Take note that the first request goes out now: from here on it may be too slow."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            left = max(0.0, self._route.hedge_at - self._state.clock())
            self._timer = loop.call_later(left, self._start)

    def _start(self) -> None:
        call = self._route.call
        self._route.forget_queues()
        member = call.hedge_candidate(self._state.clock())
        if member is None:
            return
        route = AsyncConnectPlan(call, member, self._route.until, race=False)
        self._task = asyncio.get_running_loop().create_task(self._send(route))
        self._task.add_done_callback(self._arrived)

    def _arrived(self, task: "asyncio.Task[Outcome]") -> None:
        if self._asking and not task.cancelled() and task.result().good:
            self._overtaking = True
            self._asker.cancel()

    def has_overtaken(self) -> Outcome | None:
        """Give the rival's answer if the asker was cancelled for it, and for nothing else."""
        self._asking = False
        if not self._overtaking or self._asker.uncancel() > self._cancellations:
            return None
        task, self._task = self._task, None
        return task.result() if task is not None else None

    async def settled(self, outcome: Outcome) -> Outcome:
        """Settle on an outcome, now that the first request has one."""
        self._asking = False
        if self._overtaking:  # a time-out came first
            self._asker.uncancel()
        if self._task is None or (outcome.good and not self._task.done()):
            return outcome
        # While the rival is asking, its answer is as good as ours would have been.
        await asyncio.wait([self._task])
        theirs, self._task = self._task.result(), None
        if theirs.good and not outcome.good:
            await discard(outcome)
            return of_rival(theirs, beaten(self._state, outcome), self._route.told)
        await discard(theirs)
        if not theirs.good:
            outcome.losers = (*outcome.losers, *beaten(self._state, theirs))
        return outcome

    async def abandon(self) -> None:
        """Let go of it, whatever it is doing."""
        self._asking = False
        if self._timer is not None:
            self._timer.cancel()
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])  # which a cancellation of our own interrupts
        if not task.cancelled():
            await discard(task.result())


async def discard(outcome: Outcome) -> None:
    """Let go of an answer that nobody wants."""
    if outcome.status is not None:
        await outcome.result.response.aclose()


class AsyncFailoverStream(httpcore2.AsyncNetworkStream):
    """A connected stream, with TLS already where the endpoint has it."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object")
        self._shared = tls is not None and tls.selected_alpn_protocol() == "h2"
        self._turn = asyncio.Lock()
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    # These two give the awaitable on: one coroutine less to go through.
    def read(self, max_bytes: int, timeout: float | None = None) -> Awaitable[bytes]:  # type: ignore[override]
        """Read what is there, or wait for it."""
        route: AsyncConnectPlan | None = ROUTE.get()
        if route is not None:
            timeout = route.least(timeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> Awaitable[None]:  # type: ignore[override]
        """Write everything."""
        route: AsyncConnectPlan | None = ROUTE.get()
        if route is not None:
            if route.written:
                route.progressed()
            route.written = True
            if len(buffer) > PART:
                return self._write_parts(buffer, timeout)
            timeout = route.least(timeout)
            if route.rival is not None:
                route.rival.arm()
            if route.deposit is not None:
                return self._write_instead(route.take_deposit(), buffer, timeout)
        if self._shared and buffer:
            # One request that is called off must not leave half a frame to the others.
            return asyncio.shield(self._write_whole(buffer, timeout))
        return self._stream.write(buffer, timeout)

    async def _write_instead(
        self, other: httpcore2.AsyncNetworkStream, buffer: bytes, timeout: float | None
    ) -> None:
        """Write; the server may be waiting on the connection that a race has left."""
        await other.aclose()
        await self.write(buffer, timeout)

    async def _write_parts(self, buffer: bytes, timeout: float | None) -> None:
        """Write a long body part by part, each with the whole time-out."""
        for start in range(0, len(buffer), PART):
            await self.write(buffer[start : start + PART], timeout)

    async def _write_whole(self, buffer: bytes, timeout: float | None) -> None:
        async with self._turn:
            await self._stream.write(buffer, timeout)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "AsyncFailoverStream":
        """Do nothing: the dial has done it, under the endpoint's own name."""
        return self


class AsyncFailoverBackend(httpcore2.AsyncNetworkBackend):
    """Dials by the route of the request that needs a connection."""

    def __init__(self, options: TransportOptions, resolver: Resolver, race_delay: float) -> None:
        self._options = options
        self._resolver = resolver
        self._race_delay = race_delay
        self._dials = asyncio.Semaphore(DIALS)

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> AsyncFailoverStream:
        """Connect to the route's endpoint, or to one that is ready before it.

        Raises:
            Moved: With the connection, where another endpoint was ready first.
            httpcore2.ConnectError: If none was.
        """
        route: AsyncConnectPlan = ROUTE.get()
        stream = route.take_deposit()
        if stream is None:
            async with self._dials:
                stream = await self._dial(route, timeout)
        route.dialled = route.ready = True
        return AsyncFailoverStream(stream)

    async def _dial(
        self, route: AsyncConnectPlan, timeout: float | None
    ) -> httpcore2.AsyncNetworkStream:
        if route.least(None) == 0.0:
            raise httpcore2.PoolTimeout("its time was over before it could be dialled")
        route.look_around()
        route.dialled = True
        return await self._race(route, timeout)

    async def _race(self, route: Route, timeout: float | None) -> httpcore2.AsyncNetworkStream:
        race = DialRace(route.member, route.another, self._race_delay)
        try:
            options = self._options.for_dial(timeout, route.dial_until(timeout))
            won = await dial_async(race, options, self._resolver)
        except DialError as error:
            route.unreachable(race.faults)
            raise httpcore2.ConnectError(connect_message(route.fault, error)) from error
        route.finished(won, race.faults)
        if won.member is not route.member:
            raise Moved(won)
        route.losers += won.losers
        return won.connection
