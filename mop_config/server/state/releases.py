"""What the workers of a host know of a source together, and what outlives them all.

Two files a source in the state folder: the last good text, and the dates and versions that
lists were served with. ``If-Modified-Since`` is answered by comparing dates, so two lists must
never have the same one, whichever worker is asked and however many edits it has missed. And
whoever has seen a signed list takes none with a lower version, so versions go on from the
highest one that any source of the folder was given: a list may move from a file to etcd.

Files are replaced whole, under a lock, so that a full disk leaves what was there; and each
worker writes down again what it serves where that is lost.
"""

import contextlib
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from ..sources.file import Fingerprint
from . import last_good, ledger, records
from .last_good import LastGood
from .ledger import LedgerLine, Release
from .sightings import Seen, Sighting

logger = logging.getLogger(__name__)

#: Texts whose first sight is remembered.
_REMEMBERED = 50
#: Seconds by which dates and versions of another user's may be ahead of the clock.
_AHEAD = 86400
#: Seconds that a worker waits for another one that writes.
_PATIENCE = 0.5


class ReleaseStore:
    """The files of one source in the state folder.

    Args:
        folder: The state folder.
        key: What the source's files are named by.
        writable: Whether the folder can be written to; else it is only read from, until a
            text could be kept in it.
        siblings: Whether other workers serve this source now.
        owner: Another user whose records these are: they give dates and versions, but no list.
    """

    def __init__(
        self,
        folder: Path,
        key: str,
        *,
        writable: bool = True,
        siblings: Callable[[], bool] = lambda: False,
        owner: int | None = None,
    ) -> None:
        self._text = folder / f"{key}.lastgood"
        self._dates = folder / f"{key}.dates"
        self._firsts = folder / f"{key}.seen"
        self._lock = folder / f"{key}.lock"
        self._siblings = siblings
        self._owner = owner
        self._writable = writable
        self.trouble = ""  # why the last good text could not be kept
        self._seen: Fingerprint | None = None
        self._known: Fingerprint | None = None  # of the ledger, while it holds what we serve
        self._complained = False

    def load(self) -> LastGood | None:
        """Read the last good text; None where there is none that can be trusted."""
        if self._owner is not None:
            return None  # what this user signs or publishes must come from the source
        self._seen = records.signature(self._text)
        return last_good.load(self._text)

    def newer_than(self, moment: float) -> LastGood | None:
        """Read the last good text where another worker has found a newer one by now."""
        if records.signature(self._text) == self._seen:
            return None
        good = self.load()
        return good if good is not None and good.saved_at > moment else None

    def keep(self, good: LastGood) -> bool:
        """Keep a good text, unless a newer one is there; False where it is to be tried again."""
        try:
            self._keep(good)
        except OSError as error:
            # That the folder could not be written to at the start has been said.
            if self._writable and not self.trouble:
                logger.warning("the last good list cannot be saved: %s", error)
            self.trouble = error.strerror or str(error)
            return False
        if self.trouble:
            logger.info("the last good list can be saved again")
        self.trouble = ""
        return True

    def _keep(self, good: LastGood) -> None:
        if not self._writable:
            records.make(self._text.parent, self._owner)
            self._writable = True
        last_good.keep(self._text, good, self._owner)

    def stamp(self, etag: str, mtime: float, wanted: Release, above: int = 0) -> Release:
        """Find the date and the version of a list, the same in every worker.

        Args:
            etag: The list's content hash.
            mtime: When its source was changed, as POSIX seconds.
            wanted: The date and the version that it would have alone.
            above: The version of the list that this worker serves, if that is another one;
                0 where it serves none yet.

        Returns:
            What another worker gave this list of this source, else a date later than that
            of every other list, and a version higher than any that was given before.
        """
        if not self._writable:
            return wanted
        try:
            return self._stamp(etag, mtime, wanted, above)
        except OSError as error:
            self._complain(error)
            return wanted

    def confirm(self, held: LedgerLine, mtime: float, wanted: int) -> Release:
        """Find the date and the version of a list that is served already and was read again.

        Args:
            held: What it is served with.
            mtime: When its source was changed, as POSIX seconds.
            wanted: The version that it would have alone.

        Returns:
            What it is to be served with from now on; never a lower version.
        """
        if self._writable:
            try:
                return self._confirm(held, mtime, wanted)
            except OSError as error:
                self._complain(error)
        return ledger.confirmed([], held, mtime, wanted)[0].stamp

    def follow(self, held: LedgerLine) -> Release:
        """Find what other workers have come to give the list that is served; cheap.

        Where the ledger does not hold it, because it is lost or the disk was full, it does
        from now on.
        """
        if not self._writable or self._signature() == self._known:
            return held.stamp
        return self.confirm(held, held.mtime, held.ver)

    def _complain(self, error: OSError) -> None:
        self._known = None  # so that the next turn tries again
        if not self._complained:
            logger.warning("the dates of lists cannot be kept: %s", error)
        self._complained = True

    def first_seen(self, sighting: Sighting, now: float) -> float:
        """Say since when a text has been there, the same in every worker, as POSIX seconds.

        For a source that numbers its texts and keeps no date, such as etcd: a text counts
        from when the first worker saw it, and texts are in the order of their numbers. After a
        restore of the source, a lower number is newer.

        Args:
            sighting: The text, as this worker has just read it.
            now: POSIX time.
        """
        if not self._writable:
            return now
        try:
            return self._first_seen(sighting, now)
        except OSError as error:
            logger.warning("when the list was changed cannot be kept: %s", error)
            return now

    def _first_seen(self, sighting: Sighting, now: float) -> float:
        with self._locked():
            before = _read_sightings(self._read(self._firsts))
            moment, seen = sighting.among(before, now)
            if seen != before:
                data = json.dumps(seen[-_REMEMBERED:]).encode()
                records.write(self._firsts, data, sync=True, owner=self._owner)
            return moment

    def _stamp(self, etag: str, mtime: float, wanted: Release, above: int) -> Release:
        with self._locked():
            given = self._lines(self._dates)
            if given and given[-1].etag == etag and given[-1].ver > above:
                # One that starts may have come back from another source, whose lists had
                # higher versions; unless it takes the place of a worker that has died.
                ours = above or given[-1].ver >= self._highest() or self._siblings()
                if ours:
                    return given[-1].stamp
            # Who serves a list may be some edits behind. Who serves none has read the newest.
            for line in reversed(given if above else []):
                alike = (line.etag, line.mtime) == (etag, mtime)
                if alike and line.date >= wanted.date and line.ver >= wanted.ver:
                    return line.stamp
            date = max([wanted.date, *(line.date + 1 for line in given)])
            ver = max(wanted.ver, self._highest() + 1)
            self._write(ledger.with_line(given, LedgerLine(etag, mtime, date, ver)))
            return Release(date, ver)

    def _confirm(self, held: LedgerLine, mtime: float, wanted: int) -> Release:
        with self._locked():
            given = self._lines(self._dates)
            line, lines = ledger.confirmed(given, held, mtime, wanted)
            if lines != given:
                self._write(lines)
            self._known, self._complained = self._signature(), False
            return line.stamp

    def _write(self, lines: list[LedgerLine]) -> None:
        records.write(self._dates, ledger.write(lines), sync=True, owner=self._owner)

    def _highest(self) -> int:
        """Find the highest version that any source of this folder was given."""
        lines: list[LedgerLine] = []
        folder = self._dates.parent
        for name in records.names(folder, self._owner):
            if name.endswith(self._dates.suffix):
                with contextlib.suppress(OSError):
                    lines += self._lines(folder / name)
        return ledger.highest(lines)

    def _lines(self, path: Path) -> list[LedgerLine]:
        lines = ledger.read(self._read(path))
        if self._owner is None:
            return lines
        # Another user could have put anything there, such as a version that no client takes.
        latest = time.time() + _AHEAD
        return [line for line in lines if max(line.date, line.ver / 1000) < latest]

    def _locked(self) -> AbstractContextManager[None]:
        return records.locked(self._lock, _PATIENCE, self._owner)

    def _signature(self) -> Fingerprint:
        return records.signature(self._dates, self._owner)

    def _read(self, path: Path) -> bytes:
        try:
            return records.read(path, self._owner)
        except FileNotFoundError:
            return b""


def _read_sightings(text: bytes) -> list[Seen]:
    try:
        return [
            Seen(int(number), str(digest), float(at)) for number, digest, at in json.loads(text)
        ]
    except (ValueError, TypeError, OverflowError, RecursionError):
        return []  # new, torn or foreign: dates begin anew
