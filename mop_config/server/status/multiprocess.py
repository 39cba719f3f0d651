"""The folder in which the workers of one gunicorn keep their counters: prometheus-client's files.

prometheus-client names a file after a process id and leaves it behind for ever, since the dead
worker's counts must not vanish. Here a file belongs to a place: a worker holds the lowest free
one by a lock, goes on counting in the file that it finds there, and loses the lock with its life,
whatever ends it. So there are as many files as there were workers at once, every count stays,
and nobody has to put files together.
"""

import errno
import fcntl
import itertools
import operator
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ...files import Scratch

#: Where prometheus-client looks for the folder.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "mop-config-metrics-"
#: Bytes of a file: more than all our series need, so that it never has to grow.
FILE_SIZE = 1 << 18
_KINDS = ("counter", "histogram")


class Folder(NamedTuple):
    """A folder of one gunicorn's.

    Attributes:
        path: Where it is.
        pid: The master's process id.
        descriptor: Holds the lock that says the folder is in use.
    """

    path: Path
    pid: int
    descriptor: int

    def remove(self) -> None:
        """Take the folder away; nothing happens in a process that did not make it."""
        if self.pid == os.getpid():
            os.close(self.descriptor)
            shutil.rmtree(self.path, ignore_errors=True)


def make(user: int, group: int) -> Folder:
    """Make a new folder, and remove those that killed masters have left.

    Args:
        user: Id of the user that the workers run as.
        group: Id of their group.

    Raises:
        OSError: If it cannot be made.
    """
    _remove_abandoned(Path(tempfile.gettempdir()), {os.geteuid(), user})
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX))
        if os.geteuid() == 0:
            os.chown(path, user, group)
        # The lock also keeps cleaners of the folder for temporary files away.
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        if path.exists():
            return Folder(path, os.getpid(), descriptor)
        os.close(descriptor)  # another master took it for an abandoned one


def _remove_abandoned(parent: Path, owners: set[int]) -> None:
    """Remove the folders that no master and no worker holds any more."""
    for path in parent.glob(f"{PREFIX}*"):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            if os.fstat(descriptor).st_uid in owners:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(path, ignore_errors=True)
        except OSError:
            pass  # in use
        finally:
            os.close(descriptor)


def take_place(folder: Path) -> Callable[[], str]:
    """Take a place in a folder, for as long as this process lives.

    Args:
        folder: The folder.

    Returns:
        What gives the place's name, as prometheus-client's ``process_identifier`` does: no two
        processes that live at once have the same. It is called with each count, so it is
        nothing that has to be interpreted.

    Raises:
        OSError: If there is no room for the files.
    """
    for number in itertools.count():
        descriptor = _lock(folder / f"place{number}.lock")
        if descriptor >= 0:
            break
    names = [f"place{number}"]
    for kind in _KINDS:
        _allocate(folder / f"{kind}_{names[0]}.db")
    os.register_at_fork(after_in_child=partial(_leave, names, descriptor))
    name: Callable[[], str] = partial(operator.getitem, names, 0)  # type: ignore[assignment]
    return name


def _leave(names: list[str], descriptor: int) -> None:
    """In a fork of the process: the place is its parent's; files of its own do."""
    names[0] = f"process{os.getpid()}"
    os.close(descriptor)


def _lock(path: Path) -> int:
    """Give the descriptor that holds a lock, or -1 where another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return -1
    return descriptor


def _allocate(path: Path) -> None:
    """Make a file of zeros that has its room on the disk.

    prometheus-client maps it into memory: a page that finds the disk full kills the process.
    And whoever reads it must not find it without its first bytes.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        with Scratch(str(path), mode=0o600) as scratch:
            os.posix_fallocate(scratch.descriptor, 0, FILE_SIZE)
            scratch.become(str(path))
        return
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        # In an operator's folder, which others may write to; it would be mapped and written to.
        raise PermissionError(errno.EPERM, "it is no file of this user's", str(path))
