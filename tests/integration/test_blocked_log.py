"""A blocked log: a stopped terminal, a pipe whose reader stalls, a full disk."""

import fcntl
import http.client
import os
import pty
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from mop_config.server.logs import LogQueue

from ..disks import fill, small_disk
from ..ports import free_ports
from ..servers import ENDPOINTS, Server, gunicorn_command
from ..waiting import answers, wait_for

#: A pipe of the minimum size, which a few lines fill.
PIPE_SIZE = 4096
#: Maximum seconds of a stop, whatever happens to the log.
STOP = 6.0


class Log:
    """The reading end of a server's log, which can stop and resume.

    Args:
        kind: ``pipe`` or ``terminal``.
    """

    def __init__(self, kind: str) -> None:
        self._kind = kind
        if kind == "terminal":
            self._end, self.descriptor = pty.openpty()
        else:
            self._end, self.descriptor = os.pipe()
            fcntl.fcntl(self.descriptor, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
        self._read = bytearray()
        self._reads = threading.Event()
        self._reads.set()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def text(self) -> str:
        return self._read.decode(errors="replace")

    def _run(self) -> None:
        while True:
            self._reads.wait()
            try:
                data = os.read(self._end, 65536)
            except OSError:  # EIO: no process has the terminal open any more
                return
            if not data:
                return
            self._read += data

    def block(self) -> None:
        """Stop reading: Ctrl-S on a terminal, or no more reads from a pipe."""
        if self._kind == "terminal":
            os.write(self._end, b"\x13")
        else:
            self._reads.clear()

    def go_on(self) -> None:
        if self._kind == "terminal":
            os.write(self._end, b"\x11")
        self._reads.set()

    def close(self) -> None:
        self.go_on()
        self._thread.join(10)
        os.close(self._end)


class Logged(Server):
    """A server whose log is a pipe or a terminal."""

    def __init__(self, log: Log, folder: Path, file: Path, *options: str, **variables: str) -> None:
        (self.port,) = free_ports(1)
        environ = {name: value for name, value in os.environ.items() if "ENDPOINT_" not in name}
        environ |= variables
        self.process = subprocess.Popen(
            gunicorn_command(*options),
            env={
                **environ,
                "ENDPOINT_CONFIG_FILE": str(file),
                "ENDPOINT_STATE_DIR": str(folder / "state"),
                "PORT": str(self.port),
                "WEB_CONCURRENCY": "2",
            },
            stdin=log.descriptor if log._kind == "terminal" else subprocess.DEVNULL,
            stdout=log.descriptor,
            stderr=log.descriptor,
            start_new_session=True,
        )
        os.close(log.descriptor)


@contextmanager
def logging_to(
    kind: str, folder: Path, file: Path, *options: str, workers: int = 2, **environ: str
) -> Iterator[tuple[Logged, Log]]:
    log = Log(kind)
    server = Logged(log, folder, file, *options, "--workers", str(workers), **environ)
    try:
        answers(server.port)
        wait_for(lambda: server.all_know(workers), seconds=30, what="the workers answer")
        yield server, log
    finally:
        if server.process.poll() is None:
            server.stop()
        log.close()


def text(*hosts: str) -> str:
    return "DomainList:\n" + "".join(f"{host}\n" for host in hosts)


def ask(port: int, times: int) -> None:
    """Send many requests on one connection."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        for _ in range(times):
            connection.request("GET", ENDPOINTS)
            assert connection.getresponse().read()
    finally:
        connection.close()


def stopped_within(server: Server, number: int) -> float:
    began = time.monotonic()
    server.process.send_signal(number)
    server.process.wait(40)
    return time.monotonic() - began


@pytest.mark.parametrize("kind", ["terminal", "pipe"])
def test_a_blocked_log_stops_neither_edits_nor_requests_nor_a_stop(
    tmp_path: Path, kind: str
) -> None:
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with logging_to(kind, tmp_path, file, "--access-logfile", "-") as (server, log):
        log.block()
        for _ in range(4):
            ask(server.port, 200)  # some 20 KB of log per round, more than these pipes hold
        for edit in range(3):
            hosts = [f"edit{edit}-a.example", f"edit{edit}-b.example"]
            file.write_text(text(*hosts))
            wait_for(partial(server.all_serve, *hosts), what=f"edit {edit} is served")
        server.send(signal.SIGHUP)
        wait_for(
            lambda: server.status()["last_reload"]["trigger"] == "sighup", what="SIGHUP reloads"
        )
        assert server.get("/ready").json["state"] == "fresh"
        assert stopped_within(server, signal.SIGTERM) < STOP


def test_what_a_pipe_did_not_take_at_once_is_written_later(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with logging_to("pipe", tmp_path, file, "--access-logfile", "-") as (server, log):
        log.block()
        ask(server.port, 500)
        log.go_on()
        wait_for(lambda: log.text.count(f"GET {ENDPOINTS}") >= 500, what="every line is there")
    assert "log records lost" not in log.text
    assert "Shutting down: Master" in log.text, "the last lines are written before the end"


def test_the_oldest_records_are_dropped_and_counted() -> None:
    queue = LogQueue(limit=10)
    held, gate, written = threading.Event(), threading.Event(), []

    def write(number: int) -> None:
        held.set()
        gate.wait()
        written.append(number)

    for number in range(50):
        queue.put(partial(write, number))
        if not number:
            assert held.wait(10), "the thread holds the first one"
    assert queue._lost == 39
    gate.set()
    wait_for(lambda: len(written) == 11, what="what was not dropped is written")
    assert written == [0, *range(40, 50)]


def test_a_record_that_found_no_thread_is_written_at_the_exit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At the exit a thread is started for a record that could not start one."""
    queue, written = LogQueue(), list[str]()

    def lacking(_: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", lacking)
        queue.put(partial(written.append, "a"))
    queue.drain(10.0)
    assert written == ["a"]


#: A program that logs as a worker does, and prints a line when its log calls have returned.
PROGRAM = """
import logging, sys
from gunicorn.config import Config
from mop_config.server.gunicorn.logger import GunicornLogger
log = GunicornLogger(Config())
for number in range(12_000):
    log.info("record %d.", number)
print("done", flush=True)
sys.stdin.read()
"""


def test_a_line_tells_how_many_of_twelve_thousand_records_were_dropped() -> None:
    read_end, write_end = os.pipe()
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, PIPE_SIZE)
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=write_end,
        text=True,
    ) as process:
        os.close(write_end)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n", "nothing has read its log until now"
        process.stdin.close()
        with open(read_end, encoding="utf-8") as log:
            told = log.read()
        assert process.wait(10) == 0
    (lost,) = re.findall(r"\[WARNING\] mop_config: log records lost: (\d+)", told)
    written = re.findall(r"record (\d+)\.", told)
    assert 1500 < int(lost) <= 2000
    assert len(written) + int(lost) == 12_000
    assert written[-1] == "11999"


def test_a_full_disk_of_the_log_shows_no_traceback(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with small_disk(disk):
        path = disk / "log"
        options = ("--error-logfile", str(path), "--access-logfile", str(path))
        with logging_to("pipe", tmp_path, file, *options) as (server, log):
            fill(disk / "much")
            ask(server.port, 100)
            file.write_text(text("c.example", "d.example"))
            wait_for(lambda: server.all_serve("c.example", "d.example"), what="the edit is served")
            (disk / "much").unlink()
            file.write_text(text("e.example", "f.example"))
            wait_for(lambda: server.all_serve("e.example", "f.example"), what="the edit is served")
            server.stop()
        assert "Traceback" not in log.text
        assert "Shutting down: Master" in path.read_text()


def test_the_log_is_utf_8_in_any_locale(tmp_path: Path) -> None:
    file = tmp_path / "端点.txt"
    file.write_text(text("a.example", "b.example"))
    path = tmp_path / "log"
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    options = ("--error-logfile", str(path), "--access-logfile", str(path))
    with logging_to("pipe", tmp_path, file, *options, workers=1, **locale) as (server, log):
        file.write_text(text("c.example", "d.example"))
        wait_for(lambda: server.all_serve("c.example", "d.example"), what="the edit is served")
        file.unlink()
        wait_for(lambda: server.all_are("rejected"), what="the file is missed")
        server.get("/%E7%AB%AF")
        server.stop()
    told = path.read_text(encoding="utf-8")
    assert "+4 -4 endpoints" in told
    assert "端点.txt is missing" in told
    assert "GET /%E7%AB%AF" in told
    assert not re.search("Traceback|Logging error", log.text)


def test_sigusr1_opens_the_files_of_the_log_anew(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    path, moved = tmp_path / "log", tmp_path / "log.1"
    with logging_to("pipe", tmp_path, file, "--error-logfile", str(path)) as (server, _):
        path.rename(moved)
        server.send(signal.SIGUSR1)
        wait_for(path.exists, what="the file is opened anew")
        file.write_text(text("c.example", "d.example"))
        wait_for(
            lambda: all(f"[{pid}]" in path.read_text() for pid in server.workers),
            what="every worker writes there",
        )
