"""The dial race: TCP and verified TLS to several endpoints, of which the first ready one wins."""

import time
from typing import Any

from ....net.connect import GLANCE, DialOptions, HostDial, Ring
from ....net.faults import fault_of
from ....net.resolver import Resolver
from ....net.streams import AsyncStream
from ...pool.failover import DialRace
from ...pool.member import PoolMember
from ..outcome import DialError


async def dial(race: DialRace, options: DialOptions, resolver: Resolver) -> tuple[PoolMember, Any]:
    """Dial until one endpoint is ready, including its TLS; return the endpoint and its stream.

    The stream, an ``AsyncStream``, is None for an endpoint that has an open connection. One thread
    or one task runs the whole race.

    Raises:
        DialError: If no endpoint was ready.
        OSError: If this process lacks descriptors or memory.
    """
    failure: Exception | None = None
    members: dict[HostDial, PoolMember] = {}
    with Ring() as ring:
        while True:
            now = time.monotonic()
            while (member := race.start(now)) is not None:
                if member.url in race.connected:
                    race.won(member, now)
                    return member, None
                try:
                    host = HostDial(ring, member.target.place, options, resolver)
                except Exception as error:  # for example, no thread for the look-up
                    failure = error
                    race.failed(member, fault_of(error, connecting=True))
                    continue
                members[host] = member
                ring.add(host)
            if not ring.dials:
                raise DialError("no endpoint could be reached") from failure
            if race.called_off():
                raise DialError("the client was closed") from failure
            wait = race.wait(now)
            # A race may be called off at any time, so look at it now and then.
            await AsyncStream.wait_for(ring, GLANCE if wait is None else min(wait, GLANCE))
            for host in ring.finished():
                member = members.pop(host)
                if host.error is None:
                    race.won(member, time.monotonic())
                    return member, AsyncStream(host.take())
                failure = host.error
                race.failed(member, fault_of(failure, connecting=True))
