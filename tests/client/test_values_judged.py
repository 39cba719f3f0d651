"""Values from the caller are checked at the call, and errors name the caller's argument."""

import asyncio
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mop_config.client import AsyncEndpointManager, EndpointManager, Policy, UpdateFailed
from mop_config.errors import PayloadError

from .handmade import handmade, urls, wire
from .managers import quiet
from .test_update_real import serves

A, S = "https://a.example", "wss://s.example"
MANAGERS = [EndpointManager, AsyncEndpointManager]


async def _later() -> str:
    return "token"


class _Later:
    async def __call__(self) -> str:
        return "token"


@pytest.mark.parametrize("kind", MANAGERS)
@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"token": ""}, ValueError, "token is empty: None means"),
        ({"token": "  "}, ValueError, "token is empty: None means"),
        ({"token": "sec\nret"}, ValueError, "token holds characters"),
        ({"token": _later}, TypeError, "token must be a plain function"),
        ({"token": _Later()}, TypeError, "token must be a plain function"),
        ({"healthy": _later}, TypeError, "healthy must be a plain function"),
        ({"healthy": _Later()}, TypeError, "healthy must be a plain function"),
        ({"healthy": "ok"}, TypeError, "healthy must be a function, not 'ok'"),
        ({"token": 7}, TypeError, "token must be a text, a function .* not int"),
        ({"config_urls": A}, TypeError, r"config_urls must be a list of URLs, not one: \['https"),
        ({"config_urls": [7]}, TypeError, r"config_urls\[0\] must be a URL, not 7"),
        ({"config_urls": [A, "x"]}, ValueError, r"config_urls\[1\]: 'x': not a URL"),
        ({"api_endpoints": A}, TypeError, r"api_endpoints must be a list of URLs, not one: \['htt"),
        ({"api_endpoints": 7}, TypeError, "api_endpoints must be a list of URLs, not 7"),
        ({"api_endpoints": [A, None]}, TypeError, r"api_endpoints\[1\] must be a URL, .* not None"),
        ({"api_endpoints": [(A,)]}, TypeError, r"api_endpoints\[0\] must be a URL, a pair"),
        ({"api_endpoints": [A, "x"]}, ValueError, r"api_endpoints\[1\]: 'x': not a URL"),
        ({"api_endpoints": [(A, -1)]}, ValueError, r"api_endpoints\[0\]: the priority"),
        ({"api_endpoints": [S]}, ValueError, r"api_endpoints\[0\]: an API endpoint needs"),
        ({"socket_endpoints": S}, TypeError, "socket_endpoints must be a list of URLs, not one"),
        ({"policy": {"total_timeout": 1}}, TypeError, "policy must be a Policy"),
        ({"update_interval": "1h"}, TypeError, "update_interval .* 0 to 1000000 seconds, not '1h"),
        ({"update_interval": -1}, ValueError, "update_interval must be a number, 0 to 1000000"),
        ({"update_interval": float("nan")}, ValueError, "update_interval .* 0 to 1000000 .* nan"),
        ({"limits": None}, TypeError, "limits must be an httpx2.Limits, not None"),
        ({"proxy": 5}, TypeError, "proxy must be a URL or an httpx2.Proxy, not 5"),
        ({"verify": 5}, TypeError, "verify must be an ssl.SSLContext, a file or True, not 5"),
        ({"verify": "/none/ca.pem"}, FileNotFoundError, "No such file .*: /none/ca.pem"),
        ({"verify": __file__}, ssl.SSLError, f"no certificate .*: {__file__}"),
        ({"cert": "/none/c.pem"}, FileNotFoundError, "No such file .*: /none/c.pem"),
        (
            {"cert": ("/none/c.pem", "/none/k.pem", "secret")},
            FileNotFoundError,
            "No such file .*: /none/c.pem or /none/k.pem",
        ),
        (
            {"cert": (Path("/none/c.pem"), Path("/none/k.pem"))},
            FileNotFoundError,
            "No such file .*: /none/c.pem or /none/k.pem",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_a_manager_is_made_with(
    kind: Any, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    """The constructor's error names the argument and its valid values, and shows no token."""
    with pytest.raises(error, match=message) as caught:
        kind(**options)
    assert "sec" not in str(caught.value).replace("seconds", "")


@pytest.mark.parametrize("kind", MANAGERS)
def test_a_file_of_authorities_that_is_missing(
    kind: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The error names the file that ``SSL_CERT_FILE`` names."""
    missing = tmp_path / "ca.pem"
    monkeypatch.setenv("SSL_CERT_FILE", str(missing))
    with pytest.raises(FileNotFoundError, match=f"No such file .*: SSL_CERT_FILE={missing}"):
        kind([A])


@pytest.mark.parametrize("kind", MANAGERS)
def test_the_authorities_of_the_system(kind: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without variables that name others, a manager trusts the system's authorities."""

    def serials(context: ssl.SSLContext) -> set[str]:
        return {str(each["serialNumber"]) for each in context.get_ca_certs()}

    named = serials(ssl.create_default_context())
    monkeypatch.delenv("SSL_CERT_FILE")
    monkeypatch.delenv("SSL_CERT_DIR", raising=False)
    trusted = serials(ssl.create_default_context())
    assert named != trusted
    assert serials(kind([A])._network_options.tls.sslobject_class.lender) == trusted


@pytest.mark.parametrize("wrong", ["", 7, "a b"])
@pytest.mark.parametrize("how", ["function", "argument"])
def test_a_token_that_turns_out_to_be_none(how: str, wrong: Any) -> None:
    """An invalid token fails the update before any request."""
    with handmade(serves(200, wire([A]))) as server:
        manager = quiet(config_urls=[server.url], token=(lambda: wrong) if how[0] == "f" else None)
        with pytest.raises(UpdateFailed, match=r"the token: (is empty|must be|holds)") as caught:
            manager.update_endpoints_from_remote(token=None if how[0] == "f" else wrong)
        assert caught.value.cause == "invalid"
        assert server.asked == []


@pytest.mark.filterwarnings("ignore:.*was never awaited:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_function_that_gives_a_coroutine() -> None:
    """A token function that returns a coroutine fails the update with a clear error."""
    with handmade(serves(200, wire([A]))) as server:
        manager = quiet(config_urls=[server.url], token=lambda: _later())
        with pytest.raises(UpdateFailed, match=r"must be a text, .* not coroutine"):
            manager.update_endpoints_from_remote()


def _of(kind: Any) -> Any:
    return kind([A], [S], update_interval=0)


@pytest.mark.parametrize("kind", MANAGERS)
@pytest.mark.parametrize(
    ("text", "member"),
    [
        ('{"api_endpoints": []}', "api_endpoints"),
        ('{"socketio_endpoints": []}', "socketio_endpoints"),
        (
            '{"api_endpoints": ["https://b.example"], "socketio_endpoints": []}',
            "socketio_endpoints",
        ),
    ],
)
def test_a_qr_code_empties_no_kind(kind: Any, text: str, member: str) -> None:
    """With ``replace``, an empty array is refused for a kind that has endpoints."""
    manager = _of(kind)
    with pytest.raises(PayloadError, match=f"{member}: is empty"):
        manager.apply_qr(text, replace=True)
    assert urls(manager.api_endpoints + manager.socket_endpoints) == [A, S]
    manager.apply_qr(text)
    assert urls(manager.socket_endpoints) == [S]
    other = kind([], [], update_interval=0)
    other.apply_qr(text, replace=True)
    assert not other.socket_endpoints


@pytest.mark.parametrize("kind", MANAGERS)
def test_a_qr_text_that_is_none(kind: Any) -> None:
    """A QR text of a wrong type raises a TypeError that names the type."""
    with pytest.raises(TypeError, match="QR text must be a text or bytes, not NoneType"):
        _of(kind).apply_qr(None)


@pytest.mark.parametrize("kind", MANAGERS)
@pytest.mark.parametrize(
    "call",
    [
        lambda manager: manager.add_api_endpoint(None),
        lambda manager: manager.add_socket_endpoint(7),
        lambda manager: manager.remove_endpoint(None),
        lambda manager: manager.pin(7),
    ],
)
def test_what_is_no_url(kind: Any, call: Callable[[Any], object]) -> None:
    """A URL of a wrong type raises a TypeError that names the value."""
    with pytest.raises(TypeError, match=r"URL must be a text, not (None|7)"):
        call(_of(kind))


def test_the_longest_times_work() -> None:
    """The longest allowed times work in system calls, sync and async."""
    longest = 1_000_000.0
    policy = Policy(connect_timeout=longest, total_timeout=longest, health_timeout=longest)
    with handmade() as server:
        manager = quiet(server.url, policy=policy)
        with manager.client(start=False) as client:
            assert client.get("/").status_code == 200
        assert manager.check_endpoint_health(server.url)
        with pytest.raises(UpdateFailed):
            manager.update_endpoints_from_remote()

        async def main() -> None:
            own = AsyncEndpointManager([server.url], policy=policy, update_interval=0)
            async with own.client(start=False) as client:
                assert (await client.get("/")).status_code == 200

        asyncio.run(main())
