"""Looking host names up, and the order in which to dial what is found.

The system's resolver blocks, for half a minute where name servers are gone, and cannot be
stopped. So each look-up runs in a daemon thread of its own, whoever asks for the same host
meanwhile gets the same answer, and the addresses that were found last are remembered for the
time in which a look-up is late or fails.
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
#: Names whose last addresses are remembered.
_REMEMBERED = 4096


class Resolver:
    """Finds the addresses of hosts, and remembers them.

    Args:
        look_up: Does the work; the system's resolver, unless a test has another.
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
        """Begin to look a host up, or join the look-up that runs.

        Args:
            host: A host name, or an IP address (in brackets, if IPv6), which is its own
                answer.

        Returns:
            A future of IP addresses, as the system sorts them; its exception is the
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

    def last(self, host: str) -> list[str]:
        """Give the addresses that the last look-up of a host found; none before the first."""
        return self._last.get(host, [])

    def succeeded(self, host: str, address: str) -> None:
        """Remember the address at which a host was connected to last, to begin with it."""
        if address != host.strip("[]"):
            _remember(self._best, host, address)

    def in_turn(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Sort addresses as RFC 8305 (section 4) dials them.

        The families take turns, and the address that was connected to last is the first.
        """
        first = [a for a in addresses if (":" in a) == (":" in addresses[0])]
        other = [a for a in addresses if a not in first]
        turns = [a for pair in zip_longest(first, other) for a in pair if a is not None]
        best = self._best.get(host)
        return sorted(turns, key=lambda address: address != best)

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
    """The addresses of one host for one connection: which to dial, and when (RFC 8305).

    The next address is dialled 250 ms after the one before, or at once where that failed. A
    look-up that is late does not end it: the addresses of the last one are dialled meanwhile,
    and what it finds joins them. There is no clock and no socket in it; the two drivers have
    those.

    Args:
        resolver: Looks the host up.
        host: A host name or an IP address.
        now: Monotonic seconds.

    Attributes:
        look_up: The look-up that was begun or joined.
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
        """Give the address to dial now, if any."""
        address = next(iter(self._waiting(now)), None) if now >= self._next_at else None
        if address is not None:
            self._tried.append(address)
            self._running += 1
            self._next_at = now + STAGGER
        return address

    def wait(self, now: float) -> float:
        """Seconds until time alone makes ``start`` give another address; infinity for never."""
        if self._waiting(now):
            return max(0.0, self._next_at - now)
        if self._last and not self.look_up.done() and now < self._late_at:
            return self._late_at - now
        return float("inf")

    def failed(self, error: Exception) -> None:
        """Note that a dial failed: the next one begins at once."""
        self._running -= 1
        self._next_at = float("-inf")
        # That this machine has no IPv6, say, explains nothing where IPv4 had a say.
        if self._failure is None or fault_of(error, connecting=True) is not Fault.UNREACHABLE:
            self._failure = error

    def succeeded(self, address: str) -> None:
        """Note the address that was ready first."""
        self._resolver.succeeded(self._host, address)

    def failure(self, now: float) -> Exception | None:
        """Say why no address is left to hope for; None while there is one."""
        if self._running or not self.look_up.done() or self._waiting(now):
            return None
        error = self.look_up.exception()
        if isinstance(error, Exception):
            return error
        return self._failure or OSError("the host has no address")

    def out_of_time(self) -> Exception:
        """Say what the end of all time means, where nothing was ready before it."""
        if self.look_up.done():
            return self._failure or TimeoutError("timed out")
        return socket.gaierror(socket.EAI_AGAIN, "the host was not looked up in time")

    def _waiting(self, now: float) -> list[str]:
        """List what can be dialled and was not, the first to dial first."""
        if self.look_up.done():
            found = self._last if self.look_up.exception() else self.look_up.result()
        else:
            found = self._last if now >= self._late_at else []
        return [a for a in self._resolver.in_turn(self._host, found) if a not in self._tried]


def _ask_the_system(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
