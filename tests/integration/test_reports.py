"""The limit of client reports over all workers of a host, with real servers."""

import http.client
import json
import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from mop_config.server.monitor.reports import MAX_REPORTS

from ..servers import Server, running
from ..waiting import wait_for

REPORT = {"endpoints": [{"kind": "socketio", "url": "https://a.example", "counts": {"ok": 1}}]}


def send(server: Server) -> int:
    """Send one report on a new connection, and return the status."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    headers = {"Content-Type": "application/json"}
    try:
        connection.request("POST", "/api/v1/config/reports", json.dumps(REPORT), headers)
        return connection.getresponse().status
    finally:
        connection.close()


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_the_limit_of_an_address_is_that_of_all_workers(tmp_path: Path, worker_class: str) -> None:
    """Ten reports of an address in a minute are accepted, whichever workers get them."""
    file = tmp_path / "endpoints.txt"
    file.write_text("SocketList:\na.example\n")
    with running(tmp_path, file, ENDPOINT_REPORTS="1", WORKER_CLASS=worker_class) as server:
        first, second = server.workers
        wait_for(lambda: time.time() % 60 < 50, seconds=15, what="enough of a minute is left")
        half = MAX_REPORTS // 2
        os.kill(second, signal.SIGSTOP)
        answers = [send(server) for _ in range(half)]
        os.kill(second, signal.SIGCONT)
        os.kill(first, signal.SIGKILL)  # its reports stay counted
        answers += [send(server) for _ in range(half + 2)]
        wait_for(lambda: set(server.workers) - {first, second}, what="a worker takes its place")
        answers += [send(server) for _ in range(8)]
        assert answers == [204] * MAX_REPORTS + [429] * 10


def test_a_restart_with_other_settings_keeps_what_was_seen(tmp_path: Path) -> None:
    """Reports and checks are kept while the same endpoints are checked in the same way.

    A server beside it whose list has other URLs has its own records.
    """
    file, state = tmp_path / "endpoints.txt", str(tmp_path / "state")
    file.write_text("SocketList:\na.example\n")
    kept = partial(running, tmp_path, file, ENDPOINT_REPORTS="1", ENDPOINT_STATE_DIR=state)
    with kept() as server:
        assert send(server) == 204
        wait_for(lambda: server.status()["reports"], what="the report is counted")
    with kept(ENDPOINT_MAX_AGE="7") as server:
        assert server.status()["reports"] == REPORT["endpoints"]
        with kept(ENDPOINT_PROTOCOL="http") as other:
            assert other.status()["reports"] == []
