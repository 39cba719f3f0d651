"""The difference of two texts: line by line, and by their endpoints."""

import difflib
import sys
import time
from typing import NamedTuple

import click

from ..errors import SourceError
from ..model.address import without_userinfo
from ..model.codec import Difference
from ..model.printable import blanked
from ..server.parsing.render import EMPTY_BODY, Rendering, render
from ..server.settings import Settings

#: Number of lines above which texts are compared by their endpoints only.
MOST_LINES = 20_000


class TextDifference(NamedTuple):
    """The difference of two texts.

    Attributes:
        lines: The difference in the unified format, or None for texts too long to compare.
        change: The endpoints that differ, or None if the newer text has no list.
    """

    lines: list[str] | None
    change: Difference | None

    @classmethod
    def between(
        cls, old: bytes, new: bytes, names: tuple[str, str], settings: Settings
    ) -> "TextDifference":
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
        return cls(lines, changed_endpoints(old, new, settings))

    def print(self) -> None:
        """Print the lines, with colours on a terminal, and the number of endpoints."""
        print_lines(self.lines or [])
        if self.change is not None:
            click.echo(str(self.change))

    def as_dict(self) -> dict[str, object]:
        """Return the members ``diff`` and ``change`` of a JSON document."""
        change = self.change._asdict() if self.change else None
        return {"diff": self.lines, "change": change}


def print_lines(lines: list[str]) -> None:
    """Print a difference in the unified format, with colours on a terminal."""
    for line in lines:
        colour = {"+": "green", "-": "red"}.get(line[:1]) if sys.stdout.isatty() else None
        click.echo(click.style(line, fg=colour) if colour else line)


def changed_endpoints(old: bytes, new: bytes, settings: Settings) -> Difference | None:
    """Compare the endpoints of two texts; return None if the newer text has no list."""
    before = _rendering(old, settings, EMPTY_BODY)
    after = _rendering(new, settings, before.body if before else EMPTY_BODY)
    return after.difference if after else None


def _rendering(data: bytes, settings: Settings, served: bytes) -> Rendering | None:
    try:
        return render(data, settings.rules, served, time.time())
    except SourceError:
        return None


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "replace")
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    shown = lines[:-1] if lines[-1] == "" else lines
    return [blanked(without_userinfo(line), keep="\t") for line in shown]
