"""``mop-config reload``: have a running server read its source now."""

import json
from typing import Any

import click

from ..errors import MopConfigError
from ..server.logs import printable
from .served import Reply, ask, read_token, route, token_option

_PATH = "/api/v1/config/reload"
#: Seconds; the server gives up earlier, and says what it knows by then.
_TIMEOUT = 60.0


@click.command(
    epilog="Example: MOP_CONFIG_TOKEN=$(cat admin.token) mop-config reload "
    "https://config.example.com"
)
@click.argument("url")
@click.option("--json", "as_json", is_flag=True, help="Print the server's answer as JSON.")
@token_option
def reload(url: str, as_json: bool, token_file: str | None) -> int:
    """Have the server at URL read its list in every worker, and say what came of it.

    This takes an admin's token. Exit 1 where the list is refused, or a worker does not answer.
    """
    reply = ask(
        route(url, _PATH, "URL"), method="POST", token=read_token(token_file), timeout=_TIMEOUT
    )
    document = _document(reply)
    if as_json:
        print(json.dumps(document, indent=2))
    else:
        try:
            _print(reply, document)
        except (KeyError, TypeError):
            raise MopConfigError(f"{reply.url} gives no account of a reload") from None
    return int(reply.status != 200)


def _document(reply: Reply) -> dict[str, Any]:
    """Give the server's account of its workers.

    Raises:
        MopConfigError: If it gives none.
    """
    try:
        document = json.loads(reply.body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict) or not isinstance(document.get("workers"), list):
        raise (
            reply.refusal()
            if reply.status != 200
            else MopConfigError(f"{reply.url} gives no account of a reload")
        )
    return document


def _print(reply: Reply, document: dict[str, Any]) -> None:
    for worker in document["workers"]:
        last = worker["last_reload"]
        result = last["result"] if last else "no answer"
        _say(f"worker {worker['pid']}: {result}, serving etag {worker['etag']}")
    if "note" in document:
        _say(f"mop-config: {document['note']}", err=True)
    for problem in document.get("problems", []):
        where = f"{problem['line']}:{problem['column']}: {problem['severity']}"
        _say(f"mop-config: {where}: {problem['message']} [{problem['code']}]", err=True)
    if reply.status != 200:
        _say(f"mop-config: {reply.refusal()}", err=True)


def _say(line: str, *, err: bool = False) -> None:
    click.echo(printable(line), err=err)
