"""Behind a proxy: the same failover, the same checks, and the blame where it belongs."""

import asyncio
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
from .driver import Driver
from .fleet import timed
from .handmade import OK, QUICK, Handmade, handmade
from .managers import hearing
from .names import NAME, Names
from .proxy import ForwardProxy, forward_proxy
from .socket_server import SocketServer, socket_server

ONE, TWO = "one.invalid", "two.invalid"
URLS = [f"https://{ONE}", f"https://{TWO}"]
LIST = (
    b'{"api_endpoints": [{"url": "https://two.invalid", "priority": 0}], "socketio_endpoints": []}'
)


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the certificates."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """A context that trusts it."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture
def servers(authority: trustme.CA) -> Iterator[tuple[Handmade, Handmade]]:
    """Two servers with TLS, which only a proxy finds by their names."""
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
    """A proxy that knows both."""
    one, two = servers
    with forward_proxy({ONE: port_of(one), TWO: port_of(two)}) as proxy:
        yield proxy


def behind(kind: str, proxy: str, trust: ssl.SSLContext, **options: Any) -> Driver:
    """A client whose manager goes by a proxy."""
    policy = options.pop("policy", QUICK)
    return Driver(kind, URLS, policy, verify=trust, of_manager={"proxy": proxy}, **options)


def states(driver: Driver) -> list[str]:
    return [endpoint.state for endpoint in driver.manager.api_endpoints]


class TestTheManagersProxy:
    """It decides for checks and updates, and for clients that name none."""

    def test_names_that_only_the_proxy_looks_up(
        self, kind: str, proxy: ForwardProxy, trust: ssl.SSLContext
    ) -> None:
        """Requests, checks and updates reach them, as plain httpx2 does."""
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
        """Likewise."""
        monkeypatch.setenv("https_proxy", proxy.url)
        with Driver(kind, URLS, QUICK, verify=trust) as driver:
            assert [driver.check(url) for url in URLS] == [True, True]
            assert driver.get("/").text == "one"
            assert driver.update()

    def test_an_endpoint_that_the_proxy_cannot_reach(
        self, kind: str, proxy: ForwardProxy, trust: ssl.SSLContext
    ) -> None:
        """Its 502 counts against that endpoint: requests go to the next, a POST too."""
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
        """A POST moves after the time for connecting, a GET after the hedge's delay."""
        proxy.hanging = {ONE}
        policy = replace(QUICK, total_timeout=30.0, connect_timeout=1.5, hedge_delay=0.3)
        with behind(kind, proxy.url, trust, policy=policy) as driver:
            with timed() as post:
                assert driver.request("POST", "/").text == "two"
            assert 1.4 < post.seconds < 3
        with behind(kind, proxy.url, trust, policy=policy) as driver:
            with timed() as get:
                assert driver.get("/").text == "two"
            assert get.seconds < 1.4

    def test_a_slow_answer_is_overtaken(
        self,
        kind: str,
        proxy: ForwardProxy,
        servers: tuple[Handmade, Handmade],
        trust: ssl.SSLContext,
    ) -> None:
        """Another endpoint is asked besides through the same proxy."""
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
        """It counts against no endpoint, and is no alarm."""
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
        """Checks show them too; a proxy that wants others counts against no endpoint."""
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
                if scheme == "https":
                    with pytest.raises(httpx2.TransportError):
                        driver.get("/")
                assert states(driver) == ["unknown"]

    def test_an_ipv6_address_has_its_brackets(self, kind: str, trust: ssl.SSLContext) -> None:
        """A proxy takes no other form."""
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


class TestAClientsOwnProxy:
    """It changes that client alone."""

    @pytest.mark.parametrize("broken", ["closed", "https", "http"])
    def test_its_failures_do_not_move_the_shared_health(
        self, broken: str, kind: str, names: Names, trust: ssl.SSLContext
    ) -> None:
        """Whatever it does to requests: others still go where they went."""
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
        """Its failures are its own: checks go by the manager's proxy."""
        monkeypatch.delenv("http_proxy", raising=False)
        names.addresses = ["127.0.0.3"]  # where nobody listens
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
    """It would read the token; requests and checks go directly too."""
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
    """Neither for an endpoint nor for another host; there is nobody, which only we can tell."""
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
    """A Socket.io server."""
    with socket_server(tmp_path_factory.mktemp("sockets"), "t") as server:
        yield server


def talk(kind: str, url: str, transport: str, **options: Any) -> str:
    """Ask a Socket.io endpoint for its name, by either client."""
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
    """Socket.io goes by the same rule."""

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
        """To a name that only the proxy looks up, with its credentials."""
        with forward_proxy({ONE: talker.port}, login="user:pass") as proxy:
            given: dict[str, Any] = {"proxy": proxy.url} if of == "manager" else {}
            if of == "environment":
                monkeypatch.setenv("http_proxy", proxy.url)
            assert talk(kind, f"http://{ONE}", transport, **given) == "t"
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
        """Where the environment is not to count, or excepts the host."""
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
        """It counts against no endpoint."""
        gone = f"http://127.0.0.1:{closed_port()}"
        with hearing(endpoint_down, all_endpoints_down) as heard:
            for _ in range(3):
                with pytest.raises(NoEndpointAvailable) as caught:
                    talk(kind, f"http://{ONE}", "websocket", proxy=gone)
                assert [trial.fault for trial in caught.value.attempts] == ["proxy"]
            assert heard == []

    def test_a_slow_look_up_is_made_once(
        self, kind: str, talker: SocketServer, names: Names
    ) -> None:
        """The engine connects to what the search has found."""
        names.addresses, names.seconds = ["127.0.0.1"], 2.5
        with timed() as took:
            assert talk(kind, f"http://{NAME}:{talker.port}", "websocket") == "t"
        assert names.asked == 1
        assert took.seconds < 4.5
