"""``mop-config verify``: check whether an app would accept a signed list."""

import json
import sys
import time

import click

from ..errors import MopConfigError, SignatureError, SigningKeyError
from ..model.jws import MEDIA_TYPE, SignedList, TrustedKeys, check_ahead, moment
from .input import not_empty
from .server_api import LIST_PATH, ask, is_url, read_token, route, token_option

_MAX_KEY_BYTES = 65536


@click.command(epilog="Example: mop-config verify https://mirror.example.com --key public.jwk")
@click.argument("source", metavar="FILE|URL", callback=not_empty)
@click.option(
    "--key",
    "key_files",
    metavar="FILE",
    multiple=True,
    required=True,
    help="Public key: JWK, JWK set or PEM; may be given more than once.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@token_option
def verify(source: str, key_files: tuple[str, ...], as_json: bool, token_file: str | None) -> int:
    """Check the signed list in FILE, or the signed list that the server at URL serves.

    Exit 1 with the reason if none of the keys has signed the list, if it has expired, or if its
    version is more than a day ahead. An app also refuses a list that is older than one that it
    had, which only the app can know.
    """
    keys = _keys(key_files)
    text = _fetched(source, token_file) if is_url(source) else _read(source)
    try:
        signed = keys.verify(text, time.time())
        check_ahead(signed, time.time())
    except SignatureError as error:
        if as_json:
            print(json.dumps({"ok": False, "code": error.code, "reason": str(error)}, indent=2))
            sys.stdout.flush()
        raise MopConfigError(f"{source}: {error}") from None
    if as_json:
        print(json.dumps(_document(signed), indent=2))
    else:
        config = signed.config
        print(
            f"{source}: ok: {len(config.api_endpoints)} API and"
            f" {len(config.socketio_endpoints)} Socket.io endpoints, version {signed.ver}, signed"
            f" {moment(signed.iat)} by {signed.kid}, holds until {moment(signed.exp)}"
        )
    return 0


def _keys(files: tuple[str, ...]) -> TrustedKeys:
    texts = [_read(file, _MAX_KEY_BYTES) for file in files]
    for file, text in zip(files, texts, strict=True):
        try:
            TrustedKeys([text], private=True)
        except SigningKeyError as error:
            raise MopConfigError(f"--key {file!r} cannot be used: {error}") from None
    return TrustedKeys(texts, private=True)


def _read(path: str, limit: int = 64 << 20) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(limit)
    except OSError as error:
        raise MopConfigError(f"{path} cannot be read: {error.strerror or error}") from None


def _fetched(url: str, token_file: str | None) -> bytes:
    path = url.partition("?")[0]
    where = path if path.endswith(".jws") else route(path, f"{LIST_PATH}.jws", "FILE|URL")
    reply = ask(where, token=read_token(token_file), headers={"Accept": MEDIA_TYPE})
    if reply.status != 200:
        raise reply.refusal()
    return reply.body


def _document(signed: SignedList) -> dict[str, object]:
    return {
        "ok": True,
        "ver": signed.ver,
        "iat": moment(signed.iat),
        "exp": moment(signed.exp),
        "kid": signed.kid,
        "counts": {kind: len(endpoints) for kind, endpoints in signed.config.kinds().items()},
    }
