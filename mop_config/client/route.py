"""One attempt, as the layers below httpcore see it.

httpcore only tells a network backend the host to connect to. Which request that is for
stands in a ``Route``, which the thread or task that sends it carries in ``ROUTE``.
"""

from contextvars import ContextVar
from typing import Any

from ..faults import Fault
from .core import Call
from .dial import Won
from .pool import Member

Losers = tuple[tuple[Member, Fault], ...]

#: The route of the request that this thread or task is sending.
ROUTE: "ContextVar[Route | None]" = ContextVar("mop-config-route", default=None)


class Moved(Exception):  # noqa: N818 - no error: another endpoint was ready first
    """The dial's race was won by another endpoint than the one that was asked for."""

    def __init__(self, won: Won[Any]) -> None:
        super().__init__(won.member.url)
        self.won = won


class Route:
    """Where an attempt goes, and what happened on the way to a connection.

    Args:
        call: The request's way over the pool.
        member: The endpoint that it goes to.
        race: Whether a dial may be raced against other endpoints.

    Attributes:
        deposit: A connection that a race has left for this attempt, or None.
        dialled: Whether a new connection was needed.
        ready: Whether that stands.
        fault: Why it does not, or None.
        losers: Endpoints that were tried beside this one.
    """

    __slots__ = ("call", "deposit", "dialled", "fault", "losers", "member", "race", "ready")

    def __init__(self, call: Call, member: Member, *, race: bool) -> None:
        self.call = call
        self.member = member
        self.race = race
        self.deposit: Any = None
        self.dialled = False
        self.ready = False
        self.fault: Fault | None = None
        self.losers: Losers = ()

    def another(self, now: float) -> Member | None:
        """Give another endpoint to dial."""
        return self.call.another(now) if self.race else None

    def move(self, won: Won[Any]) -> None:
        """Go on with the endpoint that won the race."""
        self.member, self.deposit, self.losers = won.member, won.connection, won.losers
        self.race = False

    def take_deposit(self) -> Any:
        """Take the connection that a race has left; None where there is none."""
        deposit, self.deposit = self.deposit, None
        return deposit

    def unreachable(self, faults: list[tuple[Member, Fault]]) -> None:
        """No endpoint could be dialled: the last stands for the attempt, the others lost."""
        *losers, (self.member, self.fault) = faults
        self.losers = tuple(losers)
