"""``mop-config show``: print the JSON that a server would serve."""

import difflib
import json
import sys

import click

from ..model import codec
from ..model.endpoint import EndpointConfig
from ..server.parsing.problems import Code
from .env_file import env_file_option
from .input import not_empty, read
from .output import say, warn
from .server_api import fetch, read_token, token_option
from .text_difference import print_lines


@click.command(epilog="Example: mop-config show config/endpoints.txt --diff http://127.0.0.1:8000")
@click.argument("file", required=False, callback=not_empty)
@click.option("--diff", "url", metavar="URL", help="Compare with the list of this server.")
@token_option
@env_file_option
def show(file: str | None, url: str | None, token_file: str | None) -> int:
    """Print the list of FILE as the server would serve it.

    On a terminal the JSON is indented; in a pipe it is the response body and a newline. Exit 1
    if the file has errors. With --diff, print how the list of a running server (-) differs
    from the list of the file (+), and exit 1 if they differ.

    FILE defaults to ENDPOINT_CONFIG_FILE, else config/endpoints.txt.
    """
    reading, settings = read(file)
    warn(settings, reading.problems)
    refusal = reading.refusal
    # Not an error: a server that starts with a file without entries serves two empty lists.
    if reading.rendering is None or (refusal and refusal.code != Code.NO_ENDPOINTS):
        return 1
    body = reading.rendering.body
    bad = reading.errors > 0
    if url is not None:
        return int(_differs(body, url, read_token(token_file)) or bad)
    if sys.stdout.isatty():
        print(json.dumps(json.loads(body), indent=2))
    else:
        sys.stdout.buffer.write(body + b"\n")
    return int(bad)


def _differs(body: bytes, url: str, token: str | None) -> bool:
    served = _lines(fetch(url, "--diff", token))
    here = _lines(codec.loads(body))
    lines = list(difflib.unified_diff(served, here, url, "file", lineterm="", n=1))
    print_lines(lines)
    if not lines and sys.stdout.isatty():
        say(f"no difference to what {url} serves")
    return bool(lines)


def _lines(config: EndpointConfig) -> list[str]:
    return [
        f"{kind.member} {endpoint.line}"
        for kind, endpoints in config.kinds().items()
        for endpoint in endpoints
    ]
