"""Requests that queue for a connection: race, hedge and deadline count from the call."""

import asyncio
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import httpx2
import pytest
import trustme

from ..waiting import wait_for
from .driver import Driver
from .fleet import timed
from .handmade import QUICK, Answer, Asked, Handmade, handmade
from .names import NAME, Names
from .proxy import forward_proxy

POLICY = replace(QUICK, total_timeout=20.0, hedge_delay=0.5)
LIMITS = httpx2.Limits(max_connections=2)


class Hanging:
    """Answers with its name; requests to /hang wait until ``go`` is set."""

    def __init__(self, name: bytes) -> None:
        self.name = name
        self.go = threading.Event()
        self.posts = 0

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/hang":
            self.posts += 1
            self.go.wait(30)
        return 200, {}, self.name


@pytest.fixture
def hanging() -> Iterator[Hanging]:
    """Return the answer function of the current endpoint; its requests end with the test."""
    hanging = Hanging(b"current")
    yield hanging
    hanging.go.set()


def idle(asked: Asked) -> Answer:
    return 200, {}, b"idle"


def clogged(driver: Driver, hanging: Hanging, then: Callable[[], Any]) -> None:
    """Occupy both connections with hanging POSTs, and call ``then`` meanwhile."""
    if driver._runner is None:
        threads = [
            threading.Thread(target=driver.request, args=("POST", "/hang")) for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: hanging.posts == 2, what="both hang")
            then()
        finally:
            hanging.go.set()
            for thread in threads:
                thread.join()
        return

    async def main() -> None:
        posts = [asyncio.create_task(driver.client.post("/hang")) for _ in range(2)]
        deadline = time.monotonic() + 10
        while hanging.posts < 2:
            assert time.monotonic() < deadline
            await asyncio.sleep(0.01)
        try:
            await then()
        finally:
            hanging.go.set()
            await asyncio.gather(*posts)

    driver._runner.run(main())


def ask(driver: Driver, method: str, check: Callable[[httpx2.Response, float], None]) -> Any:
    """Return a function that sends a request and checks its answer, for either client."""

    def one() -> None:
        with timed() as took:
            answer = driver.request(method, "/")
        check(answer, took.seconds)

    async def one_later() -> None:
        with timed() as took:
            answer = await driver.client.request(method, "/")
        check(answer, took.seconds)

    return one if driver._runner is None else one_later


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_request_behind_hanging_ones_goes_to_an_idle_endpoint(
    method: str, kind: str, hanging: Hanging
) -> None:
    """A queued request of any method goes to an idle endpoint after the hedge delay."""
    with handmade(hanging) as current, handmade(idle) as other:
        urls = [current.url, other.url]
        with Driver(kind, urls, POLICY, limits=LIMITS) as driver:

            def check(answer: httpx2.Response, seconds: float) -> None:
                assert answer.text == "idle"
                assert 0.4 < seconds < 1.5
                assert driver.state(current.url) == "unknown"

            clogged(driver, hanging, ask(driver, method, check))
            assert driver.get("/").text == "current"


def test_without_another_endpoint_it_waits_for_its_turn(kind: str, hanging: Hanging) -> None:
    """Without another endpoint a queued request waits for a connection until its deadline."""
    with handmade(hanging) as current:
        policy = replace(POLICY, total_timeout=1.5)
        with Driver(kind, [current.url], policy, limits=LIMITS) as driver:

            def late() -> None:
                time.sleep(1.0)
                hanging.go.set()

            def check(answer: httpx2.Response, seconds: float) -> None:
                assert answer.text == "current"
                assert seconds < 1.5

            timer = threading.Thread(target=late)
            timer.start()
            clogged(driver, hanging, ask(driver, "GET", check))
            timer.join()


def test_one_that_fails_elsewhere_comes_back(kind: str, hanging: Hanging) -> None:
    """If the hedge fails, the queued request is still sent to the first endpoint."""

    def broken(asked: Asked) -> Answer:
        hanging.go.set()
        return 502, {}, b""

    with handmade(hanging) as current, handmade(broken) as other:
        urls = [current.url, other.url]
        with Driver(kind, urls, POLICY, limits=LIMITS) as driver:

            def check(answer: httpx2.Response, seconds: float) -> None:
                assert answer.text == "current"
                assert seconds < 5

            clogged(driver, hanging, ask(driver, "GET", check))


def test_the_hedge_counts_from_the_call(kind: str, hanging: Hanging, names: Names) -> None:
    """The hedge delay counts from the call, including the look-up of the name."""
    names.addresses, names.seconds = ["127.0.0.1"], 0.7

    def silent(asked: Asked) -> Answer:
        hanging.go.wait(30)
        return 200, {}, b"silent"

    policy = replace(POLICY, race_delay=10.0, hedge_delay=1.0)
    with handmade(silent) as current, handmade(idle) as other:
        urls = [current.url.replace("127.0.0.1", NAME), other.url]
        with Driver(kind, urls, policy) as driver, timed() as took:
            assert driver.get("/").text == "idle"
            hanging.go.set()
        assert 0.9 < took.seconds < 1.6


def port_of(server: Handmade) -> int:
    return int(server.url.rpartition(":")[2])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_behind_a_proxy_too(scheme: str, kind: str, hanging: Hanging) -> None:
    """Each endpoint has its own connections through the proxy, so an idle one is used."""
    authority, trust = trustme.CA(), ssl.create_default_context()
    authority.configure_trust(trust)
    context = None
    if scheme == "https":
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("one.invalid", "two.invalid").configure_cert(context)
    with handmade(hanging, context) as current, handmade(idle, context) as other:
        ports = {"one.invalid": port_of(current), "two.invalid": port_of(other)}
        urls = [f"{scheme}://one.invalid", f"{scheme}://two.invalid"]
        with forward_proxy(ports) as proxy:
            given = {"proxy": proxy.url}
            with Driver(
                kind, urls, POLICY, limits=LIMITS, verify=trust, of_manager=given
            ) as driver:

                def check(answer: httpx2.Response, seconds: float) -> None:
                    assert answer.text == "idle"
                    assert seconds < 2

                clogged(driver, hanging, ask(driver, "GET", check))
