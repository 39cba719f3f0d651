"""Policy: the figures of failover, and the retry budget."""

from datetime import UTC, datetime
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client.pool.failover import Budget
from mop_config.client.pool.policy import (
    BAD_STATUS,
    BUSY_STATUS,
    IDEMPOTENT,
    NOT_REACHED,
    Policy,
)

POLICY = Policy()
NOON = datetime(2026, 5, 1, 12, tzinfo=UTC).timestamp()


def test_the_defaults_are_the_contracts() -> None:
    """The defaults of Policy are the figures in the contract."""
    assert (POLICY.health_interval, POLICY.health_jitter, POLICY.health_timeout) == (300, 0.1, 5)
    assert (POLICY.unhealthy_after, POLICY.healthy_after) == (3, 2)
    assert (POLICY.first_backoff, POLICY.max_backoff, POLICY.smoothing) == (1, 30, 0.2)
    assert (POLICY.connect_timeout, POLICY.total_timeout) == (2, 30)
    assert (POLICY.race_delay, POLICY.hedge_delay) == ("auto", "auto")
    assert (POLICY.budget, POLICY.attempt_cost, POLICY.success_refund) == (500, 5, 1)
    assert POLICY.hedge_cost == 20
    assert (POLICY.min_dwell, POLICY.latency_gain, POLICY.latency_margin) == (30, 0.2, 0.02)
    assert POLICY.max_list_bytes == 4 * 1024 * 1024
    assert POLICY.max_endpoints == 10_000
    assert POLICY.probe_parallelism <= 64
    assert POLICY.probe == "all"


def test_methods_that_may_be_executed_twice() -> None:
    """The idempotent methods are those of RFC 9110, 9.2.2."""
    assert {"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"} == IDEMPOTENT


def test_which_answers_speak_against_an_endpoint() -> None:
    """The sets of statuses that count as failures, as not reached and as busy."""
    assert {502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 527, 530} == BAD_STATUS
    assert Policy().bad_status == BAD_STATUS
    assert {521, 522, 523, 525, 526} == NOT_REACHED
    assert {429, 503} == BUSY_STATUS


class TestBudget:
    """Budget: further attempts cost tokens."""

    def test_five_tokens_an_attempt_and_one_back_for_a_success(self) -> None:
        """An attempt costs five tokens, and a success returns one token."""
        budget = Budget(POLICY)
        assert [budget.spend(5) for _ in range(101)] == [True] * 100 + [False]
        for _ in range(4):
            budget.refund()
        assert not budget.spend(5)
        budget.refund()
        assert budget.spend(5)
        assert not budget.spend(5)

    @given(st.lists(st.booleans(), max_size=400))
    def test_it_is_never_overdrawn_nor_overfull(self, successes: list[bool]) -> None:
        """The tokens stay between 0 and the budget in any order of successes and attempts."""
        budget = Budget(Policy(budget=50))
        paid = 0
        for good in successes:
            if good:
                budget.refund()
            else:
                paid += budget.spend(5)
        assert 0 <= budget.tokens <= 50
        assert 5 * paid <= 50 + sum(successes)


class TestRetryAfter:
    """The seconds for which an endpoint with Retry-After is left alone."""

    @pytest.mark.parametrize(
        ("status", "text", "seconds"),
        [
            (503, "120", 120),
            (429, " 7 ", 7),
            (429, "0", 0),
            (503, "999999999999999999999999", 300),
            (503, format_datetime(datetime(2026, 5, 1, 12, 0, 30, tzinfo=UTC), True), 30),
            (503, format_datetime(datetime(2026, 5, 1, 11, 0, 0, tzinfo=UTC), True), 0),
            (503, "Friday, 01-May-26 12:00:10 GMT", 10),
            (503, None, None),
            (429, None, None),
            (503, "", None),
            (503, "soon", None),
            (503, "-5", None),
            (503, "1.5", None),
            (503, "٣", None),
            (500, "120", None),
            (502, "120", None),
            (200, "120", None),
        ],
    )
    def test_seconds_or_a_date(self, status: int, text: str | None, seconds: float | None) -> None:
        """Retry-After is seconds or a date (RFC 9110, 10.2.3), and counts with 429 and 503 only."""
        assert POLICY.busy_for(status, text, NOON) == seconds

    @given(st.text(max_size=40) | st.from_regex(r"[A-Z][a-z]{2}, [0-9 :A-Za-z+-]{0,30}"))
    def test_no_header_does_harm(self, text: str) -> None:
        """Any Retry-After text gives seconds within the bounds, or None."""
        seconds = POLICY.busy_for(503, text, NOON)
        assert seconds is None or 0 <= seconds <= POLICY.max_retry_after


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_timeout", 0),
        ("health_interval", float("nan")),
        ("unhealthy_after", -1),
        ("connect_timeout", float("inf")),
        ("total_timeout", 1e9),
        ("health_interval", 1e7),
        ("race_delay", float("inf")),
        ("hedge_delay", -1),
        ("body_pause", float("nan")),
        ("min_dwell", float("nan")),
        ("budget", -1),
        ("health_jitter", 1.1),
        ("smoothing", 2),
        ("probe_parallelism", 2.5),
        ("max_endpoints", 0),
    ],
)
def test_a_figure_that_would_stop_everything_is_refused(name: str, value: float) -> None:
    """An invalid figure raises a ValueError with its name in the constructor."""
    with pytest.raises(ValueError, match=name):
        Policy(**{name: value})  # type: ignore[arg-type]


def test_a_figure_that_is_none_is_refused() -> None:
    """A figure that is not a number raises a TypeError with the allowed range."""
    allowed = "a number, more than 0 and at most 1000000"
    with pytest.raises(TypeError, match=f"total_timeout must be {allowed}, not 'x'"):
        Policy(total_timeout="x")  # type: ignore[arg-type]


def test_an_unknown_kind_of_probing_is_refused() -> None:
    with pytest.raises(ValueError, match="probe must be one of all, current, none, not 'some'"):
        Policy(probe="some")  # type: ignore[arg-type]


def test_a_switch_takes_a_bool_only() -> None:
    with pytest.raises(TypeError, match="warm_spare must be True or False, not 1"):
        Policy(warm_spare=1)  # type: ignore[arg-type]
