"""``mop-config keygen``: make the key that signs lists."""

import json
import os

import click

from ..errors import MopConfigError
from ..model.jws import SigningKey
from .output import json_text


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
        place = {"private_key": private} if out is None else {"file": out}
        print(json_text({"kid": key.kid, "public_key": public, **place}))
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
                os.unlink(path)  # without a key it would only block the next try
                raise
    except FileExistsError:
        raise MopConfigError(f"{path} is there already: a key is never overwritten") from None
    except OSError as error:
        raise MopConfigError(f"{path} cannot be written: {error.strerror or error}") from None
