"""The dial race: TCP and verified TLS to several endpoints, of which the first ready one wins.

One thread or one task runs a whole race: the race is a generator, and its synchronous or
asynchronous driver resumes the race when the selector of its sockets is ready.
"""

import socket
import time
from collections.abc import Generator
from dataclasses import dataclass
from typing import Generic, TypeVar

from ...net.connect import DialOptions, HostDial, Ring
from ...net.faults import Fault, fault_of
from ...net.resolver import Resolver
from ..pool.failover import DialRace
from ..pool.member import PoolMember

Ready = TypeVar("Ready")

#: Seconds between two checks whether a race was cancelled.
GLANCE = 0.1


class DialError(OSError):
    """Every dial of a race failed; the race's ``faults`` hold the fault of each endpoint."""


@dataclass(slots=True)
class RaceWinner(Generic[Ready]):
    """The result of a race.

    Attributes:
        member: The endpoint that was ready first.
        connection: The connection to the endpoint, with TLS if the endpoint uses TLS.
        losers: The other endpoints, each with its fault.
    """

    member: PoolMember
    connection: Ready
    losers: tuple[tuple[PoolMember, Fault], ...]


#: Yields the seconds to wait for the selector of a ring, and returns the winner.
DialSteps = Generator[float, None, RaceWinner[socket.socket]]


def dial(race: DialRace, options: DialOptions, resolver: Resolver) -> RaceWinner[socket.socket]:
    """Dial until one endpoint is ready.

    Raises:
        DialError: If no endpoint was ready.
    """
    with Ring() as ring:
        steps = dial_steps(ring, race, options, resolver)
        while True:
            try:
                seconds = next(steps)
            except StopIteration as end:
                won: RaceWinner[socket.socket] = end.value
                return won
            ring.selector.select(seconds)


def dial_steps(ring: Ring, race: DialRace, options: DialOptions, resolver: Resolver) -> DialSteps:
    """Run a dial race step by step; the caller waits in between.

    Raises:
        DialError: If no endpoint was ready.
    """
    failure: Exception | None = None
    members: dict[HostDial, PoolMember] = {}
    while True:
        now = time.monotonic()
        while (member := race.start(now)) is not None:
            try:
                dial = HostDial(ring, member.target.place, options, resolver)
            except Exception as error:  # for example, no thread for the look-up
                failure = error
                race.failed(member, fault_of(failure, connecting=True))
                continue
            members[dial] = member
            ring.add(dial)
        if not ring.dials:
            raise DialError("no endpoint could be reached") from failure
        if race.called_off():
            raise DialError("the client was closed") from failure
        wait = race.wait(now)
        yield ring.pause(GLANCE if wait is None else min(wait, GLANCE))
        for done in ring.wait(0.0):
            member = members.pop(done)
            if done.error is None:
                sock = done.take()
                return RaceWinner(member, sock, race.won(member, time.monotonic()))
            failure = done.error
            race.failed(member, fault_of(failure, connecting=True))
