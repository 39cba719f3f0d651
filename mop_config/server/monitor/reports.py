"""ClientReports: what clients report of the endpoints, counted over the last hour.

Each worker counts the reports that it receives, and writes its counts into a file of its own in
the state folder. A reader adds up the files of all workers. A file stays when its worker ends,
until its counts are an hour old, so that the end of a worker takes no count away.

All workers limit an address together: one table in the state folder has the reports of each address
in this minute.
"""

import hashlib
import json
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from typing import TypedDict

from ...model.endpoint import Kind
from ...net.faults import COUNTED
from ..state.directory import StateDirectory
from ..state.workers import parse_record

#: The word for requests that an endpoint answered.
OK = "ok"
#: The words that a report may use: ``ok``, and the faults that speak against an endpoint.
FAULTS = (OK, *sorted(COUNTED))
#: Limit of one count in a report.
MAX_COUNT = 10_000
#: Limit of reports from one address in a minute, and of addresses that are remembered.
MAX_REPORTS, MAX_ADDRESSES = 10, 10_000
#: Size in bytes of the parts of the table of addresses: the minute at its start, and the entry of
#: each address, which is a hash and one byte for the number of reports.
_MINUTE, _HASH = 8, 8
_TABLE = _MINUTE + MAX_ADDRESSES * (_HASH + 1)
#: Limit of the different counts that a worker keeps; beyond it new ones are left out.
MAX_SERIES = 10_000
#: The hour is counted in steps of five minutes.
STEP, STEPS = 300, 12
#: Seconds between two writes of a worker's counts.
SAVE_EVERY = 2.0

#: Kind, URL and fault.
Series = tuple[str, str, str]
#: Kind and URL of each endpoint that is served.
Listed = frozenset[tuple[str, str]]


class ReportedEndpoint(TypedDict):
    """One endpoint in a report, a record and the status: the count of each fault, and of ``ok``."""

    kind: str
    url: str
    counts: dict[str, int]


class _Report(TypedDict):
    endpoints: list[ReportedEndpoint]


class _StepRecord(TypedDict):
    step: int
    endpoints: list[ReportedEndpoint]


class _CountsRecord(TypedDict):
    steps: list[_StepRecord]


def parse_report(body: bytes) -> Counter[Series]:
    """Parse the body of a report.

    Raises:
        ValueError: If it is not a report; the message says what is allowed.
    """
    try:
        report = parse_record(body, _Report)
    except ValueError:
        form = '{"endpoints":[{"kind":…,"url":…,"counts":{fault: number}}]}'
        raise ValueError(f"a report is {form}") from None
    counts: Counter[Series] = Counter()
    for series, count in _series(report["endpoints"]):
        kind, _, fault = series
        if kind not in set(Kind):
            raise ValueError(f"kind must be one of {', '.join(Kind)}")
        if fault not in FAULTS:
            raise ValueError(f"a fault must be one of {', '.join(FAULTS)}")
        if type(count) is not int or not 1 <= count <= MAX_COUNT:
            raise ValueError(f"a count must be a whole number from 1 to {MAX_COUNT}")
        counts[series] = min(counts[series] + count, MAX_COUNT)
    return counts


class ClientReports:
    """The counts of this worker and of the others.

    Args:
        directory: The state folder.
        stem: Start of the names of the files.
    """

    def __init__(self, directory: StateDirectory, stem: str) -> None:
        self._directory = directory
        self._prefix = f"{stem}.reports."
        # Not the process id, which a later worker may have again.
        self._name = f"{self._prefix}{uuid.uuid4().hex}.json"
        self._steps: defaultdict[int, Counter[Series]] = defaultdict(Counter)
        self._changed = False
        self._saved_at = 0.0
        self._table_name = f"{stem}.addresses"
        self._own_table = b""
        self._lock = threading.Lock()  # of that table

    def admit(self, address: str, now: float) -> bool:
        """Count a report, and tell whether it is within the limit of its address.

        While the table in the state folder cannot be used, this process counts for itself.

        Args:
            address: IP address of the client.
            now: POSIX seconds.
        """
        name, directory = self._table_name, self._directory
        try:
            with directory.locked(f"{name}.lock"):
                known = directory.load(name, bytes, "the reports of each address") or b""
                table = _counted(known, address, now)
                if table:
                    directory.write(name, table, sync=False)
        except OSError:
            with self._lock:
                table = _counted(self._own_table, address, now)
                self._own_table = table or self._own_table
        return bool(table)

    def add(self, report: Counter[Series], listed: Listed) -> None:
        """Add the counts of a report for endpoints that are served."""
        counts = self._steps[_step()]
        for series, count in report.items():
            known = series in counts or sum(map(len, self._steps.values())) < MAX_SERIES
            if series[:2] in listed and known:
                counts[series] += count
                self._changed = True

    def save(self) -> None:
        """Write the counts of this worker if they have changed; called every turn."""
        now = time.monotonic()
        if not self._changed or now - self._saved_at < SAVE_EVERY:
            return
        self._saved_at, self._changed = now, False
        for step in [step for step in self._steps.copy() if not _is_recent(step)]:
            del self._steps[step]
        record: _CountsRecord = {
            "steps": [
                {"step": step, "endpoints": _entries(counts)}
                for step, counts in self._steps.copy().items()
            ]
        }
        self._directory.save(self._name, json.dumps(record).encode(), "the clients' reports")

    def totals(self, listed: Listed) -> list[ReportedEndpoint]:
        """Return the counts of the last hour, of all workers, for the endpoints that are served."""
        totals: Counter[Series] = Counter()
        for step, counts in [*self._steps.copy().items(), *self._steps_of_others()]:
            if _is_recent(step):
                totals.update(counts.copy())
        return [e for e in _entries(totals) if (e["kind"], e["url"]) in listed]

    def _steps_of_others(self) -> Iterator[tuple[int, Counter[Series]]]:
        for name in self._directory.names():
            if not name.startswith(self._prefix) or name == self._name:
                continue
            written = self._directory.fingerprint(name).mtime_ns / 1e9
            if time.time() - written > STEP * (STEPS + 1):
                self._directory.remove(name)
                continue
            record = self._directory.load(name, _parse_counts, "the clients' reports")
            for step in record["steps"] if record else ():
                yield step["step"], Counter(dict(_series(step["endpoints"])))


def _counted(table: bytes, address: str, now: float) -> bytes:
    """Count a report in a table of addresses.

    Returns:
        The new table, which begins anew each minute; empty if the address has reached its limit, or
        if the table is full of other addresses.
    """
    minute = int(now // 60).to_bytes(_MINUTE)
    if not table.startswith(minute):
        table = minute
    key = hashlib.blake2b(minute + address.encode(), digest_size=_HASH).digest()
    found = table.find(key, _MINUTE)
    offset = len(table) if found < 0 else found
    reports = 0 if found < 0 else table[found + _HASH]
    if offset >= _TABLE or reports >= MAX_REPORTS:
        return b""
    return table[:offset] + key + bytes([reports + 1]) + table[offset + _HASH + 1 :]


def _parse_counts(data: bytes) -> _CountsRecord:
    return parse_record(data, _CountsRecord)


def _step() -> int:
    return int(time.time() // STEP)


def _is_recent(step: int) -> bool:
    return 0 <= _step() - step < STEPS


def _series(entries: Iterable[ReportedEndpoint]) -> Iterator[tuple[Series, int]]:
    for entry in entries:
        for fault, count in entry["counts"].items():
            yield (entry["kind"], entry["url"], fault), count


def _entries(counts: Counter[Series]) -> list[ReportedEndpoint]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for (kind, url, fault), count in sorted(counts.copy().items()):
        found.setdefault((kind, url), {})[fault] = count
    return [{"kind": kind, "url": url, "counts": counts} for (kind, url), counts in found.items()]
