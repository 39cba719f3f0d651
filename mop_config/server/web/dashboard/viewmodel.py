"""Turn the status document and the list into the values of the dashboard's template. Pure."""

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
from ...state.worker_record import HistoryEntry
from ...status.document import StatusDocument
from ...status.verdict import (
    StatusFinding,
    common_etag,
    differing,
    dropped_entries,
    problem_counts,
    verdict,
)
from .plots import EndpointPlot, KindPlot, endpoint_plot, kind_plot

#: Limit of rows of each kind on the page; a filter finds the others.
MAX_ROWS = 100
#: The spaces of Unicode (category Zs), which a browser shows as spaces.
_SPACES = "\u00a0\u1680\u202f\u205f\u3000" + "".join(map(chr, range(0x2000, 0x200B)))
#: Limit of the length of a filter in characters.
MAX_FILTER = 200
#: Largest indent of a problem's text in columns; the indent shows the column in the file.
_MAX_INDENT = 20
#: Number of characters in a line that fit on a phone.
_NARROW = 34

_GOOD = frozenset({"applied", "unchanged"})


class Row(NamedTuple):
    """One endpoint of the table.

    Attributes:
        kind: The kind of the endpoint.
        endpoint: The endpoint.
        state: The state of health, or None if the endpoint is not checked.
        milliseconds: Duration of the last check, or None.
        detail: The result of the last check in words, or an empty text.
        certificate_expires: When the certificate expires (RFC 3339), or None.
    """

    kind: Kind
    endpoint: Endpoint
    state: str | None = None
    milliseconds: int | None = None
    detail: str = ""
    certificate_expires: str | None = None


#: The value of ``only`` that leaves out healthy endpoints.
UNHEALTHY = "unhealthy"
#: States of a check, the worst first; the first three are failing.
_HEALTH = ("unhealthy", "suspect", "recovering", "unknown", "healthy", None)
_FAILING = frozenset(_HEALTH[:3])
#: The sort keys of the rows; the order of the list decides between equal rows.
ORDERS: dict[str, Callable[[Row], Any]] = {
    "priority": lambda row: row.endpoint.priority,
    "url": lambda row: row.endpoint.url,
    "health": lambda row: _HEALTH.index(row.state),
    "latency": lambda row: 1 if row.milliseconds is None else -row.milliseconds,
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
    """The text of a problem, indented to its column.

    Attributes:
        indent: The text in front, as wide as the indent.
        text: The text.
        narrow: Whether both fit on a phone without scrolling.
    """

    indent: str
    text: str
    narrow: bool


class Page(NamedTuple):
    """The values of the template.

    Attributes:
        status: The status document.
        headline: The worst finding.
        findings: The other findings, the worst first.
        dropped: Number of entries of the file that are not served.
        since: Time since which reloads have ended like the last one, or None without a reload.
        reason: Why the list is not up to date, or None if it is.
        reason_code: The problem code of the reason, or None.
        problems: The problems with their quotes, errors first.
        errors: Exact number of errors.
        warnings: Exact number of warnings.
        more_problems: Whether there are more problems than the status lists.
        common_etag: The ETag that most workers serve.
        differing: The process ids of the workers that serve another list.
        listing: The rows of the table.
        up: Number of endpoints that are up.
        reports: What clients reported, by kind and URL.
    """

    status: StatusDocument
    headline: StatusFinding
    findings: list[StatusFinding]
    dropped: int
    since: str | None
    reason: str | None
    reason_code: str | None
    problems: list[tuple[ProblemRecord, Quote | None]]
    errors: int
    warnings: int
    more_problems: bool
    common_etag: str | None
    differing: list[int]
    listing: Listing
    up: int
    reports: dict[tuple[str, str], Reported]


def describe(
    status: StatusDocument, body: bytes, wanted: str, *, only: str = "", order: str = ""
) -> Page:
    """Return the values of the template.

    Args:
        status: The status document; see ``status.host_status``.
        body: The wire form of the list that is served.
        wanted: Text that the URLs in the table must contain; empty for all URLs.
        only: As for ``listing``.
        order: As for ``listing``.
    """
    counts = problem_counts(status)
    headline, *findings = verdict(status)
    reason, reason_code = _reason(status)
    return Page(
        status=status,
        headline=headline,
        findings=findings,
        dropped=dropped_entries(status),
        since=_since(status["history"]),
        reason=reason,
        reason_code=reason_code,
        problems=[(problem, quote(problem)) for problem in _errors_first(status["problems"])],
        errors=counts["error"],
        warnings=counts["warning"],
        more_problems=len(status["problems"]) >= MAX_KEPT,
        common_etag=common_etag(status["workers"]),
        differing=differing(status["workers"]),
        listing=listing(body, wanted[:MAX_FILTER], status["health"], only=only, order=order),
        up=_up(status["health"]),
        reports={
            (each["kind"], each["url"]): reported(each["counts"])
            for each in status.get("reports") or ()
        },
    )


def _since(history: list[HistoryEntry]) -> str | None:
    """Return the time of the first reload of the newest run of successes or of failures."""
    since = None
    for event in history:
        if (event["result"] in _GOOD) != (history[0]["result"] in _GOOD):
            break
        since = str(event["at"])
    return since


def _reason(status: StatusDocument) -> tuple[str | None, str | None]:
    """Return why the state is not fresh, in words and as a problem code."""
    failed = [event for event in status["history"] if event["error"]]
    if status["state"] == "fresh" or not failed:
        return None, None
    return failed[0]["error"], failed[0].get("code")


def _up(health: HealthDocument | None) -> int:
    return sum(bool(endpoint["up"]) for endpoint in health["endpoints"]) if health else 0


def _errors_first(problems: list[ProblemRecord]) -> list[ProblemRecord]:
    return sorted(problems, key=lambda problem: problem["severity"] != "error")


def quote(problem: ProblemRecord) -> Quote | None:
    """Return the text of a problem for a caret below its first character; None without a text."""
    if not problem["text"]:
        return None
    column = problem["column"]
    indent = " " * (column - 1) if column <= _MAX_INDENT else "... "
    text = visible(problem["text"])
    return Quote(indent, text, len(indent) + len(text) <= _NARROW)


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
            # Without a filter, the number is known: see ``count``.
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
