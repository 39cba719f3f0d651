"""The status document and the list, as the dashboard's template shows them. Pure."""

import heapq
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, NamedTuple

from ....model.codec import iter_endpoints
from ....model.endpoint import Endpoint, Kind
from ....model.printable import replace_unprintable
from ...monitor.history import Slots
from ...monitor.reports import OK
from ...monitor.results import HealthDocument
from ...parsing.problems import MAX_KEPT, ProblemRecord
from ...status.document import HistoryEntry, StatusDocument
from ...status.verdict import (
    common_etag,
    differing,
    dropped_entries,
    kinds_down,
    problem_counts,
    verdict,
)
from .plots import EndpointPlot, KindPlot, endpoint_plot, kind_plot

#: Rows of each kind that the page holds; a filter finds the others.
MAX_ROWS = 100
#: Spaces of Unicode (category Zs), which a browser shows as such.
_SPACES = "\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
#: Longest filter that is looked for, in characters.
MAX_FILTER = 200
#: Columns that a problem's text is moved in by, so that it stands where the file has it.
_MAX_INDENT = 20
#: Characters of a line that fit on a phone.
_NARROW = 34

_GOOD = frozenset({"applied", "unchanged"})


class Row(NamedTuple):
    """One endpoint of the table.

    Attributes:
        kind: Its kind.
        endpoint: The endpoint.
        state: Its health as a word, or None where it is not probed.
        milliseconds: What its last check took, or None.
        detail: What the last check said, or an empty text.
        certificate_expires: When the certificate expires (RFC 3339), or None.
    """

    kind: Kind
    endpoint: Endpoint
    state: str | None = None
    milliseconds: int | None = None
    detail: str = ""
    certificate_expires: str | None = None


#: What ``only`` may be: leave out what is healthy.
UNHEALTHY = "unhealthy"
#: States of a check from the worst one on; those of ``_FAILING`` are not healthy.
_HEALTH = ("unhealthy", "suspect", "recovering", "unknown", "healthy", None)
_FAILING = frozenset(_HEALTH[:3])
#: What rows may be sorted by, and how; the list's own order decides between equal ones.
ORDERS: dict[str, Callable[[Row], Any]] = {
    "priority": lambda row: row.endpoint.priority,
    "url": lambda row: row.endpoint.url,
    "health": lambda row: _HEALTH.index(row.state),
    "latency": lambda row: 1 if row.milliseconds is None else -row.milliseconds,
}


class Listing(NamedTuple):
    """The rows that are shown, of those that match the filter, of all."""

    rows: list[Row]
    matching: int
    all: int


class Reported(NamedTuple):
    """What clients reported of an endpoint in the last hour.

    Attributes:
        ok: Requests that the endpoint answered.
        failed: Requests that it failed.
        fault: The most frequent fault, or None.
    """

    ok: int
    failed: int
    fault: str | None


class DayPlots(NamedTuple):
    """The plots of the last 24 hours: of each kind, and of the endpoints of the rows."""

    kinds: list[KindPlot]
    endpoints: dict[tuple[str, str], EndpointPlot | None]


class Quote(NamedTuple):
    """A problem's text, moved to its column, and how far.

    ``narrow`` tells whether it fits on a phone without scrolling.
    """

    indent: str
    text: str
    narrow: bool


def describe(
    status: StatusDocument, body: bytes, wanted: str, *, only: str = "", order: str = ""
) -> dict[str, Any]:
    """Give what the template shows.

    Args:
        status: The status document; see ``status.host_status``.
        body: The wire form of the list that is served.
        wanted: What the URLs in the table are to contain; empty for all.
        only: As for ``listing``.
        order: As for ``listing``.
    """
    counts = problem_counts(status)
    headline, *findings = verdict(status)
    return {
        "status": status,
        "headline": headline,
        "findings": findings,
        "dropped": dropped_entries(status),
        "since": _since(status["history"]),
        **_reason(status),
        "problems": [(problem, quote(problem)) for problem in _errors_first(status["problems"])],
        "errors": counts["error"],
        "warnings": counts["warning"],
        "more_problems": len(status["problems"]) >= MAX_KEPT,
        "common_etag": common_etag(status["workers"]),
        "differing": differing(status["workers"]),
        "listing": listing(body, wanted[:MAX_FILTER], status["health"], only=only, order=order),
        "up": _up(status["health"]),
        "reports": {
            (r["kind"], r["url"]): reported(r["counts"]) for r in status.get("reports") or ()
        },
        "down": kinds_down(status["health"], status["counts"]),
    }


def _since(history: list[HistoryEntry]) -> str | None:
    """Find when the reloads began to end as the newest one did."""
    since = None
    for event in history:
        if (event["result"] in _GOOD) != (history[0]["result"] in _GOOD):
            break
        since = str(event["at"])
    return since


def _reason(status: StatusDocument) -> dict[str, str | None]:
    """Find why the state is not fresh, in words and as a problem's code."""
    failed = [event for event in status["history"] if event["error"]]
    if status["state"] == "fresh" or not failed:
        return {"reason": None, "reason_code": None}
    return {"reason": failed[0]["error"], "reason_code": failed[0].get("code")}


def _up(health: HealthDocument | None) -> int:
    return sum(bool(endpoint["up"]) for endpoint in health["endpoints"]) if health else 0


def _errors_first(problems: list[ProblemRecord]) -> list[ProblemRecord]:
    return sorted(problems, key=lambda problem: problem["severity"] != "error")


def quote(problem: ProblemRecord) -> Quote | None:
    """Lay a problem's text out for a caret below its first character; None where it has none."""
    if not problem["text"]:
        return None
    column = problem["column"]
    indent = " " * (column - 1) if column <= _MAX_INDENT else "... "
    text = visible(problem["text"])
    return Quote(indent, text, len(indent) + len(text) <= _NARROW)


def visible(text: str) -> str:
    """Write out characters that cannot be seen, or that change how others are shown.

    A right-to-left override would let a line of the file read as what it is not.
    """
    return replace_unprintable(text, lambda c: f"<U+{ord(c):04X}>", keep=_SPACES)


def listing(
    body: bytes,
    wanted: str,
    health: HealthDocument | None,
    *,
    only: str = "",
    order: str = "",
) -> Listing:
    """Choose the rows of the table.

    The list is read one entry after the other, and without a filter no further than the
    table needs.

    Args:
        body: The wire form of the list.
        wanted: What a URL is to contain, in any case; empty for all.
        health: What the prober says, or None where there is none.
        only: ``unhealthy`` leaves out what is healthy or was never checked.
        order: One of ``ORDERS``; anything else is the list's own order.
    """
    checks = {(e["kind"], e["url"]): e for e in health["endpoints"]} if health else {}
    key = ORDERS.get(order)
    chosen = bool(wanted or key or only)
    rows: list[Row] = []
    matching = 0
    for kind in Kind:
        found = _found(kind, body, wanted, checks, only)
        if key is not None:
            every = list(found)
            matching += len(every)
            rows += heapq.nsmallest(MAX_ROWS, every, key=key)
        else:
            rows += islice(found, MAX_ROWS)
            # Without a filter, how many there are is known already.
            matching += sum(1 for _ in found) if chosen else 0
    count = body.count(b'{"url":"')
    if key is not None:
        rows.sort(key=key)
    elif chosen:
        matching += len(rows)
    return Listing(rows, matching if chosen else count, count)


def _found(
    kind: Kind, body: bytes, wanted: str, checks: dict[tuple[str, str], Any], only: str
) -> Iterator[Row]:
    needle = wanted.lower()
    for endpoint in iter_endpoints(body, kind):
        if needle not in endpoint.url.lower():
            continue
        check = checks.get((kind, endpoint.url))
        if only != UNHEALTHY or (check is not None and check["state"] in _FAILING):
            yield _row(kind, endpoint, check)


def _row(kind: Kind, endpoint: Endpoint, check: Any) -> Row:
    row = Row(kind, endpoint)
    if check is None:
        return row
    seconds = check["response_seconds"]
    return row._replace(
        state=check["state"],
        milliseconds=None if seconds is None else round(seconds * 1000),
        detail=visible(check["detail"] or ""),
        certificate_expires=check["certificate_expires"],
    )


def day_plots(
    health: HealthDocument | None, rows: list[Row], history: Slots, now: float
) -> DayPlots:
    """Draw the plots of the last 24 hours.

    Args:
        health: The results of the health checks, which name the endpoints that are checked now.
        rows: The rows of the table.
        history: The checks of the last 24 hours.
        now: POSIX time at the right edge.
    """
    checked = [(e["kind"], e["url"]) for e in health["endpoints"]] if health else []
    kinds = (
        kind_plot(kind.value, [history.get(key, []) for key in checked if key[0] == kind], now)
        for kind in Kind
    )
    keys = [(row.kind.value, row.endpoint.url) for row in rows]
    return DayPlots(
        [plot for plot in kinds if plot is not None],
        {key: endpoint_plot(history.get(key, ()), now) for key in keys},
    )


def reported(counts: dict[str, int]) -> Reported:
    """Sum up what clients reported of an endpoint: the count of each fault, and of ``ok``."""
    faults = {fault: count for fault, count in counts.items() if fault != OK}
    worst = max(faults, key=lambda fault: faults[fault]) if faults else None
    return Reported(counts.get(OK, 0), sum(faults.values()), worst)
