"""Failover of one request over several endpoints. Pure.

``Failover`` names the endpoint of the next attempt and records each ``Attempt``. A synchronous or
an asynchronous driver does the I/O in between. ``DialRace`` decides likewise about the dials of
one attempt.
"""

from bisect import bisect_left, insort
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from math import ceil, inf
from typing import Any, NamedTuple

from ...net.faults import Fault
from .member import LATE_SHARE, RECENT, ROUTES, WEIGHT, PoolMember, race_delay
from .policy import HEDGE_LEAST, HEDGE_MOST, HEDGED, IDEMPOTENT, NOT_REACHED, Delay, Policy
from .pool import Pool

#: On a reused connection these faults may only mean that the server closed an idle connection.
_STALE = frozenset({Fault.RESET, Fault.PROTOCOL})
#: Faults of this process: no endpoint caused these faults, and another endpoint would not help.
OURS = frozenset({Fault.POOL_TIMEOUT, Fault.OURS})
#: Faults after which a request may go to the endpoint later: it was only slow, or got no request.
_NO_TRIAL = frozenset({Fault.STALLED, Fault.POOL_TIMEOUT})
#: Number of an endpoint's last answers that count, and number from which the hedge delay uses them.
ANSWERS, ENOUGH = 100, 20


class Budget:
    """A retry budget (token bucket) that keeps a fleet from doubling an overloaded backend's load.

    Each request's first move to another endpoint is free, so that a dead primary fails no
    request; each further attempt and each hedge costs tokens.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.tokens = policy.budget

    def spend(self, cost: float) -> bool:
        """Pay for an attempt or a hedge; return False if too few tokens are left."""
        if self.tokens < cost:
            return False
        self.tokens -= cost
        return True

    def refund(self) -> None:
        """Return the tokens of a success to the budget."""
        self.tokens = min(self._policy.budget, self.tokens + self._policy.success_refund)


class RetryTraits(NamedTuple):
    """The traits of a request that decide whether it may be sent again.

    Attributes:
        idempotent: Whether the request may be executed twice without harm.
        replayable: Whether the body can be sent again.
        hedged: Whether the request may be sent to two endpoints at once.
    """

    idempotent: bool
    replayable: bool
    hedged: bool

    @classmethod
    @lru_cache(maxsize=64)
    def of(cls, method: str, *, replayable: bool, keyed: bool) -> "RetryTraits":
        """Judge a request by its method, its body and its ``Idempotency-Key``."""
        return cls(method in IDEMPOTENT or keyed, replayable, method in HEDGED and replayable)

    def may_go_on(self, attempt: "Attempt") -> bool:
        """Whether the request may move to another endpoint after this attempt."""
        if attempt.status is not None and not self.replayable:
            return False  # the server that answered has consumed the body
        may_repeat = self.idempotent and self.replayable
        return may_repeat or not attempt.sent or attempt.status in NOT_REACHED


class FailedAttempt(NamedTuple):
    """One failed attempt, for the error message.

    Attributes:
        url: The endpoint.
        fault: The fault, in a word.
        seconds: The duration.
    """

    url: str
    fault: Fault
    seconds: float


@dataclass(eq=False)
class Attempt:
    """One attempt of a request at one endpoint, with its outcome.

    Attributes:
        member: The endpoint; a race may replace the first endpoint.
        now: Monotonic seconds when the attempt ended.
        began: Monotonic seconds when the attempt began.
        status: The answer's status code, or None.
        busy: Seconds of the endpoint's ``Retry-After``, or None.
        fault: Why there is no good answer, or None if the application gets the answer.
        sent: Whether a server may have seen the request.
        reused: Whether the connection had carried a request before.
        result: The driver's answer or exception.
        first_byte: Seconds from the request to the first byte of its answer, or None.
    """

    member: PoolMember
    now: float
    began: float
    status: int | None = None
    busy: float | None = None
    fault: Fault | None = None
    sent: bool = True
    reused: bool = False
    result: Any = None
    first_byte: float | None = None

    def judge_status(
        self, policy: Policy, status: int, retry_after: str | None, now_posix: float
    ) -> None:
        """Record the status of an answer; a bad status or ``Retry-After`` is a fault."""
        self.status = status
        self.busy = policy.busy_for(status, retry_after, now_posix)
        if self.busy is not None:
            self.fault = Fault.BUSY
        elif status in policy.bad_status:
            self.fault = Fault.BAD_STATUS


class Failover:
    """One request, carried over the endpoints of a pool.

    The first move to another endpoint is free; each further attempt costs budget.
    The driver sends the request to ``member`` and records the attempt, until ``member`` is None.
    Each call runs under the lock of the pool; the driver does the I/O without the lock.

    Args:
        traits: Whether the request may be sent again.
        pool: The endpoints.
        budget: The retry budget.
        now: Monotonic seconds.
        total: The request's total timeout in seconds; None for the policy's.
        route: Method and path prefix of the request, for the hedge delay.

    Attributes:
        member: The endpoint of the next attempt, or None when the request is over.
        hedge_after: Seconds without an answer after which a hedge starts; infinity for no hedge.
        deadline: End of the request in monotonic seconds.
        began: Monotonic seconds when the request began.
        answer: The attempt with the last answer, or None.
        discard: An earlier attempt whose answer the driver closes, or None.
        error: The driver's exception that ends the request, or None.
        trials: The failed attempts.
        tried: The URLs of the endpoints that are not tried again: those that have failed, and those
            that the current attempt has chosen.
        uses_other_proxy: Whether the request uses another proxy than the health checks. Then the
            pool records no failure, because the proxy may be its cause.
    """

    uses_other_proxy = False

    def __init__(
        self,
        traits: RetryTraits,
        pool: Pool,
        budget: Budget,
        now: float,
        total: float | None = None,
        route: str = "",
    ) -> None:
        self.traits = traits
        self.total = pool.policy.total_timeout if total is None else total
        self.deadline = now + self.total
        self.began = now
        self.hedge_after = inf
        self.answer: Any = None
        self.discard: Any = None
        self.error: Any = None
        self.trials: list[FailedAttempt] = []
        self._pool = pool
        self._budget = budget
        self._free = True
        self._route = route
        self.member = pool.select(now)
        self.tried = [] if self.member is None else [self.member.url]
        self._go_to(self.member, now)

    def next(self, now: float, *, last_resort: bool = True) -> PoolMember | None:
        """Return the next endpoint and pay for the attempt; None without an endpoint or budget.

        Args:
            now: Monotonic seconds.
            last_resort: Whether an unhealthy endpoint is returned if no usable endpoint is left.
        """
        cost = 0.0 if self._free else self._pool.policy.attempt_cost
        member = self._take(now, cost, last_resort=last_resort)
        self._free = self._free and member is None
        return member

    def _take(self, now: float, cost: float, *, last_resort: bool = False) -> PoolMember | None:
        rest = self._pool.alternatives(now, self.tried, last_resort=last_resort)
        if not rest or not self._budget.spend(cost):
            return None
        self.tried.append(rest[0].url)
        return rest[0]

    def better(self, now: float) -> PoolMember | None:
        """Return a better endpoint for a request that is not sent yet, or None.

        While the request waited in a queue, other requests may have found that its endpoint fails.
        """
        best = self._pool.select(now)
        return None if best is None or best.url in self.tried else self.next(now)

    def hedge(self, now: float) -> PoolMember | None:
        """Return an endpoint for a hedge and pay for the hedge; None without endpoint or budget."""
        return self._take(now, self._pool.policy.hedge_cost)

    def record_overtaken(self, member: PoolMember, now: float, hedge: Attempt) -> bool:
        """Record that a hedge overtook an endpoint; return whether that counts as a stall.

        After a short delay a hedge sometimes overtakes even a healthy endpoint. So the first time
        only requests a health check, and the second time in a row counts as a stall. If the hedge
        was answered late as well, the route is slow, and a check alone judges the endpoint.

        Args:
            member: The endpoint.
            now: Monotonic seconds.
            hedge: The attempt that has overtaken the endpoint.
        """
        if self.uses_other_proxy:
            return False
        is_auto = self._pool.policy.hedge_delay == "auto"
        is_slow_route = is_auto and self._is_late(member, hedge)
        member.stalls += not is_slow_route
        is_measured = is_auto and self.hedge_after < HEDGE_MOST
        if is_slow_route or (is_measured and member.stalls == 1):
            self._pool.request_probe(member, now)
            return False
        return True

    def _is_late(self, member: PoolMember, hedge: Attempt) -> bool:
        """Whether a hedge took longer than its delay, and not because its endpoint is far away."""
        near, far = member.health.response_time, hedge.member.health.response_time
        if hedge.first_byte is None or far is None:
            return False
        return hedge.first_byte > self.hedge_after + max(0.0, far - (near or 0.0))

    def _go_to(self, member: PoolMember | None, now: float) -> None:
        self.member = member
        if member is not None and self.traits.hedged:
            self.hedge_after = self._hedge_delay(member, now)

    def _hedge_delay(self, member: PoolMember, now: float) -> float:
        """Return the seconds to wait for an endpoint's answer before a hedge starts.

        The delay is infinite for a route that is slow by itself: a hedge would not help.
        """
        delay = self._pool.policy.hedge_delay
        if delay != "auto":
            return delay
        answers, times = member.answers, member.answer_times
        while answers and answers[0][0] < now - RECENT:
            del times[bisect_left(times, answers.popleft()[1])]
        member.hedge_delay = HEDGE_MOST
        if len(times) >= ENOUGH:
            high = times[ceil(0.95 * len(times)) - 1]
            member.hedge_delay = min(HEDGE_MOST, max(HEDGE_LEAST, 3 * high))
        is_slow = self._pool.late_shares.get(self._route, 0.0) > LATE_SHARE
        return inf if is_slow else member.hedge_delay

    def _measure(self, member: PoolMember, seconds: float, now: float) -> None:
        """Record the time to first byte of an answer, for the hedge delay.

        A route whose answers are mostly later than the hedge delay is slow by itself, so its
        answers do not count.
        """
        shares, late = self._pool.late_shares, seconds > member.hedge_delay
        share = shares.pop(self._route, 0.0)
        if share <= LATE_SHARE:
            answers, times = member.answers, member.answer_times
            if len(answers) == ANSWERS:
                del times[bisect_left(times, answers.popleft()[1])]
            answers.append((now, seconds))
            insort(times, seconds)
        share += WEIGHT * (late - share)
        if share >= WEIGHT / 10:
            shares[self._route] = share  # the newest route is last
        if len(shares) > ROUTES:
            del shares[next(iter(shares))]

    def record(self, attempt: Attempt) -> None:
        """Record an attempt, and choose the endpoint of the next attempt."""
        now, self.member, self.discard = attempt.now, None, None
        if attempt.status is not None:
            self.discard, self.answer = self.answer, attempt
        if attempt.fault is None:
            self._pool.served(attempt.member, now, attempt.status or 200)
            if self.traits.hedged and attempt.first_byte is not None:
                self._measure(attempt.member, attempt.first_byte, now)
            self._budget.refund()
            return
        self.record_failure(attempt, attempt.fault)
        if attempt.fault in OURS or not self.traits.may_go_on(attempt):
            self.error = attempt.result if self.answer is None else None
        elif now < self.deadline:
            # All other endpoints got no request, or lost a race without a failure.
            self.tried = [trial.url for trial in self.trials if trial.fault not in _NO_TRIAL]
            self._free = self._free or len(self.tried) == 1
            self._go_to(self._after(attempt), now)

    def record_failure(self, attempt: Attempt, fault: Fault) -> None:
        """Record a failed attempt without a choice of the next one, as for a loser of a race."""
        member, now = attempt.member, attempt.now
        self.trials.append(FailedAttempt(member.url, fault, now - attempt.began))
        if self.uses_other_proxy:
            return
        if attempt.busy is not None:
            self._pool.busy(member, attempt.busy, now)
        elif attempt.reused and fault in _STALE:
            self._pool.request_probe(member, now)
        else:
            self._pool.failed(member, fault, now, attempt.began)

    def _after(self, attempt: Attempt) -> PoolMember | None:
        """Return the endpoint after a failure; after a stale connection, the same one once more."""
        member, stale = attempt.member, attempt.reused and attempt.fault in _STALE
        is_first = [trial.url for trial in self.trials].count(member.url) == 1
        if stale and is_first and self._budget.spend(self._pool.policy.attempt_cost):
            return member
        return self.next(attempt.now)


#: Function from monotonic seconds to another endpoint, or None.
NextMember = Callable[[float], PoolMember | None]


class DialRace:
    """The dial race of one attempt: decides which endpoint to dial when, and which dial wins.

    The race applies RFC 8305 (Happy Eyeballs) to endpoints: if a dial is not done after ``delay``
    seconds, or fails, the race dials the next endpoint in parallel.

    Args:
        first: The endpoint to dial first.
        more: Returns another endpoint, or None.
        delay: Seconds until the next dial begins; ``auto`` derives the delay from the endpoint's
            last dials.

    Attributes:
        losers: The endpoints that failed, and after the race those that stalled.
        connected: URLs of endpoints with an open connection: such an endpoint wins as soon as it
            may be dialled.
        called_off: Returns whether the race was cancelled.
    """

    def __init__(self, first: PoolMember, more: NextMember, delay: Delay) -> None:
        self._more = more
        self._delay = delay
        self._started: dict[str, tuple[PoolMember, float, float]] = {}
        self._ready: PoolMember | None = first
        self._next_at = -inf
        self.losers: list[tuple[PoolMember, Fault]] = []
        self.connected: set[str] = set()
        self.called_off: Callable[[], bool] = lambda: False

    def start(self, now: float) -> PoolMember | None:
        """Return the endpoint to dial now, or None."""
        if now < self._next_at:
            return None
        member = self._ready if self._ready is not None else self._more(now)
        self._ready = None
        if member is None:
            self._next_at = inf
            return None
        delay = race_delay(member.dials, now) if self._delay == "auto" else self._delay
        self._started[member.url] = (member, now, delay)
        self._next_at = now + delay
        return member

    def wait(self, now: float) -> float:
        """Return the seconds until another dial begins; infinity if no further dial will begin."""
        return max(0.0, self._next_at - now)

    def failed(self, member: PoolMember, fault: Fault) -> None:
        """Record a failed dial; the next dial begins at once."""
        self._started.pop(member.url, None)
        self.losers.append((member, fault))
        if self._next_at != inf:
            self._next_at = -inf

    def won(self, member: PoolMember, now: float) -> None:
        """Record the endpoint that is ready first."""
        _, since, _ = self._started.pop(member.url)
        if member.url not in self.connected:
            member.dials.append((now, now - since))
        self.losers += [
            (loser, Fault.STALLED)
            for loser, since, delay in self._started.values()
            if now - since >= delay
        ]
