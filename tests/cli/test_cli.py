"""The command line, called by a user at a terminal and by a script."""

import fcntl
import json
import os
import pty
import re
import shutil
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
from pathlib import Path

import pytest

from mop_config import __version__
from mop_config.cli.check import quote

from ..conftest import GUIDE_JSON, SAMPLE
from ..servers import ENDPOINTS, ROOT, running
from ..waiting import wait_for
from .forks import run, start


def on_a_terminal(*arguments: str, columns: int = 0, lines: int = 0) -> str:
    """Return the command's output on a real terminal, with colours; width 0 means unknown."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
    names = os.environ.keys() - {"COLUMNS", "LINES", "NO_COLOR"}
    environ = {**{name: os.environ[name] for name in names}, "TERM": "xterm-256color"}
    command = start(arguments, environ, (slave, slave, slave))
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 65536)
        except OSError:  # EOF: the child closed its side
            break
    command.wait(60)
    os.close(master)
    return shown.decode()


def write(folder: Path, text: str) -> str:
    path = folder / "e.txt"
    path.write_text(text)
    return str(path)


class TestCalls:
    """A wrong call exits with 2, bad input exits with 1, and each prints one line."""

    @pytest.mark.parametrize(
        "arguments",
        [
            ["check", "--frob"],
            ["check", "a", "b"],
            ["frob"],
            ["show", "--diff"],
            ["show", "--diff", "ftp://x"],
            ["serve", "--port"],
            ["serve", "--port", "x"],
            ["serve", "--worker-class", "tornado"],
            ["serve", "--worker-class", "gevent"],
            ["serve", "etcd://x"],
            ["check", ""],
            ["show", ""],
            ["serve", ""],
            ["show", "--diff", "http://joe:hunter@127.0.0.1:1"],
            ["--frob"],
        ],
    )
    def test_a_wrong_call(self, arguments: list[str]) -> None:
        """A wrong call prints one line that names the help."""
        result = run(*arguments)
        assert result.returncode == 2
        assert result.stdout == ""
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.startswith("mop-config: ")
        assert "--help" in result.stderr
        assert "hunter" not in result.stderr

    @pytest.mark.parametrize("command", ["check", "show"])
    @pytest.mark.parametrize(
        ("what", "reason"),
        [
            ("missing", "is missing"),
            ("directory", "is a directory"),
            ("binary", "NUL"),
            ("latin", "not UTF-8"),
        ],
    )
    def test_a_bad_file(self, tmp_path: Path, command: str, what: str, reason: str) -> None:
        """A bad file prints one line on standard error and nothing on standard output."""
        (tmp_path / "directory").mkdir()
        (tmp_path / "binary").write_bytes(b"\x7fELF\0\0")
        (tmp_path / "latin").write_bytes(b"DomainList:\nb\xfccher.example\n")
        result = run(command, str(tmp_path / what))
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert reason in result.stderr
        assert what in result.stderr

    @pytest.mark.parametrize("text", [b"DomainList:\n\xc3\xa9\0", b"DomainList:\n\xc3\xa9\xff"])
    def test_check_names_the_place_where_a_text_ends(self, tmp_path: Path, text: bytes) -> None:
        """The error names the position where a text ends too early, for programs to read."""
        (tmp_path / "bad").write_bytes(text)
        (problem,) = json.loads(run("check", "--json", str(tmp_path / "bad")).stdout)["problems"]
        assert (problem["line"], problem["column"], problem["text"]) == (2, 2, "")
        assert "line 2" in run("check", str(tmp_path / "bad")).stderr

    @pytest.mark.parametrize("command", ["check", "show", "serve"])
    def test_a_bad_environment(self, command: str) -> None:
        """The error names the variable, its value and the allowed values."""
        result = run(command, ENDPOINT_MAX_AGE="soon")
        assert (result.returncode, result.stdout) == (1, "")
        assert result.stderr.startswith("mop-config: ENDPOINT_MAX_AGE='soon' cannot be used")
        assert len(result.stderr.splitlines()) == 1

    def test_help_has_an_example_for_every_command(self) -> None:
        """The help names every command and gives an example of each."""
        general = run("--help").stdout
        for command in ("serve", "check", "show"):
            assert command in general
            assert "Example: mop-config" in run(command, "--help").stdout
        assert run("--version").stdout.strip() == f"mop-config, version {__version__}"
        nothing = run()
        assert nothing.returncode == 2
        assert "Commands:" in nothing.stderr

    def test_a_reader_that_goes_away_is_no_error_message(self, tmp_path: Path) -> None:
        """A reader that closes the pipe early, as in ``mop-config show

        head -c 1``, causes no error.
        """
        file = write(tmp_path, "DomainList:\n" + "".join(f"h{i}.example\n" for i in range(5000)))
        command = f"{sys.executable} -m mop_config show {file} | head -c 1"
        result = subprocess.run(command, shell=True, capture_output=True, cwd=ROOT, check=False)
        assert result.stderr == b""

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("{} show > /dev/full", "No space left on device"),
            ("mkdir gone && cd gone && rmdir ../gone && {} check", "No such file or directory"),
            ("{} show sample --diff http://127.0.0.1:{port}", "gives no answer"),
        ],
    )
    def test_what_nobody_foresaw_is_one_line_too(
        self, tmp_path: Path, command: str, reason: str
    ) -> None:
        """An unexpected exception prints one line, never a traceback."""
        (tmp_path / "sample").write_text(SAMPLE.read_text())
        (tmp_path / "config").mkdir()
        (tmp_path / "config" / "endpoints.txt").write_text(SAMPLE.read_text())
        with socket.create_server(("127.0.0.1", 0)) as server:
            answer = threading.Thread(target=_answer_nonsense, args=(server,), daemon=True)
            answer.start()
            program = f"{sys.executable} -m mop_config"
            line = command.replace("{}", program).replace("{port}", str(server.getsockname()[1]))
            result = subprocess.run(
                line, shell=True, cwd=tmp_path, capture_output=True, text=True, check=False
            )
            server.shutdown(socket.SHUT_RDWR)
            answer.join()
        assert result.returncode == 1
        assert result.stderr.startswith("mop-config: ")
        assert len(result.stderr.splitlines()) == 1
        assert reason in result.stderr

    def test_a_closed_output_and_a_strange_name_are_no_failure(self, tmp_path: Path) -> None:
        """A closed output is no failure; file names with odd bytes or line breaks are escaped."""
        closed = f"{sys.executable} -m mop_config check >&-"
        assert subprocess.run(closed, shell=True, cwd=ROOT, check=False).returncode == 0
        for name in (b"a\xff.txt", b"a\nb.txt"):
            path = os.fsencode(tmp_path) + b"/" + name
            with open(path, "w") as file:
                file.write("DomainList:\na_b\nc.com, d.com\n")
            for command in ("check", "show"):
                arguments = [sys.executable, "-m", "mop_config", command, path]
                result = subprocess.run(arguments, cwd=ROOT, capture_output=True, check=False)
                assert result.returncode == 1
                assert b"Traceback" not in result.stderr
                assert b"\xff" not in result.stdout
                assert b"a\nb" not in result.stdout


def _answer_nonsense(server: socket.socket) -> None:
    """Answer one connection, if a client connects, with bytes that are not HTTP."""
    try:
        connection, _ = server.accept()
    except OSError:
        return
    with connection:
        connection.recv(65536)
        connection.sendall(b"nonsense\r\n\r\n")


class TestCheck:
    """``mop-config check``."""

    def test_a_good_file(self) -> None:
        """A good file prints one line and exits with 0."""
        result = run("check")
        assert result.returncode == 0
        assert result.stdout == (
            "config/endpoints.txt: ok: 6 API and 6 Socket.io endpoints, 0 errors, 0 warnings\n"
        )

    def test_findings_are_shown_with_line_text_and_caret(self, tmp_path: Path) -> None:
        """Each finding shows the line number, the text and a caret under the column."""
        file = write(tmp_path, "DomainList:\na.com, 例.com, x_y\nb.com\n")
        result = run("check", file)
        assert result.returncode == 1
        assert result.stdout.splitlines() == [
            f"{file}:2:15: error: a label may hold letters, digits and inner hyphens,"
            " nothing else [bad-host]",
            "    a.com, 例.com, x_y",
            "                   ^",
            f"{file}: bad: 3 API and 3 Socket.io endpoints, 1 error, 0 warnings",
        ]

    def test_warnings_pass_unless_strict(self, tmp_path: Path) -> None:
        """Warnings (fewer than two endpoints, plain http) pass unless --strict is given."""
        file = write(tmp_path, "ApiList:\nhttp://a.com\n")
        assert run("check", file).returncode == 0
        result = run("check", file, "--strict")
        assert result.returncode == 1
        assert "[few-endpoints]" in result.stdout
        assert "[plain-http]" in result.stdout
        assert "bad: 1 API and 0 Socket.io endpoints, 0 errors, 3 warnings" in result.stdout

    def test_a_file_without_entries_is_an_error(self, tmp_path: Path) -> None:
        """A file without entries is an error, because a server refuses it."""
        result = run("check", write(tmp_path, "# nothing\n"))
        assert result.returncode == 1
        assert "[no-endpoints]" in result.stdout

    def test_json(self, tmp_path: Path) -> None:
        """--json prints a document for programs, also if the file cannot be read."""
        file = write(tmp_path, "DomainList:\na.com\nx_y\nb.com\n")
        result = run("check", file, "--json")
        assert result.returncode == 1
        document = json.loads(result.stdout)
        assert document["ok"] is False
        assert document["counts"] == {"api": 2, "socketio": 2, "errors": 1, "warnings": 0}
        (problem,) = document["problems"]
        assert (problem["code"], problem["line"], problem["column"]) == ("bad-host", 3, 1)
        document = json.loads(run("check", str(tmp_path / "none"), "--json").stdout)
        assert document["problems"][0]["code"] == "missing"
        assert json.loads(run("check", "--json").stdout)["ok"] is True

    def test_more_than_a_hundred_problems(self, tmp_path: Path) -> None:
        """After a hundred problems the command only prints the number of the others."""
        result = run("check", write(tmp_path, "DomainList:\na.com\nb.com\n" + "x_y\n" * 150))
        assert "… and 50 more" in result.stdout
        assert "150 errors" in result.stdout

    def test_a_terminal_gets_colours_and_a_pipe_none(self, tmp_path: Path) -> None:
        """Output has colours only on a terminal, and the caret is under its column there too."""
        file = write(tmp_path, "DomainList:\na.com, x_y\nb.com\n")
        shown = on_a_terminal("check", file)
        assert "\x1b[31m\x1b[1merror: \x1b[0m" in shown
        assert "\x1b[31m\x1b[1m^\x1b[0m" in shown
        assert "\x1b" not in run("check", file).stdout

    def test_no_password_is_shown(self, tmp_path: Path) -> None:
        """No password is printed, not even in the quoted line."""
        file = write(tmp_path, "DomainList:\na.com, joe:hun,ter@b.com, x_y\n")
        for arguments in (["check", file], ["check", file, "--json"], ["show", file]):
            result = run(*arguments)
            assert not any(w in result.stdout + result.stderr for w in ("joe", "hun", "ter@"))

    @pytest.mark.parametrize(
        ("line", "column", "shown", "indent"),
        [
            ("abc", 1, "abc", 0),
            ("a\tb", 3, "a b", 2),
            ("例 x", 3, "例 x", 3),
            ("a" * 200 + "x", 201, "…x", 1),
            ("x" * 300, 1, "x" * 99 + "…", 0),
            ("a\x1b[31mb", 1, "a [31mb", 0),
        ],
    )
    def test_a_line_is_made_fit_to_be_shown(
        self, line: str, column: int, shown: str, indent: int
    ) -> None:
        """The caret stands under the right column, whatever characters the line holds."""
        assert quote(line, column) == (shown, indent)


class TestShow:
    """``mop-config show``."""

    def test_a_pipe_gets_the_body_and_a_newline(self) -> None:
        """In a pipe the command prints exactly the body that a server answers, and a newline."""
        result = run("show")
        assert result.returncode == 0
        assert json.loads(result.stdout) == GUIDE_JSON
        assert result.stdout.count("\n") == 1
        assert result.stderr == ""

    def test_a_terminal_gets_it_indented(self) -> None:
        """On a terminal the JSON is indented."""
        shown = on_a_terminal("show")
        assert json.loads(shown) == GUIDE_JSON
        assert shown.count("\n") > 20

    def test_problems_go_to_standard_error(self, tmp_path: Path) -> None:
        """Problems go to standard error, so standard output stays JSON."""
        result = run("show", write(tmp_path, "DomainList:\na.com\nx_y\nb.com"))
        assert result.returncode == 1
        assert len(json.loads(result.stdout)["api_endpoints"]) == 2
        assert "line 3, column 1" in result.stderr

    def test_the_state_folder_is_never_read(self, tmp_path: Path) -> None:
        """The command shows the file, and never the last good list in the state folder."""
        file = tmp_path / "endpoints.txt"
        file.write_text(SAMPLE.read_text())
        with running(tmp_path, file, workers=1):
            pass
        file.unlink()
        assert run("show", str(file), ENDPOINT_STATE_DIR=str(tmp_path / "state")).returncode == 1

    def test_the_settings_apply(self) -> None:
        """The settings apply as in a server."""
        body = json.loads(run("show", ENDPOINT_DEFAULT_PORT="8443", ENDPOINT_API_PATH="").stdout)
        assert body["api_endpoints"][0]["url"] == "https://log.ym1.com:8443"

    def test_the_difference_to_a_running_server(self, tmp_path: Path) -> None:
        """The exit code is 0 for equal lists, 1 for a difference, and 1 if no server answers."""
        file = tmp_path / "endpoints.txt"
        file.write_text("DomainList:\na.com\nb.com\n")
        other = write(tmp_path, "DomainList:\na.com\nc.com priority=9\n")
        with running(tmp_path, file, workers=1) as server:
            url = f"http://127.0.0.1:{server.port}"
            for spelling in (url, url + "/", url + "/api/v1", url + ENDPOINTS):
                assert run("show", str(file), "--diff", spelling).returncode == 0
            assert run("show", str(file), "--diff", url).stdout == ""
            shown = on_a_terminal("show", str(file), "--diff", url)
            assert shown == f"no difference to what {url} serves\r\n"
            result = run("show", other, "--diff", url)
            assert result.returncode == 1
            lines = result.stdout.splitlines()
            assert "- api https://b.com/api/v1 priority=1" in lines
            assert "+ api https://c.com/api/v1 priority=9" in lines
            answer = run("show", str(file), "--diff", url + "/nope")
            assert answer.returncode == 1
            assert "404" in answer.stderr
        result = run("show", str(file), "--diff", url)
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1


class TestServe:
    """``mop-config serve``."""

    def test_it_serves_from_any_folder(self, tmp_path: Path) -> None:
        """The server runs from any folder, prefers options to variables, and stops cleanly."""
        file = tmp_path / "mine.txt"
        file.write_text("DomainList:\na.com\nb.com\n")
        command = [
            *("env", "-C", str(tmp_path), sys.executable, "-m", "mop_config"),
            *("serve", "mine.txt", "--port", "0", "--workers", "1", "--worker-class", "sync"),
        ]
        with running(tmp_path, "/nonexistent", command=command, PORT="1", workers=1) as server:
            assert server.hosts() == ["a.com", "b.com"]
            assert "worker.SynchronousWorker\n" in server.log
            assert server.status()["source"] == str(file)
            file.write_text("DomainList:\nc.com\n")
            wait_for(lambda: server.hosts() == ["c.com"])
            assert server.stop() == 0

    def test_it_says_where_the_dashboard_is(self, tmp_path: Path) -> None:
        """The command prints the dashboard's URL, also with a free port or a wildcard host."""
        command = [sys.executable, "-m", "mop_config", "serve"]
        with running(tmp_path, SAMPLE, command=command, workers=1, HOST="0.0.0.0") as server:
            url = f"http://127.0.0.1:{server.port}/"
            wait_for(lambda: f"The dashboard: {url}\n" in server.log)
            assert server.get("/").status == 200

    @pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0", "::1"])
    def test_a_busy_port_is_one_line(self, host: str) -> None:
        """A busy port prints one line that names the variable, at once, and no gunicorn output."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.create_server((host, 0), family=family) as taken:
            port = taken.getsockname()[1]
            began = time.monotonic()
            result = run("serve", HOST=host, PORT=str(port))
            assert time.monotonic() - began < 4
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert f"PORT={port} cannot be used: another program listens at" in result.stderr

    def test_an_address_of_another_machine(self) -> None:
        """An address of another machine prints one line that names HOST."""
        result = run("serve", HOST="192.0.2.1")
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(r"mop-config: HOST=192\.0\.2\.1 cannot be used: .*\n", result.stderr)

    def test_it_works_from_an_installed_wheel(self, tmp_path: Path) -> None:
        """The installed wheel contains every file that the server needs."""
        # A copy, because setuptools would pack what an earlier build has left in the folder.
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / "mop_config", tmp_path / "mop_config", ignore=ignored)
        for name in ("LICENSE", "README.md", "pyproject.toml", "setup.cfg"):
            shutil.copy(ROOT / name, tmp_path)
        # pip builds a wheel of the folder, and installs that wheel.
        pip = [sys.executable, "-m", "pip", "--quiet", "install", "--no-deps", "--no-compile"]
        command = [*pip, "--no-build-isolation", "--target", str(tmp_path / "site"), str(tmp_path)]
        result = subprocess.run(command, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        file = tmp_path / "endpoints.txt"
        file.write_text("DomainList:\na.com\nb.com\n")
        command = ["env", "-C", "/", sys.executable, "-m", "mop_config", "serve", str(file)]
        site = str(tmp_path / "site")
        with running(tmp_path, file, command=command, workers=1, PYTHONPATH=site) as server:
            assert server.hosts() == ["a.com", "b.com"]
            file.write_text("DomainList:\nc.com\n")
            wait_for(lambda: server.hosts() == ["c.com"])
            loaded = Path(f"/proc/{server.workers[0]}/cmdline").read_text()
            assert "mop_config:create_app()" in loaded
