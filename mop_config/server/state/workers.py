"""WorkerRegistry writes this worker's record, and reads those of the host's other workers.

The worker that answers a request for the status reads the records of all workers of the host. A
worker that is killed leaves its record behind. The next reader sees that the process is gone, and
removes the record.
"""

import contextlib
import hashlib
import os
import socket
import time
from pathlib import Path
from typing import Any, NotRequired, TypedDict

from ...model.codec import rfc3339
from ..parsing.problems import ProblemRecord
from ..serving.store import Reload
from .directory import StateDirectory, dump_record, parse_record

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


class ServedDocument(TypedDict):
    """What a worker or the host serves, as the status document shows it.

    ``counts`` has the number of endpoints of each kind, ``problem_counts`` the exact numbers of
    problems; at most 100 problems are named.
    """

    etag: str
    state: str
    loaded_at: str
    counts: dict[str, int]
    complete: bool
    problem_counts: dict[str, int]
    problems: list[ProblemRecord]
    planned: list[dict[str, str]]


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
    the same id; ``WorkerRegistry.write`` adds it. The problems of the process rather than of the
    source are the first ones in ``served``. ``history`` has the newest reload first, and
    ``answered`` is the number of the newest request to reload that the worker has answered.
    """

    pid: int
    started: NotRequired[str]
    served: ServedDocument
    watcher: WatcherRecord
    history: list[ReloadRecord]
    figures: WorkerFigures
    answered: int


def reload_record(reload: Reload) -> ReloadRecord:
    """Return the record of a reload."""
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
    return {"moment": reload.moment, "entry": entry}


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
        self._written: WorkerRecord | None = None

    def _name(self, pid: int) -> str:
        return f"{self._prefix}{pid}.json"

    def write(self, state: WorkerRecord) -> bool:
        """Write the record of this worker if it has changed, or if the folder was cleared.

        Returns:
            False if the record cannot be written.
        """
        name = self._name(state["pid"])
        if state == self._written and not self._directory.fingerprint(name).error:
            return True
        record = dump_record({"started": started(state["pid"]), **state})
        done = self._directory.save(name, record, "this worker's state")
        self._written = state if done else None
        return done

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
            state: WorkerRecord | None = self._directory.load(
                name, parse_record, "the record of a worker"
            )
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
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return "unknown"
    return ""
