"""The environment of a simulated fleet: a virtual clock, and sites with a capacity.

A site is a first-in-first-out queue with a fixed amount of work per second, so the end of each
request is known when the request arrives.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from itertools import count
from typing import NamedTuple

from mop_config.net.faults import Fault

#: A step of an activity: returns the time of its next step, or None at its end.
Step = Callable[[], float | None]
#: An activity: yields the times at which it continues.
Process = Generator[float, None, None]

#: Round-trip time in seconds between a client and a site.
ROUND_TRIP = 0.05
#: Seconds that a client waits for the first byte of an answer: httpx2's default.
READ_TIMEOUT = 5.0


class Costs(NamedTuple):
    """The cost of each kind of work at a site; a request is 1.

    Attributes:
        handshake: Cost of a TLS handshake.
        health: Cost of the answer to a health check, without its handshake.
        refusal: Cost of turning a request or a connection away.
        queue: Seconds of work that may wait; further requests are turned away.
        retry_after: Seconds of ``Retry-After`` in the answer to a request that is turned away,
            or None for no header.
    """

    handshake: float = 0.5
    health: float = 0.1
    refusal: float = 0.05
    queue: float = 1.0
    retry_after: float | None = None


class World:
    """The virtual clock and its queue of events."""

    def __init__(self) -> None:
        self.now = 0.0
        self._steps: list[tuple[float, int, Step]] = []
        self._serial = count()

    def at(self, when: float, step: Step) -> None:
        """Run a step at a time, and again at each time that the step returns."""
        heapq.heappush(self._steps, (when, next(self._serial), step))

    def begin(self, process: Process, when: float) -> None:
        """Start an activity at a time."""
        self.at(when, lambda: next(process, None))

    def run(self, until: float) -> None:
        """Advance the clock to a time, and run the steps until then."""
        steps = self._steps
        while steps and steps[0][0] <= until:
            self.now, _, step = steps[0]
            # The step schedules only later steps: its own entry is still the first.
            again = step()
            if again is None:
                heapq.heappop(steps)
            else:
                heapq.heapreplace(steps, (max(again, self.now), next(self._serial), step))
        self.now = until


class Wire(NamedTuple):
    """The end of a dial or a request, known at its start.

    Attributes:
        end: Time of the end.
        status: Status code of the answer, 0 for a dial, or None after a fault.
        fault: The fault, or None.
        busy: ``Retry-After`` of the site in seconds, or None.
    """

    end: float
    status: int | None
    fault: Fault | None = None
    busy: float | None = None


class Outage(NamedTuple):
    """An outage's times and kind: ``REFUSED`` by the machine, or dropped by the network."""

    begins: float
    ends: float
    fault: Fault


class Site:
    """One simulated endpoint.

    Args:
        world: The clock.
        capacity: Work per second; a request is 1.
        costs: The cost of each kind of work.
        outage: The outage, or None.

    Attributes:
        dials: Attempted connections by second.
        requests: Requests that arrived, by second.
        held: Change of the number of open connections, by second.
        probes: Health checks, which are counted in both, by second.
        shed: Requests and connections that were turned away, by second.
        work: Work that arrived, by second.
    """

    def __init__(
        self, world: World, capacity: float, costs: Costs, outage: Outage | None = None
    ) -> None:
        self._world = world
        self._capacity = capacity
        self._costs = costs
        self._outage = outage
        self._free_at = float("-inf")
        self.dials: Counter[int] = Counter()
        self.requests: Counter[int] = Counter()
        self.held: Counter[int] = Counter()
        self.probes: Counter[int] = Counter()
        self.shed: Counter[int] = Counter()
        self.work: defaultdict[int, float] = defaultdict(float)

    @property
    def epoch(self) -> int:
        """Return the number of the site's current life; a connection does not outlast its epoch."""
        outage, now = self._outage, self._world.now
        return 0 if outage is None or now < outage.begins else 1 if now < outage.ends else 2

    @property
    def is_killed(self) -> bool:
        """Return whether the site's machine refuses or resets connections when the site dies."""
        return self._outage is not None and self._outage.fault is Fault.REFUSED

    def dial(self, patience: float) -> Wire:
        """Connect with a TLS handshake: one round trip for TCP and one for TLS."""
        now = self._world.now
        self.dials[int(now // 1)] += 1
        if (outage := self._away()) is not None:
            if outage.fault is Fault.REFUSED:
                return Wire(now + ROUND_TRIP, None, Fault.REFUSED)
            return Wire(now + patience, None, Fault.CONNECT_TIMEOUT)
        done = self._do(self._costs.handshake)
        if done is None:
            return Wire(now + ROUND_TRIP, None, Fault.REFUSED)
        return self._unless_lost(Wire(done + 2 * ROUND_TRIP, 0), now + patience, dialled=True)

    def ask(self, epoch: int, patience: float, *, health: bool = False) -> Wire:
        """Send a request or a health check over a connection of that epoch."""
        now = self._world.now
        if (outage := self._away()) is not None:
            if outage.fault is Fault.REFUSED:
                return Wire(now + ROUND_TRIP, None, Fault.RESET)
            return Wire(now + patience, None, Fault.READ_TIMEOUT)
        self.requests[int(now // 1)] += 1
        if epoch != self.epoch:
            return Wire(now + ROUND_TRIP, None, Fault.RESET)
        done = self._do(self._costs.health if health else 1.0)
        if done is None:
            return Wire(now + ROUND_TRIP, 503, busy=self._costs.retry_after)
        return self._unless_lost(Wire(done + ROUND_TRIP, 200), now + patience)

    def _away(self) -> Outage | None:
        outage = self._outage
        away = outage is not None and outage.begins <= self._world.now < outage.ends
        return outage if away else None

    def _do(self, work: float) -> float | None:
        """Queue some work; return the time of its end, or None if the queue is full."""
        now = self._world.now
        free_at = max(self._free_at, now)
        turned_away = free_at - now > self._costs.queue
        if turned_away:
            self.shed[int(now // 1)] += 1
            work = self._costs.refusal
        self.work[int(now // 1)] += work
        self._free_at = free_at + work / self._capacity
        return None if turned_away else self._free_at

    def _unless_lost(self, wire: Wire, patience: float, *, dialled: bool = False) -> Wire:
        """Return the wire's end, or an earlier end by the site's death or the client's time-out."""
        fault = Fault.CONNECT_TIMEOUT if dialled else Fault.READ_TIMEOUT
        outage = self._outage
        if outage is not None and self._world.now < outage.begins < min(wire.end, patience):
            if outage.fault is Fault.REFUSED:
                return Wire(outage.begins, None, Fault.RESET)
            return Wire(patience, None, fault)
        return wire if wire.end <= patience else Wire(patience, None, fault)


class Tally:
    """The counters of all clients' requests.

    Args:
        death: Time of the primary's death; the waits count requests from then on.
    """

    def __init__(self, death: float) -> None:
        self.death = death
        self.asked = self.answered = self.failed = 0
        self.tries = 0  # endpoints that requests went to since the death
        self.asked_since = self.hit = 0  # requests, and clients with a request, since the death
        self.waits: list[float] = []  # seconds to the first answer of each client with a request
        self.served_at: list[float] = []  # and that answer's time after the death
        self.failed_in: dict[int, int] = {}  # by the second in which the request started

    def tried(self, now: float) -> None:
        """Count that a request goes to an endpoint."""
        self.tries += now >= self.death
