"""Problems of an endpoint file: their codes and severities. Pure."""

from enum import StrEnum
from typing import NamedTuple, TypedDict, cast

#: Problems that are kept; the others are only counted.
MAX_KEPT = 100


class Severity(StrEnum):
    """An error excludes its entry, or the whole file; a warning does not."""

    ERROR = "error"
    WARNING = "warning"


class Code(StrEnum):
    """The codes of all problems; ``docs/problems.md`` explains each.

    Attributes:
        severity: The severity that a problem of this code always has.
    """

    severity: Severity

    def __new__(cls, name: str, severity: Severity = Severity.ERROR) -> "Code":
        """Make a member from its name and its severity."""
        code = str.__new__(cls, name)
        code._value_, code.severity = name, severity
        return code

    # Warnings: the entry is used.
    IP_IN_DOMAIN_LIST = "ip-in-domain-list", Severity.WARNING
    NAME_IN_IP_LIST = "name-in-ip-list", Severity.WARNING
    DUPLICATE = "duplicate", Severity.WARNING
    FEW_ENDPOINTS = "few-endpoints", Severity.WARNING
    PLAIN_HTTP = "plain-http", Severity.WARNING
    INVISIBLE = "invisible", Severity.WARNING
    IPV6_WITHOUT_PORT = "ipv6-without-port", Severity.WARNING
    EXPIRED = "expired", Severity.WARNING
    PLAN_REFUSED = "plan-refused", Severity.WARNING

    # Warnings about the process rather than the file.
    SETTING = "setting", Severity.WARNING
    NO_HOOKS = "no-hooks", Severity.WARNING
    STATE_FOLDER = "state-folder", Severity.WARNING
    TOKENS_LINE = "token-line", Severity.WARNING

    # An error of the process: the reload thread does not respond.
    LATE = "late"

    # Errors: the entry is not used, the others are.
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
    BAD_WINDOW = "bad-window"
    MISSING_COLON = "missing-colon"
    UNKNOWN_SECTION = "unknown-section"
    NO_SECTION = "no-section"

    # Errors: the whole file is rejected.
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
    TOO_FEW = "too-few"
    TOO_MANY_REMOVED = "too-many-removed"
    STRICT = "strict"


class ProblemRecord(TypedDict):
    """The JSON object of a problem in the status and in ``check --json``."""

    severity: str
    code: str
    line: int
    column: int
    message: str
    text: str


class Problem(NamedTuple):
    """One problem, with its place in the file.

    Attributes:
        line: Line of the entry, counted from 1; 1 for a problem of the whole file.
        column: Column of the entry in code points, counted from 1.
        severity: Error or warning; the code determines which.
        code: The kind of problem.
        message: The reason, in words.
        text: The entry, shortened and without user name and password; empty for a problem of
            the whole file.
        word: Column of the word at fault if that is not the first word of the entry, else 0.
    """

    line: int
    column: int
    severity: Severity
    code: Code
    message: str
    text: str
    word: int = 0

    @classmethod
    def of(cls, code: Code, message: str, line: int = 1, column: int = 1) -> "Problem":
        """Make a problem of a whole file, or of the process."""
        return cls(line, column, code.severity, code, message, "")

    def as_dict(self) -> ProblemRecord:
        """Return the JSON object for the status and ``check --json``."""
        members = {name: getattr(self, name) for name in ProblemRecord.__annotations__}
        return cast(ProblemRecord, members)

    def __str__(self) -> str:
        if not self.text:
            return f"{self.severity}: {self.message}"
        where = f"line {self.line}, column {self.word or self.column}"
        return f"{self.severity}: {where}: {self.message} ({self.text!r})"
