"""``mop-config keygen``: make the key that signs lists."""

import contextlib
import json
import os

import click

from ..errors import MopConfigError
from ..files import open_flags
from ..model.jws import SigningKey
from .input import not_empty


@click.command(epilog="Example: mop-config keygen --out signing-key.jwk > public-key.jwk")
@click.option(
    "--out",
    metavar="FILE",
    callback=not_empty,
    help="Write the private key into this file, with mode 0600.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the keys as one JSON object.")
def keygen(out: str | None, as_json: bool) -> int:
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
        document |= {"private_key": private} if out is None else {"file": out}
        print(json.dumps(document, indent=2))
    elif out is None:
        print(json.dumps(private))
        click.echo(json.dumps(public), err=True)
    else:
        print(json.dumps(public))
    return 0


def _write(path: str, text: str) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | open_flags("O_NOFOLLOW", "O_CLOEXEC")
    try:
        descriptor = os.open(path, flags, 0o600)
    except FileExistsError:
        raise MopConfigError(f"{path} is there already: a key is never overwritten") from None
    except OSError as error:
        raise _unwritten(path, error) from None
    try:
        with open(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        with contextlib.suppress(OSError):
            os.unlink(path)  # an incomplete file would block the next attempt
        raise _unwritten(path, error) from None


def _unwritten(path: str, error: OSError) -> MopConfigError:
    return MopConfigError(f"{path} cannot be written: {error.strerror or error}")
