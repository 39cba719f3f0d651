"""Socket.io over the pool, on asyncio: connections that come back on another endpoint.

The client is python-socketio's own, so handlers, namespaces, ``emit`` and ``call`` are as
ever and stay over a switch. Only connecting is ours: a race of dials finds an endpoint that
is there, and after a break the next one is tried until ``disconnect`` is called.
"""

import asyncio
import contextlib
import inspect
import logging
from typing import Any, Unpack

import engineio
import socketio
from socketio.exceptions import ConnectionError as SocketConnectionError

from ...net.faults import Fault
from ..base import BaseManager
from ..keywords import ConnectKeywords, SocketKeywords, check_keywords
from ..pool.member import PoolMember
from ..transport._async.dial import connect_async, dial_async
from ..transport.exceptions import NoEndpointAvailable
from .async_link import AsyncLink
from .search import (
    MOVE_CHECK_INTERVAL,
    MOVED,
    STABLE_AFTER,
    MovePlanner,
    SocketEndpoints,
    SocketSearch,
    check_options,
    namespaces_of,
    place_of,
    refusal_of,
)

logger = logging.getLogger(__name__)


class AsyncFailoverSocketClient(socketio.AsyncClient):  # type: ignore[misc]
    """The asynchronous twin of ``FailoverSocketClient``.

    Args:
        manager: Whose socket endpoints to use; it is started if it never was.
        options: Those of ``socketio.AsyncClient``, but for reconnection, session and
            verification, which are ours.

    Raises:
        ValueError: If one of those is among the options.
    """

    def __init__(self, manager: BaseManager, **given: Unpack[SocketKeywords]) -> None:
        check_keywords(f"{type(self).__name__}()", given, SocketKeywords, ["manager"])
        options: dict[str, Any] = {**given}
        check_options(options)
        self._endpoints = SocketEndpoints(manager)
        self._arguments: dict[str, Any] = {}
        self._engine_options: dict[str, Any] = {}
        self._link: AsyncLink | None = None
        self._ended = asyncio.Event()
        self._maintainer: asyncio.Task[None] | None = None
        self._searching: asyncio.Task[Any] | None = None
        self._tasks: set[asyncio.Task[Any]] = set()  # the loop itself holds them weakly
        options.setdefault("handle_sigint", False)
        options.setdefault("request_timeout", manager.policy.health_timeout)
        self.eio: Any
        self.sid: Any
        self.namespaces: dict[str, Any]
        self.failed_namespaces: list[str]
        self.callbacks: dict[str, Any]
        self.connected: bool
        super().__init__(**{**options, "reconnection": False})

    def _engineio_client_class(self) -> Any:
        def make(**options: Any) -> engineio.AsyncClient:
            self._engine_options = options
            return engineio.AsyncClient(**options)

        return make

    def _new_engine(self) -> engineio.AsyncClient:
        """Make what a connection runs on."""
        return engineio.AsyncClient(**self._engine_options)

    async def _value_of(self, value: Any) -> Any:
        """Give a value that may also be a function, or a coroutine function, that gives it."""
        value = value() if callable(value) else value
        return await value if inspect.isawaitable(value) else value

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint that the connection goes to, or None."""
        link = self._link
        return link.member.url if link is not None and link.engine.state == "connected" else None

    async def connect(self, **arguments: Unpack[ConnectKeywords]) -> None:
        """Connect to the best endpoint that takes us, and stay connected.

        Args:
            arguments: Those of ``socketio.AsyncClient.connect``, but for URL, path and retry.

        Raises:
            ConnectionRefusedError: If the application refuses the login, and no other
                endpoint takes us.
            NoEndpointAvailable: If no endpoint takes us.
        """
        check_keywords(f"{type(self).__name__}.connect()", arguments, ConnectKeywords)
        if (
            self._maintainer is not None
            and not self._maintainer.done()
            and not self._ended.is_set()
        ):
            raise SocketConnectionError("Already connected")
        self._arguments = {
            "wait": True,
            "wait_timeout": self._endpoints.namespace_timeout,
            **arguments,
        }
        self.connection_headers = arguments.get("headers") or {}
        self.connection_auth = arguments.get("auth")
        self.connection_namespaces = namespaces_of(self, arguments.get("namespaces"))
        self._connect_event = self.eio.create_event()
        # One event per connect: an older search that was cancelled must not go on.
        ended = self._ended = asyncio.Event()
        self._endpoints.attach()
        search = self._connect_somewhere(ended, None, self._endpoints.core.clock())
        searching = self._searching = asyncio.create_task(search)
        try:
            link = await searching
        except BaseException as error:
            searching.cancel()
            await asyncio.wait({searching})
            self._endpoints.detach()
            await self._close_link(ended)
            task = asyncio.current_task()
            called_off = ended.is_set() and not (task is not None and task.cancelling())
            if isinstance(error, asyncio.CancelledError) and called_off:
                raise SocketConnectionError("disconnected meanwhile") from None
            raise
        self._maintainer = asyncio.create_task(
            self._maintain(link, ended), name="mop-config-socket"
        )

    async def _connect_somewhere(
        self, ended: asyncio.Event, before: str | None, since: float
    ) -> AsyncLink:
        endpoints, search = self._endpoints, SocketSearch(self._endpoints)
        member = search.first()
        while member is not None and not ended.is_set():
            ready = await self._dial(search, member)
            link = None if ready is None else await self._try_endpoint(ready, search)
            if link is not None:
                await self._switch_to(link, ended)
                seconds = max(0.0, endpoints.core.clock() - since)
                endpoints.record_connected(link.member, before, "failed", seconds, search.chosen)
                return link
            member = search.next_candidate(endpoints.core.clock())
        raise search.exhausted()

    async def _dial(self, search: SocketSearch, member: PoolMember) -> PoolMember | None:
        """Find an endpoint that is there, or whose proxy is; the engine dials it for itself."""
        endpoints = self._endpoints
        proxy = endpoints.proxy_for(member)
        if proxy is not None:
            try:
                stream = await connect_async(
                    place_of(proxy), endpoints.dial_options(), endpoints.resolver
                )
            except Exception:
                search.record_losers([(member, Fault.PROXY)])
                return None
            await stream.aclose()
            return member
        race = search.race(member)
        try:
            won = await dial_async(race, endpoints.dial_options(), endpoints.resolver)
        except (OSError, RuntimeError, MemoryError) as error:
            search.failed(race.faults, error)
            return None
        await won.connection.aclose()
        search.record_losers(won.losers)
        return won.member

    async def _try_endpoint(self, member: PoolMember, search: SocketSearch) -> AsyncLink | None:
        """Connect to one endpoint; note why, and give None, where that fails."""
        link = AsyncLink(self, member)
        try:
            headers = await self._value_of(self.connection_headers)
            await link.open(headers, self._arguments.get("transports"))
            if self._arguments["wait"]:
                await link.wait_for_namespaces(self._arguments["wait_timeout"])
        except Exception as error:  # python-engineio raises much more than it says
            await link.close()
            search.refused(member, refusal_of(error))
            return None
        except BaseException:
            await link.close()
            raise
        self._endpoints.record_accepted(member)
        return link

    async def _switch_to(self, link: AsyncLink, ended: asyncio.Event) -> None:
        """Take a connection into use, in the place of the one before."""
        if ended.is_set():
            await link.close()
            raise SocketConnectionError("disconnected meanwhile")
        before, self._link = self._link, link
        rooms = list(self.namespaces)
        if before is not None:
            before.is_retired = True
        self.eio, self.sid = link.engine, link.engine.sid
        self.callbacks, self._binary_packet = {}, None
        self.namespaces, self.failed_namespaces = dict(link.handshake.joined), []
        was_connected, self.connected = self.connected, True
        if before is not None and was_connected:
            for namespace in rooms:
                await self._call_handler("disconnect", namespace, MOVED)
        with contextlib.suppress(SocketConnectionError):  # the keeper sees it, and looks on
            early = link.use()
            for namespace in link.handshake.joined:
                await self._call_handler("connect", namespace)
            for data in early:
                task = self.start_background_task(self._handle_eio_message, data)
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)
        if before is not None:
            await before.close(rooms)

    async def _call_handler(self, event: str, namespace: str, *about: Any) -> None:
        """Call a handler, whose end is waited for a while."""
        task = self.start_background_task(self._trigger_event, event, namespace, *about)
        await asyncio.wait({task}, timeout=self._endpoints.namespace_timeout)

    async def _maintain(self, link: AsyncLink, ended: asyncio.Event) -> None:
        """Stay connected until ``disconnect``, whatever happens."""
        rounds = 0
        try:
            while not ended.is_set():
                began = self._endpoints.core.clock()
                try:
                    link = await self._wait_or_move(link, ended)
                    broke = self._endpoints.core.clock()
                    if ended.is_set():
                        break
                    self._endpoints.record_dropped(link.member)
                    await link.close()
                    rounds = 0 if broke - began >= STABLE_AFTER else rounds
                    while not await self._is_ended_within(self._endpoints.retry_delay(rounds)):
                        rounds += 1
                        with contextlib.suppress(NoEndpointAvailable, SocketConnectionError):
                            link = await self._connect_somewhere(ended, link.member.url, broke)
                            break
                except Exception as error:
                    logger.error("the socket goes on after %s: %s", type(error).__name__, error)
                    rounds += 1
                    await self._is_ended_within(self._endpoints.retry_delay(rounds))
        finally:
            await self._close_link(ended)
            self._endpoints.detach()

    async def _wait_or_move(self, link: AsyncLink, ended: asyncio.Event) -> AsyncLink:
        """Wait for the end of a connection, and move it to a better endpoint before that."""
        planner = MovePlanner(self._endpoints)
        while not await link.wait(MOVE_CHECK_INTERVAL) and not ended.is_set():
            better = planner.look(link.member)
            if better is None:
                continue
            member, reason = better
            moved = await self._try_endpoint(member, SocketSearch(self._endpoints))
            if moved is None:
                planner.failed()
                continue
            before, link = link.member.url, moved
            await self._switch_to(moved, ended)
            self._endpoints.record_connected(member, before, reason, 0.0)
            planner = MovePlanner(self._endpoints)
        return link

    async def _is_ended_within(self, seconds: float) -> bool:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    async def _close_link(self, ended: asyncio.Event) -> None:
        """End the connection, unless another ``connect`` has made it."""
        if ended is not self._ended:
            return
        link, self._link = self._link, None
        if link is not None:
            await link.close(list(self.namespaces))
            self.connected = False

    async def disconnect(self) -> None:
        """Disconnect, and stay so."""
        ended, link, task = self._ended, self._link, asyncio.current_task()
        ended.set()
        if link is not None:
            if task is link.engine.read_loop_task:
                return  # a handler of the break itself: there is nothing left to end
            await self._close_link(ended)
        for other in (self._searching, self._maintainer):
            if other is not None and other is not task and not other.done():
                other.cancel()
                await asyncio.wait({other})

    async def shutdown(self) -> None:
        """Disconnect, and stay so."""
        await self.disconnect()

    async def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._maintainer is not None:
            await asyncio.wait({self._maintainer})
