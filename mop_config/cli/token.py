"""``mop-config token``: make access tokens for the server's clients and operators."""

import secrets

import click

from ..server.auth import ADMIN, NAME_RULE, READ, Token, digest, is_name, line_of
from .output import json_text

#: Prefix by which secret scanners recognise our tokens.
_PREFIX = "mop_"
_TOKEN_BYTES = 32


@click.group(epilog="Example: mop-config token new phone-app")
def token() -> None:
    """Make access tokens for the server."""


@token.command(epilog="Example: mop-config token new phone-app")
@click.argument("name")
@click.option("--admin", is_flag=True, help="Allow changes too, such as a reload.")
@click.option("--json", "as_json", is_flag=True, help="Print token and line as JSON.")
def new(name: str, admin: bool, as_json: bool) -> None:
    """Make a token, and print it together with its line for ENDPOINT_TOKENS_FILE.

    The token is never shown again: the line holds only its SHA-256 digest. The server's log
    shows NAME for requests with this token.
    """
    if not is_name(name):
        raise click.BadParameter(f"a name is {NAME_RULE}", param_hint="'NAME'")
    secret = _PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    made = Token(name, digest(secret), admin)
    if as_json:
        scope = ADMIN if admin else READ
        print(json_text({"name": name, "scope": scope, "token": secret, "line": line_of(made)}))
        return
    print(f"token\t{secret}")
    print(f"line\t{line_of(made)}")
