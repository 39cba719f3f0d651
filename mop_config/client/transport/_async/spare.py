"""The warm spare: one idle connection to the next endpoint, so that a switch needs no dial."""

import logging
import time
from typing import Any

from ....health.state import HealthState
from ...pool.failover import DialRace
from ...pool.member import PoolMember
from ...pool.session import ClientState
from ..options import TransportOptions
from ..with_asyncio import AsyncAside
from .connections import AsyncEndpointConnection

logger = logging.getLogger(__name__)

#: Longest life of an unused spare in seconds; a NAT forgets idle connections after some minutes.
LIFE = 240.0
#: Least seconds between two dials. After each spare that failed or that its server ended, the pause
#: doubles, up to ``Policy.max_backoff``.
PAUSE = 1.0
#: States of endpoints that may get a spare; a known dead endpoint gets none.
_ALIVE = frozenset({HealthState.UNKNOWN, HealthState.HEALTHY})


class AsyncSpare:
    """Keeps one idle connection to the next endpoint of a client that is in use.

    Args:
        core: The manager's pools.
        options: Options of the connections.
        table: The connections of the client.
    """

    def __init__(self, core: ClientState, options: TransportOptions, table: Any) -> None:
        self._state = core
        self._options = options
        self._table = table
        self._connection: AsyncEndpointConnection | None = None
        self._aside: AsyncAside | None = None
        self._pause = PAUSE
        self._not_before = 0.0

    async def keep(self, now: float) -> None:
        """Open a spare in the background if none is open."""
        if self._aside is not None and not self._aside.is_done:
            return
        member = self._next_member(now)
        spare = self._connection
        if spare is not None:
            if spare.pool.has_spare(spare):
                if member is None or self._table.to(member) is spare.pool:
                    return
                spare.spare_until = now  # another endpoint is next: the next sweep closes this
                return
            ended = spare.http is None or now < spare.spare_until
            self._pause = min(2 * self._pause, self._state.policy.max_backoff) if ended else PAUSE
            self._not_before, self._connection = now + self._pause, None
        if member is None or now < self._not_before:
            return
        pool = self._table.to(member)
        place = pool.reserve() if pool.proxy is None and pool.is_empty else None
        if place is None:
            return
        self._connection = place
        try:
            self._aside = AsyncAside(self._open, member, place)
        except (RuntimeError, MemoryError) as error:
            logger.info("no spare connection to %s: %s", member.url, error)
            await pool.release(place)

    def _next_member(self, now: float) -> PoolMember | None:
        """Return the next endpoint, after the current endpoint has answered; None if it is dead."""
        with self._state as core:
            current = core.api.select(now)
            if current is None or not current.served:
                return None
            rest = core.api.alternatives(now, [current.url])
        return rest[0] if rest and rest[0].health.state in _ALIVE else None

    async def _open(self, member: PoolMember, place: AsyncEndpointConnection) -> None:
        race = DialRace(member, lambda _: None, self._state.policy.race_delay)
        race.called_off = lambda: self._table.is_closed
        timeout = self._state.policy.connect_timeout
        options = self._options.for_dial(timeout, time.monotonic() + timeout)
        try:
            _, stream = await self._table.dial(race, options)
            place.spare_until = time.monotonic() + LIFE
            place.pool.opened(place, stream)
        except (OSError, RuntimeError, MemoryError) as error:
            # No request needs the connection yet, so the failure does not count.
            logger.info("no spare connection to %s: %s", member.url, error)
        finally:
            await place.pool.release(place)

    async def close(self) -> None:
        """End a dial in the background."""
        if self._aside is not None:
            await self._aside.end()
