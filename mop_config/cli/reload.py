"""``mop-config reload``: make a running server read its source now."""

import json
from collections.abc import Iterator
from typing import Any

import click

from ..server.parsing.problems import MAX_KEPT
from .input import env_file_option
from .output import complain, json_text, say
from .server_api import ask, problem_line, route, server_of, token_option

_PATH = "/api/v1/config/reload"
#: Limit in seconds of a reload; the server responds earlier, with the results so far.
_PATIENCE = 60.0


@click.command(epilog="Example: mop-config reload https://config.example.com --token-file admin")
@click.argument("url", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the server's response as JSON.")
@token_option
@env_file_option
def reload(url: str | None, as_json: bool, token_file: str | None) -> int:
    """Make every worker of the server at URL read its list, and print what it serves now.

    URL defaults to the server of this machine, by HOST and PORT, whose token is the first one
    in ENDPOINT_TOKENS. The command needs an admin's token. Exit 1 if the list is refused or has
    errors, or if a worker does not answer.
    """
    url, token = server_of(url, token_file)
    reply = ask(route(url, _PATH, "URL"), token=token, method="POST", silence=_PATIENCE)
    with reply.expecting("a reload result"):
        document = json.loads(reply.body)
        served = list(_served(document))
        problems = document.get("problems", [])
        warnings = [problem_line(problem) for problem in problems]
        counts = document.get("problem_counts", {"error": 0, "warning": 0})
        errors = any(problem["severity"] == "error" for problem in problems)
        bad = reply.status != 200 or not document.get("complete", True) or errors
    if as_json:
        print(json_text(document))
        return int(bad)
    for line in served:
        say(line)
    if "note" in document:
        complain(document["note"])
    for line in warnings:
        complain(line)
    more = counts["error"] + counts["warning"] - len(problems)
    if len(problems) >= MAX_KEPT and more > 0:
        complain(f"and {more} more problems")
    if reply.status != 200:
        complain(reply.refusal())
    return int(bad)


def _served(document: dict[str, Any]) -> Iterator[str]:
    for worker in document["workers"]:
        last = worker["last_reload"]
        result = last["result"] if last else "no answer"
        yield f"worker {worker['pid']}: {result}, serving etag {worker['etag']}"
    if document.get("loaded_at"):
        counts, problems = document["counts"], document["problem_counts"]
        yield (
            f"{document['state']}: {counts['api']} API and {counts['socketio']} Socket.io"
            f" endpoints, served since {document['loaded_at']}; errors: {problems['error']},"
            f" warnings: {problems['warning']}"
        )
