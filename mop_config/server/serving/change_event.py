"""What wakes parked requests: a pipe that is written to once and never read from.

Any number of threads can wait for it at once, each together with its client's connection, so
that a client that goes away is noticed without looking every second. Greenlets have a bell of
their own.
"""

import os
import select
import time
from typing import Any

from ..concurrency import greenlets
from .greenlet_event import GreenletChangeEvent, has_more

#: The other side has closed, or is gone. Where the system has no word for it, what is
#: readable has to be looked at.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class ChangeEvent:
    """Rings once, for everybody who waits. It belongs to one process."""

    def __init__(self) -> None:
        self.pid = os.getpid()
        self._read_end, self._write_end = os.pipe()

    def ring(self) -> None:
        """Wake everybody who waits or is about to; safe in a signal handler."""
        os.write(self._write_end, b"!")

    def wait(self, seconds: float, client: Any = None) -> bool:
        """Wait until it rings, the time is over, or the client has gone.

        Args:
            seconds: How long at most.
            client: The client's socket, or None where it is not known.

        Returns:
            False if the client has gone.
        """
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        if client is not None:
            poll.register(client, _HUNG_UP or select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
            if client.fileno() not in ready:
                return True
            if _HUNG_UP or not has_more(client):
                return False
            poll.unregister(client)
        poll.poll(max(0.0, until - time.monotonic()) * 1000)
        return True

    def __del__(self) -> None:
        os.close(self._write_end)
        os.close(self._read_end)


AnyChangeEvent = ChangeEvent | GreenletChangeEvent


def new_change_event() -> AnyChangeEvent:
    """Give the bell that suits whoever waits in this process: threads or greenlets."""
    return GreenletChangeEvent() if greenlets() else ChangeEvent()
