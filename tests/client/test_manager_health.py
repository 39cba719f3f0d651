"""EndpointManager: its health checks, its choice of endpoint, and its signals."""

import itertools
import json
import statistics
import threading
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from mop_config import signals
from mop_config.client import EndpointManager, Policy
from mop_config.errors import AddressError

from ..ports import closed_port
from ..servers import ENDPOINTS
from ..waiting import wait_for
from .handmade import (
    MISSING,
    OK,
    QUICK,
    Answer,
    Asked,
    Handmade,
    handmade,
    urls,
)
from .managers import A, B, C, hearing, quiet, status, two

__all__ = ["two"]


class TestHealth:
    """The background health checks, and the manual ones."""

    def test_a_start_checks_everything_at_once(self, two: tuple[Handmade, Handmade]) -> None:
        """``start`` checks every endpoint at once; times are aware and durations are in seconds."""
        first, second = two
        began = datetime.now(UTC)
        with quiet(first.url, second.url) as manager:
            wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))
            for state in manager.api_endpoints:
                assert state.last_checked is not None
                assert began - timedelta(seconds=1) <= state.last_checked <= datetime.now(UTC)
                assert state.response_time is not None
                assert 0 < state.response_time < 2

    def test_a_parked_domain_is_told_from_the_service(self, two: tuple[Handmade, Handmade]) -> None:
        """``healthy`` marks a parked domain as down although it answers 200 to every path."""
        parked, ours = two
        parked.answer = lambda asked: (200, {}, b"<html>This domain is for sale")
        ours.answer = lambda asked: OK if asked.path == "/alive" else MISSING

        def healthy(status: int, headers: Mapping[str, str], body: bytes) -> bool:
            return status == 200 and body == b"ok"

        manager = quiet(*urls(two), health_path="/alive", healthy=healthy)
        with manager:
            wait_for(lambda: [e.is_healthy for e in manager.api_endpoints] == [False, True])
            assert manager.get_current_api_url() == ours.url
        assert set(parked.paths) == set(ours.paths) == {"/alive"}

    @pytest.mark.parametrize(
        ("path", "error", "words"),
        [
            ("alive", AddressError, "health_path must begin with '/'"),
            ("/a?b", AddressError, "not allowed in paths"),
            (None, TypeError, "health_path must be a path, not None"),
        ],
    )
    def test_a_health_path_that_cannot_be_used(
        self, path: Any, error: type[Exception], words: str
    ) -> None:
        with pytest.raises(error, match=words):
            quiet(A, health_path=path)

    def test_a_quiet_client_contacts_the_endpoint_in_use_only(self) -> None:
        """With ``probe="current"``, no other endpoint is contacted until the current one fails."""
        policy = replace(QUICK, probe="current")
        with ExitStack() as stack:
            servers = [stack.enter_context(handmade(status(404))) for _ in range(12)]
            first, second, *others = servers
            first.answer = second.answer = lambda asked: OK if "health" in asked.path else MISSING
            manager = quiet(
                *[server.url for server in servers], policy=policy, update_interval=3600
            )
            with manager:
                wait_for(lambda: "/health" in first.paths and ENDPOINTS in first.paths)
                wait_for(lambda: manager._lifecycle.tasks.updates._in_a_row, what="it has failed")
                assert [len(server.asked) for server in servers[1:]] == [0] * 11
                first.answer = lambda asked: (502, {}, b"")
                assert not manager.check_endpoint_health(first.url)
                wait_for(lambda: "/health" in second.paths)
                first.answer = lambda asked: OK
                wait_for(lambda: manager.get_current_api_url() == first.url)
            assert [len(server.asked) for server in others] == [0] * 10

    @pytest.mark.parametrize("probe", ["all", "current", "none"])
    def test_a_switch_is_told_when_the_other_endpoint_answers(
        self, two: tuple[Handmade, Handmade], probe: Any
    ) -> None:
        """The signal has the time without service, and does not wait for the next request."""
        first, second = two
        manager = quiet(*urls(two), policy=replace(QUICK, probe=probe))
        with hearing(signals.endpoint_switched) as heard, manager:
            client = manager.client()
            assert client.get("/a").extensions["endpoint"] == first.url
            first.close()
            asked = time.monotonic()
            assert client.get("/a").extensions["endpoint"] == second.url
            took = time.monotonic() - asked
            wait_for(lambda: heard, seconds=2)
            assert heard[0][1]["seconds_without_service"] <= took

    def test_requests_that_fail_where_health_is_good_cause_no_storm_of_checks(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """Requests that fail ask for one check of an endpoint a ``first_backoff``, not one each.

        The check that waits is made when that time is over, without another request.
        """
        first, second = two
        first.answer = second.answer = lambda asked: (
            OK if "health" in asked.path else (503, {}, b"")
        )
        policy = replace(QUICK, first_backoff=0.6, health_interval=60.0)
        with quiet(*urls(two), policy=policy) as manager:

            def is_fine() -> bool:
                return {e.state for e in manager.api_endpoints} == {"healthy"}

            wait_for(is_fine)
            asked, client = time.monotonic(), manager.client()
            for _ in range(3):
                assert client.get("/a").status_code == 503
                wait_for(is_fine)
            assert time.monotonic() - asked >= 2 * 0.6 - 0.1
            assert first.paths.count("/health") == second.paths.count("/health") == 4

    def test_a_client_that_probes_nothing_contacts_nobody(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """With ``probe="none"``, only manual checks contact endpoints."""
        first, second = two
        with quiet(*urls(two), policy=replace(QUICK, probe="none")) as manager:
            assert manager.check_endpoint_health(first.url)
            assert (first.paths, second.paths) == (["/health"], [])
            manager.check_all()
            assert (first.paths, second.paths) == (["/health"] * 2, ["/health"])

    @pytest.mark.parametrize("code", [429, 503])
    def test_a_check_that_is_told_to_come_back_later_is_no_failure(
        self, two: tuple[Handmade, Handmade], code: int
    ) -> None:
        """A check answered 429 or 503 with Retry-After is no failure and pauses the endpoint."""
        first, second = two
        first.answer = lambda asked: (code, {"Retry-After": "30"}, b"")
        with quiet(first.url, second.url) as manager:
            for _ in range(5):
                assert not manager.check_endpoint_health(first.url)
            state, _ = manager.api_endpoints
            assert (state.is_healthy, state.failure_count) == (True, 0)
            assert manager.get_current_api_url() == second.url

    @pytest.mark.parametrize(
        ("answers", "asked"),
        [
            ({"/v2/health": OK}, ["/v2/health", "/v2/health"]),
            ({"/health": OK}, ["/v2/health", "/health", "/health"]),
            ({"/v2/health": (500, {}, b""), "/health": OK}, ["/v2/health"] * 2),
            ({}, ["/v2/health", "/health"] * 2),
        ],
        ids=["base", "root", "only-on-404", "neither"],
    )
    def test_which_health_url_works_is_remembered(
        self, answers: dict[str, Answer], asked: list[str]
    ) -> None:
        """The health path below the base is used, or after a 404 the root's; it is remembered."""
        with handmade(lambda a: answers.get(a.path, MISSING)) as server:
            manager = quiet(f"{server.url}/v2")
            for _ in range(2):
                manager.check_endpoint_health(manager.api_endpoints[0])
            assert server.paths == asked

    def test_a_path_that_is_gone_is_looked_for_anew(self) -> None:
        """If the remembered health path is gone, the check tries the other one at once."""
        where = ["/health"]
        with handmade(lambda a: OK if a.path in where else MISSING) as server:
            manager = quiet(f"{server.url}/v2")
            assert manager.check_endpoint_health(f"{server.url}/v2")
            where[:] = ["/v2/health"]
            assert manager.check_endpoint_health(f"{server.url}/v2")
            assert manager.api_endpoints[0].failure_count == 0

    def test_by_hand(self, two: tuple[Handmade, Handmade]) -> None:
        """``check_endpoint_health`` takes a state or a URL; an unknown URL is a KeyError."""
        first, second = two
        second.answer = status(503)
        manager = EndpointManager([first.url, second.url], [first.url], policy=QUICK)
        assert manager.check_endpoint_health(manager.api_endpoints[0])
        assert manager.check_endpoint_health(first.url.replace("http", "HTTP"))
        assert not manager.check_endpoint_health(second.url)
        with pytest.raises(KeyError):
            manager.check_endpoint_health(A)
        manager.check_all()
        assert [e.state for e in manager.api_endpoints] == ["healthy", "suspect"]
        assert manager.api_endpoints[1].failure_count == 2
        assert manager.api_endpoints[1].last_fault == "bad-status"
        assert manager.socket_endpoints[0].state == "suspect"

    def test_three_failures_and_two_good_checks(self) -> None:
        """Three failures make an endpoint unhealthy, and two good checks healthy again."""
        seen = []
        with handmade() as server:
            manager = EndpointManager([server.url], policy=Policy())
            for code in (503, 503, 503, 200, 200):
                server.answer = status(code)
                manager.check_endpoint_health(server.url)
                (state,) = manager.api_endpoints
                seen.append((state.state, state.is_healthy))
        assert seen == [
            ("suspect", True),
            ("suspect", True),
            ("unhealthy", False),
            ("recovering", False),
            ("healthy", True),
        ]

    def test_what_fails_is_looked_at_again_soon(self) -> None:
        """A failed endpoint is checked again soon, and its recovery is noticed."""
        with handmade(status(503)) as server, quiet(server.url) as manager:
            wait_for(lambda: not manager.api_endpoints[0].is_healthy)
            server.answer = status(200)
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")

    def test_a_failed_request_has_its_endpoint_checked_at_once(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """A failed request triggers a check of its endpoint, and a good check makes it healthy."""
        first, second = two
        with quiet(first.url, second.url) as manager, manager.client() as client:
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")
            checks = first.count("/health")
            first.answer = lambda a: OK if a.path == "/health" else (502, {}, b"")
            assert client.get("/users").status_code == 200
            wait_for(lambda: first.count("/health") > checks)
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")
            assert second.count("/users") == 1

    @pytest.mark.alone
    def test_the_interval_varies_by_a_tenth(self) -> None:
        """The check interval has a jitter of a tenth, so that clients do not check in step."""
        policy = replace(QUICK, health_interval=0.5)
        times: list[float] = []

        def answer(asked: Asked) -> Answer:
            times.append(time.monotonic())
            return OK

        with handmade(answer) as server, quiet(server.url, policy=policy):
            wait_for(lambda: len(times) >= 7)
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert all(gap >= 0.45 for gap in gaps), gaps
        assert statistics.median(gaps) <= 0.6, gaps
        assert len({round(gap, 3) for gap in gaps}) > 1

    def test_so_many_checks_at_a_time(self) -> None:
        """``probe_parallelism`` bounds concurrent checks, of the schedule and of ``check_all``."""
        lock, now, most = threading.Lock(), [0], [0]

        def answer(asked: Asked) -> Answer:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.01)
            with lock:
                now[0] -= 1
            return OK

        policy = replace(QUICK, probe_parallelism=3)
        with handmade(answer) as server:
            endpoints = [f"{server.url}/{n}" for n in range(20)]
            with quiet(*endpoints, policy=policy) as manager:
                wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))
            assert most[0] == 3
            most[0] = 0
            manager.check_all()
            assert most[0] == 3

    def test_an_endpoint_that_is_added_is_checked_at_once(self) -> None:
        """An added endpoint is checked at once, not after the interval."""
        with handmade() as server, quiet() as manager:
            manager.add_socket_endpoint(f"http://127.0.0.1:{closed_port()}")
            manager.add_api_endpoint(server.url)
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")
            wait_for(lambda: manager.socket_endpoints[0].last_fault == "refused")

    def test_one_that_goes_while_it_is_checked_is_forgotten(self) -> None:
        """The result of a check is dropped if its endpoint was removed meanwhile."""
        with handmade() as server:

            def answer(asked: Asked) -> Answer:
                manager.remove_endpoint(server.url)
                return OK

            server.answer = answer
            manager = quiet(server.url)
            assert manager.check_endpoint_health(server.url)
            assert manager.api_endpoints == ()

    def test_no_network_is_nobodys_fault(self) -> None:
        """If no host can be reached, the manager is offline and no endpoint is marked down."""
        # TCP has no route to a broadcast or a multicast address, on any machine.
        manager = quiet("http://255.255.255.255", "http://224.0.0.1")
        for _ in range(4):
            manager.check_all()
        assert manager.is_offline
        assert manager.statistics()["offline"]
        assert all(e.is_healthy and e.failure_count == 0 for e in manager.api_endpoints)
        with handmade() as server:
            manager.add_api_endpoint(server.url)
            assert manager.check_endpoint_health(server.url)
        assert not manager.is_offline


class TestChoosing:
    """The choice of the endpoint: by priority, by speed and by a pin."""

    def test_a_pin_is_preferred_fails_over_and_is_returned_to(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """Requests leave a failed pinned endpoint and return to it, until ``unpin``."""
        first, second = two
        with (
            quiet(first.url, second.url) as manager,
            manager.client() as client,
            hearing(signals.endpoint_switched) as heard,
        ):
            wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))
            assert manager.get_current_api_url() == first.url
            manager.pin(second.url)
            assert manager.get_current_api_url() == second.url
            second.answer = status(502)
            assert client.get("/users").status_code == 200
            assert manager.get_current_api_url() == first.url
            second.answer = status(200)
            wait_for(lambda: manager.get_current_api_url() == second.url)
            manager.unpin()
            assert manager.get_current_api_url() == first.url
        reasons = [about["reason"] for _, about in heard]
        assert reasons == ["pinned", "failed", "pinned", "preferred"]

    def test_only_what_is_in_the_list_can_be_pinned(self) -> None:
        """Pinning an unknown URL raises KeyError, and the earlier pin stays."""
        manager = quiet(A, B)
        manager.pin(B.upper().replace("/API/V1", "/api/v1"))
        with pytest.raises(KeyError):
            manager.pin(C)
        assert manager.get_current_api_url() == B

    def test_the_best_may_be_asked_for_without_dwelling(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """``select_best_endpoints`` returns to the primary without waiting for ``min_dwell``."""
        first, second = two
        policy = replace(QUICK, min_dwell=3600.0)
        manager = quiet(first.url, second.url, policy=policy)
        first.answer = status(503)
        manager.check_endpoint_health(first.url)
        assert manager.get_current_api_url() == second.url
        first.answer = status(200)
        manager.check_endpoint_health(first.url)
        assert manager.get_current_api_url() == second.url
        manager.select_best_endpoints()
        assert manager.get_current_api_url() == first.url


class TestTelling:
    """Signals, the log and statistics."""

    def test_a_switch_says_from_where_to_where_and_why(
        self, two: tuple[Handmade, Handmade], caplog: pytest.LogCaptureFixture
    ) -> None:
        """``endpoint_switched`` has both URLs, the reason and the seconds without service."""
        first, second = two
        first.answer = status(502)
        manager = quiet(first.url, second.url)
        with hearing(signals.endpoint_switched) as heard, manager.client(start=False) as client:
            client.get("/users")
        ((_, about),) = heard
        seconds = about.pop("seconds_without_service")
        assert about == {
            "kind": "api",
            "from_url": first.url,
            "to_url": second.url,
            "reason": "failed",
        }
        assert 0 < seconds < 5
        assert f"instead of {first.url}" in caplog.text

    def test_all_down_is_told_once_and_so_is_the_return(
        self, two: tuple[Handmade, Handmade], caplog: pytest.LogCaptureFixture
    ) -> None:
        """An outage sends ``all_endpoints_down`` once, and one recovery says that it ended."""
        for server in two:
            server.answer = status(503)
        names = (signals.endpoint_down, signals.all_endpoints_down, signals.endpoint_recovered)
        with hearing(*names) as heard:
            manager = quiet(*(server.url for server in two))
            # Sequential checks keep the order of the signals fixed.
            for _ in range(6):
                for server in two:
                    manager.check_endpoint_health(server.url)
            two[1].answer = status(200)
            for _ in range(3):
                for server in two:
                    manager.check_endpoint_health(server.url)
        names_heard = [name for name, _ in heard]
        assert names_heard == [
            "endpoint-down",
            "endpoint-down",
            "all-endpoints-down",
            "endpoint-recovered",
        ]
        assert sorted(heard[2][1]["urls"]) == sorted(server.url for server in two)
        assert heard[3][1] == {"kind": "api", "url": two[1].url, "after_total_outage": True}
        assert caplog.text.count("every api endpoint is down") == 1

    def test_a_receiver_that_raises_stops_nothing(
        self, two: tuple[Handmade, Handmade], caplog: pytest.LogCaptureFixture
    ) -> None:
        """An exception in a signal's receiver is logged, and the other receivers are called."""
        first, second = two
        first.answer = status(502)

        def broken(sender: Any, **about: Any) -> None:
            raise RuntimeError("no")

        manager = quiet(first.url, second.url)
        with (
            signals.endpoint_switched.connected_to(broken),
            hearing(signals.endpoint_switched) as heard,
            manager.client(start=False) as client,
        ):
            assert client.get("/users").status_code == 200
        assert len(heard) == 1
        assert "RuntimeError('no')" in caplog.text

    def test_a_receiver_may_use_the_manager(self, two: tuple[Handmade, Handmade]) -> None:
        """A receiver may call the manager, because no lock is held during the signal."""
        first, second = two
        first.answer = status(502)
        seen: list[str | None] = []

        def look(sender: EndpointManager, **about: Any) -> None:
            seen.append(sender.get_current_api_url())
            sender.remove_endpoint(first.url)

        manager = quiet(first.url, second.url)
        with signals.endpoint_switched.connected_to(look), manager.client(start=False) as client:
            client.get("/users")
        assert seen == [second.url]
        assert urls(manager.api_endpoints) == [second.url]

    def test_statistics_count_each_endpoint(self, two: tuple[Handmade, Handmade]) -> None:
        """Statistics count requests per endpoint, switches and the tokens of the retry budget."""
        first, second = two
        manager = quiet(first.url, second.url)
        with manager.client(start=False) as client:
            client.get("/users")
            first.answer = status(502)
            for _ in range(3):
                client.get("/users")
        statistics = manager.statistics()
        api = statistics["api"]
        served = {url: (e["served"], e["failed"]) for url, e in api["endpoints"].items()}
        assert served == {first.url: (1, 1), second.url: (3, 0)}
        assert api["switches"] == 1
        assert api["seconds_without_service"] > 0
        assert statistics["socketio"]["switches"] == 0
        assert 0 < statistics["budget_tokens"] <= 500
        json.dumps(statistics)
