"""``AsyncFailoverSocketClient``: python-socketio's client over the endpoints of a manager."""

import contextlib
import logging
import threading
from typing import Any, Unpack

import socketio
from socketio.exceptions import ConnectionError as SocketConnectionError

from ...net._async.connecting import connect
from ...net.connect import Place
from ...net.faults import Fault
from ..base import BaseManager
from ..keywords import ConnectKeywords, SocketKeywords, check_keywords
from ..pool.member import PoolMember
from ..transport._async.dialing import dial
from ..transport.outcome import NoEndpointAvailable
from .async_link import AsyncLink
from .search import (
    MOVE_CHECK_INTERVAL,
    MOVED,
    STABLE_AFTER,
    MovePlanner,
    SocketEndpoints,
    Step,
    Steps,
    check_options,
    find_endpoint,
    open_endpoint,
)
from .with_asyncio import AsyncEvent, is_current, stop_task, wait_for_task

logger = logging.getLogger(__name__)


class AsyncRun:
    """The time from a ``connect`` to its ``disconnect``.

    Attributes:
        ended: Set by ``disconnect``, and when the background task ends.
        ready: Set when the connection is open, or cannot be opened.
        error: Why the connection could not be opened, or None.
        task: The background task that finds an endpoint, and then stays connected.
    """

    def __init__(self) -> None:
        self.ended = AsyncEvent()
        self.ready = AsyncEvent()
        self.error: BaseException | None = None
        self.task: Any = None


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
        self.link_options: dict[str, Any] = {
            "handle_sigint": False,
            "request_timeout": manager.policy.health_timeout,
            **given,
            "reconnection": False,
        }
        check_options(given)
        self._endpoints = SocketEndpoints(manager)
        self._arguments: dict[str, Any] = {}
        self._lock = threading.Lock()  # guards the link in use and the pending link
        self._link: AsyncLink | None = None
        self._pending_link: AsyncLink | None = None
        self._run = AsyncRun()
        self._run.ended.set()
        self.eio: Any
        self.namespaces: dict[str, Any]
        self.connected: bool
        super().__init__(**self.link_options)

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint of the open connection, or None."""
        link = self._link
        return link.member.url if link is not None and link.eio.state == "connected" else None

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
        if not self._run.ended.is_set():
            raise SocketConnectionError("Already connected")
        timeout = self._endpoints.policy.connect_timeout
        self._arguments = {"wait_timeout": timeout, **arguments}
        run = self._run = AsyncRun()
        self._endpoints.attach()
        try:
            run.task = self.start_background_task(self._work, run)
            await run.ready.wait()
        except BaseException:
            await self._stop(run)
            if run.task is None:
                self._endpoints.detach()
            raise
        if isinstance(run.error, Exception):
            raise run.error
        if run.error is not None:
            raise SocketConnectionError("disconnected meanwhile")

    async def _work(self, run: AsyncRun) -> None:
        """Find an endpoint, and stay connected until ``disconnect``."""
        try:
            link = await self._find(run, None, self._endpoints.state.clock())
            run.ready.set()
            await self._stay_connected(link, run)
        except BaseException as error:
            run.error = error
            if not isinstance(error, Exception):
                raise
        finally:
            run.ended.set()
            run.ready.set()
            await self._close_link(run)
            self._endpoints.detach()

    async def _find(self, run: AsyncRun, before: str | None, since: float) -> AsyncLink:
        """Find an endpoint that accepts a connection, and use that connection."""
        link: AsyncLink = await self._drive(find_endpoint(self._endpoints, before, since), run)
        await self._switch_to(link, run)
        return link

    async def _drive(self, steps: Steps, run: AsyncRun) -> Any:
        """Carry out the steps of a search, and return its result."""
        try:
            step = next(steps)
            while not run.ended.is_set():
                try:
                    result = await self._carry_out(step, run)
                except Exception as error:
                    if run.ended.is_set():
                        break
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value
        raise SocketConnectionError("disconnected meanwhile")

    async def _carry_out(self, step: Step, run: AsyncRun) -> Any:
        if isinstance(step, PoolMember):
            return await self._open(step)
        options, resolver = self._endpoints.dial_options(), self._endpoints.resolver
        if isinstance(step, Place):
            await (await connect(step, options, resolver)).aclose()
            return None
        step.called_off = run.ended.is_set
        winner, stream = await dial(step, options, resolver)
        await stream.aclose()
        return winner

    async def _open(self, member: PoolMember) -> AsyncLink:
        """Open a connection to an endpoint; see ``AsyncLink.open``."""
        link = AsyncLink(self, member)
        with self._lock:
            self._pending_link = link
        try:
            await link.open(**self._arguments)
        finally:
            with self._lock:
                self._pending_link = None
        return link

    async def _switch_to(self, link: AsyncLink, run: AsyncRun) -> None:
        """Replace the connection in use by a new connection."""
        with self._lock:
            before, rooms = self._link, list(self.namespaces)
            was_connected = self.connected
            if not run.ended.is_set():
                self._link = link
                if before is not None:
                    before.is_retired = True
                self.eio, self.sid, self.callbacks = link.eio, link.sid, link.callbacks
                self.namespaces, self.connected = link.namespaces, True
        if self._link is not link:
            await link.close()
            raise SocketConnectionError("disconnected meanwhile")
        if before is not None and was_connected:
            for namespace in rooms:
                await self._call_handler("disconnect", namespace, MOVED)
        for namespace in link.use():
            await self._call_handler("connect", namespace)
        link.release()
        if before is not None:
            await before.close()

    def forget(self, link: AsyncLink) -> None:
        """Record that a connection has ended, if it is the connection in use."""
        with self._lock:
            if link is self._link:
                self.namespaces, self.connected = {}, False

    async def _call_handler(self, event: str, namespace: str, *arguments: Any) -> None:
        """Call a handler in a background task, and wait a bounded time for its end."""
        task = self.start_background_task(self._trigger_event, event, namespace, *arguments)
        await wait_for_task(task, self._endpoints.policy.connect_timeout)

    async def _stay_connected(self, link: AsyncLink, run: AsyncRun) -> None:
        """Search again after each break, until ``disconnect``."""
        rounds = 0
        while not run.ended.is_set():
            began = self._endpoints.state.clock()
            try:
                link = await self._wait_or_move(link, run)
                broke = self._endpoints.state.clock()
                if run.ended.is_set():
                    break
                self._endpoints.record_failed(link.member, Fault.RESET)
                await link.close()
                rounds = 0 if broke - began >= STABLE_AFTER else rounds
                while not await run.ended.wait(self._endpoints.retry_delay(rounds)):
                    rounds += 1
                    with contextlib.suppress(NoEndpointAvailable, SocketConnectionError):
                        link = await self._find(run, link.member.url, broke)
                        break
            except Exception as error:
                logger.error("the socket goes on after %s: %s", type(error).__name__, error)
                rounds += 1
                await run.ended.wait(self._endpoints.retry_delay(rounds))

    async def _wait_or_move(self, link: AsyncLink, run: AsyncRun) -> AsyncLink:
        """Wait for the end of a connection, or move it to a better endpoint meanwhile."""
        planner = MovePlanner(self._endpoints)
        while not await link.wait_for_end(MOVE_CHECK_INTERVAL) and not run.ended.is_set():
            better = planner.due(link.member)
            if better is None:
                continue
            member, reason = better
            moved = await self._drive(open_endpoint(self._endpoints, member), run)
            if moved is None:
                planner.failed()
                continue
            before, link = link.member.url, moved
            await self._switch_to(moved, run)
            self._endpoints.record_connected(member, before, reason, 0.0)
            planner = MovePlanner(self._endpoints)
        return link

    async def _close_link(self, run: AsyncRun) -> None:
        """Close the connection, unless a later ``connect`` has opened it."""
        with self._lock:
            link = self._link if run is self._run else None
        if link is not None:
            await link.close()
            self.forget(link)
            self._link = None

    async def _stop(self, run: AsyncRun) -> None:
        """End a run, with its search or connection."""
        run.ended.set()
        with self._lock:
            pending = self._pending_link
        if pending is not None:
            pending.break_off()
        await self._close_link(run)
        if run.task is not None:
            await stop_task(run.task)

    async def disconnect(self) -> None:
        """Disconnect, and stay disconnected."""
        run, link = self._run, self._link
        run.ended.set()
        # A ``disconnect`` handler may call this after a break: no connection is left to close.
        if link is None or not is_current(link.eio.read_loop_task):
            await self._stop(run)

    async def shutdown(self) -> None:
        """Disconnect, and stay disconnected."""
        await self.disconnect()

    async def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._run.task is not None:
            await wait_for_task(self._run.task, None)
