"""The dial race on asyncio: the driver of a race, and the connection to one host.

The selector of a ring has a file descriptor that is readable when one of its sockets is ready. One
task waits for this descriptor, so a cancelled task leaves no work running.
"""

import contextlib
import math

from ...net.connect import DialOptions, HostDial, Place, Ring
from ...net.resolver import Resolver
from ..pool.failover import DialRace
from .dial import RaceWinner, dial_steps
from .stream_async import AsyncFailoverStream, SocketWaits


async def dial_async(
    race: DialRace, options: DialOptions, resolver: Resolver
) -> RaceWinner[AsyncFailoverStream]:
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
                won = end.value
                return RaceWinner(won.member, AsyncFailoverStream(won.connection), won.losers)
            await _pause(ring, seconds)


async def connect_async(
    place: Place, options: DialOptions, resolver: Resolver
) -> AsyncFailoverStream:
    """Connect to the first address of a host that is ready.

    Raises:
        OSError: If no address was ready in time.
    """
    with Ring() as ring:
        ring.add(HostDial(ring, place, options, resolver))
        while True:
            await _pause(ring, ring.pause(math.inf))
            for dial in ring.wait(0.0):
                if dial.error is not None:
                    raise dial.error
                return AsyncFailoverStream(dial.take())


async def _pause(ring: Ring, seconds: float) -> None:
    """Wait until a socket of the ring is ready, for at most ``seconds``."""
    with contextlib.suppress(TimeoutError):
        await SocketWaits(ring.fileno()).readable(None if seconds == math.inf else seconds)
