"""The guard: decides whether a rendered text may replace the list that the host serves. Pure."""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter

from ...errors import SourceError
from ...model.codec import iter_endpoints, rfc3339
from ...model.endpoint import Kind
from ..parsing.problems import MAX_KEPT, Code, Problem, Severity
from ..parsing.render import Rendering, render_body
from ..settings import Settings
from ..state.releases import LastGood

#: The word for a kind in a confirming line.
_WORDS = {Kind.API: "api", Kind.SOCKETIO: "socket"}
_CONFIRMATION = re.compile(rb"\s*#\s*confirm:\s*removes\s+([0-9]{1,9})\s+(api|socket)\s*")


def check_replaces(
    rendering: Rendering, settings: Settings, text: bytes, last: LastGood | None
) -> None:
    """Decide whether a rendered text may replace the host's last list.

    Args:
        rendering: The rendered text.
        settings: The limits of what is acceptable.
        text: The source text, which may contain confirming lines.
        last: The last list, with its text; None without any.

    Raises:
        SourceError: With code ``strict``, ``no-endpoints``, ``too-few`` or ``too-many-removed``.
    """
    if last is None or last.release.etag == rendering.etag:
        check_acceptable(rendering, settings, {})
        return
    check_acceptable(rendering, settings, {Kind.API: last.api, Kind.SOCKETIO: last.socketio})
    if settings.max_removed >= 1:
        return
    # The present settings remove no endpoint.
    before = render_body(last.data, settings.rules, last.boundary) or rendering.body
    if lines := missing_confirmations(rendering, settings, text, before, last.data):
        need = "this line confirms" if len(lines) == 1 else "these lines confirm"
        raise SourceError(
            Code.TOO_MANY_REMOVED,
            f"the file removes more than {settings.max_removed:.0%} of the endpoints of a kind"
            f" (ENDPOINT_MAX_REMOVED); {need} that it is meant: {' and '.join(lines)}",
        )


def check_acceptable(rendering: Rendering, settings: Settings, served: Mapping[Kind, int]) -> None:
    """Decide whether a rendered text has few enough errors, and enough endpoints.

    Args:
        rendering: The rendered text.
        settings: The limits of what is acceptable.
        served: Number of endpoints of each kind in the list that would be replaced; empty if no
            list is served, or the same list.

    Raises:
        SourceError: With code ``strict``, ``no-endpoints`` or ``too-few``.
    """
    if settings.strict and rendering.errors:
        first = next((p for p in rendering.problems if p.severity is Severity.ERROR), None)
        errors = count(rendering.errors, "error")
        raise SourceError(Code.STRICT, f"{errors}, and ENDPOINT_STRICT is set; first: {first}")
    if error := _too_few(served, {kind: rendering.count(kind) for kind in Kind}, settings):
        raise error


def _too_few(
    served: Mapping[Kind, int], left: Mapping[Kind, int], settings: Settings
) -> SourceError | None:
    """Return why too few endpoints of a kind would be left, or None if there are enough."""
    if any(served.values()) and not any(left.values()) and not settings.allow_empty:
        return SourceError(
            Code.NO_ENDPOINTS,
            "the file has no usable endpoint, and must not replace a list that has some"
            " (ENDPOINT_ALLOW_EMPTY=1 would allow it)",
        )
    for kind, number in served.items():
        if number and left[kind] < settings.min_endpoints:
            usable = count(left[kind], f"usable {kind.label} endpoint")
            reason = f"the file has {usable}, and ENDPOINT_MIN_ENDPOINTS is"
            return SourceError(Code.TOO_FEW, f"{reason} {settings.min_endpoints}")
    return None


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the right form."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _urls(body: bytes, kind: Kind) -> set[str]:
    return {endpoint.url for endpoint in iter_endpoints(body, kind)}


def _removed(before: set[str], left: set[str], settings: Settings) -> int:
    """Return the number of removed URLs if their share is too large, else 0."""
    removed = len(before - left)
    return removed if removed > settings.max_removed * len(before) else 0


def missing_confirmations(
    rendering: Rendering, settings: Settings, text: bytes, before: bytes, confirmed: bytes = b""
) -> list[str]:
    """Return the confirming lines that a text lacks for the endpoints that it removes.

    A confirming line is valid for one edit: it counts only if it is in the text more often than in
    the replaced text.

    Args:
        rendering: The rendered text.
        settings: The limit of the share of removed endpoints.
        text: The text.
        before: The wire form of the list that the text replaces.
        confirmed: The text of that list; its confirming lines were used.
    """
    valid = _confirmations(text) - _confirmations(confirmed)
    lines = []
    for kind, word in _WORDS.items():
        removed = _removed(_urls(before, kind), _urls(rendering.body, kind), settings)
        if removed and not valid[removed, word]:
            lines.append(f"# confirm: removes {removed} {word}")
    return lines


def with_planned_refusals(rendering: Rendering, settings: Settings) -> Rendering:
    """Add a warning to a rendering for each future window boundary that the guard would refuse."""
    if not rendering.planned:
        return rendering
    planned = {kind: _urls(rendering.body, kind) for kind in Kind}
    served = {kind: set(urls) for kind, urls in planned.items()}
    warnings = []
    for at, changes in groupby(rendering.planned, attrgetter("at")):
        for change in sorted(changes, key=attrgetter("added")):
            if change.added:
                planned[change.kind].add(change.url)
            else:
                planned[change.kind].discard(change.url)
        if reason := _planned_refusal(served, planned, settings):
            message = f"at {rfc3339(at)} the planned change will be refused: {reason}"
            warnings.append(Problem.of(Code.PLAN_REFUSED, message))
        else:
            served = {kind: set(urls) for kind, urls in planned.items()}
    return rendering._replace(
        problems=(*warnings, *rendering.problems)[:MAX_KEPT],
        warnings=rendering.warnings + len(warnings),
    )


def _planned_refusal(
    served: Mapping[Kind, set[str]], planned: Mapping[Kind, set[str]], settings: Settings
) -> str:
    """Return why the guard would refuse a boundary; empty if the boundary is acceptable."""
    before, left = ({kind: len(urls[kind]) for kind in Kind} for urls in (served, planned))
    if error := _too_few(before, left, settings):
        return str(error)
    for kind in Kind:
        if removed := _removed(served[kind], planned[kind], settings):
            of = f"{removed} of {before[kind]} {kind.label} endpoints"
            return f"it removes {of} (ENDPOINT_MAX_REMOVED)"
    return ""


def _confirmations(text: bytes) -> Counter[tuple[int, str]]:
    if b"confirm:" not in text:
        return Counter()
    found = (_CONFIRMATION.fullmatch(line) for line in text.splitlines())
    return Counter((int(match[1]), match[2].decode()) for match in found if match)
