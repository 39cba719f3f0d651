"""Who is answered, under which name, and whose scripts may read the answers. Pure.

Tokens are those of RFC 6750, or of RFC 7617 in a browser. That a request names a host that
is served here guards against DNS rebinding; the last is CORS, of the Fetch standard.
"""

import base64
import binascii
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from ...errors import AddressError
from ...model.address import normalise_host, split_port
from ..serving.snapshot import Headers
from ..settings import TOKEN
from .tokens import Token

#: Where a request holds the name of the token that it has shown.
USER = "mop_config.user"

#: Liveness and readiness are asked by programs that hold no secret.
OPEN_PATHS = frozenset({"/health", "/api/v1/health", "/ready"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: What a browser that asks its user for a password sends by itself, from any page: it must
#: not change anything.
_BY_BROWSER = frozenset({"GET", "HEAD"})

_BEARER = 'Bearer realm="mop-config"'
_BASIC = 'Basic realm="mop-config", charset="UTF-8"'

_PREFLIGHT: Headers = [
    ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
    ("Access-Control-Allow-Headers", "Authorization, If-Modified-Since, If-None-Match"),
    ("Access-Control-Max-Age", "600"),
]
_EXPOSED = ("Access-Control-Expose-Headers", "ETag, Preference-Applied, Retry-After")


class Credentials(NamedTuple):
    """What an ``Authorization`` header holds.

    Attributes:
        scheme: ``bearer``, ``basic``, or empty where there is none that we know.
        token: What is shown as a token, or None where the header is malformed.
    """

    scheme: str
    token: str | None


class Refusal(NamedTuple):
    """Why a request is not answered.

    Attributes:
        status: HTTP status code.
        detail: The reason, for a person.
        challenges: Values of ``WWW-Authenticate``.
        user: Whose token was shown, where it is a good one that may not do this.
    """

    status: int
    detail: str
    challenges: tuple[str, ...]
    user: str | None = None


def credentials(authorization: str | None) -> Credentials:
    """Read an ``Authorization`` header: Bearer, or Basic with the token as the password."""
    scheme, _, value = (authorization or "").strip().partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme == "bearer":
        return Credentials(scheme, value if TOKEN.fullmatch(value) else None)
    if scheme != "basic":
        return Credentials("", None)
    try:
        _, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, ValueError):
        return Credentials(scheme, None)
    return Credentials(scheme, password if colon else None)


def needs_token(method: str, path: str, *, preflight: bool) -> bool:
    """Whether a request has to show a token, where tokens are set."""
    return path not in OPEN_PATHS and not (preflight and method == "OPTIONS")


def authorise(
    authorization: str | None, method: str, find: Callable[[str], Token | None]
) -> Token | Refusal:
    """Decide whether a request that needs a token is answered: RFC 6750, section 3.1.

    Args:
        authorization: The request's ``Authorization``, or None.
        method: The request's method: one that may change something takes an admin's token,
            and none that a browser would send by itself.
        find: Finds the token that somebody shows.

    Returns:
        Whose token it is, or why the request is refused.
    """
    browsing = method in _BY_BROWSER
    shown = credentials(authorization)
    if not shown.scheme:
        return _refusal(401, "", "a token is needed", browsing=browsing)
    if shown.scheme == "basic" and not browsing:
        return _refusal(401, "", "only a bearer token may do this", browsing=False)
    if shown.token is None:
        detail = "the Authorization header holds no token"
        return _refusal(400, "invalid_request", detail, browsing=browsing)
    # A mistyped password is asked for once more.
    token = find(shown.token) if TOKEN.fullmatch(shown.token) else None
    if token is None:
        return _refusal(401, "invalid_token", "the token is not a known one", browsing=browsing)
    if method not in READING and not token.admin:
        detail = "an admin's token is needed"
        refusal = _refusal(
            403, "insufficient_scope", detail, browsing=False, more=', scope="admin"'
        )
        return refusal._replace(user=token.name)
    return token


def _refusal(status: int, error: str, detail: str, *, browsing: bool, more: str = "") -> Refusal:
    bearer = _BEARER + (f', error="{error}"' if error else "") + more
    ask_browser = browsing and status == HTTPStatus.UNAUTHORIZED
    return Refusal(status, detail, (bearer, _BASIC) if ask_browser else (bearer,))


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
        name = normalise_host(split_port(host)[0], underscores=True)
    except AddressError:
        return False
    return any(
        name == entry.removeprefix(".") or (entry[0] == "." and name.endswith(entry))
        for entry in trusted
    )
