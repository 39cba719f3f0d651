"""Finding a Socket.io endpoint that takes a connection; both clients ask here."""

from collections.abc import Iterable
from typing import Any

import httpx2

from ..connect import DialOptions, Place
from ..faults import Fault
from .base import BaseManager
from .exceptions import NoEndpointAvailable
from .failover import Moves, Race, Trial
from .member import Member
from .policy import Budget
from .target import Target

#: A connection that has stood for so many seconds was a good one: the next break is the first.
STEADY = 10.0

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


def where(target: Target, host: str) -> tuple[str, str]:
    """Give the URL to connect to, and the engine's path.

    A socket URL's path ``/ws`` means the engine path ``/ws/socket.io``, unless it says so.
    """
    path = target.prefix.decode()
    engine = (path if path.endswith("/socket.io") else f"{path}/socket.io").strip("/")
    return f"{target.scheme.decode()}://{host}:{target.port}", engine


def fault_of_text(error: Exception) -> Fault:
    """Say what an error of python-socketio means; it passes on words, not exceptions."""
    text = str(error).lower()
    for words, fault in _WORDS:
        if any(word in text for word in words):
            return fault
    return Fault.REFUSED


_WORDS: tuple[tuple[tuple[str, ...], Fault], ...] = (
    (("certificate", "ssl"), Fault.TLS),
    (("timed out", "timeout"), Fault.CONNECT_TIMEOUT),
    (("status code", "open packet", "unexpected response"), Fault.BAD_STATUS),
    (("reset", "aborted", "recv"), Fault.RESET),
)


def _nobody(_: float) -> None:
    return None


class Search:
    """One search for an endpoint that takes a connection."""

    def __init__(self, lines: "Lines") -> None:
        self._core = lines.core
        self._lines = lines
        # Of its own: whoever has lost a connection must be allowed to look on.
        self._moves = Moves(lines.core.socketio, Budget(lines.core.policy))
        self.began = lines.core.clock()
        self.trials: list[Trial] = []

    def first(self) -> Member | None:
        """Give the endpoint to begin with."""
        with self._core as core:
            return self._moves.first(core.clock())

    def another(self, now: float) -> Member | None:
        """Give another endpoint."""
        with self._core:
            return self._moves.next(now)

    def race(self, first: Member) -> Race:
        """Begin a race of dials; alone where others may have to be reached by a proxy."""
        more = self.another if not self._lines.options.knows_proxies else _nobody
        return Race(first, more, self._core.policy.race_delay)

    def lost(self, losers: Iterable[tuple[Member, Fault]]) -> None:
        """Note the endpoints that could not be dialled, or not in time."""
        for member, fault in losers:
            with self._core as core:
                core.socketio.failed(member, fault, core.clock(), self.began)
                self.trials.append(Trial(member.url, fault, core.clock() - self.began))

    def refused(self, member: Member, error: Exception) -> None:
        """Note an endpoint that did not take the connection."""
        self.lost([(member, fault_of_text(error))])

    def exhausted(self) -> NoEndpointAvailable:
        """Give the exception that it ends with."""
        return NoEndpointAvailable(tuple(self.trials))


class Lines:
    """The socket endpoints of a manager, as both clients use them."""

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

    def proxy_for(self, member: Member) -> httpx2.Proxy | None:
        """Say by which proxy an endpoint is reached, if any: the rule of every other request."""
        return self.options.for_target(member.target)

    def address_of(self, target: Target) -> str:
        """Give the address at which a host has just been connected to, for a URL."""
        known = self.resolver.in_turn(target.host, self.resolver.last(target.host))
        address = known[0] if known else target.host
        return f"[{address.strip('[]')}]" if ":" in address else address

    def taken(self, member: Member) -> None:
        """Note that an endpoint took the connection."""
        with self.core as core:
            core.socketio.served(member, core.clock())

    def dropped(self, member: Member) -> None:
        """Note that an endpoint dropped the connection."""
        with self.core as core:
            core.socketio.failed(member, Fault.RESET, core.clock(), core.clock())

    @property
    def patience(self) -> float:
        """Seconds for which an endpoint may leave a namespace without an answer."""
        return self.core.policy.connect_timeout

    def pause(self, rounds: int) -> float:
        """Seconds to wait before another search; the first one begins at once."""
        if rounds == 0:
            return 0.0
        return self.core.policy.health.backoff(rounds) * (0.9 + 0.2 * self.core.random())
