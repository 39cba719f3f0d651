"""CheckHistory: the checks of the last 24 hours of each endpoint, in slots of a quarter of an hour.

The history has a file of its own in the state folder, because it is larger than the results and is
written less often. The file outlives the worker that checks, and a restart.
"""

import json
import math
import time
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple, TypedDict

from ..sources.file import Fingerprint
from ..state.directory import StateDirectory
from ..state.worker_record import parse_record

_FORMAT = 1
#: Length of a slot, and number of slots that are kept for each endpoint: 24 hours.
SLOT_SECONDS = 900
SLOTS = 96
#: Seconds between two writes of the file.
SAVE_EVERY = 10.0


class Slot(NamedTuple):
    """The checks of one endpoint in a quarter of an hour.

    Attributes:
        number: POSIX time of the slot in units of ``SLOT_SECONDS``.
        checks: Number of checks.
        good: Number of good checks.
        seconds: Sum of the durations of the good checks.
    """

    number: int
    checks: int
    good: int
    seconds: float


#: The slots of each endpoint, oldest first, by kind and URL.
Slots = Mapping[tuple[str, str], list[Slot]]


class _SlotsRecord(TypedDict):
    kind: str
    url: str
    slots: list[list[float]]


class _HistoryRecord(TypedDict):
    format: int
    endpoints: list[_SlotsRecord]


def add_check(slots: deque[Slot], posix: float, seconds: float | None) -> None:
    """Add a check to the slots of an endpoint.

    Args:
        slots: The slots, oldest first.
        posix: POSIX time of the check.
        seconds: Duration of the check, or None for a failed check.
    """
    number = int(posix // SLOT_SECONDS)
    while slots and slots[-1].number > number:
        slots.pop()  # the clock was set back
    last = slots.pop() if slots and slots[-1].number == number else Slot(number, 0, 0, 0.0)
    good = seconds is not None
    total = round(last.seconds + (seconds or 0.0), 6)
    slots.append(Slot(number, last.checks + 1, last.good + good, total))


class CheckHistory:
    """The file of the history; the worker that checks writes it, and all workers read it.

    Args:
        directory: The state folder.
        name: Name of the record.
    """

    def __init__(self, directory: StateDirectory, name: str) -> None:
        self._directory = directory
        self._name = name
        self._seen: Fingerprint | None = None  # of the file when it was parsed
        self._parsed: Slots = {}
        self._saved_at = -math.inf

    def is_due(self) -> bool:
        """Whether the file may be written again."""
        return time.monotonic() - self._saved_at >= SAVE_EVERY

    def write(self, slots: Slots) -> None:
        """Write the slots of all endpoints; a failure is logged once and costs the history only."""
        endpoints = [
            {"kind": kind, "url": url, "slots": found} for (kind, url), found in slots.items()
        ]
        record = {"format": _FORMAT, "endpoints": endpoints}
        self._saved_at = time.monotonic()
        what = "the history of the health checks"
        self._directory.save(self._name, json.dumps(record).encode(), what)

    def read(self) -> Slots:
        """Return the slots of all endpoints; empty if the file is missing or damaged."""
        try:
            seen = self._directory.fingerprint(self._name)
            if seen != self._seen:
                self._seen, self._parsed = seen, _parsed(self._directory.read(self._name))
        except OSError:
            return {}
        return self._parsed


def _parsed(data: bytes) -> Slots:
    record = parse_record(data, _HistoryRecord)
    if record is None or record["format"] != _FORMAT:
        return {}
    found = {(e["kind"], e["url"]): e["slots"] for e in record["endpoints"]}
    if not all(len(slots) <= SLOTS and all(map(_is_good, slots)) for slots in found.values()):
        return {}
    return {
        key: [
            Slot(int(number), int(checks), int(good), seconds)
            for number, checks, good, seconds in slots
        ]
        for key, slots in found.items()
    }


def _is_good(slot: list[float]) -> bool:
    if len(slot) != len(Slot._fields) or not all(0 <= value < math.inf for value in slot):
        return False
    _, checks, good, _ = slot
    return checks >= 1 and good <= checks
