"""Release: the date and version of a served list, the rule for the next one, and its text. Pure.

``LastGood`` is a text with its release. Its record is a line of JSON, then the text as it was
read. A hash over both shows whether the record is torn or foreign. Text and release are replaced in
one step, so that a restart never finds an older text beside a newer release.
"""

import hashlib
import json
from collections.abc import Iterable
from typing import Any, NamedTuple

from ...model.codec import MAX_DATE
from ..sources.file import Order

_FORMAT = 5
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
    last_modified: int = 0
    version: int = 0


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


class LastGood(NamedTuple):
    """A text that was found good, with the release of its list.

    Attributes:
        data: The bytes as they were read.
        release: The release of the list.
        api: Number of API endpoints in the list.
        socketio: Number of Socket.io endpoints in the list.
        order: Place of the text in etcd, or None for a file.
        boundary: POSIX seconds of the last window boundary before the list; 0 without a boundary.
        saved_at: POSIX time at which the text was found good.
        trigger: The cause of the reload.
    """

    data: bytes
    release: Release
    api: int
    socketio: int
    order: Order | None
    boundary: float
    saved_at: float
    trigger: str

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
