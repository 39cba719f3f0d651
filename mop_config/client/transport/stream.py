"""``SocketStream``: a connected socket that does not block; the base of both halves' streams."""

import select
import socket
import ssl
from typing import Any

#: What a read without data raises; with TLS, readable may mean a message of TLS itself.
WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
#: What a write raises while the send buffer is full.
WANT_WRITE = (BlockingIOError, ssl.SSLWantWriteError)


class SocketStream:
    """A connected socket, with or without TLS.

    httpcore's own streams make a system call for each change of a time-out; on asyncio, they also
    go through a transport, a protocol and a cancel scope.

    Args:
        sock: The socket, which becomes non-blocking.
    """

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._tls = sock if isinstance(sock, ssl.SSLSocket) else None
        self._readable = select.poll()
        self._readable.register(sock, select.POLLIN)

    def _send(self, buffer: bytes | memoryview) -> int:
        """Send as much as the send buffer takes; return the number of bytes."""
        try:
            return self._sock.send(buffer)
        except WANT_WRITE:
            return 0

    def get_extra_info(self, info: str) -> Any:
        """Return what httpcore asks for."""
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
