"""``mop-config show``: print the JSON that a server would serve."""

import json
import sys

import click

from ..server.parsing.problems import Code
from .input import env_file_option, read, warn
from .output import ListChanges, say
from .server_api import fetch, read_token, token_option


@click.command(epilog="Example: mop-config show config/endpoints.txt --diff http://127.0.0.1:8000")
@click.argument("file", required=False)
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
    reading = read(file)
    warn(reading.settings, reading.rendering.problems)
    refusal = reading.refusal
    # Not an error: a server that starts with a file without entries serves two empty lists.
    if refusal is not None and refusal.code != Code.NO_ENDPOINTS:
        return 1
    bad = reading.rendering.errors > 0
    if url is not None:
        served, here = fetch(url, "--diff", read_token(token_file)), reading.config
        if served != here:
            ListChanges(served, here).print()
        elif sys.stdout.isatty():
            say(f"no difference to what {url} serves")
        return int(bad or served != here)
    if sys.stdout.isatty():
        print(json.dumps(json.loads(reading.rendering.body), indent=2))
    else:
        sys.stdout.buffer.write(reading.rendering.body + b"\n")
    return int(bad)
