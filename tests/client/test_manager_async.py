"""AsyncEndpointManager: the manager for asyncio programs."""

import asyncio
import json
import threading
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from mop_config import signals
from mop_config.client import (
    AsyncEndpointManager,
    EndpointManager,
    NoEndpointAvailable,
    UpdateFailed,
    UpdateRefused,
)

from ..ports import closed_port
from .fleet import silence
from .handmade import NOBODY, QUICK, handmade, source, urls, wire

NEW = "https://api-new.example.com"


def manager_of(*api: Any, **options: Any) -> AsyncEndpointManager:
    defaults = {"policy": QUICK, "verify": NOBODY, "update_interval": 0, "trust_env": False}
    return AsyncEndpointManager(list(api), **{**defaults, **options})


async def until(condition: Callable[[], Any], seconds: float = 10.0) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)


def threads() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name.startswith("mop-config")]


def run(main: Callable[[], Awaitable[None]]) -> None:
    async def alone() -> None:
        await main()

    asyncio.run(alone())


def test_it_offers_what_the_other_does() -> None:
    """Both managers have the same public names."""
    names = {name for name in dir(EndpointManager) if not name.startswith("_")}
    assert names == {name for name in dir(AsyncEndpointManager) if not name.startswith("_")}


def test_it_runs_between_start_and_close() -> None:
    """The manager runs inside its context or between ``start`` and ``close``, repeatedly."""

    async def main() -> None:
        with handmade() as server:
            manager = manager_of(server.url)
            assert await manager.start() is manager
            await until(lambda: manager.api_endpoints[0].state == "healthy")
            await manager.close()
            assert threads() == []
            async with manager as entered:
                assert entered is manager
                assert "mop-config-client" in threads()
            assert threads() == []

    run(main)


def test_the_first_client_starts_it() -> None:
    """The first client starts the manager, but not with ``start=False``; the loop sends signals."""
    told: list[int] = []

    def receive(sender: Any, **about: Any) -> None:
        told.append(threading.get_ident())

    async def main() -> None:
        alive = threading.Event()
        with handmade(lambda asked: (200 if alive.is_set() else 502, {}, b"")) as server:
            manager = manager_of(server.url)
            async with manager.client(start=False):
                assert manager.api_endpoints[0].last_checked is None
            async with manager.client():
                with signals.endpoint_down.connected_to(receive):
                    async with asyncio.timeout(10):
                        while not told:
                            await asyncio.sleep(0.01)
            await manager.close()
        assert set(told) == {threading.get_ident()}

    run(main)


def test_requests_move_to_another_endpoint() -> None:
    """Two hundred concurrent requests move from a dead endpoint to the backup."""

    async def main() -> None:
        with handmade(lambda asked: (200, {}, b"b")) as backup:
            dead = f"http://127.0.0.1:{closed_port()}"
            async with manager_of(dead, backup.url) as manager, manager.client() as client:
                answers = await asyncio.gather(*(client.get("/users") for _ in range(200)))
                assert {answer.text for answer in answers} == {"b"}
                assert manager.get_current_api_url() == backup.url

    run(main)


def test_zero_endpoints_are_a_typed_error() -> None:
    """A request without endpoints raises NoEndpointAvailable, and an update UpdateFailed."""

    async def main() -> None:
        async with manager_of() as manager, manager.client() as client:
            with pytest.raises(NoEndpointAvailable):
                await client.get("/users")
            with pytest.raises(UpdateFailed):
                await manager.update_endpoints_from_remote()
            await manager.check_all()

    run(main)


def test_checks_leave_the_loop_free() -> None:
    """Health checks do not block the event loop while a server does not answer."""

    async def main() -> None:
        with silence() as port:
            policy = replace(QUICK, health_timeout=0.5)
            manager = manager_of(f"http://127.0.0.1:{port}", policy=policy)
            rounds = 0

            async def turn() -> None:
                nonlocal rounds
                while True:
                    rounds += 1
                    await asyncio.sleep(0.01)

            turning = asyncio.create_task(turn())
            assert not await manager.check_endpoint_health(manager.api_endpoints[0])
            await manager.check_all()
            turning.cancel()
            assert rounds > 10
            with pytest.raises(KeyError):
                await manager.check_endpoint_health(NEW)

    run(main)


def test_updates() -> None:
    """Updates return and raise the same as those of EndpointManager."""

    async def main() -> None:
        with source(wire([NEW])) as (lists, server):
            manager = manager_of(server.url)
            with pytest.raises(UpdateRefused):
                await manager.update_endpoints_from_remote()
            assert await manager.update_endpoints_from_remote(force=True)
            assert not await manager.update_endpoints_from_remote(server.url)
            assert urls(manager.api_endpoints) == [NEW]
            lists.put(wire([server.url]))
            async with manager_of(config_urls=[server.url], update_interval=3600.0) as other:
                await until(lambda: other.list_source.origin == "remote")

    run(main)


def test_signals_are_sent_from_the_loop() -> None:
    """Signals are sent from the event loop's thread, or without a loop from the calling thread."""
    heard: list[threading.Thread] = []

    def receive(sender: Any, **about: Any) -> None:
        heard.append(threading.current_thread())

    async def main() -> None:
        with handmade(lambda asked: (503, {}, b"")) as server:
            async with manager_of(server.url):
                await until(lambda: len(heard) >= 2)

    with (
        signals.endpoint_down.connected_to(receive),
        signals.all_endpoints_down.connected_to(receive),
    ):
        run(main)
    assert set(heard) == {threading.main_thread()}
    heard.clear()
    with signals.endpoints_updated.connected_to(receive):
        manager_of().add_api_endpoint(NEW)
    assert heard == [threading.current_thread()]


def test_signals_of_a_subclass_are_sent_from_the_loop() -> None:
    """A subclass whose ``start`` is a plain function sends its signals from the loop, too."""
    heard: list[threading.Thread] = []

    class Wrapped(AsyncEndpointManager):
        def start(self) -> Any:
            return super().start()

    def receive(sender: Any, **about: Any) -> None:
        heard.append(threading.current_thread())

    async def main() -> None:
        manager = Wrapped([NEW], verify=NOBODY, update_interval=0)
        async with manager:
            await asyncio.to_thread(manager.add_api_endpoint, f"{NEW}/b")
            await until(lambda: heard)

    with signals.endpoints_updated.connected_to(receive):
        run(main)
    assert heard == [threading.main_thread()]


def test_a_loop_that_has_ended_takes_no_more_signals() -> None:
    """A manager that was not closed goes on with its checks after its event loop has ended."""
    with handmade(lambda asked: (503, {}, b"")) as server:
        manager = manager_of(server.url)

        async def main() -> None:
            await manager.start()

        asyncio.run(main())
        seen = threading.Event()
        for _ in range(500):
            if not manager.api_endpoints[0].is_healthy:
                seen.set()
                break
            seen.wait(0.01)
        assert seen.is_set()
        asyncio.run(manager.close())


def test_what_waits_for_nothing_is_the_same() -> None:
    """The methods that do not wait are plain methods, as in EndpointManager."""
    manager = manager_of(NEW)
    manager.apply_qr(json.dumps({"api_url": "https://b.example", "room_id": "r"}))
    manager.pin("https://b.example")
    assert manager.get_current_api_url() == "https://b.example"
    assert manager.room_id == "r"
    assert not manager.is_offline
