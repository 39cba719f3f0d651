"""Waits for sockets on asyncio; the twin of ``with_threads``.

Both modules define the same functions, and the same classes with and without ``Async``.
"""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

# Import early: anyio would import this with its first lock, perhaps without a free descriptor.
import anyio._backends._asyncio  # noqa: F401

from .deadline import Limit

WriteTurn = asyncio.Lock


async def whole(write: Callable[..., Coroutine[Any, Any, None]], *args: Any) -> None:
    """Run a write to its end, even if the current task is cancelled."""
    await asyncio.shield(write(*args))


async def give_way() -> None:
    """Let other tasks run."""
    await asyncio.sleep(0)


class AsyncSocketWaits:
    """Lets tasks wait for one file descriptor.

    Args:
        sock: The socket or selector with the descriptor.
    """

    def __init__(self, sock: Any) -> None:
        self._fd = sock.fileno()
        self._waiting: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def readable(self, timeout: float | None) -> None:
        """Wait until the descriptor is readable.

        Raises:
            TimeoutError: After ``timeout`` seconds, or at the deadline of a ``Limit``.
            OSError: If ``end`` was called.
        """
        await self._wait(timeout, writable=False)

    async def writable(self, timeout: float | None) -> None:
        """Wait until the descriptor is writable; raises as ``readable`` does."""
        await self._wait(timeout, writable=True)

    async def _wait(self, timeout: float | None, *, writable: bool) -> None:
        loop = self._loop = asyncio.get_running_loop()
        add, remove = loop.add_reader, loop.remove_reader
        if writable:
            add, remove = loop.add_writer, loop.remove_writer
        if isinstance(timeout, Limit):
            timeout = timeout.deadline.least(timeout)
        ready = loop.create_future()
        add(self._fd, _set, ready)
        self._waiting.add(ready)
        late = None if timeout is None else loop.call_later(timeout, _fail, ready, TimeoutError)
        try:
            await ready
        finally:
            if late is not None:
                late.cancel()
            if ready in self._waiting:
                self._waiting.remove(ready)
                remove(self._fd)

    def end(self) -> None:
        """End all waits with an error, before the descriptor is closed."""
        if self._waiting and self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        while self._waiting:
            _fail(self._waiting.pop(), ConnectionAbortedError)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _fail(ready: "asyncio.Future[None]", error: type[OSError]) -> None:
    if not ready.done():
        ready.set_exception(error("timed out" if error is TimeoutError else "closed"))
