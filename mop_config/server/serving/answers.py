"""ConditionalAnswer and its headers: what each front sends, and how ``Accept`` is read. Pure.

Content negotiation follows RFC 9110, section 12.
"""

import json
from collections.abc import Mapping
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.http import parse_accept_header

from ... import __version__

Headers = tuple[tuple[str, str], ...]


class HeaderFields(Headers):
    """The headers of an answer; they are encoded once, since thousands of answers share them."""

    @cached_property
    def pairs(self) -> list[tuple[bytes, bytes]]:
        """The headers in ASGI's form."""
        return [(name.lower().encode("latin-1"), v.encode("latin-1")) for name, v in self]

    @cached_property
    def lines(self) -> bytes:
        """The headers as they stand on the wire."""
        return b"".join(b"%b: %b\r\n" % pair for pair in self.pairs)


#: On each answer of any status. The policy allows nothing; the dashboard names what it needs.
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    ("Referrer-Policy", "no-referrer"),
)


#: Longest header value that is parsed; a longer one counts as absent. werkzeug parses
#: ``Accept`` in quadratic time, and the caches below keep whole values.
MAX_VALUE = 1024

to_json = json.JSONEncoder(separators=(",", ":")).encode


def header(environ: Mapping[str, Any], name: str) -> str | None:
    """Return a request header, or None if it is absent or longer than ``MAX_VALUE``."""
    value: str | None = environ.get(name)
    return None if value is None or len(value) > MAX_VALUE else value


class ConditionalAnswer(NamedTuple):
    """A status code, headers, and a body (empty for 304); each front leaves it out for HEAD."""

    status: int
    headers: HeaderFields
    body: bytes

    def adding(self, *headers: tuple[str, str]) -> "ConditionalAnswer":
        """Return the answer with more headers."""
        return self._replace(headers=HeaderFields((*self.headers, *headers)))


def json_answer(
    status: int, document: Mapping[str, Any], content_type: str = "application/json"
) -> ConditionalAnswer:
    """Return a JSON answer that must not be cached."""
    return uncached(status, to_json(document).encode() + b"\n", content_type)


def healthy(service_name: str) -> ConditionalAnswer:
    """Return the answer of ``/health``, which only says that this process answers."""
    document = {"status": "healthy", "service": service_name, "version": __version__}
    return json_answer(200, document)


def uncached(status: int, body: bytes, content_type: str) -> ConditionalAnswer:
    """Return an answer that must not be cached."""
    headers = (
        ("Content-Type", content_type),
        ("Content-Length", str(len(body))),
        ("Cache-Control", "no-store"),
        *SECURITY_HEADERS,
    )
    return ConditionalAnswer(status, HeaderFields(headers), body)


def problem(
    status: int, detail: str | None, members: Mapping[str, Any] | None = None
) -> ConditionalAnswer:
    """Return an error as a problem document (RFC 9457).

    Args:
        status: HTTP status code.
        detail: The reason in words, for people; None if there is none.
        members: The same reason for programs, as extension members of the document
            (RFC 9457, 3.2); None adds no member.
    """
    title = HTTPStatus(status).phrase
    document = {"type": "about:blank", "title": title, "status": status, "detail": detail}
    return json_answer(status, document | dict(members or {}), "application/problem+json")


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether a client accepts gzip, and does not prefer plain bytes."""
    accept = parse_accept_header(accept_encoding, Accept)
    named = {value.lower(): quality for value, quality in accept}
    gzip = named.get("gzip", named.get("x-gzip", named.get("*", 0)))
    return gzip > 0 and gzip >= named.get("identity", 0)


@lru_cache(maxsize=256)
def preferred_form(accept: str) -> tuple[bool, bool]:
    """Read ``Accept``; only ``application/jose`` by name asks for a signed list.

    Returns:
        Whether the client prefers a signed list to plain JSON, and whether it accepts plain JSON.
    """
    types = parse_accept_header(accept, MIMEAccept)
    named = {value.lower(): quality for value, quality in types}
    signed, plain = named.get("application/jose", 0), types.quality("application/json")
    better = signed >= plain if "application/json" not in named else signed > plain
    return signed > 0 and better, plain > 0
