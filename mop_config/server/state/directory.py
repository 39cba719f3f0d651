"""StateDirectory reads, writes and locks the small files (records) that the workers share.

The state folder may belong to root, or a whole group may write to it. So each user's records lie
in a sub-folder with mode 0700. Every access opens that folder without following a link
(O_NOFOLLOW), checks its owner, and opens the file relative to the descriptor. So a record of
another user is never read, and nothing is written elsewhere, whatever is renamed meanwhile.

A record begins with a checksum, so a record that is torn or foreign is never used. A change of the
form of a record needs another name of the record, because the checksum says nothing of forms.

WorkerRegistry keeps the records of the workers, from which any worker makes the host's status.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NotRequired, Self, TypedDict, TypeVar

from ...files import open_flags
from ..serving.store import HistoryEntry, ServedDocument
from ..sources.file import Fingerprint, opened

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds since the last write after which a worker's record is removed.
FORGOTTEN = 86400.0
#: Part of the name of each worker's record.
WORKER = ".worker."
#: Seconds to wait for a lock, and for a lock whose holder has marked that it renders a list.
PATIENCE = 0.5
LONG_PATIENCE = 5.0
#: Seconds after a failure for which the status shows the failure, if it is not repeated.
TROUBLE_SECONDS = 60.0

_FOLDER = os.O_RDONLY | open_flags("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")
_FILE = open_flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY")
_READ = os.O_RDONLY | _FILE
_LOCK = os.O_RDWR | _FILE


def dump_record(value: Any) -> bytes:
    """Return a value as JSON behind a checksum, which ``parse_record`` verifies."""
    data = json.dumps(value).encode()
    return hashlib.sha256(data).hexdigest().encode() + b"\n" + data


def parse_record(record: bytes) -> Any:
    """Return the value of a record.

    Raises:
        ValueError: If the record is torn, or was not written by ``dump_record``.
    """
    checksum, _, data = record.partition(b"\n")
    if checksum != hashlib.sha256(data).hexdigest().encode():
        raise ValueError("the checksum is wrong")
    return json.loads(data)


@contextlib.contextmanager
def replacing(name: str, folder: int, *, sync: bool, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Replace a file in an open folder in one step when the context ends without an exception.

    The context is a new file beside it, which is created with ``O_EXCL``, so that another user
    cannot have planted a link or a file under its name.

    Args:
        name: Name of the file in the folder.
        folder: Descriptor of the folder.
        sync: Whether the bytes must be on the disk before the file is replaced.
        mode: Permissions of the new file, less the umask.
    """
    scratch = f".{name}.{os.getpid()}.{os.urandom(6).hex()}"
    try:
        with open(scratch, "xb", opener=partial(os.open, mode=mode, dir_fd=folder)) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(scratch, name, src_dir_fd=folder, dst_dir_fd=folder)
    finally:
        with contextlib.suppress(OSError):
            os.unlink(scratch, dir_fd=folder)


class StateDirectory:
    """The records of one user in a state folder.

    Making the object touches nothing; the first write creates the folder.

    Args:
        path: The folder of the records.
        owner: Id of the user that owns the records; None means the user of this process.
            Commands that root runs share the records of the service's user.
    """

    def __init__(self, path: Path, owner: int | None = None) -> None:
        self._owner = os.geteuid() if owner is None else owner
        self.path = path
        self.shared = owner is not None
        # The reason why something cannot be saved, and when that failed last.
        self._failures: dict[str, tuple[str, float]] = {}
        self._passed_over: set[str] = set()

    @property
    def trouble(self) -> str:
        """The message that a record cannot be written; empty without a failure."""
        # Another worker may save that by now: this one no longer tries.
        since = time.monotonic() - TROUBLE_SECONDS
        reason = next((why for why, at in list(self._failures.values()) if at > since), "")
        return reason and f"the state folder {self.path} cannot be used: {reason}"

    # -- the folder

    @classmethod
    def of_user(cls, state: str | Path, owner: int | None = None) -> Self:
        """Return the records of a user in a state folder."""
        user = os.geteuid() if owner is None else owner
        return cls(Path(state) / f"records-{user}", owner)

    def make(self) -> None:
        """Create the folder for its owner if it is missing.

        Raises:
            OSError: If the folder cannot be created.
        """
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            self.path.mkdir(mode=0o700)
            with opened(self.path, _FOLDER) as descriptor:
                # Somebody may have moved another folder of root's here; such a folder is not empty.
                if os.fstat(descriptor).st_uid == os.geteuid() and not os.listdir(descriptor):
                    self._own(descriptor)

    @contextlib.contextmanager
    def _opened(self, *, make: bool = False) -> Iterator[int]:
        """Open the folder, and check that only its owner can have changed it.

        Args:
            make: Whether to create the folder if it is missing.
        """
        if make and not os.path.lexists(self.path):
            self.make()
        with opened(self.path, _FOLDER) as descriptor:
            status = os.fstat(descriptor)
            self._check_owner(status, self.path)
            if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
                # Kubernetes lets the group write to everything in a volume that it mounts.
                os.fchmod(descriptor, 0o700)
            yield descriptor

    def _check_owner(self, status: os.stat_result, path: Path) -> None:
        if status.st_uid != self._owner:
            reason = f"user {status.st_uid} owns it, not user {self._owner}: it is not believed"
            raise PermissionError(errno.EPERM, reason, str(path))

    def _own(self, descriptor: int) -> None:
        if self._owner != os.geteuid():
            os.fchown(descriptor, self._owner, -1)

    # -- reading

    def read(self, name: str) -> bytes:
        """Return the content of a record.

        Raises:
            OSError: If the record does not exist or cannot be read, or if another user could have
                written it.
        """
        path = self.path / name
        with self._opened() as folder, opened(name, _READ, folder) as descriptor:
            status = os.fstat(descriptor)
            self._check_owner(status, path)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file", str(path))
            if status.st_mode & stat.S_IWOTH:
                reason = "everybody may write to it: it is not believed"
                raise PermissionError(errno.EPERM, reason, str(path))
            with open(descriptor, "rb", closefd=False) as file:
                return file.read()

    def load(self, name: str, parse: Callable[[bytes], T], what: str) -> T | None:
        """Return a record as a typed value, or None if there is no usable record.

        A record that is torn, foreign, or of another version's format is ignored with one log
        line, since no content of a record may keep a server from starting.

        Args:
            name: Name of the record.
            parse: Makes the value; may raise any exception.
            what: The record in words, for the log.
        """
        try:
            value = parse(self.read(name))
        except FileNotFoundError:
            return None
        except Exception as error:
            damage = f"in {self.path / name} is damaged or of another version"
            reason = f"cannot be read: {error}" if isinstance(error, OSError) else damage
            if name not in self._passed_over:
                self._passed_over.add(name)
                logger.warning("%s %s: it is ignored", what, reason)
            return None
        self._passed_over.discard(name)
        return value

    def names(self, prefix: str = "") -> list[str]:
        """Return the names of the records with a prefix; none if the folder cannot be listed."""
        with contextlib.suppress(OSError), self._opened() as folder:
            return [name for name in os.listdir(folder) if name.startswith(prefix)]
        return []

    def fingerprint(self, name: str) -> Fingerprint:
        """Return the ``stat`` fingerprint of a record; never raises."""
        try:
            with self._opened() as folder:
                return Fingerprint.of(os.stat(name, dir_fd=folder, follow_symlinks=False))
        except OSError as error:
            return Fingerprint(error.errno or errno.EIO)

    # -- writing

    def write(self, name: str, data: bytes, *, sync: bool) -> None:
        """Replace a record in one step, and create the folder again if it is missing.

        Args:
            name: Name of the record.
            data: The content.
            sync: Whether the bytes must be on the disk before the record is replaced.

        Raises:
            OSError: If the record cannot be written; the old record stays.
        """
        with self._opened(make=True) as folder, replacing(name, folder, sync=sync) as file:
            self._own(file.fileno())
            file.write(data)

    def save(self, name: str, data: bytes, what: str, *, sync: bool = False) -> bool:
        """Write a record; a failure is logged and remembered instead of raised.

        Returns:
            False if the record could not be written. A series of failures is logged once.
        """
        try:
            self.write(name, data, sync=sync)
        except OSError as error:
            self.complain(what, error)
            return False
        self.recover(what)
        return True

    def complain(self, what: str, error: OSError) -> None:
        """Remember that ``what`` cannot be saved, and log the first failure."""
        if what not in self._failures:
            logger.warning("%s cannot be saved: %s", what, error)
        self._failures[what] = error.strerror or str(error), time.monotonic()

    def recover(self, what: str) -> None:
        """Note that ``what`` was saved, and log the end of a series of failures."""
        if self._failures.pop(what, None) is not None:
            logger.info("%s can be saved again", what)

    def remove(self, name: str) -> None:
        """Remove a record if it exists."""
        with contextlib.suppress(OSError), self._opened() as folder:
            os.unlink(name, dir_fd=folder)

    # -- locking

    def _open_lock(self, name: str) -> int:
        with self._opened(make=True) as folder:
            try:
                descriptor = os.open(name, _LOCK | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            except FileExistsError:
                return os.open(name, _LOCK, dir_fd=folder)
            self._own(descriptor)
            return descriptor

    @contextlib.contextmanager
    def locked(self, name: str, *, mark: bool = False, patience: float = PATIENCE) -> Iterator[int]:
        """Hold an exclusive lock (flock), which the kernel frees when the process ends.

        The context is the descriptor of the lock file.

        Args:
            name: Name of the lock file.
            mark: Whether to mark in the lock file that this process renders a list under the
                lock; other processes then wait longer.
            patience: Seconds to wait while another process holds the lock; 0 fails at once.

        Raises:
            BlockingIOError: If another process holds the lock for too long.
            OSError: If the lock file cannot be opened.
        """
        import fcntl  # Windows has no flock; its commands import this module, but lock nothing

        descriptor = self._open_lock(name)
        try:
            began = time.monotonic()
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if patience and os.pread(descriptor, 1, 0):
                        patience = LONG_PATIENCE
                    if time.monotonic() > began + patience:
                        raise
                    time.sleep(0.005)
            os.ftruncate(descriptor, 0)
            if mark:
                os.pwrite(descriptor, b"+", 0)
            yield descriptor
            if mark:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)


class Leadership:
    """The leader's lock in the state folder, which the kernel frees when the leader's process ends.

    Args:
        directory: The state folder.
        name: Name of the lock file.
    """

    def __init__(self, directory: StateDirectory, name: str) -> None:
        self._directory = directory
        self._name = name
        self._held = contextlib.ExitStack()
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Become the leader or stay the leader; return False while another process leads.

        Raises:
            OSError: If the lock file cannot be opened or locked.
        """
        held = self._descriptor
        there = self._directory.fingerprint(self._name)
        # The folder may have been cleared, so that another process can lock a new file.
        if held is None or there[:3] != Fingerprint.of(os.fstat(held))[:3]:
            self.release()
            lock = self._directory.locked(self._name, patience=0.0)
            with contextlib.suppress(BlockingIOError):
                self._descriptor = self._held.enter_context(lock)
        return self._descriptor is not None

    def release(self) -> None:
        """Release the lock, so that another process can take over."""
        self._descriptor = None
        self._held.close()


def owner_of(state: str) -> int | None:
    """Return the owner of the state folder, whose records a command run by root shares.

    Returns:
        The user's id, or None if the command uses the records of its own user.
    """
    with contextlib.suppress(OSError):
        if os.geteuid() == 0:
            return os.stat(state).st_uid or None
    return None


class WatcherRecord(TypedDict):
    """How a worker notices changes of its source, and whether that works now."""

    mode: str
    alive: bool


class WorkerRecord(TypedDict):
    """The state of one worker, with the parts of the status document that are the worker's own.

    ``started`` is the start time of the process, which distinguishes it from a later process with
    the same id; ``WorkerRegistry.write`` adds it. The problems of the process rather than of the
    source are the first ones in ``served``. ``history`` has the newest reload first, and
    ``answered`` is the number of the newest request to reload that the worker has answered. The
    gauges need ``waiters``, the number of parked requests, ``good_at``, the POSIX time at which the
    source was last found good (0 for never), and ``late``, whether the reload thread hangs.
    """

    pid: int
    started: NotRequired[str]
    served: ServedDocument
    watcher: WatcherRecord
    history: list[HistoryEntry]
    waiters: int
    good_at: float
    late: bool
    answered: int


def reload_for(record: WorkerRecord, number: int) -> HistoryEntry | None:
    """Return the reload with which a worker has answered a request.

    The worker has read the source since the request, so its newest reload is the answer.

    Args:
        record: The worker's record.
        number: The number of the request; see ``WorkerRegistry.request_reload``.

    Returns:
        The reload, or None while the worker has not answered.
    """
    if record["answered"] < number or not record["history"]:
        return None
    return record["history"][0]


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
    """The records of this worker and of the host's other workers, and their requests to reload.

    A request is one growing number: the worker that gets a request writes a higher number into a
    record, and each reload thread reads the record on each turn.

    Args:
        directory: The state folder.
        key: Prefix of the records' names, which identifies the source and the settings.
        scope: Part of the names of the workers' records that identifies the PID namespace; the
            workers of all namespaces that share the folder see the requests.
    """

    def __init__(self, directory: StateDirectory, key: str, scope: str = "") -> None:
        self._directory = directory
        self._prefix = f"{key}{scope}{WORKER}"
        self._request = f"{key}.reload"
        self._requested = 0
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
        """Return the records of all live workers but the one with this process id.

        A worker that is killed leaves its record behind, which is removed here.
        """
        states = []
        for name in self._directory.names(self._prefix):
            what = "the record of a worker"
            state: WorkerRecord | None = self._directory.load(name, parse_record, what)
            if state is None or state["pid"] == pid:
                continue
            if started(state["pid"]) == state.get("started", "") != "":
                states.append(state)
            else:
                self.remove(state["pid"])
        return states

    def request_reload(self) -> tuple[int, bool]:
        """Request a reload; return its number, and whether the other workers can see it."""
        try:
            # Under a lock, so that an older request cannot replace a newer one.
            with self._directory.locked(f"{self._request}.lock"):
                self._requested = max(time.time_ns(), self.newest_request() + 1)
                self._directory.write(self._request, b"%d\n" % self._requested, sync=False)
        except OSError:
            self._requested = max(time.time_ns(), self._requested + 1)
            return self._requested, False
        return self._requested, True

    def newest_request(self) -> int:
        """Return the number of the newest request to reload, or 0."""
        found = self._directory.load(self._request, int, "the request to reload")
        return max(self._requested, found or 0)


def started(pid: int) -> str:
    """Return the start time of a process as an opaque text; empty if the process is gone.

    The text distinguishes the process from a later process with the same id.
    """
    with contextlib.suppress(OSError, IndexError):
        # After the name, which may contain spaces, field 0 is the state and 19 the start time.
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] in {"Z", "X"} else fields[19]
    if not Path("/proc/self/stat").exists():
        with contextlib.suppress(OSError):
            os.kill(pid, 0)
            return "unknown"
    return ""
