"""Running a simulated fleet under a fault, and recording the results."""

import gc
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import NamedTuple

from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

from .fleet_client import Client, Habits
from .fleet_world import Costs, Outage, Process, Site, Tally, World
from .report import percentile

#: Number of clients that the figures are scaled to.
FLEET = 1_000_000
#: Time of the primary's death: every client has checked every endpoint by then.
DEATH = 400.0
#: Capacity, in units of the fleet's requests, that no burst of these tables exceeds.
AMPLE = 1000.0


class Case(NamedTuple):
    """The parameters of a simulation.

    Attributes:
        habits: The behaviour of the clients.
        fault: The fault of the primary: refused or dropped connections.
        capacity: Capacity of the primary and of each backup; 1 is the fleet's usual requests.
        priorities: Priorities of the primary and of each backup.
        back: Seconds from the primary's death until its return.
        until: Seconds from the primary's death to the end of the simulation.
        asking: Whether clients send requests; health checks run in any case.
        born_within: Seconds over which the starts of the clients are spread.
        warm_up: Seconds before the death at which the clients start their requests.
        costs: The cost of each kind of work at a site.
    """

    habits: Habits
    fault: Fault = Fault.REFUSED
    capacity: Sequence[float] = (AMPLE, AMPLE)
    priorities: Sequence[int] = (0, 1)
    back: float = 1e9
    until: float = 60.0
    asking: bool = True
    born_within: float = 330.0
    warm_up: float = 30.0
    costs: Costs = Costs()


@dataclass
class Seen:
    """The results of a case.

    Attributes:
        tally: The counters of the requests.
        sites: The primary and then the backups.
        size: Number of simulated clients.
        think: Seconds between two requests of a client.
        busy: Number of requests in progress at the end.
    """

    tally: Tally
    sites: list[Site]
    size: int
    think: float
    busy: int

    @property
    def scale(self) -> float:
        """Return the number of clients that one simulated client represents."""
        return FLEET / self.size

    def peak(self, per_second: Mapping[int, float], begin: float, end: float) -> float:
        """Return the fleet's highest figure of a second; times are seconds after the death."""
        seconds = range(int(DEATH + begin), int(DEATH + end))
        return self.scale * max(per_second.get(second, 0) for second in seconds)

    def mean(self, per_second: Mapping[int, float], begin: float, end: float) -> float:
        """Return the fleet's mean figure per second; times are seconds after the death."""
        seconds = range(int(DEATH + begin), int(DEATH + end))
        return self.scale * sum(per_second.get(s, 0) for s in seconds) / len(seconds)

    def connections(self, index: int, begin: int, end: int) -> list[float]:
        """Return the open connections of clients to a site, at the end of each second."""
        held = self.sites[index].held
        open_before = sum(n for second, n in held.items() if second < int(DEATH) + begin)
        changes = [held.get(int(DEATH) + second, 0) for second in range(begin, end)]
        return [self.scale * n for n in accumulate(changes, initial=open_before)][1:]

    def wait(self, percent: float) -> float:
        """Return the wait in seconds of this percentile of clients with a request, or inf."""
        return self._among(self.tally.waits, self.tally.hit, percent)

    def served(self, percent: float) -> float:
        """Return the seconds from the death until this percentage of clients was served, or inf."""
        return self._among(self.tally.served_at, self.size, percent)

    @property
    def failed(self) -> float:
        """Return the failed requests in percent of the requests since the death."""
        return 100 * self.tally.failed / max(1, self.tally.asked_since)

    def most(self, begin: float, end: float) -> dict[str, float]:
        """Return a backup's highest load of a second; ``work`` is relative to usual requests."""
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
    """Simulate a case with that number of clients; equal seeds give equal results."""
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
                world.begin(client.live(), max(moment, _first_request(case, chance)))

    world.begin(births(), 0.0)
    # No object becomes garbage before the end, and collecting would double the time.
    gc.disable()
    try:
        world.run(DEATH + case.until)
    finally:
        gc.enable()
    return Seen(tally, sites, size, case.habits.think, tally.asked - tally.answered - tally.failed)


def _first_request(case: Case, chance: random.Random) -> float:
    if case.habits.in_step:
        return DEATH - 2 * case.habits.think + chance.random()
    return DEATH - case.warm_up + chance.expovariate(1 / case.habits.think)
