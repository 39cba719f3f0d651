"""Header values of unbounded size, and ETags that a proxy has changed."""

import gc
import json
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient
from werkzeug.test import EnvironBuilder, run_wsgi_app

from mop_config import create_app, init_app
from mop_config.model.jws import SigningKey
from mop_config.server.settings import Settings

from ...conftest import SAMPLE

LIST = "/api/v1/config/endpoints"
ROUTES = (LIST, f"{LIST}.jws", f"{LIST}?wait=0", "/metrics", "/", "/openapi.json")
#: The quadratic case: white space that belongs to no token, 60 header fields joined to one value.
HOSTILE = ",".join(["x" + "\t" * 8150 + "x"] * 60)
LONGEST = 1024


def _settings(tmp_path: Path) -> Settings:
    key = tmp_path / "key.jwk"
    if not key.exists():
        key.write_text(json.dumps(SigningKey.generate().private_jwk()))
    return Settings(
        source=str(SAMPLE), state_dir=str(tmp_path / "state"), signing_key_file=str(key)
    )


@pytest.fixture(params=["create_app", "init_app"])
def client(request: pytest.FixtureRequest, tmp_path: Path) -> FlaskClient:
    """Return a client of the application by itself, and of the application within another one."""
    if request.param == "create_app":
        return create_app(_settings(tmp_path), start=False).test_client()
    app = Flask("theirs")
    init_app(app, _settings(tmp_path), start=False)
    return app.test_client()


def _root(client: FlaskClient, path: str) -> str:
    return "/mop-config/" if path == "/" and client.application.name == "theirs" else path


@pytest.mark.parametrize("name", ["Accept", "Accept-Encoding", "Accept-Language", "If-None-Match"])
@pytest.mark.parametrize("path", ROUTES)
def test_a_huge_value_costs_no_time(client: FlaskClient, path: str, name: str) -> None:
    """A header of half a megabyte does not slow down the answer."""
    path = _root(client, path)
    client.get(path)  # fills the caches
    before = time.process_time()
    answer = client.get(path, headers={name: HOSTILE})
    assert answer.status_code == 200
    assert time.process_time() - before < 0.5


@pytest.mark.parametrize("name", ["Accept", "Accept-Encoding", "If-None-Match"])
@pytest.mark.slow
def test_values_of_strangers_are_not_kept(client: FlaskClient, name: str) -> None:
    """40 different values of 100 KB leave less memory occupied than one such value."""

    def ask(count: int) -> None:
        for number in range(count):
            client.get(LIST, headers={name: f'"{number}' + "x" * 100_000 + '"'})
            client.get(f"{LIST}?wait=0", headers={name: f'"{number}' + "x" * 100_000 + '"'})

    ask(3)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ask(40)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_queries_of_strangers_are_not_kept(client: FlaskClient) -> None:
    """Long queries are not kept either, whatever the request line limit of the server is."""

    def ask(count: int) -> None:
        for number in range(count):
            # Not by the test client, which keeps URLs in a cache of the standard library.
            query = f"wait=0&x={number}" + "x" * 20_000
            environ = EnvironBuilder(path=LIST).get_environ()
            environ["QUERY_STRING"] = query
            assert run_wsgi_app(client.application, environ)[1].startswith("200")

    ask(3)
    gc.collect()
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        ask(40)
        gc.collect()
        assert tracemalloc.get_traced_memory()[0] - before < 100_000
    finally:
        tracemalloc.stop()


def _padded(value: str, size: int) -> str:
    return value + " " * (size - len(value) - 1) + ","


def test_a_value_over_one_kilobyte_counts_as_absent(client: FlaskClient) -> None:
    """A value of 1,024 bytes is read, and a longer one is ignored."""
    tag = client.get(LIST).headers["ETag"]
    for size, status in ((LONGEST, 304), (LONGEST + 1, 200)):
        found = client.get(LIST, headers={"If-None-Match": _padded(tag, size)})
        assert found.status_code == status
    for size, kind in ((LONGEST, "application/jose"), (LONGEST + 1, "application/json")):
        found = client.get(LIST, headers={"Accept": _padded("application/jose", size)})
        assert found.headers["Content-Type"] == kind
    for size, coding in ((LONGEST, "gzip"), (LONGEST + 1, None)):
        found = client.get(LIST, headers={"Accept-Encoding": _padded("gzip", size)})
        assert found.headers.get("Content-Encoding") == coding


def test_a_date_counts_where_the_tag_is_too_long(client: FlaskClient) -> None:
    """If-Modified-Since counts if If-None-Match is too long to be read."""
    date = client.get(LIST).headers["Last-Modified"]
    headers = {"If-None-Match": '"x"' * 2000, "If-Modified-Since": date}
    assert client.get(LIST, headers=headers).status_code == 304


@pytest.mark.parametrize("path", [LIST, f"{LIST}.jws", f"{LIST}?wait=0"])
@pytest.mark.parametrize("form", ['"{}-br"', 'W/"{}-br"', '"{}-zstd"', '"{}-gzip"', '"{}-x-gzip"'])
def test_any_coding_behind_the_tag_matches(client: FlaskClient, path: str, form: str) -> None:
    """An ETag with the suffix of a compressing proxy matches (mod_brotli: -br)."""
    tag = client.get(path).headers["ETag"].strip('"')
    found = client.get(path, headers={"If-None-Match": form.format(tag)})
    assert found.status_code == 304


@pytest.mark.parametrize("form", ['"{}x"', '"{}-"', '"{}br"', '"-br"', '"x{}-br"', '"{}-a b"'])
def test_what_is_no_coding_does_not_match(client: FlaskClient, form: str) -> None:
    """Only the list's own ETag matches, with or without a suffix of a hyphen and a token."""
    tag = client.get(LIST).headers["ETag"].strip('"')
    found = client.get(LIST, headers={"If-None-Match": form.format(tag)})
    assert found.status_code == 200


@pytest.mark.parametrize("path", ["/" + LIST, LIST.replace("/v1", "//v1"), "//health", "//ready"])
def test_a_doubled_slash_is_no_redirect(client: FlaskClient, path: str) -> None:
    """A doubled slash is 404, since a redirect would contain the request's host and http."""
    environ: Any = {"PATH_INFO": path, "HTTP_HOST": "evil.example"}
    for method in ("GET", "HEAD", "POST"):
        found = client.open("/", method=method, environ_overrides=environ)
        # Under init_app the application around ours refuses the method.
        assert found.status_code in ({404, 405} if method == "POST" else {404})
        assert "Location" not in found.headers


@pytest.mark.parametrize("query", ["\x80", "wait=\xff", "q=\xe4", "room_id=\xc3\xa9", "%80"])
@pytest.mark.parametrize("path", [LIST, f"{LIST}.jws", "/", "/api/v1/config/qr.svg", "/metrics"])
def test_raw_bytes_in_a_query_are_no_failure(client: FlaskClient, path: str, query: str) -> None:
    """Raw bytes get 400, and bytes that are no UTF-8 but percent-encoded are no failure."""
    bare = client.application.test_client(use_cookies=False)
    environ: Any = {"PATH_INFO": _root(client, path), "QUERY_STRING": query}
    for host in ("localhost", "a b"):
        found = bare.get("/", environ_overrides=environ, headers={"Host": host})
        assert found.status_code == (200 if query.isascii() else 400)
