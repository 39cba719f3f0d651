"""The workers' state files: how the workers of one host know of each other.

A worker that is killed leaves its file behind; whoever reads it next sees that no such
process is there any more, and takes it away.
"""

import contextlib
import hashlib
import json
import logging
import os
import socket
import time
from pathlib import Path

from . import records
from .worker_record import WorkerRecord, read_record

logger = logging.getLogger(__name__)

#: Seconds from one failure to write to the next try.
RETRY = 3.0
#: Seconds after which a worker's record is of no use to anybody.
FORGOTTEN = 86400.0
#: What the name of each worker's record has in it.
WORKER = ".worker."


def key(subject: str) -> str:
    """Give a short name for a file about something, such as the path of a source."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]


def prepare(folder: str, owner: int | None = None) -> tuple[Path, bool]:
    """Make the folder of a user's records in the state folder.

    Returns:
        The folder, and whether it can be written to; if not, there is a warning.
    """
    path = records.folder_in(Path(folder), owner)
    try:
        records.make(path, owner)
    except OSError as error:
        logger.warning(
            "the state folder %s cannot be written to (%s): a restart will not know the list"
            " that is good now",
            path,
            error.strerror or error,
        )
        return path, False
    _sweep(path, owner)
    return path, True


def served_by(folder: str) -> int | None:
    """Say whose records a command of root's shares: those of the user whose state folder it is.

    Returns:
        The user's id, or None where the records are this user's own.
    """
    if os.geteuid() != 0:
        return None
    try:
        return os.stat(folder).st_uid or None
    except OSError:
        return None


def hand_over(folder: str, user: int, group: int) -> None:
    """As root, make the folder of records of the user that the workers will run as."""
    path = records.folder_in(Path(folder), user)
    try:
        records.make(path, user, group)
    except OSError as error:
        logger.warning("%s cannot be made: %s", path, error.strerror or error)


def _sweep(folder: Path, owner: int | None) -> None:
    """Remove the records of workers of which nobody has heard for a day.

    Whether a process of another PID namespace or machine lives, nobody can see from here. One
    that does writes its record again as soon as it misses it.
    """
    with contextlib.suppress(OSError):
        for name in records.names(folder, owner):
            looked = records.signature(folder / name, owner)
            if WORKER in name and time.time() - looked.mtime_ns / 1e9 > FORGOTTEN:
                records.remove(folder / name, owner)


def place() -> str:
    """Name what process ids are unique in: a PID namespace of a running system.

    Containers, and machines, may share a state folder, and each has a process 7.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text()
        return key(f"{boot} {os.stat('/proc/self/ns/pid').st_ino}")
    except OSError:
        return key(socket.gethostname())


class WorkerRegistry:
    """One worker's file, and the view of all the others'.

    Args:
        folder: The folder of records.
        key: What the files are named by: of this source, served with these settings, by
            processes of this PID namespace.
        writable: What ``prepare`` said of the folder. If it could not be made, or vanishes,
            it is tried again.
    """

    def __init__(self, folder: Path, key: str, *, writable: bool = True) -> None:
        self._folder = folder
        self._prefix = f"{key}{WORKER}"
        self._made = writable
        self._unwritten = ""
        self._unread = ""
        self._complained = not writable
        self._retry_at = 0.0

    @property
    def trouble(self) -> str:
        """Why this worker's file could not be written or the others' not be read; or empty."""
        return self._unwritten or self._unread

    def is_due(self, pid: int) -> bool:
        """Whether a worker's file is missing, and it is time to try to write it."""
        if self._unwritten:
            return time.monotonic() >= self._retry_at
        return records.signature(self._path(pid)).error != 0

    def _path(self, pid: int) -> Path:
        return self._folder / f"{self._prefix}{pid}.json"

    def write(self, state: WorkerRecord) -> None:
        """Put this worker's state where the others find it.

        Where that fails, there is one warning, and ``is_due`` tells when to try again.
        """
        record = {"started": started(state["pid"]), **state}
        try:
            if not self._made:
                records.make(self._folder)
                self._made = True
            records.write(self._path(state["pid"]), json.dumps(record).encode(), sync=False)
        except OSError as error:
            self._unwritten = error.strerror or str(error)
            self._retry_at = time.monotonic() + RETRY
            self._made = False  # or no more
            if not self._complained:
                self._complained = True
                logger.warning("this worker's state cannot be written: %s", error)
            return
        self._unwritten = ""
        if self._complained:
            self._complained = False
            logger.info("this worker's state can be written again")

    def remove(self, pid: int) -> None:
        """Take a worker's file away."""
        records.remove(self._path(pid))

    def others(self, pid: int) -> list[WorkerRecord]:
        """Read the state of every live worker but the one with this process id."""
        states = []
        for path in self._files():
            state = _read(path)
            if state is None or state["pid"] == pid:
                continue
            if started(state["pid"]) == state.get("started", "") != "":
                states.append(state)
            else:
                self.remove(state["pid"])
        return states

    def _files(self) -> list[Path]:
        try:
            names = [name for name in records.names(self._folder) if name.endswith(".json")]
        except OSError as error:
            self._unread = error.strerror or str(error)
            return []
        self._unread = ""
        return [self._folder / name for name in names if name.startswith(self._prefix)]


def _read(path: Path) -> WorkerRecord | None:
    """Read a worker's record; None if it cannot be read or used."""
    try:
        return read_record(records.read(path))
    except OSError:
        return None


def started(pid: int) -> str:
    """Tell one process from a later one with the same id; empty where there is none."""
    try:
        # After the name, which may hold spaces, come the state and, 19 on, the start time.
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
