"""Clients that send slowly or do not read: each occupies a connection and no thread."""

import contextlib
import http.client
import json
import resource
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..servers import ENDPOINTS, STATUS, Server, running
from ..waiting import wait_for

ADMIN = "mop_Ab3-_xyzAb3-_xyzAb3-_xyzAb3-_xyzAb3-_xyz123"
HALF_HEAD = b"GET /api/v1/config/status HTTP/1.1\r\nHost: x\r\nX-Slow: "
HALF_BODY = b"POST /api/v1/config/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf"
NO_READER = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
HEALTH = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = "GET /last HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.txt"
    path.write_text("DomainList:\na.com\nb.com\n")
    return path


@contextlib.contextmanager
def connected(server: Server, count: int, data: bytes) -> Iterator[list[socket.socket]]:
    """Open connections that send the same bytes and then nothing more."""
    with contextlib.ExitStack() as stack:
        sockets = []
        for _ in range(count):
            each = stack.enter_context(
                contextlib.closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM))
            )
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            each.settimeout(20)
            each.connect(("127.0.0.1", server.port))
            each.sendall(data)
            sockets.append(each)
        yield sockets


def reload(server: Server, headers: dict[str, str]) -> int:
    """Request a reload, and return the status code."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=20)
    with contextlib.closing(connection):
        connection.request("POST", "/api/v1/config/reload", headers=headers)
        return connection.getresponse().status


def connections(server: Server) -> int:
    """Return the number of connections that the workers hold."""
    return sum(
        each.status == psutil.CONN_ESTABLISHED
        for pid in server.workers
        for each in psutil.Process(pid).net_connections("tcp")
    )


def impatient(file: Path, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """Run a server with a time-out of one second for its clients."""
    worker = "tests.integration.workers.ImpatientWorker"
    return running(folder, file, "-k", worker, workers=1)


def test_a_thousand_stuck_connections_delay_nobody(tmp_path: Path, file: Path) -> None:
    """A thousand stuck connections delay neither list, health, status, metrics nor a reload."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < 3000:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 3000), hard))
    try:
        with running(
            tmp_path, file, workers=0, WEB_CONCURRENCY="1", ENDPOINT_TOKENS=ADMIN
        ) as server:
            wait_for(lambda: server.get("/ready").status == 200)
            token = {"Authorization": f"Bearer {ADMIN}"}
            with contextlib.ExitStack() as stack:
                for data in (b"", HALF_HEAD, HALF_BODY, NO_READER):
                    stack.enter_context(connected(server, 250, data))
                # The dashboards for the clients that do not read have been rendered.
                assert server.get(STATUS, **token).status in {200, 503}
                for path in (ENDPOINTS, "/health", "/ready", STATUS, "/metrics"):
                    began = time.monotonic()
                    assert server.get(path, **token).status == 200
                    assert time.monotonic() - began < 1, path
                began = time.monotonic()
                assert reload(server, token) == 200
                assert time.monotonic() - began < 1
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize(
    ("data", "status"), [(HALF_HEAD, 408), (HALF_BODY, 408), (b"", None)], ids=["head", "body", "-"]
)
def test_a_request_that_does_not_arrive_is_answered_and_closed(
    tmp_path: Path, file: Path, data: bytes, status: int | None
) -> None:
    """An incomplete request gets 408 as a problem document; a silent connection is closed."""
    with impatient(file, tmp_path) as server, connected(server, 1, data) as (client,):
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        if status is None:
            assert received == b""
            return
        head, _, body = received.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 408 ")
        assert json.loads(body)["status"] == status


def test_a_head_that_comes_byte_by_byte_is_ended_too(tmp_path: Path, file: Path) -> None:
    """The deadline applies to the whole head, and single bytes do not extend it."""
    with impatient(file, tmp_path) as server, connected(server, 1, HALF_HEAD) as (client,):
        client.settimeout(0.1)
        began = time.monotonic()
        while True:
            with contextlib.suppress(TimeoutError):
                if b"408" in client.recv(65536):
                    break
            client.sendall(b"x")
            assert time.monotonic() - began < 10
        assert time.monotonic() - began > 0.8


@pytest.mark.parametrize(
    ("pieces", "statuses"),
    [
        (("POST /health HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n", "hello"), [405]),
        ((f"{HEALTH}{HEALTH[:9]}", HEALTH[9:]), [200, 200]),
    ],
    ids=["body", "head"],
)
def test_requests_behind_a_long_poll_are_read_while_it_is_parked(
    tmp_path: Path, file: Path, pieces: tuple[str, ...], statuses: list[int]
) -> None:
    """A deadline counts the client's own pauses only: no poll delays a later request's bytes."""
    with impatient(file, tmp_path) as server, connected(server, 1, b"") as (client,):
        etag = server.get().headers["ETag"]
        poll = f"GET {ENDPOINTS}?wait=3 HTTP/1.1\r\nHost: x\r\nIf-None-Match: {etag}\r\n\r\n"
        for piece in (poll, *pieces, LAST):
            client.sendall(piece.encode())
            time.sleep(0.2)  # so that the server receives each piece by itself
        received = b""
        while chunk := client.recv(65536):
            received += chunk
        answers = [int(each[:3]) for each in received.split(b"HTTP/1.1 ")[1:]]
        assert answers == [304, *statuses, 404]


def test_an_answer_that_is_read_slowly_is_read_to_its_end(tmp_path: Path, file: Path) -> None:
    """Only a client that reads nothing is closed, even if an answer takes longer than any time."""
    file.write_text("DomainList:\n" + "".join(f"host{n}.example.com\n" for n in range(45_000)))
    worker = "tests.integration.workers.ImpatientWorker"
    with (
        running(tmp_path, file, "-k", worker, "--keep-alive", "1", workers=1) as server,
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", server.port)) as connection,
    ):
        connection.connect()
        connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 32768)
        connection.request("GET", ENDPOINTS)
        answer = connection.getresponse()
        began, received = time.monotonic(), 0
        while chunk := answer.read(65536):
            received += len(chunk)
            if received < 4_000_000:
                time.sleep(0.1)
        assert time.monotonic() - began > 3
        assert received == int(answer.headers["Content-Length"]) > 4_000_000


@pytest.mark.parametrize("path", [ENDPOINTS, STATUS])
def test_an_idle_connection_is_closed_some_time_after_its_last_answer(
    tmp_path: Path, file: Path, path: str
) -> None:
    """Each answer starts the keep-alive time anew, and the connection ends when it is over."""
    request = f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
    with (
        running(tmp_path, file, "--keep-alive", "2", workers=1) as server,
        connected(server, 1, b"") as (client,),
    ):
        for pause in (1.2, 1.2, 0):
            client.sendall(request)
            answer = http.client.HTTPResponse(client)
            answer.begin()
            assert answer.status == 200
            answer.read()
            began = time.monotonic()
            time.sleep(pause)
        assert client.recv(65536) == b""
        assert 1.5 < time.monotonic() - began < 10


def test_a_client_that_does_not_read_is_disconnected(tmp_path: Path, file: Path) -> None:
    """A client that does not read is disconnected after the time-out; its answer is dropped."""
    file.write_text("DomainList:\n" + "".join(f"host{n:06}.example\n" for n in range(20_000)))
    # Several answers, because the kernel's buffers hold the first ones.
    request = f"GET {ENDPOINTS} HTTP/1.1\r\nHost: x\r\n\r\n".encode() * 12
    with impatient(file, tmp_path) as server, connected(server, 1, request) as (client,):
        wait_for(lambda: connections(server), what="the worker takes the connection")
        wait_for(
            lambda: not connections(server), seconds=15, what="the worker closes the connection"
        )
        with contextlib.suppress(ConnectionResetError):
            total = 0
            while chunk := client.recv(65536):
                total += len(chunk)
            assert total < 12 * len(server.get().body)


def test_a_body_over_the_limit_is_refused_before_it_is_read(tmp_path: Path, file: Path) -> None:
    """A body over the limit is refused by its Content-Length, or while its chunks arrive."""
    with impatient(file, tmp_path) as server:
        head = "POST /api/v1/config/reload HTTP/1.1\r\nHost: x\r\n"
        chunk = "8000\r\n" + "x" * 0x8000 + "\r\n"
        for data in (
            f"{head}Content-Length: 70000\r\n\r\n",
            f"{head}Transfer-Encoding: chunked\r\n\r\n{chunk * 3}",
        ):
            with connected(server, 1, data.encode()) as (client,):
                assert client.recv(65536).startswith(b"HTTP/1.1 413 ")
