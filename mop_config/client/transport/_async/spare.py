"""The warm spare: one idle connection to the next endpoint, so that a switch needs no dial."""

import logging
import time
from typing import Any

from ...pool.failover import DialRace, SpareSchedule
from ...pool.member import PoolMember
from ...pool.session import ClientState
from ..options import TransportOptions
from ..with_asyncio import AsyncAside
from .connections import AsyncEndpointConnection

logger = logging.getLogger(__name__)

#: Longest life of an unused spare in seconds; a NAT forgets idle connections after some minutes.
LIFE = 240.0


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
        self._schedule = SpareSchedule(core.api)

    async def keep(self, now: float) -> None:
        """Open a spare in the background if none is open."""
        if self._aside is not None and not self._aside.is_done:
            return
        with self._state:
            member = self._schedule.next_member(now)
        spare = self._connection
        if spare is not None:
            if spare.pool.has_spare(spare):
                if member is None or self._table.to(member) is spare.pool:
                    return
                spare.spare_until = now  # another endpoint is next: the next sweep closes this
                return
            began = now if spare.http is None else spare.spare_until - LIFE
            self._schedule.ended(now, now - began)  # ``spare_until`` is 0 after the first use
            self._connection = None
        if member is None or not self._schedule.may_dial(now):
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
