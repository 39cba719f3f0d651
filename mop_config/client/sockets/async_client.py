"""``AsyncFailoverSocketClient``: python-socketio's client over the endpoints of a manager."""

import contextlib
import logging
import threading
from typing import Any, Unpack

import engineio
import socketio
from socketio.exceptions import ConnectionError as SocketConnectionError

from ...net.faults import Fault
from ..base import BaseManager
from ..keywords import ConnectKeywords, SocketKeywords, check_keywords
from ..pool.member import PoolMember
from ..transport.outcome import NoEndpointAvailable
from .async_link import AsyncLink
from .search import (
    MOVE_CHECK_INTERVAL,
    MOVED,
    STABLE_AFTER,
    DialStep,
    MovePlanner,
    ProxyStep,
    SocketEndpoints,
    Step,
    Steps,
    check_options,
    find_endpoint,
    namespaces_of,
    open_endpoint,
)
from .with_asyncio import (
    AsyncEvent,
    AsyncWorker,
    dial_place,
    dial_race,
    is_current,
    value_of,
    wait_for_task,
)

logger = logging.getLogger(__name__)


class AsyncFailoverSocketClient(socketio.AsyncClient):  # type: ignore[misc]
    """A Socket.io client that stays connected to an endpoint of a manager.

    Register handlers as with ``socketio.AsyncClient``, then call ``connect()``. Handlers,
    namespaces, ``emit`` and ``call`` work as in python-socketio, and persist over a switch. After
    a break the client searches for the next endpoint, until ``disconnect()`` is called. Each
    break calls the ``disconnect`` handler, each new connection the ``connect`` handler. An open
    connection moves if its endpoint leaves the list, if another endpoint is pinned, or if a
    better endpoint recovers; the new connection is open before the old connection is closed.

    Args:
        manager: The manager of the endpoints; ``connect`` starts a manager that never ran.
        **given: The options of ``socketio.AsyncClient``, except for reconnection, session and
            verification, which the manager sets.

    Raises:
        ValueError: If ``options`` has an option that the manager sets.
    """

    def __init__(self, manager: BaseManager, **given: Unpack[SocketKeywords]) -> None:
        check_keywords(f"{type(self).__name__}()", given, SocketKeywords, ["manager"])
        options: dict[str, Any] = {**given}
        check_options(options)
        self._endpoints = SocketEndpoints(manager)
        self._arguments: dict[str, Any] = {}
        self._engine_options: dict[str, Any] = {}
        self._lock = threading.Lock()  # guards the link in use and the pending link
        self._link: AsyncLink | None = None
        self._pending_link: AsyncLink | None = None
        self._ended = AsyncEvent()
        self._worker: AsyncWorker | None = None
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
        """Create the engine of a new connection."""
        return engineio.AsyncClient(**self._engine_options)

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint of the open connection, or None."""
        link = self._link
        return link.member.url if link is not None and link.engine.state == "connected" else None

    async def connect(self, **arguments: Unpack[ConnectKeywords]) -> None:
        """Connect to the best endpoint that accepts the connection, and stay connected.

        Args:
            arguments: The arguments of ``socketio.AsyncClient.connect``, without URL, path and
                retry.

        Raises:
            ConnectionRefusedError: If the application refuses the login, and no other
                endpoint accepts it.
            NoEndpointAvailable: If no endpoint accepts the connection.
        """
        check_keywords(f"{type(self).__name__}.connect()", arguments, ConnectKeywords)
        before = self._worker
        if before is not None and before.is_running and not self._ended.is_set():
            raise SocketConnectionError("Already connected")
        timeout = self._endpoints.policy.connect_timeout
        self._arguments = {"wait": True, "wait_timeout": timeout, **arguments}
        self.connection_headers = arguments.get("headers") or {}
        self.connection_auth = arguments.get("auth")
        self.connection_namespaces = namespaces_of(self, arguments.get("namespaces"))
        self._connect_event = self.eio.create_event()
        # One event per connect, so that an earlier worker stays cancelled.
        ended = self._ended = AsyncEvent()
        self._endpoints.attach()
        try:
            self._worker = AsyncWorker(lambda worker: self._work(worker, ended))
        except BaseException:
            self._endpoints.detach()
            raise
        try:
            await self._worker.wait_until_ready()
        except BaseException:
            await self._stop(ended, self._worker)
            raise

    async def _work(self, worker: AsyncWorker, ended: AsyncEvent) -> None:
        """Find an endpoint, and stay connected until ``disconnect``."""
        try:
            link = await self._find(ended, None, self._endpoints.state.clock())
            worker.ready()
            await self._stay_connected(link, ended)
        finally:
            await self._close_link(ended)
            self._endpoints.detach()

    async def _find(self, ended: AsyncEvent, before: str | None, since: float) -> AsyncLink:
        """Find an endpoint that accepts a connection, and use that connection."""
        link: AsyncLink = await self._drive(find_endpoint(self._endpoints, before, since), ended)
        await self._switch_to(link, ended)
        return link

    async def _drive(self, steps: Steps, ended: AsyncEvent) -> Any:
        """Carry out the steps of a search, and return its result."""
        try:
            step = next(steps)
            while not ended.is_set():
                try:
                    result = await self._carry_out(step, ended)
                except Exception as error:
                    if ended.is_set():
                        break
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value
        raise SocketConnectionError("disconnected meanwhile")

    async def _carry_out(self, step: Step, ended: AsyncEvent) -> Any:
        if isinstance(step, DialStep):
            step.race.called_off = ended.is_set
            return await dial_race(step.race, self._endpoints)
        if isinstance(step, ProxyStep):
            return await dial_place(step.place, self._endpoints)
        return await self._open(step.member)

    async def _open(self, member: PoolMember) -> AsyncLink:
        """Open a connection to an endpoint.

        Raises:
            Exception: One of many types, with a message.
        """
        link = AsyncLink(self, member)
        with self._lock:
            self._pending_link = link
        try:
            headers = await value_of(self.connection_headers)
            await link.open(headers, self._arguments.get("transports"))
            if self._arguments["wait"]:
                await link.wait_for_namespaces(self._arguments["wait_timeout"])
        except BaseException:
            await link.close()
            raise
        finally:
            with self._lock:
                self._pending_link = None
        return link

    async def _switch_to(self, link: AsyncLink, ended: AsyncEvent) -> None:
        """Replace the connection in use by a new connection."""
        with self._lock:
            before, rooms = self._link, list(self.namespaces)
            was_connected = self.connected
            if not ended.is_set():
                self._link = link
                if before is not None:
                    before.is_retired = True
                self.eio, self.sid = link.engine, link.engine.sid
                self.callbacks, self._binary_packet = {}, None
                self.namespaces, self.failed_namespaces = dict(link.handshake.joined), []
                self.connected = True
        if self._link is not link:
            await link.close()
            raise SocketConnectionError("disconnected meanwhile")
        if before is not None and was_connected:
            for namespace in rooms:
                await self._call_handler("disconnect", namespace, MOVED)
        with contextlib.suppress(SocketConnectionError):  # the worker notices, and searches
            early = link.use()
            for namespace in link.handshake.joined:
                await self._call_handler("connect", namespace)
            for data in early:
                link.tasks.append(self.start_background_task(self._handle_eio_message, data))
        if before is not None:
            await before.close(rooms)

    async def _call_handler(self, event: str, namespace: str, *arguments: Any) -> None:
        """Call a handler in a background task, and wait a bounded time for its end."""
        task = self.start_background_task(self._trigger_event, event, namespace, *arguments)
        await wait_for_task(task, self._endpoints.policy.connect_timeout)

    async def _stay_connected(self, link: AsyncLink, ended: AsyncEvent) -> None:
        """Search again after each break, until ``disconnect``."""
        rounds = 0
        while not ended.is_set():
            began = self._endpoints.state.clock()
            try:
                link = await self._wait_or_move(link, ended)
                broke = self._endpoints.state.clock()
                if ended.is_set():
                    break
                self._endpoints.record_failed(link.member, Fault.RESET)
                await link.close()
                rounds = 0 if broke - began >= STABLE_AFTER else rounds
                while not await ended.wait(self._endpoints.retry_delay(rounds)):
                    rounds += 1
                    with contextlib.suppress(NoEndpointAvailable, SocketConnectionError):
                        link = await self._find(ended, link.member.url, broke)
                        break
            except Exception as error:
                logger.error("the socket goes on after %s: %s", type(error).__name__, error)
                rounds += 1
                await ended.wait(self._endpoints.retry_delay(rounds))

    async def _wait_or_move(self, link: AsyncLink, ended: AsyncEvent) -> AsyncLink:
        """Wait for the end of a connection, or move it to a better endpoint meanwhile."""
        planner = MovePlanner(self._endpoints)
        while not await link.wait(MOVE_CHECK_INTERVAL) and not ended.is_set():
            better = planner.due(link.member)
            if better is None:
                continue
            member, reason = better
            moved = await self._drive(open_endpoint(self._endpoints, member), ended)
            if moved is None:
                planner.failed()
                continue
            before, link = link.member.url, moved
            await self._switch_to(moved, ended)
            self._endpoints.record_connected(member, before, reason, 0.0)
            planner = MovePlanner(self._endpoints)
        return link

    async def _close_link(self, ended: AsyncEvent) -> None:
        """Close the connection, unless a later ``connect`` has opened it."""
        with self._lock:
            link = None
            if ended is self._ended:
                link, self._link = self._link, None
        if link is not None:
            await link.close(list(self.namespaces))
            self.connected = False

    async def _stop(self, ended: AsyncEvent, worker: AsyncWorker | None) -> None:
        """End a worker and its running search or connection."""
        ended.set()
        with self._lock:
            pending = self._pending_link
        if pending is not None:
            pending.break_off()
        await self._close_link(ended)
        if worker is not None:
            await worker.stop()

    async def disconnect(self) -> None:
        """Disconnect, and stay disconnected."""
        ended, link, worker = self._ended, self._link, self._worker
        ended.set()
        # A ``disconnect`` handler may call this after a break: no connection is left to close.
        if link is None or not is_current(link.engine.read_loop_task):
            await self._stop(ended, worker)

    async def shutdown(self) -> None:
        """Disconnect, and stay disconnected."""
        await self.disconnect()

    async def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._worker is not None:
            await self._worker.wait()
