"""Files that are replaced whole: a crash leaves the old one or the new one."""

import contextlib
import os
import threading
from pathlib import Path


def _private(name: str, flags: int) -> int:
    return os.open(name, flags | os.O_NOFOLLOW, 0o600)


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
    # One name a thread: two may write at a time, but kills in mid-write cannot fill the folder.
    name = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_native_id()}")

    def create(name: str, flags: int) -> int:
        return os.open(name, flags | os.O_NOFOLLOW, mode)

    try:
        with open(name, "wb", opener=create) as file:
            file.write(data)
            file.flush()
            if sync:
                os.fsync(file.fileno())
        os.replace(name, path)
    except BaseException:
        with contextlib.suppress(OSError):
            os.unlink(name)
        raise
