"""ReloadRequests passes requests to reload to all workers of a host as one growing number.

The worker that gets the request writes a higher number into a record of the state folder. Each
reload thread reads the record on each turn, reads its source, and notes the number it answered.
"""

import time
from typing import NamedTuple

from ..serving.store import Reload, SnapshotStore, Trigger
from ..sources.file import Fingerprint
from ..state.directory import StateDirectory


class ReloadRequests:
    """The number of the newest request to reload.

    Args:
        directory: The state folder; None means that only this process sees the requests.
        name: Name of the record.
    """

    def __init__(self, directory: StateDirectory | None = None, name: str = "") -> None:
        self._directory = directory
        self._name = name
        self._own = 0
        self._theirs = 0
        self._signature: Fingerprint | None = None

    def make(self) -> tuple[int, bool]:
        """Request a reload; return its number, and whether the other workers can see it."""
        self._own = max(time.time_ns(), self.newest() + 1)
        return self._own, self.insist(self._own)

    def insist(self, number: int) -> bool:
        """Write a request again if an older request overwrote it; return whether it is visible."""
        if self._directory is None:
            return False
        if self._look() >= number:
            return True
        try:
            self._directory.write(self._name, b"%d\n" % number, sync=False)
        except OSError:
            return False
        return True

    def newest(self) -> int:
        """Return the number of the newest request; 0 before the first request."""
        return max(self._own, self._look())

    def _look(self) -> int:
        if self._directory is None:
            return 0
        signature = self._directory.fingerprint(self._name)
        if signature != self._signature:
            newest = self._directory.load(self._name, int, "the request to reload")
            self._theirs = self._theirs if newest is None else newest
            self._signature = signature
        return self._theirs


class Answered(NamedTuple):
    """The request that a process has answered last.

    Attributes:
        number: The number of the request.
        reload: The reload that answered it, or None if the process is younger than the request.
    """

    number: int
    reload: Reload | None


class ReloadResponder:
    """Takes requests to reload for a reload thread, and notes which request it has answered.

    Args:
        requests: The requests; requests from before this call need no answer.
        store: The store that notes the reloads.
    """

    def __init__(self, requests: ReloadRequests, store: SnapshotStore) -> None:
        self._requests = requests
        self._store = store
        self._before: Reload | None = None
        self._number = requests.newest()
        self.answered = Answered(self._number, None)

    def asked(self) -> Trigger | None:
        """Return ``Trigger.API`` if there is a new request, else None; called before a turn."""
        newest = self._requests.newest()
        if newest <= self._number:
            return None
        self._number, self._before = newest, self._store.view.last_reload
        return Trigger.API

    def note(self) -> None:
        """Note the answer to the request if its reload has ended; called after a turn."""
        newest = self._store.view.last_reload
        if self.answered.number < self._number and newest is not self._before:
            self.answered = Answered(self._number, newest)
