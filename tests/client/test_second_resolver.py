"""A second resolver of the application, for a system resolver that is late, fails or lies."""

import asyncio
import contextlib
import json
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest
import trustme

from mop_config.client import EndpointManager, NoEndpointAvailable
from mop_config.net.resolver import Resolver

from ..servers import ROOT
from .driver import Driver
from .fleet import timed
from .handmade import MISSING, OK, Answer, Asked, handmade
from .managers import quiet
from .names import NAME, Names
from .test_addresses import SlowTls

#: Keeps no connection, so that every request dials.
FRESH = httpx2.Limits(max_keepalive_connections=0)


def presenting(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


@pytest.fixture
def true(authority: trustme.CA) -> Iterator[SlowTls]:
    """Run the genuine service at 127.0.0.1."""
    with contextlib.closing(SlowTls(presenting(authority, NAME), 0.0, "127.0.0.1")) as server:
        yield server


@pytest.fixture
def liar(authority: trustme.CA, true: SlowTls, names: Names) -> Iterator[SlowTls]:
    """Run a server with a wrong certificate at 127.0.0.2, which the system's resolver returns."""
    context = presenting(authority, "blocked.example")
    with contextlib.closing(SlowTls(context, 0.0, "127.0.0.2", true.port)) as server:
        names.addresses = ["127.0.0.2"]
        yield server


class Second:
    """A second resolver that returns fixed addresses and records the hosts."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = addresses
        self.asked: list[str] = []

    def __call__(self, host: str) -> list[str]:
        self.asked.append(host)
        return list(self.addresses)


def driver_of(kind: str, url: str, trust: Any, second: Any, **more: Any) -> Driver:
    of_manager = {"resolver": second, **more}
    return Driver(kind, [url], verify=trust, limits=FRESH, of_manager=of_manager)


def test_a_resolver_that_lies(
    kind: str, true: SlowTls, liar: SlowTls, trust: ssl.SSLContext
) -> None:
    """A wrong certificate leads to the second resolver, once for requests, checks and updates."""
    second = Second("127.0.0.1")
    url = f"https://{NAME}:{true.port}"
    with driver_of(kind, url, trust, second) as driver:
        assert driver.get("/").text == "ok"
        assert driver.state(url) == "healthy"
        assert (second.asked, liar.accepted) == ([NAME], ["127.0.0.2"])
        assert driver.get("/").text == "ok"
        assert driver.check(url)
        assert (second.asked, liar.accepted) == ([NAME], ["127.0.0.2"])


def test_without_the_second_one_a_lie_is_a_fault(
    kind: str, true: SlowTls, liar: SlowTls, trust: ssl.SSLContext
) -> None:
    second = Second("127.0.0.1")
    url = f"https://{NAME}:{true.port}"
    with (
        driver_of(kind, url, trust, second, resolve="system") as driver,
        pytest.raises(NoEndpointAvailable) as caught,
    ):
        driver.get("/")
    assert [attempt.fault for attempt in caught.value.attempts] == ["tls"]
    assert second.asked == []


def test_two_resolvers_that_lie(
    kind: str, true: SlowTls, liar: SlowTls, trust: ssl.SSLContext
) -> None:
    url = f"https://{NAME}:{true.port}"
    with (
        driver_of(kind, url, trust, Second("127.0.0.2")) as driver,
        pytest.raises(NoEndpointAvailable) as caught,
    ):
        driver.get("/")
    assert [attempt.fault for attempt in caught.value.attempts] == ["tls"]


@pytest.mark.parametrize("code", [socket.EAI_NONAME, socket.EAI_AGAIN])
def test_a_resolver_that_fails(kind: str, names: Names, code: int) -> None:
    names.addresses = socket.gaierror(code, "no")
    with handmade(lambda asked: OK) as server:
        url = server.url.replace("127.0.0.1", NAME)
        with driver_of(kind, url, ssl.create_default_context(), Second("127.0.0.1")) as driver:
            assert driver.get("/").text == "ok"


def test_a_resolver_that_is_late(kind: str, names: Names) -> None:
    """The second resolver is called beside the first one after a quarter of a second."""
    names.addresses, names.seconds = ["127.0.0.1"], 20.0
    second = Second("127.0.0.1")
    with handmade(lambda asked: OK) as server:
        url = server.url.replace("127.0.0.1", NAME)
        with (
            driver_of(kind, url, ssl.create_default_context(), second) as driver,
            timed() as took,
        ):
            assert driver.get("/").text == "ok"
        assert 0.25 <= took.seconds < 2
    assert second.asked == [NAME]


def test_a_resolver_that_is_right_is_asked_alone(kind: str, names: Names) -> None:
    """A refused connection does not lead to the second resolver."""
    names.addresses = ["127.0.0.1"]
    second = Second("127.0.0.1")
    with handmade(lambda asked: OK) as server:
        url = server.url.replace("127.0.0.1", NAME)
        with driver_of(kind, url, ssl.create_default_context(), second) as driver:
            assert driver.get("/").text == "ok"
            names.addresses = ["127.0.0.3"]  # no server listens there
            with pytest.raises(NoEndpointAvailable):
                driver.get("/")
    assert second.asked == []


def later(host: str) -> Any:
    async def found() -> list[str]:
        await asyncio.sleep(0.01)
        return ["::1", "127.0.0.1"]

    return found()


def test_a_coroutine_function(kind: str, names: Names) -> None:
    names.addresses = socket.gaierror(socket.EAI_NONAME, "no")
    with handmade(lambda asked: OK) as server:
        url = server.url.replace("127.0.0.1", NAME)
        with driver_of(kind, url, ssl.create_default_context(), later) as driver:
            assert driver.get("/").text == "ok"


def broken(host: str) -> list[str]:
    raise RuntimeError("no network")


@pytest.mark.parametrize(
    ("second", "reason"),
    [
        (broken, "RuntimeError: no network"),
        (
            lambda host: ["other.example"],
            "'other.example' does not appear to be an IPv4 or IPv6 address",
        ),
        (lambda host: None, "TypeError"),
        (lambda host: [], "it returned no address"),
        (
            lambda host: ["127.0.0.1", "junk"],
            "'junk' does not appear to be an IPv4 or IPv6 address",
        ),
    ],
)
def test_a_second_one_that_fails_too(
    names: Names, second: Callable[[str], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    """If both resolvers fail, the fault is the first one's, and the log names the second one's."""
    names.addresses = socket.gaierror(socket.EAI_NONAME, "no")
    caplog.set_level("INFO")
    manager = quiet(f"http://{NAME}", resolver=second)
    assert not manager.check_endpoint_health(f"http://{NAME}")
    assert manager.api_endpoints[0].last_fault == "no-such-host"
    assert f"the second look-up of {NAME} failed: " in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"resolver": "1.1.1.1"}, TypeError, "resolver must be a function, not '1.1.1.1'"),
        ({"resolve": "mine"}, ValueError, "resolve must be system or custom-second, not 'mine'"),
    ],
)
def test_what_is_no_resolver(options: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        EndpointManager(["https://a.example"], **options)


def test_look_ups_of_the_second_one_are_shared() -> None:
    """Concurrent look-ups of one name share a single call of the second resolver."""
    go, second = threading.Event(), Second("10.0.0.1")

    def slow(host: str) -> list[str]:
        assert go.wait(10)
        return second(host)

    resolver = Resolver(second=Resolver(slow))
    assert resolver.second is not None
    futures = [resolver.second.resolve(NAME) for _ in range(20)]
    go.set()
    assert {tuple(future.result(10)) for future in futures} == {("10.0.0.1",)}
    assert second.asked == [NAME]


def test_the_recipe_for_dns_over_https(
    true: SlowTls,
    liar: SlowTls,
    authority: trustme.CA,
    trust: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The DNS-over-HTTPS recipe in docs/client.md works against a local resolver."""
    page = (ROOT / "docs" / "client.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```python\n")]
    (block,) = [block for block in blocks if "def dns_over_https" in block]
    recipe = block.partition("\nwith EndpointManager")[0]
    ca = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(ca))
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))

    def answer(asked: Asked) -> Answer:
        url = urlsplit(asked.path)
        if url.path != "/dns-query" or asked.header("accept") != "application/dns-json":
            return MISSING
        question = parse_qs(url.query)
        assert question["name"] == [NAME]
        found: list[dict[str, Any]] = [{"type": 5, "data": "alias.example."}]
        if question["type"] == ["A"]:
            found.append({"type": 1, "data": "127.0.0.1"})
        return 200, {}, json.dumps({"Status": 0, "Answer": found}).encode()

    with handmade(answer, presenting(authority, "127.0.0.1")) as server:
        made: dict[str, Any] = {}
        exec(recipe.replace("https://config.example.com", server.url), made)
        with contextlib.closing(made["dns"]):
            url = f"https://{NAME}:{true.port}"
            manager = quiet(url, verify=trust, resolver=made["dns_over_https"])
            assert manager.check_endpoint_health(url)
    assert len(server.asked) == 2
    assert liar.accepted == ["127.0.0.2"]
