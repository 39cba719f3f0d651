"""Real servers for the tests: started on a free port, stopped by their process id."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import psutil
from werkzeug.datastructures import Headers

from .conftest import below, children
from .gunicorns import SCRIPT, Forked, can_fork, forked_server
from .waiting import wait_for

ROOT = Path(__file__).parent.parent
ENDPOINTS = "/api/v1/config/endpoints"
STATUS = "/api/v1/config/status"

_LISTENING = re.compile(r"(?:Listening at: |[Rr]unning on |Serving on )https?://[^:\s]+:(\d+)")


class Answer(NamedTuple):
    """One HTTP answer."""

    status: int
    headers: Headers
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class Server:
    """A server process with its file, its log and its workers.

    Args:
        command: The command that starts the server.
        folder: The folder of the log.
        environ: Variables on top of a clean environment.
        user: User id to run as, where the tests run as root.
    """

    def __init__(
        self, command: list[str], folder: Path, environ: Mapping[str, str], user: int | None = None
    ) -> None:
        self.port = 0
        self.log_path = folder / f"server-{time.monotonic_ns()}.log"
        clean = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith(("ENDPOINT_", "COV_", "PYTEST_"))
        }
        variables = {**clean, "PYTHONPATH": str(ROOT), **environ}
        self.process: subprocess.Popen[bytes] | Forked
        with self.log_path.open("wb") as log:
            if user is None and can_fork(command, environ):
                self.process = forked_server(command, variables, log.fileno())
                return
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=variables,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                user=user,
            )

    @property
    def log(self) -> str:
        """Return the log that the server has written so far."""
        return self.log_path.read_text(errors="replace")

    @property
    def pid(self) -> int:
        """Return the master's process id."""
        return self.process.pid

    @property
    def workers(self) -> list[int]:
        """Return the workers' process ids, without short-lived helper processes."""
        return sorted(filter(_lives, children(self.pid)))

    def wait_until_up(self, workers: int = 1) -> "Server":
        """Wait until the server listens and that number of workers report a list."""

        def listening() -> int:
            if self.process.poll() is not None:
                raise AssertionError(f"the server ended:\n{self.log}")
            match = _LISTENING.search(self.log)
            return int(match[1]) if match else 0

        self.port = wait_for(listening, seconds=30, what="the server listens")
        if workers:
            wait_for(lambda: self.all_know(workers), seconds=30, what=f"{workers} workers answer")
        return self

    def all_know(self, workers: int) -> bool:
        """Return whether every answering worker knows of that number of workers."""
        return all(len(self.status()["workers"]) >= workers for _ in range(4 * workers))

    def get(self, path: str = ENDPOINTS, **headers: str) -> Answer:
        """Send one GET request on a new connection."""
        return self.request("GET", path, **headers)

    def request(self, method: str, path: str, **headers: str) -> Answer:
        """Send one request without a body on a new connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request(method, path, headers=headers)
            response = connection.getresponse()
            return Answer(response.status, Headers(response.getheaders()), response.read())
        finally:
            connection.close()

    def answers(self, path: str) -> bool:
        """Return whether a path is answered with 200."""
        try:
            return self.get(path).status == 200
        except (OSError, http.client.HTTPException):
            return False

    def status(self) -> Any:
        """Return the status document, or an empty status if no server answers."""
        try:
            return self.get(STATUS).json
        except (OSError, http.client.HTTPException):
            return {"workers": []}

    def hosts(self) -> list[str]:
        """Return the hosts that one worker serves, in order."""
        return _hosts(self.get())

    def etags(self) -> list[str]:
        """Return the ETag that each worker serves."""
        return [worker["etag"] for worker in self.status()["workers"]]

    def all_are(self, state: str) -> bool:
        """Return whether every answering worker reports this state."""
        return all(self.status().get("state") == state for _ in range(8))

    def all_serve(self, *hosts: str) -> bool:
        """Return whether every worker serves the list of these hosts."""
        answer = self.get()
        (tag,) = (value for name, value in answer.headers.items() if name.lower() == "etag")
        found = _hosts(answer) == list(hosts)
        return found and set(self.etags()) == {tag.strip('"').removesuffix("-gzip")}

    def send(self, number: int) -> None:
        """Send a signal to the master."""
        os.kill(self.pid, number)

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Stop the server by its process id, and end every process that it left behind."""
        processes = []
        for pid in below(self.pid):
            with contextlib.suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            code = self.process.wait(15)
        finally:
            for process in (*processes, self.process):
                try:
                    process.kill()
                except (psutil.NoSuchProcess, ProcessLookupError):
                    continue
            self.process.wait(5)
        return code


def _hosts(answer: Answer) -> list[str]:
    return [entry["url"].split("/")[2] for entry in answer.json["socketio_endpoints"]]


def _lives(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def gunicorn_command(*options: str, module: bool = False, target: str = "wsgi:app") -> list[str]:
    """Return the command that starts gunicorn, as a console script or as a module."""
    start = [sys.executable, "-m", "gunicorn"] if module else [SCRIPT]
    return [*start, *options, target]


@contextmanager
def running(
    folder: Path,
    file: Path | str,
    *options: str,
    workers: int = 2,
    command: list[str] | None = None,
    user: int | None = None,
    **environ: str,
) -> Iterator[Server]:
    """Run gunicorn with this project's configuration on a file, and stop it after the block."""
    variables = {
        "ENDPOINT_CONFIG_FILE": str(file),
        "ENDPOINT_STATE_DIR": str(folder / "state"),
        "PORT": "0",
        "WEB_CONCURRENCY": str(workers),
        **environ,
    }
    server = Server(command or gunicorn_command(*options), folder, variables, user)
    try:
        yield server.wait_until_up(workers)
    finally:
        server.stop()
