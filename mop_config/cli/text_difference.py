"""The difference of two texts: line by line, and by their endpoints."""

import difflib
import time
from typing import NamedTuple

from ..errors import SourceError
from ..model.address import without_userinfo
from ..model.codec import Difference
from ..server.parsing.render import EMPTY_BODY, render, render_body
from ..server.settings import Settings
from .output import say

#: Number of lines above which texts are compared by their endpoints only.
MOST_LINES = 20_000
_COLOURS = {"+": "green", "-": "red"}


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
