"""The folder that ``publish`` writes to; everybody may read its files.

If another user owns the folder, that user can replace its content at any moment. Therefore each
folder is opened without following a link, and files are created, made readable, dated and renamed
through descriptors. An object that is not a regular file is never replaced.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Self

from ...files import Scratch, open_flags

_FOLDER = os.O_RDONLY | open_flags("O_DIRECTORY", "O_CLOEXEC")
_READ = os.O_RDONLY | open_flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY")
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def write(folder: Path, wanted: Mapping[str, bytes], known: Iterable[str]) -> list[str]:
    """Bring a folder up to date; files that are up to date are not touched.

    Args:
        folder: The folder; it is made if it is missing.
        wanted: The content of each file by its path.
        known: The files that may be in the folder; those that are not wanted are removed. Other
            files stay.

    Returns:
        The paths of the files that were written or removed.

    Raises:
        OSError: If a file cannot be written, or an object that is not a regular file has its
            name. All files keep their old content then.
    """
    with PublicFolder(folder, {*known, *wanted}) as public:
        changed = {name: data for name, data in wanted.items() if not public.holds(name, data)}
        # Remove first: an old compressed list must not stand beside a new plain list.
        removed = [name for name in known if name not in wanted and public.remove(name)]
        public.replace(changed)
    return [*changed, *removed]


class PublicFolder:
    """A folder and its sub-folders, which are made if they are missing, and kept open.

    Args:
        path: The folder. If it is a link, this user or root must have made the link.
        names: The files that may be in the folder: relative paths, with ``/`` between the parts.

    Raises:
        OSError: If a folder cannot be opened or made.
    """

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._path = path
        parents = {str(parent) for name in names for parent in Path(name).parents}
        with contextlib.ExitStack() as stack:
            self._folders = {".": _open_or_make(path)}
            stack.callback(os.close, self._folders["."])
            # A parent's path is shorter, so it comes before its sub-folders.
            for name in sorted(parents - {"."}, key=len):
                above = self._folders[str(Path(name).parent)]
                self._folders[name] = _open_below(above, path / name)
                stack.callback(os.close, self._folders[name])
            self._opened = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._opened.close()

    def _place(self, name: str) -> tuple[int, str]:
        """Return the descriptor of a file's folder, and the file's name there."""
        path = Path(name)
        return self._folders[str(path.parent)], path.name

    def _status(self, name: str) -> os.stat_result | None:
        """Return the ``stat`` result of a file, or None if it is missing.

        Raises:
            OSError: If an object that is not a regular file has the name.
        """
        folder, base = self._place(name)
        try:
            status = os.stat(base, dir_fd=folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(status, self._path / name)
        return status

    def holds(self, name: str, data: bytes) -> bool:
        """Whether a file has these bytes, and everybody may read it.

        Raises:
            OSError: If an object that is not a regular file has the name.
        """
        status = self._status(name)
        if status is None or status.st_size != len(data) or status.st_mode & 0o444 != 0o444:
            return False
        folder, base = self._place(name)
        with open(os.open(base, _READ, dir_fd=folder), "rb") as file:
            return file.read() == data

    def remove(self, name: str) -> bool:
        """Remove a file; return whether there was one."""
        found = self._status(name) is not None
        if found:
            folder, base = self._place(name)
            os.unlink(base, dir_fd=folder)
        return found

    def replace(self, wanted: Mapping[str, bytes]) -> None:
        """Replace files, each atomically, and no file unless all new files could be written.

        Args:
            wanted: The new content of each file.

        Raises:
            OSError: If a file cannot be replaced; it names the file.
        """
        name = ""
        try:
            with contextlib.ExitStack() as stack:
                staged = {}
                for name, data in wanted.items():
                    folder, base = self._place(name)
                    scratch = Scratch(base, folder=folder, mode=_FILE_MODE)
                    staged[name] = stack.enter_context(scratch)
                    os.fchmod(scratch.descriptor, _FILE_MODE)  # whatever the umask is
                    scratch.write(data, sync=True)
                    _date(scratch.descriptor, self._status(name))
                for name, scratch in staged.items():
                    scratch.become(self._place(name)[1])
                    self._status(name)  # another user may have moved a link there
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path / name)) from None


def _date(descriptor: int, before: os.stat_result | None) -> None:
    """Give a new file a date in another second than the file that it will replace.

    Web servers make the ETag from date and size, so that equal dates could hide a change.
    """
    now = os.fstat(descriptor).st_mtime
    if before is not None and now < int(before.st_mtime) + 1:
        os.utime(descriptor, (now, int(before.st_mtime) + 1))


def _refusal(status: os.stat_result, path: Path) -> OSError:
    link = stat.S_ISLNK(status.st_mode)
    kind = f"a symbolic link of user {status.st_uid}" if link else stat.filemode(status.st_mode)
    return OSError(errno.EEXIST, f"it is {kind}, which is not replaced", str(path))


def _open_or_make(path: Path) -> int:
    path.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
    try:
        return os.open(path, _FOLDER | os.O_NOFOLLOW)
    except OSError:
        status = os.lstat(path)
        if not stat.S_ISLNK(status.st_mode):
            raise
        if status.st_uid not in {0, os.geteuid()}:
            raise _refusal(status, path) from None
        return os.open(path, _FOLDER)


def _open_below(above: int, path: Path) -> int:
    """Open a sub-folder; make it if it is missing."""
    with contextlib.suppress(FileExistsError):
        os.mkdir(path.name, _FOLDER_MODE, dir_fd=above)
    try:
        descriptor = os.open(path.name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        status = os.stat(path.name, dir_fd=above, follow_symlinks=False)
        raise _refusal(status, path) from None
    _open_to_all(descriptor, above)
    return descriptor


def _open_to_all(descriptor: int, above: int) -> None:
    """Make a folder accessible to everybody, even if it was made under a strict umask.

    This is only done if no other user can have moved another folder of this user there.
    """
    status, parent = os.fstat(descriptor), os.fstat(above)
    ours = status.st_uid == parent.st_uid == os.geteuid() and not parent.st_mode & _OTHERS_WRITE
    if ours and status.st_mode & _FOLDER_MODE != _FOLDER_MODE:
        os.fchmod(descriptor, stat.S_IMODE(status.st_mode) | _FOLDER_MODE)
