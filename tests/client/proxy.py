"""Forward proxies in this process: HTTP (CONNECT, or absolute URLs without TLS) and SOCKS5."""

import base64
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

from ..waiting import wait_for


class ForwardProxy:
    """A proxy that resolves a fixed set of host names for its clients.

    Args:
        ports: Local port of each host name; a request for another host gets 502.
        login: Required ``user:password`` (others get 407); None requires no login.
        host: Address to listen on.

    Attributes:
        asked: The first line of each request.
        hanging: Host names whose requests get no answer.
    """

    def __init__(
        self, ports: dict[str, int], login: str | None = None, host: str = "127.0.0.1"
    ) -> None:
        self.ports = ports
        self.host = f"[{host}]" if ":" in host else host
        self.asked: list[str] = []
        self.hanging: set[str] = set()
        self._login = login
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self._ended = threading.Event()
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._listener = socket.create_server((host, 0), family=family, backlog=64)
        self.port = self._listener.getsockname()[1]
        self._spawn(self._accept)

    @property
    def url(self) -> str:
        """URL of the proxy for clients, with the login."""
        login = f"{self._login}@" if self._login else ""
        return f"http://{login}{self.host}:{self.port}"

    def hosts(self) -> list[str]:
        """The ``host:port`` of each CONNECT request."""
        return [line.split()[1] for line in self.asked if line.startswith("CONNECT")]

    def _spawn(self, target: Any, *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._open.add(sock)
                self._spawn(self._serve, sock)

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError):
            data = b""
            while b"\r\n\r\n" not in data:
                part = client.recv(65536)
                if not part:
                    return
                data += part
            line, _, rest = data.partition(b"\r\n")
            self.asked.append(line.decode())
            if self._login is not None:
                wanted = base64.b64encode(self._login.encode())
                if b"proxy-authorization: basic " + wanted.lower() not in rest.lower():
                    client.sendall(_answer(407))
                    return
            self._connect(client, line, rest)

    def _connect(self, client: socket.socket, line: bytes, rest: bytes) -> None:
        method, where, version = line.split()
        if method == b"CONNECT":
            host, data = where.decode().rpartition(":")[0].strip("[]"), b""
        else:
            url = urlsplit(where.decode())
            host = url.hostname or ""
            target = (url.path or "/") + (f"?{url.query}" if url.query else "")
            head = b" ".join((method, target.encode(), version))
            data = head + b"\r\n" + rest
            if b"upgrade:" not in rest.lower():
                # The next request on this connection may be for another host.
                data = head + b"\r\nConnection: close\r\n" + rest
        if host in self.hanging:
            self._ended.wait(60)
        elif host not in self.ports:
            client.sendall(_answer(502))
        else:
            answer = b"HTTP/1.1 200 Connection established\r\n\r\n"
            self._join(client, host, answer if method == b"CONNECT" else b"", data)

    def _join(self, client: socket.socket, host: str, answer: bytes, data: bytes = b"") -> None:
        """Connect to a host, send both sides their first bytes, and carry all others."""
        with socket.create_connection(("127.0.0.1", self.ports[host])) as server:
            self._open.add(server)
            client.sendall(answer)
            server.sendall(data)
            back = threading.Thread(target=carry, args=(server, client), daemon=True)
            back.start()
            carry(client, server)
            back.join()

    def close(self) -> None:
        """Stop the proxy and close every connection through it."""
        self._ended.set()
        for sock in (self._listener, *self._open):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        wait_for(lambda: not any(thread.is_alive() for thread in self._threads))


class SocksProxy(ForwardProxy):
    """A SOCKS5 proxy that resolves a fixed set of host names; a wrong login is refused."""

    @property
    def url(self) -> str:
        """URL of the proxy for clients, with the login."""
        return super().url.replace("http:", "socks5:")

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), client.makefile("rb") as asked:
            _, count = asked.read(2)
            method = 2 if self._login else 0
            if method not in asked.read(count):
                client.sendall(b"\x05\xff")
                return
            client.sendall(bytes((5, method)))
            if self._login:
                asked.read(1)
                login = b":".join(asked.read(asked.read(1)[0]) for _ in range(2))
                client.sendall(bytes((1, login != self._login.encode())))
                if login != self._login.encode():
                    return
            kind = asked.read(4)[3]
            if kind == 3:
                host = asked.read(asked.read(1)[0]).decode()
            else:
                family, length = {1: (socket.AF_INET, 4), 4: (socket.AF_INET6, 16)}[kind]
                host = socket.inet_ntop(family, asked.read(length))
            port = int.from_bytes(asked.read(2), "big")
            self.asked.append(f"CONNECT {host}:{port} SOCKS5")
            rest = bytes((0, 1, 127, 0, 0, 1, 0, 80))
            if host in self.hanging:
                self._ended.wait(60)
            elif host not in self.ports:
                client.sendall(b"\x05\x04" + rest)
            else:
                self._join(client, host, b"\x05\x00" + rest)


def carry(source: socket.socket, sink: socket.socket) -> None:
    """Carry the bytes of one direction to their end."""
    with contextlib.suppress(OSError):
        while part := source.recv(65536):
            sink.sendall(part)
    with contextlib.suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _answer(status: int) -> bytes:
    return f"HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode()


@contextlib.contextmanager
def forward_proxy(
    ports: dict[str, int], login: str | None = None, host: str = "127.0.0.1"
) -> Iterator[ForwardProxy]:
    """Run a forward proxy."""
    with contextlib.closing(ForwardProxy(ports, login, host)) as proxy:
        yield proxy


@contextlib.contextmanager
def socks_proxy(ports: dict[str, int], login: str | None = None) -> Iterator[SocksProxy]:
    """Run a SOCKS5 proxy."""
    with contextlib.closing(SocksProxy(ports, login)) as proxy:
        yield proxy
