"""Signed lists: a signed list verifies, and any other text is refused."""

import base64
import hashlib
import hmac
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization as ser
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey, RSAKey

from mop_config.errors import SignatureError, SigningKeyError
from mop_config.model.endpoint import Endpoint, EndpointConfig, dumps
from mop_config.model.jws import MAX_NUMBER, SigningKey, TrustedKeys, jwk_set, looks_signed

OURS, OTHERS = SigningKey.generate(), SigningKey.generate()
TRUSTED = TrustedKeys([OURS.public])
CONFIG = EndpointConfig(
    (Endpoint("https://a.example/api/v1", 0), Endpoint("https://10.0.0.1/api/v1", 3, "a.example")),
    (Endpoint("wss://s.example/ws", 0),),
)
BODY = dumps(CONFIG)
SIGNED = OURS.sign(BODY, ver=1000, iat=2000, exp=3000)
HEADER, PAYLOAD, SIGNATURE = SIGNED.decode().split(".")


def encode(data: bytes | str | dict[str, Any]) -> str:
    if isinstance(data, dict):
        data = json.dumps(data)
    data = data.encode() if isinstance(data, str) else data
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def decode(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed_by_us(header: bytes | str | dict[str, Any], body: bytes | str) -> str:
    """Return a JWS with any header and body, correctly signed with our key."""
    key = OKPKey.import_key(OURS.private_jwk())
    assert key.private_key is not None
    text = f"{encode(header)}.{encode(body)}"
    return f"{text}.{encode(key.private_key.sign(text.encode()))}"  # type: ignore[union-attr]


OUR_HEADER = {"alg": "Ed25519", "kid": OURS.kid, "typ": "endpoints+jws"}
CLAIMS = '{"ver":1000,"iat":2000,"exp":3000,'


def refused(text: str | bytes, keys: TrustedKeys = TRUSTED, now: float | None = None) -> str:
    """Verify a text that must be refused with one short line, and return the refusal's code."""
    with pytest.raises(SignatureError) as caught:
        keys.verify(text, now)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value.code


class TestForm:
    """Header and claims equal the contract byte for byte."""

    def test_the_header(self) -> None:
        """The header has three members, and its key id is the RFC 7638 thumbprint."""
        assert json.loads(decode(HEADER)) == OUR_HEADER
        members = {name: OURS.public[name] for name in ("crv", "kty", "x")}
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
        assert OURS.kid == encode(hashlib.sha256(canonical.encode()).digest())

    def test_the_claims(self) -> None:
        """The claims are three numbers and the wire form."""
        claims = json.loads(decode(PAYLOAD))
        assert list(claims) == ["ver", "iat", "exp", "api_endpoints", "socketio_endpoints"]
        assert (claims["ver"], claims["iat"], claims["exp"]) == (1000, 2000, 3000)
        lists = {name: claims[name] for name in ("api_endpoints", "socketio_endpoints")}
        assert lists == json.loads(BODY)

    def test_another_program_can_verify_it(self) -> None:
        """joserfc alone verifies the JWS with the published key."""
        key = OKPKey.import_key(OURS.public)
        assert jws.deserialize_compact(SIGNED, key, algorithms=["Ed25519"]).payload[:1] == b"{"

    def test_equal_lists_are_signed_alike(self) -> None:
        """Equal lists give equal bytes, so that every node serves the same text."""
        again = SigningKey.read(json.dumps(OURS.private_jwk()))
        assert again.sign(BODY, ver=1000, iat=2000, exp=3000) == SIGNED

    def test_the_public_key_holds_nothing_secret(self) -> None:
        """The public key and the repr of a key hold no secret."""
        secret = OURS.private_jwk()["d"]
        assert secret not in json.dumps(jwk_set([OURS]))
        assert secret not in repr(OURS) + str(OURS) + repr(TRUSTED)
        assert OURS.public.keys() == {"kty", "crv", "x", "kid", "alg", "use"}

    def test_a_large_list_is_read(self) -> None:
        """A list larger than the library's own limit of 128 KB verifies."""
        many = EndpointConfig(
            tuple(Endpoint(f"https://host-{n}.example/api/v1", n) for n in range(20_000))
        )
        text = OURS.sign(dumps(many), ver=1, iat=1, exp=2)
        assert len(text) > 1_000_000
        assert TRUSTED.verify(text).config == many


urls = st.from_regex(
    r"https://[a-z]{1,8}\.example(:[1-9][0-9]{0,3})?(/[a-z]{1,5})?", fullmatch=True
)
endpoints = st.lists(
    st.tuples(urls, st.integers(0, 2**40), st.sampled_from([None, "name.example"])), max_size=5
).map(lambda entries: tuple(Endpoint.parse(*entry) for entry in entries))
numbers = st.integers(0, MAX_NUMBER)


@given(endpoints, endpoints, numbers, numbers, numbers)
@settings(max_examples=50)
def test_what_is_signed_is_read_back(
    api: tuple[Endpoint, ...], sockets: tuple[Endpoint, ...], ver: int, iat: int, exp: int
) -> None:
    """Any list and numbers survive signing and verifying; the digest covers the lists only."""
    config = EndpointConfig(api, sockets)
    body = dumps(config)
    found = TRUSTED.verify(OURS.sign(body, ver=ver, iat=iat, exp=exp))
    assert (found.config, found.ver, found.iat, found.exp, found.kid) == (
        *(config, ver, iat, exp),
        OURS.kid,
    )
    assert found.digest == TRUSTED.verify(OURS.sign(body, ver=0, iat=0, exp=0)).digest


@given(st.data())
@settings(max_examples=100)
def test_no_change_of_a_signed_text_goes_unnoticed(data: st.DataObject) -> None:
    """Any replaced, removed or added character is detected."""
    text = SIGNED.decode()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("AZaz09-_.=+/ \n\0é"))
    how = data.draw(st.sampled_from([text[:at] + new + text[at + 1 :], text[:at] + text[at + 1 :]]))
    try:
        found = TRUSTED.verify(how)
    except SignatureError:
        return
    # The last base64 character has spare bits, which are no part of the signature.
    assert found[:5] == TRUSTED.verify(text)[:5]
    assert how.strip()[:-1] == text[:-1] or how.strip() == text


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_nonsense_is_refused(text: str | bytes) -> None:
    """Any other text is refused with a code, and never raises another exception."""
    assert refused(text) in {"not-signed", "bad-header"}


class TestAttacks:
    """Attacks are refused before the payload is parsed, except those that our key has signed."""

    def test_a_tampered_payload(self) -> None:
        """A payload with another host under the old signature is refused."""
        evil = decode(PAYLOAD).replace(b"a.example", b"evil.test")
        assert refused(f"{HEADER}.{encode(evil)}.{SIGNATURE}") == "bad-signature"

    @pytest.mark.parametrize(
        "change",
        [
            {"alg": "none"},
            {"alg": "HS256"},
            {"alg": "EdDSA"},
            {"alg": "ed25519"},
            {"alg": ["Ed25519"]},
            {"alg": None},
            {"typ": "JWT"},
            {"typ": "endpoints+JWS"},
            {"kid": 7},
            {"kid": ""},
            {"kid": "../../etc/passwd"},
            {"crit": ["exp"]},
            {"b64": False, "crit": ["b64"]},
            {"jwk": OTHERS.public},
            {"jku": "https://evil.test/keys"},
        ],
    )
    def test_a_swapped_header(self, change: dict[str, Any]) -> None:
        """A changed header is refused, even if our key signed it: no header member is a choice."""
        text = signed_by_us({**OUR_HEADER, **change}, decode(PAYLOAD))
        assert refused(text) == "bad-header"
        assert refused(f"{encode({**OUR_HEADER, **change})}.{PAYLOAD}.{SIGNATURE}") == "bad-header"

    @pytest.mark.parametrize("missing", ["alg", "kid", "typ"])
    def test_a_header_without_a_member(self, missing: str) -> None:
        """A header must have all three members."""
        header = {name: value for name, value in OUR_HEADER.items() if name != missing}
        assert refused(signed_by_us(header, decode(PAYLOAD))) == "bad-header"

    def test_no_signature_at_all(self) -> None:
        """``alg: none`` with an empty signature is refused."""
        header = encode({**OUR_HEADER, "alg": "none"})
        assert refused(f"{header}.{PAYLOAD}.") == "bad-header"
        assert refused(f"{HEADER}.{PAYLOAD}.") == "bad-signature"

    @pytest.mark.parametrize("alg", ["HS256", "Ed25519"])
    def test_our_public_key_as_a_secret(self, alg: str) -> None:
        """An HMAC with the public key as its secret is refused, because anybody has that key."""
        header = encode({**OUR_HEADER, "alg": alg})
        for secret in (decode(OURS.public["x"]), json.dumps(OURS.public).encode()):
            mac = hmac.new(secret, f"{header}.{PAYLOAD}".encode(), "sha256").digest()
            assert refused(f"{header}.{PAYLOAD}.{encode(mac)}") in {"bad-header", "bad-signature"}

    def test_somebody_elses_signature_under_our_name(self) -> None:
        """The signature must come from the key that the header names."""
        text = OTHERS.sign(BODY, ver=1, iat=1, exp=2).decode().split(".")
        assert refused(".".join([HEADER, *text[1:]])) == "bad-signature"
        assert refused(".".join(text)) == "unknown-key"

    def test_our_kid_in_anothers_key(self) -> None:
        """A trusted key's id is its computed thumbprint, not the ``kid`` that the key claims."""
        trusted = TrustedKeys([{**OTHERS.public, "kid": OURS.kid}])
        assert trusted.kids == (OTHERS.kid,)
        assert refused(SIGNED, trusted) == "unknown-key"

    @pytest.mark.parametrize("length", [0, 1, 10, len(HEADER), len(HEADER) + 1, len(SIGNED) - 1])
    def test_a_truncated_list(self, length: int) -> None:
        """A list truncated at any place is refused."""
        refused(SIGNED[:length])

    @pytest.mark.parametrize(
        "text",
        [
            b"A" * 10_000_000,
            b"." * 10_000_000,
            b"[" * 10_000_000,
            b"\0" * 10_000_000,
            (HEADER + "." + "A" * 10_000_000 + "." + SIGNATURE).encode(),
            ("A" * 10_000_000 + "." + PAYLOAD + "." + SIGNATURE).encode(),
        ],
        ids=["letters", "dots", "brackets", "zeros", "payload", "header"],
    )
    def test_ten_megabytes_of_nonsense(self, text: bytes) -> None:
        """Ten megabytes of nonsense are refused, and the reason repeats no part of them."""
        refused(text)

    @pytest.mark.parametrize(
        "header",
        [
            json.dumps(OUR_HEADER).replace("{", '{"alg": "none", '),
            "[" * 700,
            "null",
            '"Ed25519"',
            b"\xff\xfe",
            json.dumps(OUR_HEADER).encode("utf-16"),
        ],
    )
    def test_a_header_that_can_be_read_in_two_ways(self, header: str | bytes) -> None:
        """A header with duplicate members or invalid JSON is refused."""
        assert refused(signed_by_us(header, decode(PAYLOAD))) in {"not-signed", "bad-header"}

    @pytest.mark.parametrize(
        "body",
        [
            CLAIMS + '"api_endpoints":[],"api_endpoints":[],"socketio_endpoints":[]}',
            CLAIMS + '"ver":1001,"api_endpoints":[],"socketio_endpoints":[]}',
            CLAIMS + '"api_endpoints":[{"url":"https://a","url":"https://b","priority":0}]}',
            f'{{"ver":{MAX_NUMBER + 1},"iat":1,"exp":2,"api_endpoints":[]}}',
            f'{{"ver":{"9" * 5000},"iat":1,"exp":2,"api_endpoints":[]}}',
            '{"ver":-1,"iat":1,"exp":2}',
            '{"ver":1.5,"iat":1,"exp":2}',
            '{"ver":true,"iat":1,"exp":2}',
            '{"ver":"1","iat":1,"exp":2}',
            '{"ver":1,"iat":1}',
            '{"iat":1,"exp":2}',
            '{"ver":1,"iat":1,"exp":1e400}',
            '{"ver":1,"iat":1,"exp":NaN}',
            CLAIMS + '"x":NaN,"api_endpoints":[],"socketio_endpoints":[]}',
            CLAIMS + '"x":-Infinity,"api_endpoints":[],"socketio_endpoints":[]}',
            CLAIMS + '"api_endpoints":[{"url":"nonsense"}]}',
            CLAIMS + '"room_id":7}',
            "[]",
            "",
            "[" * 100_000,
            b"\xff",
        ],
    )
    def test_what_is_signed_must_be_a_list(self, body: str | bytes) -> None:
        """A signed payload that is no valid list is refused, even if our own signer made it."""
        assert refused(signed_by_us(OUR_HEADER, body)) == "bad-claims"

    def test_an_expired_list(self) -> None:
        """A list is accepted until five minutes after its expiry, as clocks differ."""
        assert TRUSTED.verify(SIGNED, 3000 + 300).exp == 3000
        assert refused(SIGNED, now=3000 + 301) == "expired"

    def test_a_list_from_the_future_is_taken(self) -> None:
        """A list issued in the future is accepted, because a device's clock may be far behind."""
        assert TRUSTED.verify(SIGNED, 0.0).iat == 2000

    def test_two_keys_may_be_trusted_at_once(self) -> None:
        """Two keys can be trusted at once, so that one can replace the other."""
        both = TrustedKeys([OURS.public, OTHERS.public])
        assert both.verify(SIGNED).kid == OURS.kid
        assert both.verify(OTHERS.sign(BODY, ver=1, iat=1, exp=2)).kid == OTHERS.kid


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Return PEM files that OpenSSL wrote."""
    key = Ed25519PrivateKey.generate()
    pkcs8 = ser.PrivateFormat.PKCS8
    return {
        "private": key.private_bytes(ser.Encoding.PEM, pkcs8, ser.NoEncryption()),
        "locked": key.private_bytes(ser.Encoding.PEM, pkcs8, ser.BestAvailableEncryption(b"x")),
        "public": key.public_key().public_bytes(
            ser.Encoding.PEM, ser.PublicFormat.SubjectPublicKeyInfo
        ),
    }


class TestKeys:
    """Keys are read in every common form, and in no other."""

    def test_pem(self, pem: dict[str, bytes]) -> None:
        """PEM of the private and the public key is read as text or bytes."""
        key = SigningKey.read(pem["private"].decode())
        signed = key.sign(BODY, ver=1, iat=1, exp=2)
        assert TrustedKeys([pem["public"]]).verify(signed).kid == key.kid

    def test_json(self) -> None:
        """A JWK is read, and a JWK set that also holds other keys."""
        ec = ECKey.generate_key("P-256").as_dict()
        for text in (
            json.dumps(OURS.public),
            json.dumps(jwk_set([OTHERS, OURS])),
            json.dumps({"keys": [ec, OURS.public]}),
        ):
            assert TrustedKeys([text]).verify(SIGNED).kid == OURS.kid

    def test_a_private_key_is_not_for_apps(self) -> None:
        """A private key is refused as a trusted key, so that no app is shipped with it."""
        with pytest.raises(SigningKeyError, match="private key"):
            TrustedKeys([OURS.private_jwk()])
        assert TrustedKeys([OURS.private_jwk()], private=True).kids == (OURS.kid,)

    @pytest.mark.parametrize(
        "key",
        [
            "",
            "nonsense",
            "[]",
            "{}",
            '{"keys": 1}',
            '{"keys": [1]}',
            '{"kty":"OKP","kty":"OKP"}',
            "-----BEGIN PUBLIC KEY-----\nnonsense\n-----END PUBLIC KEY-----",
            OctKey.generate_key().as_dict(),
            ECKey.generate_key("P-256").as_dict(),
            OKPKey.generate_key("X25519").as_dict(),
            OKPKey.generate_key("Ed448").as_dict(),
            {**OURS.public, "x": "AAAA"},
            {**OURS.public, "x": 7},
            {**OTHERS.public, "d": OURS.private_jwk()["d"]},
            {"kty": "OKP", "crv": "Ed25519"},
        ],
    )
    def test_what_is_no_key_is_refused(self, key: Any) -> None:
        """Text that is no key is refused in one line that shows none of it."""
        with pytest.raises(SigningKeyError) as caught:
            TrustedKeys([key], private=True)
        assert len(str(caught.value).splitlines()) == 1
        assert OURS.private_jwk()["d"] not in str(caught.value)

    def test_keys_of_other_kinds_in_pem(self, pem: dict[str, bytes]) -> None:
        """An RSA key and an encrypted key are refused."""
        rsa = RSAKey.generate_key(2048).as_pem(private=True)
        for text in (rsa, pem["locked"]):
            with pytest.raises(SigningKeyError):
                SigningKey.read(text)

    def test_a_public_key_does_not_sign(self, pem: dict[str, bytes]) -> None:
        """A public key and a key set cannot sign."""
        two = json.dumps({"keys": [OURS.private_jwk(), OTHERS.private_jwk()]})
        for text in (pem["public"], json.dumps(OURS.public), two):
            with pytest.raises(SigningKeyError):
                SigningKey.read(text)

    def test_no_key_is_no_trust(self) -> None:
        """An empty list of keys is refused: it must not mean that all keys are trusted."""
        with pytest.raises(SigningKeyError):
            TrustedKeys([])
        with pytest.raises(SigningKeyError):
            TrustedKeys([{"keys": []}])


def test_a_json_text_does_not_look_signed() -> None:
    """JSON is not taken for a JWS, and a JWS is recognised with white space around it."""
    assert looks_signed(SIGNED)
    assert looks_signed("\n" + SIGNED.decode())
    assert not looks_signed('{"api_url": "https://a.example"}')
    assert not looks_signed("")


def test_without_the_extra_the_reason_is_said(tmp_path: Path) -> None:
    """Without the extra, library and command line give the reason in one line."""
    (tmp_path / "joserfc.py").write_text("raise ModuleNotFoundError('no', name='joserfc')")
    result = subprocess.run(
        [sys.executable, "-m", "mop_config", "keygen"],
        env={"PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == (
        "mop-config: signing and verifying lists needs the extra 'signing':"
        " pip install 'mop-config[signing]'\n"
    )
