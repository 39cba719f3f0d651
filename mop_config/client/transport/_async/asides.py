"""A bad answer that is set aside, on asyncio: the twin of ``asides``."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import httpcore2
import httpx2

from .. import rewriting
from .._sync.asides import AHEAD


class AsyncAside(httpx2.AsyncByteStream):
    """The body of a bad answer, read by a task of its own while the request goes on.

    Args:
        response: The answer.
        request: What was asked, for exceptions.
    """

    def __init__(self, response: httpcore2.Response, request: httpx2.Request) -> None:
        self._response = response
        self._request = request
        self._parts = response.aiter_stream()
        self._read = bytearray()
        self._error: Exception | None = None
        self._more = True
        self._task: asyncio.Task[None] | None = None

    async def wait(self, seconds: float) -> None:
        """Read the body for at most so long; the rest comes later, if anybody wants it."""
        self._task = asyncio.create_task(self._run())
        try:
            await asyncio.wait([self._task], timeout=seconds)
        except asyncio.CancelledError:
            await self.aclose()
            raise

    async def _run(self) -> None:
        try:
            async for part in self._parts:
                self._read += part
                if len(self._read) > AHEAD:
                    return
            self._more = False
            await self._response.aclose()
        except Exception as error:
            self._error, self._more = error, False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        if self._task is not None:
            await asyncio.wait([self._task])
        yield bytes(self._read)
        try:
            if self._error is not None:
                raise self._error
            if self._more:
                async for part in self._parts:
                    yield part
        except Exception as error:
            raise rewriting.translate(error, self._request) from error

    async def aclose(self) -> None:
        """Let go of the answer."""
        if self._task is not None and not self._task.done():
            self._task.cancel()
            await asyncio.wait([self._task])
        with contextlib.suppress(Exception):
            await self._response.aclose()
