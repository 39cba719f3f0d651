"""``mop_config.client.testing``: the helpers for tests of applications."""

import asyncio
import contextlib
import importlib.metadata
import pickle
import subprocess
import sys
from collections.abc import Iterator
from configparser import ConfigParser
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import httpx2
import pytest
import requests

from mop_config.client import AsyncEndpointManager, EndpointManager, NoEndpointAvailable, Policy
from mop_config.client.pool.failover import Failover, RetryTraits
from mop_config.client.pool.member import RACE_MOST, race_delay
from mop_config.client.testing import ScriptedFleet, turn_clock
from mop_config.net.faults import Fault

from ..servers import ROOT
from .handmade import NOBODY


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    with ScriptedFleet() as fleet:
        yield fleet


def still(fleet_urls: list[str], policy: Policy | None = None) -> EndpointManager:
    """Return a manager that runs no checks or updates in the background."""
    manager = EndpointManager(fleet_urls, policy=policy, verify=NOBODY, update_interval=0)
    manager.close()
    return manager


def urls(fleet: ScriptedFleet, count: int) -> list[str]:
    return [endpoint.url for endpoint in fleet.endpoints(count)]


# -- the endpoints


def test_an_endpoint_answers_as_it_is_told(fleet: ScriptedFleet) -> None:
    endpoint = fleet.endpoint()
    assert requests.get(endpoint.url, timeout=5).status_code == 200
    endpoint.answer(body='{"a": 1}', path="/users")
    endpoint.answer(503, "later", headers={"Retry-After": "3"})
    assert requests.get(f"{endpoint.url}/users?page=2", timeout=5).json() == {"a": 1}
    response = requests.post(f"{endpoint.url}/other", data=b"x", timeout=5)
    assert (response.status_code, response.text) == (503, "later")
    assert response.headers["Retry-After"] == "3"
    assert requests.head(endpoint.url, timeout=5).content == b""
    first, second, third, _ = endpoint.requests
    assert (first.method, second.path) == ("GET", "/users?page=2")
    assert (third.method, third.body, third.headers["content-length"]) == ("POST", b"x", "1")


def test_an_endpoint_refuses_an_upload_in_chunks(fleet: ScriptedFleet) -> None:
    endpoint = fleet.endpoint()
    with contextlib.closing(HTTPConnection(endpoint.url.removeprefix("http://"))) as connection:
        connection.request("POST", "/", headers={"Transfer-Encoding": "chunked"})
        assert connection.getresponse().status == 411
    assert endpoint.requests == []


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"status": "200"}, TypeError),
        ({"status": None}, TypeError),
        ({"status": 99}, ValueError),
        ({"status": 100}, ValueError),
        ({"status": 1000}, ValueError),
        ({"body": None}, TypeError),
        ({"body": 5}, TypeError),
        ({"path": "users"}, ValueError),
        ({"path": "/users?page=2"}, ValueError),
    ],
)
def test_an_answer_that_cannot_be_sent(
    fleet: ScriptedFleet, answer: dict[str, Any], error: type[Exception]
) -> None:
    """The line of the test raises; the endpoint keeps its last answer."""
    endpoint = fleet.endpoint()
    endpoint.answer(503)
    with pytest.raises(error, match=r"^(status|body|path) must|not supported between"):
        endpoint.answer(**answer)
    assert requests.get(endpoint.url, timeout=5).status_code == 503


def test_an_endpoint_that_refuses_breaks_its_connections(fleet: ScriptedFleet) -> None:
    """``refuse`` breaks open connections, and ``answer`` listens at the same port again."""
    endpoint = fleet.endpoint()
    with requests.Session() as session:
        session.get(endpoint.url, timeout=5)
        endpoint.refuse()
        with pytest.raises(requests.ConnectionError):
            session.get(endpoint.url, timeout=5)
        endpoint.refuse()
        endpoint.answer(201)
        assert session.get(endpoint.url, timeout=5).status_code == 201


def test_an_endpoint_that_hangs_answers_nothing(fleet: ScriptedFleet) -> None:
    endpoint = fleet.endpoint()
    endpoint.hang()
    with pytest.raises(requests.ReadTimeout):
        requests.get(endpoint.url, timeout=0.2)
    endpoint.answer()
    assert requests.get(endpoint.url, timeout=5).status_code == 200
    endpoint.refuse()
    endpoint.hang()  # the refusing endpoint listens again
    with pytest.raises(requests.ReadTimeout):
        requests.get(endpoint.url, timeout=0.2)


def test_an_endpoint_that_dies_in_the_body(fleet: ScriptedFleet) -> None:
    endpoint = fleet.endpoint()
    endpoint.die_in_body(b"half of this")
    with pytest.raises(requests.exceptions.ChunkedEncodingError):
        requests.get(endpoint.url, timeout=5)


@pytest.mark.parametrize("failure", ["refuse", "hang", "die_in_body"])
def test_a_client_goes_on_to_the_next_endpoint(fleet: ScriptedFleet, failure: str) -> None:
    first, second = fleet.endpoints(2)
    second.answer(body="from the second")
    getattr(first, failure)()
    with still([first.url, second.url], Policy(hedge_delay=0.1)).client(start=False) as client:
        assert client.get("/users").text == "from the second"


# -- the clock


def test_the_clock_brings_requests_back_to_a_primary_that_has_recovered(
    fleet: ScriptedFleet,
) -> None:
    primary, backup = fleet.endpoints(2)
    manager = still([primary.url, backup.url])
    with manager.client(start=False) as client:
        primary.refuse()
        client.get("/")
        assert manager.get_current_api_url() == backup.url
        turn_clock(manager, 3600)
        assert [e.state for e in manager.api_endpoints] == ["unhealthy", "healthy"]
        primary.answer()
        for _ in range(int(Policy().max_backoff) + 5):
            if manager.api_endpoints[0].state != "healthy":  # the time of its checks is random
                turn_clock(manager, 1)
        assert [e.state for e in manager.api_endpoints] == ["healthy", "healthy"]
        assert manager.get_current_api_url() == backup.url
        turn_clock(manager, Policy().min_dwell)
        assert manager.get_current_api_url() == primary.url
        assert client.get("/").extensions["endpoint"] == primary.url


def test_a_day_of_health_checks_takes_a_moment(fleet: ScriptedFleet) -> None:
    """``turn_clock`` runs a day of health checks, one each five minutes, without waiting."""
    endpoint = fleet.endpoint()
    turn_clock(still([endpoint.url]), 86400)
    checks = [request.path for request in endpoint.requests]
    assert set(checks) == {"/health"}
    assert 262 <= len(checks) <= 322


def test_the_clock_turns_for_a_manager_that_runs(fleet: ScriptedFleet) -> None:
    """``turn_clock`` works with a running manager, whose threads make some of the checks."""
    primary, backup = fleet.endpoints(2)
    primary.refuse()
    with EndpointManager([primary.url, backup.url], verify=NOBODY, update_interval=0) as manager:
        turn_clock(manager, 600)
        assert [e.state for e in manager.api_endpoints] == ["unhealthy", "healthy"]
        primary.answer()
        turn_clock(manager, 90)
        assert manager.get_current_api_url() == primary.url


@pytest.mark.parametrize("seconds", [-1, float("nan"), float("inf")])
def test_a_clock_turns_forward_by_a_finite_time(fleet: ScriptedFleet, seconds: float) -> None:
    """Any other time is refused."""
    with (
        still(urls(fleet, 1)) as manager,
        pytest.raises(ValueError, match=f"seconds must be 0 or more, not {seconds}"),
    ):
        turn_clock(manager, seconds)


def test_a_busy_endpoint_is_asked_again_when_its_time_is_over(fleet: ScriptedFleet) -> None:
    first, second = fleet.endpoints(2)
    manager = still([first.url, second.url])
    first.answer(429, headers={"Retry-After": "60"})
    first.answer(path="/health")
    with manager.client(start=False) as client:
        client.get("/")
        assert manager.get_current_api_url() == second.url
        turn_clock(manager, 59)
        assert manager.get_current_api_url() == second.url
        turn_clock(manager, 2)
        assert manager.get_current_api_url() == first.url


def test_a_check_that_a_failed_request_asks_for_waits_by_the_turned_clock(
    fleet: ScriptedFleet,
) -> None:
    """Of the checks that failed requests ask for, each waits for a second after the last one."""
    endpoint = fleet.endpoint()
    endpoint.answer(503)
    endpoint.answer(path="/health")
    manager = still([endpoint.url])

    def state_after(seconds: float) -> str:
        turn_clock(manager, seconds)
        return manager.api_endpoints[0].state

    with manager.client(start=False) as client:
        for pause in (0.0, 60.0):
            turn_clock(manager, pause)
            client.get("/")
            assert state_after(0) == "healthy"
            client.get("/")
            assert state_after(0) == "suspect"
            assert state_after(1) == "healthy"


def test_what_was_measured_lately_is_forgotten_in_time(fleet: ScriptedFleet) -> None:
    """The hedge delay and the race delay forget measurements older than five minutes."""
    endpoint = fleet.endpoint()
    manager = still([endpoint.url])
    with manager.client(start=False) as client:
        for _ in range(30):
            client.get("/")
        state = manager._state
        (member,) = state.api.members()
        traits = RetryTraits.of("GET", replayable=True, keyed=False)

        def hedge_delay() -> float:
            return Failover(traits, state.api, state.budget, state.clock()).hedge_after

        assert hedge_delay() < 1
        turn_clock(manager, 301)
        assert hedge_delay() == 1
        assert len(member.dials) == 1
        assert race_delay(member.dials, state.clock()) == RACE_MOST


def test_asyncio(fleet: ScriptedFleet) -> None:
    primary, backup = fleet.endpoints(2)
    primary.refuse()

    async def main() -> str | None:
        async with (
            AsyncEndpointManager([primary.url, backup.url], verify=NOBODY) as manager,
            manager.client() as client,
        ):
            await client.get("/users")
            primary.answer()
            await asyncio.to_thread(turn_clock, manager, 90)
            return manager.get_current_api_url()

    assert asyncio.run(main()) == primary.url


# -- the exception


def test_no_endpoint_available_can_be_raised_by_a_test() -> None:
    assert NoEndpointAvailable().attempts == ()
    error = NoEndpointAvailable([("https://a.example", "refused", 0.25)])
    assert str(error) == "no endpoint is available: https://a.example: refused after 0.250 s"
    assert error.attempts[0].fault is Fault.REFUSED
    assert isinstance(error, httpx2.TransportError)
    assert pickle.loads(pickle.dumps(error)).attempts == error.attempts


# -- the plugin


def test_the_readmes_test_passes_with_the_plugin(tmp_path: Path) -> None:
    """The README's test passes with the pytest plugin, without imports or configuration."""
    readme = (ROOT / "README.md").read_text()
    (block,) = [part.split("```")[0] for part in readme.split("```python\n") if "def test_" in part]
    body = block.partition("def test_")[2].splitlines()
    assert len(body) <= 10
    (tmp_path / "test_app.py").write_text(block)
    config = ConfigParser()
    config.read(ROOT / "setup.cfg")
    assert config["options.entry_points"]["pytest11"].strip() == (
        "mop_config = mop_config.pytest_plugin"
    )
    installed = {point.name for point in importlib.metadata.entry_points(group="pytest11")}
    # An older installation lacks the entry point.
    plugin = [] if "mop_config" in installed else ["-p", "mop_config.pytest_plugin"]
    plugin += ["-p", "no:schemathesis"]  # as in setup.cfg
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *plugin, "test_app.py"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert "1 passed" in done.stdout, done.stdout + done.stderr


def test_the_plugin_loads_no_client_by_itself() -> None:
    """The plugin does not import the client, since every pytest run in the environment loads it."""
    code = (
        "import sys, mop_config.pytest_plugin\n"
        "sys.exit(any(name in sys.modules for name in ('httpx2', 'flask', 'mop_config.client')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
