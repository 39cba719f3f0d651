"""ReleaseStore issues the releases of a source, in one order for all workers of a host.

``If-Modified-Since`` is answered by comparing dates, so two lists must never have the same date. A
client that has seen a signed list accepts no list with a lower version. Therefore a release is
issued under a lock of the host (flock), and the order of the lock is the order of the lists.
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
    """A request for the release of a list that will be served.

    Attributes:
        etag: Content hash of the list.
        api: Number of API endpoints in the list.
        socketio: Number of Socket.io endpoints in the list.
        modified_at: POSIX seconds at which the source was changed.
        order: Place of the text in etcd, or None for a file.
        data: The text.
        trigger: The cause of the reload.
        boundary: POSIX seconds of the last window boundary before the list; 0 without a boundary.
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
        fallback: The release that counts as the last release if there is no record, or None.
        locked: Whether the lock is held.
    """

    host: LastGood | None
    fallback: LastGood | None
    locked: bool

    @property
    def last(self) -> LastGood | None:
        """The last known release with its text, or None."""
        return self.host or self.fallback

    def is_behind(self, order: Order | None, confirmed: Order | None) -> bool:
        """Whether etcd may have a newer text than the one that was read, so it is read again.

        A lower revision, or another cluster, is accepted only after one more read that began after
        the record was seen. Then etcd was restored from a backup, or the cluster has changed.

        Args:
            order: Place of the text; None for a file.
            confirmed: Place that the record named before the text was read; None without a record.
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
        siblings: Returns whether other workers serve this source now.
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
        self._served: LastGood | None = None  # the text that is served, or will be served
        self._section: CriticalSection | None = None  # while this process is in the section
        self._host: LastGood | None = None  # the record as it was read or written last
        self._agreed: Fingerprint | None = None  # of the record, once it agrees with ``_served``
        self._new_text: LastGood | None = None  # the text that ``archive`` adds to the history

    @property
    def trusted(self) -> bool:
        """Whether texts from the disk may be served.

        A list that root signs or publishes must come from the source, not from another user's
        records.
        """
        return not self._directory.shared

    @property
    def served(self) -> LastGood | None:
        """The text and release that this process serves or will serve; None before the first."""
        return self._served

    @property
    def boundary(self) -> float:
        """The last window boundary (POSIX seconds) that this process knows from records, or 0."""
        section = self._section
        known = (self._host, self._served, None if section is None else section.last)
        return max((good.record.boundary for good in known if good is not None), default=0.0)

    def last_good(self) -> LastGood | None:
        """Read the last good text; None if no text may be served from the disk."""
        self._host = self._texts.load()
        return self._host if self.trusted else None

    @contextlib.contextmanager
    def section(self, *, rendering: bool = False) -> Iterator[CriticalSection]:
        """Enter the critical section of this source on this host.

        If the lock cannot be taken (its holder was stopped, or the folder cannot be used), the
        section is entered without the lock, and ``follow`` reconciles the release with the host's
        release later. The section is reentrant.

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
        """Return the host's last release with its text; one ``stat`` while it is unchanged.

        If this process serves a later release, or the record was lost, this method writes the
        record again.
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
        """Issue the release of a list, and record it with its text for the other workers.

        Args:
            section: The critical section, which this process has entered.
            request: The list.
            now: POSIX seconds.
            earlier: Further releases that count as issued, such as that of a text from the disk.
        """
        last, modified_at = section.last, request.modified_at
        known = [each.record.release for each in (last, self._served) if each is not None]
        same_list = last is not None and last.record.release.etag == request.etag
        if last is not None and same_list and request.order == last.record.order is not None:
            modified_at = last.record.release.modified_at  # another worker saw the text before
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
        """Add the last recorded text to the history, after publishing, since it takes time."""
        good, self._new_text = self._new_text, None
        if good is not None:
            self._texts.remember(good)

    def _read_host(self) -> LastGood | None:
        return self._host if self._agreed == self._texts.fingerprint() else self._texts.load()

    def _floor(self, *, same_list: bool) -> int:
        """Return the highest version of other sources if the list may have moved from there, or 0.

        A worker that already serves the list, or that replaces a dead worker, keeps its release.
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
