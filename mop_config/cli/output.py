"""Print lines, JSON and the changes of a list, with external text escaped.

A terminal would execute control characters.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import click

from ..model.endpoint import EndpointChange, EndpointConfig, Kind, endpoint_changes, entry_of
from ..model.printable import plural, printable, replace_unprintable
from ..server.parsing.attributes import PlannedChange

#: The advice where this user lacks a permission. -E keeps the environment, which sudo removes.
AS_ROOT = "run this command with sudo (sudo -E unless --env-file is given)"
#: Units of time, in seconds, the largest first.
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
#: Maximum number of changes that are shown.
_MOST_CHANGES = 20
#: A certificate that ends within this number of days is shown as a warning.
CERTIFICATE_DAYS = 14
#: The colours and the JSON members of what is removed, added and changed.
COLOURS = {"-": "red", "+": "green", "~": "yellow"}
_MEMBERS = {"-": "removed", "+": "added", "~": "changed"}


def say(line: str, *, err: bool = False, nl: bool = True, **style: Any) -> None:
    """Print text with control and format characters escaped, and with colours on a terminal.

    Args:
        line: The text.
        err: Whether to print on standard error.
        nl: Whether to end the line.
        style: The options of ``click.style``, such as ``fg="red"``.
    """
    text = printable(line)
    text = click.style(text, **style) if any(style.values()) else text
    click.echo(text, err=err, nl=nl, color=False if os.environ.get("NO_COLOR") else None)


def complain(message: object) -> None:
    """Print a warning or an error on standard error, in one line."""
    say(f"mop-config: {' '.join(str(message).split())}", err=True)


def counts_of(config: EndpointConfig) -> str:
    """Return the numbers of endpoints of a list in words."""
    api, socketio = map(len, config.kinds().values())
    return f"{api} API and {socketio} Socket.io endpoints"


def plan_lines(planned: Sequence[PlannedChange], now: float) -> list[str]:
    """Return one line for each planned change, the next change first.

    Args:
        planned: The changes.
        now: POSIX seconds.
    """
    lines = [
        f"in {_duration(at - now)}: {'+' if added else '−'} {kind} {url}"
        for at, kind, added, url in planned[:_MOST_CHANGES]
    ]
    more = len(planned) - _MOST_CHANGES
    return [*lines, f"… and {more} more"] if more > 0 else lines


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    unit, size = next((unit for unit in _UNITS if seconds >= unit[1]), _UNITS[-1])
    return plural(max(1, round(seconds / size)), unit)


def json_text(document: Any, indent: int | None = 2) -> str:
    """Return JSON in which only unprintable characters are escaped.

    ``json.dumps`` alone leaves C1 control characters and bidirectional overrides unescaped.
    """
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return replace_unprintable(text, lambda character: json.dumps(character)[1:-1], keep="\n")


class ListChanges(list[EndpointChange]):
    """The changes of a list: first what is removed, then what is added, then what is changed.

    Args:
        before: The older list.
        after: The newer list.
    """

    def __init__(self, before: EndpointConfig, after: EndpointConfig) -> None:
        for kind in Kind:
            self.extend(endpoint_changes(kind, before.kinds()[kind], after.kinds()[kind]))
        self.sort(key=lambda change: list(_MEMBERS).index(change.sign))

    def print(self, prefix: str = "") -> None:
        """Print one line for each change, with a colour on a terminal.

        Args:
            prefix: A text before each change.
        """
        for sign, kind, endpoint, before in self:
            was = f" (was {before.line.partition(' ')[2]})" if before else ""
            say(prefix, nl=False)
            say(f"{sign} {kind} {endpoint.line}{was}", fg=COLOURS[sign])
        if not self:
            say(f"{prefix}~ the order changed")

    def as_dict(self) -> dict[str, list[object]]:
        """Return the members ``added``, ``removed`` and ``changed`` of a JSON document."""
        document: dict[str, list[object]] = {name: [] for name in _MEMBERS.values()}
        for sign, kind, endpoint, before in self:
            entry: dict[str, object] = {"kind": kind, **entry_of(endpoint)}
            if before is not None:
                entry["before"] = {"kind": kind, **entry_of(before)}
            document[_MEMBERS[sign]].append(entry)
        return document
