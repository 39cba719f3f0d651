"""``mop-config status``: show the state of a running server on one screen."""

import json
import time
from collections.abc import Iterator

import click

from ..model.endpoint import rfc3339
from ..server.monitor.thread import HealthDocument
from ..server.serving.store import HistoryEntry
from ..server.status.document import Level, StatusDocument, differing, verdict
from ..server.status.translations import Texts
from .input import env_file_option
from .output import CERTIFICATE_DAYS, json_text, say
from .server_api import ServerReply, ask, problem_line, route, server_of, token_option

_STATUS_PATH = "/api/v1/config/status"
#: Maximum number of lines of each part, so that everything fits on one screen.
_PROBLEMS, _ENDPOINTS, _RELOADS = 5, 8, 5
_COLOURS = {Level.GOOD: "green", Level.WARN: "yellow", Level.BAD: "red"}
_TEXTS = Texts("en")
Line = tuple[str, str, str | None]


@click.command(epilog="Example: mop-config status http://127.0.0.1:8000 --json")
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the status and the verdict as JSON.")
@token_option
@env_file_option
def status(url: str | None, as_json: bool, token_file: str | None) -> int:
    """Show the state of the server at URL: problems, workers, endpoints, last reloads.

    Exit 0 if all is well, else 1: the list is empty or not fresh, entries are left out, the token
    file has bad lines, endpoints are down or no longer checked, changes are not followed, workers
    differ, or the server does not answer. Other problems that are warnings are no failure.

    URL defaults to the server of this machine, by HOST and PORT, with the first token in
    ENDPOINT_TOKENS.
    """
    url, token = server_of(url, token_file)
    reply = ask(route(url, _STATUS_PATH, "URL"), token=token)
    with reply.expecting("a status"):
        document: StatusDocument = json.loads(reply.body)
        findings = verdict(document)
        lines = list(_lines(reply, document))
    ok = findings[0].level is Level.GOOD
    if as_json:
        reported = [{"level": f.level, "text": f.say(_TEXTS)} for f in findings]
        print(json_text({"ok": ok, "findings": reported, **document}))
    else:
        for label, text, colour in lines:
            say(f"{label:<10} ", nl=False)
            say(text, fg=colour, bold=colour is not None)
    return int(not ok)


def _lines(reply: ServerReply, document: StatusDocument) -> Iterator[Line]:
    """Yield the label, text and colour of each line of the screen."""
    for index, finding in enumerate(verdict(document)):
        if index == 0 or finding.level is not Level.GOOD:
            yield "" if index else "status", finding.say(_TEXTS), _COLOURS[finding.level]
    yield "server", reply.url.removesuffix(_STATUS_PATH), None
    yield "source", str(document["source"]), None
    state, last = document["state"], document["last_reload"]
    stale = state != "fresh" and last and last["error"]
    yield "state", f"{state}: {stale}" if stale else str(state), None
    served = _TEXTS("counts.value", **document["counts"])
    yield "serving", f"{served}, since {document['loaded_at']}, etag {document['etag']}", None
    watcher = document["watcher"]
    mode = _TEXTS.word("watcher", watcher["mode"])
    following = mode if watcher["alive"] else _TEXTS("watcher.dead", mode=mode)
    yield "following", following, None
    workers = document["workers"]
    others = differing(workers)
    yield "workers", _TEXTS("workers.agree", n=len(workers) - len(others)), None
    for worker in workers:
        if worker["pid"] in others:
            yield "", f"worker {worker['pid']} serves etag {worker['etag']}", "yellow"
    yield from _endpoints(document["health"])
    yield from _problems(document)
    yield from _reloads(document["history"])


def _endpoints(health: HealthDocument | None) -> Iterator[Line]:
    if not health:
        yield "endpoints", _TEXTS("probing.off"), None
        return
    endpoints = health["endpoints"]
    up = sum(bool(endpoint["up"]) for endpoint in endpoints)
    every = f"{health['interval_seconds']:g}"
    yield "endpoints", _TEXTS("probing.value", up=up, all=len(endpoints), seconds=every), None
    down = [endpoint for endpoint in endpoints if endpoint["up"] is False]
    for endpoint in down[:_ENDPOINTS]:
        detail = f" ({endpoint['detail']})" if endpoint["detail"] else ""
        yield "", f"down: {endpoint['kind']} {endpoint['url']}{detail}", "red"
    yield from _more(len(down) - _ENDPOINTS)
    soon = rfc3339(time.time() + CERTIFICATE_DAYS * 86400)
    for endpoint in endpoints:
        if (ends := endpoint["certificate_expires"]) and ends < soon:
            yield "", f"certificate ends {ends}: {endpoint['kind']} {endpoint['url']}", "yellow"


def _problems(document: StatusDocument) -> Iterator[Line]:
    counts = document["problem_counts"]
    errors, warnings = counts["error"], counts["warning"]
    totals = f"{_TEXTS('problems.errors', n=errors)}, {_TEXTS('problems.warnings', n=warnings)}"
    yield "problems", totals, "red" if errors else None
    problems = sorted(document["problems"], key=lambda problem: problem["severity"] != "error")
    for problem in problems[:_PROBLEMS]:
        yield "", problem_line(problem), None
    yield from _more(errors + warnings - _PROBLEMS)


def _reloads(history: list[HistoryEntry]) -> Iterator[Line]:
    label = "reloads"
    for event in history[:_RELOADS]:
        change = event.get("change")
        more = _TEXTS("change", **change) if change else event["error"]
        line = f"{event['at']} {event['result']} ({event['trigger']})"
        yield label, f"{line}: {more}" if more else line, None
        label = ""


def _more(count: int) -> Iterator[Line]:
    if count > 0:
        yield "", f"and {count:,} more", None
