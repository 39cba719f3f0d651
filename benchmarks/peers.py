"""The servers of the serving benchmark: each context manager runs a server on one core."""

import base64
import contextlib
import http.client
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from tests.nginx import adapt
from tests.nginx import nginx as run_nginx
from tests.ports import closed_port
from tests.servers import ENDPOINTS, gunicorn_command, running
from tests.waiting import answers

from .load import CONNECTIONS, Spent, available, on_server_core, program, redis_get
from .load import wrk as ask_by_wrk


@dataclass(frozen=True)
class Site:
    """The data that each server serves.

    Attributes:
        folder: Folder for the server's own files.
        file: The endpoint file.
        body: The JSON of the file's list.
    """

    folder: Path
    file: Path
    body: bytes


class Http:
    """An HTTP server of the list.

    Args:
        pid: Id of its process, or of the parent of its processes.
        port: Its port.
        path: The path of the list.
    """

    def __init__(self, pid: int, port: int, path: str = ENDPOINTS) -> None:
        self.pid, self.port, self.path = pid, port, path
        answers(port)
        status, etag, self.body = self._get({})
        if status != 200:
            raise RuntimeError(f"{path} on {port}: {status} {self.body[:300]!r}")
        self._known = {"If-None-Match": etag} if etag else {}
        self.conditional = bool(etag) and self._get(self._known)[0] == 304

    def _get(self, headers: dict[str, str]) -> tuple[int, str | None, bytes]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("GET", self.path, headers=headers)
            response = connection.getresponse()
            return response.status, response.getheader("ETag"), response.read()

    def ask(self, seconds: float, *, known: bool) -> Spent:
        """Load the server from clients with (``known``) or without the list's ETag."""
        headers = [f"{name}: {value}" for name, value in self._known.items()] if known else []
        return ask_by_wrk(self.pid, self.port, self.path, seconds, headers=headers)


class Etcd:
    """An etcd that holds the list under a key, queried through its JSON gateway."""

    conditional = False

    def __init__(self, pid: int, port: int, body: bytes) -> None:
        self.pid, self.port, self.body = pid, port, body
        answers(port)
        self._question = json.dumps({"key": _base64(b"endpoints")})
        self._post("put", json.dumps({"key": _base64(b"endpoints"), "value": _base64(body)}))
        found = json.loads(self._post("range", self._question))["kvs"][0]["value"]
        if base64.b64decode(found) != body:
            raise RuntimeError("etcd gives something else than it was given")

    def _post(self, verb: str, body: str) -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            connection.request("POST", f"/v3/kv/{verb}", body)
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"etcd, {verb}: {response.status} {response.read()[:300]!r}")
            return response.read()

    def ask(self, seconds: float, *, known: bool) -> Spent:
        """Load the server."""
        return ask_by_wrk(self.pid, self.port, "/v3/kv/range", seconds, post=self._question)


class Redis:
    """A Redis that holds the list under a key."""

    conditional = False

    def __init__(self, pid: int, port: int, body: bytes) -> None:
        self.pid, self.port, self.body = pid, port, body
        answers(port)
        redis_get(pid, port, "endpoints", CONNECTIONS)
        self._set(body)
        probe = redis_get(pid, port, "endpoints", 50 * CONNECTIONS)
        self._rate = probe.rate

    def _set(self, body: bytes) -> None:
        import redis

        with contextlib.closing(redis.Redis(port=self.port)) as client:
            client.set("endpoints", body)

    def ask(self, seconds: float, *, known: bool) -> Spent:
        """Load the server."""
        return redis_get(self.pid, self.port, "endpoints", max(400, int(self._rate * seconds)))


Peer = Http | Etcd | Redis


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def ours(worker_class: str) -> Callable[[Site], AbstractContextManager[Peer]]:
    """Return this project's server with a worker class."""

    @contextlib.contextmanager
    def run(site: Site) -> Iterator[Peer]:
        folder = site.folder / f"ours-{worker_class}"
        folder.mkdir()
        command = on_server_core(gunicorn_command())
        with running(
            folder, site.file, workers=1, command=command, WORKER_CLASS=worker_class
        ) as server:
            yield Http(server.pid, server.port)

    return run


def gunicorn(worker_class: str, target: str) -> Callable[[Site], AbstractContextManager[Peer]]:
    """Return another application on gunicorn with the same settings."""

    @contextlib.contextmanager
    def run(site: Site) -> Iterator[Peer]:
        port = closed_port()
        command = gunicorn_command(target=f"benchmarks.bare_app:{target}")
        variables = {
            "ENDPOINT_CONFIG_FILE": str(site.file),
            "PORT": str(port),
            "WEB_CONCURRENCY": "1",
            "WORKER_CLASS": worker_class,
        }
        with program(command, site.folder, **variables) as pid:
            yield Http(pid, port)

    return run


def fastapi(loop: str, parser: str) -> Callable[[Site], AbstractContextManager[Peer]]:
    """Return the guide's design on uvicorn, without access log."""

    @contextlib.contextmanager
    def run(site: Site) -> Iterator[Peer]:
        port = closed_port()
        command = [sys.executable, "-m", "uvicorn", "benchmarks.guide_app:app", "--no-access-log"]
        command += ["--loop", loop, "--http", parser, "--port", str(port)]
        with program(command, site.folder, ENDPOINT_CONFIG_FILE=str(site.file)) as pid:
            yield Http(pid, port)

    return run


_STATIC = """
  server {{
    listen 127.0.0.1:{port}; root {folder}; default_type application/json;
    add_header Cache-Control max-age=60; add_header Vary Accept-Encoding;
  }}
"""


@contextlib.contextmanager
def nginx(site: Site) -> Iterator[Peer]:
    """Run nginx with the JSON as a static file."""
    port, folder = closed_port(), site.folder / "nginx"
    folder.mkdir()
    (folder / "list.json").write_bytes(site.body)
    included = _STATIC.format(folder=folder, port=port)
    with run_nginx(folder, included, port, on_server_core([])) as pid:
        yield Http(pid, port, "/list.json")


@contextlib.contextmanager
def mirror(site: Site) -> Iterator[Peer]:
    """Run nginx with a published list and the configuration of deploy/."""
    port, folder = closed_port(), site.folder / "mirror"
    folder.mkdir()
    environ = {**os.environ, "ENDPOINT_STATE_DIR": str(folder / "state")}
    command = [sys.executable, "-m", "mop_config", "publish", str(site.file)]
    command += ["--out", str(folder / "out")]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)
    included = adapt("nginx.conf", folder, port, root=folder / "out")
    with run_nginx(folder, included, port, on_server_core([])) as pid:
        yield Http(pid, port)


@contextlib.contextmanager
def etcd(site: Site) -> Iterator[Peer]:
    """Run an etcd with one member."""
    port, other = closed_port(), closed_port()
    client, peer = f"http://127.0.0.1:{port}", f"http://127.0.0.1:{other}"
    command = ["etcd", "--data-dir", str(site.folder / "etcd"), "--log-level", "error"]
    command += ["--listen-client-urls", client, "--advertise-client-urls", client]
    command += ["--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer]
    command += ["--initial-cluster", f"default={peer}", "--max-request-bytes", str(8 << 20)]
    with program(command, site.folder) as pid:
        yield Etcd(pid, port, site.body)


@contextlib.contextmanager
def redis(site: Site) -> Iterator[Peer]:
    """Run a Redis without persistence."""
    port = closed_port()
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1"]
    with program([*command, "--save", "", "--appendonly", "no"], site.folder) as pid:
        yield Redis(pid, port, site.body)


@dataclass(frozen=True)
class Contestant:
    """A server of the benchmark.

    Attributes:
        name: Its name in the table.
        worker: gunicorn's worker class, or empty for other servers.
        run: Returns the context manager that runs the server.
        programs: Programs that it needs besides Python packages.
        http: Whether it serves the list over HTTP.
    """

    name: str
    worker: str
    run: Callable[[Site], AbstractContextManager[Peer]]
    programs: tuple[str, ...] = ()


#: uvicorn by default, and with its extra "standard".
UVICORNS = {"uvicorn": ("asyncio", "h11"), "uvicorn[standard]": ("uvloop", "httptools")}
OURS = "mop-config"
GUIDE, MIRROR, NGINX = "the guide's, FastAPI", "a mirror: publish and nginx", "nginx, static file"
# Servers that are compared follow each other, so that a round measures them within seconds.
ALL = (
    Contestant(OURS, "asgi", ours("asgi")),
    Contestant("raw ASGI", "asgi", gunicorn("asgi", "raw")),
    Contestant(OURS, "gthread", ours("gthread")),
    Contestant("bare WSGI", "gthread", gunicorn("gthread", "bare")),
    Contestant("Flask view", "gthread", gunicorn("gthread", "flask")),
    *(Contestant(GUIDE, name, fastapi(*parts)) for name, parts in UVICORNS.items()),
    Contestant(MIRROR, "", mirror, ("nginx",)),
    Contestant(NGINX, "", nginx, ("nginx",)),
    Contestant("etcd, JSON gateway", "", etcd, ("etcd",)),
    Contestant("Redis GET", "", redis, ("redis-server", "redis-benchmark")),
)
PRESENT = tuple(each for each in ALL if available(*each.programs))
MISSING = tuple(each.name for each in ALL if each not in PRESENT)
