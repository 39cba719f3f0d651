"""What commands print, so that a terminal obeys nothing that came from outside."""

import json
import re
from typing import Any

import click

from ..server.logs.format import printable
from ..server.parsing.problems import Problem
from ..server.settings import Settings

_UNPRINTABLE = re.compile(r"[^\x20-\x7e\n]")


def say(line: str, *, err: bool = False) -> None:
    """Print one line, with control and format characters escaped."""
    click.echo(printable(line), err=err)


def warn(settings: Settings, problems: tuple[Problem, ...]) -> None:
    """Print what is odd in the settings and in a file on standard error, each with its severity."""
    for warning in settings.warnings:
        say(f"mop-config: warning: {warning}", err=True)
    for problem in problems:
        say(f"mop-config: {problem}", err=True)


def blanked(text: str, keep: str = "") -> str:
    """Put a space in the place of each unprintable character: columns stay what they are."""
    return "".join(c if c.isprintable() or c in keep else " " for c in text)


def json_text(document: Any, indent: int | None = 2) -> str:
    """Write JSON for people and programs: readable letters, and escapes for all else.

    ``json.dumps`` alone leaves C1 control characters and bidirectional overrides as they are.
    """
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return _UNPRINTABLE.sub(lambda c: c[0] if c[0].isprintable() else json.dumps(c[0])[1:-1], text)
