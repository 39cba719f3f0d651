"""One client of a simulated fleet: the product's own decisions over a simulated network.

Pool, health, network watch, budget, failover and race are the real ones. The code that drives
them follows the transports, dials and manager of ``mop_config.client`` step by step.
"""

import random
from collections.abc import Generator, Sequence
from typing import NamedTuple

from mop_config.client.pool.failover import (
    Attempt,
    Budget,
    DialRace,
    Failover,
    RetryTraits,
)
from mop_config.client.pool.member import PoolMember
from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.policy import Policy
from mop_config.client.pool.pool import Pool
from mop_config.client.transport._sync.connections import SPARE_PAUSE
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

from .fleet_world import READ_TIMEOUT, Process, Site, Tally, Wire, World

GET = RetryTraits.of("GET", replayable=True, keyed=False)
_NEVER = float("inf")
#: Seconds after which a site ends an idle connection: the default of nginx.
KEEP_ALIVE = 75.0


class Habits(NamedTuple):
    """The behaviour of a fleet's clients.

    Attributes:
        policy: The limits and time-outs of failover.
        think: Mean seconds between two requests of a client.
        in_step: Whether all clients send their requests at the same moments.
        chance: Whether probes and choices have random jitter.
        keeps: Whether a client keeps its connection for the next request.
    """

    policy: Policy
    think: float = 10.0
    in_step: bool = False
    chance: bool = True


class Client:
    """A client that sends requests and checks the health of its endpoints.

    Args:
        world: The simulated clock.
        sites: The simulated endpoints by URL.
        endpoints: The client's list.
        habits: The behaviour of the fleet.
        chance: Generator of its random numbers.
        tally: The counters of the fleet.
    """

    __slots__ = (
        "_armed",
        "_asked_first",
        "_budget",
        "_habits",
        "_kept",
        "_pool",
        "_random",
        "_served",
        "_sites",
        "_spare",
        "_spare_after",
        "_tally",
        "_world",
    )

    def __init__(
        self,
        world: World,
        sites: dict[str, Site],
        endpoints: Sequence[Endpoint],
        habits: Habits,
        chance: random.Random,
        tally: Tally,
    ) -> None:
        self._world = world
        self._sites = sites
        self._habits = habits
        self._random = chance
        self._tally = tally
        drawn = chance.random if habits.chance else _middle
        network = OfflineDetector(habits.policy.offline_window)
        self._pool = Pool("api", habits.policy, network, drawn)
        self._budget = Budget(habits.policy)
        self._kept: dict[str, int] = {}  # URL of a kept connection -> its site's epoch
        self._spare = ""  # URL of the spare connection, or of its dial
        self._spare_after = 0.0
        self._armed = _NEVER
        self._asked_first = -1.0
        self._served = False
        self._pool.replace(endpoints, world.now)
        self._pool.urgent = False
        self._look()

    # -- the manager's part

    def _look(self) -> None:
        """Start the health checks that are due, and schedule the next call."""
        now = self._world.now
        if now >= self._armed:
            self._armed = _NEVER
        for member in self._pool.take_due(now):
            self._world.begin(self._probe(member), now)
        due = self._pool.next_due()
        if due < self._armed:
            self._armed = due
            self._world.at(due, self._look)

    def _look_if_urgent(self) -> None:
        if self._pool.urgent:
            self._pool.urgent = False
            self._look()
        self._pool.events = []

    def _probe(self, member: PoolMember) -> Process:
        """Check one endpoint over a new connection."""
        world, site = self._world, self._sites[member.url]
        began, patience = world.now, self._habits.policy.health_timeout
        site.probes[int(began // 1)] += 1
        wire = site.dial(patience)
        yield wire.end
        if wire.fault is None:
            wire = site.ask(site.epoch, began + patience - world.now, health=True)
            yield wire.end
        fault = Fault.BAD_STATUS if wire.status == 503 else wire.fault
        retry_after = None if wire.busy is None else f"{wire.busy:.0f}"
        result = ProbeResult(fault, world.now - began, "", None, None, None, 503, retry_after)
        self._pool.probed(member, result, world.now, 0.0)
        self._pool.urgent = True  # the manager re-reads its schedule after each check
        self._look_if_urgent()

    # -- the application's part

    def live(self) -> Process:
        """Send requests in a loop."""
        world, think = self._world, self._habits.think
        while True:
            due = world.now + think
            yield from self._request()
            if self._habits.in_step:
                yield max(due, world.now)
            else:
                yield world.now + self._random.expovariate(1 / think)

    def _request(self) -> Process:
        world, tally = self._world, self._tally
        began = world.now
        tally.asked += 1
        if began >= tally.death:
            tally.asked_since += 1
            if self._asked_first < 0:
                self._asked_first = began
                tally.hit += 1
        flow = Failover(GET, self._pool, self._budget, began, route="GET /")
        while flow.member is not None:
            attempt = yield from self._attempt(flow, flow.member)
            flow.record(attempt)
            self._look_if_urgent()
        self._keep_spare()
        good = flow.answer is not None and flow.answer.status == 200
        self._look_if_urgent()
        self._note(began, good)

    def _note(self, began: float, good: bool) -> None:
        tally, now = self._tally, self._world.now
        if good:
            tally.answered += 1
        else:
            tally.failed += 1
            second = int(began // 1)
            tally.failed_in[second] = tally.failed_in.get(second, 0) + 1
        if good and not self._served and 0 <= self._asked_first <= began:
            self._served = True
            tally.waits.append(now - self._asked_first)
            tally.served_at.append(now - tally.death)

    # -- the transport's part

    def _keep_spare(self) -> None:
        """Dial the next endpoint in the background if no spare connection is open."""
        now = self._world.now
        if self._habits.policy.warm_spare and not self._spare:
            member = self._pool.spare(now)
            if member is not None and now >= self._spare_after and member.url not in self._kept:
                self._spare = member.url
                self._world.begin(self._dial_spare(self._sites[member.url]), now)

    def _dial_spare(self, site: Site) -> Process:
        """Open a spare connection, and end an unused one after the site's keep-alive time-out."""
        url = self._spare
        wire = site.dial(self._habits.policy.connect_timeout)
        yield wire.end
        if wire.fault is None and url not in self._kept:
            self._keep(url)
            yield self._world.now + KEEP_ALIVE
        if self._spare == url:
            self._drop(url)
            self._spare = ""
            self._spare_after = self._world.now + SPARE_PAUSE

    def _use(self, url: str) -> None:
        """Record that a request goes over a connection, which is no spare from then on."""
        if url == self._spare and url in self._kept:
            self._spare = ""

    def _keep(self, url: str) -> None:
        if url not in self._kept:
            self._sites[url].held[int(self._world.now // 1)] += 1
        self._kept[url] = self._sites[url].epoch

    def _drop(self, url: str) -> None:
        if self._kept.pop(url, None) is not None:
            self._sites[url].held[int(self._world.now // 1)] -= 1

    def _attempt(self, flow: Failover, member: PoolMember) -> Generator[float, None, Attempt]:
        world, first = self._world, member
        began, until = world.now, flow.deadline
        dialled = not self._has_connection(member.url)
        if dialled:

            def another(now: float) -> PoolMember | None:
                rival = None if now >= until else flow.next(now)
                if rival is not None and self._has_connection(rival.url):
                    race.connected.add(rival.url)
                return rival

            race = DialRace(member, another, self._habits.policy.race_delay)
            winner = yield from self._dial(race)
            if winner is None:
                *losers, (member, fault) = race.losers
                for loser, its_fault in losers:
                    flow.record_failure(Attempt(loser, world.now, began), its_fault)
                return Attempt(member, world.now, began, fault=fault, sent=False)
            member, losers = winner, race.losers
            for loser, fault in losers:
                flow.record_failure(Attempt(loser, world.now, began), fault)
        else:
            self._tally.tried(began)
        asked = world.now
        outcome = yield from self._exchange(member, began, until, flow)
        outcome.first_byte = world.now - asked
        outcome.reused = outcome.member is first and not dialled
        return outcome

    def _has_connection(self, url: str) -> bool:
        """Return whether a connection is kept, as far as the client knows."""
        epoch, site = self._kept.get(url), self._sites[url]
        if epoch is None:
            return False
        if epoch != site.epoch and site.is_killed:
            self._drop(url)  # the site's machine closed the connection
            return False
        return True

    def _dial(self, race: DialRace) -> Generator[float, None, PoolMember | None]:
        """Dial until one endpoint is connected, as the transport does."""
        world, patience = self._world, self._habits.policy.connect_timeout
        dials: list[tuple[Wire, PoolMember]] = []
        while True:
            while (member := race.start(world.now)) is not None:
                self._tally.tried(world.now)
                if member.url in race.connected:
                    race.won(member, world.now)
                    return member
                dials.append((self._sites[member.url].dial(patience), member))
            if not dials:
                return None
            wait = race.wait(world.now)
            next_end = min(wire.end for wire, _ in dials)
            yield min(next_end, world.now + wait)
            for ended in [each for each in dials if each[0].end <= world.now]:
                dials.remove(ended)
                wire, member = ended
                if wire.fault is None:
                    self._keep(member.url)
                    race.won(member, world.now)
                    return member
                race.failed(member, wire.fault)

    def _exchange(
        self, member: PoolMember, began: float, until: float, flow: Failover
    ) -> Generator[float, None, Attempt]:
        """Send the request; after the hedge delay, send it to a second endpoint as well."""
        world, delay = self._world, flow.hedge_after
        wire = self._ask(member, until)
        if wire.end > world.now + delay:
            yield world.now + delay
            rival = flow.hedge(world.now)
            if rival is not None:
                outcome = yield from self._against(rival, member, wire, began, flow)
                return outcome
        yield wire.end
        return self._outcome(member, wire, began)

    def _against(
        self, rival: PoolMember, member: PoolMember, wire: Wire, began: float, flow: Failover
    ) -> Generator[float, None, Attempt]:
        """Wait for the first good answer of two endpoints."""
        theirs, until = Wire(self._world.now, None), flow.deadline
        rival_began = self._world.now
        self._tally.tried(rival_began)
        if not self._has_connection(rival.url):
            site = self._sites[rival.url]
            theirs = site.dial(self._habits.policy.connect_timeout)
            if wire.status == 200 and wire.end <= theirs.end:
                yield wire.end
                return self._outcome(member, wire, began)
            yield theirs.end
            if theirs.fault is None:
                self._keep(rival.url)
        if theirs.fault is None:
            theirs = self._ask(rival, until)
        if wire.status == 200 and wire.end <= theirs.end:
            yield wire.end
            self._drop(rival.url)  # this connection is busy with the other request
            return self._outcome(member, wire, began)
        yield theirs.end
        if theirs.status == 200:
            self._drop(member.url)
            now, hedge = self._world.now, self._outcome(rival, theirs, rival_began)
            if flow.record_overtaken(member, now, hedge):
                flow.record_failure(Attempt(member, now, began), Fault.STALLED)
            return hedge
        self._drop(rival.url)
        lost = Attempt(rival, self._world.now, rival_began)
        flow.record_failure(lost, theirs.fault or Fault.BAD_STATUS)
        yield max(wire.end, self._world.now)
        return self._outcome(member, wire, began)

    def _ask(self, member: PoolMember, until: float) -> Wire:
        patience = max(0.0, min(READ_TIMEOUT, until - self._world.now))
        self._use(member.url)
        return self._sites[member.url].ask(self._kept.get(member.url, -1), patience)

    def _outcome(self, member: PoolMember, wire: Wire, began: float) -> Attempt:
        if wire.fault is not None:
            self._drop(member.url)
        attempt = Attempt(member, self._world.now, began, fault=wire.fault, result=wire.status)
        if wire.status is not None:
            after = None if wire.busy is None else f"{wire.busy:.0f}"
            attempt.judge_status(self._habits.policy, wire.status, after, 0.0)
        return attempt


def _middle() -> float:
    return 0.5
