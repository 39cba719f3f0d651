"""``init_app``: mop-config within an application that is not ours."""

import gc
import io
import logging
import re
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import psutil
import pytest
from flask import Flask

import mop_config
from mop_config import Settings, create_app, init_app
from mop_config.errors import MopConfigError, SettingsError

from ...conftest import GUIDE_JSON, SAMPLE
from ...waiting import wait_for

OPERATIONS = ("/health", "/ready", "/metrics", "/openapi.json")
Add = Callable[[Flask], None]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(source=str(SAMPLE), state_dir=str(tmp_path / "state"))


def both_orders(settings: Settings, add: Add) -> list[Flask]:
    """Return an application with its routes added before ours, and one with them added after."""
    before, after = Flask("before"), Flask("after")
    add(before)
    init_app(before, settings, start=False)
    init_app(after, settings, start=False)
    add(after)
    return [before, after]


@pytest.mark.parametrize("path", OPERATIONS)
def test_an_operational_route_of_the_applications_own_stays(settings: Settings, path: str) -> None:
    """The application's own health check is not replaced by ours."""

    def add(app: Flask) -> None:
        app.add_url_rule(path, "own", lambda: ("ours is ill", 503))

    for app in both_orders(settings, add):
        client = app.test_client()
        for method in ("GET", "HEAD"):
            assert client.open(path, method=method).status_code == 503
        for other in set(OPERATIONS) - {path}:
            assert client.get(other).status_code == 200
        assert client.get("/api/v1/health").json["status"] == "healthy"  # type: ignore[index]


@pytest.mark.parametrize("path", OPERATIONS)
def test_another_method_of_the_applications_own_leaves_our_get(
    settings: Settings, path: str
) -> None:
    """The application's own POST stays, GET and HEAD are ours, and other methods get 405."""

    def add(app: Flask) -> None:
        app.add_url_rule(path, "own", lambda: ("posted", 201), methods=["POST"])

    for app in both_orders(settings, add):
        client = app.test_client()
        assert client.post(path).status_code == 201
        assert client.get(path).status_code == 200
        assert client.head(path).status_code == 200
        assert client.delete(path).status_code == 405


def test_a_rule_for_any_word_does_not_hide_ours(settings: Settings) -> None:
    """The application's rule ``/<name>`` does not hide our operational routes."""

    def add(app: Flask) -> None:
        app.add_url_rule("/<name>", "word", lambda name: f"page {name}")
        app.add_url_rule("/<path:rest>", "path", lambda rest: f"path {rest}")

    for app in both_orders(settings, add):
        client = app.test_client()
        assert client.get("/health").json["service"] == "mop-api"  # type: ignore[index]
        assert client.get("/other").text == "page other"
        assert client.get("/healthy").text == "page healthy"
        assert client.get("/a/health").text == "path a/health"


def test_a_route_of_the_applications_own_with_a_slash_stays(settings: Settings) -> None:
    """Flask redirects to the application's own ``/health/`` as it does without our routes."""

    def add(app: Flask) -> None:
        app.add_url_rule("/health/", "own", lambda: "theirs")

    for app in both_orders(settings, add):
        assert app.test_client().get("/health", follow_redirects=True).text == "theirs"


def test_the_metrics_name_the_paths_of_the_operational_routes(settings: Settings) -> None:
    """The metrics name each operational route by its path, although the routes share one rule."""
    app = Flask("guest")
    init_app(app, settings, start=False)
    client = app.test_client()
    client.get("/ready")
    text = client.get("/metrics").text
    assert 'route="/ready"' in text
    assert "mop_config_operation" not in text


@pytest.mark.parametrize("prefix", ["/endpoints", "/a/b", "/a/b/", "a", ""])
def test_the_routes_stand_below_the_prefix(settings: Settings, prefix: str) -> None:
    """All routes but the dashboard, /api/v1/health and the operational ones have the prefix."""
    app = Flask("guest")
    init_app(app, settings, url_prefix=prefix, start=False)
    client = app.test_client()
    base = "/".join(["", *filter(None, prefix.split("/"))])
    assert client.get(f"{base}/endpoints").json == GUIDE_JSON
    for path in ("status", "keys", "targets", "qr.json", "qr.svg"):
        assert client.get(f"{base}/{path}").status_code == 200
    assert client.post(f"{base}/reload").status_code == 403
    assert client.get("/api/v1/config/endpoints").status_code == 404
    for path in (*OPERATIONS, "/api/v1/health", "/mop-config/"):
        assert client.get(path).status_code == 200
    described: Any = client.get("/openapi.json").json
    assert f"{base}/endpoints" in described["paths"]
    assert "/api/v1/config/endpoints" not in described["paths"]
    page = client.get("/mop-config/").text
    (status,) = re.findall(r'href="([^"]*)">status</a>', page)
    assert urljoin("/mop-config/", status) == f"{base}/status"


def test_the_dashboards_redirect_names_no_host(settings: Settings) -> None:
    """The redirect is relative, so it works behind a proxy that ends TLS or strips a prefix."""
    app = Flask("guest")
    init_app(app, settings, start=False)
    answer = app.test_client().get("/mop-config", headers={"Host": "evil.example"})
    assert (answer.status_code, answer.headers["Location"]) == (308, "mop-config/")


def test_the_applications_configuration_counts_before_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``app.config`` overrides the environment, except for absent values and None."""
    monkeypatch.setenv("ENDPOINT_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("ENDPOINT_MAX_AGE", "7")
    monkeypatch.setenv("ENDPOINT_API_PATH", "/v9")
    app = Flask("guest")
    app.config.update(
        ENDPOINT_CONFIG_FILE=SAMPLE,
        ENDPOINT_STATE_DIR=tmp_path / "state",
        ENDPOINT_API_PATH="",
        ENDPOINT_STRICT=False,
        ENDPOINT_ALLOW_EMPTY=True,
        ENDPOINT_MAX_AGE=None,
        ENDPOINT_DEFAULT_PORT=8443,
        ENDPOINT_CORS_ORIGINS="https://a.example, https://b.example",
    )
    service = init_app(app, start=False)
    assert service.settings.cors_origins == ("https://a.example", "https://b.example")
    assert (service.settings.strict, service.settings.allow_empty) == (False, True)
    answer = app.test_client().get("/api/v1/config/endpoints")
    assert answer.json["api_endpoints"][0]["url"] == "https://log.ym1.com:8443"  # type: ignore[index]
    assert answer.headers["Cache-Control"] == "max-age=7"


def test_a_bad_value_in_the_configuration_is_named_and_changes_nothing() -> None:
    """A bad value raises an error, and the application gets none of our routes."""
    app = Flask("guest")
    app.config["ENDPOINT_MAX_AGE"] = "soon"
    with pytest.raises(SettingsError, match="ENDPOINT_MAX_AGE='soon'"):
        init_app(app, start=False)
    assert {rule.endpoint for rule in app.url_map.iter_rules()} == {"static"}
    assert "mop_config" not in app.extensions


def test_a_second_time_on_one_application_is_one_error(settings: Settings) -> None:
    """A second ``init_app`` raises an error, and the first routes still work."""
    app = Flask("guest")
    init_app(app, settings, start=False)
    with pytest.raises(MopConfigError, match="already"):
        init_app(app, settings, start=False)
    with pytest.raises(MopConfigError, match="already"):
        init_app(create_app(settings, start=False), settings, start=False)
    assert app.test_client().get("/api/v1/config/endpoints").json == GUIDE_JSON


def test_settings_are_public_and_lazy() -> None:
    """``Settings`` is public, and importing the package does not import Flask."""
    assert mop_config.Settings is Settings
    assert "Settings" in mop_config.__all__
    code = "import sys, mop_config; mop_config.Endpoint; sys.exit('flask' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("kind", ["create_app", "init_app"])
def test_what_was_started_ends_with_its_application(settings: Settings, kind: str) -> None:
    """Threads and descriptors end when the application is garbage-collected."""
    process = psutil.Process()

    def use() -> None:
        if kind == "create_app":
            app = create_app(settings)
        else:
            app = Flask("guest")
            init_app(app, settings)
        assert app.test_client().get("/api/v1/config/endpoints").json == GUIDE_JSON

    use()
    gc.collect()
    wait_for(lambda: not _ours(), seconds=15, what="the first one's threads end")
    before = process.num_fds()
    for _ in range(10):
        use()
    gc.collect()
    wait_for(lambda: not _ours(), seconds=30, what="all threads end")
    assert process.num_fds() <= before + 2


def _ours() -> list[threading.Thread]:
    others = {threading.main_thread().name, "mop-config-log"}  # the log's lives as long as ours
    return [t for t in threading.enumerate() if t.name not in others]


LOGGING = """
import io, logging, sys
from flask import Flask
from mop_config import Settings, create_app, init_app
settings = Settings(source="/nowhere", state_dir=sys.argv[2])
if sys.argv[1] == "create_app":
    create_app(settings, start=False)
else:
    init_app(Flask("guest"), settings, start=False)
logging.basicConfig(format="THEIRS %(message)s", level=logging.INFO)
logging.getLogger("mop_config.server.reload.pipeline").error("a line")
"""


@pytest.mark.parametrize("kind", ["create_app", "init_app"])
def test_an_application_that_configures_logging_later_sees_our_lines(
    tmp_path: Path, kind: str
) -> None:
    """The application's log gets each line once; before, only ``create_app`` logs to stderr."""
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, kind, str(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    lines = done.stderr.splitlines()
    assert lines.count("THEIRS a line") == 1
    assert sum("a line" in line for line in lines) == 1
    # A line from before basicConfig is on standard error with create_app only.
    assert sum("is missing" in line for line in lines) == (kind == "create_app")


def test_init_app_adds_a_null_handler_only(settings: Settings) -> None:
    """``init_app`` adds only a NullHandler, as the standard library advises libraries."""
    logger = logging.getLogger("mop_config")
    stream = logging.StreamHandler(io.StringIO())
    before = [h for h in logger.handlers if not isinstance(h, logging.NullHandler)]
    init_app(Flask("guest"), settings, start=False)
    after = [h for h in logger.handlers if not isinstance(h, logging.NullHandler)]
    assert after == before
    assert any(isinstance(h, logging.NullHandler) for h in logger.handlers)
    assert logger.propagate
    stream.close()
