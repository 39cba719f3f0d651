"""The failover of one request: the shared cases, and invariants of all outcomes."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client.pool.failover import Attempt, Budget, Failover, RetryTraits
from mop_config.client.pool.member import PoolMember
from mop_config.client.pool.policy import BAD_STATUS, Policy
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
    """Drives the failover as a transport would, with the words of a case as the network."""

    case: Case
    asked: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        policy = Policy(budget=self.case.budget)
        self.bench = Bench({name: place for place, name in enumerate(self.case.script)}, policy)
        self.shape = RetryTraits.of(
            self.case.method, replayable=self.case.body != "stream", keyed=self.case.keyed
        )
        self.policy = policy
        self.kept = {next(iter(self.case.script))} if self.case.warm else set()

    def finish(self) -> Failover:
        bench = self.bench
        budget = Budget(self.policy)
        flow = self.flow = Failover(self.shape, bench.pool, budget, bench.now)
        while flow.member is not None:
            flow.record(self._attempt(flow.member))
        return flow

    def _attempt(self, member: PoolMember, hedged: bool = False) -> Attempt:
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
            rival = self.flow.hedge(self.bench.now) if self.shape.hedged and not hedged else None
            if rival is not None:
                stalled = Attempt(member, self.bench.now, began)
                self.flow.record_failure(stalled, Fault.STALLED)
                return self._attempt(rival, hedged=True)
        if word in _FAULTS:
            fault, sent, error = _FAULTS[word]
            return Attempt(
                member, self.bench.now, began, fault=fault, sent=sent, reused=reused, result=error
            )
        status = int(word.rstrip("+"))
        outcome = Attempt(member, self.bench.now, began, result=(name, status))
        after = str(RETRY_AFTER) if word.endswith("+") else None
        outcome.judge_status(self.policy, status, after, 1e9 + self.bench.now)
        return outcome


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_cases(case: Case) -> None:
    """The failover makes the attempts of each case and has its result."""
    run = Run(case)
    flow = run.finish()
    assert tuple(run.asked) == case.asked
    if flow.answer is not None:
        assert flow.answer.result == (case.answered_by, case.result)
    else:
        assert (flow.error or "NoEndpointAvailable") == case.result
        assert case.answered_by is None
    if flow.answer is None and flow.error is None:
        assert [trial.url for trial in flow.trials] == [url(name) for name in case.asked]


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
    """Without endpoints, the request is over at once, without an answer."""
    flow = flow_of(Bench({}), Policy())
    assert flow.member is None
    assert (flow.answer, flow.error, flow.discard, flow.trials) == (None, None, None, [])


def flow_of(bench: Bench, policy: Policy) -> Failover:
    """Begin a GET over a pool."""
    traits = RetryTraits(True, True, True)
    return Failover(traits, bench.pool, Budget(policy), bench.now, policy.total_timeout)


def test_an_endpoint_that_is_down_is_tried_when_nothing_else_is_left() -> None:
    """An unhealthy endpoint is tried last, because it may have recovered, but never hedged to."""
    bench = Bench({"a": 0, "b": 1})
    bench.fail("b", times=3)
    moves = flow_of(bench, Policy())
    assert name_of(moves.member) == "a"
    assert moves.hedge(bench.now) is None
    assert name_of(moves.next(bench.now)) == "b"
    assert moves.next(bench.now) is None


def test_the_total_bounds_everything() -> None:
    """Each attempt may use the rest of the total timeout, and no attempt begins after its end."""
    bench, policy = Bench({"a": 0, "b": 1, "c": 2}), Policy(total_timeout=10.0)
    flow = flow_of(bench, policy)
    assert flow.deadline == 10.0
    flow.record(Attempt(bench["a"], 6.0, 0.0, fault=Fault.READ_TIMEOUT))
    assert (flow.member, flow.deadline) == (bench["b"], 10.0)
    flow.record(Attempt(bench["b"], 10.0, 6.0, fault=Fault.REFUSED, sent=False))
    assert flow.member is None
    assert [name_of(bench.pool.get(trial.url)) for trial in flow.trials] == ["a", "b"]
    assert bench["c"].served == bench["c"].failed == 0


def test_an_endpoint_is_asked_again_once_however_many_connections_it_kept() -> None:
    """A stale kept connection is retried once per endpoint, however many connections it kept."""
    bench, asked = Bench({"a": 0, "b": 1}), []
    flow = flow_of(bench, Policy())
    while flow.member is not None:
        asked.append(name_of(flow.member))
        flow.record(Attempt(flow.member, 1.0, 0.9, fault=Fault.RESET, reused=True, result="e"))
    assert asked == ["a", "a", "b", "b"]


def answer(status: int, retry_after: str | None = None) -> Any:
    def outcome_of(bench: Bench, member: PoolMember) -> Attempt:
        attempt = Attempt(member, 1.0, 0.9, result="r")
        attempt.judge_status(Policy(), status, retry_after, 0.0)
        return attempt

    return outcome_of


class TestWhatThePoolLearns:
    """The pool records each outcome at the endpoint of its attempt."""

    def after(self, outcome_of: Any, names: str = "ab") -> Bench:
        bench = Bench({name: place for place, name in enumerate(names)})
        flow = flow_of(bench, Policy())
        flow.record(outcome_of(bench, flow.member))
        return bench

    def test_a_kept_connection_that_was_closed_is_no_failure(self) -> None:
        """A reset on a kept connection counts no failure, but schedules an urgent probe."""
        bench = self.after(
            lambda bench, m: Attempt(m, 1.0, 0.9, fault=Fault.RESET, reused=True, result="e")
        )
        assert (bench.state("a"), bench["a"].failed) == (HealthState.UNKNOWN, 0)
        assert bench["a"].health.next_probe <= 1.0
        assert bench.pool.urgent

    def test_a_read_timeout_on_a_kept_connection_is_one(self) -> None:
        """A read timeout on a kept connection counts as a failure, unlike a closed connection."""
        bench = self.after(
            lambda bench, m: Attempt(m, 1.0, 0.9, fault=Fault.READ_TIMEOUT, reused=True, result="e")
        )
        assert bench.state("a") is HealthState.SUSPECT

    @pytest.mark.parametrize("status", [502, 503, 504, 520, 527, 530])
    def test_bad_statuses_count(self, status: int) -> None:
        """A bad status makes the endpoint suspect: a proxy sends these for a dead server."""
        bench = self.after(answer(status))
        assert bench.state("a") is HealthState.SUSPECT
        assert bench["a"].last_fault is Fault.BAD_STATUS

    @pytest.mark.parametrize("status", [200, 301, 404, 429, 500])
    def test_the_applications_answers_count_as_alive(self, status: int) -> None:
        """Other statuses come from the application itself, so the endpoint is healthy."""
        bench = self.after(answer(status))
        assert bench.state("a") is HealthState.HEALTHY

    def test_a_busy_endpoint_is_alive_and_left_alone(self) -> None:
        """A busy endpoint stays healthy and gets no requests until its ``Retry-After`` ends."""
        bench = self.after(answer(503, "9"))
        assert (bench.state("a"), bench["a"].busy_until) == (HealthState.HEALTHY, 10.0)

    def test_the_losers_of_a_race_are_told_of(self) -> None:
        """Each loser of a race is recorded with its fault, and the winner as having served."""
        bench = Bench({"a": 0, "b": 1, "c": 2})
        flow = flow_of(bench, Policy())
        flow.record_failure(Attempt(bench["a"], 1.0, 0.0), Fault.REFUSED)
        flow.record_failure(Attempt(bench["b"], 1.0, 0.0), Fault.STALLED)
        flow.record(Attempt(bench["c"], 1.0, 0.0, status=200, result="r"))
        assert [bench.state(name) for name in "abc"] == [
            HealthState.SUSPECT,
            HealthState.SUSPECT,
            HealthState.HEALTHY,
        ]
        assert (bench["a"].failed, bench["b"].failed, bench["c"].served) == (1, 0, 1)

    def test_a_loser_behind_another_proxy_is_not_blamed(self) -> None:
        """Failures that the client's own proxy may have caused are only listed."""
        bench = Bench({"a": 0, "b": 1})
        flow = flow_of(bench, Policy())
        flow.uses_other_proxy = True
        flow.record_failure(Attempt(bench["a"], 1.0, 0.0), Fault.REFUSED)
        assert (bench.state("a"), bench["a"].failed) == (HealthState.UNKNOWN, 0)
        assert [trial.fault for trial in flow.trials] == [Fault.REFUSED]


OUTCOMES = st.one_of(
    st.sampled_from([200, 404, 500, 502, 503]),
    st.sampled_from([429, 503]).map(lambda status: (status, 5)),
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
    flow = Failover(shape, bench.pool, budget, 0.0)
    outcomes: list[Attempt] = []
    answers, discarded, names = [], [], []
    for what, seconds in script:
        assert flow.member is not None
        names.append(flow.member.url)
        discarded.append(flow.discard)
        assert bench.now < flow.deadline <= policy.total_timeout
        began = bench.now
        bench.wait(seconds)
        outcome = Attempt(flow.member, bench.now, began, result=object())
        if isinstance(what, int):
            outcome.judge_status(policy, what, None, 0.0)
        elif isinstance(what[0], int):
            outcome.judge_status(policy, what[0], str(what[1]), 0.0)
        else:
            outcome.fault, outcome.sent, outcome.reused = what
        if outcome.status is not None:
            answers.append(outcome)
        outcomes.append(outcome)
        flow.record(outcome)
        if flow.member is None:
            break
    assert flow.member is None

    last = outcomes[-1]
    for outcome in outcomes[:-1]:  # the outcomes that were followed by another attempt
        assert outcome.fault is not None
        assert outcome.now < policy.total_timeout
        assert not outcome.sent or (shape.idempotent and shape.replayable)
    assert all(names.count(name) <= 2 for name in names)

    # Each answer is either returned or discarded, exactly once: an unread one leaks a connection.
    given_away = [a for a in (*discarded, flow.answer, flow.discard) if a is not None]
    assert sorted(map(id, given_away)) == sorted(map(id, answers))
    assert flow.answer is (answers[-1] if answers else None)

    # Only an answer, a local fault, the risk of a second execution, the timeout or the budget
    # may end the request before every endpoint was tried.
    if not answers and last.fault not in {Fault.OURS, Fault.POOL_TIMEOUT}:
        repeatable = shape.idempotent and shape.replayable
        if not last.sent or repeatable:
            everybody = len(set(names)) == endpoints
            assert everybody or last.now >= policy.total_timeout or budget.tokens < 5
            assert [trial.url for trial in flow.trials] == names
        else:
            assert flow.error is last.result
    # The first move to another endpoint is free, every further attempt costs five tokens.
    moved = len(set(names)) > 1
    paid = 5 * (len(names) - 1 - moved)
    refund = 1 if last.fault is None else 0
    assert budget.tokens == min(tokens, tokens - paid + refund)
    assert (last.fault is None) == (
        last.status is not None and not last.busy and last.status not in BAD_STATUS
    )
