"""Debouncer decides when a changing file is ready to be read; two watchers report changes.

At the first event of an in-place save the file is often empty or torn; at the close event it is
complete. So after a write the debouncer waits for the close event, and after any other change for
a moment of quiet. Without events it waits until two ``stat`` calls in a row return the same. The
debouncer has no clock.

The watcher watches the folder of the path as written and the folder of the path that this resolves
to: a watch on the file itself would miss every replacement of the file. The event handler only
wakes the reload thread, since an exception in a handler would silently end watchdog's dispatcher
thread.
"""

import contextlib
import logging
import math
import os
import random
import threading
import time
from enum import Enum
from pathlib import Path
from queue import SimpleQueue

from watchdog import events as fs
from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from ...errors import SourceError
from ...net.http import backoff
from .etcd import EtcdSource, Gateway
from .file import Fingerprint

logger = logging.getLogger(__name__)

#: Seconds of quiet after a change that is not a write in progress.
QUIET = 0.05
#: Seconds of quiet after a change that ``stat`` showed before any event: the event may still be
#: on its way through watchdog's threads.
SILENT_QUIET = 0.2
#: Seconds of quiet after a file appeared without an event. watchdog holds back the first half of
#: a rename, and all events behind it, for 0.5 s, so that the file may still be written to.
APPEARED_QUIET = 0.55
#: Seconds to wait for the close after the last write.
CLOSE_WAIT = 2.0
#: Seconds between a close event and the read, so that a write right after the close is noticed.
CLOSE_GRACE = 0.01
#: Seconds after which a file that keeps changing is reported.
PATIENCE = 5.0

#: Seconds before watching is tried again where it failed.
RETRY = 3.0
#: Seconds between two wake-ups that events of other files in the folder may cause.
NEIGHBOUR_INTERVAL = 0.05
# Opened and closed-without-write are left out: each read of the file would cause another read.
_EVENTS: list[type[FileSystemEvent]] = [
    fs.FileModifiedEvent,
    fs.FileAttribEvent,
    fs.FileClosedEvent,
    fs.FileCreatedEvent,
    fs.FileMovedEvent,
    fs.FileDeletedEvent,
    fs.DirCreatedEvent,
    fs.DirMovedEvent,
    fs.DirDeletedEvent,
]


class Event(Enum):
    """An event that wakes the reload thread."""

    WRITTEN = "the file was written, and is not closed yet"
    CLOSED = "the file was closed after writing or replaced by a rename, or the key changed"
    OTHER = "any other event that may mean a change of the source"
    SIGHUP = "SIGHUP"
    STOP = "the process stops"


#: The events for the reload thread. A signal handler runs between two bytecodes of the main thread,
#: which may hold the lock that the handler needs: ``threading.Event.set`` in a handler has
#: deadlocked a worker. ``SimpleQueue.put`` takes no such lock, so any thread and any signal handler
#: may call it.
Events = SimpleQueue[Event]


class Debouncer:
    """Takes the events and ``stat`` results of a file, and tells when to read the file.

    All times are monotonic seconds that the caller passes in.

    Args:
        signature: Fingerprint of the file at the last read.

    Attributes:
        seen: Fingerprint of the file at the last ``stat``.
        writing: Whether a write event came and its close event has not come yet.
    """

    def __init__(self, signature: Fingerprint) -> None:
        self.read(signature)

    def read(self, signature: Fingerprint) -> None:
        """Take the end of a read, accepted or refused: no read is due any more."""
        self.seen = signature
        self.writing = False
        self._since = self._due = math.inf

    @property
    def pending(self) -> bool:
        """Whether a read is due, now or soon."""
        return self._since < math.inf

    def wait(self, now: float) -> float:
        """Return the seconds until the file should be read; infinity if no read is due."""
        return max(0.0, self._due - now)

    def _read_at(self, due: float, now: float) -> None:
        self._since, self._due = min(self._since, now), due

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

    def looked(self, signature: Fingerprint, now: float, *, by_event: bool, expected: bool) -> None:
        """Take the result of a ``stat`` call.

        Args:
            signature: Fingerprint of the file now.
            now: Monotonic seconds.
            by_event: Whether an event caused this call.
            expected: Whether the folder is watched, so that a change causes an event.
        """
        if signature == self.seen:
            return
        appeared = self.seen.missing and not signature.missing
        self.seen = signature
        if self.writing or signature.blank:
            quiet = CLOSE_WAIT  # a file that was created or truncated will be written to
        elif by_event or not expected:
            quiet = QUIET
        else:
            quiet = APPEARED_QUIET if appeared else SILENT_QUIET
        self._read_at(now + quiet, now)

    def unguarded(self, read: Fingerprint) -> bool:
        """Whether the file has changed since the last read while no close event is awaited.

        Args:
            read: Fingerprint of the file at the last read.
        """
        return not self.writing and self.seen != read

    def restless(self, now: float) -> bool:
        """Whether the file has kept changing for longer than ``PATIENCE``."""
        return now - self._since > PATIENCE and self._due > now


def _names(path: Path) -> frozenset[str]:
    """Return the paths that events of the file have; watchdog resolves no symbolic link."""
    written = os.path.join(os.path.realpath(path.parent), path.name)
    return frozenset({written, os.path.realpath(path)})


def _folders(names: frozenset[str]) -> dict[str, tuple[int, int]]:
    """Return the existing folders to watch, each with its device and inode."""
    folders = {}
    for folder in {os.path.dirname(name) for name in names}:
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            folders[folder] = (status.st_dev, status.st_ino)
    return folders


class Watcher(FileSystemEventHandler):
    """Keeps a watchdog observer on the folders of a file, and handles its events.

    Args:
        path: The file.
        events: The queue of the events.
    """

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._events = events
        self._observer: BaseObserver | None = None
        self._folders: dict[str, tuple[int, int]] = {}
        self._names: frozenset[str] = frozenset()
        self._retry_at = 0.0
        self._complaint = ""
        self._checking = threading.Lock()
        self._ended = False
        self._quiet_until = 0.0  # no event of another file is passed on before

    @property
    def mode(self) -> str:
        """``inotify``, or the name of another system's mechanism; ``poll`` while not watching."""
        if self._observer is None:
            return "poll"
        return type(self._observer).__name__.removesuffix("Observer").lower()

    @property
    def alive(self) -> bool:
        """Whether every thread that delivers events is running."""
        observer = self._observer
        reader = getattr(observer, "_inotify_fd", None)
        return observer is not None and (
            observer.is_alive()
            and len(observer.emitters) == len(self._folders)
            and all(emitter.is_alive() for emitter in observer.emitters)
            # The thread that reads the inotify descriptor; other systems have no such thread.
            and (reader is None or reader.is_alive())
        )

    def check(self, now: float) -> None:
        """Start or renew the observer if the folders or its threads have changed.

        Called at each ``stat`` of the file: a folder may have been renamed and replaced, or a
        thread of watchdog may have ended. If an earlier call still hangs in the file system, this
        call does nothing.

        Args:
            now: Monotonic seconds.
        """
        if not self._checking.acquire(blocking=False):
            return
        try:
            self._check(now)
        finally:
            self._checking.release()

    def _check(self, now: float) -> None:
        names = _names(self._path)
        folders = _folders(names)
        same = (names, folders) == (self._names, self._folders)
        if self._ended or (same and (self.alive or now < self._retry_at)):
            return
        self._unwatch()
        self._names, self._folders = names, folders
        self._retry_at = now + RETRY
        complaint = self._start() if folders else ""
        if complaint and complaint != self._complaint:
            logger.warning("%s: polling instead", complaint)
        self._complaint = complaint

    def stop(self) -> None:
        """Stop watching for good."""
        self._ended = True
        self._unwatch()

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            # stop() may raise if a thread of the observer has died; the rest must be closed still.
            with contextlib.suppress(Exception):
                observer.stop()
            if observer.is_alive():
                observer.join(2.0)

    def _start(self) -> str:
        """Start an observer; return why that is not possible, or an empty text."""
        # inotify delivers no events of a folder that this process may not list.
        if not all(os.access(folder, os.R_OK) for folder in self._folders):
            return "a folder of the file may not be listed"
        try:
            self._observer = Observer()
            for folder in self._folders:
                self._observer.schedule(self, folder, event_filter=_EVENTS)
            self._observer.start()
        except (OSError, RuntimeError) as error:
            self._unwatch()
            return f"watching is not possible ({error})"
        # stop() may have run meanwhile: it does not wait for a check that hangs.
        if self._ended:
            self._unwatch()
        return ""

    def dispatch(self, event: FileSystemEvent) -> None:
        """Put an event of watchdog into the queue of the reload thread."""
        if isinstance(event, fs.FileMovedEvent) and os.fsdecode(event.dest_path) in self._names:
            self._events.put(Event.CLOSED)
        elif os.fsdecode(event.src_path) not in self._names:
            # A log file in the same folder may be written to a thousand times a second. The next
            # regular stat finds the changes whose events are dropped here.
            if (now := time.monotonic()) >= self._quiet_until:
                self._quiet_until = now + NEIGHBOUR_INTERVAL
                self._events.put(Event.OTHER)
        elif isinstance(event, fs.FileModifiedEvent):
            self._events.put(Event.WRITTEN)
        elif isinstance(event, fs.FileClosedEvent):
            self._events.put(Event.CLOSED)
        else:
            self._events.put(Event.OTHER)


#: Upper bounds in seconds of the pause after the first failure, and after any failure.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0


def pause(failures: int) -> float:
    """Return the seconds to wait after a number of failures in a row, with jitter."""
    return backoff(failures, FIRST_PAUSE, LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class EtcdWatcher:
    """Watches a key in etcd in a thread of its own, and wakes the reload thread after each event.

    The watch is opened before the key is read, so that no change in between is missed. It starts
    at the present revision, so that a compaction or a restore of the cluster does not disturb it.

    Args:
        source: The key.
        events: The queue of the events.
    """

    mode = "etcd"

    def __init__(self, source: EtcdSource, events: Events) -> None:
        self._source = source
        self._events = events
        self._failures = 0
        self._member: Gateway | None = None  # at which a watch is established
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mop-config-etcd", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether a watch is established."""
        return self._member is not None

    def check(self, now: float) -> None:
        """Start the thread on the first call."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End the watch, and wait for its thread."""
        self._stopping.set()
        if (member := self._member) is not None:
            member.close()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                self._note(error)
                self._stopping.wait(pause(self._failures))

    def _follow(self) -> None:
        """Watch the key until the member has been silent for too long; the caller watches again."""
        member = self._source.watch(self._stopping.is_set)
        with contextlib.closing(member.messages) as messages:
            if self._failures:
                logger.info("watching etcd again")
            self._member, self._failures = member, 0
            self._events.put(Event.CLOSED)
            if not self._stopping.is_set():  # else ``stop`` may not have seen the watch
                for _ in messages:
                    self._events.put(Event.CLOSED)

    def _note(self, error: Exception) -> None:
        self._member = None
        self._failures += 1
        if self._stopping.is_set():
            return
        # The reload thread reads the key, and so learns whether etcd responds at all.
        if self._failures == 1:
            self._events.put(Event.CLOSED)
        if not isinstance(error, SourceError):
            logger.error("watching etcd failed: %s: %s", type(error).__name__, error)
        elif self._failures == 2:
            logger.warning("the watch on etcd is lost: %s", error)
