"""ReloadThread: the one thread of a process that waits for a trigger and reloads the source.

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
from pathlib import Path
from typing import Protocol

from ..serving.store import Trigger
from ..sources import wakeup
from ..sources.etcd_source import EtcdSource
from .etcd_trigger import EtcdTrigger
from .file_trigger import FileTrigger
from .pipeline import Reloader
from .requests import ReloadResponder

logger = logging.getLogger(__name__)

_PACKAGE = str(Path(__file__).parents[1])

#: Seconds that a stopping process waits for each of the two threads.
THREAD_PATIENCE = 2.0
#: Seconds after which an unfinished turn is late.
LATE = 5.0
#: Seconds between two checks of the guard.
LATE_LOOK = 1.0


class Watching(Protocol):
    """Notices changes of the source, and wakes the reload thread."""

    @property
    def mode(self) -> str:
        """How changes are noticed, in one word, such as ``inotify`` or ``poll``."""

    @property
    def alive(self) -> bool:
        """Whether a change would be noticed now."""


class ReloadTrigger(Protocol):
    """Decides at each turn whether the source is reloaded; each kind of source has its own."""

    @property
    def watcher(self) -> Watching:
        """The watcher of the source."""

    def timeout(self, now: float) -> float:
        """Return the seconds until the next turn if no event comes."""

    def turn(self, kinds: bytes, request: Trigger | None, now: float) -> None:
        """Reload if a read is due; ``request`` is the trigger of a request to read the source."""

    def release(self) -> None:
        """End a call that a turn may be waiting for, because the process stops."""

    def stop(self) -> None:
        """Stop watching; called after the last turn."""


class ReloadThread:
    """The thread that asks the trigger at each wake-up and runs the reloader.

    Args:
        reloader: Reads the source; it has loaded once already.
        poll_interval: Seconds between two comparisons of the content; 0 means never.
        on_turn: Called in the thread after each turn.
        responder: Takes requests to reload and answers them.
        on_late: Called in the guard thread when a turn is late.
    """

    def __init__(
        self,
        reloader: Reloader,
        poll_interval: float,
        on_turn: Callable[[], None],
        responder: ReloadResponder,
        on_late: Callable[[], None] = lambda: None,
    ) -> None:
        self._reloader = reloader
        self._responder = responder
        self._on_turn = on_turn
        self._on_late = on_late
        self._wake = wakeup.Wakeup()
        self._trigger = _trigger(reloader, self._wake, poll_interval)
        self._thread = threading.Thread(target=self._run, name="mop-config-reload", daemon=True)
        self._turned_at = time.monotonic()
        self._stopping = threading.Event()
        self._guard = threading.Thread(target=self._watch, name="mop-config-guard", daemon=True)
        self._left = False

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    @property
    def late(self) -> float | None:
        """Seconds since the thread last made progress if that is too long ago; else None.

        A reload that has ended is progress, although its turn has not ended yet.
        """
        reload = self._reloader.store.view.last_reload
        progress = max(self._turned_at, reload.moment if reload else 0.0)
        seconds = time.monotonic() - progress
        return seconds if seconds > LATE else None

    @property
    def watcher(self) -> Watching:
        """The watcher of the source."""
        return self._trigger.watcher

    def start(self) -> None:
        """Start both threads; the first turn runs at once."""
        self._turned_at = time.monotonic()
        self._thread.start()
        self._guard.start()

    def hup(self) -> None:
        """Make the next turn read the source; safe in a signal handler."""
        self._wake.send(wakeup.SIGHUP)

    def stop(self) -> None:
        """End both threads and stop watching.

        A thread that hangs is left alone after ``THREAD_PATIENCE``. It closes its resources itself
        if it ever continues.
        """
        self._stopping.set()
        if self._thread.is_alive():  # else a new thread may use the same source by now
            self._trigger.release()
        self._wake.send(wakeup.STOP)
        self._thread.join(THREAD_PATIENCE)
        if self._guard.ident is not None:
            self._guard.join(THREAD_PATIENCE)
        self._left = True
        if not self._thread.is_alive():
            self._close()

    def _close(self) -> None:
        self._trigger.stop()
        self._wake.close()

    def _watch(self) -> None:
        """Log when a turn is late; the reload thread itself logs when it continues."""
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        reported_at = 0.0
        while not self._stopping.wait(LATE_LOOK):
            if self.late is not None and reported_at != self._turned_at:
                reported_at = self._turned_at
                logger.error("the reload thread stands still %s", self._place())
                self._on_late()

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented
        if frame is None:
            return "and is dead"
        ours = [f for f in traceback.extract_stack(frame) if _PACKAGE in f.filename]
        return "".join(f"in {f.name} ({f.filename}:{f.lineno})" for f in ours[-1:])

    def _run(self) -> None:
        # Threads and processes that start here inherit the mask and leave SIGHUP to the main
        # thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        kinds = wakeup.OTHER
        while wakeup.STOP not in kinds:
            try:
                self._turn(kinds)
                self._on_turn()
                self._turned()
                timeout = self._trigger.timeout(time.monotonic())
                kinds = self._wake.wait(min(timeout, self._reloader.seconds_to_boundary))
            except Exception as error:
                logger.error("the reload thread goes on after %s: %s", type(error).__name__, error)
                time.sleep(1.0)
                kinds = wakeup.OTHER
        if self._left:
            self._close()

    def _turned(self) -> None:
        before, self._turned_at = self._turned_at, time.monotonic()
        seconds = self._turned_at - before
        if seconds > LATE:
            logger.warning("the reload thread goes on after %.1f s", seconds)
            self._on_turn()

    def _turn(self, kinds: bytes) -> None:
        if self._reloader.seconds_to_boundary <= 0:
            self._reloader.pass_boundary()
        request = Trigger.SIGHUP if wakeup.SIGHUP in kinds else None
        request = self._responder.asked() or request
        self._trigger.turn(kinds, request, time.monotonic())
        self._responder.note()
        self._reloader.follow_others()


def _trigger(reloader: Reloader, wake: wakeup.Wakeup, poll_interval: float) -> ReloadTrigger:
    source = reloader.source
    if isinstance(source, EtcdSource):
        return EtcdTrigger(reloader, source, wake, poll_interval)
    return FileTrigger(reloader, source, wake, poll_interval)
