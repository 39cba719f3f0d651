"""Access by Bearer and Basic tokens, in the Flask front and in the ASGI front."""

import base64
import hashlib
import logging
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from flask import Flask
from flask.testing import FlaskClient
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder
from werkzeug.wsgi import ClosingIterator

from mop_config import create_app, init_app
from mop_config.server.auth import (
    USER,
    Token,
    TokenAuthenticator,
    credentials,
    digest,
    line_of,
)
from mop_config.server.serving.answers import SECURITY_HEADERS, ConditionalAnswer
from mop_config.server.settings import Settings
from mop_config.server.web.guards import MAX_BODY

from ...conftest import GUIDE_JSON, SAMPLE
from ..web.test_fronts import METHODS, Sides, ask_asgi, threads_end  # noqa: F401

ENDPOINTS = "/api/v1/config/endpoints"
STATUS = "/api/v1/config/status"
RELOAD = "/api/v1/config/reload"
REPORTS = "/api/v1/config/reports"
ADMIN, READER = "the-admin-token", "the-reader-token"
TOKENS = (Token("op", digest(ADMIN), True), Token("app", digest(READER), False))
AUTHENTICATOR = TokenAuthenticator(Settings())
AUTHENTICATOR._tokens = TOKENS


def basic(password: str, user: str = "me") -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


class Judged(NamedTuple):
    """The refusal of a request, or None, and the name of its token, or None."""

    refusal: ConditionalAnswer | None
    user: str | None

    @property
    def status(self) -> int | None:
        return self.refusal and self.refusal.status

    @property
    def challenges(self) -> tuple[str, ...]:
        assert self.refusal is not None
        return tuple(v for name, v in self.refusal.headers if name == "WWW-Authenticate")


def judge(authorization: str | None, method: str = "GET") -> Judged:
    environ = {"REQUEST_METHOD": method, "PATH_INFO": STATUS}
    if authorization is not None:
        environ["HTTP_AUTHORIZATION"] = authorization
    refusal = AUTHENTICATOR.authorise(environ)
    return Judged(refusal, environ.get(USER))


class TestAuthorise:
    """``authorise`` follows RFC 6750, section 3.1."""

    @pytest.mark.parametrize("method", ["GET", "HEAD"])
    @pytest.mark.parametrize(
        "authorization",
        [
            *(f"Bearer {READER}", f"bearer {READER}", f"BEARER   {READER} "),
            *(basic(READER), basic(READER, user=""), basic(READER).replace("Basic", "basic")),
        ],
    )
    def test_a_good_token(self, authorization: str, method: str) -> None:
        """A valid token is accepted by either scheme, whose name is case-insensitive."""
        assert judge(authorization, method) == (None, "app")

    @pytest.mark.parametrize("authorization", [None, "", " ", "Digest x", "Token abc", READER])
    def test_no_credentials(self, authorization: str | None) -> None:
        """Without credentials the answer is 401 without an error code, with both challenges."""
        refusal = judge(authorization)
        assert refusal.status == 401
        assert refusal.challenges == (
            'Bearer realm="mop-config"',
            'Basic realm="mop-config", charset="UTF-8"',
        )

    @pytest.mark.parametrize("authorization", ["Bearer wrong", basic("wrong"), basic("")])
    def test_an_unknown_token(self, authorization: str) -> None:
        """An unknown token gets 401 and ``invalid_token``; a browser then asks its user."""
        refusal = judge(authorization)
        assert refusal.status == 401
        assert refusal.challenges[0] == 'Bearer realm="mop-config", error="invalid_token"'
        assert refusal.challenges[1].startswith("Basic")

    @pytest.mark.parametrize(
        "authorization",
        [
            *("Bearer", "Bearer ", "Bearer a b", f"Bearer {READER},Bearer {READER}"),
            *("Bearer ü", f"Bearer {'x' * 513}", 'Bearer "x"', "Bearer =", "Bearer a=b"),
            *("Basic", "Basic !", "Basic " + base64.b64encode(b"nocolon").decode(), "Basic /w=="),
        ],
    )
    def test_a_malformed_header(self, authorization: str) -> None:
        """A malformed header gets 400 and ``invalid_request``."""
        refusal = judge(authorization)
        assert refusal.status == 400
        assert refusal.challenges == ('Bearer realm="mop-config", error="invalid_request"',)

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "FROB"])
    def test_changes_take_an_admins_bearer_token(self, method: str) -> None:
        """A change needs an admin Bearer token: a read token gets 403, and Basic gets 401."""
        assert judge(f"Bearer {ADMIN}", method) == (None, "op")
        refusal = judge(f"Bearer {READER}", method)
        assert refusal.status == 403
        assert 'error="insufficient_scope", scope="admin"' in refusal.challenges[0]
        assert refusal.user == "app"
        for nothing in (basic(ADMIN), None):
            refusal = judge(nothing, method)
            assert refusal.status == 401
            assert refusal.challenges == ('Bearer realm="mop-config"',)
            assert refusal.user is None

    @given(st.text(max_size=40), st.sampled_from(METHODS))
    @pytest.mark.slow
    def test_anything(self, text: str, method: str) -> None:
        """``authorise`` never raises, and accepts nothing but a known token."""
        for authorization in (text, f"Bearer {text}", f"Basic {text}", basic(text)):
            assert judge(authorization, method).status in {400, 401}
            credentials(authorization)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    folder = tmp_path_factory.mktemp("guarded")
    (folder / "tokens").write_text(f"app:{hashlib.sha256(READER.encode()).hexdigest()}:read\n")
    return Sides(folder, tokens=(ADMIN,), tokens_file=str(folder / "tokens"), cors_origins=("*",))


def test_both_sides_give_the_same_answer(guarded: Sides) -> None:
    """Both fronts give equal answers for any token, method and condition."""
    tag = f'"{guarded.etag}"'
    shown = [None, f"Bearer {READER}", f"Bearer {ADMIN}", "Bearer no", "Bearer", basic(READER), "x"]
    for method in METHODS:
        for authorization in shown:
            for tags in (None, tag):
                for path in (ENDPOINTS, STATUS + "x", "/health", "/nope"):
                    headers = {"Authorization": authorization, "If_None_Match": tags}
                    given = {name: v for name, v in headers.items() if v is not None}
                    status, _, _ = guarded.ask(method, path, Origin="https://a.com", **given)
                    if authorization is None and path != "/health":
                        assert status.startswith("401")


def test_the_list_is_private_once_tokens_are_set(guarded: Sides) -> None:
    """With tokens the list is ``private``, so that no shared cache stores it."""
    _, headers, body = guarded.ask(Authorization=f"Bearer {READER}")
    assert dict(headers)["Cache-Control"] == "private, max-age=60"
    assert dict(headers)["Vary"] == "Accept-Encoding, Authorization"
    assert body
    _, refused, body = guarded.ask()
    assert dict(refused)["Cache-Control"] == "no-store"
    assert b"ym1.com" not in body


@settings(max_examples=100)
@given(st.text(st.characters(max_codepoint=255), max_size=20), st.sampled_from(METHODS))
def test_nothing_made_up_opens_the_list(guarded: Sides, text: str, method: str) -> None:
    """A made-up Authorization header is refused by both fronts."""
    text = text.replace("\r", "").replace("\n", "").replace("\x00", "")
    for authorization in (text, f"Bearer {text}", f"Basic {text}"):
        status, _, _ = guarded.ask(method, Authorization=authorization)
        assert status[:3] in {"400", "401"}


def client_of(sides: Sides) -> FlaskClient:
    return sides.asgi.app.test_client()


def test_liveness_and_preflights_need_no_token(guarded: Sides) -> None:
    """Health checks and preflights need no token; all other paths do, even missing ones."""
    client = client_of(guarded)
    for path in ("/health", "/api/v1/health", "/ready"):
        assert client.get(path).status_code == 200
    preflight = {"Origin": "https://a.com", "Access-Control-Request-Method": "GET"}
    for path in (ENDPOINTS, STATUS, RELOAD):
        answer = client.options(path, headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["Access-Control-Allow-Origin"] == "*"
    for rule in guarded.asgi.app.url_map.iter_rules():
        if rule.rule in {"/health", "/api/v1/health", "/ready"}:
            continue
        path = rule.rule.replace("<path:filename>", "x").replace("<filename>", "x")
        for method in rule.methods or ():
            assert client.open(path, method=method).status_code == 401, (method, path)
    for path in ("/nope", "/health/", "//health", "/Health", "/%68ealth/x"):
        assert client.get(path).status_code == 401


def test_a_refusal_is_a_problem_document_that_scripts_can_read(guarded: Sides) -> None:
    """A refusal is a problem document with CORS headers and challenges."""
    answer = client_of(guarded).get(STATUS, headers={"Origin": "https://a.com"})
    assert answer.content_type == "application/problem+json"
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert len(answer.headers.getlist("WWW-Authenticate")) == 2
    document: Any = answer.json
    assert document["status"] == 401


def test_the_name_goes_with_the_request_and_failures_are_counted(
    guarded: Sides, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The token's name is passed to the server, and only refused requests count as failures."""
    failures: list[int] = []
    monkeypatch.setattr(guarded.service.metrics, "auth_failure", lambda: failures.append(1))
    cases: list[tuple[str, str, str | None]] = [
        ("GET", f"Bearer {ADMIN}", "env-1"),
        ("GET", f"Bearer {READER}", "app"),
        ("GET", basic(READER, user="root"), "app"),
        ("GET", "Bearer wrong", None),
        ("GET", basic("wrong", user="root"), None),
        ("POST", f"Bearer {READER}", "app"),
        ("POST", "Bearer wrong", None),
    ]
    wsgi: Any = guarded.asgi.app
    for method, authorization, name in cases:
        environ = EnvironBuilder(path=ENDPOINTS, method=method).get_environ()
        environ["HTTP_AUTHORIZATION"] = authorization
        with closing(ClosingIterator(wsgi(environ, lambda *_: None))) as body:
            list(body)
        assert environ.get(USER) == name
        scope = guarded.scope(method, ENDPOINTS, "", {"Authorization": authorization})
        ask_asgi(guarded.asgi, scope)
        assert scope.get(USER) == name
    assert len(failures) == 8


def test_a_body_that_nobody_needs_is_refused(tmp_path: Path) -> None:
    """A body beyond the limit gets 413 where a body is read."""
    client = create_app(
        Settings(source=str(SAMPLE), state_dir=str(tmp_path), reports=True), start=False
    ).test_client()
    answer = client.post(REPORTS, json="x" * MAX_BODY)
    assert (answer.status_code, answer.content_type) == (413, "application/problem+json")


def test_every_answer_tells_browsers_to_make_nothing_of_it(guarded: Sides) -> None:
    """Every answer has the security headers; a page may relax the policy, but not framing."""
    client = client_of(guarded)
    headers = {"Authorization": f"Bearer {ADMIN}"}
    for path in (ENDPOINTS, STATUS, "/health", "/nope", "/ready", "/"):
        for sent in ({}, headers):
            answer = client.get(path, headers=sent)
            for name, value in SECURITY_HEADERS:
                if name == "Content-Security-Policy":
                    assert "frame-ancestors 'none'" in answer.headers[name], path
                    assert "unsafe" not in answer.headers[name]
                else:
                    assert answer.headers[name] == value


def test_an_application_of_ones_own_is_guarded_in_our_routes_only(tmp_path: Path) -> None:
    """Under ``init_app`` only our routes need a token."""
    app = Flask("guest")
    app.add_url_rule("/own", "own", lambda: "mine")
    config = Settings(source=str(SAMPLE), state_dir=str(tmp_path), tokens=(ADMIN,))
    init_app(app, config, start=False)
    client = app.test_client()
    own = client.get("/own")
    assert own.text == "mine"
    assert "Content-Security-Policy" not in own.headers
    assert client.get(ENDPOINTS).status_code == 401
    assert client.get(ENDPOINTS, headers={"Authorization": f"Bearer {ADMIN}"}).json == GUIDE_JSON


@pytest.mark.parametrize("text", [None, "", "no good line"])
def test_nothing_about_the_token_file_makes_create_app_raise(
    tmp_path: Path, text: str | None
) -> None:
    """With a bad token file every request is refused, even with a token of the environment."""
    file = tmp_path / "tokens"
    if text is not None:
        file.write_text(text)
    config = Settings(
        source=str(SAMPLE), state_dir=str(tmp_path), tokens=(ADMIN,), tokens_file=str(file)
    )
    client = create_app(config, start=False).test_client()
    assert client.get(ENDPOINTS).status_code == 401
    assert client.get(ENDPOINTS, headers={"Authorization": f"Bearer {ADMIN}"}).status_code == 401
    assert client.get("/health").status_code == 200


class TestReload:
    """``POST /api/v1/config/reload`` in a process without a reload thread."""

    def test_without_tokens_nobody_may(self, tmp_path: Path) -> None:
        """Without tokens the answer is 403, and names the missing settings."""
        config = Settings(source=str(SAMPLE), state_dir=str(tmp_path))
        answer = create_app(config, start=False).test_client().post(RELOAD)
        assert (answer.status_code, answer.content_type) == (403, "application/problem+json")
        assert "ENDPOINT_TOKENS" in answer.text

    def test_it_reads_the_source(self, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
        """The result is applied, unchanged or rejected, and the log has the token's name only."""
        file = tmp_path / "endpoints.txt"
        file.write_text("DomainList:\na.com\nb.com\n")
        config = Settings(
            source=str(file), state_dir=str(tmp_path / "s"), tokens=(ADMIN,), strict=True
        )
        client = create_app(config, start=False).test_client()
        headers = {"Authorization": f"Bearer {ADMIN}"}
        with caplog.at_level(logging.INFO):
            answer: Any = client.post(RELOAD, headers=headers)
        assert (answer.status_code, answer.json["result"]) == (200, "unchanged")
        assert "requested by env-1" in caplog.text
        assert ADMIN not in caplog.text
        file.write_text("DomainList:\na.com\nc.com\n")
        answer = client.post(RELOAD, headers=headers)
        assert (answer.status_code, answer.json["result"]) == (200, "applied")
        (worker,) = answer.json["workers"]
        assert worker["last_reload"]["trigger"] == "api"
        assert worker["etag"] == answer.json["etag"]
        file.write_text("DomainList:\na.com\nc_d\n")
        answer = client.post(RELOAD, headers=headers)
        assert (answer.status_code, answer.content_type) == (422, "application/problem+json")
        assert [problem["code"] for problem in answer.json["problems"]][:1] == ["strict"]
        assert "bad-host" in [problem["code"] for problem in answer.json["problems"]]
        assert "ENDPOINT_STRICT" in answer.json["detail"]
        assert answer.json["etag"] == worker["etag"]

    def test_a_bad_token_file_is_no_problem_of_the_list(self, tmp_path: Path) -> None:
        """The status shows the bad token file, and the answer to a reload does not."""
        file, tokens = tmp_path / "endpoints.txt", tmp_path / "tokens"
        file.write_text("DomainList:\na.com\nb.com\n")
        tokens.write_text(f"{line_of(TOKENS[0])}\nno good line\n")
        config = Settings(
            source=str(file),
            state_dir=str(tmp_path / "s"),
            tokens=(ADMIN,),
            tokens_file=str(tokens),
        )
        client = create_app(config, start=False).test_client()
        headers = {"Authorization": f"Bearer {ADMIN}"}
        file.write_bytes(b"\0")
        answer: Any = client.post(RELOAD, headers=headers)
        assert answer.status_code == 422
        assert [problem["code"] for problem in answer.json["problems"]] == ["nul"]
        status: Any = client.get(STATUS, headers=headers).json
        assert "token-line" in [problem["code"] for problem in status["problems"]]
