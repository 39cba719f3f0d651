"""Snapshot: a rendered list with its bytes and headers, and the answers from it. Pure.

Conditional requests and content negotiation follow RFC 9110, sections 8, 12 and 13.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import formatdate
from functools import cached_property, lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.http import parse_accept_header, parse_etags

from ..parsing.render import Rendering
from ..settings import Settings

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


#: The default policy allows nothing; the dashboard names what it needs.
CONTENT_SECURITY_POLICY = "default-src 'none'; frame-ancestors 'none'"
#: On each answer of any status; a view may set another policy.
SECURITY_HEADERS = (
    ("X-Content-Type-Options", "nosniff"),
    ("Content-Security-Policy", CONTENT_SECURITY_POLICY),
    ("Referrer-Policy", "no-referrer"),
)


class Variant(NamedTuple):
    """One encoding of the body.

    Attributes:
        etag: The entity tag as it stands in the header, with its quotes.
        body: The bytes on the wire.
        headers: Headers of a 200 answer.
        not_modified: Headers of a 304 answer.
    """

    etag: str
    body: bytes
    headers: HeaderFields
    not_modified: HeaderFields

    @classmethod
    def of(cls, etag: str, body: bytes, own: Headers, common: Headers) -> "Variant":
        """Make a variant from the headers of a 200 answer only, and those of a 304 answer too.

        A 304 repeats the caching headers only; caches have the others (RFC 9110, 15.4.5).
        """
        common = (("ETag", etag), *common)
        headers = (*own, ("Content-Length", str(len(body))), *common)
        return cls(etag, body, HeaderFields(headers), HeaderFields(common))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One list, ready to be served.

    Attributes:
        rendering: The rendered list.
        settings: The settings by which it is served.
        loaded_at: POSIX time at which this process began to serve the list.
        last_modified: POSIX seconds of ``Last-Modified``; rises whenever the content changes.
        last_modified_text: The same instant as an HTTP date.
        plain: The uncompressed variant.
        gzip: The compressed variant, or None if gzip would not make the body smaller enough.
        ver: The version in the signed list, in milliseconds; never falls when the content
            changes.
    """

    rendering: Rendering
    settings: Settings
    loaded_at: float
    last_modified: int
    last_modified_text: str
    plain: Variant
    gzip: Variant | None
    ver: int = 0

    @property
    def etag(self) -> str:
        """The content hash, equal on every worker and node."""
        return self.plain.etag[1:-1]

    @property
    def api_count(self) -> int:
        """Number of API endpoints."""
        return self.rendering.api_count

    @property
    def socketio_count(self) -> int:
        """Number of Socket.io endpoints."""
        return self.rendering.socketio_count

    @classmethod
    def of(
        cls,
        rendering: Rendering,
        settings: Settings,
        loaded_at: float,
        last_modified: int,
        ver: int = 0,
    ) -> "Snapshot":
        """Make the snapshot of a rendering that may be served.

        An empty list gets ``no-store``, because it only stands for a moment without a list.

        Args:
            rendering: The rendered list.
            settings: With a signing key, ``Accept`` selects the plain or the signed list at the
                same URL, so responses vary by ``Accept``. With access tokens, responses vary by
                ``Authorization`` and are ``private``.
            loaded_at: POSIX time at which this process began to serve the list.
            last_modified: POSIX seconds for ``Last-Modified``.
            ver: Version for the signed list, in milliseconds.
        """
        common = common_headers(settings, settings.max_age if rendering.usable else None)
        date = formatdate(last_modified, usegmt=True)
        dated = (("Content-Type", "application/json"), ("Last-Modified", date))
        plain, gzip = Variant.of(f'"{rendering.etag}"', rendering.body, dated, common), None
        if rendering.gzip is not None:
            encoded = (*dated, ("Content-Encoding", "gzip"))
            gzip = Variant.of(f'"{rendering.etag}-gzip"', rendering.gzip, encoded, common)
        return cls(rendering, settings, loaded_at, last_modified, date, plain, gzip, ver)

    def stamped(self, last_modified: int, ver: int) -> "Snapshot":
        """Return a snapshot of the same list with another date and version."""
        if (last_modified, ver) == (self.last_modified, self.ver):
            return self
        return Snapshot.of(self.rendering, self.settings, self.loaded_at, last_modified, ver)


def common_headers(settings: Settings, max_age: int | None) -> Headers:
    """Return the headers of both the 200 and the 304 answer, but for the ETag.

    Args:
        settings: The settings; see ``Snapshot.of``.
        max_age: Seconds for which a cache may keep the list; None forbids caches.
    """
    vary = ["Accept"] if settings.signing_key_file is not None else []
    vary += ["Accept-Encoding", "Authorization"] if settings.guarded else ["Accept-Encoding"]
    private = "private, " if settings.guarded else ""
    caching = "no-store" if max_age is None else f"{private}max-age={max_age}"
    return (("Cache-Control", caching), ("Vary", ", ".join(vary)), *SECURITY_HEADERS)


#: Longest header value or query that is parsed; a longer one counts as absent. werkzeug parses
#: ``Accept`` in quadratic time, and the caches below keep whole values.
MAX_VALUE = 1024

# What may stand behind the list's own tag: a suffix such as -br, which a compressing proxy adds.
_CODING = re.compile(r"-[\w!#$%&'*+.^`|~-]+", re.ASCII)
to_json = json.JSONEncoder(separators=(",", ":")).encode


def header(environ: Mapping[str, Any], name: str) -> str | None:
    """Return a request header, or None if it is absent or longer than ``MAX_VALUE``."""
    value: str | None = environ.get(name)
    return None if value is None or len(value) > MAX_VALUE else value


class ConditionalAnswer(NamedTuple):
    """A status code, headers, and a body (empty for HEAD and 304)."""

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


def respond_conditionally(
    snapshot: Snapshot, environ: Mapping[str, Any], *, dated: bool = True
) -> ConditionalAnswer:
    """Answer a GET or HEAD from a snapshot by the request's headers.

    There is no 406: a client that forbids every encoding gets the plain body.
    ``If-Modified-Since`` matches only if its date equals the list's date, so that a rollback to
    an older file reaches clients that have seen the newer one.

    Args:
        snapshot: The list.
        environ: The request in WSGI's form.
        dated: Whether ``If-Modified-Since`` counts.
    """
    variant, accepted = snapshot.plain, header(environ, "HTTP_ACCEPT_ENCODING")
    if snapshot.gzip and accepted and accepts_gzip(accepted):
        variant = snapshot.gzip
    tags = header(environ, "HTTP_IF_NONE_MATCH")
    if tags is not None:
        # Almost every client sends back the one tag it got, so compare before parsing.
        fresh = tags == variant.etag or etag_matches(tags, snapshot)
    else:
        since = header(environ, "HTTP_IF_MODIFIED_SINCE")
        fresh = dated and since == snapshot.last_modified_text
    if fresh:
        return ConditionalAnswer(304, variant.not_modified, b"")
    body = b"" if environ["REQUEST_METHOD"] == "HEAD" else variant.body
    return ConditionalAnswer(200, variant.headers, body)


def etag_matches(if_none_match: str, snapshot: Snapshot) -> bool:
    """Return whether ``If-None-Match`` names the ETag of a list, in any of its encodings.

    All variants of a list are equally new. A compressing proxy makes a variant of its own, and
    adds the name of the coding to the ETag.
    """
    tags, own = _tags(if_none_match), snapshot.etag
    return tags.contains_weak(own) or any(
        tag.startswith(own) and _CODING.fullmatch(tag, len(own))
        for tag in tags.as_set(include_weak=True)
    )


# After a change, all long polls name the same list.
_tags = lru_cache(maxsize=256)(parse_etags)


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
