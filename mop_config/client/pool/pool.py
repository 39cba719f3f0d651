"""``Pool``: the endpoints of one kind, their health, and the choice among them. Pure.

A pool has no clock, lock or thread: the caller passes the time, holds a lock around each call,
and sends the queued events after the lock is released.
"""

from collections.abc import Callable, Collection, Iterable
from math import inf
from typing import Any

from ...health.probe import ProbeResult
from ...health.state import NOT_FAILED, Evidence, Health, HealthState, Transition
from ...model.endpoint import Endpoint
from ...net.faults import COUNTED, NETWORK, Fault
from .member import PoolEvent, PoolMember, Rank, target_of
from .offline import OfflineDetector
from .policy import ODD_IN_A_ROW, ODD_STATUS, Policy

#: Number of the best endpoints of a kind that are checked regularly, besides endpoints in use.
WATCHED = 50
#: Faults that come from a remote host, and so prove that the machine has a network.
_FROM_AFAR = frozenset({Fault.REFUSED, Fault.RESET, Fault.TLS, Fault.PROTOCOL, Fault.BAD_STATUS})


class Pool:
    """The endpoints of one kind, and the choice among them by health, pin, priority and speed.

    The list, the outcomes of requests and the health checks change the endpoints. Each change
    that may change the choice sets the time of the next review; ``select`` reviews the choice
    when that time has come, and queues ``endpoint_switched`` if the current endpoint changes.

    Args:
        kind: ``api`` or ``socketio``, for events.
        policy: The timeouts and limits.
        network: Detects a machine without a network; both pools share the detector.
        random: Returns numbers from 0 to 1.

    Attributes:
        pinned: The URL of the pinned endpoint, or None.
        current: The current endpoint as of the last review, or None.
        events: The events that are queued for the caller.
        urgent: Whether an endpoint should be probed without delay.
        late_shares: The share of late answers of each route that had late answers lately.
        switches: Number of switches of the current endpoint.
        seconds_without_service: Total seconds without service in these switches.
        attached_clients: Number of Socket.io clients, which call ``moved`` when their connection
            has moved.
    """

    def __init__(
        self, kind: str, policy: Policy, network: OfflineDetector, random: Callable[[], float]
    ) -> None:
        self.kind = kind
        self.policy = policy
        self.pinned: str | None = None
        self.current: PoolMember | None = None
        self.events: list[PoolEvent] = []
        self.urgent = False
        self.attached_clients = 0
        self.switches = 0
        self.seconds_without_service = 0.0
        self._network = network
        self._random = random
        self._members: dict[str, PoolMember] = {}
        self._current_since = 0.0
        self._removed: PoolMember | None = None  # the last current endpoint, if it was removed
        self._review_at = inf  # monotonic seconds of the next review of the choice
        self._all_down = False
        self.late_shares: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._members)

    def get(self, url: str) -> PoolMember | None:
        """Return the endpoint with a URL, or None."""
        return self._members.get(url)

    def members(self) -> list[PoolMember]:
        """List all endpoints, by priority and insertion."""
        return sorted(self._members.values(), key=lambda m: m.endpoint.priority)

    def _emit(self, name: str, **about: Any) -> None:
        self.events.append(PoolEvent(name, {"kind": str(self.kind), **about}))

    # -- the list

    def replace(self, endpoints: Iterable[Endpoint], now: float) -> None:
        """Replace the list; endpoints that stay keep their health and statistics.

        Args:
            endpoints: The new list, with different URLs.
            now: Monotonic seconds.
        """
        wanted = {endpoint.url: endpoint for endpoint in endpoints}
        for url in self._members.keys() - wanted.keys():
            del self._members[url]
        if self.current is not None and self.current.url not in wanted:
            self.current, self._removed = None, self.current
        for url, endpoint in wanted.items():
            member = self._members.get(url)
            if member is None:
                health = Health(self.policy, now)
                self._members[url] = PoolMember(endpoint, health, self._random())
                self.urgent = True
                self._all_down = False
            elif member.endpoint != endpoint:
                member.endpoint, member.target = endpoint, target_of(endpoint)
                member.recovered_at = None  # a deliberate change needs no dwell time
        self._review_at = now
        self._emit_if_all_down()

    # -- the choice

    def pin(self, url: str | None, now: float) -> None:
        """Prefer one endpoint while it is healthy. None: remove the pin."""
        self.pinned = url
        self._review(now)

    def select(self, now: float) -> PoolMember | None:
        """Return the endpoint for the next request; cheap while nothing has changed."""
        if now >= self._review_at or self.current is None:
            self._review(now)
        return self.current

    def better_than(
        self, member: PoolMember, now: float, refused: Collection[str] = ()
    ) -> tuple[PoolMember, str] | None:
        """Return the endpoint to which an open connection moves, and the reason; None to stay.

        A working connection does not move for a better response time or because its endpoint is
        suspect.

        Args:
            member: The endpoint of the connection.
            now: Monotonic seconds.
            refused: URLs of endpoints that have just refused the connection.
        """
        best = self.select(now)
        if best is not None and best.url in refused:
            best = next(iter(self.alternatives(now, refused)), None)
        if best is None or best.url == member.url:
            return None
        if member.url not in self._members:
            return best, "removed"
        if self._rank(best, now).trouble:
            return None
        if best.url == self.pinned:
            return best, "pinned"
        if best.endpoint.priority < member.endpoint.priority and member.url != self.pinned:
            return best, best.better_priority
        return None

    def moved(self, from_url: str, to_url: str, reason: str, seconds: float) -> None:
        """Queue the event of an open connection that has moved to another endpoint."""
        self.switches += 1
        self.seconds_without_service += seconds
        about = {"from_url": from_url, "to_url": to_url, "reason": reason}
        self._emit("endpoint_switched", **about, seconds_without_service=seconds)

    def choose_anew(self, now: float) -> None:
        """Switch to the best endpoint now, without the minimum dwell time."""
        for member in self._members.values():
            member.recovered_at = None
        best = next(iter(self.alternatives(now)), None)
        if best is not None and best is not self.current:
            self._switch(best, "chosen", now)

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
        return sorted(rest, key=lambda m: self._rank(m, now))

    def spare(self, now: float) -> PoolMember | None:
        """Return the endpoint that gets a warm spare connection: the next one in line, or None.

        There is none without ``Policy.warm_spare``, before the current endpoint has answered, and
        while the next one has failed.
        """
        current = self.select(now) if self.policy.warm_spare else None
        if current is None or not current.served:
            return None
        rest = self.alternatives(now, [current.url])
        return rest[0] if rest and rest[0].health.state in NOT_FAILED else None

    def _eligible(self) -> list[PoolMember]:
        """List the usable endpoints; all endpoints if no endpoint is usable."""
        return [m for m in self._members.values() if m.health.usable] or [*self._members.values()]

    def _rank(self, member: PoolMember, now: float) -> Rank:
        """Return the rank of an endpoint.

        Response times within the latency margin count as equal, so that clients spread by chance
        over these endpoints. Endpoints without a measurement rank right behind the fastest.
        """
        if not member.health.usable:
            trouble = 3
        elif member.busy_until > now:
            trouble = 2
        elif member.health.state is HealthState.SUSPECT or member.target.host in self._network.held:
            trouble = 1
        else:
            trouble = 0
        measured, speed, margin = member.health.response_time, 1.0, self.policy.latency_margin
        if measured is not None:
            speed = measured // margin if margin else measured
        pinned = member.url != self.pinned
        return Rank(trouble, pinned, member.endpoint.priority, speed, member.tie_breaker)

    def _review(self, now: float) -> None:
        self._network.expire(now)
        self._review_at = self._network.next_expiry
        current, choice = self.current, []
        for member in self._eligible():
            if member.busy_until > now:
                self._review_at = min(self._review_at, member.busy_until)
            if current is None or not self._must_dwell(member, current, now):
                choice.append(member)
        if not choice:
            return
        best = min(choice, key=lambda m: self._rank(m, now))
        # Without a current endpoint, the last one was removed, or there was none.
        reason = "removed" if current is None else self._reason(best, current, now)
        if best is not current and reason is not None:
            self._switch(best, reason, now)

    def _must_dwell(self, member: PoolMember, current: PoolMember, now: float) -> bool:
        """Whether the minimum dwell time forbids a switch back to a recovered endpoint."""
        if member is current or member.recovered_at is None or member.url == self.pinned:
            return False
        if self._rank(current, now).trouble:
            return False
        until = max(member.recovered_at, self._current_since) + self.policy.min_dwell
        if until > now:
            self._review_at = min(self._review_at, until)
        return until > now

    def _reason(self, best: PoolMember, current: PoolMember, now: float) -> str | None:
        """Return the reason for a switch to the best endpoint, or None to stay."""
        rank, own = self._rank(best, now), self._rank(current, now)
        if rank.trouble == own.trouble == 3:
            return "panic"
        if rank.trouble < own.trouble:
            return "busy" if own.trouble == 2 else "failed"
        if rank[:3] > own[:3]:
            return None
        if rank.pinned < own.pinned:
            return "pinned"
        if rank.priority < own.priority:
            return best.better_priority
        fast, slow = best.health.response_time, current.health.response_time
        if fast is None or slow is None:
            return None
        least = max(self.policy.latency_margin, self.policy.latency_gain * slow)
        return "latency" if slow - fast >= least else None

    def _switch(self, member: PoolMember, reason: str, now: float) -> None:
        before, self._removed = self.current or self._removed, None
        self.current, self._current_since = member, now
        if self.policy.probe == "current" and member.health.next_probe <= now:
            self.urgent = True
        if before is None or before.url == member.url or self.attached_clients:
            return
        began = before.failing_since
        self.moved(before.url, member.url, reason, 0.0 if began is None else max(0.0, now - began))

    # -- health checks

    def watched(self) -> list[PoolMember]:
        """List the endpoints to check: the best 50, and each endpoint in use.

        The limit keeps a client from probing a whole list of 10,000 endpoints.
        """
        best = self.members()[:WATCHED]
        chosen = {self.current, self.get(self.pinned or "")}
        used = [m for m in self._members.values() if m.served or m.failed or m in chosen]
        return list(dict.fromkeys([*best, *used]))

    def _scheduled(self) -> list[PoolMember]:
        """List the endpoints that ``Policy.probe`` selects for regular checks.

        With ``current`` an endpoint that has failed is checked too, so that requests can return
        to the endpoint after it recovers.
        """
        if self.policy.probe == "none":
            return []
        watched = [m for m in self.watched() if not m.probing]
        if self.policy.probe == "all":
            return watched
        return [m for m in watched if m is self.current or m.health.state not in NOT_FAILED]

    def take_due(self, now: float) -> list[PoolMember]:
        """List the endpoints whose check is due, and mark each check as begun."""
        if self.policy.probe == "current":
            self.select(now)
        due = [m for m in self._scheduled() if m.health.next_probe <= now]
        for member in due:
            member.probing = True
        return due

    def next_due(self) -> float:
        """Return the monotonic time of the next check; infinity for none."""
        return min((m.health.next_probe for m in self._scheduled()), default=inf)

    def request_probe(self, member: PoolMember, now: float) -> None:
        """Request a probe as after a first failure, without counting a failure."""
        member.health.recheck(now)
        self.urgent = True

    # -- outcomes

    def served(self, member: PoolMember, now: float, status: int = 200) -> None:
        """Record that a request was answered, with any status."""
        member.served += 1
        member.stalls = 0
        if status < 400 or (status < 500 and status not in ODD_STATUS):
            member.odd_answers = 0
        elif member.odd_answers >= 0:
            member.odd_answers += 1
            if member.odd_answers == ODD_IN_A_ROW:
                self.request_probe(member, now)
        if not member.health.is_steady or self._network.offline or self._network.held:
            self._record(member, Evidence.GOOD_REQUEST, now)  # else no state changes
        if member is not self.current:
            self.select(now)  # tell of a switch now, not at the next request

    def failed(self, member: PoolMember, fault: Fault, now: float, began: float) -> None:
        """Record that a request failed.

        Args:
            member: The endpoint.
            fault: Why it failed.
            now: Monotonic seconds.
            began: Monotonic seconds when the attempt began.
        """
        if fault in COUNTED or fault in NETWORK:
            member.failed += 1
            member.faults[fault] += 1
        self._record_fault(member, fault, Evidence.BAD_REQUEST, now, began)

    def busy(self, member: PoolMember, seconds: float, now: float) -> None:
        """Record a ``Retry-After``: the endpoint is alive, but ranks last for ``seconds``."""
        member.busy_until = now + seconds
        self.served(member, now)
        self._review_at = now

    def probed(self, member: PoolMember, result: ProbeResult, now: float, posix: float) -> None:
        """Record a health check.

        Args:
            member: The endpoint.
            result: The result.
            now: Monotonic seconds.
            posix: The same moment as POSIX time.
        """
        member.probing = False
        fault = result.fault
        if fault is Fault.OURS:  # cancelled, or this process lacks descriptors or threads
            member.health.postpone(now, self._random())
            return
        member.last_checked = posix
        member.probe_path = result.path or member.probe_path
        busy = self.policy.busy_for(result.status or 0, result.retry_after, posix)
        if busy is not None:
            self._network.record_answer(now)
            member.busy_until, fault = now + busy, Fault.BUSY
            self._review_at = now
        if fault is not None:
            if not self._all_down:  # else the network of this machine may be at fault
                member.faults[fault] += 1
            self._record_fault(member, fault, Evidence.BAD_PROBE, now, now - result.seconds)
            return
        member.good_checks += 1
        member.health.measured(result.seconds)
        self._record(member, Evidence.GOOD_PROBE, now)

    def _record_fault(
        self, member: PoolMember, fault: Fault, evidence: Evidence, now: float, began: float
    ) -> None:
        member.last_fault = fault
        if fault in NETWORK:
            host, record = member.target.host, self._record
            self._network.record_fault(host, now, lambda at: record(member, evidence, at, began))
            member.health.postpone(now, self._random())
            # An idle client probes its endpoints at different times. Without a second probe within
            # the offline window, a client on a machine without a network would count each endpoint
            # as dead in turn.
            others = [m for m in self.watched() if m.target.host != host]
            if others and not self._network.offline:
                self.request_probe(min(others, key=lambda m: self._rank(m, now)), now)
            self._review_at = now
        elif fault in COUNTED or fault is Fault.STALLED:
            if fault in _FROM_AFAR:
                self._network.record_answer(now)
            evidence = Evidence.STALL if fault is Fault.STALLED else evidence
            self._record(member, evidence, now, began)
        elif evidence is Evidence.BAD_PROBE:
            # The fault says nothing about the endpoint: check again, but not at once.
            member.health.postpone(now, self._random())

    def _record(
        self, member: PoolMember, evidence: Evidence, now: float, began: float | None = None
    ) -> None:
        """Record evidence; ``began`` is when the attempt began that failed, or None."""
        if began is None:  # a success
            self._network.record_answer(now)
            member.failing_since = None
        elif member.failing_since is None:
            member.failing_since = began
        change = member.health.record(evidence, now, self._random())
        if change.after is HealthState.HEALTHY and change.before not in NOT_FAILED:
            member.recovered_at = now
        if change.before in NOT_FAILED and change.after not in NOT_FAILED:
            self.urgent = True
        if self._members.get(member.url) is not member:
            return  # removed from the list during the attempt
        self._emit_transition(member, change)
        if change.before is not change.after or evidence is Evidence.GOOD_PROBE:
            current = self.current
            if current is None or member is current or self._reason(member, current, now):
                self._review_at = now

    def _emit_transition(self, member: PoolMember, change: Transition) -> None:
        if change.after is HealthState.SUSPECT and change.before is not HealthState.SUSPECT:
            self._emit("endpoint_suspected", url=member.url, reason=member.last_fault)
        if change.went_down:
            self._emit("endpoint_down", url=member.url, reason=member.last_fault)
            self._emit_if_all_down()
        elif change.came_back:
            self._emit("endpoint_recovered", url=member.url, after_total_outage=self._all_down)
            self._all_down = False

    def _emit_if_all_down(self) -> None:
        usable = any(member.health.usable for member in self._members.values())
        if self._members and not usable and not self._all_down:
            self._all_down = True
            self._emit("all_endpoints_down", urls=[m.url for m in self.members()])
