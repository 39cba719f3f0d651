"""Reload requests to real servers with tokens, and the log's record of the caller."""

import base64
import hashlib
import http.client
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import Headers

from mop_config.server.auth import Token, digest, line_of

from ..cli.forks import forking, run
from ..servers import ENDPOINTS, Answer, Server, gunicorn_command, running
from ..waiting import wait_for

RELOAD = "/api/v1/config/reload"
ADMIN, READER = "an-admin-token-of-tests", "a-reader-token-of-tests"
LINES = f"op:{hashlib.sha256(ADMIN.encode()).hexdigest()}:admin\n" + line_of(
    Token("app", digest(READER), False)
)
BEARER = {"Authorization": f"Bearer {ADMIN}"}


class Guarded(Server):
    """A server with tokens, whose helper methods send a token."""

    def get(self, path: str = ENDPOINTS, **headers: str) -> Answer:
        return super().get(path, **{**BEARER, **headers})


def post(server: Server, **headers: str) -> Answer:
    """Request a reload."""
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    try:
        connection.request("POST", RELOAD, headers={**BEARER, **headers})
        response = connection.getresponse()
        return Answer(response.status, Headers(response.getheaders()), response.read())
    finally:
        connection.close()


@contextmanager
def guarded(folder: Path, *options: str, workers: int = 2, **environ: str) -> Iterator[Server]:
    """Run a server with tokens on a file during the block."""
    file, tokens = folder / "endpoints.txt", folder / "tokens"
    file.write_text("DomainList:\na.com\nb.com\n")
    tokens.write_text(LINES)
    environ |= {"ENDPOINT_TOKENS_FILE": str(tokens), "WEB_CONCURRENCY": str(workers)}
    command = gunicorn_command(*options)
    with running(folder, file, workers=0, command=command, user=None, **environ) as server:
        server.__class__ = Guarded
        wait_for(lambda: server.all_know(workers), seconds=30)
        yield server


@pytest.fixture(scope="module", autouse=True)
def _forking() -> Iterator[None]:
    with forking():
        yield


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("reload")
    log_format = '%(h)s %(u)s "%(r)s" %(s)s U=%(U)s q=%(q)s a="%(a)s" auth=%({authorization}i)s'
    options = ("--access-logfile", "-", "--access-logformat", log_format)
    with guarded(folder, *options, workers=3) as server:
        yield server


def file_of(server: Server) -> Path:
    return Path(server.status()["source"])


def test_every_worker_reads_the_file(server: Server) -> None:
    """The answer comes when every worker has read the file, and the status gives the trigger."""
    file = file_of(server)
    file.write_text("DomainList:\na.com\nc.com\n")
    answer = post(server)
    assert answer.status == 200, answer
    document = answer.json
    assert document["scope"] == "host"
    assert len(document["workers"]) == 3
    assert {worker["pid"] for worker in document["workers"]} == set(server.workers)
    assert {worker["etag"] for worker in document["workers"]} == {document["etag"]}
    assert all(worker["last_reload"] for worker in document["workers"])
    assert server.hosts() == ["a.com", "c.com"]
    again = post(server).json
    assert again["result"] == "unchanged"
    assert {w["last_reload"]["trigger"] for w in again["workers"]} == {"api"}
    assert server.status()["history"][0]["trigger"] == "api"
    wait_for(lambda: "reload requested by op" in server.log)


def test_many_ask_at_once(server: Server) -> None:
    """Concurrent reload requests are all answered, and other requests are not delayed."""
    answers: list[Answer] = []
    threads = [threading.Thread(target=lambda: answers.append(post(server))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert [answer.status for answer in answers] == [200] * 8
    for answer in answers:
        assert len(answer.json["workers"]) == 3
        assert all(worker["last_reload"] for worker in answer.json["workers"])


def test_a_file_that_is_refused(server: Server) -> None:
    """A refused file gives 422 with its problems, and the served list stays."""
    file = file_of(server)
    good, before = file.read_bytes(), server.hosts()
    file.write_text("DomainList:\n")
    answer = post(server)
    assert answer.status == 422
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert answer.json["problems"][0]["code"] == "no-endpoints"
    assert {w["last_reload"]["result"] for w in answer.json["workers"]} == {"rejected"}
    assert server.hosts() == before
    result = run("reload", f"http://127.0.0.1:{server.port}", MOP_CONFIG_TOKEN=ADMIN)
    assert result.returncode == 1
    assert result.stdout.count("rejected, serving etag") == 3
    assert "[no-endpoints]" in result.stderr
    file.write_bytes(good)
    wait_for(lambda: server.status()["state"] == "fresh")


def test_the_command_line_asks(server: Server, tmp_path: Path) -> None:
    """``reload`` sends a token from the environment or a file, and names a missing token."""
    url = f"http://127.0.0.1:{server.port}"
    result = run("reload", url, MOP_CONFIG_TOKEN=ADMIN)
    assert (result.returncode, result.stderr) == (0, "")
    *workers, served = result.stdout.splitlines()
    assert len(workers) == 3
    since = server.status()["loaded_at"]
    counted = "2 API and 2 Socket.io endpoints"
    assert served == f"fresh: {counted}, served since {since}; errors: 0, warnings: 0"
    file = tmp_path / "token"
    file.write_text(ADMIN + "\n")
    result = run("reload", url, "--json", "--token-file", str(file))
    assert result.returncode == 0
    assert '"scope": "host"' in result.stdout
    result = run("show", str(file_of(server)), "--diff", url, MOP_CONFIG_TOKEN=READER)
    assert (result.returncode, result.stdout) == (0, "")
    for environ, word in (
        ({"MOP_CONFIG_TOKEN": READER}, "403 Forbidden: an admin's token is needed"),
        ({"MOP_CONFIG_TOKEN": "wrong"}, "401 Unauthorized: the token is not a known one"),
        ({}, "401 Unauthorized: a token is needed"),
        ({"MOP_CONFIG_TOKEN": "two words"}, "MOP_CONFIG_TOKEN holds no token"),
    ):
        result = run("reload", url, **environ)
        assert result.returncode == 1
        assert word in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stdout == ""


def test_the_command_line_lists_the_errors_of_an_unchanged_list(server: Server) -> None:
    """``reload`` exits with 1 for a file with errors, also if the list is unchanged."""
    file, url = file_of(server), f"http://127.0.0.1:{server.port}"
    good, since = file.read_text(), server.status()["loaded_at"]
    file.write_text(good + "".join(f"bad_{number}.example\n" for number in range(6)))
    answer = post(server)
    assert (answer.status, answer.json["result"]) == (200, "unchanged")
    assert (answer.json["complete"], answer.json["problem_counts"]["error"]) == (False, 6)
    assert [problem["line"] for problem in answer.json["problems"]] == [4, 5, 6, 7, 8, 9]
    result = run("reload", url, MOP_CONFIG_TOKEN=ADMIN)
    assert result.returncode == run("check", str(file)).returncode == 1
    assert "errors: 6, warnings: 0" in result.stdout
    assert f"served since {since}" in result.stdout
    assert result.stderr.count("error: ") == 6
    assert "mop-config: 4:1: error: " in result.stderr
    assert run("reload", url, "--json", MOP_CONFIG_TOKEN=ADMIN).returncode == 1
    file.write_text("DomainList:\na.com\n")
    warned = run("reload", url, MOP_CONFIG_TOKEN=ADMIN)
    assert warned.returncode == 0, "warnings are no failure"
    assert warned.stderr.count("[few-endpoints]") == 2
    file.write_text(good)
    assert run("reload", url, MOP_CONFIG_TOKEN=ADMIN).returncode == 0


def test_the_command_line_finds_the_server_of_this_machine(server: Server, tmp_path: Path) -> None:
    """``reload`` finds the server by HOST and PORT, from the environment or a service's file."""
    file = tmp_path / "environment"
    file.write_text(f'HOST="0.0.0.0"\nPORT={server.port}\nENDPOINT_TOKENS={ADMIN}-not\n')
    refused = run("reload", "--env-file", str(file))
    assert refused.returncode == 1
    assert "the token is not a known one (name it by --token-file FILE" in refused.stderr
    file.write_text(f"HOST=0.0.0.0\nPORT='{server.port}'\nENDPOINT_TOKENS={ADMIN},other-token-x\n")
    assert run("reload", "--env-file", str(file), PORT="1").returncode == 0
    assert run("status", "--env-file", str(file)).returncode == 0
    assert run("status", PORT=str(server.port), ENDPOINT_TOKENS=ADMIN).returncode == 0
    # The token of this machine's server goes to no other server.
    other = run("status", f"http://127.0.0.1:{server.port}", ENDPOINT_TOKENS=ADMIN)
    assert "a token is needed" in other.stderr
    assert "PORT=0" in run("status", PORT="0").stderr


def exchange(server: Server, request: bytes) -> bytes:
    """Send raw bytes, and read until the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=30) as sock:
        sock.sendall(request)
        received = b""
        while chunk := sock.recv(65536):
            received += chunk
    return received


FORGED = "FORGED 127.0.0.1 op GET /"


@pytest.mark.parametrize(
    ("line", "header"),
    [
        ("GET /%0d%0a" + FORGED.replace(" ", "%20") + " HTTP/1.1", ""),
        ("GET /%C2%85" + FORGED.replace(" ", "%20") + "%E2%80%A8x HTTP/1.1", ""),
        ("GET /?q=%0a" + FORGED.replace(" ", "%20") + " HTTP/1.1", ""),
        (f"GET /\n{FORGED} HTTP/1.1", ""),
        ("GET / HTTP/1.1", f"User-Agent: x\r{FORGED}"),
        ("GET / HTTP/1.1", f"User-Agent: x\n {FORGED}"),
        ("GET / HTTP/1.1", f"User-Agent: x\x0b{FORGED}"),
        ("GET / HTTP/1.1", f"User-Agent: x\x85{FORGED}\x1b[2J"),
        ("GET / HTTP/1.1", f'User-Agent: x" 200\x1c{FORGED}'),
        ("GET / HTTP/1.1", f"Referer: x\x85{FORGED}"),
        (
            "GET / HTTP/1.1",
            "Authorization: Basic " + base64.b64encode(f"x\n{FORGED}:{READER}".encode()).decode(),
        ),
        (
            "GET / HTTP/1.1",
            "Authorization: Basic " + base64.b64encode(f"op\n{FORGED}:bad".encode()).decode(),
        ),
        (f"FROB\x85{FORGED} / HTTP/1.1", ""),
        (f"POST {RELOAD} HTTP/1.1", f"Authorization: Bearer {ADMIN}\r\nX: \x85{FORGED}"),
    ],
)
def test_nobody_forges_a_line_of_the_log(server: Server, line: str, header: str) -> None:
    """Line breaks and control characters in a request cannot forge a log line."""
    before = len(server.log_path.read_bytes())
    parts = [line, "Host: a", "Connection: close", *filter(None, [header])]
    exchange(server, "\r\n".join([*parts, "", ""]).encode("latin-1"))
    marker = f"/marker-{time.monotonic_ns()}"
    server.get(marker)
    wait_for(lambda: marker in server.log)
    written = server.log_path.read_bytes()[before:].decode()
    # Every line ending that Python knows, which is more than a terminal knows.
    for logged in written.splitlines():
        assert not logged.lstrip().startswith(FORGED[:6]), logged
        assert logged.isprintable(), logged


def test_the_log_names_who_asks_but_never_the_token(server: Server) -> None:
    """The log names the token's name and never the token, and ignores names from the client."""
    for authorization in (
        f"Bearer {READER}",
        "Basic " + base64.b64encode(f"admin:{READER}".encode()).decode(),
    ):
        assert server.get("/?who", Authorization=authorization).status in {200, 404}
    assert post(server, Authorization=f"Bearer {READER}").status == 403
    wait_for(lambda: f'127.0.0.1 app "POST {RELOAD} HTTP/1.1" 403' in server.log)
    stranger = "Basic " + base64.b64encode(b"root:wrong").decode()
    assert server.get("/?stranger", Authorization=stranger).status == 401

    def lines(of: str) -> list[str]:
        return [line for line in server.log.splitlines() if f"GET /?{of}" in line]

    wait_for(lambda: len(lines("who")) == 2 and len(lines("stranger")) == 1)
    assert all(line.startswith("127.0.0.1 app ") for line in lines("who"))
    assert lines("stranger")[0].startswith("127.0.0.1 - ")
    assert "auth=***" in lines("who")[0]
    for secret in (ADMIN, READER, base64.b64encode(f"admin:{READER}".encode()).decode()):
        assert secret not in server.log
    assert "Traceback" not in server.log


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"GET /" + b"x" * 5000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 70 + b"\r\n",
        b"GET / HTTP/1.1\r\nX: " + b"y" * 9000 + b"\r\n\r\n",
        b"POST " + RELOAD.encode() + b" HTTP/1.1\r\nContent-Length: 1000000\r\n"
        b"Connection: close\r\nAuthorization: Bearer " + ADMIN.encode() + b"\r\n\r\n",
    ],
    ids=["line", "fields", "field", "body"],
)
def test_a_request_beyond_the_limits_is_refused(server: Server, request_bytes: bytes) -> None:
    """A request beyond the limits is refused before it is held in memory."""
    answer = exchange(server, request_bytes)
    assert answer.startswith((b"HTTP/1.1 400", b"HTTP/1.1 41", b"HTTP/1.1 431")), answer[:200]


def test_tokens_are_followed(server: Server) -> None:
    """Token edits apply within seconds.

    A bad line is reported by its number, and without the file every token is refused.
    """
    tokens = file_of(server).with_name("tokens")
    good = tokens.read_text()
    tokens.write_text(good + "\nsome-secret-without-a-name\n")
    problem: Any = wait_for(
        lambda: next((p for p in server.status()["problems"] if p["code"] == "token-line"), None)
    )
    assert (problem["line"], problem["text"]) == (3, "")
    wait_for(lambda: "line 3" in server.log)
    assert "some-secret" not in server.log + str(server.status())
    tokens.unlink()
    wait_for(lambda: all(server.get().status == 401 for _ in range(20)))
    assert server.get("/ready").status == 200
    wait_for(lambda: post(server).status == 401)
    tokens.write_text(good)
    wait_for(lambda: all(server.get().status == 200 for _ in range(20)))


def test_sync_workers_and_one_that_is_killed(tmp_path: Path) -> None:
    """A reload works with sync workers, ignores a killed worker and includes its successor."""
    with guarded(tmp_path, WORKER_CLASS="sync") as server:
        (tmp_path / "endpoints.txt").write_text("DomainList:\na.com\nc.com\n")
        answer = post(server)
        assert answer.status == 200
        assert len(answer.json["workers"]) == 2
        assert server.hosts() == ["a.com", "c.com"]
        victim = server.workers[0]
        os.kill(victim, signal.SIGKILL)
        answer = post(server)
        assert answer.status == 200
        assert victim not in {worker["pid"] for worker in answer.json["workers"]}
        wait_for(lambda: server.all_know(2), seconds=30)
        assert len(post(server).json["workers"]) == 2


def test_a_worker_that_hangs_is_named(tmp_path: Path) -> None:
    """A hanging worker delays no other request; the reload gives 504 with each worker's state."""
    with guarded(tmp_path) as server:
        assert len(post(server).json["workers"]) == 2
        hanging, living = server.workers
        os.kill(hanging, signal.SIGSTOP)
        answers: list[Answer] = []
        thread = threading.Thread(target=lambda: answers.append(post(server)))
        try:
            asked = server.log.count("requested by op")
            thread.start()
            wait_for(lambda: server.log.count("requested by op") > asked)
            for _ in range(20):
                assert server.get().status == 200
            assert thread.is_alive()
            thread.join(60)
        finally:
            os.kill(hanging, signal.SIGCONT)
            thread.join(60)
        (answer,) = answers
        assert (answer.status, answer.json["scope"]) == (504, "host")
        last = {worker["pid"]: worker["last_reload"] for worker in answer.json["workers"]}
        assert last[hanging] is None
        assert last[living]["result"] == "unchanged"
        assert str(hanging) in answer.json["detail"]
        assert post(server).status == 200


def test_without_a_state_folder_only_the_worker_that_is_asked_reads(tmp_path: Path) -> None:
    """Without a state folder only the answering worker reads the file, and the answer says so."""
    (tmp_path / "state").write_text("not a folder")
    with guarded(tmp_path, workers=1) as server:
        (tmp_path / "endpoints.txt").write_text("DomainList:\na.com\nc.com\n")
        answer = post(server)
        assert answer.status == 200
        assert answer.json["scope"] == "worker"
        assert "other workers were not asked" in answer.json["note"]
        assert len(answer.json["workers"]) == 1
