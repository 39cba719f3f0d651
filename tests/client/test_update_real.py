"""Remote updates against the real server, and against servers with unusual answers."""

import asyncio
import gzip
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import trustme

from mop_config import Endpoint, signals
from mop_config.client import (
    AsyncEndpointManager,
    EndpointManager,
    Policy,
    UpdateFailed,
    UpdateRefused,
)

from ..ports import closed_port
from ..servers import ENDPOINTS, running
from ..waiting import wait_for
from .fleet import silence
from .handmade import (
    MISSING,
    NOBODY,
    OK,
    QUICK,
    Answer,
    Asked,
    handmade,
    named,
    source,
    urls,
    wire,
)
from .managers import hearing

NEW = "https://api-new-primary.example.com"


def manager_of(*api: Any, **options: Any) -> EndpointManager:
    defaults = {"policy": QUICK, "verify": NOBODY, "update_interval": 0, "trust_env": False}
    return EndpointManager(list(api), **{**defaults, **options})


def serves(status: int, body: bytes = b"", **headers: str) -> Callable[[Asked], Answer]:
    """Return an answer function that is healthy and gives these values for the list."""
    return lambda asked: OK if asked.path == "/health" else (status, headers, body)


class TestAgainstTheRealServer:
    """The client's updates from the product's server."""

    def test_a_list_is_taken_and_then_asked_for_by_its_tag(self, tmp_path: Path) -> None:
        """An update fetches a changed file, notices an unchanged one, and caches the ETag."""
        file, cache = tmp_path / "e.txt", tmp_path / "cache.json"
        file.write_text("DomainList:\na.example\nb.example priority=7\n")
        with running(tmp_path, file, workers=1) as server:
            base = f"http://127.0.0.1:{server.port}"
            manager = manager_of(config_urls=[base], cache_path=cache)
            assert manager.update_endpoints_from_remote()
            assert [(e.url, e.priority) for e in manager.api_endpoints] == [
                ("https://a.example/api/v1", 0),
                ("https://b.example/api/v1", 7),
            ]
            assert urls(manager.socket_endpoints) == ["https://a.example", "https://b.example"]
            assert not manager.update_endpoints_from_remote()
            restarted = manager_of(config_urls=[base], cache_path=cache)
            assert restarted.list_source.origin == "cache"
            assert restarted.config == manager.config
            assert not restarted.update_endpoints_from_remote()
            file.write_text("DomainList:\na.example\nc.example\n")
            wait_for(lambda: server.hosts() == ["a.example", "c.example"])
            assert restarted.update_endpoints_from_remote()
            assert restarted.api_endpoints[1].url == "https://c.example/api/v1"

    @pytest.mark.parametrize("path", ["", "/", "/api/v1", "/api/v1/", ENDPOINTS])
    def test_any_spelling_of_its_address_will_do(self, tmp_path: Path, path: str) -> None:
        """The server's URL works with and without the API path, or as the list's URL."""
        with source(wire([NEW])) as (_, server):
            manager = manager_of()
            assert manager.update_endpoints_from_remote(server.url + path)
            assert urls(manager.api_endpoints) == [NEW]


@contextmanager
def silences(count: int) -> Iterator[list[str]]:
    """Run servers that accept connections and never answer."""
    with ExitStack() as stack:
        yield [f"http://127.0.0.1:{stack.enter_context(silence())}" for _ in range(count)]


class TestTheDeadAreNotWaitedFor:
    """A hedged search: dead sources do not delay a live one."""

    @pytest.mark.parametrize(("count", "seconds"), [(3, 2.0), (6, 2.0), (10, 4.0)])
    @pytest.mark.parametrize("where", ["endpoint", "config"])
    def test_a_list_arrives(self, count: int, seconds: float, where: str) -> None:
        """A list arrives in time from the last endpoint, or from ``config_urls``."""
        with silences(count) as dead, source(wire([dead[0], NEW])) as (_, server):
            if where == "endpoint":
                manager = manager_of(*dead, server.url)
            else:
                manager = manager_of(*dead, config_urls=[server.url])
            began = time.monotonic()
            assert manager.update_endpoints_from_remote()
            assert time.monotonic() - began <= seconds
            assert urls(manager.api_endpoints) == [dead[0], NEW]

    def test_the_background_finds_it_too(self) -> None:
        """The background update of an asynchronous manager finds the live source in time too."""
        with silences(6) as dead, source(wire([dead[0], NEW])) as (_, server):

            async def main() -> None:
                manager = AsyncEndpointManager(
                    dead, config_urls=[server.url], verify=NOBODY, trust_env=False
                )
                began = time.monotonic()
                async with manager:
                    while urls(manager.api_endpoints) != [dead[0], NEW]:
                        await asyncio.sleep(0.01)
                        assert time.monotonic() - began <= 2.0

            asyncio.run(main())

    def test_a_call_does_not_wait_for_the_background(self) -> None:
        """A call does not wait for a slow background update."""
        late = threading.Event()

        def slow(asked: Asked) -> Answer:
            if asked.path != ENDPOINTS:
                return OK
            late.wait(10)
            return (200, {}, wire([first.url]))

        with handmade(slow) as first, source(wire([first.url, NEW])) as (_, rescue):
            manager = manager_of(first.url, update_interval=3600)
            with manager:
                wait_for(lambda: first.count(ENDPOINTS), what="the background asks")
                began = time.monotonic()
                assert manager.update_endpoints_from_remote(rescue.url)
                assert time.monotonic() - began <= 2.0
                assert urls(manager.api_endpoints) == [first.url, NEW]
                late.set()

    def test_one_that_answers_at_once_is_asked_alone(self) -> None:
        """If the first source answers at once, no other source is asked."""
        with source(b"") as (lists, server), handmade() as other, handmade() as third:
            lists.body = wire([server.url, NEW])
            manager = manager_of(server.url, other.url, config_urls=[third.url])
            assert manager.update_endpoints_from_remote()
            assert (other.asked, third.asked) == ([], [])

    def test_new_endpoints_that_hang_hold_nothing_up(self) -> None:
        """One healthy endpoint suffices in a list of new endpoints, although others hang."""
        with (
            silences(1) as dead,
            handmade() as healthy,
            source(wire([*dead, healthy.url])) as (_, server),
        ):
            manager = manager_of(server.url, policy=replace(QUICK, health_timeout=5.0))
            began = time.monotonic()
            assert manager.update_endpoints_from_remote()
            assert time.monotonic() - began <= 2.0
            assert urls(manager.api_endpoints) == [*dead, healthy.url]


class TestWhomToAsk:
    """The order of the sources: explicit, configured, current, others."""

    def test_in_that_order(self) -> None:
        """The sources are asked in this order until one has a list."""
        asked: list[str] = []

        @contextmanager
        def nobody(name: str) -> Iterator[str]:
            def answer(request: Asked) -> Answer:
                if request.path == ENDPOINTS:
                    asked.append(name)
                return (500, {}, b"")

            with handmade(answer) as server:
                yield server.url

        with (
            nobody("explicit") as explicit,
            nobody("first") as first,
            nobody("current") as current,
            nobody("last") as last,
            nobody("config") as config,
        ):
            manager = manager_of(first, current, last, config_urls=[config])
            manager.pin(current)
            with pytest.raises(UpdateFailed) as caught:
                manager.update_endpoints_from_remote(explicit)
            order = ["explicit", "config", "current", "first", "last"]
            assert asked == order
            assert len(caught.value.attempts) == 5
            asked.clear()
            with source(wire([first])) as (_, server):
                assert manager.update_endpoints_from_remote(server.url)
            assert asked == []

    @pytest.mark.parametrize(
        ("answer", "cause"),
        [
            (serves(401), "unauthorized"),
            (serves(403), "unauthorized"),
            (serves(404), "not_implemented"),
            (serves(501), "not_implemented"),
            (serves(500), "unreachable"),
            (serves(503), "unreachable"),
            (serves(429), "unreachable"),
            (serves(418), "invalid"),
            (serves(200, b"<html>"), "invalid"),
            (serves(200, b"[]"), "invalid"),
            (serves(200, b'{"api_endpoints": [{"url": "nonsense"}]}'), "invalid"),
            (serves(200, wire(["ftp://a.example"])), "invalid"),
            (serves(200, wire(["wss://a.example"])), "invalid"),
            (serves(200, b"[" * 100000), "invalid"),
            (serves(200, b"no gzip", **{"Content-Encoding": "gzip"}), "unreachable"),
        ],
    )
    def test_why_it_failed(self, answer: Callable[[Asked], Answer], cause: str) -> None:
        """UpdateFailed has a cause for each bad answer, and the list stays unchanged."""
        with handmade(answer) as server:
            manager = manager_of(server.url)
            with pytest.raises(UpdateFailed) as caught:
                manager.update_endpoints_from_remote()
            assert caught.value.cause == cause
            assert urls(manager.api_endpoints) == [server.url]
            assert manager.list_source.origin == "seed"

    def test_nobody_there(self) -> None:
        """A refused connection has the cause "unreachable"."""
        with pytest.raises(UpdateFailed) as caught:
            manager_of().update_endpoints_from_remote(f"http://127.0.0.1:{closed_port()}")
        assert caught.value.cause == "unreachable"

    def test_an_address_that_is_none(self) -> None:
        """An invalid source URL has the cause "invalid", and the other sources are asked."""
        with source(wire([NEW])) as (_, server):
            manager = manager_of(config_urls=[server.url])
            assert manager.update_endpoints_from_remote("wss://x.example")
            with pytest.raises(UpdateFailed) as caught:
                manager_of().update_endpoints_from_remote("wss://x.example")
            assert caught.value.cause == "invalid"


class TestGuards:
    """Lists that are refused."""

    def test_an_empty_list_is_always_refused(self) -> None:
        """An empty list is refused even with ``force``."""
        with source(wire()) as (_, server):
            manager = manager_of(server.url)
            for force in (False, True):
                with pytest.raises(UpdateRefused, match="empty"):
                    manager.update_endpoints_from_remote(force=force)
            assert urls(manager.api_endpoints) == [server.url]

    def test_a_list_of_strangers_is_looked_at_first(self) -> None:
        """A list of new endpoints is accepted if one is healthy or with ``force``."""
        dead = f"http://127.0.0.1:{closed_port()}"
        with handmade() as stranger, source(wire([dead])) as (lists, server):
            manager = manager_of(server.url)
            with pytest.raises(UpdateRefused, match="none of its own is healthy"):
                manager.update_endpoints_from_remote()
            assert urls(manager.api_endpoints) == [server.url]
            lists.put(wire([dead, stranger.url]))
            assert manager.update_endpoints_from_remote()
            assert urls(manager.api_endpoints) == [dead, stranger.url]
            lists.put(wire([NEW]))
            assert manager.update_endpoints_from_remote(server.url, force=True)
            assert urls(manager.api_endpoints) == [NEW]

    def test_a_list_without_our_sockets_is_looked_at_too(self) -> None:
        """A list without socket endpoints is refused if the client has some."""
        with source(b"") as (lists, server):
            lists.body = wire([server.url])
            manager = manager_of(server.url)
            manager.add_socket_endpoint("https://s.example")
            with pytest.raises(UpdateRefused, match="socketio"):
                manager.update_endpoints_from_remote()

    def test_what_is_larger_than_the_limit_is_not_taken(self) -> None:
        """The size limit counts the unpacked list."""
        policy = Policy(max_list_bytes=10_000)
        bomb = gzip.compress(b" " * 50_000_000)
        for answer in (
            serves(200, b" " * 10_001),
            serves(200, bomb, **{"Content-Encoding": "gzip"}),
        ):
            with handmade(answer) as server:
                manager = manager_of(server.url, policy=policy)
                with pytest.raises(UpdateFailed, match="larger than 10000 bytes"):
                    manager.update_endpoints_from_remote()

    def test_a_packed_list_is_unpacked(self) -> None:
        """A list with Content-Encoding gzip is unpacked."""
        packed = gzip.compress(wire([NEW]))
        with handmade(serves(200, packed, **{"Content-Encoding": "gzip"})) as server:
            manager = manager_of()
            assert manager.update_endpoints_from_remote(server.url)
            assert urls(manager.api_endpoints) == [NEW]

    def test_a_list_that_drips_is_given_up(self) -> None:
        """``total_timeout`` ends an update although single bytes keep arriving."""
        policy = Policy(total_timeout=0.5)
        with slow_body() as url:
            began = time.monotonic()
            with pytest.raises(UpdateFailed, match=r"timed out|too long"):
                manager_of(url, policy=policy).update_endpoints_from_remote()
            assert time.monotonic() - began < 4


@contextmanager
def slow_body() -> Iterator[str]:
    """Run a server that sends its answer one byte at a time."""
    ended = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))

    def run() -> None:
        while True:
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                try:
                    sock.recv(65536)
                    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n")
                    while not ended.wait(0.05):
                        sock.sendall(b" ")
                except OSError:
                    continue

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        ended.set()
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


class TestApplying:
    """The effects of a new list on the endpoints."""

    def test_endpoints_that_stay_keep_what_is_known_of_them(self) -> None:
        """Endpoints in both lists keep health and measurements, and get the new priority."""
        with handmade() as stays, source(b"") as (lists, server):
            lists.body = wire([NEW, stays.url])
            manager = manager_of(server.url, stays.url)
            manager.check_all()
            with manager.client(start=False) as client:
                client.get("/users")
            before = manager.api_endpoints[1]
            assert before.state == "healthy"
            assert manager.update_endpoints_from_remote()
            after = manager.api_endpoints[1]
            assert after.url == stays.url
            assert after.response_time == before.response_time
            assert after.last_checked == before.last_checked
            assert manager.api_endpoints[0].state == "unknown"

    def test_the_same_list_in_another_order_is_no_news(self) -> None:
        """The same list in another order or with duplicates is unchanged."""
        entry = {"url": NEW, "priority": 0}
        other = {"url": "https://b.example", "priority": 1}
        bodies = [[entry, other], [other, entry], [entry, other, entry]]
        current = [json.dumps({"api_endpoints": body}).encode() for body in bodies]
        with source(current[0]) as (lists, server):
            manager = manager_of()
            news = []
            for body in current:
                lists.put(body)
                news.append(manager.update_endpoints_from_remote(server.url))
            assert news == [True, False, False]

    def test_tags_are_kept_for_each_source(self) -> None:
        """ETags are stored per source, even for the same list."""
        with source(wire([NEW])) as (_, one), source(wire([NEW])) as (_, two):
            manager = manager_of()
            for server in (one, two, one, two):
                manager.update_endpoints_from_remote(server.url)
            for server in (one, two):
                tags = [a.header("if-none-match") for a in server.asked]
                assert tags[0] is None
                assert tags[1] is not None

    def test_after_a_change_by_hand_the_whole_list_is_asked_for(self) -> None:
        """After a manual change the ETag is dropped, so that 304 cannot hide the difference."""
        with source(wire([NEW])) as (_, server):
            manager = manager_of()
            manager.update_endpoints_from_remote(server.url)
            manager.remove_endpoint(NEW)
            assert manager.update_endpoints_from_remote(server.url)
            assert urls(manager.api_endpoints) == [NEW]

    def test_a_new_priority_is_told_too(self) -> None:
        """``endpoints_updated`` lists endpoints of which only the priority changed."""
        heard: list[dict[str, Any]] = []

        def receive(sender: Any, **about: Any) -> None:
            heard.append(about)

        with source(wire([NEW, "https://b.example"])) as (lists, server):
            manager = manager_of()
            manager.update_endpoints_from_remote(server.url)
            lists.put(wire(["https://b.example", NEW]))
            with signals.endpoints_updated.connected_to(receive):
                manager.update_endpoints_from_remote(server.url, force=True)
        assert heard == [
            {
                "origin": "remote",
                "url": server.url + ENDPOINTS,
                "added": [],
                "removed": [],
                "changed": [NEW, "https://b.example"],
            }
        ]


class TestToken:
    """The token of an update."""

    def test_a_text_a_function_and_one_for_this_call(self) -> None:
        """A token is a text or a function that each update calls; the call's token wins."""
        now: list[str | None] = [None]
        with source(wire([NEW])) as (_, server):
            manager = manager_of(token=lambda: now[0])
            manager.update_endpoints_from_remote(server.url)
            now[0] = "after-login"
            manager.update_endpoints_from_remote(server.url)
            manager.update_endpoints_from_remote(server.url, token="just-now")
            manager_of(token="text").update_endpoints_from_remote(server.url)
            sent = [asked.header("authorization") for asked in server.asked]
        assert sent == [None, "Bearer after-login", "Bearer just-now", "Bearer text"]

    def test_a_login_lets_the_next_update_in(self) -> None:
        """An update fails as unauthorized until the token function returns the token."""
        now: list[str | None] = [None]

        def answer(asked: Asked) -> Answer:
            if asked.header("authorization") != "Bearer secret":
                return (401, {}, b"")
            return (200, {}, wire([NEW]))

        with handmade(answer) as server:
            manager = manager_of(config_urls=[server.url], token=lambda: now[0])
            with pytest.raises(UpdateFailed) as caught:
                manager.update_endpoints_from_remote()
            assert caught.value.cause == "unauthorized"
            now[0] = "secret"
            assert manager.update_endpoints_from_remote()

    @pytest.mark.parametrize("token", ["hush\n", " hush", "hu\nsh", "hüsh", ""])
    def test_one_that_no_header_can_hold_is_in_no_message(self, token: str) -> None:
        """A token's outer white space is removed; an invalid token is not quoted in the error."""
        with source(wire([NEW])) as (_, server):
            manager = manager_of()
            if token.strip() == "hush":
                assert manager.update_endpoints_from_remote(server.url, token)
                assert server.asked[0].header("authorization") == "Bearer hush"
                return
            with pytest.raises(UpdateFailed) as caught:
                manager.update_endpoints_from_remote(server.url, token)
            assert "sh" not in str(caught.value.attempts[0][1]).split()
            assert server.asked == []

    def test_a_redirect_within_the_server_takes_it_along(self) -> None:
        """A redirect within the server keeps the token."""

        def answer(asked: Asked) -> Answer:
            if asked.path == ENDPOINTS:
                return (307, {"Location": "/list"}, b"")
            return (200, {}, wire([NEW]))

        with handmade(answer) as server:
            assert manager_of(token="t").update_endpoints_from_remote(server.url)
            assert server.asked[1].header("authorization") == "Bearer t"

    def test_a_redirect_to_another_server_does_not(self) -> None:
        """A redirect to another port drops the token."""
        with source(wire([NEW])) as (_, target):
            location = target.url + ENDPOINTS
            with handmade(lambda asked: (302, {"Location": location}, b"")) as server:
                assert manager_of(token="t").update_endpoints_from_remote(server.url)
            assert target.asked[0].header("authorization") is None

    @pytest.mark.parametrize("location", ["ftp://x.example/", "http://u:p@x.example/"])
    def test_a_redirect_to_nowhere(self, location: str) -> None:
        """A redirect to another scheme or with credentials is not followed."""
        with handmade(lambda asked: (302, {"Location": location}, b"")) as server:
            with pytest.raises(UpdateFailed):
                manager_of().update_endpoints_from_remote(server.url)
            assert len(server.asked) == 1

    def test_redirects_without_end(self) -> None:
        """A chain of redirects ends after five."""
        with handmade(lambda asked: (302, {"Location": asked.path + "x"}, b"")) as server:
            with pytest.raises(UpdateFailed, match="redirects"):
                manager_of().update_endpoints_from_remote(server.url)
            assert len(server.asked) == 6


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return the certificate authority of the servers."""
    return trustme.CA()


class TestTls:
    """Updates over https."""

    def context(self, authority: trustme.CA, *names: str) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(*names).configure_cert(context)
        return context

    def trust(self, authority: trustme.CA) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        authority.configure_trust(context)
        return context

    def test_no_redirect_leads_out_of_it(self, authority: trustme.CA) -> None:
        """A redirect from https to http is refused, even to loopback."""
        with source(wire([NEW])) as (_, plain):
            location = plain.url + ENDPOINTS
            tls = self.context(authority, "127.0.0.1")
            with handmade(lambda asked: (302, {"Location": location}, b""), tls) as server:
                manager = manager_of(server.url, verify=self.trust(authority))
                with pytest.raises(UpdateFailed, match="https to http"):
                    manager.update_endpoints_from_remote()
            assert plain.asked == []

    def test_an_endpoint_that_goes_by_its_address_is_asked_by_its_name(
        self, authority: trustme.CA
    ) -> None:
        """An endpoint with a server name is verified and asked for its list by that name."""
        tls = self.context(authority, "api.example.com")
        with handmade(serves(200, wire([NEW])), tls) as server:
            endpoint = named(server.url, "api.example.com")
            manager = manager_of(endpoint, verify=self.trust(authority))
            assert manager.update_endpoints_from_remote(force=True)
            assert server.asked[0].header("host") == f"api.example.com:{server.port}"
            bare = manager_of(Endpoint(server.url), verify=self.trust(authority))
            with pytest.raises(UpdateFailed) as caught:
                bare.update_endpoints_from_remote()
            assert caught.value.cause == "unreachable"

    def test_closing_calls_it_off(self, authority: trustme.CA) -> None:
        """``close`` aborts a running update, and the TLS context stays unchanged."""
        gate = threading.Event()

        def answer(asked: Asked) -> Answer:
            gate.wait(20)
            return OK

        trust = self.trust(authority)
        with handmade(answer, self.context(authority, "127.0.0.1")) as server:
            manager = manager_of(server.url, verify=trust).start()
            errors: list[Exception] = []

            def update() -> None:
                try:
                    manager.update_endpoints_from_remote()
                except UpdateFailed as error:
                    errors.append(error)

            thread = threading.Thread(target=update)
            thread.start()
            wait_for(lambda: ENDPOINTS in server.paths)
            manager.close()
            thread.join(5)
            gate.set()
            assert len(errors) == 1
        assert trust.check_hostname


class TestByItself:
    """Background updates at the start and at each interval."""

    def test_at_start_and_each_interval(self) -> None:
        """The list is updated at the start and at each interval."""
        with source(wire([NEW])) as (lists, server):
            options = {"config_urls": [server.url], "update_interval": 0.1}
            with manager_of(**options) as manager:
                wait_for(lambda: urls(manager.api_endpoints) == [NEW])
                other = ["https://b.example", NEW]
                lists.put(wire(other))
                wait_for(lambda: urls(manager.api_endpoints) == other)

    def test_zero_never_asks(self) -> None:
        """``update_interval=0`` disables background updates."""
        with source(wire([NEW])) as (_, server):
            with manager_of(server.url) as manager:
                wait_for(lambda: manager.api_endpoints[0].state == "healthy")
            assert ENDPOINTS not in server.paths

    def test_one_that_fails_says_so_and_is_tried_again(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A failed background update is logged and repeated."""
        with handmade(serves(500)) as server, manager_of(server.url, update_interval=0.05):
            wait_for(lambda: server.count(ENDPOINTS) >= 3)
        assert "could not be updated (unreachable)" in caplog.text

    def test_a_token_that_raises_is_no_end(self, caplog: pytest.LogCaptureFixture) -> None:
        """An exception from the token function is logged, and the next update runs."""
        calls: list[int] = []

        def token() -> str:
            calls.append(1)
            if len(calls) == 1:
                raise RuntimeError("no keyring")
            return "t"

        with source(wire([NEW])) as (_, server):
            options = {"config_urls": [server.url], "update_interval": 0.05, "token": token}
            with manager_of(**options) as manager:
                wait_for(lambda: urls(manager.api_endpoints) == [NEW])
        assert "RuntimeError: no keyring" in caplog.text

    def test_two_at_a_time_are_one_after_the_other(self) -> None:
        """Concurrent updates all return, and one of them reports the change."""
        with source(wire([NEW])) as (_, server):
            manager = manager_of()
            results: list[bool] = []

            def update() -> None:
                results.append(manager.update_endpoints_from_remote(server.url))

            threads = [threading.Thread(target=update) for _ in range(6)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
        assert sorted(results) == [False] * 5 + [True]

    def test_a_source_that_says_nothing_holds_up_nobody_for_good(self) -> None:
        """A source that never answers delays the next one at most until the time limit."""
        policy = Policy(total_timeout=1.5)
        with silence() as port, source(wire([NEW])) as (_, server):
            manager = manager_of(config_urls=[server.url], policy=policy)
            assert manager.update_endpoints_from_remote(f"http://127.0.0.1:{port}")

    def test_a_name_that_no_name_server_answers_for_holds_up_nobody(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A look-up that never ends, as of a blocked domain, does not block the update."""
        answer, system = threading.Event(), socket.getaddrinfo

        def look_up(host: Any, *options: Any, **more: Any) -> Any:
            if host == "blocked.example":
                answer.wait(60)
            return system(host, *options, **more)

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        policy = Policy(connect_timeout=0.3)
        with source(wire([NEW])) as (_, server):
            manager = manager_of(config_urls=[server.url], policy=policy)
            try:
                began = time.monotonic()
                assert manager.update_endpoints_from_remote("https://blocked.example")
                assert time.monotonic() - began < 20
                with pytest.raises(UpdateFailed, match="not looked up in time"):
                    manager_of(policy=policy).update_endpoints_from_remote(
                        "https://blocked.example"
                    )
            finally:
                answer.set()

    def test_each_address_of_a_name_is_tried(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """All addresses of a name are tried, and a dead one gets only its share of the time."""
        system = socket.getaddrinfo

        def look_up(host: Any, *options: Any, **more: Any) -> Any:
            found = system("127.0.0.1" if host == "two.example" else host, *options, **more)
            dead = [(*entry[:4], ("127.0.0.2", *entry[4][1:])) for entry in found]
            return [*dead, *found] if host == "two.example" else found

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
        with source(wire([NEW])) as (_, server):
            port = server.url.rpartition(":")[2]
            lax = manager_of(allow_http_lists=True)
            assert lax.update_endpoints_from_remote(f"http://two.example:{port}")


def test_a_list_in_an_object_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A signed URL is fetched with its query and no token, and the query is stored nowhere."""
    signed = "/bucket/endpoints?X-Amz-Date=1&X-Amz-Signature=secret%2F"

    def store(asked: Asked) -> Answer:
        if asked.path != signed or asked.header("authorization"):
            return 403, {}, b"<Error><Code>AccessDenied</Code></Error>"
        return (304 if asked.header("if-none-match") else 200), {"ETag": '"v"'}, wire([NEW])

    file = tmp_path / "cache.json"
    with handmade(store) as server, hearing(signals.endpoints_updated) as heard:
        caplog.set_level("INFO")
        manager = manager_of(
            config_urls=[server.url + signed], token="t" * 20, cache_path=file, watch=True
        )
        assert manager.update_endpoints_from_remote()
        assert manager.get_current_api_url() == NEW
        assert manager.list_source.url == f"{server.url}/bucket/endpoints?…"
        assert not manager.update_endpoints_from_remote()
        assert server.asked[-1].header("if-none-match") == '"v"'
        with manager:  # without Preference-Applied the store is not watched
            wait_for(lambda: len(server.asked) >= 3)
        assert len(server.asked) <= 4
    assert [about["url"] for _, about in heard] == [f"{server.url}/bucket/endpoints?…"]
    for text in (file.read_text(), caplog.text):
        assert "secret" not in text


def test_a_raw_file_and_a_base_url_below_a_path() -> None:
    """A configured URL may be a raw file, or a base URL with the list below its path."""

    def answer(asked: Asked) -> Answer:
        if asked.path in {"/user/raw/0a1b", "/prefix/config/endpoints"}:
            return 200, {"Content-Type": "text/plain"}, wire([f"{NEW}{asked.path[:5]}"])
        return (200, {}, b"<html>hello") if asked.path == "/prefix" else MISSING

    with handmade(answer) as server:
        assert manager_of(
            config_urls=[f"{server.url}/user/raw/0a1b"]
        ).update_endpoints_from_remote()
        assert server.paths == ["/user/raw/0a1b"]
        manager = manager_of(config_urls=[f"{server.url}/prefix"])
        assert manager.update_endpoints_from_remote()
        assert manager.get_current_api_url() == f"{NEW}/pref"


def test_a_missing_list_is_looked_for_where_it_may_be() -> None:
    """A missing list is looked for below the base's path, then below the root."""
    with handmade(lambda asked: MISSING) as server:
        with pytest.raises(UpdateFailed):
            manager_of().update_endpoints_from_remote(f"{server.url}/v2")
        assert server.paths == ["/v2/config/endpoints", f"/v2{ENDPOINTS}", ENDPOINTS]
