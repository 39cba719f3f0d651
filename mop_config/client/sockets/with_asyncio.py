"""asyncio and aiohttp for the asynchronous Socket.io client; the twin of ``with_threads``.

Both modules define the same functions, and the same classes with and without ``Async``.
"""

import asyncio
import contextlib
import socket
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from ..pool.member import PoolMember, Target
from .search import SocketEndpoints, with_credentials


async def wait_for_task(task: "asyncio.Task[Any]", seconds: float | None) -> bool:
    """Wait for the end of a background task, without cancelling it; return whether it ended."""
    await asyncio.wait({task}, timeout=seconds)
    return task.done()


def is_current(task: "asyncio.Task[Any] | None") -> bool:
    """Return whether the caller runs in this background task."""
    return task is asyncio.current_task()


async def stop_task(task: "asyncio.Task[Any]") -> None:
    """Cancel a background task, and wait for its end."""
    if task is not asyncio.current_task() and not task.done():
        task.cancel()
        await asyncio.wait({task})


class _EndpointResolver(AbstractResolver):
    """Resolves every name to the addresses of one endpoint."""

    def __init__(self, target: Target, endpoints: SocketEndpoints) -> None:
        self._target = target
        self._endpoints = endpoints

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the endpoint's addresses."""
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in self._endpoints.addresses_of(self._target)
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
        target = member.target
        proxy = endpoints.proxy_of(target)
        self.host = member.endpoint.server_name or target.host
        self._sockets: list[socket.socket] = []
        trace = aiohttp.TraceConfig()
        trace.on_request_redirect.append(_refuse_redirect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=endpoints.options.tls,
                # With a proxy, aiohttp looks up the proxy's name, and the proxy the endpoint's.
                resolver=None if proxy else _EndpointResolver(target, endpoints),
                socket_factory=self._new_socket,
            ),
            # Accept cookies from IP addresses: load balancers keep a session by its cookie.
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            trace_configs=[trace],
            proxy=None if proxy is None else with_credentials(proxy),
        )
        engine.http, engine.external_http = self._session, True
        # python-engineio removes the headers from these options, so each engine needs its own.
        engine.websocket_extra_options = {**engine.websocket_extra_options}

    def _new_socket(self, address: Any) -> socket.socket:
        sock = socket.socket(*address[:3])
        sock.setblocking(False)
        self._sockets = [sock, *(each for each in self._sockets if each.fileno() >= 0)]
        return sock

    def break_off(self) -> None:
        """Do nothing: asyncio cancels a task that waits for an answer."""

    async def close(self) -> None:
        """Close the session, and wait for up to a second until its sockets are closed.

        aiohttp leaves a connection that was given up in its TLS shutdown, for which the server may
        never send its part. After the end of the event loop nobody would close that socket.
        """
        await self._session.close()
        for sock in self._sockets:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                while any(sock.fileno() >= 0 for sock in self._sockets):
                    await asyncio.sleep(0.001)
