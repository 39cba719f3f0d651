"""One connection of the asynchronous Socket.io client: the twin of ``sync_link``."""

import asyncio
import contextlib
import socket
from collections.abc import Iterable
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from engineio.base_client import connected_clients
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.packet import CONNECT, DISCONNECT

from ...net.resolver import Resolver
from ..pool.member import PoolMember
from ..pool.target import Target
from .search import NamespaceHandshake, engine_url, with_credentials

#: Seconds for the goodbye; the server of a polling client may hold its last poll for long.
_GOODBYE = 0.5


class _OneAddress(AbstractResolver):
    """Finds one endpoint under its own name, wherever that leads elsewhere."""

    def __init__(self, target: Target, resolver: Resolver) -> None:
        self._target = target
        self._resolver = resolver

    async def resolve(
        self,
        host: str,
        port: int = 0,
        family: socket.AddressFamily = socket.AF_UNSPEC,
    ) -> list[ResolveResult]:
        """Give the endpoint's addresses, whatever is asked for."""
        name = self._target.host
        addresses = self._resolver.last(name)  # it has just been connected to
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
        """Nothing is held."""


async def _no_redirect(*about: Any) -> None:
    """Refuse to follow a redirect: it is no answer, and would take the login elsewhere."""
    about[-1].response.close()
    raise aiohttp.ClientError("the handshake is redirected elsewhere: unexpected response")


class AsyncLink:
    """One Engine.IO connection to one endpoint, whose messages wait until it is in use.

    Args:
        client: The ``AsyncFailoverSocketClient`` whose connection it is.
        member: The endpoint.
    """

    def __init__(self, client: Any, member: PoolMember) -> None:
        endpoints = client._endpoints
        self.member = member
        self.handshake = NamespaceHandshake(client.connection_namespaces, client.packet_class)
        self.is_retired = False  # whether another connection has taken its place
        self._client = client
        self._changed = asyncio.Event()
        self._in_use = self._is_over = False
        trace, proxy = aiohttp.TraceConfig(), endpoints.proxy_for(member)
        trace.on_request_redirect.append(_no_redirect)
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=endpoints.options.tls, resolver=_OneAddress(member.target, endpoints.resolver)
            ),
            # Endpoints may be IP addresses, and balancers hold a session by its cookie.
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            trace_configs=[trace],
            proxy=None if proxy is None else with_credentials(proxy),
        )
        self.engine = client._new_engine()
        self.engine.http, self.engine.external_http = self._session, True
        self.engine.on("connect", self._request_namespaces)
        self.engine.on("message", self._on_message)
        self.engine.on("disconnect", self._on_disconnect)

    async def open(self, headers: Any, transports: Any) -> None:
        """Connect, and ask for the namespaces."""
        # aiohttp takes the name for Host, TLS and certificate from the URL.
        target = self.member.target
        url, path = engine_url(target, self.member.endpoint.host_name)
        await self.engine.connect(url, dict(headers), transports, path)

    async def _request_namespaces(self) -> None:
        client = self._client
        auth = await client._value_of(client.connection_auth) or {}
        for namespace in client.connection_namespaces:
            await self._send(client.packet_class(CONNECT, data=auth, namespace=namespace))

    async def _send(self, packet: Any) -> None:
        encoded = packet.encode()
        for part in encoded if isinstance(encoded, list) else [encoded]:
            await self.engine.send(part)

    async def _on_message(self, data: Any) -> None:
        if self._in_use:
            await self._client._handle_eio_message(data)
            return
        refused = self.handshake.take(data)
        self._changed.set()
        if refused is not None:
            about = self.handshake.refused[refused]
            about = about if isinstance(about, (tuple, list)) else (about,)
            await self._client._trigger_event("connect_error", refused, *about)

    async def _on_disconnect(self, reason: str) -> None:
        self._is_over = True
        self._changed.set()
        if self._in_use and not self.is_retired:
            await self._client._handle_eio_disconnect(reason)

    async def wait_for_namespaces(self, seconds: float) -> None:
        """Wait until all namespaces have answered; each may take so long.

        Raises:
            ConnectionError: If one has not, or has refused.
        """
        with contextlib.suppress(TimeoutError):
            while not (self.handshake.is_done or self._is_over):
                answered = self.handshake.answered
                async with asyncio.timeout(seconds):
                    while self.handshake.answered == answered and not self._is_over:
                        await self._changed.wait()
                        self._changed.clear()
        self.handshake.check()

    def use(self) -> list[Any]:
        """Have messages go to the client from now on; give those that came before.

        Raises:
            ConnectionError: If it has ended.
        """
        if self._is_over:
            raise SocketConnectionError("the connection was reset at once")
        self._in_use = True
        return self.handshake.early

    async def wait(self, seconds: float) -> bool:
        """Wait for its end; give whether it came."""
        task = self.engine.read_loop_task
        if task is not None:
            # Not by ``wait_for``: to call us off must not tear the engine's own task.
            await asyncio.wait({task}, timeout=seconds)
        return task is None or task.done()

    async def close(self, namespaces: Iterable[str] = ()) -> None:
        """End it, whatever state it is in."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE):
                for namespace in namespaces:
                    await self._send(self._client.packet_class(DISCONNECT, namespace=namespace))
                await self.engine.disconnect()
        with contextlib.suppress(Exception):
            await self.engine.disconnect(abort=True)  # what remains where that took too long
        with contextlib.suppress(ValueError):
            connected_clients.remove(self.engine)
        await self._session.close()
