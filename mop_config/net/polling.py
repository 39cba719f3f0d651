"""``poll``: waits for the events of one socket, by poll(2), or on Windows by select(2)."""

import select
import socket
from typing import Any

#: The events: bytes or an end to read, room to write, and the end of the connection. Unread bytes
#: do not delay the end; a system without POLLRDHUP reports a close as POLLHUP.
READABLE: int = getattr(select, "POLLIN", 1)
WRITABLE: int = getattr(select, "POLLOUT", 4)
ENDED: int = (
    select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)
    if hasattr(select, "poll")
    else 16
)


class SelectPoll:
    """Stands in for the object of ``select.poll``, for one socket."""

    def register(self, sock: socket.socket, events: int) -> None:
        """Wait for these events of a socket from now on."""
        self._sock, self._events = sock, events

    def poll(self, milliseconds: float | None = None) -> list[tuple[int, int]]:
        """Return the descriptor with its events; nothing if there are none in time."""
        sock = self._sock
        reads = [sock] if self._events & READABLE else []
        writes = [sock] if self._events & WRITABLE else []
        seconds = None if milliseconds is None else milliseconds / 1000
        readable, writable, failed = select.select(reads, writes, [sock], seconds)
        found = READABLE * bool(readable) | WRITABLE * bool(writable) | ENDED * bool(failed)
        if readable and self._has_ended():
            found |= ENDED
        return [(sock.fileno(), found)] if found else []

    def _has_ended(self) -> bool:
        try:
            # Not ``SSLSocket.recv``, which knows no flags.
            return not socket.socket.recv(self._sock, 1, socket.MSG_PEEK)
        except BlockingIOError:
            return False
        except OSError:
            return True


#: Makes an object with ``register`` and ``poll``.
new_poll: Any = getattr(select, "poll", SelectPoll)
