"""``keygen``, ``sign`` and ``verify``: keys and signed lists; ``token``: access tokens."""

import json
import os
import secrets
import sys
import time

import click

from ..errors import MopConfigError, SettingsError, SignatureError, SigningKeyError
from ..model.jws import MAX_NUMBER, MEDIA_TYPE, SKEW, SigningKey, TrustedKeys, check_ahead, moment
from ..server.auth import ADMIN, NAME_RULE, READ, Token, digest, is_name, line_of
from ..server.serving.responder import read_key
from ..server.settings import Settings
from .input import env_file_option, read, warn
from .output import complain, counts_of, json_text, say
from .server_api import LIST_PATH, ask, is_url, read_file, read_token, route, token_option

_VERSION = click.IntRange(0, MAX_NUMBER)
_MAX_KEY_BYTES = 65536
_MAX_LIST_BYTES = 64 << 20
#: Prefix by which secret scanners recognise our tokens.
_PREFIX = "mop_"
_TOKEN_BYTES = 32


@click.command(epilog="Example: mop-config keygen --out signing-key.jwk > public-key.jwk")
@click.option("--out", metavar="FILE", help="Write the private key into this file, mode 0600.")
@click.option("--json", "as_json", is_flag=True, help="Print the keys as one JSON object.")
def keygen(out: str | None, as_json: bool) -> None:
    """Make an Ed25519 key, and print its public half, which the apps trust.

    The private key is written into the new file of --out; an existing file is never replaced.
    Without --out the private key is printed, and the public half goes to standard error.
    """
    key = SigningKey.generate()
    private, public = key.private_jwk(), key.public
    if out is not None:
        _write(out, json.dumps(private) + "\n")
    if as_json:
        document = {"kid": key.kid, "public_key": public}
        print(json_text(document | ({"file": out} if out else {"private_key": private})))
        return
    if out is None:
        print(json.dumps(private))
    click.echo(json.dumps(public), err=out is None)


def _write(path: str, text: str) -> None:
    try:
        # Mode x never overwrites a file, and follows no symbolic link.
        with open(path, "x", opener=lambda name, flags: os.open(name, flags, 0o600)) as file:
            try:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            except OSError:
                os.unlink(path)  # an incomplete file would block the next attempt
                raise
    except FileExistsError:
        raise MopConfigError(f"{path} is there already: a key is never overwritten") from None
    except OSError as error:
        raise MopConfigError(f"{path} cannot be written: {error.strerror or error}") from None


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
    reading = read(file)
    warn(reading.settings, reading.rendering.problems[reading.refusal is not None :])
    if reading.refusal is not None:
        raise reading.refusal
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
    now = time.time()
    if ver is None:
        # Higher than all earlier versions, so that no two lists share a version. A file server's
        # clock may be up to ``SKEW`` ahead; a later date is ignored.
        ver = int(max(reading.mtime if reading.mtime <= now + SKEW else 0.0, now) * 1000)
    elif ver > (now + SKEW) * 1000:
        complain(
            f"version {ver} lies in the future: until then, every other list needs a --ver that is"
            " higher still"
        )
    exp = int(now) + (ttl or int(reading.settings.signing_ttl))
    # Without a newline, which is not part of a JWS, so that the output can be served unchanged.
    signed = signing_key.sign(reading.rendering.body, ver=ver, iat=int(now), exp=exp)
    sys.stdout.write(signed.decode())
    if sys.stdout.isatty():
        print()


@click.command(epilog="Example: mop-config verify https://mirror.example.com --key public.jwk")
@click.argument("source", metavar="FILE|URL")
@click.option("--key", "keys", metavar="FILE", multiple=True, required=True, help="Public key.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@token_option
def verify(source: str, keys: tuple[str, ...], as_json: bool, token_file: str | None) -> None:
    """Check the signed list in FILE, or the signed list that the server at URL serves.

    A public key is a JWK, a JWK set or PEM; --key may be given more than once.

    Exit 1 with the reason if none of the keys has signed the list, if it has expired, or if its
    version is more than a day ahead. An app also refuses a list that is older than one that it
    had, which only the app can know.
    """
    texts = [read_file(file, _MAX_KEY_BYTES) for file in keys]
    for file, text in zip(keys, texts, strict=True):
        try:
            TrustedKeys([text], private=True)
        except SigningKeyError as error:
            raise MopConfigError(f"--key {file!r} cannot be used: {error}") from None
    if is_url(source):
        path = source.partition("?")[0]
        where = path if path.endswith(".jws") else route(path, f"{LIST_PATH}.jws", "FILE|URL")
        reply = ask(where, token=read_token(token_file), headers={"Accept": MEDIA_TYPE})
        if reply.status != 200:
            raise reply.refusal()
        jws = reply.body
    else:
        jws = read_file(source, _MAX_LIST_BYTES)
    try:
        signed = TrustedKeys(texts, private=True).verify(jws, time.time())
        check_ahead(signed, time.time())
    except SignatureError as error:
        if as_json:
            click.echo(json_text({"ok": False, "code": error.code, "reason": str(error)}))
        raise MopConfigError(f"{source}: {error}") from None
    config, ver, kid = signed.config, signed.ver, signed.kid
    iat, exp = moment(signed.iat), moment(signed.exp)
    if as_json:
        counts = {kind: len(listed) for kind, listed in config.kinds().items()}
        document = {"ok": True, "ver": ver, "iat": iat, "exp": exp, "kid": kid, "counts": counts}
        click.echo(json_text(document))
    else:
        about = f"version {ver}, signed {iat} by {kid}, holds until {exp}"
        say(f"{source}: ok: {counts_of(config)}, {about}")


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
    if sys.stdout.isatty():
        click.echo(
            "The token is for the client, and not shown again."
            " The line is for the file that ENDPOINT_TOKENS_FILE names.",
            err=True,
        )
