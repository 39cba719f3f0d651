"""``Pool``: the endpoints of one kind, changed by the list and the outcomes of requests. Pure.

A pool has no clock, lock or thread: the caller passes the time, holds a lock around each call,
and sends the queued events after the lock is released.
"""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from math import inf

from ...health.state import Evidence, Health, HealthState, Transition
from ...model.endpoint import Endpoint
from ...net.faults import COUNTED, NETWORK, Fault
from .delays import HEDGE_MOST, SlowRoutes
from .member import EventKind, PoolMember
from .offline import OfflineDetector
from .policy import ODD_IN_A_ROW, ODD_STATUS, Policy
from .selection import EndpointSelection, by_priority
from .target import target_of

_NEVER = float("inf")
#: Number of the best endpoints of a kind that are checked regularly, besides endpoints in use.
WATCHED = 50


class Pool(EndpointSelection):
    """The endpoints of one kind, and the record of their outcomes; see ``EndpointSelection``."""

    def __init__(
        self, kind: str, policy: Policy, network: OfflineDetector, random: Callable[[], float]
    ) -> None:
        super().__init__(kind, policy, network, random)
        self._best: list[PoolMember] | None = None  # the watched endpoints, or None
        self._order = 0
        self._all_down = False
        self._slow_routes = SlowRoutes()

    # -- the list

    def put(self, endpoint: Endpoint, now: float) -> None:
        """Add an endpoint, or update the priority and server name of a known endpoint."""
        member = self._members.get(endpoint.url)
        if member is None:
            health = Health(self.policy, now)
            target = target_of(endpoint)
            member = PoolMember(endpoint, target, self._order, health, self._random())
            self._order += 1
            self._members[endpoint.url] = member
            self._best = None
            self.urgent = True
            self._usable += 1
            self._all_down = False
        elif member.endpoint != endpoint:
            member.endpoint, member.target = endpoint, target_of(endpoint)
            self._best = None
            member.recovered_at = None  # a deliberate change needs no dwell time
        self._review_at = now

    def remove(self, url: str, now: float) -> bool:
        """Remove an endpoint; return False if the URL is unknown."""
        there = self._drop(url, now)
        self._emit_if_all_down()
        return there

    def _drop(self, url: str, now: float) -> bool:
        member = self._members.pop(url, None)
        if member is None:
            return False
        self._best = None
        self._usable -= member.health.usable
        if self._current is member:
            self._current, self._removed_current = None, member
        self._review_at = now
        return True

    def replace(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Replace the list; endpoints that stay keep their health and statistics."""
        wanted: dict[str, Endpoint] = {}
        for endpoint in endpoints:
            wanted.setdefault(endpoint.url, endpoint)  # as in the file: the first entry wins
        for url in [url for url in self._members if url not in wanted]:
            self._drop(url, now)
        for endpoint in wanted.values():
            self.put(endpoint, now)
        self._emit_if_all_down()

    # -- health checks

    def watched(self) -> list[PoolMember]:
        """List the endpoints to check: the best 50, and each endpoint in use.

        The limit keeps a client from probing a whole list of 10,000 endpoints.
        """
        if len(self._members) <= WATCHED:
            return list(self._members.values())
        if self._best is None:
            self._best = nsmallest(WATCHED, self._members.values(), key=by_priority)
        chosen = {self.current_url, self.pinned}
        used = [m for m in self._members.values() if m.served or m.failed or m.url in chosen]
        return list(dict.fromkeys([*self._best, *used]))

    def _scheduled(self) -> list[PoolMember]:
        """List the endpoints that ``Policy.probe`` selects for regular checks.

        With ``current`` an endpoint that has failed is checked too, so that requests can return
        to the endpoint after it recovers.
        """
        if self.policy.probe == "none":
            return []
        watched = self.watched()
        if self.policy.probe == "all":
            return watched
        return [m for m in watched if m is self._current or m.health.state not in _FINE]

    def take_due(self, now: float) -> list[PoolMember]:
        """List the endpoints whose check is due, and mark each check as begun."""
        if self.policy.probe == "current":
            self.select(now)
        due = [m for m in self._scheduled() if not m.probing and m.health.next_probe <= now]
        for member in due:
            member.probing = True
        return due

    def forget_probes(self) -> None:
        """Forget running checks, because their threads have ended (stop or fork)."""
        for member in self._members.values():
            member.probing = False

    def next_due(self) -> float:
        """Return the monotonic time of the next check; infinity for none."""
        return min(
            (m.health.next_probe for m in self._scheduled() if not m.probing),
            default=_NEVER,
        )

    # -- outcomes

    def served(self, member: PoolMember, now: float, status: int = 200) -> None:
        """Record that a request was answered, with any status."""
        member.served += 1
        member.stalls = 0
        if status >= 500 or status in ODD_STATUS:
            if member.odd_answers >= 0:
                member.odd_answers += 1
                if member.odd_answers == ODD_IN_A_ROW:
                    self.request_probe(member, now)
        elif member.odd_answers:
            member.odd_answers = 0
        network = self._network
        if member.health.is_steady and not (network.offline or network.held):
            member.health.last_good = now  # fast path: no other state changes
            return
        network.record_answer(now)
        self._record(member, Evidence.GOOD_REQUEST, now)

    def hedge_delay(self, member: PoolMember, route: str, now: float) -> float:
        """Return the seconds to wait for an endpoint's answer before a hedge starts.

        The delay is infinite for a route that is slow by itself: a hedge would not help.
        """
        delay = self.policy.hedge_delay
        if delay != "auto":
            return delay
        measured = member.answers.hedge_delay(now)
        slow = route in self._slow_routes.shares and self._slow_routes.is_slow(route)
        return inf if slow else measured

    def answered_in(self, member: PoolMember, seconds: float, route: str, now: float) -> None:
        """Record the time to first byte of an answer, for the hedge delay."""
        late, routes = seconds > member.answers.delay, self._slow_routes
        known = route in routes.shares
        if not known or not routes.is_slow(route):
            member.answers.add(seconds, now)
        if known or late:
            routes.record(route, late=late)

    def overtaken(self, member: PoolMember, delay: float, now: float) -> bool:
        """Record that a hedge overtook an endpoint; return whether that counts as a stall.

        After a short delay a hedge sometimes overtakes even a healthy endpoint. So the first time
        only requests a health check, and the second time in a row counts as a stall.
        """
        member.stalls += 1
        if member.stalls > 1 or delay >= HEDGE_MOST or self.policy.hedge_delay != "auto":
            return True
        self.request_probe(member, now)
        return False

    def failed(self, member: PoolMember, fault: Fault, now: float, began: float) -> None:
        """Record that a request failed.

        Args:
            member: The endpoint.
            fault: Why it failed.
            now: Monotonic seconds.
            began: Monotonic seconds when the attempt began.
        """
        member.last_fault = fault
        if fault in COUNTED or fault in NETWORK:
            member.failed += 1
            member.faults[fault] += 1
        self._record_fault(member, fault, Evidence.BAD_REQUEST, now, began)

    def request_probe(self, member: PoolMember, now: float) -> None:
        """Request a probe now, without counting a failure."""
        member.health.next_probe = min(member.health.next_probe, now)
        self.urgent = True

    def busy(self, member: PoolMember, seconds: float, now: float) -> None:
        """Record a ``Retry-After``: the endpoint is alive, but ranks last for ``seconds``."""
        self._network.record_answer(now)
        member.served += 1
        member.busy_until = now + seconds
        self._record(member, Evidence.GOOD_REQUEST, now)
        self._review_at = now

    def probed(
        self,
        member: PoolMember,
        fault: Fault | None,
        seconds: float,
        now: float,
        posix: float,
        busy: float | None = None,
    ) -> None:
        """Record a health check.

        Args:
            member: The endpoint.
            fault: Why the check failed, or None.
            seconds: Duration of the check.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.
            busy: Seconds of the ``Retry-After`` of the answer, or None.
        """
        member.last_checked = posix
        member.probing = False
        if busy is not None:
            self._network.record_answer(now)
            member.busy_until, fault = now + busy, Fault.BUSY
            self._review_at = now
        if fault is None:
            self._network.record_answer(now)
            member.health.measured(seconds)
            self._record(member, Evidence.GOOD_PROBE, now)
        else:
            member.last_fault = fault
            self._record_fault(member, fault, Evidence.BAD_PROBE, now, now - seconds)

    def _record_fault(
        self, member: PoolMember, fault: Fault, evidence: Evidence, now: float, began: float
    ) -> None:
        if fault in NETWORK:
            self._network.record_fault(
                member.target.host,
                now,
                lambda when: self._record(member, evidence, when, began),
            )
            member.health.postpone(now, self._random())
            self._probe_another_host(member, now)
            self._review_at = now
        elif fault is Fault.STALLED:
            self._record(member, Evidence.STALL, now, began)
        elif fault in COUNTED:
            if fault in _FROM_AFAR:
                self._network.record_answer(now)
            self._record(member, evidence, now, began)
        elif evidence is Evidence.BAD_PROBE:
            # The fault says nothing about the endpoint: check again, but not at once.
            member.health.postpone(now, self._random())

    def _probe_another_host(self, member: PoolMember, now: float) -> None:
        """Probe a second host within the offline window.

        An idle client probes its endpoints at different times. Without this second probe, a
        client on a machine without a network would count each endpoint as dead in turn.
        """
        others = [m for m in self.watched() if m.target.host != member.target.host]
        if others and not self._network.offline:
            self.request_probe(min(others, key=lambda m: self._rank(m, now)), now)

    def _record(
        self, member: PoolMember, evidence: Evidence, now: float, began: float | None = None
    ) -> None:
        """Record evidence; ``began`` is when the attempt began that failed, or None."""
        if member.failing_since is None:
            member.failing_since = began
        change = member.health.record(evidence, now, self._random())
        self.urgent = self.urgent or member.health.next_probe <= now
        if evidence in _GOOD:
            member.failing_since = None
        if change.after is HealthState.HEALTHY and change.before not in _FINE:
            member.recovered_at = now
        if self._members.get(member.url) is not member:
            return  # removed from the list during the attempt
        self._apply_transition(member, change)
        if change.before is not change.after or evidence is Evidence.GOOD_PROBE:
            self._schedule_review(member, now)

    def _schedule_review(self, member: PoolMember, now: float) -> None:
        """Schedule a review of the choice if this endpoint may change it."""
        current = self._current
        if current is None or member is current:
            self._review_at = now
            return
        rank, own = self._rank(member, now), self._rank(current, now)
        better = rank < own or (rank == own and self._is_much_faster(member, current))
        if better and not self._must_dwell(member, current, now):
            self._review_at = now

    def _apply_transition(self, member: PoolMember, change: Transition) -> None:
        self._usable += change.came_back - change.went_down
        if change.after is HealthState.SUSPECT and change.before is not HealthState.SUSPECT:
            self._emit(EventKind.SUSPECTED, url=member.url, reason=member.last_fault)
        if change.went_down:
            self._emit(EventKind.DOWN, url=member.url, reason=member.last_fault)
            self._emit_if_all_down()
        elif change.came_back:
            self._emit(EventKind.RECOVERED, url=member.url, after_total_outage=self._all_down)
            self._all_down = False

    def _emit_if_all_down(self) -> None:
        if self._members and not self._usable and not self._all_down:
            self._all_down = True
            self._emit(EventKind.ALL_DOWN, urls=[m.url for m in self.members()])


_GOOD = frozenset({Evidence.GOOD_PROBE, Evidence.GOOD_REQUEST})
_FINE = frozenset({HealthState.UNKNOWN, HealthState.HEALTHY})
#: Faults that come from a remote host, and so prove that the machine has a network.
_FROM_AFAR = frozenset({Fault.REFUSED, Fault.RESET, Fault.TLS, Fault.PROTOCOL, Fault.BAD_STATUS})
