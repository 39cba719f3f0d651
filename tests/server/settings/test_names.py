"""Names and addresses from settings and callers: the allowed values and the errors."""

import pickle
from pathlib import Path

import pytest

from mop_config import Endpoint, create_app
from mop_config.errors import AddressError, SettingsError, SourceError
from mop_config.model.address import EtcdAddress, normalise_host, parse_url
from mop_config.server.parsing.problems import Code
from mop_config.server.parsing.render import decode
from mop_config.server.settings import ProcessSettings, Settings

from ...conftest import SAMPLE


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("TRUSTED_HOSTS", "mop_config"),
        ("TRUSTED_HOSTS", ".my_net.internal, a.com"),
        ("ENDPOINT_ALERT_WEBHOOK", "http://alert_hook:9000/in"),
        ("ENDPOINT_CORS_ORIGINS", "http://my_app:3000"),
        ("ENDPOINT_CONFIG_FILE", "etcd://etcd_1:2379,etcd_2/key"),
    ],
)
def test_names_of_containers_may_hold_underscores(variable: str, value: str) -> None:
    """Names with underscores are allowed in settings, since Compose and Swarm make such names."""
    Settings.from_environ({variable: value})


def test_a_server_may_listen_at_a_name_with_an_underscore() -> None:
    """HOST may be a name with an underscore."""
    assert ProcessSettings.from_environ({"HOST": "mop_config"}).host == "mop_config"


def test_a_trusted_name_with_an_underscore_is_answered(tmp_path: Path) -> None:
    """A trusted host name may have an underscore, and matches only itself."""
    settings = Settings(
        source=str(SAMPLE), state_dir=str(tmp_path), trusted_hosts=("mop_config", ".my_net")
    )
    client = create_app(settings, start=False).test_client()
    for host, status in (
        *(("mop_config", 200), ("MOP_CONFIG:8000", 200), ("a_b.my_net", 200)),
        *(("mopconfig", 400), ("mop-config", 400), ("mop_config.evil", 400), ("_", 400)),
    ):
        for path in ("/api/v1/config/endpoints", "/api/v1/config/status", "/"):
            assert client.get(path, headers={"Host": host}).status_code == status


def test_an_endpoint_has_no_underscore() -> None:
    """An endpoint's host has no underscore, since public certificates cannot have one."""
    with pytest.raises(AddressError):
        Endpoint.parse("https://a_b.example")


@pytest.mark.parametrize(
    ("call", "value"),
    [
        (lambda: normalise_host("a b"), "'a b'"),
        (lambda: normalise_host("a.com:80"), "'a.com:80'"),
        (lambda: parse_url("https://a_b.com/v2"), "'https://a_b.com/v2'"),
        (lambda: parse_url("https://a.com:0/"), "'https://a.com:0/'"),
        (lambda: parse_url("https://me:secret@a.com/x"), "'***@a.com/x'"),
        (lambda: parse_url("x" * 5000), "…'"),
        (lambda: parse_url("a\x1b]0;x"), r"'a\x1b]0;x'"),
        (lambda: EtcdAddress.parse("etcd://a b/key"), "'etcd://a b/key'"),
        (lambda: Endpoint.parse("https://"), "'https://'"),
    ],
)
def test_an_address_error_shows_the_value(call: object, value: str) -> None:
    """The error shows the value once, shortened, printable, and without a password."""
    with pytest.raises(AddressError) as caught:
        call()  # type: ignore[operator]
    assert value in str(caught.value)
    assert value == "…'" or str(caught.value).count(value.strip("'")) == 1
    assert len(str(caught.value)) < 400
    assert "secret" not in repr(caught.value)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (str(again), again.code) == (str(caught.value), caught.value.code)


@pytest.mark.parametrize(
    ("variable", "value", "words"),
    [
        ("TRUSTED_HOSTS", "https://a.com", "a URL is not a host"),
        ("TRUSTED_HOSTS", "a.com/v2", "no path"),
        ("TRUSTED_HOSTS", "a.com:8000", "no port"),
        ("TRUSTED_HOSTS", "xn--a", "not valid punycode"),
        ("ENDPOINT_CORS_ORIGINS", "https://a.com:0", "the port must be"),
    ],
)
def test_a_setting_that_is_no_name_says_why(variable: str, value: str, words: str) -> None:
    """The error has the reason, and the value once."""
    with pytest.raises(SettingsError) as caught:
        Settings.from_environ({variable: value})
    assert words in str(caught.value)
    assert str(caught.value).count(value) == 1


@pytest.mark.parametrize("coding", ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-32-be"])
@pytest.mark.parametrize("text", ["DomainList:\na.com\n", "# 域名\nDomainList:\na.com\n"])
def test_another_encoding_is_named(coding: str, text: str) -> None:
    """The error names UTF-16 and UTF-32, and UTF-16 of ASCII text also without a BOM."""
    data = text.encode(coding)
    if coding == "utf-32-be":
        data = b"\0\0\xfe\xff" + data
    with pytest.raises(SourceError) as caught:
        decode(data)
    assert caught.value.code == Code.NUL
    if coding in {"utf-16", "utf-32", "utf-32-be"} or text.isascii():
        assert coding[:6].upper() in str(caught.value)
        assert "UTF-8" in str(caught.value)


def test_utf_16_without_a_nul_byte_is_named_too() -> None:
    """The error names UTF-16 also for Chinese text, which has no NUL byte."""
    with pytest.raises(SourceError) as caught:
        decode("域名列表".encode("utf-16"))
    assert caught.value.code == Code.NOT_UTF8
    assert "UTF-16" in str(caught.value)
