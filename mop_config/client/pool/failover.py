"""Failover of one request over several endpoints, as a generator. Pure.

The generator ``failover`` yields an ``Attempt``, receives the ``Outcome`` of the attempt, and
returns the ``Verdict``. A synchronous or an asynchronous driver does the I/O in between.
``DialRace`` decides likewise about the dials of one attempt.
"""

from collections.abc import Callable, Container, Generator
from dataclasses import dataclass
from math import inf
from typing import Any, Literal, NamedTuple

from ...net.faults import Fault
from .delays import race_delay
from .member import PoolMember
from .policy import BAD_STATUS, HEDGED, IDEMPOTENT, NOT_REACHED, Budget, Policy
from .pool import Pool

#: On a reused connection these faults may only mean that the server closed an idle connection.
_STALE = frozenset({Fault.RESET, Fault.PROTOCOL})
#: Faults of this process: no endpoint caused these faults, and another endpoint would not help.
OURS = frozenset({Fault.POOL_TIMEOUT, Fault.OURS})


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
    def of(cls, method: str, *, replayable: bool, keyed: bool) -> "RetryTraits":
        """Judge a request by its method, its body and its ``Idempotency-Key``."""
        return cls(method in IDEMPOTENT or keyed, replayable, method in HEDGED and replayable)

    @property
    def may_move(self) -> bool:
        """Whether the request may move to another endpoint after a server may have seen it."""
        return self.idempotent and self.replayable

    def may_go_on(self, outcome: "Outcome") -> bool:
        """Whether the request may move to another endpoint after this outcome."""
        if outcome.status is not None and not self.replayable:
            return False  # the server that answered has consumed the body
        return self.may_move or not outcome.sent or outcome.status in NOT_REACHED


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


class Attempt(NamedTuple):
    """An instruction to the driver: send the request to this endpoint.

    Attributes:
        member: The endpoint.
        seconds_left: Seconds that the attempt may take.
        discard: Answer of an earlier attempt that the driver closes, or None.
        hedge_after: Seconds without an answer after which a hedge starts; infinity for no hedge.
    """

    member: PoolMember
    seconds_left: float
    discard: Any
    hedge_after: float = inf


@dataclass(slots=True)
class Outcome:
    """The outcome of an attempt.

    Attributes:
        member: The endpoint of the outcome; a race or a hedge may have replaced the first endpoint.
        now: Monotonic seconds when the attempt ended.
        began: Monotonic seconds when the attempt began.
        status: The answer's status code, or None.
        busy: Seconds of the endpoint's ``Retry-After``, or None.
        fault: Why there is no answer, or None if there is an answer.
        sent: Whether a server may have seen the request.
        reused: Whether the connection had carried a request before.
        result: The driver's answer or exception.
        losers: Endpoints that were tried in parallel, each with its fault.
        losers_recorded: How many of the losers, from the first, the pool has already recorded.
        first_byte: Seconds from the request to the first byte of its answer, or None.
        bad_status: Statuses that count against an endpoint.
        apart: Whether the attempt used another proxy than the health checks. Then the pool records
            no failure, because the proxy may be its cause.
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
    losers: tuple[tuple[PoolMember, Fault], ...] = ()
    losers_recorded: int = 0
    first_byte: float | None = None
    bad_status: frozenset[int] = BAD_STATUS
    apart: bool = False

    @property
    def bad(self) -> bool:
        """Whether the answer counts against the endpoint."""
        return self.status in self.bad_status

    @property
    def good(self) -> bool:
        """Whether the answer goes to the application, so that the failover ends."""
        return self.fault is None and self.busy is None and self.status not in self.bad_status


class Verdict(NamedTuple):
    """The result of a request.

    Attributes:
        answer: The driver's answer, or None.
        error: The driver's exception, raised unchanged, or None.
        discard: An earlier answer that the driver closes, or None.
        trials: The failed attempts.
    """

    answer: Any = None
    error: Any = None
    discard: Any = None
    trials: tuple[FailedAttempt, ...] = ()


class Candidates:
    """The endpoints that one request has not tried yet, and the budget for further attempts.

    The first move to another endpoint is free; each further attempt costs budget.
    """

    def __init__(self, pool: Pool, budget: Budget) -> None:
        self._pool = pool
        self._budget = budget
        self._free = True
        self.tried: list[str] = []

    def first(self, now: float) -> PoolMember | None:
        """Return the first endpoint, or None if the pool is empty."""
        return self._take(self._pool.select(now))

    def next(self, now: float) -> PoolMember | None:
        """Return the next endpoint and pay for the attempt; None without an endpoint or budget."""
        rest = self._pool.alternatives(now, self.tried, last_resort=True)
        if not rest or not (self._free or self._budget.spend()):
            return None
        self._free = False
        return self._take(rest[0])

    def hedge(self, now: float) -> PoolMember | None:
        """Return an endpoint for a hedge and pay for the hedge; None without endpoint or budget."""
        rest = self._pool.alternatives(now, self.tried)
        if not rest or not self._budget.spend_on_hedge():
            return None
        return self._take(rest[0])

    def leave_queue(self, now: float) -> PoolMember | None:
        """Return another endpoint for a request that only waited in a queue, and pay for it."""
        rest = self._pool.alternatives(now, self.tried)
        if not rest or not self._budget.spend():
            return None
        return self._take(rest[0])

    def pay_for_retry(self) -> bool:
        """Pay for one more attempt at the same endpoint."""
        return self._budget.spend()

    def give_back(self, urls: Container[str]) -> None:
        """Make endpoints that only lost a dial race available again."""
        self.tried = [url for url in self.tried if url not in urls]
        self._free = self._free or len(self.tried) == 1

    def _take(self, member: PoolMember | None) -> PoolMember | None:
        if member is not None:
            self.tried.append(member.url)
        return member


Flow = Generator[Attempt, Outcome, Verdict]


def failover(
    traits: RetryTraits,
    pool: Pool,
    budget: Budget,
    policy: Policy,
    candidates: Candidates,
    now: float,
    total: float | None = None,
    route: str = "",
) -> Flow:
    """Carry one request over the endpoints of a pool.

    ``total`` is the request's total timeout in seconds; None means the policy's. ``route`` is the
    method and path prefix of the request, for the hedge delay. Each step of the generator runs
    under the lock of the pool; the driver does the I/O without the lock.
    """
    deadline = now + (policy.total_timeout if total is None else total)
    trials: list[FailedAttempt] = []
    answer: Any = None
    discard: Any = None
    retried: set[str] = set()
    member = candidates.first(now)
    while member is not None:
        hedge_after = pool.hedge_delay(member, route, now) if traits.hedged else inf
        outcome = yield Attempt(member, max(0.0, deadline - now), discard, hedge_after)
        discard, now = None, outcome.now
        _record_losers(outcome, pool, trials)
        good = _record(outcome, pool, trials, route if traits.hedged else None)
        if outcome.status is not None:
            discard, answer = answer, outcome.result
        if good:
            budget.refund()
            return Verdict(answer=answer, discard=discard)
        over = outcome.fault in OURS
        if over or not traits.may_go_on(outcome):
            error = outcome.result if answer is None else None
            return Verdict(answer, error, discard, tuple(trials))
        if now >= deadline:
            break
        at = outcome.member
        if outcome.reused and outcome.fault in _STALE and at.url not in retried:
            retried.add(at.url)
            member = at if candidates.pay_for_retry() else candidates.next(now)
        else:
            member = candidates.next(now)
    return Verdict(answer=answer, discard=discard, trials=tuple(trials))


def _record_losers(outcome: Outcome, pool: Pool, trials: list[FailedAttempt]) -> None:
    """Record the losers of a race or a hedge that are not recorded yet."""
    for position, (loser, fault) in enumerate(outcome.losers):
        if position >= outcome.losers_recorded and not outcome.apart:
            pool.failed(loser, fault, outcome.now, outcome.began)
        trials.append(FailedAttempt(loser.url, fault, outcome.now - outcome.began))


def _record(outcome: Outcome, pool: Pool, trials: list[FailedAttempt], route: str | None) -> bool:
    """Record the outcome in the pool; return whether its answer goes to the application.

    If ``route`` is given, the time to first byte is recorded for the hedge delay.
    """
    member, now = outcome.member, outcome.now
    fault = outcome.fault
    if outcome.apart and not outcome.good:
        fault = fault or (Fault.BAD_STATUS if outcome.busy is None else Fault.BUSY)
    elif fault is None:
        if outcome.busy is not None:
            pool.busy(member, outcome.busy, now)
            fault = Fault.BUSY
        elif outcome.bad:
            fault = Fault.BAD_STATUS
            pool.failed(member, fault, now, outcome.began)
        else:
            pool.served(member, now, outcome.status or 200)
            if route is not None and outcome.first_byte is not None:
                pool.answered_in(member, outcome.first_byte, route, now)
            return True
    elif not (outcome.reused and fault in _STALE):
        pool.failed(member, fault, now, outcome.began)
    else:
        pool.request_probe(member, now)
    trials.append(FailedAttempt(member.url, fault, now - outcome.began))
    return False


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
        called_off: Whether the race was cancelled.
    """

    def __init__(
        self,
        first: PoolMember,
        more: Callable[[float], PoolMember | None],
        delay: float | Literal["auto"],
    ) -> None:
        self._more = more
        self._delay = delay
        self._started: dict[str, tuple[PoolMember, float, float]] = {}
        self._ready: PoolMember | None = first
        self._next_at = float("-inf")
        self.faults: list[tuple[PoolMember, Fault]] = []
        self.called_off: Callable[[], bool] = lambda: False

    @property
    def running(self) -> int:
        """The number of running dials."""
        return len(self._started)

    def start(self, now: float) -> PoolMember | None:
        """Return the endpoint to dial now, or None."""
        if now < self._next_at:
            return None
        member = self._ready if self._ready is not None else self._more(now)
        self._ready = None
        if member is None:
            self._next_at = float("inf")
            return None
        delay = race_delay(member.dials, now) if self._delay == "auto" else self._delay
        self._started[member.url] = (member, now, delay)
        self._next_at = now + delay
        return member

    def wait(self, now: float) -> float | None:
        """Return the seconds until another dial begins; None if no further dial will begin."""
        return None if self._next_at == float("inf") else max(0.0, self._next_at - now)

    def failed(self, member: PoolMember, fault: Fault) -> None:
        """Record a failed dial; the next dial begins at once."""
        self._started.pop(member.url, None)
        self.faults.append((member, fault))
        if self._next_at != float("inf"):
            self._next_at = float("-inf")

    def won(self, member: PoolMember, now: float) -> tuple[tuple[PoolMember, Fault], ...]:
        """Record the winning dial; return the losers, each with its fault."""
        _, since, _ = self._started.pop(member.url)
        member.dials.append((now, now - since))
        stalled = [
            (loser, Fault.STALLED)
            for loser, since, delay in self._started.values()
            if now - since >= delay
        ]
        return (*self.faults, *stalled)
