"""When the endpoint file is to be read: what watching, looking and asking come to together."""

import time
from functools import partial

from ..serving.store import Trigger
from ..sources import wakeup
from ..sources.debounce import Debouncer
from ..sources.directory_watch import Watcher
from ..sources.file import FileSource
from .pipeline import Reloader

#: Seconds between two looks at the file with ``stat``.
STAT_INTERVAL = 0.25
#: The same where no event can be expected.
BUSY_STAT_INTERVAL = 0.05


class FileTrigger:
    """Follows a file: one turn a wake-up, and a load where one is due.

    Args:
        reloader: What to run; it has loaded once already.
        source: The file that it reads.
        wake: Where events go.
        poll_interval: Seconds between two looks at the content; 0 is never.
    """

    def __init__(
        self, reloader: Reloader, source: FileSource, wake: wakeup.Wakeup, poll_interval: float
    ) -> None:
        self.watcher = Watcher(source.path, wake)
        self._reloader = reloader
        self._source = source
        self._poll_interval = poll_interval
        self._settle = Debouncer(reloader.signature)
        if reloader.interrupted:
            self._settle.written(time.monotonic())
        self._cause: Trigger | None = None
        self._asked = False
        self._complained = False
        self._next_poll = time.monotonic() + poll_interval

    def timeout(self, now: float) -> float:
        """Seconds until the next turn, where nothing happens."""
        interval = STAT_INTERVAL if self.watcher.alive else BUSY_STAT_INTERVAL
        wait = self._settle.wait(now)
        return interval if wait is None else min(wait, interval)

    def turn(self, kinds: bytes, asked: Trigger | None, now: float) -> None:
        """Look at the file, and load it if it is time.

        Args:
            kinds: What has happened since the last turn.
            asked: Why somebody wants the file read, changed or not; or None.
            now: Monotonic seconds.
        """
        self._look(kinds, asked, now)
        if self._settle.wait(now) == 0 and self._is_being_written():
            self._settle.written(now)
        elif self._settle.wait(now) == 0:
            self._load(self._cause or Trigger.POLL, quietly=not self._asked)
        elif self._settle.restless(now) and not self._complained:
            self._complained = True
            self._reloader.give_up_waiting(self._cause or Trigger.POLL)
        elif self._poll_interval and now >= self._next_poll and not self._settle.pending:
            self._load(Trigger.POLL, quietly=True)

    def release(self) -> None:
        """Give up a look at the file that is waited for."""
        self._source.release()

    def stop(self) -> None:
        """Stop watching."""
        self.watcher.stop()

    def _look(self, kinds: bytes, asked: Trigger | None, now: float) -> None:
        settle = self._settle
        told = bool(kinds.strip(wakeup.SIGHUP))
        signature = self._source.signature(partial(self.watcher.check, now))
        settle.looked(signature, now, told=told, expected=self.watcher.alive)
        for kind in kinds:
            if kind == ord(wakeup.WRITTEN):
                settle.written(now)
            elif kind == ord(wakeup.CLOSED):
                settle.closed(now)
        if settle.writing and not told and self._source.being_written() is False:
            settle.closed(now)  # no event tells of the end of truncate(2), or where there are none
        if asked is not None:
            settle.asked(now)
            self._cause, self._asked = asked, True
        elif not settle.pending:
            self._cause, self._asked = None, False
        elif told and self._cause is None:
            self._cause = Trigger.WATCH

    def _is_being_written(self) -> bool:
        # The close that we know of may be that of an earlier writer.
        return self._settle.unguarded(self._reloader.signature) and bool(
            self._source.being_written()
        )

    def _load(self, trigger: Trigger, *, quietly: bool) -> None:
        done = self._reloader.load(trigger, quietly=quietly, settled=self._settle.seen)
        now = time.monotonic()
        if not done:
            self._settle.again(now)
            return
        self._settle.read(self._reloader.signature)
        self._cause, self._asked, self._complained = None, False, False
        self._next_poll = now + self._poll_interval
