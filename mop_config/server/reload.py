"""The one reload thread of a process: wait for a wake-up, let the file settle, load it."""

import logging
import signal
import threading
import time
from collections.abc import Callable

from . import wakeup
from .loader import Loader
from .offload import Background, Renderer, greenlets
from .settle import Settle
from .store import Trigger
from .watch import Watcher

logger = logging.getLogger(__name__)

#: Seconds between two looks at the file with ``stat``.
STAT_INTERVAL = 0.25
#: The same where no event can be expected.
BUSY_STAT_INTERVAL = 0.05
#: Seconds that a stopping process gives a slow disk.
STOP_PATIENCE = 5.0


class Reloader:
    """The thread that watches the source and runs the loader.

    Args:
        loader: What to run; it has loaded once already.
        poll_interval: Seconds between two looks at the content; 0 is never.
        on_turn: Called after each turn of the thread, for whoever reports on it.
    """

    def __init__(self, loader: Loader, poll_interval: float, on_turn: Callable[[], None]) -> None:
        self._loader = loader
        self._renderer = loader.renderer = Renderer()
        self._poll_interval = poll_interval
        self._on_turn = on_turn
        self._wake = wakeup.Wakeup()
        self._persistence = Background(loader.persist)
        self.watcher = Watcher(loader.source.path, self._wake)
        self._settle = Settle(loader.signature)
        if loader.interrupted:
            self._settle.written(time.monotonic())
        self._cause: Trigger | None = None
        self._complained = False
        self._next_poll = time.monotonic() + poll_interval
        self._thread = threading.Thread(target=self._run, name="mop-config-reload", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the thread is running."""
        return self._thread.is_alive()

    def start(self) -> None:
        """Start the thread; it looks at the source at once."""
        self._thread.start()

    def hup(self) -> None:
        """Read the source soon; safe in a signal handler."""
        self._wake.send(wakeup.SIGHUP)

    def stop(self) -> None:
        """End the thread and stop watching; a load that runs is called off."""
        self._renderer.abort()
        self._wake.send(wakeup.STOP)
        self._thread.join()
        self._persistence.wait(STOP_PATIENCE)
        self.watcher.stop()
        self._wake.close()

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
                if self._loader.unsaved:
                    self._persistence.call()
                kinds = self._wake.wait(self._timeout())
            except Exception as error:
                logger.error("the reload thread goes on after %s: %s", type(error).__name__, error)
                time.sleep(1.0)
                kinds = wakeup.OTHER

    def _timeout(self) -> float:
        interval = STAT_INTERVAL if self.watcher.alive else BUSY_STAT_INTERVAL
        wait = self._settle.wait(time.monotonic())
        return interval if wait is None else min(wait, interval)

    def _turn(self, kinds: bytes) -> None:
        now = time.monotonic()
        self.watcher.check(now)
        self._look(kinds, now)
        if self._settle.wait(now) == 0 and self._is_being_written():
            self._settle.written(now)
        elif self._settle.wait(now) == 0:
            self._load(self._cause or Trigger.POLL, quietly=self._cause is not Trigger.SIGHUP)
        elif self._settle.restless(now) and not self._complained:
            self._complained = True
            self._loader.give_up_waiting(self._cause or Trigger.POLL)
        elif self._poll_interval and now >= self._next_poll and not self._settle.pending:
            self._load(Trigger.POLL, quietly=True)
        self._loader.follow_others()

    def _look(self, kinds: bytes, now: float) -> None:
        settle = self._settle
        told = bool(kinds.strip(wakeup.SIGHUP))
        signature = self._loader.source.signature()
        settle.looked(signature, now, told=told, expected=self.watcher.alive)
        for kind in kinds:
            if kind == ord(wakeup.WRITTEN):
                settle.written(now)
            elif kind == ord(wakeup.CLOSED):
                settle.closed(now)
        if settle.writing and not told and self._loader.source.being_written() is False:
            settle.closed(now)  # no event tells of the end of truncate(2), or where there are none
        if wakeup.SIGHUP in kinds:
            settle.asked(now)
            self._cause = Trigger.SIGHUP
        elif not settle.pending:
            self._cause = None
        elif told and self._cause is None:
            self._cause = Trigger.WATCH

    def _is_being_written(self) -> bool:
        # The close that we know of may be that of an earlier writer.
        source = self._loader.source
        return self._settle.unguarded(self._loader.signature) and bool(source.being_written())

    def _load(self, trigger: Trigger, *, quietly: bool) -> None:
        done = self._loader.load(trigger, quietly=quietly, settled=self._settle.seen)
        now = time.monotonic()
        if not done:
            self._settle.again(now)
            return
        self._settle.read(self._loader.signature)
        self._cause, self._complained = None, False
        self._next_poll = now + self._poll_interval
