"""ProbeResults: the records through which all workers know the check results and their history.

The worker that checks may be killed at any moment, and another worker takes over. The history has a
record of its own, because it is larger and is written less often.
"""

import json
import os
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Any, Generic, TypedDict, TypeVar

from ...health.state import HealthState
from ..sources.file import Fingerprint
from ..state.directory import StateDirectory
from ..state.workers import parse_record
from .history import Slot, Slots
from .schedule import EndpointHealth

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


class _SharedRecord(Generic[T]):
    """A record that one worker writes and all workers read."""

    def __init__(
        self, directory: StateDirectory, name: str, what: str, parse: Callable[[bytes], T]
    ) -> None:
        self._directory = directory
        self._name = name
        self._what = what
        self._parse = parse
        self._value: T | None = None
        self.seen: Fingerprint | None = None  # of the record when it was parsed

    def write(self, **members: Any) -> bool:
        return self._directory.save(self._name, json.dumps(members).encode(), self._what)

    def read(self) -> T | None:
        """Return the value, parsed again only if the record has changed; None without a record."""
        seen = self._directory.fingerprint(self._name)
        if seen != self.seen:
            self.seen = seen
            load = self._directory.load
            self._value = None if seen.error else load(self._name, self._parse, self._what)
        return self._value


class ProbeResults:
    """The results for the endpoints of one source, and their history.

    Args:
        directory: The state folder.
        stem: Start of the names of the records.
        interval: Seconds between two checks of an endpoint.
    """

    def __init__(self, directory: StateDirectory, stem: str, interval: float) -> None:
        self._interval = interval
        self._results = _SharedRecord(
            directory, f"{stem}.checks.json", "the results of the health checks", _parse_results
        )
        self._history = _SharedRecord(
            directory, f"{stem}.day.json", "the history of the health checks", _parse_history
        )

    def write(self, endpoints: list[EndpointHealth]) -> bool:
        """Write this process's results for all workers.

        Returns:
            Whether that worked. If not, there is one warning until it works again.
        """
        return self._results.write(pid=os.getpid(), endpoints=endpoints)

    def write_history(self, slots: Slots) -> None:
        """Write the history of all endpoints; a failure costs the history only."""
        self._history.write(
            endpoints=[
                {"kind": kind, "url": url, "slots": found} for (kind, url), found in slots.items()
            ]
        )

    def read(self) -> list[EndpointHealth]:
        """Return the latest results of any worker; empty without a usable record."""
        record = self._results.read()
        return [] if record is None else record["endpoints"]

    def history(self) -> Slots:
        """Return the history of all endpoints; empty without a usable record."""
        return self._history.read() or {}

    def health(self, listed: Collection[tuple[str, str]]) -> HealthDocument:
        """Return the member ``health`` of the status document.

        Args:
            listed: Kind and URL of each served endpoint, since the results may be older than the
                list.
        """
        record = self._results.read()
        endpoints = [] if record is None else record["endpoints"]
        # Of a worker that was killed, another worker takes over the checks within a second.
        seen = self._results.seen
        age = time.time() - (seen.mtime_ns / 1e9 if seen else 0.0)
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
    if record is None:
        raise ValueError("torn, foreign, or of another version")
    for endpoint in record["endpoints"]:
        HealthState(endpoint["state"])
        for moment in (endpoint["checked_at"], endpoint["certificate_expires"]):
            datetime.fromisoformat(moment or "1970-01-01")
    return record


def _parse_history(data: bytes) -> Slots:
    record = parse_record(data, _HistoryRecord)
    if record is None:
        raise ValueError("torn, foreign, or of another version")
    found = {}
    for endpoint in record["endpoints"]:
        rows = endpoint["slots"]
        slots = [Slot(int(n), int(checks), int(good), s) for n, checks, good, s in rows]
        if not all(slot.checks for slot in slots):
            raise ValueError("a slot without a check")
        found[endpoint["kind"], endpoint["url"]] = slots
    return found
