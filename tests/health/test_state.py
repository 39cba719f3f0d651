"""The health of an endpoint: the transition table, the figures and the next check."""

from collections.abc import Iterator
from itertools import pairwise, product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conformance.vectors import load
from mop_config.health.state import (
    TRANSITIONS,
    Evidence,
    Health,
    HealthRules,
    HealthState,
    Transition,
)

RULES = HealthRules()
GOOD, BAD = Evidence.GOOD_PROBE, Evidence.BAD_PROBE
ANSWERED, FAILED = Evidence.GOOD_REQUEST, Evidence.BAD_REQUEST
STALL = Evidence.STALL


def after(*evidence: Evidence, rules: HealthRules = RULES) -> Health:
    """Return health from time 0 after this evidence, one piece per second."""
    health = Health(rules, 0.0)
    for moment, piece in enumerate(evidence):
        health.record(piece, float(moment))
    return health


def _sequences() -> Iterator[tuple[tuple[Evidence, ...], HealthState]]:
    """Yield the conformance suite's sequences of checks and requests, with the final states."""
    for vector in load():
        if vector.suite != "health" or ": " not in vector.name:
            continue
        *steps, last = vector.steps
        script = vector.fleet["a"]
        checks, requests = iter(script["paths"]["/api/v1/health"]), iter(script["requests"])
        evidence = [
            (ANSWERED if next(requests) == 200 else FAILED)
            if step["op"] == "request"
            else (GOOD if next(checks) == 200 else BAD)
            for step in steps
        ]
        yield tuple(evidence), HealthState(last["expect"]["states"]["a"])


class TestTable:
    """One table holds every legal transition."""

    def test_every_state_knows_what_to_do_with_every_evidence(self) -> None:
        """Every pair of state and evidence has an entry, and no pair lists a state twice."""
        assert set(TRANSITIONS) == set(product(HealthState, Evidence))
        assert all(len(set(states)) == len(states) in {1, 2} for states in TRANSITIONS.values())

    def test_every_state_can_be_left_and_reached(self) -> None:
        """Every state can be left and reached, except unknown, which is only the start."""
        reached = {
            (before, state)
            for (before, _), states in TRANSITIONS.items()
            for state in states
            if state is not before
        }
        assert {before for before, _ in reached} == set(HealthState)
        assert {state for _, state in reached} == set(HealthState) - {HealthState.UNKNOWN}

    @given(st.lists(st.sampled_from(Evidence), max_size=40))
    def test_no_sequence_leaves_the_table(self, evidence: list[Evidence]) -> None:
        """No sequence of evidence leaves the table."""
        health = Health(RULES, 0.0)
        for moment, piece in enumerate(evidence):
            before = health.state
            change = health.record(piece, float(moment))
            assert change == Transition(before, health.state)
            assert health.state in TRANSITIONS[before, piece]

    @given(st.lists(st.sampled_from(Evidence), max_size=40))
    def test_two_good_probes_cure_anything(self, evidence: list[Evidence]) -> None:
        """Two good probes make any state healthy."""
        health = after(*evidence, GOOD, GOOD)
        assert health.state is HealthState.HEALTHY
        assert health.failures == 0

    @given(st.lists(st.sampled_from(Evidence), max_size=40))
    def test_three_failures_in_a_row_end_anything(self, evidence: list[Evidence]) -> None:
        """Three failures in a row make any state unhealthy."""
        assert after(*evidence, FAILED, FAILED, FAILED).state is HealthState.UNHEALTHY

    @given(st.lists(st.sampled_from([GOOD, ANSWERED, STALL, FAILED]), max_size=40))
    def test_an_endpoint_is_down_only_after_three_in_a_row(self, evidence: list[Evidence]) -> None:
        """Failures with successes between them never make an endpoint unhealthy."""
        health = Health(RULES, 0.0)
        in_a_row = 0
        for piece in evidence:
            if piece is FAILED:
                in_a_row += 1
            elif piece is not STALL:
                in_a_row = 0
            if health.record(piece, 0.0).went_down:
                assert in_a_row >= 3


class TestFigures:
    """The figures of the guide and of the contract."""

    @pytest.mark.parametrize(
        ("evidence", "state"),
        [
            *_sequences(),
            ((STALL,), HealthState.SUSPECT),
            ((STALL, STALL, STALL, STALL), HealthState.SUSPECT),
        ],
    )
    def test_the_state_follows_the_evidence(
        self, evidence: tuple[Evidence, ...], state: HealthState
    ) -> None:
        """An endpoint is suspect after one failure, unhealthy after three; two good probes heal."""
        assert after(*evidence).state is state

    def test_other_figures_are_obeyed(self) -> None:
        """Other limits, such as one failure and one good probe, are applied."""
        rules = HealthRules(unhealthy_after=1, healthy_after=1)
        assert after(FAILED, rules=rules).state is HealthState.UNHEALTHY
        assert after(FAILED, GOOD, rules=rules).state is HealthState.HEALTHY
        assert after(*[BAD] * 3, GOOD, GOOD, rules=HealthRules(healthy_after=3)).usable is False

    def test_only_three_states_take_requests(self) -> None:
        """Requests go to three states: suspect is usable, and recovering is not."""
        assert {state for state in HealthState if state.usable} == {
            HealthState.UNKNOWN,
            HealthState.HEALTHY,
            HealthState.SUSPECT,
        }

    def test_a_change_says_whether_the_endpoint_went_or_came(self) -> None:
        """The third failure reports the endpoint down, and the second good probe reports it up."""
        health = after(FAILED, FAILED)
        assert health.record(FAILED, 2.0) == (HealthState.SUSPECT, HealthState.UNHEALTHY)
        change = health.record(FAILED, 3.0)
        assert not change.went_down
        assert not health.record(GOOD, 4.0).came_back
        assert health.record(GOOD, 5.0).came_back

    def test_since_is_when_the_state_was_entered(self) -> None:
        """``since`` is when the state was entered; more of the same evidence keeps it."""
        health = after(ANSWERED, ANSWERED, FAILED, FAILED)
        assert (health.state, health.since) == (HealthState.SUSPECT, 2.0)

    def test_the_average_takes_a_fifth_of_the_newest(self) -> None:
        """A new measurement counts one fifth; the first measurement is the average."""
        health = Health(RULES, 0.0)
        seen = []
        for seconds in (1.0, 2.0, 0.2):
            health.measured(seconds)
            seen.append(health.response_time)
        assert seen == pytest.approx([1.0, 1.2, 1.0])

    @given(st.lists(st.floats(0, 60), min_size=1))
    def test_the_average_stays_between_the_fastest_and_the_slowest(
        self, durations: list[float]
    ) -> None:
        """The average stays between the lowest and the highest measurement."""
        health = Health(RULES, 0.0)
        for seconds in durations:
            health.measured(seconds)
        assert health.response_time is not None
        assert min(durations) - 1e-9 <= health.response_time <= max(durations) + 1e-9


class TestNextLook:
    """The time of the next check."""

    def test_a_new_endpoint_is_looked_at_at_once(self) -> None:
        """A new endpoint, whose state is unknown, is checked at once."""
        assert Health(RULES, 7.0).next_probe == 7.0

    @pytest.mark.parametrize(("chance", "seconds"), [(0.0, 270.0), (0.5, 300.0), (1.0, 330.0)])
    def test_a_healthy_one_every_five_minutes_more_or_less(
        self, chance: float, seconds: float
    ) -> None:
        """A healthy endpoint is checked every five minutes, with a jitter of a tenth either way."""
        health = Health(RULES, 0.0)
        health.record(GOOD, 10.0, chance)
        assert health.next_probe == pytest.approx(10.0 + seconds)

    @pytest.mark.parametrize("first", [FAILED, STALL])
    @pytest.mark.parametrize("before", [(), (GOOD,), (ANSWERED,)])
    def test_the_first_sign_of_trouble_has_it_looked_at_at_once(
        self, first: Evidence, before: tuple[Evidence, ...]
    ) -> None:
        """The first failure schedules a check at once, which tells a hiccup from an outage."""
        health = after(*before)
        health.record(first, 50.0)
        assert health.next_probe == 50.0

    @pytest.mark.parametrize("first", [FAILED, STALL])
    def test_a_cleared_suspicion_is_looked_at_again_after_a_second(self, first: Evidence) -> None:
        """Failures whose checks are good schedule one check a second, the first one at once."""
        health, looks = after(GOOD), []
        for tenth in range(500, 530):
            health.record(first, tenth / 10)
            if health.next_probe <= tenth / 10:
                looks.append(tenth / 10)
                health.record(GOOD, tenth / 10)
        assert looks == [50.0, 51.0, 52.0]

    def test_a_look_in_between_does_not_put_the_next_one_off(self) -> None:
        """A check that the application asks for does not postpone that of a failed request."""
        health = after(GOOD)
        for tenth in range(500, 600):
            health.record(FAILED, tenth / 10)
            assert health.next_probe <= tenth / 10 + 1
            health.record(GOOD, tenth / 10)

    def test_requests_that_fail_do_not_put_the_next_look_off(self) -> None:
        """Further failed requests, however many, do not postpone the next check."""
        health = after(BAD)
        due = health.next_probe
        for moment in (0.1, 0.2, 0.3):
            health.record(FAILED, moment)
        assert health.next_probe == due

    def test_answers_do_not_put_the_next_look_off_either(self) -> None:
        """Successful requests do not postpone the next check of a busy endpoint."""
        health = after(GOOD)
        due = health.next_probe
        health.record(ANSWERED, 200.0)
        assert health.next_probe == due

    def test_a_failing_one_after_1_2_4_and_at_most_30_seconds(self) -> None:
        """An unhealthy endpoint is checked after 1, 2, 4 … 30 s, a recovering one after 1 s."""
        health, now, waits = Health(RULES, 0.0), 0.0, []
        for _ in range(8):
            health.record(BAD, now, 0.0)
            waits.append(health.next_probe - now)
            now = health.next_probe
        assert waits == [1, 2, 4, 8, 16, 30, 30, 30]
        health.record(GOOD, now, 0.0)
        assert health.next_probe == now + 1
        health.record(BAD, now, 0.0)
        assert health.next_probe == now + 1

    def test_clients_that_failed_together_part(self) -> None:
        """Jitter spreads clients: it shortens a wait by up to a tenth, and never lengthens it."""
        health = Health(RULES, 0.0)
        health.record(BAD, 0.0, 1.0)
        assert health.next_probe == pytest.approx(0.9)

    @given(st.integers(0, 10**9))
    def test_the_wait_never_overflows_or_shrinks(self, failures: int) -> None:
        """The wait stays between 1 and 30 seconds for any number of failures."""
        assert 1.0 <= RULES.backoff(failures) <= RULES.backoff(failures + 1) <= 30.0

    def test_waits_double(self) -> None:
        """The wait doubles with each failure up to the limit."""
        waits = [HealthRules(max_backoff=1e9).backoff(failures) for failures in range(1, 12)]
        assert all(second == 2 * first for first, second in pairwise(waits))

    def test_a_postponed_look_holds_nothing_against_the_endpoint(self) -> None:
        """A check postponed for lack of a network keeps the state, and makes checks rarer."""
        health = after(GOOD)
        waits = []
        for _ in range(7):
            health.postpone(100.0, 0.0)
            waits.append(health.next_probe - 100.0)
        assert waits == [1, 2, 4, 8, 16, 30, 30]
        assert (health.state, health.failures) == (HealthState.HEALTHY, 0)
        health.record(GOOD, 200.0)
        health.postpone(300.0, 0.0)
        assert health.next_probe == 301.0
