"""ProbeResults: the records through which all workers know the check results and their history.

The worker that checks may be killed at any moment, and another worker takes over. The history has a
record of its own, because it is larger and is written less often.
"""

import json
import os
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, TypedDict, TypeVar

from ...health.state import HealthState
from ..sources.file import Fingerprint
from ..state.directory import StateDirectory
from ..state.workers import parse_record
from .schedule import EndpointHealth, Slot, Slots

T = TypeVar("T")

#: Results are out of date after this number of intervals and, for checks that hang, these seconds.
OLD_INTERVALS = 3
OLD_SECONDS = 15.0


class ResultsRecord(TypedDict):
    """The record of the results: the process that wrote it, and the results for each endpoint."""

    pid: int
    endpoints: list[EndpointHealth]


class _SlotsRecord(TypedDict):
    kind: str
    url: str
    slots: list[list[float]]


class _HistoryRecord(TypedDict):
    endpoints: list[_SlotsRecord]


class HealthDocument(TypedDict):
    """The member ``health`` of the status document."""

    interval_seconds: float
    alive: bool
    pid: int | None
    checked_at: str | None
    endpoints: list[EndpointHealth]


class ProbeResults:
    """The results for the endpoints of one source, and their history.

    Args:
        directory: The state folder.
        stem: Start of the names of the records.
        interval: Seconds between two checks of an endpoint.
    """

    def __init__(self, directory: StateDirectory, stem: str, interval: float) -> None:
        self._directory = directory
        self._interval = interval
        self._results = f"{stem}.checks.json", "the results of the health checks"
        self._history = f"{stem}.day.json", "the history of the health checks"
        self._parsed: dict[str, tuple[Fingerprint, Any]] = {}

    def write(self, endpoints: list[EndpointHealth]) -> bool:
        """Write this process's results for all workers.

        Returns:
            Whether that worked. If not, there is one warning until it works again.
        """
        return self._write(self._results, pid=os.getpid(), endpoints=endpoints)

    def write_history(self, slots: Slots) -> None:
        """Write the history of all endpoints; a failure costs the history only."""
        rows = [{"kind": kind, "url": url, "slots": found} for (kind, url), found in slots.items()]
        self._write(self._history, endpoints=rows)

    def _write(self, record: tuple[str, str], **members: Any) -> bool:
        name, what = record
        return self._directory.save(name, json.dumps(members).encode(), what)

    def read(self) -> list[EndpointHealth]:
        """Return the latest results of any worker; empty without a usable record."""
        _, record = self._read(self._results, _parse_results)
        return [] if record is None else record["endpoints"]

    def history(self) -> Slots:
        """Return the history of all endpoints; empty without a usable record."""
        return self._read(self._history, _parse_history)[1] or {}

    def _read(
        self, record: tuple[str, str], parse: Callable[[bytes], T]
    ) -> tuple[Fingerprint, T | None]:
        """Return when a record was written and its value, parsed again only after a change."""
        name, what = record
        seen = self._directory.fingerprint(name)
        known = self._parsed.get(name)
        if known is None or known[0] != seen:
            value = None if seen.error else self._directory.load(name, parse, what)
            known = self._parsed[name] = seen, value
        return known

    def health(self, listed: Collection[tuple[str, str]]) -> HealthDocument:
        """Return the member ``health`` of the status document.

        Args:
            listed: Kind and URL of each served endpoint, since the results may be older than the
                list.
        """
        seen, record = self._read(self._results, _parse_results)
        endpoints = [] if record is None else record["endpoints"]
        # Of a worker that was killed, another worker takes over the checks within a second.
        age = time.time() - seen.mtime_ns / 1e9
        limit = OLD_INTERVALS * self._interval + OLD_SECONDS
        # A worker writes after every check, but has nothing to write for an empty list.
        alive = record is not None and (age <= limit or not endpoints)
        endpoints = [e for e in endpoints if (e["kind"], e["url"]) in listed]
        return {
            "interval_seconds": self._interval,
            "alive": alive,
            "pid": record["pid"] if alive and record is not None else None,
            "checked_at": max((e["checked_at"] or "" for e in endpoints), default="") or None,
            "endpoints": endpoints,
        }


def _parse_results(data: bytes) -> ResultsRecord:
    record = parse_record(data, ResultsRecord)
    for endpoint in record["endpoints"]:
        HealthState(endpoint["state"])
        for moment in (endpoint["checked_at"], endpoint["certificate_expires"]):
            datetime.fromisoformat(moment or "1970-01-01")
    return record


def _parse_history(data: bytes) -> Slots:
    found = {}
    for endpoint in parse_record(data, _HistoryRecord)["endpoints"]:
        rows = endpoint["slots"]
        slots = [Slot(int(n), int(checks), int(good), s) for n, checks, good, s in rows]
        if not all(slot.checks for slot in slots):
            raise ValueError("a slot without a check")
        found[endpoint["kind"], endpoint["url"]] = slots
    return found
