"""Parked long polls: a change reaches them within a second, and they block no other request."""

import contextlib
import hashlib
import http.client
import json
import os
import resource
import signal
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import Headers

from mop_config.model.jws import SigningKey
from mop_config.server.gunicorn import worker
from mop_config.server.gunicorn.worker import fit_connections

from ..servers import ENDPOINTS, Answer, Server, running
from ..waiting import wait_for


def text(number: int) -> str:
    return f"DomainList:\na{number}.example\nb{number}.example\n"


def replace(file: Path, content: str) -> None:
    scratch = file.with_name("scratch")
    scratch.write_text(content)
    os.replace(scratch, file)


class Poller(threading.Thread):
    """One long poll on a new connection."""

    def __init__(
        self, server: Server, seconds: float, etag: str, *, path: str = ENDPOINTS, **headers: str
    ) -> None:
        super().__init__()
        self.connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=70)
        self.connection.connect()
        self.socket = self.connection.sock
        self.path = f"{path}?wait={seconds}"
        self.headers = {"If-None-Match": etag, **headers}
        self.answer: Answer | None = None
        self.seconds = 0.0

    def run(self) -> None:
        began = time.monotonic()
        with contextlib.suppress(OSError, http.client.HTTPException):
            self.connection.request("GET", self.path, headers=self.headers)
            response = self.connection.getresponse()
            body = response.read()
            self.answer = Answer(response.status, Headers(response.getheaders()), body)
        self.seconds = time.monotonic() - began
        self.connection.close()


@contextlib.contextmanager
def parked(server: Server, number: int, seconds: float = 60) -> Iterator[list[Poller]]:
    """Send that number of long polls, and yield when all are sent."""
    etag = server.get().headers["ETag"]
    pollers = [Poller(server, seconds, etag) for _ in range(number)]
    for poller in pollers:
        poller.start()
    try:
        yield pollers
    finally:
        for poller in pollers:
            with contextlib.suppress(OSError):
                poller.socket.shutdown(socket.SHUT_RDWR)
            poller.join()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.txt"
    path.write_text(text(0))
    return path


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_everybody_is_told_within_a_second(tmp_path: Path, file: Path, worker_class: str) -> None:
    """Every poll gets the change once, no poll gets its own list, and a stop waits for none."""
    with running(tmp_path, file, WORKER_CLASS=worker_class) as server:
        with parked(server, 12) as pollers:
            time_out = {"If-None-Match": server.get().headers["ETag"]}
            assert server.get(f"{ENDPOINTS}?wait=0.3", **time_out).status == 304
            server.send(signal.SIGHUP)
            wait_for(lambda: server.log.count("unchanged (sighup)") == 2)
            assert all(poller.answer is None for poller in pollers), "nothing has changed"
            replace(file, text(1))
            done = time.monotonic()
            for poller in pollers:
                poller.join(5)
            assert time.monotonic() - done < 1.0
            assert all(poller.answer is not None for poller in pollers)
            wait_for(lambda: server.all_serve("a1.example", "b1.example"))
            answers = [poller.answer for poller in pollers if poller.answer is not None]
            assert {answer.status for answer in answers} == {200}
            assert {answer.body for answer in answers} == {server.get().body}
            assert {answer.headers["Preference-Applied"] for answer in answers} == {"wait"}
            assert {answer.headers["Cache-Control"] for answer in answers} == {"no-store"}
        with parked(server, 10) as pollers:
            wait_until_idle_but_for(pollers, server)
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 12
            for poller in pollers:
                poller.join(5)
            statuses = {poller.answer.status for poller in pollers if poller.answer is not None}
            assert statuses <= {304}


def wait_until_idle_but_for(pollers: list[Poller], server: Server) -> None:
    """Wait until every poll is parked: later plain requests have been answered."""
    for _ in range(20):
        server.get("/health")
    assert all(poller.is_alive() for poller in pollers)


@pytest.mark.parametrize(
    ("worker_class", "threads", "limit"),
    [("gthread", "4", ""), ("asgi", "16", "2")],
    ids=["gthread", "asgi"],
)
def test_the_limit_turns_away_and_a_client_that_leaves_frees_its_place(
    tmp_path: Path, file: Path, worker_class: str, threads: str, limit: str
) -> None:
    """Over the limit a poll gets 304 and Retry-After at once, and plain requests work."""
    with running(
        tmp_path,
        file,
        workers=1,
        WORKER_CLASS=worker_class,
        THREADS=threads,
        ENDPOINT_MAX_WAITERS=limit,
    ) as server:
        etag = {"If-None-Match": server.get().headers["ETag"]}
        with parked(server, 2) as pollers:
            # Not by a poll of this test, which could take the place of a later poll.
            wait_for(lambda: b"mop_config_waiters 2.0" in server.get("/metrics").body)
            began = time.monotonic()
            turned_away = server.get(f"{ENDPOINTS}?wait=60", **etag)
            assert time.monotonic() - began < 20
            assert turned_away.status == 304
            assert int(turned_away.headers["Retry-After"]) > 0
            assert server.get("/health").status == 200
            assert all(poller.answer is None for poller in pollers)
        wait_for(
            lambda: "Retry-After" not in server.get(f"{ENDPOINTS}?wait=0.1", **etag).headers,
            what="their places are free",
        )


def test_the_limit_of_descriptors_is_only_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    """A soft limit that is above what a worker needs stays, and a lower one is raised."""
    soft, hard = limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        monkeypatch.setattr(worker, "MOST_DESCRIPTORS", soft - 1)
        assert fit_connections(10) == 10
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == limits
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft - 2, hard))
        assert fit_connections(soft) == soft - 1 - worker.OWN_DESCRIPTORS
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (soft - 1, hard)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_a_stop_waits_for_no_connection_that_is_kept(
    tmp_path: Path, file: Path, worker_class: str
) -> None:
    """A stop waits for no parked, idle or silent connection."""
    with running(tmp_path, file, workers=1, WORKER_CLASS=worker_class) as server:
        etag = server.get().headers["ETag"]
        head = f"GET {ENDPOINTS}?wait=60 HTTP/1.1\r\nHost: x\r\nIf-None-Match: {etag}\r\n\r\n"
        said = [head.encode(), b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n", b""]
        with contextlib.ExitStack() as stack:
            clients = []
            for words in said:
                address = ("127.0.0.1", server.port)
                clients.append(stack.enter_context(socket.create_connection(address, 10)))
                clients[-1].sendall(words)
            assert clients[1].recv(12) == b"HTTP/1.1 200"
            for _ in range(20):
                server.get("/health")
            began = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - began < 12
            assert clients[0].recv(12) == b"HTTP/1.1 304"


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_a_worker_that_is_recycled_lets_go_of_those_that_wait(
    tmp_path: Path, file: Path, worker_class: str
) -> None:
    """A worker recycled by --max-requests, which sends no signal, releases its parked polls."""
    with running(
        tmp_path, file, "--max-requests", "40", workers=1, WORKER_CLASS=worker_class
    ) as server:
        (before,) = server.workers
        with parked(server, 1) as pollers:
            slowest = 0.0
            for _ in range(60):
                began = time.monotonic()
                with contextlib.suppress(OSError):
                    server.get("/health")
                slowest = max(slowest, time.monotonic() - began)
            assert slowest < 15
            pollers[0].join(15)
            assert pollers[0].answer is not None
            assert pollers[0].answer.status == 304
        wait_for(lambda: before not in server.workers, what="another worker has its place")


@pytest.mark.parametrize("path", [ENDPOINTS, f"{ENDPOINTS}.jws"])
def test_a_token_that_is_taken_back_is_not_told_of_a_change(
    tmp_path: Path, file: Path, path: str
) -> None:
    """After a token is removed, its parked poll gets 401 instead of the change."""
    key, tokens = tmp_path / "key.json", tmp_path / "tokens"
    key.write_text(json.dumps(SigningKey.generate().private_jwk()))
    lines = [f"{name}:{hashlib.sha256(name.encode()).hexdigest()}\n" for name in ("one", "two")]
    tokens.write_text("".join(lines))
    environ: Any = {
        "ENDPOINT_TOKENS_FILE": str(tokens),
        "ENDPOINT_SIGNING_KEY_FILE": str(key),
    }
    with running(tmp_path, file, workers=0, WEB_CONCURRENCY="1", **environ) as server:
        one, two = ({"Authorization": f"Bearer {name}"} for name in ("one", "two"))
        etag = server.get(path, **one).headers["ETag"]
        poller = Poller(server, 30, etag, path=path, **one)
        poller.start()
        try:
            for _ in range(10):
                server.get("/health")
            tokens.write_text(lines[1])
            wait_for(lambda: server.get(path, **one).status == 401)
            replace(file, text(1))
            poller.join(10)
            assert poller.answer is not None
            assert poller.answer.status == 401
            assert b"example" not in poller.answer.body
            assert server.get(path, **two).status == 200
        finally:
            with contextlib.suppress(OSError):
                poller.socket.shutdown(socket.SHUT_RDWR)
            poller.join()


def test_a_sync_worker_parks_nobody(tmp_path: Path, file: Path) -> None:
    """The sync worker, whose time-out would kill it, parks no poll, whatever the limit."""
    with running(
        tmp_path, file, workers=1, WORKER_CLASS="sync", ENDPOINT_MAX_WAITERS="5"
    ) as server:
        etag = {"If-None-Match": server.get().headers["ETag"]}
        answer = server.get(f"{ENDPOINTS}?wait=60", **etag)
        assert answer.status == 304
        assert "Retry-After" in answer.headers


def test_a_client_that_sends_its_next_request_early_still_waits(tmp_path: Path, file: Path) -> None:
    """A pipelined next request does not end the wait: only the end of the connection does."""
    for worker_class in ("asgi", "gthread"):
        with running(tmp_path, file, workers=1, WORKER_CLASS=worker_class) as server:
            etag = server.get().headers["ETag"]
            with socket.create_connection(("127.0.0.1", server.port), 10) as client:
                head = (
                    f"GET {ENDPOINTS}?wait=30 HTTP/1.1\r\nHost: x\r\nIf-None-Match: {etag}\r\n\r\n"
                )
                client.sendall(head.encode() + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
                client.settimeout(0.3)
                with pytest.raises(TimeoutError):
                    client.recv(1)
                client.settimeout(10)
                replace(file, text(7))
                assert client.recv(12) == b"HTTP/1.1 200"
        file.write_text(text(0))


@pytest.mark.parametrize("log", [(), ("--access-logfile", "-")], ids=["at once", "by a task"])
def test_a_client_that_leaves_behind_its_next_request_frees_its_place(
    tmp_path: Path, file: Path, log: tuple[str, ...]
) -> None:
    """The end of the connection ends its poll, also if further requests were sent behind it."""
    with running(tmp_path, file, *log, workers=1) as server:
        etag = server.get().headers["ETag"]
        with socket.create_connection(("127.0.0.1", server.port), 10) as client:
            head = f"GET {ENDPOINTS}?wait=60 HTTP/1.1\r\nHost: x\r\nIf-None-Match: {etag}\r\n\r\n"
            client.sendall(head.encode() + b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n" * 2)
            wait_for(lambda: b"mop_config_waiters 1.0" in server.get("/metrics").body)
        wait_for(lambda: b"mop_config_waiters 0.0" in server.get("/metrics").body)


@pytest.mark.alone
@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_plain_requests_do_not_feel_those_that_wait(
    tmp_path: Path, file: Path, worker_class: str
) -> None:
    """With every place taken, p99 of plain requests stays within twice its idle value."""
    places = 2 * 14 if worker_class == "gthread" else 1000
    with running(tmp_path, file, WORKER_CLASS=worker_class) as server:
        etag = server.get().headers["ETag"]
        ratios = []
        for _ in range(5):
            idle = p99(server)
            with sockets_waiting(server, places, etag):
                ratios.append(p99(server) / idle)
            if ratios[-1] <= 2:
                break
        assert min(ratios) <= 2, ratios


def p99(server: Server) -> float:
    """Return the 99th percentile of plain requests on one connection, in seconds."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    taken = []
    for _ in range(500):
        began = time.perf_counter()
        connection.request("GET", ENDPOINTS)
        connection.getresponse().read()
        taken.append(time.perf_counter() - began)
    connection.close()
    return statistics.quantiles(taken, n=100)[98]


@contextlib.contextmanager
def sockets_waiting(server: Server, number: int, etag: str) -> Iterator[list[socket.socket]]:
    """Open long polls without a thread for each."""
    request = f"GET {ENDPOINTS}?wait=60 HTTP/1.1\r\nHost: x\r\nIf-None-Match: {etag}\r\n\r\n"
    with contextlib.ExitStack() as stack:
        clients: list[Any] = []
        for _ in range(number):
            client = stack.enter_context(
                socket.create_connection(("127.0.0.1", server.port), timeout=30)
            )
            client.sendall(request.encode())
            clients.append(client)
        for _ in range(20):
            server.get("/health")
        yield clients


def test_polls_and_changes_leave_nothing_behind(tmp_path: Path, file: Path) -> None:
    """No descriptor stays open after long polls and changes."""
    with running(tmp_path, file, workers=1) as server:
        pid = server.workers[0]
        open_before = 0
        for number in range(1, 31):
            etag = server.get().headers["ETag"]
            with sockets_waiting(server, 10, etag) as clients:
                replace(file, text(number))
                for client in clients:
                    assert client.recv(12) == b"HTTP/1.1 200"
            if number == 5:
                open_before = len(os.listdir(f"/proc/{pid}/fd"))
        wait_for(
            lambda: len(os.listdir(f"/proc/{pid}/fd")) <= open_before + 3,
            what="descriptors are given back",
        )
        assert json.loads(server.get().body)["api_endpoints"]
