"""Wakeup: a pipe whose bytes wake the reload thread.

A signal handler runs between two bytecodes of the main thread, which may hold the lock that the
handler needs: ``threading.Event.set`` in a handler has deadlocked a worker. A write to a
non-blocking pipe takes no lock, so any thread and any signal handler may do it.
"""

import contextlib
import os
import selectors

WRITTEN = b"w"  # the file was written, and is not closed yet
CLOSED = b"c"  # the file was closed after writing, or replaced by a rename
OTHER = b"o"  # any other event in a watched folder
ETCD = b"e"  # the key may have changed, or the watch has ended
SIGHUP = b"h"
STOP = b"q"


class Wakeup:
    """A pipe that belongs to one process; it must not be shared across a fork."""

    def __init__(self) -> None:
        self._read_end, self._write_end = os.pipe()
        os.set_blocking(self._read_end, False)
        os.set_blocking(self._write_end, False)
        self._selector: selectors.BaseSelector | None = None

    def send(self, kind: bytes) -> None:
        """Wake the reader; safe in a signal handler. A full pipe has woken the reader already."""
        with contextlib.suppress(OSError):
            os.write(self._write_end, kind)

    def wait(self, timeout: float) -> bytes:
        """Wait for bytes, at most ``timeout`` seconds, and return them."""
        if self._selector is None:
            # The selector is kept, because the process may run out of descriptors later.
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._read_end, selectors.EVENT_READ)
        if not self._selector.select(timeout):
            return b""
        try:
            return os.read(self._read_end, 65536)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close both ends of the pipe."""
        if self._selector is not None:
            self._selector.close()
        os.close(self._read_end)
        os.close(self._write_end)
