"""The Socket.io clients over the pool, against real python-socketio servers."""

import asyncio
import contextlib
import gc
import os
import signal
import ssl
import threading
import time
import warnings
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import socketio
import trustme

from mop_config import Endpoint
from mop_config.client import (
    AsyncEndpointManager,
    AsyncFailoverSocketClient,
    EndpointManager,
    FailoverSocketClient,
    NoEndpointAvailable,
)
from mop_config.client.pool.member import RACE_MOST

from ..ports import closed_port
from ..waiting import wait_for
from .fleet import black_hole
from .handmade import MISSING, NOBODY, QUICK, Answer, Asked, handmade
from .socket_server import SocketServer, socket_server

Pair = tuple[SocketServer, SocketServer]
#: Retries a failed endpoint soon, and takes it as down only after a thousand failures.
POLICY = replace(QUICK, first_backoff=0.1, max_backoff=0.3, unhealthy_after=1000)


def manager_of(*sockets: Any, **options: Any) -> EndpointManager:
    defaults = {"policy": POLICY, "verify": NOBODY, "update_interval": 0}
    return EndpointManager((), list(sockets), **{**defaults, **options})


@contextlib.contextmanager
def connected(manager: EndpointManager, **arguments: Any) -> Iterator[FailoverSocketClient]:
    """Yield a client that is connected to both namespaces."""
    client = FailoverSocketClient(manager)
    try:
        client.connect(namespaces=["/", "/chat"], **arguments)
        yield client
    finally:
        client.disconnect()
        wait_for(lambda: not (client._run.task and client._run.task.is_alive()))


class Handlers:
    """Registers handlers on a client and counts their calls."""

    def __init__(self, client: Any) -> None:
        self.greetings: list[str] = []
        self.connects = 0
        self.disconnects = 0
        client.on("hello", self.hello)
        client.on("connect", self.connect)
        client.on("disconnect", self.disconnect)

    def hello(self, name: str) -> None:
        self.greetings.append(name)

    def connect(self) -> None:
        self.connects += 1

    def disconnect(self, reason: str) -> None:
        self.disconnects += 1


class TestConnecting:
    """Connecting to the best endpoint that accepts the client."""

    def test_the_best_is_taken_and_named(self, pair: Pair) -> None:
        """The client connects to the best endpoint with both namespaces, calls and binary data."""
        a, b = pair
        manager = manager_of(a.url, b.url)
        with connected(manager) as client:
            assert client.endpoint == a.url
            assert client.call("who") == client.call("who", namespace="/chat") == "a"
            assert client.call("echo", {"n": [1, b"\0\1"]}) == {"n": [1, b"\0\1"]}
            assert client.transport() == "websocket"
        assert client.endpoint is None
        assert manager.statistics()["socketio"]["endpoints"][a.url]["served"] == 1

    def test_a_dead_primary_is_passed_over(self, pair: Pair) -> None:
        """The client skips a dead primary, and the shared pool records the failure."""
        dead = f"http://127.0.0.1:{closed_port()}"
        manager = manager_of(dead, pair[0].url)
        with connected(manager) as client:
            assert client.endpoint == pair[0].url
        assert manager.socket_endpoints[0].last_fault == "refused"
        assert manager.get_current_socket_url() == pair[0].url

    def test_a_black_hole_costs_the_races_delay(self, pair: Pair) -> None:
        """An endpoint that drops packets costs the race delay, not the connect timeout."""
        with black_hole() as port:
            manager = manager_of(f"http://127.0.0.1:{port}", pair[0].url)
            began = time.monotonic()
            with connected(manager) as client:
                assert time.monotonic() - began < RACE_MOST + 0.75
                assert client.endpoint == pair[0].url

    @pytest.mark.parametrize(
        "body",
        [b"<html>", b"", b"0{}", b"4nothing", b'0{"sid":"x","upgrades":["websocket"]}', b"\xff"],
    )
    def test_a_server_that_is_none_is_passed_over(self, body: bytes, pair: Pair) -> None:
        """The client skips a server whose handshake is not Socket.io."""
        with (
            handmade(lambda asked: (200, {}, body)) as server,
            connected(manager_of(server.url, pair[0].url)) as client,
        ):
            assert client.call("who") == "a"

    def test_no_endpoint_at_all(self) -> None:
        """Without a live endpoint ``connect`` raises NoEndpointAvailable and can be repeated."""
        dead = f"http://127.0.0.1:{closed_port()}"
        for manager, tried in ((manager_of(), []), (manager_of(dead), [dead])):
            client = FailoverSocketClient(manager)
            for _ in range(2):
                with pytest.raises(NoEndpointAvailable) as caught:
                    client.connect()
                assert [trial.url for trial in caught.value.attempts] == tried
            assert client.endpoint is None

    def test_connecting_twice(self, pair: Pair) -> None:
        """``connect`` raises while connected, like python-socketio; ``disconnect`` allows it."""
        with connected(manager_of(pair[0].url)) as client:
            with pytest.raises(socketio.exceptions.ConnectionError, match="Already"):
                client.connect()
            assert client.call("who") == "a"
            client.disconnect()
            client.connect()
            assert client.call("who") == "a"

    @pytest.mark.parametrize("path", ["/ws", "/ws/socket.io"])
    def test_the_engine_stands_below_the_urls_path(self, tmp_path: Path, path: str) -> None:
        """The engine's path is appended to the URL's path, unless the URL already ends with it."""
        with socket_server(tmp_path, "w", path="/ws") as server:
            url = f"{server.url}{path}".replace("http", "ws")
            with connected(manager_of(url)) as client:
                assert client.endpoint == url
                assert client.call("who") == "w"

    @pytest.mark.parametrize("option", [{"ssl_verify": False}, {"reconnection": False}])
    @pytest.mark.parametrize("kind", [FailoverSocketClient, AsyncFailoverSocketClient])
    def test_what_is_the_managers_is_refused(self, option: dict[str, Any], kind: Any) -> None:
        """Options that belong to the manager raise a TypeError, above all ``ssl_verify``."""
        with pytest.raises(TypeError, match="got an unexpected keyword"):
            kind(manager_of(), **option)


class TestNames:
    """An endpoint may have a server name other than its address."""

    @pytest.mark.parametrize("transports", [["polling"], ["websocket"]])
    def test_the_server_is_asked_by_its_name(self, transports: list[str], pair: Pair) -> None:
        """Host is the server name over plain HTTP, with either transport and either client."""
        a, _ = pair
        endpoint = Endpoint.parse(a.url, 0, "chat.example.com")
        with connected(manager_of(endpoint), transports=transports) as client:
            assert client.transport() == transports[0]
            assert a.get("/seen").json[-1]["host"] == f"chat.example.com:{a.port}"

        async def main() -> None:
            async with aio(endpoint) as client:
                await client.connect(transports=transports)
                assert a.get("/seen").json[-1]["host"] == f"chat.example.com:{a.port}"

        asyncio.run(main())

    def test_the_options_of_a_websocket_hold_for_each_connection(self) -> None:
        """The headers in ``websocket_extra_options`` are sent with each connection."""

        async def main(url: str) -> None:
            manager = AsyncEndpointManager((), [url], policy=POLICY, update_interval=0)
            options = {"headers": {"X-App": "1"}}
            client = AsyncFailoverSocketClient(manager, websocket_extra_options=options)
            for _ in range(2):
                with pytest.raises(NoEndpointAvailable):
                    await client.connect(transports=["websocket"])
            await manager.close()

        with handmade() as server:
            asyncio.run(main(server.url))
            manager = manager_of(server.url)
            options = {"header": {"X-App": "1"}}
            client = FailoverSocketClient(manager, websocket_extra_options=options)
            for _ in range(2):
                with pytest.raises(NoEndpointAvailable):
                    client.connect(transports=["websocket"])
            manager.close()
            wanted = [asked for asked in server.asked if "transport=websocket" in asked.path]
            assert [asked.headers["x-app"] for asked in wanted] == ["1"] * 4

    def test_a_certificate_must_be_for_that_name(self, tmp_path: Path) -> None:
        """The certificate must be valid for the server name, with either transport and client."""
        authority = trustme.CA()
        context = ssl.create_default_context()
        authority.configure_trust(context)
        issued = authority.issue_cert("chat.example.com")
        issued.private_key_pem.write_to_path(tmp_path / "key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
        files = str(tmp_path / "cert"), str(tmp_path / "key")

        async def main(url: str, name: str) -> None:
            endpoint = Endpoint.parse(url, 0, name)
            async with aio(endpoint, verify=context) as client:
                await client.connect(transports=["websocket"])
                assert await client.call("who") == "t"

        with socket_server(tmp_path, "t", certificate=files) as server:
            for transport in ("polling", "websocket"):
                good = Endpoint.parse(server.url, 0, "chat.example.com")
                with connected(manager_of(good, verify=context), transports=[transport]) as client:
                    assert client.call("who") == "t"
                # The client must not change the context, which requests and checks share.
                assert context.check_hostname
                assert context.verify_mode is ssl.CERT_REQUIRED
                bad = Endpoint.parse(server.url, 0, "other.example.com")
                manager = manager_of(bad, verify=context)
                with pytest.raises(NoEndpointAvailable):
                    FailoverSocketClient(manager).connect(transports=[transport])
                assert manager.socket_endpoints[0].last_fault == "tls"
            asyncio.run(main(server.url, "chat.example.com"))
            with pytest.raises(NoEndpointAvailable):
                asyncio.run(main(server.url, "other.example.com"))

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    def test_no_transport_outlives_the_client(self, tmp_path: Path, transport: str) -> None:
        """``disconnect`` closes each socket, also if the server never ends its TLS connection."""
        authority = trustme.CA()
        context = ssl.create_default_context()
        authority.configure_trust(context)
        issued = authority.issue_cert("127.0.0.1")
        issued.private_key_pem.write_to_path(tmp_path / "key")
        issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
        files = str(tmp_path / "cert"), str(tmp_path / "key")

        async def main(server: SocketServer) -> None:
            async with aio(server.url, verify=context) as client:
                await client.connect(transports=[transport])
                assert await client.call("who") == "t"
                os.kill(server.pid, signal.SIGSTOP)

        with socket_server(tmp_path, "t", certificate=files) as server:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                asyncio.run(main(server))
                gc.collect()
            assert [str(each.message) for each in warned] == []

    def test_a_server_that_never_answers_leaves_no_transport(
        self, authority: trustme.CA, trust: ssl.SSLContext
    ) -> None:
        """A handshake that was given up is closed, also if the server never ends its TLS."""
        gate = threading.Event()
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(server_context)

        def answer(asked: Asked) -> Answer:
            gate.wait(10)
            return MISSING

        async def main(url: str) -> None:
            async with aio(url, verify=trust) as client:
                with pytest.raises(TimeoutError):
                    async with asyncio.timeout(0.5):
                        await client.connect()

        with handmade(answer, server_context) as server:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                asyncio.run(main(server.url))
                gc.collect()
            assert server.asked
            gate.set()
            assert [str(each.message) for each in warned] == []


class TestBreaking:
    """After a lost connection the client finds another endpoint."""

    def test_a_killed_primary(self, tmp_path: Path, pair: Pair) -> None:
        """After the primary's death, handlers and namespaces stay; the pool records the failure."""
        with socket_server(tmp_path, "p") as primary:
            manager = manager_of(primary.url, pair[1].url)
            client = FailoverSocketClient(manager)
            handlers = Handlers(client)
            client.on("echo", lambda *_: None, namespace="/chat")
            client.connect()
            try:
                wait_for(lambda: handlers.greetings == ["p"])
                primary.kill()
                wait_for(lambda: handlers.greetings == ["p", "b"])
                assert client.endpoint == pair[1].url
                wait_for(lambda: "/chat" in client.namespaces)
                assert client.call("who", namespace="/chat") == "b"
                wait_for(lambda: (handlers.connects, handlers.disconnects) == (2, 1))
                assert manager.get_current_socket_url() == pair[1].url
                assert manager.socket_endpoints[0].state == "suspect"
            finally:
                client.disconnect()
            assert handlers.disconnects == 2

    def test_an_outage_of_all_ends_with_the_first_that_is_back(self, tmp_path: Path) -> None:
        """After an outage of all endpoints the client reconnects to the first one that is back."""
        with (
            socket_server(tmp_path, "one") as first,
            connected(manager_of(first.url)) as client,
        ):
            handlers = Handlers(client)
            first.kill()
            wait_for(lambda: handlers.disconnects == 1)
            wait_for(lambda: client.endpoint is None)
            with socket_server(tmp_path, "two", port=first.port):
                wait_for(lambda: handlers.greetings[-1:] == ["two"])
                assert client.endpoint == first.url

    def test_an_endpoint_that_refuses_us_ends_no_search(
        self, tmp_path: Path, pair: Pair, refusing: Pair
    ) -> None:
        """An endpoint that refuses the login ends neither the first search nor a reconnect."""
        with socket_server(tmp_path, "p") as primary:
            manager = manager_of(refusing[0].url, primary.url, pair[1].url)
            client = FailoverSocketClient(manager)
            handlers = Handlers(client)
            client.connect()
            try:
                wait_for(lambda: handlers.greetings == ["p"])
                primary.kill()
                wait_for(lambda: handlers.greetings == ["p", "b"])
            finally:
                client.disconnect()

    def test_an_endpoint_that_throws_us_out_is_not_stormed(self, tmp_path: Path) -> None:
        """If the server disconnects the client at once, the reconnect pauses grow."""
        policy = replace(POLICY, first_backoff=0.4, max_backoff=10.0)
        with socket_server(tmp_path, "k", manner="kick") as server:
            client = FailoverSocketClient(manager_of(server.url, policy=policy))
            handlers = Handlers(client)
            began = time.monotonic()
            client.connect(wait=False)
            try:
                wait_for(lambda: len(handlers.greetings) >= 4, seconds=20)
                # Pauses of 0, 0.4 and 0.8 s, with a jitter of a tenth.
                assert time.monotonic() - began >= 0.9 * 1.2
            finally:
                client.disconnect()

    def test_a_disconnect_beside_the_servers_leaves_no_thread(self, tmp_path: Path) -> None:
        """If the server disconnects at the same moment, all threads of the connection still end."""

        def run(url: str, delay: float) -> None:
            client = FailoverSocketClient(manager_of(url))
            left = threading.Event()
            client.on("disconnect", left.set)
            client.connect(wait=False)
            left.wait(10)
            time.sleep(delay)  # the moments in which python-engineio ends the connection
            client.disconnect()

        with socket_server(tmp_path, "k", manner="kick") as server:
            delays = [step / 5000 for step in range(10)] * 2
            clients = [threading.Thread(target=run, args=(server.url, delay)) for delay in delays]
            for each in clients:
                each.start()
            for each in clients:
                each.join()
            loops = ("_read_loop", "_write_loop")
            wait_for(
                lambda: not any(name in t.name for t in threading.enumerate() for name in loops),
                seconds=8,
                what="the threads of all connections have ended",
            )

    def test_disconnecting_is_for_good_even_in_the_midst_of_a_search(self, tmp_path: Path) -> None:
        """``disconnect`` during a search is final: no connection is made afterwards."""
        with (
            socket_server(tmp_path, "one") as first,
            connected(manager_of(first.url)) as client,
        ):
            handlers = Handlers(client)
            first.kill()
            wait_for(lambda: handlers.disconnects == 1)
            began = time.monotonic()
            client.disconnect()
            assert time.monotonic() - began < 2
            client.wait()
            assert not client.connected

    def test_a_handler_may_disconnect(self, tmp_path: Path) -> None:
        """A ``disconnect`` handler may call ``disconnect``."""
        with socket_server(tmp_path, "one") as first:
            client = FailoverSocketClient(manager_of(first.url))
            client.on("disconnect", lambda reason: client.disconnect())
            client.connect()
            first.kill()
            done = threading.Thread(target=client.wait)
            done.start()
            done.join(5)
            assert not done.is_alive()
            assert not client.connected

    def test_a_connect_handler_may_disconnect(self, pair: Pair) -> None:
        """A ``connect`` handler may call ``disconnect``; ``connect`` then raises nothing."""
        client = FailoverSocketClient(manager_of(pair[0].url))
        client.on("connect", client.disconnect)
        client.connect()
        assert not client.connected


@contextlib.asynccontextmanager
async def aio(*sockets: Any, **options: Any) -> AsyncIterator[AsyncFailoverSocketClient]:
    """Yield an asynchronous client, and disconnect it afterwards."""
    defaults = {"policy": POLICY, "verify": NOBODY, "update_interval": 0}
    manager = AsyncEndpointManager((), list(sockets), **{**defaults, **options})
    client = AsyncFailoverSocketClient(manager)
    try:
        yield client
    finally:
        await client.disconnect()


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


class TestAsync:
    """The asynchronous client."""

    def run(self, main: Callable[[], Awaitable[None]]) -> None:
        async def alone() -> None:
            await main()
            rest = asyncio.all_tasks() - {asyncio.current_task()}
            await until(lambda: all(task.done() for task in rest), 5)

        asyncio.run(alone())

    def test_a_killed_primary(self, tmp_path: Path, pair: Pair) -> None:
        """After the primary's death, handlers and namespaces stay; the pool records the failure."""

        async def main() -> None:
            with socket_server(tmp_path, "p") as primary:
                async with aio(primary.url, pair[1].url) as client:
                    handlers = Handlers(client)
                    await client.connect(namespaces=["/", "/chat"])
                    await until(lambda: handlers.greetings == ["p"])
                    assert client.endpoint == primary.url
                    primary.kill()
                    await until(lambda: handlers.greetings == ["p", "b"])
                    assert client.endpoint == pair[1].url
                    await until(lambda: "/chat" in client.namespaces)
                    assert await client.call("who", namespace="/chat") == "b"
                    member = client._endpoints.state.socketio.get(primary.url)
                    assert member is not None
                    assert member.health.state == "suspect"
                assert (handlers.connects, handlers.disconnects) == (2, 2)

        self.run(main)

    def test_an_outage_of_all_and_a_refusal(self, tmp_path: Path, refusing: Pair) -> None:
        """Both a refusing and a dead endpoint are tried again until one accepts the client."""

        async def main() -> None:
            with socket_server(tmp_path, "one") as first:
                async with aio(refusing[0].url, first.url) as client:
                    handlers = Handlers(client)
                    await client.connect()
                    await until(lambda: handlers.greetings == ["one"])
                    first.kill()
                    await until(lambda: handlers.disconnects == 1)
                    with socket_server(tmp_path, "two", port=first.port):
                        await until(lambda: handlers.greetings == ["one", "two"])

        self.run(main)

    def test_disconnecting_in_the_midst_of_a_search(self, tmp_path: Path) -> None:
        """``disconnect`` during a search ends the search and a pending ``wait``."""

        async def main() -> None:
            with socket_server(tmp_path, "one") as first:
                async with aio(first.url) as client:
                    handlers = Handlers(client)
                    await client.connect()
                    waiting = asyncio.create_task(client.wait())
                    first.kill()
                    await until(lambda: handlers.disconnects == 1)
                    async with asyncio.timeout(2):
                        await client.disconnect()
                        await waiting
                    assert not client.connected

        self.run(main)

    def test_a_connect_that_is_cancelled_leaves_nothing(self) -> None:
        """A cancelled ``connect`` leaves nothing behind, and the client can connect again."""
        gate = threading.Event()

        def answer(asked: Asked) -> Answer:
            gate.wait(10)
            return MISSING

        async def main() -> None:
            with handmade(answer) as server:
                async with aio(server.url) as client:
                    for _ in range(2):
                        with pytest.raises(TimeoutError):
                            async with asyncio.timeout(0.3):
                                await client.connect()
                gate.set()

        self.run(main)

    def test_no_endpoint_at_all(self) -> None:
        """Without a live endpoint ``connect`` raises NoEndpointAvailable."""

        async def main() -> None:
            for sockets in ((), (f"http://127.0.0.1:{closed_port()}",)):
                async with aio(*sockets) as client:
                    with pytest.raises(NoEndpointAvailable) as caught:
                        await client.connect()
                    assert len(caught.value.attempts) == len(sockets)

        self.run(main)
