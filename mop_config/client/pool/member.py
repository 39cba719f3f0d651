"""``PoolMember``: an endpoint of a pool, with its address, measurements and public state. Pure."""

import re
from collections import Counter, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, NamedTuple

from ...health.state import Health
from ...model.address import DEFAULT_PORTS, parse_url
from ...model.endpoint import Endpoint
from ...net.connect import ServerAddress
from ...net.faults import Fault
from .policy import HEDGE_MOST

#: Seconds for which a measured time counts.
RECENT = 300.0
#: Largest number of dials of an endpoint that count.
DIALS = 10
#: Bounds of the race delay in seconds; the upper bound holds until a dial is known.
RACE_LEAST, RACE_MOST = 0.05, 0.25
#: Weight of the newest answer in a route's share of late answers.
WEIGHT = 0.1
#: A route with a larger share of late answers is slow by itself, so a hedge would not help.
LATE_SHARE = 0.15
#: Limit of the routes that are remembered.
ROUTES = 256
#: Limit of a route's path segments; the route ends before a segment that looks like an identifier.
_SEGMENTS = 3
_VERSION = re.compile(r"v\d+\Z")


class PoolEvent(NamedTuple):
    """An event, with its details by name; ``name`` is that of its signal, if there is one."""

    name: str
    about: dict[str, Any]


class Rank(NamedTuple):
    """The rank of an endpoint; the smallest is the best."""

    trouble: int  # 0 no trouble, 1 suspect, 2 busy, 3 presumed dead
    pinned: int  # 0 pinned, 1 not pinned
    priority: int
    speed: float  # response time, in units of the latency margin
    tie_breaker: float


@dataclass(frozen=True, slots=True)
class Target(ServerAddress):
    """The server of an endpoint, and the parts of its URL in the forms that requests need.

    Attributes:
        scheme: ``http`` or ``https``.
        prefix: Path of the URL without a final ``/``.
        authority: Value of the ``Host`` header.
        origin: Scheme and authority, for redirects.
        key: Key of the endpoint in a table of connections: two endpoints with the same host and
            port may need different certificates.
    """

    scheme: bytes
    prefix: bytes
    authority: bytes
    origin: str
    key: bytes


@lru_cache(maxsize=4096)
def target_of(endpoint: Endpoint) -> Target:
    """Return the target of an endpoint; a WebSocket scheme becomes the HTTP scheme."""
    url = parse_url(endpoint.url)
    secure = url.scheme in {"https", "wss"}
    name = endpoint.server_name or url.host
    port = url.port or DEFAULT_PORTS[url.scheme]
    authority = name if port == DEFAULT_PORTS[url.scheme] else f"{name}:{port}"
    scheme = "https" if secure else "http"
    return Target(
        host=url.host,
        port=port,
        tls_name=name.strip("[]") if secure else None,
        scheme=scheme.encode(),
        prefix=url.path.rstrip("/").encode(),
        authority=authority.encode(),
        origin=f"{scheme}://{authority}",
        key=f"{endpoint.url} {name}".encode(),
    )


@dataclass(eq=False, slots=True)
class PoolMember:
    """An endpoint in the pool, with its health and statistics.

    Attributes:
        endpoint: The URL, priority and server name.
        health: The health state machine.
        tie_breaker: Random number that decides between equal endpoints, so that the clients of a
            fleet spread over them.
        url: The URL, which is the key of the endpoint in the pool.
        target: The parsed address.
        busy_until: Monotonic seconds at which its last ``Retry-After`` ends.
        recovered_at: When the endpoint last became healthy after a failure, or None.
        failing_since: When the attempt began that revealed the current failure, or None.
        last_checked: POSIX time of the last probe, or None.
        last_fault: The last fault, or None.
        probe_path: The path that answers the health checks, or None while unknown.
        probing: Whether a health check is running or about to begin.
        served: Number of answered requests.
        failed: Number of failed requests.
        good_checks: Number of good health checks.
        faults: Number of failed requests and failed health checks by fault.
        reported: Counts that were reported to a server, by ``ok`` or fault.
        odd_answers: Odd answers in a row; -1 before the first good answer.
        stalls: Hedges in a row that overtook the endpoint, without an answer of its own between.
        answers: Arrival (monotonic seconds) and time to first byte of each of the last answers.
        answer_times: The times to first byte among ``answers``, in ascending order.
        hedge_delay: The hedge delay in seconds, as of the last request.
        dials: End (monotonic seconds) and duration (seconds) of each of the last dials.
    """

    endpoint: Endpoint
    health: Health
    tie_breaker: float
    url: str = field(init=False)
    target: Target = field(init=False)
    busy_until: float = 0.0
    recovered_at: float | None = None
    failing_since: float | None = None
    last_checked: float | None = None
    last_fault: Fault | None = None
    probe_path: str | None = None
    probing: bool = False
    served: int = 0
    failed: int = 0
    good_checks: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    reported: Counter[str] = field(default_factory=Counter)
    odd_answers: int = -1
    stalls: int = 0
    answers: deque[tuple[float, float]] = field(default_factory=deque)
    answer_times: list[float] = field(default_factory=list)
    hedge_delay: float = HEDGE_MOST
    dials: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=DIALS))

    def __post_init__(self) -> None:
        self.url, self.target = self.endpoint.url, target_of(self.endpoint)

    @property
    def better_priority(self) -> str:
        """The reason for a switch to the endpoint because of its priority."""
        return "preferred" if self.recovered_at is None else "failback"

    def state(self, *, is_current: bool) -> "EndpointState":
        """Return the public state of the endpoint."""
        health, checked = self.health, self.last_checked
        return EndpointState(
            url=self.url,
            priority=self.endpoint.priority,
            is_healthy=health.usable,
            failure_count=health.failures,
            last_checked=None if checked is None else datetime.fromtimestamp(checked, UTC),
            response_time=health.response_time,
            server_name=self.endpoint.server_name,
            state=health.state.value,
            is_current=is_current,
            last_fault=None if self.last_fault is None else self.last_fault.value,
        )


@dataclass(frozen=True, slots=True)
class EndpointState:
    """The state of an endpoint at one moment.

    Attributes:
        url: The URL.
        priority: The priority; a lower number is preferred.
        is_healthy: Whether requests go to the endpoint if no better endpoint is left. An unknown
            endpoint counts as healthy.
        failure_count: Failures in a row.
        last_checked: When its health was checked last (aware, UTC), or None.
        response_time: Smoothed duration of health checks in seconds, or None.
        server_name: The name on its certificate, or None.
        state: ``unknown``, ``healthy``, ``suspect``, ``unhealthy`` or ``recovering``.
        is_current: Whether requests go to the endpoint now.
        last_fault: The last fault in a word, or None.
    """

    url: str
    priority: int
    is_healthy: bool
    failure_count: int
    last_checked: datetime | None
    response_time: float | None
    server_name: str | None
    state: str
    is_current: bool
    last_fault: str | None


def race_delay(dials: Iterable[tuple[float, float]], now: float) -> float:
    """Return the seconds to wait for a dial before the race dials the next endpoint too.

    Args:
        dials: End (monotonic seconds) and duration (seconds) of each of the last dials.
        now: Monotonic seconds.
    """
    recent = [seconds for at, seconds in tuple(dials) if at >= now - RECENT]
    return min(RACE_MOST, max(RACE_LEAST, 3 * max(recent))) if recent else RACE_MOST


@lru_cache(maxsize=1024)
def route_of(method: str, path: str) -> str:
    """Return the route of a request: its method and the prefix of its path without identifiers."""
    kept = []
    for segment in path.partition("?")[0].strip("/").split("/")[:_SEGMENTS]:
        if not _VERSION.match(segment) and any(char.isdigit() for char in segment):
            break
        kept.append(segment)
    return f"{method} /{'/'.join(kept)}"
