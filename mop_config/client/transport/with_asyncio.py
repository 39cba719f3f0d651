"""The asyncio parts of the transport: waiting, streams, dial races and hedges."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import httpcore2

from ...net.connect import DialOptions, Place
from ...net.resolver import Resolver
from ..pool.failover import DialRace, Outcome
from .attempt import Exchange
from .dial import RaceWinner
from .dial_async import connect_async, dial_async
from .outcome import settle
from .stream_async import AsyncFailoverStream

#: Limit of concurrent dials. When an endpoint dies under hundreds of tasks, all tasks dial at once;
#: one thread could not keep up with these handshakes, and their time-outs would blame the endpoint.
DIALS = 32


class AsyncTurnEvent:
    """An event that a task can wait for with a time-out."""

    def __init__(self) -> None:
        self._event = asyncio.Event()
        self.set = self._event.set

    async def wait(self, timeout: float) -> None:
        """Wait until the event is set, or until the time-out in seconds is over."""
        try:
            async with asyncio.timeout(timeout):
                await self._event.wait()
        except TimeoutError:
            pass


def http2_connection(
    origin: httpcore2.Origin, stream: AsyncFailoverStream, keepalive_expiry: float | None
) -> httpcore2.AsyncHTTP2Connection:
    """Create an HTTP/2 connection over a stream."""
    return httpcore2.AsyncHTTP2Connection(origin, stream, keepalive_expiry)


class AsyncDialer:
    """Dials endpoints and proxies.

    Args:
        resolver: Resolves hosts.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._dials = asyncio.Semaphore(DIALS)

    async def race(self, race: DialRace, options: DialOptions) -> RaceWinner[AsyncFailoverStream]:
        """Dial until one endpoint is ready, including its TLS handshake.

        Raises:
            DialError: If no endpoint could be reached.
        """
        async with self._dials:
            return await dial_async(race, options, self._resolver)

    async def connect(self, place: Place, options: DialOptions) -> AsyncFailoverStream:
        """Connect to one host."""
        return await connect_async(place, options, self._resolver)


async def hedged(
    exchange: Exchange, send: Callable[[Exchange], Coroutine[Any, Any, Outcome]]
) -> Outcome:
    """Send a request, and a hedge to another endpoint if the answer is late.

    The first good answer wins, and the other request is cancelled.

    Args:
        exchange: The first request; at its ``hedge_at`` the answer is late.
        send: Sends the request and returns the outcome, good or bad.
    """
    hedge = AsyncHedge(exchange, send)
    try:
        outcome = await hedge.settle(await hedge.send_first())
        exchange.forget_hedge(outcome)
        return outcome
    finally:
        await hedge.abandon()


class AsyncHedge:
    """The second request of a hedge, in a task of its own.

    The first request runs in its caller's task. If the second request has a good answer first,
    the first request is cancelled, in the way of ``asyncio.timeout``.

    Args:
        exchange: The first request.
        send: Sends the request and returns the outcome, good or bad.
    """

    def __init__(
        self, exchange: Exchange, send: Callable[[Exchange], Coroutine[Any, Any, Outcome]]
    ) -> None:
        self._exchange = exchange
        self._send = send
        self._rival: asyncio.Task[Outcome] | None = None
        self._first: asyncio.Task[Any] | None = None
        self._overtaken = False

    async def send_first(self) -> Outcome | None:
        """Send the first request; return None if the second has a good answer first."""
        loop = asyncio.get_running_loop()
        task = self._first = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancelled = task.cancelling()
        seconds = self._exchange.hedge_at - self._exchange.session.core.clock()
        late = loop.call_later(max(0.0, seconds), self._start)
        try:
            return await self._send(self._exchange)
        except asyncio.CancelledError:
            if not self._overtaken or task.uncancel() > cancelled:
                raise
            return None
        finally:
            self._first = None
            late.cancel()

    def _start(self) -> None:
        rival = self._exchange.rival()
        if rival is not None:
            self._rival = asyncio.create_task(self._send(rival))
            self._rival.add_done_callback(self._overtake)

    def _overtake(self, rival: "asyncio.Task[Outcome]") -> None:
        if self._first is not None and not rival.cancelled() and rival.result().good:
            self._overtaken = True
            self._first.cancel()

    async def settle(self, mine: Outcome | None) -> Outcome:
        """Return the better of the two outcomes, now that the first request is over."""
        rival = self._rival
        if rival is None:
            assert mine is not None  # noqa: S101 - the first request has an outcome
            return mine
        if mine is not None and not mine.good:
            await asyncio.wait([rival], timeout=self._exchange.least(None))
        outcome = settle(self._exchange, mine, rival.result() if rival.done() else None)
        if outcome is not mine:
            self._rival = None
            if mine is not None and mine.status is not None:
                await mine.result.response.aclose()
        return outcome

    async def abandon(self) -> None:
        """Cancel the second request, or close its answer, unless the answer is used."""
        if self._rival is not None:
            # Close in a separate task, because the current task may be cancelled again.
            closing = asyncio.create_task(_drop(self._rival))
            _CLOSING.add(closing)
            closing.add_done_callback(_CLOSING.discard)
            await asyncio.shield(closing)


#: References to the tasks that close abandoned requests; the event loop keeps no reference.
_CLOSING: set[asyncio.Task[None]] = set()


async def _drop(task: "asyncio.Task[Outcome]") -> None:
    """Cancel a request whose answer is not used, or close the answer."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.result().status is not None:
        await task.result().result.response.aclose()


async def hang_up(stream: Any) -> None:
    """Wake the task that waits for a connection; on asyncio, closing does that."""
