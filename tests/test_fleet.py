"""The bookkeeping of the simulated fleet: every request is counted, and a seed repeats a run."""

import subprocess
import sys
from typing import Any

import pytest

from benchmarks.fleet_cases import BLACK_HOLE, OURS, POLLS, SHORT
from benchmarks.fleet_polls import Polls
from benchmarks.fleet_run import DEATH, Case, Seen, simulate
from benchmarks.fleet_world import ROUND_TRIP, Costs, Outage, Site, World
from mop_config.net.faults import Fault

SIZE = 60
CASES = {
    "room for all": Case(OURS, BLACK_HOLE, back=30.0, until=90.0),
    "too little room": SHORT["two with 0.45"]._replace(until=30.0),
}


def everything(seen: Seen) -> list[Any]:
    """Return every counter of a run."""
    tally = seen.tally
    found: list[Any] = [tally.asked, tally.answered, tally.failed, tally.tries, tally.waits]
    for site in seen.sites:
        found += [dict(site.dials), dict(site.requests), dict(site.probes), dict(site.work)]
    return found


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_request_is_answered_or_fails(case: Case) -> None:
    """Every request is answered or fails, except at most one per client at the end."""
    seen = simulate(case, SIZE)
    tally = seen.tally
    assert tally.asked == tally.answered + tally.failed + seen.busy
    assert 0 <= seen.busy <= SIZE
    assert tally.failed == sum(tally.failed_in.values())
    assert len(tally.waits) == len(tally.served_at) <= tally.hit <= SIZE
    # Each answer came from a site, and no site answered a request that it did not get.
    asked_of_sites = sum(sum(site.requests.values()) for site in seen.sites)
    assert asked_of_sites >= tally.answered
    for site in seen.sites:
        assert set(site.shed) <= set(site.dials) | set(site.requests)


def test_the_same_seed_gives_the_same() -> None:
    """Equal seeds give equal results, and different seeds give different results."""
    case = CASES["too little room"]
    first, second = everything(simulate(case, SIZE, 7)), everything(simulate(case, SIZE, 7))
    assert first == second
    assert everything(simulate(case, SIZE, 8)) != first


def test_a_backup_with_room_loses_nobody_and_the_primary_gets_them_back() -> None:
    """With a hedge after 1 s and 30 s of dwelling, no client is lost, and all return."""
    seen = simulate(CASES["room for all"], SIZE)
    primary, backup = seen.sites
    assert seen.tally.failed == 0
    assert len(seen.tally.waits) == SIZE
    hedge, dial_and_ask = OURS.policy.queue_delay, 3 * ROUND_TRIP
    assert seen.wait(50) == pytest.approx(hedge + dial_and_ask, abs=0.02)
    assert seen.mean(primary.requests, 0, 30) == 0
    assert seen.mean(backup.requests, 10, 30) > 0.7 * seen.mean(primary.requests, -10, 0)
    assert seen.mean(backup.requests, -20, 0) < 0.2 * seen.mean(primary.requests, -20, 0)


def test_too_little_room_fails_some() -> None:
    """Backups without enough room turn requests away, so the simulation can show overload."""
    seen = simulate(CASES["too little room"], SIZE)
    assert seen.tally.failed > 0
    assert sum(sum(site.shed.values()) for site in seen.sites[1:]) > 0
    capacity = 0.45 * SIZE / OURS.think
    for site in seen.sites[1:]:
        done = sum(work for second, work in site.work.items() if second >= DEATH)
        assert done <= capacity * 30 * 1.2 + 1.5


def test_a_site_answers_in_order_and_turns_away_what_would_wait_too_long() -> None:
    """A site with 2 requests/s and room for one second answers in order and refuses the rest."""
    world = World()
    site = Site(world, 2.0, Costs(queue=1.0))
    ends = [site.ask(0, 10.0) for _ in range(4)]
    assert [round(wire.end - ROUND_TRIP, 3) for wire in ends[:3]] == [0.5, 1.0, 1.5]
    assert ends[3].status == 503
    assert site.shed[0] == 1


@pytest.mark.parametrize(
    ("fault", "seen"),
    [(Fault.REFUSED, Fault.RESET), (BLACK_HOLE, Fault.READ_TIMEOUT)],
    ids=["killed", "black hole"],
)
def test_a_site_that_dies_loses_what_it_had_taken(fault: Fault, seen: Fault) -> None:
    """A site that dies loses its queued requests; clients learn of it at once, or by time-out."""
    world = World()
    site = Site(world, 1.0, Costs(), Outage(0.5, 9.0, fault))
    wire = site.ask(0, 5.0)
    assert wire.fault is seen
    assert wire.end == (0.5 if fault is Fault.REFUSED else 5.0)


@pytest.mark.parametrize("way", ["every 60 s", "long poll", "long poll, places for half"])
def test_everybody_gets_the_new_list(way: str) -> None:
    """Every client gets the new list once, and by a long poll within seconds."""
    fleet = Polls(POLLS[way], SIZE, SIZE)
    fleet.run(1.2 * POLLS[way].interval + 30)
    assert len(fleet.told) == SIZE
    assert min(fleet.told) >= 0
    assert (max(fleet.told) < 30) is POLLS[way].held
    assert bool(sum(fleet.turned_away.values())) is (POLLS[way].places < 1)


def test_the_command_names_the_missing_dependency_group() -> None:
    """Without the peers that are measured, the command is one line that names their group."""
    code = "import runpy, sys; sys.modules['elastic_transport'] = None; "
    code += "runpy.run_module('benchmarks', run_name='__main__')"
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert "dependency group bench" in done.stderr
    assert done.stderr.count("\n") == 1
