"""How mypy, the interpreter and help() report the keywords of the client."""

import inspect
import pydoc
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mop_config.client import (
    AsyncEndpointManager,
    AsyncFailoverSocketClient,
    AsyncFailoverTransport,
    EndpointManager,
    FailoverSocketClient,
    FailoverTransport,
)

from .managers import quiet

MANAGERS = [EndpointManager, AsyncEndpointManager]
#: Each line with the code of mypy's error; None for no error.
SAMPLE = {
    'EndpointManager("https://a")': "arg-type",
    'AsyncEndpointManager("https://a")': "arg-type",
    'EndpointManager([], "https://a")': "arg-type",
    'EndpointManager(config_urls="https://c")': "arg-type",
    'EndpointManager(trusted_keys="k")': "arg-type",
    'EndpointManager(["x"], cache="y")': "call-arg",
    'EndpointManager(["x"], verfy=True)': "call-arg",
    'EndpointManager(["x"], http2="yes")': "arg-type",
    "EndpointManager().client(timout=3)": "call-arg",
    "AsyncEndpointManager().client(timout=3)": "call-arg",
    'EndpointManager().client(timeout="3")': "arg-type",
    "FailoverTransport(EndpointManager(), timeout=3)": "call-arg",
    "AsyncFailoverTransport(AsyncEndpointManager(), verfy=True)": "call-arg",
    "FailoverSocketClient(EndpointManager(), reconect=True)": "call-arg",
    "AsyncFailoverSocketClient(AsyncEndpointManager(), reconect=True)": "call-arg",
    'FailoverSocketClient(EndpointManager()).connect(url="x")': "call-arg",
    'EndpointManager(["https://a", ("https://b", 1), Endpoint("https://c")])': None,
    'EndpointManager(("https://a", "https://b"), {"wss://s"}, config_urls=("https://c",))': None,
    'EndpointManager(EndpointConfig(), token=lambda: "x", verify="ca.pem", proxy="http://p")': None,
    'EndpointManager(trusted_keys=["k", Path("k.pem"), {"kty": "OKP"}], app="my-app")': None,
    "EndpointManager().client(timeout=3, headers={}, http2=True, limits=httpx2.Limits())": None,
    "AsyncEndpointManager().client(timeout=(1, 2, 3, None), start=False)": None,
    "FailoverTransport(EndpointManager(), verify=True, trust_env=False)": None,
    'FailoverSocketClient(EndpointManager(), logger=True).connect(namespaces=["/"])': None,
}


def test_mypy_finds_what_the_interpreter_would(tmp_path: Path) -> None:
    """mypy finds each wrong keyword or type of value, with the options of ``make check``."""
    head = [
        "from pathlib import Path",
        "import httpx2",
        "from mop_config import Endpoint, EndpointConfig",
        "from mop_config.client import (AsyncEndpointManager, AsyncFailoverSocketClient,",
        "    AsyncFailoverTransport, EndpointManager, FailoverSocketClient, FailoverTransport)",
    ]
    file = tmp_path / "sample.py"
    file.write_text("\n".join([*head, *SAMPLE]) + "\n")
    # In the project's folder, mypy reads its options and what it has read of the libraries before.
    command = [sys.executable, "-m", "mypy", "--no-error-summary", "--no-pretty", str(file)]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    said: dict[int, str] = {}
    for line in done.stdout.splitlines():
        _, number, kind, text = line.split(":", 3)
        if kind.strip() == "error" and "stub" not in text:
            said[int(number)] = text.rpartition("[")[2].rstrip("]")
    found = {line: said.get(number) for number, line in enumerate(SAMPLE, len(head) + 1)}
    assert found == SAMPLE, done.stdout + done.stderr


@pytest.mark.parametrize("kind", MANAGERS)
@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda kind: kind(["https://a"], cache="y"), "() .* 'cache'$"),
        (lambda kind: kind(["https://a"], verfy=1), "() .* 'verfy'$"),
        (lambda kind: kind([], zzz=1), "() .* 'zzz'$"),
        (lambda kind: kind([]).client(timout=3), ".client() .* 'timout'$"),
        (lambda kind: kind([]).client(uds="x"), ".client() .* 'uds'"),
    ],
)
def test_an_unknown_keyword_of_a_manager(kind: Any, call: Any, message: str) -> None:
    """An unknown keyword raises TypeError that names the public call and the keyword."""
    pattern = message.replace("()", r"\(\)")
    with pytest.raises(TypeError, match=f"^{kind.__name__}{pattern}"):
        call(kind)


@pytest.mark.parametrize(
    ("kind", "manager"),
    [
        (FailoverTransport, EndpointManager),
        (AsyncFailoverTransport, AsyncEndpointManager),
        (FailoverSocketClient, EndpointManager),
        (AsyncFailoverSocketClient, AsyncEndpointManager),
    ],
)
def test_an_unknown_keyword_of_what_a_manager_serves(kind: Any, manager: Any) -> None:
    """Transports and Socket.io clients raise TypeError for an unknown keyword."""
    with pytest.raises(TypeError, match=rf"^{kind.__name__}\(\) got an unexpected .* 'verfy'"):
        kind(manager([]), verfy=True)


def test_an_unknown_argument_of_connect() -> None:
    """``connect`` rejects an unknown argument before it selects an endpoint."""
    client = FailoverSocketClient(EndpointManager([]))
    with pytest.raises(TypeError, match=r"connect\(\) got an .* 'urls'"):
        client.connect(urls="x")  # type: ignore[call-arg]


@pytest.mark.parametrize("kind", MANAGERS)
def test_help_documents_every_argument(kind: Any) -> None:
    """``help()`` documents each argument of the manager and the options of its client."""
    text = pydoc.plain(pydoc.render_doc(kind))
    for name in inspect.signature(kind).parameters:
        assert f"        {name}: " in text
    for name in ("verify", "cert", "proxy", "trust_env", "timeout", "headers", "limits"):
        assert f"``{name}``" in text


@pytest.mark.parametrize("kind", MANAGERS)
def test_a_manager_shows_what_it_has(kind: Any) -> None:
    """``repr`` shows the lists, the endpoints in use and the state, but never the token."""
    manager = kind(["https://a.example", "https://b.example"], token="hush", update_interval=0)
    assert repr(manager) == (
        f"<{kind.__name__} 2 API (none in use), 0 Socket.io (none in use), stopped>"
    )
    manager.get_current_api_url()
    assert "2 API (https://" in repr(manager)
    with quiet() as running:
        assert "running" in repr(running)


@pytest.mark.parametrize("kind", MANAGERS)
def test_nothing_internal_is_public(kind: Any) -> None:
    """The public attributes of a manager are exactly these."""
    assert {name for name in dir(kind(["https://a.example"])) if not name.startswith("_")} == {
        *("add_api_endpoint", "add_socket_endpoint", "remove_endpoint", "apply_qr", "room_id"),
        *("api_endpoints", "socket_endpoints", "config", "list_source", "is_offline"),
        *("current_api_endpoint", "current_socket_endpoint", "statistics", "policy"),
        *("get_current_api_url", "get_current_socket_url", "pin", "unpin"),
        *("select_best_endpoints", "check_endpoint_health", "check_all", "client", "attempts"),
        *("update_endpoints_from_remote", "start", "close"),
    }


@pytest.mark.parametrize("manager", MANAGERS)
@pytest.mark.parametrize("name", ["watch", "report", "allow_http", "allow_http_lists"])
def test_a_text_is_no_flag(manager: Any, name: str) -> None:
    """A text such as "no", from an environment variable, would switch the protection off."""
    with pytest.raises(TypeError, match=f"{name} must be True or False, not 'no'"):
        manager(["https://a.example"], **{name: "no"})
