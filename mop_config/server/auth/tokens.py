"""Bearer tokens by their digests: the token file's grammar, and finding a token. Pure."""

import hashlib
import hmac
import re
from collections.abc import Iterable
from typing import NamedTuple

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = (
    "1 to 64 of A-Z a-z 0-9 . _ -, the first one a letter or a digit, and not env-1, env-2 …"
)
READ, ADMIN = "read", "admin"
#: Bad lines that are told one by one.
MAX_FAULTS = 20

_RESERVED = re.compile(r"env-[0-9]+")
_DIGEST = re.compile(r"[0-9A-Fa-f]{64}")
_COMMENT = re.compile(r"(?:^|\s)#.*")


class Token(NamedTuple):
    """Who may do what, without what they show for it.

    Attributes:
        name: Shown in logs.
        digest: SHA-256 of the token, 32 bytes.
        admin: Whether it may change things, or only read.
    """

    name: str
    digest: bytes
    admin: bool


class TokenFault(NamedTuple):
    """A line that is refused; it never holds the line's text, which may be a token."""

    line: int
    message: str


class Parsed(NamedTuple):
    """What a token file holds.

    Attributes:
        tokens: The good lines.
        faults: The first bad lines.
        bad: How many bad lines there are.
    """

    tokens: tuple[Token, ...]
    faults: tuple[TokenFault, ...]
    bad: int


def digest(token: str) -> bytes:
    """Give what is kept of a token."""
    return hashlib.sha256(token.encode()).digest()


def is_name(text: str) -> bool:
    """Whether a token may be called so."""
    return NAME.fullmatch(text) is not None and _RESERVED.fullmatch(text) is None


def line_of(token: Token) -> str:
    """Write a token's line of the file."""
    return f"{token.name}:{token.digest.hex()}:{ADMIN if token.admin else READ}"


def from_environment(tokens: Iterable[str]) -> tuple[Token, ...]:
    """Name the tokens of ``ENDPOINT_TOKENS``: ``env-1`` is the first; all may do everything."""
    return tuple(Token(f"env-{n}", digest(text), True) for n, text in enumerate(tokens, 1))


def parse(data: bytes) -> Parsed:
    """Read a token file: ``name:sha256-hex[:read|admin]`` a line, ``#`` starts a comment.

    A bad line is left out, the others are used. Never raises.
    """
    tokens: dict[bytes, Token] = {}
    faults: list[TokenFault] = []
    bad = 0
    text = data.removeprefix(b"\xef\xbb\xbf").decode("utf-8", "replace")
    for number, line in enumerate(re.split(r"\r\n|\r|\n", text), 1):
        entry = _COMMENT.sub("", line, count=1).strip()
        if not entry:
            continue
        found = _parse_line(entry)
        if isinstance(found, Token) and found.digest in tokens:
            # With two lines for one token, taking back one of them would take back nothing.
            found = f"the same token as {tokens[found.digest].name}'s; the first line holds"
        if isinstance(found, Token):
            tokens[found.digest] = found
            continue
        bad += 1
        if len(faults) < MAX_FAULTS:
            faults.append(TokenFault(number, found))
    return Parsed(tuple(tokens.values()), tuple(faults), bad)


def _parse_line(entry: str) -> Token | str:
    """Read a line, or say what is wrong with it."""
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
    """Find the token that somebody shows.

    Every entry is compared, in time that tells nothing about any of them.
    """
    wanted = digest(shown)
    found = None
    for token in tokens:
        if hmac.compare_digest(token.digest, wanted):
            found = token
    return found
