"""Dialling several endpoints at once, on asyncio: the twin of ``dial``."""

import asyncio
import time

import httpcore2

from ..faults import fault_of
from ..resolve import Resolver
from .dial import DialError, DialOptions, Won
from .failover import Race
from .member import Member


async def dial_async(
    race: Race, options: DialOptions, resolver: Resolver
) -> Won[httpcore2.AsyncNetworkStream]:
    """Dial until one endpoint is ready, one task a dial.

    Raises:
        DialError: If none was.
    """
    tasks: dict[asyncio.Task[httpcore2.AsyncNetworkStream], Member] = {}
    error: BaseException | None = None
    try:
        while True:
            now = time.monotonic()
            while (member := race.start(now)) is not None:
                tasks[asyncio.create_task(_dial_one(member, options, resolver))] = member
            if not tasks:
                raise DialError("no endpoint could be reached") from error
            done, _ = await asyncio.wait(
                tasks, timeout=race.wait(now), return_when=asyncio.FIRST_COMPLETED
            )
            for task in done:
                error = task.exception()
                if error is None:
                    member = tasks.pop(task)
                    return Won(member, task.result(), race.won(member, time.monotonic()))
                race.failed(tasks.pop(task), fault_of(error, connecting=True))
    finally:
        await _give_up(tasks)


async def _give_up(tasks: dict[asyncio.Task[httpcore2.AsyncNetworkStream], Member]) -> None:
    for task in tasks:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if not isinstance(outcome, BaseException):
            await outcome.aclose()


async def _dial_one(
    member: Member, options: DialOptions, resolver: Resolver
) -> httpcore2.AsyncNetworkStream:
    target = member.target
    backend = httpcore2.AnyIOBackend()
    deadline = options.deadline(time.monotonic())
    async with asyncio.timeout(deadline - time.monotonic()):
        # Shielded: others may wait for the same look-up.
        looked_up = asyncio.wrap_future(resolver.resolve(target.host))
        addresses = await asyncio.shield(looked_up)
        failure: Exception = OSError("the host has no address")
        for index, address in enumerate(addresses):
            share = (deadline - time.monotonic()) / (len(addresses) - index)
            try:
                stream = await backend.connect_tcp(
                    address, target.port, share, options.local_address, options.socket_options
                )
                return await _secured(stream, target.server_name, options, share)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
        raise failure


async def _secured(
    stream: httpcore2.AsyncNetworkStream,
    server_name: str | None,
    options: DialOptions,
    seconds: float,
) -> httpcore2.AsyncNetworkStream:
    if server_name is None:
        return stream
    try:
        return await stream.start_tls(options.tls, server_name, seconds)
    except BaseException:
        # httpcore closes it after an error, but not when the race calls the dial off.
        await stream.aclose()
        raise
