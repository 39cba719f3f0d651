"""``mop-config check``: print the problems of an endpoint file before a server reads it."""

import sys

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..model.address import secret_part, without_userinfo
from ..model.endpoint import Kind
from ..model.printable import blanked, printable
from ..server.parsing.problems import Problem, Severity
from .env_file import env_file_option
from .input import Reading, not_empty, read
from .output import json_text, say

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow"}


@click.command(epilog="Example: mop-config check config/endpoints.txt --strict")
@click.argument("file", required=False, callback=not_empty)
@click.option("--strict", is_flag=True, help="Exit 1 for warnings too.")
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
@env_file_option
def check(file: str | None, strict: bool, as_json: bool) -> int:
    """Check FILE as the server would read it; 0 is good, 1 has errors.

    FILE defaults to ENDPOINT_CONFIG_FILE, else config/endpoints.txt.
    """
    reading, settings = read(file)
    bad = reading.errors > 0 or (strict and reading.warnings > 0)
    if as_json:
        print(json_text(_document(reading, ok=not bad)))
    else:
        for warning in settings.warnings:
            say(f"mop-config: {warning}", err=True)
        _print(reading, bad=bad)
    return int(bad)


def _document(reading: Reading, *, ok: bool) -> dict[str, object]:
    rendering = reading.rendering
    return {
        "file": reading.path,
        "ok": ok,
        "counts": {
            Kind.API: rendering.api_count if rendering else 0,
            Kind.SOCKETIO: rendering.socketio_count if rendering else 0,
            "errors": reading.errors,
            "warnings": reading.warnings,
        },
        "problems": [problem.as_dict() for problem in reading.problems],
    }


def _print(reading: Reading, *, bad: bool) -> None:
    # A verdict goes to standard output; a file that cannot be read at all is an error.
    failed = reading.refusal is not None and reading.rendering is None
    console = Console(file=sys.stderr if failed else sys.stdout, highlight=False, soft_wrap=True)
    if reading.refusal is not None and reading.rendering is None:
        console.print(Text(printable(f"mop-config: {reading.refusal}")))
        return
    for problem in reading.problems:
        _print_problem(console, reading, problem)
    left = reading.errors + reading.warnings - len(reading.problems)
    if left > 0:
        console.print(Text(f"… and {left} more"))
    rendering = reading.rendering
    counts = (
        f"{rendering.api_count} API and {rendering.socketio_count} Socket.io endpoints"
        if rendering
        else ""
    )
    verdict = Text(f"{printable(reading.path)}: ")
    verdict.append("bad" if bad else "ok", style="bold red" if bad else "bold green")
    verdict.append(f": {counts}, {_plural(reading.errors, 'error')},")
    verdict.append(f" {_plural(reading.warnings, 'warning')}")
    console.print(verdict)


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")


def _print_problem(console: Console, reading: Reading, problem: Problem) -> None:
    column = problem.word or problem.column
    place = f":{problem.line}:{column}" if problem.text else ""
    line = Text(f"{printable(reading.path)}{place}: ")
    line.append(f"{problem.severity}: ", style=_STYLES[problem.severity])
    line.append(f"{problem.message} [{problem.code}]")
    console.print(line)
    if problem.text:
        source, indent = quote(reading.lines[problem.line - 1], column)
        console.print(Text(f"    {source}"))
        console.print(Text(" " * (4 + indent)).append("^", style=_STYLES[problem.severity]))


def quote(line: str, column: int) -> tuple[str, int]:
    """Make a line printable, without a password.

    Args:
        line: The line as it stands in the file.
        column: Column of the problem, from 1, in code points.

    Returns:
        The line, and the number of terminal cells before the problem in it.
    """
    before, rest = line[: column - 1], line[column - 1 :]
    rest = without_userinfo(rest)
    if secret_part(line):
        before = "***, " if before.strip() else before
    before = blanked(before)
    indent = cell_len(before)
    if indent > 40:
        before, indent = "…", 1
    rest = blanked(rest)
    return before + (rest if len(rest) <= 100 else rest[:99] + "…"), indent
