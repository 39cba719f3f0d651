"""Requests through the pool to real servers: addresses, bodies, redirects, options."""

import contextlib
import io
import os
import ssl
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import pytest

from mop_config.client import EndpointManager, NoEndpointAvailable, Policy
from mop_config.client.transport._sync.transport import FailoverTransport
from mop_config.health.probe import Prober
from mop_config.model.endpoint import Endpoint
from mop_config.net.connect import DialOptions

from ..ports import closed_port
from ..servers import ENDPOINTS
from .driver import Driver
from .fleet import Backend, Fleet, fleet_in, silence, timed
from .handmade import NOBODY, OK, Answer, Asked, handmade, wire
from .scripted import scripted

#: Delays that are too long for a hedge or a second dial, so that each request is alone.
ALONE = Policy(hedge_delay=20.0, race_delay=20.0)


@dataclass
class Servers:
    """The servers that the tests of this module share."""

    fleet: Fleet
    plain: Backend
    other: Backend
    secure: Backend
    http2: Backend


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    """Run servers with HTTP, with TLS for a name and for the address, and with HTTP/2."""
    with fleet_in(tmp_path_factory.mktemp("fleet")) as fleet:
        yield Servers(
            fleet,
            fleet.add("plain"),
            fleet.add("other"),
            fleet.add("secure", tls=("api.example.com",)),
            fleet.add("http2", tls=("127.0.0.1",), http2=True),
        )


def _named(backend: Backend) -> Endpoint:
    return Endpoint(backend.url, 0, "api.example.com")


# -- where a request goes


def test_a_relative_url_goes_to_the_current_endpoint_under_its_path(
    servers: Servers, kind: str
) -> None:
    """The request carries the endpoint's path prefix, the query and the endpoint's Host."""
    with Driver(kind, [servers.plain.url]) as driver:
        told = driver.get("/users/7", params={"a": "b c"}).json()
    assert told["path"] == "/api/v1/users/7"
    assert told["query"] == "a=b+c"
    assert told["host"] == f"127.0.0.1:{servers.plain.port}"


@pytest.mark.parametrize("path", ["users", "/users", "", "/", "a%2Fb", "/ü", "/*"])
def test_every_form_of_a_relative_url_keeps_the_prefix(
    servers: Servers, kind: str, path: str
) -> None:
    """Any relative URL keeps the prefix: with or without a slash, empty, escaped, not ASCII."""
    with Driver(kind, [servers.plain.url]) as driver:
        told = driver.get(path).json()
    assert told["path"].startswith("/api/v1/")


def test_the_answer_says_which_endpoint_gave_it(servers: Servers, kind: str) -> None:
    """``response.extensions["endpoint"]`` is the URL of the endpoint that answered."""
    with Driver(kind, [servers.plain.url]) as driver:
        assert driver.get("/").extensions["endpoint"] == servers.plain.url


def test_an_absolute_url_of_another_host_passes_untouched(servers: Servers, kind: str) -> None:
    """A request to another host gets no prefix and does not touch the pool."""
    with Driver(kind, [servers.plain.url]) as driver:
        told = driver.get(f"http://127.0.0.1:{servers.other.port}/elsewhere").json()
        assert driver.state(servers.plain.url) == "unknown"
    assert told["server"] == "other"
    assert told["path"] == "/elsewhere"


def test_another_hosts_failure_is_not_an_endpoints(servers: Servers, kind: str) -> None:
    """A failure of another host raises httpx2's error and blames no endpoint."""
    with Driver(kind, [servers.plain.url]) as driver:
        with pytest.raises(httpx2.ConnectError):
            driver.get(f"http://127.0.0.1:{closed_port()}/")
        assert driver.state(servers.plain.url) == "unknown"


# -- TLS


def test_server_name_makes_an_ip_endpoint_verify(servers: Servers, kind: str) -> None:
    """SNI, certificate check and Host use the server name; the connection uses the address."""
    with Driver(kind, [_named(servers.secure)], verify=servers.fleet.trust()) as driver:
        told = driver.get("/").json()
    assert told["host"] == f"api.example.com:{servers.secure.port}"


def test_a_certificate_for_another_name_is_refused_and_the_next_endpoint_asked(
    servers: Servers, kind: str
) -> None:
    """A wrong certificate blames its endpoint, and even a POST goes to the next one."""
    endpoints = [servers.secure.url, servers.http2.url]
    with Driver(kind, endpoints, verify=servers.fleet.trust()) as driver:
        assert driver.request("POST", "/", content=b"x").json()["server"] == "http2"
        assert driver.state(servers.secure.url) == "suspect"


def test_a_certificate_of_an_unknown_authority_is_refused(servers: Servers, kind: str) -> None:
    """A certificate of an authority that the system does not trust is a TLS fault."""
    with Driver(kind, [servers.http2.url]) as driver:
        with pytest.raises(NoEndpointAvailable) as caught:
            driver.get("/")
        assert [trial.fault for trial in caught.value.attempts] == ["tls"]


def _unverified() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _nameless() -> ssl.SSLContext:
    context = ssl.create_default_context()
    context.check_hostname = False
    return context


@pytest.mark.parametrize("verify", [False, _unverified(), _nameless()])
def test_certificate_verification_cannot_be_turned_off(kind: str, verify: object) -> None:
    """Verification cannot be turned off, by ``verify=False`` or by a context without checks."""
    with pytest.raises(ValueError, match="never turned off"):
        Driver(kind, ["https://a.example"], verify=verify)


def test_two_endpoints_of_one_address_keep_their_connections_apart(
    servers: Servers, kind: str
) -> None:
    """A connection that was verified for one name is not used for another."""
    wrong = Endpoint(servers.secure.url, 0, "other.example.com")
    right = _named(servers.secure)
    with Driver(kind, [right], verify=servers.fleet.trust()) as driver:
        driver.get("/")
        with driver.manager._state as core:
            core.api.replace([wrong], core.clock())
        with pytest.raises(NoEndpointAvailable):
            driver.get("/")


def test_http2_is_still_spoken_after_a_health_check(servers: Servers, kind: str) -> None:
    """A health check, which offers HTTP/1.1, does not change the ALPN of the shared context."""
    trust = servers.fleet.trust()
    endpoint = servers.http2.url
    with Driver(kind, [endpoint], verify=trust, http2=True) as driver:
        assert Prober(DialOptions(trust, 5.0)).check("api", Endpoint(endpoint)).fault is None
        assert driver.get("/users").http_version == "HTTP/2"


def test_http2_is_spoken_where_it_was_asked_for(servers: Servers, kind: str) -> None:
    """The client speaks HTTP/2 only with ``http2=True``."""
    for http2, version in ((True, "HTTP/2"), (False, "HTTP/1.1")):
        trust = servers.fleet.trust()
        with Driver(kind, [servers.http2.url], verify=trust, http2=http2) as driver:
            answers = [driver.get("/"), *driver.at_once(8, "/x")]
        assert {answer.http_version for answer in answers} == {version}


# -- bodies


def test_a_body_can_be_streamed_as_it_comes(servers: Servers, kind: str) -> None:
    """A streamed body arrives in parts while the server still sends."""
    began = time.perf_counter()
    times: list[float] = []
    parts: list[bytes] = []

    def each(part: bytes) -> bool:
        times.append(time.perf_counter() - began)
        parts.append(part)
        return True

    with Driver(kind, [servers.plain.url]) as driver:
        driver.stream("/stream", each)
    assert b"".join(parts) == b"".join(b"%d\n" % number for number in range(20))
    assert times[-1] - times[0] > 0.2


def test_a_stream_that_is_left_early_speaks_against_nobody(servers: Servers, kind: str) -> None:
    """A stream that the application closes early does not blame the endpoint."""
    with Driver(kind, [servers.plain.url]) as driver:
        driver.stream("/stream", lambda part: False)
        assert driver.state(servers.plain.url) == "healthy"


def test_a_get_survives_an_endpoint_that_dies_in_a_body(servers: Servers, kind: str) -> None:
    """A GET whose body breaks off is sent to the next endpoint."""
    with (
        scripted({"first": ("half",)}) as ([first], _),
        Driver(kind, [first.url, servers.other.url]) as driver,
    ):
        assert driver.who() == "other"
        assert driver.state(first.url) == "suspect"


def test_an_endpoint_that_dies_in_a_stream_has_failed(servers: Servers, kind: str) -> None:
    """A stream that breaks off raises and blames the endpoint, since a part was delivered."""
    parts: list[bytes] = []

    def each(part: bytes) -> bool:
        parts.append(part)
        return True

    with (
        scripted({"first": ("half",)}) as ([first], _),
        Driver(kind, [first.url, servers.other.url]) as driver,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            driver.stream("/", each)
        assert parts == [b"only this"]
        assert driver.state(first.url) == "suspect"
        assert driver.who() == "other"


def test_a_post_is_not_repeated_for_a_body_that_breaks_off(servers: Servers, kind: str) -> None:
    """A POST whose response body breaks off raises, because the server has executed the POST."""
    with (
        scripted({"first": ("half",)}) as ([first], _),
        Driver(kind, [first.url, servers.other.url]) as driver,
    ):
        with pytest.raises(httpx2.RemoteProtocolError):
            driver.request("POST", "/", content=b"x")
        assert driver.state(first.url) == "suspect"
        assert driver.who() == "other"


def test_uploads_arrive_whole(servers: Servers, kind: str) -> None:
    """Bytes, a generator and a form with a file of a few megabytes arrive complete."""
    big = b"0123456789abcdef" * (1 << 18)
    with Driver(kind, [servers.plain.url]) as driver:
        assert driver.request("PUT", "/", content=big).json()["length"] == len(big)
        once = driver.body(lambda: iter([big, big]))
        assert driver.request("PUT", "/", content=once).json()["length"] == 2 * len(big)
        files = {"file": io.BytesIO(big)}
        assert driver.request("POST", "/", files=files).json()["length"] > len(big)


def test_a_form_with_a_file_is_sent_once(servers: Servers, kind: str) -> None:
    """An unsent form goes to the next endpoint, and is not sent again after a reset."""
    with (
        scripted({"first": ("reset",)}) as ([first], asked),
        Driver(kind, [first.url, servers.plain.url]) as driver,
    ):
        with pytest.raises(httpx2.TransportError):
            driver.request("PUT", "/", files={"file": io.BytesIO(b"contents")})
        assert asked == ["first"]
        first.close()
        driver.manager.pin(first.url)
        told = driver.request("PUT", "/", files={"file": io.BytesIO(b"contents")}).json()
    assert told["server"] == "plain"
    assert "contents" in told["body"]


def test_an_error_in_the_applications_own_body_is_the_applications(
    servers: Servers, kind: str
) -> None:
    """An exception from the request's body is raised unchanged and blames no endpoint."""

    def parts() -> Iterator[bytes]:
        yield b"some"
        raise ConnectionResetError("the file server is gone")

    with Driver(kind, [servers.plain.url, servers.other.url]) as driver:
        with pytest.raises(ConnectionResetError, match="file server"):
            driver.request("PUT", "/", content=driver.body(parts))
        assert driver.state(servers.plain.url) == "unknown"
        assert driver.state(servers.other.url) == "unknown"


# -- redirects and cookies


@pytest.mark.parametrize(
    "to",
    [
        "target",
        "/api/v1/target",
        "http://SELF/api/v1/target",
        "//SELF/api/v1/target",
        "?../",
    ],
)
def test_a_redirect_to_the_endpoint_itself_stays_in_the_pool(
    servers: Servers, kind: str, to: str
) -> None:
    """A redirect to the endpoint itself becomes a URL of the pool, so any endpoint can serve it."""
    with Driver(kind, [servers.plain.url, servers.other.url]) as driver:
        answer = driver.get(f"/redirect?to={to}")
        assert answer.status_code == 302
        onward = answer.next_request
        assert onward is not None
        assert onward.url.host == "endpoint.invalid"
        if to != "?../":
            assert onward.url.path == "/target"
            driver.manager.remove_endpoint(servers.plain.url)
            told = driver.get(str(onward.url)).json()
            assert (told["server"], told["path"]) == ("other", "/api/v1/target")


def test_redirects_are_followed_through_the_pool(servers: Servers, kind: str) -> None:
    """A redirect within the service is followed with the Authorization header."""
    headers = {"Authorization": "Bearer secret"}
    with Driver(kind, [servers.plain.url], follow_redirects=True) as driver:
        told = driver.get("/redirect?to=http://SELF/api/v1/target", headers=headers).json()
    assert told["path"] == "/api/v1/target"
    assert told["authorization"] == "Bearer secret"


@pytest.mark.parametrize("to", ["/outside", "../../outside"])
def test_a_redirect_beside_the_prefix_goes_to_the_endpoints_own_host(
    servers: Servers, kind: str, to: str
) -> None:
    """A redirect outside the path prefix goes to the endpoint's host, without Authorization."""
    headers = {"Authorization": "Bearer secret"}
    with Driver(kind, [servers.plain.url], follow_redirects=True) as driver:
        told = driver.get(f"/redirect?to={to}", headers=headers).json()
    assert told["path"] == "/outside"
    assert told["authorization"] == ""


@pytest.mark.parametrize("raw", ["/中".encode(), b"/\xe9", b"/x?q=\xe4\xb8\xad"])
@pytest.mark.parametrize(
    ("start", "prefix", "token"),
    [
        (b"/api/v1", "/api/v1", "Bearer secret"),
        (b"http://HOST/api/v1", "/api/v1", "Bearer secret"),
        (b"/other", "/other", None),
        (b"http://HOST/other", "/other", None),
    ],
)
def test_a_location_outside_ascii_is_read_as_httpx_reads_it(
    kind: str, raw: bytes, start: bytes, prefix: str, token: str | None
) -> None:
    """A Location with raw UTF-8 or Latin-1 stays in the pool, or leaves it, as any other."""

    def answer(asked: Asked) -> Answer:
        if asked.path != "/api/v1/old":
            return OK
        location = start.replace(b"HOST", asked.headers["host"].encode()) + raw
        return 302, {"Location": location.decode("latin-1")}, b""

    headers = {"Authorization": "Bearer secret"}
    with (
        handmade(answer) as server,
        Driver(kind, [f"{server.url}/api/v1"], follow_redirects=True, verify=NOBODY) as driver,
    ):
        driver.get("/old", headers=headers).raise_for_status()
        _, followed = server.asked
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")
    assert followed.path == prefix + quote(text, safe="/?=")
    assert followed.header("Authorization") == token


def test_a_redirect_to_another_host_takes_no_token_along(servers: Servers, kind: str) -> None:
    """A redirect to another host is followed without the Authorization header."""
    to = f"http://127.0.0.1:{servers.other.port}/api/v1/target"
    headers = {"Authorization": "Bearer secret"}
    with Driver(kind, [servers.plain.url], follow_redirects=True) as driver:
        told = driver.get(f"/redirect?to={to}", headers=headers).json()
    assert told["server"] == "other"
    assert told["authorization"] == ""


def test_a_redirect_from_https_to_http_takes_no_token_along(servers: Servers, kind: str) -> None:
    """A redirect from https to http is followed without the Authorization header."""
    headers = {"Authorization": "Bearer secret"}
    to = f"http://127.0.0.1:{servers.plain.port}/api/v1/target"
    trust = servers.fleet.trust()
    with Driver(kind, [servers.http2.url], verify=trust, follow_redirects=True) as driver:
        told = driver.get(f"/redirect?to={to}", headers=headers).json()
    assert told["server"] == "plain"
    assert told["authorization"] == ""


def test_cookies_are_kept_over_a_switch(servers: Servers, kind: str) -> None:
    """Cookies of the host and of its domain are sent to the next endpoint, for all paths."""
    with Driver(kind, [servers.plain.url, servers.other.url]) as driver:
        driver.get("/cookies")
        driver.manager.remove_endpoint(servers.plain.url)
        told = driver.get("/").json()
    assert told["server"] == "other"
    assert sorted(told["cookie"].split("; ")) == [
        "below=3",
        "beside=6",
        "domain=2",
        "parent=5",
        "plain=1",
        "prefix=4",
    ]


def test_a_cookie_that_was_set_as_secure_is_never_sent_in_clear(
    servers: Servers, kind: str
) -> None:
    """An endpoint without TLS then gets no cookie; the next one with TLS gets all again."""
    cookies = {"secret": "1; Path=/; HttpOnly; SECURE", "plain": "2; Path=/"}

    def answer(asked: Asked) -> Answer:
        name = asked.path.removeprefix("/login/")
        return 200, {"Set-Cookie": f"{name}={cookies[name]}"} if name in cookies else {}, b""

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.fleet.authority.issue_cert("127.0.0.1").configure_cert(context)
    with (
        handmade(answer, context) as tls,
        handmade(answer) as clear,
        Driver(kind, [tls.url, clear.url], ALONE, verify=servers.fleet.trust()) as driver,
    ):
        for name in cookies:
            driver.get(f"/login/{name}")
        for url in (clear.url, tls.url):
            driver.manager.pin(url)
            driver.get("/after")
        driver.manager.pin(clear.url)
        driver.request("POST", "/login/secret", headers={"Cookie": "secret=3"})
        driver.get("/again")
    assert [asked.header("Cookie") for asked in clear.asked] == [None, None, None]
    assert set((tls.asked[-1].header("Cookie") or "").split("; ")) == {"secret=1", "plain=2"}


# -- options


def test_timeout_bounds_each_attempt(servers: Servers, kind: str) -> None:
    """A PUT that is not answered within the timeout goes to the next endpoint."""
    with (
        silence() as port,
        Driver(kind, [f"http://127.0.0.1:{port}", servers.plain.url], timeout=0.4) as driver,
    ):
        with timed() as took:
            assert driver.request("PUT", "/", content=b"x").json()["server"] == "plain"
        assert 0.39 < took.seconds < 3


def test_the_total_bounds_all_attempts(kind: str) -> None:
    """``total_timeout`` bounds all attempts together, for GET and PUT."""
    with silence() as one, silence() as two, silence() as three:
        urls = [f"http://127.0.0.1:{port}" for port in (one, two, three)]
        policy = Policy(total_timeout=2.0, hedge_delay=0.2)
        for method in ("GET", "PUT"):
            with (
                Driver(kind, urls, policy) as driver,
                timed() as took,
                pytest.raises(NoEndpointAvailable),
            ):
                driver.request(method, "/")
            assert 1.99 < took.seconds < 5


def test_the_pools_limits_hold_and_a_full_pool_is_nobodys_fault(
    servers: Servers, kind: str
) -> None:
    """A full connection pool raises PoolTimeout and blames no endpoint."""
    options: dict[str, Any] = {
        "limits": httpx2.Limits(max_connections=1),
        "timeout": httpx2.Timeout(5, pool=0.1),
    }
    with Driver(kind, [servers.plain.url, servers.other.url], **options) as driver:
        results = driver.at_once(3, "/stream")
        failures = [type(result) for result in results if isinstance(result, Exception)]
        assert failures == [httpx2.PoolTimeout] * 2
        assert driver.state(servers.plain.url) == "healthy"
        assert driver.state(servers.other.url) == "unknown"


@pytest.mark.parametrize("status", ["502", "429+"])
def test_a_bad_answer_holds_no_connection_that_the_next_attempt_needs(
    kind: str, status: str
) -> None:
    """A bad answer frees its connection, and is returned if no endpoint has a better one."""
    limits = httpx2.Limits(max_connections=1)
    with (
        scripted({"bad": (status,), "good": ("200",)}) as ([bad, good], _),
        Driver(kind, [bad.url, good.url], limits=limits) as driver,
        timed() as took,
    ):
        assert driver.get("/users").status_code == 200
    assert took.seconds < 2
    with (
        scripted({"bad": (status,), "worse": ("503",)}) as ([bad, worse], _),
        Driver(kind, [bad.url, worse.url], limits=limits) as driver,
    ):
        answer = driver.get("/users")
        assert (answer.status_code, answer.extensions["endpoint"]) == (503, worse.url)
        assert answer.text == "ok"


def test_a_proxy_of_the_environment_is_used_for_endpoints_and_other_hosts(
    servers: Servers, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A proxy of the environment is used, except for ``no_proxy`` or ``trust_env=False``."""
    with scripted({"proxy": ("200",)}) as ([proxy], asked):
        monkeypatch.setenv("http_proxy", proxy.url)
        monkeypatch.setenv("no_proxy", "localhost")
        with Driver(kind, ["http://service.invalid/api/v1"]) as driver:
            assert driver.get("/users").text == "ok"
            assert driver.get("http://elsewhere.invalid/x").text == "ok"
            assert driver.get(f"http://localhost:{servers.plain.port}/y").json()["path"] == "/y"
        with Driver(kind, [servers.plain.url], trust_env=False) as driver:
            assert driver.who() == "plain"
        assert len(asked) == 2
        first, second = proxy.requests
        assert first.startswith(b"GET http://service.invalid:80/api/v1/users HTTP/1.1")
        assert b"Host: service.invalid\r\n" in first
        assert second.startswith(b"GET http://elsewhere.invalid/x HTTP/1.1")


def test_a_proxy_that_is_named_is_used(kind: str) -> None:
    """``proxy=`` is used with its credentials."""
    with scripted({"proxy": ("200",)}) as ([proxy], _):
        url = proxy.url.replace("//", "//user:pass@")
        with Driver(kind, ["http://service.invalid"], proxy=url) as driver:
            assert driver.get("/users").text == "ok"
        assert b"Proxy-Authorization: Basic dXNlcjpwYXNz" in proxy.requests[0]


# -- when nothing works


def test_without_endpoints_there_is_a_typed_error(kind: str) -> None:
    """A request without endpoints raises NoEndpointAvailable, which is a TransportError."""
    with Driver(kind, []) as driver:
        with pytest.raises(httpx2.TransportError, match="the list is empty") as caught:
            driver.get("/")
        assert isinstance(caught.value, NoEndpointAvailable)
        assert caught.value.attempts == ()
        assert caught.value.request.url.path == "/"


def test_the_error_tells_of_every_attempt(kind: str) -> None:
    """NoEndpointAvailable lists URL, fault and seconds of each attempt."""
    urls = [f"http://127.0.0.1:{closed_port()}" for _ in range(3)]
    with Driver(kind, urls) as driver, pytest.raises(NoEndpointAvailable) as caught:
        driver.get("/")
    assert sorted(trial.url for trial in caught.value.attempts) == sorted(urls)
    assert {trial.fault for trial in caught.value.attempts} == {"refused"}
    assert all(0 <= trial.seconds < 2 for trial in caught.value.attempts)


# -- threads, sockets, forks


def test_a_warm_request_makes_no_thread(servers: Servers, kind: str) -> None:
    """A request, even with a new connection to an address, starts no thread."""
    made: list[threading.Thread] = []
    began = threading.Thread.start

    def start(thread: threading.Thread) -> None:
        made.append(thread)
        began(thread)

    with Driver(kind, [servers.plain.url]) as driver, pytest.MonkeyPatch.context() as patch:
        patch.setattr(threading.Thread, "start", start)
        for _ in range(5):
            driver.get("/")
    assert made == []


def test_a_kept_connection_is_used_again(kind: str) -> None:
    """Ten requests use one connection."""
    with scripted({"only": ("200",)}) as ([only], _):
        with Driver(kind, [only.url]) as driver:
            for _ in range(10):
                driver.get("/")
        assert only.connections == 1


def test_a_fork_does_not_share_its_parents_connections(servers: Servers) -> None:
    """After a fork, parent and child use separate connections."""
    with Driver("sync", [servers.plain.url]) as driver:
        driver.get("/")
        child = os.fork()
        if child == 0:
            good = False
            with contextlib.suppress(BaseException):
                good = all(driver.who() == "plain" for _ in range(20))
            os._exit(0 if good else 1)
        assert all(driver.who() == "plain" for _ in range(20))
        assert os.waitpid(child, 0)[1] == 0


def test_a_transport_works_without_a_managers_client(servers: Servers) -> None:
    """FailoverTransport works in an httpx2.Client with the transport's base URL."""
    with Driver("sync", [servers.plain.url]) as driver:
        transport = FailoverTransport(driver.manager)
        with httpx2.Client(transport=transport, base_url=transport.base_url) as client:
            assert client.get("/users").json()["path"] == "/api/v1/users"


def test_requests_checks_and_updates_come_from_the_local_address() -> None:
    """``local_address`` of a manager applies to its health checks and updates, too."""
    with handmade(lambda asked: (200, {}, wire([server.url]))) as server:
        manager = EndpointManager(
            [server.url],
            config_urls=[server.url],
            allow_http_lists=True,
            local_address="127.0.0.9",
            trust_env=False,
        )
        with manager, manager.client() as client:
            assert client.get("/users").status_code == 200
            assert manager.check_endpoint_health(server.url)
            manager.update_endpoints_from_remote()
        assert {"/users", "/health", ENDPOINTS} <= set(server.paths)
        assert {asked.client for asked in server.asked} == {"127.0.0.9"}
