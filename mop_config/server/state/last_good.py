"""LastGoodStore keeps the last good text of a source with its release, and the earlier texts.

The newest text is in one record: a line of JSON, then the text as it was read. A hash over both
shows whether the record is torn or foreign. Text and release are replaced in one step, so that a
restart never finds an older text beside a newer release. The earlier texts are beside the record,
compressed.
"""

import contextlib
import errno
import gzip
import hashlib
import json
import time
from typing import Any, NamedTuple

from ...model.codec import MAX_DATE
from ..sources.file import Fingerprint
from .directory import StateDirectory
from .release import ReleaseRecord, record_of

_FORMAT = 4
#: End of the name of a source's record.
SUFFIX = ".lastgood"
#: Seconds by which dates and versions in the records of another user may be ahead of the clock.
_AHEAD = 86400
WHAT = "the last good list"
_HISTORY = "the history of good lists"
#: Limits of the earlier texts that are kept: their number, and their bytes in all.
MAX_TEXTS = 50
MAX_HISTORY_BYTES = 8 << 20


class LastGood(NamedTuple):
    """A text that was served.

    Attributes:
        data: The bytes as they were read.
        record: The release of the text, and the number of its endpoints.
        saved_at: POSIX time at which the text was found good.
        trigger: The cause of the reload.
    """

    data: bytes
    record: ReleaseRecord
    saved_at: float
    trigger: str

    def dump(self) -> bytes:
        """Return the content of the record, which ``parse`` reads."""
        head = {**self.record.as_dict(), "trigger": self.trigger}
        head |= {"format": _FORMAT, "saved_at": self.saved_at}
        head["sha256"] = _digest(head, self.data)
        return json.dumps(head).encode() + b"\n" + self.data


def parse(text: bytes) -> LastGood:
    """Parse the content of a record that ``dump`` wrote.

    Raises:
        Exception: Of any type, if the record is torn, foreign or of another format.
    """
    first, _, data = text.partition(b"\n")
    head: dict[str, Any] = json.loads(first)
    digest = head.pop("sha256")
    if head["format"] != _FORMAT or digest != _digest(head, data):
        raise ValueError("not what was written")
    if not 0 <= head["saved_at"] <= MAX_DATE:
        raise ValueError("no date")
    return LastGood(data, record_of(head), float(head["saved_at"]), str(head["trigger"]))


def _digest(head: dict[str, Any], data: bytes) -> str:
    return hashlib.sha256(json.dumps(head, sort_keys=True).encode() + b"\n" + data).hexdigest()


class LastGoodStore:
    """The last good texts of one source in the state folder.

    Args:
        directory: The state folder.
        key: Name of the source's records.
    """

    def __init__(self, directory: StateDirectory, key: str) -> None:
        self._directory = directory
        self.name = f"{key}{SUFFIX}"
        self._prefix = f"{key}.text."

    def load(self) -> LastGood | None:
        """Read the newest good text; None if there is no trustworthy record."""
        return self._directory.load(self.name, self._parse, WHAT)

    def fingerprint(self) -> Fingerprint:
        """Return the ``stat`` fingerprint of the newest text's record."""
        return self._directory.fingerprint(self.name)

    def highest_elsewhere(self) -> int:
        """Return the highest version of all other sources, since a list may move between them."""
        names = (n for n in self._directory.list_names() if n.endswith(SUFFIX) and n != self.name)
        found = (self._directory.load(name, self._parse, WHAT) for name in names)
        return max((good.record.release.version for good in found if good is not None), default=0)

    def _parse(self, text: bytes) -> LastGood:
        good = parse(text)
        release = good.record.release
        # Another user could have written a version that no client accepts.
        latest = time.time() + _AHEAD
        if self._directory.shared and max(release.last_modified, release.version / 1000) > latest:
            raise ValueError("a date that is not believed")
        return good

    def write(self, good: LastGood) -> None:
        """Replace the newest text in one step.

        Raises:
            OSError: If the record cannot be written; the old text stays.
        """
        try:
            self._directory.write(self.name, good.dump(), sync=True)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not self._history():
                raise
            # The disk is full: the newest text is worth more than the history.
            self._prune(0)
            self._directory.write(self.name, good.dump(), sync=True)

    # -- the texts before

    def history(self) -> list[LastGood]:
        """Read the good texts of the past, newest first."""
        return [good for name in self._history() if (good := self._past(name))]

    def newest(self) -> LastGood | None:
        """Read the newest earlier text; None if there is no earlier text."""
        return next((good for name in self._history() if (good := self._past(name))), None)

    def remember(self, good: LastGood) -> None:
        """Add a text to the history; if the disk is full, only the history loses it."""
        name = f"{self._prefix}{good.record.release.version:016d}"
        with contextlib.suppress(OSError):
            self._directory.write(name, gzip.compress(good.dump(), mtime=0), sync=False)
        self._prune(MAX_TEXTS)

    def _history(self) -> list[str]:
        with contextlib.suppress(OSError):
            names = (n for n in self._directory.names() if n.startswith(self._prefix))
            return sorted(names, reverse=True)
        return []

    def _past(self, name: str) -> LastGood | None:
        return self._directory.load(name, lambda text: self._parse(gzip.decompress(text)), _HISTORY)

    def _prune(self, most: int) -> None:
        """Remove the oldest texts beyond ``most`` texts or ``MAX_HISTORY_BYTES`` bytes."""
        size = 0
        for number, name in enumerate(self._history()):
            size += self._directory.fingerprint(name).size
            if number >= most or size > MAX_HISTORY_BYTES:
                self._directory.remove(name)
