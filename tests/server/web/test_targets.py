"""Tests of the route for Prometheus' HTTP service discovery."""

import json
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from mop_config import Endpoint, EndpointConfig
from mop_config.model.endpoint import Kind, assemble, dumps
from mop_config.server.settings import Settings
from mop_config.server.web.app import create_app
from mop_config.server.web.views import health_url, target, targets_of

from ...conftest import need_program
from ...servers import ROOT, running

TARGETS = "/api/v1/config/targets"


@pytest.mark.parametrize(
    ("kind", "url", "asked"),
    [
        ("api", "https://a.example/api/v1", "https://a.example/api/v1/health"),
        ("api", "https://a.example", "https://a.example/health"),
        ("api", "http://[::1]:81/v2/", "http://[::1]:81/v2/health"),
        ("socketio", "https://a.example", "https://a.example/socket.io/"),
        ("socketio", "wss://a.example:444/ws", "https://a.example:444/ws/socket.io/"),
        ("socketio", "ws://a.example/ws/socket.io", "http://a.example/ws/socket.io/"),
        ("socketio", "https://socket.io", "https://socket.io/socket.io/"),
        ("socketio", "https://socket.io/", "https://socket.io/socket.io/"),
    ],
)
def test_a_target_is_the_url_that_a_check_asks(kind: str, url: str, asked: str) -> None:
    """A target is the URL of a health check, with the handshake's query for Socket.io."""
    query = "" if kind == "api" else "?EIO=4&transport=polling"
    assert health_url(Kind(kind), url) == asked + query


def test_labels_say_which_endpoint_it_is() -> None:
    """The labels name kind, priority and URL, and the server name of an IP address."""
    endpoint = Endpoint("https://192.0.2.1/v1", 7, "api.example.com")
    assert target(Kind.API, endpoint) == {
        "targets": ["https://192.0.2.1/v1/health"],
        "labels": {
            "kind": "api",
            "priority": "7",
            "url": "https://192.0.2.1/v1",
            "__param_hostname": "api.example.com",
        },
    }


def answer(tmp_path: Path, text: str) -> Any:
    file = tmp_path / "endpoints.txt"
    file.write_text(text)
    settings = Settings(source=str(file), state_dir=str(tmp_path / "state"))
    client = create_app(settings, start=False).test_client()
    return client.get(TARGETS)


@pytest.mark.parametrize(
    ("text", "count"), [("", 0), ("DomainList:\na.example", 2), ("SocketList:\nb.example", 1)]
)
def test_the_route_answers_with_an_array(tmp_path: Path, text: str, count: int) -> None:
    """The response is an array, also for an empty list, and is not cached."""
    response = answer(tmp_path, text)
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert response.headers["Cache-Control"] == "no-store"
    assert len(response.json) == count
    assert response.text.endswith("]\n")


def test_a_hundred_thousand_are_written_quickly() -> None:
    """A long list takes little time."""
    urls = (f"https://h{i}.example.com/api/v1" for i in range(100_000))
    endpoints = tuple(assemble(url, i, None) for i, url in enumerate(urls))
    body = dumps(EndpointConfig(endpoints))
    before = time.process_time()
    text = targets_of(body)
    assert time.process_time() - before < 5
    assert len(json.loads(text)) == 100_000


def test_prometheus_takes_the_configuration_of_the_docs(tmp_path: Path) -> None:
    """Prometheus discovers the targets of a real server."""
    promtool = need_program("promtool")
    file = tmp_path / "endpoints.txt"
    file.write_text("IPList:\n192.0.2.1 server_name=api.example.com\n")
    page = (ROOT / "docs" / "monitoring.md").read_text()
    blocks = [part.split("```")[0] for part in page.split("```yaml\n")[1:]]
    (block,) = [block for block in blocks if TARGETS in block]
    with running(tmp_path, file, workers=1) as server:
        config = tmp_path / "prometheus.yml"
        config.write_text(block.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}"))
        result = subprocess.run(
            [promtool, "check", "service-discovery", "--timeout=3s", str(config), "endpoints"],
            capture_output=True,
            text=True,
            check=False,
            env=dict(os.environ),
        )
    assert result.returncode == 0, result.stderr
    found = json.loads(result.stdout[result.stdout.index("[") :])
    labels = {each["labels"]["kind"]: each["labels"] for each in found}
    assert labels["api"] == {
        "__address__": "127.0.0.1:9115",
        "__metrics_path__": "/probe",
        "__param_hostname": "api.example.com",
        "__param_module": "http_2xx",
        "__param_target": "https://192.0.2.1/api/v1/health",
        "__scheme__": "http",
        "__scrape_interval__": labels["api"]["__scrape_interval__"],
        "__scrape_timeout__": labels["api"]["__scrape_timeout__"],
        "instance": "https://192.0.2.1/api/v1",
        "job": "endpoints",
        "kind": "api",
        "priority": "0",
        "url": "https://192.0.2.1/api/v1",
    }
    assert labels["socketio"]["__param_target"] == (
        "https://192.0.2.1/socket.io/?EIO=4&transport=polling"
    )
