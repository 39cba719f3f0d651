"""Requests that gunicorn refuses before the application runs, and their log lines."""

import json
import socket
from collections.abc import Iterator

import psutil
import pytest

from mop_config.server.serving.answers import SECURITY_HEADERS

from ..servers import ENDPOINTS, Server, running
from ..waiting import wait_for

TOKEN = "mop_Ab3-_xyzAb3-_xyzAb3-_xyzAb3-_xyzAb3-_xyz123"
SECRET = "c2VjcmV0LW9mLXRlc3Rz"
FORMAT = '%(h)s "%(r)s" %(s)s U=%(U)s q=%(q)s f="%(f)s" a="%(a)s" e=%({raw_uri}e)s'


@pytest.fixture(scope="module", params=["sync", "gthread", "asgi"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("bad")
    file = folder / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n")
    options = ("--access-logfile", "-", "--access-logformat", FORMAT)
    with running(folder, file, *options, workers=1, WORKER_CLASS=request.param) as server:
        yield server


def exchange(server: Server, data: bytes) -> tuple[int, dict[str, str], bytes]:
    """Send bytes, and return the status, headers and body of the answer."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as connection:
        connection.sendall(data)
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").split("\r\n")
    fields = (line.split(": ", 1) for line in lines)
    return int(status.split()[1]), {name.title(): value for name, value in fields}, body


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (f"GET / HTTP/1.1\r\nAuthorization Bearer {TOKEN}\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\nAuthorization Basic {SECRET}\r\n\r\n", 400),
        (f"{TOKEN}\r\n\r\n", 400),
        (f"GET /?token={SECRET} x HTTP/1.1\r\n\r\n", 400),
        (f"GET /{TOKEN} HTTP/1.1\r\nA b: c\r\n\r\n", 400),
        (f"GET / HTTP/1.1\r\nTransfer-Encoding: {TOKEN}\r\n\r\n", 501),
        (f"GET / HTTP/1.1\r\nExpect: {TOKEN}\r\n\r\n", 417),
        (f"GET /?token={SECRET}{'x' * 5000} HTTP/1.1\r\n\r\n", 414),
        ("GET / HTTP/1.1\r\n" + "X: y\r\n" * 65 + "\r\n", 431),
    ],
    ids=["colon", "basic", "line", "target", "name", "coding", "expect", "long", "fields"],
)
def test_a_refusal_is_a_problem_document_that_repeats_nothing(
    server: Server, data: str, status: int
) -> None:
    """The refusal has the usual security headers, and neither answer nor log shows a secret."""
    found, headers, body = exchange(server, data.encode())
    assert found == status, body
    assert headers["Content-Type"] == "application/problem+json"
    assert headers["Connection"] == "close"
    assert int(headers["Content-Length"]) == len(body)
    assert dict(SECURITY_HEADERS).items() <= headers.items()
    document = json.loads(body)
    assert document["status"] == status
    assert document["detail"]
    for text in (body.decode(), str(headers), server.log):
        assert TOKEN not in text
        assert SECRET not in text
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    ("fields", "size", "status"), [(60, 8150, 431), (1, 5000, 431), (46, 4000, 200)]
)
@pytest.mark.parametrize("name", ["Accept", "Accept-Encoding", "If-None-Match"])
def test_headers_of_white_space_cost_next_to_nothing(
    server: Server, name: str, fields: int, size: int, status: int
) -> None:
    """Large headers of white space are refused by the limits or parsed in little CPU time."""
    (worker,) = server.workers
    process = psutil.Process(worker)
    field = f"{name}: x" + "\t" * (size - len(name) - 4) + "x\r\n"
    request = f"GET {ENDPOINTS} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{field * fields}\r\n"
    before = sum(process.cpu_times()[:2])
    try:
        found, _, _ = exchange(server, request.encode())
    except ConnectionResetError:
        found = 431  # a reset before the whole request was read can discard the answer
    assert found == status
    assert sum(process.cpu_times()[:2]) - before < 0.5


def test_a_token_in_the_wrong_place_is_in_no_log(server: Server) -> None:
    """A token in a path, query, Referer or made-up header is masked in the log."""
    for number, target in enumerate(
        (f"/{TOKEN}", f"/?token={SECRET}", f"/?a=1&access_token={SECRET}&b=2", f"/?x={TOKEN}")
    ):
        about = {"Referer": f"https://a.com{target}", "User-Agent": f"n{number} Bearer {SECRET}"}
        server.get(target, **about)
        wait_for(lambda name=f'a="n{number} ': name in server.log)  # type: ignore[misc]
    assert "b=2" in server.log
    assert "?token=***" in server.log
    assert TOKEN not in server.log
    assert SECRET not in server.log


@pytest.mark.parametrize("name", ["SCRIPT_NAME", "PATH_INFO", "REMOTE_USER"])
def test_a_header_of_wsgis_means_nothing(server: Server, name: str) -> None:
    """Headers named like WSGI variables are ignored, also from a trusted proxy's address."""
    for value in ("/x", "/health", "root"):
        assert server.get("/health", **{name: value}).status == 200
        assert server.get(ENDPOINTS, **{name: value}).json == server.get().json
