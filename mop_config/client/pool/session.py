"""``ClientState``: the pools and the budget of a manager, and the lock around them.

``with state:`` takes the lock. After releasing the lock it logs the events of the pools, and sends
their signals. No I/O happens while the lock is held.
"""

import asyncio
import contextlib
import logging
import random
import threading
import time
import weakref
from collections.abc import Callable
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import Any, Self

from blinker import NamedSignal

from ... import signals
from ...model.endpoint import Kind
from ...net.resolver import Resolver
from .failover import Budget
from .member import PoolEvent
from .offline import OfflineDetector
from .policy import Policy
from .pool import Pool

logger = logging.getLogger(__name__)

#: Log level and log text of each event, by its name.
_TEXTS: dict[str, tuple[int, str]] = {
    "endpoint_switched": (
        WARNING,
        "%(kind)s requests go to %(to_url)s instead of %(from_url)s (%(reason)s,"
        " %(seconds_without_service).3f s without service)",
    ),
    "endpoint_suspected": (
        INFO,
        "%(kind)s endpoint %(url)s is suspect (%(reason)s): it ranks last until a check clears it",
    ),
    "endpoint_down": (WARNING, "%(kind)s endpoint %(url)s is down (%(reason)s)"),
    "endpoint_recovered": (INFO, "%(kind)s endpoint %(url)s is healthy again"),
    "all_endpoints_down": (ERROR, "every %(kind)s endpoint is down: %(urls)s"),
}


class ClientState:
    """The state of one manager.

    Args:
        policy: The timeouts and limits.
        sender: The sender of the signals, a manager. The reference is weak, so that the manager is
            collected when the application drops its last reference.
        resolver: Resolves hosts; None for the system's resolver alone.

    Attributes:
        clock: Returns monotonic seconds.
        wall_clock: Returns POSIX seconds.
        random: Returns numbers from 0 to 1.
        pools: The pools ``api`` and ``socketio``.
        resolver: Resolves hosts for requests, checks and updates.
        has_secure_cookies: Whether an endpoint has set a cookie with ``Secure``.
        wake: Wakes the loop of the manager's health checks; None while it does not run.
        loop: The event loop in which signals are sent. None: signals are sent at once, in the
            thread of the event.
    """

    def __init__(self, policy: Policy, sender: object, resolver: Resolver | None = None) -> None:
        self.policy = policy
        self.clock = time.monotonic
        self.wall_clock = time.time
        self.random = random.random
        self.network = OfflineDetector(policy.offline_window)
        self.api = Pool(Kind.API, policy, self.network, self.random)
        self.socketio = Pool(Kind.SOCKETIO, policy, self.network, self.random)
        self.pools = (self.api, self.socketio)
        self.budget = Budget(policy)
        self.resolver = resolver or Resolver()
        self.has_secure_cookies = False
        self.wake: Callable[[], None] | None = None
        self.loop: asyncio.AbstractEventLoop | None = None
        self._sender = weakref.ref(sender)
        self._lock = threading.Lock()

    def reset_after_fork(self) -> None:
        """Replace the lock in a forked child: another thread may have held the parent's lock."""
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        self._lock.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        api, socketio = self.pools
        if not (api.urgent or api.events or socketio.urgent or socketio.events):
            self._lock.release()
            return
        urgent = api.urgent or socketio.urgent
        api.urgent = socketio.urgent = False
        events = api.events + socketio.events
        api.events, socketio.events = [], []
        self._lock.release()
        if urgent and self.wake is not None:
            self.wake()
        for event in events:
            self._announce(event)

    def pool(self, kind: str) -> Pool:
        """Return the pool of a kind."""
        return self.api if kind == Kind.API else self.socketio

    def _announce(self, event: PoolEvent) -> None:
        """Log an event of a pool, and send its signal."""
        level, text = _TEXTS[event.name]
        logger.log(level, text, {**event.about, "urls": ", ".join(event.about.get("urls", ()))})
        if event.name != "endpoint_suspected":
            self.send(getattr(signals, event.name), event.about)

    def send(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        """Send a signal."""
        sender = self._sender()
        if sender is None:
            return
        if self.loop is None or self.loop is asyncio._get_running_loop():
            signals.send(signal, sender, **about)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(partial(signals.send, signal, sender, **about))
