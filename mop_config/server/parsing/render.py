"""An endpoint file's bytes, rendered into everything that serving them needs. Pure."""

import codecs
import gzip
import hashlib
from typing import NamedTuple

from ...errors import SourceError
from ...model import codec
from ...model.endpoint import EndpointConfig
from .builder import UrlRules, build
from .parser import parse
from .problems import Code, Problem

GZIP_LEVEL = 6


class Rendering(NamedTuple):
    """What a text becomes, before anyone decides whether it may be served.

    ``gzip`` is None where compressing does not make the body smaller. ``difference``
    is against the body that was served so far.
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

    @property
    def usable(self) -> int:
        """How many endpoints there are, over both kinds."""
        return self.api_count + self.socketio_count


def decode(data: bytes) -> str:
    """Give the text of an endpoint file's bytes, without its byte order mark.

    Raises:
        SourceError: With code ``not-utf8`` or ``nul``, saying where.
    """
    if coding := _other_coding(data):
        message = f"the file is {coding} text: save it as UTF-8"
        raise SourceError(Code.NUL if b"\0" in data else Code.NOT_UTF8, message)
    data = data.removeprefix(b"\xef\xbb\xbf")
    if (at := data.find(b"\0")) >= 0:
        line, column = _place(data[:at])
        message = f"the file holds a NUL byte (line {line}): it is no text"
        raise SourceError(Code.NUL, message, line, column)
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line, column = _place(data[: error.start])
        message = f"the file is not UTF-8 text (line {line}, byte {error.start + 1})"
        raise SourceError(Code.NOT_UTF8, message, line, column) from None


# UTF-32 first: its little-endian mark begins with the one of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)


def _other_coding(data: bytes) -> str | None:
    """Recognise UTF-16 and UTF-32 by the byte order mark, or by every other byte being NUL."""
    for mark, name in _MARKS:
        if data.startswith(mark):
            return name
    start = data[:64]
    halves = {(start[::2].strip(b"\0") == b""), (start[1::2].strip(b"\0") == b"")}
    return "UTF-16" if len(start) >= 4 and halves == {True, False} else None


def _place(before: bytes) -> tuple[int, int]:
    """Give the line and the column, from 1, that come after some bytes of a file."""
    text = before.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def render(data: bytes, rules: UrlRules, served: bytes) -> Rendering:
    """Turn an endpoint file's bytes into everything that an answer needs.

    Args:
        data: The file.
        rules: How hosts become URLs.
        served: The body that was served so far, for the difference.

    Raises:
        SourceError: Where the bytes are no text.
    """
    config, problems = build(parse(decode(data)), rules)
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
    )


def _compress(body: bytes) -> bytes | None:
    # Without a time stamp, so that every node makes the same bytes.
    packed = gzip.compress(body, GZIP_LEVEL, mtime=0)
    return packed if len(packed) < len(body) else None


#: The list that is served while no good one was ever seen, as in the guide.
EMPTY_BODY = codec.dumps(EndpointConfig())
EMPTY = render(b"", UrlRules(), EMPTY_BODY)._replace(problems=(), warnings=0)
