"""What wakes parked requests: a pipe that is written to once and never read from.

Any number of threads or greenlets can wait for it at once, each together with its client's
connection, so that a client that goes away is noticed without looking every second.
"""

import os
import select
import socket
import time
from typing import Any

from .offload import greenlets

#: The other side has closed, or is gone. Where the system has no word for it, as under
#: gevent, what is readable has to be looked at.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class Bell:
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
        # Looked up at each call: under gevent's patches it is a cooperative one.
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        if client is not None:
            by_reading = greenlets() or not _HUNG_UP
            poll.register(client, select.POLLIN if by_reading else _HUNG_UP)
            ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
            if client.fileno() not in ready:
                return True
            if not by_reading or not _has_more(client):
                return False
            poll.unregister(client)
        poll.poll(max(0.0, until - time.monotonic()) * 1000)
        return True

    def __del__(self) -> None:
        os.close(self._write_end)
        os.close(self._read_end)


def _has_more(client: Any) -> bool:
    """Whether a readable socket holds the next request, not the end of the connection."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except ValueError:
        return True  # TLS does not let us peek
    except OSError:
        return False
