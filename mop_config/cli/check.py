"""``mop-config check``: print the problems of an endpoint file before a server reads it."""

import sys
import time

import click
from rich.cells import cell_len
from rich.console import Console
from rich.text import Text

from ..errors import MopConfigError
from ..model import codec
from ..model.address import secret_part, without_userinfo
from ..model.endpoint import EndpointConfig, Kind
from ..model.printable import blanked, printable
from ..server.parsing.problems import Problem, Severity
from ..server.reload.guard import Replaced, missing_confirmations
from ..server.settings import Settings
from .endpoint_checks import EndpointCheck, check_endpoints
from .env_file import env_file_option
from .input import Reading, not_empty, read
from .list_change import ListChange, colour_of_change
from .output import json_text, say
from .plan import plan_document, plan_lines
from .server_api import fetch, own_token, own_url, read_token, token_option

#: Limits in seconds: the health check of one endpoint, and the wait for the list of the local
#: server.
_TIMEOUT, _OWN_SERVER_TIMEOUT = 5.0, 2.0
#: Maximum number of changed endpoints that are shown.
_MOST_CHANGES = 50
_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "bold yellow"}


@click.command(epilog="Example: mop-config check config/endpoints.txt --strict")
@click.argument("file", required=False, callback=not_empty)
@click.option("--strict", is_flag=True, help="Exit 1 for warnings too.")
@click.option("--probe", is_flag=True, help="Ask each endpoint; one that fails is a warning.")
@click.option(
    "--against",
    "url",
    metavar="URL",
    callback=not_empty,
    help="Compare with the list of this server; by default, on a terminal, this machine's.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the problems as JSON.")
@token_option
@env_file_option
def check(
    file: str | None,
    strict: bool,
    probe: bool,
    url: str | None,
    as_json: bool,
    token_file: str | None,
) -> int:
    """Check FILE as the server would read it; 0 is good, 1 has errors.

    FILE defaults to ENDPOINT_CONFIG_FILE, else config/endpoints.txt. On a terminal the command
    ends with what would change against the list that the server of this machine, or the server
    at URL, serves now.
    """
    reading, settings = read(file)
    config = codec.loads(reading.rendering.body) if reading.rendering else None
    checks = check_endpoints(config, _TIMEOUT) if probe and config else []
    failed = [each for each in checks if not each.healthy]
    bad = reading.errors > 0 or (strict and reading.warnings + len(failed) > 0)
    served = None
    if url is not None and config is not None:
        served = fetch(url, "--against", read_token(token_file))
    if as_json:
        document = _document(reading, ok=not bad)
        if probe:
            document["endpoints"] = [each.as_dict() for each in checks]
        if served is not None and config is not None:
            document["change"] = ListChange.between(served, config).as_dict()
            document["confirm"] = _unconfirmed(reading, served, settings)
        print(json_text(document))
        return int(bad)
    for warning in settings.warnings:
        say(f"mop-config: {warning}", err=True)
    label = "error" if strict else "warning"
    _print(reading, [f"{label}: {_not_healthy(each)}" for each in failed], bad=bad)
    for line in plan_lines(reading.planned, time.time()):
        say(line)
    if url is None and config is not None and sys.stdout.isatty():
        url, served = _list_of_own_server(token_file)
    if served is not None and config is not None:
        _print_change(ListChange.between(served, config), str(url))
        for line in _unconfirmed(reading, served, settings):
            say(f"  ENDPOINT_MAX_REMOVED asks for this line: {line}")
    return int(bad)


def _not_healthy(check: EndpointCheck) -> str:
    url, result = check.endpoint.url, check.result
    return f"{check.kind} {url} is not healthy: {result.fault} ({result.detail})"


def _list_of_own_server(token_file: str | None) -> tuple[str, EndpointConfig | None]:
    """Return the URL of the local server, and its list, or None if the server does not answer."""
    url = ""
    try:
        url = own_url()
        token = read_token(token_file) or own_token()
        return url, fetch(url, "--against", token, silence=_OWN_SERVER_TIMEOUT)
    except MopConfigError as error:
        say(f"not compared with what is served: {error}")
        return url, None


def _unconfirmed(reading: Reading, served: EndpointConfig, settings: Settings) -> list[str]:
    """Return the confirming lines that the text lacks for the endpoints that it removes."""
    if reading.rendering is None:
        return []
    counts = {kind: len(endpoints) for kind, endpoints in served.kinds().items()}
    replaced = Replaced(counts, body=codec.dumps(served))
    return missing_confirmations(reading.rendering, settings, reading.data, replaced)


def _print_change(change: ListChange, url: str) -> None:
    lines = change.lines()
    say(f"against {url}: {_plural(len(lines), 'change')}")
    for line in lines[:_MOST_CHANGES]:
        line = printable(f"  {line}")
        click.echo(colour_of_change(line) if sys.stdout.isatty() else line)
    if len(lines) > _MOST_CHANGES:
        say(f"  … and {len(lines) - _MOST_CHANGES} more")


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
        "planned": plan_document(reading.planned),
    }


def _print(reading: Reading, failed: list[str], *, bad: bool) -> None:
    # Only an unreadable file is an error for standard error; problems go to standard output.
    refused = reading.refusal is not None and reading.rendering is None
    console = Console(file=sys.stderr if refused else sys.stdout, highlight=False, soft_wrap=True)
    if refused:
        console.print(Text(printable(f"mop-config: {reading.refusal}")))
        return
    for problem in reading.problems:
        _print_problem(console, reading, problem)
    left = reading.errors + reading.warnings - len(reading.problems)
    if left > 0:
        console.print(Text(f"… and {left} more"))
    for line in failed:
        console.print(Text(printable(line)))
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
    if failed:
        verdict.append(f", {_plural(len(failed), 'endpoint')} not healthy")
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
    """Make a line printable, and mask a password in the line.

    Args:
        line: The line of the file, unchanged.
        column: Column of the problem, from 1, in code points.

    Returns:
        The line, and the number of terminal cells before the problem.
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
