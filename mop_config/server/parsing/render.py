"""Render the bytes of an endpoint file into the bodies that are served. Pure."""

import codecs
import gzip
import hashlib
from typing import NamedTuple

from ...errors import SourceError
from ...model import codec
from ...model.endpoint import EndpointConfig, Kind
from ..settings import UrlRules
from .builder import build
from .parser import parse
from .problems import Code, Problem
from .window import FOREVER, PlannedChange

GZIP_LEVEL = 6


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


#: The byte order marks of UTF-16, with which the little-endian one of UTF-32 begins, and of UTF-32.
_WIDE = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE, codecs.BOM_UTF32_BE)


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
        errors=problems.errors,
        warnings=problems.warnings,
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


#: The empty list, which is served as long as no valid list has been loaded.
EMPTY_BODY = codec.dumps(EndpointConfig())
EMPTY = render(b"", UrlRules(), EMPTY_BODY)._replace(problems=(), warnings=0)
