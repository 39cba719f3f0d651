"""Turn the status document and the list into the values of the dashboard's template. Pure."""

from collections.abc import Callable, Iterator, Mapping
from itertools import groupby, islice
from typing import Any, NamedTuple

from ....model.codec import iter_endpoints
from ....model.endpoint import Endpoint, Kind
from ....model.printable import replace_unprintable
from ...monitor.history import Slots
from ...monitor.reports import OK
from ...monitor.results import HealthDocument
from ...monitor.schedule import EndpointHealth
from ...parsing.problems import MAX_KEPT, ProblemRecord
from ...state.workers import HistoryEntry
from ...status.document import StatusDocument
from ...status.verdict import common_etag, differing, dropped_entries, verdict
from .plots import endpoint_plot, kind_plot

#: Limit of rows of each kind on the page; a filter finds the others.
MAX_ROWS = 100
#: The spaces of Unicode (category Zs), which a browser shows as spaces.
_SPACES = "\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
#: Limit of the length of a filter in characters.
MAX_FILTER = 200
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
    "latency": lambda row: _latency(row),
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
        ``problems`` with their quotes, errors first, and the exact ``counts`` of errors and
        warnings; whether there are ``more_problems``; the ``common_etag`` that most workers
        serve, and the process ids of the ``differing`` workers; the ``listing``; the number of
        endpoints that are ``up``; the ``reports`` of clients by kind and URL, each with the number
        of requests that were ``ok`` or ``failed``, and the most frequent ``fault``; and the plots
        of the ``kinds`` and of the ``endpoints``.
    """
    headline, *findings = verdict(status)
    failed = [event for event in status["history"] if event["error"]]
    problems = sorted(status["problems"], key=lambda problem: problem["severity"] != "error")
    health = status["health"]
    checks = {(e["kind"], e["url"]): e for e in health["endpoints"]} if health else {}
    only, order = query.get("only", ""), query.get("sort", "")
    table = listing(body, query.get("q", "")[:MAX_FILTER], health, only=only, order=order)
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
        "counts": status["problem_counts"],
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
    return (indent, visible(problem["text"])) if problem["text"] else None


def visible(text: str) -> str:
    """Replace characters that are invisible, or that change how others are shown.

    A right-to-left override, for instance, makes a line of the file read as another text.
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

    Without a filter, the list is only decoded as far as the table needs.

    Args:
        body: The wire form of the list.
        wanted: Text that a URL must contain, in any case; empty for all URLs.
        health: The results of the health checks, or None without checks.
        only: ``unhealthy`` leaves out endpoints that are healthy or were never checked.
        order: A key of ``ORDERS``; anything else keeps the order of the list.
    """
    checks = {(e["kind"], e["url"]): e for e in health["endpoints"]} if health else {}
    key, count = ORDERS.get(order), body.count(b'{"url":"')

    def found(kind: Kind) -> Iterator[Row]:
        for endpoint in iter_endpoints(body, kind):
            check = checks.get((kind, endpoint.url))
            failing = check is not None and check["state"] in _FAILING
            if wanted.lower() in endpoint.url.lower() and (only != UNHEALTHY or failing):
                yield Row(kind, endpoint, check)

    rows: list[Row] = []
    matching = 0
    for kind in Kind:
        if wanted or only or key is not None:
            every = sorted(found(kind), key=key) if key is not None else list(found(kind))
            matching += len(every)
            rows += every[:MAX_ROWS]
        else:
            rows += islice(found(kind), MAX_ROWS)
            matching = count
    return Listing(sorted(rows, key=key) if key is not None else rows, matching, count)


def _latency(row: Row) -> float:
    """Return the sort key by latency: the slowest first, endpoints without a time last."""
    seconds = row.check["response_seconds"] if row.check else None
    return 1.0 if seconds is None else -seconds


def _reported(counts: dict[str, int]) -> dict[str, Any]:
    faults = {fault: count for fault, count in counts.items() if fault != OK}
    worst = max(faults, key=lambda fault: faults[fault]) if faults else None
    return {"ok": counts.get(OK, 0), "failed": sum(faults.values()), "fault": worst}
