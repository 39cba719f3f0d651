"""ProbeResults: the file in the state folder through which all workers know the check results.

The worker that checks may be killed at any moment, and another worker takes over. The file names
the process that wrote it, so that a reader sees whether that process still runs.
"""

import json
import logging
import math
import os
import time
from collections.abc import Collection
from typing import TypedDict

from ...health.state import HealthState
from ...model.codec import MAX_DATE, rfc3339
from ...model.endpoint import Kind
from ..sources.file import Fingerprint
from ..state.directory import StateDirectory
from ..state.worker_record import parse_record
from ..state.workers import place, started
from .schedule import DETAIL, RECENT, EndpointRecord

logger = logging.getLogger(__name__)

_FORMAT = 2
#: Results are out of date after this number of intervals and, for checks that hang, these seconds.
OLD_INTERVALS = 3
OLD_SECONDS = 15.0


class ResultsRecord(TypedDict):
    """The file: who wrote it, and the results for each endpoint."""

    format: int
    pid: int
    started: str
    place: str
    endpoints: list[EndpointRecord]


class EndpointHealth(TypedDict):
    """One endpoint in the status document; ``up`` is None before the first check."""

    kind: str
    url: str
    state: str
    up: bool | None
    response_seconds: float | None
    checked_at: str | None
    detail: str
    certificate_expires: str | None
    recent: list[float | None]


class HealthDocument(TypedDict):
    """The member ``health`` of the status document."""

    interval_seconds: float
    alive: bool
    pid: int | None
    checked_at: str | None
    endpoints: list[EndpointHealth]


class ProbeResults:
    """The results for the endpoints of one source.

    Args:
        directory: The state folder.
        name: Name of the record.
        interval: Seconds between two checks of an endpoint.
    """

    def __init__(self, directory: StateDirectory, name: str, interval: float) -> None:
        self._directory = directory
        self._name = name
        self._interval = interval
        self._seen: Fingerprint | None = None  # of the file when it was parsed
        self._parsed: ResultsRecord | None = None

    def write(self, endpoints: list[EndpointRecord]) -> bool:
        """Write this process's results for all workers.

        Returns:
            Whether that worked. If not, there is one warning until it works again.
        """
        pid = os.getpid()
        record: ResultsRecord = {
            "format": _FORMAT,
            "pid": pid,
            "started": started(pid),
            "place": place(),
            "endpoints": endpoints,
        }
        what = "the results of the health checks"
        return self._directory.save(self._name, json.dumps(record).encode(), what)

    def read(self) -> list[EndpointRecord]:
        """Return the latest results of any worker; empty if the file is missing or damaged."""
        record = self._read()
        return [] if record is None else record["endpoints"]

    def health(self, listed: Collection[tuple[str, str]] | None = None) -> HealthDocument:
        """Return the member ``health`` of the status document.

        Args:
            listed: Kind and URL of each served endpoint, since the results may be older than the
                list; None for no restriction.
        """
        record = self._read()
        endpoints = [] if record is None else record["endpoints"]
        alive = record is not None and _may_live(record)
        # A worker writes after every check, but has nothing to write for an empty list.
        alive = alive and not (endpoints and self._is_old())
        if listed is not None:
            endpoints = [e for e in endpoints if (e["kind"], e["url"]) in listed]
        return {
            "interval_seconds": self._interval,
            "alive": alive,
            "pid": record["pid"] if alive and record is not None else None,
            "checked_at": _time(max((e["checked_at"] or 0.0 for e in endpoints), default=0.0)),
            "endpoints": [_shown(endpoint) for endpoint in endpoints],
        }

    def _is_old(self) -> bool:
        written = 0.0 if self._seen is None else self._seen.mtime_ns / 1e9
        return time.time() - written > OLD_INTERVALS * self._interval + OLD_SECONDS

    def _read(self) -> ResultsRecord | None:
        try:
            seen = self._directory.fingerprint(self._name)
            if seen != self._seen:
                self._seen, self._parsed = seen, _parsed(self._directory.read(self._name))
            return self._parsed
        except OSError:
            return None


def _may_live(record: ResultsRecord) -> bool:
    """Whether the writer may still run; a process of another container cannot be looked up."""
    started_then = record["started"]
    return record["place"] != place() or started(record["pid"]) == started_then != ""


def _time(posix: float | None) -> str | None:
    return rfc3339(posix) if posix else None


def _shown(endpoint: EndpointRecord) -> EndpointHealth:
    state = HealthState(endpoint["state"])
    recent = endpoint["recent"]
    return {
        "kind": endpoint["kind"],
        "url": endpoint["url"],
        "state": state.value,
        "up": None if state is HealthState.UNKNOWN else state.usable,
        "response_seconds": recent[-1] if recent else None,
        "checked_at": _time(endpoint["checked_at"]),
        "detail": endpoint["detail"],
        "certificate_expires": _time(endpoint["certificate_expires"]),
        "recent": recent,
    }


def _parsed(data: bytes) -> ResultsRecord | None:
    """Parse the file; None if it is torn, foreign, or of another version."""
    record = parse_record(data, ResultsRecord)
    if record is None or record["format"] != _FORMAT or record["pid"] < 0:
        return None
    return record if all(map(_is_good, record["endpoints"])) else None


def _is_good(endpoint: EndpointRecord) -> bool:
    return (
        endpoint["kind"] in set(Kind)
        and endpoint["state"] in set(HealthState)
        and endpoint["failures"] >= 0
        and 0 <= (endpoint["checked_at"] or 0.0) <= MAX_DATE
        and 0 <= (endpoint["certificate_expires"] or 0.0) <= MAX_DATE
        and len(endpoint["detail"]) <= DETAIL
        and len(endpoint["recent"]) <= RECENT
        and all(0 <= (seconds or 0.0) < math.inf for seconds in endpoint["recent"])
    )
