"""Waits for sockets in threads; the twin of ``with_asyncio``."""

import contextlib
import select
import socket
import threading
from collections.abc import Callable
from typing import Any

from .deadline import Limit

WriteTurn = threading.Lock


def whole(write: Callable[..., None], *args: Any) -> None:
    """Run a write; a thread is not cancelled."""
    write(*args)


def give_way() -> None:
    """Do nothing: threads do not wait for each other's reads."""


class SocketWaits:
    """Lets a thread wait for one socket or selector."""

    def __init__(self, sock: Any) -> None:
        self._sock = sock

    def readable(self, timeout: float | None) -> None:
        """Wait until the socket is readable.

        Raises:
            TimeoutError: After ``timeout`` seconds, or at the deadline of a ``Limit``.
            Exception: Raised by the hedge of the request, to end the read.
        """
        if isinstance(timeout, Limit):
            hedge, timeout = timeout.deadline.hedge, timeout.deadline.least(timeout)
            if hedge is not None:
                hedge.wait(self._sock, timeout)
                return
        self._wait(select.POLLIN, timeout)

    def writable(self, timeout: float | None) -> None:
        """Wait until the socket is writable; raises as ``readable`` does."""
        if isinstance(timeout, Limit):
            timeout = timeout.deadline.least(timeout)
        self._wait(select.POLLOUT, timeout)

    def _wait(self, event: int, seconds: float | None) -> None:
        poll = select.poll()
        poll.register(self._sock, event)
        if not poll.poll(None if seconds is None else seconds * 1000 + 1):
            raise TimeoutError("timed out")

    def end(self) -> None:
        """Shut the socket down, which wakes a thread that waits for it."""
        with contextlib.suppress(OSError):
            # Not SSLSocket.shutdown, which drops the TLS state under the reading thread.
            socket.socket.shutdown(self._sock, socket.SHUT_RDWR)
