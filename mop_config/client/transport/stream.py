"""``SocketStream``: a non-blocking connected socket; the base of both halves' streams."""

import select
import socket
import ssl
from typing import Any

#: Exceptions of a read without data; a TLS socket may be readable for a TLS message only.
WANT_READ = (BlockingIOError, ssl.SSLWantReadError)
#: Exceptions of a write while the send buffer is full.
WANT_WRITE = (BlockingIOError, ssl.SSLWantWriteError)


class SocketStream:
    """A connected socket, with or without TLS.

    This stream is faster than httpcore's own streams, which make a system call for each change of
    a time-out and, on asyncio, go through a transport, a protocol and a cancel scope.

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
        """Send as many bytes as the send buffer takes; return their number."""
        try:
            return self._sock.send(buffer)
        except WANT_WRITE:
            return 0

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
