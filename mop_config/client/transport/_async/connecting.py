"""Connects an exchange before it sends: by an open connection, or the winner of a dial race."""

import time
from typing import Any

import httpcore2

from ....net._async.connecting import connect_by_proxy
from ....net.connect import DialOptions
from ....net.faults import Fault
from ....net.streams import Deadline
from ...pool.failover import DialRace
from ...pool.member import PoolMember
from ...pool.session import ClientState
from .. import rewriting
from ..attempt import Exchange
from ..options import TransportOptions
from ..outcome import DialError
from ..with_asyncio import dial_limit
from .connections import AsyncEndpointConnection, AsyncEndpointPool
from .dialing import dial
from .spare import AsyncSpare

#: Seconds between two sweeps that close expired connections of all endpoints.
SWEEP_INTERVAL = 1.0


class AsyncConnectionTable:
    """The connections of one client: takes or opens the connection of each exchange.

    Each endpoint has a pool of its own, so that requests that hang at one endpoint take no
    connection from another.

    Args:
        core: The manager's pools.
        options: Options of the connections.
        checked: The options of the manager's health checks.

    Attributes:
        sweep_at: When the next sweep is due, in monotonic seconds.
        is_closed: Whether the client is closed.
    """

    def __init__(
        self, core: ClientState, options: TransportOptions, checked: TransportOptions
    ) -> None:
        self._state = core
        self._options = options
        self._checked = checked
        self._pools: dict[bytes, AsyncEndpointPool] = {}
        self._dials = dial_limit()
        self._spare = AsyncSpare(core, options, self) if core.policy.warm_spare else None
        self.sweep_at = 0.0
        self.is_closed = False

    def to(self, member: PoolMember) -> AsyncEndpointPool:
        """Return the pool of connections to an endpoint."""
        target = member.target
        pool = self._pools.get(target.key)
        if pool is None:
            proxy = self._options.proxy_to(target)
            apart = self._options.takes_another_way(self._checked, target)
            made = AsyncEndpointPool(member.url, target, proxy, self._options, apart=apart)
            pool = self._pools.setdefault(target.key, made)
        return pool

    async def sweep(self, now: float) -> None:
        """Close expired connections and those of removed endpoints; keep the warm spare.

        Args:
            now: Monotonic seconds.
        """
        self.sweep_at = now + SWEEP_INTERVAL
        for key, pool in list(self._pools.items()):
            pool.retired = self._state.api.get(pool.url) is None
            await pool.tidy()
            if pool.retired and pool.is_empty:
                self._pools.pop(key, None)
        if self._spare is not None:
            await self._spare.keep(now)

    async def close(self) -> None:
        """Close all connections."""
        self.is_closed = True
        if self._spare is not None:
            await self._spare.close()
        for pool in list(self._pools.values()):
            await pool.close()

    async def connect(self, exchange: Exchange, wanted: dict[str, float | None]) -> None:
        """Set the connection of an exchange.

        Args:
            exchange: The exchange; its endpoint changes if another endpoint is ready first.
            wanted: The caller's time-outs in seconds, by name; None for no time-out.

        Raises:
            httpcore2.PoolTimeout: If no connection was free in time.
            httpcore2.ConnectError: If no endpoint could be reached.
            httpcore2.ProxyError: If the proxy did not reach the endpoint.
        """
        core = self._state
        while exchange.connection is None:
            pool = self.to(exchange.member)
            exchange.apart = pool.apart
            exchange.connection = await pool.take_open()
            if exchange.connection is not None:
                exchange.reused = True
                return
            seconds = rewriting.least(wanted.get("pool"), exchange.least(None))
            leave_at = exchange.created + core.policy.queue_delay
            until_leave = max(0.0, leave_at - core.clock())
            exchange.queued = not exchange.patient and until_leave < seconds
            taken = await pool.take(exchange, until_leave if exchange.queued else seconds)
            exchange.queued = False
            if taken.http is None:
                timeout = rewriting.least(wanted.get("connect"), core.policy.connect_timeout)
                await self._open(exchange, taken, timeout)
            else:
                exchange.connection, exchange.reused = taken, True

    async def _open(
        self, exchange: Exchange, place: AsyncEndpointConnection, timeout: float
    ) -> None:
        """Open a connection in the place that the exchange has taken."""
        places = {exchange.member.url: place}
        try:
            if exchange.least(None) == 0.0:
                raise httpcore2.PoolTimeout("the time was over before the endpoint was dialled")
            if exchange.race:
                with self._state:
                    better = exchange.failover.better(exchange.member, time.monotonic())
                if better is not None:
                    exchange.member = better
                    return
            if place.pool.proxy is None:
                stream = await self._race(exchange, places, timeout)
            else:
                deadline = Deadline(exchange.until)
                deadline.hedge = exchange.hedge
                stream = await connect_by_proxy(
                    place.pool.proxy,
                    exchange.member.target.place,
                    self._dial_options(exchange, timeout),
                    self._state.resolver,
                    deadline,
                )
            # The winner's place becomes the connection; the ``finally`` clause returns the others.
            winner = places.pop(exchange.member.url)
            if stream is None:
                exchange.reused = True
            else:
                winner.pool.opened(winner, stream)
            exchange.connection = winner
        finally:
            for unused in places.values():
                await unused.pool.release(unused)

    async def _race(
        self, exchange: Exchange, places: dict[str, AsyncEndpointConnection], timeout: float
    ) -> Any:
        """Race a dial to the exchange's endpoint with dials to endpoints with a free place.

        Return the winner's stream, or None if the winner has an open connection in its place.
        """

        def another(now: float) -> PoolMember | None:
            member = exchange.next_member(now)
            if member is None:
                return None
            pool = self.to(member)
            place = pool.take_now() if pool.proxy is None else None
            if place is None:
                with self._state:
                    exchange.failover.give_back({member.url})
                return None
            places[member.url] = place
            if place.http is not None:
                race.connected.add(member.url)
            exchange.raced = {*exchange.raced, member.url}
            return member

        race = DialRace(exchange.member, another, self._state.policy.race_delay)
        race.called_off = lambda: exchange.called_off or self.is_closed
        try:
            winner, stream = await self.dial(race, self._dial_options(exchange, timeout))
        except DialError as error:
            if race.called_off():
                raise httpcore2.ConnectError("the dial was called off") from error
            exchange.end_race(race, None)
            # For a lack of resources, the system's message.
            ours = error.__cause__ if exchange.fault is Fault.OURS else None
            raise httpcore2.ConnectError(str(ours or exchange.fault)) from error
        except (OSError, RuntimeError, MemoryError) as error:
            exchange.fault = Fault.OURS  # no endpoint was dialled yet
            raise httpcore2.ConnectError(str(error)) from error
        exchange.end_race(race, winner)
        return stream

    async def dial(self, race: DialRace, options: DialOptions) -> tuple[PoolMember, Any]:
        """Run a dial race; see ``dialing.dial``."""
        async with self._dials:
            return await dial(race, options, self._state.resolver)

    def _dial_options(self, exchange: Exchange, timeout: float) -> DialOptions:
        """Return the options of a dial.

        A late look-up may use all of the request's time, unless the request's own connect
        time-out is shorter than the policy's.
        """
        until = exchange.until
        if timeout < self._state.policy.connect_timeout:
            until = min(until, time.monotonic() + timeout)
        return self._options.for_dial(timeout, until)
