"""An endpoint list as a compact JWS (RFC 7515), signed with Ed25519 (RFC 9864).

The payload is the wire form with three claims before its lists::

    {"ver": 1760000000000, "iat": 1760000000, "exp": 1760604800,
     "api_endpoints": […], "socketio_endpoints": […]}

``ver`` is in milliseconds and never falls when the lists change; ``iat`` and ``exp`` are
POSIX seconds (RFC 7519). It needs the extra ``signing``, whose joserfc is imported when a
key is read.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import PayloadError, SignatureError, SigningKeyError
from . import codec
from .endpoint import EndpointConfig
from .keys import ALGORITHM, need_joserfc, public_jwk, read_keys, strict_json

if TYPE_CHECKING:
    from joserfc.jwk import OKPKey
    from joserfc.jws import JWSRegistry

TYPE = "endpoints+jws"
MEDIA_TYPE = "application/jose"
#: Seconds by which the clocks of a signer and a reader may differ.
SKEW = 300.0
#: Seconds by which a version may be ahead of the time.
DAY = 86400
#: The largest whole number that every reader of JSON understands.
MAX_NUMBER = 2**53 - 1
#: Of the encoded header; ours has 121 characters.
_MAX_HEADER = 1024
_COMPACT = re.compile(r"([A-Za-z0-9_-]+)\.([A-Za-z0-9_-]*)\.([A-Za-z0-9_-]*)", re.ASCII)
_HEADER = frozenset({"alg", "kid", "typ"})


class SignedList(NamedTuple):
    """A list that a key has signed.

    Attributes:
        config: The endpoints.
        ver: The version, in milliseconds.
        iat: When it was signed, in POSIX seconds.
        exp: Until when it holds, likewise.
        kid: The key, by its thumbprint.
        text: The JWS as it stands.
        digest: Of the lists alone: equal for equal lists, whenever they were signed.
        room_id: The room to join, or None; for a QR code.
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
        """Whether it holds no longer, by a clock that may be 5 minutes ahead."""
        return now > self.exp + SKEW


class SigningKey:
    """A private key; nothing of it shows in a log.

    Attributes:
        kid: Its thumbprint (RFC 7638).
        public: The public key as a JWK.
    """

    def __init__(self, key: "OKPKey") -> None:
        self._key = key
        self.kid = key.thumbprint()
        self.public = public_jwk(key)

    def __repr__(self) -> str:
        return f"<SigningKey {self.kid}>"

    @classmethod
    def generate(cls) -> "SigningKey":
        """Make a new key.

        Raises:
            MissingExtra: If joserfc is not installed.
        """
        need_joserfc()
        from joserfc.jwk import OKPKey

        return cls(OKPKey.generate_key("Ed25519"))

    @classmethod
    def read(cls, text: str | bytes) -> "SigningKey":
        """Read a private key: a JWK, or PEM (PKCS #8) without a password.

        Raises:
            SigningKeyError: If it is none.
            MissingExtra: If joserfc is not installed.
        """
        keys = read_keys(text)
        if len(keys) != 1 or not keys[0].is_private:
            raise SigningKeyError("it is no Ed25519 private key")
        return cls(keys[0])

    def private_jwk(self) -> dict[str, Any]:
        """Give the private key as a JWK, to be kept secret."""
        return {**self.public, "d": str(self._key.as_dict(private=True)["d"])}

    def sign(self, body: bytes, *, ver: int, iat: int, exp: int) -> bytes:
        """Sign a list; the same arguments give the same bytes.

        Args:
            body: The wire form, as ``codec.dumps`` makes it.
            ver: The version, in milliseconds.
            iat: The moment, in POSIX seconds.
            exp: Until when it is to hold, likewise.
        """
        from joserfc import jws

        claims = f'{{"ver":{ver},"iat":{iat},"exp":{exp},'.encode()
        header = {"alg": ALGORITHM, "kid": self.kid, "typ": TYPE}
        signed = jws.serialize_compact(header, claims + body[1:], self._key, registry=_registry())
        return signed.encode("ascii")


class TrustedKeys:
    """The public keys whose lists are believed.

    Args:
        keys: Each a JWK or a JWK set as a ``dict``, or either of them, or PEM, as text.
        private: Whether a private key may stand for its public one.

    Raises:
        SigningKeyError: If one cannot be used, or there is none.
        MissingExtra: If joserfc is not installed.
    """

    def __init__(
        self, keys: Iterable[Mapping[str, Any] | str | bytes], *, private: bool = False
    ) -> None:
        self._keys: dict[str, OKPKey] = {}
        for given in keys:
            for key in read_keys(given):
                if key.is_private and not private:
                    raise SigningKeyError("it is a private key: give the public one")
                self._keys[key.thumbprint()] = key
        if not self._keys:
            raise SigningKeyError("there is no key")

    def __repr__(self) -> str:
        return f"<TrustedKeys {', '.join(self._keys)}>"

    @property
    def kids(self) -> tuple[str, ...]:
        """The keys, by their thumbprints."""
        return tuple(self._keys)

    def verify(
        self, text: str | bytes, now: float | None = None, most: int | None = None
    ) -> SignedList:
        """Read a signed list: first its header, then its signature, and then what it says.

        Args:
            text: The JWS.
            now: The time, in POSIX seconds, at which it must hold; None for any.
            most: How many endpoints it may have, or None for any number.

        Raises:
            SignatureError: If no trusted key has signed it, it is no list, or it has expired.
        """
        compact = _compact(text)
        kid = _kid(compact)
        key = self._keys.get(kid)
        if key is None:
            raise SignatureError("unknown-key", f"it is signed by a key that is not trusted: {kid}")
        signed = _signed_list(compact[0], kid, _verified(compact[0], key), most)
        if now is not None and signed.expired(now):
            raise SignatureError("expired", f"it has expired at {moment(signed.exp)}")
        return signed


def check_ahead(signed: SignedList, now: float) -> None:
    """Hold the version of a list to the time: one far in the future would block all later lists.

    Args:
        signed: The list.
        now: The latest time that counts besides that of its signature, in POSIX seconds.

    Raises:
        SignatureError: With code ``ahead``, if it is more than a day ahead.
    """
    if signed.ver > (max(now, signed.iat) + DAY) * 1000:
        message = f"its version {signed.ver} is more than a day ahead of the time"
        raise SignatureError("ahead", message)


def moment(seconds: int) -> str:
    """Write a time of a claim as RFC 3339, where it is one that has a date."""
    try:
        return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%SZ}"
    except (ValueError, OverflowError, OSError):
        return str(seconds)


def looks_signed(text: str | bytes) -> bool:
    """Whether a text is meant as a JWS, and not as JSON."""
    head = text[:1024].lstrip()
    return head.startswith("ey") if isinstance(head, str) else head.startswith(b"ey")


def jwk_set(keys: Iterable[SigningKey]) -> dict[str, Any]:
    """Give the public halves of keys as a JWK set (RFC 7517)."""
    return {"keys": [key.public for key in keys]}


def _registry() -> "JWSRegistry":
    from joserfc.jws import JWSRegistry

    registry = JWSRegistry(algorithms=[ALGORITHM])
    # Its own bound is 128 KB; how large a list may be is decided where it is fetched.
    registry.max_payload_length = 1 << 40
    return registry


# -- tokens


def _compact(text: str | bytes) -> tuple[str, str]:
    """Give the whole of a compact JWS, and its encoded header."""
    if isinstance(text, bytes):
        try:
            text = text.decode("ascii")
        except UnicodeDecodeError:
            raise SignatureError("not-signed", "it is no signed list") from None
    text = text.strip()
    match = _COMPACT.fullmatch(text)
    if match is None:
        raise SignatureError("not-signed", "it is no signed list")
    if len(match[1]) > _MAX_HEADER:
        raise SignatureError("bad-header", "the header of its signature is too long")
    return text, match[1]


def _kid(compact: tuple[str, str]) -> str:
    """Hold the header to exactly what we write, and give the key that it names.

    Nothing in it is a choice: an attacker who may choose the algorithm has won.
    """
    from joserfc.util import urlsafe_b64decode

    try:
        header = strict_json(urlsafe_b64decode(compact[1].encode()).decode())
    except ValueError:
        raise SignatureError("not-signed", "it is no signed list") from None
    if not isinstance(header, dict) or header.keys() != _HEADER:
        raise SignatureError("bad-header", "the header of its signature must have alg, kid and typ")
    if header["alg"] != ALGORITHM:
        raise SignatureError("bad-header", f"the alg of its signature must be {ALGORITHM}")
    if header["typ"] != TYPE:
        raise SignatureError("bad-header", f"the typ of its signature must be {TYPE}")
    kid = header["kid"]
    if not isinstance(kid, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,64}", kid):
        raise SignatureError("bad-header", "the kid of its signature must be a thumbprint")
    return kid


def _verified(text: str, key: "OKPKey") -> bytes:
    from joserfc import jws
    from joserfc.errors import JoseError

    try:
        return jws.deserialize_compact(text, key, registry=_registry()).payload
    except (JoseError, ValueError, TypeError):
        raise SignatureError("bad-signature", "its signature is wrong") from None


def _signed_list(text: str, kid: str, body: bytes, most: int | None) -> SignedList:
    try:
        claims = strict_json(body.decode())
        if not isinstance(claims, dict):
            raise ValueError("it must be a JSON object")
        config = codec.config_of(claims, most)
        numbers = {name: _number(name, claims.get(name)) for name in ("ver", "iat", "exp")}
        room_id = claims.get("room_id")
        if room_id is not None:
            codec.check_room_id(room_id)
    except ValueError as error:
        reason = error if isinstance(error, PayloadError) else str(error)[:200]
        raise SignatureError("bad-claims", f"what is signed is no list: {reason}") from None
    digest = hashlib.sha256(codec.dumps(config)).hexdigest()
    return SignedList(config, kid=kid, text=text, digest=digest, room_id=room_id, **numbers)


def _number(name: str, value: Any) -> int:
    if type(value) is not int or not 0 <= value <= MAX_NUMBER:
        raise ValueError(f"{name} must be a whole number from 0 to {MAX_NUMBER}")
    return value
