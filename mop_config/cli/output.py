"""Print external text with escaped control characters, which a terminal would execute."""

import json
import sys
from typing import Any

import click

from ..model.printable import printable, replace_unprintable
from ..server.parsing.problems import Problem
from ..server.settings import Settings


def say(line: str, *, err: bool = False) -> None:
    """Print one line, with control and format characters escaped."""
    click.echo(printable(line), err=err)


def may_ask() -> bool:
    """Return whether the command runs on a terminal, so that a user can answer."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def warn(settings: Settings, problems: tuple[Problem, ...]) -> None:
    """Print the warnings of the settings and the problems of a file on standard error."""
    for warning in settings.warnings:
        say(f"mop-config: warning: {warning}", err=True)
    for problem in problems:
        say(f"mop-config: {problem}", err=True)


def json_text(document: Any, indent: int | None = 2) -> str:
    """Return JSON in which only unprintable characters are escaped.

    ``json.dumps`` alone leaves C1 control characters and bidirectional overrides unescaped.
    """
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return replace_unprintable(text, lambda character: json.dumps(character)[1:-1], keep="\n")
