"""Hosts with many addresses or slow DNS look-ups take no longer than with plain httpx2."""

import contextlib
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx2
import pytest
import trustme

from mop_config.client import EndpointManager, NoEndpointAvailable, Policy, UpdateFailed

from ..waiting import wait_for
from .driver import Driver
from .fleet import Timed, black_hole, timed
from .handmade import OK, handmade
from .managers import quiet
from .names import NAME, Names


class SlowTls:
    """A TLS server that delays each handshake, for any number of concurrent connections.

    Attributes:
        seconds: Delay before each TLS handshake, in seconds.
        accepted: Local address of each accepted connection, in order.
    """

    def __init__(
        self, tls: ssl.SSLContext, seconds: float, host: str = "0.0.0.0", port: int = 0
    ) -> None:
        self.seconds = seconds
        self.accepted: list[str] = []
        self._tls = tls
        self._listener = socket.create_server((host, port), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        self._spawn(self._accept)

    def _spawn(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self.accepted.append(sock.getsockname()[0])
                self._spawn(self._serve, sock)

    def _serve(self, plain: socket.socket) -> None:
        with plain, contextlib.suppress(OSError):
            if self._ended.wait(self.seconds):
                return
            plain.settimeout(20)
            with self._tls.wrap_socket(plain, server_side=True) as sock:
                while (request := sock.recv(65536)) and not self._ended.is_set():
                    assert request.endswith(b"\r\n\r\n")
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    def close(self) -> None:
        """Stop the server."""
        self._ended.set()
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(0.01)


@pytest.fixture
def slow(authority: trustme.CA) -> Iterator[SlowTls]:
    """Run a server on every loopback address that delays the TLS handshake by 0.4 s."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    server = SlowTls(context, 0.4)
    yield server
    server.close()


def plain(url: str, trust: ssl.SSLContext) -> Timed:
    """Measure how long plain httpx2 takes for the same request."""
    with httpx2.Client(verify=trust) as client, timed() as took:
        assert client.get(url).text == "ok"
    return took


@pytest.mark.parametrize(("count", "seconds"), [(6, 0.4), (12, 0.2), (12, 1.2)])
def test_many_addresses_that_are_all_slow(
    count: int,
    seconds: float,
    kind: str,
    names: Names,
    slow: SlowTls,
    trust: ssl.SSLContext,
) -> None:
    """Each address gets the whole connect timeout for TCP and TLS, not a share of the timeout."""
    names.addresses = [f"127.0.0.{number}" for number in range(1, count + 1)]
    slow.seconds = seconds
    url = f"https://{NAME}:{slow.port}"
    expected = plain(url, trust)
    with Driver(kind, [url], verify=trust) as driver, timed() as took:
        assert driver.get("/").text == "ok"
        assert driver.state(url) == "healthy"
    assert took.seconds < expected.seconds + 1.0


def test_checks_and_updates_give_each_address_the_whole_time(
    names: Names, slow: SlowTls, trust: ssl.SSLContext
) -> None:
    """A health check and an update each give six slow addresses the whole connect timeout."""
    names.addresses = [f"127.0.0.{number}" for number in range(1, 7)]
    url = f"https://{NAME}:{slow.port}"
    manager = quiet(url, verify=trust, policy=Policy(health_timeout=2.0, connect_timeout=1.0))
    assert manager.check_endpoint_health(url)
    with pytest.raises(UpdateFailed) as caught:
        manager.update_endpoints_from_remote(url)
    assert caught.value.cause == "invalid"  # the server answers "ok", which is no list


@pytest.mark.alone
def test_a_broken_first_address_costs_a_quarter_second_once(
    kind: str, names: Names, authority: trustme.CA, trust: ssl.SSLContext
) -> None:
    """After 250 ms the client dials the next address too, and later dials that address first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(NAME).configure_cert(context)
    server = SlowTls(context, 0.0, "127.0.0.2")
    with contextlib.closing(server), black_hole(server.port) as port:
        assert port == server.port
        names.addresses = ["127.0.0.1", "127.0.0.2"]
        url = f"https://{NAME}:{port}"
        limits = httpx2.Limits(max_keepalive_connections=0)
        with Driver(kind, [url], verify=trust, limits=limits) as driver:
            with timed() as first:
                assert driver.get("/").text == "ok"
            assert 0.2 < first.seconds < 0.25 + 0.5
            with timed() as later:
                for _ in range(4):
                    assert driver.get("/").text == "ok"
            assert later.seconds < 0.5
            with timed() as check:
                driver.check(url)
            assert check.seconds < 0.25, "the manager's checks know the address too"


def test_families_take_turns(kind: str, names: Names, slow: SlowTls, trust: ssl.SSLContext) -> None:
    """Dials alternate between IPv6 and IPv4, so six dead IPv6 addresses cost one race delay."""
    dead = [f"2001:db8::{number}" for number in range(1, 7)]
    names.addresses = [*dead, "127.0.0.1"]
    slow.seconds = 0.0
    url = f"https://{NAME}:{slow.port}"
    with Driver(kind, [url], verify=trust) as driver, timed() as took:
        assert driver.get("/").text == "ok"
    assert took.seconds < 0.25 + 0.5


class TestSlowLookUps:
    """A slow DNS look-up does not count as an outage of the endpoint."""

    def test_a_late_look_up_is_awaited_while_there_is_time(self, kind: str, names: Names) -> None:
        """A look-up may take longer than the connect timeout of two seconds, as in httpx2."""
        names.addresses, names.seconds = ["127.0.0.1"], 3.0
        with handmade(lambda asked: OK) as server:
            url = server.url.replace("127.0.0.1", NAME)
            with Driver(kind, [url]) as driver, timed() as took:
                assert driver.get("/").text == "ok"
                assert driver.state(url) == "healthy"
            assert 2.9 < took.seconds < 4

    def test_its_result_serves_the_next_ones(self, kind: str, names: Names) -> None:
        """A late look-up result is cached, and later slow look-ups delay no request."""
        names.addresses, names.seconds = ["127.0.0.1"], 30.0
        limits = httpx2.Limits(max_keepalive_connections=0)
        with handmade(lambda asked: OK) as server:
            url = server.url.replace("127.0.0.1", NAME)
            with Driver(kind, [url], Policy(total_timeout=1.5), limits=limits) as driver:
                with pytest.raises(NoEndpointAvailable) as caught:
                    driver.get("/")
                assert [trial.fault for trial in caught.value.attempts] == ["resolver"]
                names.answer.set()
                wait_until_known()
                names.answer.clear()
                asked = names.asked
                with timed() as took:
                    for _ in range(4):
                        assert driver.get("/").text == "ok"
                        assert driver.check(url)
                assert took.seconds < 2
                assert names.asked > asked, "it is looked up all the same"

    @pytest.mark.parametrize("code", [socket.EAI_AGAIN, socket.EAI_NONAME])
    def test_the_last_addresses_serve_while_look_ups_fail(
        self, code: int, kind: str, names: Names
    ) -> None:
        """Requests and checks use the last known addresses while look-ups fail."""
        names.addresses = ["127.0.0.1"]
        limits = httpx2.Limits(max_keepalive_connections=0)
        with handmade(lambda asked: OK) as server:
            url = server.url.replace("127.0.0.1", NAME)
            with Driver(kind, [url], limits=limits) as driver:
                assert driver.get("/").text == "ok"
                names.addresses = socket.gaierror(code, "no")
                assert driver.get("/").text == "ok"
                assert driver.check(url)
                assert driver.state(url) == "healthy"

    def test_a_new_address_is_found_beside_the_last_ones(self, kind: str, names: Names) -> None:
        """An address that a late look-up finds joins the dial race."""
        names.addresses = ["127.0.0.1"]
        limits = httpx2.Limits(max_keepalive_connections=0)
        with handmade(lambda asked: OK) as server:
            url = server.url.replace("127.0.0.1", NAME)
            with Driver(kind, [url], limits=limits) as driver:
                names.addresses = ["127.0.0.3"]  # no server listens at this address
                with pytest.raises(NoEndpointAvailable):
                    driver.get("/")
                names.addresses, names.seconds = ["127.0.0.1"], 0.5
                assert driver.get("/").text == "ok"

    def test_another_endpoint_is_not_held_up(self, kind: str, names: Names) -> None:
        """The client dials the next endpoint after the race delay while a look-up hangs."""
        names.addresses, names.seconds = ["127.0.0.1"], 5.0
        with handmade(lambda asked: OK) as server, handmade(lambda asked: OK) as other:
            url = server.url.replace("127.0.0.1", NAME)
            with Driver(kind, [url, other.url]) as driver, timed() as took:
                assert driver.get("/").extensions["endpoint"] == other.url
            assert took.seconds < 1.0

    def test_a_shorter_time_out_of_the_request_holds(self, kind: str, names: Names) -> None:
        """A request timeout of 0.5 s ends a look-up that takes longer."""
        names.addresses, names.seconds = ["127.0.0.1"], 5.0
        with (
            Driver(kind, [f"http://{NAME}"]) as driver,
            timed() as took,
            pytest.raises(NoEndpointAvailable),
        ):
            driver.get("/", timeout=0.5)
        assert took.seconds < 1.5

    def test_a_longer_time_out_of_the_request_ends_a_look_up(self, kind: str, names: Names) -> None:
        """A request timeout above the connect timeout ends a look-up that takes longer, too."""
        names.addresses, names.seconds = ["127.0.0.1"], 20.0
        with (
            Driver(kind, [f"http://{NAME}"], Policy(connect_timeout=0.5)) as driver,
            timed() as took,
            pytest.raises(NoEndpointAvailable) as caught,
        ):
            driver.get("/", timeout=1.0)
        names.answer.set()
        assert 0.9 < took.seconds < 5
        assert [trial.fault for trial in caught.value.attempts] == ["resolver"]

    def test_a_late_look_up_of_a_check_may_be_the_networks(self, names: Names) -> None:
        """A check whose look-up times out records the fault ``resolver`` and counts no failure."""
        names.addresses, names.seconds = ["127.0.0.1"], 5.0
        manager: EndpointManager = quiet(
            f"http://{NAME}", "http://127.0.0.1:9", policy=Policy(health_timeout=0.3)
        )
        assert not manager.check_endpoint_health(f"http://{NAME}")
        assert manager.api_endpoints[0].last_fault == "resolver"
        assert manager.api_endpoints[0].failure_count == 0


def wait_until_known() -> None:
    """Wait until the thread of the abandoned look-up has ended."""
    wait_for(lambda: "mop-config-resolve" not in {thread.name for thread in threading.enumerate()})
