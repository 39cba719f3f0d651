"""The failover generator for one request: the shared cases, and invariants of all outcomes."""

import contextlib
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client.pool.failover import (
    Attempt,
    Candidates,
    Flow,
    Outcome,
    RetryTraits,
    Verdict,
    failover,
)
from mop_config.client.pool.member import PoolMember
from mop_config.client.pool.policy import BAD_STATUS, Budget, Policy
from mop_config.health.state import HealthState
from mop_config.net.faults import COUNTED, Fault

from .cases import CASES, RETRY_AFTER, Case
from .pools import Bench, name_of, url

#: Outcome of each word of a case: fault, whether the request was sent, name of the exception.
_FAULTS = {
    "refused": (Fault.REFUSED, False, "ConnectError"),
    "reset": (Fault.RESET, True, "ReadError"),
    "close": (Fault.PROTOCOL, True, "RemoteProtocolError"),
    "stall": (Fault.READ_TIMEOUT, True, "ReadTimeout"),
}


@dataclass
class Run:
    """Drives the generator as a transport would, with the words of a case as the network."""

    case: Case
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        policy = Policy(budget=self.case.budget)
        self.bench = Bench({name: place for place, name in enumerate(self.case.script)}, policy)
        self.shape = RetryTraits.of(
            self.case.method, replayable=self.case.body != "stream", keyed=self.case.keyed
        )
        self.policy = policy
        self.moves = Candidates(self.bench.pool, Budget(policy))
        self.kept = {next(iter(self.case.script))} if self.case.warm else set()

    def verdict(self) -> Verdict:
        bench = self.bench
        budget = Budget(self.policy)
        self.moves = Candidates(bench.pool, budget)
        flow = failover(self.shape, bench.pool, budget, self.policy, self.moves, bench.now)
        try:
            attempt = next(flow)
            while True:
                attempt = flow.send(self._attempt(attempt.member))
        except StopIteration as end:
            verdict: Verdict = end.value
            return verdict

    def _attempt(self, member: PoolMember, hedged: bool = False) -> Outcome:
        name = name_of(member) or ""
        words = self.case.script[name]
        word = words[min(self.asked.count(name), len(words) - 1)]
        self.asked.append(name)
        reused = name in self.kept
        self.kept.discard(name)
        began = self.bench.now
        self.bench.wait(0.01)
        if word == "stall":
            self.bench.wait(self.policy.queue_delay)
            rival = self.moves.hedge(self.bench.now) if self.shape.hedged and not hedged else None
            if rival is not None:
                outcome = self._attempt(rival, hedged=True)
                outcome.losers = ((member, Fault.STALLED),)
                return outcome
        if word in _FAULTS:
            fault, sent, error = _FAULTS[word]
            return Outcome(
                member, self.bench.now, began, fault=fault, sent=sent, reused=reused, result=error
            )
        status = int(word.rstrip("+"))
        busy = self.policy.busy_for(
            status, str(RETRY_AFTER) if word.endswith("+") else None, 1e9 + self.bench.now
        )
        return Outcome(
            member, self.bench.now, began, status=status, busy=busy, result=(name, status)
        )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case: Case) -> None:
    """The generator makes the attempts of each case and returns its result."""
    run = Run(case)
    verdict = run.verdict()
    assert tuple(run.asked) == case.asked
    if verdict.answer is not None:
        assert verdict.answer == (case.answered_by, case.result)
    else:
        assert (verdict.error or "NoEndpointAvailable") == case.result
        assert case.answered_by is None
    if verdict.answer is None and verdict.error is None:
        assert [trial.url for trial in verdict.trials] == [url(name) for name in case.asked]


def test_the_names_of_the_cases_are_their_own() -> None:
    """Case names are unique, and the tests know every word of the cases."""
    assert len({case.name for case in CASES}) == len(CASES)
    words = {word for case in CASES for words in case.script.values() for word in words}
    assert {word for word in words if not word.rstrip("+").isdigit()} == set(_FAULTS)


@pytest.mark.parametrize(
    ("method", "replayable", "keyed", "shape"),
    [
        ("GET", True, False, RetryTraits(True, True, True)),
        ("HEAD", True, False, RetryTraits(True, True, True)),
        ("OPTIONS", True, False, RetryTraits(True, True, True)),
        ("TRACE", True, False, RetryTraits(True, True, False)),
        ("PUT", True, False, RetryTraits(True, True, False)),
        ("DELETE", True, False, RetryTraits(True, True, False)),
        ("POST", True, False, RetryTraits(False, True, False)),
        ("PATCH", True, False, RetryTraits(False, True, False)),
        ("CONNECT", True, False, RetryTraits(False, True, False)),
        ("PROPFIND", True, False, RetryTraits(False, True, False)),
        ("get", True, False, RetryTraits(False, True, False)),
        ("POST", True, True, RetryTraits(True, True, False)),
        ("POST", False, True, RetryTraits(True, False, False)),
        ("GET", False, False, RetryTraits(True, False, False)),
    ],
)
def test_the_shape_of_a_request(
    method: str, replayable: bool, keyed: bool, shape: RetryTraits
) -> None:
    """Methods are case-sensitive, and an unknown method counts as not idempotent."""
    assert RetryTraits.of(method, replayable=replayable, keyed=keyed) == shape


def test_without_endpoints_it_ends_at_once() -> None:
    """Without endpoints, the generator returns an empty verdict at once."""
    flow = flow_of(Bench({}), Policy())
    with pytest.raises(StopIteration) as end:
        next(flow)
    assert end.value.value == Verdict()


def flow_of(bench: Bench, policy: Policy) -> Flow:
    """Start the generator for a GET over a pool."""
    budget = Budget(policy)
    return failover(
        RetryTraits(True, True, True),
        bench.pool,
        budget,
        policy,
        Candidates(bench.pool, budget),
        bench.now,
    )


def test_an_endpoint_that_is_down_is_tried_when_nothing_else_is_left() -> None:
    """An unhealthy endpoint is tried last, because it may have recovered, but never hedged to."""
    bench = Bench({"a": 0, "b": 1})
    bench.fail("b", times=3)
    moves = Candidates(bench.pool, Budget(Policy()))
    assert name_of(moves.first(bench.now)) == "a"
    assert moves.hedge(bench.now) is None
    assert name_of(moves.next(bench.now)) == "b"
    assert moves.next(bench.now) is None


def test_the_total_bounds_everything() -> None:
    """Each attempt may use the rest of the total timeout, and no attempt begins after its end."""
    bench, policy = Bench({"a": 0, "b": 1, "c": 2}), Policy(total_timeout=10.0)
    flow = flow_of(bench, policy)
    attempt = next(flow)
    assert attempt.seconds_left == 10.0
    attempt = flow.send(Outcome(attempt.member, 6.0, 0.0, fault=Fault.READ_TIMEOUT))
    assert attempt.seconds_left == 4.0
    with pytest.raises(StopIteration) as end:
        flow.send(Outcome(attempt.member, 10.0, 6.0, fault=Fault.REFUSED, sent=False))
    assert [name_of(bench.pool.get(trial.url)) for trial in end.value.value.trials] == ["a", "b"]
    assert bench["c"].served == bench["c"].failed == 0


def test_an_endpoint_is_asked_again_once_however_many_connections_it_kept() -> None:
    """A stale kept connection is retried once per endpoint, however many connections it kept."""
    bench, asked = Bench({"a": 0, "b": 1}), []
    flow = flow_of(bench, Policy())
    member = next(flow).member
    with contextlib.suppress(StopIteration):
        while True:
            asked.append(name_of(member))
            stale = Outcome(member, 1.0, 0.9, fault=Fault.RESET, reused=True, result="e")
            member = flow.send(stale).member
    assert asked == ["a", "a", "b", "b"]


class TestWhatThePoolLearns:
    """The pool records each outcome at the endpoint of its attempt."""

    def after(self, outcome_of: Any, names: str = "ab") -> Bench:
        bench = Bench({name: place for place, name in enumerate(names)})
        flow = flow_of(bench, Policy())
        member = next(flow).member
        with contextlib.suppress(StopIteration):
            flow.send(outcome_of(bench, member))
        return bench

    def test_a_kept_connection_that_was_closed_is_no_failure(self) -> None:
        """A reset on a kept connection counts no failure, but schedules an urgent probe."""
        bench = self.after(
            lambda bench, m: Outcome(m, 1.0, 0.9, fault=Fault.RESET, reused=True, result="e")
        )
        assert (bench.state("a"), bench["a"].failed) == (HealthState.UNKNOWN, 0)
        assert bench["a"].health.next_probe <= 1.0
        assert bench.pool.urgent

    def test_a_read_timeout_on_a_kept_connection_is_one(self) -> None:
        """A read timeout on a kept connection counts as a failure, unlike a closed connection."""
        bench = self.after(
            lambda bench, m: Outcome(m, 1.0, 0.9, fault=Fault.READ_TIMEOUT, reused=True, result="e")
        )
        assert bench.state("a") is HealthState.SUSPECT

    @pytest.mark.parametrize("status", [502, 503, 504, 520, 527, 530])
    def test_bad_statuses_count(self, status: int) -> None:
        """A bad status makes the endpoint suspect: a proxy sends these for a dead server."""
        bench = self.after(lambda bench, m: Outcome(m, 1.0, 0.9, status=status, result="r"))
        assert bench.state("a") is HealthState.SUSPECT
        assert bench["a"].last_fault is Fault.BAD_STATUS

    @pytest.mark.parametrize("status", [200, 301, 404, 429, 500])
    def test_the_applications_answers_count_as_alive(self, status: int) -> None:
        """Other statuses come from the application itself, so the endpoint is healthy."""
        bench = self.after(lambda bench, m: Outcome(m, 1.0, 0.9, status=status, result="r"))
        assert bench.state("a") is HealthState.HEALTHY

    def test_a_busy_endpoint_is_alive_and_left_alone(self) -> None:
        """A busy endpoint stays healthy and gets no requests until its ``Retry-After`` ends."""
        bench = self.after(lambda bench, m: Outcome(m, 1.0, 0.9, status=503, busy=9.0, result="r"))
        assert (bench.state("a"), bench["a"].busy_until) == (HealthState.HEALTHY, 10.0)

    def test_the_losers_of_a_race_are_told_of(self) -> None:
        """Each loser of a race is recorded with its fault, and the winner as having served."""
        bench = self.after(
            lambda bench, m: Outcome(
                bench["c"],
                1.0,
                0.0,
                status=200,
                result="r",
                losers=((bench["a"], Fault.REFUSED), (bench["b"], Fault.STALLED)),
            ),
            "abc",
        )
        assert [bench.state(name) for name in "abc"] == [
            HealthState.SUSPECT,
            HealthState.SUSPECT,
            HealthState.HEALTHY,
        ]
        assert (bench["a"].failed, bench["b"].failed, bench["c"].served) == (1, 0, 1)

    def test_a_loser_that_the_pool_knows_of_is_not_told_of_twice(self) -> None:
        """The first ``losers_recorded`` losers are not recorded again."""
        bench = self.after(
            lambda bench, m: Outcome(
                bench["c"],
                1.0,
                0.0,
                status=200,
                result="r",
                losers=((bench["a"], Fault.REFUSED), (bench["b"], Fault.REFUSED)),
                losers_recorded=1,
            ),
            "abc",
        )
        assert (bench["a"].failed, bench["b"].failed) == (0, 1)


OUTCOMES = st.one_of(
    st.sampled_from([200, 404, 500, 502, 503]),
    st.sampled_from([429, 503]).map(lambda status: (status, 5.0)),
    st.tuples(st.sampled_from(sorted(COUNTED)), st.booleans(), st.booleans()),
    st.sampled_from([Fault.POOL_TIMEOUT, Fault.OURS]).map(lambda fault: (fault, False, False)),
)


@given(
    st.builds(RetryTraits, st.booleans(), st.booleans(), st.just(False)),
    st.integers(1, 6),
    st.integers(0, 30),
    st.lists(st.tuples(OUTCOMES, st.floats(0.0, 12.0)), min_size=14, max_size=14),
)
def test_what_always_holds(
    shape: RetryTraits, endpoints: int, tokens: int, script: list[tuple[Any, float]]
) -> None:
    """No request runs twice, none is lost unsent, and each answer is used or discarded once."""
    bench = Bench({name: place for place, name in enumerate("abcdef"[:endpoints])})
    policy = Policy(budget=tokens)
    budget = Budget(policy)
    moves = Candidates(bench.pool, budget)
    flow = failover(shape, bench.pool, budget, policy, moves, 0.0)
    attempts: list[Attempt] = []
    outcomes: list[Outcome] = []
    answers, discarded = [], []
    verdict = None
    step: Any = next(flow)
    for what, seconds in script:
        attempts.append(step)
        discarded.append(step.discard)
        assert 0 < step.seconds_left <= policy.total_timeout - bench.now + 1e-9
        began = bench.now
        bench.wait(seconds)
        outcome = Outcome(step.member, bench.now, began, result=object())
        if isinstance(what, int):
            outcome.status = what
        elif isinstance(what[0], int):
            outcome.status, outcome.busy = what
        else:
            outcome.fault, outcome.sent, outcome.reused = what
        if outcome.status is not None:
            answers.append(outcome.result)
        outcomes.append(outcome)
        try:
            step = flow.send(outcome)
        except StopIteration as end:
            verdict = end.value
            break
    assert verdict is not None

    last = outcomes[-1]
    for outcome in outcomes[:-1]:  # the outcomes that were followed by another attempt
        assert not outcome.good
        assert outcome.now < policy.total_timeout
        assert not outcome.sent or (shape.idempotent and shape.replayable)
    names = [attempt.member.url for attempt in attempts]
    assert all(names.count(name) <= 2 for name in names)

    # Each answer is either returned or discarded, exactly once: an unread one leaks a connection.
    given_away = [a for a in (*discarded, verdict.answer, verdict.discard) if a is not None]
    assert sorted(map(id, given_away)) == sorted(map(id, answers))
    assert verdict.answer is (answers[-1] if answers else None)

    # Only an answer, a local fault, the risk of a second execution, the timeout or the budget
    # may end the request before every endpoint was tried.
    if not answers and last.fault not in {Fault.OURS, Fault.POOL_TIMEOUT}:
        repeatable = shape.idempotent and shape.replayable
        if not last.sent or repeatable:
            everybody = len(set(names)) == endpoints
            assert everybody or last.now >= policy.total_timeout or budget.tokens < 5
            assert [trial.url for trial in verdict.trials] == names
        else:
            assert verdict.error is last.result
    # The first move to another endpoint is free, every further attempt costs five tokens.
    moved = len(set(names)) > 1
    paid = 5 * (len(names) - 1 - moved)
    refund = 1 if last.good else 0
    assert budget.tokens == min(tokens, tokens - paid + refund)
    assert last.good == (
        last.status is not None and not last.busy and last.status not in BAD_STATUS
    )
