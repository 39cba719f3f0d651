"""``mop-config verify``: check whether an app would accept a signed list."""

import time

import click

from ..errors import MopConfigError, SignatureError, SigningKeyError
from ..model.endpoint import rfc3339
from ..model.jws import MEDIA_TYPE, TrustedKeys, check_ahead
from .output import counts_of, json_text, say
from .server_api import LIST_PATH, ask, is_url, read_file, read_token, route, token_option

_MAX_KEY_BYTES = 65536
_MAX_LIST_BYTES = 64 << 20


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
    iat, exp = rfc3339(signed.iat), rfc3339(signed.exp)
    if as_json:
        document = {
            "ok": True,
            "ver": signed.ver,
            "iat": iat,
            "exp": exp,
            "kid": signed.kid,
            "counts": {kind: len(listed) for kind, listed in signed.config.kinds().items()},
        }
        click.echo(json_text(document))
    else:
        about = f"version {signed.ver}, signed {iat} by {signed.kid}, holds until {exp}"
        say(f"{source}: ok: {counts_of(signed.config)}, {about}")
