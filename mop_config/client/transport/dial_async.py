"""Dialling several endpoints at once, on asyncio: the twin of ``dial``."""

import asyncio
import contextlib
import math
import time
from collections.abc import Iterable
from concurrent.futures import Future
from typing import Any, cast

import httpcore2

from ...net.connect import DialOptions, Place
from ...net.faults import fault_of
from ...net.resolver import Addresses, Resolver
from ..pool.failover import DialRace
from ..pool.member import PoolMember
from .dial import GLANCE, DialError, RaceWinner


async def dial_async(
    race: DialRace, options: DialOptions, resolver: Resolver
) -> RaceWinner[httpcore2.AsyncNetworkStream]:
    """Dial until one endpoint is ready, one task a dial.

    Raises:
        DialError: If none was.
    """
    tasks: dict[asyncio.Task[httpcore2.AsyncNetworkStream], PoolMember] = {}
    error: BaseException | None = None
    try:
        while True:
            now = time.monotonic()
            while (member := race.start(now)) is not None:
                dialled = connect_async(member.target.place, options, resolver)
                tasks[asyncio.create_task(dialled)] = member
            if not tasks:
                raise DialError("no endpoint could be reached") from error
            if race.called_off():
                raise DialError("the dials were called off") from error
            wait = race.wait(now)
            done, _ = await asyncio.wait(
                tasks,
                timeout=GLANCE if wait is None else min(wait, GLANCE),
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in done:
                error = task.exception()
                if error is None:
                    member = tasks.pop(task)
                    return RaceWinner(member, task.result(), race.won(member, time.monotonic()))
                race.failed(tasks.pop(task), fault_of(error, connecting=True))
    finally:
        await _give_up(tasks)


async def _give_up(tasks: Iterable["asyncio.Task[httpcore2.AsyncNetworkStream]"]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            await outcome.aclose()


async def connect_async(
    place: Place, options: DialOptions, resolver: Resolver
) -> httpcore2.AsyncNetworkStream:
    """Connect to the first address of a host that is ready, one task an address.

    Raises:
        Exception: What the last address failed with, or its look-up.
    """
    addresses = Addresses(resolver, place.host, time.monotonic())
    found = _told(addresses.look_up)
    tasks: dict[asyncio.Task[httpcore2.AsyncNetworkStream], str] = {}
    try:
        while True:
            now = time.monotonic()
            while (address := addresses.start(now)) is not None:
                tasks[asyncio.create_task(_connect_one(address, place, options))] = address
            if (failure := addresses.failure(now)) is not None:
                raise failure
            left = options.until - now
            if left <= 0:
                raise addresses.out_of_time()
            seconds = min(left, addresses.wait(now))
            waited: set[asyncio.Future[Any]] = set(tasks) if found.done() else {*tasks, found}
            done, _ = await asyncio.wait(
                waited,
                timeout=None if seconds == math.inf else seconds,
                return_when=asyncio.FIRST_COMPLETED,
            )
            for task in [task for task in tasks if task in done]:
                address = tasks.pop(task)
                error = task.exception()
                if error is None:
                    addresses.succeeded(address)
                    return task.result()
                addresses.failed(cast(Exception, error))
    finally:
        found.cancel()
        await _give_up(tasks)


def _told(look_up: "Future[list[str]]") -> "asyncio.Future[None]":
    """Give what is done in this loop once a look-up is; nothing of the look-up is in it."""
    loop = asyncio.get_running_loop()
    told = loop.create_future()

    def tell() -> None:
        if not told.done():
            told.set_result(None)

    def done(_: object) -> None:
        with contextlib.suppress(RuntimeError):  # a loop that has ended is told nothing
            loop.call_soon_threadsafe(tell)

    if look_up.done():
        tell()
    else:
        look_up.add_done_callback(done)
    return told


async def _connect_one(
    address: str, place: Place, options: DialOptions
) -> httpcore2.AsyncNetworkStream:
    seconds = options.deadline(time.monotonic()) - time.monotonic()
    async with asyncio.timeout(seconds):
        stream = await httpcore2.AnyIOBackend().connect_tcp(
            address, place.port, seconds, options.local_address, options.socket_options
        )
        return await _secured(stream, place.tls_name, options, seconds)


async def _secured(
    stream: httpcore2.AsyncNetworkStream,
    tls_name: str | None,
    options: DialOptions,
    seconds: float,
) -> httpcore2.AsyncNetworkStream:
    if tls_name is None:
        return stream
    try:
        return await stream.start_tls(options.tls, tls_name, seconds)
    except BaseException:
        # httpcore closes it after an error, but not when the race calls the dial off.
        await stream.aclose()
        raise
