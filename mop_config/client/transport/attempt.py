"""``Exchange``: one attempt at one endpoint, with its deadline and the record of its events."""

import time
from collections.abc import Set
from typing import Any, Protocol

import httpcore2

from ...net.connect import Deadline
from ...net.faults import Fault
from ..pool.failover import Attempt, DialRace, Failover
from ..pool.member import PoolMember
from ..pool.policy import BUSY_STATUS
from ..pool.session import ClientState
from .outcome import fault_of_attempt, is_of_http2, may_have_been_sent
from .rewriting import Default


class HasState(Protocol):
    """The part of a manager that a transport needs."""

    @property
    def _state(self) -> ClientState:
        """The manager's pools."""


class Overtaken(httpcore2.ReadError):
    """Raised to end a request whose hedge already has an answer."""


class Exchange(Attempt, Deadline):
    """One attempt of a request at one endpoint.

    Args:
        core: The manager's pools.
        failover: The request.
        rival_of: The first exchange of a hedge, if this exchange is the second; else None.

    Attributes:
        patient: Whether the request waits in a queue until its deadline.
        race: Whether the exchange may race dials; False for the second request of a hedge.
        hedge_at: Monotonic seconds at which a hedge starts if no first byte has arrived.
        asked: When the request was sent, in monotonic seconds.
        created: When the exchange was created, in monotonic seconds.
        connection: The connection of the request, or None.
        response: The answer, or None.
        content: The body of the answer if it was read as a whole, or None.
        raced: Endpoints that were dialled in parallel.
        written: Whether a part of the request is written.
        timeouts: The request's time-outs, which httpcore reads at each step.
        pause: The time-out for each read of the body, in seconds; None for no time-out.
        called_off: Whether the other request of a hedge has won.
        turn: The event that ends the wait in a queue, or None.
        hedged_at: The URL of the endpoint of the second request of a hedge, or None.
    """

    # Defaults on the class, since most exchanges change no attribute.
    connection: Any = None
    response: Any = None
    content: bytes | None = None
    raced: Set[str] = frozenset()
    written = False
    pause: float | None = None
    called_off = False
    turn: Any = None
    hedged_at: str | None = None

    def __init__(
        self,
        core: ClientState,
        failover: Failover,
        member: PoolMember,
        rival_of: "Exchange | None" = None,
    ) -> None:
        self.core = core
        self.failover = failover
        self.member = member
        self.race = rival_of is None
        self.patient = failover.patient or rival_of is not None
        self.until = failover.deadline if rival_of is None else rival_of.until
        self.created = self.asked = core.clock()
        self.began = failover.since if rival_of is None else self.created
        self.hedge_at = self.began + failover.hedge_after
        self.timeouts: dict[str, Any] = {}

    def wrote(self) -> None:
        """Record that a part of the request is written.

        The request's timeout restarts with each part of its body, so that a slow upload is not
        ended while it makes progress.
        """
        if self.written:
            self.until = max(self.until, time.monotonic() + self.failover.total)
        self.written = True

    # -- the outcome

    def answered(self, response: Any) -> None:
        """Record an answer."""
        self.response, self.now = response, self.core.clock()
        self.first_byte = self.now - self.asked
        status, policy = response.status, self.core.policy
        if status in BUSY_STATUS or status in policy.bad_status:
            after = next((v for k, v in response.headers if k.lower() == b"retry-after"), None)
            text = None if after is None else after.decode("latin-1")
            self.judge_status(policy, status, text, self.core.wall_clock())
        else:
            self.status = status

    def failed(self, error: Exception) -> None:
        """Record an exception, before the answer or in its body."""
        connected = self.connection is not None
        if is_of_http2(error):
            connected, self.reused, self.fault = may_have_been_sent(error), True, Fault.PROTOCOL
        elif self.fault is None:
            self.fault = fault_of_attempt(error, connecting=not connected)
        self.now, self.result = self.core.clock(), error
        self.sent = connected and self.fault is not Fault.POOL_TIMEOUT

    def broke_off(self, error: Exception) -> None:
        """Record that the answer broke off in its body, which the exchange reads as a whole."""
        self.status, self.reused = None, False
        self.failed(error)

    def bound_pauses(self) -> None:
        """Bound the time-out for each read of the body, unless the caller set a read time-out."""
        if isinstance(self.timeouts["read"], Default):
            self.timeouts["read"] = min(self.timeouts["read"], self.core.policy.body_pause)

    # -- dials

    def next_member(self, now: float) -> PoolMember | None:
        """Return another endpoint to dial in parallel, or None."""
        if not self.race or now >= self.until:
            return None
        with self.core:
            return self.failover.next(now)

    def end_race(self, race: DialRace, winner: PoolMember | None) -> None:
        """Record the end of a dial race; without a winner, the last endpoint counts as failed.

        Endpoints that lost without failing were never sent a request, so they can still be
        tried. Failed losers are recorded at once, so that other requests avoid these endpoints
        before this request has its answer.
        """
        losers = race.losers
        if winner is None:
            *losers, (self.member, self.fault) = losers
            self.losers += tuple(losers)
            return
        if self.raced:
            failed = {member.url for member, fault in losers if fault is not Fault.STALLED}
            unused = {*self.raced, self.member.url} - failed - {winner.url}
            with self.core:
                self.failover.give_back(unused)
        self.losers += tuple(losers)
        if winner is not self.member:
            self.member = winner
            self.losers_recorded = len(self.losers)
            if not self.apart:
                with self.core as core:
                    for loser, fault in losers:
                        core.api.failed(loser, fault, core.clock(), self.began)

    # -- hedges

    def call_off(self) -> None:
        """Abort the exchange from another thread, because the other request of a hedge won."""
        self.called_off = True
        if self.turn is not None:
            self.turn.set()

    def rival(self) -> "Exchange | None":
        """Return the exchange of the second request of a hedge, or None without an endpoint."""
        with self.core as core:
            self.failover.forget_queues()
            member = self.failover.hedge(core.clock())
        if member is None:
            return None
        self.hedged_at = member.url
        return Exchange(self.core, self.failover, member, self)

    def settle(self, second: "Exchange | None", *, overtaken: bool) -> "Exchange":
        """Choose between the two requests of a hedge; the unused request becomes a loser.

        Args:
            second: The finished second request, or None.
            overtaken: Whether this first request has no outcome, because the second won.
        """
        if second is not None and second.fault is None and (overtaken or self.fault is not None):
            losers = self._stalled() if overtaken else self._beaten()
            second.losers = (*losers, *second.losers)
            second.losers_recorded = self.losers_recorded
            return second
        if second is not None and second.fault is not None:
            self.losers = (*self.losers, *second._beaten())
        elif self.hedged_at is not None:
            # The endpoint of a cancelled hedge did not fail, and can still be tried.
            with self.core:
                self.failover.give_back({self.hedged_at})
        return self

    def _stalled(self) -> tuple[tuple[PoolMember, Fault], ...]:
        if self.apart:
            return self.losers
        with self.core as core:
            counts = core.api.overtaken(self.member, self.failover.hedge_after, core.clock())
        return (*self.losers, (self.member, Fault.STALLED)) if counts else self.losers

    def _beaten(self) -> tuple[tuple[PoolMember, Fault], ...]:
        if self.busy is not None and not self.apart:
            with self.core as core:
                core.api.busy(self.member, self.busy, self.now)
        return (*self.losers, (self.member, self.fault or Fault.BAD_STATUS))
