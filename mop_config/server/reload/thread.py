"""ReloadThread: the one thread of a process that waits for a trigger and reloads the source.

ReloadRequests passes requests to reload to all workers of a host as one growing number: the worker
that gets a request writes a higher number into a record of the state folder, and each reload thread
reads the record on each turn.

``FileTrigger`` decides when the endpoint file is read: after events, polls and requests.

A second thread, the guard, checks once a second that the reload thread makes progress, since
``is_alive`` is also true of a thread that hangs.
"""

import logging
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path
from queue import Empty

from ..serving.store import Reload, SnapshotStore, Trigger
from ..sources.etcd import EtcdSource
from ..sources.file import FileSource
from ..sources.watch import Debouncer, Event, Events, Watcher
from ..state.directory import StateDirectory
from .etcd_trigger import EtcdTrigger
from .pipeline import Reloader

logger = logging.getLogger(__name__)

#: Seconds between two ``stat`` calls while the folder is watched.
STAT_INTERVAL = 0.25
#: Seconds between two ``stat`` calls while the folder cannot be watched.
BUSY_STAT_INTERVAL = 0.05

_PACKAGE = str(Path(__file__).parents[1])
#: Seconds that a stopping process waits for each of the two threads.
THREAD_PATIENCE = 2.0
#: Seconds after which an unfinished turn is late.
LATE = 5.0
#: Seconds between two checks of the guard.
LATE_LOOK = 1.0


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


class ReloadRequests:
    """The newest request to reload, and the newest request that this process has answered.

    Args:
        directory: The state folder.
        name: Name of the record.
        store: The store that notes the reloads.

    Attributes:
        answered: The number of the newest request that this process has answered. Requests from
            before this object count as answered, since the process reads its source at its start.
    """

    def __init__(self, directory: StateDirectory, name: str, store: SnapshotStore) -> None:
        self._directory = directory
        self._name = name
        self._store = store
        self._own = 0
        self._before: Reload | None = None
        self._taken = self.answered = self._newest()

    def make(self) -> tuple[int, bool]:
        """Request a reload; return its number, and whether the other workers can see it."""
        self._own = max(time.time_ns(), self._newest() + 1)
        try:
            # Under a lock, so that an older request cannot replace a newer one.
            with self._directory.locked(f"{self._name}.lock"):
                self._own = max(self._own, self._recorded() + 1)
                self._directory.write(self._name, b"%d\n" % self._own, sync=False)
        except OSError:
            return self._own, False
        return self._own, True

    def take(self) -> bool:
        """Return whether there is a new request, which the next reload answers."""
        newest = self._newest()
        if newest <= self._taken:
            return False
        self._taken, self._before = newest, self._store.view.last_reload
        return True

    def note(self) -> None:
        """Note that the request is answered if a reload has ended since ``take``."""
        if self._store.view.last_reload is not self._before:
            self.answered = self._taken

    def _newest(self) -> int:
        return max(self._own, self._recorded())

    def _recorded(self) -> int:
        return self._directory.load(self._name, int, "the request to reload") or 0


class ReloadThread:
    """The thread that asks the trigger at each wake-up and runs the reloader.

    Args:
        reloader: Reads the source; it has loaded once already.
        poll_interval: Seconds between two comparisons of the content; 0 means never.
        on_turn: Called in the thread after each turn.
        requests: The requests to reload that other processes may make; None without any.
        on_late: Called in the guard thread when a turn is late.
        on_end: Called in the thread at its end.

    Attributes:
        trigger: Decides at each turn whether the source is reloaded, and watches the source.
    """

    def __init__(
        self,
        reloader: Reloader,
        poll_interval: float,
        on_turn: Callable[[], None],
        requests: ReloadRequests | None = None,
        on_late: Callable[[], None] = lambda: None,
        on_end: Callable[[], None] = lambda: None,
    ) -> None:
        self._reloader = reloader
        self._requests = requests
        self._on_turn = on_turn
        self._on_late = on_late
        self._on_end = on_end
        self._events: Events = Events()
        self.trigger = _trigger(reloader, self._events, poll_interval)
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
        """The message that the thread has not made progress for too long; else None.

        A reload that has ended is progress, although its turn has not ended yet.
        """
        reload = self._reloader.store.view.last_reload
        progress = max(self._turned_at, reload.moment if reload else 0.0)
        seconds = time.monotonic() - progress
        if seconds <= LATE:
            return None
        return f"the reload thread stands still, for {seconds:.0f} s now: edits are not seen"

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
        self.trigger.release()
        self._events.put(Event.STOP)
        self._thread.join(THREAD_PATIENCE)
        self._guard.join(THREAD_PATIENCE)

    def _watch(self) -> None:
        """Log when a turn is late; the reload thread itself logs when it continues."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        reported_at = 0.0
        while not self._ended.wait(LATE_LOOK):
            if self.late is not None and reported_at != self._turned_at:
                reported_at = self._turned_at
                logger.error("the reload thread stands still %s", self._place())
                self._on_late()

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented
        ours = [f for f in traceback.extract_stack(frame) if _PACKAGE in f.filename]
        return "".join(f"in {f.name} ({f.filename}:{f.lineno})" for f in ours[-1:])

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
                    time.sleep(1.0)
                    events = [Event.OTHER]
        finally:
            self._ended.set()
            self.trigger.stop()
            self._on_end()

    def _turn(self, events: list[Event]) -> list[Event]:
        """Reload if a read is due; wait for the next events, and return them."""
        reloader, requests = self._reloader, self._requests
        if reloader.seconds_to_boundary <= 0:
            reloader.pass_boundary()
        request = Trigger.SIGHUP if Event.SIGHUP in events else None
        if requests is not None and requests.take():
            request = Trigger.API
        self.trigger.turn(events, request, time.monotonic())
        if requests is not None:
            requests.note()
        reloader.follow_others()
        self._on_turn()
        before, self._turned_at = self._turned_at, time.monotonic()
        if self._turned_at - before > LATE:
            logger.warning("the reload thread goes on after %.1f s", self._turned_at - before)
            self._on_turn()
        timeout = self.trigger.timeout(self._turned_at)
        return _wait(self._events, min(timeout, reloader.seconds_to_boundary))


def _trigger(reloader: Reloader, events: Events, poll_interval: float) -> FileTrigger | EtcdTrigger:
    source = reloader.source
    if isinstance(source, EtcdSource):
        return EtcdTrigger(reloader, source, events, poll_interval)
    return FileTrigger(reloader, source, events, poll_interval)


def _wait(queue: Events, timeout: float) -> list[Event]:
    """Wait for an event, at most ``timeout`` seconds, and return all that are in the queue."""
    found = []
    try:
        found.append(queue.get(timeout=timeout))
        while True:
            found.append(queue.get_nowait())
    except Empty:
        return found
