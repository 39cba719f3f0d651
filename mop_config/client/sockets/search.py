"""The decisions of both Socket.io clients: where to connect, and when to move.

The generator ``Search.find`` yields one of three steps: a dial race to run, the place of a proxy
to connect to, or an endpoint to open a Socket.io connection to. The client performs the step, and
sends the winner of the race, None or the link, or throws the error into the generator.
"""

import logging
from collections.abc import Generator
from typing import Any

import httpx2
from socketio.exceptions import ConnectionRefusedError as LoginRefused

from ...net.connect import Place
from ...net.faults import Fault, lacks_resources
from ..manager import BaseManager
from ..pool.failover import Budget, DialRace, FailedAttempt, Failover, RetryTraits
from ..pool.member import PoolMember, Target
from ..transport.outcome import DialError, NoEndpointAvailable

logger = logging.getLogger(__name__)

#: Seconds after which an open connection resets the backoff of the search.
STABLE_AFTER = 10.0
#: Longest random delay in seconds before an open connection moves to a better endpoint.
MOVE_JITTER = 5.0
#: Seconds between two checks for a better endpoint.
MOVE_CHECK_INTERVAL = 0.5
#: Reason passed to the ``disconnect`` handler when the connection has moved.
MOVED = "moved to another endpoint"

_PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


Step = DialRace | Place | PoolMember
Steps = Generator[Step, Any, Any]


class SocketEndpoints:
    """The Socket.io endpoints of a manager, in the interface that both clients use.

    It also decides when the open connection moves to a better endpoint.
    """

    def __init__(self, manager: BaseManager) -> None:
        self.state = manager._state
        self.policy = manager.policy
        self.resolver = manager._state.resolver
        self.options = manager._network_options
        self._manager = manager  # a client keeps its manager alive
        self._move_at: float | None = None
        self._failed_moves = 0

    def attach(self) -> None:
        """Register a client, which reports moves by ``moved``, and start the manager."""
        with self.state as state:
            state.socketio.attached_clients += 1
        self._manager._start_if_new()

    def detach(self) -> None:
        """Unregister a client."""
        with self.state as state:
            state.socketio.attached_clients -= 1

    def host_in_url(self, target: Target) -> str:
        """Return the last connected address of the host, in the form of a URL's host."""
        known = self.resolver.in_turn(target.host, self.resolver.last(target.host))
        address = known[0] if known else target.host
        return f"[{address.strip('[]')}]" if ":" in address else address

    def record_failed(self, member: PoolMember, fault: Fault, began: float | None = None) -> None:
        """Record that an endpoint could not be reached, or dropped the connection."""
        with self.state as state:
            now = state.clock()
            state.socketio.failed(member, fault, now, now if began is None else began)

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
        self._move_at, self._failed_moves = None, 0
        with self.state as state:
            if origin is not None and origin != member.url:
                state.socketio.moved(origin, member.url, reason, seconds)
            elif origin is not None:
                state.socketio.seconds_without_service += seconds

    def retry_delay(self, rounds: int) -> float:
        """Return the seconds before another search; the first search begins at once."""
        if rounds == 0:
            return 0.0
        return self.policy.backoff(rounds) * (0.9 + 0.2 * self.state.random())

    def due_move(self, member: PoolMember) -> tuple[PoolMember, str] | None:
        """Return the endpoint to move to now and the reason; None to stay.

        A random delay keeps clients that see the same change from moving in step. A pin affects
        one machine only and has no delay.
        """
        with self.state as state:
            now = state.clock()
            better = state.socketio.better_than(member, now)
        if better is None:
            self._move_at = None
            return None
        if self._move_at is None:
            self._move_at = now + (0.0 if better[1] == "pinned" else MOVE_JITTER * state.random())
        return better if now >= self._move_at else None

    def record_failed_move(self) -> None:
        """Record a failed move; the open connection stays."""
        self._failed_moves += 1
        self._move_at = self.state.clock() + self.retry_delay(self._failed_moves)


#: A connect may be repeated at any endpoint, and is never sent twice at once.
_TRAITS = RetryTraits(idempotent=True, replayable=True, hedged=False)


class Search:
    """One search for an endpoint: its candidates and its failures.

    Args:
        endpoints: The endpoints to search.
    """

    def __init__(self, endpoints: SocketEndpoints) -> None:
        self._endpoints = endpoints
        self._state = endpoints.state
        # A separate budget, so that a client without a connection can always search.
        budget = Budget(endpoints.policy)
        self._began = endpoints.state.clock()
        with self._state as state:
            self._failover = Failover(_TRAITS, state.socketio, budget, self._began)
        self._failed: list[FailedAttempt] = []
        self._refusal: Exception | None = None

    def find(self, before: str | None, since: float) -> Steps:
        """Find an endpoint that accepts a connection, and return its link.

        Args:
            before: URL of the endpoint of the connection that broke, or None.
            since: Monotonic seconds at which the time without a connection began.

        Raises:
            ConnectionRefusedError: If the application of an endpoint refused the login.
            NoEndpointAvailable: If no endpoint could be reached.
        """
        first = member = self._failover.member
        while member is not None:
            reached = yield from self._reach(member)
            if reached is not None and (link := (yield from self.open(reached))) is not None:
                seconds = max(0.0, self._state.clock() - since)
                origin = before or (None if first is None or first is reached else first.url)
                self._endpoints.record_connected(reached, origin, "failed", seconds)
                return link
            member = self._next(self._state.clock())
        exhausted = NoEndpointAvailable(tuple(self._failed))
        if self._refusal is None:
            raise exhausted
        raise self._refusal from (exhausted if self._failed else None)

    def _next(self, now: float) -> PoolMember | None:
        with self._state:
            return self._failover.next(now)

    def _reach(self, member: PoolMember) -> Generator[DialRace | Place, Any, PoolMember | None]:
        """Dial an endpoint or its proxy as a test; python-engineio dials again by itself."""
        proxy = self._endpoints.options.for_target(member.target)
        if proxy is not None:
            try:
                yield place_of(proxy)
            except Exception:
                self._record_failed(member, Fault.PROXY)
                return None
            return member
        # No race with proxies: it would dial endpoints directly that need a proxy.
        proxied = self._endpoints.options.knows_proxies
        more = (lambda _: None) if proxied else self._next
        race = DialRace(member, more, self._endpoints.policy.race_delay)
        winner = None
        try:
            winner = yield race
        except (OSError, RuntimeError, MemoryError) as error:
            if not isinstance(error, DialError):
                logger.warning("no Socket.io endpoint can be dialled: %s", error)
        for loser, fault in race.losers:
            self._record_failed(loser, fault)
        return winner

    def open(self, member: PoolMember) -> Steps:
        """Open a connection, and return its link; None if that fails.

        A refused login does not count against the endpoint.
        """
        try:
            link = yield member
        except Exception as error:  # python-engineio raises undocumented exceptions
            refused = isinstance(error, LoginRefused) or "status code 401" in str(error)
            if not refused:
                self._record_failed(member, fault_of_text(error))
                return None
            link, own = None, isinstance(error, LoginRefused)
            self._refusal = self._refusal or (error if own else LoginRefused(str(error)))
        with self._state as state:  # the endpoint accepted, or its application answered
            state.socketio.served(member, state.clock())
        return link

    def _record_failed(self, member: PoolMember, fault: Fault) -> None:
        self._endpoints.record_failed(member, fault, self._began)
        seconds = self._state.clock() - self._began
        self._failed.append(FailedAttempt(member.url, fault, seconds))


def place_of(proxy: httpx2.Proxy) -> Place:
    """Return the place of a proxy."""
    port = proxy.url.port or _PROXY_PORTS.get(proxy.url.scheme, 80)
    return Place(proxy.url.host, port, None)


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
    """Return the fault of a python-socketio error, classified by its message."""
    if lacks_resources(error):
        return Fault.OURS
    text = str(error).lower()
    for words, fault in _WORDS:
        if any(word in text for word in words):
            return fault
    return Fault.REFUSED


_WORDS: tuple[tuple[tuple[str, ...], Fault], ...] = (
    (("too many open files", "cannot allocate memory", "start new thread"), Fault.OURS),
    (("certificate", "ssl"), Fault.TLS),
    (("timed out", "timeout", "unexpected connection"), Fault.CONNECT_TIMEOUT),
    (("status code", "open packet", "unexpected response"), Fault.BAD_STATUS),
    (("reset", "aborted", "recv"), Fault.RESET),
)
