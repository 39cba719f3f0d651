"""Tests of hosts, ports and URLs: each has one canonical spelling."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config import Endpoint, EndpointConfig
from mop_config.errors import AddressError, PayloadError
from mop_config.model.address import normalise_host, parse_url
from mop_config.model.endpoint import NAMED_URLS, Difference, difference, dumps, loads


@given(st.text(max_size=80) | st.text("abcXYZ0189.-:[]%/@ é。", max_size=40))
def test_normalising_a_host_twice_changes_nothing(text: str) -> None:
    """Normalising a canonical host returns the same host; anything else is refused."""
    try:
        host = normalise_host(text)
    except AddressError as error:
        assert error.code in {"bad-host", "bad-ip", "cidr", "userinfo"}
    else:
        assert host.isascii()
        assert normalise_host(host) == host


@given(
    st.text(max_size=80) | st.from_regex(r"(https?|wss?|ftp)://[A-Za-z0-9.:\[\]-]{1,20}(/.{0,10})?")
)
def test_normalising_a_url_twice_changes_nothing(text: str) -> None:
    """A list can be decoded, encoded and decoded again without a change."""
    canonical = text
    try:
        url = parse_url(text)
    except AddressError:
        canonical = ""
    else:
        canonical = url.text
        assert parse_url(url.text) == url
        assert Endpoint(url.text).url == url.text
        assert not set(url.text) & set('"\\ \n<>')
    if text != canonical:
        with pytest.raises(AddressError):
            Endpoint(text)


@pytest.mark.parametrize(
    "url",
    [
        "https://A.com",
        "https://a.com?x",
        "ftp://a.com",
        "a.com",
        "",
        "https://a.com/ü",
        "https://a b",
    ],
)
def test_an_endpoint_takes_only_a_canonical_url(url: str) -> None:
    """Other spellings are only accepted by ``Endpoint.parse``."""
    with pytest.raises(AddressError):
        Endpoint(url)


@pytest.mark.parametrize("priority", [-1, 1.0, "1", True, None])
def test_an_endpoint_takes_only_a_whole_priority(priority: object) -> None:
    """A priority is a whole number, 0 or more."""
    with pytest.raises(AddressError):
        Endpoint("https://a.com", priority)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["1.2.3.4", "[::1]", "A.com", "a_b", ""])
def test_an_endpoint_takes_only_a_host_as_server_name(name: str) -> None:
    """A server name is a host name, as in a certificate."""
    with pytest.raises(AddressError):
        Endpoint("https://1.2.3.4", 0, name)


def test_endpoints_are_values() -> None:
    """Endpoints are frozen, equal by content, and hashable."""
    one, other = Endpoint("https://a.com", 1), Endpoint.parse("HTTPS://A.com", 1)
    assert one == other
    assert len({one, other}) == 1
    with pytest.raises(AttributeError):
        one.priority = 2  # type: ignore[misc]
    assert not EndpointConfig()
    assert EndpointConfig((one,))


ENDPOINTS = st.lists(
    st.builds(
        Endpoint,
        st.from_regex(
            r"(https?|wss?)://[a-z]{1,8}\.com(:[1-9][0-9]{0,3})?(/([a-z~:@!$&'()*+,;=]|%[0-9A-F]{2}){0,8})?",
            fullmatch=True,
        ),
        st.integers(0, 2**40),
        st.none() | st.from_regex(r"[a-z]{1,8}\.org", fullmatch=True),
    ),
    max_size=5,
).map(tuple)


@given(ENDPOINTS, ENDPOINTS)
@pytest.mark.slow
def test_the_wire_form_survives_the_way_there_and_back(
    api: tuple[Endpoint, ...], socket: tuple[Endpoint, ...]
) -> None:
    """``loads`` undoes ``dumps``, and the JSON is what a JSON library would write."""
    import json

    config = EndpointConfig(api, socket)
    body = dumps(config)
    assert loads(body) == config
    assert json.dumps(json.loads(body), separators=(",", ":")).encode() == body


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ("", "document"),
        ("[]", "document"),
        ("{}", "document"),
        ('{"status":"healthy"}', "document"),
        ("nope", "document"),
        (b"\xff", "document"),
        ("[" * 100_000, "document"),
        ('{"api_endpoints":{}}', "api_endpoints"),
        ('{"api_endpoints":[1]}', "api_endpoints[0]"),
        ('{"api_endpoints":[{"url":"https://a.com"},{"url":5}]}', "api_endpoints[1].url"),
        ('{"socketio_endpoints":[{"url":"nope"}]}', "socketio_endpoints[0].url"),
        ('{"api_endpoints":[{"url":"https://a.com","priority":-1}]}', "api_endpoints[0].priority"),
        ('{"api_endpoints":[{"url":"https://a.com","priority":"1"}]}', "api_endpoints[0].priority"),
        (
            '{"api_endpoints":[{"url":"https://a.com","server_name":7}]}',
            "api_endpoints[0].server_name",
        ),
        (
            '{"api_endpoints":[{"url":"https://a.com","server_name":"1.2.3.4"}]}',
            "api_endpoints[0].server_name",
        ),
    ],
)
def test_json_that_is_no_configuration_is_refused_by_field(body: str | bytes, field: str) -> None:
    """The error names the invalid member."""
    with pytest.raises(PayloadError) as caught:
        loads(body)
    assert caught.value.field == field


def test_the_difference_of_two_lists() -> None:
    """Added, removed and changed endpoints are counted per kind."""
    a, b, c = (Endpoint(f"https://{x}.com") for x in "abc")
    old = dumps(EndpointConfig((a, b), (a,)))
    new = dumps(EndpointConfig((Endpoint(a.url, 3), c), (a,)))
    how = ("priority=0 → 3",)
    assert difference(old, new) == (1, 1, 1, (c.url,), (b.url,), (a.url,), how)
    assert difference(old, old) == Difference()
    many = EndpointConfig(tuple(Endpoint(f"https://h{i}.com", i) for i in range(50)))
    grown = difference(old, dumps(many))
    assert (grown.added, len(grown.added_urls)) == (50, NAMED_URLS)
    moved = tuple(Endpoint(e.url, e.priority + 1, server_name="a.com") for e in many.api_endpoints)
    both = EndpointConfig(moved, moved)
    shifted = difference(dumps(EndpointConfig(many.api_endpoints, moved)), dumps(both))
    assert (shifted.changed, len(shifted.changed_urls)) == (50, NAMED_URLS)
    assert len(shifted.changed_how) == NAMED_URLS
    assert shifted.changed_how[0] == "priority=0 → 1, server_name=- → a.com"
