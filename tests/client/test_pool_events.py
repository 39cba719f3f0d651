"""Pool: its events, changes of its list, and its behaviour without a network."""

import pytest

from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.policy import Policy
from mop_config.client.pool.pool import Pool
from mop_config.health.state import HealthState
from mop_config.model.endpoint import Endpoint
from mop_config.net.faults import Fault

from .pools import POLICY, Bench, url

ABC = {"a": 0, "b": 1, "c": 2}
DOWN, RECOVERED, ALL_DOWN, SWITCHED = (
    "endpoint_down",
    "endpoint_recovered",
    "all_endpoints_down",
    "endpoint_switched",
)


class TestPanic:
    """All endpoints are down."""

    def test_all_are_tried_in_order_all_the_same(self) -> None:
        """If all endpoints are down, all are tried by priority."""
        bench = Bench(ABC)
        bench.kill("c", "a", "b")
        assert bench.current == "a"
        assert bench.others("a") == "bc"

    def test_the_alert_is_raised_once(self) -> None:
        """An outage sends one ALL_DOWN, however many failures and choices follow."""
        bench = Bench(ABC)
        bench.kill("a", "b")
        assert bench.told(ALL_DOWN) == []
        bench.kill("c")
        assert bench.told(ALL_DOWN) == [{"kind": "api", "urls": [url(n) for n in "abc"]}]
        for _ in range(5):
            bench.kill("a", "b", "c")
            bench.probe("a", Fault.REFUSED)
            bench.probe("b")  # one good probe makes b recovering, not healthy
            bench.probe("b", Fault.REFUSED)
            assert bench.current == "a"
        assert bench.told(ALL_DOWN) == []
        assert bench.told(RECOVERED) == []

    def test_it_is_raised_again_after_a_recovery(self) -> None:
        """The first recovery has ``after_total_outage``; a later outage sends ALL_DOWN again."""
        bench = Bench(ABC)
        bench.kill("a", "b", "c")
        bench.told()
        bench.revive("b")
        bench.revive("c")
        assert [about["after_total_outage"] for about in bench.told(RECOVERED)] == [True, False]
        assert bench.current == "b"
        bench.kill("b", "c")
        assert len(bench.told(ALL_DOWN)) == 1

    def test_it_is_raised_when_the_last_usable_one_leaves_the_list(self) -> None:
        """ALL_DOWN is sent when the last usable endpoint is removed, but not for an empty list."""
        bench = Bench(ABC)
        bench.kill("a", "b")
        bench.remove("c")
        assert len(bench.told(ALL_DOWN)) == 1
        bench.remove("a")
        bench.remove("b")
        assert bench.told(ALL_DOWN) == []
        bench = Bench(ABC)
        bench.kill("a", "b")
        bench.pool.replace([Endpoint(url("a"), 0), Endpoint(url("b"), 0)], 0.0)
        assert len(bench.told(ALL_DOWN)) == 1

    def test_a_list_that_is_replaced_whole_raises_none(self) -> None:
        """Replacing the whole list sends no ALL_DOWN if a new endpoint is usable."""
        bench = Bench(ABC)
        bench.kill("a")
        bench.pool.replace([Endpoint(url("a"), 0), Endpoint(url("d"), 0)], 0.0)
        assert bench.told(ALL_DOWN) == []

    def test_a_new_endpoint_ends_it(self) -> None:
        """A new endpoint is chosen in an outage, because no failure of it is known."""
        bench = Bench(ABC)
        bench.kill("a", "b", "c")
        bench.put("d", 9)
        assert (bench.current, bench.others()) == ("d", "d")

    def test_an_answer_in_a_panic_is_no_recovery(self) -> None:
        """A request that succeeds does not make an unhealthy endpoint healthy; only probes do."""
        bench = Bench({"a": 0})
        bench.kill("a")
        bench.serve("a")
        assert bench.state("a") is HealthState.UNHEALTHY
        bench.revive("a")
        assert bench.state("a") is HealthState.HEALTHY


class TestSwitches:
    """SWITCHED: both URLs, the reason and the seconds without service."""

    def test_the_first_choice_is_no_switch(self) -> None:
        """The first choice sends no SWITCHED."""
        bench = Bench(ABC)
        assert bench.current == "a"
        assert bench.told() == []

    def test_a_switch_tells_the_seconds_without_service(self) -> None:
        """The seconds without service count from the start of the first failed attempt."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.wait(10.0)
        bench.pool.failed(bench["a"], Fault.READ_TIMEOUT, bench.now, bench.now - 2.0)
        bench.wait(0.5)
        assert bench.current == "b"
        (about,) = bench.told(SWITCHED)
        assert about == {
            "kind": "api",
            "from_url": url("a"),
            "to_url": url("b"),
            "reason": "failed",
            "seconds_without_service": 2.5,
        }

    def test_an_answer_in_between_ends_the_time_without_service(self) -> None:
        """A success resets the time without service."""
        bench = Bench({"a": 0})
        assert bench.current == "a"
        bench.fail("a")
        bench.wait(1.0)
        bench.serve("a")
        bench.wait(3600.0)
        bench.fail("a")
        bench.put("b", 0)
        assert bench.current == "b"
        assert bench.told(SWITCHED)[0]["seconds_without_service"] == 0.0

    def test_the_one_in_use_leaving_the_list_is_a_switch(self) -> None:
        """Removing the current endpoint sends SWITCHED with the reason "removed"."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.remove("a")
        assert bench.current == "b"
        assert [about["reason"] for about in bench.told(SWITCHED)] == ["removed"]
        bench.pool.replace([Endpoint(url("d"))], bench.now)
        assert bench.current == "d"
        (about,) = bench.told(SWITCHED)
        assert (about["from_url"], about["to_url"]) == (url("b"), url("d"))

    def test_leaving_and_coming_back_is_none(self) -> None:
        """An endpoint that is removed and added again before a choice causes no SWITCHED."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.remove("a")
        bench.put("a", 0)
        assert bench.current == "a"
        assert bench.told() == []

    def test_down_and_recovered_are_told_once_each(self) -> None:
        """SUSPECTED, DOWN and RECOVERED are sent once each; DOWN names the last fault."""
        bench = Bench(ABC)
        bench.fail("b", Fault.BAD_STATUS, times=5)
        suspected = bench.told("endpoint_suspected")
        assert suspected == [{"kind": "api", "url": url("b"), "reason": Fault.BAD_STATUS}]
        assert bench.told() == [{"kind": "api", "url": url("b"), "reason": Fault.BAD_STATUS}]
        bench.revive("b")
        bench.probe("b")
        assert bench.told() == [{"kind": "api", "url": url("b"), "after_total_outage": False}]


class TestList:
    """Adding, replacing and removing endpoints."""

    def test_adding_again_updates_the_priority(self) -> None:
        """Adding an endpoint again changes its priority and keeps its measurements."""
        bench = Bench(ABC)
        bench.measure(a=0.5)
        bench.put("a", 5)
        assert len(bench.pool) == 3
        assert bench["a"].health.response_time == 0.5
        assert bench.current == "b"

    def test_endpoints_that_stay_keep_their_history(self) -> None:
        """Endpoints that stay in a replaced list keep their health."""
        bench = Bench(ABC)
        bench.kill("a")
        bench.measure(b=0.1)
        bench.pool.replace([Endpoint(url(n), p) for p, n in enumerate("bad")], bench.now)
        assert bench.state("a") is HealthState.UNHEALTHY
        assert bench["b"].health.response_time == 0.1
        assert bench.state("d") is HealthState.UNKNOWN
        assert bench.pool.get(url("c")) is None
        assert bench.current == "b"

    def test_an_outcome_of_one_that_has_left_changes_nothing(self) -> None:
        """The outcome of a request to a removed endpoint is ignored."""
        bench = Bench(ABC)
        gone = bench["a"]
        bench.remove("a")
        for _ in range(3):
            bench.pool.failed(gone, Fault.REFUSED, bench.now, bench.now)
        assert bench.told() == []
        bench.kill("b", "c")
        assert len(bench.told(ALL_DOWN)) == 1

    def test_a_new_endpoint_is_urgent_and_looked_at_once(self) -> None:
        """A new endpoint is due at once, and not again while its probe runs."""
        bench = Bench(ABC)
        assert bench.pool.urgent
        assert len(bench.pool.take_due(0.0)) == 3
        assert bench.pool.take_due(0.0) == []
        assert bench.pool.next_due() == float("inf")


class TestProbed:
    """The endpoints that are probed for each value of ``Policy.probe``."""

    def due(self, bench: Bench) -> list[str]:
        bench.wait(400.0)
        due = bench.pool.take_due(bench.now)
        for member in due:
            member.probing = False
        return [member.url[8] for member in due]

    def test_all_of_them_by_default(self) -> None:
        assert self.due(Bench(ABC)) == ["a", "b", "c"]

    def test_none(self) -> None:
        bench = Bench(ABC, Policy(probe="none"))
        bench.fail("a")
        assert self.due(bench) == []
        assert bench.pool.next_due() == float("inf")

    def test_the_current_one_and_those_that_have_failed(self) -> None:
        """With "current", only the current endpoint and those that have failed are probed."""
        bench = Bench(ABC, Policy(probe="current"))
        assert self.due(bench) == ["a"]
        bench.probe("a")
        assert self.due(bench) == ["a"]
        bench.pool.urgent = False
        bench.fail("a")
        assert bench.current == "b"
        assert bench.pool.urgent
        assert self.due(bench) == ["a", "b"]
        bench.probe("b")
        bench.kill("a")
        assert self.due(bench) == ["a", "b"]
        bench.revive("a")
        bench.wait(31.0)
        assert bench.current == "a"
        assert self.due(bench) == ["a"]

    def test_a_pinned_one_is_the_current_one(self) -> None:
        bench = Bench(ABC, Policy(probe="current"))
        bench.pool.pin(url("c"), bench.now)
        assert self.due(bench) == ["c"]

    @pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.RESOLVER])
    def test_a_second_host_tells_a_missing_network_from_a_dead_endpoint(self, fault: Fault) -> None:
        bench = Bench(ABC, Policy(probe="current"))
        bench.probe("a")
        bench.probe("a", fault)
        assert [m.url[8] for m in bench.pool.take_due(bench.now)] == ["b"]
        bench.probe("b", fault)
        assert bench.network.offline
        bench.wait(60.0)
        bench.pool.take_due(bench.now)
        assert {bench.state(name) for name in "abc"} <= {HealthState.HEALTHY, HealthState.UNKNOWN}


class TestOffline:
    """No network."""

    @pytest.mark.parametrize("fault", [Fault.UNREACHABLE, Fault.RESOLVER])
    def test_nobody_is_marked_down(self, fault: Fault) -> None:
        """While offline no endpoint changes its state, and no event is sent."""
        bench = Bench(ABC)
        for name in "abc":
            bench.probe(name)
        for _ in range(50):
            for name in "abc":
                bench.fail(name, fault)
                bench.probe(name, fault)
            bench.wait(0.3)
        assert bench.network.offline
        assert {bench.state(name) for name in "abc"} == {HealthState.HEALTHY}
        assert bench.told(DOWN) == bench.told(ALL_DOWN) == []

    def test_one_host_alone_is_to_blame(self) -> None:
        """A single unreachable host becomes suspect when the offline window ends."""
        bench = Bench(ABC)
        assert bench.current == "a"
        bench.fail("a", Fault.UNREACHABLE)
        assert bench.current == "b"  # a is avoided while the offline window is open
        assert bench.state("a") is HealthState.UNKNOWN
        bench.wait(POLICY.offline_window)
        assert bench.current == "b"
        assert bench.state("a") is HealthState.SUSPECT

    def test_one_host_is_to_blame_at_once_when_another_answers(self) -> None:
        """An unreachable host becomes suspect at once if another host answers or refuses."""
        for answer in (Fault.REFUSED, None):
            bench = Bench(ABC)
            bench.fail("a", Fault.UNREACHABLE)
            bench.probe("b", answer)
            assert bench.state("a") is HealthState.SUSPECT
            assert not bench.network.offline

    def test_a_timeout_proves_nothing(self) -> None:
        """A timeout does not end the offline state, because it is no answer."""
        bench = Bench(ABC)
        bench.fail("a", Fault.UNREACHABLE)
        bench.fail("b", Fault.UNREACHABLE)
        bench.fail("c", Fault.CONNECT_TIMEOUT)
        assert bench.network.offline

    def test_two_kinds_share_what_is_known_of_the_network(self) -> None:
        """The API pool and the socket pool share one OfflineDetector."""
        network = OfflineDetector(POLICY.offline_window)
        api = Pool("api", POLICY, network, lambda: 0.5)
        sockets = Pool("socketio", POLICY, network, lambda: 0.5)
        api.replace([Endpoint("https://api.example")], 0.0)
        sockets.replace([Endpoint("wss://socket.example")], 0.0)
        for pool in (api, sockets):
            (member,) = pool.members()
            pool.failed(member, Fault.UNREACHABLE, 0.1, 0.0)
        assert network.offline

    def test_two_ports_of_one_host_are_one_host(self) -> None:
        """Two ports of one host count as one unreachable host."""
        network = OfflineDetector(POLICY.offline_window)
        pool = Pool("api", POLICY, network, lambda: 0.5)
        pool.replace([Endpoint(f"https://api.example:{port}") for port in (1, 2)], 0.0)
        for member in pool.members():
            pool.failed(member, Fault.UNREACHABLE, 0.1, 0.0)
        assert not network.offline
