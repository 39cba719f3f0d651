"""Atomic replacement of files, and file locks (flock)."""

import contextlib
import errno
import os
import time
from collections.abc import Iterator
from functools import partial
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
    with replacing(name, sync=sync, mode=mode) as file:
        file.write(data)


@contextlib.contextmanager
def replacing(name: str, *, sync: bool, mode: int = 0o600) -> Iterator[BinaryIO]:
    """Replace a file in one step when the context ends without an exception.

    The context is a new file beside it, which is created with ``O_EXCL``, so that another user
    cannot have planted a link or a file under its name.

    Args:
        name: Path of the file; a symbolic link is replaced itself.
        sync: Whether to fsync the bytes before the replacement, against a loss of power.
        mode: Permissions of the new file, less the umask.
    """
    parent, base = os.path.split(name)
    path = os.path.join(parent, f".{base}.{os.getpid()}.{os.urandom(6).hex()}")
    try:
        with open(path, "xb", opener=partial(os.open, mode=mode)) as file:
            yield file
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(path, name)  # Windows cannot rename an open file
    finally:
        with contextlib.suppress(OSError):
            os.unlink(path)


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
        deadline = time.monotonic() + patience
        while fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.005)
        yield
    finally:
        os.close(descriptor)
