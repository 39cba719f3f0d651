"""The decisions of both Socket.io clients, without I/O: where to connect, and when to move."""

import contextlib
import logging
import re
from collections.abc import Iterator
from functools import partial

import httpx2
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.exceptions import ConnectionRefusedError as LoginRefused

from ...net.faults import Fault, lacks_resources
from ..manager import BaseManager
from ..pool.failover import Attempt, Budget, DialRace, Failover, RetryTraits
from ..pool.member import PoolMember, Target
from ..transport.outcome import NoEndpointAvailable

logger = logging.getLogger(__name__)

#: Seconds after which an open connection resets the backoff of the search.
STABLE_AFTER = 10.0
#: Longest random delay in seconds before an open connection moves to a better endpoint.
MOVE_JITTER = 5.0
#: Seconds between two checks for a better endpoint.
MOVE_CHECK_INTERVAL = 0.5
#: Reason passed to the ``disconnect`` handler when the connection has moved.
MOVED = "moved to another endpoint"

_TRANSPORTS = frozenset({"polling", "websocket"})
#: A connect may be repeated at any endpoint, and is never sent twice at once.
_TRAITS = RetryTraits(idempotent=True, replayable=True, hedged=False)


class SocketEndpoints:
    """The Socket.io endpoints of a manager, in the interface that both clients use.

    It also decides when the open connection moves to a better endpoint.
    """

    def __init__(self, manager: BaseManager) -> None:
        self.state = manager._state
        self.options = manager._network_options
        self._manager = manager  # a client keeps its manager alive
        self._move_at: float | None = None
        self._moves = 0  # tried since the connection was opened
        # Until when no move to an endpoint is tried again, by its URL.
        self._refused: dict[str, float] = {}

    def attach(self) -> None:
        """Register a client, which reports moves by ``moved``, and start the manager."""
        with self.state as state:
            state.socketio.attached_clients += 1
        self._manager._start_if_new()

    def detach(self) -> None:
        """Unregister a client."""
        with self.state as state:
            state.socketio.attached_clients -= 1

    def proxy_of(self, target: Target) -> httpx2.Proxy | None:
        """Return the proxy for connections to an endpoint, or None.

        Raises:
            ValueError: If it is a SOCKS proxy, which the libraries of Socket.io don't know.
        """
        proxy = self.options.for_server(target)
        if proxy is not None and proxy.url.scheme != "http":
            raise ValueError(f"Socket.io takes no SOCKS proxy: {proxy.url}")
        return proxy

    def addresses_of(self, target: Target) -> list[str]:
        """Return the known addresses of a host, the last connected one first.

        They are known, because the search has just connected to the host.
        """
        return self.state.resolver.in_turn(target.host, self.state.resolver.last(target.host))

    def search(self) -> Failover:
        """Begin a search for an endpoint.

        The search has a budget of its own, so that a client without a connection can always search.
        """
        with self.state as state:
            return Failover(_TRAITS, state.socketio, Budget(state.policy), state.clock())

    def next(self, search: Failover, now: float) -> PoolMember | None:
        """Return the next endpoint of a search, or None."""
        with self.state:
            return search.next(now)

    def race(self, search: Failover, member: PoolMember) -> DialRace:
        """Return the dial race of a search that begins with an endpoint."""
        return DialRace(member, partial(self.next, search), self.state.policy.race_delay)

    def record_failed(self, search: Failover, member: PoolMember, fault: Fault) -> None:
        """Record that an endpoint could not be reached."""
        with self.state as state:
            search.record_failure(Attempt(member, state.clock(), search.began), fault)

    def record_broken(self, member: PoolMember) -> None:
        """Record that the connection to an endpoint broke."""
        self.record_failed(self.search(), member, Fault.RESET)

    def record_error(self, search: Failover, member: PoolMember, error: Exception) -> None:
        """Record an error of python-socketio; a refused login does not blame the endpoint."""
        if not isinstance(error, LoginRefused):
            if "status code 401" not in str(error):
                self.record_failed(search, member, fault_of_text(error))
                return
            error = LoginRefused(str(error))
        search.error = search.error or error
        self.record_served(member)

    def record_served(self, member: PoolMember) -> None:
        """Record that an endpoint accepted the connection, or that its application answered."""
        with self.state as state:
            state.socketio.served(member, state.clock())

    def record_connected(
        self, member: PoolMember, origin: str | None, reason: str, seconds: float
    ) -> None:
        """Record that a connection is open.

        Args:
            member: The endpoint of the connection.
            origin: URL of the endpoint before, or None for a first connection.
            reason: Why the endpoint changed.
            seconds: Seconds without a connection.
        """
        self._move_at = None
        self._moves = 0
        self._refused.clear()
        with self.state as state:
            if origin is not None and origin != member.url:
                state.socketio.moved(origin, member.url, reason, seconds)
            elif origin is not None:
                state.socketio.seconds_without_service += seconds

    def retry_delay(self, rounds: int) -> float:
        """Return the seconds before another search; the first search begins at once."""
        if rounds == 0:
            return 0.0
        return self.state.policy.backoff(rounds) * (0.9 + 0.2 * self.state.random())

    def due_move(self, member: PoolMember) -> tuple[PoolMember, str] | None:
        """Return the endpoint to move to now and the reason; None to stay.

        A random delay keeps clients that see the same change from moving in step. A pin affects
        one machine only and has no delay.
        """
        with self.state as state:
            now = state.clock()
            refused = [url for url, until in self._refused.items() if now < until]
            better = state.socketio.better_than(member, now, refused)
        if better is None:
            self._move_at = None
            return None
        if better[1] == "pinned":
            self._move_at = now
        elif self._move_at is None:
            self._move_at = now + MOVE_JITTER * state.random()
        if now < self._move_at:
            return None
        self._moves += 1
        self._refused[better[0].url] = now + self.retry_delay(self._moves)  # unless it succeeds
        return better


@contextlib.contextmanager
def surviving() -> Iterator[None]:
    """Go on after a failed search, and after any error, which is logged."""
    try:
        yield
    except (NoEndpointAvailable, SocketConnectionError):
        pass
    except Exception as error:
        logger.error("the socket goes on after %s: %s", type(error).__name__, error)


def check_transports(transports: list[str] | str | None) -> None:
    """Refuse transports of which python-engineio knows none.

    Raises:
        ValueError: If no transport is known.
    """
    given = [transports] if isinstance(transports, str) else transports
    if given is not None and _TRANSPORTS.isdisjoint(given):
        raise ValueError(f"transports must name polling or websocket, not {transports!r}")


def with_credentials(proxy: httpx2.Proxy) -> str:
    """Return the URL of a proxy with its user and password."""
    if proxy.auth is None:
        return str(proxy.url)
    user, password = proxy.auth
    return str(proxy.url.copy_with(username=user, password=password))


def engine_url(target: Target, host: str) -> tuple[str, str]:
    """Return the URL to connect to, and the path of the Engine.IO server.

    The path ``/ws`` of a socket URL means the engine path ``/ws/socket.io``.
    """
    path = target.prefix.decode()
    engine = (path if path.endswith("/socket.io") else f"{path}/socket.io").strip("/")
    return f"{target.scheme.decode()}://{host}:{target.port}", engine


def fault_of_text(error: Exception) -> Fault:
    """Return the fault of a python-socketio error, by its words and those of its context."""
    text = ""
    context: BaseException | None = error
    while context is not None:
        text += f"{context} "
        context = context.__context__
    if re.search(r"\b407\b", text):
        return Fault.PROXY
    if lacks_resources(error) or any(word in text.lower() for word in _LACKING):
        return Fault.OURS
    return Fault.BAD_STATUS


_LACKING = ("too many open files", "cannot allocate memory", "start new thread")
