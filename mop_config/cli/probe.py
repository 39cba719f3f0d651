"""``mop-config probe``: check the health of each endpoint, as a client would."""

import time
from datetime import UTC, datetime

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from ..errors import MopConfigError
from ..model.endpoint import Kind
from ..model.printable import printable
from .endpoint_checks import EndpointCheck, check_endpoints
from .env_file import env_file_option
from .input import read_list
from .options import SECONDS
from .output import complain, json_text, say
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
    quiet = False
    while True:
        try:
            checks = _check(source, timeout, token_file, quiet=quiet)
            if console.is_terminal and pause is not None and not as_json:
                console.clear()
                say(f"{datetime.now().astimezone():%X}, every {pause:g} s")
            _print(console, checks, as_json=as_json, indent=2 if pause is None else None)
        except MopConfigError as error:
            if pause is None:
                raise
            complain(error)
        if pause is None:
            return int(not _good(checks))
        quiet = True
        time.sleep(pause)


def _check(
    source: str | None, timeout: float, token_file: str | None, *, quiet: bool
) -> list[EndpointCheck]:
    config = read_list(source, token_file, quiet=quiet)
    if not config:
        raise MopConfigError("there is no endpoint to check")
    # Progress goes to standard error: a program may read the results on standard output.
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("checking", total=sum(map(len, config.kinds().values())))
        return check_endpoints(config, timeout, lambda: progress.advance(task))


def _counts(checks: list[EndpointCheck], kind: Kind) -> dict[str, int]:
    healthy = [check.healthy for check in checks if check.kind == kind]
    return {"endpoints": len(healthy), "healthy": sum(healthy)}


def _good(checks: list[EndpointCheck]) -> bool:
    """Whether each kind with endpoints has a healthy endpoint."""
    return {check.kind for check in checks} == {check.kind for check in checks if check.healthy}


def _print(
    console: Console, checks: list[EndpointCheck], *, as_json: bool, indent: int | None
) -> None:
    counts = {kind: _counts(checks, kind) for kind in Kind}
    if as_json:
        document = {
            "ok": _good(checks),
            "checked_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "counts": counts,
            "endpoints": [check.as_dict() for check in checks],
        }
        click.echo(json_text(document, indent))
        return
    if console.is_terminal:
        console.print(_table(checks))
    else:
        for check in checks:
            click.echo("\t".join(_cells(check)))
    summary = [
        f"{count['healthy']} of {count['endpoints']} {kind.label} endpoints are healthy"
        for kind, count in counts.items()
        if count["endpoints"]
    ]
    # In a pipe, the summary goes to standard error: standard output has a line per endpoint.
    say(", ".join(summary), err=not console.is_terminal)


def _cells(check: EndpointCheck) -> list[str]:
    result, days = check.result, check.days
    return [
        check.kind,
        result.fault or "healthy",
        f"{result.seconds * 1000:.1f} ms",
        "-" if days is None else f"{days} d",
        {True: "matches", False: "other name", None: "-"}[result.name_matches],
        str(check.endpoint.priority),
        check.endpoint.url,
        printable(" ".join(result.detail.split())),
    ]


def _table(checks: list[EndpointCheck]) -> Table:
    names = ("kind", "status", "latency", "TLS ends", "name")
    columns = [Column(name, no_wrap=True) for name in names]
    table = Table(*columns, Column("endpoint", overflow="fold"), box=None, pad_edge=False)
    for check in checks:
        *cells, _, url, detail = _cells(check)
        endpoint = url if check.healthy else f"{url}\n{detail}"
        soon = check.days is not None and check.days < _SOON
        style = "yellow" if soon else "" if check.healthy else "red"
        table.add_row(*map(Text, (*cells, endpoint)), style=style)
    return table
