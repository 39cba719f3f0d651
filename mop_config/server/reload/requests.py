"""Requests to reload, as the workers of a host pass them on: one number, which grows.

Who wants a reload writes a higher number into a file of the state folder. Each reload thread
looks there on each turn, reads its source, and says which number it has answered.
"""

import time
from typing import NamedTuple

from ..serving.store import Reload, SnapshotStore, Trigger
from ..sources.file import Fingerprint
from ..state.directory import StateDirectory


class ReloadRequests:
    """The newest request.

    Args:
        directory: The state folder, or None: then only this process sees the requests.
        name: Name of the record.
    """

    def __init__(self, directory: StateDirectory | None = None, name: str = "") -> None:
        self._directory = directory
        self._name = name
        self._own = 0
        self._theirs = 0
        self._signature: Fingerprint | None = None

    def make(self) -> tuple[int, bool]:
        """Ask for a reload; give the request's number, and whether other workers hear of it."""
        self._own = max(time.time_ns(), self.newest() + 1)
        return self._own, self.insist(self._own)

    def insist(self, number: int) -> bool:
        """See to it that a request is not lost behind an older one written at the same time."""
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
        """Give the number of the newest request; 0 before the first."""
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
    """Which request a process has answered last.

    Attributes:
        number: The request's.
        reload: What came of it, or None where the process is younger than the request.
    """

    number: int
    reload: Reload | None


class ReloadResponder:
    """What a reload thread owes to those who ask.

    Args:
        requests: Where requests come from; those that were made before now are none of ours.
        store: Where reloads are noted.
    """

    def __init__(self, requests: ReloadRequests, store: SnapshotStore) -> None:
        self._requests = requests
        self._store = store
        self._before: Reload | None = None
        self._number = requests.newest()
        self.answered = Answered(self._number, None)

    def asked(self) -> Trigger | None:
        """Look for a new request, at the start of a turn."""
        newest = self._requests.newest()
        if newest <= self._number:
            return None
        self._number, self._before = newest, self._store.view.last_reload
        return Trigger.API

    def note(self) -> None:
        """Answer what was asked for, if it is done, at the end of a turn."""
        newest = self._store.view.last_reload
        if self.answered.number < self._number and newest is not self._before:
            self.answered = Answered(self._number, newest)
