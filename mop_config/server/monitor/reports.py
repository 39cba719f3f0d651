"""ClientReports: what clients report of the endpoints, counted over the last hour.

All workers of a host share the counts in the state folder, in a record for each step of five
minutes, and write the records under one lock. They limit an address together, too: the record also
has a table of the reports of each address in this minute.
"""

import hashlib
import json
import time
from collections import Counter
from typing import Any, TypedDict

from ...model.endpoint import Kind
from ...net.faults import COUNTED
from ..state.directory import LONG_PATIENCE, StateDirectory, dump_record, parse_record

#: The word for requests that an endpoint answered.
OK = "ok"
#: The words that a report may use: ``ok``, and the faults that speak against an endpoint.
FAULTS = (OK, *sorted(COUNTED))
#: Limit of one count in a report.
MAX_COUNT = 10_000
_FORM = (
    'a report is {"endpoints":[{"kind":…,"url":…,"counts":{fault: number}}]}, with a kind of'
    f" {', '.join(Kind)}, a fault of {', '.join(FAULTS)}, and a number from 1 to {MAX_COUNT}"
)
#: Limit of reports from one address in a minute, and of addresses that are told apart: those whose
#: hashes have the same remainder share a limit.
MAX_REPORTS, MAX_ADDRESSES = 10, 10_000
#: Size in bytes of the minute at the start of the table of addresses; each count is one byte.
_MINUTE = 8
#: Limit of the different counts in a step; beyond it new ones are left out.
MAX_SERIES = 2_000
#: The hour is counted in steps of five minutes.
STEP, STEPS = 300, 12
#: The files in words, for the log.
_WHAT = "the clients' reports"

#: Kind, URL and fault.
Series = tuple[str, str, str]
#: Kind and URL of each endpoint that is served.
Listed = frozenset[tuple[str, str]]


class ReportedEndpoint(TypedDict):
    """One endpoint in a report, a record and the status: the count of each fault, and of ``ok``."""

    kind: str
    url: str
    counts: dict[str, int]


def parse_report(body: bytes) -> Counter[Series]:
    """Parse the body of a report.

    Raises:
        ValueError: If it is not a report; the message says what is allowed.
    """
    try:
        report = _series(json.loads(body))
    except (ValueError, LookupError, TypeError, RecursionError):
        raise ValueError(_FORM) from None
    counts: Counter[Series] = Counter()
    for series, count in report:
        kind, _, fault = series
        is_number = type(count) is int and 1 <= count <= MAX_COUNT
        if not is_number or kind not in set(Kind) or fault not in FAULTS:
            raise ValueError(_FORM)
        counts[series] = min(counts[series] + count, MAX_COUNT)
    return counts


class ClientReports:
    """The counts of a host.

    Args:
        directory: The state folder.
        stem: Start of the names of the files.
    """

    def __init__(self, directory: StateDirectory, stem: str) -> None:
        self._directory = directory
        self._stem = stem

    def add(self, report: Counter[Series], listed: Listed, address: str, now: float) -> bool:
        """Add the counts of a report for endpoints that are served, within its address's limit.

        While the state folder cannot be used, nothing is counted, and no address is limited.

        Args:
            report: The counts.
            listed: The endpoints that are served.
            address: IP address of the client.
            now: POSIX seconds, for the limit.

        Returns:
            False if the address has reached its limit.
        """
        step = _step()
        directory = self._directory
        try:
            with directory.locked(f"{self._stem}.reports.lock", patience=LONG_PATIENCE):
                known = self._record(step)
                table = _counted(bytes.fromhex(known["addresses"]), address, now)
                if not table:
                    return False
                counts = Counter(dict(_series(known)))
                for series, count in report.items():
                    if series[:2] in listed and (series in counts or len(counts) < MAX_SERIES):
                        counts[series] += count
                record = {"step": step, "endpoints": _entries(counts), "addresses": table.hex()}
                directory.save(self._name(step), dump_record(record), _WHAT)
        except OSError as error:
            directory.complain(_WHAT, error)
        return True

    def totals(self, listed: Listed) -> list[ReportedEndpoint]:
        """Return the counts of the last hour for the endpoints that are served."""
        totals: Counter[Series] = Counter()
        for age in range(STEPS):
            totals.update(dict(_series(self._record(_step() - age))))
        return [e for e in _entries(totals) if (e["kind"], e["url"]) in listed]

    def _name(self, step: int) -> str:
        # The name of the step an hour before, whose record is replaced.
        return f"{self._stem}.reports.{step % STEPS}"

    def _record(self, step: int) -> Any:
        record = self._directory.load(self._name(step), parse_record, _WHAT)
        known = record is not None and record["step"] == step
        return record if known else {"endpoints": [], "addresses": ""}


def _counted(table: bytes, address: str, now: float) -> bytes:
    """Count a report in a table of addresses.

    Returns:
        The new table, which begins anew each minute; empty if the address has reached its limit.
    """
    minute = int(now // 60).to_bytes(_MINUTE)
    if not table.startswith(minute) or len(table) != _MINUTE + MAX_ADDRESSES:
        table = minute + bytes(MAX_ADDRESSES)
    digest = hashlib.blake2b(minute + address.encode(), digest_size=8).digest()
    place = _MINUTE + int.from_bytes(digest) % MAX_ADDRESSES
    if table[place] >= MAX_REPORTS:
        return b""
    return table[:place] + bytes([table[place] + 1]) + table[place + 1 :]


def _step() -> int:
    return int(time.time() // STEP)


def _series(document: Any) -> list[tuple[Series, int]]:
    """Return the counts in a report or in the record of a step.

    Raises:
        ValueError, LookupError or TypeError: If the document is neither.
    """
    found = []
    for entry in document["endpoints"]:
        match entry:
            case {"kind": str(kind), "url": str(url), "counts": dict(counts)}:
                found += [((kind, url, fault), count) for fault, count in counts.items()]
            case _:
                raise ValueError(f"not an endpoint with its counts: {entry!r}")
    return found


def _entries(counts: Counter[Series]) -> list[ReportedEndpoint]:
    found: dict[tuple[str, str], dict[str, int]] = {}
    for (kind, url, fault), count in sorted(counts.items()):
        found.setdefault((kind, url), {})[fault] = count
    return [{"kind": kind, "url": url, "counts": counts} for (kind, url), counts in found.items()]
