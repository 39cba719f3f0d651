"""How the reload thread is woken: bytes in a pipe.

A signal handler runs between two bytecodes of the main thread, maybe one that holds the
very lock it would need; ``threading.Event.set`` there has deadlocked a live worker. A write
to a non-blocking pipe takes no lock, works from any thread and any handler.
"""

import contextlib
import os
import selectors

WRITTEN = b"w"  # the file was written to and not closed yet
CLOSED = b"c"  # the file was closed after writing, or a whole one was moved there
OTHER = b"o"  # anything else happened in a watched folder: look again
ETCD = b"e"  # the key may have changed, or etcd cannot be heard any more
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
        """Wake the reader; safe in a signal handler. A full pipe wakes it already."""
        with contextlib.suppress(OSError):
            os.write(self._write_end, kind)

    def wait(self, timeout: float) -> bytes:
        """Sleep until woken or ``timeout`` seconds have passed; give what was sent."""
        if self._selector is None:
            # It is kept: a process that runs out of descriptors must still be woken.
            self._selector = selectors.DefaultSelector()
            self._selector.register(self._read_end, selectors.EVENT_READ)
        if not self._selector.select(timeout):
            return b""
        try:
            return os.read(self._read_end, 65536)
        except BlockingIOError:
            return b""

    def close(self) -> None:
        """Close both ends."""
        if self._selector is not None:
            self._selector.close()
        os.close(self._read_end)
        os.close(self._write_end)
