"""The last good text on disk, so that a restart never starts from nothing.

One file a source: a line of JSON, then the text as it was read. Its own hash is in the
line, so that a torn or foreign file is told from a good one.
"""

import hashlib
import json
import logging
from pathlib import Path
from typing import NamedTuple

from ..files import write_atomically

logger = logging.getLogger(__name__)

_FORMAT = 1


class LastGood(NamedTuple):
    """A text that was served, and what must not go backwards after a restart.

    Attributes:
        data: The endpoint file's bytes.
        etag: Content hash of the list that it gave.
        last_modified: POSIX seconds that it was served with.
        endpoints: How many endpoints it has, over both kinds.
        saved_at: POSIX time at which it was written here.
    """

    data: bytes
    etag: str
    last_modified: int
    endpoints: int
    saved_at: float


def load(path: Path) -> LastGood | None:
    """Read the last good text; None where there is none that can be trusted."""
    try:
        head, _, data = path.read_bytes().partition(b"\n")
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("the last good list cannot be read: %s", error)
        return None
    try:
        meta = json.loads(head)
        if meta["format"] == _FORMAT and meta["sha256"] == hashlib.sha256(data).hexdigest():
            return LastGood(
                data,
                str(meta["etag"]),
                int(meta["last_modified"]),
                int(meta["endpoints"]),
                float(meta["saved_at"]),
            )
    except (ValueError, TypeError, KeyError):
        pass
    logger.warning("the last good list in %s is damaged: it is ignored", path)
    return None


def keep(path: Path, good: LastGood) -> None:
    """Write the last good text, unless it is there already.

    Every worker of a host comes here with the same text: one of them writes it.

    Raises:
        OSError: If it cannot be written; the file that was there stays.
    """
    there = load(path)
    if there is None or there[:-1] != good[:-1]:
        save(path, good)


def save(path: Path, good: LastGood) -> None:
    """Write the last good text so that a crash leaves the old one or the new one.

    Raises:
        OSError: If it cannot be written; the file that was there stays.
    """
    meta = {
        "format": _FORMAT,
        "sha256": hashlib.sha256(good.data).hexdigest(),
        "etag": good.etag,
        "last_modified": good.last_modified,
        "endpoints": good.endpoints,
        "saved_at": good.saved_at,
    }
    write_atomically(path, json.dumps(meta).encode() + b"\n" + good.data, sync=True)
