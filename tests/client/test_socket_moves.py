"""Both Socket.io clients: moves between endpoints, disconnects, and the events of both."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from socketio.exceptions import ConnectionError as SocketConnectionError
from socketio.exceptions import ConnectionRefusedError as LoginRefused

from mop_config import signals
from mop_config.client import (
    AsyncFailoverSocketClient,
    EndpointManager,
    FailoverSocketClient,
    NoEndpointAvailable,
)
from mop_config.client.sockets import search

from ..waiting import wait_for
from .fleet import silence
from .handmade import NOBODY, QUICK, Asked, handmade
from .managers import hearing
from .socket_server import SocketServer, socket_server

#: Retries a failed endpoint soon, and takes it as down only after a thousand failures.
POLICY = replace(QUICK, first_backoff=0.1, max_backoff=0.3, unhealthy_after=1000)


class OnLoop:
    """The asynchronous client in an event loop of its own, with the synchronous interface."""

    def __init__(self, manager: EndpointManager) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._thread.start()

        async def make() -> AsyncFailoverSocketClient:
            return AsyncFailoverSocketClient(manager)

        self.client = self._run(make())

    def _run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(60)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.client, name)

    def connect(self, **arguments: Any) -> None:
        self._run(self.client.connect(**arguments))

    def call(self, *arguments: Any) -> Any:
        return self._run(self.client.call(*arguments))

    def emit(self, *arguments: Any) -> None:
        self._run(self.client.emit(*arguments))

    def disconnect(self) -> None:
        self._run(self.client.disconnect())

    def end(self) -> None:
        self.disconnect()

        async def rest() -> None:
            others = asyncio.all_tasks() - {asyncio.current_task()}
            if others:
                await asyncio.wait(others, timeout=5)

        self._run(rest())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Heard:
    """Records the calls of a client's handlers, in order."""

    def __init__(self, client: Any) -> None:
        self.events: list[tuple[str, Any]] = []
        self._client = client
        client.on("hello", lambda name: self.events.append(("hello", name)))
        client.on("connect", lambda: self.events.append(("connect", client.endpoint)))
        client.on("disconnect", lambda reason: self.events.append(("disconnect", client.endpoint)))

    def of(self, kind: str) -> list[Any]:
        return [about for event, about in self.events if event == kind]


@pytest.fixture(params=["sync", "async"])
def make(request: pytest.FixtureRequest) -> Iterator[Callable[[EndpointManager], Any]]:
    """Return a factory for clients of either kind, which are disconnected after the test."""
    made: list[Any] = []

    def make(manager: EndpointManager) -> Any:
        made.append(FailoverSocketClient(manager) if request.param == "sync" else OnLoop(manager))
        return made[-1]

    yield make
    for client in made:
        getattr(client, "end", client.disconnect)()


@contextmanager
def managing(*sockets: str, **options: Any) -> Iterator[EndpointManager]:
    """Yield a manager that its first client starts, and close it afterwards."""
    defaults = {"policy": POLICY, "verify": NOBODY, "update_interval": 0, "trust_env": False}
    manager = EndpointManager((), list(sockets), **{**defaults, **options})
    try:
        yield manager
    finally:
        manager.close()


Make = Callable[[EndpointManager], Any]
Pair = tuple[SocketServer, SocketServer]


class TestMoving:
    """A connected client moves to another endpoint by itself."""

    @pytest.mark.parametrize("reason", ["removed", "pinned", "preferred"])
    def test_the_new_one_stands_before_the_old_one_ends(
        self, make: Make, pair: Pair, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client connects to the new endpoint first, and then disconnects from the old one."""
        a, b = pair
        if reason != "pinned":
            monkeypatch.setattr(search, "MOVE_JITTER", 0.5)
        with managing(a.url, b.url) as manager, hearing(signals.endpoint_switched) as told:
            client = make(manager)
            heard = Heard(client)
            client.connect()
            wait_for(lambda: heard.of("hello") == ["a"])
            if reason == "removed":
                manager.remove_endpoint(a.url)
            elif reason == "pinned":
                manager.pin(b.url)
            else:
                manager.add_socket_endpoint(a.url, priority=7)
            began = time.monotonic()
            wait_for(lambda: heard.of("hello") == ["a", "b"], seconds=20)
            assert client.call("who") == "b"
            if reason == "pinned":
                assert time.monotonic() - began < 4
            # The disconnect came when the new connection was already in use.
            assert heard.of("disconnect") == [b.url]
            assert heard.of("connect") == [a.url, b.url]
            wait_for(lambda: told)
            ((_, about),) = told
            assert (about["from_url"], about["to_url"]) == (a.url, b.url)
            assert (about["reason"], about["seconds_without_service"]) == (reason, 0.0)
            assert manager.statistics()["socketio"]["switches"] == 1
            wait_for(lambda: a.get("/sessions").json == 0, what="the old session ends")

    def test_a_better_one_that_is_back(
        self, make: Make, pair: Pair, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The client returns to a recovered better endpoint and counts the outage's seconds."""
        monkeypatch.setattr(search, "MOVE_JITTER", 0.5)
        with (
            socket_server(tmp_path, "p") as primary,
            managing(primary.url, pair[1].url) as manager,
            hearing(signals.endpoint_switched) as told,
        ):
            client = make(manager)
            heard = Heard(client)
            client.connect()
            wait_for(lambda: heard.of("hello") == ["p"])
            primary.kill()
            wait_for(lambda: heard.of("hello") == ["p", "b"])
            wait_for(lambda: told)
            seconds = told[0][1]["seconds_without_service"]
            assert told[0][1]["reason"] == "failed"
            assert 0 < seconds < 10
            with socket_server(tmp_path, "q", port=primary.port):
                wait_for(lambda: heard.of("hello") == ["p", "b", "q"], seconds=30)
                wait_for(lambda: len(told) == 2)
                assert told[1][1]["reason"] == "failback"
                figures = manager.statistics()["socketio"]
                assert (figures["switches"], figures["seconds_without_service"]) == (2, seconds)
                client.disconnect()

    def test_it_stays_where_the_other_takes_nobody(self, make: Make, pair: Pair) -> None:
        """The client keeps its connection if the other endpoint does not accept one."""
        a, _ = pair
        with handmade(lambda asked: (500, {}, b"")) as broken, managing(a.url) as manager:
            client = make(manager)
            heard = Heard(client)
            client.connect()
            manager.add_socket_endpoint(broken.url, priority=3)
            manager.pin(broken.url)
            wait_for(lambda: len(broken.asked) >= 2)
            assert client.call("who") == "a"
            assert heard.of("disconnect") == []

    @pytest.mark.parametrize("reason", ["removed", "pinned"])
    def test_it_goes_past_one_that_refuses_the_login(
        self,
        make: Make,
        pair: Pair,
        refusing: Pair,
        reason: str,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        """The client moves to the next endpoint if the best endpoint refuses the login."""
        (a, b), (r, _) = pair, refusing
        monkeypatch.setattr(search, "MOVE_JITTER", 0.5)
        policy = replace(POLICY, first_backoff=60.0, max_backoff=60.0)
        with managing(r.url, a.url, b.url, policy=policy) as manager:
            client = make(manager)
            heard = Heard(client)
            client.connect()
            wait_for(lambda: heard.of("hello") == ["a"])
            if reason == "removed":
                manager.remove_endpoint(a.url)
            else:
                core = client._endpoints
                wait_for(lambda: core._refused, what="a move to the best one is refused")
                manager.pin(b.url)
            wait_for(lambda: heard.of("hello") == ["a", "b"], seconds=20)
            assert client.call("who") == "b"

    def test_an_answer_that_is_still_to_come_arrives(self, make: Make, pair: Pair) -> None:
        """The server of the old connection may still answer a ``call`` made before the move."""
        a, b = pair
        with managing(a.url, b.url) as manager:
            client = make(manager)
            heard = Heard(client)
            client.connect()
            answers: list[Any] = []
            calling = threading.Thread(target=lambda: answers.append(client.call("later")))
            calling.start()
            wait_for(lambda: any(len(each) > 1 for each in client.callbacks.values()))
            manager.pin(b.url)
            wait_for(lambda: heard.of("hello") == ["a", "b"], seconds=20)
            a.get("/release")
            calling.join(10)
            assert answers == ["a"]
            wait_for(lambda: a.get("/sessions").json == 0, what="the old session ends")
            assert client.call("who") == "b"

    def test_nobody_moves_for_speed(self, make: Make, pair: Pair) -> None:
        """A connected client does not move for latency or from a suspect endpoint."""
        a, b = pair
        with managing(a.url, b.url) as manager:
            client = make(manager)
            client.connect()
            with manager._state as core:
                member = core.socketio.get(a.url)
                assert member is not None
                assert core.socketio.better_than(member, core.clock()) is None
            assert client.endpoint == a.url


class TestEnding:
    """``disconnect`` aborts a running search."""

    def test_a_search_at_a_hanging_endpoint(self, make: Make, pair: Pair) -> None:
        """After ``disconnect`` aborts a hanging handshake, the client can connect elsewhere."""
        policy = replace(POLICY, health_timeout=20.0)
        with silence() as port, managing(f"http://127.0.0.1:{port}", policy=policy) as manager:
            client = make(manager)
            errors: list[BaseException] = []

            def search() -> None:
                try:
                    client.connect()
                except BaseException as error:
                    errors.append(error)

            searching = threading.Thread(target=search)
            searching.start()
            time.sleep(0.5)  # no event shows that the handshake hangs
            began = time.monotonic()
            client.disconnect()
            searching.join(10)
            assert time.monotonic() - began < 2
            assert isinstance(errors[0], (NoEndpointAvailable, SocketConnectionError))
            manager.remove_endpoint(f"http://127.0.0.1:{port}")
            manager.add_socket_endpoint(pair[0].url)
            client.connect()
            assert client.call("who") == "a"
            assert time.monotonic() - began < 4

    def test_a_search_after_a_break(self, make: Make, pair: Pair, tmp_path: Path) -> None:
        """After ``disconnect`` aborts a reconnect, the client can connect, but not twice."""
        policy = replace(POLICY, health_timeout=20.0)
        with (
            socket_server(tmp_path, "p") as primary,
            silence() as port,
            managing(primary.url, f"http://127.0.0.1:{port}", policy=policy) as manager,
        ):
            client = make(manager)
            heard = Heard(client)
            client.connect()
            primary.kill()
            wait_for(lambda: heard.of("disconnect"))
            time.sleep(0.5)  # time to begin the handshake with the silent server
            began = time.monotonic()
            client.disconnect()
            manager.remove_endpoint(f"http://127.0.0.1:{port}")
            manager.add_socket_endpoint(pair[0].url, priority=0)
            manager.pin(pair[0].url)
            client.connect()
            assert time.monotonic() - began < 4
            assert client.call("who") == "a"
            with pytest.raises(SocketConnectionError, match="Already"):
                client.connect()


class TestRefusal:
    """The application refuses the login."""

    def test_its_reason_reaches_the_caller(self, make: Make, refusing: Pair) -> None:
        """LoginRefused carries the server's reason, and no endpoint is blamed."""
        first, second = refusing
        with managing(first.url, second.url) as manager:
            client = make(manager)
            errors: list[Any] = []
            client.on("connect_error", errors.append)
            with pytest.raises(LoginRefused, match="not you") as caught:
                client.connect()
            assert caught.value.error_args == {"message": "not you"}
            assert errors == [{"message": "not you"}] * 2
            for state in manager.socket_endpoints:
                assert (state.is_healthy, state.failure_count) == (True, 0)
                assert state.last_fault is None

    def test_an_answer_401_is_one_too(self, make: Make) -> None:
        """A 401 during the handshake raises LoginRefused, since a gateway may check the login."""
        with (
            handmade(lambda asked: (401, {}, b'"who are you"')) as server,
            managing(server.url) as manager,
            pytest.raises(LoginRefused, match="401"),
        ):
            make(manager).connect(transports=["polling"])


class TestArguments:
    """The application's own errors are told to the application, and blame no endpoint."""

    @pytest.mark.parametrize("name", ["auth", "headers"])
    def test_an_error_of_its_function_is_raised(self, make: Make, pair: Pair, name: str) -> None:
        """An exception of the ``auth`` or ``headers`` function leaves ``connect``."""

        def without_a_token() -> Any:
            raise LookupError("nobody is logged in")

        with managing(pair[0].url) as manager:
            client = make(manager)
            with pytest.raises(LookupError, match="nobody is logged in"):
                client.connect(**{name: without_a_token})
            (state,) = manager.socket_endpoints
            assert (state.failure_count, state.last_fault) == (0, None)
            client.connect()
            assert client.call("who") == "a"

    def test_a_reconnect_survives_an_error_of_its_function(
        self, make: Make, tmp_path: Path, pair: Pair
    ) -> None:
        """After a break the function is asked again until it returns a value."""
        answers: list[Any] = [{"token": 1}, LookupError("the login server is down"), {"token": 2}]

        def auth() -> Any:
            answer = answers.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return answer

        with socket_server(tmp_path, "p") as primary, managing(primary.url) as manager:
            client = make(manager)
            heard = Heard(client)
            client.connect(auth=auth)
            wait_for(lambda: heard.of("hello") == ["p"])
            manager.add_socket_endpoint(pair[0].url, priority=1)
            primary.kill()
            wait_for(lambda: heard.of("hello") == ["p", "a"])
            assert pair[0].get("/seen").json[-1]["auth"] == {"token": 2}

    @pytest.mark.parametrize("transports", ["carrier-pigeon", ["tcp"], []])
    def test_transports_must_be_known(self, make: Make, transports: Any) -> None:
        """Unknown transports raise a ValueError before any endpoint is asked."""
        with handmade() as server, managing(server.url) as manager:
            with pytest.raises(ValueError, match="transports"):
                make(manager).connect(transports=transports)
            assert manager.socket_endpoints[0].last_fault is None


class TestThrownOut:
    """The server ends the connection with a disconnect packet."""

    def test_it_blames_no_endpoint(self, make: Make, pair: Pair) -> None:
        """The client connects again, to the same endpoint, which counts as healthy."""
        a, b = pair
        with managing(a.url, b.url) as manager:
            client = make(manager)
            heard = Heard(client)
            client.connect()
            for count in (1, 2, 3):
                wait_for(lambda count=count: heard.of("hello") == ["a"] * count)  # type: ignore[misc]
                client.emit("leave")
            wait_for(lambda: heard.of("hello") == ["a"] * 4)
            assert len(heard.of("disconnect")) == 3
            assert manager.socket_endpoints[0].last_fault is None


class TestRedirects:
    """Redirects are not followed, because the login would go to their target."""

    @pytest.mark.parametrize("transport", ["polling", "websocket"])
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    def test_none_is(self, make: Make, transport: str, status: int) -> None:
        """A redirect fails the connection, and its target gets no request."""
        with handmade() as other:

            def answer(asked: Asked) -> Any:
                return status, {"Location": f"{other.url}{asked.path}"}, b""

            with handmade(answer) as server, managing(server.url) as manager:
                client = make(manager)
                with pytest.raises(NoEndpointAvailable):
                    client.connect(
                        transports=[transport], headers={"Authorization": "Bearer secret"}
                    )
                assert other.asked == []
                assert server.asked
