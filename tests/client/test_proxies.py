"""Failover, checks and blame behind an HTTP proxy."""

import asyncio
import importlib.util
import socket
import ssl
import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import trustme

from mop_config.client import (
    AsyncEndpointManager,
    AsyncFailoverSocketClient,
    EndpointManager,
    FailoverSocketClient,
    NoEndpointAvailable,
    UpdateFailed,
)
from mop_config.signals import all_endpoints_down, endpoint_down

from ..ports import closed_port
from ..waiting import wait_for
from .driver import Driver
from .fleet import timed
from .handmade import OK, QUICK, Handmade, handmade
from .managers import hearing
from .names import NAME, Names
from .proxy import ForwardProxy, SocksProxy, carry, forward_proxy, socks_proxy
from .socket_server import SocketServer, socket_server
from .test_timeouts import talking

#: Without races, in which the second endpoint would win on a busy machine.
CALM = replace(QUICK, race_delay=5.0)
ONE, TWO = "one.invalid", "two.invalid"
URLS = [f"https://{ONE}", f"https://{TWO}"]
LIST = (
    b'{"api_endpoints": [{"url": "https://two.invalid", "priority": 0}], "socketio_endpoints": []}'
)


@pytest.fixture
def servers(authority: trustme.CA) -> Iterator[tuple[Handmade, Handmade]]:
    """Run two TLS servers whose names only the proxy can resolve."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(ONE, TWO).configure_cert(context)

    def answer(who: bytes) -> Any:
        return lambda asked: (200, {}, LIST if "config" in asked.path else who)

    with handmade(answer(b"one"), context) as one, handmade(answer(b"two"), context) as two:
        yield one, two


def port_of(server: Handmade) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.fixture
def proxy(servers: tuple[Handmade, Handmade]) -> Iterator[ForwardProxy]:
    """Run a proxy that resolves the names of both servers."""
    one, two = servers
    with forward_proxy({ONE: port_of(one), TWO: port_of(two)}) as proxy:
        yield proxy


def behind(kind: str, proxy: str, trust: ssl.SSLContext, **options: Any) -> Driver:
    """Return a driver whose manager uses the proxy."""
    policy = options.pop("policy", CALM)
    return Driver(kind, URLS, policy, verify=trust, of_manager={"proxy": proxy}, **options)


def states(driver: Driver) -> list[str]:
    return [endpoint.state for endpoint in driver.manager.api_endpoints]


class TestTheManagersProxy:
    """The manager's proxy serves checks, updates, and clients without a proxy of their own."""

    def test_names_that_only_the_proxy_looks_up(
        self, kind: str, proxy: ForwardProxy, trust: ssl.SSLContext
    ) -> None:
        """Requests, checks and updates reach names that only the proxy resolves."""
        with httpx2.Client(proxy=proxy.url, verify=trust) as plain:
            assert plain.get(URLS[0]).text == "one"
        with behind(kind, proxy.url, trust) as driver:
            assert driver.get("/").text == "one"
            assert [driver.check(url) for url in URLS] == [True, True]
            assert states(driver) == ["healthy", "healthy"]
            assert driver.update()
            assert [e.url for e in driver.manager.api_endpoints] == URLS[1:]

    def test_a_proxy_of_the_environment(
        self,
        kind: str,
        proxy: ForwardProxy,
        trust: ssl.SSLContext,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """A proxy from the environment serves requests, checks and updates."""
        monkeypatch.setenv("https_proxy", proxy.url)
        with Driver(kind, URLS, CALM, verify=trust) as driver:
            assert [driver.check(url) for url in URLS] == [True, True]
            assert driver.get("/").text == "one"
            assert driver.update()

    def test_an_endpoint_that_the_proxy_cannot_reach(
        self, kind: str, proxy: ForwardProxy, trust: ssl.SSLContext
    ) -> None:
        """The proxy's 502 counts against the endpoint, and even a POST goes to the next one."""
        del proxy.ports[ONE]
        with behind(kind, proxy.url, trust) as driver:
            assert driver.request("POST", "/").text == "two"
            assert states(driver)[0] == "suspect"
            for _ in range(3):
                assert not driver.check(URLS[0])
            assert states(driver)[0] == "unhealthy"
            assert driver.check(URLS[1])

    def test_an_endpoint_that_the_proxy_waits_for(
        self, kind: str, proxy: ForwardProxy, trust: ssl.SSLContext
    ) -> None:
        """If the proxy hangs, a tunnel to the next endpoint opens after the race delay."""
        proxy.hanging = {ONE}
        policy = replace(QUICK, total_timeout=30.0, connect_timeout=1.5, race_delay=0.3)
        for method in ("POST", "GET"):
            with behind(kind, proxy.url, trust, policy=policy) as driver:
                with timed() as took:
                    assert driver.request(method, "/").text == "two"
                assert 0.3 <= took.seconds < 1.4
                assert states(driver) == ["suspect", "healthy"]

    def test_the_dial_has_the_connect_timeout(
        self, kind: str, proxy: ForwardProxy, trust: ssl.SSLContext
    ) -> None:
        """If the proxy hangs for the last endpoint, its tunnel ends after the connect timeout."""
        proxy.hanging = {ONE, TWO}
        policy = replace(QUICK, total_timeout=30.0, connect_timeout=0.5)
        with behind(kind, proxy.url, trust, policy=policy) as driver, timed() as took:
            with pytest.raises(NoEndpointAvailable) as caught:
                driver.get("/")
            assert {trial.fault for trial in caught.value.attempts} == {"connect-timeout"}
        assert 0.5 <= took.seconds < 3

    @pytest.mark.parametrize("head", [b"", b"HTTP/1.1 200 OK\r\n", b"SSH-2.0-OpenSSH\r\n\r\n"])
    def test_a_proxy_that_speaks_no_http(
        self, head: bytes, kind: str, trust: ssl.SSLContext
    ) -> None:
        """An answer that is cut off, or no HTTP, opens no tunnel."""

        def serve(sock: socket.socket) -> None:
            sock.recv(65536)
            sock.sendall(head)

        with (
            talking(serve) as url,
            behind(kind, url, trust) as driver,
        ):
            with pytest.raises(NoEndpointAvailable) as caught:
                driver.get("/")
            assert {trial.fault for trial in caught.value.attempts} == {"refused"}

    def test_an_answer_in_pieces(
        self, kind: str, servers: tuple[Handmade, Handmade], trust: ssl.SSLContext
    ) -> None:
        """The tunnel opens after the whole head of the proxy's answer, however it arrives."""

        def serve(sock: socket.socket) -> None:
            sock.recv(65536)
            for byte in b"HTTP/1.1 200 OK\r\nVia: 1.1 p\r\n\r\n":
                sock.sendall(bytes((byte,)))
            with socket.create_connection(("127.0.0.1", port_of(servers[0]))) as server:
                back = threading.Thread(target=carry, args=(server, sock))
                back.start()
                carry(sock, server)
                back.join()

        with (
            talking(serve) as url,
            behind(kind, url, trust) as driver,
        ):
            assert driver.get("/").text == "one"

    def test_a_warm_spare(
        self,
        kind: str,
        proxy: ForwardProxy,
        servers: tuple[Handmade, Handmade],
        trust: ssl.SSLContext,
    ) -> None:
        """A client keeps its spare connection to the next endpoint behind the proxy as well."""
        policy = replace(CALM, warm_spare=True, hedge_delay=20.0)
        with behind(kind, proxy.url, trust, policy=policy) as driver:
            assert driver.get("/").text == "one"
            wait_for(lambda: driver.get("/").text == "one" and f"{TWO}:443" in proxy.hosts())

    def test_a_slow_answer_is_overtaken(
        self,
        kind: str,
        proxy: ForwardProxy,
        servers: tuple[Handmade, Handmade],
        trust: ssl.SSLContext,
    ) -> None:
        """A hedge goes to another endpoint through the same proxy."""
        ended, answer = threading.Event(), servers[0].answer

        def slow(asked: Any) -> Any:
            ended.wait(5)
            return answer(asked)

        servers[0].answer = slow
        policy = replace(QUICK, hedge_delay=0.3)
        with behind(kind, proxy.url, trust, policy=policy) as driver, timed() as took:
            assert driver.get("/").text == "two"
            ended.set()
        assert took.seconds < 3

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_a_proxy_that_cannot_be_reached(
        self, kind: str, scheme: str, trust: ssl.SSLContext
    ) -> None:
        """An unreachable proxy counts against no endpoint and sends no signal."""
        urls = [f"{scheme}://{ONE}", f"{scheme}://{TWO}"]
        gone = f"http://127.0.0.1:{closed_port()}"
        with (
            hearing(endpoint_down, all_endpoints_down) as heard,
            Driver(kind, urls, QUICK, verify=trust, of_manager={"proxy": gone}) as driver,
        ):
            for _ in range(4):
                with pytest.raises(NoEndpointAvailable) as caught:
                    driver.get("/")
                assert {trial.fault for trial in caught.value.attempts} == {"proxy"}
                assert not driver.check(urls[0])
            assert states(driver) == ["unknown", "unknown"]
            assert heard == []

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_credentials(self, kind: str, scheme: str, trust: ssl.SSLContext) -> None:
        """Checks send the proxy's credentials, and a 407 counts against no endpoint."""
        urls = [f"{scheme}://{ONE}"]
        with (
            handmade(lambda asked: OK) as server,
            forward_proxy({ONE: port_of(server)}, login="user:pass") as proxy,
        ):
            if scheme == "http":
                with Driver(kind, urls, QUICK, of_manager={"proxy": proxy.url}) as driver:
                    assert driver.check(urls[0])
                    assert driver.get("/").text == "ok"
            given = {"proxy": proxy.url.replace("user:pass@", "")}
            with Driver(kind, urls, QUICK, verify=trust, of_manager=given) as driver:
                for _ in range(3):
                    assert not driver.check(urls[0])
                with pytest.raises(NoEndpointAvailable) as caught:
                    driver.get("/")
                assert [trial.fault for trial in caught.value.attempts] == ["proxy"]
                assert states(driver) == ["unknown"]

    def test_an_ipv6_address_has_its_brackets(self, kind: str, trust: ssl.SSLContext) -> None:
        """An IPv6 host is sent to the proxy in brackets."""
        url = "https://[2001:db8::1]"
        with forward_proxy({}) as proxy:
            given = {"proxy": proxy.url}
            with Driver(kind, [url], QUICK, verify=trust, of_manager=given) as driver:
                assert not driver.check(url)
                with pytest.raises(httpx2.TransportError):
                    driver.get("/")
                with pytest.raises(UpdateFailed, match="502"):
                    driver.update()
            assert set(proxy.hosts()) == {"[2001:db8::1]:443"}


class TestSocks:
    """A SOCKS5 proxy opens a tunnel to every endpoint, with TLS or without."""

    @pytest.fixture
    def socks(self, servers: tuple[Handmade, Handmade]) -> Iterator[SocksProxy]:
        one, two = servers
        with socks_proxy({ONE: port_of(one), TWO: port_of(two)}) as proxy:
            yield proxy

    def test_names_that_only_the_proxy_looks_up(
        self, kind: str, socks: SocksProxy, trust: ssl.SSLContext
    ) -> None:
        """Requests, checks and updates reach names that only the proxy resolves."""
        with behind(kind, socks.url, trust) as driver:
            assert driver.get("/").text == "one"
            assert [driver.check(url) for url in URLS] == [True, True]
            assert driver.update()
        assert set(socks.hosts()) == {f"{ONE}:443", f"{TWO}:443"}

    def test_an_endpoint_that_the_proxy_cannot_reach(
        self, kind: str, socks: SocksProxy, trust: ssl.SSLContext
    ) -> None:
        """The proxy's refusal counts against the endpoint, and even a POST goes on."""
        del socks.ports[ONE]
        with behind(kind, socks.url, trust) as driver:
            assert driver.request("POST", "/").text == "two"
            assert states(driver)[0] == "suspect"
            assert not driver.check(URLS[0])

    def test_an_endpoint_that_the_proxy_waits_for(
        self, kind: str, socks: SocksProxy, trust: ssl.SSLContext
    ) -> None:
        """If the proxy hangs, a tunnel to the next endpoint opens after the race delay."""
        socks.hanging = {ONE}
        policy = replace(QUICK, total_timeout=30.0, race_delay=0.3)
        with behind(kind, socks.url, trust, policy=policy) as driver, timed() as took:
            assert driver.get("/").text == "two"
        assert 0.3 <= took.seconds < 1.4

    @pytest.mark.parametrize("given", ["user:pass@", "user:wrong@", ""])
    def test_credentials(self, kind: str, given: str) -> None:
        """The login is sent; a wrong or missing login counts against no endpoint."""
        url = f"http://{ONE}"
        with (
            handmade(lambda asked: OK) as server,
            socks_proxy({ONE: port_of(server)}, login="user:pass") as proxy,
        ):
            of_manager = {"proxy": proxy.url.replace("user:pass@", given)}
            with Driver(kind, [url], QUICK, of_manager=of_manager) as driver:
                if given == "user:pass@":
                    assert driver.check(url)
                    assert driver.get("/").text == "ok"
                    return
                with pytest.raises(NoEndpointAvailable) as caught:
                    driver.get("/")
                assert [trial.fault for trial in caught.value.attempts] == ["proxy"]
                assert not driver.check(url)
                assert states(driver) == ["unknown"]

    @pytest.mark.parametrize("host", ["10.0.0.1", "[2001:db8::1]"])
    def test_an_address(self, host: str, kind: str) -> None:
        """An address of an endpoint reaches the proxy as an address."""
        with (
            handmade(lambda asked: OK) as server,
            socks_proxy({host.strip("[]"): port_of(server)}) as proxy,
            Driver(kind, [f"http://{host}"], QUICK, of_manager={"proxy": proxy.url}) as driver,
        ):
            assert driver.get("/").text == "ok"

    def test_no_socks_at_all(self, kind: str) -> None:
        """A server that answers in another protocol counts against no endpoint."""

        def refuse(sock: socket.socket) -> None:
            sock.recv(65536)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

        with talking(refuse) as url:
            given = {"proxy": url.replace("http:", "socks5:")}
            with Driver(kind, [f"http://{ONE}"], QUICK, of_manager=given) as driver:
                with pytest.raises(NoEndpointAvailable) as caught:
                    driver.get("/")
                assert [trial.fault for trial in caught.value.attempts] == ["proxy"]
                assert states(driver) == ["unknown"]

    def test_without_its_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Without socksio, the error names what to install."""
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        with pytest.raises(ImportError, match=r"pip install 'httpx2\[socks\]'"):
            EndpointManager(proxy="socks5://127.0.0.1")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("https://proxy.example", "must be at http:// or socks5://, not at https://"),
        ("http://proxy.example:abc", "must be a URL: Invalid port: 'abc'"),
        ("ftp://proxy.example", "Unknown scheme"),
    ],
)
def test_a_proxy_that_cannot_be_used(
    url: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a proxy is refused at once, as an argument and in the environment."""
    with pytest.raises(ValueError, match=message):
        EndpointManager(URLS, proxy=url)
    with EndpointManager(URLS) as manager, pytest.raises(ValueError, match=message):
        manager.client(proxy=url)
    for variable in ("https_proxy", "all_proxy"):
        with monkeypatch.context() as patch:
            patch.setenv(variable, url)
            with pytest.raises(ValueError, match=f"^{variable}: .*{message}"):
                EndpointManager(URLS)
            EndpointManager(URLS, trust_env=False).close()


class TestAClientsOwnProxy:
    """A client's own proxy affects that client only."""

    @pytest.mark.parametrize("broken", ["closed", "https", "http"])
    def test_its_failures_do_not_move_the_shared_health(
        self, broken: str, kind: str, names: Names, trust: ssl.SSLContext
    ) -> None:
        """Failures of a client's own proxy do not change the shared health."""
        names.addresses = ["127.0.0.1"]
        with handmade(lambda asked: OK) as server, forward_proxy({}) as proxy:
            url = server.url.replace("127.0.0.1", NAME)
            if broken == "https":
                url = url.replace("http:", "https:")
            own = f"http://127.0.0.1:{closed_port()}" if broken == "closed" else proxy.url
            with (
                hearing(endpoint_down, all_endpoints_down) as heard,
                Driver(kind, [url], QUICK, proxy=own, of_manager={"verify": trust}) as driver,
            ):
                for _ in range(4):
                    if broken == "http":
                        assert driver.get("/").status_code == 502
                    else:
                        with pytest.raises(NoEndpointAvailable):
                            driver.get("/")
                assert states(driver) == ["unknown"]
                assert driver.manager.api_endpoints[0].failure_count == 0
                assert driver.check(url) is (broken != "https")
                assert heard == []

    def test_one_that_goes_directly_is_alone_as_well(
        self, kind: str, proxy: ForwardProxy, names: Names, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Failures of a client with ``proxy=None`` do not change the manager's shared health."""
        monkeypatch.delenv("http_proxy", raising=False)
        names.addresses = ["127.0.0.3"]  # no server listens there
        with handmade(lambda asked: OK) as server:
            proxy.ports[NAME] = port_of(server)
            url = server.url.replace("127.0.0.1", NAME)
            given = {"proxy": proxy.url}
            with Driver(kind, [url], QUICK, proxy=None, of_manager=given) as driver:
                for _ in range(4):
                    with pytest.raises(NoEndpointAvailable):
                        driver.get("/")
                assert states(driver) == ["unknown"]
                assert driver.check(url)
                names.addresses = ["127.0.0.1"]
                assert driver.get("/").text == "ok"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("of", ["environment", "manager"])
def test_no_proxy_is_asked_for_this_machine(
    of: str, host: str, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Requests to loopback hosts bypass the proxy, which would otherwise read the token."""
    with handmade(lambda asked: (200, {}, LIST)) as server, forward_proxy({}) as proxy:
        for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url)
        monkeypatch.delenv("no_proxy", raising=False)
        url = server.url.replace("127.0.0.1", host)
        given: dict[str, Any] = {"token": "secret"}
        given |= {"proxy": proxy.url} if of == "manager" else {}
        with Driver(kind, [url], QUICK, of_manager=given) as driver:
            assert driver.get("/").status_code == 200
            assert driver.check(url)
            driver.update(force=True)
        assert "Bearer secret" in [asked.header("authorization") for asked in server.asked]
        assert proxy.asked == []


def test_no_proxy_is_asked_for_this_machine_over_ipv6(kind: str) -> None:
    """Requests and checks to ::1 bypass the proxy."""
    url = f"http://[::1]:{closed_port()}"
    with forward_proxy({}) as proxy:
        with Driver(kind, [url], QUICK, of_manager={"proxy": proxy.url}) as driver:
            for path in ("/", f"{url}/x"):
                with pytest.raises(httpx2.TransportError):
                    driver.get(path)
            assert not driver.check(url)
        assert proxy.asked == []


@pytest.fixture(scope="module")
def talker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketServer]:
    """Run a Socket.io server."""
    with socket_server(tmp_path_factory.mktemp("sockets"), "t") as server:
        yield server


def talk(kind: str, url: str, transport: str, **options: Any) -> str:
    """Return the name of a Socket.io endpoint, asked by a client of either kind."""
    given = {"policy": QUICK, "update_interval": 0, **options}
    if kind == "sync":
        client = FailoverSocketClient(EndpointManager((), [url], **given))
        client.connect(transports=[transport])
        try:
            return str(client.call("who"))
        finally:
            client.disconnect()

    async def main() -> str:
        client = AsyncFailoverSocketClient(AsyncEndpointManager((), [url], **given))
        await client.connect(transports=[transport])
        try:
            return str(await client.call("who"))
        finally:
            await client.disconnect()

    return asyncio.run(main())


class TestSockets:
    """Socket.io connections follow the same proxy rules."""

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    @pytest.mark.parametrize("of", ["environment", "manager"])
    def test_by_a_proxy(
        self,
        of: str,
        transport: str,
        kind: str,
        talker: SocketServer,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Socket.io connects through the proxy, with its credentials."""
        with forward_proxy({ONE: talker.port}, login="user:pass") as proxy:
            given: dict[str, Any] = {"proxy": proxy.url} if of == "manager" else {}
            if of == "environment":
                monkeypatch.setenv("http_proxy", proxy.url)
            assert talk(kind, f"http://{ONE}", transport, **given) == "t"
            assert proxy.asked

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_by_a_proxy_with_a_name(self, transport: str, kind: str, talker: SocketServer) -> None:
        """The name of the proxy is looked up, and not that of the endpoint."""
        with forward_proxy({ONE: talker.port}) as proxy:
            named = proxy.url.replace("127.0.0.1", "localhost")
            assert talk(kind, f"http://{ONE}", transport, proxy=named) == "t"

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_by_a_proxy_at_an_ipv6_address(
        self, transport: str, kind: str, talker: SocketServer
    ) -> None:
        """A proxy may be at an IPv6 address."""
        with forward_proxy({ONE: talker.port}, host="::1") as proxy:
            assert talk(kind, f"http://{ONE}", transport, proxy=proxy.url) == "t"
            assert proxy.asked

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    @pytest.mark.parametrize("why", ["trust_env", "no_proxy", "loopback"])
    def test_by_none(
        self,
        why: str,
        transport: str,
        kind: str,
        talker: SocketServer,
        names: Names,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """Socket.io bypasses the proxy for ``trust_env=False``, ``no_proxy`` and loopback hosts."""
        names.addresses = ["127.0.0.1"]
        with forward_proxy({}) as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "https_proxy"):
                monkeypatch.setenv(name, proxy.url)
            monkeypatch.setenv("no_proxy", NAME if why == "no_proxy" else "elsewhere.example")
            host = "127.0.0.1" if why == "loopback" else NAME
            url = f"http://{host}:{talker.port}"
            assert talk(kind, url, transport, trust_env=why != "trust_env") == "t"
            assert proxy.asked == []

    def test_a_proxy_that_cannot_be_reached(self, kind: str) -> None:
        """An unreachable proxy counts against no socket endpoint."""
        gone = f"http://127.0.0.1:{closed_port()}"
        with hearing(endpoint_down, all_endpoints_down) as heard:
            for _ in range(3):
                with pytest.raises(NoEndpointAvailable) as caught:
                    talk(kind, f"http://{ONE}", "websocket", proxy=gone)
                assert [trial.fault for trial in caught.value.attempts] == ["proxy"]
            assert heard == []

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_a_proxy_with_another_login(self, transport: str, kind: str) -> None:
        """A 407 of the proxy counts against no socket endpoint."""
        with forward_proxy({}, login="user:pass") as proxy:
            other = proxy.url.replace("pass", "wrong")
            with (
                hearing(endpoint_down, all_endpoints_down) as heard,
                pytest.raises(NoEndpointAvailable) as caught,
            ):
                talk(kind, f"http://{ONE}", transport, proxy=other)
        assert [trial.fault for trial in caught.value.attempts] == ["proxy"]
        assert heard == []

    def test_a_socks_proxy(self, kind: str, talker: SocketServer) -> None:
        """The libraries of Socket.io know no SOCKS, so that ``connect`` raises an error."""
        ports = {ONE: talker.port}
        with (
            socks_proxy(ports) as proxy,
            pytest.raises(ValueError, match="takes no SOCKS proxy: socks5"),
        ):
            talk(kind, f"http://{ONE}", "polling", proxy=proxy.url)

    def test_a_slow_look_up_is_made_once(
        self, kind: str, talker: SocketServer, names: Names
    ) -> None:
        """The engine uses the addresses that the search resolved, with no second look-up."""
        names.addresses, names.seconds = ["127.0.0.1"], 2.5
        with timed() as took:
            assert talk(kind, f"http://{NAME}:{talker.port}", "websocket") == "t"
        assert names.asked == 1
        assert took.seconds < 4.5
