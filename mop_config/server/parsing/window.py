"""Window: the time in which an entry is served, and the planned changes that follow from windows.

A window is half-open: its entry is served from ``start`` on, and until just before ``end``. Pure.
"""

import re
from datetime import UTC, datetime
from typing import NamedTuple, TypedDict

from ...errors import AddressError
from ...model.codec import rfc3339
from ...model.endpoint import Kind
from .problems import Code

_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_MOMENT = re.compile(
    rf"{_DATE.pattern}[Tt][0-9]{{2}}:[0-9]{{2}}:[0-9]{{2}}(\.[0-9]{{1,6}})?([Zz]|[+-][0-9]{{2}}:[0-9]{{2}})"
)
FOREVER = float("inf")


class Window(NamedTuple):
    """The time in which an entry is served.

    Attributes:
        start: POSIX seconds of the first moment.
        end: POSIX seconds of the first moment after the window.
    """

    start: float = -FOREVER
    end: float = FOREVER

    def holds(self, at: float) -> bool:
        """Whether a moment lies in the window."""
        return self.start <= at < self.end

    def overlaps(self, other: "Window") -> bool:
        """Whether some moment lies in both windows."""
        return self.start < other.end and other.start < self.end


ALWAYS = Window()


class PlannedDocument(TypedDict):
    """A planned change as a JSON object; the time is RFC 3339."""

    at: str
    change: str
    kind: str
    url: str


class PlannedChange(NamedTuple):
    """A boundary that is still to come.

    Attributes:
        at: POSIX seconds of the boundary.
        kind: Kind of the endpoint.
        added: Whether the endpoint is served from then on; else until then.
        url: URL of the endpoint.
    """

    at: float
    kind: Kind
    added: bool
    url: str

    def as_dict(self) -> PlannedDocument:
        """Return the change as the status document and ``check --json`` show it."""
        change = "added" if self.added else "removed"
        return {"at": rfc3339(self.at), "change": change, "kind": self.kind.value, "url": self.url}


def parse_moment(text: str, _host: str) -> float:
    """Return the POSIX seconds of an RFC 3339 time, or of a date, which means 00:00:00Z.

    Raises:
        AddressError: If the text is neither.
    """
    try:
        if _DATE.fullmatch(text):
            return datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()
        if _MOMENT.fullmatch(text):
            return datetime.fromisoformat(text.upper()).timestamp()
    except (ValueError, OverflowError):
        pass
    form = "a time such as 2027-01-31T18:00:00Z, or a date such as 2027-01-31, which means 00:00Z"
    raise AddressError(Code.BAD_WINDOW, f"from and until take {form}")


def window_of(start: float | None, end: float | None) -> Window | None:
    """Return the window of an entry with these attributes; None if it has neither.

    Raises:
        AddressError: If the window is empty.
    """
    if start is None and end is None:
        return None
    window = Window(-FOREVER if start is None else start, FOREVER if end is None else end)
    if window.end <= window.start:
        raise AddressError(Code.BAD_WINDOW, "until must be later than from")
    return window
