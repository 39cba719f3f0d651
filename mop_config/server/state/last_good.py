"""LastGoodStore: the last good texts of a source, so that a restart never starts from nothing.

The newest text lies in one record: a line of JSON, then the text as it was read. A hash over both
tells a torn or foreign record from a good one. The texts before it lie beside it, compressed.
"""

import contextlib
import errno
import gzip
import hashlib
import json
from typing import Any, NamedTuple

from ...model.codec import MAX_DATE
from ..sources.file import Fingerprint
from .directory import StateDirectory
from .release import ReleaseRecord, record_of

_FORMAT = 3
_WHAT = "the last good list"
_HISTORY = "the history of good lists"
#: Earlier texts that are kept, and their bytes together.
MAX_TEXTS = 50
MAX_HISTORY_BYTES = 8 << 20


class LastGood(NamedTuple):
    """A text that was served.

    Attributes:
        data: The bytes as they were read.
        record: Its release, and how many endpoints it has.
        saved_at: POSIX time at which the text was found good.
        trigger: What caused the reload.
    """

    data: bytes
    record: ReleaseRecord
    saved_at: float
    trigger: str

    def dump(self) -> bytes:
        """Return the text as ``parse`` reads it."""
        head = {**self.record.as_dict(), "trigger": self.trigger}
        head |= {"format": _FORMAT, "saved_at": self.saved_at}
        head["sha256"] = _digest(head, self.data)
        return json.dumps(head).encode() + b"\n" + self.data


def parse(text: bytes) -> LastGood:
    """Read a text that ``dump`` wrote.

    Raises:
        Exception: Of any type, if it is torn, foreign or of another format.
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
        self._name = f"{key}.lastgood"
        self._prefix = f"{key}.text."
        self._seen: Fingerprint | None = None

    def load(self) -> LastGood | None:
        """Read the newest good text; None if there is none that can be trusted."""
        if self._directory.shared:
            return None  # what root signs or publishes must come from the source
        self._seen = self._directory.fingerprint(self._name)
        return self._directory.load(self._name, parse, _WHAT)

    def newer_than(self, version: int) -> LastGood | None:
        """Read the newest good text if another worker has saved it since the last look.

        Args:
            version: The text must have a higher one.
        """
        if self._directory.fingerprint(self._name) == self._seen:
            return None
        good = self.load()
        return good if good is not None and good.record.release.version > version else None

    @property
    def may_save(self) -> bool:
        """Whether a text may be saved now: no attempt has failed within the last seconds."""
        return self._directory.may_save(_WHAT)

    def keep(self, good: LastGood) -> bool:
        """Save a good text, unless it or a newer one is there; False if it cannot be saved.

        Every worker of a host calls this with the same text: one of them writes it, and a slow
        worker does not bring an older text back.
        """
        there = self._directory.load(self._name, parse, _WHAT)
        if there is not None:
            version = there.record.release.version
            same = (there.data, there.record) == (good.data, good.record)
            if same or version > good.record.release.version:
                self._directory.recover(_WHAT)
                return True
        try:
            self._write(good)
        except OSError as error:
            self._directory.complain(_WHAT, error)
            return False
        self._directory.recover(_WHAT)
        if there is None or there.data != good.data:
            self._remember(good)
        return True

    def _write(self, good: LastGood) -> None:
        try:
            self._directory.write(self._name, good.dump(), sync=True)
        except OSError as error:
            if error.errno not in {errno.ENOSPC, errno.EDQUOT} or not self._history():
                raise
            # The newest text is worth more than all the others.
            self._prune(0)
            self._directory.write(self._name, good.dump(), sync=True)

    # -- the texts before

    def history(self) -> list[LastGood]:
        """Read the good texts of the past, newest first."""
        found = (self._directory.load(name, _unpack, _HISTORY) for name in self._history())
        return [good for good in found if good is not None]

    def _remember(self, good: LastGood) -> None:
        name = f"{self._prefix}{good.record.release.version:016d}"
        with contextlib.suppress(OSError):  # a full folder costs history only
            self._directory.write(name, gzip.compress(good.dump(), mtime=0), sync=False)
        self._prune(MAX_TEXTS)

    def _history(self) -> list[str]:
        with contextlib.suppress(OSError):
            names = (n for n in self._directory.names() if n.startswith(self._prefix))
            return sorted(names, reverse=True)
        return []

    def _prune(self, most: int) -> None:
        """Remove the oldest texts, so that ``most`` are left and not too many bytes."""
        size = 0
        for number, name in enumerate(self._history()):
            size += self._directory.fingerprint(name).size
            if number >= most or size > MAX_HISTORY_BYTES:
                self._directory.remove(name)


def _unpack(text: bytes) -> LastGood:
    return parse(gzip.decompress(text))
