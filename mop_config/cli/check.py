"""``mop-config check``: print the problems of an endpoint file before a server reads it."""

import sys
import time
from typing import Any

import click
from rich.cells import cell_len

from ..errors import MopConfigError, SourceError
from ..model.address import secret_part, without_userinfo
from ..model.endpoint import EndpointConfig, Kind, dumps
from ..model.printable import blanked, plural
from ..server.parsing.problems import Problem, Severity
from ..server.parsing.render import check_acceptable, missing_confirmations
from .input import Reading, env_file_option, read, warn
from .output import ListChanges, complain, counts_of, json_text, plan_lines, say
from .probe import EndpointCheck, check_endpoints
from .server_api import fetch, read_token, server_of, token_option

#: Limits in seconds: the health check of one endpoint, and the wait for the list of the local
#: server.
_TIMEOUT, _OWN_SERVER_TIMEOUT = 5.0, 2.0
_COLOURS = {Severity.ERROR: "red", Severity.WARNING: "yellow"}


@click.command(epilog="Example: mop-config check config/endpoints.txt --strict")
@click.argument("file", required=False)
@click.option("--strict", is_flag=True, help="Exit 1 for warnings too.")
@click.option("--probe", is_flag=True, help="Ask each endpoint; one that fails is a warning.")
@click.option("--against", "url", metavar="URL", help="Compare with the list of this server.")
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
    reading = read(file)
    found = reading.rendering
    checks = check_endpoints(reading.config, _TIMEOUT) if probe else []
    failed = [each for each in checks if not each.healthy]
    warnings = found.warnings + len(failed) + len(reading.settings.warnings)
    bad = found.errors > 0 or (strict and warnings > 0)
    if as_json:
        document = _document(reading, ok=not bad)
        if probe:
            document["endpoints"] = [each.as_dict() for each in checks]
        if url is not None and reading.lines:
            document |= _change(reading, fetch(url, "--against", read_token(token_file)))
            bad = bad or bool(document["refused"])
        print(json_text({**document, "ok": not bad}))
        return int(bad)
    warn(reading.settings, ())
    if not reading.lines:
        complain(reading.refusal)
        return 1
    _print(reading, failed, "error" if strict else "warning", bad=bad)
    if url is not None:
        served = fetch(url, "--against", read_token(token_file))
        bad = _print_change(reading, served, url) or bad
    elif sys.stdout.isatty():
        try:
            own, token = server_of(None, token_file)
            served = fetch(own, "--against", token, silence=_OWN_SERVER_TIMEOUT)
            bad = _print_change(reading, served, own) or bad
        except MopConfigError as error:
            say(f"not compared with what is served: {error}")
    return int(bad)


def _change(reading: Reading, served: EndpointConfig) -> dict[str, object]:
    return {
        "change": ListChanges(served, reading.config).as_dict(),
        "confirm": _unconfirmed(reading, served),
        "refused": _refused(reading, served),
    }


def _print_change(reading: Reading, served: EndpointConfig, url: str) -> bool:
    """Print what would change; return whether the server would refuse the text."""
    changes = ListChanges(served, reading.config)
    say(f"against {url}: {plural(len(changes), 'change')}")
    if changes:
        changes.print("  ")
    lacking = _unconfirmed(reading, served)
    for line in _unconfirmed(reading, served, used=reading.rendering.data):
        there = "(it is there, and counts if it is new since the served text)"
        asked = line if line in lacking else f"{line} {there}"
        say(f"  ENDPOINT_MAX_REMOVED asks for this line: {asked}")
    if refused := _refused(reading, served):
        say(f"  the server would refuse it: {refused}")
    return bool(refused)


def _refused(reading: Reading, served: EndpointConfig) -> str:
    """Return why a server with this list would refuse the text; empty if it would not.

    A refusal by the text alone is one of its problems.
    """
    counts = {kind: len(listed) for kind, listed in served.kinds().items()}
    try:
        if reading.refusal is None:
            check_acceptable(reading.rendering, reading.settings, counts)
    except SourceError as error:
        return str(error)
    return ""


def _unconfirmed(reading: Reading, served: EndpointConfig, used: bytes = b"") -> list[str]:
    """Return the confirming lines that a text lacks, beside those that are in the text ``used``."""
    return missing_confirmations(reading.rendering, reading.settings, dumps(served), used)


def _document(reading: Reading, *, ok: bool) -> dict[str, object]:
    found = reading.rendering
    counts = {kind.value: found.count(kind) for kind in Kind}
    return {
        "file": reading.path,
        "ok": ok,
        "counts": {**counts, "errors": found.errors, "warnings": found.warnings},
        "problems": [problem.as_dict() for problem in found.problems],
        "planned": [change.as_dict() for change in found.planned],
    }


def _print(reading: Reading, failed: list[EndpointCheck], label: str, *, bad: bool) -> None:
    found = reading.rendering
    for problem in found.problems:
        _print_problem(reading, problem)
    left = found.errors + found.warnings - len(found.problems)
    if left > 0:
        say(f"… and {left} more")
    for kind, endpoint, result in failed:
        fault = f"{result.fault} ({result.detail})"
        say(f"{label}: {kind} {endpoint.url} is not healthy: {fault}")
    say(f"{reading.path}: ", nl=False)
    say("bad" if bad else "ok", nl=False, bold=True, fg="red" if bad else "green")
    problems = f"{plural(found.errors, 'error')}, {plural(found.warnings, 'warning')}"
    unhealthy = f", {plural(len(failed), 'endpoint')} not healthy" if failed else ""
    say(f": {counts_of(reading.config)}, {problems}{unhealthy}")
    for line in plan_lines(found.planned, time.time()):
        say(line)


def _print_problem(reading: Reading, problem: Problem) -> None:
    column = problem.word or problem.column
    style: dict[str, Any] = {"fg": _COLOURS[problem.severity], "bold": True}
    place = f"{problem.line}:{column}: " if problem.text else " "
    say(f"{reading.path}:{place}", nl=False)
    say(f"{problem.severity}: ", nl=False, **style)
    say(f"{problem.message} [{problem.code}]")
    if problem.text:
        source, indent = quote(reading.lines[problem.line - 1], column)
        say(f"    {source}")
        say(" " * (4 + indent), nl=False)
        say("^", **style)


def quote(line: str, column: int) -> tuple[str, int]:
    """Make a line printable, and mask a password in the line.

    Args:
        line: The line of the file, unchanged.
        column: Column of the problem, from 1, in code points.

    Returns:
        The line, and the number of terminal cells before the problem.
    """
    before = blanked(line[: column - 1])
    rest = blanked(without_userinfo(line[column - 1 :]))
    if secret_part(line) and before.strip():
        before = "***, "
    indent = cell_len(before)
    if indent > 40:
        before, indent = "…", 1
    return before + (rest if len(rest) <= 100 else rest[:99] + "…"), indent
