"""The hedge delay and the race delay that ``auto`` derives from measured times."""

import itertools
import math
import random
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client import Policy
from mop_config.client.pool.failover import ANSWERS, ENOUGH, Attempt, Budget, Failover, RetryTraits
from mop_config.client.pool.member import (
    LATE_SHARE,
    RACE_LEAST,
    RACE_MOST,
    RECENT,
    ROUTES,
    race_delay,
    route_of,
)
from mop_config.client.pool.policy import HEDGE_LEAST, HEDGE_MOST
from mop_config.client.pool.session import ClientState
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

from .driver import Driver
from .fleet import Backend, Fleet, black_hole, timed
from .pools import Bench

GET = RetryTraits.of("GET", replayable=True, keyed=False)

_seconds = st.floats(min_value=0.0001, max_value=30.0)
_answers = st.lists(st.tuples(st.floats(min_value=0.0, max_value=20.0), _seconds), max_size=250)


class Answers:
    """A pool of one endpoint that records times to first byte, each of a route of its own."""

    def __init__(self) -> None:
        self._bench = Bench({"a": 0})
        self._routes = itertools.count()

    def add(self, seconds: float, now: float) -> None:
        route = f"GET /{next(self._routes)}"  # so that no route becomes slow by itself
        self._flow(route, now)._measure(self._bench["a"], seconds, now)

    def hedge_delay(self, now: float) -> float:
        return self._flow("GET /", now).hedge_after

    def _flow(self, route: str, now: float) -> Failover:
        return Failover(GET, self._bench.pool, Budget(Policy()), now, None, route)


class TestAnswers:
    """The hedge delay is three times the 95th percentile of recent answers, within bounds."""

    @given(_answers)
    def test_it_is_what_a_plain_computation_gives(self, steps: list[tuple[float, float]]) -> None:
        """The delay equals a direct computation over the last 100 answers of 5 minutes."""
        times, now, kept = Answers(), 0.0, []
        for pause, seconds in steps:
            now += pause
            times.add(seconds, now)
            kept.append((now, seconds))
            recent = sorted(s for at, s in kept[-ANSWERS:] if at >= now - RECENT)
            if len(recent) < ENOUGH:
                expected = HEDGE_MOST
            else:
                high = recent[math.ceil(0.95 * len(recent)) - 1]
                expected = min(HEDGE_MOST, max(HEDGE_LEAST, 3 * high))
            assert times.hedge_delay(now) == expected

    @given(_answers, st.floats(min_value=0.0, max_value=1000.0))
    def test_it_stays_within_its_bounds(
        self, steps: list[tuple[float, float]], later: float
    ) -> None:
        """The hedge delay is between 50 ms and 1 s at any time."""
        times, now = Answers(), 0.0
        for pause, seconds in steps:
            now += pause
            times.add(seconds, now)
        assert HEDGE_LEAST <= times.hedge_delay(now + later) <= HEDGE_MOST

    def test_a_second_until_twenty_answers_are_known(self) -> None:
        """The delay is 1 s until 20 answers are known, and again once they are 5 minutes old."""
        times = Answers()
        for _ in range(ENOUGH - 1):
            times.add(0.02, 0.0)
        assert times.hedge_delay(0.0) == 1.0
        times.add(0.02, 0.0)
        assert times.hedge_delay(0.0) == pytest.approx(0.06)
        assert times.hedge_delay(RECENT) == pytest.approx(0.06)
        assert times.hedge_delay(RECENT + 1) == 1.0


@given(st.lists(st.tuples(st.floats(min_value=0, max_value=1000), _seconds), max_size=10))
def test_the_race_delay_follows_the_longest_recent_dial(dials: list[tuple[float, float]]) -> None:
    """The race delay is three times the longest dial, from 50 to 250 ms; 250 ms without dials."""
    recent = [seconds for at, seconds in dials if at >= 1000.0 - RECENT]
    delay = race_delay(dials, 1000.0)
    assert RACE_LEAST <= delay <= RACE_MOST
    if not recent:
        assert delay == RACE_MOST
    else:
        assert delay == min(RACE_MOST, max(RACE_LEAST, 3 * max(recent)))


@pytest.mark.parametrize(
    ("path", "route"),
    [
        ("/", "GET /"),
        ("/users", "GET /users"),
        ("/users/17/orders", "GET /users"),
        ("/api/v1/users/17", "GET /api/v1/users"),
        ("/a/b/c/d?x=1", "GET /a/b/c"),
        ("/users?page=3", "GET /users"),
    ],
)
def test_a_route_is_the_path_without_identifiers(path: str, route: str) -> None:
    """``route_of`` drops identifiers and queries, so that all users' pages are one route."""
    assert route_of("GET", path) == route


class RouteAnswers:
    """A pool of one endpoint that records answers in time and late answers of routes."""

    def __init__(self) -> None:
        self._bench = Bench({"a": 0})
        self.shares = self._bench.pool.late_shares

    def add(self, route: str, *, late: bool) -> None:
        flow = Failover(GET, self._bench.pool, Budget(Policy()), 0.0, None, route)
        flow._measure(self._bench["a"], 2.0 if late else 0.1, 0.0)


class TestSlowRoutes:
    """Routes whose answers are mostly late stop hedging."""

    def test_two_late_answers_make_a_slow_route(self) -> None:
        """Two late answers mark a route as slow, and three answers in time unmark the route."""
        answers = RouteAnswers()
        late = 0
        while answers.shares.get("GET /report", 0.0) <= LATE_SHARE:
            answers.add("GET /report", late=True)
            late += 1
        assert late == 2
        assert answers.shares.get("GET /users", 0.0) <= LATE_SHARE
        for _ in range(3):
            answers.add("GET /report", late=False)
        assert answers.shares.get("GET /report", 0.0) <= LATE_SHARE

    @given(st.lists(st.tuples(st.integers(0, 2 * ROUTES), st.booleans()), max_size=1000))
    def test_their_number_is_bounded(self, steps: list[tuple[int, bool]]) -> None:
        """At most ``ROUTES`` routes are remembered."""
        answers = RouteAnswers()
        for number, late in steps:
            answers.add(f"GET /{number}", late=late)
            assert len(answers.shares) <= ROUTES


class Steady(NamedTuple):
    """Counts of a simulation: hedges, requests and switches of the endpoint."""

    hedges: int
    requests: int
    switches: int


def _mostly_users(number: int) -> str:
    return "/report" if number % 25 == 0 else f"/users/{number}"  # 4 % of GETs take /report


def _steady(
    seconds_of: Callable[[random.Random, str], float],
    requests: int,
    path_of: Callable[[int], str] = _mostly_users,
    seed: int = 5,
) -> Steady:
    """Send GETs one after the other through the real failover, in simulated time."""
    chance, now, hedges = random.Random(seed), 0.0, 0
    state = ClientState(Policy(), lambda _: None)
    state.clock = lambda: now
    with state:
        endpoints = [Endpoint(f"https://{name}.example", ord(name)) for name in ("a", "b")]
        state.api.replace(endpoints, now)
    for number in range(requests):
        path = path_of(number)
        with state:
            route = route_of("GET", path)
            flow = Failover(GET, state.api, state.budget, now, None, route)
        member, seconds = flow.member, seconds_of(chance, path)
        assert member is not None
        outcome = Attempt(member, now + seconds, now, status=200, first_byte=seconds)
        late_at = now + flow.hedge_after
        if seconds > flow.hedge_after and (rival := flow.hedge(late_at)):
            hedges += 1
            other = seconds_of(chance, path)
            if late_at + other < outcome.now:
                outcome = Attempt(rival, late_at + other, late_at, status=200, first_byte=other)
                with state:
                    if flow.record_overtaken(member, late_at, outcome):
                        stalled = Attempt(member, late_at, late_at)
                        flow.record_failure(stalled, Fault.STALLED)
        now = outcome.now
        with state:
            flow.record(outcome)
            for due in state.api.take_due(now):
                state.api.probed(due, ProbeResult(None, 0.02, ""), now, 1e9 + now)
        now += 0.01
    return Steady(hedges, requests, state.api.switches)


def _log_normal(chance: random.Random) -> float:
    """Draw a time to first byte: median 20 ms, 99th percentile 300 ms."""
    return 0.02 * math.exp(math.log(15) / 2.326 * chance.gauss(0, 1))


def test_a_log_normal_api_sees_few_hedges() -> None:
    """At log-normal answer times, at most 2 % of requests hedge and the client rarely switches."""
    seen = _steady(lambda chance, path: _log_normal(chance), 10_000)
    assert 0 < seen.hedges <= 0.02 * seen.requests
    assert seen.switches <= 4


def test_a_route_that_is_always_slow_sees_few_hedges() -> None:
    """If one route with 4 % of the GETs always takes 3 s, at most 2 % of requests hedge."""
    seen = _steady(lambda chance, path: 3.0 if path == "/report" else _log_normal(chance), 10_000)
    assert 0 < seen.hedges <= 0.02 * seen.requests


@pytest.mark.parametrize("seed", range(30))
def test_a_slow_route_that_is_new_is_no_fault_of_the_endpoint(seed: int) -> None:
    """A hedge that is late as well shows that the route is slow, not the endpoint that lost."""
    seen = _steady(
        lambda chance, path: chance.uniform(0.1, 0.6) if path.startswith("/report") else 0.004,
        100,
        lambda number: f"/users/{number}" if number < 60 else f"/report/{number}",
        seed,
    )
    assert (seen.hedges > 0, seen.switches) == (True, 0)


def test_a_far_endpoint_may_overtake() -> None:
    """A backup whose answers take longer than the hedge delay still shows that the first hangs."""
    state = ClientState(Policy(), lambda _: None)
    with state:
        near, far = (Endpoint(f"https://{name}.example", ord(name)) for name in ("a", "b"))
        state.api.replace([near, far], 0.0)
        for member, seconds in zip(state.api.members(), (0.004, 0.12), strict=True):
            state.api.take_due(0.0)
            state.api.probed(member, ProbeResult(None, seconds, ""), 0.1, 1e9)
        for number in range(30):
            flow = Failover(GET, state.api, state.budget, float(number), None, "GET /")
            assert flow.member is not None
            flow.record(Attempt(flow.member, number + 0.1, number, status=200, first_byte=0.004))
        counted = []
        for at in (40.0, 41.0):
            flow = Failover(GET, state.api, state.budget, at, None, "GET /")
            first, rival = flow.member, flow.hedge(at + 0.05)
            assert first is not None
            assert rival is not None
            hedge = Attempt(rival, at + 0.2, at + 0.05, status=200, first_byte=0.13)
            counted.append(flow.record_overtaken(first, at + 0.2, hedge))
    assert counted == [False, True]


def test_an_overload_sees_few_hedges() -> None:
    """If all endpoints become slow, at most 5 % of requests hedge."""
    numbers = itertools.count()
    seen = _steady(
        lambda chance, path: (3.0 if next(numbers) > 100 else 1.0) * _log_normal(chance) * 10,
        5_000,
    )
    assert seen.hedges <= 0.05 * seen.requests


@given(st.lists(st.sampled_from(["hedge", "attempt", "success"]), max_size=500))
def test_the_budget_bounds_hedges_and_attempts_together(steps: list[str]) -> None:
    """A hedge costs 20 of 500 tokens, a further attempt 5, and a success returns 1."""
    budget, hedges, attempts = Budget(Policy()), 0, 0
    for step in steps:
        if step == "hedge":
            hedges += budget.spend(20)
        elif step == "attempt":
            attempts += budget.spend(5)
        else:
            budget.refund()
    assert 0 <= budget.tokens <= 500
    assert 20 * hedges + 5 * attempts <= 500 + steps.count("success")


# -- over real sockets


def _warm(driver: Driver, *servers: Backend) -> None:
    for server in servers:
        server.behave(delay=0.02)
    for _ in range(25):
        assert driver.who() == "primary"


@pytest.mark.alone
def test_a_frozen_primary_costs_the_first_request_little(fleet: Fleet, kind: str) -> None:
    """A frozen primary costs the first request at most 250 ms, and is suspect after the second."""
    primary, backup = fleet.pair()
    with Driver(kind, [primary.url, backup.url], trust_env=False) as driver:
        _warm(driver, primary, backup)
        primary.freeze()
        with timed() as first:
            assert driver.who() == "backup"
        assert first.seconds <= 0.25
        assert driver.who() == "backup"
        assert driver.state(primary.url) == "suspect"


@pytest.mark.alone
def test_a_swallowed_primary_costs_the_first_request_little(fleet: Fleet, kind: str) -> None:
    """A primary whose address drops every SYN costs the first request at most 120 ms."""
    primary, backup = fleet.pair()
    with Driver(kind, [primary.url, backup.url], trust_env=False) as driver:
        _warm(driver, primary)
        primary.kill()
        with black_hole(primary.port):
            with timed() as first:
                assert driver.who() == "backup"
            assert first.seconds <= 0.12


def test_a_delay_is_a_number_or_auto() -> None:
    """A delay is a number or ``auto``, and the error for another value says so."""
    assert Policy(hedge_delay=0.5, race_delay=0.0).queue_delay == 0.5
    with pytest.raises(TypeError, match=r"hedge_delay must be a number, .* or 'auto', not 'soon'"):
        Policy(hedge_delay="soon")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="body_pause must be a number, 0 to 1000000, not 'auto'"):
        Policy(body_pause="auto")  # type: ignore[arg-type]
