"""``mop-config probe``: check the health of each endpoint, as a client would."""

import sys
import time
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

from ..errors import MopConfigError
from ..model.endpoint import Kind
from ..model.printable import printable
from .endpoint_checks import EndpointCheck, check_endpoints
from .env_file import env_file_option
from .list_input import read_list
from .options import SECONDS
from .output import json_text, say
from .server_api import token_option

#: A certificate that expires within this number of days is shown as a warning.
_SOON = 14


@click.command(epilog="Example: mop-config probe https://config.example.com --watch 10")
@click.argument("source", metavar="[FILE|URL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option(
    "--watch", "pause", type=SECONDS, metavar="SECONDS", help="Repeat the check after this pause."
)
@click.option(
    "--timeout",
    type=SECONDS,
    metavar="SECONDS",
    default=5.0,
    show_default=True,
    help="Time limit of one check.",
)
@token_option
@env_file_option
def probe(
    source: str | None, as_json: bool, pause: float | None, timeout: float, token_file: str | None
) -> int:
    """Check every endpoint of the list in FILE, or of the list that the server at URL serves.

    The check of an API endpoint is a GET of its /health (ENDPOINT_HEALTH_PATH), whose answer
    must hold ENDPOINT_HEALTH_CONTAINS; that of a Socket.io endpoint is an Engine.IO handshake.
    Exit 1 where a kind has no healthy endpoint. FILE defaults to ENDPOINT_CONFIG_FILE, else
    config/endpoints.txt. Certificates are verified against the system's authorities, or those
    in SSL_CERT_FILE.
    """
    console = Console(highlight=False)
    if pause is None:
        findings = _look(source, timeout, token_file)
        _print(console, findings, as_json=as_json, indent=2)
        return int(not _good(findings))
    quiet = False
    while True:
        try:
            findings = _look(source, timeout, token_file, quiet=quiet)
        except MopConfigError as error:
            say(f"mop-config: {error}", err=True)
        else:
            if console.is_terminal and not as_json:
                console.clear()
                console.print(f"{datetime.now().astimezone():%X}, every {pause:g} s")
            _print(console, findings, as_json=as_json, indent=None)
            sys.stdout.flush()
        quiet = True
        time.sleep(pause)


def _look(
    source: str | None, timeout: float, token_file: str | None, *, quiet: bool = False
) -> list[EndpointCheck]:
    config = read_list(source, token_file, quiet=quiet)
    if not config:
        raise MopConfigError("there is no endpoint to check")
    # Progress goes to standard error: a program may read the results on standard output.
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=sum(map(len, config.kinds().values())))
        return check_endpoints(config, timeout, lambda: progress.advance(task))


def _good(findings: list[EndpointCheck]) -> bool:
    """Whether each kind with endpoints has a healthy endpoint."""
    return {f.kind for f in findings} == {f.kind for f in findings if f.healthy}


def _print(
    console: Console, findings: list[EndpointCheck], *, as_json: bool, indent: int | None
) -> None:
    if as_json:
        print(json_text(_document(findings), indent))
    elif console.is_terminal:
        console.print(_table(findings))
    else:
        for finding in findings:
            print(_line(finding))
    if not as_json:
        # In a pipe, the summary goes to standard error: standard output has a line per endpoint.
        click.echo(_summary(findings), err=not console.is_terminal)


def _summary(findings: list[EndpointCheck]) -> str:
    parts = []
    for kind in Kind:
        healthy = [finding.healthy for finding in findings if finding.kind == kind]
        if healthy:
            parts.append(f"{sum(healthy)} of {len(healthy)} {kind.label} endpoints are healthy")
    return ", ".join(parts)


def _document(findings: list[EndpointCheck]) -> dict[str, object]:
    counts = {
        kind: {
            "endpoints": sum(f.kind == kind for f in findings),
            "healthy": sum(f.kind == kind and f.healthy for f in findings),
        }
        for kind in Kind
    }
    return {
        "ok": _good(findings),
        "checked_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "counts": counts,
        "endpoints": [finding.as_dict() for finding in findings],
    }


def _cells(finding: EndpointCheck) -> list[str]:
    result, days = finding.result, finding.days
    name = {True: "matches", False: "other name", None: "-"}[result.name_matches]
    return [
        finding.kind,
        "healthy" if finding.healthy else str(result.fault),
        f"{result.seconds * 1000:.1f} ms",
        "-" if days is None else f"{days} d",
        name,
        str(finding.endpoint.priority),
        finding.endpoint.url,
        printable(" ".join(result.detail.split())),
    ]


def _line(finding: EndpointCheck) -> str:
    return "\t".join(" ".join(cell.split()) for cell in _cells(finding))


def _table(findings: list[EndpointCheck]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("kind", "status"):
        table.add_column(column, no_wrap=True)
    for column in ("latency", "TLS ends", "name"):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("endpoint", overflow="fold")
    for finding in findings:
        kind, status, latency, ends, name, _, url, detail = _cells(finding)
        days = finding.days
        endpoint = Text(url)
        if not finding.healthy:
            endpoint.append(f"\n{detail}", style="dim")
        table.add_row(
            kind,
            Text(status, style="green" if finding.healthy else "bold red"),
            latency,
            Text(ends, style="yellow" if days is not None and days < _SOON else ""),
            Text(name, style="bold red" if finding.result.name_matches is False else ""),
            endpoint,
        )
    return table
