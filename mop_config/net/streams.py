"""``Stream`` and ``AsyncStream``: a non-blocking connected socket, with or without TLS.

The streams read and write the socket of the dial race itself. This is faster than httpcore's own
streams, and a request that is cancelled at any moment loses no connection.
"""

import asyncio
import contextlib
import socket
import ssl
from typing import Any

import httpcore2

from .connect import Deadline, Owner, Timeout, shut_down
from .polling import ENDED, READABLE, WRITABLE, new_poll

#: Reads without a wait after which other tasks get a turn, and the deadline is looked at, because a
#: fast server fills every read.
READS_IN_A_ROW = 8
_Wait = asyncio.Future[None]
#: Exceptions of a read without data; a TLS socket may be readable for a TLS message only.
WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
#: Exceptions of a write while the send buffer is full.
WANT_WRITE = (BlockingIOError, ssl.SSLWantWriteError)


class _SocketStream:
    """The parts that both streams share.

    Args:
        sock: The socket, which becomes non-blocking.
        owner: Object that may shut the socket down from another thread, or None.

    Attributes:
        shared: Whether several requests share the connection (HTTP/2).
    """

    def __init__(self, sock: socket.socket, owner: Owner | None = None) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._owner = owner or Owner()
        self._owner.adopt(sock)
        self.shared = isinstance(sock, ssl.SSLSocket) and sock.selected_alpn_protocol() == "h2"
        self._events = new_poll()
        self._events.register(sock, READABLE | ENDED)
        self._reads_in_a_row = 0

    def _count_read(self, timeout: Timeout) -> bool:
        """Count a read; return whether too many reads before it have not waited.

        One is too many before the head of an answer: endless interim answers take long to parse.
        """
        limit = 1 if isinstance(timeout, Deadline) else READS_IN_A_ROW
        is_over = self._reads_in_a_row >= limit
        self._reads_in_a_row = 1 if is_over else self._reads_in_a_row + 1
        return is_over

    def get_extra_info(self, info: str) -> Any:
        """Return the extra info that httpcore requests by name, or None."""
        match info:
            case "is_readable":
                return self._sock.fileno() < 0 or bool(self._events.poll(0))
            case "has_ended":
                events = self._events.poll(0) if self._sock.fileno() >= 0 else [(0, ENDED)]
                return any(event & ENDED for _, event in events)
            case "ssl_object":
                return self._sock if isinstance(self._sock, ssl.SSLSocket) else None
            case "client_addr":
                return self._sock.getsockname()
            case "server_addr":
                return self._sock.getpeername()
            case "socket":
                return self._sock
        return None

    def _send(self, rest: memoryview, timeout: Timeout) -> memoryview:
        """Send as much as the send buffer takes, and return the rest."""
        try:
            sent = self._sock.send(rest)
        except WANT_WRITE:
            return rest
        if isinstance(timeout, Deadline):
            timeout.wrote(sent)
        return rest[sent:]

    def _close(self) -> None:
        if self._sock.fileno() >= 0:
            self._owner.release(self._sock)
            self._sock.close()


def _translated(error: Exception, late: type[Exception], other: type[Exception]) -> Exception:
    return (late if isinstance(error, TimeoutError) else other)(str(error) or "timed out")


class Stream(_SocketStream, httpcore2.NetworkStream):
    """The stream for threads; operations keep the deadline of their request."""

    def read(self, max_bytes: int, timeout: Timeout = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            if self._count_read(timeout) and isinstance(timeout, Deadline):
                timeout.check()
            while True:
                try:
                    return self._sock.recv(max_bytes)
                except WANT_READ:
                    self._reads_in_a_row = 0
                    self._wait(READABLE, timeout)
        except (OSError, ValueError) as error:
            raise _translated(error, httpcore2.ReadTimeout, httpcore2.ReadError) from error

    def write(self, buffer: bytes, timeout: Timeout = None) -> None:
        """Write the whole buffer."""
        rest = memoryview(buffer)
        try:
            # A system call for an empty buffer could only lose an error.
            while rest and (rest := self._send(rest, timeout)):
                self._wait(WRITABLE, timeout)
        except (OSError, ValueError) as error:
            raise _translated(error, httpcore2.WriteTimeout, httpcore2.WriteError) from error

    def _wait(self, event: int, timeout: Timeout) -> None:
        """Wait for an event of the socket.

        Raises:
            TimeoutError: After ``timeout`` seconds, or at its deadline.
            Exception: Raised by the hedge of the request, to end the read.
        """
        if isinstance(timeout, Deadline):
            limit = timeout.read_limit if event == READABLE else timeout.write_limit
            hedge, timeout = timeout.hedge, timeout.least(limit)
            if hedge is not None and event == READABLE:
                hedge.wait(self._sock, timeout)
                return
        poll = new_poll()
        poll.register(self._sock, event)
        if not poll.poll(None if timeout is None else timeout * 1000 + 1):
            raise TimeoutError("timed out")

    @staticmethod
    def wait_for(group: Any, seconds: float) -> None:
        """Wait until a socket of a group is ready, for at most ``seconds``."""
        group.selector.select(seconds)

    def close(self) -> None:
        """Close the socket; reads and writes that wait for the socket end with an error."""
        shut_down(self._sock)
        self._close()


class AsyncStream(_SocketStream, httpcore2.AsyncNetworkStream):
    """The stream for asyncio; operations keep the deadline of their request."""

    def __init__(self, sock: socket.socket, owner: Owner | None = None) -> None:
        super().__init__(sock, owner)
        self._turn = asyncio.Lock()
        self._waiting: set[_Wait] = set()

    async def read(self, max_bytes: int, timeout: Timeout = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            if self._count_read(timeout):
                await asyncio.sleep(0)
                if isinstance(timeout, Deadline):
                    timeout.check()
            while True:
                try:
                    return self._sock.recv(max_bytes)
                except WANT_READ:
                    self._reads_in_a_row = 0
                    await self._wait(timeout, writable=False)
        except (OSError, ValueError) as error:
            raise _translated(error, httpcore2.ReadTimeout, httpcore2.ReadError) from error

    async def write(self, buffer: bytes, timeout: Timeout = None) -> None:
        """Write the whole buffer."""
        if self.shared:
            # A cancelled request must not leave half a frame on a shared connection.
            await asyncio.shield(self._write(buffer, timeout))
        else:
            await self._write(buffer, timeout)

    async def _write(self, buffer: bytes, timeout: Timeout) -> None:
        rest = memoryview(buffer)
        try:
            async with self._turn:
                # A system call for an empty buffer could only lose an error.
                while rest and (rest := self._send(rest, timeout)):
                    await self._wait(timeout, writable=True)
        except (OSError, ValueError) as error:
            raise _translated(error, httpcore2.WriteTimeout, httpcore2.WriteError) from error

    async def _wait(self, timeout: Timeout, *, writable: bool) -> None:
        """Wait until the socket is readable or writable.

        Raises:
            TimeoutError: After ``timeout`` seconds, or at its deadline.
            OSError: If the stream was closed.
        """
        if isinstance(timeout, Deadline):
            timeout = timeout.least(timeout.write_limit if writable else timeout.read_limit)
        await _until_ready(self._sock.fileno(), timeout, self._waiting, writable=writable)

    @staticmethod
    async def wait_for(group: Any, seconds: float) -> None:
        """Wait until a socket of a group is ready, for at most ``seconds``."""
        with contextlib.suppress(TimeoutError):
            await _until_ready(group.selector.fileno(), seconds, set())

    async def aclose(self) -> None:
        """Close the socket; reads and writes that wait for the socket end with an error."""
        while self._waiting:
            waiting = self._waiting.pop()
            waiting.get_loop().remove_reader(self._sock.fileno())
            waiting.get_loop().remove_writer(self._sock.fileno())
            _end(waiting)  # the closed socket raises in the read or write that waits
        self._close()


async def _until_ready(
    fd: int, seconds: float | None, waiting: set[_Wait], *, writable: bool = False
) -> None:
    """Wait for a descriptor; ``waiting`` holds the wait meanwhile, unless the stream closes."""
    loop = asyncio.get_running_loop()
    add, remove = loop.add_reader, loop.remove_reader
    if writable:
        add, remove = loop.add_writer, loop.remove_writer
    ready: _Wait = loop.create_future()
    add(fd, _end, ready)
    waiting.add(ready)
    try:
        async with asyncio.timeout(seconds):
            await ready
    finally:
        if ready in waiting:
            waiting.remove(ready)
            remove(fd)


def _end(wait: _Wait) -> None:
    if not wait.done():
        wait.set_result(None)
