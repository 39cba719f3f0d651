"""Render the list as files for a static web server.

The files have the paths of the routes, so that a mirror answers like a server, except for long
polls.
"""

import json
from pathlib import Path
from typing import NamedTuple

from jinja2 import Environment, PackageLoader

from ... import __version__, qr
from ...errors import QrTooLong
from ...model import codec
from ...model.codec import rfc3339
from ..serving.snapshot import Snapshot
from .public_folder import PublicFolder

_CONFIG = "api/v1/config/"


class FileType(NamedTuple):
    """The headers ``Content-Type`` and ``Content-Encoding`` that a file needs."""

    content_type: str
    content_encoding: str | None = None


_JSON = FileType("application/json")
#: Every file that may be written, by its path.
TYPES = {
    f"{_CONFIG}endpoints": _JSON,
    f"{_CONFIG}endpoints.gz": FileType("application/json", "gzip"),
    f"{_CONFIG}endpoints.jws": FileType("application/jose"),
    f"{_CONFIG}keys": FileType("application/jwk-set+json"),
    f"{_CONFIG}qr.svg": FileType("image/svg+xml"),
    f"{_CONFIG}qr.png": FileType("image/png"),
    f"{_CONFIG}qr.json": _JSON,
    "api/v1/health": _JSON,
    "health": _JSON,
    "index.html": FileType("text/html; charset=utf-8"),
}
_SIGNED = frozenset({f"{_CONFIG}endpoints.jws", f"{_CONFIG}keys"})
#: Limit of endpoints of each kind that the page shows.
_SHOWN = 1000
_LINKS = {
    f"{_CONFIG}endpoints": "the list, as JSON",
    f"{_CONFIG}endpoints.jws": "the signed list",
    f"{_CONFIG}keys": "the keys that it is signed with",
    f"{_CONFIG}qr.png": "the QR code, as PNG",
}


def render_files(
    snapshot: Snapshot, signed: Snapshot | None, keys: bytes | None, service: str
) -> dict[str, bytes]:
    """Return the content of each file by its path.

    Args:
        snapshot: The list.
        signed: The signed list, or None without a key.
        keys: The JWKS of the public keys, or None without a key.
        service: ``service`` in the health check.
    """
    health = {"status": "healthy", "service": service, "version": __version__}
    body = json.dumps(health, separators=(",", ":")).encode() + b"\n"
    found = {
        f"{_CONFIG}endpoints": snapshot.plain.body,
        f"{_CONFIG}endpoints.gz": snapshot.gzip.body if snapshot.gzip else None,
        f"{_CONFIG}endpoints.jws": signed.plain.body if signed else None,
        f"{_CONFIG}keys": keys,
        "health": body,
        "api/v1/health": body,
    }
    given = {name: data for name, data in found.items() if data is not None}
    given.update(_codes(snapshot))
    given["index.html"] = _page(snapshot, service, given)
    return given


def _codes(snapshot: Snapshot) -> dict[str, bytes]:
    shortlist = qr.Shortlist.of_body(snapshot.plain.body)
    try:
        text = qr.fit(shortlist).text if shortlist else None
    except QrTooLong:
        text = None
    if text is None:
        return {}
    return {
        f"{_CONFIG}qr.json": text.encode(),
        **{f"{_CONFIG}qr.{kind}": qr.image(text, kind) for kind in ("svg", "png")},
    }


def _page(snapshot: Snapshot, service: str, given: dict[str, bytes]) -> bytes:
    environment = Environment(loader=PackageLoader("mop_config.server.export"), autoescape=True)
    config = codec.loads(snapshot.plain.body)
    page = environment.get_template("publication.html").render(
        service=service,
        etag=snapshot.etag,
        changed=rfc3339(snapshot.last_modified),
        counts={"api": snapshot.api_count, "socketio": snapshot.socketio_count},
        qr=f"{_CONFIG}qr.svg" in given,
        links=[(name, text) for name, text in _LINKS.items() if name in given],
        kinds=[(kind.label, endpoints) for kind, endpoints in config.kinds().items()],
        shown=_SHOWN,
    )
    return page.encode()


def write(folder: Path, wanted: dict[str, bytes]) -> list[str]:
    """Bring a folder up to date; files that are up to date are not touched.

    Args:
        folder: The folder; it is made if it is missing. Other files in it stay. Without a key, the
            signed files stay too, because they may have been signed elsewhere.
        wanted: The content of each file by its path.

    Returns:
        The paths of the files that were written or removed.

    Raises:
        OSError: If a file cannot be written, or an object that is not a regular file has its
            name. All files keep their old content then.
    """
    with PublicFolder(folder, TYPES) as public:
        changed = {name: data for name, data in wanted.items() if not public.holds(name, data)}
        # Remove first: an old compressed list must not stand beside a new plain list.
        unwanted = TYPES.keys() - wanted.keys() - _SIGNED
        removed = [name for name in unwanted if public.remove(name)]
        public.replace(changed)
    return [*changed, *removed]
