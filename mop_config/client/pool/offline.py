"""``OfflineDetector`` distinguishes a machine without a network from dead endpoints. Pure.

A host may be unreachable, or its name unresolvable, because the host is dead or because the
machine has no network. So the detector holds back the failure of a first host. If a second host
fails within the window, the machine is offline, and no endpoint is blamed. After an answer from
any host, or at the end of the window, the failure counts.
"""

from collections.abc import Callable

Blame = Callable[[float], None]


class OfflineDetector:
    """Holds back failures until the detector knows whether the machine is offline.

    Args:
        window: Seconds within which the failures of two hosts mean that the machine is offline.

    Attributes:
        offline: Whether the machine is offline.
        held: When each host failed whose failure is held back, and what counts the failure.
    """

    def __init__(self, window: float) -> None:
        self._window = window
        self.held: dict[str, tuple[float, Blame]] = {}
        self.offline = False

    def record_fault(self, host: str, now: float, blame: Blame) -> None:
        """Record a host that could not be reached.

        Args:
            host: The host.
            now: Monotonic seconds.
            blame: Called, now or later, with monotonic seconds if the failure counts against the
                host.
        """
        self.expire(now)
        if self.offline:
            return
        self.held.setdefault(host, (now, blame))
        if len(self.held) > 1:
            self.held.clear()
            self.offline = True

    def record_answer(self, now: float) -> None:
        """Record an answer: there is a network, so the held failures count against their hosts."""
        self.offline = False
        self._blame_all(now, older_than=now)

    def expire(self, now: float) -> None:
        """Count the failures that were held back for longer than the window."""
        self._blame_all(now, older_than=now - self._window)

    @property
    def next_expiry(self) -> float:
        """Monotonic seconds of the next expiry of a held failure; infinity for none."""
        return min((at for at, _ in self.held.values()), default=float("inf")) + self._window

    def _blame_all(self, now: float, *, older_than: float) -> None:
        due = [host for host, (at, _) in self.held.items() if at <= older_than]
        for _, blame in [self.held.pop(host) for host in due]:
            blame(now)
