"""ReloadThread: the one thread of a process that waits for a trigger and reloads the source.

Events, polls and requests are triggers; the debouncer decides when a changing file is read. At the
first event of an in-place save the file is often empty or torn; at the close event it is complete.
So after a write the debouncer waits for the close event, and after any other change for a moment of
quiet. Without events it waits until two ``stat`` calls in a row return the same. The debouncer has
no clock.

A second thread, the guard, checks once a second that the reload thread makes progress, since
``is_alive`` is also true of a thread that hangs.
"""

import contextlib
import logging
import math
import signal
import threading
import time
from collections.abc import Callable
from functools import partial
from queue import Empty

from ..serving.store import Trigger
from ..sources.etcd import EtcdSource, EtcdWatcher, pause
from ..sources.file import CLOSE_WAIT, Event, Events, Fingerprint, Watcher
from ..state.directory import WorkerRegistry
from .pipeline import UNREACHABLE, Reloader

logger = logging.getLogger(__name__)

#: Seconds of quiet after a change that is not a write in progress.
QUIET = 0.05
#: Seconds of quiet after a change that ``stat`` showed before any event: watchdog holds back the
#: first half of a rename, and all events behind it, for 0.5 s.
SILENT_QUIET = 0.55
#: Seconds between a close event and the read, so that a write right after the close is noticed.
CLOSE_GRACE = 0.01
#: Seconds after which a file that keeps changing is reported.
PATIENCE = 5.0

#: Seconds between two ``stat`` calls while the folder is watched.
STAT_INTERVAL = 0.25
#: Seconds between two ``stat`` calls while the folder cannot be watched.
BUSY_STAT_INTERVAL = 0.05

#: Seconds that a stopping process waits for each of the two threads.
THREAD_PATIENCE = 2.0
#: Seconds after which an unfinished turn is late; for etcd, beside the limit of a read.
LATE = 5.0
#: Seconds between two checks of the guard.
LATE_LOOK = 1.0


class Debouncer:
    """Takes the events and ``stat`` results of a file, and tells when to read the file.

    All times are monotonic seconds that the caller passes in.

    Args:
        fingerprint: Fingerprint of the file at the last read.

    Attributes:
        seen: Fingerprint of the file at the last ``stat``.
        writing: Whether a write event came and its close event has not come yet.
    """

    def __init__(self, fingerprint: Fingerprint) -> None:
        self.finished(fingerprint)

    def finished(self, fingerprint: Fingerprint) -> None:
        """Take the end of a read, accepted or refused: no read is due any more."""
        self.seen = fingerprint
        self.writing = False
        self._since = self._due = math.inf

    @property
    def pending(self) -> bool:
        """Whether a read is due, now or soon."""
        return self._due < math.inf

    def restless(self, now: float) -> bool:
        """Whether the file has kept changing for longer than ``PATIENCE``."""
        return now - self._since > PATIENCE

    def wait(self, now: float) -> float:
        """Return the seconds until the file should be read; infinity if no read is due."""
        return max(0.0, self._due - now)

    def _read_at(self, due: float, now: float) -> None:
        self._since = min(self._since, now)
        self._due = due

    def written(self, now: float) -> None:
        """Take a write event: the file is open for writing."""
        self.writing = True
        self._read_at(now + CLOSE_WAIT, now)

    def closed(self, now: float) -> None:
        """Take a close event, or a rename that put a complete file in place."""
        self.writing = False
        self._read_at(now + CLOSE_GRACE, now)

    def asked(self, now: float) -> None:
        """Take a request to read the file, whether it has changed or not."""
        if not self.pending:
            self._read_at(now, now)

    def again(self, now: float) -> None:
        """Take a failed read, or a read that found another file than ``seen``: read again soon."""
        due = self._due if self.pending else now
        self._read_at(max(due, now + QUIET), now)

    def looked(
        self, fingerprint: Fingerprint, now: float, *, by_event: bool, expected: bool
    ) -> None:
        """Take the result of a ``stat`` call.

        Args:
            fingerprint: Fingerprint of the file now.
            now: Monotonic seconds.
            by_event: Whether an event caused this call.
            expected: Whether the folder is watched, so that a change causes an event.
        """
        if fingerprint == self.seen:
            return
        self.seen = fingerprint
        if self.writing or fingerprint.blank:
            quiet = CLOSE_WAIT  # a file that was created or truncated will be written to
        elif by_event or not expected:
            quiet = QUIET
        else:
            quiet = SILENT_QUIET
        self._read_at(now + quiet, now)


class ReloadThread:
    """The thread that looks at the source at each wake-up and runs the reloader.

    Args:
        reloader: Reads the source; it has loaded once already.
        on_turn: Called in the thread after each turn.
        workers: Has the requests to reload of all workers; None for a process without workers.
        on_late: Called in the guard thread when a turn is late.

    Attributes:
        watcher: Puts the events of the source into the queue of the thread.
        answered: The number of the newest request that this process has answered. Requests from
            before this object count as answered, since the process reads its source at its start.
    """

    def __init__(
        self,
        reloader: Reloader,
        on_turn: Callable[[], None],
        workers: WorkerRegistry | None = None,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        self._reloader = reloader
        self._source = reloader.source
        self._workers = workers
        self._on_turn = on_turn
        self._on_late = on_late
        self._events = Events()
        self.watcher: Watcher | EtcdWatcher
        if isinstance(self._source, EtcdSource):
            self.watcher = EtcdWatcher(self._source, self._events)
            self._late_after = LATE + self._source.longest
            self._noticed = Trigger.ETCD
        else:
            self.watcher = Watcher(self._source.path, self._events)
            self._late_after = LATE
            self._noticed = Trigger.WATCH
        self._debouncer = Debouncer(reloader.loaded.fingerprint)
        self._cause = Trigger.POLL  # of the next read
        self._taken = self.answered = workers.newest_request() if workers else 0
        self._complained = False
        self._failures = 0  # reads in a row that have not reached the source
        self._poll_interval = reloader.settings.poll_interval or math.inf
        self._next_poll = time.monotonic() + self._poll_interval
        self._thread = threading.Thread(target=self._run, name="mop-config-reload", daemon=True)
        self._turned_at = time.monotonic()
        self._ended = threading.Event()
        self._guard = threading.Thread(target=self._watch, name="mop-config-guard", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def late(self) -> str | None:
        """The message that the present turn of the thread takes too long; else None."""
        seconds = time.monotonic() - self._turned_at
        if seconds <= self._late_after:
            return None
        return f"the reload thread stands still, for {seconds:.0f} s now: edits are not seen"

    @property
    def notices_changes(self) -> bool:
        """Whether a change of the source would be noticed now."""
        watched = self.watcher.mode == "poll" or self.watcher.alive
        return self.alive and self.late is None and watched

    def start(self) -> None:
        """Start both threads; the first turn runs at once."""
        self._turned_at = time.monotonic()
        self._thread.start()
        self._guard.start()

    def hup(self) -> None:
        """Make the next turn read the source; safe in a signal handler."""
        self._events.put(Event.SIGHUP)

    def stop(self) -> None:
        """End both threads, and stop watching.

        A thread that hangs is left alone after ``THREAD_PATIENCE``. It closes its resources itself
        if it ever continues.
        """
        self._ended.set()
        self._events.put(Event.STOP)
        self._thread.join(THREAD_PATIENCE)
        self._guard.join(THREAD_PATIENCE)

    def _watch(self) -> None:
        """Log each turn that is late, and write the record, which says so."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        reported_at = 0.0
        while not self._ended.wait(LATE_LOOK):
            if (late := self.late) is not None and reported_at != self._turned_at:
                reported_at = self._turned_at
                logger.error("%s", late)
                self._on_late()

    def _run(self) -> None:
        # Threads and processes that start here inherit the mask and leave SIGHUP to the main
        # thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        events = [Event.OTHER]
        try:
            while Event.STOP not in events:
                try:
                    events = self._turn(events)
                except Exception as error:
                    name = type(error).__name__
                    logger.error("the reload thread goes on after %s: %s", name, error)
                    time.sleep(1.0)  # the turn begins again with the same events
        finally:
            self._ended.set()
            self.watcher.stop()

    def _turn(self, events: list[Event]) -> list[Event]:
        """Reload if a read is due; wait for the next events, and return them."""
        reloader = self._reloader
        workers = self._workers
        debouncer = self._debouncer
        if reloader.seconds_to_boundary <= 0:
            reloader.pass_boundary()
        request = Trigger.SIGHUP if Event.SIGHUP in events else None
        if workers is not None and (newest := workers.newest_request()) > self._taken:
            self._taken = newest
            request = Trigger.API
        now = time.monotonic()
        self._look(events, request, now)
        if reloader.loaded.judge_at <= time.time():
            debouncer.asked(now)
        if debouncer.wait(now) == 0 or (now >= self._next_poll and not debouncer.pending):
            self._load()
        if debouncer.restless(now) and not self._complained:
            reloader.report_changing(self._cause)
            self._complained = True
            self._cause = Trigger.POLL
        if not self._requested:
            self.answered = self._taken
        reloader.follow_others()
        self._on_turn()
        self._turned_at = time.monotonic()
        interval = BUSY_STAT_INTERVAL if self.watcher.mode == "poll" else STAT_INTERVAL
        wait = min(interval, debouncer.wait(self._turned_at))
        for seconds in (reloader.seconds_to_boundary, reloader.loaded.judge_at - time.time()):
            if seconds > 0:
                wait = min(wait, seconds)
        return _wait(self._events, wait)

    def _look(self, events: list[Event], request: Trigger | None, now: float) -> None:
        """Run ``stat`` on the source, and pass the events and the result to the debouncer."""
        debouncer = self._debouncer
        by_event = any(event is not Event.SIGHUP for event in events)
        fingerprint = self._source.fingerprint(partial(self.watcher.check, now))
        debouncer.looked(fingerprint, now, by_event=by_event, expected=self.watcher.alive)
        for event in events:
            if event is Event.WRITTEN:
                debouncer.written(now)
            elif event is Event.CLOSED:
                debouncer.closed(now)
        if debouncer.writing and not by_event and self._source.being_written() is False:
            debouncer.closed(now)  # truncate(2) and unwatched files cause no close event
        if request is not None:
            debouncer.asked(now)
            self._cause = request
        elif not debouncer.pending:
            self._cause = Trigger.POLL
        elif by_event and not self._requested:
            self._cause = self._noticed

    @property
    def _requested(self) -> bool:
        """Whether somebody asks for a reload that has not been answered yet."""
        return self._cause in {Trigger.SIGHUP, Trigger.API}

    def _load(self) -> None:
        done = self._reloader.reload(
            self._cause, quietly=not self._requested, settled=self._debouncer.seen
        )
        now = time.monotonic()
        if not done:
            self._debouncer.again(now)
            return
        loaded = self._reloader.loaded
        self._debouncer.finished(loaded.fingerprint)
        self._cause = Trigger.POLL
        self._complained = False
        self._failures = self._failures + 1 if loaded.identity == UNREACHABLE else 0
        wait = pause(self._failures) if self._failures else self._poll_interval
        self._next_poll = now + wait


def _wait(queue: Events, timeout: float) -> list[Event]:
    """Wait for an event, at most ``timeout`` seconds, and return all that are in the queue."""
    found = []
    with contextlib.suppress(Empty):
        found.append(queue.get(timeout=timeout))
        while True:
            found.append(queue.get_nowait())
    return found
