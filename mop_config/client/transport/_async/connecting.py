"""Opens connections: for an exchange before it sends, and a warm spare to the next endpoint.

``dial`` runs the dial race: TCP and verified TLS to several endpoints, of which the first ready
one wins.
"""

import logging
import math
import time
from typing import Any

import httpcore2

from ....net._async.connecting import connect
from ....net.connect import DialGroup, DialOptions, HostDial, Owner
from ....net.faults import Fault, fault_of, lacks_resources
from ....net.resolver import Resolver
from ....net.streams import AsyncStream
from ...pool.failover import DialRace
from ...pool.member import PoolMember
from ...pool.session import ClientState
from ..attempt import Default, Exchange, least
from ..options import TransportOptions
from ..with_asyncio import dial_limit, end_beside, start_beside
from .connections import SPARE_PAUSE, AsyncEndpointConnection, AsyncEndpointPool

logger = logging.getLogger(__name__)

#: Longest life of an unused spare in seconds; a NAT forgets idle connections after some minutes.
SPARE_LIFE = 240.0
#: Seconds between two sweeps that close expired connections of all endpoints.
SWEEP_INTERVAL = 1.0


class AsyncConnector(Owner):
    """Opens the connections of one client: those of its exchanges, and its warm spare.

    Args:
        state: The manager's pools.
        options: Options of the connections.

    Attributes:
        pools: The connections to each endpoint. So requests that hang at one endpoint take no
            connection from another.
        sweep_at: When the next sweep is due, in monotonic seconds.
        aborted: Whether the client is closed.
    """

    def __init__(self, state: ClientState, options: TransportOptions) -> None:
        super().__init__()
        self._state = state
        self._options = options
        self._dials = dial_limit()
        self._spare_dial: Any = None
        self._dials_spare = False
        self.pools: dict[bytes, AsyncEndpointPool] = {}
        self.sweep_at = 0.0

    def pool_of(self, member: PoolMember) -> AsyncEndpointPool:
        """Return the connections to an endpoint."""
        pool = self.pools.get(member.target.key)
        if pool is None:
            made = AsyncEndpointPool(member, self._options)
            pool = self.pools.setdefault(member.target.key, made)
        return pool

    async def sweep(self, now: float) -> None:
        """Close expired connections and those of removed endpoints; keep the warm spare.

        Args:
            now: Monotonic seconds.
        """
        self.sweep_at = now + SWEEP_INTERVAL
        with self._state as state:
            spare = state.api.spare(now)
        for key, pool in list(self.pools.items()):
            member = self._state.api.get(pool.member.url)
            pool.retired = member is None or member.target.key != key
            await pool.tidy(keeps_spare=spare is not None and key == spare.target.key)
            if pool.retired and pool.is_empty:
                self.pools.pop(key, None)
        if spare is not None:
            await self._keep_spare(self.pool_of(spare), now)

    async def close(self) -> None:
        """Close all connections, and end the dials."""
        self.abort()
        if self._spare_dial is not None:
            await end_beside(self._spare_dial)
        for pool in list(self.pools.values()):
            await pool.close()

    async def connect(self, exchange: Exchange) -> None:
        """Set the connection of an exchange.

        Args:
            exchange: The exchange; its endpoint changes if another endpoint is ready first.

        Raises:
            httpcore2.PoolTimeout: If no connection was free in time.
            httpcore2.ConnectError: If no endpoint could be reached.
        """
        state = self._state
        while exchange.connection is None:
            pool = self.pool_of(exchange.member)
            left = exchange.least(exchange.wanted.get("pool"))
            patience = left
            if exchange.race:
                patience = max(0.0, exchange.began + state.policy.queue_delay - state.clock())
            taken = await pool.take(min(left, patience))
            if taken is None and patience < left and not self.aborted:
                # Look for a free connection at each other endpoint, and wait at the last one.
                with state:
                    other = exchange.failover.next(state.clock(), last_resort=False)
                if other is not None:
                    exchange.member = other
                    continue
                taken = await pool.take(left - patience)
            if taken is None:
                raise httpcore2.PoolTimeout("no connection was free in time")
            if taken.http is None:
                await self._open(exchange, taken)
            else:
                exchange.connection, exchange.reused = taken, True

    async def _open(self, exchange: Exchange, place: AsyncEndpointConnection) -> None:
        """Open a connection in the place that the exchange has taken."""
        places = {exchange.member.url: place}
        try:
            if exchange.race:
                with self._state as state:
                    better = exchange.failover.better(state.clock())
                if better is not None:
                    exchange.member = better
                    return
            stream = await self._race(exchange, places)
            # The winner's place becomes the connection; the ``finally`` clause returns the others.
            winner = places.pop(exchange.member.url)
            exchange.reused = stream is None
            if stream is not None:
                winner.pool.opened(winner, stream)
            exchange.connection = winner
        finally:
            for unused in places.values():
                await unused.pool.release(unused)

    async def _race(self, exchange: Exchange, places: dict[str, AsyncEndpointConnection]) -> Any:
        """Race a dial to the exchange's endpoint with dials to endpoints with a free place.

        Return the winner's stream, or None if the winner has an open connection in its place.
        """

        def another(now: float) -> PoolMember | None:
            if not exchange.race or now >= exchange.until:
                return None
            with self._state:
                member = exchange.failover.next(now)
            if member is None:
                return None
            place = self.pool_of(member).take_now()
            if place is None:
                return None
            places[member.url] = place
            if place.http is not None:
                race.connected.add(member.url)
            return member

        race = DialRace(exchange.member, another, self._state.policy.race_delay)
        race.called_off = lambda: exchange.called_off or self.aborted
        try:
            async with self._dials:
                if exchange.least(None) == 0.0:
                    raise httpcore2.PoolTimeout("the time was over before the endpoint was dialled")
                options = self._dial_options(exchange)
                winner, outcome = await dial(race, options, self._state.resolver)
        except (OSError, RuntimeError, MemoryError) as error:
            if not lacks_resources(error):
                raise  # raised by a signal handler
            exchange.fault = Fault.OURS  # no endpoint was dialled yet
            raise httpcore2.ConnectError(str(error)) from error
        if winner is None and race.called_off():
            raise httpcore2.ConnectError("the dial was called off")
        exchange.end_race(race, winner)
        if winner is None:
            # For a lack of resources, the system's message.
            reason = outcome if exchange.fault is Fault.OURS else exchange.fault
            raise httpcore2.ConnectError(str(reason)) from outcome
        return outcome

    def _dial_options(self, exchange: Exchange) -> DialOptions:
        """Return the options of a dial.

        A late look-up may use all of the request's time, unless the caller has set a connect
        time-out, which bounds the look-up and the dials of a host's addresses together.
        """
        wanted = exchange.wanted.get("connect")
        limit = math.inf if wanted is None or isinstance(wanted, Default) else wanted
        timeout = least(wanted, self._state.policy.connect_timeout)
        return self._options.for_dial(timeout, exchange.until, limit)

    async def _keep_spare(self, pool: AsyncEndpointPool, now: float) -> None:
        """Dial a spare connection in the background, if its endpoint has no connection."""
        if self._dials_spare or now < pool.spare_after:
            return
        place = pool.reserve()
        if place is None:
            return
        pool.spare_after = now + SPARE_PAUSE
        self._dials_spare = True
        try:
            self._spare_dial = start_beside(self._open_spare, place)
        except (RuntimeError, MemoryError) as error:
            logger.info("no spare connection to %s: %s", pool.member.url, error)
            self._dials_spare = False
            await pool.release(place)

    async def _open_spare(self, place: AsyncEndpointConnection) -> None:
        member, timeout = place.pool.member, self._state.policy.connect_timeout
        try:
            async with self._dials:
                options = self._options.for_dial(timeout, time.monotonic() + timeout)
                stream = await connect(member.target, options, self._state.resolver, self)
            place.spare_until = time.monotonic() + SPARE_LIFE
            place.pool.opened(place, stream)
        except (OSError, RuntimeError, MemoryError) as error:
            # No request needs the connection yet, so the failure does not count.
            logger.info("no spare connection to %s: %s", member.url, error)
        finally:
            await place.pool.release(place)
            self._dials_spare = False


async def dial(
    race: DialRace, options: DialOptions, resolver: Resolver
) -> tuple[PoolMember | None, Any]:
    """Dial until one endpoint is ready, including its TLS; return the endpoint and its stream.

    The stream, an ``AsyncStream``, is None for an endpoint that has an open connection. If no
    endpoint was ready, return None and the last error; the race's ``losers`` hold the fault of
    each endpoint. One thread or one task runs the whole race.

    Raises:
        OSError: If this process lacks descriptors or memory.
    """
    failure: Exception | None = None
    members: dict[HostDial, PoolMember] = {}
    with DialGroup() as group:
        while True:
            now = time.monotonic()
            while (member := race.start(now)) is not None:
                if member.url in race.connected:
                    race.won(member, now)
                    return member, None
                members[HostDial(group, member.target, options, resolver)] = member
            if not group.dials or race.called_off():
                return None, failure
            for host in group.finished():
                member = members.pop(host)
                if host.error is None:
                    race.won(member, time.monotonic())
                    return member, AsyncStream(host.socket)
                failure = host.error
                race.failed(member, fault_of(failure, connecting=True))
            # A race may be called off at any time, so look at it now and then.
            await AsyncStream.wait_for(group, min(race.wait(now), group.pause()))
