"""Files that are replaced whole: a crash leaves the old one or the new one."""

import contextlib
import os
import threading
from collections.abc import Mapping
from pathlib import Path


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


def _scratch(path: Path) -> Path:
    # One name a thread: two may write at a time, but kills in mid-write cannot fill the folder.
    return path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")


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
