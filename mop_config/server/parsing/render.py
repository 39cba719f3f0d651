"""Render the bytes of an endpoint file into the bodies that are served. Pure.

The guard, ``check_replaces``, decides whether a rendered text may replace the list before.
"""

import codecs
import gzip
import hashlib
import re
from bisect import bisect
from collections import Counter
from collections.abc import Iterator, Mapping
from itertools import chain, groupby
from operator import attrgetter
from typing import NamedTuple

from ...errors import SourceError
from ...model.address import identity
from ...model.endpoint import (
    Difference,
    Endpoint,
    EndpointConfig,
    Kind,
    assemble,
    difference,
    dumps,
    iter_endpoints,
    rfc3339,
)
from ...model.printable import plural
from ..settings import Settings, UrlRules
from .attributes import ALWAYS, FOREVER, PlannedChange
from .parser import EndpointFile, Entry, Problems, Section, parse
from .problems import MAX_KEPT, Code, Problem, Severity

GZIP_LEVEL = 6
#: Problems that one log line names.
MAX_LOGGED = 5
#: The empty list, which is served as long as no valid list has been loaded.
EMPTY_BODY = dumps(EndpointConfig())


class Built(NamedTuple):
    """The endpoint list of a file at a moment, and all problems of the file.

    Attributes:
        config: The endpoints whose entries are served at the moment.
        problems: The problems.
        planned: The boundaries of windows that are still to come, the next one first.
        boundary: POSIX seconds of the last boundary that has passed; 0 if there is none.
    """

    config: EndpointConfig
    problems: Problems
    planned: tuple[PlannedChange, ...]
    boundary: float


def build(file: EndpointFile, rules: UrlRules, at: float = 0.0) -> Built:
    """Build the endpoint list of a parsed file.

    Domains come first, then IP addresses, then the kind's own section. The position in that order
    is the priority of an entry without ``priority=``. An entry whose URL is a duplicate is left
    out and takes no position. An entry outside its window is left out and keeps its position.

    Args:
        file: The parsed file; its problems get those of the list.
        rules: The rules by which hosts become URLs.
        at: POSIX seconds of the moment by which windows are judged.
    """
    builder = _Builder(file, rules, at)
    socket_port = rules.socket_port or (None if rules.socket_path else rules.default_port)
    config = EndpointConfig(
        builder.add(Kind.API, Section.API, rules.api_path, rules.default_port),
        builder.add(Kind.SOCKETIO, Section.SOCKET, rules.socket_path, socket_port),
    )
    if rules.protocol == "http" and builder.generated:
        message = "URLs are generated with plain http (ENDPOINT_PROTOCOL): use https"
        file.problems.add(Code.PLAIN_HTTP, 1, 1, message)
    return Built(config, file.problems, tuple(sorted(builder.planned)), builder.boundary)


class _Builder:
    """Builds the endpoints of both kinds, and collects the boundaries of the windows."""

    def __init__(self, file: EndpointFile, rules: UrlRules, at: float) -> None:
        self.file = file
        self.protocol = rules.protocol
        self.at = at
        self.planned: list[PlannedChange] = []
        self.boundary = 0.0
        self.generated = False
        self.warned: set[tuple[Code, int, int]] = set()

    def add(self, kind: Kind, own: Section, path: str, port: int | None) -> tuple[Endpoint, ...]:
        """Return the endpoints of a kind.

        Args:
            kind: The kind.
            own: The section of the kind.
            path: The path of generated URLs.
            port: The port of generated URLs, or None.
        """
        endpoints: list[Endpoint] = []
        taken: dict[str, Entry] = {}  # the first entry of each URL, by its identity
        later: dict[str, list[Entry]] = {}  # all entries of a URL that has several, by their start
        position = 0
        sections = self.file.entries
        for entry in chain(sections[Section.DOMAINS], sections[Section.IPS], sections[own]):
            url, window, attributes = entry.url, entry.window, entry.attributes
            if url is None:
                text, key = self._generate(entry.host, entry.port or port, path)
            else:
                text, key = url.text, identity(*url[1:])
            first = taken.setdefault(key, entry)
            if first is not entry:
                # The windows of one URL do not overlap, so only the two neighbours can.
                others = later.setdefault(key, [first])
                place = bisect(others, window.start, key=attrgetter("window.start"))
                near = others[max(0, place - 1) : place + 1]
                if other := next((each for each in near if each.window.overlaps(window)), None):
                    reason = f"a duplicate {kind.label} endpoint: line {other.line} has it already"
                    self._warn(Code.DUPLICATE, entry, reason)
                    continue
                others.insert(place, entry)
            rank = position if entry.priority is None else entry.priority
            position += 1
            if window != ALWAYS and not self._is_served(kind, entry, text):
                continue
            endpoints.append(assemble(text, rank, **attributes))
            if url is not None and url.scheme in {"http", "ws"}:
                risk = "anyone on the way can read and change the traffic"
                self._warn(Code.PLAIN_HTTP, entry, f"{url.scheme} is not encrypted: {risk}")
        if len(endpoints) < 2:
            few = f"{kind.label} endpoints: {len(endpoints)}; failover needs at least 2"
            self.file.problems.add(Code.FEW_ENDPOINTS, 1, 1, few)
        return tuple(endpoints)

    def _generate(self, host: str, port: int | None, path: str) -> tuple[str, str]:
        """Return the URL of a host, and the identity of the URL."""
        self.generated = True
        if port is None:
            text = f"{self.protocol}://{host}{path}"
            return text, text if path else text + "/"
        return f"{self.protocol}://{host}:{port}{path}", identity(self.protocol, host, port, path)

    def _is_served(self, kind: Kind, entry: Entry, url: str) -> bool:
        """Take in the boundaries of an entry, and return whether it is served at the moment."""
        window = entry.window
        for boundary, added in ((window.start, True), (window.end, False)):
            if boundary <= self.at:
                self.boundary = max(self.boundary, boundary)
            elif boundary < FOREVER:
                self.planned.append(PlannedChange(boundary, kind, added, url))
        if window.end <= self.at:
            self._warn(Code.EXPIRED, entry, "until is past: the entry is not served any more")
        return window.start <= self.at < window.end

    def _warn(self, code: Code, entry: Entry, message: str) -> None:
        """Warn about an entry, once for both kinds."""
        what = code, entry.line, entry.column
        if what not in self.warned:
            self.warned.add(what)
            self.file.problems.add(code, entry.line, entry.column, message, entry.text)


class Rendering(NamedTuple):
    """The result of rendering a file, before the decision whether it may be served.

    Attributes:
        data: The text.
        body: The wire form of the list.
        gzip: The compressed body, or None if compression does not make it smaller.
        etag: Hash of the body, without quotes.
        api_count: Number of API endpoints.
        socketio_count: Number of Socket.io endpoints.
        problems: The problems that are kept, in file order.
        errors: Number of errors.
        warnings: Number of warnings.
        difference: Difference from the list that was served before.
        planned: The boundaries of windows that are still to come, the next one first.
        boundary: POSIX seconds of the last boundary that has passed; 0 if there is none.
    """

    data: bytes
    body: bytes
    gzip: bytes | None
    etag: str
    api_count: int
    socketio_count: int
    problems: tuple[Problem, ...]
    errors: int
    warnings: int
    difference: Difference
    planned: tuple[PlannedChange, ...] = ()
    boundary: float = 0.0

    @property
    def usable(self) -> int:
        """Number of endpoints of both kinds."""
        return self.api_count + self.socketio_count

    def count(self, kind: Kind) -> int:
        """Return the number of endpoints of a kind."""
        return self.api_count if kind is Kind.API else self.socketio_count


def next_boundary(planned: tuple[PlannedChange, ...]) -> float:
    """Return the POSIX time of the first planned change; infinity if there is none."""
    return planned[0].at if planned else FOREVER


def first_problems(problems: tuple[Problem, ...]) -> str:
    """Format the first problems as the end of a log line, errors before warnings."""
    ordered = sorted(problems, key=lambda problem: problem.severity is not Severity.ERROR)
    named = "; ".join(map(str, ordered[:MAX_LOGGED]))
    return f"; first problems: {named}" if named else ""


def decode(data: bytes) -> str:
    """Decode the bytes of an endpoint file, without the byte order mark.

    Raises:
        SourceError: With code ``not-utf8`` or ``nul``, and the place.
    """
    data = data.removeprefix(codecs.BOM_UTF8)
    if (at := data.find(b"\0")) >= 0:
        line, column = _place(data[:at])
        message = (
            f"the file has a NUL byte (line {line}): it is no text, or UTF-16 or UTF-32 text,"
            " which must be saved as UTF-8"
        )
        raise SourceError(Code.NUL, message, line, column)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start])
        place = f"line {line}, byte {error.start + 1}"
        message = (
            f"the file is not UTF-8 text ({place}), but perhaps UTF-16 or GBK: save it as UTF-8"
        )
        raise SourceError(Code.NOT_UTF8, message, line, column) from None


def _place(before: bytes) -> tuple[int, int]:
    """Return the line and the column, from 1, of the byte that follows these bytes."""
    text = before.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def render(data: bytes, rules: UrlRules, served: bytes, at: float = 0.0) -> Rendering:
    """Render the bytes of an endpoint file.

    Args:
        data: The content of the file.
        rules: The rules by which hosts become URLs.
        served: The body that was served before, for the difference.
        at: POSIX seconds of the moment by which windows are judged.

    Raises:
        SourceError: If the bytes are not text.
    """
    config, problems, planned, boundary = build(parse(decode(data)), rules, at)
    body = dumps(config)
    # Without a time stamp, so that the bytes are equal on every node.
    packed = gzip.compress(body, GZIP_LEVEL, mtime=0)
    return Rendering(
        data=data,
        body=body,
        gzip=packed if len(packed) < len(body) else None,
        etag=hashlib.sha256(body).hexdigest()[:32],
        api_count=len(config.api_endpoints),
        socketio_count=len(config.socketio_endpoints),
        problems=tuple(problems.kept),
        errors=problems.counts[Severity.ERROR],
        warnings=problems.counts[Severity.WARNING],
        difference=difference(served, body),
        planned=planned,
        boundary=boundary,
    )


def render_body(data: bytes, rules: UrlRules, at: float = 0.0) -> bytes | None:
    """Return the wire form of the list in a text; None if the bytes are not text."""
    try:
        return dumps(build(parse(decode(data)), rules, at).config)
    except SourceError:
        return None


EMPTY = render(b"", UrlRules(), EMPTY_BODY)._replace(problems=(), warnings=0)


# -- the guard

#: The word for a kind in a confirming line.
_WORDS = {Kind.API: "api", Kind.SOCKETIO: "socket"}
_CONFIRMATION = re.compile(rb"\s*#\s*confirm:\s*removes\s+([0-9]{1,9})\s+(api|socket)\s*")


def check_replaces(rendering: Rendering, settings: Settings, before: Rendering | None) -> None:
    """Decide whether a rendered text may replace the one before.

    Args:
        rendering: The rendered text.
        settings: The limits of what is acceptable.
        before: The text before; its body is not used. None without any.

    Raises:
        SourceError: With code ``strict``, ``no-endpoints``, ``too-few`` or ``too-many-removed``.
    """
    if before is None or before.etag == rendering.etag:
        check_acceptable(rendering, settings, {})
        return
    check_acceptable(rendering, settings, {kind: before.count(kind) for kind in Kind})
    check_removals(rendering, settings, before.data, before.boundary)


def check_removals(rendering: Rendering, settings: Settings, last: bytes, at: float) -> None:
    """Decide whether a text may remove the endpoints of another text that it does not have.

    Args:
        rendering: The rendered text, which may contain confirming lines.
        settings: The limit of the share of removed endpoints.
        last: The text that is replaced; the present settings alone remove none of its endpoints.
        at: POSIX seconds for which the windows of that text are judged.

    Raises:
        SourceError: With code ``too-many-removed``.
    """
    if settings.max_removed >= 1:
        return
    before = render_body(last, settings.rules, at) or rendering.body
    if lines := missing_confirmations(rendering, settings, before, last):
        add = "this line" if len(lines) == 1 else "each line"
        raise SourceError(
            Code.TOO_MANY_REMOVED,
            f"the file removes more than {settings.max_removed:.0%} of the endpoints of a kind"
            f" (ENDPOINT_MAX_REMOVED); to confirm it, add {add}, again if an earlier edit has used"
            f" it: {' and '.join(lines)}",
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
        errors = plural(rendering.errors, "error")
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
            usable = plural(left[kind], f"usable {kind.label} endpoint")
            reason = f"the file has {usable}, and ENDPOINT_MIN_ENDPOINTS is"
            return SourceError(Code.TOO_FEW, f"{reason} {settings.min_endpoints}")
    return None


def missing_confirmations(
    rendering: Rendering, settings: Settings, before: bytes, confirmed: bytes = b""
) -> list[str]:
    """Return the confirming lines that a text lacks for the endpoints that it removes.

    A confirming line is valid for one edit: it counts only if it is in the text more often than in
    the replaced text.

    Args:
        rendering: The rendered text.
        settings: The limit of the share of removed endpoints.
        before: The wire form of the list that the text replaces.
        confirmed: The text of that list; its confirming lines were used.
    """
    valid = _confirmations(rendering.data) - _confirmations(confirmed)
    lines = []
    for kind, word in _WORDS.items():
        urls = _urls(before, kind)
        removed = len(urls - _urls(rendering.body, kind))
        if _too_many(removed, len(urls), settings) and not valid[removed, word]:
            lines.append(f"# confirm: removes {removed} {word}")
    return lines


def _urls(body: bytes, kind: Kind) -> set[str]:
    return {endpoint.url for endpoint in iter_endpoints(body, kind)}


def _too_many(removed: int, before: int, settings: Settings) -> bool:
    """Whether the removed endpoints of a kind are too large a share of those before."""
    return removed > settings.max_removed * before


def _confirmations(text: bytes) -> Counter[tuple[int, str]]:
    lines = text.removeprefix(codecs.BOM_UTF8).splitlines()
    found = map(_CONFIRMATION.fullmatch, lines)
    return Counter((int(match[1]), match[2].decode()) for match in found if match)


def with_planned_refusals(rendering: Rendering, settings: Settings) -> Rendering:
    """Add a warning to a rendered text for each future boundary that the guard would refuse."""
    warnings = []
    for at, reason in _judge_plan(rendering, settings):
        if reason:
            message = f"at {rfc3339(at)} the planned change will be refused: {reason}"
            warnings.append(Problem.of(Code.PLAN_REFUSED, message))
    return rendering._replace(
        problems=(*warnings, *rendering.problems)[:MAX_KEPT],
        warnings=rendering.warnings + len(warnings),
    )


def last_passed(text: bytes, settings: Settings, since: float, until: float) -> float:
    """Return the last boundary of a text that it passes if each is judged by itself.

    Args:
        text: The text.
        settings: The limits of what is acceptable.
        since: POSIX seconds of the boundary that the text has passed before; returned if it passes
            no other.
        until: POSIX seconds before which the other boundaries are.
    """
    plan = _judge_plan(render(text, settings.rules, EMPTY_BODY, since), settings)
    return max((at for at, reason in plan if at < until and not reason), default=since)


def _judge_plan(rendering: Rendering, settings: Settings) -> Iterator[tuple[float, str]]:
    """Yield each future boundary, and why the guard would refuse it; empty if it would not.

    A text may have thousands of boundaries. So it is not rendered for each, and the differences
    to the list that would be served before it are followed instead of compared. No URL is added
    twice or removed twice in a row, because the windows of one URL do not overlap.
    """
    before = {kind: rendering.count(kind) for kind in Kind}
    removed: dict[Kind, set[str]] = {kind: set() for kind in Kind}
    added: dict[Kind, set[str]] = {kind: set() for kind in Kind}
    for at, changes in groupby(rendering.planned, attrgetter("at")):
        # Removals first: one entry of a URL may follow another at the same boundary.
        for _, kind, is_added, url in sorted(changes, key=attrgetter("added")):
            here, there = (added, removed) if is_added else (removed, added)
            if url in there[kind]:
                there[kind].remove(url)
            else:
                here[kind].add(url)
        lost = {kind: len(urls) for kind, urls in removed.items()}
        left = {kind: before[kind] - lost[kind] + len(added[kind]) for kind in Kind}
        reason = _planned_refusal(before, left, lost, settings)
        if not reason:
            before = left
            for urls in (*removed.values(), *added.values()):
                urls.clear()
        yield at, reason


def _planned_refusal(
    before: Mapping[Kind, int],
    left: Mapping[Kind, int],
    removed: Mapping[Kind, int],
    settings: Settings,
) -> str:
    """Return why the guard would refuse a boundary; empty if the boundary is acceptable.

    Args:
        before: Number of endpoints of each kind before the boundary.
        left: Number of endpoints of each kind after it.
        removed: Number of endpoints of each kind whose URLs it removes.
        settings: The limits of what is acceptable.
    """
    if error := _too_few(before, left, settings):
        return str(error)
    for kind in Kind:
        if _too_many(removed[kind], before[kind], settings):
            of = f"{removed[kind]} of {before[kind]} {kind.label} endpoints"
            return f"it removes {of} (ENDPOINT_MAX_REMOVED)"
    return ""
