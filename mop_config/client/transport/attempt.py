"""One attempt, as the layers below httpcore see it.

httpcore only tells a network backend the host to connect to. Which request that is for
stands in a ``Route``, which the thread or task that sends it carries in ``ROUTE``.
"""

import math
import time
from collections.abc import Set
from contextvars import ContextVar
from typing import Any

from ...net.faults import Fault
from ..pool.member import PoolMember
from ..pool.session import FailoverSession
from .dial import RaceWinner

Losers = tuple[tuple[PoolMember, Fault], ...]

#: The route of the request that this thread or task is sending.
ROUTE: "ContextVar[Any]" = ContextVar("mop-config-route", default=None)


class Moved(Exception):  # noqa: N818 - no error: another endpoint was ready first
    """Another endpoint takes the request over, before any of it was sent."""

    def __init__(self, won: RaceWinner[Any]) -> None:
        super().__init__(won.member.url)
        self.won = won


class Route:
    """Where an attempt goes, and what happened on the way to a connection.

    Args:
        call: The request's way over the pool.
        member: The endpoint that it goes to.
        until: When the request's time is over, in monotonic seconds.
        race: Whether a dial may be raced against other endpoints.

    Attributes:
        deposit: A connection that a race has left for this attempt, or None.
        dialled: Whether a new connection was needed.
        ready: Whether that stands.
        fault: Why it does not, or None.
        losers: Endpoints that were tried beside this one.
        hedge_at: When it has waited for long enough at one endpoint, in a queue or for a first
            byte, counted from its beginning; in monotonic seconds.
        patient: Whether it waits in a queue for as long as it has time.
        queued: Endpoints that it has waited at for a connection in vain.
        began: When it was sent, in monotonic seconds.
        raced: Endpoints that were dialled beside this one.
        told: How many of them, from the first, the pool knows of already.
        apart: Whether it goes by another proxy than the manager's own checks: then its failures
            say nothing of the endpoint's health.
        pool: httpcore's pool that it went through, or None.
        written: Whether a part of the request has gone out.
        timeouts: The request's time-outs as httpcore looks them up at each step, or None.
    """

    # On the class, since most requests change none of them.
    deposit: Any = None
    dialled = False
    ready = False
    fault: Fault | None = None
    losers: Losers = ()
    told = 0
    apart = False
    hedge_at = math.inf
    queued: Set[str] = frozenset()
    began = 0.0
    raced: Set[str] = frozenset()
    pool: Any = None
    written = False
    timeouts: dict[str, Any] | None = None

    def __init__(
        self, call: FailoverSession, member: PoolMember, until: float, *, race: bool
    ) -> None:
        self.call = call
        self.member = member
        self.until = until
        self.race = race
        self.patient = not race

    def least(self, timeout: float | None) -> float:
        """Bound a time-out by what is left of the request's time, in seconds."""
        left = max(0.0, self.until - time.monotonic())
        return left if timeout is None else min(timeout, left)

    def dial_until(self, timeout: float | None) -> float:
        """Say when all of a dial has to be done, in monotonic seconds.

        A look-up that is late is waited for while the request has time, unless its own
        time-out for connecting is shorter than the policy's for an address.
        """
        if timeout is None or timeout >= self.call.core.policy.connect_timeout:
            return self.until
        return min(self.until, time.monotonic() + timeout)

    def queue_for(self, now: float) -> float:
        """Seconds for which to wait for one of an endpoint's connections."""
        until = self.until if self.patient else min(self.until, self.hedge_at)
        return max(0.0, until - now)

    def leave_queue(self, now: float, delay: float) -> bool:
        """Go to an endpoint that may have a connection to spare; none of the request was sent.

        Returns:
            Whether to go on; False if the time that the request may wait is over.
        """
        if self.patient or now < self.hedge_at:
            return False
        member = self.call.hedge_candidate(now)
        if member is None:
            self.patient = True
            return now < self.until
        self.queued = {*self.queued, self.member.url}
        self.member, self.dialled, self.hedge_at = member, False, now + delay
        return True

    def forget_queues(self) -> None:
        """Let the request be sent to where it only waited, now that it has been elsewhere."""
        if self.queued:
            self.call.give_back(self.queued - {self.member.url})
            self.queued = frozenset()

    def progressed(self) -> None:
        """Count the time from now: a part of the request's body has gone out."""
        self.until = max(self.until, time.monotonic() + self.call.total)

    def look_around(self) -> None:
        """Before a dial: see whether another endpoint has become the one to ask.

        A request may have waited for a connection while others found out that its endpoint
        does not answer.

        Raises:
            Moved: If so.
        """
        if (
            self.race
            and (better := self.call.better_candidate(self.member, time.monotonic())) is not None
        ):
            raise Moved(RaceWinner(better, None, ()))

    def another(self, now: float) -> PoolMember | None:
        """Give another endpoint to dial."""
        if not self.race or now >= self.until:
            return None
        member = self.call.next_candidate(now)
        if member is not None:
            self.raced = {*self.raced, member.url}
        return member

    def finished(self, won: RaceWinner[Any], faults: list[tuple[PoolMember, Fault]]) -> None:
        """Take in the end of a race: who only was slower has not been asked yet."""
        if self.raced:
            failed = {member.url for member, _ in faults}
            self.call.give_back({*self.raced, self.member.url} - failed - {won.member.url})
            self.raced = frozenset()

    def move(self, won: RaceWinner[Any]) -> None:
        """Go on with the endpoint that takes the request over."""
        self.member, self.deposit = won.member, won.connection
        self.dialled = False
        if won.connection is not None:
            self.race = False
            self.losers += won.losers
            self.told = len(self.losers)
            # Other requests need not wait for this one's answer to learn of it.
            if not self.apart:
                self.call.record_losers(won.losers, self.began)

    def take_deposit(self) -> Any:
        """Take the connection that a race has left; None where there is none."""
        deposit, self.deposit = self.deposit, None
        return deposit

    def unreachable(self, faults: list[tuple[PoolMember, Fault]]) -> None:
        """No endpoint could be dialled: the last stands for the attempt, the others lost."""
        *losers, (self.member, self.fault) = faults
        self.losers += tuple(losers)
