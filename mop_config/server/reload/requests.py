"""ReloadRequests passes requests to reload to all workers of a host as one growing number.

The worker that gets a request writes a higher number into a record of the state folder. Each
reload thread reads the record on each turn, reads its source, and notes the number it answered.
"""

import time

from ..serving.store import Reload, SnapshotStore
from ..state.directory import StateDirectory


class ReloadRequests:
    """The newest request to reload, and the newest request that this process has answered.

    Args:
        directory: The state folder.
        name: Name of the record.
        store: The store that notes the reloads.

    Attributes:
        answered: The number of the newest request that this process has answered. Requests from
            before this object count as answered, since the process reads its source at its start.
    """

    def __init__(self, directory: StateDirectory, name: str, store: SnapshotStore) -> None:
        self._directory = directory
        self._name = name
        self._store = store
        self._own = 0
        self._before: Reload | None = None
        self._taken = self.answered = self._newest()

    def make(self) -> tuple[int, bool]:
        """Request a reload; return its number, and whether the other workers can see it."""
        self._own = max(time.time_ns(), self._newest() + 1)
        return self._own, self.insist(self._own)

    def insist(self, number: int) -> bool:
        """Write a request again if an older request overwrote it; return whether it is visible."""
        try:
            if self._recorded() < number:
                self._directory.write(self._name, b"%d\n" % number, sync=False)
        except OSError:
            return False
        return True

    def take(self) -> bool:
        """Return whether there is a new request, which the next reload answers."""
        newest = self._newest()
        if newest <= self._taken:
            return False
        self._taken, self._before = newest, self._store.view.last_reload
        return True

    def note(self) -> None:
        """Note that the request is answered if a reload has ended since ``take``."""
        if self._store.view.last_reload is not self._before:
            self.answered = self._taken

    def _newest(self) -> int:
        return max(self._own, self._recorded())

    def _recorded(self) -> int:
        return self._directory.load(self._name, int, "the request to reload") or 0
