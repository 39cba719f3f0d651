"""Other applications under the default worker class: their hooks see every request."""

import threading
from pathlib import Path

import pytest

from ..servers import ENDPOINTS, Answer, gunicorn_command, running
from ..waiting import wait_for

CONF = ("-c", "python:mop_config.server.gunicorn_conf")
LOGIN = """
@app.before_request
def login():
    if request.headers.get("X-User") != "me":
        return "log in first", 401
"""
APPS = {
    "init_app": "app = Flask('mine')\ninit_app(app)\n" + LOGIN,
    "create_app": "app = create_app()\n" + LOGIN,
    "middleware": """
app = create_app()
inner = app.wsgi_app
def outer(environ, start_response):
    if environ.get("HTTP_X_USER") != "me":
        start_response("401 UNAUTHORIZED", [("Content-Length", "0")])
        return []
    return inner(environ, start_response)
app.wsgi_app = outer
""",
    "wrapped": """
inner = create_app()
class Wrapper:
    app = inner
    def __call__(self, environ, start_response):
        if environ.get("HTTP_X_USER") != "me":
            start_response("401 UNAUTHORIZED", [("Content-Length", "0")])
            return []
        return inner(environ, start_response)
app = Wrapper()
""",
}


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("name", APPS)
def test_a_login_refuses_the_list(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """The application's login protects the list, its long poll and health, and edits arrive."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n")
    (tmp_path / "mine.py").write_text(
        "from flask import Flask, request\nfrom mop_config import create_app, init_app\n"
        + APPS[name]
    )
    command = gunicorn_command(*CONF, "--chdir", str(tmp_path), *options, target="mine:app")
    with running(tmp_path, file, command=command, workers=0, WEB_CONCURRENCY="1") as server:
        me = {"X-User": "me"}
        wait_for(lambda: server.get("/ready", **me).status == 200)
        for path in (ENDPOINTS, f"{ENDPOINTS}?wait=0", f"{ENDPOINTS}.jws", "/health", "/ready"):
            assert server.get(path).status == 401, path
        known = server.get(**me).headers["ETag"]
        polled: list[Answer] = []
        headers = {**me, "If-None-Match": known}
        thread = threading.Thread(
            target=lambda: polled.append(server.get(f"{ENDPOINTS}?wait=30", **headers))
        )
        thread.start()
        wait_for(lambda: b"mop_config_waiters 1.0" in server.get("/metrics", **me).body)
        file.write_text("DomainList:\nnew.com\nother.com\n")
        thread.join(10)
        assert [answer.status for answer in polled] == [200]
        assert b"new.com" in polled[0].body
        assert server.stop() == 0
        assert "Traceback" not in server.log
