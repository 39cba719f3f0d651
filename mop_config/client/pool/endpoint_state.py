"""What a manager tells of an endpoint, and of its list, at one moment."""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import NamedTuple

from .member import PoolMember


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What is known of an endpoint at one moment.

    Attributes:
        url: Its URL.
        priority: The lower, the more preferred.
        is_healthy: Whether requests go there while nobody better is left; an endpoint of
            which nothing is known counts as healthy.
        failure_count: Failures in a row.
        last_checked: When its health was checked last (aware, UTC), or None.
        response_time: Smoothed seconds that a health check takes, or None.
        server_name: The name that its certificate is for, or None.
        state: ``unknown``, ``healthy``, ``suspect``, ``unhealthy`` or ``recovering``.
        is_current: Whether requests go there now.
        last_fault: What went wrong there last, in a word, or None.
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


class ListSource(NamedTuple):
    """Where the list in use came from.

    Attributes:
        origin: ``cache``, ``seed``, ``remote``, ``qr``, ``manual`` or ``none``.
        url: The server that gave it, or None.
        age: Seconds since it was learnt, or None for a built-in list.
        stale: Whether it was signed for a time that is over, and no source has a newer one.
    """

    origin: str
    url: str | None
    age: float | None
    stale: bool = False


def state_of(member: PoolMember, current: PoolMember | None) -> EndpointState:
    """Say what is known of a member of a pool."""
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
