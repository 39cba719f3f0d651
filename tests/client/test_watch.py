"""``watch=True``: long polling for a new list, at most once a second."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial

import pytest

from mop_config.client import EndpointManager, updates

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
    """Shorten the pauses to a fifth, and so the time to watch them."""
    monkeypatch.setattr(updates, "FIRST_WATCH_RETRY", 0.2)
    monkeypatch.setattr(updates, "WATCH_PERIOD", 0.2)


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
    return status, {**headers, "Retry-After": "30"} if status == 304 else headers, body


def broken(asked: Asked) -> Answer:
    """Answer 500."""
    return (500, {}, b"")


@pytest.mark.usefixtures("quick_pauses")
@pytest.mark.parametrize(("answer", "most"), [(flapping, 8), (liar, 6), (full, 4), (broken, 8)])
def test_no_server_makes_it_spin(answer: Callable[[Asked], Answer], most: int) -> None:
    """Answers at once, of whatever kind, are asked for again after a pause."""
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


def tagged(headers: dict[str, str], seconds: float = 0.0) -> Callable[[Asked], Answer]:
    """Answer long polls with 304 and these headers after a time, and other requests at once."""

    def answer(asked: Asked) -> Answer:
        if "wait=" not in asked.path:
            return (200, {"ETag": '"x"'}, wire([A]))
        time.sleep(seconds)
        return (304, headers, b"")

    return answer


@pytest.mark.parametrize(
    ("answer", "low", "high"),
    [
        (tagged({"Preference-Applied": "wait=40"}), 0.5, 1.1),
        (tagged({"Preference-Applied": "wait"}, 1.0), 0.0, 0.0),
        (tagged({"Preference-Applied": "wait", "Retry-After": "90"}), 81, 99),
        (tagged({"Preference-Applied": "wait", "Retry-After": "5"}, 1.0), 4.5, 5.5),
        (tagged({}), 3240, 3960),
        (tagged({"Retry-After": "90"}), 3240, 3960),
    ],
)
def test_how_long_a_server_is_left_alone(
    answer: Callable[[Asked], Answer], low: float, high: float
) -> None:
    """Held answers are repeated at once, hasty ones after a second, others by interval."""
    with handmade(answer) as server:
        manager = EndpointManager(
            config_urls=[server.url], watch=True, policy=QUICK, verify=NOBODY, trust_env=False
        )
        updates = manager._lifecycle.tasks.updates
        assert updates.run() <= 1.1
        assert low <= updates.run() <= high
        assert len(waits(server)) == 1


def test_a_server_that_fails_long_polls_only_is_asked_ever_more_rarely() -> None:
    """The good updates between the failed long polls do not end the growth of the pauses."""

    def answer(asked: Asked) -> Answer:
        return (400, {}, b"") if "wait=" in asked.path else (200, {"ETag": '"x"'}, wire([A]))

    with handmade(answer) as server:
        manager = EndpointManager(
            config_urls=[server.url], watch=True, policy=QUICK, verify=NOBODY, trust_env=False
        )
        updates = manager._lifecycle.tasks.updates
        pauses = [updates.run() for _ in range(10)]
    assert all(pause <= 1.1 for pause in pauses[::2])
    assert all(0.9 * 2**n <= pause <= 1.1 * 2**n for n, pause in enumerate(pauses[1::2]))


@pytest.mark.usefixtures("quick_pauses")
def test_a_long_poll_asks_the_server_of_the_list_until_that_fails() -> None:
    """Only the server that gave the list is watched; when it fails, all sources are asked."""
    with ExitStack() as stack:
        lists, one = stack.enter_context(source(wire([A]), holds=True))
        other, two = stack.enter_context(source(wire([B]), holds=True))
        manager = stack.enter_context(watching(one.url, two.url))
        wait_for(lambda: waits(one))
        lists.put(wire([A, C]))
        wait_for(lambda: len(waits(one)) >= 2)
        assert two.count(ENDPOINTS) == 0
        lists.body = b"broken"
        lists.changed.set()
        wait_for(lambda: has(manager, [B]))
        wait_for(lambda: waits(two))
        other.put(wire([B, C]))
        wait_for(lambda: has(manager, [B, C]))


@pytest.mark.usefixtures("quick_pauses")
def test_a_server_that_is_removed_is_watched_no_longer() -> None:
    """The source of the next long poll must still be a source."""
    with source(wire([A])) as (_, one), source(wire([B])) as (_, two):
        manager = EndpointManager(
            config_urls=[two.url], watch=True, policy=QUICK, verify=NOBODY, trust_env=False
        )
        updates = manager._lifecycle.tasks.updates
        updates._watched = one.url
        updates.run()
        assert has(manager, [B])
        assert one.asked == []


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
