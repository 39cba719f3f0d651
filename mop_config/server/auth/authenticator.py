"""TokenAuthenticator checks requests against the tokens of the environment and of a token file.

While the token file cannot be read or has no good line, every request is refused, also a request
with a token of the environment. So removing all tokens from the file can never open the server.
"""

import logging
import threading
import time
from typing import Any, NamedTuple

from ...errors import SourceError
from ..parsing.problems import Code, Problem
from ..settings import Settings
from ..sources.file import FileSource, Fingerprint, detached
from .tokens import (
    OPEN_PATHS,
    USER,
    Refusal,
    Token,
    TokenFault,
    authorise,
    find,
    from_environment,
    parse,
)

logger = logging.getLogger(__name__)

MAX_BYTES = 1 << 20
#: Limit of one read of the file in seconds; a start also reads the source, and may take 5 s in all.
LOOK = 1.5
#: Seconds without a check of the file after which a request checks it, because the reload thread
#: hangs or does not run.
NEGLECTED = 3.0
#: Seconds without a change before the file is read. An empty or missing file waits longer, because
#: an editor may be about to write it.
QUIET = 0.1
BLANK_QUIET = 1.0
#: Limit of the bad lines that are reported one by one.
MAX_FAULTS = 20


class Content(NamedTuple):
    """What a read of the token file has found; ``failure`` is why there may be no token."""

    tokens: tuple[Token, ...] = ()
    faults: tuple[TokenFault, ...] = ()
    failure: str = ""
    detached: bool = False


class TokenAuthenticator:
    """Authenticates requests by their tokens, and follows the token file; no method raises.

    Args:
        settings: The tokens of the environment, and the token file.

    Attributes:
        problems: The problems of the token file.
    """

    def __init__(self, settings: Settings) -> None:
        path = settings.tokens_file
        self._own = from_environment(settings.tokens)
        self._file = None if path is None else FileSource(path, MAX_BYTES, LOOK)
        self._tokens = self._own
        self.problems: tuple[Problem, ...] = ()
        self._lock = threading.Lock()
        self._signature: Fingerprint | None = None  # of the file when it was read last
        self._seen: Fingerprint | None = None  # at the last check
        self._content: Content | None = None
        self._since = self._looked_at = time.monotonic()
        if self._file is not None:
            self._seen = self._file.signature()
            self._read(self._file)

    def find(self, shown: str) -> Token | None:
        """Return the known token with this text, or None."""
        if self._file is not None and time.monotonic() - self._looked_at > NEGLECTED:
            self.refresh()
        return find(self._tokens, shown)

    def check(self, environ: dict[str, Any], *, reads: bool = False) -> Refusal | None:
        """Authorise a request, and note the name of its token in its environ.

        Args:
            environ: The request's WSGI environment (PEP 3333).
            reads: Whether a read token suffices although the method may change something.

        Returns:
            The refusal, or None if the request is authorised.
        """
        method = environ["REQUEST_METHOD"]
        preflight = "HTTP_ORIGIN" in environ and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ
        if environ["PATH_INFO"] in OPEN_PATHS or (preflight and method == "OPTIONS"):
            return None
        outcome = authorise(environ.get("HTTP_AUTHORIZATION"), method, self.find, reads=reads)
        if isinstance(outcome, Token):
            environ[USER] = outcome.name
            return None
        if outcome.user is not None:
            environ[USER] = outcome.user
        return outcome

    def admits(self, environ: dict[str, Any]) -> bool:
        """Whether a request has a valid token, for routes that are open without one."""
        shown = environ.get("HTTP_AUTHORIZATION")
        return not isinstance(authorise(shown, "GET", self.find), Refusal)

    def refresh(self) -> None:
        """Check the token file, and read it if it has changed and then stayed the same (debounce).

        While another thread checks the file, the method returns at once, since the disk may be
        slow.
        """
        file = self._file
        if file is None or not self._lock.acquire(blocking=False):
            return
        try:
            self._looked_at = time.monotonic()
            self._look(file)
        finally:
            self._looked_at = time.monotonic()
            self._lock.release()

    def _look(self, file: FileSource) -> None:
        now, signature = time.monotonic(), file.signature()
        if signature != self._seen:
            self._seen, self._since = signature, now
        quiet = BLANK_QUIET if signature.error or signature.blank else QUIET
        if signature != self._signature and now - self._since >= quiet:
            self._read(file)

    def _read(self, file: FileSource) -> None:
        content = Content()
        try:
            text = file.read()
            self._signature = text.signature
            content = Content(*parse(text.data), f"{file} holds no token", text.detached)
        except SourceError as error:
            if error.code != Code.CHANGING:
                self._signature = self._seen
            elif self._content is not None:
                return
            content = Content(failure=str(error))
        except OSError as error:  # this process has no descriptor left; the file may be good
            logger.warning("the tokens in %s cannot be read now: %s", file, error.strerror)
            self._signature = self._seen
            return
        if content != self._content:
            self._content = content
            self._use(file, content)

    def _use(self, file: FileSource, content: Content) -> None:
        tokens, faults, failure, is_detached = content
        self._tokens = self._own + tokens if tokens else ()
        if tokens:
            logger.info("tokens: %d in %s", len(tokens), file)
        else:
            logger.error("tokens: %s: nobody is admitted until it holds a good line", failure)
        if faults:
            told = "; ".join(f"line {line}: {message}" for line, message in faults[:MAX_FAULTS])
            logger.error("tokens: bad lines in %s, %d of them: %s", file, len(faults), told)
        problems = [
            Problem.of(Code.TOKENS_LINE, f"{file}, line {line}: {message}", line)
            for line, message in faults[:MAX_FAULTS]
        ]
        if is_detached:
            logger.error("tokens: %s", detached(file))
            problems.append(Problem.of(Code.DETACHED, detached(file)))
        self.problems = tuple(problems)
