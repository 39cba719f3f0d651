"""``watch=True``: long polling for a new list, with growing pauses after hasty answers."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from mop_config.client import EndpointManager, updates
from mop_config.client.lists.rules import NewList, SourceAnswer
from mop_config.model.endpoint import EndpointConfig
from mop_config.net.http import HttpReply

from ..servers import ENDPOINTS
from ..waiting import wait_for
from .handmade import (
    NOBODY,
    OK,
    QUICK,
    Answer,
    Asked,
    Handmade,
    Lists,
    handmade,
    source,
    urls,
    wire,
)

A, B, C = (f"https://{name}.example" for name in "abc")


@contextmanager
def watching(*config_urls: str, interval: float = 3600.0) -> Iterator[EndpointManager]:
    manager = EndpointManager(
        config_urls=config_urls,
        watch=True,
        update_interval=interval,
        policy=QUICK,
        verify=NOBODY,
        trust_env=False,
    )
    with manager:
        yield manager


def has(manager: EndpointManager, expected: list[str]) -> bool:
    return urls(manager.api_endpoints) == expected


def waits(server: Handmade) -> list[Asked]:
    """Return the requests that asked the server to wait."""
    return [asked for asked in server.asked if "wait=" in asked.path]


def asked_for(asked: Asked) -> int:
    """Return the seconds that a request asked the server to wait."""
    return int(asked.path.removeprefix(f"{ENDPOINTS}?wait="))


def test_a_new_list_arrives_at_once() -> None:
    """From a server that holds its answers, each change arrives without the interval."""
    with source(wire([A]), holds=True) as (lists, server), watching(server.url) as manager:
        wait_for(lambda: urls(manager.api_endpoints) == [A])
        wait_for(lambda: waits(server), what="the first answer gave the tag to wait with")
        for body in ([A, B], [A, B, C]):
            lists.put(wire(body))
            wait_for(partial(has, manager, body), seconds=5)
        assert len(server.asked) < 12
        assert all(asked.header("if-none-match") for asked in waits(server))


def test_a_server_that_has_nothing_new_is_asked_rarely() -> None:
    """A request asks the server to wait for most of a minute."""
    with source(wire([A]), holds=True) as (_, server), watching(server.url):
        wait_for(lambda: waits(server))
        assert 35 <= asked_for(waits(server)[0]) <= 58


def test_those_who_were_told_together_do_not_come_back_together() -> None:
    """Each client asks for a random wait, so that clients do not return together."""
    with source(wire([A]), holds=True) as (_, server), ExitStack() as stack:
        for _ in range(12):
            stack.enter_context(watching(server.url))
        wait_for(lambda: len(waits(server)) >= 12)
        assert len({asked_for(asked) for asked in waits(server)}) > 3


@pytest.fixture
def quick_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Shorten the pauses after hasty answers to a fifth, and so the time to watch them."""
    monkeypatch.setattr(updates, "FIRST_WATCH_RETRY", 0.2)
    monkeypatch.setattr(updates, "HELD_AT_LEAST", 0.2)


@pytest.mark.usefixtures("quick_pauses")
@pytest.mark.parametrize("tagged", [True, False])
def test_a_mirror_that_does_not_know_how_to_wait_is_asked_each_interval(tagged: bool) -> None:
    """A server that ignores ``wait`` is asked at each interval, not in a loop."""
    lists = Lists(wire([A]))

    def answer(asked: Asked) -> Answer:
        status, headers, body = lists(asked)
        return (status, headers if tagged else {}, body)

    with handmade(answer) as server, watching(server.url) as manager:
        wait_for(lambda: urls(manager.api_endpoints) == [A])
        if tagged:
            wait_for(lambda: waits(server))
        settled = threading.Event()
        settled.wait(0.3)
        assert len(server.asked) <= 4


def test_a_mirror_is_still_followed() -> None:
    """A server that ignores ``wait`` is followed by the interval."""
    with source(wire([A])) as (lists, server), watching(server.url, interval=0.1) as manager:
        wait_for(lambda: urls(manager.api_endpoints) == [A])
        lists.put(wire([A, B]))
        wait_for(lambda: urls(manager.api_endpoints) == [A, B])


def flapping(asked: Asked) -> Answer:
    """Answer like two nodes behind one name whose lists differ."""
    other = "a" if asked.header("if-none-match") == '"b"' else "b"
    headers = {"Preference-Applied": "wait", "ETag": f'"{other}"'}
    return (200, headers, wire([A, f"https://{other}.example"]))


def liar(asked: Asked) -> Answer:
    """Answer at once, but claim to have waited."""
    headers = {"Preference-Applied": "wait", "ETag": '"x"'}
    return (304, headers, b"") if asked.header("if-none-match") else (200, headers, wire([A]))


def full(asked: Asked) -> Answer:
    """Answer like a server with too many waiting clients, with Retry-After."""
    status, headers, body = liar(asked)
    return status, {**headers, "Retry-After": "30"}, body


def broken(asked: Asked) -> Answer:
    """Answer 500."""
    return (500, {}, b"")


@pytest.mark.usefixtures("quick_pauses")
@pytest.mark.parametrize(("answer", "most"), [(flapping, 8), (liar, 6), (full, 4), (broken, 8)])
def test_no_server_makes_it_spin(answer: Callable[[Asked], Answer], most: int) -> None:
    """Answers at once, of whatever kind, make the client's pauses grow."""
    with handmade(answer) as server, watching(server.url):
        wait_for(lambda: len(server.asked) >= 2)
        settled = threading.Event()
        settled.wait(0.3)
        assert len(server.asked) <= most


def test_an_update_by_hand_does_not_wait_for_the_watch() -> None:
    """A manual update does not wait for the held answer of the watch."""
    with source(wire([A]), holds=True) as (_, server), watching(server.url) as manager:
        wait_for(lambda: waits(server))
        began = time.monotonic()
        assert not manager.update_endpoints_from_remote()
        assert time.monotonic() - began < 5


@pytest.mark.usefixtures("quick_pauses")
def test_a_server_that_comes_back_is_watched_again() -> None:
    """A server that was down is watched again after it recovers."""
    state = {"up": False}
    lists = Lists(wire([A]), holds=True)

    def answer(asked: Asked) -> Answer:
        return lists(asked) if state["up"] else (503, {}, b"")

    with handmade(answer) as server:
        lists.server = server
        with watching(server.url) as manager:
            wait_for(lambda: len(server.asked) >= 2)
            state["up"] = True
            wait_for(lambda: urls(manager.api_endpoints) == [A])
            wait_for(lambda: waits(server))


@pytest.mark.usefixtures("quick_pauses")
def test_a_token_that_raises_does_not_end_the_watch() -> None:
    """After an exception from the token function the watch continues."""
    calls: list[int] = []

    def token() -> str:
        calls.append(1)
        if len(calls) <= 2:
            raise RuntimeError("no keyring")
        return "t"

    with source(wire([A]), holds=True) as (_, server):
        manager = EndpointManager(
            config_urls=[server.url], watch=True, token=token, policy=QUICK, verify=NOBODY
        )
        with manager:
            wait_for(lambda: waits(server))
    assert urls(manager.api_endpoints) == [A]


NEW = NewList(EndpointConfig(), A, None)


def polled(found: NewList | None = None, **headers: str) -> SourceAnswer:
    """Return the answer to a long poll, with these headers."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return SourceAnswer(found, HttpReply(304, named), asked_to_wait=True)


@pytest.mark.parametrize(
    ("answer", "hasty", "low", "high"),
    [
        (polled(preference_applied="wait=40"), 0, 0, 0),
        (polled(preference_applied="wait"), 1, 1, 1),
        (polled(NEW, preference_applied="wait"), 1, 0, 0),
        (polled(NEW, preference_applied="wait"), 2, 0, 0),
        (polled(NEW, preference_applied="wait"), 3, 4, 4),
        (polled(preference_applied="wait"), 4, 8, 8),
        (polled(preference_applied="wait"), 50, 60, 60),
        (polled(preference_applied="wait", retry_after="90"), 1, 90, 90),
        (polled(preference_applied="wait", retry_after="5"), 0, 5, 5),
        (polled(), 1, 3600, 3600),
        (SourceAnswer(None, HttpReply(200, {}), asked_to_wait=False), 1, 3600, 3600),
    ],
)
def test_how_long_a_server_is_left_alone(
    answer: SourceAnswer, hasty: int, low: float, high: float
) -> None:
    """Held answers are repeated at once, hasty ones after growing pauses, others by interval."""
    manager = EndpointManager(verify=NOBODY)
    assert low <= manager._lifecycle.tasks.updates._until_next_watch(answer, hasty) <= high


def test_health_is_checked_while_it_waits() -> None:
    """Health checks run during a held answer, since the watch has its own thread."""
    with (
        source(wire([A]), holds=True) as (_, server),
        handmade(lambda asked: OK) as other,
        watching(server.url) as manager,
    ):
        wait_for(lambda: waits(server))
        manager.add_api_endpoint(other.url)
        wait_for(lambda: [e for e in manager.api_endpoints if e.state == "healthy"])
