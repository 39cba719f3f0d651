"""``AsyncStream``: a non-blocking connected socket, with or without TLS.

The stream reads and writes the socket of the dial race itself. This is faster than httpcore's own
streams, and a request that is cancelled at any moment loses no connection.
"""

import select
import socket
import ssl
from collections.abc import Callable
from typing import Any

import httpcore2

from ..connect import Owner
from ..deadline import Limit
from ..with_asyncio import AsyncSocketWaits, WriteTurn, give_way, whole

#: Reads without a wait after which other tasks get a turn, because a fast server fills every read.
READS_IN_A_ROW = 8
#: Exceptions of a read without data; a TLS socket may be readable for a TLS message only.
WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
#: Exceptions of a write while the send buffer is full.
WANT_WRITE = (BlockingIOError, ssl.SSLWantWriteError)


class AsyncStream(httpcore2.AsyncNetworkStream):
    """A connected socket whose operations keep the deadline of their request.

    Args:
        sock: The socket, which becomes non-blocking.
        owner: Object that may shut the socket down from another thread, or None.

    Attributes:
        limit: The time-out of operations without one.
        shared: Whether several requests share the connection (HTTP/2).
    """

    def __init__(self, sock: socket.socket, owner: Owner | None = None) -> None:
        sock.setblocking(False)
        self.limit: Limit | None = None
        self._sock = sock
        self._owner = owner
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self.shared = self._tls is not None and self._tls.selected_alpn_protocol() == "h2"
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)
        self._waits = AsyncSocketWaits(sock)
        self._turn = WriteTurn()
        self._reads_in_a_row = 0
        if owner is not None:
            try:
                owner.adopt(sock)
            except OSError:
                owner.release(sock)
                sock.close()
                raise

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            if self._reads_in_a_row == READS_IN_A_ROW:
                self._reads_in_a_row = 0
                await give_way()
            while True:
                try:
                    self._reads_in_a_row += 1
                    return self._sock.recv(max_bytes)
                except WANT_READ:
                    self._reads_in_a_row = 0
                    await self._waits.readable(self.limit if timeout is None else timeout)
        except TimeoutError as error:
            raise httpcore2.ReadTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        if not buffer:
            return  # a system call could only lose an error
        if self.shared:
            # A cancelled request must not leave half a frame on a shared connection.
            await whole(self._write_in_turn, buffer, timeout)
        else:
            await self._write(buffer, timeout)

    async def _write_in_turn(self, buffer: bytes, timeout: float | None) -> None:
        async with self._turn:
            await self._write(buffer, timeout)

    async def _write(self, buffer: bytes, timeout: float | None) -> None:
        try:
            rest = memoryview(buffer)
            while True:
                if isinstance(timeout, Limit):
                    timeout.deadline.wrote()
                try:
                    sent = self._sock.send(rest)
                except WANT_WRITE:
                    sent = 0
                rest = rest[sent:]
                if not rest:
                    return
                await self._waits.writable(self.limit if timeout is None else timeout)
        except TimeoutError as error:
            raise httpcore2.WriteTimeout(str(error)) from error
        except (OSError, ValueError) as error:
            raise httpcore2.WriteError(str(error)) from error

    async def aclose(self) -> None:
        """Close the socket; reads and writes that wait for the socket end with an error."""
        self._waits.end()
        if self._owner is not None:
            self._owner.release(self._sock)
            self._owner = None
        self._sock.close()

    def get_extra_info(self, info: str) -> Any:
        """Return the extra info that httpcore requests by name, or None."""
        match info:
            case "is_readable":
                return self._sock.fileno() < 0 or bool(self._readable.poll(0))
            case "ssl_object":
                return self._tls
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "socket":
                return self._sock
        return None


async def secured(
    stream: Any, context: ssl.SSLContext, name: str | None, timeout: float
) -> "AsyncTlsStream":
    """Begin TLS within a stream to a proxy, and return the stream within TLS.

    Raises:
        httpcore2.ConnectError: If TLS fails.
        httpcore2.ConnectTimeout: If TLS takes too long.
    """
    inner = AsyncTlsStream(stream, context, name)
    try:
        await inner.shake_hands(timeout)
    except BaseException as error:
        await stream.aclose()
        if isinstance(error, httpcore2.ReadTimeout):
            raise httpcore2.ConnectTimeout(str(error)) from error
        if isinstance(error, (OSError, httpcore2.NetworkError)):
            raise httpcore2.ConnectError(str(error)) from error
        raise
    return inner


class AsyncTlsStream(httpcore2.AsyncNetworkStream):
    """TLS within the stream to a proxy, which may be a TLS stream itself.

    Attributes:
        outer: The stream of the socket.
    """

    def __init__(self, stream: Any, context: ssl.SSLContext, name: str | None) -> None:
        self.outer: AsyncStream = getattr(stream, "outer", stream)
        self._stream = stream
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=name)

    async def shake_hands(self, timeout: float | None) -> None:
        """Do the TLS handshake; raises the exceptions of TLS and of httpcore."""
        await self._run(self._tls.do_handshake, timeout)
        self.outer.shared = self._tls.selected_alpn_protocol() == "h2"

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            data: bytes = await self._run(lambda: self._tls.read(max_bytes), timeout)
            return data
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        except ssl.SSLError as error:
            raise httpcore2.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        if buffer:
            await self._run(lambda: self._tls.write(buffer), timeout)

    async def _run(self, step: Callable[[], Any], timeout: float | None) -> Any:
        """Repeat a step of TLS until it has the bytes that it needs; return its result."""
        while True:
            result, needs_bytes = None, False
            try:
                result = step()
            except ssl.SSLWantReadError:
                needs_bytes = True
            if self._to_send.pending:
                await self._stream.write(self._to_send.read(), timeout)
            if not needs_bytes:
                return result
            if data := await self._stream.read(1 << 16, timeout):
                self._received.write(data)
            else:
                self._received.write_eof()

    async def aclose(self) -> None:
        """Close the connection to the proxy."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return the extra info that httpcore requests by name, or None."""
        return self._tls if info == "ssl_object" else self._stream.get_extra_info(info)
