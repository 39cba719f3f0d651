"""Reports of a client: their content, their receiver, and the end of reporting."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mop_config import EndpointConfig
from mop_config.client import EndpointManager, Policy, background, testing, updates
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Endpoint, dumps
from mop_config.net.faults import COUNTED, Fault
from mop_config.server.monitor.reports import FAULTS, parse_report
from mop_config.server.monitor.reports import MAX_COUNT as SERVER_MAX

from ..servers import running
from ..waiting import wait_for
from .handmade import Handmade, handmade

LIST = "/api/v1/config/endpoints"
REPORTS = "/api/v1/config/reports"


@contextmanager
def list_server(
    status: int = 204, other: str = "https://down.example/api/v1"
) -> Iterator[Handmade]:
    """Run a server whose list names itself and another; it answers reports with ``status``."""

    def answer(asked: Any) -> Any:
        if asked.path == LIST:
            urls = (f"{server.url}/api/v1", other)
            return 200, {}, dumps(EndpointConfig(tuple(map(Endpoint.parse, urls)), ()))
        return (status, {}, b"") if asked.path == REPORTS else (200, {}, b"{}")

    with handmade(answer) as server:
        yield server


def manager_of(url: str, **options: Any) -> EndpointManager:
    manager = EndpointManager([f"{url}/api/v1"], update_interval=0, **options)
    manager.update_endpoints_from_remote()
    return manager


def reports(server: Handmade) -> list[Any]:
    return [json.loads(asked.body) for asked in server.asked if asked.path == REPORTS]


def fail(manager: EndpointManager, url: str, fault: Fault, times: int = 1) -> None:
    with manager._state as state:
        member = state.api.get(url)
        assert member is not None
        for _ in range(times):
            state.api.failed(member, fault, state.clock(), state.clock())


def test_what_happened_since_the_last_report_is_sent() -> None:
    """A report counts outcomes since the last one by endpoint and fault, without local faults."""
    with list_server() as server:
        manager = manager_of(server.url)
        report = manager._lifecycle.tasks.updates.report
        assert updates.EVERY <= report() <= 1.2 * updates.EVERY
        assert reports(server) == []
        with manager.client(start=False) as client:
            for _ in range(3):
                assert client.get("/users", params={"id": "secret"}).status_code == 200
        fail(manager, "https://down.example/api/v1", Fault.TLS, 2)
        fail(manager, "https://down.example/api/v1", Fault.OURS)
        fail(manager, "https://down.example/api/v1", Fault.RESOLVER)
        report()
        down = {"kind": "api", "url": "https://down.example/api/v1", "counts": {"tls": 2}}
        own = {"kind": "api", "url": f"{server.url}/api/v1", "counts": {"ok": 3}}
        assert reports(server) == [{"endpoints": [down, own]}]
        fail(manager, "https://down.example/api/v1", Fault.REFUSED)
        report()
        report()
        assert reports(server)[1:] == [{"endpoints": [{**down, "counts": {"refused": 1}}]}]
        manager.close()


def check(manager: EndpointManager, url: str, fault: Fault | None, times: int = 1) -> None:
    with manager._state as state:
        member = state.api.get(url)
        assert member is not None
        for _ in range(times):
            state.api.probed(member, ProbeResult(fault, 0.1, ""), state.clock(), 1e9)


def test_health_checks_count_like_requests() -> None:
    """A blocked endpoint soon gets no more requests, but the checks go on to fail."""
    down = "https://down.example/api/v1"
    with list_server() as server:
        manager = manager_of(server.url)
        check(manager, down, Fault.CONNECT_TIMEOUT, 5)
        check(manager, down, Fault.RESOLVER)
        check(manager, f"{server.url}/api/v1", None, 2)
        manager._lifecycle.tasks.updates.report()
        assert reports(server)[0]["endpoints"] == [
            {"kind": "api", "url": down, "counts": {"connect-timeout": 5}},
            {"kind": "api", "url": f"{server.url}/api/v1", "counts": {"ok": 2}},
        ]
        manager.close()


def test_failed_checks_do_not_count_while_every_endpoint_is_down() -> None:
    """Then the network of the device may be at fault."""
    down = "https://down.example/api/v1"
    with list_server() as server:
        manager = manager_of(server.url)
        for url in (down, f"{server.url}/api/v1"):
            check(manager, url, Fault.CONNECT_TIMEOUT, 3)
        check(manager, down, Fault.CONNECT_TIMEOUT, 9)
        manager._lifecycle.tasks.updates.report()
        found = {e["url"]: e["counts"] for e in reports(server)[0]["endpoints"]}
        assert found[down] == {"connect-timeout": 3}
        manager.close()


def test_an_endpoint_that_requests_overtake_is_reported(
    scripted_fleet: testing.ScriptedFleet,
) -> None:
    """The other request of a hedge wins, so only the checks show that the endpoint hangs."""
    primary = scripted_fleet.endpoint()
    primary.hang()
    with list_server(other=primary.url) as server:
        policy = Policy(health_timeout=0.3, hedge_delay=0.05)
        with manager_of(server.url, policy=policy) as manager:
            manager.pin(primary.url)
            assert manager.client().get("/users").status_code == 200

            def reported() -> int:
                manager._lifecycle.tasks.updates.report()
                found = [e for each in reports(server) for e in each["endpoints"]]
                counts = [e["counts"] for e in found if e["url"] == primary.url]
                return sum(each.get("read-timeout", 0) for each in counts)

            wait_for(lambda: reported() >= 2, seconds=20)


@pytest.mark.parametrize(
    ("status", "pause"), [(400, 86400), (401, 86400), (404, 86400), (405, 86400), (410, 86400)]
)
def test_a_server_that_takes_no_reports_is_left_alone_for_a_day(status: int, pause: int) -> None:
    """After a 4xx that refuses reports, the client sends none for a day."""
    with list_server(status) as server:
        manager = manager_of(server.url)
        fail(manager, f"{server.url}/api/v1", Fault.TLS)
        assert manager._lifecycle.tasks.updates.report() == pause
        manager.close()


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_report_that_did_not_arrive_is_part_of_the_next_one(status: int) -> None:
    """The counts of a failed report are part of the next one, sent after the usual interval."""
    with list_server(status) as server:
        manager = manager_of(server.url)
        report = manager._lifecycle.tasks.updates.report
        for times in (1, 2):
            fail(manager, f"{server.url}/api/v1", Fault.TLS)
            assert updates.EVERY <= report() <= 1.2 * updates.EVERY
            assert reports(server)[-1]["endpoints"][0]["counts"] == {"tls": times}
        manager.close()


def test_a_token_that_cannot_be_used_is_asked_for_once_a_report() -> None:
    """Without a usable token no report is sent, until the next one is due."""
    with list_server() as server:
        asked: list[int] = []
        manager = manager_of(server.url, token=lambda: "good" if not asked else "")
        asked.append(1)
        fail(manager, f"{server.url}/api/v1", Fault.TLS)
        report = manager._lifecycle.tasks.updates.report
        assert updates.EVERY <= report() <= 1.2 * updates.EVERY
        assert reports(server) == []
        manager.close()


def test_a_report_is_within_the_limits_of_the_server() -> None:
    """Reports stay within the server's limits, failures first, and go to list servers only."""
    with list_server() as server:
        manager = manager_of(server.url)
        urls = [f"https://host{number}.example.com/api/v1" for number in range(200)]
        for url in urls:
            manager.add_api_endpoint(url, 5)
            fail(manager, url, Fault.READ_TIMEOUT, 1)
        fail(manager, urls[150], Fault.READ_TIMEOUT, SERVER_MAX + 6)
        # After a manual edit the list has no server that could receive reports.
        report = manager._lifecycle.tasks.updates.report
        report()
        assert reports(server) == []
        manager._lists.kept = manager._lists.kept._replace(url=f"{server.url}{LIST}")
        for _ in range(9):
            report()
        bodies = [asked.body for asked in server.asked if asked.path == REPORTS]
        assert all(len(body) <= 4096 for body in bodies)
        assert reports(server)[0]["endpoints"][0]["url"] == urls[150]
        total = sum(
            (parse_report(body) for body in bodies), start=parse_report(b'{"endpoints":[]}')
        )
        assert total["api", urls[150], "read-timeout"] == SERVER_MAX + 7
        assert all(total["api", url, "read-timeout"] == 1 for url in urls if url != urls[150])
        manager._lists.kept = manager._lists.kept._replace(url=f"{server.url}/list.json")
        fail(manager, urls[0], Fault.TLS)
        report()
        assert len(reports(server)) == len(bodies)
        manager.close()


def test_nothing_is_reported_by_default() -> None:
    """Without ``report=True`` no report is ever due."""
    for report in (False, True):
        with EndpointManager(["https://a.example"], update_interval=0, report=report) as manager:
            assert ("report" in manager._lifecycle.tasks._works) is report


def test_the_words_are_those_of_the_server() -> None:
    """The server accepts every fault that counts against an endpoint."""
    assert {"ok", *map(str, COUNTED)} == set(FAULTS)
    assert updates.MAX_COUNT == SERVER_MAX


def test_a_running_manager_reports_to_a_real_server(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status of a real server shows the reports of a running manager."""
    monkeypatch.setattr(background, "EVERY", 0.5)
    monkeypatch.setattr(updates, "EVERY", 0.5)
    file = tmp_path / "endpoints.txt"
    with handmade() as api:
        file.write_text(f"ApiList:\n{api.url}\n")
        with running(tmp_path, file, ENDPOINT_REPORTS="1") as server:
            base = f"http://127.0.0.1:{server.port}"

            def seen() -> Any:
                return server.status()["reports"]

            expected = [{"kind": "api", "url": api.url, "counts": {"ok": 1}}]
            quiet = Policy(probe="none")
            with EndpointManager(
                [api.url], config_urls=[base], report=True, policy=quiet
            ) as manager:
                wait_for(lambda: manager.list_source.origin == "remote", seconds=30)
                with manager.client() as client:
                    assert client.get("/x").status_code == 200
                wait_for(lambda: seen() == expected, seconds=30)
            # The workers share the reports that each of them received.
            wait_for(lambda: all(seen() == expected for _ in range(8)), seconds=20)
            assert "Traceback" not in server.log
