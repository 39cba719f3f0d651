"""The warm spare: one idle connection to the next endpoint, over real sockets."""

import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from mop_config.client import Policy
from mop_config.client.transport._async import connecting as async_connecting
from mop_config.client.transport._async import connections as async_connections
from mop_config.client.transport._sync import connecting as sync_connecting
from mop_config.client.transport._sync import connections as sync_connections

from ..waiting import wait_for
from .driver import Driver
from .fleet import Fleet
from .scripted import scripted
from .test_connections import Leaving
from .test_timeouts import talking

#: Without hedges, which would use the spare on a loaded machine.
WARM = Policy(warm_spare=True, hedge_delay=20.0)
OK = ("200",)


@pytest.fixture(autouse=True)
def _short_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    modules = async_connecting, async_connections, sync_connecting, sync_connections
    for module in modules:
        monkeypatch.setattr(module, "SPARE_PAUSE", 1.0)


def _ask_until(driver: Driver, holds: Callable[[], bool]) -> None:
    """Send requests until a condition holds."""
    deadline = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < deadline, "the condition did not hold in time"
        driver.get("/get")
        time.sleep(0.01)


def _ask_for(driver: Driver, seconds: float) -> None:
    until = time.monotonic() + seconds
    _ask_until(driver, lambda: time.monotonic() >= until)


def _spares(driver: Driver) -> list[Any]:
    """List the open spare connections of a client."""
    pools = list(driver.client._transport._connector.pools.values())
    opened = [each for pool in pools for each in list(pool._open)]
    return [each for each in opened if each.spare_until and not each.users]


def test_a_switch_uses_the_spare_without_a_dial(kind: str) -> None:
    """Only the next endpoint gets a connection, and a dead primary's request uses it."""
    with (
        scripted({"a": OK, "b": OK, "c": OK}) as ([a, b, c], _),
        Driver(kind, [a.url, b.url, c.url], WARM, trust_env=False) as driver,
    ):
        _ask_until(driver, lambda: bool(_spares(driver)))
        wait_for(lambda: b.connections == 1, what="b accepts the spare")
        assert (a.connections, c.connections) == (1, 0)
        a.close()
        assert driver.get("/").extensions["endpoint"] == b.url
        assert b.connections == 1
        assert driver.state(a.url) == "suspect"


def test_a_request_that_meets_the_death_uses_the_spare(kind: str) -> None:
    """A request whose connection is reset moves to the spare connection, too."""
    with (
        scripted({"a": ("200", "reset"), "b": OK}) as ([a, b], asked),
        Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        driver.get("/")
        _ask_until_idle(driver)
        assert driver.get("/").extensions["endpoint"] == b.url
        assert b.connections == 1
        assert asked == ["a", "a", "a", "b"]


def _ask_until_idle(driver: Driver) -> None:
    """Wait for the spare without requests that the script counts."""
    deadline = time.monotonic() + 20
    while not _spares(driver):
        assert time.monotonic() < deadline
        driver.get("/warm")


def test_without_the_policy_there_is_no_spare(kind: str) -> None:
    """The default: clients hold no connections to the backup."""
    with (
        scripted({"a": OK, "b": OK}) as ([a, b], _),
        Driver(kind, [a.url, b.url], Policy(hedge_delay=20.0), trust_env=False) as driver,
    ):
        _ask_for(driver, 1.5)
        assert (a.connections, b.connections) == (1, 0)


def test_a_client_that_closes_closes_its_spare(kind: str) -> None:
    """No connection to the backup stays open."""
    with scripted({"a": OK, "b": OK}) as ([a, b], _):
        with Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver:
            _ask_until(driver, lambda: bool(_spares(driver)))
            wait_for(lambda: b.held == 1, what="b accepts the spare")
        wait_for(lambda: b.held == 0, what="the spare is closed")


def test_a_client_closes_during_the_dial_of_its_spare(kind: str) -> None:
    """A backup whose TLS handshake stands still delays neither requests nor the close."""
    with (
        scripted({"a": OK}) as ([a], _),
        socket.create_server(("127.0.0.1", 0)) as silent,
    ):
        silent.settimeout(10)
        stalled = f"https://127.0.0.1:{silent.getsockname()[1]}"
        policy = Policy(warm_spare=True, connect_timeout=20.0)
        with Driver(kind, [a.url, stalled], policy, trust_env=False) as driver:
            began = time.monotonic()
            driver.get("/")
            driver.get("/")
            peer, _ = silent.accept()
            took = time.monotonic() - began
        assert took < 5
        assert time.monotonic() - began < 5
        peer.close()


def test_a_spare_that_the_server_ends_is_replaced_after_a_pause(kind: str) -> None:
    """There is never more than one spare, and a server that ends it sees no storm of dials."""
    with (
        scripted({"a": OK, "b": OK}) as ([a, b], _),
        Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        _ask_until(driver, lambda: bool(_spares(driver)))
        (first,) = _spares(driver)
        wait_for(lambda: b.held == 1, what="b accepts the spare")
        b.hang_up()
        began = time.monotonic()
        _ask_until(driver, lambda: bool(_spares(driver)) and _spares(driver) != [first])
        assert time.monotonic() - began >= 1.0
        _ask_for(driver, 1.5)
        assert (b.connections, b.held) == (2, 1)


def test_an_old_spare_is_replaced(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A spare does not outlive the memory of a NAT."""
    for module in (async_connecting, sync_connecting):
        monkeypatch.setattr(module, "SPARE_LIFE", 0.2)
    with (
        scripted({"a": OK, "b": OK}) as ([a, b], _),
        Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        _ask_until(driver, lambda: b.connections == 2)
        assert b.held <= 1


def test_an_endpoint_that_failed_gets_no_spare(kind: str) -> None:
    """A backup that is known to fail is left alone."""
    with (
        scripted({"a": OK, "b": ("503",)}) as ([a, b], _),
        Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        assert not driver.check(b.url)
        checked = b.connections
        _ask_for(driver, 1.5)
        assert b.connections == checked


def test_a_spare_that_cannot_be_dialled_blames_nobody(kind: str) -> None:
    """No request needs the spare, so its failure is no failure of the endpoint."""
    with (
        scripted({"a": OK, "b": ("refused",)}) as ([a, b], _),
        Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        _ask_for(driver, 1.5)
        assert driver.state(b.url) == "unknown"


def test_the_spare_follows_the_next_endpoint(kind: str) -> None:
    """After a change of priorities, the old spare is closed and the new one opened."""
    with (
        scripted({"a": OK, "b": OK, "c": OK}) as ([a, b, c], _),
        Driver(kind, [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        _ask_until(driver, lambda: b.held == 1)
        driver.manager.add_api_endpoint(b.url, priority=9)
        driver.manager.add_api_endpoint(c.url, priority=5)
        _ask_until(driver, lambda: c.held == 1)
        wait_for(lambda: b.held == 0, what="the old spare is closed")


def test_a_spare_with_tls_outlives_the_session_tickets(fleet: Fleet, kind: str) -> None:
    """TLS 1.3 makes a new connection readable, which is no sign of its end."""
    a, b = fleet.pair(tls=("127.0.0.1",))
    with Driver(kind, [a.url, b.url], WARM, verify=fleet.trust(), trust_env=False) as driver:
        _ask_until(driver, lambda: bool(_spares(driver)))
        (spare,) = _spares(driver)
        _ask_for(driver, 2.5)
        assert _spares(driver) == [spare]
        a.kill()
        assert driver.get("/get").extensions["endpoint"] == b.url
        assert spare.spare_until == 0.0
        assert spare.pool._open == {spare}


@pytest.mark.parametrize("manner", ["close", "goaway", "reset"])
def test_a_spare_of_http2_that_the_server_ends_is_replaced(kind: str, manner: str) -> None:
    """Unread bytes, such as the server's settings, hide the end neither from a sweep nor a POST."""
    a, b = Leaving("close"), Leaving(manner)
    with (
        talking(a) as primary,
        talking(b) as backup,
        Driver(kind, [primary, backup], WARM, http1=False, http2=True, trust_env=False) as driver,
    ):
        _ask_until(driver, lambda: bool(_spares(driver)))
        (first,) = _spares(driver)
        b.end_connection()
        _ask_until(driver, lambda: bool(_spares(driver)) and _spares(driver) != [first])
        wait_for(lambda: b.connections == 2, what="b accepts the new spare")
        b.end_connection()
        driver.manager.pin(backup)
        answer = driver.request("POST", "/", content=b"x")
        assert (answer.text, answer.extensions["endpoint"]) == ("ok", backup)
        assert b.connections == 3


def test_many_threads_open_one_spare(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the sweeps of many threads at the same time, one opens the spare."""
    monkeypatch.setattr(sync_connecting, "SWEEP_INTERVAL", 0.0)
    keep, together = sync_connecting.Connector._keep_spare, threading.Barrier(16)

    def at_once(
        connector: sync_connecting.Connector, pool: sync_connections.EndpointPool, now: float
    ) -> None:
        together.wait(20)
        keep(connector, pool, now)

    with (
        scripted({"a": OK, "b": OK}) as ([a, b], _),
        Driver("sync", [a.url, b.url], WARM, trust_env=False) as driver,
    ):
        with monkeypatch.context() as patched:
            patched.setattr(sync_connecting.Connector, "_keep_spare", at_once)
            answers = driver.at_once(16, "/get")
        assert {answer.status_code for answer in answers} == {200}
        _ask_until(driver, lambda: bool(_spares(driver)))
        assert len(_spares(driver)) == 1
        wait_for(lambda: b.connections == 1, what="b accepts the spare")


def test_a_spare_of_http2_is_shared(fleet: Fleet, kind: str) -> None:
    """An HTTP/2 server sends its settings at once, which is no sign of an end either."""
    a = fleet.add("a", tls=("127.0.0.1",), http2=True)
    b = fleet.add("b", tls=("127.0.0.1",), http2=True)
    options: dict[str, Any] = {"verify": fleet.trust(), "http2": True, "trust_env": False}
    with Driver(kind, [a.url, b.url], WARM, **options) as driver:
        pools = driver.client._transport._connector.pools
        _ask_until(driver, lambda: len(pools) == 2 and all(p._open for p in pools.values()))
        _ask_for(driver, 1.5)
        (spare,) = next(pool for pool in pools.values() if pool.member.url == b.url)._open
        a.kill()
        assert driver.get("/get").extensions["endpoint"] == b.url
        assert spare.spare_until == 0.0
        assert spare.pool._open == {spare}
