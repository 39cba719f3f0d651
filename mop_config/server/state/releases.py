"""ReleaseStore: gives out the releases of a source, one after the other for all workers of a host.

``If-Modified-Since`` is answered by comparing dates, so two lists must never have the same date,
and a client that has seen a signed list accepts none with a lower version. Therefore a release is
given out under a lock of the host (flock), and the order of the lock is the order of the lists.
"""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

from ..sources.file import Fingerprint
from .directory import StateDirectory
from .last_good import WHAT, LastGood, LastGoodStore
from .release import Order, Release, ReleaseRecord, next_release


class ReleaseRequest(NamedTuple):
    """A list that is to be served, and what its release depends on.

    Attributes:
        etag: Content hash of the list.
        api: How many API endpoints it has.
        socketio: How many Socket.io endpoints it has.
        modified_at: POSIX seconds at which its source was changed.
        order: Place of its text in etcd, or None for a file.
        data: The text.
        trigger: What caused the reload.
        boundary: POSIX seconds of the last boundary of a window before the list; 0 without one.
    """

    etag: str
    api: int
    socketio: int
    modified_at: float
    order: Order | None = None
    data: bytes = b""
    trigger: str = "start"
    boundary: float = 0.0


class CriticalSection(NamedTuple):
    """The critical section of a source.

    Attributes:
        host: The host's last release with its text, or None if there is no record.
        fallback: What counts as the last release if there is no record.
        locked: Whether the lock is held.
    """

    host: LastGood | None
    fallback: LastGood | None
    locked: bool

    @property
    def last(self) -> LastGood | None:
        """The last release with its text, as far as it is known."""
        return self.host or self.fallback

    def is_behind(self, order: Order | None, confirmed: Order | None) -> bool:
        """Whether etcd may have a newer text than this one, so that it has to be read again.

        A lower revision, or another cluster, counts only after one more read that began after
        the record was seen: then etcd was restored from a backup or has moved.

        Args:
            order: Place of the text; None for a file.
            confirmed: Place that the record named before the text was read.
        """
        last = None if self.last is None else self.last.record.order
        if order is None or last is None or last == confirmed:
            return False
        return last.cluster != order.cluster or last.revision > order.revision


class ReleaseStore:
    """The last release of one source and its text, in the state folder.

    Args:
        directory: The state folder.
        key: Name of the source's records.
        siblings: Whether other workers serve this source now.
    """

    def __init__(
        self,
        directory: StateDirectory,
        key: str,
        siblings: Callable[[], bool] = lambda: False,
    ) -> None:
        self._directory = directory
        self._texts = LastGoodStore(directory, key)
        self._lock = f"{key}.lock"
        self._siblings = siblings
        self._served: LastGood | None = None  # what is served, or is to be
        self._section: CriticalSection | None = None  # while this process is in it
        self._host: LastGood | None = None  # the record as it was read or written last
        self._agreed: Fingerprint | None = None  # of the record, once it agrees with ``_served``
        self._new_text: LastGood | None = None  # to be kept in the history

    @property
    def trusted(self) -> bool:
        """Whether texts from the disk may be served.

        What root signs or publishes must come from the source, not from another user's records.
        """
        return not self._directory.shared

    @property
    def served(self) -> LastGood | None:
        """What this process serves, or is about to; None before the first list."""
        return self._served

    @property
    def boundary(self) -> float:
        """The last boundary of a window that was recorded, as far as this process knows."""
        section = self._section
        known = (self._host, self._served, None if section is None else section.last)
        return max((good.record.boundary for good in known if good is not None), default=0.0)

    def last_good(self) -> LastGood | None:
        """Read the last good text; None if there is no text that may be served."""
        self._host = self._texts.load()
        return self._host if self.trusted else None

    @contextlib.contextmanager
    def section(self, *, rendering: bool = False) -> Iterator[CriticalSection]:
        """Enter the critical section of this source on this host.

        If the lock cannot be taken (its holder was stopped, or the folder cannot be used), the
        section is entered all the same, and its release is reconciled with the host's later.
        Entering the section again within it is allowed.

        Args:
            rendering: Whether this process reads and renders in the section.
        """
        if self._section is not None:
            yield self._section
            return
        with contextlib.ExitStack() as stack:
            locked = True
            try:
                stack.enter_context(self._directory.locked(self._lock, mark=rendering))
            except OSError as error:
                locked = False
                if not isinstance(error, BlockingIOError):
                    self._directory.complain(WHAT, error)
            host = self._host = self._read_host()
            fallback = self._served or (None if host else self._texts.newest())
            self._section = CriticalSection(host, fallback, locked)
            try:
                yield self._section
            finally:
                self._section = None

    def follow(self) -> LastGood | None:
        """Return the host's last release with its text; cheap while nothing has changed.

        If this process serves a later release, or the record was lost, the record is written
        again.
        """
        found = self._texts.fingerprint()
        if self._agreed == found:
            return self._host
        served = self._served
        if served is None:
            self._host, self._agreed = self._texts.load(), found
            return self._host
        try:
            with self._directory.locked(self._lock, wait=False):
                self._reconcile(served)
        except BlockingIOError:
            pass  # the next turn tries again
        except OSError as error:
            self._directory.complain(WHAT, error)
        return self._host

    def issue(
        self, section: CriticalSection, request: ReleaseRequest, now: float, *earlier: Release
    ) -> LastGood:
        """Give a list its release, and record it with its text for the other workers.

        Args:
            section: The critical section, which this process is in.
            request: The list.
            now: POSIX seconds.
            earlier: Releases that count as given, such as that of a text from the disk.
        """
        last, modified_at = section.last, request.modified_at
        known = [each.record.release for each in (last, self._served) if each is not None]
        same_list = last is not None and last.record.release.etag == request.etag
        if last is not None and same_list and request.order == last.record.order is not None:
            modified_at = last.record.release.modified_at  # a worker saw the text first
        floor = self._floor(same_list=same_list)
        release = next_release([*known, *earlier], request.etag, modified_at, now, floor)
        record = ReleaseRecord(
            release, request.api, request.socketio, request.order, request.boundary
        )
        host = section.host
        if host is not None and (host.data, host.record) == (request.data, record):
            self._served = self._host = host
            self._agreed = self._texts.fingerprint() if section.locked else None
            return host
        self._served = good = LastGood(request.data, record, time.time(), request.trigger)
        self._agreed = None
        if section.locked:
            self._write(good, host)
        return good

    def archive(self) -> None:
        """Keep a text that was recorded in the history; apart from serving, since it takes time."""
        good, self._new_text = self._new_text, None
        if good is not None:
            self._texts.remember(good)

    def _read_host(self) -> LastGood | None:
        return self._host if self._agreed == self._texts.fingerprint() else self._texts.load()

    def _floor(self, *, same_list: bool) -> int:
        """Return the highest version of other sources, if clients may have come from there.

        A worker that serves already, or that takes the place of one that died, keeps its release.
        """
        if same_list and (self._served is not None or self._siblings()):
            return 0
        return self._texts.highest_elsewhere()

    def _reconcile(self, served: LastGood) -> None:
        host = self._texts.load()
        if host is None or host.record.release.version < served.record.release.version:
            self._write(served, host)
            return
        if host.record.release.etag == served.record.release.etag:
            self._served = host
        self._host, self._agreed = host, self._texts.fingerprint()
        self._directory.recover(WHAT)

    def _write(self, good: LastGood, before: LastGood | None) -> None:
        try:
            self._texts.write(good)
        except OSError as error:
            self._directory.complain(WHAT, error)
            return
        self._directory.recover(WHAT)
        self._host, self._agreed = good, self._texts.fingerprint()
        if before is None or before.data != good.data:
            self._new_text = good
