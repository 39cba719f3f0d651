"""The connection pool of each endpoint: open connections, free places, and the queue for both.

This pool replaces httpcore's: a request takes its connection before httpcore sees the request, so
that a dial can race with dials to other endpoints, and the winner joins its endpoint's pool.
"""

import math
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any

import httpcore2

from ....net.proxies import headers_for
from ...pool.member import PoolMember
from ..attempt import Exchange
from ..options import TransportOptions
from ..with_asyncio import SHARES_HTTP2, AsyncEvent

#: Seconds without a new spare after a server has refused a spare, or an unused one was closed.
SPARE_PAUSE = 10.0


@dataclass(slots=True, eq=False)
class AsyncEndpointConnection:
    """A connection to an endpoint, or the place in which an exchange opens a connection.

    Attributes:
        pool: The pool of the connection.
        stream: The network stream.
        http: httpcore's connection, HTTP/1.1 or HTTP/2; None for a place.
        shared: Whether several exchanges may use the connection at once (HTTP/2).
        users: Number of exchanges that use the connection now.
        worn: Whether the connection takes no more requests.
        spare_until: When an unused spare connection ends, in monotonic seconds; 0 after its first
            use, and for any other connection.
    """

    pool: "AsyncEndpointPool"
    stream: Any = None
    http: Any = None
    shared: bool = False
    users: int = 1
    worn: bool = False
    spare_until: float = 0.0

    def has_expired(self) -> bool:
        """Whether a connection can carry no further request.

        The readability that httpcore checks does not show the end of a spare, which httpcore does
        not count as idle, or of HTTP/2, whose server may send frames at any time. A new TLS
        connection is readable, too, because of its session tickets.
        """
        if self.http.has_expired() or 0.0 < self.spare_until <= time.monotonic():
            return True
        if not self.spare_until and isinstance(self.http, httpcore2.AsyncHTTP11Connection):
            return False
        if self.users:  # of HTTP/2: its requests notice the end
            return self.worn or not self.http.is_available()
        return bool(self.stream.get_extra_info("has_ended"))


class AsyncTurn(AsyncEvent):
    """A request in the queue of an endpoint's connections; set when the request gets its turn.

    Attributes:
        connection: The connection or place of the request, or None.
    """

    connection: AsyncEndpointConnection | None = None


class AsyncEndpointPool:
    """The connections to one endpoint.

    A request takes an idle connection, or a place in which the request opens a new connection, or
    waits in the queue for either. Connections and places together never exceed the limit. State
    changes under the lock; connections are closed after the lock is released.

    Args:
        member: The endpoint.
        options: Options of the connections.

    Attributes:
        member: The endpoint.
        target: The endpoint's server; that of the member may change later.
        for_proxy: Header fields for an HTTP proxy that forwards the requests, or None.
        retired: Whether the endpoint was removed; then connections close after their exchanges.
        spare_after: When the next spare connection may be dialled, in monotonic seconds.
    """

    def __init__(self, member: PoolMember, options: TransportOptions) -> None:
        target, limits = member.target, options.limits
        self.member, self.target = member, target
        self.for_proxy = headers_for(options.for_server(target), target.tls_name)
        self.retired = False
        self.spare_after = 0.0
        self._origin = httpcore2.Origin(target.scheme, target.key, target.port)
        self._options = options
        self._limit = math.inf if limits.max_connections is None else limits.max_connections
        keep = limits.max_keepalive_connections
        self._keep = math.inf if keep is None else keep
        self._lock = threading.Lock()
        self._open: set[AsyncEndpointConnection] = set()
        # The connections that have room for an exchange: idle ones, and shared ones in use.
        self._free: list[AsyncEndpointConnection] = []
        self._queue: deque[AsyncTurn] = deque()
        # Until the first handshake negotiates HTTP/1.1, one dial may serve all waiting requests.
        negotiates = options.http2 and (target.tls_name is not None or not options.http1)
        self._may_share = SHARES_HTTP2 and negotiates
        self._stale: list[AsyncEndpointConnection] = []

    def take_open(self, exchange: Exchange) -> None:
        """Set the connection of an exchange if an open connection is free."""
        with self._lock:
            exchange.connection = None if self._queue else self._take_open()
        exchange.reused = exchange.connection is not None

    def take_now(self) -> AsyncEndpointConnection | None:
        """Take an open connection or a place without waiting; return None if neither is free."""
        with self._lock:
            return None if self._queue else self._take_open() or self._new_place()

    async def take(self, seconds: float) -> AsyncEndpointConnection | None:
        """Take a connection, or a place in which the caller opens a connection.

        Args:
            seconds: Longest wait in the queue.

        Returns:
            None if neither was free in time, or if the client was closed.
        """
        turn = AsyncTurn()
        with self._lock:
            self._queue.append(turn)
            self._admit()
        await self._close_stale()
        waited = False
        try:
            await turn.wait(seconds)
            waited = True
        finally:
            with self._lock:
                if turn in self._queue:
                    self._queue.remove(turn)
            if turn.connection is not None and not waited:
                await self.release(turn.connection)
        return turn.connection

    def opened(self, connection: AsyncEndpointConnection, stream: Any) -> None:
        """Turn a place into a connection over a connected stream."""
        expiry = self._options.limits.keepalive_expiry
        is_http2 = stream.shared or not self._options.http1
        kind: Any = httpcore2.AsyncHTTP2Connection if is_http2 else httpcore2.AsyncHTTP11Connection
        with self._lock:
            connection.stream, connection.http = stream, kind(self._origin, stream, expiry)
            connection.shared = self._may_share = SHARES_HTTP2 and is_http2
            if connection.shared:
                self._free.append(connection)
            self._admit()

    async def release(self, connection: AsyncEndpointConnection) -> None:
        """Return a connection after an exchange; close a connection that takes no more requests."""
        with self._lock:
            connection.users -= 1
            http = connection.http
            if http is None:
                self._open.discard(connection)
            elif not connection.users:
                is_idle = connection.spare_until or (http.is_idle() and http.is_available())
                is_worn = connection.worn or self.retired or connection not in self._open
                is_free = connection in self._free  # a shared connection
                if is_worn or not is_idle or (not is_free and len(self._free) >= self._keep):
                    self._close_later(connection)
                elif not is_free:
                    self._free.append(connection)
            if self._queue:
                self._admit()
        if self._stale:
            await self._close_stale()

    async def tidy(self, *, keeps_spare: bool) -> None:
        """Close expired idle connections; close all idle connections of a removed endpoint.

        Args:
            keeps_spare: Whether the endpoint may keep an unused spare connection.
        """
        with self._lock:
            for connection in self._free[:]:
                is_unwanted = self.retired or (connection.spare_until and not keeps_spare)
                if not connection.users and (is_unwanted or connection.has_expired()):
                    self._close_later(connection)
        await self._close_stale()

    @property
    def is_empty(self) -> bool:
        """Whether no connection is open or being opened."""
        return not (self._open or self._queue)

    def reserve(self) -> AsyncEndpointConnection | None:
        """Take a place for a spare connection; return None if there is another connection."""
        with self._lock:
            return self._new_place() if self.is_empty else None

    async def close(self) -> None:
        """Close all connections; requests that use or await a connection end with an error."""
        with self._lock:
            self.retired = True
            while self._queue:
                self._queue.popleft().set()
            for connection in list(self._open):
                if connection.http is not None:
                    self._close_later(connection)
        await self._close_stale()

    # The caller of the following methods holds the lock.

    def _take_open(self) -> AsyncEndpointConnection | None:
        """Take an open connection that has room for one more exchange."""
        while self._free:
            connection = self._free[-1]
            has_expired = connection.has_expired()
            if has_expired or not connection.shared:
                self._free.pop()
            if not has_expired:
                connection.users += 1
                connection.spare_until = 0.0
                return connection
            if not connection.users:
                self._close_later(connection)
        return None

    def _new_place(self) -> AsyncEndpointConnection | None:
        """Take a place if the limit allows another connection."""
        if len(self._open) >= self._limit:
            return None
        if self._may_share and any(connection.http is None for connection in self._open):
            return None
        place = AsyncEndpointConnection(self)
        self._open.add(place)
        return place

    def _admit(self) -> None:
        """Assign connections and places to the requests in the queue, oldest first."""
        while self._queue:
            connection = self._take_open() or self._new_place()
            if connection is None:
                return
            turn = self._queue.popleft()
            turn.connection = connection
            turn.set()

    def _close_later(self, connection: AsyncEndpointConnection) -> None:
        self._open.discard(connection)
        if connection.spare_until:
            self.spare_after = time.monotonic() + SPARE_PAUSE
        if connection in self._free:
            self._free.remove(connection)
        self._stale.append(connection)

    # End of the methods whose caller holds the lock.

    async def _close_stale(self) -> None:
        with self._lock:
            stale, self._stale = self._stale, []
        for connection in stale:
            if not connection.http.is_closed():
                await connection.http.aclose()


async def close(exchange: Exchange) -> None:
    """Close the answer of an exchange, if there is an answer, and release its connection."""
    if exchange.response is not None:
        connection, exchange.connection = exchange.connection, None
        try:
            await exchange.response.aclose()
        finally:
            if connection is not None:
                await connection.pool.release(connection)
