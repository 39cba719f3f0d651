"""``mop-config sign``: sign a list without a server, for mirrors that have no key."""

import sys
import time
from dataclasses import replace

import click

from ..errors import MopConfigError, SettingsError
from ..model.jws import MAX_NUMBER, SKEW, SigningKey
from ..server.serving.signer import read_key
from ..server.settings import Settings
from ..server.sources import open_source
from ..server.sources.file import SourceText
from .env_file import env_file_option
from .input import etcd_key, is_etcd, judged, not_empty


def _ttl(context: click.Context, parameter: click.Parameter, value: str | None) -> int | None:
    if value is None:
        return None
    try:
        return int(Settings.from_environ({"ENDPOINT_SIGNING_TTL": value}).signing_ttl)
    except SettingsError as error:
        raise click.BadParameter(f"must be {error.allowed}", context, parameter) from None


@click.command(epilog="Example: mop-config sign endpoints.txt --key key.jwk > endpoints.jws")
@click.argument("file", callback=not_empty)
@click.option(
    "--key",
    "key_file",
    metavar="FILE",
    required=True,
    callback=not_empty,
    help="Private key, JWK or PEM.",
)
@click.option(
    "--ttl",
    metavar="TIME",
    callback=_ttl,
    help="Lifetime of the signed list  [ENDPOINT_SIGNING_TTL, 7d]",
)
@click.option(
    "--ver",
    type=click.IntRange(0, MAX_NUMBER),
    metavar="N",
    help="Version of the list, in milliseconds  [the current time]",
)
@env_file_option
def sign(file: str, key_file: str, ttl: int | None, ver: int | None) -> int:
    """Print the list in FILE as a compact JWS, as the server would sign it.

    A file with errors is not signed. Apps refuse a list with a lower version than a list that
    they had, so the list that was signed last is the valid one.
    """
    settings = Settings.from_environ()
    body, mtime = _list(file, settings)
    key = _key(key_file)
    now = time.time()
    if ver is None:
        ver = _version(mtime, now)
    elif ver > (now + SKEW) * 1000:
        click.echo(
            f"mop-config: version {ver} lies in the future: until then, every other list needs"
            " a --ver that is higher still",
            err=True,
        )
    exp = int(now) + (ttl or int(settings.signing_ttl))
    # Without a newline, which is not part of a JWS, so that the output can be served unchanged.
    sys.stdout.write(key.sign(body, ver=ver, iat=int(now), exp=exp).decode())
    if sys.stdout.isatty():
        print()
    return 0


def _version(mtime: float, now: float) -> int:
    """Return a version higher than all earlier versions, so that no two lists share a version."""
    # A file server's clock may be up to ``SKEW`` ahead; a later date is ignored.
    return int(max(mtime if mtime <= now + SKEW else 0.0, now) * 1000)


def _list(file: str, settings: Settings) -> tuple[bytes, float]:
    """Read a file; return its list in wire form, and its modification time (POSIX seconds)."""
    name = etcd_key(file).text if is_etcd(file) else file
    source = open_source(replace(settings, source=name))
    texts: list[SourceText] = []

    def data() -> bytes:
        texts.append(source.read())
        return texts[0].data

    reading = judged(file, data, settings)
    for problem in reading.problems[reading.refusal is not None :]:
        click.echo(f"mop-config: {problem}", err=True)
    if reading.refusal is not None or reading.rendering is None:
        raise MopConfigError(str(reading.refusal))
    if reading.errors:
        raise MopConfigError(f"{file} has errors, and is not signed")
    if not reading.rendering.usable:
        raise MopConfigError(f"{file} has no usable endpoint, and is not signed")
    return reading.rendering.body, texts[0].mtime


def _key(path: str) -> SigningKey:
    try:
        key, warnings = read_key(path)
    except SettingsError as error:
        raise MopConfigError(f"--key {path!r} cannot be used: it must be {error.allowed}") from None
    for warning in warnings:
        click.echo(f"mop-config: {warning}", err=True)
    return key
