"""A bell for greenlets: ``Bell`` for thousands who wait in one thread.

gevent's own ``poll`` has every greenlet watch the pipe for itself. With thousands of them
that costs more than their answers. Here one watcher hears the bell for all.
"""

import os
import socket
import time
from collections import deque
from typing import Any

#: Seconds for which those who wait are told, before others' requests get their turn: enough
#: for some thousand. With half of it, those who had been told and asked again came in between, and
#: the last of 5,000 waited for a third longer.
SLICE = 1.0

_RUNG, _TIME, _CLIENT = object(), object(), object()


class GreenletChangeEvent:
    """Rings once, for all greenlets of a thread that wait. It belongs to one process."""

    def __init__(self) -> None:
        from gevent.hub import Waiter, get_hub

        self.pid = os.getpid()
        self._new_waiter: Any = Waiter
        self._loop = get_hub().loop
        self._read_end, self._write_end = os.pipe()
        self._waiting: dict[Any, None] = {}
        self._queue: deque[Any] | None = None  # once it has rung: who is not told yet
        self._watcher: Any = None

    def ring(self) -> None:
        """Wake everybody who waits or is about to; safe in a signal handler."""
        os.write(self._write_end, b"!")

    def wait(self, seconds: float, client: Any = None) -> bool:
        """Wait as ``Bell.wait`` does."""
        if self._queue is not None:
            return True
        self._listen()
        waiter = self._new_waiter()
        watchers = [self._loop.timer(seconds)]
        watchers[0].start(waiter.switch, _TIME)
        if client is not None:
            watchers.append(self._loop.io(client.fileno(), 1))
            watchers[1].start(waiter.switch, _CLIENT)
        self._waiting[waiter] = None
        try:
            while waiter.get() is _CLIENT:
                if not has_more(client):
                    return False
                # The next request is there already: from now on it hides a goodbye.
                watchers[1].stop()
                waiter.clear()
            return True
        finally:
            self._waiting.pop(waiter, None)
            for watcher in watchers:
                watcher.stop()
                watcher.close()
            if not self._waiting and self._queue is None:
                self._listen_no_more()

    def _listen(self) -> None:
        if self._watcher is None:
            self._watcher = self._loop.io(self._read_end, 1)
            self._watcher.priority = self._loop.MAXPRI
            self._watcher.start(self._tell)

    def _listen_no_more(self) -> None:
        self._watcher.stop()
        self._watcher.close()
        self._watcher = None

    def _tell(self) -> None:
        """Let one greenlet after the other give its answer.

        All before anybody's next request: it would take longer than the answers that others
        wait for. The pipe stays readable, so that the loop calls again after a slice.
        """
        if self._queue is None:
            self._queue = deque(self._waiting)
        until = time.monotonic() + SLICE
        while self._queue:
            waiter = self._queue.popleft()
            if waiter in self._waiting:
                waiter.switch(_RUNG)
                if self._queue and time.monotonic() > until:
                    return
        self._listen_no_more()

    def __del__(self) -> None:
        os.close(self._write_end)
        os.close(self._read_end)


def has_more(client: Any) -> bool:
    """Whether a readable socket holds the next request, not the end of the connection."""
    try:
        return bool(client.recv(1, socket.MSG_PEEK))
    except ValueError:
        return True  # TLS does not let us peek
    except OSError:
        return False
