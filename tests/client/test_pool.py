"""Pool: the choice of the endpoint, and the effect of outcomes on its health."""

import random
import time
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.policy import Policy
from mop_config.client.pool.pool import Pool
from mop_config.health.probe import ProbeResult
from mop_config.health.state import HealthState
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import COUNTED, Fault

from .pools import POLICY, Bench, url

ABC = {"a": 0, "b": 1, "c": 2}
EQUALS = {"a": 0, "b": 0, "c": 0}


class TestOrder:
    """The order of the endpoints: usable ones first, then by priority, then by speed."""

    def test_an_empty_pool_has_nobody(self) -> None:
        """An empty pool has no current endpoint, and raises nothing."""
        bench = Bench({})
        assert bench.current is None
        assert bench.others() == ""
        assert bench.pool.next_due() == float("inf")

    def test_the_lowest_number_is_preferred(self) -> None:
        """The lowest priority number is chosen first, in any order of insertion."""
        bench = Bench({"c": 2, "a": 0, "b": 1})
        assert bench.current == "a"
        assert bench.others("a") == "bc"
        assert [member.url for member in bench.pool.members()] == [url(name) for name in "abc"]

    def test_a_suspect_stands_behind_everyone_without_a_blemish(self) -> None:
        """After one failure an endpoint comes after all others, whatever its priority."""
        bench = Bench(ABC)
        bench.fail("a")
        assert bench.current == "b"
        assert bench.others() == "bca"

    def test_one_that_is_busy_stands_behind_the_suspects(self) -> None:
        """A busy endpoint comes after the suspects, because it sent Retry-After."""
        bench = Bench(ABC)
        bench.pool.busy(bench["a"], 10.0, bench.now)
        bench.fail("b")
        assert bench.others() == "cba"

    def test_the_dead_are_left_out_while_anybody_is_left(self) -> None:
        """Unhealthy endpoints are left out while a usable one exists, even one already tried."""
        bench = Bench(ABC)
        bench.kill("a", "b")
        assert bench.current == "c"
        assert bench.others() == "c"
        assert bench.others("c") == ""

    def test_the_faster_of_equals_is_preferred(self) -> None:
        """Of equal priorities the smallest average time wins; the unmeasured follow fast ones."""
        bench = Bench({**EQUALS, "d": 0})
        bench.measure(a=0.3, b=0.1, c=0.001)
        assert bench.current == "c"
        assert bench.others() == "cdba"

    def test_priority_goes_before_speed(self) -> None:
        """Priority counts before speed."""
        bench = Bench({"a": 0, "b": 1})
        bench.measure(a=2.0, b=0.001)
        assert bench.current == "a"


class TestSpread:
    """Many clients spread over endpoints of equal priority."""

    @pytest.mark.parametrize("measured", [False, True])
    def test_clients_spread_over_equals(self, measured: bool) -> None:
        """Clients choose equal endpoints evenly, unmeasured or only milliseconds apart."""
        chance = random.Random(7)
        firsts: Counter[str | None] = Counter()
        seconds: Counter[str] = Counter()
        for _ in range(600):
            bench = Bench(EQUALS, dice=[chance.random() for _ in range(10)])
            if measured:
                bench.measure(a=0.005, b=0.006, c=0.007)
            firsts[bench.current] += 1
            seconds[bench.others(bench.current or "")[0]] += 1
        for count in (firsts, seconds):
            assert set(count) == {"a", "b", "c"}
            assert min(count.values()) > 140

    def test_a_client_stays_where_it_is(self) -> None:
        """One client stays with its endpoint among equals."""
        bench = Bench(EQUALS, dice=[0.9, 0.1, 0.5, 0.7])
        first = bench.current
        for _ in range(50):
            bench.wait(1.0)
            bench.measure(a=0.010, b=0.015, c=0.005)
            assert bench.current == first


class TestHysteresis:
    """A switch for latency needs a minimum gain."""

    @pytest.mark.parametrize(
        ("slow", "fast", "moves"),
        [
            (0.200, 0.159, True),  # 41 ms and 20.5 %
            (0.200, 0.161, False),  # 39 ms, 19.5 %
            (0.050, 0.031, False),  # 19 ms, 38 %
            (0.050, 0.029, True),  # 21 ms, 42 %
            (1.000, 0.850, False),  # 150 ms, 15 %
            (1.000, 0.790, True),
        ],
    )
    def test_it_takes_a_fifth_and_20_milliseconds(
        self, slow: float, fast: float, moves: bool
    ) -> None:
        """A switch needs a gain of 20 % and of 20 ms."""
        bench = Bench({"a": 0, "b": 0}, dice=[0.1, 0.9])
        assert bench.current == "a"
        bench.measure(a=slow, b=fast)
        assert bench.current == ("b" if moves else "a")
        reasons = [about["reason"] for about in bench.told()]
        assert reasons == (["latency"] if moves else [])

    @given(st.lists(st.tuples(st.sampled_from("ab"), st.floats(0, 0.019)), max_size=40))
    def test_it_never_hops_within_the_margin(self, probes: list[tuple[str, float]]) -> None:
        """No sequence of measurements within the margin causes a switch."""
        bench = Bench({"a": 0, "b": 0}, dice=[0.1, 0.9])
        assert bench.current == "a"
        for name, seconds in probes:
            bench.wait(1.0)
            bench.measure(**{name: seconds})
            assert bench.current == "a"


class TestFailback:
    """Failback: the return to a preferred endpoint, delayed by ``min_dwell``."""

    def test_it_comes_after_min_dwell(self) -> None:
        """Requests return ``min_dwell`` seconds after the recovery."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.kill("a")
        assert bench.current == "b"
        bench.wait(100.0)
        bench.revive("a")
        assert bench.current == "b"
        bench.wait(29.9)
        assert bench.current == "b"
        bench.wait(0.1)
        assert bench.current == "a"
        assert [about["reason"] for about in bench.told() if "reason" in about][-1] == "failback"

    def test_it_waits_after_a_switch_too(self) -> None:
        """``min_dwell`` also counts from the last switch."""
        bench = Bench(ABC)
        bench.kill("a", "b")
        assert bench.current == "c"
        bench.revive("a")
        bench.wait(20.0)
        bench.revive("b")
        bench.fail("c")
        assert bench.current == "a"  # min_dwell does not hold back a switch from a failing endpoint

    def test_an_endpoint_that_flaps_is_not_returned_to(self) -> None:
        """An endpoint that flaps is not chosen, because each recovery restarts ``min_dwell``."""
        bench = Bench(ABC)
        assert bench.current == "a"
        for _ in range(20):
            bench.kill("a")
            assert bench.current == "b"
            bench.wait(10.0)
            bench.revive("a")
            bench.wait(10.0)
            assert bench.current == "b"
        bench.wait(30.0)
        assert bench.current == "a"

    def test_nobody_dwells_with_one_that_fails(self) -> None:
        """If the current endpoint fails, the recovered one is chosen without ``min_dwell``."""
        bench = Bench({"a": 0, "b": 1})
        bench.kill("a")
        assert bench.current == "b"
        bench.revive("a")
        assert bench.current == "b"
        bench.fail("b")
        assert bench.current == "a"

    def test_a_hand_made_change_needs_no_dwelling(self) -> None:
        """A changed priority or ``choose_anew`` ends ``min_dwell``."""
        bench = Bench({"a": 1, "b": 2})
        bench.kill("a")
        assert bench.current == "b"
        bench.revive("a")
        bench.put("a", 0)
        assert bench.current == "a"
        bench.kill("a")
        assert bench.current == "b"
        bench.revive("a")
        bench.pool.choose_anew(bench.now)
        assert bench.current == "a"

    def test_an_update_that_changes_nothing_of_an_endpoint_leaves_it_dwelling(self) -> None:
        """A list update that leaves an endpoint unchanged does not end its ``min_dwell``."""
        bench = Bench({"a": 0, "b": 1})
        bench.kill("a")
        assert bench.current == "b"
        bench.revive("a")
        endpoints = [Endpoint(url(name), place) for place, name in enumerate("abc")]
        bench.pool.replace(endpoints, bench.now)
        assert bench.current == "b"
        bench.wait(POLICY.min_dwell)
        assert bench.current == "a"

    def test_after_its_time_a_busy_one_is_returned_to(self) -> None:
        """A busy endpoint is chosen again when its Retry-After ends, since it was never down."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.pool.busy(bench["a"], 10.0, bench.now)
        assert bench.current == "b"
        bench.wait(9.9)
        assert bench.current == "b"
        bench.wait(0.1)
        assert bench.current == "a"
        assert bench.state("a") is HealthState.HEALTHY
        assert [about["reason"] for about in bench.told()] == ["busy", "preferred"]


class TestPin:
    """A pinned endpoint is preferred while it is healthy."""

    def test_it_is_gone_to_failed_from_and_returned_to(self) -> None:
        """Requests leave a pinned endpoint that fails, and return without ``min_dwell``."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.pool.pin(url("c"), bench.now)
        assert bench.pool.pinned == url("c")
        assert bench.current == "c"
        bench.fail("c")
        assert bench.current == "a"
        bench.probe("c")
        assert bench.current == "c"
        bench.pool.pin(None, bench.now)
        assert bench.current == "a"
        reasons = [about["reason"] for about in bench.told("endpoint_switched")]
        assert reasons == ["pinned", "failed", "pinned", "preferred"]

    def test_a_dead_one_is_not_gone_to(self) -> None:
        """An unhealthy endpoint is not chosen although it is pinned."""
        bench = Bench(ABC)
        bench.kill("b")
        bench.pool.pin(url("b"), bench.now)
        assert bench.current == "a"
        bench.revive("b")
        assert bench.current == "b"

    def test_among_the_dead_it_comes_first(self) -> None:
        """If all endpoints are down, the pinned one comes first."""
        bench = Bench(ABC)
        bench.kill("a", "b", "c")
        bench.pool.pin(url("b"), bench.now)
        assert bench.current == "b"
        assert bench.others() == "bac"


class TestFaults:
    """The faults that count against an endpoint."""

    @pytest.mark.parametrize("fault", sorted(COUNTED))
    def test_those_of_the_endpoint_do(self, fault: Fault) -> None:
        """Three faults of the endpoint make it unhealthy."""
        bench = Bench(ABC)
        bench.fail("a", fault, times=3)
        assert bench.state("a") is HealthState.UNHEALTHY
        assert (bench["a"].failed, bench["a"].last_fault) == (3, fault)

    @pytest.mark.parametrize("fault", [Fault.POOL_TIMEOUT, Fault.OURS])
    def test_ours_do_not(self, fault: Fault) -> None:
        """PoolTimeout and local faults change neither the state nor the counts."""
        bench = Bench(ABC)
        bench.fail("a", fault, times=10)
        assert (bench.state("a"), bench["a"].failed) == (HealthState.UNKNOWN, 0)
        assert bench.current == "a"

    def test_a_probe_that_we_could_not_make_is_tried_again_later(self) -> None:
        """A probe that fails for lack of descriptors blames no endpoint and is repeated later."""
        bench = Bench({"a": 0})
        assert bench.pool.take_due(0.0) == [bench["a"]]
        bench.probe("a", Fault.OURS)
        assert bench.state("a") is HealthState.UNKNOWN
        assert bench.pool.next_due() >= 0.9

    def test_busy_is_alive(self) -> None:
        """A 429 counts as an answer, so the endpoint stays healthy."""
        bench = Bench(ABC)
        for _ in range(10):
            bench.pool.busy(bench["a"], 5.0, bench.now)
        assert (bench.state("a"), bench["a"].served) == (HealthState.HEALTHY, 10)

    def test_a_stall_is_a_doubt_and_no_failure(self) -> None:
        """A stall makes an endpoint suspect without a failure, and a good probe clears it."""
        bench = Bench(ABC)
        bench.probe("a")
        bench.fail("a", Fault.STALLED, times=10)
        health = bench["a"].health
        assert (health.state, health.failures, health.next_probe) == (
            HealthState.SUSPECT,
            0,
            bench.now,
        )
        assert bench["a"].failed == 0
        bench.probe("a")
        assert health.state is HealthState.HEALTHY


class TestCost:
    """The cost of a choice."""

    @pytest.mark.alone
    def test_select_costs_20_microseconds_at_most(self) -> None:
        """``select`` and ``served`` take at most 20 µs with a thousand endpoints."""
        pool = Pool("api", Policy(), OfflineDetector(1.0), random.random)
        pool.replace([Endpoint(url(f"e{index}"), index % 10) for index in range(1000)], 0.0)
        for member in pool.members():
            pool.probed(member, ProbeResult(None, random.random(), ""), 1.0, 1e9)
        best = float("inf")
        for repeat in range(7):
            began = time.perf_counter()
            for turn in range(1000):
                now = 2.0 + repeat + turn / 1e6
                chosen = pool.select(now)
                assert chosen is not None
                pool.served(chosen, now)
            best = min(best, (time.perf_counter() - began) / 1000)
        print(f"select and served: {best * 1e6:.1f} µs")
        assert best < 20e-6

    def test_a_round_of_probes_looks_at_all_of_them_a_few_times_only(self) -> None:
        """A thousand probe results, each followed by a choice, cause fewer than 50 reviews."""
        reviews = 0

        class Counted(Pool):
            def _review(self, now: float) -> None:
                nonlocal reviews
                reviews += 1
                super()._review(now)

        chance = random.Random(3)
        pool = Counted("api", Policy(), OfflineDetector(1.0), chance.random)
        pool.replace([Endpoint(url(f"e{index}"), index % 10) for index in range(1000)], 0.0)
        for _ in range(3):
            reviews = 0
            for member in pool.members():
                pool.probed(member, ProbeResult(None, chance.random(), ""), 1.0, 1e9)
                pool.select(1.0)
            assert reviews < 50
