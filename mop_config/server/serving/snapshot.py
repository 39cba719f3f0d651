"""Snapshot: a rendered list with its bytes and headers, ready to be sent. Pure."""

from dataclasses import dataclass, replace
from email.utils import formatdate
from functools import cached_property
from typing import NamedTuple

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

    def dated(self, date: str) -> "Variant":
        """Return the same variant with another ``Last-Modified``."""
        headers = ((n, date if n == "Last-Modified" else value) for n, value in self.headers)
        return self._replace(headers=HeaderFields(headers))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One list, ready to be served.

    Attributes:
        etag: The content hash, equal on every worker and node.
        api_count: Number of API endpoints.
        socketio_count: Number of Socket.io endpoints.
        last_modified: POSIX seconds of ``Last-Modified``; rises whenever the content changes.
        last_modified_text: The same instant as an HTTP date.
        loaded_at: POSIX time at which this process began to serve the list.
        ver: The version in the signed list, in milliseconds; never falls when the content
            changes.
        plain: The uncompressed variant.
        gzip: The compressed variant, or None if gzip would not make the body smaller enough.
    """

    etag: str
    api_count: int
    socketio_count: int
    last_modified: int
    last_modified_text: str
    loaded_at: float
    plain: Variant
    gzip: Variant | None
    ver: int = 0

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
        vary = ["Accept"] if settings.signing_key_file is not None else []
        vary += ["Accept-Encoding", "Authorization"] if settings.guarded else ["Accept-Encoding"]
        private = "private, " if settings.guarded else ""
        max_age = settings.max_age
        common = (
            ("Cache-Control", f"{private}max-age={max_age}" if rendering.usable else "no-store"),
            ("Vary", ", ".join(vary)),
            *SECURITY_HEADERS,
        )
        date = formatdate(last_modified, usegmt=True)
        dated = (("Content-Type", "application/json"), ("Last-Modified", date))
        tag, gzip = f'"{rendering.etag}"', None
        if rendering.gzip is not None:
            encoded = (*dated, ("Content-Encoding", "gzip"))
            gzip = Variant.of(f'"{rendering.etag}-gzip"', rendering.gzip, encoded, common)
        return cls(
            etag=rendering.etag,
            api_count=rendering.api_count,
            socketio_count=rendering.socketio_count,
            last_modified=last_modified,
            last_modified_text=date,
            loaded_at=loaded_at,
            plain=Variant.of(tag, rendering.body, dated, common),
            gzip=gzip,
            ver=ver,
        )

    def stamped(self, last_modified: int, ver: int) -> "Snapshot":
        """Return a snapshot of the same list with another date and version."""
        if last_modified == self.last_modified:
            return self if ver == self.ver else replace(self, ver=ver)
        date = formatdate(last_modified, usegmt=True)
        return replace(
            self,
            last_modified=last_modified,
            last_modified_text=date,
            plain=self.plain.dated(date),
            gzip=self.gzip and self.gzip.dated(date),
            ver=ver,
        )
