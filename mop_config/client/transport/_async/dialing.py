"""Drives a dial race: waits for its sockets in between."""

from collections.abc import Iterator

from ....net._async.connecting import GLANCE, wait_for_ring
from ....net._async.stream import AsyncStream
from ....net.connect import DialOptions, Ring
from ....net.resolver import Resolver
from ...pool.failover import DialRace
from ...pool.member import PoolMember
from ..dial import dial_steps


async def dial(
    race: DialRace, options: DialOptions, resolver: Resolver
) -> tuple[PoolMember, AsyncStream]:
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
                return member, AsyncStream(sock)
            await wait_for_ring(ring, min(seconds, GLANCE))
