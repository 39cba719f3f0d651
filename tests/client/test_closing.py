"""A client that the application closes during requests."""

import asyncio
import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import httpx2
import pytest

from mop_config.client import AsyncEndpointManager, EndpointManager

from ..waiting import wait_for
from .fleet import black_hole, silence
from .scripted import Scripted, scripted
from .test_timeouts import pausing, talking

#: Seconds within which requests must end; well below every request timeout here.
AT_ONCE = 3.0


@contextlib.contextmanager
def hanging(what: str) -> Iterator[list[str]]:
    """Yield endpoints at which requests hang in a phase: dial, TLS, answer or body."""
    with contextlib.ExitStack() as stack:
        if what == "dial":
            yield [f"http://127.0.0.1:{stack.enter_context(black_hole())}"]
        elif what == "tls":
            yield [f"https://127.0.0.1:{stack.enter_context(silence())}"]
        elif what == "answer":
            ports = [stack.enter_context(silence()) for _ in range(2)]
            yield [f"http://127.0.0.1:{port}" for port in ports]
        else:
            yield [stack.enter_context(talking(pausing(2.0)))]


def _closed_meanwhile(kind: str, urls: list[str], method: str, **options: Any) -> list[Any]:
    """Close a client during six requests; return each result, and the duration in seconds."""
    if kind == "async":
        return asyncio.run(_closed_async(urls, method, **options))
    results: list[Any] = []
    manager = EndpointManager(urls, update_interval=0)
    client = manager.client(start=False, **options)

    def one() -> None:
        try:
            results.append(client.request(method, "/"))
        except Exception as error:
            results.append(error)

    threads = [threading.Thread(target=one) for _ in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.6)  # until the requests hang, which nothing shows from outside
    began = time.perf_counter()
    client.close()
    for thread in threads:
        thread.join()
    return [*results, time.perf_counter() - began]


async def _closed_async(urls: list[str], method: str, **options: Any) -> list[Any]:
    manager = AsyncEndpointManager(urls, update_interval=0)
    client = manager.client(start=False, **options)
    tasks = [asyncio.create_task(client.request(method, "/")) for _ in range(6)]
    await asyncio.sleep(0.6)
    began = time.perf_counter()
    await client.aclose()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    return [*results, time.perf_counter() - began]


@pytest.mark.parametrize("what", ["dial", "tls", "answer", "body"])
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_requests_end_at_once_with_one_clear_error(kind: str, what: str, method: str) -> None:
    """Closing the client ends its requests with one error, in every phase and method."""
    with hanging(what) as urls:
        *results, seconds = _closed_meanwhile(kind, urls, method, timeout=20)
    assert seconds < AT_ONCE
    assert [repr(result) for result in results] == [
        "TransportError('the client was closed during this request')"
    ] * 6
    assert all(isinstance(result, httpx2.TransportError) for result in results)


def test_requests_that_queue_for_a_connection_end_as_well(kind: str) -> None:
    """Closing the client also ends requests that wait for a connection of a full pool."""
    limits = httpx2.Limits(max_connections=1)
    with hanging("answer") as urls:
        *results, seconds = _closed_meanwhile(kind, urls[:1], "POST", timeout=20, limits=limits)
    assert seconds < AT_ONCE
    assert {str(result) for result in results} == {"the client was closed during this request"}


def test_a_closed_client_sends_nothing_again(kind: str) -> None:
    """A closed client sends no interrupted request to another endpoint."""
    with scripted({"a": ("stall",), "b": ("stall",)}) as ([a, b], asked):
        *results, _ = _closed_meanwhile(kind, [a.url, b.url], "PUT", timeout=20)
        assert len(results) == 6
        assert asked == ["a"] * 6
        _nobody_else_is_asked(b)


def _nobody_else_is_asked(server: Scripted) -> None:
    with pytest.raises(AssertionError):
        wait_for(lambda: server.requests, seconds=0.3)


def test_a_body_that_is_being_read_says_that_the_client_is_closed(kind: str) -> None:
    """Closing the client during a streamed body raises an error that says so."""
    with talking(pausing(3.0)) as url:
        if kind == "sync":
            _read_while_closing(url)
        else:
            asyncio.run(_read_while_closing_async(url))


def _read_while_closing(url: str) -> None:
    client = EndpointManager([url], update_interval=0).client(start=False)
    closer = threading.Timer(0.4, client.close)
    with client.stream("GET", "/") as response:
        closer.start()
        began = time.perf_counter()
        with pytest.raises(httpx2.TransportError, match="the client was closed"):
            response.read()
        assert time.perf_counter() - began < AT_ONCE - 0.5
    closer.join()


async def _read_while_closing_async(url: str) -> None:
    client = AsyncEndpointManager([url], update_interval=0).client(start=False)
    async with client.stream("GET", "/") as response:

        async def close() -> None:
            await asyncio.sleep(0.4)
            await client.aclose()

        closing = asyncio.create_task(close())
        began = time.perf_counter()
        with pytest.raises(httpx2.TransportError, match="the client was closed"):
            await response.aread()
        assert time.perf_counter() - began < AT_ONCE - 0.5
        await closing


def test_a_task_that_the_application_cancels_is_cancelled() -> None:
    """A cancelled task raises CancelledError even if the client closes at the same time."""

    async def play(url: str) -> None:
        client = AsyncEndpointManager([url], update_interval=0).client(start=False)
        task = asyncio.create_task(client.get("/"))
        await asyncio.sleep(0.3)
        task.cancel()
        await client.aclose()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert task.cancelled()

    with hanging("answer") as urls:
        asyncio.run(play(urls[0]))
