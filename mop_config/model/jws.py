"""An endpoint list as a compact JWS (RFC 7515), signed with Ed25519 (RFC 9864).

The payload is the wire form with three claims before its lists::

    {"ver": 1760000000000, "iat": 1760000000, "exp": 1760604800,
     "api_endpoints": […], "socketio_endpoints": […]}

``ver`` is in milliseconds and never falls when the lists change; ``iat`` and ``exp`` are
POSIX seconds (RFC 7519). Signing needs joserfc, of the extra ``signing``; joserfc is imported when
a key is read.
"""

import contextlib
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import MissingExtra, PayloadError, SignatureError, SigningKeyError
from .endpoint import EndpointConfig, check_room_id, config_of, dumps, rfc3339

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey
    from joserfc.jws import JWSRegistry

ALGORITHM = "Ed25519"
TYPE = "endpoints+jws"
MEDIA_TYPE = "application/jose"
#: Media type of a JWK set.
KEYS_MEDIA_TYPE = "application/jwk-set+json"
#: Seconds by which the clocks of a signer and a reader may differ.
SKEW = 300.0
#: Seconds by which a version may be in the future.
MAX_AHEAD = 86400
#: The largest integer that every JSON decoder reads exactly.
MAX_NUMBER = 2**53 - 1
#: Limit of the encoded header's length in characters; our own header has 121.
_MAX_HEADER = 1024
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]*)", re.ASCII)
_JWK_RULE = f"its kty must be OKP, its crv {ALGORITHM}, and x and d must be 32 bytes each"
_KID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class SignedList(NamedTuple):
    """A signed list whose signature has been verified.

    Attributes:
        config: The endpoints.
        ver: The version, in milliseconds.
        iat: Time of the signature, in POSIX seconds.
        exp: Time of expiry, in POSIX seconds.
        kid: Thumbprint of the key.
        text: The JWS itself.
        digest: Hash of the endpoints only, so that equal lists have equal hashes at any time of
            signature.
        room_id: The room that the app joins, or None; used in QR codes.
    """

    config: EndpointConfig
    ver: int
    iat: int
    exp: int
    kid: str
    text: str
    digest: str
    room_id: str | None = None

    def expired(self, now: float) -> bool:
        """Whether the list has expired, with 5 minutes of tolerance for clocks that differ."""
        return now > self.exp + SKEW


class SigningKey:
    """A private key.

    Attributes:
        kid: Thumbprint of the key (RFC 7638).
        public: The public key as a JWK.
    """

    def __init__(self, key: "OKPKey") -> None:
        self._key = key
        self.kid = key.thumbprint()
        self.public: dict[str, Any] = key.as_dict(
            private=False, kid=self.kid, alg=ALGORITHM, use="sig"
        )

    @classmethod
    def generate(cls) -> "SigningKey":
        """Generate a new key.

        Raises:
            MissingExtra: If joserfc is not installed.
        """
        return cls(_okp_key().generate_key("Ed25519"))

    @classmethod
    def read(cls, text: str | bytes) -> "SigningKey":
        """Parse a private key: a JWK, or PEM (PKCS #8) without a password.

        Raises:
            SigningKeyError: If the text is not such a key.
            MissingExtra: If joserfc is not installed.
        """
        keys = read_keys(text)
        if len(keys) != 1 or not keys[0].is_private:
            raise SigningKeyError("it is not an Ed25519 private key")
        return cls(keys[0])

    def private_jwk(self) -> dict[str, Any]:
        """Return the private key as a JWK, which must be kept secret."""
        return {**self.public, "d": str(self._key.as_dict(private=True)["d"])}

    def sign(self, body: bytes, *, ver: int, iat: int, exp: int) -> bytes:
        """Sign a list; equal arguments give equal bytes.

        Args:
            body: The wire form, as ``dumps`` encodes it.
            ver: The version, in milliseconds.
            iat: Time of the signature, in POSIX seconds.
            exp: Time of expiry, in POSIX seconds.
        """
        from joserfc import jws

        claims = f'{{"ver":{ver},"iat":{iat},"exp":{exp},'.encode()
        header = {"alg": ALGORITHM, "kid": self.kid, "typ": TYPE}
        signed = jws.serialize_compact(header, claims + body[1:], self._key, registry=_registry())
        return signed.encode("ascii")


class TrustedKeys:
    """The public keys that verify signed lists.

    Args:
        keys: Keys: a JWK or a JWK set as a ``dict`` or as JSON, or PEM.
        private: Whether private keys are accepted, too; only their public half is used.

    Attributes:
        kids: The thumbprints of the keys.

    Raises:
        SigningKeyError: If a key cannot be used, or there is no key.
        MissingExtra: If joserfc is not installed.
    """

    def __init__(
        self, keys: Iterable[Mapping[str, Any] | str | bytes], *, private: bool = False
    ) -> None:
        self._keys: dict[str, OKPKey] = {}
        for given in keys:
            for key in read_keys(given):
                if key.is_private and not private:
                    raise SigningKeyError("it is a private key: use the public key")
                self._keys[key.thumbprint()] = key
        if not self._keys:
            raise SigningKeyError("there is no key")
        self.kids = tuple(self._keys)

    def verify(
        self, text: str | bytes, now: float | None = None, most: int | None = None
    ) -> SignedList:
        """Verify a signed list: first the header, then the signature, then the claims.

        Args:
            text: The JWS.
            now: The time, in POSIX seconds, at which the list must be valid; None accepts an
                expired list.
            most: Limit of the number of endpoints, or None for no limit.

        Raises:
            SignatureError: If no trusted key has signed the text, its payload is not a list,
                or the list has expired.
        """
        from joserfc import jws
        from joserfc.errors import JoseError

        text, kid = _compact(text)
        key = self._keys.get(kid)
        if key is None:
            raise SignatureError("unknown-key", f"it is signed by a key that is not trusted: {kid}")
        try:
            body = jws.deserialize_compact(text, key, registry=_registry()).payload
        except (JoseError, ValueError, TypeError):
            raise SignatureError("bad-signature", "its signature is wrong") from None
        try:
            claims = strict_json(body.decode())
            if not isinstance(claims, dict):
                raise ValueError("it must be a JSON object")
            config = config_of(claims, most)
            numbers = {name: _number(name, claims.get(name)) for name in ("ver", "iat", "exp")}
            room_id = claims.get("room_id")
            check_room_id(room_id)
        except ValueError as error:
            reason = error if isinstance(error, PayloadError) else str(error)[:200]
            message = f"the signed payload is not a list: {reason}"
            raise SignatureError("bad-claims", message) from None
        digest = hashlib.sha256(dumps(config)).hexdigest()
        signed = SignedList(config, kid=kid, text=text, digest=digest, room_id=room_id, **numbers)
        if now is not None and signed.expired(now):
            raise SignatureError("expired", f"it has expired at {rfc3339(signed.exp)}")
        return signed


def check_ahead(signed: SignedList, now: float) -> None:
    """Reject a list whose version is far in the future, which would block all later lists.

    Args:
        signed: The list.
        now: The current time, in POSIX seconds. If ``iat`` is later, ``iat`` counts.

    Raises:
        SignatureError: With code ``ahead``, if the version is more than a day ahead.
    """
    if signed.ver > (max(now, signed.iat) + MAX_AHEAD) * 1000:
        message = f"its version {signed.ver} is more than a day in the future"
        raise SignatureError("ahead", message)


def looks_signed(text: str | bytes) -> bool:
    """Whether a text is a JWS, judged by its first characters, and not JSON."""
    head = text[:1024].lstrip()
    return head.startswith("ey") if isinstance(head, str) else head.startswith(b"ey")


def jwk_set(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """Return the public halves of keys as a JWK set (RFC 7517)."""
    return {"keys": [key.public for key in keys]}


def _registry() -> "JWSRegistry":
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=[ALGORITHM])
    # joserfc's default limit is 128 KB, but each caller limits the size of a list beforehand.
    registry.max_payload_length = 1 << 40
    return registry


# -- tokens


def _compact(text: str | bytes) -> tuple[str, str]:
    """Return a compact JWS without white space around it, and the thumbprint in its header.

    Only the header that ``SigningKey.sign`` writes is accepted: an attacker who could choose the
    algorithm could forge a signature.
    """
    from joserfc.util import urlsafe_b64decode

    if isinstance(text, bytes):
        text = text.decode("utf-8-sig", "replace")
    text = text.strip()
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise SignatureError("not-signed", "it is not a signed list")
    if len(match[1]) > _MAX_HEADER:
        raise SignatureError("bad-header", "the header of its signature is too long")
    try:
        header = strict_json(urlsafe_b64decode(match[1].encode()).decode())
    except ValueError:
        raise SignatureError("not-signed", "it is not a signed list") from None
    kid = header.get("kid") if isinstance(header, dict) else None
    expected = {"alg": ALGORITHM, "kid": kid, "typ": TYPE}
    if not isinstance(kid, str) or not _KID.fullmatch(kid) or header != expected:
        members = f"alg {ALGORITHM}, typ {TYPE} and a thumbprint as kid"
        raise SignatureError("bad-header", f"the header of its signature must have {members}")
    return text, kid


def _number(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{name} must be a whole number from 0 to {MAX_NUMBER}")
    return value


# -- keys: Ed25519 in JWK (RFC 7517, RFC 8037) and PEM form


def _okp_key() -> type["OKPKey"]:
    """Import joserfc's class of keys.

    Raises:
        MissingExtra: If joserfc is not installed.
    """
    try:
        from joserfc.jwk import OKPKey
    except ModuleNotFoundError:
        raise MissingExtra("signing and verifying lists", "signing") from None
    return OKPKey


def read_keys(given: Mapping[str, Any] | str | bytes) -> list["OKPKey"]:
    """Parse a JWK or a JWK set, as a mapping or as JSON, or PEM.

    Raises:
        SigningKeyError: If a key is not an Ed25519 key.
        MissingExtra: If joserfc is not installed.
    """
    if isinstance(given, (str, bytes)):
        text = given if isinstance(given, str) else given.decode("utf-8-sig", "replace")
        if text.lstrip().startswith("-----BEGIN"):
            return [_import(text.strip(), "another kind of key, damaged, or with a password")]
        with contextlib.suppress(ValueError):
            given = strict_json(text)
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
    # Without other members: a JWK's own ``kid`` is arbitrary, and we use the thumbprint.
    bare = {name: jwk[name] for name in ("kty", "crv", "x", "d") if name in jwk}
    # The raw value has only the private half, if there is one; its public half must be ``x``.
    key = _import(_import(bare, _JWK_RULE).raw_value, "it is damaged")
    if key.as_dict()["x"] != str(jwk["x"]).rstrip("="):
        raise SigningKeyError("its x is not the public key of its d")
    return key


def _import(value: Any, reason: str) -> "OKPKey":
    kind = _okp_key()
    from joserfc.errors import JoseError

    try:
        key = kind.import_key(value)
        if key.curve_name == ALGORITHM:
            return key
        reason = f"it is for {key.curve_name}"
    except (JoseError, ValueError, TypeError, KeyError):
        pass
    raise SigningKeyError(f"it is not an {ALGORITHM} key: {reason}") from None


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
