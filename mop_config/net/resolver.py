"""Shared look-ups of host names, and the order in which the addresses are dialled.

The system's resolver blocks for half a minute when no name server responds, and cannot be
cancelled. So each look-up runs in a daemon thread of its own. Callers that need the same host at
the same time share the look-up, and the addresses of the last successful look-up are used while
a new look-up is late or fails. A second resolver, such as DNS over HTTPS, helps if the system's
resolver is late, fails or returns false addresses.
"""

import asyncio
import inspect
import ipaddress
import logging
import os
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from itertools import zip_longest
from typing import Literal, TypeVar

from ..model.address import is_ip
from .faults import Fault, fault_of

logger = logging.getLogger(__name__)

Value = TypeVar("Value")

#: An application's own resolver: returns the addresses of a host, or raises.
LookUp = Callable[[str], Iterable[str] | Awaitable[Iterable[str]]]
#: Whether only the system's resolver is used, or the application's resolver as the second.
Resolve = Literal["system", "custom-second"]

#: Seconds until the next address is dialled in parallel (RFC 8305, section 5).
STAGGER = 0.25
#: Seconds that a look-up may take before the addresses of the last look-up are dialled; RFC 8305,
#: section 3, waits as long for the other address family.
LATE = 0.05
#: Seconds until the second resolver starts beside the first.
SECOND_AFTER = 0.25
#: Limit of the host names whose last addresses are cached.
_REMEMBERED = 4096


class Resolver:
    """Looks up the addresses of hosts, and caches the last result.

    Args:
        look_up: Function that returns the addresses of a host, or raises; None for the system's
            resolver.
        second: The resolver used if this resolver is late or fails, or if no address found has a
            certificate for the host; None for no second resolver.
    """

    def __init__(
        self,
        look_up: Callable[[str], list[str]] | None = None,
        second: "Resolver | None" = None,
    ) -> None:
        self.second = second
        self._look_up = look_up or _ask_the_system
        self._last: dict[str, list[str]] = {}
        self._best: dict[str, str] = {}
        self._begin()

    def _begin(self) -> None:
        self._pid = os.getpid()
        self._lock = threading.Lock()
        self._running: dict[str, Future[list[str]]] = {}

    def resolve(self, host: str) -> "Future[list[str]]":
        """Start the look-up of a host, or join the running look-up.

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
            self._begin()  # after a fork: the parent's look-up threads do not exist here
        with self._lock:
            future = self._running.get(host)
            if future is None:
                future = self._start(host)
        return future

    def last(self, host: str) -> list[str]:
        """Return the addresses of the last successful look-up of a host; empty before the first."""
        return [*self._last.get(host, []), *self.proven(host)]

    def proven(self, host: str) -> list[str]:
        """Return the second resolver's addresses if the last connection used such an address."""
        found = [] if self.second is None else self.second.last(host)
        return found if self._best.get(host) in found else []

    def succeeded(self, host: str, address: str) -> None:
        """Remember the connected address of a host, which the next dial tries first."""
        if address != host.strip("[]"):
            _remember(self._best, host, address)

    def in_turn(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Sort addresses as RFC 8305 (section 4) dials them.

        IPv6 and IPv4 alternate, and the last connected address comes first.
        """
        first = [a for a in addresses if (":" in a) == (":" in addresses[0])]
        other = [a for a in addresses if a not in first]
        turns = [a for pair in zip_longest(first, other) for a in pair if a is not None]
        best = self._best.get(host)
        return sorted(turns, key=lambda address: address != best)

    def _start(self, host: str) -> "Future[list[str]]":
        future: Future[list[str]] = Future()
        # A running future cannot be cancelled, so no caller can end the shared look-up.
        future.set_running_or_notify_cancel()
        thread = threading.Thread(
            target=self._run, args=(host, future), name="mop-config-resolve", daemon=True
        )
        try:
            thread.start()  # the thread cannot end before this lock is released
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
    """Decides the order and the times in which one host's addresses are dialled (RFC 8305).

    Each address is dialled 250 ms after the previous address, or at once after a failure. While a
    look-up is late, the addresses of the last successful look-up are dialled; the addresses of
    the new look-up are added later. The class does no I/O: its driver has the clock and the
    sockets.

    Args:
        resolver: Resolves the host.
        host: A host name or an IP address.
        now: Monotonic seconds.
        on_found: Called with each look-up that ends after this constructor, in any thread.
    """

    def __init__(
        self,
        resolver: Resolver,
        host: str,
        now: float,
        on_found: Callable[[object], None] = lambda _: None,
    ) -> None:
        self._resolver = resolver
        self._host = host
        self._on_found = on_found
        self._second: Future[list[str]] | None = None
        self._second_at = float("inf") if resolver.second is None else now + SECOND_AFTER
        self._faults: set[Fault] = set()
        self._last = resolver.last(host)
        self._late_at = now + LATE
        self._next_at = now
        self._running = 0
        self._tried: list[str] = []
        self._failure: Exception | None = None
        self._first = resolver.resolve(host)
        if not self._first.done():
            self._first.add_done_callback(on_found)

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
        if self._first.done():
            return float("inf")
        late = self._late_at if self._last and now < self._late_at else float("inf")
        second = self._second_at if self._second is None else float("inf")
        return max(0.0, min(late, second) - now)

    def failed(self, error: Exception) -> None:
        """Record a failed dial; the next address may be dialled at once."""
        self._running -= 1
        self._next_at = float("-inf")
        self._faults.add(fault_of(error, connecting=True))
        # Keep the more specific failure: "no IPv6" must not hide why IPv4 failed.
        if self._failure is None or fault_of(error, connecting=True) is not Fault.UNREACHABLE:
            self._failure = error

    def succeeded(self, address: str) -> None:
        """Record the address that won the race."""
        self._resolver.succeeded(self._host, address)

    def failure(self, now: float) -> Exception | None:
        """Return why every address failed; None while an address is left or being dialled.

        The method starts the second resolver if necessary.
        """
        if self._needs_second(now) and self._resolver.second is not None:
            self._second = self._resolver.second.resolve(self._host)
            self._second.add_done_callback(self._on_found)
        if self._running or not self._first.done() or self._waiting(now):
            return None
        if self._second is not None and not self._second.done():
            return None
        error = self._first.exception()
        if isinstance(error, Exception):
            return error if self._second is None else self._failure or error
        return self._failure or OSError("the host has no address")

    def _needs_second(self, now: float) -> bool:
        if self._second is not None or self._second_at == float("inf"):
            return False
        if not self._first.done():
            return now >= self._second_at
        if self._first.exception() is not None:
            return True
        over = not self._running and not self._waiting(now)
        return over and Fault.TLS in self._faults and self._faults <= _LIES

    def out_of_time(self) -> Exception:
        """Return the error for a deadline that passed before any address was ready."""
        if self._first.done():
            return self._failure or TimeoutError("timed out")
        return socket.gaierror(socket.EAI_AGAIN, "the host was not looked up in time")

    def _waiting(self, now: float) -> list[str]:
        """Return the known addresses that are not dialled yet, in the order of dialling."""
        if self._first.done():
            found = self._last if self._first.exception() else self._first.result()
        else:
            found = self._last if now >= self._late_at else []
        if self._second is not None and self._second.done() and not self._second.exception():
            found = [*found, *self._second.result()]
        found = [*found, *self._resolver.proven(self._host)]
        return [a for a in self._resolver.in_turn(self._host, found) if a not in self._tried]


#: Faults at the false addresses of a censoring resolver, such as certificates for other names.
_LIES = frozenset({Fault.TLS, Fault.UNREACHABLE})


def resolver_of(look_up: LookUp | None, resolve: Resolve) -> Resolver:
    """Return the resolver of a manager.

    Args:
        look_up: The application's own resolver, a function or a coroutine function; or None.
        resolve: ``custom-second`` uses ``look_up`` after the system's resolver; ``system`` ignores
            ``look_up``.

    Raises:
        TypeError: If the resolver is not a function.
        ValueError: If ``resolve`` is neither of the two words.
    """
    if look_up is not None and not callable(look_up):
        raise TypeError(f"resolver must be a function, not {look_up!r}")
    if resolve not in ("system", "custom-second"):
        raise ValueError(f"resolve must be system or custom-second, not {resolve!r}")
    if look_up is None or resolve == "system":
        return Resolver()
    return Resolver(second=Resolver(lambda host: _ask(look_up, host)))


def _ask(look_up: LookUp, host: str) -> list[str]:
    """Call an application's own resolver, and validate the addresses that it returns."""
    try:
        found = look_up(host)
        if inspect.isawaitable(found):
            found = asyncio.run(_awaited(found))
        addresses = [str(ipaddress.ip_address(str(address).strip("[]"))) for address in found]
    except Exception as error:
        logger.info("the second look-up of %s failed: %s: %s", host, type(error).__name__, error)
        raise
    return addresses


async def _awaited(found: Awaitable[Iterable[str]]) -> Iterable[str]:
    return await found


def _ask_the_system(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
