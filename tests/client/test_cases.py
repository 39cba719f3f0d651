"""The shared failover cases, run through both drivers over real sockets."""

import asyncio
import ssl
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx2
import pytest

from mop_config.client import AsyncEndpointManager, EndpointManager, Policy
from mop_config.client.manager import BaseManager

from .cases import CASES, Case
from .scripted import WARM_PATH, Scripted, scripted

#: Timeouts in seconds for cases with a silent server: short, so that the cases take little time,
#: and far enough apart to expire in order on a busy machine.
HEDGE, READ, TOTAL = 0.25, 0.8, 8.0
#: Timeouts in seconds for cases without a silent server, which only a busy machine could reach.
PATIENT_HEDGE, PATIENT_READ = 5.0, 6.0

#: Shared by all cases, because loading the CA certificates takes longer than a case.
TLS = ssl.create_default_context()


def _policy(case: Case) -> Policy:
    hedge = HEDGE if _silent(case) else PATIENT_HEDGE
    return Policy(budget=case.budget, hedge_delay=hedge, race_delay=5.0, total_timeout=TOTAL)


def _read_timeout(case: Case) -> httpx2.Timeout:
    return httpx2.Timeout(READ if _silent(case) else PATIENT_READ)


def _silent(case: Case) -> bool:
    return any("stall" in words for words in case.script.values())


def _seed(servers: list[Scripted]) -> list[tuple[str, int]]:
    return [(server.url, position) for position, server in enumerate(servers)]


def _request(case: Case) -> dict[str, Any]:
    headers = {"Idempotency-Key": "1"} if case.keyed else {}
    return {"method": case.method, "url": "/thing", "headers": headers}


def _once() -> Iterator[bytes]:
    yield b"can be "
    yield b"read once"


async def _once_async() -> AsyncIterator[bytes]:
    for part in _once():
        yield part


def _check(
    case: Case,
    result: int | str,
    answered_by: str | None,
    servers: list[Scripted],
    asked: list[str],
    manager: BaseManager,
) -> None:
    assert result == case.result
    assert tuple(asked) == case.received
    names = {server.url: server.name for server in servers}
    assert (None if answered_by is None else names[answered_by]) == case.answered_by
    tried = manager.statistics()["api"]["endpoints"]
    untouched = [
        names[url]
        for url, seen in tried.items()
        if seen["state"] == "unknown" and not seen["failed"]
    ]
    assert sorted(untouched) == sorted(set(names.values()) - set(case.asked))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_synchronous_driver_makes_these_attempts(case: Case) -> None:
    """The synchronous client makes the attempts of each case and returns its result."""
    with scripted(case.script) as (servers, asked):
        manager = EndpointManager(_seed(servers), policy=_policy(case), verify=TLS)
        with manager.client(start=False, timeout=_read_timeout(case)) as client:
            if case.warm:
                client.get(WARM_PATH.decode())
            body = {"none": None, "bytes": b"bytes", "stream": _once()}[case.body]
            answered_by = None
            try:
                response = client.request(**_request(case), content=body)
                result: int | str = response.status_code
                answered_by = response.extensions["endpoint"]
            except httpx2.HTTPError as error:
                result = type(error).__name__
        _check(case, result, answered_by, servers, asked, manager)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_asynchronous_driver_makes_these_attempts(case: Case) -> None:
    """The asyncio client makes the attempts of each case and returns its result."""

    async def play(manager: AsyncEndpointManager) -> tuple[int | str, str | None]:
        async with manager.client(start=False, timeout=_read_timeout(case)) as client:
            if case.warm:
                await client.get(WARM_PATH.decode())
            body = {"none": None, "bytes": b"bytes", "stream": _once_async()}[case.body]
            try:
                response = await client.request(**_request(case), content=body)
            except httpx2.HTTPError as error:
                return type(error).__name__, None
            return response.status_code, response.extensions["endpoint"]

    with scripted(case.script) as (servers, asked):
        manager = AsyncEndpointManager(_seed(servers), policy=_policy(case), verify=TLS)
        result, answered_by = asyncio.run(play(manager))
        _check(case, result, answered_by, servers, asked, manager)
