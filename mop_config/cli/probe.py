"""``mop-config probe``: check the health of each endpoint, as a client would."""

import ssl
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Column, Table
from rich.text import Text

from ..errors import MopConfigError
from ..health.probe import CheckQueue, HealthRequest, Job, Prober, ProbeResult
from ..model.endpoint import Endpoint, EndpointConfig, Kind
from ..model.printable import printable
from ..net.connect import DialOptions
from ..server.settings import Settings
from .input import SECONDS, env_file_option, read_list
from .output import CERTIFICATE_DAYS, complain, json_text, say
from .server_api import token_option

#: Maximum number of concurrent checks.
_PARALLEL = 64


class EndpointCheck(NamedTuple):
    """The health check of one endpoint, with its result."""

    kind: str
    endpoint: Endpoint
    result: ProbeResult

    @property
    def healthy(self) -> bool:
        """Whether the check found no fault."""
        return self.result.fault is None

    @property
    def days(self) -> int | None:
        """Whole days until the certificate expires, or None without a certificate."""
        ends = self.result.certificate_expires
        return None if ends is None else (ends - datetime.now(UTC)).days

    def as_dict(self) -> dict[str, object]:
        """Return the check as an object for ``--json``."""
        result = self.result
        ends = result.certificate_expires
        return {
            "kind": self.kind,
            "url": self.endpoint.url,
            "priority": self.endpoint.priority,
            "healthy": self.healthy,
            "fault": result.fault,
            "detail": result.detail,
            "seconds": round(result.seconds, 6),
            "certificate_expires": ends and f"{ends:%Y-%m-%dT%H:%M:%SZ}",
            "certificate_days": self.days,
            "name_matches": result.name_matches,
        }


def check_endpoints(
    config: EndpointConfig, timeout: float, done: Callable[[], None] = lambda: None
) -> list[EndpointCheck]:
    """Check the health of every endpoint of a list, with the checks of the server's monitor.

    Args:
        config: The list.
        timeout: Limit of one check, in seconds.
        done: Called after each check, in any thread.

    Returns:
        The checks, in the order of the list.
    """
    jobs: list[Job] = [(kind, e, None) for kind, listed in config.kinds().items() for e in listed]
    settings = Settings.from_environ()
    request = HealthRequest.containing(settings.health_path, settings.health_contains)
    prober = Prober(DialOptions(ssl.create_default_context(), timeout), request=request)
    results: dict[Job, ProbeResult] = {}

    def report(job: Job, result: ProbeResult) -> None:
        results[job] = result
        done()

    try:
        for thread in CheckQueue(prober, report, _PARALLEL, _PARALLEL).start(jobs):
            thread.join()
    except BaseException:  # interrupted: don't wait for the other checks
        prober.abort()
        raise
    return [EndpointCheck(job[0], job[1], results[job]) for job in jobs]


@click.command(epilog="Example: mop-config probe https://config.example.com --watch 10")
@click.argument("source", metavar="[FILE|URL]", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the results as JSON.")
@click.option("--watch", "pause", type=SECONDS, help="Repeat the check after this pause.")
@click.option("--timeout", type=SECONDS, default=5, help="Time limit of one check.")
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
    # Progress goes to standard error: a program may read the results on standard output.
    console, stderr = Console(highlight=False), Console(stderr=True)
    quiet = False
    while True:
        try:
            config = read_list(source, token_file, quiet=quiet)
            if not config:
                raise MopConfigError("there is no endpoint to check")
            with Progress(console=stderr, transient=True, disable=not stderr.is_terminal) as bar:
                task = bar.add_task("checking", total=sum(map(len, config.kinds().values())))
                checks = check_endpoints(config, timeout, partial(bar.advance, task))
            if console.is_terminal and pause is not None and not as_json:
                console.clear()
                say(f"{datetime.now().astimezone():%X}, every {pause:g} s")
            good = _print(console, checks, as_json=as_json, indent=2 if pause is None else None)
        except MopConfigError as error:
            if pause is None:
                raise
            complain(error)
        if pause is None:
            return int(not good)
        quiet = True
        time.sleep(pause)


def _print(
    console: Console, checks: list[EndpointCheck], *, as_json: bool, indent: int | None
) -> bool:
    """Print the checks, and return whether each kind with endpoints has a healthy endpoint."""
    up = {kind: [check.healthy for check in checks if check.kind == kind] for kind in Kind}
    good = all(any(each) for each in up.values() if each)
    if as_json:
        counts = {kind: {"endpoints": len(each), "healthy": sum(each)} for kind, each in up.items()}
        document = {
            "ok": good,
            "checked_at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
            "counts": counts,
            "endpoints": [check.as_dict() for check in checks],
        }
        click.echo(json_text(document, indent))
        return good
    if console.is_terminal:
        console.print(_table(checks))
    else:
        for check in checks:
            click.echo("\t".join(_cells(check)))
    summary = [
        f"{sum(each)} of {len(each)} {kind.label} endpoints are healthy"
        for kind, each in up.items()
        if each
    ]
    # In a pipe, the summary goes to standard error: standard output has a line per endpoint.
    say(", ".join(summary), err=not console.is_terminal)
    return good


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
        soon = check.days is not None and check.days < CERTIFICATE_DAYS
        style = "yellow" if soon else "" if check.healthy else "red"
        table.add_row(*map(Text, (*cells, endpoint)), style=style)
    return table
