"""Load over many connections, which records every failed request and every unexpected answer."""

import http.client
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from .servers import ENDPOINTS


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
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            if connection is None:
                connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
            started = time.perf_counter()
            try:
                connection.request("GET", ENDPOINTS)
                response = connection.getresponse()
                body = response.read()
            except Exception as error:
                self.failures.append(f"{type(error).__name__}: {error}")
                connection.close()
                connection = None
                continue
            self.slowest = max(self.slowest, time.perf_counter() - started)
            self.answers[body] += 1
            if response.status != 200:
                self.failures.append(f"status {response.status}")
            if response.will_close or not self.keep_alive:
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
