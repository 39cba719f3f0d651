"""The dial race: TCP and verified TLS to several endpoints, of which the first ready one wins.

One thread or one task runs a whole race: the race is a generator, and its synchronous or
asynchronous driver resumes the race when the selector of its sockets is ready.
"""

import socket
import time
from collections.abc import Generator
from math import inf

from ...net.connect import DialOptions, HostDial, Ring
from ...net.faults import fault_of
from ...net.resolver import Resolver
from ..pool.failover import DialRace
from ..pool.member import PoolMember


class DialError(OSError):
    """Every dial of a race failed; the race's ``losers`` hold the fault of each endpoint."""


def dial_steps(
    ring: Ring, race: DialRace, options: DialOptions, resolver: Resolver
) -> Generator[float, None, tuple[PoolMember, socket.socket]]:
    """Run a dial race step by step; yield the seconds to wait for the selector of the ring.

    Returns:
        The endpoint that was ready first, and its connection.

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
        yield ring.pause(inf if wait is None else wait)
        for done in ring.finished():
            member = members.pop(done)
            if done.error is None:
                race.won(member, time.monotonic())
                return member, done.take()
            failure = done.error
            race.failed(member, fault_of(failure, connecting=True))
