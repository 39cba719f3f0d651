"""Parse Ed25519 keys in JWK (RFC 7517, RFC 8037) and PEM form.

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
    """Check that joserfc is installed.

    Raises:
        MissingExtra: If joserfc is not installed.
    """
    try:
        import joserfc.jws  # noqa: F401 - tests whether joserfc is installed
    except ModuleNotFoundError:
        raise MissingExtra("signing and verifying lists", "signing") from None


def read_keys(given: Mapping[str, Any] | str | bytes) -> list["OKPKey"]:
    """Parse a JWK or a JWK set, as a mapping or as JSON, or PEM.

    Raises:
        SigningKeyError: If a key is not an Ed25519 key.
        MissingExtra: If joserfc is not installed.
    """
    need_joserfc()
    if isinstance(given, (str, bytes)):
        text = given if isinstance(given, str) else given.decode("utf-8", "replace")
        if text.lstrip().startswith("-----BEGIN"):
            return [_import(text.strip(), "it is not PEM, or it needs a password")]
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
    # A set may also have keys for other purposes (RFC 7517, section 5).
    return [_of_jwk(member) for member in members if member.get("crv") == ALGORITHM]


def _of_jwk(jwk: Mapping[str, Any]) -> "OKPKey":
    if jwk.get("kty") != "OKP" or jwk.get("crv") != ALGORITHM:
        raise SigningKeyError(
            f"it is not an {ALGORITHM} key: its kty must be OKP and its crv {ALGORITHM}"
        )
    if jwk.get("alg", ALGORITHM) not in (ALGORITHM, "EdDSA") or jwk.get("use", "sig") != "sig":
        raise SigningKeyError(f"its alg or use is not for signing with {ALGORITHM}")
    # Without other members: a JWK's own ``kid`` is arbitrary, and we use the thumbprint.
    bare = {name: jwk[name] for name in ("kty", "crv", "x", "d") if name in jwk}
    key = _import(_import(bare, "its x or d is not 32 bytes").raw_value, "it is damaged")
    if key.as_dict()["x"] != str(jwk["x"]).rstrip("="):
        raise SigningKeyError("its x is not the public key of its d")
    return key


def _import(value: Any, reason: str) -> "OKPKey":
    from joserfc.errors import JoseError
    from joserfc.jwk import OKPKey

    try:
        key = OKPKey.import_key(value)
        if key.curve_name == ALGORITHM:
            return key
        reason = f"it is for {key.curve_name}"
    except (JoseError, ValueError, TypeError, KeyError):
        pass
    raise SigningKeyError(f"it is not an {ALGORITHM} key: {reason}") from None


def public_jwk(key: "OKPKey") -> dict[str, Any]:
    """Return the public half of a key as a JWK whose ``kid`` is the thumbprint (RFC 7638)."""
    return {
        "kty": "OKP",
        "crv": ALGORITHM,
        "x": str(key.as_dict()["x"]),
        "kid": key.thumbprint(),
        "alg": ALGORITHM,
        "use": "sig",
    }


def strict_json(text: str) -> Any:
    """Decode JSON in which no member occurs twice and no number is NaN or infinite.

    Raises:
        ValueError: If the text is not such JSON.
    """
    try:
        return json.loads(text, object_pairs_hook=_members, parse_constant=_no_constant)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    # Of two members with the same name, some decoders take the first and others the last.
    members = dict(pairs)
    if len(members) != len(pairs):
        raise ValueError("a member occurs twice")
    return members


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")
