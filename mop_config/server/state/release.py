"""Release: the date and version of a served list, and the rule for the next release. Pure."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from ...model.codec import MAX_DATE

#: Upper bound of a version: a record with a higher version is damaged.
_MAX_VERSION = 1 << 52


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
    last_modified: int
    version: int


def next_release(
    known: Iterable[Release], etag: str, modified_at: float, now: float, floor: int = 0
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
    before = list(known)
    seen = max(0.0, min(modified_at, now))
    wanted = int(seen * 1000)
    newest = max(before, key=lambda release: release.version, default=None)
    if newest is None:
        return Release(etag, modified_at, int(seen), max(wanted, floor + 1 if floor else 0))
    above = max(newest.version, floor)
    if newest.etag != etag:
        date = max(int(seen), *(release.last_modified + 1 for release in before))
        return Release(etag, modified_at, date, max(wanted, above + 1))
    touched = modified_at != newest.modified_at and wanted > newest.version
    if not touched and floor <= newest.version:
        return newest
    return newest._replace(modified_at=modified_at, version=max(wanted, floor + 1))


class Order(NamedTuple):
    """The place of a text among the texts of a key in etcd.

    Attributes:
        cluster: Id of the etcd cluster; revisions of different clusters cannot be compared.
        revision: Revision at which the key was written.
    """

    cluster: str
    revision: int


class ReleaseRecord(NamedTuple):
    """A release of a source, with the figures that the next text is compared with.

    Attributes:
        release: The release.
        api: Number of API endpoints in the list.
        socketio: Number of Socket.io endpoints in the list.
        order: Place of the text in etcd, or None for a file.
        boundary: POSIX seconds of the last window boundary before the list; 0 without a boundary.
    """

    release: Release
    api: int
    socketio: int
    order: Order | None = None
    boundary: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the record as a JSON object, which ``record_of`` reads."""
        order = {} if self.order is None else self.order._asdict()
        counts = {"api": self.api, "socketio": self.socketio, "boundary": self.boundary}
        return {**counts, **self.release._asdict(), **order}


def record_of(members: dict[str, Any]) -> ReleaseRecord:
    """Read a record from a JSON object.

    Raises:
        Exception: Of any type, if a member is missing or out of bounds.
    """
    release = Release(
        str(members["etag"]),
        float(members["modified_at"]),
        int(members["last_modified"]),
        int(members["version"]),
    )
    dates_are_good = math.isfinite(release.modified_at) and 0 <= release.last_modified <= MAX_DATE
    if not dates_are_good or not 0 <= release.version <= _MAX_VERSION:
        raise ValueError("a date or version out of bounds")
    order = None
    if "cluster" in members:
        order = Order(str(members["cluster"]), int(members["revision"]))
    boundary = float(members["boundary"])
    if not 0 <= boundary <= MAX_DATE:
        raise ValueError("a boundary out of bounds")
    return ReleaseRecord(release, int(members["api"]), int(members["socketio"]), order, boundary)
