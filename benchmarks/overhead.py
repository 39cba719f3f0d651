"""The cost of the client without faults: a request, a choice, and a round of health checks."""

import asyncio
import gc
import random
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx2

from mop_config.client import AsyncEndpointManager, EndpointManager, Policy
from mop_config.client.pool.offline import OfflineDetector
from mop_config.client.pool.pool import Pool
from mop_config.health.probe import ProbeResult
from mop_config.model.endpoint import Endpoint
from tests.client.fleet import fleet_in
from tests.client.socket_server import socket_server
from tests.client.test_round import ENDPOINTS, Peak, manager_of

from .report import Report, median, options, percentile

CLIENTS = ("bare httpx2", "mop-config")


def calls(quick: bool) -> Report:
    """Measure the time of a call."""
    rounds, count = (1, 300) if quick else (5, 3_000)
    report = Report(
        "client: a call",
        f"Microseconds of a warm GET to a local gunicorn, {count} by each client in a round, in"
        " turn, by threads' clients and by asyncio's; CPU is the calling thread's. The goal is at"
        " most 1.03 times bare httpx2.",
    )
    with tempfile.TemporaryDirectory() as name, fleet_in(Path(name)) as fleet:
        urls = [backend.url for backend in fleet.pair()]
        gc.collect()
        gc.disable()  # a collection would hit a random client
        try:
            measured = {
                "": asyncio.run(_blocking(urls, rounds, count)),
                ", async": asyncio.run(_async(urls, rounds, count)),
            }
        finally:
            gc.enable()
    for half, all_found in measured.items():
        for number, found in enumerate(all_found, 1):
            base = median(found[0][0])
            for client, (wall, cpu) in zip(CLIENTS, found, strict=True):
                report.add(
                    round=number,
                    client=client + half,
                    p50_us=median(wall) * 1e6,
                    p99_us=percentile(wall, 99) * 1e6,
                    cpu_us=median(cpu) * 1e6,
                    times_bare=round(median(wall) / base, 3),
                )
    return report


#: Seconds and CPU seconds of a client's calls.
Times = tuple[list[float], list[float]]


async def _blocking(urls: list[str], rounds: int, count: int) -> list[list[Times]]:
    manager = EndpointManager(urls)
    with httpx2.Client(base_url=urls[0]) as bare, manager.client(start=False) as ours:

        async def get(client: httpx2.Client) -> None:
            client.get("/calm")

        await _in_turn(get, bare, ours, 200)
        return [await _in_turn(get, bare, ours, count) for _ in range(rounds)]


async def _async(urls: list[str], rounds: int, count: int) -> list[list[Times]]:
    manager = AsyncEndpointManager(urls)
    async with (
        httpx2.AsyncClient(base_url=urls[0]) as bare,
        manager.client(start=False) as ours,
    ):

        async def get(client: httpx2.AsyncClient) -> None:
            await client.get("/calm")

        await _in_turn(get, bare, ours, 200)
        return [await _in_turn(get, bare, ours, count) for _ in range(rounds)]


async def _in_turn(
    get: Callable[[Any], Awaitable[None]], bare: Any, ours: Any, count: int
) -> list[Times]:
    """Return the times of each client's calls; the clients take turns to be first."""
    found: list[Times] = [([], []), ([], [])]
    pairs = [(bare, found[0]), (ours, found[1])]
    for _ in range(count):
        pairs.reverse()
        for client, (wall, cpu) in pairs:
            began, worked = time.perf_counter(), time.thread_time()
            await get(client)
            cpu.append(time.thread_time() - worked)
            wall.append(time.perf_counter() - began)
    return found


def choices(quick: bool) -> Report:
    """Measure the cost of choosing an endpoint per request."""
    count = 2_000 if quick else 20_000
    report = Report(
        "client: a choice",
        "Microseconds to choose an endpoint and to note that it answered, as each request does,"
        " and to choose anew after a change, such as a failure. The goal is at most 20 for a"
        " request, with 1,000 endpoints.",
    )
    for endpoints in (2, 100, 1000):
        pool = Pool("api", Policy(), OfflineDetector(1.0), random.random)
        urls = [f"https://e{index}.example/api" for index in range(endpoints)]
        pool.replace([Endpoint(url, index % 10) for index, url in enumerate(urls)], 0.0)
        for member in pool.members():
            pool.probed(member, ProbeResult(None, random.random(), ""), 1.0, 1e9)
        requests, changes = [], []
        for turn in range(count):
            began = time.perf_counter()
            chosen = pool.select(2.0)
            assert chosen is not None
            pool.served(chosen, 2.0)
            requests.append(time.perf_counter() - began)
            if turn % 100 == 0:
                pool.pin(None, 2.0)
                began = time.perf_counter()
                pool.select(2.0)
                changes.append(time.perf_counter() - began)
        report.add(
            endpoints=endpoints,
            request_us=median(requests) * 1e6,
            request_p99_us=percentile(requests, 99) * 1e6,
            after_a_change_us=median(changes) * 1e6,
        )
    return report


def rounds(quick: bool) -> Report:
    """Measure the cost of a round of health checks."""
    report = Report(
        "client: a health round",
        f"One round of checks of a list of {ENDPOINTS:,} endpoints, of which a client checks the"
        " best 50, on a server in another process. The goals are at most 2 s of CPU and 64 sockets"
        " at a time.",
    )
    with tempfile.TemporaryDirectory() as name, socket_server(Path(name), "round") as server:
        for number in range(1, 2 if quick else 6):
            manager = manager_of(server)
            peak = Peak(manager)
            cpu, wall = time.process_time(), time.perf_counter()
            manager.check_all()
            report.add(
                round=number,
                endpoints=ENDPOINTS,
                cpu_s=time.process_time() - cpu,
                wall_s=time.perf_counter() - wall,
                sockets=peak.sockets,
                healthy=sum(each.state == "healthy" for each in manager.api_endpoints),
            )
    return report


def reports(quick: bool) -> list[Report]:
    """Run all benchmarks of this file."""
    return [calls(quick), choices(quick), rounds(quick)]


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
