"""The workers' state files: how the workers of one host know of each other.

A worker that is killed leaves its file behind; whoever reads it next sees that no such
process is there any more, and takes it away.
"""

import contextlib
import hashlib
import json
import logging
import os
import time
from pathlib import Path

from ..files import write_atomically
from .gauges import host_gauges
from .status import WorkerState, host_status

logger = logging.getLogger(__name__)

#: Seconds from one failure to write to the next try.
RETRY = 3.0


def key(subject: str) -> str:
    """Give a short name for a file about something, such as the path of a source."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]


def prepare(folder: str) -> tuple[Path, bool]:
    """Make the state folder; False, and a warning, where it cannot be written to."""
    path = Path(folder)
    try:
        make(path)
    except OSError as error:
        logger.warning(
            "the state folder %s cannot be written to (%s): a restart will not know the list"
            " that is good now",
            path,
            error.strerror or error,
        )
        return path, False
    return path, True


def make(folder: Path) -> None:
    """Make the state folder, and see that it can be written to.

    Raises:
        OSError: If it cannot.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    probe = folder / f".probe.{os.getpid()}"
    probe.touch(mode=0o600)
    probe.unlink()


class HostState:
    """One worker's file, and the view of all the others'.

    Args:
        folder: The state folder.
        key: What the files of this source, served with these settings, are named by.
        writable: What ``prepare`` said of the folder. If it could not be made, or vanishes,
            it is tried again.
    """

    def __init__(self, folder: Path, key: str, *, writable: bool = True) -> None:
        self._folder = folder
        self._prefix = f"{key}.worker."
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
        return not os.path.exists(self._path(pid))

    def _path(self, pid: int) -> Path:
        return self._folder / f"{self._prefix}{pid}.json"

    def write(self, state: WorkerState) -> None:
        """Put this worker's state where the others find it.

        Where that fails, there is one warning, and ``is_due`` tells when to try again.
        """
        record = {"started": started(state["pid"]), **state}
        try:
            if not self._made:
                make(self._folder)
                self._made = True
            write_atomically(self._path(state["pid"]), json.dumps(record).encode(), sync=False)
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
        with contextlib.suppress(OSError):
            self._path(pid).unlink()

    def others(self, pid: int) -> list[WorkerState]:
        """Read the state of every live worker but the one with this process id."""
        states = []
        for path in self._files():
            state = _read(path)
            if state is None or state["pid"] == pid:
                continue
            if started(state["pid"]) == state["started"] != "":
                states.append(state)
            else:
                self.remove(state["pid"])
        return states

    def _files(self) -> list[Path]:
        try:
            names = [name for name in os.listdir(self._folder) if name.startswith(self._prefix)]
        except OSError as error:
            self._unread = error.strerror or str(error)
            return []
        self._unread = ""
        return [self._folder / name for name in names if name.endswith(".json")]


def _read(path: Path) -> WorkerState | None:
    """Read a worker's file; None where nothing can be made of it."""
    try:
        state: WorkerState = json.loads(path.read_bytes())
        host_status("", [state])
        host_gauges([state], None)
        return state if isinstance(state["started"], str) else None
    except Exception:  # torn, foreign, or of another version
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
