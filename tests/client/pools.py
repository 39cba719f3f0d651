"""A pool whose clock the test advances."""

from collections.abc import Iterable, Iterator
from typing import Any

from mop_config.client.pool.member import PoolEvent, PoolMember
from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.policy import Policy
from mop_config.client.pool.pool import Pool
from mop_config.health.probe import ProbeResult
from mop_config.health.state import HealthState
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

POLICY = Policy()


def url(name: str) -> str:
    return f"https://{name}.example/api"


class Bench:
    """A pool of endpoints ``a``, ``b`` … with methods for their failures and probes.

    Args:
        priorities: Priority of each endpoint, by name.
        dice: Random numbers that the pool draws, repeated without end.
    """

    def __init__(
        self, priorities: dict[str, int], policy: Policy = POLICY, dice: Iterable[float] = (0.5,)
    ) -> None:
        self.now = 0.0
        self._dice = list(dice)
        self._rolls = self._roll()
        self.network = OfflineDetector(policy.offline_window)
        self.pool = Pool("api", policy, self.network, lambda: next(self._rolls))
        self.events: list[PoolEvent] = []
        for name, priority in priorities.items():
            self.put(name, priority)

    def put(self, name: str, priority: int) -> None:
        """Add an endpoint, or change the priority of a known endpoint."""
        self.pool.replace([*self._except(name), Endpoint(url(name), priority)], self.now)

    def remove(self, name: str) -> None:
        """Remove an endpoint."""
        self.pool.replace(self._except(name), self.now)

    def _except(self, name: str) -> list[Endpoint]:
        return [m.endpoint for m in self.pool.members() if m.url != url(name)]

    def _roll(self) -> Iterator[float]:
        while True:
            yield from self._dice

    def __getitem__(self, name: str) -> PoolMember:
        member = self.pool.get(url(name))
        assert member is not None
        return member

    def state(self, name: str) -> HealthState:
        return self[name].health.state

    def wait(self, seconds: float) -> None:
        self.now += seconds

    @property
    def current(self) -> str | None:
        """The name of the endpoint that the pool selects for a request now, or None."""
        return name_of(self.pool.select(self.now))

    def others(self, *tried: str) -> str:
        """The names of the endpoints that the request can still try, best first."""
        rest = self.pool.alternatives(self.now, [url(name) for name in tried])
        return "".join(name_of(member) or "?" for member in rest)

    def serve(self, name: str) -> None:
        self.pool.served(self[name], self.now)

    def fail(self, name: str, fault: Fault = Fault.REFUSED, times: int = 1) -> None:
        for _ in range(times):
            self.pool.failed(self[name], fault, self.now, self.now)

    def probe(self, name: str, fault: Fault | None = None, seconds: float = 0.0) -> None:
        self.pool.probed(self[name], ProbeResult(fault, seconds, ""), self.now, 1e9 + self.now)

    def measure(self, **seconds: float) -> None:
        """Record one successful probe per endpoint with this duration in seconds."""
        for name, duration in seconds.items():
            self.probe(name, None, duration)

    def kill(self, *names: str) -> None:
        """Make endpoints unhealthy with three failures each."""
        for name in names:
            self.fail(name, times=3)

    def revive(self, name: str) -> None:
        """Make an endpoint healthy again with two successful probes."""
        self.probe(name)
        self.probe(name)

    def told(self, kind: str | None = None) -> list[dict[str, Any]]:
        """Take the arguments of the pool's new events, of one kind or, with None, of all."""
        self.events += self.pool.events
        self.pool.events = []
        found = [event.about for event in self.events if kind in {None, event.name}]
        self.events = [event for event in self.events if kind not in {None, event.name}]
        return found


def name_of(member: PoolMember | None) -> str | None:
    return None if member is None else member.url.removeprefix("https://").partition(".")[0]
