"""Files that are replaced whole: a crash leaves the old one or the new one."""

import contextlib
import os
import re
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

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
    scratch = _scratch(path)
    try:
        _write(scratch, data, sync=sync, mode=mode)
        os.replace(scratch, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(scratch)
        raise


def replace_together(wanted: Mapping[Path, bytes]) -> None:
    """Replace files that everybody may read, each in one step, and none unless all can be.

    Each gets a date in a second of its own: who tells contents apart by date and size, as
    web servers do, must not take the new one for the one before.

    Args:
        wanted: What each file holds from then on; its folder is made, if need be.

    Raises:
        OSError: Naming the file that is at fault.
    """
    staged: dict[Path, Path] = {}
    path = Path()
    try:
        for path, data in wanted.items():
            path.parent.mkdir(parents=True, exist_ok=True)
            scratch = staged[path] = _scratch(path)
            _write(scratch, data, sync=True, mode=0o644)
            scratch.chmod(0o644)  # whatever the umask
            _date(scratch, path)
        for path, scratch in staged.items():
            os.replace(scratch, path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    finally:
        for scratch in staged.values():
            with contextlib.suppress(OSError):
                os.unlink(scratch)


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


def _scratch(path: Path) -> Path:
    # One name a thread: two may write at a time.
    prefix = f".{path.name}."
    with contextlib.suppress(OSError):
        for name in os.listdir(path.parent):
            if name.startswith(prefix) and _SCRATCH.fullmatch(name.removeprefix(prefix)):
                _sweep(path.with_name(name))
    return path.with_name(f"{prefix}{os.getpid()}.{threading.get_native_id()}")


def _sweep(scratch: Path) -> None:
    """Take away what was left by a process that was killed in mid-write."""
    with contextlib.suppress(OSError):
        if time.time() - scratch.stat().st_mtime > _LEFT:
            scratch.unlink()


def _write(scratch: Path, data: bytes, *, sync: bool, mode: int) -> None:
    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, mode)

    with open(scratch, "wb", opener=create) as file:
        file.write(data)
        file.flush()
        if sync:
            os.fsync(file.fileno())


def _date(scratch: Path, path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        before, now = path.stat().st_mtime, scratch.stat().st_mtime
        if now < int(before) + 1:
            os.utime(scratch, (now, int(before) + 1))
