"""Render the bytes of an endpoint file into the bodies that are served. Pure."""

import codecs
import gzip
import hashlib
from itertools import chain
from typing import NamedTuple

from ...errors import SourceError
from ...model import codec
from ...model.address import identity
from ...model.endpoint import Endpoint, EndpointConfig, Kind, assemble
from ..settings import UrlRules
from .attributes import ALWAYS, FOREVER, PlannedChange
from .parser import EndpointFile, Entry, Problems, Section, parse
from .problems import Code, Problem, Severity

GZIP_LEVEL = 6
#: Problems that one log line names.
MAX_LOGGED = 5
#: The byte order marks of UTF-16, with which the little-endian one of UTF-32 begins, and of UTF-32.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)
#: The empty list, which is served as long as no valid list has been loaded.
EMPTY_BODY = codec.dumps(EndpointConfig())


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
    entries, problems = file.entries, file.problems
    api = _KindBuilder(Kind.API, rules, problems, at)
    socket = _KindBuilder(Kind.SOCKETIO, rules, problems, at)
    for entry in chain(entries[Section.DOMAINS], entries[Section.IPS]):
        new = api.add(entry)
        socket.add(entry, quiet=entry.window.end <= at or not new)
    for entry in entries[Section.API]:
        api.add(entry)
    for entry in entries[Section.SOCKET]:
        socket.add(entry)
    api.check()
    socket.check()
    if rules.protocol == "http" and api.generated + socket.generated:
        message = "URLs are generated with plain http (ENDPOINT_PROTOCOL): use https"
        problems.add(Code.PLAIN_HTTP, 1, 1, message)
    config = EndpointConfig(tuple(api.endpoints), tuple(socket.endpoints))
    planned = tuple(sorted([*api.planned, *socket.planned]))
    return Built(config, problems, planned, max(api.boundary, socket.boundary))


class _KindBuilder:
    """Collects the endpoints of one kind at a moment, without duplicates."""

    def __init__(self, kind: Kind, rules: UrlRules, problems: Problems, at: float) -> None:
        self.kind = kind
        self.protocol, self.port = rules.protocol, rules.default_port
        self.path = rules.api_path
        if kind is Kind.SOCKETIO:
            self.path = rules.socket_path
            self.port = rules.socket_port or (None if self.path else self.port)
        self.problems = problems
        self.endpoints: list[Endpoint] = []
        self.at = at
        self.planned: list[PlannedChange] = []
        self.boundary = 0.0
        self.entries: dict[str, Entry] = {}  # the first entry of each URL, by its identity
        self.later: dict[str, list[Entry]] = {}  # all entries of a URL that has several
        self.count = 0
        self.generated = 0

    def add(self, entry: Entry, *, quiet: bool = False) -> bool:
        """Add an entry, and return whether its URL was new.

        Args:
            entry: The entry.
            quiet: The other kind has already reported the duplicate.
        """
        host, port, url, priority, attributes, line, column, shown, window = entry
        if url is None:
            text, key = self._url(host, port or self.port)
            self.generated += 1
        else:
            text, key = url.text, url.identity
        first = self.entries.setdefault(key, entry)
        if first is not entry:
            others = self.later.setdefault(key, [first])
            other = next((each for each in others if each.window.overlaps(window)), None)
            if other is not None:
                if not quiet:
                    message = (
                        f"a duplicate {self.kind.label} endpoint: line {other.line} has it already"
                    )
                    self.problems.add(Code.DUPLICATE, line, column, message, shown)
                return False
            others.append(entry)
        position, self.count = self.count, self.count + 1
        if window != ALWAYS and not self._is_served(entry, text, quiet=quiet):
            return True
        rank = position if priority is None else priority
        endpoint = assemble(text, rank, **attributes) if attributes else assemble(text, rank)
        self.endpoints.append(endpoint)
        if url is not None and url.scheme in {"http", "ws"}:
            message = (
                f"{url.scheme} is not encrypted: anyone on the way can read and change the traffic"
            )
            self.problems.add(Code.PLAIN_HTTP, line, column, message, shown)
        return True

    def _url(self, host: str, port: int | None) -> tuple[str, str]:
        """Return the URL of a host, and the identity of the URL."""
        if port is None:
            text = f"{self.protocol}://{host}{self.path}"
            return text, text if self.path else text + "/"
        text = f"{self.protocol}://{host}:{port}{self.path}"
        return text, identity(self.protocol, host, port, self.path)

    def _is_served(self, entry: Entry, url: str, *, quiet: bool) -> bool:
        """Take in the boundaries of an entry, and return whether it is served at the moment."""
        window = entry.window
        for boundary, added in ((window.start, True), (window.end, False)):
            if boundary <= self.at:
                self.boundary = max(self.boundary, boundary)
            elif boundary < FOREVER:
                self.planned.append(PlannedChange(boundary, self.kind, added, url))
        if window.end <= self.at and not quiet:
            message = "until is past: the entry is not served any more"
            self.problems.add(Code.EXPIRED, entry.line, entry.column, message, entry.text)
        return window.holds(self.at)

    def check(self) -> None:
        """Warn if the kind has too few endpoints for failover."""
        if len(self.endpoints) < 2:
            message = (
                f"{self.kind.label} endpoints: {len(self.endpoints)}; failover needs at least 2"
            )
            self.problems.add(Code.FEW_ENDPOINTS, 1, 1, message)


class Rendering(NamedTuple):
    """The result of rendering a file, before the decision whether it may be served.

    Attributes:
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

    body: bytes
    gzip: bytes | None
    etag: str
    api_count: int
    socketio_count: int
    problems: tuple[Problem, ...]
    errors: int
    warnings: int
    difference: codec.Difference
    planned: tuple[PlannedChange, ...] = ()
    boundary: float = 0.0

    @property
    def usable(self) -> int:
        """Number of endpoints of both kinds."""
        return self.api_count + self.socketio_count

    @property
    def next_boundary(self) -> float:
        """POSIX seconds of the next boundary of a window; infinity if there is none."""
        return self.planned[0].at if self.planned else FOREVER

    def count(self, kind: Kind) -> int:
        """Return the number of endpoints of a kind."""
        return self.api_count if kind is Kind.API else self.socketio_count


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
    if _is_wide(data):
        message = "the file is UTF-16 or UTF-32 text: save it as UTF-8"
        raise SourceError(Code.NUL if b"\0" in data else Code.NOT_UTF8, message)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := data.find(b"\0")) >= 0:
        line, column = _place(data[:at])
        message = f"the file has a NUL byte (line {line}): it is not text"
        raise SourceError(Code.NUL, message, line, column)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start])
        message = f"the file is not UTF-8 text (line {line}, byte {error.start + 1})"
        raise SourceError(Code.NOT_UTF8, message, line, column) from None


def _is_wide(data: bytes) -> bool:
    """Detect UTF-16 and UTF-32 by the byte order mark, or if just every other byte is NUL."""
    even, odd = data[:64:2].strip(b"\0"), data[1:64:2].strip(b"\0")
    return data.startswith(_WIDE) or (len(data) >= 4 and bool(even) != bool(odd))


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
    body = codec.dumps(config)
    return Rendering(
        body=body,
        gzip=_compress(body),
        etag=hashlib.sha256(body).hexdigest()[:32],
        api_count=len(config.api_endpoints),
        socketio_count=len(config.socketio_endpoints),
        problems=tuple(problems.kept),
        errors=problems.counts[Severity.ERROR],
        warnings=problems.counts[Severity.WARNING],
        difference=codec.difference(served, body),
        planned=planned,
        boundary=boundary,
    )


def render_body(data: bytes, rules: UrlRules, at: float = 0.0) -> bytes | None:
    """Return the wire form of the list in a text; None if the bytes are not text."""
    try:
        return codec.dumps(build(parse(decode(data)), rules, at).config)
    except SourceError:
        return None


def _compress(body: bytes) -> bytes | None:
    # Without a time stamp, so that the bytes are equal on every node.
    packed = gzip.compress(body, GZIP_LEVEL, mtime=0)
    return packed if len(packed) < len(body) else None


EMPTY = render(b"", UrlRules(), EMPTY_BODY)._replace(problems=(), warnings=0)
