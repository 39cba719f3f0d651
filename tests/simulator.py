"""A fleet of endpoints in memory, a client over it, and a virtual clock.

The client uses the real pool, network watch, budget and failover; only the
network is simulated. Every step checks the invariants, and records the data that a test may
check at the end.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from mop_config.client.pool.failover import Attempt, Budget, Failover, RetryTraits
from mop_config.client.pool.member import PoolMember
from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.policy import Policy
from mop_config.client.pool.pool import Pool
from mop_config.health.probe import ProbeResult
from mop_config.health.state import TRANSITIONS, Evidence, Health, HealthState, Transition
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

GET = RetryTraits.of("GET", replayable=True, keyed=False)
POST = RetryTraits.of("POST", replayable=True, keyed=False)

#: An endpoint's behaviours: the status or fault, whether it received the request, seconds.
BEHAVIOURS: dict[str, tuple[int | Fault, bool, float]] = {
    "fine": (200, True, 0.01),
    "slow": (200, True, 0.4),
    "erring": (500, True, 0.01),
    "refusing": (Fault.REFUSED, False, 0.001),
    "black-holed": (Fault.CONNECT_TIMEOUT, False, 2.0),
    "unnamed": (Fault.NO_SUCH_HOST, False, 0.05),
    "misnamed": (Fault.TLS, False, 0.05),
    "resetting": (Fault.RESET, True, 0.01),
    "silent": (Fault.READ_TIMEOUT, True, 5.0),
    "gateway": (502, True, 0.01),
    "throttling": (429, True, 0.01),
}
#: The behaviours of a live endpoint.
GOOD = ("fine", "slow", "erring", "throttling")


class CheckedHealth(Health):
    """Health that checks each transition against the table."""

    def record(self, evidence: Evidence, now: float, chance: float = 0.5) -> Transition:
        change = super().record(evidence, now, chance)
        assert change.after in TRANSITIONS[change.before, evidence]
        assert self.state is change.after
        return change


@dataclass
class Server:
    """One simulated endpoint.

    Attributes:
        doing: Its behaviour for requests and probes: a key of ``BEHAVIOURS``.
        executed: The numbers of the requests that it executed.
    """

    doing: str = "fine"
    executed: Counter[int] = field(default_factory=Counter)


class Simulation:
    """A client and its simulated fleet.

    Args:
        count: Number of endpoints; each two share a priority.
        seed: Seed of the random numbers.
        policy: The limits and time-outs of failover.
    """

    def __init__(self, count: int, seed: int, policy: Policy | None = None) -> None:
        self.policy = policy or Policy()
        self.random = random.Random(seed)
        self.now = 0.0
        self.network = OfflineDetector(self.policy.offline_window)
        self.pool = Pool("api", self.policy, self.network, self.random.random)
        self.budget = Budget(self.policy)
        self.servers: dict[str, Server] = {}
        self.connected = True
        self.requests = self.probes = 0
        self.lost = 0
        self.told: list[tuple[float, str, dict[str, Any]]] = []
        self._outage = False
        for index in range(count):
            self.add(f"https://e{index}.example", index // 2)

    # -- the world

    def add(self, url: str, priority: int) -> None:
        self.servers.setdefault(url, Server())
        self.pool.replace([*self._except(url), Endpoint(url, priority)], self.now)
        member = self._member(url)
        if not isinstance(member.health, CheckedHealth):
            member.health = CheckedHealth(self.policy, self.now)
        self._settle()

    def remove(self, url: str) -> None:
        self.pool.replace(self._except(url), self.now)
        self._settle()

    def _except(self, url: str) -> list[Endpoint]:
        return [member.endpoint for member in self.pool.members() if member.url != url]

    @property
    def hosts(self) -> int:
        """Return the number of hosts that distinguish a missing network from a dead endpoint."""
        return len(self.pool)

    def urls(self) -> list[str]:
        return [member.url for member in self.pool.members()]

    def _member(self, url: str) -> PoolMember:
        member = self.pool.get(url)
        assert member is not None
        return member

    def advance(self, seconds: float) -> None:
        """Advance the clock; run probes when they are due, as a manager does."""
        end = self.now + seconds
        while (due := self.pool.next_due()) <= end:
            self.now = max(self.now, due)
            for member in self.pool.take_due(self.now):
                self._probe(member)
        self.now = end
        self.pool.select(self.now)
        self._settle()

    def _probe(self, member: PoolMember) -> None:
        self.probes += 1
        what, _, seconds = self._behaviour(member.url)
        fault = what if isinstance(what, Fault) else None
        if isinstance(what, int) and what in {500, 502}:
            fault = Fault.BAD_STATUS
        result = ProbeResult(fault, seconds, "")
        self.pool.probed(member, result, self.now, 1e9 + self.now)
        self.pool.select(self.now)
        self._settle()

    def _behaviour(self, url: str) -> tuple[int | Fault, bool, float]:
        if not self.connected:
            return (self.random.choice([Fault.UNREACHABLE, Fault.RESOLVER]), False, 0.001)
        return BEHAVIOURS[self.servers[url].doing]

    # -- the client

    def request(self, shape: RetryTraits = GET) -> Failover:
        """Send a request through failover, and check each step."""
        number = self.requests = self.requests + 1
        began = self.now
        flow = Failover(shape, self.pool, self.budget, self.now)
        while flow.member is not None:
            self._check_choice(flow.member, flow.tried)
            assert self.now < began + self.policy.total_timeout
            flow.record(self._attempt(flow.member, number, flow.deadline - self.now))
        executions = sum(server.executed[number] for server in self.servers.values())
        assert shape.idempotent or executions <= 1
        self.lost += flow.answer is None
        self._settle()
        self.advance(0.0)  # check suspect endpoints at once
        return flow

    def _attempt(self, member: PoolMember, number: int, seconds_left: float) -> Attempt:
        what, sent, seconds = self._behaviour(member.url)
        began = self.now
        self.now += min(seconds, seconds_left)
        if sent:
            self.servers[member.url].executed[number] += 1
        outcome = Attempt(member, self.now, began, sent=sent, result=member.url)
        if isinstance(what, Fault):
            outcome.fault = what
        else:
            outcome.judge_status(self.policy, what, "3" if what == 429 else None, 0.0)
        return outcome

    # -- invariants

    def _check_choice(self, chosen: PoolMember, tried: list[str]) -> None:
        usable = [m for m in self.pool.members() if m.health.usable and m.url not in tried[:-1]]
        assert chosen.health.usable or not usable, "an ejected endpoint was picked"

    def _settle(self) -> None:
        """Process the pool's events, and compare them with the state of the pool."""
        events, self.pool.events = self.pool.events, []
        for event in events:
            self.told.append((self.now, event.name, event.about))
            if event.name == "all_endpoints_down":
                assert not self._outage, "one alert an outage"
                self._outage = True
            elif event.name == "endpoint_recovered":
                assert event.about["after_total_outage"] is self._outage
                self._outage = False
            elif event.name == "endpoint_down":
                assert self.connected or self.hosts < 2, "offline speaks against nobody"
            elif event.name == "endpoint_switched":
                assert event.about["from_url"] != event.about["to_url"]
                assert event.about["seconds_without_service"] >= 0
        usable = any(m.health.usable for m in self.pool.members())
        if usable:
            self._outage = False
        elif len(self.pool):
            assert self._outage, "an outage without an alert"

    def count(self, kind: str) -> int:
        return sum(told == kind for _, told, _ in self.told)

    def states(self) -> set[HealthState]:
        return {member.health.state for member in self.pool.members()}

    def current(self) -> str | None:
        member = self.pool.select(self.now)
        return None if member is None else member.url
