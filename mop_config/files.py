"""Files that are replaced whole: a crash leaves the old one or the new one."""

import contextlib
import os
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Self

try:
    import fcntl
except ImportError:  # Windows has no such locks
    fcntl = None  # type: ignore[assignment]

_SCRATCH = re.compile(r"[0-9]+\.[0-9]+")
#: Seconds after which nobody can still be writing a file.
_LEFT = 600.0


def write_atomically(path: Path, data: bytes, *, sync: bool, mode: int = 0o600) -> None:
    """Replace a file in one step.

    Args:
        path: The file.
        data: What it holds from then on.
        sync: Whether that is only after the bytes are on the disk.
        mode: Who may read it: ours alone, unless told otherwise; the umask takes from it.

    Raises:
        OSError: If it cannot be done; the file that was there stays.
    """
    name = str(path)
    with Scratch(name, mode=mode) as scratch:
        scratch.write(data, sync=sync)
        scratch.become(name)


class Scratch:
    """A new file beside the one that it will replace; it is removed unless it has become that.

    The file is created exclusively, so nobody can have put a link or a file of his own there, and
    everything that is done to it is done by its descriptor.

    Args:
        name: The file that is to be replaced: a path, or a name in ``folder``.
        folder: Descriptor of its folder, or None where ``name`` is a path.
        mode: Permissions, less those that the umask takes.

    Attributes:
        descriptor: Of the new file.
    """

    def __init__(self, name: str, *, folder: int | None = None, mode: int) -> None:
        parent, base = os.path.split(name)
        prefix = f".{base}."
        _sweep_all(parent, prefix, folder)
        chance = int.from_bytes(os.urandom(6), "big")
        self._name = os.path.join(parent, f"{prefix}{os.getpid()}.{chance}")
        self._folder = folder
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
        for flag in ("O_NOFOLLOW", "O_CLOEXEC", "O_BINARY"):
            flags |= getattr(os, flag, 0)
        self.descriptor = os.open(self._name, flags, mode, dir_fd=folder)
        self._there = True

    def write(self, data: bytes, *, sync: bool) -> None:
        """Write everything; with ``sync`` it is on the disk when this returns."""
        with open(self.descriptor, "wb", closefd=False) as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(self.descriptor)

    def become(self, name: str) -> None:
        """Take the place of the file of this name, in the same folder."""
        os.replace(self._name, name, src_dir_fd=self._folder, dst_dir_fd=self._folder)
        self._there = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.descriptor)
        if self._there:
            with contextlib.suppress(OSError):
                os.unlink(self._name, dir_fd=self._folder)


def _sweep_all(parent: str, prefix: str, folder: int | None) -> None:
    """Remove what processes left that were killed in mid-write."""
    with contextlib.suppress(OSError):
        for name in os.listdir((parent or os.curdir) if folder is None else folder):
            if name.startswith(prefix) and _SCRATCH.fullmatch(name.removeprefix(prefix)):
                _sweep(os.path.join(parent, name), folder)


def _sweep(name: str, folder: int | None) -> None:
    with contextlib.suppress(OSError):
        status = os.stat(name, dir_fd=folder, follow_symlinks=False)
        if time.time() - status.st_mtime > _LEFT:
            os.unlink(name, dir_fd=folder)


@contextlib.contextmanager
def locked(path: Path, patience: float) -> Iterator[None]:
    """Hold a lock that keeps out every other process and thread, where the system has such.

    Args:
        path: A file of its own: those that it guards are replaced by new ones.
        patience: Seconds to wait for whoever holds it.

    Raises:
        BlockingIOError: If it is still held then.
        OSError: If the file cannot be made.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileNotFoundError:
        # Somebody has taken the whole folder away, or nobody has made it yet.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(path, flags, 0o600)
    with holding(descriptor, patience):
        yield


@contextlib.contextmanager
def holding(descriptor: int, patience: float) -> Iterator[None]:
    """Lock a file that is open, and close it afterwards; see ``locked``."""
    try:
        if fcntl is not None:
            _lock(descriptor, time.monotonic() + patience)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int, deadline: float) -> None:
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return
        except BlockingIOError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.005)
