"""``mop-config probe``: it checks each endpoint's health as a client does."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import trustme

from ..client.fleet import silence
from ..client.handmade import Answer, Asked, Handmade, handmade, source, wire
from ..health.test_probe import OPEN, presenting
from ..ports import closed_port
from ..servers import ROOT
from ..waiting import wait_for
from .forks import run, start_into
from .test_cli import on_a_terminal, write


def both(asked: Asked) -> Answer:
    """Answer as an API server and as a Socket.io server."""
    if asked.path.startswith("/socket.io"):
        return 200, {}, OPEN
    return (200, {}, b"") if asked.path.endswith("/health") else (404, {}, b"")


@pytest.fixture
def server() -> Iterator[Handmade]:
    """Run a healthy server of both kinds."""
    with handmade(both) as server:
        yield server


def listing(folder: Path, *api: str, sockets: tuple[str, ...] = ()) -> str:
    """Write an endpoint file and return its path."""
    lines = ["ApiList:", *api, "SocketList:", *sockets]
    return write(folder, "\n".join(lines) + "\n")


def results(text: str) -> Any:
    return json.loads(text)


class TestOutcome:
    """The exit code, and the stream that each message goes to."""

    def test_all_is_well(self, tmp_path: Path, server: Handmade) -> None:
        """The exit code is 0, with one line per endpoint: kind, status, latency, URL and so on."""
        file = listing(tmp_path, server.url, sockets=(server.url,))
        result = run("probe", file)
        assert result.returncode == 0
        lines = [line.split("\t") for line in result.stdout.splitlines()]
        assert [(line[0], line[1], line[5], line[6]) for line in lines] == [
            ("api", "healthy", "0", server.url),
            ("socketio", "healthy", "0", server.url),
        ]
        assert all(re.fullmatch(r"\d+\.\d ms", line[2]) for line in lines)
        assert all(line[3:5] == ["-", "-"] for line in lines)
        assert lines[0][7] == "/health answers 200"
        told = "1 of 1 API endpoints are healthy, 1 of 1 Socket.io endpoints are healthy"
        assert result.stderr.splitlines()[-1] == told
        assert on_a_terminal("probe", file).rstrip().splitlines()[-1] == told
        assert "\x1b" not in result.stdout

    def test_one_of_a_kind_is_enough(self, tmp_path: Path, server: Handmade) -> None:
        """One healthy endpoint of a kind is enough: a dead endpoint beside it is only shown."""
        dead = f"http://127.0.0.1:{closed_port()}"
        result = run("probe", listing(tmp_path, dead, server.url))
        assert result.returncode == 0
        assert [line.split("\t")[1] for line in result.stdout.splitlines()] == [
            "refused",
            "healthy",
        ]

    def test_the_settings_of_the_check(self, tmp_path: Path, server: Handmade) -> None:
        """The check uses the same path and text settings as the server's own checks."""
        file = listing(tmp_path, server.url)
        server.answer = lambda asked: (200, {}, b"for sale")
        settings = {"ENDPOINT_HEALTH_PATH": "/alive", "ENDPOINT_HEALTH_CONTAINS": "sale"}
        assert run("probe", file, **settings).returncode == 0
        settings["ENDPOINT_HEALTH_CONTAINS"] = "mop-api"
        result = run("probe", file, **settings)
        assert result.returncode == 1
        assert "/alive answers 200, but this is not the answer" in result.stdout
        assert set(server.paths) == {"/alive"}

    def test_a_kind_without_a_healthy_one(self, tmp_path: Path, server: Handmade) -> None:
        """A kind without a healthy endpoint exits with 1, with the findings on standard output."""
        dead = f"http://127.0.0.1:{closed_port()}"
        result = run("probe", listing(tmp_path, server.url, sockets=(dead,)))
        assert result.returncode == 1
        assert len(result.stdout.splitlines()) == 2

    def test_nothing_to_check(self, tmp_path: Path) -> None:
        """An empty list exits with 1, because no client can use it."""
        result = run("probe", write(tmp_path, "DomainList:\n"), ENDPOINT_ALLOW_EMPTY="1")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.splitlines()[-1].startswith("mop-config: ")

    @pytest.mark.parametrize("what", ["missing", "directory", "binary"])
    def test_a_bad_file(self, tmp_path: Path, what: str) -> None:
        """A bad file exits with 1 and prints one line on standard error."""
        (tmp_path / "directory").mkdir()
        (tmp_path / "binary").write_bytes(b"\x7fELF\0\0")
        result = run("probe", str(tmp_path / what))
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("mop-config: ")

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--watch", "0"],
            ["--watch", "soon"],
            ["--watch", "nan"],
            ["--timeout", "-1"],
            ["a", "b"],
            ["--frob"],
        ],
    )
    def test_a_wrong_call(self, arguments: list[str]) -> None:
        """A wrong call exits with 2 and prints one line that names the help."""
        result = run("probe", *arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert "--help" in result.stderr

    def test_the_help_has_an_example(self) -> None:
        """The example in the help can be copied."""
        assert "Example: mop-config probe https://" in run("probe", "--help").stdout

    def test_it_needs_no_extra(self, tmp_path: Path, server: Handmade) -> None:
        """The command needs no optional package."""
        code = (
            "import sys\n"
            "for name in ('socketio', 'aiohttp', 'requests', 'joserfc', 'zxingcpp', 'PIL'):\n"
            "    sys.modules[name] = None\n"
            "from mop_config.cli import main\n"
            "main()\n"
        )
        result = subprocess.run(
            [sys.executable, "-c", code, "probe", listing(tmp_path, server.url)],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert (result.returncode, result.stderr.count("Traceback")) == (0, 0)

    def test_problems_of_the_file_are_told_beside_it(
        self, tmp_path: Path, server: Handmade
    ) -> None:
        """The file's problems go to standard error, as with ``show``."""
        result = run("probe", listing(tmp_path, server.url, "no host"))
        assert result.returncode == 0
        assert "line 3" in result.stderr
        assert len(result.stdout.splitlines()) == 1


class TestServer:
    """If a URL is given, the command checks the list that this server serves."""

    @pytest.mark.parametrize("path", ["", "/api/v1/config/endpoints"])
    def test_its_list(self, path: str) -> None:
        """The URL works with and without the list's path."""
        with source(b"") as (lists, server):
            lists.body = wire([server.url])
            result = run("probe", server.url + path)
        assert result.returncode == 0
        assert server.url in result.stdout

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((404, {}, b""), "answers 404"),
            ((200, {}, b"<html>"), "gives no list"),
            ((200, {}, b'{"api_endpoints": [{"url": "x"}]}'), "api_endpoints[0].url"),
            ((200, {}, wire()), "no endpoint"),
        ],
    )
    def test_one_that_has_none(self, answer: Answer, reason: str) -> None:
        """A server without a list exits with 1 and one line that gives the reason."""
        with handmade(lambda asked: answer) as server:
            result = run("probe", server.url)
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert reason in result.stderr

    def test_nobody_there(self) -> None:
        """A refused connection prints one line and no traceback."""
        result = run("probe", f"http://127.0.0.1:{closed_port()}")
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)

    @pytest.mark.parametrize("command", [["probe"], ["show", "--diff"]])
    def test_one_that_speaks_no_http(self, command: list[str], tmp_path: Path) -> None:
        """A server that does not speak HTTP causes one line and no traceback."""
        with socket.create_server(("127.0.0.1", 0)) as listener:

            def serve() -> None:
                sock, _ = listener.accept()
                with sock:
                    sock.recv(65536)
                    sock.sendall(b"SSH-2.0-x\r\n\r\n")

            thread = threading.Thread(target=serve)
            thread.start()
            url = f"http://127.0.0.1:{listener.getsockname()[1]}"
            result = run(*command, url)
            thread.join()
        assert result.returncode == 1
        assert "Traceback" not in result.stderr
        assert "gives no answer" in result.stderr


class TestJson:
    """``--json`` for programs."""

    def test_the_document(self, tmp_path: Path, server: Handmade) -> None:
        """The document holds the verdict, the counts and all fields of each endpoint."""
        dead = f"http://127.0.0.1:{closed_port()}"
        result = run("probe", "--json", listing(tmp_path, f"{server.url}/v1", dead))
        document = results(result.stdout)
        assert result.returncode == 0
        assert document["ok"] is True
        assert document["counts"] == {
            "api": {"endpoints": 2, "healthy": 1},
            "socketio": {"endpoints": 0, "healthy": 0},
        }
        good, bad = document["endpoints"]
        assert 0 < good.pop("seconds") < 5
        assert good == {
            "kind": "api",
            "url": f"{server.url}/v1",
            "priority": 0,
            "healthy": True,
            "fault": None,
            "detail": "/v1/health answers 200",
            "certificate_expires": None,
            "certificate_days": None,
            "name_matches": None,
        }
        assert (bad["healthy"], bad["fault"]) == (False, "refused")

    def test_certificates(self, tmp_path: Path) -> None:
        """The document gives the days until a certificate expires, and if its name matches."""
        authority = trustme.CA()
        bundle = tmp_path / "ca.pem"
        authority.cert_pem.write_to_path(bundle)
        ends = datetime.now(UTC) + timedelta(days=20, hours=1)
        right = authority.issue_cert("127.0.0.1", not_after=ends)
        named = authority.issue_cert("api.example.com", not_after=ends)
        with (
            handmade(both, presenting(right)) as one,
            handmade(both, presenting(named)) as two,
        ):
            file = listing(
                tmp_path,
                one.url,
                two.url,
                f"https://127.0.0.1:{two.port}/v1 server_name=api.example.com",
            )
            machine = run("probe", "--json", file, SSL_CERT_FILE=str(bundle))
            people = run("probe", file, SSL_CERT_FILE=str(bundle))
            stranger = run("probe", file)
        found = [
            (e["healthy"], e["certificate_days"], e["name_matches"])
            for e in results(machine.stdout)["endpoints"]
        ]
        assert found == [(True, 20, True), (False, None, False), (True, 20, True)]
        cells = [line.split("\t")[1:5] for line in people.stdout.splitlines()]
        assert [(c[0], c[2], c[3]) for c in cells] == [
            ("healthy", "20 d", "matches"),
            ("tls", "-", "other name"),
            ("healthy", "20 d", "matches"),
        ]
        assert stranger.returncode == 1


class TestTerminal:
    """Output on a terminal, for people."""

    def test_a_table_and_a_progress_bar(self, tmp_path: Path, server: Handmade) -> None:
        """A terminal shows a coloured table; the progress bar is erased at the end."""
        dead = f"http://127.0.0.1:{closed_port()}"
        shown = on_a_terminal("probe", listing(tmp_path, server.url, dead))
        assert "checking" in shown
        assert "100%" in shown
        table = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown[shown.rindex("100%") :])
        for word in ("kind", "status", "latency", "TLS ends", "name", server.url, "healthy"):
            assert word in table
        assert "refused" in table
        assert "Connection refused" in table

    def test_a_slow_one_is_given_up(self, tmp_path: Path) -> None:
        """A slow endpoint fails after ``--timeout``."""
        with silence() as port:
            url = f"http://127.0.0.1:{port}"
            result = run("probe", "--timeout", "1", "--json", listing(tmp_path, url))
        (entry,) = results(result.stdout)["endpoints"]
        assert (result.returncode, entry["fault"]) == (1, "read-timeout")
        assert entry["seconds"] < 4


class TestWatch:
    """``--watch`` repeats the checks."""

    def test_a_document_a_round(self, tmp_path: Path, server: Handmade) -> None:
        """Each round reads the file again and prints one JSON line; Ctrl-C ends it cleanly."""
        file = listing(tmp_path, server.url)
        out, err = tmp_path / "out", tmp_path / "err"
        process = start_into(tmp_path, "probe", "--watch", "0.1", "--json", file)
        try:
            wait_for(lambda: len(out.read_text().splitlines()) >= 2, seconds=20)
            listing(tmp_path, server.url, f"{server.url}/second")
            wait_for(lambda: "/second" in out.read_text())
            Path(file).unlink()
            wait_for(lambda: "is missing" in err.read_text())
            listing(tmp_path, f"{server.url}/third")
            wait_for(lambda: "/third" in out.read_text())
        finally:
            process.send_signal(signal.SIGINT)
            code = process.wait(10)
        assert code == 130
        assert "Traceback" not in err.read_text()
        for line in out.read_text().splitlines():
            assert results(line)["ok"] is True

    def test_it_can_be_ended_while_it_waits_for_a_server(self, tmp_path: Path) -> None:
        """Ctrl-C ends a pending request at once, not after its time limit."""
        with silence() as port:
            file = listing(tmp_path, *(f"http://127.0.0.1:{port}/{n}" for n in range(200)))
            process = start_into(tmp_path, "probe", "--timeout", "60", file)
            try:
                # The last thread may still be starting, and an interrupt must not hang on that.
                wait_for(lambda: _threads_of(process.pid) > 64, seconds=20)
            finally:
                process.send_signal(signal.SIGINT)
                code = process.wait(20)
        assert code == 130
        assert "Traceback" not in (tmp_path / "err").read_text()

    def test_an_interrupt_in_the_middle_of_a_lock(self, tmp_path: Path, server: Handmade) -> None:
        """An interrupt that leaves a lock held exits with 130, not an error."""
        file = listing(tmp_path, server.url)
        clean = {k: v for k, v in os.environ.items() if not k.startswith("ENDPOINT_")}
        done = subprocess.run(
            [sys.executable, "-c", _INTERRUPTED, "probe", file],
            cwd=ROOT,
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 130
        assert "RuntimeError" not in done.stderr


#: Interrupts the command while it starts a thread, a moment that a signal rarely meets.
_INTERRUPTED = """
import sys, threading, time
from mop_config.cli import main

start = threading.Thread.start

def interrupted(thread):
    if not thread.name.startswith("mop-config-check"):
        return start(thread)
    started = thread._started._cond
    started.acquire()
    threading.Event.wait = lambda *_: None
    start(thread)
    while thread.ident is None:
        time.sleep(0.01)
    raise KeyboardInterrupt

threading.Thread.start = interrupted
main(sys.argv[1:])
"""


def _threads_of(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/task"))
