"""WorkerRegistry writes this worker's record, and reads those of the host's other workers.

A worker that is killed leaves its record behind. The next reader sees that the process is gone,
and removes the record.
"""

import hashlib
import json
import os
import socket
import time
from pathlib import Path

from .directory import StateDirectory
from .worker_record import WorkerRecord, read_record

#: Seconds since the last write after which a worker's record is removed.
FORGOTTEN = 86400.0
#: Part of the name of each worker's record.
WORKER = ".worker."


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
