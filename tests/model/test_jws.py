"""Signed lists: what is signed is read back, and whatever else there may be is refused."""

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
from mop_config.model import codec
from mop_config.model.endpoint import Endpoint, EndpointConfig
from mop_config.model.jws import MAX_NUMBER, SigningKey, TrustedKeys, jwk_set, looks_signed

OURS, OTHERS = SigningKey.generate(), SigningKey.generate()
TRUSTED = TrustedKeys([OURS.public])
CONFIG = EndpointConfig(
    (Endpoint("https://a.example/api/v1", 0), Endpoint("https://10.0.0.1/api/v1", 3, "a.example")),
    (Endpoint("wss://s.example/ws", 0),),
)
BODY = codec.dumps(CONFIG)
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
    """A JWS that is properly signed with our key, whatever stands in it."""
    key = OKPKey.import_key(OURS.private_jwk())
    assert key.private_key is not None
    text = f"{encode(header)}.{encode(body)}"
    return f"{text}.{encode(key.private_key.sign(text.encode()))}"  # type: ignore[union-attr]


OUR_HEADER = {"alg": "Ed25519", "kid": OURS.kid, "typ": "endpoints+jws"}
CLAIMS = '{"ver":1000,"iat":2000,"exp":3000,'


def refused(text: str | bytes, keys: TrustedKeys = TRUSTED, now: float | None = None) -> str:
    """The code of the refusal; its reason is one short line."""
    with pytest.raises(SignatureError) as caught:
        keys.verify(text, now)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    return caught.value.code


class TestForm:
    """The contract, letter by letter."""

    def test_the_header(self) -> None:
        """Three members, and the thumbprint of RFC 7638."""
        assert json.loads(decode(HEADER)) == OUR_HEADER
        members = {name: OURS.public[name] for name in ("crv", "kty", "x")}
        canonical = json.dumps(members, sort_keys=True, separators=(",", ":"))
        assert OURS.kid == encode(hashlib.sha256(canonical.encode()).digest())

    def test_the_claims(self) -> None:
        """Three numbers, and then the wire form."""
        claims = json.loads(decode(PAYLOAD))
        assert list(claims) == ["ver", "iat", "exp", "api_endpoints", "socketio_endpoints"]
        assert (claims["ver"], claims["iat"], claims["exp"]) == (1000, 2000, 3000)
        lists = {name: claims[name] for name in ("api_endpoints", "socketio_endpoints")}
        assert lists == json.loads(BODY)

    def test_another_program_can_verify_it(self) -> None:
        """joserfc by itself, with nothing but the published key."""
        key = OKPKey.import_key(OURS.public)
        assert jws.deserialize_compact(SIGNED, key, algorithms=["Ed25519"]).payload[:1] == b"{"

    def test_equal_lists_are_signed_alike(self) -> None:
        """So that every node gives the same bytes."""
        again = SigningKey.read(json.dumps(OURS.private_jwk()))
        assert again.sign(BODY, ver=1000, iat=2000, exp=3000) == SIGNED

    def test_the_public_key_holds_nothing_secret(self) -> None:
        """Neither does what a log would show."""
        secret = OURS.private_jwk()["d"]
        assert secret not in json.dumps(jwk_set([OURS]))
        assert secret not in repr(OURS) + str(OURS) + repr(TRUSTED)
        assert OURS.public.keys() == {"kty", "crv", "x", "kid", "alg", "use"}

    def test_a_large_list_is_read(self) -> None:
        """Beyond the library's own bound of 128 KB."""
        many = EndpointConfig(
            tuple(Endpoint(f"https://host-{n}.example/api/v1", n) for n in range(20_000))
        )
        text = OURS.sign(codec.dumps(many), ver=1, iat=1, exp=2)
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
    """Every list, every number; the digest is that of the lists alone."""
    config = EndpointConfig(api, sockets)
    body = codec.dumps(config)
    found = TRUSTED.verify(OURS.sign(body, ver=ver, iat=iat, exp=exp))
    assert (found.config, found.ver, found.iat, found.exp, found.kid) == (
        *(config, ver, iat, exp),
        OURS.kid,
    )
    assert found.digest == TRUSTED.verify(OURS.sign(body, ver=0, iat=0, exp=0)).digest


@given(st.data())
@settings(max_examples=100)
def test_no_change_of_a_signed_text_goes_unnoticed(data: st.DataObject) -> None:
    """One character replaced, left out or added, anywhere."""
    text = SIGNED.decode()
    at = data.draw(st.integers(0, len(text) - 1))
    new = data.draw(st.sampled_from("AZaz09-_.=+/ \n\0é"))
    how = data.draw(st.sampled_from([text[:at] + new + text[at + 1 :], text[:at] + text[at + 1 :]]))
    try:
        found = TRUSTED.verify(how)
    except SignatureError:
        return
    # The last character of base64 has spare bits: they are no part of the signature.
    assert found[:5] == TRUSTED.verify(text)[:5]
    assert how.strip()[:-1] == text[:-1] or how.strip() == text


@given(st.one_of(st.text(max_size=200), st.binary(max_size=200)))
def test_nonsense_is_refused(text: str | bytes) -> None:
    """With a code, and never with another exception."""
    assert refused(text) in {"not-signed", "bad-header"}


class TestAttacks:
    """Each is refused before the payload is looked at, but those with our own signature."""

    def test_a_tampered_payload(self) -> None:
        """Another host, under the old signature."""
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
        """Even where our own key has signed it: nothing in the header is a choice."""
        text = signed_by_us({**OUR_HEADER, **change}, decode(PAYLOAD))
        assert refused(text) == "bad-header"
        assert refused(f"{encode({**OUR_HEADER, **change})}.{PAYLOAD}.{SIGNATURE}") == "bad-header"

    @pytest.mark.parametrize("missing", ["alg", "kid", "typ"])
    def test_a_header_without_a_member(self, missing: str) -> None:
        """All three stand there."""
        header = {name: value for name, value in OUR_HEADER.items() if name != missing}
        assert refused(signed_by_us(header, decode(PAYLOAD))) == "bad-header"

    def test_no_signature_at_all(self) -> None:
        """alg none, with an empty third part."""
        header = encode({**OUR_HEADER, "alg": "none"})
        assert refused(f"{header}.{PAYLOAD}.") == "bad-header"
        assert refused(f"{HEADER}.{PAYLOAD}.") == "bad-signature"

    @pytest.mark.parametrize("alg", ["HS256", "Ed25519"])
    def test_our_public_key_as_a_secret(self, alg: str) -> None:
        """The public key is no secret, and whoever has it must not be able to sign with it."""
        header = encode({**OUR_HEADER, "alg": alg})
        for secret in (decode(OURS.public["x"]), json.dumps(OURS.public).encode()):
            mac = hmac.new(secret, f"{header}.{PAYLOAD}".encode(), "sha256").digest()
            assert refused(f"{header}.{PAYLOAD}.{encode(mac)}") in {"bad-header", "bad-signature"}

    def test_somebody_elses_signature_under_our_name(self) -> None:
        """The key that is named is the key that is asked."""
        text = OTHERS.sign(BODY, ver=1, iat=1, exp=2).decode().split(".")
        assert refused(".".join([HEADER, *text[1:]])) == "bad-signature"
        assert refused(".".join(text)) == "unknown-key"

    def test_our_kid_in_anothers_key(self) -> None:
        """A trusted key is known by its thumbprint, whatever it calls itself."""
        trusted = TrustedKeys([{**OTHERS.public, "kid": OURS.kid}])
        assert trusted.kids == (OTHERS.kid,)
        assert refused(SIGNED, trusted) == "unknown-key"

    @pytest.mark.parametrize("length", [0, 1, 10, len(HEADER), len(HEADER) + 1, len(SIGNED) - 1])
    def test_a_truncated_list(self, length: int) -> None:
        """Wherever it ends."""
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
        """Refused, and no part of it is repeated."""
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
        """Or in none."""
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
            CLAIMS + '"api_endpoints":[{"url":"nonsense"}]}',
            CLAIMS + '"room_id":7}',
            "[]",
            "",
            "[" * 100_000,
            b"\xff",
        ],
    )
    def test_what_is_signed_must_be_a_list(self, body: str | bytes) -> None:
        """A mistake of our own signer must not get through either."""
        assert refused(signed_by_us(OUR_HEADER, body)) == "bad-claims"

    def test_an_expired_list(self) -> None:
        """With five minutes for clocks that differ, and not one second more."""
        assert TRUSTED.verify(SIGNED, 3000 + 300).exp == 3000
        assert refused(SIGNED, now=3000 + 301) == "expired"

    def test_a_list_from_the_future_is_taken(self) -> None:
        """A device's clock may be far behind: that is no reason to stay with an old list."""
        assert TRUSTED.verify(SIGNED, 0.0).iat == 2000

    def test_two_keys_may_be_trusted_at_once(self) -> None:
        """While one takes the place of the other."""
        both = TrustedKeys([OURS.public, OTHERS.public])
        assert both.verify(SIGNED).kid == OURS.kid
        assert both.verify(OTHERS.sign(BODY, ver=1, iat=1, exp=2)).kid == OTHERS.kid


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What OpenSSL writes."""
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
    """In every form that other programs give them, and in no other."""

    def test_pem(self, pem: dict[str, bytes]) -> None:
        """Of both halves, as text or bytes."""
        key = SigningKey.read(pem["private"].decode())
        signed = key.sign(BODY, ver=1, iat=1, exp=2)
        assert TrustedKeys([pem["public"]]).verify(signed).kid == key.kid

    def test_json(self) -> None:
        """A key, and a set of keys, among which others may stand."""
        ec = ECKey.generate_key("P-256").as_dict()
        for text in (
            json.dumps(OURS.public),
            json.dumps(jwk_set([OTHERS, OURS])),
            json.dumps({"keys": [ec, OURS.public]}),
        ):
            assert TrustedKeys([text]).verify(SIGNED).kid == OURS.kid

    def test_a_private_key_is_not_for_apps(self) -> None:
        """It must be noticed before it is shipped."""
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
            {**OURS.public, "alg": "HS256"},
            {**OURS.public, "use": "enc"},
            {"kty": "OKP", "crv": "Ed25519"},
            {**OTHERS.public, "d": OURS.private_jwk()["d"]},
        ],
    )
    def test_what_is_no_key_is_refused(self, key: Any) -> None:
        """In one line, that shows nothing of it."""
        with pytest.raises(SigningKeyError) as caught:
            TrustedKeys([key], private=True)
        assert len(str(caught.value).splitlines()) == 1
        assert OURS.private_jwk()["d"] not in str(caught.value)

    def test_keys_of_other_kinds_in_pem(self, pem: dict[str, bytes]) -> None:
        """RSA, and one with a password."""
        rsa = RSAKey.generate_key(2048).as_pem(private=True)
        for text in (rsa, pem["locked"]):
            with pytest.raises(SigningKeyError):
                SigningKey.read(text)

    def test_a_public_key_does_not_sign(self, pem: dict[str, bytes]) -> None:
        """Neither does a set of keys."""
        two = json.dumps({"keys": [OURS.private_jwk(), OTHERS.private_jwk()]})
        for text in (pem["public"], json.dumps(OURS.public), two):
            with pytest.raises(SigningKeyError):
                SigningKey.read(text)

    def test_no_key_is_no_trust(self) -> None:
        """An empty list must not mean that all are trusted."""
        with pytest.raises(SigningKeyError):
            TrustedKeys([])
        with pytest.raises(SigningKeyError):
            TrustedKeys([{"keys": []}])


def test_a_json_text_does_not_look_signed() -> None:
    """And a JWS does, whatever stands around it."""
    assert looks_signed(SIGNED)
    assert looks_signed("\n" + SIGNED.decode())
    assert not looks_signed('{"api_url": "https://a.example"}')
    assert not looks_signed("")


def test_without_the_extra_the_reason_is_said(tmp_path: Path) -> None:
    """By the library and on the command line, in one line."""
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
