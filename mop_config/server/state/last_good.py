"""The last good text on disk, so that a restart never starts from nothing.

One file a source: a line of JSON, then the text as it was read. A hash over both is in the
line, so that a torn or foreign file is told from a good one.
"""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any, NamedTuple

from ...model.codec import MAX_DATE
from . import records

logger = logging.getLogger(__name__)

_FORMAT = 2


class LastGood(NamedTuple):
    """A text that was served, and what must not go backwards after a restart.

    Attributes:
        data: The endpoint file's bytes.
        etag: Content hash of the list that it gave.
        last_modified: POSIX seconds that it was served with.
        endpoints: How many endpoints it has, over both kinds.
        saved_at: POSIX time at which it was found good.
    """

    data: bytes
    etag: str
    last_modified: int
    endpoints: int
    saved_at: float


def load(path: Path, owner: int | None = None) -> LastGood | None:
    """Read the last good text; None where there is none that can be trusted."""
    try:
        head, _, data = records.read(path, owner).partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("the last good list cannot be read: %s", error)
        return None
    try:
        return _checked(json.loads(head), data)
    except Exception:  # whatever stands there must not keep a server from starting
        logger.warning("the last good list in %s is damaged: it is ignored", path)
        return None


def _checked(record: dict[str, Any], data: bytes) -> LastGood:
    digest = record.pop("sha256")
    if record.pop("format") != _FORMAT or digest != _digest(record, data):
        raise ValueError("not what was written")
    good = LastGood(data, **record)
    if not 0 <= good.last_modified <= MAX_DATE or not 0 <= good.saved_at <= MAX_DATE:
        raise ValueError("no date")
    return good


def _digest(record: dict[str, Any], data: bytes) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode() + b"\n" + data).hexdigest()


def keep(path: Path, good: LastGood, owner: int | None = None) -> None:
    """Write the last good text, unless it or a newer one is there already.

    Every worker of a host comes here with the same text: one of them writes it, and one
    that was slow does not bring an older text back.

    Raises:
        OSError: If it cannot be written; the file that was there stays.
    """
    there = load(path, owner)
    if there is None or (there[:-1] != good[:-1] and not good.saved_at < there.saved_at < _soon()):
        save(path, good, owner)


def _soon() -> float:
    # What claims to come from the future was written before the clock was set right.
    return time.time() + 1.0


def save(path: Path, good: LastGood, owner: int | None = None) -> None:
    """Write the last good text so that a crash leaves the old one or the new one.

    Raises:
        OSError: If it cannot be written; the file that was there stays.
    """
    record = good._asdict()
    del record["data"]
    head = {"format": _FORMAT, "sha256": _digest(record, good.data), **record}
    records.write(path, json.dumps(head).encode() + b"\n" + good.data, sync=True, owner=owner)
