"""``mop-config sign``: sign a list without a server, for mirrors that have no key."""

import sys
import time

import click

from ..errors import MopConfigError, SettingsError
from ..model.jws import MAX_AHEAD, MAX_NUMBER, SKEW
from ..server.serving.responder import read_key
from ..server.settings import Settings
from .input import env_file_option, read, warn
from .output import complain, plan_lines

_VERSION = click.IntRange(0, MAX_NUMBER)


def _ttl(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(Settings.from_environ({"ENDPOINT_SIGNING_TTL": value}).signing_ttl)
    except SettingsError as error:
        raise click.BadParameter(f"must be {error.allowed}", context, parameter) from None


@click.command(epilog="Example: mop-config sign endpoints.txt --key key.jwk > endpoints.jws")
@click.argument("file")
@click.option("--key", metavar="FILE", required=True, help="Private key, JWK or PEM.")
@click.option("--ttl", metavar="TIME", callback=_ttl, help="Lifetime  [ENDPOINT_SIGNING_TTL, 7d]")
@click.option("--ver", type=_VERSION, metavar="N", help="Version of the list  [current time in ms]")
@env_file_option
def sign(file: str, key: str, ttl: int | None, ver: int | None) -> None:
    """Print the list in FILE as a compact JWS, as the server would sign it.

    A file with errors is not signed. Apps refuse a list with a lower version than a list that
    they had, so the list that was signed last is the valid one.
    """
    now = time.time()
    if ver is not None and ver > (now + MAX_AHEAD) * 1000:
        reason = f"{ver} is more than a day in the future, and no app would accept it"
        raise click.BadParameter(reason, param_hint="--ver")
    reading = read(file)
    if reading.refusal is not None:
        warn(reading.settings, reading.rendering.problems[1:])  # the first is the refusal itself
        raise reading.refusal
    warn(reading.settings, reading.rendering.problems)
    if reading.rendering.errors or not reading.rendering.usable:
        why = "errors" if reading.rendering.errors else "no usable endpoint"
        raise MopConfigError(f"{file} has {why}, and is not signed")
    try:
        signing_key, warnings = read_key(key)
    except SettingsError as error:
        message = f"--key {key!r} cannot be used: it must be {error.allowed}"
        raise MopConfigError(message) from None
    for warning in warnings:
        complain(warning)
    for line in plan_lines(reading.rendering.planned[:1], now):
        complain(f"next change {line}: sign again then")
    if ver is None:
        # Higher than all earlier versions, so that no two lists share a version. A file server's
        # clock may be up to ``SKEW`` ahead; a later date is ignored.
        ver = int(max(reading.mtime if reading.mtime <= now + SKEW else 0.0, now) * 1000)
    exp = int(now) + (ttl or int(reading.settings.signing_ttl))
    # Without a newline, which is not part of a JWS, so that the output can be served unchanged.
    signed = signing_key.sign(reading.rendering.body, ver=ver, iat=int(now), exp=exp)
    sys.stdout.write(signed.decode())
    if sys.stdout.isatty():
        print()
