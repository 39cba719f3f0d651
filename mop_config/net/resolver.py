"""Shared look-ups of host names, and the order of their addresses.

The system's resolver blocks for half a minute when no name server responds, and cannot be
cancelled. So each look-up runs in a daemon thread of its own. Callers that need the same host at
the same time share the look-up, and the addresses of the last successful look-up are used while
a new look-up is late or fails. A second resolver, such as DNS over HTTPS, helps if the system's
resolver is late, fails or returns false addresses.
"""

import asyncio
import ipaddress
import logging
import os
import socket
from collections.abc import Callable, Coroutine, Iterable, Sequence
from concurrent.futures import Future
from itertools import zip_longest
from typing import Any, Literal

from ..model.address import is_ip
from .threads import start_thread

logger = logging.getLogger(__name__)

#: An application's own resolver: returns the addresses of a host, or raises.
LookUp = Callable[[str], Iterable[str] | Coroutine[Any, Any, Iterable[str]]]
#: Whether only the system's resolver is used, or the application's resolver as the second.
Resolve = Literal["system", "custom-second"]


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
        # By process, as a forked child has no threads of its parent.
        self._running: dict[tuple[int, str], Future[list[str]]] = {}

    def resolve(self, host: str) -> "Future[list[str]]":
        """Start the look-up of a host, or join the running look-up.

        Args:
            host: A host name, or an IP address (in brackets, if IPv6), which needs no look-up.

        Returns:
            A future of the IP addresses in the system's order; its exception is the
            resolver's ``socket.gaierror``.
        """
        future: Future[list[str]] = Future()
        # A running future cannot be cancelled, so no caller can end the shared look-up.
        future.set_running_or_notify_cancel()
        if is_ip(host):
            self._last[host] = [host.strip("[]")]
            future.set_result(self._last[host])
            return future
        key = os.getpid(), host
        shared = self._running.setdefault(key, future)
        if shared is future:
            try:
                start_thread(self._run, "mop-config-resolve", key, future)
            except (RuntimeError, MemoryError) as error:  # no thread left
                del self._running[key]
                future.set_exception(error)
        return shared

    def last(self, host: str) -> list[str]:
        """Return the addresses of the last look-ups of a host, with the second resolver's."""
        return self._last.get(host, []) + (self.second.last(host) if self.second else [])

    def succeeded(self, host: str, address: str) -> None:
        """Remember the connected address of a host, which the next dial tries first."""
        self._best[host] = address

    def in_turn(self, host: str, addresses: Sequence[str]) -> list[str]:
        """Sort addresses as RFC 8305 (section 4) dials them.

        IPv6 and IPv4 alternate, and the last connected address comes first.
        """
        first = [a for a in addresses if (":" in a) == (":" in addresses[0])]
        other = [a for a in addresses if a not in first]
        turns = [a for pair in zip_longest(first, other) for a in pair if a is not None]
        best = self._best.get(host)
        return sorted(turns, key=lambda address: address != best)

    def _run(self, key: tuple[int, str], future: "Future[list[str]]") -> None:
        try:
            self._last[key[1]] = self._look_up(key[1])
        except BaseException as error:
            del self._running[key]
            future.set_exception(error)
        else:
            del self._running[key]
            future.set_result(self._last[key[1]])


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
    """Call an application's own resolver; its answer fails if one of the addresses is bad."""
    try:
        found = look_up(host)
        if isinstance(found, Coroutine):
            found = asyncio.run(found)
        if addresses := [str(ipaddress.ip_address(address)) for address in found]:
            return addresses
        raise LookupError("it returned no address")
    except Exception as error:
        logger.info("the second look-up of %s failed: %s: %s", host, type(error).__name__, error)
        raise


def _ask_the_system(host: str) -> list[str]:
    found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))
