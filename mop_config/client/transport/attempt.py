"""``Exchange``: one attempt at one endpoint, its deadline, and what happened on the way.

httpcore passes time-outs unchanged from a request to the network stream. ``Limit`` is a time-out
that carries the exchange's deadline, so that a stream knows at each step which exchange it works
for, on an HTTP/2 connection that many exchanges share, too.
"""

import math
import time
from collections.abc import Set
from typing import Any, Protocol, Self

import httpcore2

from ...net.faults import Fault
from ..pool.failover import Outcome
from ..pool.member import PoolMember
from ..pool.session import ClientState, FailoverSession
from .dial import RaceWinner

Losers = tuple[tuple[PoolMember, Fault], ...]


class HasState(Protocol):
    """The part of a manager that a transport needs."""

    @property
    def _state(self) -> ClientState:
        """The manager's pools."""


class Deadline:
    """The time by which several steps on the network must be done together.

    Args:
        until: In monotonic seconds.

    Attributes:
        hedge: The hedge that may interrupt a read, or None.
    """

    hedge: Any = None

    def __init__(self, until: float) -> None:
        self.until = until

    def least(self, timeout: float | None) -> float:
        """Return a time-out bounded by the time that is left, in seconds."""
        left = max(0.0, self.until - time.monotonic())
        return left if timeout is None or timeout > left else timeout

    def wrote(self) -> None:
        """Record that a part of the request is written."""


class Overtaken(httpcore2.ReadError):
    """The other request of a hedge has its answer, so this one's is not needed."""


class Limit(float):
    """A time-out in seconds, with the deadline that bounds it and the steps after it."""

    deadline: Deadline

    @classmethod
    def of(cls, seconds: float, deadline: Deadline) -> Self:
        """Make a time-out that ends at the deadline at the latest."""
        limit = cls(seconds)
        limit.deadline = deadline
        return limit


class Exchange(Deadline):
    """One attempt of a request at one endpoint.

    Args:
        session: The failover of the request.
        member: The endpoint.
        until: When the request's time is over, in monotonic seconds.
        race: Whether a dial may be raced against other endpoints, and the queue left for another
            endpoint's; not so for the second request of a hedge.
        hedge_at: When the request has waited long enough at one endpoint, in a queue or for the
            first byte of an answer, in monotonic seconds.

    Attributes:
        began: When the attempt began, in monotonic seconds.
        connection: The connection that the request goes over, or None.
        reused: Whether that connection had been used before.
        fault: Why no connection could be made, or None.
        losers: Endpoints that were tried beside this one, with what went wrong there.
        losers_recorded: How many of the losers, from the first, the pool knows already.
        raced: Endpoints that were dialled beside this one.
        queued: Endpoints at which the request waited for a connection in vain.
        patient: Whether the request waits in a queue until its time is over.
        apart: Whether the request takes another proxy than the manager's health checks. Then
            its failures say nothing about the endpoint's health.
        written: Whether a part of the request is written.
        timeouts: The request's time-outs, which httpcore looks up at each step.
        pause: The time-out for each read of the body, in seconds; None for no time-out.
        called_off: Whether the other request of a hedge has won.
        turn: The event that ends the wait in a queue, or None.
        hedged_at: The URL of the endpoint of the second request of a hedge, or None.
    """

    # On the class, since most exchanges change none of them.
    connection: Any = None
    reused = False
    fault: Fault | None = None
    losers: Losers = ()
    losers_recorded = 0
    raced: Set[str] = frozenset()
    queued: Set[str] = frozenset()
    apart = False
    written = False
    pause: float | None = None
    called_off = False
    turn: Any = None
    hedged_at: str | None = None

    def __init__(
        self,
        session: FailoverSession,
        member: PoolMember,
        until: float,
        *,
        race: bool = True,
        hedge_after: float = math.inf,
    ) -> None:
        self.session = session
        self.member = member
        self.until = until
        self.race = race
        self.hedge_after = hedge_after
        self.hedge_at = math.inf
        self.patient = not race
        self.began = self.asked = session.core.clock()
        self.leave_at = self.began + session.core.policy.queue_delay
        self.timeouts: dict[str, Any] = {}

    def wrote(self) -> None:
        """Record that a part of the request is written.

        The request's time counts from the last part of its body, so that an upload that goes on
        is not ended.
        """
        if self.written:
            self.until = max(self.until, time.monotonic() + self.session.total)
        self.written = True

    def dial_until(self, timeout: float) -> float:
        """Return when a dial with its look-up must be done, in monotonic seconds.

        A late look-up is waited for while the request has time, unless the request's own
        time-out for connecting is shorter than the policy's.
        """
        if timeout >= self.session.core.policy.connect_timeout:
            return self.until
        return min(self.until, time.monotonic() + timeout)

    def queue_seconds(self, now: float) -> float:
        """Return for how many seconds to wait in the queue of an endpoint's connections."""
        until = self.until if self.patient else min(self.until, self.leave_at)
        return max(0.0, until - now)

    def leave_queue(self, now: float) -> bool:
        """Move to an endpoint that may have a free connection, since nothing was sent yet.

        Returns:
            False if the request may not wait any longer.
        """
        if self.patient or now < self.leave_at:
            return False
        member = self.session.leave_queue(now)
        if member is None:
            self.patient = True
            return now < self.until
        self.queued = {*self.queued, self.member.url}
        self.member = member
        self.leave_at = now + self.session.core.policy.queue_delay
        return True

    def forget_queues(self) -> None:
        """Allow the endpoints where the request only waited: they were never asked."""
        if self.queued:
            self.session.give_back(self.queued - {self.member.url})
            self.queued = frozenset()

    def start_hedge_timer(self) -> None:
        """Set when the hedge starts.

        A measured delay is that of an answer and counts from now; a delay that the policy names
        counts from the call.
        """
        core = self.session.core
        measured = core.policy.hedge_delay == "auto"
        self.hedge_at = (core.clock() if measured else self.began) + self.hedge_after

    def call_off(self) -> None:
        """End the exchange from another thread: the other request of a hedge has won."""
        self.called_off = True
        if self.turn is not None:
            self.turn.set()

    def rival(self) -> "Exchange | None":
        """Return a second exchange with another endpoint, for a hedge, or None."""
        self.forget_queues()
        member = self.session.hedge_candidate(self.session.core.clock())
        if member is None:
            return None
        self.hedged_at = member.url
        return Exchange(self.session, member, self.until, race=False)

    def forget_hedge(self, outcome: Outcome) -> None:
        """Allow the endpoint of a hedge that was called off: it has not failed."""
        named = {outcome.member.url, *(loser.url for loser, _ in outcome.losers)}
        if self.hedged_at is not None and self.hedged_at not in named:
            self.session.give_back({self.hedged_at})

    def better_member(self, now: float) -> PoolMember | None:
        """Return the endpoint to dial instead of this one, or None.

        The request may have waited in a queue while others found out that its endpoint does not
        answer.
        """
        return self.session.better_candidate(self.member, now) if self.race else None

    def next_member(self, now: float) -> PoolMember | None:
        """Return another endpoint to dial beside this one, or None."""
        if not self.race or now >= self.until:
            return None
        return self.session.next_candidate(now)

    def end_race(self, won: RaceWinner[Any], faults: list[tuple[PoolMember, Fault]]) -> None:
        """Record the end of a dial race.

        Endpoints that lost without failing were never sent a request, so they can still be
        tried. Losers are recorded at once, so that other requests learn of them before this one
        has its answer.
        """
        if self.raced:
            failed = {member.url for member, _ in faults}
            self.session.give_back({*self.raced, self.member.url} - failed - {won.member.url})
            self.raced = frozenset()
        self.losers += won.losers
        if won.member is not self.member:
            self.member = won.member
            self.losers_recorded = len(self.losers)
            if not self.apart:
                self.session.record_losers(won.losers, self.began)

    def fail_race(self, faults: list[tuple[PoolMember, Fault]]) -> None:
        """Record a race that nobody won: the last endpoint stands for the attempt."""
        *losers, (self.member, self.fault) = faults
        self.losers += tuple(losers)
