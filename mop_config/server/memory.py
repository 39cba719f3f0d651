"""What the workers of a host know of a source together, and what outlives them all.

Two files in the state folder: the last good text, and the dates that lists were served
with. ``If-Modified-Since`` is answered by comparing dates, so two lists must never have the
same one, whichever worker is asked and however many edits it has missed.
"""

import contextlib
import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from . import lastgood
from .lastgood import LastGood
from .offload import in_a_thread
from .sources import Signature

logger = logging.getLogger(__name__)

#: Dates that are remembered: as many edits as a slow worker may lag behind.
_REMEMBERED = 50
#: Seconds that a worker waits for another one that holds the file of dates.
_PATIENCE = 0.5


class Memory:
    """The files of one source in the state folder.

    Args:
        folder: The state folder.
        key: What the source's files are named by.
        writable: Whether the folder can be written to; else it is only read from.
    """

    def __init__(self, folder: Path, key: str, *, writable: bool = True) -> None:
        self._text = folder / f"{key}.lastgood"
        self._dates = folder / f"{key}.dates"
        self._writable = writable
        self._seen: Signature | None = None

    def load(self) -> LastGood | None:
        """Read the last good text; None where there is none that can be trusted."""
        self._seen = Signature.at(self._text)
        return lastgood.load(self._text)

    def newer_than(self, moment: float) -> LastGood | None:
        """Read the last good text where another worker has found a newer one by now."""
        if Signature.at(self._text) == self._seen:
            return None
        good = self.load()
        return good if good is not None and good.saved_at > moment else None

    def keep(self, good: LastGood) -> None:
        """Keep a good text, unless a newer one is there."""
        if not self._writable:
            return
        try:
            in_a_thread(partial(lastgood.keep, self._text, good))
        except OSError as error:
            logger.warning("the last good list cannot be saved: %s", error)

    def date(self, etag: str, mtime: float, wanted: int) -> int:
        """Find the date that a list is served with, the same in every worker.

        Args:
            etag: The list's content hash.
            mtime: When its source was changed, as POSIX seconds.
            wanted: The date that it would have alone, as POSIX seconds.

        Returns:
            The date that another worker gave this list of this source, else a date later
            than that of every other list.
        """
        if not self._writable:
            return wanted
        try:
            return in_a_thread(partial(self._date, self._dates, etag, mtime, wanted))
        except OSError as error:
            logger.warning("the dates of lists cannot be kept: %s", error)
            return wanted

    def _date(self, path: Path, etag: str, mtime: float, wanted: int) -> int:
        with _locked(path) as file:
            given = _read_dates(file)
            if given and given[-1][0] == etag:
                return given[-1][2]
            for known, changed, date in reversed(given):
                if (known, changed) == (etag, mtime) and date >= wanted:
                    return date
            date = max([wanted, *(date + 1 for _, _, date in given)])
            lines = [*given, (etag, mtime, date)][-_REMEMBERED:]
            file.seek(0)
            file.truncate()
            file.write(json.dumps(lines).encode())
            return date


Dates = list[tuple[str, float, int]]


def _read_dates(file: Any) -> Dates:
    try:
        return [(str(e), float(m), min(max(0, int(d)), 1 << 37)) for e, m, d in json.load(file)]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []  # new, torn or foreign: dates begin anew


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[Any]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    with open(descriptor, "r+b") as file:
        deadline = time.monotonic() + _PATIENCE
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        yield file
