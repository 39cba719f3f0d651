"""reload_on_sighup sets a SIGHUP handler in a gunicorn worker of a class that is not ours.

The handler calls the handler that was there before. It only writes to a pipe: a lock or a log
record in a handler could wait for the very thread that the handler interrupts.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

from .service import ConfigService
from .status import lost_hooks

Handler = Callable[[int, FrameType | None], Any]


class SighupHandler:
    """Wakes the reload thread of a service on SIGHUP.

    Args:
        service: The service whose source is read.
        previous: The handler that was there before, or None.
    """

    def __init__(self, service: ConfigService, previous: Handler | None) -> None:
        self.service = service
        self._previous = previous

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """Handle the signal in the main thread."""
        self.service.wake_reload_thread()
        if self._previous is not None:
            self._previous(number, frame)


def reload_on_sighup(service: ConfigService) -> None:
    """Install the SIGHUP handler of a service, unless it is installed already.

    The function does nothing in another thread than the main thread, where Python cannot set
    signal handlers, and nothing outside gunicorn, where SIGHUP must end a program whose terminal
    closes.
    """
    if threading.current_thread() is not threading.main_thread():
        return
    if not lost_hooks.under_gunicorn():
        return
    previous = signal.getsignal(signal.SIGHUP)
    if isinstance(previous, SighupHandler) and previous.service is service:
        return
    handler = SighupHandler(service, previous if callable(previous) else None)
    signal.signal(signal.SIGHUP, handler)
    signal.siginterrupt(signal.SIGHUP, False)
