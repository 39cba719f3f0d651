"""ChangeEvent wakes parked requests: it is a pipe that is written to once and never read.

Any number of threads can wait for the pipe at once. Each thread polls the pipe together with its
client's connection, so that a client that leaves is noticed without looking every second.
"""

import os
import select
import socket
import time
from typing import Any

#: The poll flag for a peer that has closed its side. Where the system lacks the flag, a readable
#: socket is peeked at instead.
_HUNG_UP = getattr(select, "POLLRDHUP", 0)


class ChangeEvent:
    """An event that is set once and wakes every waiting thread. It belongs to one process."""

    def __init__(self) -> None:
        self._pid = os.getpid()
        self._read_end, self._write_end = os.pipe()

    @property
    def of_parent(self) -> bool:
        """Whether this is the copy that a fork has made of the parent's event."""
        return self._pid != os.getpid()

    def fileno(self) -> int:
        """Return the descriptor that becomes readable when the event is set, for an event loop."""
        return self._read_end

    def set(self) -> None:
        """Set the event: wake every thread that waits now or later. Safe in a signal handler.

        The pipe is shared with the parent, so that a fork must not set its copy.
        """
        if not self.of_parent:
            os.write(self._write_end, b"!")

    def wait(self, seconds: float, client: Any = None) -> bool:
        """Wait until the event is set, the time is over, or the client has left.

        Args:
            seconds: Longest time to wait, in seconds.
            client: The client's socket, or None if the socket is not known.

        Returns:
            False if the client has left.
        """
        until = time.monotonic() + seconds
        poll = select.poll()
        poll.register(self._read_end, select.POLLIN)
        if client is not None:
            poll.register(client, _HUNG_UP or select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(seconds * 1000)}
            if client.fileno() not in ready:
                return True
            if _HUNG_UP or not _has_more(client):
                return False
            poll.unregister(client)
        poll.poll(max(0.0, until - time.monotonic()) * 1000)
        return True

    def __del__(self) -> None:
        os.close(self._write_end)
        os.close(self._read_end)


def _has_more(client: Any) -> bool:
    """Return whether a readable socket holds another request rather than the end of its stream."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except ValueError:
        return True  # a TLS socket cannot be peeked at
    except OSError:
        return False
