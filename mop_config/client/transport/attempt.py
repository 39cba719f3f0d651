"""``Exchange``: one attempt at one endpoint, with its deadline and the record of its events.

httpcore passes time-outs unchanged from a request to the network stream. ``Limit`` is a time-out
that carries the exchange's deadline. So a stream knows at each step to which exchange the step
belongs, even on an HTTP/2 connection that many exchanges share.
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
    """The common deadline of several network operations.

    Args:
        until: The deadline in monotonic seconds.

    Attributes:
        hedge: The hedge that may interrupt a read, or None.
    """

    hedge: Any = None

    def __init__(self, until: float) -> None:
        self.until = until

    def least(self, timeout: float | None) -> float:
        """Return a time-out in seconds, bounded by the time left until the deadline."""
        left = max(0.0, self.until - time.monotonic())
        return left if timeout is None or timeout > left else timeout

    def wrote(self) -> None:
        """Record that a part of the request is written."""


class Overtaken(httpcore2.ReadError):
    """Raised to end a request whose hedge already has an answer."""


class Limit(float):
    """A time-out in seconds that carries the deadline of its exchange."""

    deadline: Deadline

    @classmethod
    def of(cls, seconds: float, deadline: Deadline) -> Self:
        """Create a time-out that ends at the deadline at the latest."""
        limit = cls(seconds)
        limit.deadline = deadline
        return limit


class Exchange(Deadline):
    """One attempt of a request at one endpoint.

    Args:
        session: The failover session of the request.
        member: The endpoint.
        until: Deadline of the request in monotonic seconds.
        race: Whether the exchange may race dials and leave a queue for another endpoint; False
            for the second request of a hedge.
        hedge_at: Monotonic seconds at which the request leaves a queue, or a hedge starts because
            no first byte has arrived.

    Attributes:
        began: When the attempt began, in monotonic seconds.
        connection: The connection of the request, or None.
        reused: Whether that connection had carried a request before.
        fault: Why no connection could be made, or None.
        losers: Endpoints that were tried in parallel, each with its fault.
        losers_recorded: How many of the losers, from the first, the pool has already recorded.
        raced: Endpoints that were dialled in parallel.
        queued: Endpoints at which the request waited for a connection in vain.
        patient: Whether the request waits in a queue until its deadline.
        apart: Whether the request uses another proxy than the manager's health checks. Then its
            failures say nothing about the endpoint's health.
        written: Whether a part of the request is written.
        timeouts: The request's time-outs, which httpcore reads at each step.
        pause: The time-out for each read of the body, in seconds; None for no time-out.
        called_off: Whether the other request of a hedge has won.
        turn: The event that ends the wait in a queue, or None.
        hedged_at: The URL of the endpoint of the second request of a hedge, or None.
    """

    # Defaults on the class, since most exchanges change no attribute.
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

        The request's timeout restarts with each part of its body, so that a slow upload is not
        ended while it makes progress.
        """
        if self.written:
            self.until = max(self.until, time.monotonic() + self.session.total)
        self.written = True

    def dial_until(self, timeout: float) -> float:
        """Return the deadline of a dial and its look-up, in monotonic seconds.

        A late look-up may use all of the request's time, unless the request's own connect
        time-out is shorter than the policy's.
        """
        if timeout >= self.session.core.policy.connect_timeout:
            return self.until
        return min(self.until, time.monotonic() + timeout)

    def queue_seconds(self, now: float) -> float:
        """Return the seconds to wait in the queue of an endpoint's connections."""
        until = self.until if self.patient else min(self.until, self.leave_at)
        return max(0.0, until - now)

    def leave_queue(self, now: float) -> bool:
        """Move to an endpoint that may have a free connection; no byte has been sent yet.

        Returns:
            False if the request may wait no longer.
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
        """Make the endpoints where the request only waited available again: they got no request."""
        if self.queued:
            self.session.give_back(self.queued - {self.member.url})
            self.queued = frozenset()

    def start_hedge_timer(self) -> None:
        """Set the time at which the hedge starts.

        A measured delay (``auto``) counts from now, because answers are measured from here; a
        fixed delay of the policy counts from the start of the call.
        """
        core = self.session.core
        measured = core.policy.hedge_delay == "auto"
        self.hedge_at = (core.clock() if measured else self.began) + self.hedge_after

    def call_off(self) -> None:
        """Abort the exchange from another thread, because the other request of a hedge won."""
        self.called_off = True
        if self.turn is not None:
            self.turn.set()

    def rival(self) -> "Exchange | None":
        """Return the exchange of the second request of a hedge, or None without an endpoint."""
        self.forget_queues()
        member = self.session.hedge_candidate(self.session.core.clock())
        if member is None:
            return None
        self.hedged_at = member.url
        return Exchange(self.session, member, self.until, race=False)

    def forget_hedge(self, outcome: Outcome) -> None:
        """Make the endpoint of a cancelled hedge available again: the endpoint did not fail."""
        named = {outcome.member.url, *(loser.url for loser, _ in outcome.losers)}
        if self.hedged_at is not None and self.hedged_at not in named:
            self.session.give_back({self.hedged_at})

    def better_member(self, now: float) -> PoolMember | None:
        """Return a better endpoint to dial instead of the chosen endpoint, or None.

        While the request waited in a queue, other requests may have found that its endpoint
        fails.
        """
        return self.session.better_candidate(self.member, now) if self.race else None

    def next_member(self, now: float) -> PoolMember | None:
        """Return another endpoint to dial in parallel, or None."""
        if not self.race or now >= self.until:
            return None
        return self.session.next_candidate(now)

    def end_race(self, won: RaceWinner[Any], faults: list[tuple[PoolMember, Fault]]) -> None:
        """Record the end of a dial race.

        Endpoints that lost without failing were never sent a request, so they can still be
        tried. Failed losers are recorded at once, so that other requests avoid these endpoints
        before this request has its answer.
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
        """Record a race without a winner: the last endpoint counts as that of the attempt."""
        *losers, (self.member, self.fault) = faults
        self.losers += tuple(losers)
