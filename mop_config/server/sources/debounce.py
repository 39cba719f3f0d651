"""Debouncer: decides when a file that changes is ready to be read. Pure, and without a clock.

At the first event of an in-place save the file is often empty or torn; at the close event it is
complete. So after a write the debouncer waits for the close event, and after any other change for
a moment of quiet. Without events it waits until two ``stat`` calls in a row return the same.
"""

from enum import Enum
from queue import SimpleQueue

from .file import Fingerprint

#: Seconds of quiet after a change that is not a write in progress.
QUIET = 0.05
#: Seconds of quiet after a change that ``stat`` showed before any event: the event may still be
#: on its way through watchdog's threads.
SILENT_QUIET = 0.2
#: Seconds of quiet after a file appeared without an event. watchdog holds back the first half of
#: a rename, and all events behind it, for 0.5 s, so that the file may still be written to.
APPEARED_QUIET = 0.55
#: Seconds to wait for the close after the last write.
CLOSE_WAIT = 2.0
#: Seconds between a close event and the read, so that a write right after the close is noticed.
CLOSE_GRACE = 0.01
#: Seconds after which a file that keeps changing is reported.
PATIENCE = 5.0


class Event(Enum):
    """An event that wakes the reload thread."""

    WRITTEN = "the file was written, and is not closed yet"
    CLOSED = "the file was closed after writing, or replaced by a rename"
    OTHER = "any other event that may mean a change of the source"
    SIGHUP = "SIGHUP"
    STOP = "the process stops"


#: The events for the reload thread. A signal handler runs between two bytecodes of the main thread,
#: which may hold the lock that the handler needs: ``threading.Event.set`` in a handler has
#: deadlocked a worker. ``SimpleQueue.put`` takes no such lock, so any thread and any signal handler
#: may call it.
Events = SimpleQueue[Event]


class Debouncer:
    """Takes the events and ``stat`` results of a file, and tells when to read the file.

    All times are monotonic seconds that the caller passes in.

    Args:
        signature: Fingerprint of the file at the last read.

    Attributes:
        seen: Fingerprint of the file at the last ``stat``.
        writing: Whether a write event came and its close event has not come yet.
    """

    def __init__(self, signature: Fingerprint) -> None:
        self.seen = signature
        self._since: float | None = None  # since when something is pending
        self._due = 0.0
        self.writing = False

    @property
    def pending(self) -> bool:
        """Whether a read is due, now or soon."""
        return self._since is not None

    def written(self, now: float) -> None:
        """Take a write event: the file is open for writing."""
        self._start(now)
        self.writing = True
        self._due = now + CLOSE_WAIT

    def unguarded(self, read: Fingerprint) -> bool:
        """Whether the file has changed since the last read while no close event is awaited.

        Args:
            read: Fingerprint of the file at the last read.
        """
        return not self.writing and self.seen != read

    def closed(self, now: float) -> None:
        """Take a close event, or a rename that put a complete file in place."""
        self._start(now)
        self.writing = False
        self._due = now + CLOSE_GRACE

    def asked(self, now: float) -> None:
        """Take a request to read the file, whether it has changed or not."""
        if self._since is None:
            self._start(now)
            self._due = now

    def looked(self, signature: Fingerprint, now: float, *, by_event: bool, expected: bool) -> None:
        """Take the result of a ``stat`` call.

        Args:
            signature: Fingerprint of the file now.
            now: Monotonic seconds.
            by_event: Whether an event caused this call.
            expected: Whether the folder is watched, so that a change causes an event.
        """
        if signature == self.seen:
            return
        appeared = self.seen.missing and not signature.missing
        self.seen = signature
        self._start(now)
        if self.writing:
            self._due = max(self._due, now + CLOSE_WAIT)
        elif signature.blank:
            # The file was created or truncated, so that a write will follow.
            self._due = now + CLOSE_WAIT
        elif by_event or not expected:
            self._due = now + QUIET
        else:
            self._due = now + (APPEARED_QUIET if appeared else SILENT_QUIET)

    def wait(self, now: float) -> float | None:
        """Return the seconds until the file should be read; 0 is now, None if no read is due."""
        return None if self._since is None else max(0.0, self._due - now)

    def restless(self, now: float) -> bool:
        """Whether the file has kept changing for longer than ``PATIENCE``."""
        return self._since is not None and now - self._since > PATIENCE and self._due > now

    def read(self, signature: Fingerprint) -> None:
        """Take the end of a read, accepted or refused: no read is due any more."""
        self.seen = signature
        self._since = None
        self.writing = False

    def again(self, now: float) -> None:
        """Take a failed read, or a read that found another file than ``seen``: read again soon."""
        self._start(now)
        self._due = max(self._due, now + QUIET)

    def _start(self, now: float) -> None:
        if self._since is None:
            self._since = now
