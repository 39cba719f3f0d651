"""ClientReports: what clients report of the endpoints, counted over the last hour.

Each worker counts the reports that it receives, and writes its counts into a file of its own in
the state folder. A reader adds up the files of all workers. A file stays when its worker ends,
until its counts are an hour old, so that the end of a worker takes no count away.
"""

import json
import time
import uuid
from collections import Counter
from typing import TypedDict

from ...errors import MopConfigError
from ...model.endpoint import Kind
from ...net.faults import COUNTED
from ..state.directory import StateDirectory
from ..state.worker_record import parse_record

_FORMAT = 1
#: The word for requests that an endpoint answered.
OK = "ok"
#: The words that a report may use: ``ok``, and the faults that speak against an endpoint.
FAULTS = (OK, *sorted(COUNTED))
#: Limit of one count in a report.
MAX_COUNT = 10_000
#: Limit of reports from one address in a minute, and of addresses that are remembered.
MAX_REPORTS, MAX_ADDRESSES = 10, 10_000
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


class ReportError(MopConfigError):
    """A report that cannot be used; the message says what is allowed."""


class _Entry(TypedDict):
    kind: str
    url: str
    counts: dict[str, int]


class _Report(TypedDict):
    endpoints: list[_Entry]


class _StepCount(TypedDict):
    step: int
    kind: str
    url: str
    fault: str
    count: int


class _CountsRecord(TypedDict):
    format: int
    counts: list[_StepCount]


class ReportedEndpoint(TypedDict):
    """One endpoint in the status document: the count of each fault, and of ``ok``."""

    kind: str
    url: str
    counts: dict[str, int]


def parse_report(body: bytes) -> Counter[Series]:
    """Parse the body of a report.

    Raises:
        ReportError: If it is not a report.
    """
    report = parse_record(body, _Report)
    if report is None:
        raise ReportError('a report is {"endpoints":[{"kind":…,"url":…,"counts":{fault: number}}]}')
    counts: Counter[Series] = Counter()
    for entry in report["endpoints"]:
        if entry["kind"] not in set(Kind):
            raise ReportError(f"kind must be one of {', '.join(Kind)}")
        for fault, count in entry["counts"].items():
            if fault not in FAULTS:
                raise ReportError(f"a fault must be one of {', '.join(FAULTS)}")
            if type(count) is not int or not 1 <= count <= MAX_COUNT:
                raise ReportError(f"a count must be a whole number from 1 to {MAX_COUNT}")
            series = entry["kind"], entry["url"], fault
            counts[series] = min(counts[series] + count, MAX_COUNT)
    return counts


class ReportLimit:
    """The limit of reports for each address, in this worker."""

    def __init__(self) -> None:
        self._minute = 0
        self._reports: Counter[str] = Counter()

    def admit(self, address: str, now: float) -> bool:
        """Count a report, and tell whether it is within the limit.

        Args:
            address: IP address of the client.
            now: Monotonic seconds.
        """
        minute = int(now // 60)
        if minute != self._minute:
            self._minute, self._reports = minute, Counter()
        if address not in self._reports and len(self._reports) >= MAX_ADDRESSES:
            return False
        self._reports[address] += 1
        return self._reports[address] <= MAX_REPORTS


class ClientReports:
    """The counts of this worker and of the others.

    Args:
        directory: The state folder.
        stem: Start of the names of the files.
    """

    def __init__(self, directory: StateDirectory, stem: str) -> None:
        self._directory = directory
        self._stem = stem
        self._prefix = f"{stem}.reports."
        # Not the process id, which a later worker may have again.
        self._name = f"{self._prefix}{uuid.uuid4().hex}.json"
        self._counts: Counter[tuple[int, Series]] = Counter()
        self._changed = False
        self._saved_at = 0.0
        self.limit = ReportLimit()

    def for_process(self) -> "ClientReports":
        """Return an object with a file of its own, for a process that was forked from this one."""
        return ClientReports(self._directory, self._stem)

    def add(self, report: Counter[Series], listed: Listed) -> None:
        """Add the counts of a report for endpoints that are served."""
        step = _step()
        for series, count in report.items():
            key = step, series
            known = key in self._counts or len(self._counts) < MAX_SERIES
            if series[:2] in listed and known:
                self._counts[key] += count
                self._changed = True

    def save(self) -> None:
        """Write the counts of this worker if they have changed; called every turn."""
        now = time.monotonic()
        if not self._changed or now - self._saved_at < SAVE_EVERY:
            return
        self._saved_at, self._changed = now, False
        self._forget()
        rows: list[_StepCount] = [
            {"step": step, "kind": kind, "url": url, "fault": fault, "count": count}
            for (step, (kind, url, fault)), count in self._counts.copy().items()
        ]
        record: _CountsRecord = {"format": _FORMAT, "counts": rows}
        self._directory.save(self._name, json.dumps(record).encode(), "the clients' reports")

    def _forget(self) -> None:
        oldest = _step() - STEPS
        for key in [key for key in self._counts.copy() if key[0] <= oldest]:
            del self._counts[key]

    def totals(self, listed: Listed) -> list[ReportedEndpoint]:
        """Return the counts of the last hour, of all workers, for the endpoints that are served."""
        newest = _step()
        steps = range(newest - STEPS + 1, newest + 1)
        totals: Counter[Series] = Counter()
        for (step, series), count in self._counts.copy().items():
            totals[series] += count * (step in steps)
        for row in self._rows_of_others():
            totals[row["kind"], row["url"], row["fault"]] += row["count"] * (row["step"] in steps)
        found: dict[tuple[str, str], dict[str, int]] = {}
        for (kind, url, fault), count in sorted(totals.items()):
            if count and (kind, url) in listed:
                found.setdefault((kind, url), {})[fault] = count
        return [
            {"kind": kind, "url": url, "counts": counts} for (kind, url), counts in found.items()
        ]

    def _rows_of_others(self) -> list[_StepCount]:
        rows: list[_StepCount] = []
        for name in self._directory.list_names():
            if not name.startswith(self._prefix) or name == self._name:
                continue
            written = self._directory.fingerprint(name).mtime_ns / 1e9
            if time.time() - written > STEP * (STEPS + 1):
                self._directory.remove(name)
                continue
            try:
                record = parse_record(self._directory.read(name), _CountsRecord)
            except OSError:
                continue
            if record is not None and record["format"] == _FORMAT:
                rows += [row for row in record["counts"] if row["fault"] in FAULTS]
        return rows


def _step() -> int:
    return int(time.time() // STEP)
