"""The differences of two lists, endpoint by endpoint, and of two texts, line by line."""

import difflib
import time
from collections.abc import Sequence
from typing import NamedTuple

from ..errors import SourceError
from ..model.address import without_userinfo
from ..model.codec import Difference, EndpointChange, endpoint_changes, entry_of
from ..model.endpoint import EndpointConfig, Kind
from ..server.parsing.render import EMPTY_BODY, render, render_body
from ..server.settings import Settings
from .output import say

#: Number of lines above which texts are compared by their endpoints only.
MOST_LINES = 20_000
_COLOURS = {"-": "red", "+": "green", "~": "yellow"}
_MEMBERS = {"-": "removed", "+": "added", "~": "changed"}


def list_changes(before: EndpointConfig, after: EndpointConfig) -> list[EndpointChange]:
    """Compare two lists: first what is removed, then what is added, then what is changed."""
    changes = [
        change
        for kind in Kind
        for change in endpoint_changes(kind, before.kinds()[kind], after.kinds()[kind])
    ]
    return sorted(changes, key=lambda change: list(_MEMBERS).index(change.sign))


def print_changes(changes: Sequence[EndpointChange], prefix: str = "") -> None:
    """Print one line for each change, with a colour on a terminal.

    Args:
        changes: The changes; without any, only the order of the list has changed.
        prefix: A text before each change.
    """
    for sign, kind, endpoint, before in changes:
        was = f" (was {before.line.partition(' ')[2]})" if before else ""
        say(prefix, nl=False)
        say(f"{sign} {kind} {endpoint.line}{was}", fg=_COLOURS[sign])
    if not changes:
        say(f"{prefix}~ the order changed")


def changes_document(changes: Sequence[EndpointChange]) -> dict[str, list[dict[str, object]]]:
    """Return the changes as the members ``added``, ``removed`` and ``changed`` of a document."""
    document: dict[str, list[dict[str, object]]] = {name: [] for name in _MEMBERS.values()}
    for sign, kind, endpoint, before in changes:
        entry = {"kind": kind, **entry_of(endpoint)}
        if before is not None:
            entry["before"] = {"kind": kind, **entry_of(before)}
        document[_MEMBERS[sign]].append(entry)
    return document


class TextDifference(NamedTuple):
    """The difference of two texts.

    Attributes:
        lines: The difference in the unified format, or None for texts too long to compare.
        change: The endpoints that differ, or None if the newer text has no list.
    """

    lines: list[str] | None
    change: Difference | None

    def print(self) -> None:
        """Print the lines, with colours on a terminal, and the number of endpoints."""
        for line in self.lines or []:
            say(line, fg=_COLOURS.get(line[:1]))
        if self.change is not None:
            say(str(self.change))

    def as_dict(self) -> dict[str, object]:
        """Return the members ``diff`` and ``change`` of a JSON document."""
        return {"diff": self.lines, "change": self.change and self.change._asdict()}


def text_difference(
    old: bytes, new: bytes, names: tuple[str, str], settings: Settings
) -> TextDifference:
    """Compare two texts.

    Args:
        old: The older text.
        new: The newer text.
        names: The names of the older and the newer text.
        settings: Settings by which the endpoints are read.
    """
    before, after = _lines(old), _lines(new)
    lines = None
    if max(len(before), len(after)) <= MOST_LINES:
        lines = list(difflib.unified_diff(before, after, *names, lineterm="", n=1))
    return TextDifference(lines, changed_endpoints(old, new, settings))


def changed_endpoints(old: bytes, new: bytes, settings: Settings) -> Difference | None:
    """Compare the endpoints of two texts; return None if the newer text has no list."""
    now = time.time()
    served = render_body(old, settings.rules, now) or EMPTY_BODY
    try:
        return render(new, settings.rules, served, now).difference
    except SourceError:
        return None


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [without_userinfo(line) for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
