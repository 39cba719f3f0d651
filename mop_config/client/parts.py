"""``ManagerParts``: the parts of a manager that its threads use. No part refers to the manager.

``Reporter`` sends each endpoint's counts of successes and failures to the server of the list.
"""

import json
import logging
import random
import time
from collections import Counter
from dataclasses import dataclass

from ..health.probe import HealthRequest
from ..model.endpoint import Kind
from ..net.faults import COUNTED
from ..net.http import HttpClient, HttpRequest
from .lists.endpoint_lists import EndpointLists
from .lists.update import SIGNED_SUFFIX, Token, current_token, is_route
from .pool.member import PoolMember
from .pool.session import ClientState
from .transport.options import TransportOptions

logger = logging.getLogger(__name__)

#: Least seconds between two reports; up to a fifth is added, so that clients don't report in step.
EVERY = 600.0
#: Seconds without a report after a server has refused reports.
REFUSED = 86400.0
#: Limits of a report: bytes of the body, and the value of each count.
MAX_BYTES, MAX_COUNT = 4096, 10_000


@dataclass(frozen=True, slots=True)
class ManagerParts:
    """The parts of a manager, and its settings.

    Attributes:
        state: The pools with the endpoints.
        lists: The endpoint lists.
        options: Options of the connections.
        token: The bearer token for sources of lists, or a function that returns the token.
        health: The request that a health check sends.
        update_interval: Seconds between two updates; 0 for none.
        watch: Whether to wait for a new list by a long poll.
        report: Whether to report the outcomes of requests to the server of the list.
    """

    state: ClientState
    lists: EndpointLists
    options: TransportOptions
    token: Token
    health: HealthRequest
    update_interval: float
    watch: bool
    report: bool

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
