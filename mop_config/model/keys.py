"""Ed25519 keys as JWK (RFC 7517, RFC 8037) and PEM; the only reader of either.

joserfc, of the extra ``signing``, is imported when a key is read.
"""

import json
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..errors import MissingExtra, SigningKeyError

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey

ALGORITHM = "Ed25519"
#: Media type of a JWK set.
MEDIA_TYPE = "application/jwk-set+json"


def need_joserfc() -> None:
    """Make sure that joserfc is there.

    Raises:
        MissingExtra: If it is not installed.
    """
    try:
        import joserfc.jws  # noqa: F401 - whether it is there
    except ModuleNotFoundError:
        raise MissingExtra("signing and verifying lists", "signing") from None


def read_keys(given: Mapping[str, Any] | str | bytes) -> list["OKPKey"]:
    """Read a key, or the keys of a set: a JWK or a JWK set, as JSON or read, or PEM.

    Raises:
        SigningKeyError: If one is no Ed25519 key.
        MissingExtra: If joserfc is not installed.
    """
    need_joserfc()
    if isinstance(given, (str, bytes)):
        text = given if isinstance(given, str) else given.decode("utf-8", "replace")
        if text.lstrip().startswith("-----BEGIN"):
            return [_of_pem(text)]
        try:
            given = strict_json(text)
        except ValueError:
            raise SigningKeyError("it is neither a JWK nor PEM") from None
    if not isinstance(given, Mapping):
        raise SigningKeyError("it is neither a JWK nor PEM")
    if "keys" not in given:
        return [_of_jwk(given)]
    members = given["keys"]
    if not isinstance(members, list) or not all(isinstance(m, Mapping) for m in members):
        raise SigningKeyError("its 'keys' must be an array of JWKs")
    # A set may hold keys for other purposes (RFC 7517, section 5).
    return [_of_jwk(member) for member in members if member.get("crv") == ALGORITHM]


def _of_pem(text: str) -> "OKPKey":
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    try:
        key = OKPKey.import_key(text.strip())
    except (JoseError, ValueError, TypeError):
        raise SigningKeyError("it is no Ed25519 key in PEM, or needs a password") from None
    if key.curve_name != ALGORITHM:
        raise SigningKeyError(f"it is a key for {key.curve_name}, not for {ALGORITHM}")
    return key


def _of_jwk(jwk: Mapping[str, Any]) -> "OKPKey":
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    if jwk.get("kty") != "OKP" or jwk.get("crv") != ALGORITHM:
        raise SigningKeyError(
            f"it is no {ALGORITHM} key: its kty must be OKP and its crv {ALGORITHM}"
        )
    if jwk.get("alg", ALGORITHM) not in (ALGORITHM, "EdDSA") or jwk.get("use", "sig") != "sig":
        raise SigningKeyError(f"it is meant for something else than signing with {ALGORITHM}")
    try:
        # Only what makes the key: a kid of somebody's choice is none of ours.
        bare = {name: jwk[name] for name in ("kty", "crv", "x", "d") if name in jwk}
        key = OKPKey.import_key(OKPKey.import_key(bare).raw_value)
    except (JoseError, ValueError, TypeError, KeyError):
        raise SigningKeyError(f"it is no {ALGORITHM} key: its x or d is not 32 bytes") from None
    if key.as_dict()["x"] != str(jwk["x"]).rstrip("="):
        raise SigningKeyError("its x is not the public key of its d")
    return key


def public_jwk(key: "OKPKey") -> dict[str, Any]:
    """Give the public half of a key as a JWK; its ``kid`` is its thumbprint (RFC 7638)."""
    return {
        "kty": "OKP",
        "crv": ALGORITHM,
        "x": str(key.as_dict()["x"]),
        "kid": key.thumbprint(),
        "alg": ALGORITHM,
        "use": "sig",
    }


def strict_json(text: str) -> Any:
    """Read JSON that can be understood in one way only.

    Raises:
        ValueError: If it is none, or names a member twice.
    """
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Two readers may take different ones of two members with one name.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
