"""Load over many connections, which records every failed request and every unexpected answer."""

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

from .servers import ENDPOINTS

_REQUEST = f"GET {ENDPOINTS} HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nAccept-Encoding: identity\r\n\r\n"


class _Answer(NamedTuple):
    status: int
    body: bytes
    will_close: bool


class _Connection:
    """A connection for half of the processor time that ``http.client`` takes."""

    def __init__(self, port: int) -> None:
        self._request = (_REQUEST % port).encode()
        self._socket = socket.create_connection(("127.0.0.1", port), 20)
        self._file = self._socket.makefile("rb")

    def ask(self) -> _Answer:
        """Send the request, and return the whole answer."""
        self._socket.sendall(self._request)
        version, status, *_ = self._line().split(b" ")
        assert version == b"HTTP/1.1", version
        fields = {}
        while line := self._line():
            name, _, value = line.partition(b":")
            fields[name.lower()] = value.strip()
        length = int(fields[b"content-length"])
        body = self._file.read(length)
        assert len(body) == length, "the body is cut off"
        return _Answer(int(status), body, fields.get(b"connection") == b"close")

    def _line(self) -> bytes:
        line = self._file.readline()
        assert line.endswith(b"\r\n"), f"the server closed the connection after {line!r}"
        return line[:-2]

    def close(self) -> None:
        self._file.close()
        self._socket.close()


class Load:
    """Threads that request the list in a loop.

    Args:
        port: The server's port.
        keep_alive: Whether a connection is used for more than one request.
        threads: Number of clients.
    """

    def __init__(self, port: int, *, keep_alive: bool, threads: int = 4) -> None:
        self.port = port
        self.keep_alive = keep_alive
        self.failures: list[str] = []
        self.answers: Counter[bytes] = Counter()
        self.slowest = 0.0
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    @property
    def requests(self) -> int:
        """Return the number of answered requests."""
        return self.answers.total()

    def _run(self) -> None:
        connection: _Connection | None = None
        while not self._stop.is_set():
            started = time.perf_counter()
            try:
                connection = connection or _Connection(self.port)
                answer = connection.ask()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                if connection is not None:
                    connection.close()
                    connection = None
                continue
            self.slowest = max(self.slowest, time.perf_counter() - started)
            self.answers[answer.body] += 1
            if answer.status != 200:
                self.failures.append(f"status {answer.status}")
            if answer.will_close or not self.keep_alive:
                connection.close()
                connection = None
            # A real client pauses between requests: without a pause, four threads of one
            # interpreter would starve the test that controls them, and the other tests.
            time.sleep(0.005)
        if connection is not None:
            connection.close()


@contextmanager
def under_load(port: int, keep_alive: tuple[bool, ...] = (True, False)) -> Iterator[list[Load]]:
    """Run load over kept and fresh connections during the block; check that no request failed."""
    loads = [Load(port, keep_alive=keep) for keep in keep_alive]
    for load in loads:
        load.start()
    try:
        yield loads
    finally:
        for load in loads:
            load.stop()
    for load in loads:
        assert load.failures == [], f"{len(load.failures)} of {load.requests}"
        assert load.requests > 20
