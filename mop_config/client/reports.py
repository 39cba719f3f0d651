"""What a manager tells: log lines and signals to the application, and reports to the server.

``Announcer`` logs the events of the pools and sends the signals. ``send_report`` sends each
endpoint's counts of successes and failures to the server of the list.
"""

import asyncio
import contextlib
import json
import logging
import random
import time
import weakref
from collections import Counter
from functools import partial
from logging import ERROR, INFO, WARNING
from typing import Any

from blinker import NamedSignal

from .. import signals
from ..model.endpoint import Kind
from ..net.faults import COUNTED
from ..net.http import HttpClient, HttpRequest
from .lists.endpoint_lists import EndpointLists
from .lists.rules import SIGNED_SUFFIX, current_token, is_route
from .pool.member import EventKind, PoolEvent, PoolMember

logger = logging.getLogger(__name__)

#: Least seconds between two reports; up to a fifth is added, so that clients don't report in step.
EVERY = 600.0
#: Seconds without a report after a server has refused reports.
REFUSED = 86400.0
#: Limits of a report: bytes of the body, and the value of each count.
MAX_BYTES, MAX_COUNT = 4096, 10_000
#: No entry of a report is shorter.
LEAST_BYTES = 40

#: The signal of each event that is not only logged.
_SIGNALS: dict[str, NamedSignal] = {
    EventKind.SWITCHED: signals.endpoint_switched,
    EventKind.DOWN: signals.endpoint_down,
    EventKind.RECOVERED: signals.endpoint_recovered,
    EventKind.ALL_DOWN: signals.all_endpoints_down,
}
#: Log level and log text of each event.
_TEXTS: dict[str, tuple[int, str]] = {
    EventKind.SWITCHED: (
        WARNING,
        "%(kind)s requests go to %(to_url)s instead of %(from_url)s (%(reason)s,"
        " %(seconds_without_service).3f s without service)",
    ),
    EventKind.SUSPECTED: (
        INFO,
        "%(kind)s endpoint %(url)s is suspect (%(reason)s): it ranks last until a check clears it",
    ),
    EventKind.DOWN: (WARNING, "%(kind)s endpoint %(url)s is down (%(reason)s)"),
    EventKind.RECOVERED: (INFO, "%(kind)s endpoint %(url)s is healthy again"),
    EventKind.ALL_DOWN: (ERROR, "every %(kind)s endpoint is down: %(urls)s"),
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
        level, text = _TEXTS[event.kind]
        logger.log(level, text, {**event.about, "urls": ", ".join(event.about.get("urls", ()))})
        if event.kind in _SIGNALS:
            self.send(_SIGNALS[event.kind], event.about)

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


_Counts = list[tuple[Kind, PoolMember, Counter[str]]]


def send_report(lists: EndpointLists, client: HttpClient) -> float:
    """Send a report if counts are due; return the seconds until the next report.

    A report has a count per endpoint and fault, without request URLs, identities or times. Counts
    that could not be sent are part of the next report.
    """
    pause = EVERY * (1 + random.random() / 5)  # noqa: S311
    source = lists.kept.url
    if source is None or not is_route(source):
        return pause  # the list did not come from a list server
    url = source.removesuffix(SIGNED_SUFFIX).removesuffix("/endpoints") + "/reports"
    chosen = _due(lists)[: MAX_BYTES // LEAST_BYTES]
    while len(_body(chosen)) > MAX_BYTES:
        chosen.pop()
    if not chosen:
        return pause
    request = HttpRequest(
        url,
        time.monotonic() + lists.state.policy.total_timeout,
        MAX_BYTES,
        "POST",
        headers={"Content-Type": "application/json"},
        body=_body(chosen),
        token=current_token(lists.settings.token),
        server_names=lists.server_names(),
        cut=True,
    )
    try:
        status = client.request(request).status
    except (OSError, ValueError, RuntimeError, MemoryError):
        return pause
    if 200 <= status < 300:
        with lists.state:
            for _, member, counts in chosen:
                member.reported.update(counts)
    elif 400 <= status < 500 and status != 429:
        logger.info("%s takes no reports (%d); it is asked again in a day", url, status)
        return REFUSED
    return pause


def _due(lists: EndpointLists) -> _Counts:
    """Return the counts since the last report, most failures first."""
    due: _Counts = []
    with lists.state as state:
        for kind in Kind:
            for member in state.pool(kind).members():
                faults = {word.value: n for word, n in member.faults.items() if word in COUNTED}
                new = Counter({"ok": member.served, **faults}) - member.reported
                if new:
                    counts = Counter({word: min(n, MAX_COUNT) for word, n in new.items()})
                    due.append((kind, member, counts))
    return sorted(due, key=lambda entry: entry[2]["ok"] - entry[2].total())


def _body(chosen: _Counts) -> bytes:
    entries = [
        {"kind": kind.value, "url": member.url, "counts": counts} for kind, member, counts in chosen
    ]
    return json.dumps({"endpoints": entries}, separators=(",", ":")).encode()
