"""What the transport does differently on asyncio: waiting, streams, dial races and hedges."""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import httpcore2

from ...net.connect import DialOptions, Place
from ...net.resolver import Resolver
from ..pool.failover import DialRace, Outcome
from .attempt import Exchange, Limit
from .dial import RaceWinner
from .dial_async import connect_async, dial_async
from .outcome import settle

#: Dials at one time. When an endpoint dies under hundreds of tasks, all of them dial at once; one
#: thread could not keep up with as many handshakes, and would blame the endpoint for it.
DIALS = 32
#: Bytes of a body that are written at a time.
PART = 1 << 18


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


class AsyncFailoverStream(httpcore2.AsyncNetworkStream):
    """A connected stream, whose steps keep the deadline of the exchange that they belong to."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object")
        self._shared = tls is not None and tls.selected_alpn_protocol() == "h2"
        self._turn = asyncio.Lock()
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    # Reads and writes return the inner awaitable: one coroutine less to go through.
    def read(self, max_bytes: int, timeout: float | None = None) -> Awaitable[bytes]:  # type: ignore[override]
        """Read what has arrived, or wait for it."""
        if isinstance(timeout, Limit):
            timeout = timeout.deadline.least(timeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> Awaitable[None]:  # type: ignore[override]
        """Write the whole buffer."""
        if isinstance(timeout, Limit):
            timeout.deadline.wrote()
            if len(buffer) > PART:
                return self._write_parts(buffer, timeout)
            timeout = timeout.deadline.least(timeout)
        if self._shared and buffer:
            # A cancelled request must not leave half a frame on the connection of the others.
            return asyncio.shield(self._write_whole(buffer, timeout))
        return self._stream.write(buffer, timeout)

    async def _write_parts(self, buffer: bytes, timeout: float) -> None:
        """Write a long body in parts, each with the whole time-out."""
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
        """Begin TLS."""
        return AsyncFailoverStream(
            await self._stream.start_tls(ssl_context, server_hostname, timeout)
        )


def http2_connection(
    origin: httpcore2.Origin, stream: AsyncFailoverStream, keepalive_expiry: float | None
) -> httpcore2.AsyncHTTP2Connection:
    """Make an HTTP/2 connection over a stream."""
    return httpcore2.AsyncHTTP2Connection(origin, stream, keepalive_expiry)


class AsyncDialer:
    """Dials endpoints and proxies.

    Args:
        resolver: Looks hosts up.
    """

    def __init__(self, resolver: Resolver) -> None:
        self._resolver = resolver
        self._dials = asyncio.Semaphore(DIALS)

    async def race(self, race: DialRace, options: DialOptions) -> RaceWinner[AsyncFailoverStream]:
        """Dial until one endpoint is ready, with TLS where it has TLS.

        Raises:
            DialError: If no endpoint could be reached.
        """
        async with self._dials:
            won = await dial_async(race, options, self._resolver)
        return RaceWinner(won.member, AsyncFailoverStream(won.connection), won.losers)

    async def connect(self, place: Place, options: DialOptions) -> AsyncFailoverStream:
        """Connect to one host."""
        return AsyncFailoverStream(await connect_async(place, options, self._resolver))


async def hedged(
    exchange: Exchange, send: Callable[[Exchange], Coroutine[Any, Any, Outcome]]
) -> Outcome:
    """Send a request, and once more to another endpoint if its answer is late.

    The first good answer wins, and the other request is cancelled.

    Args:
        exchange: The first request, whose ``hedge_at`` says when its answer is late.
        send: Sends the request and returns the outcome, whatever it is.
    """
    first = asyncio.create_task(send(exchange))
    tasks = [first]
    chosen: asyncio.Task[Outcome] | None = None
    try:
        late = exchange.hedge_at - exchange.session.core.clock()
        await asyncio.wait(tasks, timeout=max(0.0, late))
        if not first.done() and (rival := exchange.rival()) is not None:
            tasks.append(asyncio.create_task(send(rival)))
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if len(tasks) > 1 and not any(task.result().good for task in done):
            await asyncio.wait(tasks)
        mine, *theirs = [task.result() if task.done() else None for task in tasks]
        outcome = settle(exchange, mine, *theirs)
        chosen = first if outcome is mine else tasks[-1]
        return outcome
    finally:
        for task in tasks:
            if task is not chosen:
                await _drop(task)


async def _drop(task: "asyncio.Task[Outcome]") -> None:
    """Cancel a request whose answer is not used, or close the answer."""
    task.cancel()
    await asyncio.wait([task])
    if not task.cancelled() and task.result().status is not None:
        await task.result().result.response.aclose()


async def hang_up(stream: Any) -> None:
    """End a connection for the task that waits for it, which closing does on asyncio."""
