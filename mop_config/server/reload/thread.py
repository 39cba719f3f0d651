"""The one reload thread of a process: wait for a wake-up, let the source settle, load it.

A second thread looks at it once a second: ``is_alive`` says nothing of a thread that hangs.
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

from ..concurrency import BackgroundTask, greenlets
from ..serving.store import Trigger
from ..sources import wakeup
from ..sources.etcd_source import EtcdSource
from .etcd_trigger import EtcdTrigger
from .file_trigger import FileTrigger
from .pipeline import Reloader
from .renderer import Renderer
from .requests import ReloadResponder

logger = logging.getLogger(__name__)

_PACKAGE = str(Path(__file__).parents[1])

#: Seconds that a stopping process gives a slow disk, and a reload thread that may hang.
STOP_PATIENCE = 5.0
THREAD_PATIENCE = 2.0
#: Seconds after which a turn that is not done is late.
LATE = 5.0
#: Seconds between two looks at whether one is.
LATE_LOOK = 1.0


class Watching(Protocol):
    """What tells the reload thread of changes."""

    @property
    def mode(self) -> str:
        """How it hears of them, in one word."""

    @property
    def alive(self) -> bool:
        """Whether it would hear of one now."""


class ReloadTrigger(Protocol):
    """Decides, turn by turn, when the source is to be loaded; one kind a kind of source."""

    @property
    def watcher(self) -> Watching:
        """What tells of changes."""

    def timeout(self, now: float) -> float:
        """Seconds until the next turn, where nothing happens."""

    def turn(self, kinds: bytes, asked: Trigger | None, now: float) -> None:
        """Do what is due; ``asked`` tells why somebody wants the source read, if so."""

    def release(self) -> None:
        """End soon whatever a turn may be waiting for: the process is to stop."""

    def stop(self) -> None:
        """Stop watching; no turn runs any more."""


class ReloadThread:
    """The thread that follows the source and runs the reloader.

    Args:
        reloader: What to run; it has loaded once already.
        poll_interval: Seconds between two looks at the content; 0 is never.
        on_turn: Called after each turn of the thread, for whoever reports on it.
        responder: What it owes to those who ask for a reload.
        on_late: Called in another thread when a turn is late.
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
        self._renderer = reloader.renderer = Renderer()
        self._on_turn = on_turn
        self._on_late = on_late
        self._wake = wakeup.Wakeup()
        self._persistence = BackgroundTask(reloader.persist)
        self._follower = _follower(reloader, self._wake, poll_interval)
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
        """Seconds since the last turn that was done, where the next one is late; else None."""
        seconds = time.monotonic() - self._turned_at
        return seconds if seconds > LATE else None

    @property
    def watcher(self) -> Watching:
        """What tells of changes."""
        return self._follower.watcher

    def start(self) -> None:
        """Start the thread; it looks at the source at once."""
        self._turned_at = time.monotonic()
        self._thread.start()
        self._guard.start()

    def hup(self) -> None:
        """Read the source soon; safe in a signal handler."""
        self._wake.send(wakeup.SIGHUP)

    def stop(self) -> None:
        """End the thread and stop watching; a load that runs is called off.

        A thread that hangs is left to itself, and cleans up behind itself if it ever goes on.
        """
        began = time.monotonic()
        self._stopping.set()
        self._renderer.abort()
        if self._thread.is_alive():  # else another one may follow the same source by now
            self._follower.release()
        self._wake.send(wakeup.STOP)
        self._thread.join(THREAD_PATIENCE)
        self._persistence.wait(began + STOP_PATIENCE - time.monotonic())
        if self._guard.ident is not None:
            self._guard.join(THREAD_PATIENCE)
        self._left = True
        if not self._thread.is_alive():
            self._close()

    def _close(self) -> None:
        self._follower.stop()
        self._wake.close()

    def _watch(self) -> None:
        """Say when a turn is late; the thread itself says when it goes on."""
        if not greenlets():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        told_at = 0.0
        while not self._stopping.wait(LATE_LOOK):
            if self.late is not None and told_at != self._turned_at:
                told_at = self._turned_at
                logger.error("the reload thread stands still %s", self._place())
                self._on_late()

    def _place(self) -> str:
        frame = sys._current_frames().get(self._thread.ident or 0)  # noqa: SLF001 - documented
        if frame is None:
            return "and is dead"
        ours = [f for f in traceback.extract_stack(frame) if _PACKAGE in f.filename]
        return "".join(f"in {f.name} ({f.filename}:{f.lineno})" for f in ours[-1:])

    def _run(self) -> None:
        # Every thread and process started from here must leave SIGHUP to the main thread.
        # A greenlet is the main thread.
        if not greenlets():
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        kinds = wakeup.OTHER
        while wakeup.STOP not in kinds:
            try:
                self._turn(kinds)
                self._on_turn()
                if self._reloader.unsaved:
                    self._persistence.call()
                self._turned()
                kinds = self._wake.wait(self._follower.timeout(time.monotonic()))
            except Exception as error:
                logger.error("the reload thread goes on after %s: %s", type(error).__name__, error)
                time.sleep(1.0)
                kinds = wakeup.OTHER
        if self._left:
            self._close()

    def _turned(self) -> None:
        late, self._turned_at = self.late, time.monotonic()
        if late is not None:
            logger.warning("the reload thread goes on after %.1f s", late)
            self._on_turn()

    def _turn(self, kinds: bytes) -> None:
        asked = Trigger.SIGHUP if wakeup.SIGHUP in kinds else None
        asked = self._responder.asked() or asked
        self._follower.turn(kinds, asked, time.monotonic())
        self._responder.note()
        self._reloader.follow_others()


def _follower(reloader: Reloader, wake: wakeup.Wakeup, poll_interval: float) -> ReloadTrigger:
    source = reloader.source
    if isinstance(source, EtcdSource):
        return EtcdTrigger(reloader, source, wake, poll_interval)
    return FileTrigger(reloader, source, wake, poll_interval)
