"""``mop-config status``, and ``--env-file``, which reads the settings of a service."""

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mop_config.cli import COMMANDS
from mop_config.cli.input import parse_environment
from mop_config.model.endpoint import rfc3339

from ..client.handmade import MISSING, OK, handmade
from ..conftest import SAMPLE, need_program
from ..ports import closed_port
from ..servers import running
from ..waiting import wait_for
from .forks import run
from .test_cli import on_a_terminal

FILE = "ApiList:\n{up}\n{other}\nSocketList:\nhttps://one.example\nhttps://two.example\n"


@pytest.fixture(scope="module")
def document(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the status document of a healthy server."""
    folder = tmp_path_factory.mktemp("status")
    with running(folder, SAMPLE, workers=1) as server:
        return json.dumps(server.status())


class TestStatus:
    """``status`` prints one screen and sets the exit code."""

    def test_all_is_well(self, tmp_path: Path) -> None:
        """A healthy server exits with 0, with colours only on a terminal."""
        with running(tmp_path, SAMPLE) as server:
            url = f"http://127.0.0.1:{server.port}"
            result = run("status", url)
            assert (result.returncode, result.stderr) == (0, "")
            shown = dict(re.findall(r"^(\w+) +(.*)$", result.stdout, re.MULTILINE))
            assert shown["status"] == "Fresh"
            assert (shown["server"], shown["source"]) == (url, str(SAMPLE))
            assert shown["serving"].startswith("6 API, 6 Socket.io, since 20")
            assert shown["workers"] == "all 2 workers serve the same list"
            assert shown["endpoints"] == "not probed"
            assert shown["problems"] == "0 errors, 0 warnings"
            assert re.fullmatch(r"20\S+Z applied \(start\): 12 added, .*", shown["reloads"])
            assert "\x1b" not in result.stdout
            assert "\x1b[32m\x1b[1mFresh" in on_a_terminal("status", url)
            document = json.loads(run("status", url, "--json").stdout)
            assert document["ok"] is True
            assert document["findings"] == [{"level": "good", "text": "Fresh"}]
            assert document["etag"] == server.status()["etag"]

    def test_what_is_wrong_is_named_the_worst_first(self, tmp_path: Path) -> None:
        """Each problem (endpoints down, entries left out) exits with 1, the worst first."""
        file = tmp_path / "endpoints.txt"
        dead = f"http://127.0.0.1:{closed_port()}"
        with handmade(lambda request: OK if "health" in request.path else MISSING) as alive:
            file.write_text(f"ApiList:\n{alive.url}\n{dead}\n" + "bad_host\n" * 9)
            with running(tmp_path, file, workers=1, ENDPOINT_PROBE_INTERVAL="0.2") as server:
                url = f"http://127.0.0.1:{server.port}"
                wait_for(
                    lambda: "1 of 2 API endpoints is down" in run("status", url).stdout,
                    seconds=60,
                    what="the dead endpoint is known to be down",
                )
                result = run("status", url)
                assert result.returncode == 1
                assert re.match(r"status +1 of 2 API endpoints is down\n", result.stdout)
                assert "Served without 9 faulty entries" in result.stdout
                assert re.search(rf"down: api {dead} \(.+\)", result.stdout)
                assert re.search(r"^endpoints +1 of 2 up, ", result.stdout, re.MULTILINE)
                assert result.stdout.count("[bad-host]") == 5
                assert "4:1: error: " in result.stdout
                assert len(result.stdout.splitlines()) <= 24, "it is one screen"
                done = run("status", url, "--json")
                document = json.loads(done.stdout)
                assert (done.returncode, document["ok"]) == (1, False)
                assert document["findings"][0]["level"] == "warn"
                file.unlink()
                wait_for(lambda: server.status()["state"] == "rejected", seconds=30)
                result = run("status", url)
                assert result.returncode == 1
                assert re.match(r"status +Rejected\n", result.stdout)
                assert re.search(r"^state +rejected: .* is missing$", result.stdout, re.MULTILINE)

    def test_warnings_alone_are_well(self, tmp_path: Path) -> None:
        """Warnings alone exit with 0, as for ``check``."""
        file = tmp_path / "endpoints.txt"
        file.write_text("ApiList:\nhttp://a.example\n")
        with running(tmp_path, file, workers=1) as server:
            result = run("status", f"http://127.0.0.1:{server.port}")
        assert result.returncode == 0
        assert "[plain-http]" in result.stdout
        assert run("check", str(file)).returncode == 0

    @pytest.mark.parametrize(
        "body", [b"[]", b"{", b"null", b'"x"', b"{}", b'{"state":"fresh"}', b"[" * 100_000]
    )
    def test_a_server_that_gives_no_status(self, body: bytes) -> None:
        """A server without a status document exits with 1 and prints one line."""
        with handmade(lambda request: (200, {}, body)) as server:
            result = run("status", server.url)
        assert (result.returncode, result.stdout) == (1, "")
        where = f"{server.url}/api/v1/config/status"
        expected = f"{where} did not return a status; is this a mop-config server?"
        assert result.stderr == f"mop-config: {expected}\n"

    def test_a_certificate_that_ends_soon_is_shown(self, document: str) -> None:
        """A certificate with less than 14 days left has a line; warnings are no failure."""
        changed = json.loads(document)
        ends = {days: rfc3339(time.time() + days * 86400) for days in (4, 20)}
        changed["health"] = {
            "interval_seconds": 30.0,
            "alive": True,
            "pid": 1,
            "endpoints": [
                {"kind": "api", "url": f"https://in{days}.example", "up": True, "detail": ""}
                | {"state": "healthy", "failures": 0, "certificate_expires": at}
                for days, at in (*ends.items(), (0, None))
            ],
        }
        with handmade(lambda request: (200, {}, json.dumps(changed).encode())) as other:
            result = run("status", other.url)
        assert result.returncode == 0
        assert f"certificate ends {ends[4]}: api https://in4.example\n" in result.stdout
        assert result.stdout.count("certificate ends") == 1

    def test_a_server_that_is_hostile_or_away(self, document: str) -> None:
        """A hostile server's text reaches the terminal without control characters."""
        result = run("status", f"http://127.0.0.1:{closed_port()}")
        assert (result.returncode, result.stdout) == (1, "")
        assert "gives no answer" in result.stderr
        assert len(result.stderr.splitlines()) == 1
        hostile = json.loads(document)
        hostile["source"] = "\x1b]0;owned\x07\nforged line"
        hostile["problems"] = [
            {"severity": "warning", "code": "x", "line": 1, "column": 1, "message": "\x1b[2J"}
            | {"text": "\x9b"}
        ]
        with handmade(lambda request: (200, {}, json.dumps(hostile).encode())) as other:
            shown = run("status", other.url).stdout
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", shown)
        assert "\nforged" not in shown


#: An underscore stands for a space, so that spaces at the end of a line are visible.
SYSTEMD = r"""
# a comment
; another one
A1=plain
 A2 = spaced value__
A3="quoted value"__
A4='single \ "quoted"'
A5="a\"b\\c\nd\`e"
A9=a"b"'c'
A12=a#b # c
A13=  "  kept  "__
A15=x=y==z
A16=中文 "值"
A19=
A20=""
A21={"a": 1}
A1=the last one counts
""".replace("_", " ")
#: The program of systemd that reads such files; a test compares the parser with its output.
GENERATOR = "/usr/lib/systemd/user-environment-generators/30-systemd-environment-d-generator"


class TestEnvFile:
    """The parser follows systemd's quoting rules."""

    def test_values(self) -> None:
        """Plain and quoted values are read, with the escapes in double quotes."""
        assert parse_environment("x", SYSTEMD) == {
            "A1": "the last one counts",
            "A2": "spaced value",
            "A3": "quoted value",
            "A4": 'single \\ "quoted"',
            "A5": 'a"b\\c\\nd`e',
            "A9": "a\"b\"'c'",
            "A12": "a#b # c",
            "A13": "  kept  ",
            "A15": "x=y==z",
            "A16": '中文 "值"',
            "A19": "",
            "A20": "",
            "A21": '{"a": 1}',
        }
        assert parse_environment("x", "A=1\r\nB='2'\r\n") == {"A": "1", "B": "2"}

    def test_systemd_says_the_same(self, tmp_path: Path) -> None:
        """systemd reads environment files of a user session with the same code, and agrees."""
        if not Path(GENERATOR).exists():
            need_program("systemd-environment-d-generator")
        (tmp_path / "environment.d").mkdir()
        (tmp_path / "environment.d" / "x.conf").write_text(SYSTEMD)
        done = subprocess.run(
            [GENERATOR],
            env={"XDG_CONFIG_HOME": str(tmp_path), "LC_ALL": "C.UTF-8"},
            capture_output=True,
            text=True,
            check=True,
        )
        theirs = dict(parse_printed(done.stdout))
        found = parse_environment("x", SYSTEMD)
        # The generator does not print empty values.
        ours = {name: value for name, value in found.items() if value}
        assert {name: value for name, value in theirs.items() if name in ours} == ours

    def test_the_settings_of_a_service_apply(self, tmp_path: Path) -> None:
        """The file's settings override the environment; command-line options override both."""
        (tmp_path / "a.txt").write_text("DomainList:\na.example\nb.example\n")
        (tmp_path / "environment").write_text(
            f"# settings\nENDPOINT_CONFIG_FILE=\"{tmp_path}/a.txt\"\nENDPOINT_API_PATH='/v7'\n"
        )
        options = ("--env-file", str(tmp_path / "environment"))
        environ = {"ENDPOINT_API_PATH": "/v1", "ENDPOINT_CONFIG_FILE": "/nonexistent"}
        body = json.loads(run("show", *options, **environ).stdout)
        assert body["api_endpoints"][0]["url"] == "https://a.example/v7"
        assert run("check", *options, **environ).returncode == 0
        assert "a.example/v7" in run("qr", *options, **environ).stdout
        assert run("publish", *options, "--out", str(tmp_path / "out"), **environ).returncode == 0
        assert "/v7" in (tmp_path / "out/api/v1/config/endpoints").read_text()
        shown = run("show", str(SAMPLE), *options, **environ)
        assert "https://log.ym1.com/v7" in shown.stdout

    def test_a_server_starts_with_it(self, tmp_path: Path) -> None:
        """A server starts with the file, as the unit starts it."""
        (tmp_path / "a.txt").write_text("DomainList:\na.example\nb.example\n")
        (tmp_path / "environment").write_text(
            f'ENDPOINT_CONFIG_FILE={tmp_path}/a.txt\nSERVICE_NAME="the service"\n'
        )
        program = [sys.executable, "-m", "mop_config", "serve"]
        command = [*program, "--env-file", str(tmp_path / "environment")]
        with running(tmp_path, "/nonexistent", command=command, workers=1) as server:
            assert server.hosts() == ["a.example", "b.example"]
            assert server.get("/health").json["service"] == "the service"

    @pytest.mark.parametrize(
        ("data", "reason"),
        [
            (None, "cannot be read: No such file"),
            (b"A=\xff", "or not UTF-8 text"),
            (b"A=\0", "or not UTF-8 text"),
            (b"A=" + b"x" * 70_000, "too large"),
        ],
    )
    def test_a_file_that_cannot_be_used(
        self, tmp_path: Path, data: bytes | None, reason: str
    ) -> None:
        """An unusable file exits with 1 and one line; an empty name is a wrong call."""
        file = tmp_path / "environment"
        if data is not None:
            file.write_bytes(data)
        result = run("check", "--env-file", str(file))
        assert (result.returncode, result.stdout) == (1, "")
        assert reason in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert run("check", "--env-file", "").returncode == 2

    @pytest.mark.parametrize(
        ("line", "name"),
        [
            ("export ENDPOINT_TOKENS=secret", "export ENDPOINT_TOKENS"),
            ("frob", "frob"),
            ("9BAD=secret", "9BAD"),
            ("A=secret \\", "A"),
            ("A=se\\cret", "A"),
            ('A="secret', "A"),
            ("A='secret", "A"),
            ('A="secret" more', "A"),
            ("A='se'\"cret\"", "A"),
        ],
    )
    def test_another_line_is_an_error_without_its_value(
        self, tmp_path: Path, line: str, name: str
    ) -> None:
        """A line that systemd would pass over or join to others is refused, without its value."""
        (tmp_path / "environment").write_text(f"B=1\n{line}\nC=2\n")
        result = run("check", "--env-file", str(tmp_path / "environment"))
        assert (result.returncode, result.stdout) == (1, "")
        assert f"environment:2: {name!r} is not NAME=value on one line" in result.stderr
        assert result.stderr.count("\n") == 1
        assert "secret" not in result.stderr

    def test_every_command_that_reads_settings_takes_it(self) -> None:
        """Every command that reads settings accepts --env-file, and no other command does."""
        needless = {"keygen", "token", "verify", "watch"}
        for command in COMMANDS:
            assert ("--env-file" in run(command, "--help").stdout) == (command not in needless)


def parse_printed(text: str) -> list[tuple[str, str]]:
    """Parse the generator's output: C escapes, and quotes around values that need quoting."""
    found = []
    for line in text.splitlines():
        name, _, value = line.partition("=")
        if value.startswith('"') and value.endswith('"') and len(value) > 1:
            value = re.sub(r"\\(.)", lambda m: {"n": "\n", "t": "\t"}.get(m[1], m[1]), value[1:-1])
        found.append((name, value))
    return found
