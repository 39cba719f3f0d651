"""What can be wrong with an endpoint file: the codes, and a bounded collection of findings."""

from bisect import insort
from enum import StrEnum
from typing import NamedTuple, TypedDict

MAX_KEPT = 100
#: So many errors are kept in any case, also behind a hundred warnings.
MIN_ERRORS = 10
MAX_TEXT = 200
#: Problems that one log line names.
MAX_LOGGED = 5


class Severity(StrEnum):
    """An error leaves its entry (or the whole file) out; a warning leaves it in."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """Every kind of problem; ``docs/problems.md`` tells what to do about each."""

    # Warnings: the entry is used.
    IP_IN_DOMAIN_LIST = "ip-in-domain-list"
    NAME_IN_IP_LIST = "name-in-ip-list"
    DUPLICATE = "duplicate"
    FEW_ENDPOINTS = "few-endpoints"
    PLAIN_HTTP = "plain-http"
    INVISIBLE = "invisible"
    IPV6_WITHOUT_PORT = "ipv6-without-port"

    # Warnings about the process rather than the file.
    SETTING = "setting"
    NO_HOOKS = "no-hooks"
    STATE_FOLDER = "state-folder"

    # An error of the process: nobody follows the source.
    LATE = "late"

    # Errors: the entry is left out, the others are used.
    BAD_HOST = "bad-host"
    BAD_IP = "bad-ip"
    BAD_PORT = "bad-port"
    BAD_URL = "bad-url"
    BAD_SCHEME = "bad-scheme"
    CIDR = "cidr"
    USERINFO = "userinfo"
    UNKNOWN_ATTRIBUTE = "unknown-attribute"
    BAD_PRIORITY = "bad-priority"
    BAD_SERVER_NAME = "bad-server-name"
    MISSING_COLON = "missing-colon"
    UNKNOWN_SECTION = "unknown-section"
    NO_SECTION = "no-section"

    # An error: a line of the token file is left out.
    TOKENS_LINE = "token-line"

    # Errors: the whole file is refused.
    MISSING = "missing"
    UNREADABLE = "unreadable"
    UNREACHABLE = "unreachable"
    NOT_REGULAR = "not-regular"
    NOT_UTF8 = "not-utf8"
    NUL = "nul"
    TOO_LARGE = "too-large"
    CHANGING = "changing"
    DETACHED = "detached"
    NO_ENDPOINTS = "no-endpoints"
    STRICT = "strict"

    @property
    def severity(self) -> Severity:
        """The severity that a problem of this code always has."""
        return Severity.WARNING if self in _WARNINGS else Severity.ERROR


_WARNINGS = frozenset(
    {
        Code.IP_IN_DOMAIN_LIST,
        Code.NAME_IN_IP_LIST,
        Code.DUPLICATE,
        Code.FEW_ENDPOINTS,
        Code.PLAIN_HTTP,
        Code.INVISIBLE,
        Code.IPV6_WITHOUT_PORT,
        Code.SETTING,
        Code.NO_HOOKS,
        Code.STATE_FOLDER,
    }
)


class ProblemRecord(TypedDict):
    """A problem in the form that ``status`` and ``check --json`` show."""

    severity: str
    code: str
    line: int
    column: int
    message: str
    text: str


class Problem(NamedTuple):
    """One finding, at its place in the file.

    ``line`` and ``column`` count from 1, the column in code points; a finding about the
    file as a whole stands at 1, 1, or where it stops being text, with an empty ``text``.
    Else ``text`` is the offending entry, shortened; it never holds a user name or password.
    ``word`` is the column of the word at fault, where that is not the entry's first, else 0.
    """

    line: int
    column: int
    severity: Severity
    code: Code
    message: str
    text: str
    word: int = 0

    def as_dict(self) -> ProblemRecord:
        """Return the form that ``status`` and ``check --json`` show."""
        return {
            "severity": self.severity.value,
            "code": self.code.value,
            "line": self.line,
            "column": self.column,
            "message": self.message,
            "text": self.text,
        }

    def __str__(self) -> str:
        where = f"line {self.line}, column {self.word or self.column}: " if self.text else ""
        return f"{self.severity}: {where}{self.message}" + (
            f" ({self.text!r})" if self.text else ""
        )


def first_problems(problems: tuple[Problem, ...]) -> str:
    """Write the first problems as the end of a log line, errors before warnings."""
    ordered = sorted(problems, key=lambda problem: problem.severity is not Severity.ERROR)
    named = "; ".join(map(str, ordered[:MAX_LOGGED]))
    return f"; first problems: {named}" if named else ""


class Problems:
    """Findings in file order: the first 100 are kept, the counts are exact.

    A file of a million bad lines must not cost a million objects. The first ten errors are always
    among those that are kept: behind a hundred warnings they would be counted and never named.
    """

    def __init__(self) -> None:
        self.errors = 0
        self.warnings = 0
        self.first: list[Problem] = []
        self.first_errors: list[Problem] = []

    @property
    def kept(self) -> list[Problem]:
        """The findings that are kept, in file order."""
        hidden = [error for error in self.first_errors if error > self.first[-1]]
        if len(self.first) < MAX_KEPT or not hidden:
            return self.first
        # Fewer than ten errors are among the first, so that there are warnings to give way.
        warnings = [p for p in self.first if p.severity is Severity.WARNING]
        out = set(warnings[-len(hidden) :])
        return [problem for problem in self.first if problem not in out] + hidden

    def add(
        self, code: Code, line: int, column: int, message: str, text: str = "", word: int = 0
    ) -> None:
        """Note one finding; ``text`` is shortened to 200 characters."""
        severity = code.severity
        if severity is Severity.ERROR:
            self.errors += 1
        else:
            self.warnings += 1
        place = line, column
        first = _has_room(self.first, MAX_KEPT, place)
        error = severity is Severity.ERROR and _has_room(self.first_errors, MIN_ERRORS, place)
        if not (first or error):
            return
        if len(text) > MAX_TEXT:
            text = text[: MAX_TEXT - 1] + "…"
        problem = Problem(line, column, severity, code, message, text, word)
        if first:
            insort(self.first, problem)
            del self.first[MAX_KEPT:]
        if error:
            insort(self.first_errors, problem)
            del self.first_errors[MIN_ERRORS:]

    def extend(self, other: "Problems") -> None:
        """Take in the findings of a later step over the same file."""
        self.errors += other.errors
        self.warnings += other.warnings
        self.first = sorted(self.first + other.first)[:MAX_KEPT]
        self.first_errors = sorted(self.first_errors + other.first_errors)[:MIN_ERRORS]


def _has_room(kept: list[Problem], most: int, place: tuple[int, int]) -> bool:
    return len(kept) < most or place < kept[-1][:2]
