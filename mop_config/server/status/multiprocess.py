"""The folder in which the workers of one gunicorn keep their counters: prometheus-client's files.

prometheus-client names a file after a process id and never removes it, since the counts of a dead
worker must not vanish. Here a file belongs to a place. A worker reserves the lowest free place with
a lock, and continues the counts in the place's file; the system frees the lock when the worker
ends. So there are as many files as there were workers at a time, and every count stays.
"""

import errno
import fcntl
import itertools
import os
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from ...files import Scratch

#: The environment variable that names the folder to prometheus-client.
VARIABLE = "PROMETHEUS_MULTIPROC_DIR"
PREFIX = "mop-config-metrics-"
#: Size of a file in bytes: more than all our series need, so that it never grows.
FILE_SIZE = 1 << 18
_KINDS = ("counter", "histogram")


def make_folder(user: int, group: int) -> Path:
    """Make a new folder for the workers of this master.

    Args:
        user: Id of the user that the workers run as.
        group: Id of the group that the workers run as.

    Raises:
        OSError: If the folder cannot be made.
    """
    path = Path(tempfile.mkdtemp(prefix=PREFIX))
    if os.geteuid() == 0:
        os.chown(path, user, group)
    # systemd-tmpfiles leaves a locked folder alone. The lock is held until this process ends.
    fcntl.flock(os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC), fcntl.LOCK_SH)
    return path


def take_place(folder: Path) -> Callable[[], str]:
    """Reserve a place in a folder for as long as this process lives.

    Args:
        folder: The folder.

    Returns:
        The function that gives prometheus-client the name in this process's files: the place. No
        two live workers have the same name.

    Raises:
        OSError: If there is no room for the files.
    """
    number = next(n for n in itertools.count() if _lock(folder / f"place{n}.lock"))
    name = f"place{number}"
    for kind in _KINDS:
        _allocate(folder / f"{kind}_{name}.db")
    return lambda: name


def _lock(path: Path) -> bool:
    """Take a lock until this process ends; return False if another process holds it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return False
    return True


def _allocate(path: Path) -> None:
    """Make a file of zeros whose blocks are allocated on the disk.

    prometheus-client maps the file into memory, and the system kills a process that writes to a
    mapped page while the disk is full. The file appears complete, since other workers read it.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        with Scratch(str(path), mode=0o600) as scratch:
            os.posix_fallocate(scratch.descriptor, 0, FILE_SIZE)
            scratch.become(str(path))
        return
    if not stat.S_ISREG(status.st_mode) or status.st_uid != os.geteuid():
        # Other users may have planted it in an operator's own folder.
        raise PermissionError(errno.EPERM, "the file does not belong to this user", str(path))
