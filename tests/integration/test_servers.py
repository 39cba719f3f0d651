"""Every server and both fronts give equal answers to one list of requests."""

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from ..ports import closed_port
from ..servers import ENDPOINTS, ROOT, STATUS, Answer, Server, gunicorn_command, running
from ..waiting import wait_for

PYTHON = sys.executable
FACTORY = "mop_config:create_asgi_app"
COMMANDS: dict[str, list[str]] = {
    "gthread": gunicorn_command("-k", "mop_config.server.gunicorn.worker.ThreadWorker"),
    "sync": gunicorn_command("-k", "mop_config.server.gunicorn.worker.SynchronousWorker"),
    "flask": [PYTHON, "-m", "flask", "--app", "wsgi", "run", "--port", "0"],
    "waitress": [PYTHON, "-m", "waitress", "--listen=127.0.0.1:0", "wsgi:app"],
    "uvicorn": [PYTHON, "-m", "uvicorn", "--port", "0", "--factory", FACTORY],
    "hypercorn": [
        PYTHON,
        "-m",
        "hypercorn",
        "-b",
        "127.0.0.1:0",
        "mop_config.server.web.asgi:create_asgi_app()",
    ],
    "granian": [
        *(PYTHON, "-m", "granian", "--interface", "asgi", "--port", "PORT", "--factory"),
        FACTORY,
    ],
    "fastapi": [PYTHON, "-m", "uvicorn", "--port", "0", "tests.integration.mounted:app"],
}
#: A method, a path and headers; ``TAG`` and ``DATE`` are replaced by the served list's.
CASES: list[tuple[str, str, dict[str, str]]] = [
    ("GET", ENDPOINTS, {}),
    ("GET", ENDPOINTS, {"Accept-Encoding": "gzip"}),
    ("GET", ENDPOINTS, {"If-None-Match": "TAG"}),
    ("GET", ENDPOINTS, {"If-None-Match": '"x", TAG'}),
    ("GET", ENDPOINTS, {"If-Modified-Since": "DATE"}),
    ("HEAD", ENDPOINTS, {}),
    ("HEAD", ENDPOINTS, {"If-None-Match": "TAG"}),
    ("POST", ENDPOINTS, {}),
    ("OPTIONS", ENDPOINTS, {}),
    ("GET", f"{ENDPOINTS}.jws", {}),
    ("GET", ENDPOINTS, {"Accept": "application/jose"}),
    ("GET", f"{ENDPOINTS}?wait=0", {"If-None-Match": "TAG"}),
    ("GET", f"{ENDPOINTS}?wait=61", {}),
    ("GET", f"{ENDPOINTS}?wait=5", {"If-None-Match": '"old"'}),
    ("GET", "/health", {}),
    ("HEAD", "/health", {}),
    ("GET", "/api/v1/health", {}),
    ("GET", "/ready", {}),
    ("POST", "/ready", {}),
    ("GET", "/nope", {}),
    ("GET", "/api//v1/config/endpoints", {}),
    ("GET", "/api/v1/config/%65ndpoints", {}),
    ("GET", "/api/v1/config/keys", {}),
    ("GET", "/api/v1/config/qr?host=a.com", {}),
    ("POST", "/api/v1/config/reload", {}),
    ("GET", ENDPOINTS, {"Origin": "https://a.com"}),
    ("OPTIONS", "/", {}),
]
#: Headers that belong to a server and not to the answer.
SERVERS_OWN = {"server", "date", "connection", "keep-alive", "transfer-encoding", "alt-svc", "via"}


def ask(server: Server, prefix: str, case: tuple[str, str, dict[str, str]]) -> tuple[Any, ...]:
    """Return an answer to a case without the server's own headers."""
    known = server.get(prefix + ENDPOINTS).headers
    method, path, given = case
    headers = {
        name: value.replace("TAG", known["ETag"]).replace("DATE", known["Last-Modified"])
        for name, value in given.items()
    }
    answer = server.request(method, prefix + path, **headers)
    return answer.status, comparable(answer), answer.body


def comparable(answer: Answer) -> list[tuple[str, str]]:
    """Return the headers in order with lower-case names, and ``Allow`` as a set."""
    return sorted(
        (name.lower(), ", ".join(sorted(value.split(", "))) if name == "Allow" else value)
        for name, value in ((each.title(), value) for each, value in answer.headers.items())
        if name.lower() not in SERVERS_OWN
    )


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("list") / "endpoints.txt"
    path.write_text("DomainList:\na.com\nb.com\n" + "".join(f"h{n}.com\n" for n in range(50)))
    return path


@pytest.fixture(scope="module")
def reference(file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Run the default server: gunicorn with the ASGI worker."""
    folder = tmp_path_factory.mktemp("reference")
    with running(folder, file, workers=1, ENDPOINT_CORS_ORIGINS="https://a.com") as server:
        yield server


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_a_unix_socket(file: Path, tmp_path: Path, reference: Server, worker_class: str) -> None:
    """Behind a Unix socket, the peer has no address, and long polls and edits work as well."""
    mine, path = tmp_path / "endpoints.txt", tmp_path / "socket"
    mine.write_bytes(file.read_bytes())
    environ = {
        **os.environ,
        "ENDPOINT_CONFIG_FILE": str(mine),
        "ENDPOINT_STATE_DIR": str(tmp_path / "state"),
        "WEB_CONCURRENCY": "1",
        "WORKER_CLASS": worker_class,
    }
    command = gunicorn_command("--bind", f"unix:{path}", "--access-logfile", "-")
    with (tmp_path / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=log, stderr=log)
    try:
        wait_for(path.is_socket, seconds=30, what="gunicorn listens")
        with httpx2.Client(
            transport=httpx2.HTTPTransport(uds=str(path)), base_url="http://x", timeout=30
        ) as client:
            first = client.get(ENDPOINTS)
            assert first.content == reference.get().body
            mine.write_text("DomainList:\nnew.example\n")
            known = {"If-None-Match": first.headers["etag"]}
            told = client.get(f"{ENDPOINTS}?wait=20", headers=known)
            assert told.json()["socketio_endpoints"][0]["url"] == "https://new.example"
            assert client.get(STATUS).json()["state"] == "fresh"
    finally:
        process.terminate()
        assert process.wait(20) == 0
    assert f"GET {ENDPOINTS}?wait=20" in (tmp_path / "log").read_text()


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
@pytest.mark.parametrize(("trusted", "scheme"), [("127.0.0.1", "https"), ("192.0.2.1", "http")])
def test_the_scheme_that_a_trusted_proxy_forwards(
    file: Path, tmp_path: Path, worker_class: str, trusted: str, scheme: str
) -> None:
    """``X-Forwarded-Proto`` counts only from an address in ``FORWARDED_ALLOW_IPS``."""
    (tmp_path / "scheme.py").write_text(
        "from flask import request\n"
        "from mop_config import create_app\n"
        "app = create_app()\n"
        "app.get('/scheme')(lambda: request.scheme)\n"
    )
    with running(
        tmp_path,
        file,
        command=gunicorn_command(target="scheme:app"),
        workers=1,
        WORKER_CLASS=worker_class,
        FORWARDED_ALLOW_IPS=trusted,
        PYTHONPATH=f"{ROOT}:{tmp_path}",
    ) as server:
        answer = server.get("/scheme", **{"X-Forwarded-Proto": "https"})
        assert (answer.status, answer.body) == (200, scheme.encode())


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_the_prefix_that_a_proxy_leaves_in_the_path(
    file: Path, tmp_path: Path, worker_class: str
) -> None:
    """With SCRIPT_NAME the routes are below the prefix, and the description names it."""
    with running(
        tmp_path,
        file,
        workers=0,
        WEB_CONCURRENCY="1",
        WORKER_CLASS=worker_class,
        SCRIPT_NAME="/ops",
    ) as server:
        answer = server.get(f"/ops{ENDPOINTS}")
        assert answer.status == 200
        tag = {"If-None-Match": answer.headers["ETag"]}
        waited = server.get(f"/ops{ENDPOINTS}?wait=0.1", **tag)
        assert (waited.status, waited.headers["Preference-Applied"]) == (304, "wait")
        assert server.get("/ops/health").status == 200
        assert server.get("/opsy/health").status in {404, 500}
        described = server.get("/ops/openapi.json")
        assert (described.status, described.json["servers"]) == (200, [{"url": "/ops"}])


@pytest.mark.parametrize("name", COMMANDS)
def test_the_same_answers(file: Path, tmp_path: Path, reference: Server, name: str) -> None:
    """Status, headers and bytes are equal; each server follows edits and releases a long poll."""
    prefix = "/config" if name == "fastapi" else ""
    mine = tmp_path / "endpoints.txt"
    mine.write_bytes(file.read_bytes())
    port = str(closed_port())
    command = [port if word == "PORT" else word for word in COMMANDS[name]]
    with running(
        tmp_path,
        mine,
        command=command,
        workers=0,
        ENDPOINT_CORS_ORIGINS="https://a.com",
        WEB_CONCURRENCY="1",
        ENDPOINT_MAX_WAITERS="2",
        ENDPOINT_STATE_DIR=str(tmp_path / "state"),
    ) as server:
        wait_for(lambda: server.answers(prefix + "/ready"), seconds=30)
        date = reference.get().headers["Last-Modified"]
        own = server.get(prefix + ENDPOINTS).headers["Last-Modified"]
        for case in CASES:
            wanted, found = ask(reference, "", case), ask(server, prefix, case)
            assert str(found).replace(own, date) == str(wanted), (name, case)
        if name != "sync":
            polled: list[Answer] = []
            tag = server.get(prefix + ENDPOINTS).headers["ETag"]
            path = f"{prefix}{ENDPOINTS}?wait=30"
            thread = threading.Thread(
                target=lambda: polled.append(server.get(path, **{"If-None-Match": tag}))
            )
            thread.start()
            metrics = f"{prefix}/metrics"
            wait_for(lambda: b"mop_config_waiters 1.0" in server.get(metrics).body)
            mine.write_text("DomainList:\nnew.com\nother.com\n")
            thread.join(10)
            assert [answer.status for answer in polled] == [200]
            assert b"new.com" in polled[0].body
        if prefix:
            assert server.get("/own").json == {"own": "route"}
            assert server.get(f"{prefix}{STATUS}").json["state"] == "fresh"
            servers = server.get(f"{prefix}/openapi.json").json["servers"]
            assert servers[0]["url"].endswith("/config")
        assert server.stop() in {0, -15}
        assert "Traceback" not in server.log
