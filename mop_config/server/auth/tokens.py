"""Tokens as SHA-256 digests: the grammar of the token file, and authorisation by token. Pure.

A token is a Bearer token (RFC 6750), or in a browser the password of Basic authentication
(RFC 7617).
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable
from http import HTTPStatus
from typing import NamedTuple

from ..settings import TOKEN

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

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = (
    "1 to 64 of A-Z a-z 0-9 . _ -, the first one a letter or a digit, and not env-1, env-2 …"
)
READ, ADMIN = "read", "admin"

_RESERVED = re.compile(r"env-[0-9]+")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_COMMENT = re.compile(r"(?:^|\s)#.*")


class Token(NamedTuple):
    """A known token, without its text.

    Attributes:
        name: The name in logs.
        digest: SHA-256 of the text, 32 bytes.
        admin: Whether the token allows changes as well as reading.
    """

    name: str
    digest: bytes
    admin: bool


#: The number of a bad line, and the reason. Its text may be a token, so it is left out.
TokenFault = tuple[int, str]


def digest(token: str) -> bytes:
    """Return the digest that is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def is_name(text: str) -> bool:
    """Whether a text is allowed as the name of a token."""
    return NAME.fullmatch(text) is not None and _RESERVED.fullmatch(text) is None


def line_of(token: Token) -> str:
    """Return the line of the token file for a token."""
    return f"{token.name}:{token.digest.hex()}:{ADMIN if token.admin else READ}"


def from_environment(tokens: Iterable[str]) -> tuple[Token, ...]:
    """Return the tokens of ``ENDPOINT_TOKENS``, named ``env-1`` and so on; all are admin tokens."""
    return tuple(Token(f"env-{n}", digest(text), True) for n, text in enumerate(tokens, 1))


def parse(data: bytes) -> tuple[tuple[Token, ...], tuple[TokenFault, ...]]:
    """Parse a token file: one ``name:sha256-hex[:read|admin]`` per line, ``#`` starts a comment.

    Bad lines are left out, and the other lines are used. Never raises.

    Returns:
        The tokens of the good lines, and the bad lines.
    """
    tokens: dict[bytes, Token] = {}
    faults: list[TokenFault] = []
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        entry = _COMMENT.sub("", line, count=1).strip()
        if not entry:
            continue
        found = _parse_line(entry)
        if isinstance(found, str):
            faults.append((number, found))
        elif found.digest in tokens:
            # If both lines counted, removing one of them would not revoke the token.
            first = tokens[found.digest].name
            faults.append((number, f"the same token as {first}'s; the first line holds"))
        else:
            tokens[found.digest] = found
    return tuple(tokens.values()), tuple(faults)


def _parse_line(entry: str) -> Token | str:
    """Return the token of a line, or the message about a bad line."""
    name, *rest = (part.strip() for part in entry.split(":"))
    if len(rest) not in {1, 2}:
        return "not of the form name:sha256-hex[:read|admin]"
    if not is_name(name):
        return f"a name must be {NAME_RULE}"
    if not _DIGEST.fullmatch(rest[0]):
        return "after the name must stand the token's SHA-256, 64 hexadecimal digits"
    scope = rest[1] if len(rest) == 2 else READ
    if scope not in {READ, ADMIN}:
        return "the last part must be read or admin"
    return Token(name, bytes.fromhex(rest[0]), scope == ADMIN)


def find(tokens: Iterable[Token], shown: str) -> Token | None:
    """Return the known token with this text, or None.

    Every digest is compared, in constant time, so that the duration reveals nothing.
    """
    wanted = digest(shown)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, wanted):
            found = token
    return found


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
