"""What the worker that probes has found: one file in the state folder, which all workers read.

The worker may be killed at any moment, and another one takes over. So the file tells who
wrote it, and whoever reads it sees whether that process is still there.
"""

import json
import logging
import math
import os
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ...health.state import HealthState
from ...model.codec import MAX_DATE, rfc3339
from ...model.endpoint import Kind
from ..state import records
from ..state.workers import place, started
from .schedule import DETAIL, RECENT, Record

logger = logging.getLogger(__name__)

_FORMAT = 1
#: Findings are as old as they can be after so many intervals and so many seconds, in which
#: the checks that hang have ended.
OLD_INTERVALS = 3
OLD_SECONDS = 15.0


class ProbeResults:
    """The file of findings about the endpoints of one source.

    Args:
        path: Where it is.
        interval: Seconds between two checks.
    """

    def __init__(self, path: Path, interval: float) -> None:
        self._path = path
        self._interval = interval
        self._seen: tuple[tuple[int, ...], dict[str, Any] | None] = ((), None)
        self._unwritten: dict[str, Any] | None = None

    def write(self, endpoints: list[Record]) -> bool:
        """Put this process's findings where every worker finds them.

        Where that fails (False), there is one warning, and at least this process knows them.
        """
        pid = os.getpid()
        record = {
            "format": _FORMAT,
            "pid": pid,
            "started": started(pid),
            "place": place(),
            "endpoints": endpoints,
        }
        try:
            data = json.dumps(record).encode()
            records.write(self._path, data, sync=False)
            self._unwritten = None
            return True
        except OSError as error:
            if self._unwritten is None:
                logger.warning(
                    "the findings about the endpoints cannot be saved, so that other workers do"
                    " not know them: %s",
                    error.strerror or error,
                )
            self._unwritten = record
            return False

    def read(self) -> list[Record]:
        """Give what was found last, by whichever worker; nothing where none can be trusted."""
        record = self._read()
        return [] if record is None else list(record["endpoints"])

    def health(self, listed: Collection[tuple[str, str]] | None = None) -> dict[str, Any]:
        """Give the member ``health`` of the status document.

        Args:
            listed: Kind and URL of what is served: the findings may be older than the list.
                None is everything.
        """
        record = self._read()
        endpoints = [] if record is None else record["endpoints"]
        alive = record is not None and _may_live(record)
        # Where nothing is listed, nothing is found; else each check makes the file new.
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

    def _is_own(self) -> bool:
        return self._unwritten is not None and self._unwritten["pid"] == os.getpid()

    def _is_old(self) -> bool:
        """Whether the file is older than a worker at work could leave it."""
        if self._is_own():
            return False
        age = time.time() - self._seen[0][0] / 1e9
        return age > OLD_INTERVALS * self._interval + OLD_SECONDS

    def _read(self) -> dict[str, Any] | None:
        if self._is_own():
            return self._unwritten
        try:
            looked = records.signature(self._path)
            version = (looked.mtime_ns, looked.size, looked.inode)
            if version != self._seen[0]:
                self._seen = (version, _parsed(records.read(self._path)))
            return self._seen[1]
        except OSError:
            return None


def _may_live(record: dict[str, Any]) -> bool:
    """Whether the process that wrote a record may be there: of another container nobody knows."""
    started_then: str = record["started"]
    return record["place"] != place() or started(record["pid"]) == started_then != ""


def _time(posix: float | None) -> str | None:
    return rfc3339(posix) if posix else None


def _shown(endpoint: Record) -> dict[str, Any]:
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
        "recent": recent,
    }


def _parsed(data: bytes) -> dict[str, Any] | None:
    """Read a file of findings; None where it is torn, foreign, or of another version."""
    try:
        record: dict[str, Any] = json.loads(data)
        good = (
            record["format"] == _FORMAT
            and _is_count(record["pid"])
            and isinstance(record["started"], str)
            and isinstance(record["place"], str)
            and all(_is_good(endpoint) for endpoint in record["endpoints"])
        )
    except Exception:  # whatever stands there must not keep a server from answering
        return None
    return record if good else None


def _is_good(endpoint: Record) -> bool:
    recent = endpoint["recent"]
    return (
        endpoint["kind"] in set(Kind)
        and isinstance(endpoint["url"], str)
        and isinstance(endpoint["detail"], str)
        and len(endpoint["detail"]) <= DETAIL
        and endpoint["state"] in set(HealthState)
        and _is_count(endpoint["failures"])
        and (endpoint["checked_at"] is None or _is_number(endpoint["checked_at"], MAX_DATE))
        and isinstance(recent, list)
        and len(recent) <= RECENT
        and all(seconds is None or _is_number(seconds, math.inf) for seconds in recent)
    )


def _is_count(value: Any) -> bool:
    return type(value) is int and value >= 0


def _is_number(value: Any, most: float) -> bool:
    return type(value) in {int, float} and math.isfinite(value) and 0 <= value <= most
