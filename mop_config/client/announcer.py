"""``Announcer``: logs the events of the pools, and sends the signals of a manager."""

import asyncio
import contextlib
import logging
import weakref
from functools import partial
from typing import Any

from blinker import NamedSignal

from .. import signals
from .pool.member import EventKind, PoolEvent

logger = logging.getLogger(__name__)

#: Signal (None: the event is only logged), log level and log text of each event.
_EVENTS: dict[EventKind, tuple[NamedSignal | None, int, str]] = {
    EventKind.SWITCHED: (
        signals.endpoint_switched,
        logging.WARNING,
        "%(kind)s requests go to %(to_url)s instead of %(from_url)s (%(reason)s,"
        " %(seconds_without_service).3f s without service)",
    ),
    EventKind.SUSPECTED: (
        None,
        logging.INFO,
        "%(kind)s endpoint %(url)s is suspect (%(reason)s): it ranks last until a check clears it",
    ),
    EventKind.DOWN: (
        signals.endpoint_down,
        logging.WARNING,
        "%(kind)s endpoint %(url)s is down (%(reason)s)",
    ),
    EventKind.RECOVERED: (
        signals.endpoint_recovered,
        logging.INFO,
        "%(kind)s endpoint %(url)s is healthy again",
    ),
    EventKind.ALL_DOWN: (
        signals.all_endpoints_down,
        logging.ERROR,
        "every %(kind)s endpoint is down: %(urls)s",
    ),
}


class Announcer:
    """Sends the signals of one manager.

    Args:
        manager: The sender of the signals. The announcer holds only a weak reference, so that
            the manager is collected when the application drops its last reference.

    Attributes:
        loop: The event loop in which signals are sent. None: signals are sent at once, in the
            thread of the event.
    """

    def __init__(self, manager: object) -> None:
        self._manager = weakref.ref(manager)
        self.loop: asyncio.AbstractEventLoop | None = None

    def announce(self, event: PoolEvent) -> None:
        """Log an event of a pool, and send its signal."""
        signal, level, text = _EVENTS[event.kind]
        about = event.about
        urls = ", ".join(about.get("urls", ()))
        logger.log(level, text, {**about, "urls": urls})
        if signal is not None:
            self.send(signal, about)

    def send(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        """Send a signal."""
        manager = self._manager()
        if manager is None:
            return
        if self.loop is None or self.loop is running_loop():
            signals.send(signal, manager, **about)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(partial(signals.send, signal, manager, **about))


def running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the event loop that runs in this thread, or None."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
