"""The guard: decides whether a rendered text may replace the list that the host serves. Pure."""

import re
from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

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


class Replaced(NamedTuple):
    """The list that a text would replace.

    Attributes:
        counts: Number of endpoints of each kind.
        text: The text of the list; its confirming lines were used and do not count again.
        body: The wire form of the list by the present settings; None if the share of removed
            endpoints must not be checked.
    """

    counts: Mapping[Kind, int]
    text: bytes = b""
    body: bytes | None = None


def check_acceptable(
    rendering: Rendering, settings: Settings, text: bytes = b"", replaced: Replaced | None = None
) -> None:
    """Decide whether a rendered text may replace a list.

    Args:
        rendering: The rendered text.
        settings: The limits of what is acceptable.
        text: The source text, which may contain confirming lines.
        replaced: The list that would be replaced; None if no list is served, or the same list.

    Raises:
        SourceError: With code ``strict``, ``no-endpoints``, ``too-few`` or ``too-many-removed``.
    """
    if settings.strict and rendering.errors:
        first = next((p for p in rendering.problems if p.severity is Severity.ERROR), None)
        errors = count(rendering.errors, "error")
        raise SourceError(Code.STRICT, f"{errors}, and ENDPOINT_STRICT is set; first: {first}")
    if replaced is None:
        return
    left = {kind: rendering.count(kind) for kind in Kind}
    if error := _too_few(replaced.counts, left, settings):
        raise error
    if lines := missing_confirmations(rendering, settings, text, replaced):
        need = "this line confirms" if len(lines) == 1 else "these lines confirm"
        raise SourceError(
            Code.TOO_MANY_REMOVED,
            f"the file removes more than {settings.max_removed:.0%} of the endpoints of a kind"
            f" (ENDPOINT_MAX_REMOVED); {need} that it is meant: {' and '.join(lines)}",
        )


def check_replaces(
    rendering: Rendering, settings: Settings, text: bytes, last: LastGood | None
) -> None:
    """Raise ``SourceError`` if a rendered text may not replace the host's last list."""
    replaced = None
    if last is not None and last.release.etag != rendering.etag:
        replaced = Replaced({Kind.API: last.api, Kind.SOCKETIO: last.socketio}, last.data)
        if settings.max_removed < 1:
            body = render_body(last.data, settings.rules, last.boundary)
            replaced = replaced._replace(body=body)
    check_acceptable(rendering, settings, text, replaced)


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
    for kind in Kind:
        if served[kind] and left[kind] < settings.min_endpoints:
            usable = count(left[kind], f"usable {kind.label} endpoint")
            reason = f"the file has {usable}, and ENDPOINT_MIN_ENDPOINTS is"
            return SourceError(Code.TOO_FEW, f"{reason} {settings.min_endpoints}")
    return None


def count(number: int, noun: str) -> str:
    """Return a number with its noun in the right form."""
    return f"{number} {noun}" + ("" if number == 1 else "s")


def missing_confirmations(
    rendering: Rendering, settings: Settings, text: bytes, replaced: Replaced
) -> list[str]:
    """Return the confirming lines that a text lacks for the endpoints that it removes.

    A confirming line is valid for one edit: it counts only if it is in the text more often than in
    the replaced text.
    """
    if replaced.body is None or settings.max_removed >= 1:
        return []
    confirmed = _confirmations(text) - _confirmations(replaced.text)
    lines = []
    for kind, word in _WORDS.items():
        before = {endpoint.url for endpoint in iter_endpoints(replaced.body, kind)}
        now = {endpoint.url for endpoint in iter_endpoints(rendering.body, kind)}
        removed = len(before - now)
        if removed > settings.max_removed * len(before) and not confirmed[removed, word]:
            lines.append(f"# confirm: removes {removed} {word}")
    return lines


def planned_refusals(rendering: Rendering, settings: Settings) -> list[Problem]:
    """Return a warning for each future window boundary that the guard would refuse."""
    if not rendering.planned:
        return []
    planned = {kind: {e.url for e in iter_endpoints(rendering.body, kind)} for kind in Kind}
    served = {kind: set(urls) for kind, urls in planned.items()}
    found = []
    for at, changes in groupby(rendering.planned, attrgetter("at")):
        for change in sorted(changes, key=attrgetter("added")):
            if change.added:
                planned[change.kind].add(change.url)
            else:
                planned[change.kind].discard(change.url)
        if reason := _reason_to_refuse(served, planned, settings):
            message = f"at {rfc3339(at)} the planned change will be refused: {reason}"
            found.append(Problem.of(Code.PLAN_REFUSED, message))
        else:
            served = {kind: set(urls) for kind, urls in planned.items()}
    return found


def _reason_to_refuse(
    served: Mapping[Kind, set[str]], planned: Mapping[Kind, set[str]], settings: Settings
) -> str:
    """Return why the guard would refuse a boundary; empty if the boundary is acceptable."""
    before, left = ({kind: len(urls[kind]) for kind in Kind} for urls in (served, planned))
    if error := _too_few(before, left, settings):
        return str(error)
    for kind in Kind:
        removed = len(served[kind] - planned[kind])
        if removed > settings.max_removed * before[kind]:
            of = f"{removed} of {before[kind]} {kind.label} endpoints"
            return f"it removes {of} (ENDPOINT_MAX_REMOVED)"
    return ""


def with_planned_refusals(rendering: Rendering, settings: Settings) -> Rendering:
    """Add the warnings of ``planned_refusals`` to a rendering."""
    warnings = planned_refusals(rendering, settings)
    return rendering._replace(
        problems=(*warnings, *rendering.problems)[:MAX_KEPT],
        warnings=rendering.warnings + len(warnings),
    )


def _confirmations(text: bytes) -> Counter[tuple[int, str]]:
    if b"confirm:" not in text:
        return Counter()
    found = (_CONFIRMATION.fullmatch(line) for line in text.splitlines())
    return Counter((int(match[1]), match[2].decode()) for match in found if match)
