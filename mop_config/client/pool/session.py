"""``ClientState``: the pools and the budget of a manager, and the lock around them.

``with core:`` takes the lock, and sends the queued events after releasing it. No I/O happens
while the lock is held.
"""

import os
import random
import threading
import time
from collections.abc import Callable
from typing import Any, Self

from ...model.endpoint import Kind
from ...net.resolver import Resolver
from .failover import Budget
from .member import PoolEvent
from .offline import OfflineDetector
from .policy import Policy
from .pool import Pool


class ClientState:
    """The state of one manager.

    Args:
        policy: The timeouts and limits.
        announce: Called with each event, after the lock is released.
        resolver: Resolves hosts; None for the system's resolver alone.

    Attributes:
        clock: Returns monotonic seconds.
        wall_clock: Returns POSIX seconds.
        random: Returns numbers from 0 to 1.
        resolver: Resolves hosts for requests, checks and updates.
    """

    def __init__(
        self,
        policy: Policy,
        announce: Callable[[PoolEvent], None],
        resolver: Resolver | None = None,
    ) -> None:
        self.policy = policy
        self.clock = time.monotonic
        self.wall_clock = time.time
        self.random = random.random
        self.network = OfflineDetector(policy.offline_window)
        self.api = Pool(Kind.API, policy, self.network, self.random)
        self.socketio = Pool(Kind.SOCKETIO, policy, self.network, self.random)
        self.budget = Budget(policy)
        self.resolver = resolver or Resolver()
        self.on_urgent: Callable[[], None] | None = None  # called for an urgent probe
        self.on_fork: Callable[[], None] | None = None
        self._announce = announce
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._locks = {self._pid: self._lock}

    def __enter__(self) -> Self:
        if self._pid != os.getpid():
            self._forked()
        self._lock.acquire()
        return self

    def _forked(self) -> None:
        """Replace the lock in a forked child: another thread may have held the parent's lock."""
        mine, pid = threading.Lock(), os.getpid()
        # ``setdefault`` is atomic, so that the child's threads agree on one lock.
        self._lock = self._locks.setdefault(pid, mine)
        self._pid = pid
        if self._lock is mine and self.on_fork is not None:
            self.on_fork()

    def __exit__(self, *_: object) -> None:
        api, socketio = self.api, self.socketio
        if not (api.urgent or api.events or socketio.urgent or socketio.events):
            self._lock.release()
            return
        urgent = api.urgent or socketio.urgent
        api.urgent = socketio.urgent = False
        events = api.take_events() + socketio.take_events()
        self._lock.release()
        if urgent and self.on_urgent is not None:
            self.on_urgent()
        for event in events:
            self._announce(event)

    def pool(self, kind: str) -> Pool:
        """Return the pool of a kind."""
        return self.api if kind == Kind.API else self.socketio

    def statistics(self) -> dict[str, Any]:
        """Return counts and times per endpoint and per kind, and the retry budget."""
        with self:
            return {
                "offline": self.network.offline,
                "budget_tokens": self.budget.tokens,
                **{
                    pool.kind: {
                        "switches": pool.switches,
                        "seconds_without_service": pool.seconds_without_service,
                        "endpoints": {
                            member.url: {
                                "served": member.served,
                                "failed": member.failed,
                                "state": member.health.state.value,
                                "response_time": member.health.response_time,
                            }
                            for member in pool.members()
                        },
                    }
                    for pool in (self.api, self.socketio)
                },
            }
