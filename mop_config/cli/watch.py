"""``mop-config watch``: print each change of a served list as it happens."""

import os
import random
import subprocess
import sys
import time
from datetime import UTC, datetime

import click

from ..errors import MopConfigError
from ..model import codec
from ..model.endpoint import EndpointConfig
from .differences import changes_document, print_changes
from .follower import WAIT, ListEvent, ListFollower, Step
from .options import SECONDS
from .output import complain, counts_of, json_text, say
from .server_api import LIST_PATH, ask, read_token, route, token_option

#: Seconds after the end of a long poll's wait until a silent server counts as lost.
_GRACE = 10.0


@click.command(
    epilog="Example: mop-config watch https://config.example.com --exec 'jq . > now.json'"
)
@click.argument("url")
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    help="Run this in the shell on each change, with the new list's JSON on standard input.",
)
@click.option(
    "--interval",
    type=SECONDS,
    metavar="SECONDS",
    default=30.0,
    show_default=True,
    help="Pause between two requests to a server without long polls.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each event.")
@token_option
def watch(
    url: str, command: str | None, interval: float, as_json: bool, token_file: str | None
) -> None:
    """Follow the list of the server at URL, and print each change.

    Each endpoint takes a line: + added, - removed, ~ changed. A change is printed at once where
    the server supports long polls. If the server stops answering, it is retried until it returns.
    An empty or invalid list is reported but not applied. Exit 1 if there is no list to begin
    with; Ctrl-C ends the command.

    Only one --exec command runs at a time, for the newest list; a failure is reported. With
    --json its output goes to standard error.
    """
    where = route(url, LIST_PATH, "URL")
    follower = ListFollower(interval, random.random)
    while True:
        events, pause = _attempt(follower, where, token_file)
        for event in events:
            config = follower.config or EndpointConfig()
            if as_json:
                click.echo(json_text(_document(event, config), None))
            else:
                _print(event, config, where)
            sys.stdout.flush()
            if event.name == "changed" and command is not None:
                _run(command, config, quiet=as_json)
        time.sleep(pause)


def _attempt(follower: ListFollower, where: str, token_file: str | None) -> Step:
    """Send one request, and return its events and the next pause.

    Raises:
        MopConfigError: If the first request returns no list.
    """
    headers = {} if follower.etag is None else {"If-None-Match": follower.etag}
    began, retry = time.monotonic(), None
    try:
        token = read_token(token_file)  # each time: the file may have been replaced
        reply = ask(f"{where}?wait={WAIT}", token=token, headers=headers, silence=WAIT + _GRACE)
        if reply.status != 200 and (reply.status != 304 or follower.etag is None):
            retry = reply.headers.get("retry-after")
            raise reply.refusal()
    except MopConfigError as error:
        if follower.config is None:
            raise
        return follower.failed(str(error), now=time.monotonic(), posix=time.time(), retry=retry)
    step = follower.answered(
        reply.body if reply.status == 200 else None,
        reply.headers,
        now=time.monotonic(),
        posix=time.time(),
        took=time.monotonic() - began,
    )
    if follower.config is None:
        raise MopConfigError(f"{where}: {step.events[-1].reason}")
    return step


def _run(command: str, config: EndpointConfig, *, quiet: bool) -> None:
    shell = os.environ.get("SHELL") or "/bin/sh"
    try:
        done = subprocess.run(
            [shell, "-c", command],
            input=codec.dumps(config) + b"\n",
            stdout=sys.stderr if quiet else None,
            check=False,
        )
    except OSError as error:
        complain(f"the command cannot be run: {shell}: {error.strerror}")
        return
    if done.returncode < 0:
        complain(f"the command was ended by signal {-done.returncode}")
    elif done.returncode:
        complain(f"the command failed with exit code {done.returncode}")


def _print(event: ListEvent, config: EndpointConfig, where: str) -> None:
    now = datetime.now(UTC)
    at = f"{now.astimezone():%X}" if sys.stdout.isatty() else f"{now:%Y-%m-%dT%H:%M:%SZ}"
    if event.name == "lost":
        complain(f"{at} lost: {event.reason}; its last list counts until it is back")
    elif event.name == "refused":
        complain(f"{at} not applied: {where}: {event.reason}")
    elif event.name == "back":
        after = "with a good list" if event.seconds is None else f"after {event.seconds:.0f} s"
        complain(f"{at} back {after}")
    elif event.name == "start":
        say(f"{at} {where}: {counts_of(config)}")
    else:
        print_changes(event.changes, f"{at} ")


def _document(event: ListEvent, config: EndpointConfig) -> dict[str, object]:
    document: dict[str, object] = {
        "at": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        "event": event.name,
    }
    if event.name in {"start", "changed"}:
        document["counts"] = {kind: len(listed) for kind, listed in config.kinds().items()}
    if event.name == "changed":
        document |= changes_document(event.changes)
    if event.reason is not None:
        document["reason"] = event.reason
    if event.seconds is not None:
        document["seconds"] = round(event.seconds, 3)
    return document
