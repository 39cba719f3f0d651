"""Connections that the server ends, that are clogged, idle or lost, or of removed endpoints."""

import asyncio
import contextlib
import gc
import random
import socket
import ssl
import struct
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import httpcore2
import httpx2
import pytest
import trustme
from hyperframe.frame import GoAwayFrame

from mop_config.client import AsyncEndpointManager, Policy
from mop_config.client.transport.outcome import fault_of_attempt, is_of_http2
from mop_config.client.transport.with_asyncio import DIALS
from mop_config.model.endpoint import Endpoint, Kind
from mop_config.net.faults import Fault

from ..waiting import wait_for
from .driver import Driver
from .handmade import NOBODY, OK, Asked, handmade
from .proxy import forward_proxy
from .scripted import scripted
from .streams import Answer, Peer, speaking
from .test_lifecycle import in_a_child
from .test_timeouts import _head, talking

#: Delays that are too long for a hedge or a second dial, so that each request is alone.
ALONE = Policy(hedge_delay=20.0, race_delay=20.0)
#: For 32 handshakes at once, which take their time on a busy machine.
PATIENT = replace(ALONE, connect_timeout=10.0)


@pytest.fixture(scope="module")
def contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A TLS context for the server and one for the client."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "one.invalid").configure_cert(server)
    server.set_alpn_protocols(["h2"])
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


def _goes_away(every: int) -> Answer:
    """Send GOAWAY with the n-th request of a connection after answering it, as nginx does."""

    def answer(peer: Peer, stream: int) -> None:
        peer.answer(stream)
        if peer.requests == every:
            peer.go_away(stream)

    return answer


def test_a_connection_that_the_server_ends_costs_no_request(contexts: Contexts, kind: str) -> None:
    """After a GOAWAY, the next request opens a new connection and none fails."""
    with (
        speaking(contexts[0], _goes_away(3)) as server,
        Driver(kind, [server.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        for number in range(12):
            method = "POST" if number % 2 else "GET"
            assert driver.request(method, "/", content=b"x" if number % 2 else None).text == "ok"
        assert sum(peer.requests for peer in server.peers) == 12
        assert driver.state(server.url) == "healthy"


def test_a_connection_that_the_server_ends_costs_no_request_of_many(
    contexts: Contexts,
) -> None:
    """A GOAWAY fails none of many concurrent asyncio requests on the connection."""
    with (
        speaking(contexts[0], _goes_away(30)) as server,
        Driver("async", [server.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        for _ in range(10):
            answers = driver.at_once(20, "/")
            assert [getattr(a, "text", repr(a)) for a in answers] == ["ok"] * 20
        assert driver.state(server.url) == "healthy"


def _many_on_one(driver: Driver, rounds: int) -> list[str]:
    """Send several GETs from each of 32 threads or tasks; return bodies and exceptions."""
    if driver.kind == "async":
        return [
            getattr(answer, "text", repr(answer))
            for _ in range(rounds)
            for answer in driver.at_once(32, "/")
        ]
    results: list[str] = []

    def ask() -> None:
        for _ in range(rounds):
            try:
                results.append(driver.get("/").text)
            except Exception as error:
                results.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(32)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.mark.usefixtures("_switching")
def test_many_requests_at_once_over_http2(contexts: Contexts, kind: str) -> None:
    """Concurrent requests all succeed: tasks share one HTTP/2 connection, threads share none."""
    with (
        speaking(contexts[0]) as server,
        Driver(kind, [server.url], PATIENT, verify=contexts[1], http2=True) as driver,
    ):
        assert driver.get("/").text == "ok"
        assert Counter(_many_on_one(driver, 40)) == {"ok": 32 * 40}
        _check_peers(kind, server.peers, 32 * 40 + 1)


def _check_peers(kind: str, peers: list[Peer], requests: int) -> None:
    """Check that each request was sent once, and that tasks used one connection."""
    assert sum(peer.requests for peer in peers) == requests
    assert kind == "sync" or len(peers) == 1


@pytest.mark.usefixtures("_switching")
def test_many_requests_at_once_over_http2_through_a_proxy(contexts: Contexts, kind: str) -> None:
    """Concurrent requests over HTTP/2 in CONNECT tunnels all succeed."""
    with (
        speaking(contexts[0]) as server,
        forward_proxy({"one.invalid": int(server.url.rpartition(":")[2])}) as proxy,
        Driver(
            kind,
            ["https://one.invalid"],
            PATIENT,
            verify=contexts[1],
            http2=True,
            proxy=proxy.url,
        ) as driver,
    ):
        assert driver.get("/").text == "ok"
        assert Counter(_many_on_one(driver, 20)) == {"ok": 32 * 20}
        _check_peers(kind, server.peers, 32 * 20 + 1)


def test_answers_that_come_after_the_servers_goodbye_cost_no_get(contexts: Contexts) -> None:
    """The client reads answers that follow a GOAWAY, which nginx sends every 1000 requests."""

    def answer(peer: Peer, stream: int) -> None:
        if peer.requests == 30:
            peer.flush()
            peer.sock.sendall(GoAwayFrame(0, last_stream_id=stream).serialize())
        peer.answer(stream)
        peer.flush()

    with (
        speaking(contexts[0], answer) as server,
        Driver("async", [server.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        for _ in range(10):
            answers = driver.at_once(20, "/")
            assert [getattr(a, "text", repr(a)) for a in answers] == ["ok"] * 20
        assert driver.state(server.url) == "healthy"


class Leaving:
    """An endpoint that speaks HTTP/2 without TLS, and ends a connection on demand.

    Args:
        manner: ``close``, ``goaway`` (GOAWAY, then a close) or ``reset``.
    """

    def __init__(self, manner: str) -> None:
        self.manner = manner
        self._leave = threading.Event()
        self.connections = 0

    def __call__(self, sock: socket.socket) -> None:
        self.connections += 1
        served = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        served.initiate_connection()
        sock.settimeout(0.01)
        while not self._leave.is_set():
            sock.sendall(served.data_to_send())
            with contextlib.suppress(TimeoutError):
                received = sock.recv(65536)
                if not received:
                    return
                for event in served.receive_data(received):
                    if isinstance(event, h2.events.StreamEnded):
                        served.send_headers(event.stream_id, [(":status", "200")])
                        served.send_data(event.stream_id, b"ok", end_stream=True)
        if self.manner == "goaway":
            served.close_connection()
            sock.sendall(served.data_to_send())
        elif self.manner == "reset":
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        sock.close()
        self._leave.clear()

    def end_connection(self) -> None:
        """End the connection that is open, and wait until it has ended."""
        self._leave.set()
        wait_for(lambda: not self._leave.is_set(), what="the server ends the connection")


@pytest.mark.parametrize("manner", ["close", "goaway", "reset"])
def test_an_idle_http2_connection_that_the_server_has_closed_is_not_used(
    kind: str, manner: str
) -> None:
    """A POST, which could not be repeated, opens a new connection."""
    leaving = Leaving(manner)
    with talking(leaving) as url, Driver(kind, [url], ALONE, http1=False, http2=True) as driver:
        for number in range(1, 4):
            for _ in range(2):
                assert driver.request("POST", "/", content=b"x").text == "ok"
            assert leaving.connections == number
            leaving.end_connection()
        assert driver.state(url) == "healthy"


def broken(peer: Peer, stream: int) -> None:
    """Reset a stream as a reverse proxy does whose back end has died."""
    peer.h2.reset_stream(stream, error_code=2)


def shortened(peer: Peer, stream: int) -> None:
    """End a body before its declared length."""
    peer.h2.send_headers(stream, [(":status", "200"), ("content-length", "10")])
    peer.h2.send_data(stream, b"ok", end_stream=True)


def shortened_later(peer: Peer, stream: int) -> None:
    """Send the head by itself, and then end the body before its declared length."""
    peer.h2.send_headers(stream, [(":status", "200"), ("content-length", "10")])
    peer.flush()
    time.sleep(0.2)
    peer.h2.send_data(stream, b"ok", end_stream=True)


def dismissed(peer: Peer, stream: int) -> None:
    """End the connection by GOAWAY although it has served no request."""
    peer.go_away(stream)


@pytest.mark.parametrize("fail", [broken, shortened, shortened_later])
@pytest.mark.parametrize("before", [0, 1])
def test_a_fault_of_a_stream_counts_against_the_endpoint(
    contexts: Contexts, kind: str, fail: Answer, before: int
) -> None:
    """A stream that the server resets or cuts short is a fault, also on a connection in use."""

    def answer(peer: Peer, stream: int) -> None:
        if peer.requests <= before:
            peer.answer(stream)
        else:
            fail(peer, stream)

    with (
        speaking(contexts[0], answer) as server,
        speaking(contexts[0]) as other,
        Driver(kind, [server.url, other.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        for _ in range(before):
            assert driver.get("/").extensions["endpoint"] == server.url
        with pytest.raises(httpx2.RemoteProtocolError):
            driver.request("POST", "/", content=b"x")
        assert driver.state(server.url) == "suspect"
        answered = driver.request("POST", "/", content=b"x")
        assert answered.extensions["endpoint"] == other.url


def test_a_server_that_ends_each_new_connection_is_suspect(contexts: Contexts, kind: str) -> None:
    """GOAWAY on a connection that has served no request is a fault of the endpoint."""
    with (
        speaking(contexts[0], dismissed) as server,
        speaking(contexts[0]) as other,
        Driver(kind, [server.url, other.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        with pytest.raises(httpx2.TransportError):
            driver.request("POST", "/", content=b"x")
        assert driver.state(server.url) == "suspect"
        assert driver.get("/").extensions["endpoint"] == other.url


def test_an_exception_without_arguments_is_classified() -> None:
    """A transport of the application may raise httpcore's exceptions bare."""
    assert not is_of_http2(httpcore2.RemoteProtocolError())
    assert fault_of_attempt(httpcore2.RemoteProtocolError(), connecting=False) is Fault.PROTOCOL


def test_a_goodbye_in_a_body_blames_no_endpoint_that_has_served_requests(
    contexts: Contexts, kind: str
) -> None:
    """A server may end a connection at any time; the GET is repeated at the same endpoint."""

    def answer(peer: Peer, stream: int) -> None:
        if len(server.peers) > 1 or peer.requests == 1:
            peer.answer(stream)
            return
        peer.h2.send_headers(stream, [(":status", "200"), ("content-length", "10")])
        peer.flush()
        time.sleep(0.2)
        peer.go_away(0)
        peer.sock.close()

    with (
        speaking(contexts[0], answer) as server,
        speaking(contexts[0]) as other,
        Driver(kind, [server.url, other.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        for _ in range(2):
            assert driver.get("/").extensions["endpoint"] == server.url
        assert driver.state(server.url) == "healthy"


def test_a_clogged_connection_is_replaced(contexts: Contexts, kind: str) -> None:
    """A connection full of abandoned streams is replaced, and its endpoint stays healthy."""
    given_up = 110
    seen: list[int] = []

    def answer(peer: Peer, stream: int) -> None:
        seen.append(stream)
        if len(seen) > given_up:
            peer.answer(stream)
            return
        peer.h2.send_headers(stream, [(":status", "200")])
        peer.h2.send_data(stream, b"and so on")

    with (
        speaking(contexts[0], answer) as server,
        speaking(contexts[0]) as other,
        Driver(kind, [server.url, other.url], ALONE, verify=contexts[1], http2=True) as driver,
    ):
        for _ in range(given_up):
            driver.stream("/", lambda part: False)
        for number in range(60):
            method = "POST" if number % 2 else "GET"
            answered = driver.request(method, "/", content=b"x" if number % 2 else None)
            assert (answered.text, answered.extensions["endpoint"]) == ("ok", server.url)
        assert driver.state(server.url) == "healthy"


class Counted:
    """An endpoint that counts its open connections."""

    def __init__(self, delay: float = 0.1) -> None:
        self.delay = delay
        self.open = 0
        self._lock = threading.Lock()

    def __call__(self, sock: socket.socket) -> None:
        with self._lock:
            self.open += 1
        try:
            while True:
                _head(sock)
                time.sleep(self.delay)
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        except OSError:
            pass
        finally:
            with self._lock:
                self.open -= 1


def _asking(driver: Driver, condition: Callable[[], bool]) -> None:
    """Send requests until a condition holds."""

    def holds() -> bool:
        driver.get("/")
        return condition()

    wait_for(holds, every=0.05)


def test_idle_connections_to_an_endpoint_that_is_not_used_are_closed(kind: str) -> None:
    """Idle connections of an unused endpoint close after ``keepalive_expiry``; used ones stay."""
    counted = Counted()
    limits = httpx2.Limits(max_connections=10, max_keepalive_connections=10, keepalive_expiry=0.5)
    with (
        talking(counted) as url,
        scripted({"b": ("200",)}) as ([b], _),
        Driver(kind, [url, b.url], limits=limits) as driver,
    ):
        driver.at_once(6, "/")
        assert counted.open == 6
        driver.manager.pin(b.url)
        _asking(driver, lambda: counted.open == 0)
        assert b.connections == 1


def test_the_connections_of_a_removed_endpoint_are_closed(kind: str) -> None:
    """Removing an endpoint closes its idle connections before their ``keepalive_expiry``."""
    limits = httpx2.Limits(max_connections=10, keepalive_expiry=600)
    counted = [Counted(0.02) for _ in range(4)]
    with contextlib.ExitStack() as stack:
        urls = [stack.enter_context(talking(each)) for each in counted]
        (last,), _ = stack.enter_context(scripted({"last": ("200",)}))
        driver = stack.enter_context(Driver(kind, [*urls, last.url], limits=limits))
        for url in urls:
            driver.at_once(4, "/")
            driver.manager.remove_endpoint(url)
        _asking(driver, lambda: all(each.open == 0 for each in counted))


def test_a_request_at_a_removed_endpoint_goes_on(kind: str) -> None:
    """A response that is being read survives the removal of its endpoint."""
    with (
        talking(_three_parts) as url,
        scripted({"b": ("200",)}) as ([b], _),
        Driver(kind, [url, b.url]) as driver,
    ):
        parts = []

        def each(part: bytes) -> bool:
            driver.manager.remove_endpoint(url)
            parts.append(part)
            return True

        driver.stream("/", each)
        assert b"".join(parts) == b"abc"
        assert driver.get("/").extensions["endpoint"] == b.url


def _three_parts(sock: socket.socket) -> None:
    _head(sock)
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
    for part in (b"a", b"b", b"c"):
        sock.sendall(part)
        time.sleep(0.5)
    _head(sock)


def test_a_cancelled_request_keeps_no_answer_that_it_has_set_aside() -> None:
    """If a request ends while it waits for the next endpoint, the first one's answer is closed."""
    limits = httpx2.Limits(max_connections=1)
    hang = threading.Event()

    def wait(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        hang.wait(20)
        return OK

    async def main() -> None:
        options: Any = {"verify": NOBODY, "trust_env": False, "update_interval": 0}
        urls = [bad.url, hanging.url]
        manager = AsyncEndpointManager(urls, policy=Policy(probe="none"), **options)
        async with manager.client(limits=limits, start=False) as client:
            manager.pin(bad.url)
            for _ in range(3):
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.3):
                        await client.get("/")
            transport: Any = client._transport
            (pool, *_) = transport._connector.pools.values()
            assert not any(connection.users for connection in pool._open)
        await manager.close()

    with handmade(lambda asked: (503, {}, b"x" * 99)) as bad, handmade(wait) as hanging:
        try:
            asyncio.run(main())
        finally:
            hang.set()


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_a_child_that_closes_a_client_breaks_no_connection_of_its_parents() -> None:
    """Closing an inherited client leaves the parent's open connection alone."""
    with talking(Counted(0.0)) as url, Driver("sync", [url], ALONE) as driver:
        assert driver.get("/").text == "ok"
        (pool,) = driver.client._transport._connector.pools.values()
        (connection,) = pool._free

        def close() -> bool:
            driver.client.close()
            return True

        assert in_a_child(close) == 0
        assert not connection.has_expired()
        assert driver.request("POST", "/").text == "ok"
        assert pool._free == [connection]


def test_pings_of_a_server_prolong_no_request(kind: str) -> None:
    """An HTTP/2 server that sends PINGs and no answer costs the total timeout."""
    policy = Policy(total_timeout=1.0, hedge_delay=20.0)

    def ping(sock: socket.socket) -> None:
        served = h2.connection.H2Connection(h2.config.H2Configuration(client_side=False))
        served.initiate_connection()
        sock.settimeout(0.2)
        while True:
            served.ping(b"12345678")
            sock.sendall(served.data_to_send())
            with contextlib.suppress(TimeoutError):
                if not (received := sock.recv(65536)):
                    return
                served.receive_data(received)

    with talking(ping) as url, Driver(kind, [url], policy, http1=False, http2=True) as driver:
        for method, body in (("GET", b""), ("POST", b"x" * 99)):
            began = time.monotonic()
            with pytest.raises(httpx2.TransportError):
                driver.request(method, "/", content=body)
            assert time.monotonic() - began < 3


def test_the_time_of_a_queue_of_dials_blames_no_endpoint() -> None:
    """A request whose time is over before its dial begins says nothing about the endpoint."""

    async def main() -> None:
        options: Any = {"verify": NOBODY, "trust_env": False, "update_interval": 0}
        policy = Policy(total_timeout=0.3, probe="none")
        manager = AsyncEndpointManager([server.url], policy=policy, **options)
        async with manager.client(start=False) as client:
            transport: Any = client._transport
            dials = transport._connector._dials
            async with contextlib.AsyncExitStack() as stack:
                for _ in range(DIALS):
                    await stack.enter_async_context(dials)
                asking = asyncio.create_task(client.get("/"))
                await asyncio.sleep(0.4)
            with pytest.raises(httpx2.PoolTimeout):
                await asking
            (state,) = manager.api_endpoints
            assert (state.state, state.failure_count) == ("unknown", 0)
        await manager.close()

    with handmade() as server:
        asyncio.run(main())


def test_another_server_name_ends_the_connections_of_the_first(kind: str) -> None:
    """Connections for a name that the list has replaced are closed at the next sweep."""
    with handmade() as server, Driver(kind, [server.url], ALONE) as driver:
        pools = driver.client._transport._connector.pools
        for name in ("a.example", "b.example", "c.example"):
            driver.manager._lists.put(Kind.API, Endpoint.parse(server.url, 0, name))
            assert driver.get("/").status_code == 200
            driver.client._transport._connector.sweep_at = 0.0
        assert driver.get("/").status_code == 200
        assert len(pools) == 1


@pytest.mark.slow
def test_cancelled_requests_cost_no_place_in_a_pool() -> None:
    """Thousands of requests cancelled by anyio scopes or tasks leak no connection slot."""
    counted = Counted(0.002)

    async def give_up(client: httpx2.AsyncClient, chance: random.Random) -> None:
        with contextlib.suppress(httpx2.HTTPError), anyio.move_on_after(chance.uniform(0, 0.02)):
            await client.get("/")

    async def play(url: str) -> None:
        chance = random.Random(7)
        limits = httpx2.Limits(max_connections=10)
        manager = AsyncEndpointManager([url], policy=ALONE, update_interval=0)
        async with manager.client(limits=limits) as client:
            for _ in range(40):
                async with asyncio.TaskGroup() as group:
                    tasks = [group.create_task(give_up(client, chance)) for _ in range(50)]
                    for task in tasks[::3]:
                        await asyncio.sleep(chance.uniform(0, 0.001))
                        task.cancel()
            async with asyncio.timeout(10):
                answers = await asyncio.gather(*(client.get("/") for _ in range(30)))
            assert [answer.text for answer in answers] == ["ok"] * 30
        await manager.close()

    with talking(counted) as url:
        asyncio.run(play(url))


def test_a_request_that_is_cancelled_during_its_dial_race_loses_no_connection(
    contexts: Contexts,
) -> None:
    """Requests cancelled at any moment of a dial race leave no unclosed connection."""
    together = Policy(hedge_delay=20.0, race_delay=0.0)

    async def give_up(client: httpx2.AsyncClient, chance: random.Random) -> None:
        with contextlib.suppress(httpx2.HTTPError), anyio.move_on_after(chance.uniform(0, 0.02)):
            await client.get("/")

    async def play(urls: list[str]) -> None:
        chance = random.Random(7)
        manager = AsyncEndpointManager(
            urls, policy=together, update_interval=0, verify=contexts[1], trust_env=False
        )
        for _ in range(30):
            async with manager.client(start=False) as client, asyncio.TaskGroup() as group:
                tasks = [group.create_task(give_up(client, chance)) for _ in range(10)]
                for task in tasks[::2]:
                    await asyncio.sleep(chance.uniform(0, 0.002))
                    task.cancel()
            await asyncio.sleep(0)
        await manager.close()

    with (
        speaking(contexts[0]) as one,
        speaking(contexts[0]) as two,
        talking(Counted(0.0)) as plain,
        warnings.catch_warnings(record=True) as lost,
    ):
        warnings.simplefilter("always")
        asyncio.run(play([one.url, two.url]))
        asyncio.run(play([plain, one.url]))
        gc.collect()
    assert [str(each.message) for each in lost] == []


class _SilentAtFirst:
    """A TLS endpoint that accepts connections and sends nothing until ``well`` is set."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self._context = context
        self.well = False
        self.silent = 0
        self._lock = threading.Lock()

    def __call__(self, sock: socket.socket) -> None:
        if not self.well:
            with self._lock:
                self.silent += 1
            while sock.recv(65536):
                pass
            return
        with contextlib.suppress(OSError), self._context.wrap_socket(sock, server_side=True) as tls:
            while _head(tls):
                tls.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@contextlib.contextmanager
def _silent_behind_a_proxy() -> Iterator[tuple[_SilentAtFirst, dict[str, Any]]]:
    """Yield a silent endpoint and the options of a client that reaches it through a proxy.

    If TLS in a tunnel fails or is cancelled, httpcore leaves the tunnel's connection marked as
    busy: nothing closes that connection, and its slot in the pool is lost.
    """
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("one.invalid").configure_cert(server)
    trust = ssl.create_default_context()
    authority.configure_trust(trust)
    endpoint = _SilentAtFirst(server)
    with (
        talking(endpoint) as url,
        forward_proxy({"one.invalid": int(url.rpartition(":")[2])}) as proxy,
    ):
        limits = httpx2.Limits(max_connections=10)
        yield endpoint, {"verify": trust, "proxy": proxy.url, "limits": limits}


def test_places_that_failed_requests_have_lost_are_found(kind: str) -> None:
    """The pool recovers all ten slots after ten failed requests have leaked one slot each."""
    with (
        _silent_behind_a_proxy() as (endpoint, options),
        Driver(kind, ["https://one.invalid"], ALONE, **options) as driver,
    ):
        failed = driver.at_once(10, "/", timeout=0.5)
        assert all(isinstance(each, httpx2.TransportError) for each in failed)
        assert endpoint.silent >= 10
        endpoint.well = True
        began = time.monotonic()
        assert driver.get("/").text == "ok"
        assert [each.text for each in driver.at_once(30, "/")] == ["ok"] * 30
        assert time.monotonic() - began < 5


def test_places_that_cancelled_requests_have_lost_are_found() -> None:
    """The pool recovers the slots of requests that were cancelled during TLS in a tunnel."""

    async def give_up(client: httpx2.AsyncClient) -> None:
        with anyio.move_on_after(0.5):
            await client.get("/")

    async def play(endpoint: _SilentAtFirst, options: dict[str, Any]) -> None:
        verify = options.pop("verify")
        manager = AsyncEndpointManager(
            ["https://one.invalid"], policy=ALONE, update_interval=0, verify=verify
        )
        async with manager.client(start=False, **options) as client:
            tasks = [asyncio.create_task(give_up(client)) for _ in range(5)]
            others = [asyncio.create_task(client.get("/")) for _ in range(5)]
            async with asyncio.timeout(5):
                while endpoint.silent < 10:
                    await asyncio.sleep(0.01)
            for each in others:
                each.cancel()
            await asyncio.wait([*tasks, *others])
            endpoint.well = True
            async with asyncio.timeout(5):
                answers = await asyncio.gather(*(client.get("/") for _ in range(30)))
            assert [answer.text for answer in answers] == ["ok"] * 30

    with _silent_behind_a_proxy() as (endpoint, options):
        asyncio.run(play(endpoint, options))
