"""One health round of a manager with a thousand endpoints: only the best ones are checked."""

import socket
import time
from collections.abc import Iterator

import pytest

from mop_config.client import EndpointManager, Policy
from mop_config.client.pool.pool import WATCHED

from ..waiting import wait_for
from .handmade import NOBODY
from .socket_server import SocketServer, socket_server

ENDPOINTS = 1000


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SocketServer]:
    """Run a server in another process, so that its CPU time is not counted."""
    with socket_server(tmp_path_factory.mktemp("round"), "round") as server:
        yield server


class Peak:
    """Records the largest number of sockets that a manager's checks have open at a time."""

    def __init__(self, manager: EndpointManager) -> None:
        self.sockets = 0
        prober = manager._lifecycle.tasks._prober
        adopt = prober.adopt

        def counted(sock: socket.socket) -> None:
            adopt(sock)
            self.sockets = max(self.sockets, len(prober._sockets))

        prober.adopt = counted  # type: ignore[method-assign]


def manager_of(server: SocketServer) -> EndpointManager:
    urls = [f"{server.url}/{number}" for number in range(ENDPOINTS)]
    policy = Policy(health_timeout=30.0)
    return EndpointManager(urls, policy=policy, verify=NOBODY, update_interval=0, trust_env=False)


def report(how: str, cpu: float, wall: float, peak: Peak) -> None:
    print(f"{how}: {cpu:.2f} s of CPU, {wall:.2f} s, {peak.sockets} sockets")
    assert 1 < peak.sockets <= 64
    assert cpu <= 2.0


def best_are_healthy(manager: EndpointManager) -> bool:
    """Return whether exactly the best endpoints were checked, and all are healthy."""
    checked = [endpoint.url for endpoint in manager.api_endpoints if endpoint.last_checked]
    best = manager.api_endpoints[:WATCHED]
    return checked == [e.url for e in best] and all(e.state == "healthy" for e in best)


def test_by_hand(server: SocketServer) -> None:
    """``check_all`` opens at most 64 sockets at a time and takes at most 2 s of CPU."""
    manager = manager_of(server)
    peak = Peak(manager)
    cpu, wall = time.process_time(), time.monotonic()
    manager.check_all()
    report("by hand", time.process_time() - cpu, time.monotonic() - wall, peak)
    assert best_are_healthy(manager)


def test_by_the_schedule(server: SocketServer) -> None:
    """The first round after ``start`` keeps the same limits."""
    manager = manager_of(server)
    peak = Peak(manager)
    cpu, wall = time.process_time(), time.monotonic()
    with manager:
        wait_for(lambda: best_are_healthy(manager), seconds=60, every=0.1)
        report("by the schedule", time.process_time() - cpu, time.monotonic() - wall, peak)
        assert best_are_healthy(manager)
