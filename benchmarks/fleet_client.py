"""One client of a simulated fleet: the product's own decisions, over wires that are played.

Pool, health, network watch, budget, failover and race are the real ones. What drives them
here does what ``mop_config.client``'s transports, dials and manager do, step for step.
"""

import random
from collections.abc import Generator, Sequence
from typing import NamedTuple

from mop_config.client.pool.failover import (
    Attempt,
    Candidates,
    DialRace,
    Outcome,
    RetryTraits,
    failover,
)
from mop_config.client.pool.member import PoolMember
from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.policy import Budget, Policy
from mop_config.client.pool.pool import Pool
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

from .fleet_world import READ_TIMEOUT, Process, Site, Tally, Wire, World

GET = RetryTraits.of("GET", replayable=True, keyed=False)
_NEVER = float("inf")


class Habits(NamedTuple):
    """How the clients of a fleet behave.

    Attributes:
        policy: The figures of failover.
        think: Seconds from one request of a client to its next, on average.
        in_step: Whether all clients ask in the same moments, rather than each in its own.
        chance: Whether probes and choices vary by chance.
        keeps: Whether connections are kept from one request to the next.
    """

    policy: Policy
    think: float = 10.0
    in_step: bool = False
    chance: bool = True


class Client:
    """A client: it asks, and it looks after its endpoints.

    Args:
        world: Where it lives.
        sites: By URL.
        endpoints: Its list.
        habits: Of its fleet.
        chance: Of what it leaves to chance.
        tally: Where it counts.
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
        self._kept: dict[str, int] = {}  # connections, by URL: the epoch that they are of
        self._armed = _NEVER
        self._asked_first = -1.0
        self._served = False
        for endpoint in endpoints:
            self._pool.put(endpoint, world.now)
        self._pool.urgent = False
        self._look()

    # -- what the manager does

    def _look(self) -> None:
        """Begin the health checks that are due, and come back for the next."""
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
        self._pool.take_events()

    def _probe(self, member: PoolMember) -> Process:
        """Check one endpoint, over a connection of its own."""
        world, site = self._world, self._sites[member.url]
        began, patience = world.now, self._habits.policy.health_timeout
        site.probes[int(began // 1)] += 1
        wire = site.dial(patience)
        yield wire.end
        if wire.fault is None:
            wire = site.ask(site.epoch, began + patience - world.now, health=True)
            yield wire.end
        fault = Fault.BAD_STATUS if wire.status == 503 else wire.fault
        self._pool.probed(member, fault, world.now - began, world.now, 0.0, wire.busy)
        self._pool.urgent = True  # as the manager looks at its schedule after each check
        self._look_if_urgent()

    # -- what the application does

    def live(self) -> Process:
        """Ask, over and over."""
        world, think = self._world, self._habits.think
        while True:
            due = world.now + think
            yield from self._request()
            if self._habits.in_step:
                yield max(due, world.now)
            else:
                yield world.now + self._random.expovariate(1 / think)

    def _request(self) -> Process:
        world, tally, policy = self._world, self._tally, self._habits.policy
        began = world.now
        tally.asked += 1
        if began >= tally.death:
            tally.asked_since += 1
            if self._asked_first < 0:
                self._asked_first = began
                tally.hit += 1
        moves = Candidates(self._pool, self._budget)
        flow = failover(GET, self._pool, self._budget, policy, moves, began, route="GET /")
        try:
            attempt = next(flow)
            while True:
                outcome = yield from self._attempt(attempt, moves)
                attempt = flow.send(outcome)
                self._look_if_urgent()
        except StopIteration as end:
            good = end.value.answer == 200
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

    # -- what the transport does

    def _attempt(self, attempt: Attempt, moves: Candidates) -> Generator[float, None, Outcome]:
        world, member = self._world, attempt.member
        began, until = world.now, world.now + attempt.seconds_left
        losers: tuple[tuple[PoolMember, Fault], ...] = ()
        dialled = not self._has_connection(member.url)
        if dialled:
            raced = {member.url}

            def another(now: float) -> PoolMember | None:
                rival = None if now >= until else moves.next(now)
                if rival is not None:
                    raced.add(rival.url)
                return rival

            race = DialRace(member, another, self._habits.policy.race_delay)
            won = yield from self._dial(race)
            if won is None:
                *others, (member, fault) = race.faults
                return Outcome(
                    member, world.now, began, fault=fault, sent=False, losers=tuple(others)
                )
            member, losers = won
            moves.give_back(raced - {loser.url for loser, _ in race.faults} - {member.url})
            for loser, fault in losers:
                self._pool.failed(loser, fault, world.now, began)
        else:
            self._tally.tried(began)
        told = len(losers)
        asked = world.now
        outcome = yield from self._exchange(member, began, until, attempt.hedge_after, moves)
        outcome.first_byte = world.now - asked
        outcome.reused = outcome.member is member and not dialled
        outcome.losers = (*losers, *outcome.losers)
        outcome.losers_recorded = told
        return outcome

    def _has_connection(self, url: str) -> bool:
        """Whether a connection is kept, as far as can be known from here."""
        epoch, site = self._kept.get(url), self._sites[url]
        if epoch is None:
            return False
        if epoch != site.epoch and site.is_killed:
            del self._kept[url]  # its end was told by the site's machine
            return False
        return True

    def _dial(
        self, race: DialRace
    ) -> Generator[float, None, tuple[PoolMember, tuple[tuple[PoolMember, Fault], ...]] | None]:
        """Dial until one endpoint is ready, as ``mop_config.client.transport.dial`` does."""
        world, patience = self._world, self._habits.policy.connect_timeout
        dials: list[tuple[Wire, PoolMember]] = []
        while True:
            while (member := race.start(world.now)) is not None:
                self._tally.tried(world.now)
                dials.append((self._sites[member.url].dial(patience), member))
            if not dials:
                return None
            wait = race.wait(world.now)
            next_end = min(wire.end for wire, _ in dials)
            yield next_end if wait is None else min(next_end, world.now + wait)
            for ended in [each for each in dials if each[0].end <= world.now]:
                dials.remove(ended)
                wire, member = ended
                if wire.fault is None:
                    self._kept[member.url] = self._sites[member.url].epoch
                    return member, race.won(member, world.now)
                race.failed(member, wire.fault)

    def _exchange(
        self, member: PoolMember, began: float, until: float, delay: float, moves: Candidates
    ) -> Generator[float, None, Outcome]:
        """Send the request; where no answer comes for a while, send it elsewhere as well."""
        world = self._world
        wire = self._ask(member, until)
        if wire.end > world.now + delay:
            yield world.now + delay
            rival = moves.hedge(world.now)
            if rival is not None:
                outcome = yield from self._against(rival, member, wire, began, until)
                stalled = (member, Fault.STALLED) in outcome.losers
                if stalled and not self._pool.overtaken(member, delay, world.now):
                    outcome.losers = ()
                return outcome
        yield wire.end
        return self._outcome(member, wire, began)

    def _against(
        self, rival: PoolMember, member: PoolMember, wire: Wire, began: float, until: float
    ) -> Generator[float, None, Outcome]:
        """Wait for whichever of two endpoints has a good answer first."""
        theirs = Wire(self._world.now, None)
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
                self._kept[rival.url] = site.epoch
        if theirs.fault is None:
            theirs = self._ask(rival, until)
        if wire.status == 200 and wire.end <= theirs.end:
            yield wire.end
            self._kept.pop(rival.url, None)  # it is in the midst of the other request
            return self._outcome(member, wire, began)
        yield theirs.end
        if theirs.status == 200:
            self._kept.pop(member.url, None)
            outcome = self._outcome(rival, theirs, rival_began)
            outcome.losers = ((member, Fault.STALLED),)
            return outcome
        self._kept.pop(rival.url, None)
        yield max(wire.end, self._world.now)
        outcome = self._outcome(member, wire, began)
        outcome.losers = ((rival, theirs.fault or Fault.BAD_STATUS),)
        return outcome

    def _ask(self, member: PoolMember, until: float) -> Wire:
        patience = max(0.0, min(READ_TIMEOUT, until - self._world.now))
        return self._sites[member.url].ask(self._kept.get(member.url, -1), patience)

    def _outcome(self, member: PoolMember, wire: Wire, began: float) -> Outcome:
        if wire.fault is not None:
            self._kept.pop(member.url, None)
        return Outcome(
            member,
            self._world.now,
            began,
            status=wire.status,
            busy=wire.busy,
            fault=wire.fault,
            result=wire.status,
        )


def _middle() -> float:
    return 0.5
