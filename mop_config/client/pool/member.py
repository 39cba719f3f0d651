"""The members of a pool, their public state, and the pool's events. Pure."""

from collections import Counter, deque
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, NamedTuple

from ...health.state import Health
from ...model.endpoint import Endpoint
from ...net.faults import Fault
from .delays import DIALS, AnswerTimes
from .target import Target


class EventKind(StrEnum):
    """The kinds of pool events."""

    SWITCHED = "switched"
    SUSPECTED = "suspected"
    DOWN = "down"
    RECOVERED = "recovered"
    ALL_DOWN = "all-down"


class PoolEvent(NamedTuple):
    """An event for the application's signals, with its details by name."""

    kind: EventKind
    about: dict[str, Any]


class Rank(NamedTuple):
    """The rank of an endpoint without its speed; the smallest is the best."""

    trouble: int  # 0 no trouble, 1 suspect, 2 busy, 3 presumed dead
    pinned: int  # 0 pinned, 1 not pinned
    priority: int


@dataclass(eq=False, slots=True)
class PoolMember:
    """An endpoint in the pool, with its health and statistics.

    Attributes:
        endpoint: The URL, priority and server name.
        url: The URL, which is the key of the endpoint in the pool.
        target: The parsed address.
        order: Order of insertion; decides between equal priorities in listings.
        health: The health state machine.
        tie_breaker: Random number that decides between equal endpoints, so that the clients of a
            fleet spread over them.
        busy_until: Monotonic seconds at which its last ``Retry-After`` ends.
        recovered_at: When the endpoint last became healthy after a failure, or None.
        failing_since: When the attempt began that revealed the current failure, or None.
        last_checked: POSIX time of the last probe, or None.
        last_fault: The last fault, or None.
        probe_path: The path that answers the health checks, or None while unknown.
        probing: Whether a health check is running or about to begin.
        served: Number of answered requests.
        failed: Number of failed requests.
        faults: Number of failed requests by fault.
        reported: Counts that were reported to a server, by ``ok`` or fault.
        odd_answers: Odd answers in a row; -1 before the first good answer.
        stalls: Hedges in a row that overtook the endpoint, without an answer of its own between.
        answers: The last times to first byte.
        dials: End (monotonic seconds) and duration (seconds) of each of the last dials.
    """

    endpoint: Endpoint
    target: Target
    order: int
    health: Health
    tie_breaker: float
    url: str = field(init=False)
    busy_until: float = 0.0
    recovered_at: float | None = None
    failing_since: float | None = None
    last_checked: float | None = None
    last_fault: Fault | None = None
    probe_path: str | None = None
    probing: bool = False
    served: int = 0
    failed: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    reported: Counter[str] = field(default_factory=Counter)
    odd_answers: int = -1
    stalls: int = 0
    answers: AnswerTimes = field(default_factory=AnswerTimes)
    dials: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=DIALS))

    def __post_init__(self) -> None:
        self.url = self.endpoint.url


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


def state_of(member: PoolMember, current: PoolMember | None) -> EndpointState:
    """Return the public state of a member."""
    health = member.health
    checked = member.last_checked
    return EndpointState(
        url=member.url,
        priority=member.endpoint.priority,
        is_healthy=health.usable,
        failure_count=health.failures,
        last_checked=None if checked is None else datetime.fromtimestamp(checked, UTC),
        response_time=health.response_time,
        server_name=member.endpoint.server_name,
        state=health.state.value,
        is_current=member is current,
        last_fault=None if member.last_fault is None else member.last_fault.value,
    )
