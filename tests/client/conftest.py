"""Fixtures of the client's tests: kinds of driver, fleets, a host name, and TLS trust."""

import ssl
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from ..gunicorns import forking_servers
from .driver import KINDS
from .fleet import Fleet, fleet_in
from .names import Names
from .socket_server import SocketServer, socket_server


@pytest.fixture(scope="session", autouse=True)
def _forking_servers() -> Iterator[None]:
    with forking_servers():
        yield


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    """Run the test with each of the two drivers."""
    return str(request.param)


@pytest.fixture
def fleet(tmp_path: Path) -> Iterator[Fleet]:
    """Give the test a fleet of its own, so that it can kill servers."""
    with fleet_in(tmp_path) as fleet:
        yield fleet


@pytest.fixture
def _switching() -> Iterator[None]:
    """Switch threads a thousand times as often, so that a race condition shows reliably."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(0.000005)
    yield
    sys.setswitchinterval(before)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Iterator[Names]:
    """Patch the system resolver with a host name whose addresses the test sets."""
    names = Names(monkeypatch)
    yield names
    names.answer.set()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return the certificate authority of the servers."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """Return a TLS context that trusts the authority."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SocketServer, SocketServer]]:
    """Run two Socket.io servers for the whole session; tests do not kill them."""
    folder = tmp_path_factory.mktemp("sockets")
    with socket_server(folder, "a") as a, socket_server(folder, "b") as b:
        yield a, b


@pytest.fixture(scope="session")
def refusing(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[tuple[SocketServer, SocketServer]]:
    """Run two Socket.io servers that refuse every login; tests do not kill them."""
    folder = tmp_path_factory.mktemp("refusing")
    with (
        socket_server(folder, "r", manner="refuse") as first,
        socket_server(folder, "s", manner="refuse") as second,
    ):
        yield first, second
