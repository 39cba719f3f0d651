"""The folder that ``publish`` writes to: its files are for everybody, and somebody else may own it.

Whoever owns a folder can swap what is in it at any moment. So folders are opened one below the
other without following a link, and a file is created, made readable, dated and put in its place
by descriptors. What is no plain file or folder was not made here, and is left alone.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from ...files import Scratch

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class PublicFolder:
    """A folder that is open; names of files are relative to it, with ``/`` between the parts.

    Args:
        path: The folder. A link in its place is followed if this user or root made it.

    Raises:
        OSError: If it cannot be opened or made.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open = {"": _open_or_make(path)}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for descriptor in self._open.values():
            os.close(descriptor)

    def holds(self, name: str, data: bytes) -> bool:
        """Whether a file has these bytes, and everybody may read it.

        Raises:
            OSError: If something that is not ours is in its place.
        """
        parent, base = os.path.split(name)
        try:
            folder = self._folder(parent, make=False)
            self._check(folder, name)
            with open(os.open(base, _READ, dir_fd=folder), "rb") as file:
                status = os.fstat(file.fileno())
                right = status.st_size == len(data) and status.st_mode & 0o444 == 0o444
                return stat.S_ISREG(status.st_mode) and right and file.read() == data
        except (FileNotFoundError, PermissionError):
            return False

    def remove(self, name: str) -> bool:
        """Remove a file; False if there is none."""
        parent, base = os.path.split(name)
        try:
            folder = self._folder(parent, make=False)
            self._check(folder, name)
            os.unlink(base, dir_fd=folder)
        except FileNotFoundError:
            return False
        return True

    def replace(self, wanted: Mapping[str, bytes]) -> None:
        """Replace files, each in one step, and none unless all can be.

        Each gets a date in a second of its own: who tells contents apart by date and size, as
        web servers do, must not take the new one for the one before.

        Args:
            wanted: What each file holds from then on; its folder is made, if need be.

        Raises:
            OSError: Naming the file that is at fault.
        """
        name = ""
        try:
            with contextlib.ExitStack() as stack:
                staged = {}
                for name, data in wanted.items():
                    staged[name] = stack.enter_context(self._staged(name))
                    staged[name].write(data, sync=True)
                    self._date(name, staged[name].descriptor)
                for name, scratch in staged.items():
                    scratch.become(os.path.basename(name))
                    self._check(self._folder(os.path.dirname(name), make=False), name)
        except OSError as error:
            path = error.filename if isinstance(error, _RefusedError) else str(self._path / name)
            raise OSError(error.errno, error.strerror, path) from None

    def _staged(self, name: str) -> Scratch:
        parent, base = os.path.split(name)
        scratch = Scratch(base, folder=self._folder(parent, make=True), mode=_FILE_MODE)
        os.fchmod(scratch.descriptor, _FILE_MODE)  # whatever the umask
        return scratch

    def _date(self, name: str, descriptor: int) -> None:
        parent, base = os.path.split(name)
        with contextlib.suppress(FileNotFoundError):
            folder = self._folder(parent, make=False)
            before = os.stat(base, dir_fd=folder, follow_symlinks=False).st_mtime
            now = os.fstat(descriptor).st_mtime
            if now < int(before) + 1:
                os.utime(descriptor, (now, int(before) + 1))

    def _check(self, folder: int, name: str) -> None:
        """Refuse what is no file, and so not ours to replace."""
        status = os.stat(os.path.basename(name), dir_fd=folder, follow_symlinks=False)
        if not stat.S_ISREG(status.st_mode):
            raise _RefusedError(_kind(status), str(self._path / name))

    def _folder(self, name: str, *, make: bool) -> int:
        """Give the descriptor of a folder below this one."""
        if name in self._open:
            return self._open[name]
        parent, base = os.path.split(name)
        above = self._folder(parent, make=make)
        if make:
            with contextlib.suppress(FileExistsError):
                os.mkdir(base, _FOLDER_MODE, dir_fd=above)
        try:
            descriptor = os.open(base, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
        except OSError as error:
            if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
                raise
            status = os.stat(base, dir_fd=above, follow_symlinks=False)
            raise _RefusedError(_kind(status), str(self._path / name)) from None
        self._open[name] = descriptor
        _open_to_all(descriptor, above)
        return descriptor


class _RefusedError(OSError):
    """Something in the place of a file or folder of ours."""

    def __init__(self, kind: str, path: str) -> None:
        super().__init__(errno.EEXIST, f"there is {kind}, which is not ours to replace", path)


def _kind(status: os.stat_result) -> str:
    if stat.S_ISLNK(status.st_mode):
        return f"a symbolic link of user {status.st_uid}'s"
    if stat.S_ISDIR(status.st_mode):
        return "a folder in a file's place"
    return "a file in a folder's place" if stat.S_ISREG(status.st_mode) else "no regular file"


def _open_or_make(path: Path) -> int:
    path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    try:
        return os.open(path, _FOLDER | os.O_NOFOLLOW)
    except OSError:
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode):
            raise
        if status.st_uid not in {0, os.geteuid()}:
            raise _RefusedError(_kind(status), str(path)) from None
        return os.open(path, _FOLDER)


def _open_to_all(descriptor: int, above: int) -> None:
    """Let everybody enter a folder that this user once made under a strict umask.

    Only where nobody else can have put another folder of this user's there.
    """
    status, parent = os.fstat(descriptor), os.fstat(above)
    ours = status.st_uid == parent.st_uid == os.geteuid() and not parent.st_mode & _OTHERS_WRITE
    if ours and status.st_mode & _FOLDER_MODE != _FOLDER_MODE:
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | _FOLDER_MODE)
