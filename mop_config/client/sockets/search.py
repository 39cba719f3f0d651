"""The search for a Socket.io endpoint, shared by both socket clients."""

import logging
from collections.abc import Iterable
from typing import Any

import httpx2
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.exceptions import ConnectionRefusedError as LoginRefused
from socketio.packet import CONNECT, CONNECT_ERROR

from ...model.endpoint import Kind
from ...net.connect import DialOptions, Place
from ...net.faults import Fault, lacks_resources
from ..base import BaseManager
from ..pool.failover import Candidates, DialRace, FailedAttempt
from ..pool.member import PoolMember
from ..pool.policy import Budget
from ..pool.target import Target
from ..transport.dial import DialError
from ..transport.exceptions import NoEndpointAvailable

logger = logging.getLogger(__name__)

#: A connection that has stood for so many seconds was a good one: the next break is the first.
STABLE_AFTER = 10.0
#: A connection that stands leaves for a better endpoint up to so many seconds later.
MOVE_JITTER = 5.0
#: Seconds between two looks at whether there is a better endpoint.
MOVE_CHECK_INTERVAL = 0.5
#: Reason that the ``disconnect`` handler gets when the connection has moved.
MOVED = "moved to another endpoint"

_PROXY_PORTS = {"http": 80, "https": 443, "socks5": 1080, "socks5h": 1080}


def place_of(proxy: httpx2.Proxy) -> Place:
    """Say where a proxy is."""
    port = proxy.url.port or _PROXY_PORTS.get(proxy.url.scheme, 80)
    return Place(proxy.url.host, port, None)


def with_credentials(proxy: httpx2.Proxy) -> str:
    """Give a proxy's URL with the credentials that it wants."""
    if proxy.auth is None:
        return str(proxy.url)
    user, password = proxy.auth
    return str(proxy.url.copy_with(username=user, password=password))


def check_options(options: dict[str, Any]) -> None:
    """Refuse options of python-socketio that are the manager's to decide.

    Raises:
        ValueError: Naming the option.
    """
    for name in ("reconnection", "http_session", "ssl_verify"):
        if options.get(name, True) is not True:
            raise ValueError(
                f"{name} cannot be set here: the endpoints are the manager's, and so is how to"
                " reach them (its verify, cert and local_address)"
            )


def engine_url(target: Target, host: str) -> tuple[str, str]:
    """Give the URL to connect to, and the engine's path.

    A socket URL's path ``/ws`` means the engine path ``/ws/socket.io``, unless it says so.
    """
    path = target.prefix.decode()
    engine = (path if path.endswith("/socket.io") else f"{path}/socket.io").strip("/")
    return f"{target.scheme.decode()}://{host}:{target.port}", engine


def fault_of_text(error: Exception) -> Fault:
    """Say what an error of python-socketio means; it passes on words, not exceptions."""
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
    (("timed out", "timeout"), Fault.CONNECT_TIMEOUT),
    (("status code", "open packet", "unexpected response"), Fault.BAD_STATUS),
    (("reset", "aborted", "recv"), Fault.RESET),
)


def _no_candidate(_: float) -> None:
    return None


class SocketSearch:
    """One search for an endpoint that accepts a connection."""

    def __init__(self, endpoints: "SocketEndpoints") -> None:
        self._core = endpoints.core
        self._endpoints = endpoints
        # A separate budget: a client that has lost its connection must be allowed to search on.
        self._candidates = Candidates(endpoints.core.socketio, Budget(endpoints.core.policy))
        self.began = endpoints.core.clock()
        self.failed_attempts: list[FailedAttempt] = []
        self.chosen: str | None = None
        self._refusal: Exception | None = None

    def first(self) -> PoolMember | None:
        """Return the first endpoint, or None."""
        with self._core as core:
            member = self._candidates.first(core.clock())
        self.chosen = None if member is None else member.url
        return member

    def next_candidate(self, now: float) -> PoolMember | None:
        """Return the next endpoint, or None."""
        with self._core:
            return self._candidates.next(now)

    def race(self, first: PoolMember) -> DialRace:
        """Begin a race of dials; alone where others may have to be reached by a proxy."""
        more = self.next_candidate if not self._endpoints.options.knows_proxies else _no_candidate
        return DialRace(first, more, self._core.policy.race_delay)

    def record_losers(self, losers: Iterable[tuple[PoolMember, Fault]]) -> None:
        """Record the endpoints that could not be dialled, or not in time."""
        for member, fault in losers:
            with self._core as core:
                core.socketio.failed(member, fault, core.clock(), self.began)
                self.failed_attempts.append(
                    FailedAttempt(member.url, fault, core.clock() - self.began)
                )

    def refused(self, member: PoolMember, error: Exception) -> None:
        """Record an endpoint that did not accept the connection.

        Where the application answered, and refused the login, the endpoint has done its work.
        """
        if isinstance(error, LoginRefused):
            self._refusal = self._refusal or error
            with self._core as core:
                core.socketio.served(member, core.clock())
        else:
            self.record_losers([(member, fault_of_text(error))])

    def failed(self, faults: Iterable[tuple[PoolMember, Fault]], error: Exception) -> None:
        """Note that no endpoint could be dialled, or that this process could not dial."""
        self.record_losers(faults)
        if not isinstance(error, DialError):
            logger.warning("no endpoint can be dialled: %s", error)

    def exhausted(self) -> Exception:
        """Give the exception that it ends with: what the application said, if it was reached."""
        exhausted = NoEndpointAvailable(tuple(self.failed_attempts))
        if self._refusal is None:
            return exhausted
        self._refusal.__cause__ = exhausted if self.failed_attempts else None
        return self._refusal


class NamespaceHandshake:
    """The namespaces of a new connection, until each of them has let us in or refused.

    Args:
        namespaces: Those that are wanted.
        packet_class: Reads a packet.

    Attributes:
        joined: The session's id by namespace.
        refused: What the application said, by namespace.
        early: Messages that came before the connection was in use.
    """

    def __init__(self, namespaces: Iterable[str], packet_class: Any) -> None:
        self._wanted = frozenset(namespaces)
        self._packet_class = packet_class
        self._attachments = 0
        self.joined: dict[str, str | None] = {}
        self.refused: dict[str, Any] = {}
        self.early: list[Any] = []

    def take(self, data: Any) -> str | None:
        """Take a message; give the namespace that it refuses, or None."""
        if self._attachments:
            self._attachments -= 1
            self.early.append(data)
            return None
        packet = self._packet_class(encoded_packet=data)
        namespace = packet.namespace or "/"
        if packet.packet_type == CONNECT:
            self.joined[namespace] = (packet.data or {}).get("sid")
        elif packet.packet_type == CONNECT_ERROR:
            self.refused[namespace] = packet.data
            return namespace
        else:
            self._attachments = getattr(packet, "attachment_count", 0)
            self.early.append(data)
        return None

    @property
    def answered(self) -> int:
        """How many namespaces have answered."""
        return len(self.joined) + len(self.refused)

    @property
    def is_done(self) -> bool:
        """Whether all have."""
        return self._wanted <= self.joined.keys() | self.refused.keys()

    def check(self) -> None:
        """Say whether all of them let us in.

        Raises:
            LoginRefused: With the application's reason, if it refused one.
            ConnectionError: If one has not answered.
        """
        for namespace, data in self.refused.items():
            reason = data.get("message") if isinstance(data, dict) else data
            error = LoginRefused(f"{namespace} is refused: {reason}")
            error.error_args = data
            raise error
        if missing := sorted(self._wanted - self.joined.keys()):
            raise SocketConnectionError(f"no answer from {', '.join(missing)}: timed out")


def refusal_of(error: Exception) -> Exception:
    """Give a handshake that is answered 401 as what it is: the application refuses the login."""
    refused: Exception = LoginRefused(str(error))
    return refused if "status code 401" in str(error) else error


def namespaces_of(client: Any, wanted: Any) -> list[str]:
    """Give the namespaces to connect to: those wanted, or those that have handlers."""
    if isinstance(wanted, str):
        return [wanted]
    handled = sorted({*client.handlers, *client.namespace_handlers} - {"*"})
    return list(wanted) if wanted is not None else handled or ["/"]


class MovePlanner:
    """Decides when an open connection moves to a better endpoint.

    Args:
        endpoints: The socket endpoints.
    """

    def __init__(self, endpoints: "SocketEndpoints") -> None:
        self._endpoints = endpoints
        self._due: float | None = None
        self._failures = 0

    def look(self, member: PoolMember) -> tuple[PoolMember, str] | None:
        """Give the endpoint to move to now, and why; None for none, or not yet.

        A fleet that hears of the same change must not move in step; who pins an endpoint by
        hand does so on one machine.
        """
        core = self._endpoints.core
        with core:
            now = core.clock()
            better = core.socketio.better_than(member, now)
        if better is None:
            self._due = None
            return None
        if self._due is None:
            self._due = now + (0.0 if better[1] == "pinned" else MOVE_JITTER * core.random())
        return better if now >= self._due else None

    def failed(self) -> None:
        """Note that the move did not succeed; the old connection stands."""
        self._failures += 1
        self._due = self._endpoints.core.clock() + self._endpoints.retry_delay(self._failures)


class SocketEndpoints:
    """The Socket.io endpoints of a manager, as both clients use them."""

    def __init__(self, manager: BaseManager) -> None:
        self.core = manager._core
        self.resolver = manager._core.resolver
        self.options = manager._network_options
        self._manager = manager  # lives as long as its clients

    def dial_options(self) -> DialOptions:
        """Say how to dial."""
        policy = self.core.policy
        until = self.core.clock() + policy.total_timeout
        return self.options.for_dial(policy.connect_timeout, until)

    def proxy_for(self, member: PoolMember) -> httpx2.Proxy | None:
        """Say by which proxy an endpoint is reached, if any: the rule of every other request."""
        return self.options.for_target(member.target)

    def address_of(self, target: Target) -> str:
        """Give the address at which a host has just been connected to, for a URL."""
        known = self.resolver.in_turn(target.host, self.resolver.last(target.host))
        address = known[0] if known else target.host
        return f"[{address.strip('[]')}]" if ":" in address else address

    def record_accepted(self, member: PoolMember) -> None:
        """Record that an endpoint accepted the connection."""
        with self.core as core:
            core.socketio.served(member, core.clock())

    def record_connected(
        self,
        member: PoolMember,
        before: str | None,
        reason: str,
        seconds: float,
        chosen: str | None = None,
    ) -> None:
        """Record that a connection is open.

        Args:
            member: Its endpoint.
            before: The URL of the one that it went to before, or None.
            reason: Why it has moved, if it has.
            seconds: For which there was no connection.
            chosen: The URL of the one that it was to go to, or None.
        """
        origin = before or chosen
        with self.core as core:
            if origin is not None and origin != member.url:
                core.socketio.moved(origin, member.url, reason, seconds)
            elif before is not None:
                core.seconds_without_service[Kind.SOCKETIO] += seconds

    def attach(self) -> None:
        """Register a client: start its manager, and count its moves as the pool's switches."""
        self._manager._start_if_new()
        with self.core as core:
            core.socketio.followed += 1

    def detach(self) -> None:
        """Unregister a client."""
        with self.core as core:
            core.socketio.followed -= 1

    def record_dropped(self, member: PoolMember) -> None:
        """Record that an endpoint dropped the connection."""
        with self.core as core:
            core.socketio.failed(member, Fault.RESET, core.clock(), core.clock())

    @property
    def namespace_timeout(self) -> float:
        """Seconds for which an endpoint may leave a namespace without an answer."""
        return self.core.policy.connect_timeout

    def retry_delay(self, rounds: int) -> float:
        """Seconds to wait before another search; the first one begins at once."""
        if rounds == 0:
            return 0.0
        return self.core.policy.health.backoff(rounds) * (0.9 + 0.2 * self.core.random())
