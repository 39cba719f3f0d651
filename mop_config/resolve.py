"""Looking host names up: one look-up a host at a time, never in the way of a race.

The system's resolver blocks, for half a minute where name servers are gone, and cannot be
stopped. So each look-up runs in a daemon thread of its own, and whoever asks for the same
host meanwhile gets the same answer.
"""

import os
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future

from .address import is_ip


class Resolver:
    """Finds the addresses of hosts.

    Args:
        look_up: Does the work; the system's resolver, unless a test has another.
    """

    def __init__(self, look_up: Callable[[str], list[str]] | None = None) -> None:
        self._look_up = look_up or _ask_the_system
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._running: dict[str, Future[list[str]]] = {}

    def resolve(self, host: str) -> "Future[list[str]]":
        """Begin to look a host up, or join the look-up that runs.

        Args:
            host: A host name, or an IP address (in brackets, if IPv6), which is its own
                answer.

        Returns:
            A future of IP addresses, to be tried in their order; its exception is the
            resolver's ``socket.gaierror``.
        """
        if is_ip(host):
            done: Future[list[str]] = Future()
            done.set_result([host.strip("[]")])
            return done
        if self._pid != os.getpid():
            self._begin()  # the threads that look up for the parent did not come along
        with self._lock:
            future = self._running.get(host)
            if future is None:
                future = self._start(host)
        return future

    def attempts(self, host: str, left: Callable[[], float]) -> Iterator[tuple[str, float]]:
        """Look a host up, and give each of its addresses with its share of the time.

        Args:
            host: As for ``resolve``.
            left: Gives the seconds that are left for all of it, and raises once none are.

        Raises:
            TimeoutError: If it was not looked up in time.
        """
        try:
            addresses = self.resolve(host).result(left())
        except TimeoutError:
            raise TimeoutError("the host was not looked up in time") from None
        for index, address in enumerate(addresses):
            yield address, left() / (len(addresses) - index)

    def _start(self, host: str) -> "Future[list[str]]":
        future: Future[list[str]] = Future()
        # So that one of those who wait cannot cancel it for the others.
        future.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=self._run, args=(host, future), name="mop-config-resolve", daemon=True
        )
        try:
            thread.start()  # it ends by taking the lock that we hold
        except (RuntimeError, MemoryError) as error:  # no thread left
            future.set_exception(error)
        else:
            self._running[host] = future
        return future

    def _run(self, host: str, future: "Future[list[str]]") -> None:
        try:
            addresses = self._look_up(host)
        except BaseException as error:
            self._finish(host)
            future.set_exception(error)
        else:
            self._finish(host)
            future.set_result(addresses)

    def _finish(self, host: str) -> None:
        with self._lock:
            del self._running[host]


def _ask_the_system(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
