"""When is a file that changes ready to be read? A clockless state machine. Pure.

An in-place save is seen empty or torn at its first event and whole at the close. So after
a write wait for the close; after anything else, for a moment of quiet. Where nothing tells
of events, two equal looks in a row must do.
"""

from .file import Fingerprint

#: Seconds of quiet after a change that is not a write in progress.
QUIET = 0.05
#: The same after a change that no event told of, while events are expected: the event may
#: still be on its way through watchdog's threads.
SILENT_QUIET = 0.2
#: watchdog holds a rename's first half, and all behind it, for 0.5 s. A file that appears
#: without an event may be one that somebody is writing.
APPEARED_QUIET = 0.55
#: Seconds to wait for the close after the last write.
CLOSE_WAIT = 2.0
#: Seconds after a close before reading, so that a write right behind it is seen.
CLOSE_GRACE = 0.01
#: Seconds after which a file that never rests is worth a complaint.
PATIENCE = 5.0


class Debouncer:
    """Takes what is seen of a file and says when to read it.

    Times are monotonic seconds that the caller passes in.

    Args:
        signature: What the file looked like when it was last read.

    Attributes:
        seen: What it looked like at the last look.
        writing: Whether a writer is waited for.
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
        """An event: somebody wrote to the file and has not closed it."""
        self._start(now)
        self.writing = True
        self._due = now + CLOSE_WAIT

    def unguarded(self, read: Fingerprint) -> bool:
        """Whether there is news, and no writer is waited for.

        Args:
            read: What the file looked like when it was last read.
        """
        return not self.writing and self.seen != read

    def closed(self, now: float) -> None:
        """An event: the file was closed after writing, or a whole one was moved there."""
        self._start(now)
        self.writing = False
        self._due = now + CLOSE_GRACE

    def asked(self, now: float) -> None:
        """Somebody wants the file read, changed or not."""
        if self._since is None:
            self._start(now)
            self._due = now

    def looked(self, signature: Fingerprint, now: float, *, told: bool, expected: bool) -> None:
        """A look at the file.

        Args:
            signature: What it looks like.
            now: Monotonic seconds.
            told: Whether an event asked for this look.
            expected: Whether events are to be expected at all.
        """
        if signature == self.seen:
            return
        appeared = self.seen.missing and not signature.missing
        self.seen = signature
        self._start(now)
        if self.writing:
            self._due = max(self._due, now + CLOSE_WAIT)
        elif signature.blank:
            # Created or cut to nothing: whoever did that is about to write.
            self._due = now + CLOSE_WAIT
        elif told or not expected:
            self._due = now + QUIET
        else:
            self._due = now + (APPEARED_QUIET if appeared else SILENT_QUIET)

    def wait(self, now: float) -> float | None:
        """Seconds until the file should be read: 0 is now, None is never."""
        return None if self._since is None else max(0.0, self._due - now)

    def restless(self, now: float) -> bool:
        """Whether the file has been changing for so long that somebody should be told."""
        return self._since is not None and now - self._since > PATIENCE and self._due > now

    def read(self, signature: Fingerprint) -> None:
        """The file was read (or refused) with this signature: nothing is pending any more."""
        self.seen = signature
        self._since = None
        self.writing = False

    def again(self, now: float) -> None:
        """The file could not be read, or not as it was seen: look at it soon."""
        self._start(now)
        self._due = max(self._due, now + QUIET)

    def _start(self, now: float) -> None:
        if self._since is None:
            self._since = now
