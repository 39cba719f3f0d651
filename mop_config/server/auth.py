"""Access: the grammar of tokens and of the token file, and the authorisation of requests.

A token is a Bearer token (RFC 6750), or in a browser the password of Basic authentication
(RFC 7617). Only the SHA-256 digests of tokens are kept.
"""

import base64
import hashlib
import hmac
import logging
import math
import re
import time
from typing import Any, NamedTuple

from ..errors import SourceError
from .parsing.problems import Code, Problem
from .serving.answers import ConditionalAnswer, problem
from .settings import TOKEN, Settings
from .sources.file import FileSource

logger = logging.getLogger(__name__)

#: Key of the WSGI environment that holds the name of a request's token.
USER = "mop_config.user"

#: Paths of the health checks, whose callers have no token.
OPEN_PATHS = frozenset({"/health", "/api/v1/health", "/ready"})
READING = frozenset({"GET", "HEAD", "OPTIONS"})
#: The end of the path of reports, for which a read token suffices: a report changes no list.
REPORTS = "/reports"
#: Methods for which Basic authentication is accepted. A browser sends stored passwords by itself,
#: from any page, so they must not authorise a change.
_BY_BROWSER = frozenset({"GET", "HEAD"})

_BEARER = 'Bearer realm="mop-config"'
_BASIC = 'Basic realm="mop-config", charset="UTF-8"'

NAME = re.compile(r"(?!env-[0-9]+$)[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
NAME_RULE = (
    "1 to 64 of A-Z a-z 0-9 . _ -, the first one a letter or a digit, and not env-1, env-2 …"
)
READ, ADMIN = "read", "admin"

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
    return NAME.fullmatch(text) is not None


def line_of(token: Token) -> str:
    """Return the line of the token file for a token."""
    return f"{token.name}:{token.digest.hex()}:{ADMIN if token.admin else READ}"


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


def _refusal(
    status: int, detail: str, error: str = "", *, basic: bool = False
) -> ConditionalAnswer:
    """Return a problem document with its challenges; Basic's makes a browser ask its user."""
    challenges = (_BEARER + error, _BASIC) if basic else (_BEARER + error,)
    return problem(status, detail).adding(*(("WWW-Authenticate", each) for each in challenges))


MAX_BYTES = 1 << 20
#: Limit of one read of the file in seconds; a start also reads the source, and may take 5 s in all.
LOOK = 1.5
#: Seconds for which a changed file must stay the same before it is read: a save may take a moment.
SETTLED = 0.5
#: Seconds after which a file that keeps changing is read nevertheless.
LONGEST = 5.0
#: Seconds after which a read is repeated that this process had no descriptor for.
AGAIN = 5.0
#: Limit of the bad lines that are reported one by one.
MAX_FAULTS = 20


class TokenAuthenticator:
    """Authenticates requests by their tokens, and follows the token file; no method raises.

    While the token file cannot be read or has no good line, every request is refused, also a
    request with a token of the environment. So removing all tokens from the file can never open the
    server.

    Args:
        settings: The tokens of the environment, and the token file.

    Attributes:
        problems: The problems of the token file.
    """

    def __init__(self, settings: Settings) -> None:
        path = settings.tokens_file
        # The tokens of ``ENDPOINT_TOKENS`` are admin tokens.
        self._own = tuple(
            Token(f"env-{number}", digest(text), True)
            for number, text in enumerate(settings.tokens, 1)
        )
        self._tokens: tuple[Token, ...] = self._own if path is None else ()
        self._file = None if path is None else FileSource(path, MAX_BYTES, LOOK)
        self.problems: tuple[Problem, ...] = ()
        self._due = self._latest = math.inf  # monotonic time of the next read, and its limit
        if self._file is not None:
            self._seen = self._file.fingerprint()
            self._read(self._file)

    def find(self, shown: str) -> Token | None:
        """Return the known token with this text, or None.

        Every digest is compared, in constant time, so that the duration reveals nothing.
        """
        wanted = digest(shown)
        matches = [t for t in self._tokens if hmac.compare_digest(t.digest, wanted)]
        return matches[0] if matches else None

    def authorise(self, environ: dict[str, Any]) -> ConditionalAnswer | None:
        """Authorise a request that needs a token: RFC 6750, section 3.1.

        Args:
            environ: The request in WSGI's form; the name of a known token is noted in it. A method
                that may change something needs an admin token in a Bearer header; a client's
                report, a read token.

        Returns:
            The refusal, or None if the request is authorised.
        """
        method = environ["REQUEST_METHOD"]
        browsing = method in _BY_BROWSER
        scheme, shown = credentials(environ.get("HTTP_AUTHORIZATION"))
        if not scheme:
            return _refusal(401, "a token is needed", basic=browsing)
        if scheme == "basic" and not browsing:
            return _refusal(401, "only a bearer token may do this")
        if shown is None:
            detail = "the Authorization header holds no token"
            return _refusal(400, detail, ', error="invalid_request"')
        # A malformed password gets 401, not 400, so that a browser asks its user again.
        token = self.find(shown) if TOKEN.fullmatch(shown) else None
        if token is None:
            detail = "the token is not a known one"
            return _refusal(401, detail, ', error="invalid_token"', basic=browsing)
        environ[USER] = token.name
        changes = method not in READING and not environ["PATH_INFO"].endswith(REPORTS)
        if changes and not token.admin:
            more = ', error="insufficient_scope", scope="admin"'
            return _refusal(403, "an admin's token is needed", more)
        return None

    def refresh(self) -> None:
        """Check the token file, and read it if it has changed and then stayed the same (debounce).

        The reload thread calls this method after each of its turns.
        """
        file = self._file
        if file is None:
            return
        now = time.monotonic()
        fingerprint = file.fingerprint()
        if fingerprint != self._seen:
            self._seen = fingerprint
            if self._due == math.inf:
                self._latest = now + LONGEST
            self._due = min(now + SETTLED, self._latest)
        if now >= self._due:
            self._due = math.inf
            self._read(file)

    def _read(self, file: FileSource) -> None:
        tokens: tuple[Token, ...] = ()
        faults: tuple[TokenFault, ...] = ()
        failure, detached = f"{file} holds no token", ""
        try:
            text = file.read()
            tokens, faults = parse(text.data)
            detached = text.detached
        except SourceError as error:
            if error.code == Code.CHANGING:
                return  # the next check sees the change
            failure = str(error)
        except OSError as error:  # this process has no descriptor left; the file may be good
            logger.warning("the tokens in %s cannot be read now: %s", file, error.strerror)
            self._due = self._latest = time.monotonic() + AGAIN
            return
        self._tokens = self._own + tokens if tokens else ()
        if tokens:
            logger.info("tokens: %d in %s", len(tokens), file)
        else:
            logger.error("tokens: %s: nobody is admitted until it holds a good line", failure)
        problems = [
            Problem.of(Code.TOKENS_LINE, f"{file}, line {line}: {message}", line)
            for line, message in faults[:MAX_FAULTS]
        ]
        if faults:
            told = "; ".join(problem.message for problem in problems)
            logger.error("tokens: bad lines, %d of them: %s", len(faults), told)
        if detached:
            logger.error("tokens: %s", detached)
            problems.append(Problem.of(Code.DETACHED, detached))
        self.problems = tuple(problems)
