"""Leadership elects one worker of a host by a lock (flock); if it dies, another takes over."""

import contextlib

from .directory import StateDirectory


class Leadership:
    """The leader's lock in the state folder, which the kernel frees when the leader's process ends.

    Args:
        directory: The state folder.
        name: Name of the lock file.
    """

    def __init__(self, directory: StateDirectory, name: str) -> None:
        self._directory = directory
        self._name = name
        self._held = contextlib.ExitStack()
        self._descriptor: int | None = None

    def take(self) -> bool:
        """Become the leader or stay the leader; return False while another process leads.

        Raises:
            OSError: If the lock file cannot be opened or locked.
        """
        held = self._descriptor
        # The folder may have been cleared, so that another process can lock a new file.
        if held is None or not self._directory.is_there(self._name, held):
            self.release()
            lock = self._directory.locked(self._name, wait=False)
            with contextlib.suppress(BlockingIOError):
                self._descriptor = self._held.enter_context(lock)
        return self._descriptor is not None

    def release(self) -> None:
        """Release the lock, so that another process can take over."""
        self._descriptor = None
        self._held.close()
