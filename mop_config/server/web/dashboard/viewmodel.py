"""Turn the status document and the list into the values of the dashboard's template. Pure.

A plot shows the last 24 hours of an endpoint or of a kind. It is drawn in units of slots: a slot is
one unit wide, and the page scales the drawing.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from itertools import groupby, islice
from typing import Any, NamedTuple

from ....model.endpoint import Endpoint, Kind, iter_endpoints
from ....model.printable import printable
from ...monitor.reports import OK
from ...monitor.schedule import SLOT_SECONDS, SLOTS, EndpointHealth, Slot, Slots
from ...monitor.thread import HealthDocument
from ...parsing.problems import MAX_KEPT, ProblemRecord
from ...serving.store import HistoryEntry
from ...status.document import StatusDocument, common_etag, differing, dropped_entries, verdict

#: Heights of the line of response time and of the whole plot; the bar of uptime is below the line.
LINE_HEIGHT, PLOT_HEIGHT = 22.0, 30.0
BAR_TOP = LINE_HEIGHT + 2
#: Distance of the line from its upper and lower edge, so that it is not cut.
_MARGIN = 1.5
#: Height of the plot of a kind.
KIND_HEIGHT = 40.0
#: Limit of rows of each kind on the page; a filter finds the others.
MAX_ROWS = 100
#: Number of problems that are shown; the page folds away the others.
FEW_PROBLEMS = 10
#: Limit of the length of a query parameter of the page in characters.
MAX_VALUE = 200
#: Largest indent of a problem's text in columns; the indent shows the column in the file.
_MAX_INDENT = 20

_GOOD = frozenset({"applied", "unchanged"})


class Row(NamedTuple):
    """One endpoint of the table, and the state of its health, or None if it is not checked."""

    kind: Kind
    endpoint: Endpoint
    check: EndpointHealth | None


#: The value of ``only`` that leaves out healthy endpoints.
UNHEALTHY = "unhealthy"
#: States of a check, the worst first; the first three are failing.
_HEALTH = ("unhealthy", "suspect", "recovering", "unknown", "healthy", None)
_FAILING = _HEALTH[:3]
#: The sort keys of the rows; the order of the list decides between equal rows.
ORDERS: dict[str, Callable[[Row], Any]] = {
    "priority": lambda row: row.endpoint.priority,
    "url": lambda row: row.endpoint.url,
    "health": lambda row: _HEALTH.index(row.check["state"] if row.check else None),
    # The slowest first, endpoints without a time last.
    "latency": lambda row: -(row.check["response_seconds"] or 0.0) if row.check else 0.0,
}


class Listing(NamedTuple):
    """The rows of the table.

    Attributes:
        rows: The rows that are shown.
        matching: Number of endpoints that match the filter.
        all: Number of endpoints in the list.
    """

    rows: list[Row]
    matching: int
    all: int


def describe(
    status: StatusDocument, body: bytes, query: Mapping[str, str], history: Slots, now: float
) -> dict[str, Any]:
    """Return the values of the template.

    Args:
        status: The status document; see ``status.host_status``.
        body: The wire form of the list that is served.
        query: ``q``, a text that the URLs in the table must contain, and ``only`` and ``sort``;
            see ``listing``.
        history: The checks of the last 24 hours.
        now: POSIX time at the right edge of the plots.

    Returns:
        The ``status``; the worst finding as ``headline`` and the other ``findings``; the number of
        entries that were ``dropped``; ``since``, from when on reloads have ended like the last
        one; the failed reload that is the ``reason`` why the list is not up to date; the
        ``problems`` with their quotes, errors first; whether there are ``more_problems``; the
        ``common_etag`` that most workers serve, and the process ids of the ``differing`` workers;
        the ``listing``; the number of endpoints that are ``up``; the ``reports`` of clients by kind
        and URL, each with the number of requests that were ``ok`` or ``failed``, and the most
        frequent ``fault``; and the plots of the ``kinds`` and of the ``endpoints``.
    """
    headline, *findings = verdict(status)
    failed = [event for event in status["history"] if event["error"]]
    problems = sorted(status["problems"], key=lambda problem: problem["severity"] != "error")
    health = status["health"]
    checks = {(e["kind"], e["url"]): e for e in health["endpoints"]} if health else {}
    only, order = query.get("only", ""), query.get("sort", "")
    table = listing(body, query.get("q", ""), health, only=only, order=order)
    kinds = (
        kind_plot(kind.value, [history.get(key, []) for key in checks if key[0] == kind], now)
        for kind in Kind
    )
    return {
        "status": status,
        "headline": headline,
        "findings": findings,
        "dropped": dropped_entries(status),
        "since": _since(status["history"]),
        "reason": failed[0] if failed and status["state"] != "fresh" else None,
        "problems": [(problem, quote(problem)) for problem in problems],
        "more_problems": len(problems) >= MAX_KEPT,
        "common_etag": common_etag(status["workers"]),
        "differing": differing(status["workers"]),
        "listing": table,
        "up": sum(bool(check["up"]) for check in checks.values()),
        "reports": {
            (each["kind"], each["url"]): _reported(each["counts"])
            for each in status.get("reports") or ()
        },
        "kinds": [plot for plot in kinds if plot is not None],
        "endpoints": {
            key: endpoint_plot(history.get(key, ()), now)
            for key in ((row.kind.value, row.endpoint.url) for row in table.rows)
        },
    }


def _since(history: list[HistoryEntry]) -> str | None:
    """Return the time of the first reload of the newest run of successes or of failures."""
    run = next(groupby(history, key=lambda event: event["result"] in _GOOD), None)
    return None if run is None else str([*run[1]][-1]["at"])


def quote(problem: ProblemRecord) -> tuple[str, str] | None:
    """Return the text of a problem, and the indent that puts its first character at its column.

    Without a text, there is no quote.
    """
    column = problem["column"]
    indent = " " * (column - 1) if column <= _MAX_INDENT else "... "
    return (indent, printable(problem["text"])) if problem["text"] else None


def listing(
    body: bytes, wanted: str, health: HealthDocument | None, *, only: str = "", order: str = ""
) -> Listing:
    """Choose the rows of the table.

    Args:
        body: The wire form of the list.
        wanted: Text that a URL must contain, in any case; empty for all URLs.
        health: The results of the health checks, or None without checks.
        only: ``unhealthy`` leaves out endpoints that are healthy or were never checked.
        order: A key of ``ORDERS``; anything else keeps the order of the list.
    """
    checks = {(e["kind"], e["url"]): e for e in health["endpoints"]} if health else {}
    key = ORDERS.get(order, lambda _: 0)
    wanted = wanted.lower()
    shown: list[Row] = []
    matching = 0
    count = body.count(b'{"url":"')
    # Without a filter, the list is only decoded as far as the table needs.
    most = None if wanted or only or order in ORDERS else MAX_ROWS
    for kind in Kind:
        endpoints = islice(iter_endpoints(body, kind), most)
        rows = [Row(kind, e, checks.get((kind, e.url))) for e in endpoints]
        rows = [row for row in rows if wanted in row.endpoint.url.lower()]
        if only == UNHEALTHY:
            rows = [row for row in rows if row.check and row.check["state"] in _FAILING]
        matching += len(rows)
        shown += sorted(rows, key=key)[:MAX_ROWS]
    return Listing(sorted(shown, key=key), count if most else matching, count)


def _reported(counts: dict[str, int]) -> dict[str, Any]:
    faults = {fault: count for fault, count in counts.items() if fault != OK}
    worst = max(faults, key=lambda fault: faults[fault]) if faults else None
    return {"ok": counts.get(OK, 0), "failed": sum(faults.values()), "fault": worst}


class Bar(NamedTuple):
    """A rectangle over adjacent slots.

    Attributes:
        x: Left edge.
        width: Number of slots.
        height: Height, if the plot gives it a meaning.
        level: ``good``, ``warn`` or ``bad``.
    """

    x: int
    width: int
    height: float
    level: str


def endpoint_plot(slots: Iterable[Slot], now: float) -> dict[str, Any] | None:
    """Draw the plot of an endpoint; None if it was not checked in the last 24 hours.

    Args:
        slots: The slots, oldest first.
        now: POSIX time at the right edge.

    Returns:
        ``bars``, the bar of uptime: all checks of a slot were good, some of them, or none;
        ``lines``, the points of each unbroken stretch of the line of response time, for SVG's
        ``points``; ``top``, the response time at the top of the scale; the number of ``checks``;
        ``uptime``, the percentage of good checks, rounded down to one decimal place; ``low`` and
        ``high``, the shortest and the longest response time of a slot, 0 if all checks failed.
        Times are in milliseconds.
    """
    recent = _recent(slots, now)
    if not recent:
        return None
    times = {x: 1000 * slot.seconds / slot.good for x, slot in recent if slot.good}
    high = max(times.values(), default=0.0)
    top = _round_up(high)
    checks = sum(slot.checks for _, slot in recent)
    good = sum(slot.good for _, slot in recent)
    # In an unbroken stretch, the distance between the place and the position stays the same.
    stretches = groupby(enumerate(sorted(times)), key=lambda pair: pair[1] - pair[0])
    return {
        "bars": _merged(Bar(x, 1, 0.0, _level(slot.good, slot.checks)) for x, slot in recent),
        "lines": [_points([x for _, x in stretch], times, top) for _, stretch in stretches],
        "top": top,
        "checks": checks,
        "uptime": math.floor(1000 * good / checks) / 10,
        "low": round(min(times.values(), default=0.0)),
        "high": round(high),
    }


def kind_plot(kind: str, endpoints: Iterable[Iterable[Slot]], now: float) -> dict[str, Any] | None:
    """Draw the plot of a kind; None if no endpoint was checked in the last 24 hours.

    Args:
        kind: The kind.
        endpoints: The slots of each endpoint of the kind.
        now: POSIX time at the right edge.

    Returns:
        The ``kind``; ``bars``, the mean number of endpoints that were up in each slot; ``all``,
        the number of endpoints at the top of the scale; ``low`` and ``high``, the lowest and the
        highest number of a slot.
    """
    shares: defaultdict[int, list[float]] = defaultdict(list)
    for slots in endpoints:
        for x, slot in _recent(slots, now):
            shares[x].append(slot.good / slot.checks)
    if not shares:
        return None
    top = max(map(len, shares.values()))
    means = {x: round(sum(shares[x]), 1) for x in sorted(shares)}
    bars = (
        Bar(x, 1, round(KIND_HEIGHT * mean / top, 2), _level(mean, len(shares[x])))
        for x, mean in means.items()
    )
    low, high = min(means.values()), max(means.values())
    return {"kind": kind, "bars": _merged(bars), "all": top, "low": low, "high": high}


def _recent(slots: Iterable[Slot], now: float) -> list[tuple[int, Slot]]:
    """Return the slots of the last 24 hours with the place of each, from 0 at the left."""
    first = int(now // SLOT_SECONDS) - SLOTS + 1
    return [(slot.number - first, slot) for slot in slots if 0 <= slot.number - first < SLOTS]


def _level(good: float, of: int) -> str:
    if good >= of:
        return "good"
    return "warn" if good > 0 else "bad"


def _merged(bars: Iterable[Bar]) -> list[Bar]:
    """Join adjacent bars that look alike: a healthy endpoint has one bar instead of 96."""
    merged: list[Bar] = []
    for _, run in groupby(enumerate(bars), key=lambda pair: (pair[1].x - pair[0], *pair[1][2:])):
        alike = [bar for _, bar in run]
        merged.append(alike[0]._replace(width=len(alike)))
    return merged


def _points(places: list[int], times: dict[int, float], top: int) -> str:
    room = LINE_HEIGHT - 2 * _MARGIN
    points = [f"{x + 0.5:g},{LINE_HEIGHT - _MARGIN - room * times[x] / top:.4g}" for x in places]
    # SVG draws a line of one point as a dot only if the line has that point twice.
    return " ".join(points * 2 if len(points) == 1 else points)


def _round_up(milliseconds: float) -> int:
    """Return the next 1, 2 or 5 with zeros, so that the scale is easy to read."""
    power: int = 10 ** max(0, math.ceil(math.log10(max(milliseconds, 1.0))) - 1)
    return next(power * step for step in (1, 2, 5, 10) if power * step >= milliseconds)
