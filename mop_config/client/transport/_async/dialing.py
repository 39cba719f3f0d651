"""Drives the dials of endpoints and proxies: waits for their sockets in between."""

import contextlib
from collections.abc import Iterator

from ....net.connect import DialOptions, HostDial, Place, Ring
from ....net.resolver import Resolver
from ...pool.failover import DialRace
from ...pool.member import PoolMember
from ..dial import GLANCE, dial_steps
from ..with_asyncio import AsyncSocketWaits
from .stream import AsyncFailoverStream


async def dial(
    race: DialRace, options: DialOptions, resolver: Resolver
) -> tuple[PoolMember, AsyncFailoverStream]:
    """Dial until one endpoint is ready, including its TLS; return the endpoint and its stream.

    Raises:
        DialError: If no endpoint was ready.
        OSError: If this process lacks descriptors or memory.
    """
    with Ring() as ring:
        steps: Iterator[float] = dial_steps(ring, race, options, resolver)
        while True:
            try:
                seconds = next(steps)
            except StopIteration as end:
                member, sock = end.value
                return member, AsyncFailoverStream(sock)
            await _wait(ring, seconds)


async def connect(place: Place, options: DialOptions, resolver: Resolver) -> AsyncFailoverStream:
    """Connect to the first address of a host that is ready.

    Raises:
        OSError: If no address was ready in time.
    """
    with Ring() as ring:
        ring.add(HostDial(ring, place, options, resolver))
        while True:
            await _wait(ring, ring.pause(GLANCE))
            for done in ring.wait(0.0):
                if done.error is not None:
                    raise done.error
                return AsyncFailoverStream(done.take())


async def _wait(ring: Ring, seconds: float) -> None:
    """Wait until a socket of the ring is ready, for at most ``seconds``."""
    with contextlib.suppress(TimeoutError):
        await AsyncSocketWaits(ring).readable(seconds)
