"""A primary dies or freezes under load: no GET fails, and no POST is executed twice."""

import asyncio
import itertools
import random
import threading
import time
from collections import Counter
from collections.abc import Callable

import httpx2
import pytest

from mop_config.client import AsyncEndpointManager, EndpointManager, Policy

from ..waiting import wait_for
from .fleet import Backend, Fleet, open_sockets

THREADS, TASKS = 16, 200
#: Average pause of a task between requests in seconds, so that the CPU is not the limit.
REST = 0.5
#: Errors of a POST that a server may have executed.
SENT = (httpx2.ReadError, httpx2.RemoteProtocolError, httpx2.WriteError, httpx2.ReadTimeout)


class Tally:
    """Counts the results of requests, from many threads or tasks."""

    def __init__(self) -> None:
        self.gets: Counter[str] = Counter()  # by the server that answered
        self.posted: list[str] = []
        self.in_doubt: list[str] = []
        self.failures: list[str] = []
        self.slowest = 0.0
        self.numbers = itertools.count()
        self.stopped = False

    def answered(self, response: httpx2.Response, began: float) -> None:
        """Count the answer to a GET."""
        self.slowest = max(self.slowest, time.perf_counter() - began)
        if response.status_code == 200:
            self.gets[response.json()["server"]] += 1
        else:
            self.failures.append(f"GET: {response.status_code}")

    def failed(self, error: Exception) -> None:
        """Count a GET that failed."""
        self.failures.append(f"GET: {type(error).__name__}: {error}")

    def post_answered(self, number: str, response: httpx2.Response) -> None:
        """Count the answer to a POST."""
        if response.status_code == 200:
            self.posted.append(number)
        else:
            self.failures.append(f"POST: {response.status_code}")

    def post_failed(self, number: str, error: Exception) -> None:
        """Count a POST that failed; only a POST that was sent may fail."""
        if isinstance(error, SENT):
            self.in_doubt.append(number)
        else:
            self.failures.append(f"POST: {type(error).__name__}: {error}")

    def check(self, *servers: Backend, slowest: float) -> None:
        """Check that no GET failed, and that no POST was executed twice."""
        print(f"{self.gets}, {len(self.in_doubt)} POSTs in doubt, slowest {self.slowest:.3f} s")
        assert self.failures == [], "; ".join(self.failures[:3])
        assert self.slowest < slowest
        assert set(self.gets) == {server.name for server in servers}
        executed = Counter(number for server in servers for number in server.posts())
        assert [number for number, times in executed.items() if times > 1] == []
        assert set(self.posted) <= set(executed)
        assert set(executed) <= {*self.posted, *self.in_doubt}


def _ask(tally: Tally, client: httpx2.Client) -> None:
    while not tally.stopped:
        began = time.perf_counter()
        try:
            tally.answered(client.get("/get"), began)
        except Exception as error:
            tally.failed(error)


def _order(tally: Tally, client: httpx2.Client) -> None:
    while not tally.stopped:
        number = str(next(tally.numbers))
        try:
            response = client.post("/post", content=b"x", headers={"X-Number": number})
        except Exception as error:
            tally.post_failed(number, error)
        else:
            tally.post_answered(number, response)


def _from_threads(fleet: Fleet, disaster: Callable[[Backend], None]) -> tuple[Tally, list[Backend]]:
    primary, backup = fleet.pair()
    tally = Tally()
    manager = EndpointManager([primary.url, backup.url], update_interval=0)
    with manager, manager.client(timeout=5) as client:
        work = [_ask] * (THREADS * 3 // 4) + [_order] * (THREADS // 4)
        threads = [threading.Thread(target=each, args=(tally, client)) for each in work]
        for thread in threads:
            thread.start()
        try:
            wait_for(lambda: tally.gets["primary"] > 200, what="the load runs")
            disaster(primary)
            wait_for(lambda: tally.gets["backup"] > 500, seconds=20, what="the backup answers")
        finally:
            tally.stopped = True
            for thread in threads:
                thread.join()
    return tally, [primary, backup]


def test_killed_under_load_from_threads(fleet: Fleet) -> None:
    """No GET from 16 threads fails, and a POST only if the server may have executed it."""
    tally, servers = _from_threads(fleet, Backend.kill)
    tally.check(*servers, slowest=3.0)


def test_frozen_under_load_from_threads(fleet: Fleet) -> None:
    """No GET fails when the primary freezes, and no POST is executed twice.

    A GET is late by the hedge delay, or by ``body_pause`` if the primary froze within a body.
    """
    tally, servers = _from_threads(fleet, Backend.freeze)
    servers[0].thaw()
    wait_for(lambda: set(tally.in_doubt) <= set(servers[0].posts()), what="it catches up")
    tally.check(*servers, slowest=Policy().body_pause + 2.5)


def _run_tasks(
    fleet: Fleet, disaster: Callable[[Backend], None], **options: object
) -> tuple[Tally, list[Backend]]:
    primary, backup = fleet.pair(**options)
    tally = Tally()

    async def ask(client: httpx2.AsyncClient) -> None:
        while not tally.stopped:
            began = time.perf_counter()
            try:
                tally.answered(await client.get("/get"), began)
            except Exception as error:
                tally.failed(error)
            await asyncio.sleep(random.uniform(0, 2 * REST))

    async def order(client: httpx2.AsyncClient) -> None:
        while not tally.stopped:
            number = str(next(tally.numbers))
            try:
                answer = await client.post("/post", content=b"x", headers={"X-Number": number})
            except Exception as error:
                tally.post_failed(number, error)
            else:
                tally.post_answered(number, answer)
            await asyncio.sleep(random.uniform(0, 2 * REST))

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(30):
            while not condition():
                await asyncio.sleep(0.01)

    async def run() -> None:
        verify = fleet.trust() if options else True
        http2 = "http2" in options
        manager = AsyncEndpointManager(
            [primary.url, backup.url], update_interval=0, verify=verify, policy=Policy()
        )
        async with manager, manager.client(timeout=10, http2=http2) as client:
            tasks = [asyncio.create_task(ask(client)) for _ in range(TASKS * 3 // 4)]
            tasks += [asyncio.create_task(order(client)) for _ in range(TASKS // 4)]
            await until(lambda: tally.gets["primary"] > 300)
            disaster(primary)
            try:
                await until(lambda: tally.gets["backup"] > 500)
            finally:
                tally.stopped = True
                await asyncio.gather(*tasks)

    asyncio.run(run())
    return tally, [primary, backup]


@pytest.mark.alone
def test_killed_under_load_from_tasks(fleet: Fleet) -> None:
    """No GET from 200 tasks fails, and a POST only if the server may have executed it."""
    tally, servers = _run_tasks(fleet, Backend.kill)
    tally.check(*servers, slowest=6.0)


@pytest.mark.alone
def test_killed_under_load_over_http2(fleet: Fleet) -> None:
    """Over one HTTP/2 connection no GET fails, and a POST only if it may have been executed."""
    tally, servers = _run_tasks(fleet, Backend.kill, tls=("127.0.0.1",), http2=True)
    tally.check(*servers, slowest=8.0)


def test_a_thousand_clients_leave_nothing(fleet: Fleet) -> None:
    """A thousand clients that are closed after one request leave no thread and no socket."""
    backend = fleet.add("only")
    manager = EndpointManager([backend.url])
    context = fleet.trust()

    def sockets() -> int:
        return len(open_sockets())

    before = threading.active_count(), sockets()
    for _ in range(1000):
        with manager.client(start=False, verify=context) as client:
            assert client.get("/calm").status_code == 200
    assert (threading.active_count(), sockets()) == before

    async def run() -> None:
        own = AsyncEndpointManager([backend.url])
        before = threading.active_count(), sockets()
        for _ in range(1000):
            async with own.client(start=False, verify=context) as client:
                assert (await client.get("/calm")).status_code == 200
        await asyncio.sleep(0)
        assert (threading.active_count(), sockets()) == before

    asyncio.run(run())
