"""``mop-config watch``: print each change of a served list as it happens."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Mapping

import click

from ..errors import MopConfigError
from ..model.endpoint import EndpointConfig, dumps, rfc3339
from ..net.http import backoff, retry_after
from .input import SECONDS
from .output import ListChanges, complain, counts_of, json_text, say
from .server_api import LIST_PATH, ServerReply, ask, read_token, route, token_option

#: Seconds for which the server may hold a long poll.
WAIT = 25
#: Bounds in seconds of the backoff after failed requests; each failure doubles the pause.
FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
#: Seconds between two long polls that ended early without a new list.
HASTE_PAUSE = 1.0
#: Maximum of ``Retry-After``, in seconds.
MAX_RETRY_AFTER = 3600.0
#: Seconds after the end of a long poll's wait until a silent server counts as lost.
_GRACE = 10.0


def pause_asked_for(headers: Mapping[str, str], posix: float) -> float:
    """Return the seconds that a server asks for by ``Retry-After``, up to the limit; else 0."""
    return min(retry_after(headers.get("retry-after"), posix) or 0.0, MAX_RETRY_AFTER)


@click.command(epilog="Example: mop-config watch https://config.example.com --exec ./apply.sh")
@click.argument("url")
@click.option("--exec", "command", metavar="CMD", help="Run this in the shell on each change.")
@click.option("--interval", type=SECONDS, default=30, help="Pause where there is no long poll.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document for each event.")
@token_option
def watch(
    url: str, command: str | None, interval: float, as_json: bool, token_file: str | None
) -> None:
    """Follow the list of the server at URL, and print each change.

    Each endpoint takes a line: + added, - removed, ~ changed. A change is printed at once where
    the server supports long polls. If the server stops answering, or its list is empty or invalid,
    this is printed once, and the server is asked until it has a list again. Exit 1 if there is no
    list to begin with; Ctrl-C or SIGTERM ends the command.

    An --exec command gets the new list's JSON on standard input. Only one runs at a time, for the
    newest list; a failure is reported. With --json its output goes to standard error. A SIGTERM
    waits for its end.
    """
    where = route(url, LIST_PATH, "URL")
    # Without a handler the first process of a container would ignore the signal.
    signal.signal(signal.SIGTERM, _exit)
    config: EndpointConfig | None = None
    etag: str | None = None
    failures = 0
    while True:
        began = time.monotonic()
        asked = pause = 0.0
        try:
            # A server that is back may have the same list, for which a long poll would wait.
            reply = _poll(where, etag, token_file, 0 if failures else WAIT)
            asked = pause_asked_for(reply.headers, time.time())
            new = _list_of(reply, config)
        except MopConfigError as error:
            if config is None:
                raise
            if not failures:
                _report("lost", str(error), config, as_json=as_json)
            failures += 1
            pause = backoff(failures, FIRST_PAUSE, LAST_PAUSE)
        else:
            if failures:
                _report("back", where, new, as_json=as_json)
            if config is None:
                _report("start", where, new, as_json=as_json)
            elif new != config:
                _report("changed", where, new, ListChanges(config, new), as_json=as_json)
                if command is not None:
                    _run(command, new, quiet=as_json)
            elif time.monotonic() - began < WAIT / 2:
                pause = HASTE_PAUSE
            config = new
            etag = reply.headers.get("etag", etag)
            waits = "wait" in reply.headers.get("preference-applied", "")
            if etag is None or not (waits or failures):
                pause = interval
            failures = 0
        # A stopping server ends all long polls at once, and their next requests must not coincide.
        time.sleep(max(pause, asked) * random.uniform(1, 1.2))  # noqa: S311 - no secret


def _exit(*_: object) -> None:
    sys.exit(0)


def _poll(where: str, etag: str | None, token_file: str | None, wait: int) -> ServerReply:
    token = read_token(token_file)  # each time: the file may have been replaced
    headers = {} if etag is None else {"If-None-Match": etag}
    return ask(f"{where}?wait={wait}", token=token, headers=headers, silence=wait + _GRACE)


def _list_of(reply: ServerReply, last: EndpointConfig | None) -> EndpointConfig:
    if last is not None and reply.status == 304:
        return last
    config = reply.config()
    if last and not config:
        raise MopConfigError(f"{reply.url} gives an empty list")
    return config


def _run(command: str, config: EndpointConfig, *, quiet: bool) -> None:
    shell = os.environ.get("SHELL") or "/bin/sh"
    received: list[int] = []
    # A SIGTERM waits for the command, which would otherwise outlive this process.
    signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        done = subprocess.run(
            [shell, "-c", command],
            input=dumps(config) + b"\n",
            stdout=sys.stderr if quiet else None,
            check=False,
        )
        if done.returncode:
            complain(f"the command failed with exit code {done.returncode}")
    except OSError as error:
        complain(f"the command cannot be run: {shell}: {error.strerror}")
    finally:
        signal.signal(signal.SIGTERM, _exit)
    if received:
        sys.exit(0)


def _report(
    event: str,
    detail: str,
    config: EndpointConfig,
    changes: ListChanges | None = None,
    *,
    as_json: bool,
) -> None:
    """Print an event: ``start``, ``changed``, ``lost`` or ``back``.

    Args:
        event: The event.
        detail: The reason for ``lost``, else the URL of the list.
        config: The list that counts from now on.
        changes: The difference, for ``changed``.
        as_json: Whether to print a JSON document.
    """
    at = rfc3339(time.time())
    if as_json:
        document: dict[str, object] = {"at": at, "event": event}
        if event == "lost":
            document["reason"] = detail
        else:
            document["counts"] = {kind: len(listed) for kind, listed in config.kinds().items()}
        click.echo(json_text(document | (changes.as_dict() if changes is not None else {}), None))
    elif changes is not None:
        changes.print(f"{at} ")
    elif event == "start":
        say(f"{at} {detail}: {counts_of(config)}")
    else:
        complain(f"{at} {event}: {detail}")
