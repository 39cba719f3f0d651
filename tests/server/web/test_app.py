"""Tests of the application's routes by Flask's test client, without a server."""

import base64
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import EnvironBuilder, FlaskClient
from werkzeug.test import run_wsgi_app

from mop_config import __version__, create_app, init_app
from mop_config.errors import SettingsError
from mop_config.server.auth import Token, digest, line_of
from mop_config.server.settings import Settings

from ...conftest import GUIDE_JSON, SAMPLE

ENDPOINTS = "/api/v1/config/endpoints"


def make(tmp_path: Path, **settings: Any) -> FlaskClient:
    settings.setdefault("source", str(SAMPLE))
    app = create_app(Settings(state_dir=str(tmp_path / "state"), **settings), start=False)
    return app.test_client()


@pytest.fixture
def client(tmp_path: Path) -> Iterator[FlaskClient]:
    with make(tmp_path) as client:
        yield client


def test_empty_variables_may_be_absent(tmp_path: Path) -> None:
    """A WSGI server may leave out the query and the path if they are empty (PEP 3333)."""
    with make(tmp_path, tokens=("secret",), trusted_hosts=("localhost",)) as client:
        app = client.application
        builder = EnvironBuilder(app, "/", headers={"Authorization": "Bearer secret"})
        environ = builder.get_environ()
        del environ["QUERY_STRING"], environ["PATH_INFO"]
        _, status, _ = run_wsgi_app(app, environ, buffered=True)
        assert status == "200 OK"


@pytest.mark.parametrize("path", ["/health", "/api/v1/health"])
def test_a_health_check_is_answered(client: FlaskClient, path: str) -> None:
    """The answer is exactly the guide's, with the version of the package."""
    response = client.get(path)
    assert response.status_code == 200
    assert response.json == {"status": "healthy", "service": "mop-api", "version": __version__}
    assert response.headers["Cache-Control"] == "no-store"


def test_the_service_has_a_name(tmp_path: Path) -> None:
    """SERVICE_NAME is the service in the answer."""
    assert make(tmp_path, service_name="mine").get("/health").json["service"] == "mine"  # type: ignore[index]


def test_the_list_is_the_guides(client: FlaskClient) -> None:
    """The list is the guide's, with the headers for caches, 304 and HEAD."""
    response = client.get(ENDPOINTS)
    assert response.json == GUIDE_JSON
    assert response.headers["Content-Type"] == "application/json"
    assert response.headers["Cache-Control"] == "max-age=60"
    again = client.get(ENDPOINTS, headers={"If-None-Match": response.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert "Content-Type" not in again.headers
    head = client.head(ENDPOINTS)
    assert head.data == b""
    assert head.headers["Content-Length"] == response.headers["Content-Length"]


def test_readiness_follows_the_list(tmp_path: Path) -> None:
    """/ready answers 503 until a good list was seen."""
    client = make(tmp_path, source=str(tmp_path / "nothing"))
    response = client.get("/ready")
    assert response.status_code == 503
    assert response.json["state"] == "empty"  # type: ignore[index]
    assert "missing" in response.json["reason"]  # type: ignore[index]
    answer = client.get(ENDPOINTS)
    assert answer.status_code == 200
    assert answer.json == {"api_endpoints": [], "socketio_endpoints": []}
    assert answer.headers["Cache-Control"] == "no-store"
    fresh = {"state": "fresh", "reason": None, "complete": True}
    assert make(tmp_path).get("/ready").json == fresh


def test_without_another_thread_the_list_is_read_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that can start no thread reads its files in its own one."""

    def lacking(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    tokens = tmp_path / "tokens"
    tokens.write_text(line_of(Token("app", digest("secret"), False)) + "\n")
    monkeypatch.setattr(threading.Thread, "start", lacking)
    client = make(tmp_path, tokens_file=str(tokens))
    answer = client.get(ENDPOINTS, headers={"Authorization": "Bearer secret"})
    assert (answer.status_code, answer.json) == (200, GUIDE_JSON)


@pytest.mark.parametrize("strict", [False, True])
def test_readiness_and_status_say_that_entries_are_left_out(tmp_path: Path, strict: bool) -> None:
    """``complete`` is false with exact counts, also if strict mode refuses the whole file."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n")
    client = make(tmp_path, source=str(file))
    assert client.get("/ready").json["complete"] is True  # type: ignore[index]
    file.write_text("DomainList:\na.com\n" + "bad_host\n" * 150)
    client = make(tmp_path, source=str(file), strict=strict)
    errors = 151 if strict else 150
    expected = {
        "state": "rejected" if strict else "fresh",
        "complete": False,
        "problem_counts": {"error": errors, "warning": 2},
    }
    ready: Any = client.get("/ready").json
    assert {**expected, "reason": ready["reason"]} == ready
    assert (ready["reason"] is None) == (not strict)
    status: Any = client.get("/api/v1/config/status").json
    assert status | expected == status


def test_readiness_names_no_reason_to_strangers(tmp_path: Path) -> None:
    """With tokens, only a valid token gets the reason, which may contain paths and users."""
    source, admin = str(tmp_path / "nothing"), "an-admin-token"
    reader = Token("app", digest("a-reader-token"), False)
    (tmp_path / "tokens").write_text(line_of(reader))
    guarded = make(tmp_path, source=source, tokens=(admin,), tokens_file=str(tmp_path / "tokens"))
    for authorization, told in (
        (None, False),
        ("Bearer wrong", False),
        ("Bearer", False),
        (f"Basic {base64.b64encode(b'x:wrong').decode()}", False),
        (f"Basic {base64.b64encode(b'x:a-reader-token').decode()}", True),
        ("Bearer a-reader-token", True),
        (f"Bearer {admin}", True),
    ):
        headers = {} if authorization is None else {"Authorization": authorization}
        answer = guarded.get("/ready", headers=headers)
        assert answer.status_code == 503
        assert "WWW-Authenticate" not in answer.headers
        document: Any = answer.json
        assert (document["state"], document["complete"]) == ("empty", False)
        assert (source in str(document["reason"])) is told
        assert (source in answer.text) is told
    assert source in make(tmp_path, source=source).get("/ready").text


def test_status_has_the_contracts_shape(client: FlaskClient) -> None:
    """The status document has the members that the docs name."""
    status: Any = client.get("/api/v1/config/status").json
    assert set(status) == {
        "source",
        "state",
        "etag",
        "loaded_at",
        "counts",
        "complete",
        "problem_counts",
        "problems",
        "planned",
        "last_reload",
        "history",
        "watcher",
        "workers",
        "health",
        "reports",
    }
    assert status["source"] == str(SAMPLE)
    assert status["state"] == "fresh"
    assert status["counts"] == {"api": 6, "socketio": 6}
    assert status["complete"] is True
    assert status["problem_counts"] == {"error": 0, "warning": 0}
    assert set(status["last_reload"]) == {"at", "trigger", "result", "error", "duration_seconds"}
    assert status["last_reload"]["trigger"] == "start"
    assert status["last_reload"]["result"] == "applied"
    assert status["last_reload"]["at"].endswith("Z")
    assert set(status["workers"][0]) == {"pid", "etag", "last_reload"}
    assert status["etag"] in client.get(ENDPOINTS).headers["ETag"]


def test_status_shows_problems_and_settings_that_were_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The status shows bad settings together with the problems of the file."""
    file = tmp_path / "e.txt"
    file.write_text("DomainList:\na.com\nb_c\n")
    monkeypatch.setenv("ENDPOINT_CONFIG_FILE", str(file))
    monkeypatch.setenv("ENDPOINT_DEFAULT_PORT", "http")
    monkeypatch.setenv("ENDPOINT_STATE_DIR", str(tmp_path / "state"))
    status: Any = create_app(start=False).test_client().get("/api/v1/config/status").json
    codes = [problem["code"] for problem in status["problems"]]
    assert codes == ["setting", "few-endpoints", "few-endpoints", "bad-host"]
    assert status["problems"][-1] == {
        "severity": "error",
        "code": "bad-host",
        "line": 3,
        "column": 1,
        "message": "a label may hold letters, digits and inner hyphens, nothing else",
        "text": "b_c",
    }


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/nope", 404),
        ("GET", "/api/v1/config/endpoints/", 404),
        ("POST", ENDPOINTS, 405),
        ("DELETE", "/health", 405),
    ],
)
def test_errors_are_problem_documents(
    client: FlaskClient, method: str, path: str, status: int
) -> None:
    """HTTP errors are problem documents (RFC 9457)."""
    response = client.open(path, method=method)
    assert response.status_code == status
    assert response.headers["Content-Type"] == "application/problem+json"
    document: Any = response.json
    assert document["status"] == status
    assert set(document) == {"type", "title", "status", "detail"}
    if status == 405:
        assert "GET" in response.headers["Allow"]


def test_an_unexpected_error_is_a_problem_document_and_one_line_in_the_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the answer nor the log has a traceback."""
    app = create_app(Settings(source=str(SAMPLE), state_dir=str(tmp_path)), start=False)

    @app.get("/boom")
    def boom() -> str:
        raise ValueError("secret\nforged line")

    with caplog.at_level(logging.ERROR):
        response = app.test_client().get("/boom")
    assert response.status_code == 500
    assert "secret" not in response.text
    (record,) = caplog.records
    assert record.exc_info is None
    assert "ValueError" in record.getMessage()


def test_nothing_about_the_file_makes_create_app_raise(tmp_path: Path) -> None:
    """create_app works with any source and with an unusable state folder."""
    state = tmp_path / "state"
    state.write_text("not a folder")
    for source in (tmp_path, tmp_path / "none", Path("/dev/zero"), Path("/bin/sh")):
        client = create_app(
            Settings(source=str(source), state_dir=str(state)), start=False
        ).test_client()
        assert client.get(ENDPOINTS).status_code == 200


def test_a_bad_environment_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """create_app raises SettingsError with the variable and its value."""
    monkeypatch.setenv("ENDPOINT_PROTOCOL", "gopher")
    with pytest.raises(SettingsError, match="ENDPOINT_PROTOCOL='gopher'"):
        create_app(start=False)


def test_an_application_of_ones_own_can_take_the_routes_in(tmp_path: Path) -> None:
    """``init_app`` leaves the application's own routes and errors alone."""
    app = Flask("other")

    @app.get("/own")
    def own() -> str:
        return "mine"

    service = init_app(app, Settings(source=str(SAMPLE), state_dir=str(tmp_path)), start=False)
    client = app.test_client()
    assert client.get("/own").text == "mine"
    assert client.get(ENDPOINTS).json == GUIDE_JSON
    assert client.get("/nope").content_type.startswith("text/html")
    assert app.extensions["mop_config"] is service


def test_the_settings_hold_for_our_routes_only(tmp_path: Path) -> None:
    """TRUSTED_HOSTS and CORS do not change the application's own routes under ``init_app``."""
    clients = []
    for number in range(2):  # two applications in one process can have the routes
        app = Flask(f"other{number}")
        app.add_url_rule("/own", "own", lambda: "mine")
        settings = Settings(
            source=str(SAMPLE),
            state_dir=str(tmp_path),
            trusted_hosts=("a.com",),
            cors_origins=("*",) if number == 0 else (),
        )
        init_app(app, settings, start=False)
        clients.append(app.test_client())
    headers = {"Host": "evil.com", "Origin": "https://b.com"}
    own = clients[0].get("/own", headers=headers)
    assert own.text == "mine"
    assert "Access-Control-Allow-Origin" not in own.headers
    refused = clients[0].get(ENDPOINTS, headers=headers)
    assert (refused.status_code, refused.content_type) == (400, "application/problem+json")
    headers["Host"] = "a.com"
    assert clients[0].get(ENDPOINTS, headers=headers).headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Origin" not in clients[1].get(ENDPOINTS, headers=headers).headers


class TestTrustedHosts:
    """TRUSTED_HOSTS limits the host names that are answered."""

    @pytest.mark.parametrize(
        ("host", "path", "status"),
        [
            ("a.com", ENDPOINTS, 200),
            ("A.com:8000", ENDPOINTS, 200),
            ("x.b.com", ENDPOINTS, 200),
            ("evil.com", ENDPOINTS, 400),
            ("a.com.evil.com", ENDPOINTS, 400),
            ("", ENDPOINTS, 400),
            ("evil.com", "/api/v1/config/status", 400),
            ("evil.com", "/nope", 400),
            ("evil.com", "/health", 200),
            ("10.0.0.1", "/ready", 200),
            ("[::1]", ENDPOINTS, 200),
            ("[::1]:8000", ENDPOINTS, 200),
            ("[::2]:8000", ENDPOINTS, 400),
            ("a b", ENDPOINTS, 400),
        ],
    )
    def test_only_known_names_are_answered(
        self, tmp_path: Path, host: str, path: str, status: int
    ) -> None:
        """Other host names get 400, except for the health checks."""
        client = make(tmp_path, trusted_hosts=("a.com", ".b.com", "[::1]"))
        response = client.get(path, headers={"Host": host})
        assert response.status_code == status
        if status == 400:
            assert response.content_type == "application/problem+json"


class TestCors:
    """ENDPOINT_CORS_ORIGINS sets the CORS headers."""

    def get(self, client: FlaskClient, origin: str | None, method: str = "GET") -> Any:
        headers = {"Origin": origin} if origin else {}
        if method == "OPTIONS":
            headers["Access-Control-Request-Method"] = "GET"
        return client.open(ENDPOINTS, method=method, headers=headers).headers

    def test_without_it_no_other_origin_may_read(self, client: FlaskClient) -> None:
        """Without the setting there are no CORS headers."""
        assert "Access-Control-Allow-Origin" not in self.get(client, "https://a.com")

    def test_any_origin(self, tmp_path: Path) -> None:
        """With ``*`` the answer is the same for all origins, so Vary does not name Origin."""
        headers = self.get(make(tmp_path, cors_origins=("*",)), "https://a.com")
        assert headers["Access-Control-Allow-Origin"] == "*"
        assert headers.getlist("Vary") == ["Accept-Encoding"]

    def test_a_list_of_origins(self, tmp_path: Path) -> None:
        """Only the listed origins are allowed, and the answer varies by Origin."""
        client = make(tmp_path, cors_origins=("https://a.com", "http://b.com:81"))
        for origin in ("https://a.com", "http://b.com:81"):
            headers = self.get(client, origin)
            assert headers["Access-Control-Allow-Origin"] == origin
            assert headers["Access-Control-Expose-Headers"].split(", ")[0] == "ETag"
        for foreign in ("https://evil.com", "https://a.com.evil.com", "null", None):
            headers = self.get(client, foreign)
            assert "Access-Control-Allow-Origin" not in headers
            assert "Origin" in headers.getlist("Vary")

    def test_a_preflight_is_answered(self, tmp_path: Path) -> None:
        """The answer to a preflight has the methods and headers that our routes accept."""
        headers = self.get(make(tmp_path, cors_origins=("*",)), "https://a.com", "OPTIONS")
        assert "GET" in headers["Access-Control-Allow-Methods"]
        assert "Authorization" in headers["Access-Control-Allow-Headers"]
        assert "If-None-Match" in headers["Access-Control-Allow-Headers"]


def test_the_state_folder_holds_one_sources_things_under_one_name(tmp_path: Path) -> None:
    """Two sources in one state folder have separate records."""
    other = tmp_path / "other.txt"
    other.write_text("DomainList:\nother.com\n")
    make(tmp_path)
    make(tmp_path, source=str(other))
    (records,) = (tmp_path / "state").iterdir()
    names = {path.name.split(".")[0] for path in records.iterdir()}
    assert len(names) == 2
    other.unlink()
    body = json.loads(make(tmp_path, source=str(other)).get(ENDPOINTS).data)
    assert body["socketio_endpoints"] == [{"url": "https://other.com", "priority": 0}]
