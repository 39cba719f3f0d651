"""``ManagerParts``: the parts of a manager that its threads use. No part refers to the manager.

``Announcer`` logs the events of the pools and sends the signals. ``Reporter`` sends each endpoint's
counts of successes and failures to the server of the list.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
import weakref
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from blinker import NamedSignal

from .. import signals
from ..health.probe import HealthRequest
from ..model.endpoint import Kind
from ..net.faults import COUNTED
from ..net.http import HttpClient, HttpRequest
from .lists.endpoint_lists import EndpointLists
from .lists.update import SIGNED_SUFFIX, Token, current_token, is_route
from .pool.member import EventKind, PoolEvent, PoolMember
from .pool.session import ClientState
from .transport.options import TransportOptions

logger = logging.getLogger(__name__)

#: Least seconds between two reports; up to a fifth is added, so that clients don't report in step.
EVERY = 600.0
#: Seconds without a report after a server has refused reports.
REFUSED = 86400.0
#: Limits of a report: bytes of the body, and the value of each count.
MAX_BYTES, MAX_COUNT = 4096, 10_000

#: Signal (None: the event is only logged), log level and log text of each event.
_EVENTS: dict[EventKind, tuple[NamedSignal | None, int, str]] = {
    EventKind.SWITCHED: (
        signals.endpoint_switched,
        logging.WARNING,
        "%(kind)s requests go to %(to_url)s instead of %(from_url)s (%(reason)s,"
        " %(seconds_without_service).3f s without service)",
    ),
    EventKind.SUSPECTED: (
        None,
        logging.INFO,
        "%(kind)s endpoint %(url)s is suspect (%(reason)s): it ranks last until a check clears it",
    ),
    EventKind.DOWN: (
        signals.endpoint_down,
        logging.WARNING,
        "%(kind)s endpoint %(url)s is down (%(reason)s)",
    ),
    EventKind.RECOVERED: (
        signals.endpoint_recovered,
        logging.INFO,
        "%(kind)s endpoint %(url)s is healthy again",
    ),
    EventKind.ALL_DOWN: (
        signals.all_endpoints_down,
        logging.ERROR,
        "every %(kind)s endpoint is down: %(urls)s",
    ),
}


class Announcer:
    """Logs the events of the pools, and sends the signals of one manager.

    Args:
        manager: The sender of the signals. The announcer holds only a weak reference, so that
            the manager is collected when the application drops its last reference.

    Attributes:
        loop: The event loop in which signals are sent. None: signals are sent at once, in the
            thread of the event.
    """

    def __init__(self, manager: object) -> None:
        self._manager = weakref.ref(manager)
        self.loop: asyncio.AbstractEventLoop | None = None

    def announce(self, event: PoolEvent) -> None:
        """Log an event of a pool, and send its signal."""
        signal, level, text = _EVENTS[event.kind]
        urls = ", ".join(event.about.get("urls", ()))
        logger.log(level, text, {**event.about, "urls": urls})
        if signal is not None:
            self.send(signal, event.about)

    def send(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        """Send a signal."""
        manager = self._manager()
        if manager is None:
            return
        if self.loop is None or self.loop is asyncio._get_running_loop():
            signals.send(signal, manager, **about)
        else:
            with contextlib.suppress(RuntimeError):  # the loop has been closed
                self.loop.call_soon_threadsafe(partial(signals.send, signal, manager, **about))


class Schedule(NamedTuple):
    """What a manager does regularly, besides health checks.

    Attributes:
        update_interval: Seconds between two updates; 0 for none.
        watch: Whether to wait for a new list by a long poll.
        report: Whether to report the outcomes of requests to the server of the list.
    """

    update_interval: float
    watch: bool
    report: bool


@dataclass(frozen=True, slots=True)
class ManagerParts:
    """The parts of a manager.

    Attributes:
        state: The pools with the endpoints.
        lists: The endpoint lists.
        options: Options of the connections.
        token: The bearer token for sources of lists, or a function that returns the token.
        health: The request that a health check sends.
        schedule: What to do regularly, besides health checks.
    """

    state: ClientState
    lists: EndpointLists
    options: TransportOptions
    token: Token
    health: HealthRequest
    schedule: Schedule

    def new_client(self) -> HttpClient:
        """Create a client for the sources of lists; its ``abort`` cancels its requests."""
        policy = self.state.policy
        return HttpClient(
            self.options.for_dial(policy.connect_timeout),
            self.state.resolver,
            connect_within=max(policy.connect_timeout, policy.health_timeout),
            proxy_for=self.options.proxy_for,
        )

    def deadline(self) -> float:
        """Return the deadline of a request that begins now, in monotonic seconds."""
        return time.monotonic() + self.state.policy.total_timeout


class Reporter:
    """Sends a count per endpoint and fault, without request URLs, identities or times."""

    def __init__(self, parts: ManagerParts) -> None:
        self._parts = parts
        self._client = parts.new_client()

    def close(self) -> None:
        """Cancel a report that is being sent; takes no lock, so a finalizer may call it."""
        self._client.abort()

    def run(self) -> float:
        """Send a report if counts are due; return the seconds until the next report.

        Counts that could not be sent are part of the next report.
        """
        pause = EVERY * (1 + random.random() / 5)  # noqa: S311
        url = self._url()
        if url is None:
            return pause
        with self._parts.state as state:
            due = [
                (kind, member, counts)
                for kind in Kind
                for member in state.pool(kind).members()
                if (counts := _unreported(member))
            ]
        chosen = _fitting(due)
        if not chosen:
            return pause
        status = self._post(url, _body(chosen))
        if status is not None and 200 <= status < 300:
            with self._parts.state:
                for _, member, counts in chosen:
                    member.reported.update(counts)
        elif status is not None and 400 <= status < 500 and status != 429:
            logger.info("%s takes no reports (%d); it is asked again in a day", url, status)
            return REFUSED
        return pause

    def _url(self) -> str | None:
        """Return the URL for reports, or None if the list did not come from a list server."""
        source = self._parts.lists.source.url
        if source is None or not is_route(source):
            return None
        return source.removesuffix(SIGNED_SUFFIX).removesuffix("/endpoints") + "/reports"

    def _post(self, url: str, body: bytes) -> int | None:
        request = HttpRequest(
            url,
            self._parts.deadline(),
            MAX_BYTES,
            "POST",
            headers={"Content-Type": "application/json"},
            body=body,
            token=current_token(self._parts.token),
            server_names=self._parts.lists.server_names(),
            cut=True,
        )
        try:
            return self._client.request(request).status
        except (OSError, ValueError, RuntimeError, MemoryError):
            return None


_Counts = list[tuple[Kind, PoolMember, Counter[str]]]


def _fitting(due: _Counts) -> _Counts:
    """Return the counts that fit into one report, most failures first."""
    chosen: _Counts = []
    for entry in sorted(due, key=lambda entry: entry[2]["ok"] - entry[2].total()):
        if len(_body([*chosen, entry])) > MAX_BYTES:
            break
        chosen.append(entry)
    return chosen


def _unreported(member: PoolMember) -> Counter[str]:
    known = Counter({"ok": member.served})
    known.update({fault.value: count for fault, count in member.faults.items() if fault in COUNTED})
    return Counter({word: min(n, MAX_COUNT) for word, n in (known - member.reported).items()})


def _body(chosen: _Counts) -> bytes:
    entries = [
        {"kind": kind.value, "url": member.url, "counts": counts} for kind, member, counts in chosen
    ]
    return json.dumps({"endpoints": entries}, separators=(",", ":")).encode()
