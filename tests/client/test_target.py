"""Targets of endpoints, and the rewriting of requests for them."""

import io
from typing import Any

import httpx2
import pytest

from mop_config.client.pool.failover import RetryTraits
from mop_config.client.pool.member import target_of
from mop_config.client.transport import attempt
from mop_config.model.endpoint import Endpoint
from mop_config.net.connect import FOREVER


@pytest.mark.parametrize(
    ("url", "server_name", "host", "port", "name", "scheme", "prefix", "authority"),
    [
        ("https://a.example", None, "a.example", 443, "a.example", "https", "", "a.example"),
        ("http://a.example/v1", None, "a.example", 80, None, "http", "/v1", "a.example"),
        (
            "https://a.example:8443/x/",
            None,
            "a.example",
            8443,
            "a.example",
            "https",
            "/x",
            "a.example:8443",
        ),
        ("https://a.example:443", None, "a.example", 443, "a.example", "https", "", "a.example"),
        (
            "https://10.0.0.1",
            "api.example",
            "10.0.0.1",
            443,
            "api.example",
            "https",
            "",
            "api.example",
        ),
        (
            "http://10.0.0.1:81",
            "api.example",
            "10.0.0.1",
            81,
            None,
            "http",
            "",
            "api.example:81",
        ),
        ("https://[::1]:81", None, "[::1]", 81, "::1", "https", "", "[::1]:81"),
        ("wss://a.example/ws", None, "a.example", 443, "a.example", "https", "/ws", "a.example"),
        ("ws://a.example", None, "a.example", 80, None, "http", "", "a.example"),
    ],
)
def test_target(
    url: str,
    server_name: str | None,
    host: str,
    port: int,
    name: str | None,
    scheme: str,
    prefix: str,
    authority: str,
) -> None:
    """``target_of`` gives address, TLS name, path prefix and Host for each form of endpoint."""
    target = target_of(Endpoint(url, 3, server_name))
    assert (target.host, target.port, target.tls_name) == (host, port, name)
    assert (target.scheme, target.prefix) == (scheme.encode(), prefix.encode())
    assert target.authority == authority.encode()
    assert target.origin == f"{scheme}://{authority}"


def test_two_names_at_one_address_share_no_connection() -> None:
    """Connection keys differ by server name, because certificates do, but not by priority."""
    keys = {
        target_of(Endpoint("https://10.0.0.1", priority, name)).key
        for priority in (0, 1)
        for name in (None, "a.example", "b.example")
    }
    assert len(keys) == 3


def request(method: str = "GET", url: str = attempt.BASE_URL, **about: Any) -> httpx2.Request:
    return httpx2.Request(method, url, **about)


class TestShape:
    """``traits_of`` a real request."""

    @pytest.mark.parametrize(
        ("about", "replayable"),
        [
            ({}, True),
            ({"content": b"bytes"}, True),
            ({"json": {"a": 1}}, True),
            ({"data": {"a": "1"}}, True),
            ({"content": iter([b"once"])}, False),
            ({"content": io.BytesIO(b"a file")}, False),
            ({"files": {"f": b"bytes"}}, False),
            ({"files": {"f": io.BytesIO(b"a file")}}, False),
        ],
    )
    def test_whether_its_body_can_be_sent_again(
        self, about: dict[str, Any], replayable: bool
    ) -> None:
        """Bytes can be sent again; iterators, open files and forms with files cannot."""
        assert attempt.traits_of(request("PUT", **about)) == RetryTraits(True, replayable, False)

    def test_a_key_makes_any_method_idempotent(self) -> None:
        """An Idempotency-Key header, in any spelling, makes a POST idempotent."""
        keyed = request("POST", headers={"idempotency-key": "1"})
        assert attempt.traits_of(keyed).idempotent
        assert not attempt.traits_of(request("POST")).idempotent


class TestPool:
    """The requests that go to the current endpoint."""

    @pytest.mark.parametrize(
        ("url", "ours"),
        [
            ("https://endpoint.invalid/users", True),
            ("https://ENDPOINT.invalid/users", True),
            ("http://endpoint.invalid", True),
            ("https://a.example/", False),
            ("https://x.endpoint.invalid/", False),
        ],
    )
    def test_those_for_our_own_host(self, url: str, ours: bool) -> None:
        """Requests for endpoint.invalid go to the pool, and other hosts do not."""
        assert (request(url=url).url.raw_host == attempt.RAW_HOST) is ours


class TestTimeouts:
    """The caller's timeout limits one attempt, and the total limits all attempts."""

    @pytest.mark.parametrize(
        ("timeout", "left", "connect", "read"),
        [
            (None, 30.0, 2.0, 30.0),
            (10.0, 30.0, 2.0, 10.0),
            (0.5, 30.0, 0.5, 0.5),
            (10.0, 4.0, 2.0, 4.0),
            (10.0, 0.5, 0.5, 0.5),
            (10.0, 0.0, 0.0, 0.0),
        ],
    )
    def test_the_shortest_counts(
        self, timeout: float | None, left: float, connect: float, read: float
    ) -> None:
        """The smallest of the request's timeout, the policy's and the remaining time counts."""
        assert attempt.least(timeout, min(2.0, left)) == connect
        assert attempt.least(timeout, left) == read

    def test_a_request_without_any_has_the_policys(self) -> None:
        """A request without a timeout, as from a bare transport, gets the policy's timeout."""
        assert attempt.total_of({}, 9.0) == 9.0
        assert attempt.least(None, 9.0) == 9.0

    @pytest.mark.parametrize(
        ("timeout", "total"), [(None, FOREVER), (5.0, 30.0), (60.0, 60.0), (1e9, 1e6)]
    )
    def test_a_longer_wait_lengthens_the_total(self, timeout: float | None, total: float) -> None:
        """A caller's longer timeout raises the total, up to the largest time that clocks accept."""
        assert attempt.total_of(dict(httpx2.Timeout(timeout).as_dict()), 30.0) == total
        theirs = httpx2.Timeout(attempt.Default(60.0)).as_dict()
        assert attempt.total_of(dict(theirs), 30.0) == 30.0
