"""Records: the small files of a state folder, in a sub-folder that only one user can write to.

The state folder itself may be root's, or a whole group may write to it. So records lie in a
folder of their own in it, which the server makes: mode 0700, one for each user. Every access
opens that folder without following a link, looks at its owner, and reaches the file through the
descriptor: whatever is renamed, linked or planted meanwhile, nothing that another user owns is
read, and nothing is written anywhere else.

``owner`` is the user whose records they are: None is the one that this process runs as. Root's
commands name another one, whose records they share.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path

from ...files import Scratch, holding
from ..sources.file import Fingerprint

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_LOCK = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def folder_in(state: Path, owner: int | None = None) -> Path:
    """Name the folder of a user's records in a state folder."""
    return state / f"records-{_user(owner)}"


def make(folder: Path, owner: int | None = None, group: int | None = None) -> None:
    """Make a folder of records, and see that it can be written to.

    Raises:
        OSError: If it cannot.
    """
    folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    try:
        folder.mkdir(mode=0o700)
    except FileExistsError:
        pass
    else:
        _hand_over(folder, owner, group)
    with _opened(folder, owner) as descriptor, Scratch(".probe", folder=descriptor, mode=0o600):
        pass  # it is removed again


def _hand_over(folder: Path, owner: int | None, group: int | None) -> None:
    """Give a folder that root has just made to the user whose records go there."""
    user = _user(owner)
    if user == os.geteuid():
        return
    descriptor = os.open(folder, _FOLDER)
    try:
        # It may have been swapped for another one of root's: that one is not empty.
        if os.fstat(descriptor).st_uid == os.geteuid() and not os.listdir(descriptor):
            os.fchown(descriptor, user, -1 if group is None else group)
    finally:
        os.close(descriptor)


def _user(owner: int | None) -> int:
    return os.geteuid() if owner is None else owner


@contextlib.contextmanager
def _opened(folder: Path, owner: int | None) -> Iterator[int]:
    """Open a folder of records that nobody but its owner can have changed."""
    descriptor = os.open(folder, _FOLDER)
    try:
        status = os.fstat(descriptor)
        _check_owner(status, folder, owner)
        if status.st_mode & _OTHERS_WRITE:
            # Kubernetes lets the group write to everything in a volume that it mounts.
            os.fchmod(descriptor, 0o700)
        yield descriptor
    finally:
        os.close(descriptor)


def _check_owner(status: os.stat_result, path: Path, owner: int | None) -> None:
    user = _user(owner)
    if status.st_uid != user:
        why = f"user {status.st_uid} owns it, not user {user}: it is not believed"
        raise PermissionError(errno.EPERM, why, str(path))


def _check_file(status: os.stat_result, path: Path, owner: int | None) -> None:
    _check_owner(status, path, owner)
    if not stat.S_ISREG(status.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    if status.st_mode & stat.S_IWOTH:
        raise PermissionError(errno.EPERM, "everybody may write to it: not believed", str(path))


def read(path: Path, owner: int | None = None) -> bytes:
    """Read a record.

    Raises:
        OSError: If it is not there, cannot be read, or is not its owner's.
    """
    with _opened(path.parent, owner) as folder:
        descriptor = os.open(path.name, _READ, dir_fd=folder)
        with open(descriptor, "rb") as file:
            _check_file(os.fstat(descriptor), path, owner)
            return file.read()


def write(path: Path, data: bytes, *, sync: bool, owner: int | None = None) -> None:
    """Replace a record in one step; see ``files.write_atomically``.

    Raises:
        OSError: If it cannot be done; the record that was there stays.
    """
    with (
        _opened(path.parent, owner) as folder,
        Scratch(path.name, folder=folder, mode=0o600) as scratch,
    ):
        _give(scratch.descriptor, owner)
        scratch.write(data, sync=sync)
        scratch.become(path.name)


def _give(descriptor: int, owner: int | None) -> None:
    if owner is not None and owner != os.geteuid():
        os.fchown(descriptor, owner, -1)


def signature(path: Path, owner: int | None = None) -> Fingerprint:
    """Look at a record; never raises."""
    try:
        with _opened(path.parent, owner) as folder:
            return Fingerprint.of(os.stat(path.name, dir_fd=folder, follow_symlinks=False))
    except OSError as error:
        return Fingerprint(error.errno or errno.EIO)


def names(folder: Path, owner: int | None = None) -> list[str]:
    """List the names of the records.

    Raises:
        OSError: If the folder cannot be listed.
    """
    with _opened(folder, owner) as descriptor:
        return os.listdir(descriptor)


def remove(path: Path, owner: int | None = None) -> None:
    """Remove a record, if it is there."""
    with contextlib.suppress(OSError), _opened(path.parent, owner) as folder:
        os.unlink(path.name, dir_fd=folder)


def open_lock(path: Path, owner: int | None = None) -> int:
    """Open a file that locks are taken on, and create it if need be; give its descriptor.

    Raises:
        OSError: If it cannot be opened.
    """
    with _opened(path.parent, owner) as folder:
        try:
            descriptor = os.open(path.name, _LOCK | os.O_CREAT | os.O_EXCL, 0o600, dir_fd=folder)
        except FileExistsError:
            return os.open(path.name, _LOCK, dir_fd=folder)
        _give(descriptor, owner)
        return descriptor


@contextlib.contextmanager
def locked(path: Path, patience: float, owner: int | None = None) -> Iterator[None]:
    """Hold a lock on a file in a folder of records; see ``files.locked``.

    Raises:
        BlockingIOError: If another process holds it for longer than ``patience`` seconds.
        OSError: If it cannot be opened.
    """
    try:
        descriptor = open_lock(path, owner)
    except FileNotFoundError:
        # Somebody has taken the whole folder away, or nobody has made it yet.
        make(path.parent, owner)
        descriptor = open_lock(path, owner)
    with holding(descriptor, patience):
        yield
