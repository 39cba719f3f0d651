"""Which scripts of other origins may read our answers: the Fetch standard's CORS. Pure."""

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
