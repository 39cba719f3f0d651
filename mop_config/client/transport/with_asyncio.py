"""The asyncio parts of the transport: waits and hedges; the twin of ``with_threads``.

The generated modules use either module by the same names, with and without ``Async``.
"""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
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


class AsyncEvent(asyncio.Event):
    """An event whose ``wait`` has a timeout, like ``threading.Event``."""

    async def wait(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until the event is set; return False after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await super().wait()
        return self.is_set()


def start_beside(run: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> asyncio.Task[None]:
    """Run a coroutine function in a task beside the requests."""
    return asyncio.create_task(run(*args))


async def call_beside(call: Callable[[], object]) -> None:
    """Call a function in a thread, or in this thread if no thread can be started."""
    try:
        await asyncio.to_thread(call)
    except RuntimeError:
        call()


async def end_beside(task: asyncio.Task[Any]) -> None:
    """Cancel a task, and wait until it has ended."""
    task.cancel()
    await asyncio.wait([task])


#: Function that sends the request of an exchange, or closes its answer.
Action = Callable[[Exchange], Coroutine[Any, Any, None]]


async def hedged(exchange: Exchange, send: Action, close: Action) -> Exchange:
    """Send a request, and a hedge to another endpoint if the answer is late.

    The first request runs in the caller's task, and the hedge in a task of its own. The first good
    answer wins, and the other request is cancelled.

    Args:
        exchange: The first request; at its ``hedge_at`` the answer is late.
        send: Sends the request and records the outcome, good or bad.
        close: Closes the answer of a request, if there is an answer.
    """
    unused: asyncio.Task[Exchange] | None = None

    async def send_hedge(second: Exchange) -> Exchange:
        await send(second)
        if second.fault is None:
            with contextlib.suppress(RuntimeError):  # the first request is over
                first.reschedule(0.0)  # its time-out cancels the first request
        return second

    def start() -> None:
        nonlocal unused
        if (second := exchange.rival()) is not None:
            unused = asyncio.create_task(send_hedge(second))

    seconds = max(0.0, exchange.hedge_at - exchange.state.clock())
    late = asyncio.get_running_loop().call_later(seconds, start)
    try:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(None) as first:
                await send(exchange)
        if unused is None:
            return exchange
        overtaken = first.expired()
        if not overtaken and exchange.fault is not None:
            await asyncio.wait([unused], timeout=exchange.least(None))
        better = exchange.settle(is_done=unused.done(), overtaken=overtaken)
        if better is not exchange:
            unused = None
            await close(exchange)
        return better
    finally:
        late.cancel()
        if unused is not None:
            # Close in a separate task, because the current task may be cancelled again.
            await asyncio.shield(asyncio.create_task(_drop(unused, close)))


async def _drop(task: "asyncio.Task[Exchange]", close: Action) -> None:
    """Cancel a request whose answer is not used, or close the answer."""
    await end_beside(task)
    if not task.cancelled():
        await close(task.result())
