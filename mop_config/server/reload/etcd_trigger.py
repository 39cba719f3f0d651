"""The reload trigger of a key in etcd: a watch, and a poll beside it.

The watch is opened before the key is read, so that no change in between is missed. It starts at
the present revision, so that a compaction or a restore of the cluster does not disturb it.
"""

import logging
import random
import threading
import time

from ...errors import SourceError
from ...net.http import backoff
from ..parsing.problems import Code
from ..serving.store import Trigger
from ..sources.etcd import Etcd
from ..sources.etcd_gateway import Watch
from ..sources.etcd_source import EtcdSource
from ..sources.events import Event, Events
from .pipeline import Reloader

logger = logging.getLogger(__name__)

#: Seconds between two turns without an event.
TURN = 0.25
#: Upper bounds in seconds of the pause after the first failure, and after any failure.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0
#: Seconds after which the end of a watch counts as a first failure again.
STOOD = 5.0


def pause(failures: int) -> float:
    """Return the seconds to wait after a number of failures in a row, with jitter."""
    return backoff(failures, FIRST_PAUSE, LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class KeyWatch:
    """The thread that watches the key and wakes the reload thread after each event.

    Args:
        etcd: The key.
        events: The queue of the events.
    """

    mode = "etcd"

    def __init__(self, etcd: Etcd, events: Events) -> None:
        self._etcd = etcd
        self._events = events
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._watch: Watch | None = None
        self._connected = False
        self._failures = 0
        self._thread: threading.Thread | None = None

    @property
    def alive(self) -> bool:
        """Whether a watch is established."""
        return self._connected and self._running()

    def _running(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def check(self) -> None:
        """Start the thread if it does not run, and move the watch to the preferred member."""
        if not self._running() and not self._stopping.is_set():
            self._thread = threading.Thread(target=self._run, name="mop-config-etcd", daemon=True)
            self._thread.start()
        watch = self._watch
        if watch is not None and watch.member != self._etcd.preferred:
            watch.close()

    def release(self) -> None:
        """Close the watch, and make the thread end soon, without waiting for it."""
        with self._lock:
            self._stopping.set()
            if self._watch is not None:
                self._watch.close()

    def stop(self) -> None:
        """End the thread."""
        self.release()
        if self._thread is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                self._follow()
                self._failures = 0
                continue
            except Exception as error:
                self._note(error, stood=time.monotonic() - began > STOOD)
            self._stopping.wait(pause(self._failures))
        self._connected = False

    def _follow(self) -> None:
        """Watch the key until the member has been silent for too long; the caller watches again."""
        with self._etcd.watch(self._stopping.is_set) as watch:
            with self._lock:
                if self._stopping.is_set():
                    return
                self._watch = watch
            try:
                for message in watch.messages():
                    if not self._connected and self._failures:
                        logger.info("watching etcd again")
                    self._connected = True
                    self._events.put(Event.OTHER)
                    if message.get("canceled"):
                        raise SourceError(Code.UNREACHABLE, f"cancelled: {message}"[:200])
            finally:
                with self._lock:
                    self._watch = None

    def _note(self, error: Exception, *, stood: bool) -> None:
        self._failures = 1 if stood else self._failures + 1
        if self._stopping.is_set():
            return
        # The reload thread reads the key, and so learns whether etcd responds at all.
        if self._connected or self._failures == 1:
            self._events.put(Event.OTHER)
        self._connected = False
        if not isinstance(error, SourceError):
            logger.error("watching etcd failed: %s: %s", type(error).__name__, error)
        elif self._failures == 2:
            logger.warning("the watch on etcd is lost: %s", error)


class EtcdTrigger:
    """The reload trigger of a key in etcd: reads the key after events, requests and intervals.

    Args:
        reloader: Reads the key; it has loaded once already.
        source: The key.
        events: The queue of the events.
        poll_interval: Seconds between two reads without an event or a request; 0 means never.
    """

    def __init__(
        self, reloader: Reloader, source: EtcdSource, events: Events, poll_interval: float
    ) -> None:
        self.watcher = KeyWatch(source.etcd, events)
        self._reloader = reloader
        self._poll_interval = poll_interval
        self._next_poll = time.monotonic() + poll_interval
        self._failures = 0
        self._retry_at = 0.0

    def timeout(self, now: float) -> float:
        """Return the seconds until the next turn if no event comes."""
        return TURN

    def turn(self, events: list[Event], request: Trigger | None, now: float) -> None:
        """Read the key if a read is due.

        Args:
            events: The events since the last turn.
            request: The trigger of a request to read the key, changed or not; None without one.
            now: Monotonic seconds.
        """
        self.watcher.check()
        by_event = any(event is not Event.SIGHUP for event in events)
        polling = bool(self._poll_interval) and now >= self._next_poll
        again = bool(self._failures) and now >= self._retry_at
        if request or by_event or polling or again:
            trigger = request or (Trigger.ETCD if by_event else Trigger.POLL)
            self._load(trigger, quietly=not request)

    def release(self) -> None:
        """End the watch; a read that hangs ends by itself, in a few seconds."""
        self.watcher.release()

    def stop(self) -> None:
        """End the watch, and wait for its thread."""
        self.watcher.stop()

    def _load(self, trigger: Trigger, *, quietly: bool) -> None:
        done = self._reloader.reload(trigger, quietly=quietly)
        now = time.monotonic()
        self._next_poll = now + self._poll_interval
        self._failures = 0 if done and self._reloader.loaded.reachable else self._failures + 1
        if self._failures:
            self._retry_at = now + pause(self._failures)
        # The member that answered the read may not be the one that is watched.
        self.watcher.check()
