"""The choice of the current endpoint of one kind, and of its alternatives. Pure."""

from collections.abc import Callable, Iterable
from typing import Any

from ...health.state import HealthState
from .member import EventKind, PoolEvent, PoolMember, Rank
from .offline import OfflineDetector
from .policy import Policy

_NEVER = float("inf")


class EndpointSelection:
    """The members of a pool, and the choice among them by health, pin, priority and speed.

    A change of the current endpoint queues a ``SWITCHED`` event. ``Pool`` adds the methods
    that change the members and their health; each change sets the time of the next review.

    Args:
        kind: ``api`` or ``socketio``, for events.
        policy: The timeouts and limits.
        network: Detects a machine without a network; both pools share the detector.
        random: Returns numbers from 0 to 1.
    """

    def __init__(
        self, kind: str, policy: Policy, network: OfflineDetector, random: Callable[[], float]
    ) -> None:
        self.kind = kind
        self.policy = policy
        self._network = network
        self._random = random
        self._members: dict[str, PoolMember] = {}
        self._current: PoolMember | None = None
        self._current_since = 0.0
        self._removed_current: PoolMember | None = (
            None  # the current endpoint, after it was removed from the list
        )
        self.pinned: str | None = None  # the URL of the pinned endpoint
        self._review_at = _NEVER  # monotonic seconds of the next review of the choice
        self._usable = 0
        self.events: list[PoolEvent] = []  # queued until ``take_events``
        self.urgent = False  # whether an endpoint should be probed without delay
        #: Number of Socket.io clients, which call ``moved`` when their connection has moved.
        self.attached_clients = 0

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, url: str) -> bool:
        return url in self._members

    def get(self, url: str) -> PoolMember | None:
        """Return the endpoint with a URL, or None."""
        return self._members.get(url)

    def members(self) -> list[PoolMember]:
        """List all endpoints, by priority and insertion."""
        return sorted(self._members.values(), key=by_priority)

    def take_events(self) -> list[PoolEvent]:
        """Return the events that were queued since the last call."""
        events, self.events = self.events, []
        return events

    def pin(self, url: str | None, now: float) -> None:
        """Prefer one endpoint while it is healthy. None: remove the pin."""
        self.pinned = url
        self._review(now)

    # -- the choice

    def select(self, now: float) -> PoolMember | None:
        """Return the endpoint for the next request; cheap while nothing has changed."""
        if now >= self._review_at or self._current is None:
            self._review(now)
        return self._current

    @property
    def current_url(self) -> str | None:
        """The URL of the current endpoint, or None; the property does not review the choice."""
        return None if self._current is None else self._current.url

    def better_than(self, member: PoolMember, now: float) -> tuple[PoolMember, str] | None:
        """Return the endpoint to which an open connection moves, and the reason; None to stay.

        A working connection does not move for a better response time or because its endpoint is
        suspect.

        Args:
            member: The endpoint of the connection.
            now: Monotonic seconds.
        """
        best = self.select(now)
        if best is None or best.url == member.url:
            return None
        if member.url not in self._members:
            return best, "removed"
        if self._rank(best, now).trouble:
            return None
        if best.url == self.pinned:
            return best, "pinned"
        if best.endpoint.priority < member.endpoint.priority and member.url != self.pinned:
            return best, "failback" if best.recovered_at is not None else "preferred"
        return None

    def moved(self, from_url: str, to_url: str, reason: str, seconds: float) -> None:
        """Queue the event of an open connection that has moved to another endpoint."""
        about = {"from_url": from_url, "to_url": to_url, "reason": reason}
        self._emit(EventKind.SWITCHED, **about, seconds_without_service=seconds)

    def choose_anew(self, now: float) -> PoolMember | None:
        """Switch to the best endpoint now, without the minimum dwell time."""
        for member in self._members.values():
            member.recovered_at = None
        best = next(iter(self.alternatives(now)), None)
        if best is not None and best is not self._current:
            self._switch(best, "chosen", now)
        return self.select(now)

    def alternatives(
        self, now: float, tried: Iterable[str] = (), *, last_resort: bool = False
    ) -> list[PoolMember]:
        """List the other endpoints that a request may go to, best first.

        Args:
            now: Monotonic seconds.
            tried: URLs of the endpoints that the request has been sent to.
            last_resort: Whether unhealthy endpoints are listed once no usable endpoint is left:
                an unhealthy endpoint may have recovered, and the request would fail anyway.
        """
        left_out = set(tried)
        rest = [m for m in self._eligible() if m.url not in left_out]
        if last_resort and not rest:
            rest = [m for m in self._members.values() if m.url not in left_out]
        return sorted(rest, key=lambda m: (self._rank(m, now), self._speed(m)))

    def _eligible(self) -> Iterable[PoolMember]:
        if self._usable:
            return [m for m in self._members.values() if m.health.usable]
        return self._members.values()

    def _rank(self, member: PoolMember, now: float) -> Rank:
        health = member.health
        if not health.usable:
            trouble = 3
        elif member.busy_until > now:
            trouble = 2
        elif health.state is HealthState.SUSPECT or self._network.holds(member.target.host):
            trouble = 1
        else:
            trouble = 0
        return Rank(trouble, member.url != self.pinned, member.endpoint.priority)

    def _speed(self, member: PoolMember) -> tuple[float, float]:
        # Response times within one margin count as equal, so that clients spread by chance over
        # these endpoints. Endpoints without a measurement rank right behind the fastest.
        measured, margin = member.health.response_time, self.policy.latency_margin
        if measured is None:
            return (1.0, member.tie_breaker)
        return (measured // margin if margin else measured, member.tie_breaker)

    def _review(self, now: float) -> None:
        self._network.expire(now)
        self._review_at = self._network.next_expiry
        current = self._current
        best: PoolMember | None = None
        best_key: Any = None
        for member in self._eligible():
            if member.busy_until > now:
                self._review_at = min(self._review_at, member.busy_until)
            if current is not None and self._must_dwell(member, current, now):
                continue
            key = (self._rank(member, now), self._speed(member))
            if best_key is None or key < best_key:
                best, best_key = member, key
        if best is not None and best is not current:
            self._maybe_switch(best, best_key[0], now)

    def _must_dwell(self, member: PoolMember, current: PoolMember, now: float) -> bool:
        """Whether the minimum dwell time forbids a switch back to a recovered endpoint."""
        if member is current or member.recovered_at is None or member.url == self.pinned:
            return False
        if self._rank(current, now).trouble:
            return False
        until = max(member.recovered_at, self._current_since) + self.policy.min_dwell
        if now >= until:
            return False
        self._review_at = min(self._review_at, until)
        return True

    def _maybe_switch(self, best: PoolMember, rank: Rank, now: float) -> None:
        current = self._current
        if current is None:
            self._switch(best, "removed", now)  # or there was no current endpoint
            return
        own = self._rank(current, now)
        if own.trouble == rank.trouble == 3:
            self._switch(best, "panic", now)
        elif own.trouble > rank.trouble:
            self._switch(best, "busy" if own.trouble == 2 else "failed", now)
        elif own.pinned > rank.pinned:
            self._switch(best, "pinned", now)
        elif own.priority > rank.priority:
            self._switch(best, "failback" if best.recovered_at is not None else "preferred", now)
        elif self._is_much_faster(best, current):
            self._switch(best, "latency", now)

    def _is_much_faster(self, member: PoolMember, current: PoolMember) -> bool:
        fast, slow = member.health.response_time, current.health.response_time
        if fast is None or slow is None:
            return False
        gain = slow - fast
        return gain >= self.policy.latency_margin and gain >= self.policy.latency_gain * slow

    def _switch(self, member: PoolMember, reason: str, now: float) -> None:
        before, self._removed_current = self._current or self._removed_current, None
        self._current, self._current_since = member, now
        if self.policy.probe == "current" and member.health.next_probe <= now:
            self.urgent = True
        if before is None or before.url == member.url or self.attached_clients:
            return
        began = before.failing_since
        self._emit(
            EventKind.SWITCHED,
            from_url=before.url,
            to_url=member.url,
            reason=reason,
            seconds_without_service=0.0 if began is None else max(0.0, now - began),
        )

    # -- events

    def _emit(self, kind: EventKind, **about: Any) -> None:
        self.events.append(PoolEvent(kind, {"kind": str(self.kind), **about}))


def by_priority(member: PoolMember) -> tuple[int, int]:
    """Sort key: priority, then order of insertion."""
    return member.endpoint.priority, member.order
