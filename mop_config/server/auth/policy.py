"""The rules of access: authorisation by token, trusted hosts, and CORS. Pure.

A token is a Bearer token (RFC 6750), or in a browser the password of Basic authentication
(RFC 7617). Trusted hosts guard against DNS rebinding. CORS follows the Fetch standard.
"""

import base64
from collections.abc import Callable
from http import HTTPStatus
from typing import NamedTuple

from ...errors import AddressError
from ...model.address import normalise_host, split_port
from ..serving.snapshot import Headers
from ..settings import TOKEN
from .tokens import Token

#: Key of the WSGI environment that holds the name of a request's token.
USER = "mop_config.user"

#: Paths of the health checks, whose callers have no token.
OPEN_PATHS = frozenset({"/health", "/api/v1/health", "/ready"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: Methods for which Basic authentication is accepted. A browser sends stored passwords by itself,
#: from any page, so they must not authorise a change.
_BY_BROWSER = frozenset({"GET", "HEAD"})

_BEARER = 'Bearer realm="mop-config"'
_BASIC = 'Basic realm="mop-config", charset="UTF-8"'

_PREFLIGHT: Headers = (
    ("Access-Control-Allow-Methods", "GET, HEAD, OPTIONS"),
    ("Access-Control-Allow-Headers", "Authorization, If-Modified-Since, If-None-Match"),
    ("Access-Control-Max-Age", "600"),
)
_EXPOSED = ("Access-Control-Expose-Headers", "ETag, Preference-Applied, Retry-After")


class Refusal(NamedTuple):
    """The refusal of a request.

    Attributes:
        status: HTTP status code.
        detail: The reason in words.
        challenges: Values of ``WWW-Authenticate``.
        user: The name of the token if it is valid but lacks the permission, else None.
    """

    status: int
    detail: str
    challenges: tuple[str, ...]
    user: str | None = None


def credentials(authorization: str | None) -> tuple[str, str | None]:
    """Read an ``Authorization`` header: Bearer, or Basic with the token as the password.

    Returns:
        ``bearer``, ``basic``, or empty for no header or another scheme; and the token, or None if
        the header is malformed.
    """
    scheme, _, value = (authorization or "").strip().partition(" ")
    scheme, value = scheme.lower(), value.strip()
    if scheme == "bearer":
        return scheme, value if TOKEN.fullmatch(value) else None
    if scheme != "basic":
        return "", None
    try:
        _, colon, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:
        return scheme, None
    return scheme, password if colon else None


def authorise(
    authorization: str | None,
    method: str,
    find: Callable[[str], Token | None],
    *,
    reads: bool = False,
) -> Token | Refusal:
    """Authorise a request that needs a token: RFC 6750, section 3.1.

    Args:
        authorization: The request's ``Authorization``, or None if the header is absent.
        method: The request's method. A method that may change something needs an admin token in a
            Bearer header.
        find: Returns the known token with a text, or None.
        reads: Whether a read token suffices although the method may change something.

    Returns:
        The token, or the refusal.
    """
    browsing = method in _BY_BROWSER
    scheme, shown = credentials(authorization)
    if not scheme:
        return _refusal(401, "", "a token is needed", browsing=browsing)
    if scheme == "basic" and not browsing:
        return _refusal(401, "", "only a bearer token may do this", browsing=False)
    if shown is None:
        detail = "the Authorization header holds no token"
        return _refusal(400, "invalid_request", detail, browsing=browsing)
    # A malformed password gets 401, not 400, so that a browser asks its user again.
    token = find(shown) if TOKEN.fullmatch(shown) else None
    if token is None:
        return _refusal(401, "invalid_token", "the token is not a known one", browsing=browsing)
    if method not in READING and not reads and not token.admin:
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
    """Return the CORS headers of a response.

    Args:
        allowed: The origins whose scripts may read responses, ``("*",)`` for any, empty for none.
        origin: The request's ``Origin``, or None.
        preflight: Whether the request is a CORS preflight.
    """
    if not allowed:
        return ()
    headers: Headers
    if allowed == ("*",):
        headers = (("Access-Control-Allow-Origin", "*"), _EXPOSED)
    elif origin in allowed and origin is not None:
        headers = (("Access-Control-Allow-Origin", origin), _EXPOSED, ("Vary", "Origin"))
    else:
        return (("Vary", "Origin"),)
    return headers + _PREFLIGHT if preflight else headers


def client_address(peer: str, forwarded: str, trusted: str) -> str:
    """Return the address of the client, behind trusted proxies.

    Args:
        peer: Address of the connection's other end; empty for a Unix socket, which only a proxy of
            this machine can reach.
        forwarded: The request's ``X-Forwarded-For``; each proxy appends the address it sees.
        trusted: Addresses of the proxies, separated by commas; ``*`` trusts every address.
    """
    proxies = {"", *(name.strip() for name in trusted.split(","))}
    hops = [*filter(None, (hop.strip() for hop in forwarded.split(","))), peer]
    while len(hops) > 1 and (hops[-1] in proxies or "*" in proxies):
        hops.pop()
    return hops[-1]


def is_trusted(host: str, trusted: tuple[str, ...]) -> bool:
    """Whether requests for a host are answered.

    Args:
        host: The request's ``Host``, with or without a port.
        trusted: Canonical host names; a name with a leading dot includes its subdomains.
    """
    try:
        name = normalise_host(split_port(host)[0], underscores=True)
    except AddressError:
        return False
    return any(
        name == entry.removeprefix(".") or (entry[0] == "." and name.endswith(entry))
        for entry in trusted
    )
