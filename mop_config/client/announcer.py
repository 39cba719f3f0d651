"""``Announcer``: logs what happens to the endpoints, and sends the signals of a manager."""

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

#: Signal (None for an event of the log alone), level and text of each event.
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
        manager: The sender of the signals. Held by a weak reference, so that a manager that the
            application dropped is collected.

    Attributes:
        loop: The event loop that signals are sent from, or None to send them at once.
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
