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
from .release import Order, Release, ReleaseRecord, dump, next_release, parse

#: Seconds by which dates and versions in the records of another user may be ahead of the clock.
_AHEAD = 86400
_SUFFIX = ".release"
_WHAT = "the list's release"


class ReleaseRequest(NamedTuple):
    """A list that is to be served, and what its release depends on.

    Attributes:
        etag: Content hash of the list.
        api: How many API endpoints it has.
        socketio: How many Socket.io endpoints it has.
        modified_at: POSIX seconds at which its source was changed.
        order: Place of its text in etcd, or None for a file.
    """

    etag: str
    api: int
    socketio: int
    modified_at: float
    order: Order | None = None


class CriticalSection(NamedTuple):
    """The critical section of a source.

    Attributes:
        last: The host's last release, or that of this process if there is no record.
        locked: Whether the lock is held.
    """

    last: ReleaseRecord | None
    locked: bool

    def endpoints(self, etag: str) -> int:
        """Return how many endpoints the host's list has; 0 if it is this very list."""
        if self.last is None or self.last.release.etag == etag:
            return 0
        return self.last.api + self.last.socketio

    def is_behind(self, order: Order | None, confirmed: Order | None) -> bool:
        """Whether etcd may have a newer text than this one, so that it has to be read again.

        A lower revision, or another cluster, counts only after one more read that began after
        the record was seen: then etcd was restored from a backup or has moved.

        Args:
            order: Place of the text; None for a file.
            confirmed: Place that the record named before the text was read.
        """
        last = None if self.last is None else self.last.order
        if order is None or last is None or last == confirmed:
            return False
        return last.cluster != order.cluster or last.revision > order.revision


class ReleaseStore:
    """The release of one source in the state folder.

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
        self._name = key + _SUFFIX
        self._lock = f"{key}.lock"
        self._siblings = siblings
        self._served: ReleaseRecord | None = None  # of the list that is served, or is to be
        self._serving = False
        self._section: CriticalSection | None = None  # while this process is in it
        self._known: Fingerprint | None = None  # of the record, once it agrees with ``_served``

    def remember(self, record: ReleaseRecord) -> None:
        """Take the release of the text on the disk for the last one, in case the record is lost."""
        self._served = record

    @property
    def served(self) -> Release | None:
        """The release of the list that this process serves, or None before the first."""
        return None if self._served is None else self._served.release

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
                    self._directory.complain(_WHAT, error)
            self._section = CriticalSection(self.record() or self._served, locked)
            try:
                yield self._section
            finally:
                self._section = None

    def record(self) -> ReleaseRecord | None:
        """Read the last release of the source on this host; None if there is none."""
        return self._read(self._name)

    def follow(self) -> Release | None:
        """Reconcile the release that is served with the host's; cheap while nothing has changed.

        Returns:
            The release to serve the list with from now on: that of the host if another worker
            gave the same list a later one. A record that was lost is written again.
        """
        served = self._served
        if served is None or not self._serving or self._known == self._fingerprint():
            return self.served
        try:
            with self._directory.locked(self._lock, wait=False):
                self._reconcile(served)
        except BlockingIOError:
            pass  # the next turn tries again
        except OSError as error:
            self._directory.complain(_WHAT, error)
        return self.served

    def issue(
        self, section: CriticalSection, request: ReleaseRequest, now: float, *earlier: Release
    ) -> ReleaseRecord:
        """Give a list its release, and record it for the other workers.

        Args:
            section: The critical section, which this process is in.
            request: The list.
            now: POSIX seconds.
            earlier: Releases that count as given, such as that of a text from the disk.
        """
        last, modified_at = section.last, request.modified_at
        known = [each.release for each in (last, self._served) if each is not None]
        same_list = last is not None and last.release.etag == request.etag
        if last is not None and same_list and request.order == last.order is not None:
            modified_at = last.release.modified_at  # a worker saw the text first
        floor = self._floor(same_list=same_list)
        release = next_release([*known, *earlier], request.etag, modified_at, now, floor)
        self._serving = True
        self._served = record = ReleaseRecord(release, request.api, request.socketio, request.order)
        self._known = None
        if section.locked:
            if record == self.record():
                self._known = self._fingerprint()
            else:
                self._keep(record)
        return record

    def _floor(self, *, same_list: bool) -> int:
        """Return the highest version of other sources, if clients may have come from there.

        A worker that serves already, or that takes the place of one that died, keeps its release.
        """
        if same_list and (self._serving or self._siblings()):
            return 0
        return self._highest_elsewhere()

    @property
    def disputed(self) -> bool:
        """Whether the host's last release is one of another list than this process serves."""
        record = self.record()
        return record is not None and record.release.etag != getattr(self.served, "etag", None)

    def _reconcile(self, served: ReleaseRecord) -> None:
        record = self.record()
        if record is None or record.release.version < served.release.version:
            self._keep(served)
            return
        if record.release.etag == served.release.etag:
            self._served = record
        self._known = self._fingerprint()
        self._directory.recover(_WHAT)

    def _keep(self, record: ReleaseRecord) -> None:
        self._known = None
        if self._directory.save(self._name, dump(record), _WHAT, sync=True):
            self._known = self._fingerprint()

    def _fingerprint(self) -> Fingerprint:
        return self._directory.fingerprint(self._name)

    def _read(self, name: str) -> ReleaseRecord | None:
        # Another user could have written a version that no client accepts.
        latest = time.time() + _AHEAD if self._directory.shared else float("inf")
        return self._directory.load(name, lambda data: parse(data, latest), _WHAT)

    def _highest_elsewhere(self) -> int:
        """Return the highest version of the other sources: a list may have moved from there."""
        names = [n for n in self._directory.list_names() if n.endswith(_SUFFIX) and n != self._name]
        return max((r.release.version for r in map(self._read, names) if r is not None), default=0)
