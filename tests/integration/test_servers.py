"""Every server and both fronts give equal answers to one list of requests."""

import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..ports import closed_port
from ..servers import ENDPOINTS, STATUS, Answer, Server, gunicorn_command, running
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
