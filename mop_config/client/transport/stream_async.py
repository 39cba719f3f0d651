"""``AsyncFailoverStream``: a non-blocking socket on asyncio.

The stream reads and writes the socket of the dial race without an asyncio transport, and closes
the socket by a plain call. So a request that is cancelled at any moment loses no connection.
"""

import asyncio
import socket
import ssl
from collections.abc import Callable
from typing import Any

import anyio

# Import early: anyio would import this with its first lock, perhaps without a free descriptor.
import anyio._backends._asyncio
import httpcore2
from httpcore2._backends.anyio import AnyIOStream

from .attempt import Limit
from .stream import WANT_READ, SocketStream

#: Reads without a wait after which other tasks get a turn, because a fast server fills every read.
READS_IN_A_ROW = 8

Register = Callable[..., Any]


class SocketWaits:
    """Lets tasks wait for one file descriptor.

    Args:
        fd: The file descriptor.
    """

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._waiting: set[asyncio.Future[None]] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    async def readable(self, seconds: float | None) -> None:
        """Wait until the descriptor is readable.

        Raises:
            TimeoutError: After ``seconds``.
            OSError: If ``end`` was called.
        """
        loop = self._loop = asyncio.get_running_loop()
        await self._wait(loop, loop.add_reader, loop.remove_reader, seconds)

    async def writable(self, seconds: float | None) -> None:
        """Wait until the descriptor is writable; raises as ``readable`` does."""
        loop = self._loop = asyncio.get_running_loop()
        await self._wait(loop, loop.add_writer, loop.remove_writer, seconds)

    async def _wait(
        self,
        loop: asyncio.AbstractEventLoop,
        add: Register,
        remove: Register,
        seconds: float | None,
    ) -> None:
        ready = loop.create_future()
        add(self._fd, _set, ready)
        self._waiting.add(ready)
        late = None if seconds is None else loop.call_later(seconds, _fail, ready, TimeoutError)
        try:
            await ready
        finally:
            if late is not None:
                late.cancel()
            if ready in self._waiting:
                self._waiting.remove(ready)
                remove(self._fd)

    def end(self) -> None:
        """End all waits with an error, before the descriptor is closed."""
        if self._waiting and self._loop is not None:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
        while self._waiting:
            _fail(self._waiting.pop(), ConnectionAbortedError)


def _set(ready: "asyncio.Future[None]") -> None:
    if not ready.done():
        ready.set_result(None)


def _fail(ready: "asyncio.Future[None]", error: type[OSError]) -> None:
    if not ready.done():
        ready.set_exception(error("timed out" if error is TimeoutError else "closed"))


class AsyncFailoverStream(SocketStream, httpcore2.AsyncNetworkStream):
    """A connected socket whose operations keep the deadline of their exchange."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._waits = SocketWaits(sock.fileno())
        self._shared = self._tls is not None and self._tls.selected_alpn_protocol() == "h2"
        self._turn = asyncio.Lock()
        self._reads_in_a_row = 0

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            if self._reads_in_a_row == READS_IN_A_ROW:
                self._reads_in_a_row = 0
                await asyncio.sleep(0)
            while True:
                try:
                    self._reads_in_a_row += 1
                    return self._sock.recv(max_bytes)
                except WANT_READ:
                    self._reads_in_a_row = 0
                    await self._waits.readable(_least(timeout))
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        if not buffer:
            return
        if self._shared:
            # A cancelled request must not leave half a frame on a shared connection.
            await asyncio.shield(self._write_in_turn(buffer, timeout))
        else:
            await self._write(buffer, timeout)

    async def _write_in_turn(self, buffer: bytes, timeout: float | None) -> None:
        async with self._turn:
            await self._write(buffer, timeout)

    async def _write(self, buffer: bytes, timeout: float | None) -> None:
        deadline = timeout.deadline if isinstance(timeout, Limit) else None
        if deadline is not None:
            deadline.wrote()
        try:
            sent = self._send(buffer)
            while sent < len(buffer):
                await self._waits.writable(_least(timeout))
                sent += self._send(memoryview(buffer)[sent:])
                if deadline is not None:
                    deadline.wrote()
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        """Close the socket; tasks that wait for it end with an error."""
        self._waits.end()
        self._sock.close()

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Begin TLS, and return the stream within it."""
        if self._tls is not None:
            inner = AnyIOStream(_ByteStream(self))
            return _TunnelStream(await inner.start_tls(ssl_context, server_hostname, timeout))
        sock = ssl_context.wrap_socket(
            self._sock, server_hostname=server_hostname, do_handshake_on_connect=False
        )
        stream = AsyncFailoverStream(sock)
        try:
            async with asyncio.timeout(timeout):
                await stream._shake_hands(sock)
        except BaseException as error:
            await stream.aclose()
            if isinstance(error, TimeoutError):
                raise httpcore2.ConnectTimeout(str(error)) from error
            if isinstance(error, OSError):
                raise httpcore2.ConnectError(str(error)) from error
            raise
        return stream

    async def _shake_hands(self, sock: ssl.SSLSocket) -> None:
        while True:
            try:
                sock.do_handshake()
                return
            except ssl.SSLWantReadError:
                await self._waits.readable(None)
            except ssl.SSLWantWriteError:
                await self._waits.writable(None)


class _TunnelStream(httpcore2.AsyncNetworkStream):
    """TLS within TLS; its operations keep the deadline of their exchange."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        return await self._stream.read(max_bytes, _least(timeout))

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        if isinstance(timeout, Limit):
            timeout.deadline.wrote()
        await self._stream.write(buffer, _least(timeout))


class _ByteStream(anyio.abc.ByteStream):
    """Adapts a stream to the interface of anyio's TLS."""

    def __init__(self, stream: AsyncFailoverStream) -> None:
        self._stream = stream

    async def receive(self, max_bytes: int = 65536) -> bytes:
        try:
            data = await self._stream.read(max_bytes)
        except httpcore2.ReadError as error:
            raise anyio.BrokenResourceError from error
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        try:
            await self._stream.write(item)
        except httpcore2.WriteError as error:
            raise anyio.BrokenResourceError from error

    async def send_eof(self) -> None:
        """Do nothing: TLS ends the connection by closing it."""

    async def aclose(self) -> None:
        await self._stream.aclose()

    @property
    def extra_attributes(self) -> Any:
        return {anyio.abc.SocketAttribute.raw_socket: lambda: self._stream.get_extra_info("socket")}


def _least(timeout: float | None) -> float | None:
    """Return a time-out bounded by the deadline of its exchange, in seconds."""
    return timeout.deadline.least(timeout) if isinstance(timeout, Limit) else timeout
