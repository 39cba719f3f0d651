"""One worker of a host does what only one is to do; when it dies, another one takes over.

The system frees a lock with the process that holds it, however that ends.
"""

import fcntl
import os
from pathlib import Path

from ..sources.file import Fingerprint
from . import records


class Leadership:
    """A lock on a file in the state folder.

    Args:
        path: The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Become the one, or stay it; False while another process is.

        Raises:
            OSError: If the file cannot be opened or locked.
        """
        if self._descriptor is None or not self._is_there(self._descriptor):
            self.release()
            self._descriptor = self._lock()
        return self._descriptor is not None

    def _lock(self) -> int | None:
        descriptor = records.open_lock(self._path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self._is_there(descriptor):
                return descriptor
        except BlockingIOError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def _is_there(self, descriptor: int) -> bool:
        # Whoever clears the folder takes the file away, and the next worker makes another.
        try:
            there = records.signature(self._path)
            return Fingerprint.of(os.fstat(descriptor)).is_same_file(there)
        except OSError:
            return False

    def release(self) -> None:
        """Let another one take over."""
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)
