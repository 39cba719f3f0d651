"""WorkerRegistry writes this worker's record, and reads those of the host's other workers.

The worker that answers a request for the status reads the records of all workers of the host. A
record may be torn, foreign or of another version of mop-config, so the reader checks the type of
every member before any other module uses the record. A worker that is killed leaves its record
behind. The next reader sees that the process is gone, and removes the record.
"""

import contextlib
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterable
from datetime import datetime
from functools import cache
from pathlib import Path
from types import UnionType
from typing import (
    Any,
    NotRequired,
    TypedDict,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from ...model.codec import rfc3339
from ..parsing.attributes import PlannedDocument
from ..parsing.problems import Problem, ProblemRecord, Severity
from ..serving.store import Reload, Result, ServerState, SourceState
from .directory import StateDirectory

T = TypeVar("T")

#: Seconds since the last write after which a worker's record is removed.
FORGOTTEN = 86400.0
#: Part of the name of each worker's record.
WORKER = ".worker."


class ReloadDocument(TypedDict):
    """A reload as the status document shows it; ``at`` is RFC 3339. See ``Reload``."""

    at: str
    trigger: str
    result: str
    error: str | None
    duration_seconds: float


class HistoryEntry(ReloadDocument):
    """A reload in the history of the status document."""

    etag: str | None
    code: NotRequired[str | None]
    change: NotRequired[dict[str, Any]]


class ReloadRecord(TypedDict):
    """A reload of a worker, and the monotonic time that orders the reloads of all workers."""

    moment: float
    entry: HistoryEntry


class WatcherRecord(TypedDict):
    """How a worker notices changes of its source, and whether that works now."""

    mode: str
    alive: bool


class EndpointCounts(TypedDict):
    """The number of served endpoints of each kind."""

    api: int
    socketio: int


class ProblemCounts(TypedDict):
    """The exact numbers of problems; at most 100 problems are named."""

    error: int
    warning: int


class ServedDocument(TypedDict):
    """What a worker or the host serves, as the status document shows it."""

    etag: str
    state: str
    loaded_at: str
    counts: EndpointCounts
    complete: bool
    problem_counts: ProblemCounts
    problems: list[ProblemRecord]
    planned: list[PlannedDocument]


class WorkerFigures(TypedDict):
    """Figures of a worker that only the gauges need.

    ``waiters`` counts parked requests, ``good_at`` is the POSIX time at which the source was last
    found good (0 for never), and ``late`` is whether the reload thread hangs.
    """

    waiters: int
    good_at: float
    late: bool


class WorkerRecord(TypedDict):
    """The state of one worker, with the parts of the status document that are the worker's own.

    ``started`` is the start time of the process, which distinguishes it from a later process with
    the same id; ``WorkerRegistry.write`` adds it. ``history`` has the newest reload first, and
    ``answered`` is the number of the newest request to reload that the worker has answered.
    """

    pid: int
    started: NotRequired[str]
    served: ServedDocument
    watcher: WatcherRecord
    history: list[ReloadRecord]
    figures: WorkerFigures
    answered: int


def worker_record(
    pid: int,
    view: ServerState,
    watcher: WatcherRecord,
    notices: Iterable[Problem],
    figures: WorkerFigures,
    answered: int,
) -> WorkerRecord:
    """Make the record that a worker writes into the state folder.

    Args:
        pid: Process id of the worker.
        view: What the worker serves.
        watcher: How the worker notices changes of its source.
        notices: Problems of the process rather than of the source; they are listed first.
        figures: Figures for the gauges.
        answered: The number of the newest request to reload that the worker has answered.
    """
    snapshot, notices = view.snapshot, list(notices)
    errors = sum(notice.severity is Severity.ERROR for notice in notices)
    return {
        "pid": pid,
        "served": {
            "etag": snapshot.etag,
            "state": view.state.value,
            "loaded_at": rfc3339(snapshot.loaded_at),
            "counts": {"api": snapshot.api_count, "socketio": snapshot.socketio_count},
            "complete": view.complete,
            "problem_counts": {
                "error": view.errors + errors,
                "warning": view.warnings + len(notices) - errors,
            },
            "problems": [problem.as_dict() for problem in (*notices, *view.problems)],
            "planned": [change.as_dict() for change in view.planned],
        },
        "watcher": watcher,
        "history": [{"moment": each.moment, "entry": _entry(each)} for each in view.history],
        "figures": figures,
        "answered": answered,
    }


def _entry(reload: Reload) -> HistoryEntry:
    entry: HistoryEntry = {
        "at": rfc3339(reload.at),
        "trigger": reload.trigger.value,
        "result": reload.result.value,
        "error": reload.error,
        "duration_seconds": round(reload.duration, 6),
        "etag": reload.etag,
        "code": reload.code,
    }
    if reload.change is not None:
        entry["change"] = reload.change._asdict()
    return entry


def parse_record(data: bytes, expected: type[T]) -> T:
    """Parse a record from JSON.

    Args:
        data: The bytes of a file in the state folder.
        expected: The ``TypedDict`` of the record.

    Raises:
        ValueError: If the data is torn or does not have the expected type.
    """
    with contextlib.suppress(ValueError, RecursionError):
        record: T = json.loads(data)
        if _has_type(record, expected):
            return record
    raise ValueError("torn, foreign, or of another version")


def read_record(data: bytes) -> WorkerRecord:
    """Parse a worker's record.

    Raises:
        ValueError: If the data is not a record that this version can use.
    """
    record = parse_record(data, WorkerRecord)
    if "started" not in record:
        raise ValueError("not a worker's record")
    SourceState(record["served"]["state"])
    datetime.fromisoformat(record["served"]["loaded_at"])
    for reload in record["history"]:
        datetime.fromisoformat(reload["entry"]["at"])
        Result(reload["entry"]["result"])
    return record


def reload_for(record: WorkerRecord, number: int) -> HistoryEntry | None:
    """Return the reload with which a worker has answered a request.

    The worker has read the source since the request, so its newest reload is the answer.

    Args:
        record: The worker's record.
        number: The number of the request; see ``ReloadRequests``.

    Returns:
        The reload, or None while the worker has not answered.
    """
    if record["answered"] < number or not record["history"]:
        return None
    return record["history"][0]["entry"]


def _has_type(value: Any, expected: Any) -> bool:
    """Return whether a value that was parsed from JSON has the type of a record's member."""
    if is_typeddict(expected):
        return isinstance(value, dict) and _has_members(value, expected)
    if isinstance(expected, UnionType):
        return any(_has_type(value, kind) for kind in get_args(expected))
    if get_origin(expected) is list:
        (kind,) = get_args(expected)
        return isinstance(value, list) and all(_has_type(item, kind) for item in value)
    if expected is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if expected is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, get_origin(expected) or expected)


def _has_members(value: dict[str, Any], expected: Any) -> bool:
    required = expected.__required_keys__
    return required <= value.keys() and all(
        _has_type(value[name], kind) for name, kind in _members(expected).items() if name in value
    )


@cache
def _members(record: Any) -> dict[str, Any]:
    return get_type_hints(record)


def key(subject: str) -> str:
    """Return a short hash of a subject, such as the path of a source, for names of records."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]


def place() -> str:
    """Return a name for the space in which process ids are unique: the PID namespace and the boot.

    Containers and machines may share a state folder, and each of them may have a process 7.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return key(f"{boot} {os.stat('/proc/self/ns/pid').st_ino}")
    except OSError:
        return key(socket.gethostname())


class WorkerRegistry:
    """The records of this worker and of the host's other workers.

    Args:
        directory: The state folder.
        key: Prefix of the records' names. It identifies the source, the settings and the PID
            namespace.
    """

    def __init__(self, directory: StateDirectory, key: str) -> None:
        self._directory = directory
        self._prefix = f"{key}{WORKER}"

    def is_missing(self, pid: int) -> bool:
        """Whether a worker's record is missing; the folder may have been cleared."""
        return self._directory.fingerprint(self._name(pid)).error != 0

    def _name(self, pid: int) -> str:
        return f"{self._prefix}{pid}.json"

    def write(self, state: WorkerRecord) -> bool:
        """Write the record of this worker; return False if it cannot be written."""
        record = {"started": started(state["pid"]), **state}
        name = self._name(state["pid"])
        return self._directory.save(name, json.dumps(record).encode(), "this worker's state")

    def remove(self, pid: int) -> None:
        """Remove a worker's record."""
        self._directory.remove(self._name(pid))

    def sweep(self) -> None:
        """Remove the records of all workers that have not been written for a day.

        This process cannot see whether a process of another PID namespace or machine is alive. A
        live worker writes its record again as soon as the record is missing.
        """
        for name in self._directory.names():
            written = self._directory.fingerprint(name).mtime_ns / 1e9
            if WORKER in name and time.time() - written > FORGOTTEN:
                self._directory.remove(name)

    def others(self, pid: int) -> list[WorkerRecord]:
        """Return the records of all live workers but the one with this process id."""
        states = []
        for name in self._directory.names():
            if not name.startswith(self._prefix) or not name.endswith(".json"):
                continue
            state = self._directory.load(name, read_record, "the record of a worker")
            if state is None or state["pid"] == pid:
                continue
            if started(state["pid"]) == state.get("started", "") != "":
                states.append(state)
            else:
                self.remove(state["pid"])
        return states


def started(pid: int) -> str:
    """Return the start time of a process as an opaque text; empty if the process is gone.

    The text distinguishes the process from a later process with the same id.
    """
    try:
        # After the name, which may contain spaces, field 0 is the state and 19 the start time.
        stat = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if stat[0] in {"Z", "X"} else stat[19]
    except (OSError, IndexError):
        pass
    if Path("/proc/self/stat").exists():
        return ""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return ""
    except OSError:
        pass
    return "unknown"
