"""Other applications under the default worker class: their hooks see every request."""

import signal
import threading
import time
from pathlib import Path

import httpx2
import pytest

from ..servers import ENDPOINTS, STATUS, Answer, gunicorn_command, running
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


def reloads(status: Answer, trigger: str) -> bool:
    """Return whether a status document names a reload with this trigger."""
    return any(reload["trigger"] == trigger for reload in status.json["history"])


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
@pytest.mark.parametrize("name", APPS)
def test_a_login_refuses_the_list(tmp_path: Path, name: str, options: tuple[str, ...]) -> None:
    """The login protects the list, its long poll and health; SIGHUP reloads, and edits arrive."""
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
        server.send(signal.SIGHUP)
        wait_for(lambda: reloads(server.get(STATUS, **me), "sighup"), what="SIGHUP reloads")
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


def test_two_services_share_the_places_of_a_worker(tmp_path: Path) -> None:
    """Of four threads two may be parked: one long poll of each service."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n")
    (tmp_path / "mine.py").write_text("""
from flask import Flask
from mop_config import init_app
from werkzeug.middleware.dispatcher import DispatcherMiddleware
app, other = Flask("mine"), Flask("other")
services = [init_app(app), init_app(other)]
app.wsgi_app = DispatcherMiddleware(app.wsgi_app, {"/other": other.wsgi_app})
app.add_url_rule("/places", "places", lambda: [s.responder.max_waiters for s in services])
""")
    command = gunicorn_command(*CONF, "--chdir", str(tmp_path), target="mine:app")
    with running(
        tmp_path,
        file,
        command=command,
        workers=0,
        WEB_CONCURRENCY="1",
        WORKER_CLASS="gthread",
        THREADS="4",
    ) as server:
        wait_for(lambda: server.answers("/places"))
        assert server.get("/places").json == [1, 1]


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_mounted_application(tmp_path: Path, options: tuple[str, ...]) -> None:
    """In an application that mounts ours, SIGHUP reloads, and the end releases parked polls."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.com\nb.com\n")
    command = gunicorn_command(*CONF, *options, target="tests.integration.mounted:app")
    with running(tmp_path, file, command=command, workers=0, WEB_CONCURRENCY="1") as server:
        wait_for(lambda: server.answers("/own"))
        upload = httpx2.post(f"http://127.0.0.1:{server.port}/size", content=bytes(2_000_000))
        assert upload.json() == 2_000_000, "the limit of our own routes is not the application's"
        server.send(signal.SIGHUP)
        status = f"/config{STATUS}"
        wait_for(lambda: reloads(server.get(status), "sighup"), what="SIGHUP reloads")
        known = server.get(f"/config{ENDPOINTS}").headers["ETag"]
        polled: list[Answer] = []
        path = f"/config{ENDPOINTS}?wait=60"
        thread = threading.Thread(
            target=lambda: polled.append(server.get(path, **{"If-None-Match": known}))
        )
        thread.start()
        wait_for(lambda: b"mop_config_waiters 1.0" in server.get("/config/metrics").body)
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 10
        thread.join(10)
        assert [answer.status for answer in polled] == [304]
        assert "Traceback" not in server.log
