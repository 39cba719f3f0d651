"""Host name look-ups that callers share, and the order in which to dial the addresses.

The system's resolver blocks for half a minute when no name server responds, and it cannot be
stopped. So each look-up runs in a daemon thread of its own. Callers that need the same host at
the same time share the look-up, and the addresses of the last successful look-up are used while
a new one is late or fails.
"""

import os
import socket
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from itertools import zip_longest
from typing import TypeVar

from ..model.address import is_ip
from .faults import Fault, fault_of

Value = TypeVar("Value")

#: Seconds until another address is dialled beside one that is not ready (RFC 8305, section 5).
STAGGER = 0.25
#: Seconds that a look-up may take before the addresses of the last one are dialled; RFC 8305,
#: section 3, waits as long for the other family.
LATE = 0.05
#: Limit of the host names whose last addresses are remembered.
_REMEMBERED = 4096


class Resolver:
    """Looks up the addresses of hosts, and remembers them.

    Args:
        look_up: Returns the addresses of a host, or raises; None for the system's resolver.
    """

    def __init__(self, look_up: Callable[[str], list[str]] | None = None) -> None:
        self._look_up = look_up or _ask_the_system
        self._last: dict[str, list[str]] = {}
        self._best: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._running: dict[str, Future[list[str]]] = {}

    def resolve(self, host: str) -> "Future[list[str]]":
        """Start the look-up of a host, or join the one that is running.

        Args:
            host: A host name, or an IP address (in brackets, if IPv6), which needs no look-up.

        Returns:
            A future of the IP addresses in the system's order; its exception is the
            resolver's ``socket.gaierror``.
        """
        if is_ip(host):
            done: Future[list[str]] = Future()
            done.set_result([host.strip("[]")])
            return done
        if self._pid != os.getpid():
            self._begin()  # the parent's look-up threads do not exist in this child process
        with self._lock:
            future = self._running.get(host)
            if future is None:
                future = self._start(host)
        return future

    def last(self, host: str) -> list[str]:
        """Return the addresses of the last successful look-up of a host; empty before the first."""
        return self._last.get(host, [])

    def succeeded(self, host: str, address: str) -> None:
        """Remember the address that a host was connected to last; it will be dialled first."""
        if address != host.strip("[]"):
            _remember(self._best, host, address)

    def in_turn(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Sort addresses as RFC 8305 (section 4) dials them.

        IPv6 and IPv4 alternate, and the address that was connected to last comes first.
        """
        first = [a for a in addresses if (":" in a) == (":" in addresses[0])]
        other = [a for a in addresses if a not in first]
        turns = [a for pair in zip_longest(first, other) for a in pair if a is not None]
        best = self._best.get(host)
        return sorted(turns, key=lambda address: address != best)

    def _start(self, host: str) -> "Future[list[str]]":
        future: Future[list[str]] = Future()
        # A running future cannot be cancelled: one caller must not end it for the others.
        future.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=self._run, args=(host, future), name="mop-config-resolve", daemon=True
        )
        try:
            thread.start()  # it cannot end before this lock is released
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
            _remember(self._last, host, addresses)
            self._finish(host)
            future.set_result(addresses)

    def _finish(self, host: str) -> None:
        with self._lock:
            del self._running[host]


def _remember(memory: dict[str, Value], host: str, value: Value) -> None:
    memory.pop(host, None)
    memory[host] = value
    if len(memory) > _REMEMBERED:
        memory.pop(next(iter(memory)), None)


class Addresses:
    """The order and the times in which the addresses of one host are dialled (RFC 8305).

    Each address is dialled 250 ms after the one before it, or at once after a failure. While a
    look-up is late, the addresses of the last successful look-up are dialled; those that it
    finds are added. This class has no clock and no socket; the synchronous and the
    asynchronous driver have those.

    Args:
        resolver: Looks the host up.
        host: A host name or an IP address.
        now: Monotonic seconds.

    Attributes:
        look_up: The look-up that was started or joined.
    """

    def __init__(self, resolver: Resolver, host: str, now: float) -> None:
        self._resolver = resolver
        self._host = host
        self._last = resolver.last(host)
        self._late_at = now + LATE
        self._next_at = now
        self._running = 0
        self._tried: list[str] = []
        self._failure: Exception | None = None
        self.look_up = resolver.resolve(host)

    def start(self, now: float) -> str | None:
        """Return the address to dial now, or None."""
        address = next(iter(self._waiting(now)), None) if now >= self._next_at else None
        if address is not None:
            self._tried.append(address)
            self._running += 1
            self._next_at = now + STAGGER
        return address

    def wait(self, now: float) -> float:
        """Return the seconds until ``start`` may return another address; infinity for never."""
        if self._waiting(now):
            return max(0.0, self._next_at - now)
        if self._last and not self.look_up.done() and now < self._late_at:
            return self._late_at - now
        return float("inf")

    def failed(self, error: Exception) -> None:
        """Record a failed dial; the next address may be dialled at once."""
        self._running -= 1
        self._next_at = float("-inf")
        # "This machine has no IPv6" must not hide the reason why IPv4 failed.
        if self._failure is None or fault_of(error, connecting=True) is not Fault.UNREACHABLE:
            self._failure = error

    def succeeded(self, address: str) -> None:
        """Record the address that was ready first."""
        self._resolver.succeeded(self._host, address)

    def failure(self, now: float) -> Exception | None:
        """Return why every address has failed; None while one is left or being dialled."""
        if self._running or not self.look_up.done() or self._waiting(now):
            return None
        error = self.look_up.exception()
        if isinstance(error, Exception):
            return error
        return self._failure or OSError("the host has no address")

    def out_of_time(self) -> Exception:
        """Return the error for a deadline that passed before any address was ready."""
        if self.look_up.done():
            return self._failure or TimeoutError("timed out")
        return socket.gaierror(socket.EAI_AGAIN, "the host was not looked up in time")

    def _waiting(self, now: float) -> list[str]:
        """Return the known addresses that were not dialled yet, in the order of dialling."""
        if self.look_up.done():
            found = self._last if self.look_up.exception() else self.look_up.result()
        else:
            found = self._last if now >= self._late_at else []
        return [a for a in self._resolver.in_turn(self._host, found) if a not in self._tried]


def _ask_the_system(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
