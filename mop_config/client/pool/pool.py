"""The endpoints of one kind: which to use now, and what outcomes say of them. Pure.

A passive pool: it is asked and it is told; it has no clock, no lock and no thread. Whoever
drives it holds a lock around each call, and sends the events that have gathered after the
lock is released.
"""

from collections.abc import Callable, Iterable
from heapq import nsmallest
from typing import Any

from ...health.state import Evidence, Health, HealthState, Transition
from ...model.endpoint import Endpoint
from ...net.faults import COUNTED, NETWORK, Fault
from .member import EventKind, Group, PoolEvent, PoolMember
from .offline import OfflineDetector
from .policy import ODD_IN_A_ROW, ODD_STATUS, Policy
from .target import target_of

_NEVER = float("inf")
#: So many of the best endpoints of a kind are looked at regularly, and those that are in use.
WATCHED = 50


class Pool:
    """Selection and bookkeeping for one kind of endpoint.

    Args:
        kind: ``api`` or ``socketio``, for events.
        policy: The figures.
        network: Tells endpoints without a network from dead ones; shared by all pools.
        random: Gives numbers from 0 to 1.
    """

    def __init__(
        self, kind: str, policy: Policy, network: OfflineDetector, random: Callable[[], float]
    ) -> None:
        self.kind = kind
        self._policy = policy
        self._rules = policy.health
        self._network = network
        self._random = random
        self._members: dict[str, PoolMember] = {}
        self._best: list[PoolMember] | None = None  # those that are looked at, once they are known
        self._order = 0
        self._current: PoolMember | None = None
        self._current_since = 0.0
        self._gone: PoolMember | None = None  # the one in use, if it has left the list
        self._pinned: str | None = None
        self._review_at = _NEVER  # when the choice has to be looked at again
        self._usable = 0
        self._all_down = False
        self._events: list[PoolEvent] = []
        self.urgent = False  # whether somebody should be looked at without delay
        #: Connections that tell by ``moved`` when they have really gone to another endpoint.
        self.followed = 0

    # -- the list

    def __len__(self) -> int:
        return len(self._members)

    def __contains__(self, url: str) -> bool:
        return url in self._members

    def get(self, url: str) -> PoolMember | None:
        """Find an endpoint by its URL."""
        return self._members.get(url)

    def members(self) -> list[PoolMember]:
        """List all endpoints, by priority and insertion."""
        return sorted(self._members.values(), key=_by_priority)

    def put(self, endpoint: Endpoint, now: float) -> None:
        """Add an endpoint, or give one that is there another priority or server name."""
        member = self._members.get(endpoint.url)
        if member is None:
            health = Health(self._rules, now)
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
            member.recovered_at = None  # somebody decided this: it needs no dwelling
        self._review_at = now

    def remove(self, url: str, now: float) -> bool:
        """Take an endpoint out; False where there is none."""
        there = self._drop(url, now)
        self._note_outage()
        return there

    def _drop(self, url: str, now: float) -> bool:
        member = self._members.pop(url, None)
        if member is None:
            return False
        self._best = None
        self._usable -= member.health.usable
        if self._current is member:
            self._current, self._gone = None, member
        self._review_at = now
        return True

    def replace(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Make this the list; endpoints that stay keep what is known of them."""
        wanted: dict[str, Endpoint] = {}
        for endpoint in endpoints:
            wanted.setdefault(endpoint.url, endpoint)  # as in the file: the first one stays
        for url in [url for url in self._members if url not in wanted]:
            self._drop(url, now)
        for endpoint in wanted.values():
            self.put(endpoint, now)
        self._note_outage()

    def pin(self, url: str | None, now: float) -> None:
        """Prefer one endpoint while nothing is wrong with it; None lifts that."""
        self._pinned = url
        self._review_at = now

    @property
    def pinned(self) -> str | None:
        """The URL that somebody chose by hand, or None."""
        return self._pinned

    @property
    def has_news(self) -> bool:
        """Whether there are events, or something that should be looked at."""
        return self.urgent or bool(self._events)

    def take_events(self) -> list[PoolEvent]:
        """Hand over the events that have gathered since the last call."""
        events, self._events = self._events, []
        return events

    # -- the choice

    def select(self, now: float) -> PoolMember | None:
        """Say where a request should go now; cheap while nothing has changed."""
        if now >= self._review_at or self._current is None:
            self._review(now)
        return self._current

    @property
    def current_url(self) -> str | None:
        """The URL of the endpoint in use, or None; looking at it changes nothing."""
        return None if self._current is None else self._current.url

    def better_than(self, member: PoolMember, now: float) -> tuple[PoolMember, str] | None:
        """Give the endpoint that a standing connection should move to, and why.

        Neither a better response time nor a doubt about the endpoint is worth a connection
        that works.

        Args:
            member: The endpoint that the connection goes to.
            now: Monotonic seconds.
        """
        best = self.select(now)
        if best is None or best.url == member.url:
            return None
        if member.url not in self._members:
            return best, "removed"
        if self._group(best, now).trouble:
            return None
        if best.url == self._pinned:
            return best, "pinned"
        if best.endpoint.priority < member.endpoint.priority and member.url != self._pinned:
            return best, "failback" if best.recovered_at is not None else "preferred"
        return None

    def moved(self, from_url: str, to_url: str, reason: str, seconds: float) -> None:
        """Note that a standing connection has gone over to another endpoint."""
        about = {"from_url": from_url, "to_url": to_url, "reason": reason}
        self._tell(EventKind.SWITCHED, **about, seconds_without_service=seconds)

    def choose_anew(self, now: float) -> PoolMember | None:
        """Go to the best endpoint now, without dwelling on the one in use."""
        for member in self._members.values():
            member.recovered_at = None
        best = next(iter(self.alternatives(now)), None)
        if best is not None and best is not self._current:
            self._switch(best, "chosen", now)
        return self.select(now)

    def alternatives(
        self, now: float, tried: Iterable[str] = (), *, last_resort: bool = False
    ) -> list[PoolMember]:
        """List where else a request may go, best first.

        Args:
            now: Monotonic seconds.
            tried: The endpoints that it has been to.
            last_resort: Whether those that are taken for dead are listed too, once no usable
                one is left to try: one of them may be back, and the request has failed.
        """
        left_out = set(tried)
        rest = [m for m in self._eligible() if m.url not in left_out]
        if last_resort and not rest:
            rest = [m for m in self._members.values() if m.url not in left_out]
        return sorted(rest, key=lambda m: (self._group(m, now), self._speed(m)))

    def _eligible(self) -> Iterable[PoolMember]:
        if self._usable:
            return [m for m in self._members.values() if m.health.usable]
        return self._members.values()

    def _group(self, member: PoolMember, now: float) -> Group:
        health = member.health
        if not health.usable:
            trouble = 3
        elif member.busy_until > now:
            trouble = 2
        elif health.state is HealthState.SUSPECT or self._network.holds(member.target.host):
            trouble = 1
        else:
            trouble = 0
        return Group(trouble, member.url != self._pinned, member.endpoint.priority)

    def _speed(self, member: PoolMember) -> tuple[float, float]:
        # What lies within one margin is equal, and spread by chance. The unmeasured stand
        # right behind those that are known to be fast.
        measured, margin = member.health.response_time, self._policy.latency_margin
        if measured is None:
            return (1.0, member.dice)
        return (measured // margin if margin else measured, member.dice)

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
            key = (self._group(member, now), self._speed(member))
            if best_key is None or key < best_key:
                best, best_key = member, key
        if best is not None and best is not current:
            self._maybe_switch(best, best_key[0], now)

    def _must_dwell(self, member: PoolMember, current: PoolMember, now: float) -> bool:
        """Whether it is too early to go back to an endpoint that failed before."""
        if member is current or member.recovered_at is None or member.url == self._pinned:
            return False
        if self._group(current, now).trouble:
            return False
        until = max(member.recovered_at, self._current_since) + self._policy.min_dwell
        if now >= until:
            return False
        self._review_at = min(self._review_at, until)
        return True

    def _maybe_switch(self, best: PoolMember, group: Group, now: float) -> None:
        current = self._current
        if current is None:
            self._switch(best, "removed", now)  # or none was in use before
            return
        own = self._group(current, now)
        if own.trouble == group.trouble == 3:
            self._switch(best, "panic", now)
        elif own.trouble > group.trouble:
            self._switch(best, "busy" if own.trouble == 2 else "failed", now)
        elif own.pinned > group.pinned:
            self._switch(best, "pinned", now)
        elif own.priority > group.priority:
            self._switch(best, "failback" if best.recovered_at is not None else "preferred", now)
        elif self._is_much_faster(best, current):
            self._switch(best, "latency", now)

    def _is_much_faster(self, member: PoolMember, current: PoolMember) -> bool:
        fast, slow = member.health.response_time, current.health.response_time
        if fast is None or slow is None:
            return False
        gain = slow - fast
        return gain >= self._policy.latency_margin and gain >= self._policy.latency_gain * slow

    def _switch(self, member: PoolMember, reason: str, now: float) -> None:
        before, self._gone = self._current or self._gone, None
        self._current, self._current_since = member, now
        if before is None or before.url == member.url or self.followed:
            return
        began = before.failing_since
        self._tell(
            EventKind.SWITCHED,
            from_url=before.url,
            to_url=member.url,
            reason=reason,
            seconds_without_service=0.0 if began is None else max(0.0, now - began),
        )

    # -- whom to look at

    def watched(self) -> list[PoolMember]:
        """List the endpoints whose health matters: the best ones, and any that is in use.

        A list of 10,000 must not make each client look at all of them.
        """
        if len(self._members) <= WATCHED:
            return list(self._members.values())
        if self._best is None:
            self._best = nsmallest(WATCHED, self._members.values(), key=_by_priority)
        used = [m for m in self._members.values() if m.served or m.failed or self._is_chosen(m)]
        return list(dict.fromkeys([*self._best, *used]))

    def _is_chosen(self, member: PoolMember) -> bool:
        return member is self._current or member.url == self._pinned

    def take_due(self, now: float) -> list[PoolMember]:
        """List the endpoints that are to be looked at now, and count that as begun."""
        due = [m for m in self.watched() if not m.probing and m.health.next_probe <= now]
        for member in due:
            member.probing = True
        return due

    def forget_probes(self) -> None:
        """Take every health check that had begun for one that will never end."""
        for member in self._members.values():
            member.probing = False

    def next_due(self) -> float:
        """When somebody is to be looked at next; infinity for never."""
        return min(
            (m.health.next_probe for m in self.watched() if not m.probing),
            default=_NEVER,
        )

    # -- what happened

    def served(self, member: PoolMember, now: float, status: int = 200) -> None:
        """Note that a request was answered, whatever the application said in the answer."""
        member.served += 1
        if status >= 500 or status in ODD_STATUS:
            self._odd(member, now)
        elif member.odd:
            member.odd = 0
        if member.health.is_steady and self._network.is_steady:
            member.health.last_good = now  # all that there is to learn, on every request
            return
        self._network.proof(now)
        self._record(member, Evidence.GOOD_REQUEST, now)

    def _odd(self, member: PoolMember, now: float) -> None:
        """Have an endpoint looked at once when it has only odd answers after good ones."""
        if member.odd >= 0:
            member.odd += 1
            if member.odd == ODD_IN_A_ROW:
                self.doubt(member, now)

    def failed(self, member: PoolMember, fault: Fault, now: float, began: float) -> None:
        """Note that a request failed.

        Args:
            member: Where.
            fault: How.
            now: Monotonic seconds.
            began: When the attempt began.
        """
        member.last_fault = fault
        if fault in COUNTED or fault in NETWORK:
            member.failed += 1
        self._fault(member, fault, Evidence.BAD_REQUEST, now, began)

    def doubt(self, member: PoolMember, now: float) -> None:
        """Have an endpoint looked at soon, without holding anything against it."""
        member.health.next_probe = min(member.health.next_probe, now)
        self.urgent = True

    def busy(self, member: PoolMember, seconds: float, now: float) -> None:
        """Note that an endpoint asked to be left alone for a while; it lives, though."""
        self._network.proof(now)
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
        """Note a health check.

        Args:
            member: Which endpoint was looked at.
            fault: What was wrong, or None.
            seconds: How long it took.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.
            busy: Seconds for which the endpoint asked to be left alone, or None.
        """
        member.last_checked = posix
        member.probing = False
        if busy is not None:
            self._network.proof(now)
            member.busy_until, fault = now + busy, Fault.BUSY
            self._review_at = now
        if fault is None:
            self._network.proof(now)
            member.health.measured(seconds)
            self._record(member, Evidence.GOOD_PROBE, now)
        else:
            member.last_fault = fault
            self._fault(member, fault, Evidence.BAD_PROBE, now, now - seconds)

    def _fault(
        self, member: PoolMember, fault: Fault, evidence: Evidence, now: float, began: float
    ) -> None:
        if fault in NETWORK:
            self._network.fault(
                member.target.host, now, lambda when: self._blame(member, evidence, when, began)
            )
            member.health.postpone(now, self._random())
            self._ask_another(member, now)
            self._review_at = now
        elif fault is Fault.STALLED:
            self._blame(member, Evidence.STALL, now, began)
        elif fault in COUNTED:
            if fault in _FROM_AFAR:
                self._network.proof(now)
            self._blame(member, evidence, now, began)
        elif evidence is Evidence.BAD_PROBE:
            # It says nothing of the endpoint, and must not be repeated without a pause.
            member.health.postpone(now, self._random())

    def _ask_another(self, member: PoolMember, now: float) -> None:
        """Have a second host looked at while it can still tell whose fault the first one is.

        An idle client probes its endpoints at different times: without a network each would
        fail alone, and be blamed.
        """
        others = [m for m in self.watched() if m.target.host != member.target.host]
        if others and not self._network.offline:
            self.doubt(min(others, key=lambda m: self._group(m, now)), now)

    def _blame(self, member: PoolMember, evidence: Evidence, now: float, began: float) -> None:
        if member.failing_since is None:
            member.failing_since = began
        self._record(member, evidence, now)

    def _record(self, member: PoolMember, evidence: Evidence, now: float) -> None:
        change = member.health.record(evidence, now, self._random())
        self.urgent = self.urgent or member.health.next_probe <= now
        if evidence in _GOOD:
            member.failing_since = None
        if change.after is HealthState.HEALTHY and change.before not in _FINE:
            member.recovered_at = now
        if self._members.get(member.url) is not member:
            return  # it left the list while it was asked
        self._note(member, change)
        if change.before is not change.after or evidence is Evidence.GOOD_PROBE:
            self._consider(member, now)

    def _consider(self, member: PoolMember, now: float) -> None:
        """Have the choice looked at again where this endpoint may change it."""
        current = self._current
        if current is None or member is current:
            self._review_at = now
            return
        group, own = self._group(member, now), self._group(current, now)
        better = group < own or (group == own and self._is_much_faster(member, current))
        if better and not self._must_dwell(member, current, now):
            self._review_at = now

    def _note(self, member: PoolMember, change: Transition) -> None:
        self._usable += change.came_back - change.went_down
        if change.went_down:
            self._tell(EventKind.DOWN, url=member.url, reason=member.last_fault)
            self._note_outage()
        elif change.came_back:
            self._tell(EventKind.RECOVERED, url=member.url, after_total_outage=self._all_down)
            self._all_down = False

    def _note_outage(self) -> None:
        if self._members and not self._usable and not self._all_down:
            self._all_down = True
            self._tell(EventKind.ALL_DOWN, urls=[m.url for m in self.members()])

    def _tell(self, kind: EventKind, **about: Any) -> None:
        self._events.append(PoolEvent(kind, {"kind": self.kind, **about}))


def _by_priority(member: PoolMember) -> tuple[int, int]:
    return member.endpoint.priority, member.order


_GOOD = frozenset({Evidence.GOOD_PROBE, Evidence.GOOD_REQUEST})
_FINE = frozenset({HealthState.UNKNOWN, HealthState.HEALTHY})
#: Faults that only something on the far side of a network can cause.
_FROM_AFAR = frozenset({Fault.REFUSED, Fault.RESET, Fault.TLS, Fault.PROTOCOL, Fault.BAD_STATUS})
