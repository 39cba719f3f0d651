"""The attributes that may follow an address, and Window, the time in which an entry is served.

A window is half-open: its entry is served from ``start`` on, and until just before ``end``. Pure.
"""

import contextlib
import re
from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from typing import Any, NamedTuple

from ...errors import AddressError
from ...model.address import is_ip
from ...model.endpoint import MAX_DATE, Kind, canonical_server_name, rfc3339
from .problems import Code

_DATE = r"[0-9]{4}-[0-9]{2}-[0-9]{2}"
_TIME = r"T[0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]+)?(Z|[+-][0-9]{2}:[0-9]{2})"
_MOMENT = re.compile(f"{_DATE}({_TIME})?", re.IGNORECASE)
MAX_PRIORITY = 65535
FOREVER = float("inf")


class Window(NamedTuple):
    """The time in which an entry is served.

    Attributes:
        start: POSIX seconds of the first moment.
        end: POSIX seconds of the first moment after the window.
    """

    start: float = -FOREVER
    end: float = FOREVER

    def overlaps(self, other: "Window") -> bool:
        """Whether some moment lies in both windows."""
        return self.start < other.end and other.start < self.end


ALWAYS = Window()


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

    def as_dict(self) -> dict[str, str]:
        """Return the change as the status document and ``check --json`` show it."""
        change = "added" if self.added else "removed"
        return {"at": rfc3339(self.at), "change": change, "kind": self.kind.value, "url": self.url}


def _parse_moment(text: str, _host: str) -> float:
    """Return the POSIX seconds of an RFC 3339 time, or of a date, which means 00:00:00Z.

    With its offset, a time may lie outside the years that UTC can be written in: the result is
    within 0 and ``MAX_DATE``.

    Raises:
        AddressError: If the text is neither.
    """
    with contextlib.suppress(ValueError, OverflowError):
        if match := _MOMENT.fullmatch(text):
            moment = text.upper() if match[1] else f"{text}T00:00:00Z"
            return min(max(0.0, datetime.fromisoformat(moment).timestamp()), MAX_DATE)
    form = "a time such as 2027-01-31T18:00:00Z, or a date such as 2027-01-31, which means 00:00Z"
    raise AddressError(Code.BAD_WINDOW, f"from and until take {form}")


def add_attribute(values: dict[str, Any], token: str, host: str) -> None:
    """Parse ``name=value`` after an address, and add the value to those of the entry.

    Raises:
        AddressError: If the attribute is unknown or is there already, or if its value is wrong.
    """
    name, equals, value = token.partition("=")
    name = name.lower()
    if name in values:
        raise AddressError(Code.UNKNOWN_ATTRIBUTE, f"{name} is given twice")
    if equals and name in ATTRIBUTES:
        _, parse_value = ATTRIBUTES[name]
        values[name] = parse_value(value, host)
        return
    near = get_close_matches(name, ATTRIBUTES, n=1)
    hint = f"did you mean {ATTRIBUTES[near[0]][0]}?" if near else "a comma separates two entries"
    *others, last = (form for form, _ in ATTRIBUTES.values())
    forms = f"{', '.join(others)} and {last}"
    raise AddressError(Code.UNKNOWN_ATTRIBUTE, f"after an address only {forms} may stand ({hint})")


def _parse_priority(text: str, _host: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) <= MAX_PRIORITY:
        return int(text)
    message = f"the priority must be a number from 0 to {MAX_PRIORITY}"
    raise AddressError(Code.BAD_PRIORITY, message)


def _parse_server_name(text: str, host: str) -> str:
    if not is_ip(host):
        raise AddressError(Code.BAD_SERVER_NAME, "server_name: only an IP address may have one")
    try:
        return canonical_server_name(text)
    except AddressError as error:
        raise AddressError(Code.BAD_SERVER_NAME, f"server_name: {error.message}") from None


#: The attributes that an entry may have: the form in messages, and the function that takes the text
#: of the value and the host of the entry, and returns the value.
ATTRIBUTES: dict[str, tuple[str, Callable[[str, str], Any]]] = {
    "priority": ("priority=N", _parse_priority),
    "server_name": ("server_name=HOST", _parse_server_name),
    "from": ("from=TIME", _parse_moment),
    "until": ("until=TIME", _parse_moment),
}
