"""Print text from outside with control characters escaped, so that the terminal obeys none."""

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
    """Return whether a person is at the terminal."""
    return sys.stdin.isatty() and sys.stdout.isatty()


def warn(settings: Settings, problems: tuple[Problem, ...]) -> None:
    """Print the warnings of the settings and the problems of a file on standard error."""
    for warning in settings.warnings:
        say(f"mop-config: warning: {warning}", err=True)
    for problem in problems:
        say(f"mop-config: {problem}", err=True)


def json_text(document: Any, indent: int | None = 2) -> str:
    """Return JSON with printable letters as they are and all other characters escaped.

    ``json.dumps`` alone leaves C1 control characters and bidirectional overrides as they are.
    """
    text = json.dumps(document, ensure_ascii=False, indent=indent)
    return replace_unprintable(text, lambda character: json.dumps(character)[1:-1], keep="\n")
