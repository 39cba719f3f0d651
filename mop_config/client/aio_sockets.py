"""Socket.io over the pool, on asyncio: connections that come back on another endpoint.

The client is python-socketio's own, so handlers, namespaces, ``emit`` and ``call`` are as
ever and stay over a switch. Only connecting is ours: a race of dials finds an endpoint that
is there, and after a break the next one is tried until ``disconnect`` is called.
"""

import asyncio
import contextlib
import socket
from typing import Any

import aiohttp
import socketio
from aiohttp.abc import AbstractResolver, ResolveResult
from socketio.exceptions import ConnectionError as SocketConnectionError

from ..resolve import Resolver
from .base import BaseManager
from .dial import DialError, dial_async
from .exceptions import NoEndpointAvailable
from .pool import Member
from .socket_search import Lines, Search, where
from .target import Target


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
        looked_up = asyncio.wrap_future(self._resolver.resolve(self._target.host))
        return [
            {
                "hostname": host,
                "host": address,
                "port": port,
                "family": socket.AF_INET6 if ":" in address else socket.AF_INET,
                "proto": 0,
                "flags": socket.AI_NUMERICHOST,
            }
            for address in await asyncio.shield(looked_up)
        ]

    async def close(self) -> None:
        """Nothing is held."""


class AsyncFailoverSocketClient(socketio.AsyncClient):  # type: ignore[misc]
    """The asynchronous twin of ``FailoverSocketClient``.

    Args:
        manager: Whose socket endpoints to use.
        options: Those of ``socketio.AsyncClient``, but for reconnection, which is ours.
    """

    def __init__(self, manager: BaseManager, **options: Any) -> None:
        self._lines = Lines(manager)
        self._arguments: dict[str, Any] = {}
        self._member: Member | None = None
        self._session: aiohttp.ClientSession | None = None
        self._ended = False
        self._keeper: asyncio.Task[None] | None = None
        options.setdefault("handle_sigint", False)
        options.setdefault("request_timeout", manager.policy.health_timeout)
        super().__init__(reconnection=False, **options)

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint that the connection goes to, or None."""
        return self._member.url if self._member is not None and self.connected else None

    async def connect(self, **arguments: Any) -> None:
        """Connect to the best endpoint that takes us, and stay connected.

        Args:
            arguments: Those of ``socketio.AsyncClient.connect``, but for URL, path and retry.

        Raises:
            NoEndpointAvailable: If no endpoint takes us.
        """
        if self._keeper is not None and not self._keeper.done():
            raise SocketConnectionError("Already connected")
        self._arguments = arguments
        self._ended = False
        await self._connect_somewhere()
        self._keeper = asyncio.create_task(self._keep(), name="mop-config-socket")

    async def _connect_somewhere(self) -> None:
        lines, search = self._lines, Search(self._lines)
        member = search.first()
        while member is not None:
            race = search.race(member)
            try:
                won = await dial_async(race, lines.dial_options(), lines.resolver)
            except DialError:
                search.lost(race.faults)
                break
            await won.connection.aclose()  # it has shown who is there
            search.lost(won.losers)
            try:
                await self._connect_to(won.member)
                return
            except (SocketConnectionError, ValueError) as error:
                search.refused(won.member, error)
            member = search.another(lines.core.clock())
        raise search.exhausted()

    async def _connect_to(self, member: Member) -> None:
        target = member.target
        await self._close_session()
        connector = aiohttp.TCPConnector(
            ssl=self._lines.options.tls, resolver=_OneAddress(target, self._lines.resolver)
        )
        self._session = aiohttp.ClientSession(connector=connector)
        self.eio.http, self.eio.external_http = self._session, True
        # aiohttp takes the name for Host, TLS and certificate from the URL.
        name = member.endpoint.server_name or target.host
        url, path = where(target, name)
        await super().connect(url, socketio_path=path, **self._arguments)
        self._member = member
        self._lines.taken(member)

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _keep(self) -> None:
        """Wait for the connection's end; unless it was meant, find another endpoint."""
        while True:
            await self.eio.wait()
            if self._ended:
                return
            if self._member is not None:
                self._lines.dropped(self._member)
            rounds = 0
            while not self._ended:
                try:
                    await self._connect_somewhere()
                    break
                except NoEndpointAvailable:
                    rounds += 1
                    await asyncio.sleep(self._lines.pause(rounds))

    async def disconnect(self) -> None:
        """Disconnect, and stay so."""
        self._ended = True
        await super().disconnect()
        keeper, self._keeper = self._keeper, None
        if keeper is not None and keeper is not asyncio.current_task():
            keeper.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await keeper
        await self._close_session()

    async def shutdown(self) -> None:
        """Disconnect, and stay so."""
        await self.disconnect()

    async def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._keeper is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.shield(self._keeper)
