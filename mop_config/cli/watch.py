"""``mop-config watch``: print each change of a served list as it happens."""

import json
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
from .follower import WAIT, ListEvent, ListFollower, Step
from .input import not_empty
from .list_change import colour_of_change
from .options import SECONDS
from .output import say
from .server_api import LIST_PATH, ServerReply, ask, read_token, route, token_option

#: Seconds after the end of a long poll's wait until a silent server counts as lost.
_GRACE = 10.0


@click.command(
    epilog="Example: mop-config watch https://config.example.com --exec 'jq . > now.json'"
)
@click.argument("url", callback=not_empty)
@click.option(
    "--exec",
    "command",
    metavar="CMD",
    callback=not_empty,
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
    printer = _EventPrinter(where, as_json=as_json)
    while True:
        step = _attempt(follower, where, token_file)
        for event in step.events:
            printer.print(event)
            if event.name == "changed" and command is not None:
                _run(command, event.config, quiet=as_json)
        time.sleep(step.pause)


def _attempt(follower: ListFollower, where: str, token_file: str | None) -> Step:
    """Send one request, and return its events and the next pause.

    Raises:
        MopConfigError: If the first request returns no list.
    """
    headers = {} if follower.etag is None else {"If-None-Match": follower.etag}
    began = time.monotonic()
    reply: ServerReply | None = None
    try:
        token = read_token(token_file)  # each time: the file may have been replaced
        reply = ask(f"{where}?wait={WAIT}", token=token, headers=headers, silence=WAIT + _GRACE)
        if reply.status not in ({200} if follower.etag is None else {200, 304}):
            raise reply.refusal()
    except MopConfigError as error:
        if follower.config is None:
            raise
        retry = None if reply is None else reply.headers.get("retry-after")
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
        _warn(f"the command cannot be run: {shell}: {error.strerror}")
        return
    if done.returncode < 0:
        _warn(f"the command was ended by signal {-done.returncode}")
    elif done.returncode:
        _warn(f"the command failed with exit code {done.returncode}")


class _EventPrinter:
    """Prints events on a terminal, as plain lines in a pipe, or as JSON."""

    def __init__(self, where: str, *, as_json: bool) -> None:
        self._where = where
        self._as_json = as_json
        self._terminal = sys.stdout.isatty()

    def print(self, event: ListEvent) -> None:
        now = datetime.now(UTC)
        at = f"{now.astimezone():%X}" if self._terminal else f"{now:%Y-%m-%dT%H:%M:%SZ}"
        if self._as_json:
            print(json.dumps({"at": f"{now:%Y-%m-%dT%H:%M:%SZ}", **_document(event)}))
        elif event.name == "lost":
            _warn(f"{at} lost: {event.reason}; its last list counts until it is back")
        elif event.name == "refused":
            _warn(f"{at} not applied: {self._where}: {event.reason}")
        elif event.name == "back":
            after = "with a good list" if event.seconds is None else f"after {event.seconds:.0f} s"
            _warn(f"{at} back {after}")
        elif event.name == "start":
            counts = [len(endpoints) for endpoints in event.config.kinds().values()]
            print(f"{at} {self._where}: {counts[0]} API and {counts[1]} Socket.io endpoints")
        else:
            self._print_change(at, event)
        sys.stdout.flush()

    def _print_change(self, at: str, event: ListEvent) -> None:
        lines = event.change.lines() if event.change else []
        for line in lines or ["~ the order changed"]:
            print(at, colour_of_change(line) if self._terminal and lines else line)


def _document(event: ListEvent) -> dict[str, object]:
    document: dict[str, object] = {"event": event.name}
    if event.name in {"start", "changed"}:
        document["counts"] = {
            kind: len(endpoints) for kind, endpoints in event.config.kinds().items()
        }
    if event.change is not None:
        document |= event.change.as_dict()
    if event.reason is not None:
        document["reason"] = event.reason
    if event.seconds is not None:
        document["seconds"] = round(event.seconds, 3)
    return document


def _warn(message: str) -> None:
    say(f"mop-config: {' '.join(message.split())}", err=True)
