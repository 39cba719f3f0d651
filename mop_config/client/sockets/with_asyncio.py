"""asyncio and aiohttp for the asynchronous Socket.io client; the twin of ``with_threads``.

Both modules define the same functions, and the same classes with and without ``Async``.
"""

import asyncio
import contextlib
import inspect
import socket
from collections.abc import Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from socketio.exceptions import ConnectionError as SocketConnectionError

from ...net.connect import Place
from ...net.resolver import Resolver
from ..pool.failover import DialRace
from ..pool.member import PoolMember
from ..pool.target import Target
from ..transport._async.dialing import connect, dial
from .search import SocketEndpoints, with_credentials


class AsyncEvent(asyncio.Event):
    """An event whose ``wait`` has a timeout, like ``threading.Event``."""

    async def wait(self, timeout: float | None = None) -> bool:  # type: ignore[override]
        """Wait until the event is set; return False after ``timeout`` seconds."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout):
                await super().wait()
        return self.is_set()


class AsyncWorker:
    """The task that finds an endpoint, and then keeps the connection open.

    Args:
        target: Function that runs in the task, and calls ``ready`` once the connection is open.
    """

    def __init__(self, target: Callable[["AsyncWorker"], Coroutine[Any, Any, None]]) -> None:
        self._ready = asyncio.get_running_loop().create_future()
        self._task = asyncio.create_task(target(self), name="mop-config-socket")

    def ready(self) -> None:
        """End the wait of ``wait_until_ready``."""
        self._ready.set_result(None)

    @property
    def is_running(self) -> bool:
        """Whether the task is still running."""
        return not self._task.done()

    async def wait_until_ready(self) -> None:
        """Wait until the connection is open.

        Raises:
            Exception: The error that ended the search.
        """
        await asyncio.wait({self._ready, self._task}, return_when=asyncio.FIRST_COMPLETED)
        if self._task.cancelled():
            raise SocketConnectionError("disconnected meanwhile")
        if not self._ready.done():
            self._task.result()

    async def stop(self) -> None:
        """Cancel the task, and wait for its end."""
        if self._task is not asyncio.current_task() and not self._task.done():
            self._task.cancel()
            await asyncio.wait({self._task})
            if not self._task.cancelled():
                self._task.exception()  # retrieved, so that asyncio does not log the exception

    async def wait(self) -> None:
        """Wait for the end of the task."""
        await asyncio.wait({self._task})


async def wait_for_task(task: "asyncio.Task[Any]", seconds: float) -> bool:
    """Wait for the end of a background task, without cancelling it; return whether it ended."""
    await asyncio.wait({task}, timeout=seconds)
    return task.done()


def is_current(task: "asyncio.Task[Any] | None") -> bool:
    """Return whether the caller runs in this background task."""
    return task is asyncio.current_task()


async def value_of(value: Any) -> Any:
    """Return a value; if the value is a function or coroutine function, return its result."""
    value = value() if callable(value) else value
    return await value if inspect.isawaitable(value) else value


async def dial_race(race: DialRace, endpoints: SocketEndpoints) -> PoolMember:
    """Dial until an endpoint of a race answers, close the connection, and return the endpoint.

    Raises:
        DialError: If no endpoint answered.
    """
    winner, stream = await dial(race, endpoints.dial_options(), endpoints.resolver)
    await stream.aclose()
    return winner


async def dial_place(place: Place, endpoints: SocketEndpoints) -> None:
    """Connect to a place, and close the connection.

    Raises:
        OSError: If that fails.
    """
    await (await connect(place, endpoints.dial_options(), endpoints.resolver)).aclose()


class _EndpointResolver(AbstractResolver):
    """Resolves every name to the addresses of one endpoint."""

    def __init__(self, target: Target, resolver: Resolver) -> None:
        self._target = target
        self._resolver = resolver

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the endpoint's addresses."""
        name = self._target.host
        addresses = self._resolver.last(name)  # known: the search has just connected
        if not addresses:
            addresses = await asyncio.shield(asyncio.wrap_future(self._resolver.resolve(name)))
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in self._resolver.in_turn(name, addresses)
        ]

    async def close(self) -> None:
        """Do nothing: the resolver belongs to the manager."""


async def _refuse_redirect(*about: Any) -> None:
    """Refuse a redirect, which would send the login to another server."""
    about[-1].response.close()
    raise aiohttp.ClientError("the handshake is redirected elsewhere: unexpected response")


class AsyncEngineSession:
    """The HTTP session of one engine, which sends each request to one endpoint.

    Args:
        engine: The ``engineio`` client that uses the session.
        member: The endpoint.
        endpoints: The socket endpoints.

    Attributes:
        host: Host for the engine's URL, from which aiohttp derives ``Host`` and the TLS name.
    """

    def __init__(self, engine: Any, member: PoolMember, endpoints: SocketEndpoints) -> None:
        target, proxy = member.target, endpoints.proxy_for(member)
        self.host = member.endpoint.server_name or target.host
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=endpoints.options.tls, resolver=_EndpointResolver(target, endpoints.resolver)
            ),
            # Accept cookies from IP addresses: load balancers keep a session by its cookie.
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            trace_configs=[trace],
            proxy=None if proxy is None else with_credentials(proxy),
        )
        engine.http, engine.external_http = self._session, True

    def bounded(self, seconds: float) -> asyncio.Timeout:
        """Return a context manager that cancels its block after ``seconds``."""
        return asyncio.timeout(seconds)

    def break_off(self) -> None:
        """Do nothing: asyncio cancels a task that waits for an answer."""

    async def close(self) -> None:
        """Close the session."""
        await self._session.close()
