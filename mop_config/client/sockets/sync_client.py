"""Socket.io over the pool, with threads: connections that come back on another endpoint.

The client is python-socketio's own, so handlers, namespaces, ``emit`` and ``call`` are as
ever and stay over a switch. Only connecting is ours: a race of dials finds an endpoint that
is there, and after a break the next one is tried until ``disconnect`` is called.
"""

import contextlib
import logging
import threading
from typing import Any, Unpack

import engineio
import socketio
from socketio.exceptions import ConnectionError as SocketConnectionError

from ...net.connect import connect
from ...net.faults import Fault
from ..base import BaseManager
from ..keywords import ConnectKeywords, SocketKeywords, check_keywords
from ..pool.member import PoolMember
from ..transport.dial import dial
from ..transport.exceptions import NoEndpointAvailable
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
from .sync_link import SyncLink

logger = logging.getLogger(__name__)

#: Seconds for which ``disconnect`` waits for a search that is under way.
_PATIENCE = 1.0


class FailoverSocketClient(socketio.Client):  # type: ignore[misc]
    """A Socket.io client that stays connected to some endpoint of a manager.

    Register handlers as with ``socketio.Client``, then ``connect()``. The ``disconnect``
    handler is called at each break, ``connect`` at each new connection. A connection that
    stands moves to another endpoint when its own leaves the list, when another one is pinned,
    and when a better one is back; the new connection stands before the old one is given up.

    Args:
        manager: Whose socket endpoints to use; it is started if it never was.
        options: Those of ``socketio.Client``, but for reconnection, session and
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
        self._link: SyncLink | None = None
        self._pending_link: SyncLink | None = None  # the connection that is being made
        self._ended = threading.Event()
        self._link_lock = threading.RLock()
        self._maintainer: threading.Thread | None = None
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
        def make(**options: Any) -> engineio.Client:
            self._engine_options = options
            return engineio.Client(**options)

        return make

    def _new_engine(self) -> engineio.Client:
        """Make what a connection runs on."""
        return engineio.Client(**self._engine_options)

    @property
    def endpoint(self) -> str | None:
        """The URL of the endpoint that the connection goes to, or None."""
        link = self._link
        return link.member.url if link is not None and link.engine.state == "connected" else None

    def connect(self, **arguments: Unpack[ConnectKeywords]) -> None:
        """Connect to the best endpoint that takes us, and stay connected.

        Args:
            arguments: Those of ``socketio.Client.connect``, but for URL, path and retry.

        Raises:
            ConnectionRefusedError: If the application refuses the login, and no other
                endpoint takes us.
            NoEndpointAvailable: If no endpoint takes us.
        """
        check_keywords(f"{type(self).__name__}.connect()", arguments, ConnectKeywords)
        if (
            self._maintainer is not None
            and self._maintainer.is_alive()
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
        ended = self._ended = threading.Event()
        self._endpoints.attach()
        try:
            link = self._connect_somewhere(ended, None, self._endpoints.core.clock())
            self._maintainer = threading.Thread(
                target=self._maintain, args=(link, ended), name="mop-config-socket", daemon=True
            )
            self._maintainer.start()
        except BaseException:
            self._endpoints.detach()
            self._close_link(ended)
            raise

    def _connect_somewhere(
        self, ended: threading.Event, before: str | None, since: float
    ) -> SyncLink:
        endpoints, search = self._endpoints, SocketSearch(self._endpoints)
        member = search.first()
        while member is not None and not ended.is_set():
            ready = self._dial(search, member)
            link = None if ready is None else self._try_endpoint(ready, search, ended)
            if link is not None:
                self._switch_to(link, ended)
                seconds = max(0.0, endpoints.core.clock() - since)
                endpoints.record_connected(link.member, before, "failed", seconds, search.chosen)
                return link
            member = search.next_candidate(endpoints.core.clock())
        raise search.exhausted()

    def _dial(self, search: SocketSearch, member: PoolMember) -> PoolMember | None:
        """Find an endpoint that is there, or whose proxy is; the engine dials it for itself."""
        endpoints = self._endpoints
        proxy = endpoints.proxy_for(member)
        if proxy is not None:
            try:
                connect(place_of(proxy), endpoints.dial_options(), endpoints.resolver).close()
            except (OSError, RuntimeError, MemoryError):
                search.record_losers([(member, Fault.PROXY)])
                return None
            return member
        race = search.race(member)
        try:
            won = dial(race, endpoints.dial_options(), endpoints.resolver)
        except (OSError, RuntimeError, MemoryError) as error:
            search.failed(race.faults, error)
            return None
        won.connection.close()
        search.record_losers(won.losers)
        return won.member

    def _try_endpoint(
        self, member: PoolMember, search: SocketSearch, ended: threading.Event
    ) -> SyncLink | None:
        """Connect to one endpoint; note why, and give None, where that fails."""
        link = SyncLink(self, member)
        with self._link_lock:
            self._pending_link = link
        try:
            if ended.is_set():
                raise SocketConnectionError("called off")
            headers = self.connection_headers
            headers = headers() if callable(headers) else headers
            link.open(headers, self._arguments.get("transports"))
            if self._arguments["wait"]:
                link.wait_for_namespaces(self._arguments["wait_timeout"])
        except Exception as error:  # python-engineio raises much more than it says
            link.close()
            if not ended.is_set():
                search.refused(member, refusal_of(error))
            return None
        finally:
            with self._link_lock:
                self._pending_link = None
        self._endpoints.record_accepted(member)
        return link

    def _switch_to(self, link: SyncLink, ended: threading.Event) -> None:
        """Take a connection into use, in the place of the one before."""
        with self._link_lock:
            if ended.is_set():
                link.close()
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
                self._call_handler(link, "disconnect", namespace, MOVED)
        with contextlib.suppress(SocketConnectionError):  # the keeper sees it, and looks on
            early = link.use()
            for namespace in link.handshake.joined:
                self._call_handler(link, "connect", namespace)
            for data in early:
                link.engine.start_background_task(self._handle_eio_message, data)
        if before is not None:
            before.close(rooms)

    def _call_handler(self, link: SyncLink, event: str, namespace: str, *about: Any) -> None:
        """Call a handler as python-socketio does: in a thread, whose end is waited for a while."""
        task = link.engine.start_background_task(self._trigger_event, event, namespace, *about)
        task.join(self._endpoints.namespace_timeout)

    def _maintain(self, link: SyncLink, ended: threading.Event) -> None:
        """Stay connected until ``disconnect``, whatever happens."""
        rounds = 0
        try:
            while not ended.is_set():
                began = self._endpoints.core.clock()
                try:
                    link = self._wait_or_move(link, ended)
                    broke = self._endpoints.core.clock()
                    if ended.is_set():
                        break
                    self._endpoints.record_dropped(link.member)
                    link.close()
                    rounds = 0 if broke - began >= STABLE_AFTER else rounds
                    while not ended.wait(self._endpoints.retry_delay(rounds)):
                        rounds += 1
                        with contextlib.suppress(NoEndpointAvailable, SocketConnectionError):
                            link = self._connect_somewhere(ended, link.member.url, broke)
                            break
                except Exception as error:
                    logger.error("the socket goes on after %s: %s", type(error).__name__, error)
                    rounds += 1
                    ended.wait(self._endpoints.retry_delay(rounds))
        finally:
            self._close_link(ended)  # it may have been ended while it was connecting
            self._endpoints.detach()

    def _wait_or_move(self, link: SyncLink, ended: threading.Event) -> SyncLink:
        """Wait for the end of a connection, and move it to a better endpoint before that."""
        planner = MovePlanner(self._endpoints)
        while not link.wait(MOVE_CHECK_INTERVAL) and not ended.is_set():
            better = planner.look(link.member)
            if better is None:
                continue
            member, reason = better
            moved = self._try_endpoint(member, SocketSearch(self._endpoints), ended)
            if moved is None:
                planner.failed()
                continue
            before, link = link.member.url, moved
            self._switch_to(moved, ended)
            self._endpoints.record_connected(member, before, reason, 0.0)
            planner = MovePlanner(self._endpoints)
        return link

    def _close_link(self, ended: threading.Event) -> None:
        """End the connection, unless another ``connect`` has made it."""
        with self._link_lock:
            if ended is not self._ended:
                return
            link, self._link = self._link, None
        if link is not None:
            link.close(self.namespaces)
            self.connected = False

    def disconnect(self) -> None:
        """Disconnect, and stay so."""
        ended = self._ended
        ended.set()
        with self._link_lock:
            trying, link = self._pending_link, self._link
        if trying is not None:
            trying.break_off()
        if link is not None:
            if threading.current_thread() is link.engine.read_loop_task:
                return  # a handler of the break itself: there is nothing left to end
            self._close_link(ended)
        keeper = self._maintainer
        if keeper is not None and keeper is not threading.current_thread():
            keeper.join(_PATIENCE)

    def shutdown(self) -> None:
        """Disconnect, and stay so."""
        self.disconnect()

    def wait(self) -> None:
        """Wait until ``disconnect`` is called."""
        if self._maintainer is not None:
            self._maintainer.join()
