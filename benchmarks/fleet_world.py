"""What a simulated fleet lives in: a clock that costs nothing, and sites with a capacity.

A site answers in the order of arrival, at so much work a second, so that the end of whatever
it is asked is known at once.
"""

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Generator
from itertools import count
from typing import NamedTuple

from mop_config.net.faults import Fault

#: A step of something that goes on: gives the moment of its next step, or None at its end.
Step = Callable[[], float | None]
#: Something that goes on for a while: yields the moments at which it wants to go on.
Process = Generator[float, None, None]

#: Seconds there and back between a client and a site.
ROUND_TRIP = 0.05
#: Seconds that a client waits for the first byte of an answer: httpx2's default.
READ_TIMEOUT = 5.0


class Costs(NamedTuple):
    """What a site's work is, beside a request, which is 1.

    Attributes:
        handshake: Of a new TLS connection.
        health: The answer to a health check, without its handshake.
        refusal: Turning a request or a connection away.
        queue: Seconds of work that may wait; what comes then is turned away.
        retry_after: Seconds for which a request that is turned away is asked to stay away
            (``Retry-After``), or None.
    """

    handshake: float = 0.5
    health: float = 0.1
    refusal: float = 0.05
    queue: float = 1.0
    retry_after: float | None = None


class World:
    """The clock, and what happens next."""

    def __init__(self) -> None:
        self.now = 0.0
        self._steps: list[tuple[float, int, Step]] = []
        self._serial = count()

    def at(self, when: float, step: Step) -> None:
        """Have a step taken at a moment, and whatever it asks for after that."""
        heapq.heappush(self._steps, (when, next(self._serial), step))

    def begin(self, process: Process, when: float) -> None:
        """Have a process begin at a moment."""
        self.at(when, lambda: next(process, None))

    def run(self, until: float) -> None:
        """Let time pass."""
        steps = self._steps
        while steps and steps[0][0] <= until:
            self.now, _, step = steps[0]
            # What the step itself schedules comes after it: it still stands first.
            again = step()
            if again is None:
                heapq.heappop(steps)
            else:
                heapq.heapreplace(steps, (max(again, self.now), next(self._serial), step))
        self.now = until


class Wire(NamedTuple):
    """How a dial or a request will end, known when it begins.

    Attributes:
        end: When.
        status: The answer's status code, or None; of a dial 0.
        fault: What went wrong, or None.
        busy: Seconds for which the site asks to be left alone, or None.
    """

    end: float
    status: int | None
    fault: Fault | None = None
    busy: float | None = None


class Outage(NamedTuple):
    """When a site is away, and how: ``REFUSED`` by its machine, or swallowed by the network."""

    begins: float
    ends: float
    fault: Fault


class Site:
    """One endpoint as it really is.

    Args:
        world: For the time.
        capacity: Work that it does in a second; a request is 1.
        costs: What its work is.
        outage: When it is away, or None.

    Attributes:
        dials: Connections that it was asked for, by the second.
        requests: Requests that reached it, by the second.
        probes: Health checks among both, by the second.
        shed: Requests and connections that it turned away, by the second.
        work: Work that it was given, by the second.
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
        self.probes: Counter[int] = Counter()
        self.shed: Counter[int] = Counter()
        self.work: defaultdict[int, float] = defaultdict(float)

    @property
    def epoch(self) -> int:
        """Which life it is in: a connection does not outlast the one it was made in."""
        outage, now = self._outage, self._world.now
        return 0 if outage is None or now < outage.begins else 1 if now < outage.ends else 2

    @property
    def is_killed(self) -> bool:
        """Whether it has ended in a way that those who hold connections are told of."""
        return self._outage is not None and self._outage.fault is Fault.REFUSED

    def dial(self, patience: float) -> Wire:
        """Connect, and shake hands: a way there and back for TCP, and one for TLS."""
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
        """Send a request, or a health check, over a connection that was made in that epoch."""
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
        """Queue some work; give the moment when it is done, or None where it is turned away."""
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
        """Say how it ends where the site dies, or the client's patience ends, before."""
        fault = Fault.CONNECT_TIMEOUT if dialled else Fault.READ_TIMEOUT
        outage = self._outage
        if outage is not None and self._world.now < outage.begins < min(wire.end, patience):
            if outage.fault is Fault.REFUSED:
                return Wire(outage.begins, None, Fault.RESET)
            return Wire(patience, None, fault)
        return wire if wire.end <= patience else Wire(patience, None, fault)


class Tally:
    """What became of the requests of all clients.

    Args:
        death: When the primary dies: what is asked from then on counts for the waits.
    """

    def __init__(self, death: float) -> None:
        self.death = death
        self.asked = self.answered = self.failed = 0
        self.tries = 0  # endpoints that requests went to since the death
        self.asked_since = self.hit = 0  # requests asked, and clients that asked, since the death
        self.waits: list[float] = []  # of each client that had one, until its first answer
        self.served_at: list[float] = []  # and when that was, after the death
        self.failed_in: dict[int, int] = {}  # by the second in which they were asked

    def tried(self, now: float) -> None:
        """Count that a request goes to an endpoint."""
        self.tries += now >= self.death
