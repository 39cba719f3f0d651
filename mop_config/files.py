"""Atomic replacement of files, and file locks (flock)."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]


def open_flags(*names: str) -> int:
    """Return flags of ``os.open`` combined, without the flags that this system lacks (Windows)."""
    flags = 0
    for name in names:
        flags |= getattr(os, name, 0)
    return flags


def write_atomically(path: Path, data: bytes, *, sync: bool, mode: int = 0o600) -> None:
    """Replace a file atomically: a crash leaves either the old bytes or the new bytes.

    Args:
        path: The file. A symbolic link stays, and the file that it names is replaced.
        data: Its new content.
        sync: Whether to fsync the bytes before the replacement, against a loss of power.
        mode: Permissions of the new file, less the umask; the default is 0600, for the owner only.

    Raises:
        OSError: If the file cannot be written, or is no regular file, such as /dev/null; the
            old file stays.
    """
    name = os.path.realpath(path)
    if os.path.exists(name) and not os.path.isfile(name):
        raise OSError(errno.EINVAL, "it is no regular file", name)
    with scratch_file(name, mode=mode) as scratch:
        scratch.write(data)
        replace_by(scratch, name, sync=sync)


@contextlib.contextmanager
def scratch_file(name: str, *, folder: int | None = None, mode: int) -> Iterator[BinaryIO]:
    """Make a temporary file beside a file, and remove it again unless ``replace_by`` is called.

    The temporary file is created with ``O_EXCL``, so that another user cannot have planted a link
    or a file under its name. The context is the open file.

    Args:
        name: The file to replace: a path, or a name in ``folder``.
        folder: Descriptor of the folder, or None if ``name`` is a path.
        mode: Permissions of the new file, less the umask.
    """
    parent, base = os.path.split(name)
    path = os.path.join(parent, f".{base}.{os.getpid()}.{os.urandom(6).hex()}")

    def opener(path: str, flags: int) -> int:
        return os.open(path, flags, mode, dir_fd=folder)

    try:
        with open(path, "xb", opener=opener) as file:
            yield file
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path, dir_fd=folder)


def replace_by(scratch: BinaryIO, name: str, *, folder: int | None = None, sync: bool) -> None:
    """Close a temporary file, and let it replace the file ``name`` in the same folder.

    Args:
        scratch: The context of ``scratch_file``.
        name: The file to replace.
        folder: Descriptor of the folder, or None if ``name`` is a path.
        sync: Whether to flush the bytes to the disk before the replacement.
    """
    scratch.flush()
    if sync:
        os.fsync(scratch.fileno())
    scratch.close()  # Windows cannot rename an open file
    os.replace(scratch.name, name, src_dir_fd=folder, dst_dir_fd=folder)


@contextlib.contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold an exclusive flock against all other processes and threads; no lock on Windows.

    Args:
        path: The lock file, separate from the guarded files, because a guarded file is replaced.
        patience: Seconds to wait while another process or thread holds the lock.

    Raises:
        BlockingIOError: If another process or thread still holds the lock after ``patience``.
        OSError: If the lock file cannot be created.
    """
    flags = os.O_RDWR | os.O_CREAT | open_flags("O_CLOEXEC", "O_NOFOLLOW")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, flags, 0o600)
    try:
        if fcntl is not None:
            lock_descriptor(descriptor, time.monotonic() + patience)
        yield
    finally:
        os.close(descriptor)


def lock_descriptor(descriptor: int, deadline: float) -> None:
    """Take an exclusive flock of an open file, held until the file is closed.

    Args:
        descriptor: Descriptor of the file.
        deadline: Monotonic seconds until which to wait for another holder.

    Raises:
        BlockingIOError: If another process holds the lock at the deadline.
    """
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
