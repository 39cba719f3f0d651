"""The front-end half of the guide: each usage example and test section as a test."""

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mop_config import qr
from mop_config.client import EndpointManager, UpdateFailed

from ..ports import closed_port
from ..servers import ENDPOINTS, running
from ..waiting import wait_for
from .fleet import Fleet, fleet_in
from .handmade import NOBODY, OK, QUICK, Answer, Asked, Handmade, handmade, source, urls, wire
from .socket_server import socket_server

GUIDE_HEALTH = {"status": "healthy", "service": "mop-api", "version": "1.0.0"}


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[EndpointManager]:
    """Run the app's manager, as the guide's ``main`` does."""
    with EndpointManager(
        cache_path=tmp_path / "cache.json",
        policy=QUICK,
        update_interval=0,
        verify=NOBODY,
        trust_env=False,
    ) as manager:
        yield manager


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Give the test real servers that it can kill."""
    with fleet_in(tmp_path) as fleet:
        yield fleet


@contextmanager
def api_server(name: str, delay: float = 0.0) -> Iterator[Handmade]:
    """Run a server that returns its name and the guide's health answer.

    ``delay`` is the duration of a health check in seconds.
    """

    def answer(asked: Asked) -> Answer:
        if asked.path.endswith("/health"):
            server.closing.wait(delay)
            return 200, {}, json.dumps(GUIDE_HEALTH).encode()
        return 200, {}, json.dumps({"server": name}).encode()

    with handmade(answer) as server:
        yield server


def answering(status: int) -> Callable[[Asked], Answer]:
    """Make an answer function that always returns this status."""
    return lambda asked: (status, {}, b"")


class TestUsageExamples:
    """使用范例."""

    def test_example_1_basic_configuration_single_server(
        self, manager: EndpointManager, tmp_path: Path
    ) -> None:
        """范例 1: after a scan of a QR code with one server, every request goes to that server."""
        with api_server("only") as api, socket_server(tmp_path, "only") as sockets:
            manager.apply_qr(json.dumps({"api_url": api.url, "socketio_url": sockets.url}))
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")
            wait_for(lambda: manager.socket_endpoints[0].state == "healthy")
            with manager.client() as client:
                assert client.get("/users").json() == {"server": "only"}
            assert manager.get_current_api_url() == api.url
            assert manager.get_current_socket_url() == sockets.url

    def test_example_2_primary_and_backup(self, manager: EndpointManager, fleet: Fleet) -> None:
        """范例 2: requests go to the primary, and to the backup without an error if it dies."""
        primary, backup = fleet.pair()
        text = {
            "api_endpoints": [primary.url, backup.url],
            "socketio_endpoints": ["https://socket-primary.example.com"],
        }
        manager.apply_qr(json.dumps(text))
        with manager.client() as client:
            assert client.get("/users").json()["server"] == "primary"
            primary.kill()
            for _ in range(5):
                assert client.get("/users").json()["server"] == "backup"
        assert manager.get_current_api_url() == backup.url

    def test_example_3_several_servers_by_response_time(self, manager: EndpointManager) -> None:
        """范例 3: among equal priorities, the client uses the shortest response time."""
        with (
            api_server("server1", 1.5) as one,
            api_server("server2") as two,
            api_server("server3", 1.5) as three,
        ):
            entries = [{"url": s.url, "priority": 0} for s in (one, two, three)]
            manager.apply_qr(json.dumps({"api_endpoints": entries}))
            wait_for(lambda: all(e.response_time for e in manager.api_endpoints))
            assert manager.get_current_api_url() == two.url
            with manager.client() as client:
                assert client.get("/users").json() == {"server": "server2"}

    def test_example_4_remote_update(self, manager: EndpointManager, tmp_path: Path) -> None:
        """范例 4: the app updates the list at its start, and with the token after a login."""
        token: list[str | None] = [None]
        new = "https://api-new-primary.example.com/api/v1"

        def answer(asked: Asked) -> Answer:
            if asked.path != ENDPOINTS:
                return OK
            if asked.header("authorization") != "Bearer access-token":
                return 401, {}, b""
            return 200, {}, wire([new, "https://api-new-backup.example.com/api/v1"])

        file = tmp_path / "e.txt"
        with handmade(answer) as current, running(tmp_path, file, workers=1) as config:
            file.write_text(f"ApiList:\n{current.url}\nhttps://other.example\n")
            wait_for(lambda: len(config.get().json["api_endpoints"]) == 2)
            backup = f"http://127.0.0.1:{config.port}"
            assert manager.update_endpoints_from_remote(fallback_url=backup)
            assert manager.get_current_api_url() == current.url
            # Without a token the current endpoint answers 401, and the client keeps its list.
            with pytest.raises(UpdateFailed):
                manager.update_endpoints_from_remote(current.url, token[0])
            assert manager.get_current_api_url() == current.url
            token[0] = "access-token"
            assert manager.update_endpoints_from_remote(current.url, token[0], force=True)
        assert manager.api_endpoints[0].url == new

    def test_example_5_switching_by_hand(self, manager: EndpointManager) -> None:
        """范例 5: the app shows each endpoint's priority and state, and the user pins a server."""
        with api_server("first") as first, api_server("second") as second:
            manager.add_api_endpoint(first.url, priority=0)
            manager.add_api_endpoint(second.url, priority=1)
            shown = [(e.url, e.priority, e.is_healthy) for e in manager.api_endpoints]
            assert shown == [(first.url, 0, True), (second.url, 1, True)]
            manager.pin(second.url)
            with manager.client() as client:
                assert client.get("/users").json() == {"server": "second"}
                manager.unpin()
                assert client.get("/users").json() == {"server": "first"}


class TestTestSections:
    """测试验证."""

    def test_section_1_health_checks(self, manager: EndpointManager, tmp_path: Path) -> None:
        """1. 测试健康检查: the server gives the guide's health answer, and its checks succeed."""
        file = tmp_path / "e.txt"
        file.write_text("DomainList:\na.example\nb.example\n")
        with running(tmp_path, file, workers=1) as server:
            assert server.get("/health").json == GUIDE_HEALTH
            for path in ("/api/v1", ""):
                url = f"http://127.0.0.1:{server.port}{path}"
                manager.add_api_endpoint(url)
                assert manager.check_endpoint_health(url)

    def test_section_2_the_configuration_route(
        self, manager: EndpointManager, tmp_path: Path
    ) -> None:
        """2. 测试端点配置接口: the server gives the guide's list, and the client reads it."""
        file = tmp_path / "e.txt"
        file.write_text(
            "ApiList:\nhttps://api-primary.example.com\nhttps://api-backup.example.com\n"
            "SocketList:\nhttps://socket-primary.example.com\n"
        )
        expected = {
            "api_endpoints": [
                {"url": "https://api-primary.example.com", "priority": 0},
                {"url": "https://api-backup.example.com", "priority": 1},
            ],
            "socketio_endpoints": [{"url": "https://socket-primary.example.com", "priority": 0}],
        }
        with running(tmp_path, file, workers=1) as server:
            assert server.get(Authorization="Bearer YOUR_TOKEN").json == expected
            manager.update_endpoints_from_remote(
                f"http://127.0.0.1:{server.port}", "YOUR_TOKEN", force=True
            )
        assert json.loads(qr.dumps(manager.config)) == expected

    def test_section_3_failover(self, manager: EndpointManager, fleet: Fleet) -> None:
        """3. 测试故障转移: after the primary dies, the request succeeds at the backup."""
        primary, backup = fleet.pair()
        manager.add_api_endpoint(primary.url, priority=0)
        manager.add_api_endpoint(backup.url, priority=1)
        primary.kill()
        with manager.client() as api_service:
            result = api_service.get("/users")
        assert result.status_code == 200
        assert manager.get_current_api_url() == backup.url

    def test_section_4_remote_update(self, manager: EndpointManager) -> None:
        """4. 测试远程更新: after an update, the list holds the new endpoints."""
        with api_server("new") as new, source(wire([f"{new.url}/new"])) as (_, config):
            manager.add_api_endpoint("https://old-api.example.com", priority=0)
            manager.update_endpoints_from_remote(fallback_url=config.url)
            endpoints = manager.api_endpoints
            assert len(endpoints) > 0
            assert any("new" in e.url for e in endpoints)


class TestTheRest:
    """前端配置, 故障排查, 最佳实践."""

    def test_the_three_qr_forms(self, manager: EndpointManager) -> None:
        """A QR code in the single, list or full form is applied, with its room."""
        base = "https://api-{}.example.com"
        forms: list[dict[str, Any]] = [
            {"api_url": base.format("primary"), "room_id": "room123"},
            {"api_endpoints": [base.format("primary"), base.format("backup1")]},
            {"api_endpoints": [{"url": base.format("backup2"), "priority": 2}]},
        ]
        for form in forms:
            manager.apply_qr(json.dumps(form))
        assert [(e.url, e.priority) for e in manager.api_endpoints] == [
            (base.format("primary"), 0),
            (base.format("backup1"), 1),
            (base.format("backup2"), 2),
        ]
        assert manager.room_id == "room123"

    def test_the_automatic_update_service(self, manager: EndpointManager) -> None:
        """``autoUpdateEndpoints`` updates from the first endpoint, else from the given server."""

        def auto_update() -> bool:
            endpoints = manager.api_endpoints
            try:
                if endpoints:
                    manager.update_endpoints_from_remote(endpoints[0].url, "token")
                else:
                    manager.update_endpoints_from_remote(config.url)
            except UpdateFailed:
                return False
            return True

        with source(b"") as (lists, config):
            lists.body = wire([config.url])
            assert auto_update()
            assert urls(manager.api_endpoints) == [config.url]
            assert auto_update()
            manager.remove_endpoint(config.url)
            manager.add_api_endpoint(f"http://127.0.0.1:{closed_port()}")
            assert not auto_update()

    def test_problem_1_what_is_known_and_how_to_choose_by_hand(
        self, manager: EndpointManager
    ) -> None:
        """问题 1: the app reads state, failures and last check, and runs a check by hand."""
        with api_server("a") as server:
            manager.add_api_endpoint(server.url)
            assert manager.check_endpoint_health(manager.api_endpoints[0])
            manager.select_best_endpoints()
            (state,) = manager.api_endpoints
            assert (state.is_healthy, state.failure_count) == (True, 0)
            assert state.last_checked is not None

    def test_problem_2_an_update_that_fails_says_why(self, manager: EndpointManager) -> None:
        """问题 2: a failed update names its cause: login, missing route or network."""
        manager.add_api_endpoint("https://old.example")
        assert not manager.is_offline
        causes = []
        for status in (401, 404, 503):
            with handmade(answering(status)) as server:
                manager.remove_endpoint("https://old.example")
                with pytest.raises(UpdateFailed) as caught:
                    manager.update_endpoints_from_remote(server.url)
                causes.append(caught.value.cause)
        assert causes == ["unauthorized", "not_implemented", "unreachable"]

    def test_problem_3_the_current_endpoints_own_health(self, manager: EndpointManager) -> None:
        """问题 3: the client can request ``{url}/health`` of the current endpoint."""
        with api_server("a") as server:
            manager.add_api_endpoint(server.url)
            current = manager.current_api_endpoint
            assert current is not None
            with manager.client() as client:
                assert client.get(f"{current.url}/health").json() == GUIDE_HEALTH
                assert client.get("/health").json() == GUIDE_HEALTH
