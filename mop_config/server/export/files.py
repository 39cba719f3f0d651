"""The list as a folder of files, for a web server that knows nothing of us.

The files have the paths that the routes have, so that a client cannot tell a mirror from a
server, but for long polls.
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
    """What a web server has to say of a file: ``Content-Type`` and ``Content-Encoding``."""

    content_type: str
    content_encoding: str | None = None


_JSON = FileType("application/json")
#: Every file that a publication may have.
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
#: Endpoints of each kind that the page shows.
_SHOWN = 1000
_LINKS = {
    f"{_CONFIG}endpoints": "the list, as JSON",
    f"{_CONFIG}endpoints.jws": "the signed list",
    f"{_CONFIG}keys": "the keys that it is signed with",
    f"{_CONFIG}qr.png": "the QR code, as PNG",
}


def files(
    snapshot: Snapshot, signed: Snapshot | None, keys: bytes | None, service: str
) -> dict[str, bytes]:
    """Give the files of a publication, by their paths.

    Args:
        snapshot: The list.
        signed: The same, signed, or None without a key.
        keys: The JWKS of the public keys, or None likewise.
        service: ``service`` in the answer to a health check.
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
    offer = qr.Offer.of_body(snapshot.plain.body)
    try:
        text = qr.fit(offer).text if offer else None
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
    """Bring a folder up to date; a file that is right already is not touched.

    Args:
        folder: Where the files go; it is made, if need be. What is not ours is left alone, and
            so is what was signed elsewhere, where there is no key here.
        wanted: The files, by their paths.

    Returns:
        The paths of the files that were written or taken away.

    Raises:
        OSError: If a file cannot be written, or something that is not ours is in its place; the
            list in each is as it was.
    """
    with PublicFolder(folder) as public:
        changed = {name: data for name, data in wanted.items() if not public.holds(name, data)}
        # First what is gone: an old compressed list must not stand beside a new plain one.
        unwanted = TYPES.keys() - wanted.keys() - _SIGNED
        removed = [name for name in unwanted if public.remove(name)]
        public.replace(changed)
    return [*changed, *removed]
