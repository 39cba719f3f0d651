"""Socket.io over the pool, on asyncio: connections that come back on another endpoint.

The client is python-socketio's own, so handlers, namespaces, ``emit`` and ``call`` are as
ever and stay over a switch. Only connecting is ours: a race of dials finds an endpoint that
is there, and after a break the next one is tried until ``disconnect`` is called.
"""

import asyncio
import contextlib
import socket
from typing import Any, Unpack

import aiohttp
import socketio
from aiohttp.abc import AbstractResolver, ResolveResult
from engineio.base_client import connected_clients
from socketio.exceptions import ConnectionError as SocketConnectionError

from ..faults import Fault
from ..resolve import Resolver
from .aio_dial import connect_async, dial_async
from .base import BaseManager
from .dial import DialError
from .exceptions import NoEndpointAvailable
from .keywords import ConnectKeywords, SocketKeywords, check_keywords
from .member import Member
from .socket_search import (
    STEADY,
    Lines,
    Search,
    check_options,
    place_of,
    where,
    with_credentials,
)
from .target import Target

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


class AsyncFailoverSocketClient(socketio.AsyncClient):  # type: ignore[misc]
    """The asynchronous twin of ``FailoverSocketClient``.

    Args:
        manager: Whose socket endpoints to use.
        options: Those of ``socketio.AsyncClient``, but for reconnection, session and
            verification, which are ours.

    Raises:
        ValueError: If one of those is among the options.
    """

    def __init__(self, manager: BaseManager, **given: Unpack[SocketKeywords]) -> None:
        check_keywords(f"{type(self).__name__}()", given, SocketKeywords, ["manager"])
        options: dict[str, Any] = {**given}
        check_options(options)
        self._lines = Lines(manager)
        self._arguments: dict[str, Any] = {}
        self._member: Member | None = None
        self._session: aiohttp.ClientSession | None = None
        self._ended = asyncio.Event()
        self._keeper: asyncio.Task[None] | None = None
        options.setdefault("handle_sigint", False)
        options.setdefault("request_timeout", manager.policy.health_timeout)
        super().__init__(**{**options, "reconnection": False})

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint that the connection goes to, or None."""
        up = self._member is not None and self.eio.state == "connected"
        return self._member.url if up and self._member is not None else None

    async def connect(self, **arguments: Unpack[ConnectKeywords]) -> None:
        """Connect to the best endpoint that takes us, and stay connected.

        Args:
            arguments: Those of ``socketio.AsyncClient.connect``, but for URL, path and retry.

        Raises:
            NoEndpointAvailable: If no endpoint takes us.
        """
        check_keywords(f"{type(self).__name__}.connect()", arguments, ConnectKeywords)
        if self._keeper is not None and not self._keeper.done():
            raise SocketConnectionError("Already connected")
        self._arguments = {**arguments}
        self._ended.clear()
        try:
            await self._connect_somewhere()
        except BaseException:
            await self._leave()
            raise
        self._keeper = asyncio.create_task(self._keep(), name="mop-config-socket")

    async def _connect_somewhere(self) -> None:
        lines, search = self._lines, Search(self._lines)
        member = search.first()
        while member is not None and not self._ended.is_set():
            ready = await self._dial(search, member)
            if ready is not None:
                try:
                    await self._connect_to(ready)
                    return
                except Exception as error:  # python-engineio raises much more than it says
                    await self._leave()
                    search.refused(ready, error)
            member = search.another(lines.core.clock())
        raise search.exhausted()

    async def _dial(self, search: Search, member: Member) -> Member | None:
        """Find an endpoint that is there, or whose proxy is; the engine dials it for itself."""
        lines = self._lines
        proxy = lines.proxy_for(member)
        if proxy is not None:
            try:
                stream = await connect_async(place_of(proxy), lines.dial_options(), lines.resolver)
            except Exception:
                search.lost([(member, Fault.PROXY)])
                return None
            await stream.aclose()
            return member
        race = search.race(member)
        try:
            won = await dial_async(race, lines.dial_options(), lines.resolver)
        except DialError:
            search.lost(race.faults)
            return None
        await won.connection.aclose()
        search.lost(won.losers)
        return won.member

    async def _connect_to(self, member: Member) -> None:
        target, proxy = member.target, self._lines.proxy_for(member)
        await self._close_session()
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                ssl=self._lines.options.tls, resolver=_OneAddress(target, self._lines.resolver)
            ),
            # Endpoints may be IP addresses, and balancers hold a session by its cookie.
            cookie_jar=aiohttp.CookieJar(unsafe=True),
            proxy=None if proxy is None else with_credentials(proxy),
        )
        self.eio.http, self.eio.external_http = self._session, True
        # aiohttp takes the name for Host, TLS and certificate from the URL.
        name = member.endpoint.server_name or target.host
        url, path = where(target, name)
        self._member = member
        arguments = {"wait": True, "wait_timeout": self._lines.patience, **self._arguments}
        wait, seconds = arguments.pop("wait"), arguments.pop("wait_timeout")
        await super().connect(url, socketio_path=path, wait=False, **arguments)
        if wait:
            await self._wait_for_namespaces(seconds)
        self._lines.taken(member)

    async def _wait_for_namespaces(self, seconds: float) -> None:
        """Do what ``connect`` would: it would call our own ``disconnect``, which is for good."""
        with contextlib.suppress(TimeoutError):
            while len(self.namespaces) + len(self.failed_namespaces) < len(
                self.connection_namespaces
            ):
                await asyncio.wait_for(self._connect_event.wait(), seconds)
                self._connect_event.clear()
        if set(self.namespaces) != set(self.connection_namespaces):
            refused = ", ".join(self.failed_namespaces) or "no answer"
            raise SocketConnectionError(f"not every namespace was connected: {refused}")

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()

    async def _keep(self) -> None:
        """Wait for the connection's end; unless it was meant, find another endpoint."""
        rounds = 0
        try:
            while not self._ended.is_set():
                began = self._lines.core.clock()
                # Shielded: to call us off must not tear the engine's own task.
                await asyncio.shield(self.eio.wait())
                if self._ended.is_set():
                    return
                if self._member is not None:
                    self._lines.dropped(self._member)
                if self._lines.core.clock() - began >= STEADY:
                    rounds = 0
                while not await self._is_ended_within(self._lines.pause(rounds)):
                    rounds += 1
                    with contextlib.suppress(NoEndpointAvailable):
                        await self._connect_somewhere()
                        break
        finally:
            await self._leave()

    async def _is_ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    async def _leave(self) -> None:
        """End the connection, whatever state it is in."""
        with contextlib.suppress(Exception):
            async with asyncio.timeout(_GOODBYE):
                await super().disconnect()
        with contextlib.suppress(Exception):
            await self.eio.disconnect(abort=True)  # what remains where that took too long
        with contextlib.suppress(ValueError):
            connected_clients.remove(self.eio)
        self.connected = False
        await self._close_session()

    async def disconnect(self) -> None:
        """Disconnect, and stay so."""
        self._ended.set()
        task = asyncio.current_task()
        if task is self.eio.read_loop_task:
            return  # a handler of the break itself: there is nothing left to end
        if self.eio.state == "connected":
            await self._leave()
        keeper = self._keeper
        if keeper is not None and keeper is not task:
            keeper.cancel()
            await asyncio.wait({keeper})

    async def shutdown(self) -> None:
        """Disconnect, and stay so."""
        await self.disconnect()

    async def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._keeper is not None:
            await asyncio.wait({self._keeper})
