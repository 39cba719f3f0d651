"""Tests of the routes of the QR code, by Flask's test client."""

import json
import subprocess
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from flask.testing import FlaskClient

from mop_config import create_app, qr
from mop_config.model.endpoint import loads
from mop_config.server.settings import Settings
from mop_config.server.web import views

from ...conftest import GUIDE_JSON, SAMPLE, need_program

BASE = "/api/v1/config/qr"
ENDPOINTS = "/api/v1/config/endpoints"
CONFIG = loads(json.dumps(GUIDE_JSON))


def make(folder: Path, text: str | None = None, **settings: Any) -> FlaskClient:
    file = SAMPLE
    if text is not None:
        file = folder / "endpoints.txt"
        file.write_text(text)
    settings = {"source": str(file), "state_dir": str(folder / "state"), **settings}
    return create_app(Settings(**settings), start=False).test_client()


@pytest.fixture
def client(tmp_path: Path) -> FlaskClient:
    return make(tmp_path)


def hosts(number: int) -> str:
    """Return a file with a number of hosts, the best last."""
    lines = (f"h{i}.example priority={number - i}" for i in range(number))
    return "DomainList:\n" + "\n".join(lines) + "\n"


def test_the_images_hold_the_text(client: FlaskClient, tmp_path: Path) -> None:
    """zxing-cpp and zbar decode the PNG, and the SVG has the same modules."""
    text = client.get(f"{BASE}.json?room_id={quote('会议 é')}")
    assert text.content_type == "application/json"
    assert text.data.decode() == qr.dumps(CONFIG, "full", "会议 é")
    png = client.get(f"{BASE}.png?room_id={quote('会议 é')}")
    assert png.content_type == "image/png"
    assert qr.scan(png.data) == text.data.decode()
    path = tmp_path / "code.png"
    path.write_bytes(png.data)
    command = [need_program("zbarimg"), "--raw", "-q", str(path)]
    read = subprocess.run(command, capture_output=True, check=True).stdout
    assert read == text.data + b"\n"
    svg = client.get(f"{BASE}.svg?room_id={quote('会议 é')}")
    assert svg.content_type.startswith("image/svg+xml")
    title = "QR code with 6 API and 6 Socket.io endpoints"
    assert svg.data == qr.image(text.data.decode(), "svg", title=title)


@pytest.mark.parametrize("form", qr.QR_FORMATS)
def test_each_form(client: FlaskClient, form: str) -> None:
    """The forms are those of the guide; a limit selects the best of each kind."""
    assert client.get(f"{BASE}.json?format={form}").data.decode() == qr.dumps(CONFIG, form)
    limited = qr.parse(client.get(f"{BASE}.json?format={form}&limit=2").data)
    expected = 1 if form == "single" else 2
    assert [e.url for e in limited.socketio_endpoints or ()] == [
        "https://log.ym1.com",
        "https://ym2.xyz",
    ][:expected]


def test_unless_told_it_takes_the_first_form_that_fits(tmp_path: Path) -> None:
    """The order is full, list, single; the title has the number of endpoints."""
    found = []
    for number in (20, 50, 100):
        client = make(tmp_path, hosts(number))
        text = client.get(f"{BASE}.json").data.decode()
        assert text == qr.fit(loads(client.get(ENDPOINTS).data)).text
        assert qr.scan(client.get(f"{BASE}.png").data) == text
        title = client.get(f"{BASE}.svg").data.partition(b"<title>")[2].partition(b"</title>")[0]
        found.append(title.decode())
    assert found == [f"QR code with {n} API and {n} Socket.io endpoints" for n in (20, 50, 1)]


@pytest.mark.parametrize(("kind", "number"), [("svg", 60), ("png", 100), ("json", 1001)])
def test_a_form_that_does_not_fit(tmp_path: Path, kind: str, number: int) -> None:
    """The response is 422 with the size, the capacity and what would fit."""
    client = make(tmp_path, hosts(number))
    answer = client.get(f"{BASE}.{kind}?format=full&room_id=r")
    assert answer.status_code == 422
    assert answer.content_type == "application/problem+json"
    problem: Any = answer.json
    config = loads(client.get(ENDPOINTS).data)
    assert problem["bytes"] == len(qr.dumps(config, "full", "r"))
    assert problem["capacity"] == 2952
    assert str(problem["bytes"]) in problem["detail"]
    assert [fitting["format"] for fitting in problem["fits"]] == ["full", "list", "single"]
    for fitting in problem["fits"]:
        answer = client.get(f"{BASE}.png", query_string={**fitting, "room_id": "r"})
        assert answer.status_code == 200
        assert qr.parse(qr.scan(answer.data)).room_id == "r"
        if "limit" in fitting:
            more = {**fitting, "limit": fitting["limit"] + 1, "room_id": "r"}
            assert client.get(f"{BASE}.{kind}", query_string=more).status_code == 422


def test_what_does_not_change_is_not_done_again(tmp_path: Path) -> None:
    """The list is decoded once for all codes, and each code is drawn once."""
    client = make(tmp_path, hosts(30))
    views._decoded.cache_clear()
    views._draw.cache_clear()
    for path in ("svg", "png", "svg", "png?limit=3", "json"):
        name, _, query = path.partition("?")
        assert client.get(f"{BASE}.{name}?{query}").status_code == 200
    assert views._decoded.cache_info().misses == 1
    assert views._draw.cache_info().misses == 4
    assert make(tmp_path, hosts(31)).get(f"{BASE}.json").status_code == 200
    assert views._decoded.cache_info().misses == 2


@pytest.mark.parametrize(
    ("query", "parameter", "allowed"),
    [
        ("format=best", "format", "full, list, single"),
        ("format=", "format", "full, list, single"),
        ("format=FULL", "format", "full, list, single"),
        ("room_id=", "room_id", "1 to 128 characters"),
        ("room_id=" + "r" * 129, "room_id", "1 to 128 characters"),
        ("room_id=" + quote("会" * 129), "room_id", "1 to 128 characters"),
        ("limit=0", "limit", "1 to 1000"),
        ("limit=1001", "limit", "1 to 1000"),
        ("limit=-1", "limit", "1 to 1000"),
        ("limit=1.5", "limit", "1 to 1000"),
        ("limit=%201", "limit", "1 to 1000"),
        ("limit=" + quote("٣"), "limit", "1 to 1000"),
        ("limit=" + "9" * 5000, "limit", "1 to 1000"),
        ("limit=", "limit", "1 to 1000"),
    ],
)
def test_a_bad_parameter(client: FlaskClient, query: str, parameter: str, allowed: str) -> None:
    """The response is 400, and names the parameter and the allowed values."""
    for kind in ("svg", "png", "json"):
        answer = client.get(f"{BASE}.{kind}?{query}")
        problem: Any = answer.json
        assert (answer.status_code, answer.content_type) == (400, "application/problem+json")
        assert problem["parameter"] == parameter
        assert problem["detail"].startswith(f"{parameter}: ")
        assert allowed in problem["detail"]
        assert len(answer.data) < 300


def test_parameters_at_their_limits(client: FlaskClient) -> None:
    """Values at the limits are valid, and unknown and repeated parameters are ignored."""
    room = "会" * 128
    answer = client.get(f"{BASE}.json?limit=1000&v=2&room_id={quote(room)}&v=3")
    assert qr.parse(answer.data).room_id == room
    assert qr.parse(client.get(f"{BASE}.json?room_id=a+b%2B%0A").data).room_id == "a b+\n"
    assert client.get(f"{BASE}.json?limit=1").status_code == 200
    assert client.get(f"{BASE}.json?limit=1&limit=x&room_id=%ff").status_code == 200


def test_without_endpoints_there_is_no_code(tmp_path: Path) -> None:
    """The response is 404, and is not cached."""
    client = make(tmp_path, source=str(tmp_path / "nothing"))
    answer = client.get(f"{BASE}.svg")
    assert answer.status_code == 404
    assert answer.headers["Cache-Control"] == "no-store"
    assert "no endpoint" in answer.json["detail"]  # type: ignore[index]


@pytest.mark.parametrize("kind", ["svg", "png", "json"])
def test_it_is_asked_for_again_each_time(tmp_path: Path, kind: str) -> None:
    """The ETag changes with the code, and each use is revalidated."""
    client = make(tmp_path)
    first = client.get(f"{BASE}.{kind}")
    assert first.headers["Cache-Control"] == "no-cache"
    known = {"If-None-Match": first.headers["ETag"]}
    again = client.get(f"{BASE}.{kind}", headers=known)
    assert (again.status_code, again.data) == (304, b"")
    assert "Content-Type" not in again.headers
    assert client.get(f"{BASE}.{kind}?limit=2", headers=known).status_code == 200
    assert make(tmp_path, hosts(3)).get(f"{BASE}.{kind}", headers=known).status_code == 200
    head = client.head(f"{BASE}.{kind}")
    assert (head.data, head.headers["ETag"]) == (b"", first.headers["ETag"])
    assert head.headers["Content-Length"] == str(len(first.data))


def test_with_tokens_it_is_nobody_elses(tmp_path: Path) -> None:
    """With tokens the response is private, and needs a token."""
    client = make(tmp_path, tokens=("0123456789abcdef",))
    headers = {"Authorization": "Bearer 0123456789abcdef"}
    answer = client.get(f"{BASE}.svg", headers=headers)
    assert "private" in answer.headers["Cache-Control"]
    assert client.get(f"{BASE}.svg").status_code == 401


def test_other_methods_are_refused(client: FlaskClient) -> None:
    """The response is 405 with a problem document."""
    answer = client.post(f"{BASE}.png")
    assert (answer.status_code, answer.content_type) == (405, "application/problem+json")
    assert "GET" in answer.headers["Allow"]
