"""The pools of connections of one client: kept, tidied up, and replaced where they are of no use.

httpcore looks at a pool only when a request goes through it. So connections to an endpoint that
is no longer used would stay open for ever, and a connection that a cancelled request has left
behind as busy would keep its place.
"""

import threading
from collections.abc import Callable
from typing import Any

from ..pool.session import ClientState
from ..pool.target import Target

#: Seconds between two looks at all pools.
PAUSE = 1.0


class Pools:
    """httpcore's pools, one for each endpoint: requests that hang at one keep no others.

    Args:
        core: Tells which endpoints there are.
        make: Makes a pool.
    """

    def __init__(self, core: ClientState, make: Callable[[], Any]) -> None:
        self._state = core
        self._make = make
        self._pools: dict[bytes, tuple[str, Any]] = {}
        self._retired: list[Any] = []
        self._sweeping = threading.Lock()
        self._sweep_at = 0.0

    def to(self, url: str, target: Target) -> Any:
        """Give the pool of connections to an endpoint."""
        entry = self._pools.get(target.key)
        if entry is None:
            entry = self._pools.setdefault(target.key, (url, self._make()))
        return entry[1]

    def retire(self, pool: Any) -> None:
        """Have new requests use a new pool; those that are under way end in the old one."""
        for key, (_, other) in list(self._pools.items()):
            if other is pool and self._pools.pop(key, None) is not None:
                self._retired.append(pool)

    def all(self) -> list[Any]:
        """List every pool."""
        return [pool for _, pool in list(self._pools.values())] + self._retired

    def sweep(self, now: float, others: list[Any]) -> list[Any]:
        """List the connections to close now, a look a second at most.

        Args:
            now: Monotonic seconds.
            others: Pools to look at besides.
        """
        if now < self._sweep_at or not self._sweeping.acquire(blocking=False):
            return []
        try:
            self._sweep_at = now + PAUSE
            for url, pool in list(self._pools.values()):
                if self._state.api.get(url) is None:
                    self.retire(pool)
            closing = [c for pool in self._retired for c in tidy(pool, keep_idle=False)]
            self._retired = [pool for pool in self._retired if pool._requests]
            current = [pool for _, pool in list(self._pools.values())]
            return closing + [c for pool in current + others for c in tidy(pool)]
        finally:
            self._sweeping.release()


def tidy(pool: Any, *, keep_idle: bool = True) -> list[Any]:
    """Take from a pool the connections to close: expired ones, and those without a request.

    A request leaves the pool after its connection has become idle or closed. A connection that
    is busy without a request is one that a failed or cancelled request has lost: httpcore would
    count its place as taken for ever. Requests that wait for a place get those that are free now.
    """
    with pool._optional_thread_lock:
        asked = {id(request.connection) for request in pool._requests}
        free = [c for c in pool._connections if id(c) not in asked and c.is_connected()]
        closing = [c for c in free if not (keep_idle and c.is_idle())]
        left = {id(connection) for connection in closing}
        pool._connections = [c for c in pool._connections if id(c) not in left]
        return closing + list(pool._assign_requests_to_connections())
