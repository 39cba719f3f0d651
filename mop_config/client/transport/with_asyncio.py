"""The asyncio parts of the transport: queues and hedges; the twin of ``with_threads``.

Both modules define the same functions, and the same classes with and without ``Async``.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

# Import early: anyio would import this with its first lock, perhaps without a free descriptor.
import anyio._backends._asyncio  # noqa: F401

from .attempt import Exchange

#: Whether the exchanges of several tasks share one HTTP/2 connection.
SHARES_HTTP2 = True
#: Limit of concurrent dials. When an endpoint dies under hundreds of tasks, all tasks dial at once;
#: one thread could not keep up with these handshakes, and their time-outs would blame the endpoint.
DIALS = 32


def dial_limit() -> asyncio.Semaphore:
    """Return the limit of a client's concurrent dials."""
    return asyncio.Semaphore(DIALS)


class AsyncTurn(asyncio.Event):
    """A request in the queue of an endpoint's connections; set when the request gets its turn.

    Attributes:
        connection: The connection or place of the request, or None.
    """

    connection: Any = None

    async def wait_for(self, seconds: float) -> None:
        """Wait until the event is set, or until the time is over."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.wait()


class AsyncAside:
    """A coroutine function that runs in a task beside the requests."""

    def __init__(self, run: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
        self._task = asyncio.create_task(run(*args))

    @property
    def is_done(self) -> bool:
        """Whether the function has returned."""
        return self._task.done()

    async def end(self) -> None:
        """Cancel the task, and wait until it has ended."""
        if not self.is_done:
            self._task.cancel()
            await asyncio.wait([self._task])


async def hedged(exchange: Exchange, send: Callable[[Exchange], Awaitable[None]]) -> Exchange:
    """Send a request, and a hedge to another endpoint if the answer is late.

    The first good answer wins, and the other request is cancelled.

    Args:
        exchange: The first request; at its ``hedge_at`` the answer is late.
        send: Sends the request and records the outcome, good or bad.
    """
    hedge = AsyncHedge(exchange, send)
    try:
        return await hedge.settle(overtaken=await hedge.send_first())
    finally:
        await hedge.abandon()


class AsyncHedge:
    """The second request of a hedge, in a task of its own.

    The first request runs in its caller's task. If the second request has a good answer first,
    the first request is cancelled, in the way of ``asyncio.timeout``.

    Args:
        exchange: The first request.
        send: Sends the request and records the outcome, good or bad.
    """

    def __init__(self, exchange: Exchange, send: Callable[[Exchange], Awaitable[None]]) -> None:
        self._exchange = exchange
        self._send = send
        self._rival: asyncio.Task[Exchange] | None = None
        self._first: asyncio.Task[Any] | None = None
        self._overtaken = False

    async def send_first(self) -> bool:
        """Send the first request; return whether the second has a good answer first."""
        task = self._first = asyncio.current_task()
        assert task is not None  # noqa: S101 - a coroutine runs in a task
        cancelled = task.cancelling()
        seconds = max(0.0, self._exchange.hedge_at - self._exchange.core.clock())
        late = asyncio.get_running_loop().call_later(seconds, self._start)
        try:
            await self._send(self._exchange)
        except asyncio.CancelledError:
            if not self._overtaken or task.uncancel() > cancelled:
                raise
            return True
        finally:
            self._first = None
            late.cancel()
        return False

    def _start(self) -> None:
        rival = self._exchange.rival()
        if rival is not None:
            self._rival = asyncio.create_task(self._run(rival))
            self._rival.add_done_callback(self._overtake)

    async def _run(self, rival: Exchange) -> Exchange:
        await self._send(rival)
        return rival

    def _overtake(self, rival: "asyncio.Task[Exchange]") -> None:
        if self._first is not None and not rival.cancelled() and rival.result().fault is None:
            self._overtaken = True
            self._first.cancel()

    async def settle(self, *, overtaken: bool) -> Exchange:
        """Return the better of the two requests, now that the first is over."""
        mine, rival = self._exchange, self._rival
        if rival is None:
            return mine
        if not overtaken and mine.fault is not None:
            await asyncio.wait([rival], timeout=mine.least(None))
        better = mine.settle(rival.result() if rival.done() else None, overtaken=overtaken)
        if better is not mine:
            self._rival = None
            await _close(mine)
        return better

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


async def _drop(task: "asyncio.Task[Exchange]") -> None:
    """Cancel a request whose answer is not used, or close the answer."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled():
        await _close(task.result())


async def _close(exchange: Exchange) -> None:
    if exchange.response is not None:
        await exchange.response.aclose()
