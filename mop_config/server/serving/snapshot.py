"""Snapshot: a rendered list with its bytes and headers, ready to be sent. Pure."""

from dataclasses import dataclass, replace
from email.utils import formatdate
from typing import NamedTuple

from ..parsing.render import Rendering
from .security import SECURITY_HEADERS

Headers = tuple[tuple[str, str], ...]


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
    headers: Headers
    not_modified: Headers


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
        *,
        last_modified: int,
        loaded_at: float,
        max_age: int,
        ver: int = 0,
        negotiated: bool = False,
        guarded: bool = False,
    ) -> "Snapshot":
        """Make the snapshot of a rendering that may be served.

        An empty list gets ``no-store``, because it only stands for a moment without a list.

        Args:
            rendering: The rendered list.
            last_modified: POSIX seconds for ``Last-Modified``.
            loaded_at: POSIX time at which this process began to serve the list.
            max_age: Seconds for which a client may cache the list.
            ver: Version for the signed list, in milliseconds.
            negotiated: ``Accept`` selects the plain or the signed list at the same URL, so
                responses vary by ``Accept``.
            guarded: Access tokens are configured, so responses vary by ``Authorization`` and are
                ``private``.
        """
        date = formatdate(last_modified, usegmt=True)
        private = "private, " if guarded else ""
        common = (
            ("Cache-Control", private + f"max-age={max_age}" if rendering.usable else "no-store"),
            (
                "Vary",
                "Accept, " * negotiated + "Accept-Encoding" + ", Authorization" * guarded,
            ),
            *SECURITY_HEADERS,
        )
        dated = (("Last-Modified", date),)
        packed = rendering.gzip
        return cls(
            etag=rendering.etag,
            api_count=rendering.api_count,
            socketio_count=rendering.socketio_count,
            last_modified=last_modified,
            last_modified_text=date,
            loaded_at=loaded_at,
            plain=_variant(f'"{rendering.etag}"', rendering.body, common, dated),
            gzip=None
            if packed is None
            else _variant(
                f'"{rendering.etag}-gzip"', packed, common, (*dated, ("Content-Encoding", "gzip"))
            ),
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
            plain=_dated(self.plain, date),
            gzip=self.gzip and _dated(self.gzip, date),
            ver=ver,
        )


def _dated(variant: Variant, date: str) -> Variant:
    headers = tuple((n, date if n == "Last-Modified" else v) for n, v in variant.headers)
    return variant._replace(headers=headers)


def _variant(etag: str, body: bytes, common: Headers, representation: Headers) -> Variant:
    # A 304 repeats the caching headers only; caches have the other headers (RFC 9110, 15.4.5).
    not_modified = (("ETag", etag), *common)
    headers = (
        ("Content-Type", "application/json"),
        ("Content-Length", str(len(body))),
        *representation,
        *not_modified,
    )
    return Variant(etag, body, headers, not_modified)
