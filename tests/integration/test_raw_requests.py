"""HTTP on the wire: framing, forms of a request target, and request smuggling."""

import json
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from ..servers import ENDPOINTS, STATUS, Server, running

CLOSE = "Connection: close\r\n\r\n"


class Response(NamedTuple):
    """One response as it was read from the wire."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module", params=["asgi", "gthread"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("raw")
    file = folder / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n")
    with running(folder, file, workers=1, WORKER_CLASS=request.param) as server:
        yield server


def send(server: Server, data: str) -> bytes:
    """Send bytes, and return everything until the connection ends."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data.encode("latin-1"))
        received = b""
        while chunk := connection.recv(65536):
            received += chunk
    return received


def responses(data: bytes, *methods: str) -> list[Response]:
    """Split a connection's bytes into the responses to requests with these methods."""
    found = []
    for method in methods:
        head, _, data = data.partition(b"\r\n\r\n")
        status, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): v for name, v in (line.split(": ", 1) for line in lines)}
        length = 0 if method == "HEAD" else int(headers.get("content-length", 0))
        found.append(Response(int(status.split()[1]), headers, data[:length]))
        data = data[length:]
    assert data == b"", data
    return found


@pytest.mark.parametrize("paths", [[ENDPOINTS] * 6, [ENDPOINTS, STATUS, "/health", "/", "/nope"]])
def test_pipelined_requests_are_answered_in_their_order(server: Server, paths: list[str]) -> None:
    """Native and Flask answers on one connection keep the order of their requests."""
    data = "".join(f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n" for path in paths)
    last = f"GET /health HTTP/1.1\r\nHost: x\r\n{CLOSE}"
    found = responses(send(server, data + last), *(["GET"] * (len(paths) + 1)))
    assert [answer.status for answer in found[:-1]] == [server.get(path).status for path in paths]
    for path, answer in zip(paths, found, strict=False):
        if path == ENDPOINTS:
            assert answer.body == server.get().body
    assert json.loads(found[-1].body)["status"] == "healthy"


@pytest.mark.parametrize("path", [ENDPOINTS, "/health", STATUS, "/", "/openapi.json", "/nope"])
def test_an_answer_has_one_date(server: Server, path: str) -> None:
    answer = send(server, f"GET {path} HTTP/1.1\r\nHost: x\r\n{CLOSE}")
    assert answer.partition(b"\r\n\r\n")[0].lower().count(b"\r\ndate:") == 1


@pytest.mark.parametrize("path", [ENDPOINTS, "/health", STATUS])
def test_nothing_is_answered_after_an_answer_that_closes(server: Server, path: str) -> None:
    closing = f"GET {path} HTTP/1.1\r\nHost: x\r\n{CLOSE}"
    after = f"GET /health HTTP/1.1\r\nHost: x\r\n{CLOSE}"
    (found,) = responses(send(server, closing + after), "GET")
    assert (found.status, found.headers["connection"]) == (200, "close")


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize(
    "fields",
    ["", "Accept-Encoding: gzip\r\n", "If-None-Match: {etag}\r\n", "Accept: application/jose\r\n"],
)
@pytest.mark.parametrize("path", [ENDPOINTS, f"{ENDPOINTS}.jws", "/health", "/ready"])
def test_a_bare_path_is_answered_like_one_with_a_query_or_a_body(
    server: Server, path: str, fields: str, method: str, version: str
) -> None:
    """The asgi worker answers a bare GET at once, and any other request in a task."""
    fields = fields.format(etag=server.get().headers["etag"])
    first, *others = (
        responses(
            send(server, f"{method} {target} HTTP/{version}\r\nHost: x\r\n{fields}{more}{CLOSE}"),
            method,
        )
        for target, more in [(path, ""), (f"{path}?x=1", ""), (path, "Content-Length: 0\r\n")]
    )
    for (answer,) in (first, *others):
        answer.headers.pop("date")
    assert all(other == first for other in others)
    assert first[0].status in {200, 304, 404}


@pytest.mark.parametrize("path", [ENDPOINTS, "/health", "/ready", STATUS, "/metrics", "/"])
def test_head_has_the_length_of_get_and_no_body(server: Server, path: str) -> None:
    """HEAD has GET's Content-Length and no body, and the next request works."""
    both = f"HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\nGET /health HTTP/1.1\r\nHost: x\r\n{CLOSE}"
    head, get = responses(send(server, both), "HEAD", "GET")
    assert (head.status, get.status) == (200, 200)
    assert int(head.headers["content-length"]) > 0


@pytest.mark.parametrize("path", [STATUS, ENDPOINTS])
def test_a_client_that_expects_100_gets_it(server: Server, path: str) -> None:
    """The server sends 100 Continue before the route refuses the method."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(
            f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n"
            f"Expect: 100-continue\r\n{CLOSE}".encode()
        )
        received = connection.recv(65536)
        if received.startswith(b"HTTP/1.1 100"):
            connection.sendall(b"{}")
        while chunk := connection.recv(65536):
            received += chunk
    assert received.count(b"HTTP/1.1 405") == 1


@pytest.mark.parametrize(
    ("target", "status"),
    [
        (f"http://x{ENDPOINTS}", 200),
        (f"http://y:81{ENDPOINTS}?wait=0", 200),
        (f"https://x{ENDPOINTS}", 200),
        ("http://x/nope", 404),
    ],
)
def test_the_absolute_form_of_a_target(server: Server, target: str, status: int) -> None:
    """The server accepts the absolute form of a target, as RFC 9112, 3.2.2 requires."""
    (found,) = responses(send(server, f"GET {target} HTTP/1.1\r\nHost: x\r\n{CLOSE}"), "GET")
    assert found.status == status
    if ENDPOINTS in target:
        assert found.body == server.get().body


SMUGGLED = f"GET {STATUS} HTTP/1.1\r\nHost: x\r\n\r\n"
ATTEMPTS = {
    "length-and-chunked": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "two-lengths": f"Content-Length: 0\r\nContent-Length: {len(SMUGGLED)}\r\n\r\n",
    "list-of-lengths": f"Content-Length: 0, {len(SMUGGLED)}\r\n\r\n",
    "signed-length": f"Content-Length: +{len(SMUGGLED)}\r\n\r\n",
    "negative-length": "Content-Length: -1\r\n\r\n",
    "hexadecimal-length": "Content-Length: 0x10\r\n\r\n",
    "chunked-twice": "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "identity": "Transfer-Encoding: identity\r\n\r\n",
    "chunked-not-last": "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "space-before-colon": "Content-Length : 4\r\n\r\n",
    "folded": "X: a\r\n Content-Length: 4\r\n\r\n",
    "bare-cr": "X: a\rContent-Length: 4\r\n\r\n",
    "nul": "X: a\0b\r\n\r\n",
    "bad-chunk": "Transfer-Encoding: chunked\r\n\r\nzz\r\n\r\n",
    "signed-chunk": "Transfer-Encoding: chunked\r\n\r\n+0\r\n\r\n",
}


@pytest.mark.parametrize("name", ATTEMPTS)
def test_an_ambiguous_request_is_refused_and_hides_no_other(server: Server, name: str) -> None:
    """An ambiguous request is refused, and no bytes after it are parsed as a request.

    A proxy in front may have read the framing differently.
    """
    request = f"POST {ENDPOINTS} HTTP/1.1\r\nHost: x\r\n{ATTEMPTS[name]}"
    received = send(server, request + SMUGGLED)
    found = responses(received, *(["POST"] * received.count(b"HTTP/1.1 ")))
    # A gthread worker answers 405 before it reads the chunks.
    early = [405] if "-chunk" in name and len(found) > 1 else []
    assert [answer.status for answer in found] in [[*early, 400], [501]]
    assert {answer.headers["content-type"] for answer in found} == {"application/problem+json"}


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /health HTTP/1.1\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: a\r\nHost: b\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: a b\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost: a/b\r\n", 400),
        ("GET /health HTTP/1.1\r\nHost:\r\n", 400),
        ("GET /health HTTP/1.0\r\n", 200),
        ("GET /health HTTP/2.0\r\nHost: x\r\n", 400),
        ("GET /health\r\n", 400),
        ("GET health HTTP/1.1\r\nHost: x\r\n", 400),
        ("GET /" + "x" * 4200 + " HTTP/1.1\r\nHost: x\r\n", 414),
        ("GET /health HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 46, 200),
        ("GET /health HTTP/1.1\r\nHost: x\r\n" + "A: b\r\n" * 48, 431),
        ("GET /health HTTP/1.1\r\nHost: x\r\nA: " + "b" * 4000 + "\r\n", 200),
        ("GET /health HTTP/1.1\r\nHost: x\r\nA: " + "b" * 4100 + "\r\n", 431),
    ],
)
def test_the_limits_of_a_head(
    request: pytest.FixtureRequest, server: Server, head: str, status: int
) -> None:
    """A request needs one valid host, a known version and bounded sizes."""
    if "gthread" in request.node.name and "Host: x" not in head:
        pytest.skip("gunicorn's own parser leaves Host to the application")
    (found,) = responses(send(server, head + CLOSE), "GET")
    assert found.status == status


def test_no_answer_names_its_server_or_switches_protocols(server: Server) -> None:
    """No answer names the server; an upgrade gets Flask's refusal or the plain list."""
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Key: x\r\n"
    data = f"GET {ENDPOINTS} HTTP/1.1\r\nHost: x\r\n{upgrade}Sec-WebSocket-Version: 13\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(data.encode())
        answer = connection.recv(65536)
    assert answer.startswith((b"HTTP/1.1 200", b"HTTP/1.1 400"))
    assert b"uvicorn" not in answer.lower()


def test_a_name_with_underscores_is_never_taken_for_one_with_hyphens(server: Server) -> None:
    """A header with underscores is not read as the header with hyphens, which a proxy filters."""
    tag = server.get().headers["ETag"]
    assert server.get(**{"If-None-Match": tag}).status == 304
    assert server.get(If_None_Match=tag).status == 200
