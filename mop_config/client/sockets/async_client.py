"""``AsyncFailoverSocketClient``: python-socketio's client over the endpoints of a manager."""

import contextlib
import logging
import threading
from typing import Any, Unpack

import socketio
from engineio.base_client import connected_clients
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.exceptions import ConnectionRefusedError as LoginRefused

from ..keywords import ConnectKeywords, SocketKeywords, check_keywords
from ..manager import BaseManager
from ..pool.member import PoolMember
from ..transport._async.connecting import dial
from ..transport.outcome import NoEndpointAvailable
from ..transport.with_asyncio import AsyncEvent
from . import search
from .with_asyncio import AsyncEngineSession, is_current, stop_task, wait_for_task

logger = logging.getLogger(__name__)

#: Seconds for the disconnect packets, before the sockets are shut down.
_GOODBYE = 0.5
#: Seconds between two checks whether the answers over a replaced connection have arrived.
_ANSWER_CHECK_INTERVAL = 0.05


class AsyncLink(socketio.AsyncClient):  # type: ignore[misc]
    """A connection to one endpoint: a python-socketio client that calls the handlers of another.

    The handlers are called once the connection is in use. Until then, ``connect`` events are
    collected, and other events wait.

    Args:
        client: The ``AsyncFailoverSocketClient`` with the handlers.
        member: The endpoint.

    Attributes:
        was_thrown_out: Whether the server has ended the connection, without any fault.
        session: The HTTP session; ``break_off`` wakes up a thread that waits for the server.
        released: Set when the ``connect`` handlers have run; other events wait for it.
    """

    def __init__(self, client: Any, member: PoolMember) -> None:
        super().__init__(**client.link_options)
        self.handlers = client.handlers
        self.namespace_handlers = client.namespace_handlers
        self.member = member
        self.was_thrown_out = False
        self._client = client
        self._joined: list[str] | None = []  # None once the connection is in use
        self.released = AsyncEvent()
        self._refusal: Any = None  # the error for a namespace that the application refuses
        self.session = AsyncEngineSession(self.eio, member, client._endpoints)

    @property
    def awaits_answers(self) -> bool:
        """Whether an ``emit`` with a callback, or a ``call``, may still be answered."""
        # python-socketio keeps the counter of the callbacks beside them.
        unanswered = any(len(callbacks) > 1 for callbacks in list(self.callbacks.values()))
        return unanswered and self.eio.state == "connected"

    async def open(self, **arguments: Any) -> None:
        """Connect to the endpoint, and join the namespaces.

        Raises:
            ConnectionRefusedError: If the application refuses a namespace, with its reason.
            Exception: One of many types, with a message.
        """
        url, path = search.engine_url(self.member.target, self.session.host)
        try:
            await self.connect(url, socketio_path=path, **arguments)
        except BaseException as error:
            await self.close()
            if self._refusal is not None:
                raise self._refusal from error
            raise

    def use(self) -> list[str]:
        """Call the handlers from now on; return the namespaces that were joined before."""
        with self._client._lock:
            joined = self._joined or []
            self._joined = None
        return joined

    async def _trigger_event(self, event: str, namespace: str, *arguments: Any) -> Any:
        if event == "connect_error":
            if self.eio.state != "connected":
                return None  # the search reports that the endpoint cannot be reached
            data = arguments[0] if len(arguments) == 1 else arguments
            reason = data.get("message") if isinstance(data, dict) else data
            self._refusal = LoginRefused(f"{namespace} is refused: {reason}")
            self._refusal.error_args = data
        elif event == "connect":
            with self._client._lock:
                if self._joined is not None:
                    self._joined.append(namespace)
                    return None
        else:
            await self.released.wait()
            if self._joined is not None:
                return None
        return await self._client._trigger_event(event, namespace, *arguments)

    async def _handle_eio_disconnect(self, reason: str) -> None:
        self.was_thrown_out = reason != self.reason.TRANSPORT_ERROR
        if self.connected:
            await super()._handle_eio_disconnect(reason)
        else:  # ``connect`` may still wait for the namespaces
            self.namespaces: dict[str, Any] = {}
            self.failed_namespaces = list(self.connection_namespaces)
            self._connect_event.set()
        self._client.forget(self)

    async def _say_goodbye(self) -> None:
        with contextlib.suppress(Exception):
            await self.disconnect()

    async def close(self) -> None:
        """Close the connection in any state."""
        self.released.set()
        goodbye = None
        with contextlib.suppress(Exception):  # the machine may have no thread left
            goodbye = self.start_background_task(self._say_goodbye)
            await wait_for_task(goodbye, _GOODBYE)  # a server may hold the last poll for long
        with contextlib.suppress(Exception):
            await self.eio.disconnect(abort=True)  # if the disconnect packets took too long
        # If the server disconnects at the same moment, python-engineio empties the queue of the
        # writer, which then waits for its end until the next ping.
        self.eio.queue.put_nowait(None)
        with contextlib.suppress(ValueError):
            connected_clients.remove(self.eio)
        await self.session.close()
        if goodbye is not None:  # the ``disconnect`` handler may take longer
            await wait_for_task(goodbye, self._client._endpoints.state.policy.connect_timeout)


class AsyncRun:
    """The time from a ``connect`` to its ``disconnect``.

    Attributes:
        ended: Set by ``disconnect``, and when the background task ends.
        ready: Set when the connection is open, or cannot be opened.
        error: Why the connection is not open yet, or cannot be opened; None once it is open.
        task: The background task that finds an endpoint, and then stays connected.
        search: The latest search for an endpoint.
    """

    def __init__(self) -> None:
        self.ended = AsyncEvent()
        self.ready = AsyncEvent()
        self.error: Exception | None = SocketConnectionError("disconnected meanwhile")
        self.task: Any = None
        self.search: Any = None


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
        TypeError: If an option is unknown, or is set by the manager.
    """

    def __init__(self, manager: BaseManager, **given: Unpack[SocketKeywords]) -> None:
        check_keywords(type(self), given, SocketKeywords)
        own = {"handle_sigint": False, "request_timeout": manager.policy.health_timeout}
        self.link_options: dict[str, Any] = {**own, **given, "reconnection": False}
        self._endpoints = search.SocketEndpoints(manager)
        self._arguments: dict[str, Any] = {}
        self._lock = threading.Lock()  # guards the link in use, and what a link has joined
        self._link: AsyncLink | None = None
        self._pending_link: AsyncLink | None = None
        self._run = AsyncRun()
        self._run.ended.set()
        self.namespaces: dict[str, Any]
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
            ValueError: If ``transports`` names no known transport, or the proxy is at ``socks5://``.
            Exception: Any exception of a function that is given as ``headers`` or ``auth``.
        """
        check_keywords(self.connect, arguments, ConnectKeywords)
        search.check_transports(arguments.get("transports"))
        if not self._run.ended.is_set():
            raise SocketConnectionError("Already connected")
        timeout = self._endpoints.state.policy.connect_timeout
        self._arguments = {"wait_timeout": timeout, **arguments}
        run = self._run = AsyncRun()
        try:
            run.task = self.start_background_task(self._work, run)
            await run.ready.wait()
        except BaseException:
            await self._stop(run)
            raise
        if run.error is not None:
            raise run.error

    async def _work(self, run: AsyncRun) -> None:
        """Find an endpoint, and stay connected until ``disconnect``."""
        try:
            self._endpoints.attach()
            await self._find(run, None, self._endpoints.state.clock())
            run.error = None
            run.ready.set()
            await self._stay_connected(run)
        except Exception as error:
            run.error = error
        finally:
            run.ended.set()
            run.ready.set()
            await self._close_link(run)
            self._endpoints.detach()

    async def _find(self, run: AsyncRun, before: str | None, since: float) -> None:
        """Find an endpoint that accepts a connection, and use that connection.

        Args:
            run: The run that searches.
            before: URL of the endpoint of the connection that broke, or None.
            since: Monotonic seconds at which the time without a connection began.

        Raises:
            ConnectionRefusedError: If the application of an endpoint refused the login.
            NoEndpointAvailable: If no endpoint could be reached.
        """
        endpoints = self._endpoints
        found = run.search = endpoints.search()
        first = member = found.member
        while member is not None and not run.ended.is_set():
            reached = await self._reach(run, member)
            if reached is not None and (link := await self._open(run, reached)) is not None:
                origin = before or (None if first is None or first is reached else first.url)
                seconds = max(0.0, endpoints.state.clock() - since)
                endpoints.record_connected(reached, origin, "failed", seconds)
                await self._switch_to(link, run)
                return
            member = endpoints.next(found, endpoints.state.clock())
        if run.ended.is_set():
            raise SocketConnectionError("disconnected meanwhile")
        raise found.error or NoEndpointAvailable(tuple(found.trials))

    async def _reach(self, run: AsyncRun, member: PoolMember) -> PoolMember | None:
        """Dial an endpoint as a test; python-engineio dials again by itself."""
        endpoints, state = self._endpoints, self._endpoints.state
        until = state.clock() + state.policy.total_timeout
        options = endpoints.options.for_dial(state.policy.connect_timeout, until)
        winner = None
        race = endpoints.race(run.search, member)
        race.called_off = run.ended.is_set
        try:
            winner, stream = await dial(race, options, state.resolver)
            if winner is not None:
                await stream.aclose()
        except (OSError, RuntimeError, MemoryError) as error:
            logger.warning("no Socket.io endpoint can be dialled: %s", error)
        for loser, fault in race.losers:
            endpoints.record_failed(run.search, loser, fault)
        return winner

    async def _open(self, run: AsyncRun, member: PoolMember) -> AsyncLink | None:
        """Open a connection; return None if that fails.

        An exception of the application's ``headers`` or ``auth`` is no fault of the endpoint.
        """
        arguments = dict(self._arguments)
        headers = await self._get_real_value(arguments.get("headers"))
        arguments["headers"] = dict(headers or {})  # python-engineio changes them
        arguments["auth"] = await self._get_real_value(arguments.get("auth"))
        link = self._pending_link = AsyncLink(self, member)
        try:
            await link.open(**arguments)
        except Exception as error:  # python-engineio raises undocumented exceptions
            if not run.ended.is_set():
                self._endpoints.record_error(run.search, member, error)
            return None
        finally:
            self._pending_link = None
        self._endpoints.record_served(member)
        return link

    async def _switch_to(self, link: AsyncLink, run: AsyncRun) -> None:
        """Replace the connection in use by a new connection."""
        with self._lock:
            before = self._link
            rooms = list(self.namespaces)
            if not run.ended.is_set():
                self._link = link
                if before is not None:
                    before.connected = False  # so that its end calls no handler
                self.eio = link.eio
                self.sid = link.sid
                self.callbacks = link.callbacks
                self.namespaces = link.namespaces
                self.connected = True
        if self._link is not link:
            await link.close()
            raise SocketConnectionError("disconnected meanwhile")
        try:
            for namespace in rooms:  # none after a break
                await self._call_handler("disconnect", namespace, search.MOVED)
            for namespace in link.use():
                await self._call_handler("connect", namespace)
            link.released.set()
            until = self._endpoints.state.clock() + self._endpoints.state.policy.total_timeout
            while before is not None and before.awaits_answers and link.eio.state == "connected":
                is_late = self._endpoints.state.clock() >= until
                if is_late or await run.ended.wait(_ANSWER_CHECK_INTERVAL):
                    break
        finally:
            if before is not None:
                await before.close()

    def forget(self, link: AsyncLink) -> None:
        """Record that a connection has ended, if it is the connection in use."""
        with self._lock:
            if link is self._link:
                self.namespaces = {}
                self.connected = False

    async def _call_handler(self, event: str, namespace: str, *arguments: Any) -> None:
        """Call a handler in a background task, and wait a bounded time for its end."""
        task = self.start_background_task(self._trigger_event, event, namespace, *arguments)
        await wait_for_task(task, self._endpoints.state.policy.connect_timeout)

    async def _stay_connected(self, run: AsyncRun) -> None:
        """Search again after each break, until ``disconnect``."""
        endpoints, rounds = self._endpoints, 0
        while True:
            began = endpoints.state.clock()
            link = await self._wait_or_move(run)
            if link is None or run.ended.is_set():
                return
            broke = endpoints.state.clock()
            if not link.was_thrown_out:
                endpoints.record_broken(link.member)
            await link.close()
            rounds = 0 if broke - began >= search.STABLE_AFTER else rounds
            while not await run.ended.wait(endpoints.retry_delay(rounds)):
                rounds += 1
                with search.surviving():
                    await self._find(run, link.member.url, broke)
                    break

    async def _wait_or_move(self, run: AsyncRun) -> AsyncLink | None:
        """Wait for the end of the connection in use, which may move meanwhile; return it."""
        while (link := self._link) is not None and not run.ended.is_set():
            task = link.eio.read_loop_task
            if task is None or await wait_for_task(task, search.MOVE_CHECK_INTERVAL):
                break
            better = self._endpoints.due_move(link.member)
            if better is None:
                continue
            run.search = self._endpoints.search()
            with search.surviving():
                moved = await self._open(run, better[0])
                if moved is not None:
                    self._endpoints.record_connected(better[0], link.member.url, better[1], 0.0)
                    await self._switch_to(moved, run)
        return link

    async def _close_link(self, run: AsyncRun) -> None:
        """Close the connection, unless a later ``connect`` has opened it."""
        with self._lock:
            link = self._link if run is self._run else None
        if link is not None:
            await link.close()
            self._link = None

    async def _stop(self, run: AsyncRun) -> None:
        """End a run, with its search or connection."""
        run.ended.set()
        pending = self._pending_link
        if pending is not None:
            pending.session.break_off()
        await self._close_link(run)
        if run.task is not None:
            await stop_task(run.task)

    async def disconnect(self) -> None:
        """Disconnect, and stay disconnected."""
        run = self._run
        link = self._link
        run.ended.set()
        # A ``disconnect`` handler may call this after a break: no connection is left to close.
        if link is None or not is_current(link.eio.read_loop_task):
            await self._stop(run)

    shutdown = disconnect

    async def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._run.task is not None:
            await wait_for_task(self._run.task, None)
