"""EndpointManager: its life, its lists, its health checks, its choices, what it tells."""

import itertools
import json
import logging
import stat
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from blinker import NamedSignal

from mop_config import Endpoint, EndpointConfig, signals
from mop_config.client import EndpointManager, NoEndpointAvailable, Policy, UpdateFailed
from mop_config.errors import AddressError, PayloadError

from ..waiting import wait_for
from .fleet import black_hole, closed_port, silence
from .handmade import (
    MISSING,
    NOBODY,
    OK,
    QUICK,
    Answer,
    Asked,
    Handmade,
    handmade,
    source,
    urls,
    wire,
)

A, B, C = (f"https://{name}.example/api/v1" for name in "abc")
S, T = "https://s.example", "wss://t.example/ws"


def threads() -> list[str]:
    """The names of our threads that run."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("mop-config"))


@contextmanager
def hearing(*wanted: NamedSignal) -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """The signals that are sent meanwhile, by name."""
    heard: list[tuple[str, dict[str, Any]]] = []
    with ExitStack() as stack:
        for signal in wanted:

            def receive(sender: Any, signal: NamedSignal = signal, **about: Any) -> None:
                heard.append((signal.name, about))

            stack.enter_context(signal.connected_to(receive))
        yield heard


def quiet(*api: Any, **options: Any) -> EndpointManager:
    """A manager that asks for no list by itself."""
    defaults = {"update_interval": 0, "policy": QUICK, "trust_env": False, "verify": NOBODY}
    return EndpointManager(list(api), **{**defaults, **options})


class TestLife:
    """Starting and closing."""

    def test_it_runs_between_start_and_close(self) -> None:
        """A context manager, and the two methods that it stands for."""
        with handmade() as server:
            manager = quiet(server.url)
            assert threads() == []
            assert manager.start() is manager
            assert "mop-config-client" in threads()
            manager.close()
            assert threads() == []
            with manager as entered:
                assert entered is manager
                assert "mop-config-client" in threads()
            assert threads() == []

    def test_starting_and_closing_twice_is_once(self) -> None:
        """Neither complains, and nothing runs twice."""
        with handmade() as server:
            manager = quiet(server.url)
            manager.start()
            manager.start()
            wait_for(lambda: threads() == ["mop-config-client"])
            manager.close()
            manager.close()
            assert threads() == []

    def test_each_life_checks_everything_anew_that_is_due(self) -> None:
        """Closing in the midst of a check leaves no endpoint unchecked for good."""
        gate = threading.Event()

        def answer(asked: Asked) -> Answer:
            gate.wait(10)
            return OK

        with handmade(answer) as server:
            manager = quiet(server.url)
            manager.start()
            wait_for(lambda: server.asked)
            manager.close()
            assert manager.api_endpoints[0].last_checked is None
            gate.set()
            with manager:
                wait_for(lambda: manager.api_endpoints[0].last_checked is not None)

    def test_a_check_that_was_called_off_says_nothing_of_the_endpoint(self) -> None:
        """Closing while somebody checks by hand is not the endpoint's failure."""
        with silence() as port:
            manager = quiet(f"http://127.0.0.1:{port}").start()
            checker = threading.Thread(target=manager.check_all)
            checker.start()
            wait_for(lambda: threads().count("mop-config-check") == 2)
            manager.close()
            checker.join(5)
            (state,) = manager.api_endpoints
            assert (state.state, state.failure_count, state.last_fault) == ("unknown", 0, None)

    @pytest.mark.alone
    @pytest.mark.parametrize("where", [black_hole, silence], ids=["black-hole", "silence"])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_it_closes_within_a_second(self, where: Any, scheme: str) -> None:
        """Whatever its checks, its update and its watch are waiting for."""
        with where() as port:
            url = f"{scheme}://127.0.0.1:{port}"
            manager = EndpointManager([url], [url], watch=True, trust_env=False).start()
            wait_for(lambda: "mop-config-update" in threads())
            wait_for(lambda: threads().count("mop-config-check") == 2)
            began = time.monotonic()
            manager.close()
            assert time.monotonic() - began <= 1.0

    def test_a_turn_that_fails_does_not_end_the_schedule(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A folder that takes no cache file is a warning; the checks go on."""
        (tmp_path / "file").write_text("")
        with handmade() as server:
            manager = quiet(cache_path=tmp_path / "file" / "cache.json")
            with manager:
                manager.add_api_endpoint(server.url)
                wait_for(lambda: manager.api_endpoints[0].state == "healthy")
        assert "cannot be kept" in caplog.text

    def test_certificates_are_always_verified(self) -> None:
        """Turning that off is refused at once."""
        with pytest.raises(ValueError, match="never turned off"):
            EndpointManager([A], verify=False)


class TestStartOrder:
    """Cache, then the built-in list, then the servers."""

    def test_nothing(self) -> None:
        """Without any list it says so."""
        assert quiet().list_source == ("none", None, None)

    def test_the_built_in_list(self) -> None:
        """The position in a list of URLs is the priority; other forms say theirs."""
        manager = EndpointManager([A, (B, 7), Endpoint.parse(C, 5)], [S])
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [(A, 0), (C, 5), (B, 7)]
        assert urls(manager.socket_endpoints) == [S]
        assert manager.list_source == ("seed", None, None)

    def test_a_whole_config_is_a_built_in_list_too(self) -> None:
        """Both kinds at once."""
        config = EndpointConfig((Endpoint(A),), (Endpoint(S),))
        assert EndpointManager(config).config == config

    @pytest.mark.parametrize(
        ("seed", "error"),
        [
            ((["ws://a.example"],), AddressError),
            ((["ftp://a.example"],), AddressError),
            ((["https://a.example:0"],), AddressError),
            ((A,), TypeError),
            (([], EndpointConfig()), TypeError),
            ((EndpointConfig(), [S]), TypeError),
        ],
    )
    def test_a_built_in_list_that_cannot_be(self, seed: Any, error: type[Exception]) -> None:
        """It is the programmer's mistake, and told at once."""
        with pytest.raises(error):
            EndpointManager(*seed)

    def test_a_source_that_cannot_be(self) -> None:
        """So is a server to ask that has no http URL."""
        with pytest.raises(AddressError):
            EndpointManager(config_urls=["wss://a.example"])

    def test_the_cache_comes_before_the_built_in_list(self, tmp_path: Path) -> None:
        """What was learnt last time is newer than what the program was built with."""
        path = tmp_path / "deep" / "cache.json"
        first = quiet(A, cache_path=path)
        first.add_api_endpoint(B)
        second = quiet(C, cache_path=path)
        assert urls(second.api_endpoints) == [A, B]
        origin, url, age = second.list_source
        assert (origin, url) == ("cache", None)
        assert age is not None
        assert 0 <= age < 60

    def test_the_age_of_a_cached_list_is_counted_from_when_it_was_learnt(
        self, tmp_path: Path
    ) -> None:
        """A restart makes no list younger."""
        path = tmp_path / "cache.json"
        quiet(cache_path=path).add_api_endpoint(A)
        document = json.loads(path.read_text())
        path.write_text(json.dumps({**document, "saved_at": document["saved_at"] - 5000}))
        age = quiet(cache_path=path).list_source.age
        assert age is not None
        assert 5000 <= age < 5060

    @pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 9}', "\x00\xff", '"text"'])
    def test_a_torn_or_foreign_cache_is_passed_over(
        self, tmp_path: Path, text: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """With a warning, and the built-in list in its place."""
        path = tmp_path / "cache.json"
        path.write_text(text)
        manager = quiet(A, cache_path=path)
        assert urls(manager.api_endpoints) == [A]
        assert manager.list_source.origin == "seed"
        assert [r.levelno for r in caplog.records] == [logging.WARNING]

    def test_then_the_servers(self, tmp_path: Path) -> None:
        """A manager that starts asks for a list by itself, and keeps it."""
        path = tmp_path / "cache.json"
        with source(b"") as (lists, server):
            lists.body = wire([f"{server.url}/new"])
            with EndpointManager([server.url], cache_path=path, trust_env=False) as manager:
                wait_for(lambda: manager.list_source.origin == "remote")
                assert urls(manager.api_endpoints) == [f"{server.url}/new"]
                assert manager.list_source.url == f"{server.url}/api/v1/config/endpoints"
                wait_for(path.exists)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert list(tmp_path.iterdir()) == [path]

    def test_the_built_in_servers_help_a_stale_cache(self, tmp_path: Path) -> None:
        """An app whose cached endpoints have all gone asks those that it was built with."""
        path = tmp_path / "cache.json"
        quiet(cache_path=path).add_api_endpoint(f"http://127.0.0.1:{closed_port()}")
        with source(b"") as (lists, server):
            lists.body = wire([server.url])
            manager = quiet(server.url, cache_path=path)
            assert manager.list_source.origin == "cache"
            assert manager.update_endpoints_from_remote(force=True)
            assert urls(manager.api_endpoints) == [server.url]

    def test_an_app_has_its_cache_in_the_usual_place(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A name is enough."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        quiet(app="shop").add_api_endpoint(A)
        assert (tmp_path / "shop" / "endpoints.json").exists()

    def test_no_token_reaches_the_disk(self, tmp_path: Path) -> None:
        """Whatever else is kept."""
        path = tmp_path / "cache.json"
        with source(wire([A])) as (_, server):
            manager = quiet(server.url, cache_path=path, token="hush-hush")
            manager.update_endpoints_from_remote(force=True)
        assert server.asked[0].header("authorization") == "Bearer hush-hush"
        assert "hush" not in path.read_text()


class TestEmpty:
    """Zero endpoints are no crash."""

    def test_requests_have_a_typed_error(self) -> None:
        """One that httpx2 users catch too."""
        with quiet() as manager, manager.client() as client:
            with pytest.raises(NoEndpointAvailable, match="the list is empty") as caught:
                client.get("/users")
            assert caught.value.attempts == ()
            assert isinstance(caught.value, Exception)

    def test_everything_else_answers(self) -> None:
        """With nothing."""
        with quiet() as manager:
            manager.check_all()
            manager.select_best_endpoints()
            manager.unpin()
            assert manager.get_current_api_url() is None
            assert manager.get_current_socket_url() is None
            assert manager.current_api_endpoint is None
            assert manager.current_socket_endpoint is None
            assert manager.api_endpoints == manager.socket_endpoints == ()
            assert manager.is_offline is False
            assert manager.statistics()["api"]["endpoints"] == {}
            with pytest.raises(UpdateFailed, match="no source to ask"):
                manager.update_endpoints_from_remote()

    def test_the_last_one_may_go(self) -> None:
        """And come back."""
        manager = quiet(A)
        assert manager.get_current_api_url() == A
        assert manager.remove_endpoint(A)
        assert manager.get_current_api_url() is None
        manager.add_api_endpoint(B)
        assert manager.get_current_api_url() == B


class TestLists:
    """Adding, removing, QR codes."""

    def test_by_priority_then_by_insertion(self) -> None:
        """As they are shown, and as they are chosen."""
        manager = quiet()
        manager.add_api_endpoint(C, priority=1)
        manager.add_api_endpoint(A, priority=1)
        manager.add_api_endpoint(B)
        manager.add_socket_endpoint(T)
        assert urls(manager.api_endpoints) == [B, C, A]
        assert urls(manager.socket_endpoints) == [T]
        assert manager.get_current_api_url() == B
        assert manager.get_current_socket_url() == T

    def test_adding_again_changes_the_priority(self) -> None:
        """And goes where that leads."""
        manager = quiet(A, B)
        manager.add_api_endpoint(B, priority=0)
        manager.add_api_endpoint(A, priority=5)
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [(B, 0), (A, 5)]
        assert manager.get_current_api_url() == B

    @pytest.mark.parametrize("url", ["wss://a.example", "a.example", "https://", "http://a b/"])
    def test_an_api_endpoint_needs_an_http_url(self, url: str) -> None:
        """The list stays as it was."""
        manager = quiet(A)
        with pytest.raises(AddressError):
            manager.add_api_endpoint(url)
        assert urls(manager.api_endpoints) == [A]

    def test_removing(self) -> None:
        """Of whichever kind, in whatever spelling; what is not there is no error."""
        manager = EndpointManager([A], [S])
        assert manager.remove_endpoint("HTTPS://A.example/api/v1")
        assert manager.remove_endpoint(S)
        assert not manager.remove_endpoint(S)
        assert not manager.config

    def test_a_state_says_what_is_known(self) -> None:
        """Unknown counts as healthy."""
        (state,) = quiet(Endpoint.parse("https://10.0.0.1", 3, "a.example")).api_endpoints
        assert state.url == "https://10.0.0.1"
        assert (state.priority, state.server_name) == (3, "a.example")
        assert (state.is_healthy, state.state, state.failure_count) == (True, "unknown", 0)
        assert (state.last_checked, state.response_time, state.last_fault) == (None, None, None)
        assert state.is_current

    def test_a_qr_code_adds_and_reorders(self) -> None:
        """Its own endpoints; the others, and a kind that it is silent about, stay."""
        manager = EndpointManager([A, B], [S])
        text = json.dumps({"api_endpoints": [C, A], "room_id": "r1", "more": 1})
        data = manager.apply_qr(text)
        assert (data.room_id, data.extra) == ("r1", {"more": 1})
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [(C, 0), (A, 1), (B, 1)]
        assert urls(manager.socket_endpoints) == [S]
        assert manager.room_id == "r1"
        assert manager.list_source.origin == "qr"

    def test_a_qr_code_may_replace(self) -> None:
        """The kinds that it speaks of."""
        manager = EndpointManager([A, B], [S])
        manager.apply_qr(json.dumps({"api_url": C}), replace=True)
        assert urls(manager.api_endpoints) == [C]
        assert urls(manager.socket_endpoints) == [S]

    @pytest.mark.parametrize(
        ("text", "field"),
        [
            ("{", "document"),
            ("{}", "document"),
            ('{"api_endpoints": 1}', "api_endpoints"),
            ('{"api_url": "https://c.example", "socketio_url": "x"}', "socketio_url"),
            ('{"api_endpoints": ["https://c.example", "wss://d.example"]}', "api_endpoints[1]"),
            ('{"api_url": "https://c.example", "room_id": 5}', "room_id"),
        ],
    )
    def test_a_bad_qr_code_changes_nothing(self, text: str, field: str) -> None:
        """The error names the member at fault."""
        manager = quiet(A)
        with pytest.raises(PayloadError) as caught:
            manager.apply_qr(text)
        assert caught.value.field == field
        assert urls(manager.api_endpoints) == [A]
        assert manager.room_id is None

    def test_what_a_qr_code_said_outlives_a_restart(self, tmp_path: Path) -> None:
        """The room too, even where no endpoint is left."""
        path = tmp_path / "cache.json"
        first = quiet(cache_path=path)
        first.apply_qr(json.dumps({"api_url": A, "room_id": "r1"}))
        second = quiet(cache_path=path)
        assert (second.room_id, urls(second.api_endpoints)) == ("r1", [A])
        second.remove_endpoint(A)
        assert quiet(cache_path=path).room_id == "r1"

    def test_a_change_is_told(self) -> None:
        """What came, what went, and what is otherwise the same; no change is no signal."""
        manager = EndpointManager([A, B], [S])
        with hearing(signals.endpoints_updated) as heard:
            manager.add_api_endpoint(C, priority=1)
            manager.add_api_endpoint(C, priority=1)
            manager.add_api_endpoint(C, priority=4)
            manager.add_socket_endpoint(A)
            manager.remove_endpoint(B)
        about = [(a["added"], a["removed"], a["changed"]) for _, a in heard]
        assert about == [([C], [], []), ([], [], [C]), ([A], [], []), ([], [B], [])]
        assert {a["origin"] for _, a in heard} == {"manual"}


@pytest.fixture
def two() -> Iterator[tuple[Handmade, Handmade]]:
    """Two servers that are well."""
    with handmade() as first, handmade() as second:
        yield first, second


def status(code: int) -> Any:
    """A server that is alike to everybody."""
    return lambda asked: (code, {}, b"")


class TestHealth:
    """The background checks, and those by hand."""

    def test_a_start_checks_everything_at_once(self, two: tuple[Handmade, Handmade]) -> None:
        """Times are aware and in seconds."""
        first, second = two
        began = datetime.now(UTC)
        with quiet(first.url, second.url) as manager:
            wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))
            for state in manager.api_endpoints:
                assert state.last_checked is not None
                assert began - timedelta(seconds=1) <= state.last_checked <= datetime.now(UTC)
                assert state.response_time is not None
                assert 0 < state.response_time < 2

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
        """Below the base, and at the root only where that is not found."""
        with handmade(lambda a: answers.get(a.path, MISSING)) as server:
            manager = quiet(f"{server.url}/v2")
            for _ in range(2):
                manager.check_endpoint_health(manager.api_endpoints[0])
            assert server.paths == asked

    def test_a_path_that_is_gone_is_looked_for_anew(self) -> None:
        """A server that moves its health check stays healthy."""
        where = ["/health"]
        with handmade(lambda a: OK if a.path in where else MISSING) as server:
            manager = quiet(f"{server.url}/v2")
            assert manager.check_endpoint_health(f"{server.url}/v2")
            where[:] = ["/v2/health"]
            assert manager.check_endpoint_health(f"{server.url}/v2")
            assert manager.api_endpoints[0].failure_count == 0

    def test_by_hand(self, two: tuple[Handmade, Handmade]) -> None:
        """One, by its state or its URL in any spelling; or all; a stranger is an error."""
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
        """Suspect, unhealthy, recovering, healthy: the contract's figures."""
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
        """Without waiting for the next regular check; and found again when it is back."""
        with handmade(status(503)) as server, quiet(server.url) as manager:
            wait_for(lambda: not manager.api_endpoints[0].is_healthy)
            server.answer = status(200)
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")

    def test_a_failed_request_has_its_endpoint_checked_at_once(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """And a good check clears it."""
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
        """So that a fleet of apps does not ask in step."""
        policy = replace(QUICK, health_interval=0.5)
        times: list[float] = []

        def answer(asked: Asked) -> Answer:
            times.append(time.monotonic())
            return OK

        with handmade(answer) as server, quiet(server.url, policy=policy):
            wait_for(lambda: len(times) >= 7)
        gaps = [b - a for a, b in itertools.pairwise(times)]
        assert all(0.45 <= gap <= 0.6 for gap in gaps), gaps
        assert len({round(gap, 3) for gap in gaps}) > 1

    def test_so_many_checks_at_a_time(self) -> None:
        """By the schedule and by hand."""
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
        """Not at the next regular check."""
        with handmade() as server, quiet() as manager:
            manager.add_socket_endpoint(f"http://127.0.0.1:{closed_port()}")
            manager.add_api_endpoint(server.url)
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")
            wait_for(lambda: manager.socket_endpoints[0].last_fault == "refused")

    def test_one_that_goes_while_it_is_checked_is_forgotten(self) -> None:
        """Its finding reaches nobody."""
        with handmade() as server:

            def answer(asked: Asked) -> Answer:
                manager.remove_endpoint(server.url)
                return OK

            server.answer = answer
            manager = quiet(server.url)
            assert manager.check_endpoint_health(server.url)
            assert manager.api_endpoints == ()

    def test_no_network_is_nobodys_fault(self) -> None:
        """Two hosts that cannot be reached from here: offline, and nobody is marked down."""
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
    """By priority and speed, and by hand."""

    def test_a_pin_is_preferred_fails_over_and_is_returned_to(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """Until it is lifted."""
        first, second = two
        with (
            quiet(first.url, second.url) as manager,
            manager.client() as client,
            hearing(signals.endpoint_switched) as heard,
        ):
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
        """A stranger is an error, and nothing changes."""
        manager = quiet(A, B)
        manager.pin(B.upper().replace("/API/V1", "/api/v1"))
        with pytest.raises(KeyError):
            manager.pin(C)
        assert manager.get_current_api_url() == B

    def test_the_best_may_be_asked_for_without_dwelling(
        self, two: tuple[Handmade, Handmade]
    ) -> None:
        """``select_best_endpoints`` is the guide's way back to the primary."""
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
    """Signals, log, statistics."""

    def test_a_switch_says_from_where_to_where_and_why(
        self, two: tuple[Handmade, Handmade], caplog: pytest.LogCaptureFixture
    ) -> None:
        """And for how long there was no service."""
        first, second = two
        first.answer = status(502)
        manager = quiet(first.url, second.url)
        with hearing(signals.endpoint_switched) as heard, manager.client() as client:
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
        """However long it lasts."""
        for server in two:
            server.answer = status(503)
        names = (signals.endpoint_down, signals.all_endpoints_down, signals.endpoint_recovered)
        with hearing(*names) as heard:
            manager = quiet(*(server.url for server in two))
            for _ in range(6):
                manager.check_all()
            two[1].answer = status(200)
            for _ in range(3):
                manager.check_all()
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
        """It is logged, and the others hear."""
        first, second = two
        first.answer = status(502)

        def broken(sender: Any, **about: Any) -> None:
            raise RuntimeError("no")

        manager = quiet(first.url, second.url)
        with (
            signals.endpoint_switched.connected_to(broken),
            hearing(signals.endpoint_switched) as heard,
            manager.client() as client,
        ):
            assert client.get("/users").status_code == 200
        assert len(heard) == 1
        assert "RuntimeError: no" in caplog.text

    def test_a_receiver_may_use_the_manager(self, two: tuple[Handmade, Handmade]) -> None:
        """Nothing is locked while it runs."""
        first, second = two
        first.answer = status(502)
        seen: list[str | None] = []

        def look(sender: EndpointManager, **about: Any) -> None:
            seen.append(sender.get_current_api_url())
            sender.remove_endpoint(first.url)

        manager = quiet(first.url, second.url)
        with signals.endpoint_switched.connected_to(look), manager.client() as client:
            client.get("/users")
        assert seen == [second.url]
        assert urls(manager.api_endpoints) == [second.url]

    def test_statistics_count_each_endpoint(self, two: tuple[Handmade, Handmade]) -> None:
        """Requests served and failed, switches, and what the budget holds."""
        first, second = two
        manager = quiet(first.url, second.url)
        with manager.client() as client:
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


def test_any_thread_may_do_anything(two: tuple[Handmade, Handmade], tmp_path: Path) -> None:
    """Sixteen threads change, read and ask while the checks run; nothing is lost or torn."""
    first, second = two
    errors: list[BaseException] = []
    path = tmp_path / "cache.json"
    manager = quiet(first.url, second.url, cache_path=path)

    def work(number: int) -> None:
        try:
            for step in range(15):
                manager.add_api_endpoint(f"{first.url}/{number}/{step}", priority=9)
                manager.pin(first.url)
                manager.api_endpoints, manager.config, manager.statistics()
                assert manager.get_current_api_url() is not None
                manager.unpin()
                if step % 2:
                    manager.remove_endpoint(f"{first.url}/{number}/{step}")
        except BaseException as error:
            errors.append(error)

    with manager:
        workers = [threading.Thread(target=work, args=(number,)) for number in range(16)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    assert errors == []
    assert len(manager.api_endpoints) == 2 + 16 * 8
    assert quiet(cache_path=path).config == manager.config


def test_threads_that_change_a_manager_at_rest_write_whole_files(tmp_path: Path) -> None:
    """Each change is on the disk when it returns, and the last one stays."""
    path = tmp_path / "cache.json"
    manager = quiet(cache_path=path)

    def work(number: int) -> None:
        for step in range(5):
            manager.add_api_endpoint(f"https://a.example/{number}/{step}")

    workers = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    kept = quiet(cache_path=path).config.api_endpoints
    assert set(kept) == set(manager.config.api_endpoints)
    assert len(kept) == 40
