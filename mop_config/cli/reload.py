"""``mop-config reload``: make a running server read its source now."""

import json

import click

from ..errors import MopConfigError
from ..server.parsing.problems import MAX_KEPT
from ..server.state.worker_record import ServedDocument
from ..server.status.document import WorkerDocument
from .env_file import env_file_option
from .input import not_empty
from .output import say
from .server_api import ServerReply, problem_line, report, token_option

_PATH = "/api/v1/config/reload"
#: Timeout in seconds; the server responds earlier, with the results so far.
_TIMEOUT = 60.0


class ReloadReport(ServedDocument, total=False):
    """The response of the reload route; a problem document has ``workers`` and ``detail`` only."""

    workers: list[WorkerDocument]
    note: str


@click.command(
    epilog="Example: MOP_CONFIG_TOKEN=$(cat admin.token) mop-config reload "
    "https://config.example.com"
)
@click.argument("url", required=False, callback=not_empty)
@click.option("--json", "as_json", is_flag=True, help="Print the server's response as JSON.")
@token_option
@env_file_option
def reload(url: str | None, as_json: bool, token_file: str | None) -> int:
    """Make every worker of the server at URL read its list, and print what it serves now.

    URL defaults to the server of this machine, by HOST and PORT, whose token is the first one
    in ENDPOINT_TOKENS. The command needs an admin's token. Exit 1 if the list is refused or has
    errors, or if a worker does not answer.
    """
    reply = report(url, _PATH, token_file, method="POST", silence=_TIMEOUT)
    document = _document(reply)
    try:
        bad = reply.status != 200 or _has_errors(document)
        if not as_json:
            _print(reply, document)
    except (KeyError, TypeError, AttributeError):
        raise _foreign(reply) from None
    if as_json:
        print(json.dumps(document, indent=2))
    return int(bad)


def _has_errors(document: ReloadReport) -> bool:
    problems = document.get("problems", [])
    return not document.get("complete", True) or any(p["severity"] == "error" for p in problems)


def _document(reply: ServerReply) -> ReloadReport:
    """Return the reload result that the server reports.

    Raises:
        MopConfigError: If the response is not a reload result.
    """
    try:
        document: ReloadReport = json.loads(reply.body)
        if isinstance(document["workers"], list):
            return document
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    raise reply.refusal() if reply.status != 200 else _foreign(reply)


def _foreign(reply: ServerReply) -> MopConfigError:
    return MopConfigError(
        f"{reply.url} did not return a reload result; is this a mop-config server?"
    )


def _print(reply: ServerReply, document: ReloadReport) -> None:
    for worker in document["workers"]:
        last = worker["last_reload"]
        result = last["result"] if last else "no answer"
        say(f"worker {worker['pid']}: {result}, serving etag {worker['etag']}")
    if document.get("loaded_at"):
        say(_served(document))
    if "note" in document:
        say(f"mop-config: {document['note']}", err=True)
    problems = document.get("problems", [])
    for problem in problems:
        say(f"mop-config: {problem_line(problem)}", err=True)
    counts = document.get("problem_counts", {"error": 0, "warning": 0})
    more = counts["error"] + counts["warning"] - len(problems)
    if len(problems) >= MAX_KEPT and more > 0:
        say(f"mop-config: and {more} more problems", err=True)
    if reply.status != 200:
        say(f"mop-config: {reply.refusal()}", err=True)


def _served(document: ReloadReport) -> str:
    counts, problems = document["counts"], document["problem_counts"]
    return (
        f"{document['state']}: {counts['api']} API and {counts['socketio']} Socket.io endpoints,"
        f" served since {document['loaded_at']}; errors: {problems['error']},"
        f" warnings: {problems['warning']}"
    )
