"""Simulated years of faults: invariants that hold for any faults in any order."""

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mop_config.client.pool.policy import Policy
from mop_config.health.state import HealthState

from ..simulator import BEHAVIOURS, GET, GOOD, POST, Simulation

STEPS = 500
RUNS = 20  # RUNS times STEPS is ten thousand


def step(sim: Simulation, chance: random.Random) -> None:
    """Apply one random event to the fleet or to the client."""
    urls = sim.urls()
    kind = chance.random()
    if kind < 0.40:
        sim.request(GET if chance.random() < 0.7 else POST)
    elif kind < 0.65:
        sim.advance(chance.choice([0.01, 0.3, 1.0, 5.0, 40.0, 400.0]))
    elif kind < 0.85:
        sim.servers[chance.choice(urls)].doing = chance.choice(
            [*BEHAVIOURS, "fine", "fine", "fine", "refusing", "refusing"]
        )
    elif kind < 0.89:
        sim.connected = not sim.connected
    elif kind < 0.91:
        fate = chance.choice(["fine", "refusing", "gateway"])
        for url in urls:
            sim.servers[url].doing = fate
    elif kind < 0.93:
        sim.add(f"https://e{chance.randrange(12)}.example", chance.randrange(4))
    elif kind < 0.95 and len(urls) > 2:
        sim.remove(chance.choice(urls))
    elif kind < 0.97:
        sim.pool.pin(chance.choice([None, *urls]), sim.now)
    else:
        sim.pool.choose_anew(sim.now)


def heal(sim: Simulation) -> None:
    """Repair every server and the network, and let 400 s pass."""
    sim.connected = True
    for server in sim.servers.values():
        server.doing = "fine"
    for _ in range(40):
        sim.advance(10.0)


@settings(max_examples=RUNS)
@given(count=st.integers(2, 8), seed=st.integers(0, 2**32))
def test_ten_thousand_steps(count: int, seed: int) -> None:
    """The simulator checks the invariants after each of ten thousand steps.

    An unhealthy endpoint is never chosen while a usable one exists, every transition of health
    is in the table, each outage sends one alert, no POST is executed twice, and no endpoint is
    marked down without a network. In the end the best endpoint is in use again.
    """
    sim, chance = Simulation(count, seed), random.Random(seed)
    for _ in range(STEPS):
        step(sim, chance)
    heal(sim)
    assert sim.states() == {HealthState.HEALTHY}
    assert not sim.network.offline
    pinned = sim.pool.pinned
    best = pinned if pinned is not None and sim.pool.get(pinned) else None
    first = sim.pool.members()[0].endpoint.priority
    current = sim.pool.get(sim.current() or "")
    assert current is not None
    assert current.url == best or (best is None and current.endpoint.priority == first)
    assert sim.request(POST).answer is not None


@pytest.mark.parametrize("fault", sorted(set(BEHAVIOURS) - set(GOOD)))
def test_a_primary_that_fails_loses_no_get_and_comes_back(fault: str) -> None:
    """While a backup works, a failing primary loses no GET, and requests return to it."""
    sim = Simulation(4, seed=1)
    sim.advance(1.0)
    home = sim.current()
    assert home is not None
    sim.servers[home].doing = fault
    for _ in range(300):
        assert sim.request(GET).answer.result != home
        sim.advance(0.2)
    assert sim.current() != home
    assert sim.count("endpoint_down") == 1
    assert sim.count("endpoint_switched") == 1
    sim.servers[home].doing = "fine"
    sim.advance(Policy().max_backoff + 2)
    assert sim.count("endpoint_recovered") == 1
    sim.advance(Policy().min_dwell)
    assert sim.count("all_endpoints_down") == 0
    priorities = [member.endpoint.priority for member in sim.pool.members()]
    current = sim.pool.get(sim.current() or "")
    assert current is not None
    assert current.endpoint.priority == min(priorities)


def test_a_lone_primary_is_returned_to_within_a_minute() -> None:
    """Requests return to a recovered primary after both backoffs and ``min_dwell``."""
    sim = Simulation(0, seed=2)
    for place, name in enumerate("ab"):
        sim.add(f"https://{name}.example", place)
    sim.advance(1.0)
    sim.servers["https://a.example"].doing = "refusing"
    for _ in range(600):
        sim.request(GET)
        sim.advance(1.0)
    assert sim.current() == "https://b.example"
    sim.servers["https://a.example"].doing = "fine"
    sim.advance(Policy().max_backoff + Policy().first_backoff + Policy().min_dwell)
    assert sim.current() == "https://a.example"
    assert sim.lost == 0


def test_a_primary_that_flaps_each_second_costs_few_switches() -> None:
    """A primary that flaps each second causes at most two switches per ``min_dwell``."""
    sim = Simulation(0, seed=3)
    for place, name in enumerate("ab"):
        sim.add(f"https://{name}.example", place)
    sim.advance(1.0)
    for second in range(600):
        sim.servers["https://a.example"].doing = ("refusing", "fine")[second % 2]
        for _ in range(10):
            sim.request(GET)
            sim.advance(0.1)
    assert sim.lost == 0
    assert sim.count("endpoint_switched") <= 2 + 2 * 600 / Policy().min_dwell


@pytest.mark.parametrize("busy", [False, True])
def test_an_hour_without_a_network_marks_nobody_down(busy: bool) -> None:
    """An hour without a network marks no endpoint down and sends no event, idle or busy."""
    sim = Simulation(4, seed=4)
    sim.advance(400.0)
    home = sim.current()
    sim.connected = False
    for _ in range(3600):
        if busy:
            sim.request(GET)
        sim.advance(1.0)
    assert sim.network.offline
    assert sim.states() <= {HealthState.HEALTHY, HealthState.SUSPECT}
    assert sim.count("endpoint_down") == sim.count("all_endpoints_down") == 0
    sim.connected = True
    sim.advance(Policy().max_backoff)
    assert not sim.network.offline
    assert sim.states() == {HealthState.HEALTHY}
    sim.advance(Policy().min_dwell)
    current, first = sim.pool.get(sim.current() or ""), sim.pool.get(home or "")
    assert current is not None
    assert first is not None
    assert current.endpoint.priority == first.endpoint.priority


def test_a_day_with_all_endpoints_down_is_one_alert() -> None:
    """An outage of all endpoints sends one ALL_DOWN and one recovery that ends the outage."""
    sim = Simulation(4, seed=5)
    sim.advance(1.0)
    for _ in range(3):
        for server in sim.servers.values():
            server.doing = "refusing"
        for _ in range(200):
            sim.request(GET)
            sim.advance(100.0)
        for server in sim.servers.values():
            server.doing = "fine"
        sim.advance(100.0)
    assert sim.count("all_endpoints_down") == 3
    outages = [about for _, kind, about in sim.told if kind == "endpoint_recovered"]
    assert [about["after_total_outage"] for about in outages].count(True) == 3


def test_a_sick_fleet_is_not_asked_twice_as_often() -> None:
    """If every endpoint answers 502, the retry budget limits attempts to twice the requests."""
    sim = Simulation(6, seed=6)
    sim.advance(1.0)
    for server in sim.servers.values():
        server.doing = "gateway"
    for _ in range(2000):
        sim.request(GET)
    attempts = sum(sum(server.executed.values()) for server in sim.servers.values())
    further = Policy().budget / Policy().attempt_cost
    assert attempts <= 2 * 2000 + further


def test_probes_of_a_dead_endpoint_stay_rare() -> None:
    """A dead endpoint gets about two probes a minute, however many requests fail."""
    sim = Simulation(0, seed=7)
    sim.add("https://a.example", 0)
    sim.servers["https://a.example"].doing = "refusing"
    for _ in range(3600):
        sim.request(GET)
        sim.advance(1.0)
    assert 110 <= sim.probes <= 150
