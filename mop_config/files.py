"""Atomic replacement of files, and file locks (flock)."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

try:
    import fcntl
except ImportError:  # Windows has no flock
    fcntl = None  # type: ignore[assignment]

_SCRATCH = re.compile(r"[0-9]+\.[0-9a-f]+")
#: Age in seconds at which a temporary file counts as left over from a killed process.
_LEFT = 600.0


def open_flags(*names: str) -> int:
    """Return flags of ``os.open`` combined, without the flags that this system lacks (Windows)."""
    flags = 0
    for name in names:
        flags |= getattr(os, name, 0)
    return flags


def write_atomically(path: Path, data: bytes, *, sync: bool, mode: int = 0o600) -> None:
    """Replace a file atomically: a crash leaves either the old bytes or the new bytes.

    Args:
        path: The file.
        data: Its new content.
        sync: Whether to fsync the bytes before the replacement, against a loss of power.
        mode: Permissions of the new file, less the umask; the default is 0600, for the owner only.

    Raises:
        OSError: If the file cannot be written; the old file stays.
    """
    name = str(path)
    with Scratch(name, mode=mode) as scratch:
        scratch.write(data, sync=sync)
        scratch.become(name)


class Scratch:
    """A temporary file beside its target, which the temporary file replaces or else is removed.

    The temporary file is created with ``O_EXCL``, so that another user cannot have planted a link
    or a file under its name, and the bytes are written through its descriptor only.

    Args:
        name: The file to replace: a path, or a name in ``folder``.
        folder: Descriptor of the folder, or None if ``name`` is a path.
        mode: Permissions of the new file, less the umask.

    Attributes:
        descriptor: Descriptor of the temporary file, or -1 after the replacement.
    """

    def __init__(self, name: str, *, folder: int | None = None, mode: int) -> None:
        parent, base = os.path.split(name)
        prefix = f".{base}."
        _sweep(parent, prefix, folder)
        self._name = os.path.join(parent, f"{prefix}{os.getpid()}.{os.urandom(6).hex()}")
        self._folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        flags |= open_flags("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY")
        self.descriptor = os.open(self._name, flags, mode, dir_fd=folder)
        self._there = True

    def write(self, data: bytes, *, sync: bool) -> None:
        """Write all bytes; with ``sync``, also flush them to the disk."""
        with open(self.descriptor, "wb", closefd=False) as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(self.descriptor)

    def become(self, name: str) -> None:
        """Replace the file ``name`` in the same folder, and close the descriptor."""
        self._close()  # Windows cannot rename an open file
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._there = False

    def __enter__(self) -> Self:
        return self

    def _close(self) -> None:
        descriptor, self.descriptor = self.descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def __exit__(self, *_: object) -> None:
        self._close()
        if self._there:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)


def _sweep(parent: str, prefix: str, folder: int | None) -> None:
    """Remove the temporary files that killed processes have left."""
    with contextlib.suppress(OSError):
        for name in os.listdir((parent or os.curdir) if folder is None else folder):
            if name.startswith(prefix) and _SCRATCH.fullmatch(name.removeprefix(prefix)):
                path = os.path.join(parent, name)
                status = os.stat(path, dir_fd=folder, follow_symlinks=False)
                if time.time() - status.st_mtime > _LEFT:
                    os.unlink(path, dir_fd=folder)


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
