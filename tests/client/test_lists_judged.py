"""Limits on the contents of a list: server names, plain http, and the number of endpoints."""

import asyncio
import json
import socket
import ssl
import threading
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import trustme

from mop_config.client import (
    AsyncEndpointManager,
    EndpointManager,
    Policy,
    UpdateFailed,
    UpdateRefused,
)
from mop_config.model.jws import SigningKey

from ..ports import closed_port
from ..waiting import wait_for
from .handmade import NOBODY, OK, QUICK, Answer, Asked, handmade, named, urls, wire
from .test_update_real import manager_of, serves

A = "https://a.example"
NEW = "https://api-new-primary.example.com"


class Twin:
    """One interface to the sync and the async manager."""

    def __init__(self, kind: type[EndpointManager | AsyncEndpointManager]) -> None:
        self.kind = kind

    def of(self, api: list[str], **options: Any) -> Any:
        """Make a manager that fetches no list on its own."""
        usual = {"policy": QUICK, "verify": NOBODY, "update_interval": 0, "trust_env": False}
        return self.kind(api, **{**usual, **options})

    def update(self, manager: Any, fallback: str | None) -> Any:
        """Update the list, even if none of its endpoints is healthy."""
        called = manager.update_endpoints_from_remote(fallback, force=True)
        return called if isinstance(manager, EndpointManager) else asyncio.run(_wait(called))


async def _wait(called: Any) -> Any:
    return await called


TWINS = [
    pytest.param(Twin(EndpointManager), id="sync"),
    pytest.param(Twin(AsyncEndpointManager), id="async"),
]


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The certificate authority that signs the server certificates."""
    return trustme.CA()


def presenting(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    """Make a server context with a certificate for these names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


def trusting(authority: trustme.CA) -> ssl.SSLContext:
    """Make a client context that trusts only this authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def listed(*api: dict[str, Any], **more: Any) -> str:
    """Return the JSON of a list of API endpoints."""
    return json.dumps({"api_endpoints": list(api), "socketio_endpoints": [], **more})


class TestServerNames:
    """``server_name``, the name on the certificate of an IP address."""

    def test_a_list_gives_none_to_a_host_name(self, caplog: pytest.LogCaptureFixture) -> None:
        """A list or QR code cannot set ``server_name`` for a host name; the log names the entry."""
        entry = {"url": f"{NEW}/api/v1", "priority": 0, "server_name": "evil.test"}
        address = {"url": "https://192.0.2.1/api/v1", "server_name": "api.example.com"}
        body = listed(entry, address)
        with handmade(serves(200, body.encode())) as server:
            remote = manager_of()
            remote.update_endpoints_from_remote(server.url, force=True)
        scanned = manager_of()
        scanned.apply_qr(body)
        for manager in (remote, scanned):
            names = {state.url: state.server_name for state in manager.api_endpoints}
            assert names == {entry["url"]: None, address["url"]: "api.example.com"}
        assert caplog.text.count(f"at an IP address only: {entry['url']}") == 2

    @pytest.mark.parametrize("place", ["config_urls", "seed", "fallback"])
    def test_a_list_gives_none_to_a_source_that_the_application_chose(
        self, authority: trustme.CA, place: str
    ) -> None:
        """A list cannot change the certificate name of a source that the application set."""
        body = listed({"url": NEW}).encode()
        with (
            handmade(serves(200, body), presenting(authority, "127.0.0.1")) as right,
            handmade(serves(200, body), presenting(authority, "evil.test")) as wrong,
        ):
            for server, good in ((right, True), (wrong, False)):
                seed = [server.url] if place == "seed" else []
                config_urls = [server.url] if place == "config_urls" else []
                fallback = server.url if place == "fallback" else None
                manager = manager_of(*seed, config_urls=config_urls, verify=trusting(authority))
                told = {"url": f"{server.url}/api/v1", "server_name": "evil.test"}
                manager.apply_qr(listed(told), replace=True)
                if good:
                    assert manager.update_endpoints_from_remote(fallback, force=True)
                else:
                    with pytest.raises(UpdateFailed):
                        manager.update_endpoints_from_remote(fallback, force=True)

    def test_a_name_that_the_application_gave_holds(self, authority: trustme.CA) -> None:
        """A ``server_name`` that the application set overrides that of a list."""
        body = listed({"url": NEW}).encode()
        with handmade(serves(200, body), presenting(authority, "api.example.com")) as server:
            manager = manager_of(named(server.url, "api.example.com"), verify=trusting(authority))
            told = {"url": f"{server.url}/api/v1", "server_name": "evil.test"}
            manager.apply_qr(listed(told), replace=True)
            assert manager.update_endpoints_from_remote(force=True)

    def test_a_list_names_its_own_addresses(self, authority: trustme.CA) -> None:
        """A list may set ``server_name`` for its own IP addresses, which become sources too."""
        body = listed({"url": NEW}).encode()
        with handmade(serves(200, body), presenting(authority, "api.example.com")) as server:
            manager = manager_of("https://192.0.2.1", verify=trusting(authority))
            told = {"url": f"{server.url}/api/v1", "server_name": "api.example.com"}
            manager.apply_qr(listed(told), replace=True)
            assert manager.update_endpoints_from_remote(force=True)


class TestPlainHttp:
    """Plain http, which anyone on the network path can read and change."""

    @pytest.fixture(autouse=True)
    def names(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Resolve every ``.test`` name to this machine, so that it acts as other machines."""
        look_up = socket.getaddrinfo

        def found(host: Any, *args: Any, **kwargs: Any) -> Any:
            return look_up("127.0.0.1" if str(host).endswith(".test") else host, *args, **kwargs)

        monkeypatch.setattr(socket, "getaddrinfo", found)

    @pytest.mark.parametrize("twin", TWINS)
    @pytest.mark.parametrize("place", ["config_urls", "endpoint", "fallback"])
    def test_no_list_comes_over_it_from_another_machine(self, twin: Twin, place: str) -> None:
        """The client sends no list request over http to another machine; the error says why."""
        with handmade(serves(200, wire([NEW]))) as server:
            other = f"http://other.test:{server.port}"
            manager = twin.of(
                [other] if place == "endpoint" else [A],
                config_urls=[other] if place == "config_urls" else [],
            )
            with pytest.raises(UpdateFailed, match="allow_http_lists=True") as caught:
                twin.update(manager, other if place == "fallback" else None)
            assert server.asked == []
            if place != "config_urls":
                assert caught.value.cause == "invalid"
            lax = twin.of([A], allow_http_lists=True)
            assert twin.update(lax, other)
            assert urls(lax.api_endpoints) == [NEW]

    def test_from_this_machine_it_does(self) -> None:
        """A list over http from 127.0.0.1 or localhost is accepted and may hold http endpoints."""
        with handmade(serves(200, wire(["http://a.example"]))) as server:
            for host in ("127.0.0.1", "localhost"):
                manager = manager_of()
                assert manager.update_endpoints_from_remote(f"http://{host}:{server.port}")
                assert urls(manager.api_endpoints) == ["http://a.example"]

    def test_no_redirect_leads_there(self) -> None:
        """The client follows no redirect of a list request to http on another machine."""
        with handmade(serves(200, wire([NEW]))) as other:
            location = f"http://other.test:{other.port}/x"
            with handmade(lambda asked: (302, {"Location": location}, b"")) as server:
                with pytest.raises(UpdateFailed, match="redirect to plain http"):
                    manager_of().update_endpoints_from_remote(server.url)
                assert other.asked == []
                lax = manager_of(allow_http_lists=True)
                assert lax.update_endpoints_from_remote(server.url)

    @pytest.mark.parametrize("twin", TWINS)
    def test_a_list_from_https_names_no_plain_endpoint(
        self, twin: Twin, authority: trustme.CA, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Plain entries of a list from https are left out with a log line, unless allowed."""
        body = wire(["http://b.test", A], ["ws://b.test", "http://c.test", "wss://a.example"])
        with handmade(serves(200, body), presenting(authority, "127.0.0.1")) as server:
            trust = trusting(authority)
            manager = twin.of([A], config_urls=[server.url], verify=trust)
            assert twin.update(manager, server.url)
            assert urls(manager.api_endpoints) == [A]
            assert urls(manager.socket_endpoints) == ["wss://a.example"]
            assert "http://b.test, ws://b.test, http://c.test" in caplog.text
            for ours in (
                twin.of([A], verify=trust, allow_http=True),
                twin.of([A, "http://z.test"], verify=trust),
            ):
                assert twin.update(ours, server.url)
                assert urls(ours.api_endpoints) == ["http://b.test", A]

    def test_a_list_of_nothing_else_is_refused(self, authority: trustme.CA) -> None:
        """A list over https with only http endpoints is refused as empty."""
        body = wire(["http://b.test"])
        with handmade(serves(200, body), presenting(authority, "127.0.0.1")) as server:
            manager = manager_of(A, verify=trusting(authority))
            with pytest.raises(UpdateRefused):
                manager.update_endpoints_from_remote(server.url, force=True)
            assert urls(manager.api_endpoints) == [A]

    @pytest.mark.parametrize("allow", [False, True])
    def test_a_signed_list_may_come_over_it(
        self, authority: trustme.CA, tmp_path: Path, allow: bool
    ) -> None:
        """A signed list may come over http; entries left out over https stay out on restart."""
        key = SigningKey.generate()
        now = int(time.time())
        body = key.sign(wire(["http://b.test", A]), ver=now * 1000, iat=now, exp=now + 600)
        path = tmp_path / "list.json"
        more: dict[str, Any] = {"trusted_keys": [key.public], "verify": trusting(authority)}
        with handmade(serves(200, body)) as server:
            manager = manager_of(A, **more)
            assert manager.update_endpoints_from_remote(f"http://other.test:{server.port}")
            assert urls(manager.api_endpoints) == ["http://b.test", A]
        with handmade(serves(200, body), presenting(authority, "127.0.0.1")) as server:
            kept = {**more, "cache_path": path, "allow_http": allow}
            manager = manager_of(A, **kept)
            manager.update_endpoints_from_remote(server.url)
            left = ["http://b.test", A] if allow else [A]
            assert urls(manager.api_endpoints) == left
            assert urls(manager_of(**kept).api_endpoints) == left


class TestSize:
    """Limits on the size of a list."""

    @pytest.mark.parametrize("way", ["remote", "signed", "qr"])
    def test_no_more_than_ten_thousand_endpoints(self, way: str) -> None:
        """A list holds at most 10 000 endpoints of both kinds, unless ``max_endpoints`` is set."""
        half = [f"https://a.example/{number}" for number in range(5000)]
        key, now = SigningKey.generate(), int(time.time())
        more: dict[str, Any] = {"trusted_keys": [key.public]} if way == "signed" else {}
        for sockets, policy, good in (
            (half, Policy(), True),
            ([*half, "https://b.example"], Policy(), False),
            ([*half, "https://b.example"], Policy(max_endpoints=10_001), True),
        ):
            body = wire(half, sockets)
            if way == "signed":
                body = key.sign(body, ver=now * 1000, iat=now, exp=now + 600)
            manager = manager_of(A, policy=policy, **more)
            refused = pytest.raises((UpdateFailed, UpdateRefused, ValueError), match="10001")
            with handmade(serves(200, body)) as server, nullcontext() if good else refused:
                if way == "qr":
                    manager.apply_qr(body, replace=True)
                else:
                    manager.update_endpoints_from_remote(server.url, force=True)
            assert len(manager.api_endpoints) == (5000 if good else 1)

    def test_no_more_than_four_mebibytes(self) -> None:
        """A list of more than 4 MiB, after decompression, is refused."""
        body = wire([NEW])[:-1] + b',"x":"' + b"x" * (4 << 20) + b'"}'
        refused = pytest.raises(UpdateFailed, match="larger than 4194304 bytes")
        with handmade(serves(200, body)) as server, refused:
            manager_of(policy=Policy()).update_endpoints_from_remote(server.url)


class TestSpellings:
    """Different spellings of a URL are one endpoint."""

    PAIRS = (
        ("https://a.example/api", "https://a.example/api/"),
        ("http://a.example:80", "http://a.example"),
        ("https://a.example:443/v1/", "HTTPS://A.example/v1"),
        ("https://a.example", "https://a.example/"),
    )

    @pytest.mark.parametrize("pair", PAIRS)
    def test_a_final_slash_and_a_default_port_make_no_other(self, pair: tuple[str, str]) -> None:
        """Spellings that differ in slash, case or default port are one endpoint everywhere."""
        for one, other in (pair, pair[::-1]):
            seeded, added, scanned = manager_of(one, other), manager_of(), manager_of()
            added.add_api_endpoint(one)
            added.add_api_endpoint(other, 7)
            scanned.apply_qr(wire([one, other]))
            with handmade(serves(200, wire([one, other], [one, other]))) as server:
                remote = manager_of(one)
                assert remote.update_endpoints_from_remote(server.url)
                assert not remote.update_endpoints_from_remote(server.url)
            assert len(remote.socket_endpoints) == 1
            for manager in (seeded, added, scanned, remote):
                assert len(manager.api_endpoints) == 1
            (state,) = added.api_endpoints
            assert state.priority == 7
            added.pin(one)
            added.pin(other)
            assert added.remove_endpoint(other)

    def test_a_list_that_spells_all_otherwise_drops_nothing(self) -> None:
        """A list that only respells the known endpoints drops none, so it needs no check."""
        with handmade(serves(200, wire([f"{A}:443/", NEW]))) as server:
            manager = manager_of(A)
            assert manager.update_endpoints_from_remote(server.url)
            assert urls(manager.api_endpoints) == [A, NEW]


class TestChecks:
    """Health checks of a list of thousands of endpoints are limited."""

    def test_the_best_fifty_of_a_kind_are_checked(self) -> None:
        """Checks cover the best 50 endpoints and the pinned one, at most four at a time."""
        now = [0]
        most = [0]
        lock = threading.Lock()

        def answer(asked: Asked) -> Answer:
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            time.sleep(0.005)
            with lock:
                now[0] -= 1
            return OK if asked.path.endswith("/health") else (404, {}, b"")

        with handmade(answer) as server, handmade(lambda _: (404, {}, b"")) as ours:
            # Later endpoints have better priorities.
            api = [(f"{server.url}/{n}", 9000 - n) for n in range(3000)]
            best = {f"/{n}/health" for n in range(2950, 3000)}
            with manager_of(*api) as manager:
                wait_for(lambda: sum(e.state == "healthy" for e in manager.api_endpoints) == 50)
                manager.check_all()
                assert set(server.paths) == best
                server.asked.clear()
                last = f"{server.url}/7"
                manager.pin(last)
                manager.check_all()
                assert set(server.paths) == {*best, "/7/health"}
                assert manager.check_endpoint_health(f"{server.url}/8")
            assert most[0] <= 4
            server.asked.clear()
            body = json.dumps({"api_endpoints": [{"url": u, "priority": p} for u, p in api]})
            with handmade(serves(200, body.encode())) as source:
                cautious = manager_of(ours.url)
                assert cautious.update_endpoints_from_remote(source.url)
            assert set(server.paths) <= best
            assert most[0] <= 4

    def test_one_that_a_request_went_to_is_checked_too(self) -> None:
        """An endpoint beyond the best 50 is checked after a failed request, so it can recover."""
        down = threading.Event()

        def answer(asked: Asked) -> Answer:
            return (503, {}, b"") if down.is_set() else OK

        dead = [f"http://127.0.0.1:{closed_port()}/{n}" for n in range(50)]
        with handmade(answer) as server, manager_of(*dead, server.url) as manager:
            wait_for(lambda: not any(e.is_healthy for e in manager.api_endpoints[:50]))
            with manager.client() as client:
                assert client.get("/").status_code == 200
                down.set()
                wait_for(lambda: client.get("/").status_code == 503)
                wait_for(lambda: manager.api_endpoints[50].state != "healthy")
                down.clear()
                wait_for(lambda: manager.api_endpoints[50].state == "healthy")
