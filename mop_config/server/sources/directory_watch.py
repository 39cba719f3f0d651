"""Hears of changes from the operating system, through watchdog.

The folders of the path as written and of what it resolves to are watched, not the file:
a watch on the file itself misses every replacement of it. Whatever happens there only
wakes the reload thread, which looks for itself; an exception in a handler would end
watchdog's dispatcher without a word.
"""

import contextlib
import logging
import os
import threading
import time
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from ..concurrency import greenlets
from . import wakeup

logger = logging.getLogger(__name__)

#: Seconds before watching is tried again where it failed.
RETRY = 10.0
#: Seconds between two looks that other files' events may cause.
NEIGHBOUR_INTERVAL = 0.05

# Neither opened nor closed-without-write: a reader of the file would wake itself forever.
_EVENTS: list[type[FileSystemEvent]] = [
    FileModifiedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileMovedEvent,
    FileDeletedEvent,
    DirCreatedEvent,
    DirMovedEvent,
    DirDeletedEvent,
]

Identity = tuple[int, int]


class _Handler(FileSystemEventHandler):
    """Turns an event into a byte for the reload thread, and does nothing else."""

    def __init__(self, names: frozenset[str], wake: wakeup.Wakeup) -> None:
        self.names = names
        self.wake = wake
        self._quiet_until = 0.0

    def dispatch(self, event: FileSystemEvent) -> None:
        if isinstance(event, FileMovedEvent) and os.fsdecode(event.dest_path) in self.names:
            self.wake.send(wakeup.CLOSED)
        elif os.fsdecode(event.src_path) not in self.names:
            self._neighbour()
        elif isinstance(event, FileModifiedEvent):
            self.wake.send(wakeup.WRITTEN)
        elif isinstance(event, FileClosedEvent):
            self.wake.send(wakeup.CLOSED)
        else:
            self.wake.send(wakeup.OTHER)

    def _neighbour(self) -> None:
        # A log file in the same folder may be written to a thousand times a second. What is
        # passed over here, the next regular look finds.
        now = time.monotonic()
        if now >= self._quiet_until:
            self._quiet_until = now + NEIGHBOUR_INTERVAL
            self.wake.send(wakeup.OTHER)


def _names(path: Path) -> frozenset[str]:
    """The file's names in events: watchdog follows no link, so its folders must be real."""
    written = os.path.join(os.path.realpath(path.parent), path.name)
    return frozenset({written, os.path.realpath(path)})


def _folders(names: frozenset[str]) -> dict[str, Identity]:
    """The folders to watch that exist, and which folder each name means just now."""
    folders = {}
    for folder in {os.path.dirname(name) for name in names}:
        with contextlib.suppress(OSError):
            status = os.stat(folder)
            folders[folder] = (status.st_dev, status.st_ino)
    return folders


class Watcher:
    """Keeps a watchdog observer on the right folders, and knows when it is not.

    Args:
        path: The file.
        wake: Where events go.
    """

    def __init__(self, path: Path, wake: wakeup.Wakeup) -> None:
        self._path = path
        self._wake = wake
        self._observer: BaseObserver | None = None
        self._folders: dict[str, Identity] = {}
        self._names: frozenset[str] = frozenset()
        self._retry_at = 0.0
        self._complaint = ""
        self._checking = threading.Lock()
        self._ended = False

    @property
    def mode(self) -> str:
        """``inotify`` (or what the system has instead) while watching, else ``poll``."""
        if self._observer is None:
            return "poll"
        return type(self._observer).__name__.removesuffix("Observer").lower()

    @property
    def alive(self) -> bool:
        """Whether every thread that is needed to hear of a change is running."""
        observer = self._observer
        reader = getattr(observer, "_inotify_fd", None)
        return observer is not None and (
            observer.is_alive()
            and len(observer.emitters) == len(self._folders)
            and all(emitter.is_alive() for emitter in observer.emitters)
            # The one thread that reads inotify's descriptor; other systems have none.
            and (reader is None or reader.is_alive())
        )

    def check(self, now: float) -> None:
        """Watch what must be watched now.

        Called at each look at the file: a folder may have been renamed away and another
        put in its place, or one of watchdog's threads may have ended. Where an earlier call
        hangs in the file system, this one does nothing.
        """
        if not self._checking.acquire(blocking=False):
            return
        try:
            self._check(now)
        finally:
            self._checking.release()

    def _check(self, now: float) -> None:
        # Under gevent's patches watchdog's queue takes nothing, or its threads never end,
        # by the order in which the two were imported.
        if greenlets():
            self._complain("watchdog hears nothing under gevent: polling instead")
            return
        names = _names(self._path)
        folders = _folders(names)
        if self._ended:
            return
        same = (names, folders) == (self._names, self._folders)
        if same and (self.alive or now < self._retry_at):
            return
        lost = same and self._observer is not None
        self._unwatch()
        self._names, self._folders = names, folders
        self._retry_at = now + RETRY
        if folders:
            self._start()
        if lost and self.alive:
            logger.warning("watching had ended unexpectedly: watching again")

    def stop(self) -> None:
        """Stop watching for good."""
        self._ended = True
        self._unwatch()

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            # A thread of it may have died of anything; what is left must still be closed.
            with contextlib.suppress(Exception):
                observer.stop()
            if observer.is_alive():
                observer.join(2.0)

    def _start(self) -> None:
        # inotify says nothing at all about a folder that we may not list.
        if not all(os.access(folder, os.R_OK) for folder in self._folders):
            self._complain("a folder of the file may not be listed: polling instead")
            return
        handler = _Handler(self._names, self._wake)
        observer: BaseObserver | None = None
        try:
            observer = Observer()
            for folder in self._folders:
                observer.schedule(handler, folder, event_filter=_EVENTS)
            observer.start()
        except (OSError, RuntimeError) as error:
            if observer is not None:
                observer.stop()
            self._complain(f"watching is not possible ({error}): polling instead")
            return
        self._observer = observer
        self._complaint = ""
        # A check that the end did not wait for has come too late.
        if self._ended:
            self._unwatch()

    def _complain(self, complaint: str) -> None:
        if complaint != self._complaint:
            self._complaint = complaint
            logger.warning("%s", complaint)
