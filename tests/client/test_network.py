"""OfflineDetector: a machine without a network blames no endpoint."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client.pool.offline import OfflineDetector

WINDOW = 1.0


class Blames:
    """Records which host was blamed, and when."""

    def __init__(self) -> None:
        self.watch = OfflineDetector(WINDOW)
        self.blamed: list[tuple[str, float]] = []

    def record_fault(self, host: str, now: float) -> None:
        self.watch.record_fault(host, now, lambda when: self.blamed.append((host, when)))


def test_two_hosts_within_a_moment_mean_no_network() -> None:
    """Two unreachable hosts within the window mean offline, and no host is ever blamed."""
    seen = Blames()
    seen.record_fault("a", 0.0)
    assert (seen.watch.offline, ("a" in seen.watch.held)) == (False, True)
    seen.record_fault("b", WINDOW * 0.9)
    assert seen.watch.offline
    seen.watch.expire(100.0)
    assert seen.blamed == []


def test_one_host_is_blamed_when_the_moment_is_over() -> None:
    """A single unreachable host is blamed once, when the window ends."""
    seen = Blames()
    seen.record_fault("a", 5.0)
    seen.record_fault("a", 5.5)
    assert seen.watch.next_expiry == 6.0
    seen.watch.expire(5.9)
    assert seen.blamed == []
    seen.watch.expire(6.0)
    seen.watch.expire(60.0)
    assert seen.blamed == [("a", 6.0)]
    assert "a" not in seen.watch.held


def test_one_host_is_blamed_at_once_if_another_answers() -> None:
    """An unreachable host is blamed at once if another host answers, since the network works."""
    seen = Blames()
    seen.record_fault("a", 5.0)
    seen.watch.record_answer(5.2)
    assert seen.blamed == [("a", 5.2)]


def test_two_hosts_that_fail_apart_are_both_to_blame() -> None:
    """Two failures further apart than the window are blamed on both hosts."""
    seen = Blames()
    seen.record_fault("a", 0.0)
    seen.record_fault("b", WINDOW * 1.5)
    assert not seen.watch.offline
    seen.watch.expire(10.0)
    assert [host for host, _ in seen.blamed] == ["a", "b"]


def test_an_answer_ends_it() -> None:
    """An answer of any host ends the offline state."""
    seen = Blames()
    seen.record_fault("a", 0.0)
    seen.record_fault("b", 0.0)
    seen.watch.record_answer(3.0)
    assert not seen.watch.offline
    assert seen.blamed == []
    seen.record_fault("a", 4.0)
    seen.watch.expire(6.0)
    assert seen.blamed == [("a", 6.0)]


def test_nothing_is_due_while_nobody_is_held() -> None:
    """Without a pending host, ``next_expiry`` is infinity."""
    assert OfflineDetector(WINDOW).next_expiry == float("inf")


@given(
    st.lists(
        st.tuples(st.floats(0, 2), st.sampled_from(["a", "b", "proof", "expire"])), max_size=30
    )
)
def test_nobody_is_blamed_twice_for_one_failure_nor_while_offline(
    steps: list[tuple[float, str]],
) -> None:
    """No order of failures, answers and expiries blames a host twice or while offline."""
    seen = Blames()
    now, faults = 0.0, 0
    for pause, step in steps:
        now += pause
        before = len(seen.blamed)
        if step == "proof":
            seen.watch.record_answer(now)
            assert not seen.watch.offline
        elif step == "expire":
            was_offline = seen.watch.offline
            seen.watch.expire(now)
            assert not was_offline or len(seen.blamed) == before
        else:
            faults += 1
            seen.record_fault(step, now)
        if seen.watch.offline:
            assert "a" not in seen.watch.held
            assert "b" not in seen.watch.held
    assert len(seen.blamed) <= faults


@pytest.mark.parametrize("window", [0.1, 5.0])
def test_the_moment_is_as_long_as_the_policy_says(window: float) -> None:
    """The window is as long as the policy says."""
    watch = OfflineDetector(window)
    watch.record_fault("a", 0.0, lambda _: None)
    watch.record_fault("b", window * 0.99, lambda _: None)
    assert watch.offline
    watch = OfflineDetector(window)
    watch.record_fault("a", 0.0, lambda _: None)
    watch.record_fault("b", window * 1.01, lambda _: None)
    assert not watch.offline
