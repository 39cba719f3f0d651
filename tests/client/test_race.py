"""DialRace: the order and times of the dials of one attempt, and the faults that they record."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client.pool.failover import Budget, DialRace, Failover, RetryTraits
from mop_config.client.pool.member import PoolMember
from mop_config.client.pool.policy import Policy
from mop_config.net.faults import Fault

from .pools import Bench, name_of

DELAY = 0.25
NAMES = {"a": 0, "b": 1, "c": 2}


class Track:
    """A race over a pool, with candidates that are paid for from a budget."""

    def __init__(self, names: dict[str, int] = NAMES, budget: float = 500.0) -> None:
        self.bench = Bench(names)
        self.budget = Budget(Policy(budget=budget))
        traits = RetryTraits(True, True, False)
        self.moves = Failover(traits, self.bench.pool, self.budget, 0.0)
        first = self.moves.member
        assert first is not None
        self.race = DialRace(first, self.moves.next, DELAY)

    def start(self, now: float) -> str | None:
        return name_of(self.race.start(now))

    def failed(self, name: str, fault: Fault = Fault.REFUSED) -> None:
        self.race.failed(self.bench[name], fault)

    def won(self, name: str, now: float) -> list[tuple[str | None, Fault]]:
        self.race.won(self.bench[name], now)
        return [(name_of(m), fault) for m, fault in self.race.losers]


def test_the_first_dial_begins_at_once_and_alone() -> None:
    """The first dial starts at once, and the second one after the delay."""
    track = Track()
    assert track.race.wait(0.0) == 0.0
    assert track.start(0.0) == "a"
    assert track.start(0.0) is None
    assert track.race.wait(0.1) == pytest.approx(0.15)
    assert len(track.race._started) == 1


def test_one_that_is_ready_in_time_wins_alone() -> None:
    """A dial that connects within the delay wins; no other is started and none is blamed."""
    track = Track()
    track.start(0.0)
    assert track.won("a", 0.2) == []
    assert track.moves.tried == [track.bench["a"].url]


def test_a_slow_dial_gets_another_beside_it() -> None:
    """After each delay another dial starts, and slow losers are recorded as stalled."""
    track = Track()
    assert track.start(0.0) == "a"
    assert track.start(0.25) == "b"
    assert track.start(0.30) is None
    assert track.start(0.50) == "c"
    assert len(track.race._started) == 3
    assert track.won("c", 0.55) == [("a", Fault.STALLED), ("b", Fault.STALLED)]


def test_one_that_had_less_time_than_that_is_not_doubted() -> None:
    """A loser that had less time than the delay is not recorded as stalled."""
    track = Track()
    track.start(0.0)
    track.start(0.25)
    assert track.won("a", 0.30) == []


def test_a_dial_that_fails_begins_the_next_at_once() -> None:
    """After a failed dial the next one starts at once, and the delay restarts."""
    track = Track()
    track.start(0.0)
    track.failed("a")
    assert track.race.wait(0.01) == 0.0
    assert track.start(0.01) == "b"
    assert track.start(0.25) is None
    assert track.start(0.26) == "c"
    assert track.won("b", 0.3) == [("a", Fault.REFUSED)]


def test_when_nobody_is_left_it_waits_for_those_under_way() -> None:
    """Without further candidates the race waits for the running dials, with no wake-up."""
    track = Track({"a": 0})
    track.start(0.0)
    assert track.start(0.25) is None
    assert track.race.wait(0.25) == math.inf
    track.failed("a", Fault.CONNECT_TIMEOUT)
    assert len(track.race._started) == 0
    assert track.start(2.0) is None
    assert [(name_of(m), fault) for m, fault in track.race.losers] == [("a", Fault.CONNECT_TIMEOUT)]


def test_dials_are_paid_for_like_attempts() -> None:
    """The first further dial is free, and each later one costs five tokens."""
    track = Track({name: place for place, name in enumerate("abcdef")}, budget=10)
    started = [track.start(moment * DELAY) for moment in range(6)]
    assert started == ["a", "b", "c", "d", None, None]
    assert track.budget.tokens == 0


@given(
    st.lists(
        st.tuples(st.booleans(), st.floats(0.001, 2.0, allow_subnormal=False)),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_the_dials_do(dials: list[tuple[bool, float]]) -> None:
    """The first ready dial wins, each endpoint is dialled once, and each loser has its fault."""
    names = "abcdef"[: len(dials)]
    track = Track({name: place for place, name in enumerate(names)})
    plan = dict(zip(names, dials, strict=True))
    begun: dict[str, float] = {}
    ends: dict[str, float] = {}
    now, winner = 0.0, None
    while winner is None:
        while (name := track.start(now)) is not None:
            assert name not in begun
            begun[name] = now
            ends[name] = now + plan[name][1]
        if not ends:
            break
        wait = track.race.wait(now)
        first = min(ends, key=lambda name: ends[name])
        if now + wait < ends[first]:
            now += wait
            continue
        now = ends.pop(first)
        if plan[first][0]:
            winner = first
        else:
            track.failed(first)
    if winner is None:
        assert set(begun) == set(names)
        assert not any(good for good, _ in dials)
        return
    losers = dict(track.won(winner, now))
    assert winner not in losers
    for name, began in begun.items():
        if name == winner:
            continue
        if not plan[name][0] and name not in ends:
            assert losers[name] is Fault.REFUSED
        elif now - began >= DELAY:
            assert losers[name] is Fault.STALLED
        else:
            assert name not in losers
    # No dial started later than the delay after the one before.
    assert now <= begun[winner] + plan[winner][1] + 1e-9
    assert begun[winner] <= DELAY * names.index(winner) + 1e-9


def test_a_member_is_what_it_gives() -> None:
    """``start`` returns a pool member, whose target the driver dials."""
    track = Track()
    member = track.race.start(0.0)
    assert isinstance(member, PoolMember)
    assert member.target.tls_name == "a.example"
