"""The dates and versions that the lists of a source were served with, in order. Pure."""

import json
from collections.abc import Iterable
from typing import NamedTuple

#: Lists that are remembered: as many edits as a slow worker may lag behind.
_REMEMBERED = 50
#: Past any version: a file that holds more was damaged.
_MAX_VERSION = 1 << 52


class Release(NamedTuple):
    """What a list is served with.

    Attributes:
        date: Its ``Last-Modified``, in POSIX seconds.
        ver: Its version, in milliseconds.
    """

    date: int
    ver: int


class LedgerLine(NamedTuple):
    """A list, and what it was served with.

    Attributes:
        etag: Its content hash.
        mtime: When its source was changed, as POSIX seconds.
        date: See ``Release``.
        ver: Likewise.
    """

    etag: str
    mtime: float
    date: int
    ver: int

    @property
    def stamp(self) -> Release:
        """Give the date and the version."""
        return Release(self.date, self.ver)


def read(text: bytes) -> list[LedgerLine]:
    """Read a ledger, the highest version last; a torn or foreign one is empty."""
    try:
        return [
            LedgerLine(
                str(etag),
                float(mtime),
                min(max(0, int(date)), 1 << 37),
                min(max(0, int(ver)), _MAX_VERSION),
            )
            for etag, mtime, date, ver in json.loads(text)
        ]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []


def write(lines: list[LedgerLine]) -> bytes:
    """Write a ledger as ``read`` reads it."""
    return json.dumps(lines).encode()


def with_line(lines: list[LedgerLine], line: LedgerLine) -> list[LedgerLine]:
    """Put a line in its place; those that are too old to matter are left out."""
    return sorted([*lines, line], key=lambda each: each.ver)[-_REMEMBERED:]


def highest(lines: Iterable[LedgerLine]) -> int:
    """Give the highest version; -1 where there is none."""
    return max((line.ver for line in lines), default=-1)


def confirmed(
    lines: list[LedgerLine], held: LedgerLine, mtime: float, wanted: int
) -> tuple[LedgerLine, list[LedgerLine]]:
    """Find what a list that is served already is to be served with from now on.

    That is the highest version that any worker gave it; and a higher one if its source was
    changed since and still holds the same list: whoever touches a file means it to be new.

    Args:
        lines: The ledger.
        held: What the list is served with now; the ledger may have been lost since.
        mtime: When its source was changed, as it has just been read.
        wanted: The version that this would give it alone.

    Returns:
        The line of the list, and the ledger with it.
    """
    ours = [line for line in lines if line.etag == held.etag]
    best = max([*ours, held], key=lambda line: line.ver)
    seen = mtime in {held.mtime, *(line.mtime for line in ours)}
    if not seen and wanted > highest([*lines, held]):
        # Its date stays: the same contents, and a date tells contents apart.
        best = LedgerLine(held.etag, mtime, best.date, wanted)
    if best in lines:
        return best, lines
    # One line for however many touches, so that they do not push out those of other lists.
    kept = lines[:-1] if lines and lines[-1].etag == best.etag else lines
    return best, with_line(kept, best)
