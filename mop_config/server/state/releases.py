"""ReleaseStore issues the releases of a source for all workers of a host, and keeps its texts.

``If-Modified-Since`` is answered by comparing dates, so two lists must never have the same date. A
client that has seen a signed list accepts no list with a lower version. Therefore a release is
issued under a lock of the host (flock), and the order of the lock is the order of the lists.

``LastGood`` is a text with its release. Its record is a line of JSON, then the text as it was
read; a hash over both shows whether the record is torn or foreign. Text and release are replaced in
one step, so that a restart never finds an older text beside a newer release. The texts before are
beside the record, compressed.
"""

import contextlib
import errno
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from ...model.endpoint import MAX_DATE
from ..parsing.render import EMPTY, Rendering
from ..sources.file import Fingerprint, Order
from .directory import PATIENCE, StateDirectory

_FORMAT = 5
#: Upper bound of a version: a record with a higher version is damaged.
_MAX_VERSION = 1 << 52

#: End of the name of a source's record.
SUFFIX = ".lastgood"
#: Seconds by which dates and versions in the records of another user may be ahead of the clock.
_AHEAD = 86400
WHAT = "the last good list"
#: Limits of the earlier texts that are kept: their number, and their bytes in all.
MAX_TEXTS = 50
MAX_HISTORY_BYTES = 8 << 20


class Release(NamedTuple):
    """The date and the version that a list is served with.

    Attributes:
        etag: Content hash of the list.
        modified_at: POSIX seconds at which the source was changed to this list.
        last_modified: POSIX seconds in ``Last-Modified``; no two lists have the same date.
        version: Version of the signed list, in milliseconds; never falls when the list changes.
    """

    etag: str
    modified_at: float
    last_modified: int = 0
    version: int = 0


def next_release(
    known: Sequence[Release], etag: str, modified_at: float, now: float, floor: int = 0
) -> Release:
    """Return the release of a list that was just read.

    There are three cases:

    1. Another list than before gets a later date and a higher version than all before.
    2. The same list whose source was changed since (a touch) gets a higher version and keeps its
       date, because different dates mean different contents.
    3. The same list of an unchanged source keeps its release.

    Args:
        known: Releases that were issued before, the record of the host first.
        etag: Content hash of the list.
        modified_at: POSIX seconds at which its source was changed.
        now: POSIX seconds; a date in the future counts as now.
        floor: Highest version of another source that clients may have seen, or 0.
    """
    seen = max(0.0, min(modified_at, now))
    wanted = int(seen * 1000)
    newest = max(known, key=lambda release: release.version, default=None)
    if newest is None:
        return Release(etag, modified_at, int(seen), max(wanted, floor + 1 if floor else 0))
    if newest.etag != etag:
        date = max(int(seen), *(release.last_modified + 1 for release in known))
        return Release(etag, modified_at, date, max(wanted, newest.version + 1, floor + 1))
    touched = modified_at != newest.modified_at and wanted > newest.version
    if not touched and floor <= newest.version:
        return newest
    return newest._replace(modified_at=modified_at, version=max(wanted, floor + 1))


class LastGood(NamedTuple):
    """A text that was found good, with the release of its list.

    Attributes:
        data: The bytes as they were read.
        release: The release of the list.
        api: Number of API endpoints in the list.
        socketio: Number of Socket.io endpoints in the list.
        order: Place of the text in etcd, or None for a file.
        boundary: POSIX seconds of the last window boundary that had passed when the list was made;
            0 without one.
        saved_at: POSIX time at which the text was found good.
        trigger: The cause of the reload.
    """

    data: bytes
    release: Release
    api: int = 0
    socketio: int = 0
    order: Order | None = None
    boundary: float = 0.0
    saved_at: float = 0.0
    trigger: str = ""

    @property
    def listed(self) -> Rendering:
        """The text as ``check_replaces`` needs it, without the body of its list."""
        return EMPTY._replace(
            data=self.data,
            etag=self.release.etag,
            api_count=self.api,
            socketio_count=self.socketio,
            boundary=self.boundary,
        )

    def dump(self) -> bytes:
        """Return the content of the record, which ``parse`` reads."""
        head = {**self._asdict(), "format": _FORMAT}
        del head["data"]
        head["sha256"] = _digest(head, self.data)
        return json.dumps(head).encode() + b"\n" + self.data


def parse(record: bytes) -> LastGood:
    """Parse the content of a record that ``dump`` wrote.

    Raises:
        Exception: Of any type, if the record is torn, foreign or of another format.
    """
    first, _, data = record.partition(b"\n")
    head: dict[str, Any] = json.loads(first)
    digest, release = head.pop("sha256"), Release(*head["release"])
    if digest != _digest(head, data) or head.pop("format") != _FORMAT:
        raise ValueError("not what was written")
    dates = (abs(release.modified_at), release.last_modified, head["boundary"], head["saved_at"])
    if not all(0 <= date <= MAX_DATE for date in dates) or not 0 <= release.version < _MAX_VERSION:
        raise ValueError("a date or version out of bounds")
    order = head["order"] and Order(*head["order"])
    return LastGood(data, **{**head, "release": release, "order": order})


def _digest(head: dict[str, Any], data: bytes) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\n" + data).hexdigest()


class ReleaseStore:
    """The last good texts of one source, with their releases, in the state folder.

    Args:
        directory: The state folder.
        key: Name of the source's records.
        siblings: Returns whether other workers serve this source now.

    Attributes:
        trusted: Whether texts from the disk may be served. A list that root signs or publishes must
            come from the source, not from another user's records.
        served: The text and release that this process serves or will serve; None before the first.
        last: The last release with its text when this process entered the critical section: the
            host's, or else the one that this process serves, or else the newest of the history.
    """

    def __init__(
        self, directory: StateDirectory, key: str, siblings: Callable[[], bool] = lambda: False
    ) -> None:
        self._directory = directory
        self._name = f"{key}{SUFFIX}"
        self._prefix = f"{key}.text."
        self._lock = f"{key}.lock"
        self._siblings = siblings
        self.trusted = not directory.shared
        self.served: LastGood | None = None
        self.last: LastGood | None = None
        self._locked: bool | None = None  # whether the section has its lock; None outside of it
        self._host: LastGood | None = None  # the record as it was read or written last
        # The fingerprint of the record, once it agrees with ``served``.
        self._agreed_fingerprint: Fingerprint | None = None

    @property
    def boundary(self) -> float:
        """The last window boundary (POSIX seconds) that this process knows from records, or 0."""
        known = (self._host, self.served, self.last)
        return max((good.boundary for good in known if good), default=0.0)

    def load(self) -> LastGood | None:
        """Read the last good text; None if there is no trustworthy record."""
        self._host = self._directory.load(self._name, self._parse, WHAT)
        return self._host

    def _parse(self, record: bytes) -> LastGood:
        good = parse(record)
        # Another user could have written a version that no client accepts.
        newest = max(good.release.last_modified, good.release.version / 1000)
        if not self.trusted and newest > time.time() + _AHEAD:
            raise ValueError("a date that is not believed")
        return good

    @contextlib.contextmanager
    def section(self, *, rendering: bool = False, patience: float = PATIENCE) -> Iterator[None]:
        """Enter the critical section of this source on this host, and update ``last``.

        If the lock cannot be taken (its holder was stopped, or the folder cannot be used), the
        section is entered without the lock, and ``follow`` reconciles the release with the host's
        release later. The section is reentrant.

        Args:
            rendering: Whether this process reads and renders in the section.
            patience: Seconds to wait while another process is in the section; 0 enters at once.
        """
        if self._locked is not None:
            yield
            return
        with contextlib.ExitStack() as stack:
            locked = False
            try:
                lock = self._directory.locked(self._lock, mark=rendering, patience=patience)
                stack.enter_context(lock)
                locked = True
            except OSError as error:
                if not isinstance(error, BlockingIOError):
                    self._directory.complain(WHAT, error)
            host = self._host if self._agreed_fingerprint == self._fingerprint() else self.load()
            self.last = host or self.served or next(self.history(), None)
            self._locked = locked
            try:
                yield
            finally:
                self._locked = None

    def is_behind(self, order: Order | None, confirmed: Order | None) -> bool:
        """Whether etcd may have a newer text than the one that was read, so it is read again.

        A lower revision, or another cluster, is accepted only if the read began after the record
        was seen. Then etcd was restored from a backup, or the cluster has changed.

        Args:
            order: Place of the text; None for a file.
            confirmed: Place that the record named before the text was read; None without a record.
        """
        last = None if self.last is None else self.last.order
        if order is None or last is None or last == confirmed:
            return False
        return last.cluster != order.cluster or last.revision > order.revision

    def issue(self, good: LastGood) -> LastGood:
        """Issue the release of a list in the critical section, and record it with its text.

        Args:
            good: The text; its release has only the list's ETag and the date of the source.

        Returns:
            The text with its release.
        """
        last, (etag, modified_at, *_) = self.last, good.release
        known = [each.release for each in (last, self.served) if each is not None]
        same_list = last is not None and last.release.etag == etag
        if last is not None and same_list and good.order == last.order is not None:
            modified_at = last.release.modified_at  # another worker saw the text before
        floor = self._floor(same_list=same_list)
        good = good._replace(release=next_release(known, etag, modified_at, good.saved_at, floor))
        host = self._host
        if host and host._replace(saved_at=good.saved_at, trigger=good.trigger) == good:
            good = host
        self.served = good
        self._agreed_fingerprint = None
        if self._locked and good is not host:
            self.write(good)
        return good

    def _floor(self, *, same_list: bool) -> int:
        """Return the highest version of other sources if the list may have moved from there, or 0.

        A worker that already serves the list, or that replaces a dead worker, keeps its release.
        """
        if same_list and (self.served is not None or self._siblings()):
            return 0
        names = (n for n in self._directory.names() if n.endswith(SUFFIX) and n != self._name)
        found = (self._directory.load(name, self._parse, WHAT) for name in names)
        return max((good.release.version for good in found if good is not None), default=0)

    def follow(self) -> LastGood | None:
        """Return the host's last release with its text; one ``stat`` while it is unchanged.

        If this process serves a later release, or the record was lost, this method writes the
        record again.
        """
        if self._agreed_fingerprint == self._fingerprint():
            return self._host
        with self.section(patience=0.0):
            host, served = self._host, self.served
            if served and (host is None or host.release.version < served.release.version):
                if self._locked:  # else the next turn tries again
                    self.write(served)
            elif self._locked:
                if host and served and host.release.etag == served.release.etag:
                    self.served = host
                self._agreed_fingerprint = self._fingerprint()
                self._directory.recover(WHAT)
        return self._host

    def _fingerprint(self) -> Fingerprint:
        return self._directory.fingerprint(self._name)

    def write(self, good: LastGood) -> None:
        """Replace the last good text in one step, and add a new text to the history."""
        before = self._host
        data = good.dump()
        for oldest in (*reversed(self._history()), None):
            try:
                self._directory.write(self._name, data, sync=True)
                break
            except OSError as error:
                self._directory.complain(WHAT, error)
                if oldest is None or error.errno not in {errno.ENOSPC, errno.EDQUOT}:
                    return
                self._directory.remove(oldest)  # the newest text is worth more
        self._directory.recover(WHAT)
        self._host = good
        self._agreed_fingerprint = self._fingerprint()
        if before is None or before.data != good.data:
            name = f"{self._prefix}{good.release.version:016d}"
            with contextlib.suppress(OSError):  # a full disk costs the history only
                self._directory.write(name, gzip.compress(data, mtime=0), sync=False)
            self._prune()

    # -- the history

    def history(self) -> Iterator[LastGood]:
        """Read the good texts that are kept, the last one first."""
        for name in self._history():
            good = self._directory.load(name, lambda text: self._parse(gzip.decompress(text)), WHAT)
            if good is not None:
                yield good

    def _history(self) -> list[str]:
        return sorted(self._directory.names(self._prefix), reverse=True)

    def _prune(self) -> None:
        """Remove the oldest texts beyond ``MAX_TEXTS`` texts or ``MAX_HISTORY_BYTES`` bytes."""
        size = 0
        for number, name in enumerate(self._history()):
            size += self._directory.fingerprint(name).size
            if number >= MAX_TEXTS or size > MAX_HISTORY_BYTES:
                self._directory.remove(name)
