"""EndpointManager: start and close, the sources of its endpoint list, and changes of the list."""

import json
import logging
import stat
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from mop_config import Endpoint, EndpointConfig, qr, signals
from mop_config.client import EndpointManager, NoEndpointAvailable, UpdateFailed
from mop_config.errors import AddressError, PayloadError

from ..ports import closed_port
from ..waiting import wait_for
from .fleet import black_hole, silence
from .handmade import (
    MISSING,
    OK,
    Answer,
    Asked,
    Handmade,
    handmade,
    source,
    urls,
    wire,
)
from .managers import A, B, C, hearing, quiet, two

__all__ = ["two"]

S, T = "https://s.example", "wss://t.example/ws"


def threads() -> list[str]:
    """Return the names of the running threads that belong to the client."""
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("mop-config"))


class TestLife:
    """Start and close of a manager."""

    def test_it_runs_between_start_and_close(self) -> None:
        """A manager runs inside its context, and likewise between ``start`` and ``close``."""
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
        """A second ``start`` or ``close`` does nothing and raises nothing."""
        with handmade() as server:
            manager = quiet(server.url)
            manager.start()
            manager.start()
            wait_for(lambda: threads() == ["mop-config-client"])
            manager.close()
            manager.close()
            assert threads() == []

    def test_each_life_checks_everything_anew_that_is_due(self) -> None:
        """A check that ``close`` interrupts is due again at the next start."""
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
        """A manual check that ``close`` aborts counts as no failure of its endpoint."""
        with silence() as port:
            manager = quiet(f"http://127.0.0.1:{port}").start()
            checker = threading.Thread(target=manager.check_all)
            checker.start()
            wait_for(lambda: threads().count("mop-config-check") == 2)
            manager.close()
            checker.join(5)
            (state,) = manager.api_endpoints
            assert (state.state, state.failure_count, state.last_fault) == ("unknown", 0, None)

    @pytest.mark.parametrize("where", [black_hole, silence], ids=["black-hole", "silence"])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_it_closes_within_a_second(self, where: Any, scheme: str) -> None:
        """``close`` ends within a second although checks, update and watch wait for a server."""
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
        """A cache file that cannot be written causes a warning, and the health checks continue."""
        (tmp_path / "file").write_text("")
        with handmade() as server:
            manager = quiet(cache_path=tmp_path / "file" / "cache.json")
            with manager:
                manager.add_api_endpoint(server.url)
                wait_for(lambda: manager.api_endpoints[0].state == "healthy")
        assert "cannot be kept" in caplog.text

    def test_the_first_client_starts_it(self) -> None:
        """The first client starts the manager, so that requests return to a recovered endpoint."""
        alive = threading.Event()
        alive.set()
        with (
            handmade(lambda asked: (200 if alive.is_set() else 502, {}, b"a")) as first,
            handmade(lambda asked: (200, {}, b"b")) as second,
        ):
            manager = quiet(first.url, second.url)
            with manager.client() as client:
                assert client.get("/").text == "a"
                alive.clear()
                assert client.get("/").text == "b"
                alive.set()
                wait_for(lambda: client.get("/").text == "a")
                running = threads()
                manager.client().close()
                assert threads().count("mop-config-client") == running.count("mop-config-client")
            manager.close()
            assert not threads()

    def test_a_client_need_not_start_it(self) -> None:
        """``start=False`` starts no checks, and a client does not restart a closed manager."""
        with handmade() as server:
            manager = quiet(server.url)
            with manager.client(start=False) as client:
                client.get("/")
            assert not threads()
            with manager:
                pass
            with manager.client() as client:
                client.get("/")
            assert not threads()

    @pytest.mark.parametrize("configured", [False, True])
    def test_a_plain_api_server_is_no_warning(
        self, configured: bool, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A missing list is a warning for a server in ``config_urls``, else an INFO message."""
        with handmade(lambda asked: OK if asked.path == "/health" else MISSING) as server:
            more = {"config_urls": [server.url]} if configured else {}
            with caplog.at_level("INFO"), quiet(server.url, update_interval=3600, **more):
                wait_for(lambda: "not_implemented" in caplog.text)
        levels = {r.levelname for r in caplog.records if "not_implemented" in r.getMessage()}
        assert levels == {"WARNING" if configured else "INFO"}

    def test_certificates_are_always_verified(self) -> None:
        """``verify=False`` raises a ValueError in the constructor."""
        with pytest.raises(ValueError, match="never turned off"):
            EndpointManager([A], verify=False)


class TestStartOrder:
    """The order of the list's sources: the cache, then the built-in list, then the servers."""

    def test_nothing(self) -> None:
        """Without any list, ``list_source`` is "none"."""
        assert quiet().list_source == ("none", None, None, False)

    def test_the_built_in_list(self) -> None:
        """In a list of URLs the position is the priority; pairs and Endpoints carry their own."""
        manager = EndpointManager([A, (B, 7), Endpoint.parse(C, 5)], [S])
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [(A, 0), (C, 5), (B, 7)]
        assert urls(manager.socket_endpoints) == [S]
        assert manager.list_source == ("seed", None, None, False)

    def test_a_whole_config_is_a_built_in_list_too(self) -> None:
        """An EndpointConfig as the built-in list sets the API and the socket endpoints."""
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
        """An invalid built-in list raises in the constructor."""
        with pytest.raises(error):
            EndpointManager(*seed)

    def test_a_source_that_cannot_be(self) -> None:
        """A URL in ``config_urls`` that is not http or https raises in the constructor."""
        with pytest.raises(AddressError):
            EndpointManager(config_urls=["wss://a.example"])

    def test_a_source_with_a_fragment(self) -> None:
        """The message names what is wrong; a query would not be."""
        message = r"config_urls\[0\]: '.*': the URL may have no fragment"
        with pytest.raises(AddressError, match=message):
            EndpointManager(config_urls=["https://a.example/list#f"])

    def test_the_cache_comes_before_the_built_in_list(self, tmp_path: Path) -> None:
        """The cached list is preferred to the built-in list, because it is newer."""
        path = tmp_path / "deep" / "cache.json"
        first = quiet(A, cache_path=path)
        first.add_api_endpoint(B)
        second = quiet(C, cache_path=path)
        assert urls(second.api_endpoints) == [A, B]
        origin, url, age, _ = second.list_source
        assert (origin, url) == ("cache", None)
        assert age is not None
        assert 0 <= age < 60

    def test_the_age_of_a_cached_list_is_counted_from_when_it_was_learnt(
        self, tmp_path: Path
    ) -> None:
        """The age of a cached list counts from ``saved_at`` in the file, not from the restart."""
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
        """A damaged or unknown cache file causes a warning, and the built-in list is used."""
        path = tmp_path / "cache.json"
        path.write_text(text)
        manager = quiet(A, cache_path=path)
        assert urls(manager.api_endpoints) == [A]
        assert manager.list_source.origin == "seed"
        assert [r.levelno for r in caplog.records] == [logging.WARNING]

    def test_then_the_servers(self, tmp_path: Path) -> None:
        """A starting manager fetches the list from its endpoints and writes it to the cache."""
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
        """With dead endpoints in the cache, an update also asks the built-in endpoints."""
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
        """``app`` alone puts the cache file into the user's cache folder."""
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        quiet(app="shop").add_api_endpoint(A)
        assert (tmp_path / "shop" / "endpoints.json").exists()

    def test_no_token_reaches_the_disk(self, tmp_path: Path) -> None:
        """The token is never written to the cache file."""
        path = tmp_path / "cache.json"
        with source(wire([A])) as (_, server):
            manager = quiet(server.url, cache_path=path, token="hush-hush")
            manager.update_endpoints_from_remote(force=True)
        assert server.asked[0].header("authorization") == "Bearer hush-hush"
        assert "hush" not in path.read_text()


class TestEmpty:
    """A manager without endpoints works."""

    def test_requests_have_a_typed_error(self) -> None:
        """A request without endpoints raises NoEndpointAvailable with no attempts."""
        with quiet() as manager, manager.client() as client:
            with pytest.raises(NoEndpointAvailable, match="the list is empty") as caught:
                client.get("/users")
            assert caught.value.attempts == ()
            assert isinstance(caught.value, Exception)

    def test_everything_else_answers(self) -> None:
        """Without endpoints getters return None or (), and an update raises UpdateFailed."""
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
            with pytest.raises(UpdateFailed, match="no source is configured"):
                manager.update_endpoints_from_remote()

    def test_the_last_one_may_go(self) -> None:
        """The last endpoint can be removed, and another one can be added afterwards."""
        manager = quiet(A)
        assert manager.get_current_api_url() == A
        assert manager.remove_endpoint(A)
        assert manager.get_current_api_url() is None
        manager.add_api_endpoint(B)
        assert manager.get_current_api_url() == B


class TestLists:
    """Changes of the list: by method calls and by QR codes."""

    def test_by_priority_then_by_insertion(self) -> None:
        """Endpoints are listed and chosen by priority, then in the order of insertion."""
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
        """Adding an endpoint again changes its priority, and the choice follows."""
        manager = quiet(A, B)
        manager.add_api_endpoint(B, priority=0)
        manager.add_api_endpoint(A, priority=5)
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [(B, 0), (A, 5)]
        assert manager.get_current_api_url() == B

    @pytest.mark.parametrize("url", ["wss://a.example", "a.example", "https://", "http://a b/"])
    def test_an_api_endpoint_needs_an_http_url(self, url: str) -> None:
        """A URL that is not http or https raises AddressError, and the list stays unchanged."""
        manager = quiet(A)
        with pytest.raises(AddressError):
            manager.add_api_endpoint(url)
        assert urls(manager.api_endpoints) == [A]

    def test_removing(self) -> None:
        """``remove_endpoint`` takes any spelling of a URL, and returns False for a missing one."""
        manager = EndpointManager([A], [S])
        assert manager.remove_endpoint("HTTPS://A.example/api/v1")
        assert manager.remove_endpoint(S)
        assert not manager.remove_endpoint(S)
        assert not manager.config

    def test_a_state_says_what_is_known(self) -> None:
        """An endpoint that was never checked is reported as unknown and counts as healthy."""
        (state,) = quiet(Endpoint.parse("https://10.0.0.1", 3, "a.example")).api_endpoints
        assert state.url == "https://10.0.0.1"
        assert (state.priority, state.server_name) == (3, "a.example")
        assert (state.is_healthy, state.state, state.failure_count) == (True, "unknown", 0)
        assert (state.last_checked, state.response_time, state.last_fault) == (None, None, None)
        assert state.is_current

    def test_a_qr_code_adds_and_reorders(self) -> None:
        """A QR code adds and reorders its endpoints; other endpoints and an absent kind stay."""
        manager = EndpointManager([A, B], [S])
        text = json.dumps({"api_endpoints": [C, A], "room_id": "r1", "more": 1})
        data = manager.apply_qr(text)
        assert (data.room_id, data.extra) == ("r1", {"more": 1})
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [(C, 0), (A, 1), (B, 1)]
        assert urls(manager.socket_endpoints) == [S]
        assert manager.room_id == "r1"
        assert manager.list_source.origin == "qr"

    def test_a_qr_code_may_replace(self) -> None:
        """``replace=True`` replaces only the kinds that the QR code contains."""
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
        """An invalid QR code changes nothing, and the error names the invalid member."""
        manager = quiet(A)
        with pytest.raises(PayloadError) as caught:
            manager.apply_qr(text)
        assert caught.value.field == field
        assert urls(manager.api_endpoints) == [A]
        assert manager.room_id is None

    def test_what_a_qr_code_said_outlives_a_restart(self, tmp_path: Path) -> None:
        """The cache keeps endpoints and room of a QR code, the room even without endpoints."""
        path = tmp_path / "cache.json"
        first = quiet(cache_path=path)
        first.apply_qr(json.dumps({"api_url": A, "room_id": "r1"}))
        second = quiet(cache_path=path)
        assert (second.room_id, urls(second.api_endpoints)) == ("r1", [A])
        second.remove_endpoint(A)
        assert quiet(cache_path=path).room_id == "r1"

    def test_a_change_is_told(self) -> None:
        """``endpoints_updated`` lists added, removed and changed URLs; no change, no signal."""
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


def test_any_thread_may_do_anything(two: tuple[Handmade, Handmade], tmp_path: Path) -> None:
    """Sixteen threads change and read a running manager without an error or a lost change."""
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
    """Concurrent changes of a manager that is not started all reach the cache file."""
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


def test_a_manager_without_sources_warns_of_no_update(caplog: pytest.LogCaptureFixture) -> None:
    """Socket.io endpoints have no list, so there is nothing to fetch, and nothing is wrong."""
    caplog.set_level("INFO")
    manager = EndpointManager(socket_endpoints=["https://s.example"])
    assert manager._lifecycle.tasks.updates.run() > 0
    manager.close()
    assert [(r.levelname, r.message) for r in caplog.records if "source" in r.message] == [
        ("INFO", "the endpoint list could not be updated (unreachable): no source is configured")
    ]


@pytest.mark.parametrize("form", ["add", "list", "single", "full"])
def test_an_endpoint_that_is_named_again_keeps_its_server_name(form: str) -> None:
    """The name is not lost where there is no place for it, and another one replaces it."""
    url = "https://192.0.2.1"
    manager = EndpointManager([Endpoint(url, 0, "api.example")])

    def name_again(name: str | None) -> str | None:
        if form == "add":
            manager.add_api_endpoint(url, 3)
        else:
            config = EndpointConfig((Endpoint(url, 3, name),), ())
            manager.apply_qr(qr.dumps(config, form))
        (endpoint,) = manager._lists.config.api_endpoints
        return endpoint.server_name

    assert name_again(None) == "api.example"
    if form == "full":
        assert name_again("other.example") == "other.example"
    manager.close()
