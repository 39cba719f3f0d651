"""The workers' state files: how the workers of one host know of each other.

A worker that is killed leaves its file behind; whoever reads it next sees that no such
process is there any more, and takes it away.
"""

import contextlib
import hashlib
import json
import logging
import os
from pathlib import Path

from ..files import write_atomically
from .gauges import host_gauges
from .status import WorkerState, host_status

logger = logging.getLogger(__name__)


def key(subject: str) -> str:
    """Give a short name for a file about something, such as the path of a source."""
    return hashlib.sha256(subject.encode()).hexdigest()[:16]


def prepare(folder: str) -> tuple[Path, bool]:
    """Make the state folder; False, and a warning, where it cannot be written to."""
    path = Path(folder)
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        probe = path / f".probe.{os.getpid()}"
        probe.touch(mode=0o600)
        probe.unlink()
    except OSError as error:
        logger.warning(
            "the state folder %s cannot be written to (%s): a restart will not know the list"
            " that is good now",
            path,
            error.strerror or error,
        )
        return path, False
    return path, True


class HostState:
    """One worker's file, and the view of all the others'.

    Args:
        folder: The state folder.
        key: What the files of this source, served with these settings, are named by.
    """

    def __init__(self, folder: Path, key: str) -> None:
        self._folder = folder
        self._prefix = f"{key}.worker."
        self._complained = False

    def _path(self, pid: int) -> Path:
        return self._folder / f"{self._prefix}{pid}.json"

    def write(self, state: WorkerState) -> None:
        """Put this worker's state where the others find it."""
        record = {"started": started(state["pid"]), **state}
        try:
            write_atomically(self._path(state["pid"]), json.dumps(record).encode(), sync=False)
            self._complained = False
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning("this worker's state cannot be written: %s", error)

    def remove(self, pid: int) -> None:
        """Take a worker's file away."""
        with contextlib.suppress(OSError):
            self._path(pid).unlink()

    def others(self, pid: int) -> list[WorkerState]:
        """Read the state of every live worker but the one with this process id."""
        states = []
        for path in self._folder.glob(f"{self._prefix}*.json"):
            state = _read(path)
            if state is None or state["pid"] == pid:
                continue
            if started(state["pid"]) == state["started"] != "":
                states.append(state)
            else:
                self.remove(state["pid"])
        return states


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
