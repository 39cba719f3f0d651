"""``mop-config watch``: print each change of a served list as it happens."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

import click

from ..errors import MopConfigError, PayloadError
from ..model.endpoint import EndpointConfig, dumps, loads
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


class ListEvent(NamedTuple):
    """An event of the list or of the server, to be printed.

    Attributes:
        name: ``start``, ``changed``, ``refused`` (the response is no valid list, and
            the last list stays), ``lost`` or ``back``.
        changes: The difference, for ``changed``.
        reason: The reason of ``refused`` and ``lost``.
        seconds: For ``back``, the seconds for which the server was lost; None if the server had
            only served a refused list, and now serves the good list again.
    """

    name: str
    changes: ListChanges | None = None
    reason: str | None = None
    seconds: float | None = None


class Step(NamedTuple):
    """The result of a request: the events in order, and the seconds before the next request."""

    events: list[ListEvent]
    pause: float


class ListFollower:
    """Turns the responses of a server into events, and into the time of the next request. Pure.

    A server that supports long polls (``Preference-Applied: wait``) gets the next request at once,
    and responds when its list changes. Any other server gets a request at each interval.

    Args:
        interval: Seconds between two requests to a server without long polls.
        chance: Returns random numbers from 0 to 1, so that many followers do not poll in step.

    Attributes:
        config: The last good list, or None before the first list.
        etag: The ``ETag`` of the last response, valid or not, or None.
    """

    def __init__(self, interval: float, chance: Callable[[], float]) -> None:
        self.config: EndpointConfig | None = None
        self.etag: str | None = None
        self._interval = interval
        self._chance = chance
        self._failures = 0
        self._lost_at = 0.0
        self._refusal: str | None = None

    def answered(self, reply: ServerReply, asked_for: float, now: float, took: float) -> Step:
        """Record a 200, or a 304 (which has no body).

        Args:
            reply: The response.
            asked_for: See ``pause_asked_for``.
            now: Monotonic time in seconds.
            took: Seconds between request and response.
        """
        events = []
        if self._failures:
            events.append(ListEvent("back", seconds=now - self._lost_at))
            self._failures = 0
        if reply.status == 200:
            self.etag = reply.headers.get("etag")
            events += self._read(reply.body)
        if "wait" not in reply.headers.get("preference-applied", "") or self.etag is None:
            pause = max(self._interval, asked_for) * (0.9 + 0.2 * self._chance())
        elif asked_for:
            pause = asked_for * (1 + 0.1 * self._chance())
        elif took > WAIT / 2 or any(event.name in {"start", "changed"} for event in events):
            pause = 0.0
        else:
            # A stopping server ends all long polls at once; this spreads the clients' retries.
            pause = HASTE_PAUSE * (0.5 + self._chance())
        return Step(events, pause)

    def _read(self, body: bytes) -> list[ListEvent]:
        before, refused, self._refusal = self.config, self._refusal, None
        try:
            config = loads(body)
        except PayloadError as error:
            self._refusal = f"what it gives is no list: {error}"
        else:
            if before and not config:
                self._refusal = "its list is empty"
        if self._refusal:
            new = self._refusal != refused
            return [ListEvent("refused", reason=self._refusal)] if new else []
        self.config = config
        if before is None:
            return [ListEvent("start")]
        if config == before:
            return [ListEvent("back")] if refused else []
        return [ListEvent("changed", ListChanges(before, config))]

    def failed(self, reason: str, asked_for: float, now: float) -> Step:
        """Record a request without a usable response.

        Args:
            reason: The cause, in words.
            asked_for: See ``pause_asked_for``.
            now: Monotonic time in seconds.
        """
        events = [] if self._failures else [ListEvent("lost", reason=reason)]
        self._lost_at = self._lost_at if self._failures else now
        self._failures += 1
        pause = backoff(self._failures, FIRST_PAUSE, LAST_PAUSE)
        if asked_for > pause:
            return Step(events, asked_for * (1 + 0.1 * self._chance()))
        return Step(events, pause * (0.5 + 0.5 * self._chance()))


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
    the server supports long polls. If the server stops answering, it is retried until it returns.
    An empty or invalid list is reported but not applied. Exit 1 if there is no list to begin
    with; Ctrl-C or SIGTERM ends the command.

    An --exec command gets the new list's JSON on standard input. Only one runs at a time, for the
    newest list; a failure is reported. With --json its output goes to standard error. A SIGTERM
    waits for its end.
    """
    where = route(url, LIST_PATH, "URL")
    # Without a handler the first process of a container would ignore the signal.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
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
                with _putting_off_sigterm():
                    _run(command, config, quiet=as_json)
        time.sleep(pause)


def _attempt(follower: ListFollower, where: str, token_file: str | None) -> Step:
    """Send one request, and return its events and the next pause.

    Raises:
        MopConfigError: If the first request returns no list.
    """
    headers = {} if follower.etag is None else {"If-None-Match": follower.etag}
    began, asked_for = time.monotonic(), 0.0
    try:
        token = read_token(token_file)  # each time: the file may have been replaced
        reply = ask(f"{where}?wait={WAIT}", token=token, headers=headers, silence=WAIT + _GRACE)
        asked_for = pause_asked_for(reply.headers, time.time())
        if reply.status != 200 and (reply.status != 304 or follower.etag is None):
            raise reply.refusal()
    except MopConfigError as error:
        if follower.config is None:
            raise
        return follower.failed(str(error), asked_for, time.monotonic())
    now = time.monotonic()
    step = follower.answered(reply, asked_for, now, now - began)
    if follower.config is None:
        raise MopConfigError(f"{where}: {step.events[-1].reason}")
    return step


@contextlib.contextmanager
def _putting_off_sigterm() -> Iterator[None]:
    """Exit for a SIGTERM only at the end of the block, so that no command outlives this one."""
    received: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: received.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if received:
        sys.exit(0)


def _run(command: str, config: EndpointConfig, *, quiet: bool) -> None:
    shell = os.environ.get("SHELL") or "/bin/sh"
    try:
        done = subprocess.run(
            [shell, "-c", command],
            input=dumps(config) + b"\n",
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


def _utc_now() -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _print(event: ListEvent, config: EndpointConfig, where: str) -> None:
    at = time.strftime("%X") if sys.stdout.isatty() else _utc_now()
    if event.name == "lost":
        complain(f"{at} lost: {event.reason}; its last list counts until it is back")
    elif event.name == "refused":
        complain(f"{at} not applied: {where}: {event.reason}")
    elif event.name == "back":
        after = "with a good list" if event.seconds is None else f"after {event.seconds:.0f} s"
        complain(f"{at} back {after}")
    elif event.name == "start":
        say(f"{at} {where}: {counts_of(config)}")
    elif event.changes is not None:
        event.changes.print(f"{at} ")


def _document(event: ListEvent, config: EndpointConfig) -> dict[str, object]:
    document: dict[str, object] = {
        "at": _utc_now(),
        "event": event.name,
        "reason": event.reason,
        "seconds": event.seconds and round(event.seconds, 3),
    }
    if event.name in {"start", "changed"}:
        document["counts"] = {kind: len(listed) for kind, listed in config.kinds().items()}
    if event.changes is not None:
        document |= event.changes.as_dict()
    return {name: value for name, value in document.items() if value is not None}
