"""EtcdTrigger, the reload trigger of a key in etcd: a watch, and a poll beside it.

The watch is opened before the key is read, so that no change in between is missed. It starts at
the present revision, so that a compaction or a restore of the cluster does not disturb it.
"""

import contextlib
import logging
import math
import random
import threading
import time

from ...errors import SourceError
from ...net.http import backoff
from ..serving.store import Trigger
from ..sources.etcd import EtcdSource, Watch
from ..sources.watch import Event, Events
from .pipeline import Reloader

logger = logging.getLogger(__name__)

#: Seconds between two turns without an event.
TURN = 0.25
#: Upper bounds in seconds of the pause after the first failure, and after any failure.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0


def pause(failures: int) -> float:
    """Return the seconds to wait after a number of failures in a row, with jitter."""
    return backoff(failures, FIRST_PAUSE, LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class EtcdTrigger:
    """The reload trigger of a key in etcd: reads the key after events, requests and intervals.

    A second thread watches the key, and wakes the reload thread after each event.

    Args:
        reloader: Reads the key; it has loaded once already.
        source: The key.
        events: The queue of the events.
        poll_interval: Seconds between two reads without an event or a request; 0 means never.
    """

    mode = "etcd"

    def __init__(
        self, reloader: Reloader, source: EtcdSource, events: Events, poll_interval: float
    ) -> None:
        self._reloader = reloader
        self._source = source
        self._events = events
        self._poll_interval = poll_interval
        self._next_read = time.monotonic() + (poll_interval or math.inf)
        self._failed_reads = 0
        self._failed_watches = 0
        self._watch: Watch | None = None
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mop-config-etcd", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether a watch is established."""
        return self._watch is not None

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
        if self._thread.ident is None:
            self._thread.start()
        by_event = any(event is not Event.SIGHUP for event in events)
        if request or by_event or now >= self._next_read:
            trigger = request or (Trigger.ETCD if by_event else Trigger.POLL)
            done = self._reloader.reload(trigger, quietly=not request)
            failed = not done or not self._reloader.loaded.reachable
            self._failed_reads = self._failed_reads + 1 if failed else 0
            wait = pause(self._failed_reads) if failed else self._poll_interval or math.inf
            self._next_read = time.monotonic() + wait

    def release(self) -> None:
        """End the watch; a read that hangs ends by itself, in a few seconds."""
        self._stopping.set()
        if (watch := self._watch) is not None:
            watch.member.close()

    def stop(self) -> None:
        """End the watch, and wait for its thread."""
        self.release()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                self._note(error)
                self._stopping.wait(pause(self._failed_watches))

    def _follow(self) -> None:
        """Watch the key until the member has been silent for too long; the caller watches again."""
        watch = self._source.watch(self._stopping.is_set)
        with contextlib.closing(watch.messages) as messages:
            if self._failed_watches:
                logger.info("watching etcd again")
            self._watch, self._failed_watches = watch, 0
            self._events.put(Event.OTHER)
            if not self._stopping.is_set():  # else ``release`` may not have seen the watch
                for _ in messages:
                    self._events.put(Event.OTHER)

    def _note(self, error: Exception) -> None:
        self._watch = None
        self._failed_watches += 1
        if self._stopping.is_set():
            return
        # The reload thread reads the key, and so learns whether etcd responds at all.
        if self._failed_watches == 1:
            self._events.put(Event.OTHER)
        if not isinstance(error, SourceError):
            logger.error("watching etcd failed: %s: %s", type(error).__name__, error)
        elif self._failed_watches == 2:
            logger.warning("the watch on etcd is lost: %s", error)
