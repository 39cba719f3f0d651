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
import struct
import time
from dataclasses import dataclass
from typing import Any

from .authority import Authority

#: Makes ``close`` send RST instead of FIN.
_RESET = struct.pack("ii", 1, 0)
#: Exceptions that end a connection; Python 3.11 logs a cancelled stream handler as an error.
_ENDS = (OSError, EOFError, asyncio.LimitOverrunError, asyncio.CancelledError)
_HALF = b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nonly this"
#: Connections that fill the accept queue of a listener with a backlog of 0 on Linux.
_FILLERS = 3


@dataclass(frozen=True)
class Seen:
    """A request that an endpoint has received.

    Attributes:
        endpoint: Letter of the endpoint.
        kind: ``request``, ``health`` or ``list``.
        method: Method of the request.
        path: Path of the request, without the query.
        headers: Header fields, by lower-case name.
        at: Time of receipt, in seconds of the monotonic clock.
    """

    endpoint: str
    kind: str
    method: str
    path: str
    headers: dict[str, str]
    at: float


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
        self._script: dict[str, Any] = {}
        self._turns: dict[str, int] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self._fillers: list[socket.socket] = []
        self._frozen = asyncio.Event()
        # A bound port without a listener refuses connections, and no other process can bind it.
        self._reserved: socket.socket | None = _bound(0)
        self.port = self._reserved.getsockname()[1]
        self.define(script)

    @property
    def url(self) -> str:
        """The endpoint's URL, as lists contain it."""
        scheme = "https" if self._script.get("tls", True) else "http"
        return f"{scheme}://127.0.0.1:{self.port}{self._script.get('base', '/api/v1')}"

    def define(self, script: Any) -> None:
        """Replace the given members of the script, and restart their words at the first one."""
        given = {"requests": script} if isinstance(script, list) else script
        self._script = {**self._script, **given}
        for where in (*(["requests"] if "requests" in given else []), *given.get("paths", {})):
            self._turns[where] = 0

    async def open(self) -> None:
        """Apply the ``connect`` member to new connections from now on."""
        connect = self._script.get("connect", "ok")
        if connect in {"refuse", "swallow"}:
            await self._stop_listening()
            self._frozen.set()
            if connect == "refuse":
                for writer in list(self._writers):
                    _reset(writer)
            else:
                await self._swallow()
            return
        await self._stop_listening()
        self._frozen.clear()
        tls = {"stall-tls": None, "wrong-name": self._fleet.authority.wrong}.get(
            connect, self._fleet.authority.good if self._script.get("tls", True) else None
        )
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
        for _ in range(_FILLERS):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", self.port))
            self._fillers.append(filler)
        await asyncio.sleep(0.01)

    async def close(self) -> None:
        """Close the listener and every connection."""
        await self._stop_listening()
        if self._reserved is not None:
            self._reserved.close()
        for writer in list(self._writers):
            writer.transport.abort()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # -- connections

    async def _hold(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with self._connection(writer), contextlib.suppress(OSError, asyncio.CancelledError):
            while await reader.read(65536):
                pass

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with (
            self._connection(writer),
            contextlib.suppress(*_ENDS),
        ):
            while True:
                method, path, headers = await _read(reader)
                if self._frozen.is_set():
                    await reader.read()  # a frozen endpoint sends no more answers
                    return
                word = self._note(method, path, headers)
                if not await self._act(reader, writer, method, word):
                    return

    @contextlib.contextmanager
    def _connection(self, writer: asyncio.StreamWriter) -> Any:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - the caller is a coroutine of a server
        self._tasks.add(task)
        self._writers.add(writer)
        try:
            yield
        finally:
            self._tasks.discard(task)
            self._writers.discard(writer)
            writer.close()

    def _note(self, method: str, path: str, headers: dict[str, str]) -> Any:
        """Record a request, and return the word that answers it."""
        bare = path.partition("?")[0]
        kind = "request"
        if bare.endswith("/health"):
            kind = "health"
        elif "/config/endpoints" in bare:
            kind = "list"
        self._fleet.seen.append(Seen(self.name, kind, method, bare, headers, time.monotonic()))
        paths, base = self._script.get("paths", {}), self._script.get("base", "/api/v1")
        if bare in paths:
            where, words = bare, paths[bare]
        elif kind == "request":
            where, words = "requests", self._script.get("requests", [200])
        else:
            where, words = bare, [200 if bare == f"{base}/health" else 404]
        turn = self._turns.get(where, 0)
        self._turns[where] = turn + 1
        return words[min(turn, len(words) - 1)]

    async def _act(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, method: str, word: Any
    ) -> bool:
        """Do what a word says; return whether the connection stays open."""
        if isinstance(word, dict) and "after" in word:
            await asyncio.sleep(word["after"])
            word = word.get("then", word)
        match word:
            case "reset":
                _reset(writer)
                return False
            case "close":
                return False
            case "garbage":
                writer.write(b"SSH-2.0-what\r\n\r\n")
                return False
            case "die-in-body":
                writer.write(_HALF)
                await writer.drain()
                return False
            case "stall" | "pause-in-body":
                writer.write(_HALF if word == "pause-in-body" else b"")
                await reader.read()
                return False
        answer = word if isinstance(word, dict) else {"status": word}
        writer.write(self._answer(answer, method))
        await writer.drain()
        return True

    def _answer(self, answer: dict[str, Any], method: str) -> bytes:
        body = answer.get("text", self.name)
        if "json" in answer:
            body = json.dumps(self._fleet.fill(answer["json"]))
        content = b"" if answer.get("status") == 304 else self._fleet.fill(body).encode()
        fields = {"Content-Length": str(len(content)), **answer.get("headers", {})}
        head = "".join(f"{name}: {self._fleet.fill(value)}\r\n" for name, value in fields.items())
        status = answer.get("status", 200)
        return f"HTTP/1.1 {status} Scripted\r\n{head}\r\n".encode() + (
            b"" if method == "HEAD" else content
        )


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
        if isinstance(value, dict):
            return {key: self.fill(each) for key, each in value.items()}
        if isinstance(value, list):
            return [self.fill(each) for each in value]
        if not isinstance(value, str):
            return value
        for name, url in self.urls.items():
            value = value.replace(f"{{{name}}}", url)
            value = value.replace(f"{{{name}:port}}", url.split(":")[2].partition("/")[0])
        return value

    async def open(self) -> None:
        """Open every endpoint."""
        for endpoint in self._endpoints.values():
            await endpoint.open()

    async def change(self, scripts: dict[str, Any]) -> None:
        """Change the scripts of some endpoints."""
        for name, script in scripts.items():
            self._endpoints[name].define(script)
            if "connect" in script:
                await self._endpoints[name].open()

    def change_later(self, scripts: dict[str, Any], seconds: float) -> None:
        """Change the scripts of some endpoints after ``seconds``."""

        async def wait() -> None:
            await asyncio.sleep(seconds)
            await self.change(scripts)

        self._timers.append(asyncio.create_task(wait()))

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
    sock = writer.get_extra_info("socket")
    with contextlib.suppress(OSError):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
    writer.transport.abort()


async def _read(reader: asyncio.StreamReader) -> tuple[str, str, dict[str, str]]:
    """Read a whole request; return its method, its path and its header fields."""
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ", 2)
    fields = (line.partition(":") for line in lines if line)
    headers = {name.lower(): value.strip() for name, _, value in fields}
    if "content-length" in headers:
        await reader.readexactly(int(headers["content-length"]))
    elif "chunked" in headers.get("transfer-encoding", ""):
        while size := int(re.match("[0-9a-fA-F]+", (await reader.readline()).decode())[0], 16):  # type: ignore[index]
            await reader.readexactly(size + 2)
        await reader.readline()
    return method, path, headers
