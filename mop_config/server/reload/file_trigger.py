"""FileTrigger decides when the endpoint file is read: after events, polls and requests."""

import time
from functools import partial

from ..serving.store import Trigger
from ..sources.debounce import Debouncer, Event, Events
from ..sources.directory_watch import Watcher
from ..sources.file import FileSource
from .pipeline import Reloader

#: Seconds between two ``stat`` calls while the folder is watched.
STAT_INTERVAL = 0.25
#: Seconds between two ``stat`` calls while the folder cannot be watched.
BUSY_STAT_INTERVAL = 0.05


class FileTrigger:
    """The reload trigger of a file: watches the folder, and reloads when the debouncer says so.

    Args:
        reloader: Reads the file; it has loaded once already.
        source: The file.
        events: The queue of the events.
        poll_interval: Seconds between two comparisons of the content; 0 means never.
    """

    def __init__(
        self, reloader: Reloader, source: FileSource, events: Events, poll_interval: float
    ) -> None:
        self.watcher = Watcher(source.path, events)
        self._reloader = reloader
        self._source = source
        self._poll_interval = poll_interval
        self._debouncer = Debouncer(reloader.loaded.signature)
        self._request: Trigger | None = None  # that is not answered yet
        self._seen_event = False  # since the last read
        self._complained = False
        self._next_poll = time.monotonic() + poll_interval

    @property
    def mode(self) -> str:
        """How changes are noticed: ``inotify``, another system's mechanism, or ``poll``."""
        return self.watcher.mode

    @property
    def alive(self) -> bool:
        """Whether a change would be noticed now."""
        return self.mode == "poll" or self.watcher.alive

    def timeout(self, now: float) -> float:
        """Return the seconds until the next turn if no event comes."""
        interval = STAT_INTERVAL if self.watcher.alive else BUSY_STAT_INTERVAL
        wait = self._debouncer.wait(now)
        return interval if wait is None else min(wait, interval)

    def turn(self, events: list[Event], request: Trigger | None, now: float) -> None:
        """Run ``stat`` on the file, and reload if a read is due.

        Args:
            events: The events since the last turn.
            request: The trigger of a request to read the file, changed or not; None without one.
            now: Monotonic seconds.
        """
        self._look(events, request, now)
        debouncer = self._debouncer
        cause = self._request or (Trigger.WATCH if self._seen_event else Trigger.POLL)
        if debouncer.wait(now) == 0:
            # The last close event may be that of an earlier writer.
            unguarded = debouncer.unguarded(self._reloader.loaded.signature)
            if unguarded and self._source.being_written():
                debouncer.written(now)
            else:
                self._load(cause, quietly=self._request is None)
        elif debouncer.restless(now) and not self._complained:
            self._complained = True
            self._reloader.give_up_waiting(cause)
        elif self._poll_interval and now >= self._next_poll and not debouncer.pending:
            self._load(Trigger.POLL, quietly=True)

    def release(self) -> None:
        """End a ``stat`` or read that hangs."""
        self._source.release()

    def stop(self) -> None:
        """Stop watching."""
        self.watcher.stop()

    def _look(self, events: list[Event], request: Trigger | None, now: float) -> None:
        debouncer = self._debouncer
        by_event = any(event is not Event.SIGHUP for event in events)
        signature = self._source.signature(partial(self.watcher.check, now))
        debouncer.looked(signature, now, by_event=by_event, expected=self.watcher.alive)
        for event in events:
            if event is Event.WRITTEN:
                debouncer.written(now)
            elif event is Event.CLOSED:
                debouncer.closed(now)
        if debouncer.writing and not by_event and self._source.being_written() is False:
            debouncer.closed(now)  # truncate(2) and unwatched files cause no close event
        if request is not None:
            debouncer.asked(now)
            self._request = request
        elif not debouncer.pending:
            self._request, self._seen_event = None, False
        elif by_event:
            self._seen_event = True

    def _load(self, trigger: Trigger, *, quietly: bool) -> None:
        done = self._reloader.reload(trigger, quietly=quietly, settled=self._debouncer.seen)
        now = time.monotonic()
        if not done:
            self._debouncer.again(now)
            return
        self._debouncer.read(self._reloader.loaded.signature)
        self._request, self._seen_event, self._complained = None, False, False
        self._next_poll = now + self._poll_interval
