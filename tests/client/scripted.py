"""Endpoints that follow a script, request by request, and record which endpoint was asked."""

import contextlib
import re
import socket
import struct
import threading
from collections.abc import Iterator, Sequence

from ..ports import closed_port
from .cases import RETRY_AFTER

#: A request for this path gets 200 and consumes no word of the script.
WARM_PATH = b"/warm"

_RESET = struct.pack("ii", 1, 0)


class Scripted:
    """An HTTP server on raw sockets that follows a script.

    Args:
        name: Name of the server in ``asked``.
        words: One word per request; the last word repeats. See ``cases``.
        asked: The list to which the server appends its name at each request.
    """

    def __init__(self, name: str, words: Sequence[str], asked: list[str]) -> None:
        self.name = name
        self._words = list(words)
        self._asked = asked
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.connections = 0
        self.requests: list[bytes] = []
        if self._words == ["refused"]:
            self._listener = None
            self.port = closed_port()
            return
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        """URL of the endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def _spawn(self, target: object, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        assert self._listener is not None
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                with self._lock:
                    self._open.add(sock)
                    self.connections += 1
                self._spawn(self._serve, sock)

    def _serve(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while (request := _read(sock)) is not None:
                if request.split(b" ", 2)[1] == WARM_PATH:
                    sock.sendall(_answer(request, "200"))
                    continue
                with self._lock:
                    self._asked.append(self.name)
                    self.requests.append(request)
                    word = self._words.pop(0) if len(self._words) > 1 else self._words[0]
                if not self._act(sock, request, word):
                    break
        with self._lock:
            self._open.discard(sock)
        sock.close()

    def _act(self, sock: socket.socket, request: bytes, word: str) -> bool:
        """Carry out a word; return whether the connection stays open."""
        match word:
            case "reset":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                return False
            case "close":
                return False
            case "garbage":
                sock.sendall(b"SSH-2.0-what\r\n\r\n")
                return False
            case "half":
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
                return False
            case "pause":
                sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this")
                return _read(sock) is not None
            case "stall":
                return _read(sock) is not None
            case _:
                sock.sendall(_answer(request, word))
                return True

    @property
    def held(self) -> int:
        """Number of open connections."""
        with self._lock:
            return len(self._open)

    def hang_up(self) -> None:
        """End every connection, as a server does after its keep-alive time-out."""
        with self._lock:
            for sock in self._open:
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        """Close every connection and wait for the threads to end."""
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._threads[0].join(5)
        self.hang_up()
        for thread in self._threads:
            thread.join(5)


def _read(sock: socket.socket) -> bytes | None:
    """Read a whole request; return None if the client closed the connection."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = sock.recv(65536)
        if not part:
            return None
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = re.search(rb"(?i)\ncontent-length: *(\d+)", head)
    chunked = re.search(rb"(?i)\ntransfer-encoding: *chunked", head)

    def complete() -> bool:
        if chunked:
            return body.endswith(b"0\r\n\r\n")
        return length is None or len(body) >= int(length[1])

    while not complete():
        part = sock.recv(65536)
        if not part:
            return None
        body += part
    return head + b"\r\n\r\n" + body


def _answer(request: bytes, word: str) -> bytes:
    more = f"Retry-After: {RETRY_AFTER}\r\n" if word.endswith("+") else ""
    body = b"" if request.startswith(b"HEAD") else b"ok"
    return f"HTTP/1.1 {word.rstrip('+')} Word\r\nContent-Length: 2\r\n{more}\r\n".encode() + body


@contextlib.contextmanager
def scripted(script: dict[str, tuple[str, ...]]) -> Iterator[tuple[list[Scripted], list[str]]]:
    """Run a server per entry; yield the servers and the names of those asked, in order."""
    asked: list[str] = []
    servers: list[Scripted] = []
    try:
        for name, words in script.items():
            servers.append(Scripted(name, words, asked))
        yield servers, asked
    finally:
        for server in servers:
            server.close()
