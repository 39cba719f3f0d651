"""Running a simulated fleet: what befalls it, and what is seen of it."""

import gc
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

from .fleet_client import Client, Habits
from .fleet_world import Costs, Outage, Process, Site, Tally, World
from .report import percentile

#: How many clients the figures are for.
FLEET = 1_000_000
#: When the primary dies: all clients have looked at all endpoints by then, each in its time.
DEATH = 400.0
#: Seconds before that from which the clients ask.
WARM_UP = 30.0
#: Work of a second beside the fleet's requests that no burst of these tables exceeds.
AMPLE = 1000.0


class Case(NamedTuple):
    """What is simulated.

    Attributes:
        habits: Of the clients.
        fault: How the primary dies.
        capacity: Of the primary and of each backup, beside the fleet's usual requests.
        priorities: Of the same.
        back: Seconds from the primary's death until it is back.
        until: Seconds from its death until nobody looks any more.
        asking: Whether clients send requests; they check health in any case.
        born_within: Seconds within which all clients start.
        costs: What the sites' work is.
    """

    habits: Habits
    fault: Fault = Fault.REFUSED
    capacity: Sequence[float] = (AMPLE, AMPLE)
    priorities: Sequence[int] = (0, 1)
    back: float = 1e9
    until: float = 60.0
    asking: bool = True
    born_within: float = 330.0
    costs: Costs = Costs()


@dataclass
class Seen:
    """What came of a case.

    Attributes:
        tally: What became of the requests.
        sites: The primary and the backups, by their order.
        size: How many clients were simulated.
        think: Seconds between two requests of a client.
        busy: How many requests were under way at the end.
    """

    tally: Tally
    sites: list[Site]
    size: int
    think: float
    busy: int

    @property
    def scale(self) -> float:
        """How many clients of the fleet one of the simulated stands for."""
        return FLEET / self.size

    def peak(self, per_second: Mapping[int, float], begin: float, end: float) -> float:
        """The largest figure of a second, for the fleet; times are from the death on."""
        seconds = range(int(DEATH + begin), int(DEATH + end))
        return self.scale * max(per_second.get(second, 0) for second in seconds)

    def mean(self, per_second: Mapping[int, float], begin: float, end: float) -> float:
        """The mean figure of a second, for the fleet; times are from the death on."""
        seconds = range(int(DEATH + begin), int(DEATH + end))
        return self.scale * sum(per_second.get(s, 0) for s in seconds) / len(seconds)

    def wait(self, percent: float) -> float:
        """Seconds until so many of the clients that have asked were answered; inf for never."""
        return self._among(self.tally.waits, self.tally.hit, percent)

    def served(self, percent: float) -> float:
        """Seconds from the death until so many of all clients were answered; inf for never."""
        return self._among(self.tally.served_at, self.size, percent)

    @property
    def failed(self) -> float:
        """Requests that failed, in percent of those asked since the death."""
        return 100 * self.tally.failed / max(1, self.tally.asked_since)

    def most(self, begin: float, end: float) -> dict[str, float]:
        """The most that any backup has to do in a second; work beside the usual requests."""
        usual, backups = FLEET / self.think, self.sites[1:]
        return {
            "requests_s": max(self.peak(site.requests, begin, end) for site in backups),
            "dials_s": max(self.peak(site.dials, begin, end) for site in backups),
            "work": max(self.peak(site.work, begin, end) for site in backups) / usual,
        }

    def _among(self, values: Sequence[float], number: int, percent: float) -> float:
        if len(values) <= number * percent / 100:
            return float("inf")
        return percentile(values, 100 * (number * percent / 100) / len(values))


def simulate(case: Case, size: int, seed: int = 1) -> Seen:
    """Let a fleet of so many clients live through a case; the same seed gives the same."""
    world, chance, tally = World(), random.Random(seed), Tally(DEATH)
    usual = size / case.habits.think
    outage = Outage(DEATH, DEATH + case.back, case.fault)
    sites = [
        Site(world, capacity * usual, case.costs, None if index else outage)
        for index, capacity in enumerate(case.capacity)
    ]
    urls = [f"https://e{index}.example" for index in range(len(sites))]
    endpoints = [Endpoint(url, p) for url, p in zip(urls, case.priorities, strict=True)]
    by_url = dict(zip(urls, sites, strict=True))

    def births() -> Process:
        for moment in sorted(1 + chance.random() * case.born_within for _ in range(size)):
            yield moment
            client = Client(world, by_url, endpoints, case.habits, chance, tally)
            if case.asking:
                world.begin(client.live(), _first_request(case.habits, chance))

    world.begin(births(), 0.0)
    # Nothing here is garbage before the end, and looking for some takes as long as the rest.
    gc.disable()
    try:
        world.run(DEATH + case.until)
    finally:
        gc.enable()
    return Seen(tally, sites, size, case.habits.think, tally.asked - tally.answered - tally.failed)


def _first_request(habits: Habits, chance: random.Random) -> float:
    if habits.in_step:
        return DEATH - 2 * habits.think + chance.random()
    return DEATH - WARM_UP + chance.expovariate(1 / habits.think)
