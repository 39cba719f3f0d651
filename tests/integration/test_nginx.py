"""nginx with deploy/'s configurations: a mirror of files, a front of gunicorn, a cache."""

import gzip
import http.client
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from werkzeug.datastructures import Headers

from mop_config.client import EndpointManager
from mop_config.model.jws import SigningKey

from ..cli.test_publish import publish, publishing
from ..client.handmade import NOBODY, QUICK
from ..conftest import need_program
from ..nginx import adapt, nginx
from ..ports import closed_port
from ..servers import ENDPOINTS, STATUS, Answer, Server, running
from ..waiting import answers, wait_for

OLD, NEW = "DomainList:\nold.example\nb.example\n", "DomainList:\nnew.example\nb.example\n"


@pytest.fixture(autouse=True)
def _nginx() -> None:
    need_program("nginx")


def get(port: int, path: str = ENDPOINTS, method: str = "GET", **headers: str) -> Answer:
    """Send one request."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, headers=named)
        response = connection.getresponse()
        return Answer(response.status, Headers(response.getheaders()), response.read())
    finally:
        connection.close()


@contextmanager
def mirror(folder: Path, root: Path, app: int = 9) -> Iterator[int]:
    """Serve a folder with nginx, and forward requests for missing files to an application."""
    port, own = closed_port(), folder / f"nginx-{root.name}"
    with nginx(own, adapt("nginx.conf", own, port, app=app, root=root), port):
        yield port


@contextmanager
def cache(folder: Path, app: int) -> Iterator[int]:
    """Cache an application's answers with nginx."""
    port, own = closed_port(), folder / "nginx-cache"
    with nginx(own, adapt("nginx-cache.conf", own, port, app=app), port):
        yield port


def key_file(folder: Path) -> Path:
    path = folder / "key.json"
    path.write_text(json.dumps(SigningKey.generate().private_jwk()))
    path.chmod(0o600)
    return path


class TestReports:
    """nginx passes clients' reports on to the application."""

    @pytest.mark.parametrize("front", ["nginx.conf", "nginx-cache.conf"])
    def test_a_report_counts_for_the_address_of_its_client(
        self, tmp_path: Path, front: str
    ) -> None:
        """Reports reach the application, and one client's limit is not another's."""
        file = tmp_path / "e.txt"
        file.write_text(OLD)
        (tmp_path / "out").mkdir()
        with ExitStack() as stack:
            server = stack.enter_context(running(tmp_path, file, workers=1, ENDPOINT_REPORTS="1"))
            ahead = cache(tmp_path, server.port)
            if front == "nginx.conf":
                ahead = mirror(tmp_path, tmp_path / "out", server.port)
            port = stack.enter_context(ahead)

            def report(address: str) -> int:
                connection = http.client.HTTPConnection("127.0.0.1", port, 30, (address, 0))
                with closing(connection):
                    sent = json.dumps({"endpoints": []})
                    named = {"Content-Type": "application/json"}
                    connection.request("POST", "/api/v1/config/reports", sent, named)
                    return connection.getresponse().status

            assert report("127.0.0.2") == 204
            wait_for(lambda: report("127.0.0.2") == 429, what="the client's limit is reached")
            assert report("127.0.0.3") == 204


class TestMirror:
    """nginx serves published files without an application."""

    def test_it_answers_as_a_server_would(self, tmp_path: Path) -> None:
        """Types, compression, ETags and ages equal a server's, and other files are hidden."""
        file = tmp_path / "e.txt"
        file.write_text("DomainList:\n" + "".join(f"host{n}.example\n" for n in range(50)))
        publish(tmp_path, file, "--key", str(key_file(tmp_path)))
        with mirror(tmp_path, tmp_path / "out") as port:
            plain, packed = get(port), get(port, Accept_Encoding="gzip")
            assert (plain.status, plain.headers["Content-Type"]) == (200, "application/json")
            assert len(plain.json["api_endpoints"]) == 50
            assert plain.headers["Cache-Control"] == "max-age=60"
            assert "Accept-Encoding" in plain.headers["Vary"]
            assert packed.headers["Content-Encoding"] == "gzip"
            assert len(packed.body) < len(plain.body) / 3
            assert get(port, If_None_Match=plain.headers["ETag"]).status == 304
            assert get(port, method="HEAD").body == b""
            types = {
                ENDPOINTS: "application/json",
                f"{ENDPOINTS}.jws": "application/jose",
                "/api/v1/config/keys": "application/jwk-set+json",
                "/health": "application/json",
                "/api/v1/health": "application/json",
            }
            for path, content_type in types.items():
                answer = get(port, path)
                assert (answer.status, answer.headers["Content-Type"]) == (200, content_type)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
            signed = get(port, f"{ENDPOINTS}.jws").body
            for accept in ("application/jose", "Application/JOSE;q=0.9, */*;q=0.1"):
                answer = get(port, Accept=accept)
                assert answer.body == signed
                assert "Accept" in answer.headers["Vary"].split(", ")
            for accept in (
                "*/*",
                "application/json, application/jose;q=0.5",
                "application/jose;q=0",
            ):
                assert get(port, Accept=accept).headers["Content-Type"] == "application/json"
            hidden = ["/", "/index.html", "/metrics", STATUS, f"{ENDPOINTS}.gz", "/../etc/passwd"]
            assert {get(port, path).status for path in hidden} <= {400, 404}
            waited = get(port, f"{ENDPOINTS}?wait=60", If_None_Match=plain.headers["ETag"])
            assert waited.status == 304
            assert "Preference-Applied" not in waited.headers
            for path, content_type in types.items():
                if path.endswith(".jws") or path == ENDPOINTS:
                    answer = get(port, f"{path}?wait=5", Accept_Encoding="gzip")
                    assert answer.headers["Content-Type"] == content_type
                    assert answer.headers["Cache-Control"] == "no-store"
                    assert answer.headers["Vary"] == "Accept, Accept-Encoding"
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"

    def test_an_edit_shows_at_once(self, tmp_path: Path) -> None:
        """A published edit is served as soon as nginx opens the file again."""
        file, out = tmp_path / "e.txt", tmp_path / "out"
        file.write_text(OLD)
        with publishing(tmp_path, file):
            wait_for((out / ENDPOINTS[1:]).exists, what="the list is published")
            with mirror(tmp_path, out) as port:
                assert b"old.example" in get(port).body
                file.write_text(NEW)
                wait_for(lambda: b"new.example" in get(port).body, what="the edit shows")


class TestInFront:
    """nginx serves the files, and gunicorn the application's routes."""

    def test_gunicorn_answers_what_files_cannot_and_may_stop(self, tmp_path: Path) -> None:
        """A long poll gets an edit from gunicorn; while gunicorn is down, clients get the file."""
        file = tmp_path / "e.txt"
        file.write_text(OLD)
        publish(tmp_path, file)
        with ExitStack() as stack:
            server = stack.enter_context(running(tmp_path, file, workers=1))
            port = stack.enter_context(mirror(tmp_path, tmp_path / "out", server.port))
            tag = server.get().headers["ETag"]
            waited = get(port, f"{ENDPOINTS}?wait=0.1", If_None_Match=tag)
            assert (waited.status, waited.headers["Preference-Applied"]) == (304, "wait")
            # Without a signed file, the application answers that it has none.
            assert get(port, f"{ENDPOINTS}.jws").status == 404
            server.stop()
            assert get(port).status == 200
            answer = get(port, f"{ENDPOINTS}?wait=30", If_None_Match='"other"')
            assert answer.status == 200
            assert "Preference-Applied" not in answer.headers
            assert get(port, f"{ENDPOINTS}.jws").status == 502


class TestCache:
    """nginx caches the application's answers."""

    def test_an_edit_shows_within_the_age(self, tmp_path: Path) -> None:
        """An edit is served within the cache's age, also to the first client after a pause."""
        file = tmp_path / "e.txt"
        file.write_text(OLD)
        with ExitStack() as stack:
            server = stack.enter_context(running(tmp_path, file, workers=1, ENDPOINT_MAX_AGE="1"))
            port = stack.enter_context(cache(tmp_path, server.port))
            assert get(port).headers["X-Cache-Status"] == "MISS"
            wait_for(lambda: get(port).headers["X-Cache-Status"] == "HIT")
            kept = time.monotonic()
            file.write_text(NEW)
            wait_for(lambda: b"new.example" in server.get().body, what="the server has the edit")
            # nginx counts ages in whole seconds.
            wait_for(lambda: time.monotonic() > kept + 2.1, what="the answer is too old")
            assert b"new.example" in get(port).body
            kept = time.monotonic()
            wait_for(lambda: time.monotonic() > kept + 2.1, what="the answer is too old again")
            assert get(port).headers["X-Cache-Status"] == "REVALIDATED"

    def test_it_answers_everybody_for_a_stopped_server(self, tmp_path: Path) -> None:
        """One cached answer serves all clients of a stopped server, whatever headers they send."""
        file = tmp_path / "e.txt"
        file.write_text("DomainList:\n" + "".join(f"host{n}.example\n" for n in range(50)))
        with ExitStack() as stack:
            environ: dict[str, Any] = {
                "ENDPOINT_MAX_AGE": "1",
                "ENDPOINT_SIGNING_KEY_FILE": str(key_file(tmp_path)),
            }
            server = stack.enter_context(running(tmp_path, file, workers=1, **environ))
            port = stack.enter_context(cache(tmp_path, server.port))
            paths = (ENDPOINTS, f"{ENDPOINTS}.jws", "/api/v1/config/keys")
            before = [get(port, path).body for path in paths]
            signed = get(port, Accept="application/jose").body
            assert signed == before[1]
            hidden = ["/", "/metrics", "/ready", STATUS]
            assert {get(port, path).status for path in hidden} == {404}
            server.stop(signal.SIGKILL)
            for accept in ("*/*", "text/html", "application/json", "x/y;q=0.3"):
                for encoding in ("identity", "gzip", "br, gzip", "*"):
                    answer = get(port, Accept=accept, Accept_Encoding=encoding)
                    packed = answer.headers.get("Content-Encoding") == "gzip"
                    assert answer.status == 200
                    assert (gzip.decompress(answer.body) if packed else answer.body) == before[0]
                    assert not packed or "gzip" in encoding
            assert [get(port, path).body for path in paths] == before
            assert get(port, Accept="application/jose").body == signed
            waited = get(port, f"{ENDPOINTS}?wait=30", If_None_Match='"other"')
            assert (waited.status, waited.body) == (200, before[0])
            assert "Preference-Applied" not in waited.headers
            assert waited.headers["Cache-Control"] == "no-store"
            assert get(port, "/health").status == 502

    def test_a_long_poll_passes_through(self, tmp_path: Path) -> None:
        """A long poll passes through to the application, and its answer is not cached."""
        file = tmp_path / "e.txt"
        file.write_text(OLD)
        with ExitStack() as stack:
            server = stack.enter_context(running(tmp_path, file, workers=1))
            port = stack.enter_context(cache(tmp_path, server.port))
            tag = get(port).headers["ETag"]
            waited = get(port, f"{ENDPOINTS}?wait=0.1", If_None_Match=tag)
            assert (waited.status, waited.headers["Preference-Applied"]) == (304, "wait")
            assert "Preference-Applied" not in get(port).headers

    def test_an_answer_for_one_origin_is_no_other_s(self, tmp_path: Path) -> None:
        """CORS headers match the request's origin, also in cached answers, or are absent."""
        file = tmp_path / "e.txt"
        file.write_text(OLD)
        named = ("https://a.example", "https://b.example")
        port, own = closed_port(), tmp_path / "nginx-cache"
        with ExitStack() as stack:
            origins: dict[str, Any] = {"ENDPOINT_CORS_ORIGINS": ", ".join(named)}
            server = stack.enter_context(running(tmp_path, file, workers=1, **origins))
            sample = '# "https://app.example.com" $http_origin;'
            config = adapt("nginx-cache.conf", own, port, app=server.port)
            assert sample in config
            lines = "\n".join(f'"{origin}" $http_origin;' for origin in named)
            stack.enter_context(nginx(own, config.replace(sample, lines), port))

            def allowed(**headers: str) -> str | None:
                return get(port, **headers).headers.get("Access-Control-Allow-Origin")

            for _ in range(2):
                assert allowed() is None
                assert [allowed(Origin=origin) for origin in named] == list(named)
                assert allowed(Origin="https://c.example") is None
            server.stop()
            assert [allowed(Origin=origin) for origin in named] == list(named)

    def test_what_a_token_opens_is_not_kept(self, tmp_path: Path) -> None:
        """An answer to a token is not cached, so a client without that token never gets it."""
        file = tmp_path / "e.txt"
        file.write_text(OLD)
        with ExitStack() as stack:
            server = stack.enter_context(
                running(
                    tmp_path,
                    file,
                    workers=0,  # the status needs a token
                    WEB_CONCURRENCY="1",
                    ENDPOINT_TOKENS="a-token-of-some-length",
                )
            )
            port = stack.enter_context(cache(tmp_path, server.port))
            known = get(port, Authorization="Bearer a-token-of-some-length")
            assert known.status == 200
            assert "private" in known.headers["Cache-Control"]
            assert get(port).status == 401
            server.stop()
            assert get(port).status == 502


@contextmanager
def static(root: Path) -> Iterator[tuple[int, "subprocess.Popen[bytes]"]]:
    """Run Python's static file server on a folder."""
    port = closed_port()
    command = [sys.executable, "-m", "http.server", str(port), "--bind", "127.0.0.1"]
    with subprocess.Popen(
        [*command, "--directory", str(root)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            answers(port)
            yield port, process
        finally:
            process.kill()


class TestClient:
    """The product's client over gunicorn, nginx and a static folder."""

    def test_it_moves_from_gunicorn_to_nginx_to_a_folder(self, tmp_path: Path) -> None:
        """As each server is killed, requests and updates of the client move to the next server."""
        file, out = tmp_path / "e.txt", tmp_path / "out"
        file.write_text(OLD)
        publish(tmp_path, file)
        with ExitStack() as stack:
            server: Server = stack.enter_context(running(tmp_path, file, workers=1))
            front = ExitStack()
            stack.enter_context(front)
            mirrored = front.enter_context(mirror(tmp_path, out))
            plain, _ = stack.enter_context(static(out))
            bases = [f"http://127.0.0.1:{port}/api/v1" for port in (server.port, mirrored, plain)]
            # A slow server must not cause a hedge.
            patient = replace(QUICK, hedge_delay=30, health_timeout=10, total_timeout=30)
            options: dict[str, Any] = {"policy": patient, "verify": NOBODY, "trust_env": False}
            manager = stack.enter_context(EndpointManager(bases, update_interval=0, **options))
            client = stack.enter_context(manager.client())
            ends: list[Callable[[], object]] = [
                lambda: server.stop(signal.SIGKILL),
                front.close,
                lambda: None,
            ]
            for base, end in zip(bases, ends, strict=True):
                answer = client.get("/config/endpoints")
                assert answer.extensions["endpoint"] == base
                assert answer.json()["api_endpoints"][0]["url"] == "https://old.example/api/v1"
                with EndpointManager(config_urls=bases, update_interval=0, **options) as other:
                    assert other.update_endpoints_from_remote(force=True)
                    assert other.api_endpoints[0].url == "https://old.example/api/v1"
                    assert str(other.list_source.url).startswith(base)
                end()
