"""StateDirectory: the one way to read, write and lock the small files that the workers share.

The state folder may belong to root, or a whole group may write to it. So the records lie in a
sub-folder with mode 0700, one for each user. Every access opens that folder without following a
link, checks its owner, and reaches the file through the descriptor. Therefore a record of another
user is never read, and nothing is written anywhere else, whatever is renamed or linked meanwhile.
"""

import contextlib
import errno
import logging
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Self, TypeVar

from ...files import Scratch, lock_descriptor, open_flags
from ..sources.file import Fingerprint

try:
    import fcntl
except ImportError:  # Windows has neither leases nor flock
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

T = TypeVar("T")

#: Seconds from a failed write to the next attempt.
RETRY = 3.0
#: Seconds to wait for a lock, and while its holder has marked that it renders under the lock.
PATIENCE = 0.5
LONG_PATIENCE = 5.0

_FOLDER = os.O_RDONLY | open_flags("O_DIRECTORY", "O_NOFOLLOW", "O_CLOEXEC")
_FILE = open_flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY")
_READ = os.O_RDONLY | _FILE
_LOCK = os.O_RDWR | _FILE
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class StateDirectory:
    """The records of one user in a state folder.

    Making the object touches nothing; ``make`` creates the folder.

    Args:
        path: The folder of the records.
        owner: Id of the user that owns the records; None is the user of this process. Commands
            that root runs share the records of the service's user.
    """

    def __init__(self, path: Path, owner: int | None = None) -> None:
        self._owner = os.geteuid() if owner is None else owner
        self.path = path
        self.shared = owner is not None
        self._usable = True  # whether the folder could be made and written to
        self._failures: dict[str, tuple[str, float]] = {}  # reason and time of the next attempt
        self._passed_over: set[str] = set()

    @property
    def trouble(self) -> str:
        """Why something in the folder cannot be written or read; empty while all is well."""
        return next((reason for reason, _ in list(self._failures.values())), "")

    # -- the folder

    @classmethod
    def of_user(cls, state: str | Path, owner: int | None = None) -> Self:
        """Return the records of a user in a state folder."""
        user = os.geteuid() if owner is None else owner
        return cls(Path(state) / f"records-{user}", owner)

    def prepare(self) -> bool:
        """Create the folder; if it cannot be written to, log one warning and return False."""
        try:
            self.make()
        except OSError as error:
            logger.warning(
                "the state folder %s cannot be written to (%s): a restart will not know the list"
                " that is good now",
                self.path,
                error.strerror or error,
            )
            self._usable = False
        return self._usable

    def make(self, group: int | None = None) -> None:
        """Create the folder for its owner, and check that it can be written to.

        Args:
            group: Group of the folder if root creates it for another user.

        Raises:
            OSError: If the folder cannot be created or written to.
        """
        self.path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        try:
            self.path.mkdir(mode=0o700)
        except FileExistsError:
            pass
        else:
            self._hand_over(group)
        with self._opened() as folder, Scratch(".probe", folder=folder, mode=0o600):
            pass  # it is removed again
        self._usable = True

    def _make_if_missing(self) -> None:
        if not self._usable or not os.path.lexists(self.path):
            self.make()

    def _hand_over(self, group: int | None) -> None:
        if self._owner == os.geteuid():
            return
        descriptor = os.open(self.path, _FOLDER)
        try:
            # Somebody may have put another folder of root's here, but then it is not empty.
            if os.fstat(descriptor).st_uid == os.geteuid() and not os.listdir(descriptor):
                os.fchown(descriptor, self._owner, -1 if group is None else group)
        finally:
            os.close(descriptor)

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        """Open the folder, which only its owner can have changed."""
        descriptor = os.open(self.path, _FOLDER)
        try:
            status = os.fstat(descriptor)
            self._check_owner(status, self.path)
            if status.st_mode & _OTHERS_WRITE:
                # Kubernetes lets the group write to everything in a volume that it mounts.
                os.fchmod(descriptor, 0o700)
            yield descriptor
        finally:
            os.close(descriptor)

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
            OSError: If it does not exist, cannot be read, or another user could have written it.
        """
        with self._opened() as folder:
            descriptor = os.open(name, _READ, dir_fd=folder)
            with open(descriptor, "rb") as file:
                status = os.fstat(descriptor)
                path = self.path / name
                self._check_owner(status, path)
                if not stat.S_ISREG(status.st_mode):
                    raise OSError(errno.EINVAL, "it is not a regular file", str(path))
                if status.st_mode & stat.S_IWOTH:
                    reason = "everybody may write to it: it is not believed"
                    raise PermissionError(errno.EPERM, reason, str(path))
                return file.read()

    def load(self, name: str, parse: Callable[[bytes], T], what: str) -> T | None:
        """Return a record as a typed value, or None if there is none that can be used.

        A record that is torn, foreign, or of another version's format is passed over with one
        log line: whatever stands there must not keep a server from starting.

        Args:
            name: Name of the record.
            parse: Makes the value; may raise any exception.
            what: The record in words, for the log.
        """
        try:
            value = parse(self.read(name))
        except FileNotFoundError:
            return None
        except OSError as error:
            self._pass_over(name, f"{what} cannot be read: {error}")
        except Exception:
            path = self.path / name
            self._pass_over(name, f"{what} in {path} is damaged or of another version")
        else:
            self._passed_over.discard(name)
            return value
        return None

    def _pass_over(self, name: str, message: str) -> None:
        if name not in self._passed_over:
            self._passed_over.add(name)
            logger.warning("%s: it is ignored", message)

    def names(self) -> list[str]:
        """Return the names of all records.

        Raises:
            OSError: If the folder cannot be listed.
        """
        with self._opened() as folder:
            return os.listdir(folder)

    def list_names(self) -> list[str]:
        """Return the names of all records; none, and ``trouble``, if they cannot be listed."""
        try:
            names = self.names()
        except OSError as error:
            self._failures["list"] = error.strerror or str(error), 0.0
            return []
        self._failures.pop("list", None)
        return names

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
            OSError: If it cannot be written; the record that was there stays.
        """
        self._make_if_missing()
        with self._opened() as folder, Scratch(name, folder=folder, mode=0o600) as scratch:
            self._own(scratch.descriptor)
            scratch.write(data, sync=sync)
            scratch.become(name)

    def save(self, name: str, data: bytes, what: str, *, sync: bool = False) -> bool:
        """Write a record, or say that it cannot be written.

        Returns:
            False if it could not be written. There is one warning until it can be again, and
            ``may_save`` tells when to try again.
        """
        try:
            self.write(name, data, sync=sync)
        except OSError as error:
            self.complain(what, error)
            return False
        self.recover(what)
        return True

    def complain(self, what: str, error: OSError) -> None:
        """Remember that something cannot be saved, and log it the first time."""
        # A folder that could not be made at the start has been logged already.
        if what not in self._failures and self._usable:
            logger.warning("%s cannot be saved: %s", what, error)
        self._failures[what] = error.strerror or str(error), time.monotonic() + RETRY

    def recover(self, what: str) -> None:
        """Note that something was saved."""
        if self._failures.pop(what, None) is not None:
            logger.info("%s can be saved again", what)

    def has_failed(self, what: str) -> bool:
        """Whether the last attempt to save something failed."""
        return what in self._failures

    def may_save(self, what: str) -> bool:
        """Whether something may be saved now: no attempt has failed within the last seconds."""
        return time.monotonic() >= self._failures.get(what, ("", 0.0))[1]

    def remove(self, name: str) -> None:
        """Remove a record if it exists."""
        with contextlib.suppress(OSError), self._opened() as folder:
            os.unlink(name, dir_fd=folder)

    # -- locking

    def _open_lock(self, name: str) -> int:
        self._make_if_missing()
        with self._opened() as folder:
            try:
                descriptor = os.open(name, _LOCK | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
            except FileExistsError:
                return os.open(name, _LOCK, dir_fd=folder)
            self._own(descriptor)
            return descriptor

    @contextlib.contextmanager
    def locked(self, name: str, *, mark: bool = False, wait: bool = True) -> Iterator[None]:
        """Hold an exclusive lock (flock), which the kernel frees when its process ends.

        Args:
            name: Name of the lock file.
            mark: Whether this process renders a list under the lock: the others then wait longer.
            wait: False fails at once if another process holds the lock.

        Raises:
            BlockingIOError: If another process holds it for too long.
            OSError: If the lock file cannot be opened.
        """
        descriptor = self._open_lock(name)
        try:
            began = time.monotonic()
            try:
                lock_descriptor(descriptor, began + PATIENCE * wait)
            except BlockingIOError:
                if not (wait and os.pread(descriptor, 1, 0)):
                    raise
                lock_descriptor(descriptor, began + LONG_PATIENCE)
            os.ftruncate(descriptor, 0)
            if mark:
                os.pwrite(descriptor, b"+", 0)
            yield
            if mark:
                os.ftruncate(descriptor, 0)
        finally:
            os.close(descriptor)

    def try_lock(self, name: str) -> int | None:
        """Lock a file for the life of this process; return its descriptor, or None if it is held.

        Raises:
            OSError: If the lock file cannot be opened.
        """
        descriptor = self._open_lock(name)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.is_there(name, descriptor):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def is_there(self, name: str, descriptor: int) -> bool:
        """Whether an open record still has its name: somebody may have cleared the folder."""
        return Fingerprint.of(os.fstat(descriptor)).is_same_file(self.fingerprint(name))


def owner_of(state: str) -> int | None:
    """Return the user whose records a command of root shares: the owner of the state folder.

    Returns:
        The user's id, or None if the records are those of this process's own user.
    """
    if os.geteuid() != 0:
        return None
    try:
        return os.stat(state).st_uid or None
    except OSError:
        return None


def hand_over(state: str, user: int, group: int) -> None:
    """As root, create the folder of records of the user that the workers will run as."""
    directory = StateDirectory.of_user(state, user)
    try:
        directory.make(group)
    except OSError as error:
        logger.warning("%s cannot be made: %s", directory.path, error.strerror or error)
