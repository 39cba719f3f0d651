"""The scripted fleet: endpoints on real sockets that follow a vector and record each request.

An endpoint of a vector is an array of words for its requests, or an object:

- ``connect``: ``ok`` (default), ``refuse``, ``swallow`` (connections are never accepted),
  ``stall-tls`` (accepted, then silence), ``wrong-name`` (a certificate for another host).
- ``requests``: one word for each request; the last word repeats.
- ``paths``: words for exact paths, such as health checks and lists.
- ``base``: the path of the endpoint's URL; ``tls``: false for plain http.

A word is a status, ``reset``, ``close``, ``stall``, ``garbage``, ``die-in-body``,
``pause-in-body``, or an object with ``status``, ``after`` (seconds), ``headers``, ``json``,
``text`` and ``then`` (a word that follows the delay).
"""

import asyncio
import contextlib
import json
import re
import socket
import ssl
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import trustme

#: Makes ``close`` send RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)
#: Exceptions that end a connection; Python 3.11 logs a cancelled stream handler as an error.
_ENDS = (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError)
_HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this"
#: Connections that fill the accept queue of a listener with a backlog of 0 on Linux.
_FILLERS = 3
_DEFAULTS: Any = {"connect": "ok", "tls": True, "base": "/api/v1", "paths": {}, "requests": [200]}


class Authority:
    """A certificate authority that exists for one run.

    Args:
        folder: Folder to which the authority's certificate is written for the client.

    Attributes:
        path: File of the authority's certificate, in PEM.
        good: TLS context with a certificate for this machine.
        wrong: TLS context with a certificate for another host name.
    """

    def __init__(self, folder: Path) -> None:
        authority = trustme.CA()
        self.path = folder / "authority.pem"
        authority.cert_pem.write_to_path(str(self.path))
        self.good = _context(authority, "127.0.0.1", "localhost")
        self.wrong = _context(authority, "elsewhere.example")

    def environment(self) -> dict[str, str]:
        """Return the environment variables that make OpenSSL, Python and Node trust it."""
        return {"SSL_CERT_FILE": str(self.path), "NODE_EXTRA_CA_CERTS": str(self.path)}


def _context(authority: trustme.CA, *names: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(context)
    return context


@dataclass(frozen=True)
class Seen:
    """A request that an endpoint has received.

    Attributes:
        endpoint: Letter of the endpoint.
        kind: ``request``, ``health`` or ``list``.
        method: Method of the request.
        path: Path of the request, without the query.
        headers: Header fields, by lower-case name.
    """

    endpoint: str
    kind: str
    method: str
    path: str
    headers: dict[str, str]


class Endpoint:
    """One scripted endpoint on a port of its own.

    Args:
        fleet: The fleet that records the requests.
        name: Letter of the endpoint.
        script: The endpoint in the vector.
    """

    def __init__(self, fleet: "Fleet", name: str, script: Any) -> None:
        self._fleet = fleet
        self.name = name
        self._script = dict(_DEFAULTS)
        self._turns: Counter[str] = Counter()
        self._connections: dict[asyncio.Task[Any], asyncio.StreamWriter] = {}
        self._server: asyncio.Server | None = None
        self._fillers: list[socket.socket] = []
        self._frozen = False
        # A bound port without a listener refuses connections, and no other process can bind it.
        self._reserved: socket.socket | None = _bound(0)
        self.port = self._reserved.getsockname()[1]
        self.define(script)

    @property
    def url(self) -> str:
        """The endpoint's URL, as lists contain it."""
        scheme = "https" if self._script["tls"] else "http"
        return f"{scheme}://127.0.0.1:{self.port}{self._script['base']}"

    def define(self, script: Any) -> None:
        """Replace the given members of the script, and restart their words at the first one."""
        given: dict[str, Any] = {"requests": script} if isinstance(script, list) else script
        self._script = {**self._script, **given}
        for where in given.keys() | given.get("paths", {}).keys():
            del self._turns[where]

    async def open(self) -> None:
        """Apply the ``connect`` member to new connections from now on."""
        connect = self._script["connect"]
        await self._stop_listening()
        self._frozen = connect in {"refuse", "swallow"}
        if connect == "refuse":
            for writer in list(self._connections.values()):
                _reset(writer)
        elif connect == "swallow":
            await self._swallow()
        else:
            tls = self._fleet.authority.good if self._script["tls"] else None
            tls = {"stall-tls": None, "wrong-name": self._fleet.authority.wrong}.get(connect, tls)
            serve = self._hold if connect == "stall-tls" else self._serve
            listener, self._reserved = self._reserved, None
            self._server = await asyncio.start_server(serve, sock=listener, ssl=tls)

    async def _stop_listening(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None
        elif self._fillers and self._reserved is not None:
            self._reserved.close()
        else:
            return
        for filler in self._fillers:
            filler.close()
        self._fillers = []
        self._reserved = _bound(self.port)

    async def _swallow(self) -> None:
        assert self._reserved is not None  # noqa: S101 - set by _stop_listening
        self._reserved.listen(0)
        self._fillers = [socket.socket() for _ in range(_FILLERS)]
        for filler in self._fillers:
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
        await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close the listener and every connection."""
        await self._stop_listening()
        if self._reserved is not None:
            self._reserved.close()
        for task, writer in list(self._connections.items()):
            writer.transport.abort()
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    # -- connections

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._connection(writer):
            while await reader.read(65536):
                pass

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._connection(writer):
            while True:
                method, path, headers = await _read(reader)
                if self._frozen:
                    await reader.read()  # a frozen endpoint sends no more answers
                    return
                word = self._note(method, path, headers)
                if not await self._act(reader, writer, method, word):
                    return

    @contextlib.contextmanager
    def _connection(self, writer: asyncio.StreamWriter) -> Iterator[None]:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the caller is a coroutine of a server
        self._connections[task] = writer
        try:
            with contextlib.suppress(*_ENDS):
                yield
        finally:
            del self._connections[task]
            writer.close()

    def _note(self, method: str, path: str, headers: dict[str, str]) -> Any:
        """Record a request, and return the word that answers it."""
        bare = path.partition("?")[0]
        is_list = "/config/endpoints" in bare
        kind = "health" if bare.endswith("/health") else "list" if is_list else "request"
        self._fleet.seen.append(Seen(self.name, kind, method, bare, headers))
        paths, base = self._script["paths"], self._script["base"]
        where, words = bare, paths.get(bare, [200 if bare == f"{base}/health" else 404])
        if kind == "request" and bare not in paths:
            where, words = "requests", self._script["requests"]
        self._turns[where] += 1
        return words[min(self._turns[where], len(words)) - 1]

    async def _act(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, word: Any
    ) -> bool:
        """Do what a word says; return whether the connection stays open."""
        if isinstance(word, dict) and "after" in word:
            await asyncio.sleep(word["after"])
            word = word.get("then", word)
        if word == "reset":
            _reset(writer)
        elif word == "garbage":
            writer.write(b"SSH-2.0-what\r\n\r\n")
        elif word in ("die-in-body", "pause-in-body"):
            writer.write(_HALF)
            await writer.drain()
        if word in ("stall", "pause-in-body"):
            await reader.read()
        if isinstance(word, str):
            return False
        answer = word if isinstance(word, dict) else {"status": word}
        writer.write(self._answer(answer, method))
        await writer.drain()
        return True

    def _answer(self, answer: dict[str, Any], method: str) -> bytes:
        body = json.dumps(answer["json"]) if "json" in answer else answer.get("text", self.name)
        status = answer.get("status", 200)
        content = b"" if status == 304 else self._fleet.fill(body).encode()
        fields = {"Content-Length": str(len(content)), **answer.get("headers", {})}
        head = "".join(f"{name}: {self._fleet.fill(value)}\r\n" for name, value in fields.items())
        content = b"" if method == "HEAD" else content
        return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + content


class Fleet:
    """The endpoints of one vector, and the record of their requests.

    Attributes:
        seen: The requests to all endpoints, in order of receipt.
    """

    def __init__(self, authority: Authority, scripts: dict[str, Any]) -> None:
        self.authority = authority
        self.seen: list[Seen] = []
        self._endpoints = {name: Endpoint(self, name, each) for name, each in scripts.items()}
        self._timers: list[asyncio.Task[None]] = []

    @property
    def urls(self) -> dict[str, str]:
        """The URLs of the endpoints, by letter."""
        return {name: endpoint.url for name, endpoint in self._endpoints.items()}

    def fill(self, value: Any) -> Any:
        """Replace ``{a}`` by endpoint a's URL and ``{a:port}`` by its port in a JSON value."""
        text = json.dumps(value)
        for name, endpoint in self._endpoints.items():
            text = text.replace(f"{{{name}}}", endpoint.url)
            text = text.replace(f"{{{name}:port}}", str(endpoint.port))
        return json.loads(text)

    async def open(self) -> None:
        """Open every endpoint."""
        for endpoint in self._endpoints.values():
            await endpoint.open()

    async def change(self, scripts: dict[str, Any], seconds: float = 0.0) -> None:
        """Change the scripts of some endpoints, after ``seconds``."""
        await asyncio.sleep(seconds)
        for name, script in scripts.items():
            self._endpoints[name].define(script)
            if "connect" in script:
                await self._endpoints[name].open()

    def change_later(self, scripts: dict[str, Any], seconds: float) -> None:
        """Begin to wait for a later change."""
        self._timers.append(asyncio.create_task(self.change(scripts, seconds)))

    async def close(self) -> None:
        """Close every endpoint."""
        for timer in self._timers:
            timer.cancel()
        await asyncio.gather(*self._timers, return_exceptions=True)
        for endpoint in self._endpoints.values():
            await endpoint.close()


def _bound(port: int) -> socket.socket:
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", port))
    return sock


def _reset(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Read a whole request; return its method, its path and its header fields."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    fields = (line.partition(":") for line in lines)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    if "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    elif "chunked" in headers.get("transfer-encoding", ""):
        while size := int(re.match("[0-9a-fA-F]+", (await reader.readline()).decode())[0], 16):  # type: ignore[index]
            await reader.readexactly(size + 2)
        await reader.readline()
    return method, path, headers
