"""Who is answered under which name, and whose scripts may read the answers. Pure.

The first guards against DNS rebinding; the second is CORS, of the Fetch standard.
"""

from ..address import normalise_host, split_port
from ..errors import AddressError
from .snapshot import Headers

_PREFLIGHT: Headers = [
    ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
    ("Access-Control-Allow-Headers", "Authorization, If-Modified-Since, If-None-Match"),
    ("Access-Control-Max-Age", "600"),
]
_EXPOSED = ("Access-Control-Expose-Headers", "ETag")


def cors_headers(allowed: tuple[str, ...], origin: str | None, *, preflight: bool) -> Headers:
    """Give the headers to add to an answer.

    Args:
        allowed: The origins that may read, ``("*",)`` for any, empty for none.
        origin: The request's ``Origin``, or None.
        preflight: Whether a browser asks with OPTIONS what it may do.
    """
    if not allowed:
        return []
    if allowed == ("*",):
        headers = [("Access-Control-Allow-Origin", "*"), _EXPOSED]
    elif origin in allowed and origin is not None:
        headers = [("Access-Control-Allow-Origin", origin), _EXPOSED, ("Vary", "Origin")]
    else:
        return [("Vary", "Origin")]
    return headers + _PREFLIGHT if preflight else headers


def is_trusted(host: str, trusted: tuple[str, ...]) -> bool:
    """Whether a request for this host is answered.

    Args:
        host: The request's ``Host``, with its port or without.
        trusted: Canonical host names; one with a leading dot means every name below too.
    """
    try:
        name = normalise_host(split_port(host)[0])
    except AddressError:
        return False
    return any(
        name == entry.removeprefix(".") or (entry[0] == "." and name.endswith(entry))
        for entry in trusted
    )
