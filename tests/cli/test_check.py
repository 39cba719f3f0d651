"""``mop-config check``: its health checks, and the comparison with the list of a server."""

import json
import re
from pathlib import Path

import pytest

from ..client.handmade import handmade
from ..ports import closed_port
from ..servers import running
from .forks import run
from .test_cli import on_a_terminal, write
from .test_probe import both, listing


def test_endpoints_that_fail_are_warnings(tmp_path: Path) -> None:
    """Endpoints that fail their health check are warnings, and errors with --strict."""
    dead = f"http://127.0.0.1:{closed_port()}"
    with handmade(both) as server:
        file = listing(
            tmp_path, server.url, dead, sockets=(server.url, server.url.replace("http", "ws"))
        )
        result = run("check", file, "--probe")
        assert result.returncode == 0
        line = f"warning: api {dead} is not healthy: refused (Connection refused)"
        assert line in result.stdout.splitlines()
        assert result.stdout.splitlines()[-1].endswith(", 1 endpoint not healthy")
        result = run("check", file, "--probe", "--strict")
        assert result.returncode == 1
        assert line.replace("warning", "error", 1) in result.stdout.splitlines()
        document = json.loads(run("check", file, "--probe", "--json").stdout)
    assert document["ok"] is True
    assert [each["healthy"] for each in document["endpoints"]].count(False) == 1
    assert {each["fault"] for each in document["endpoints"]} == {None, "refused"}


def test_strict_passes_where_all_are_healthy(tmp_path: Path) -> None:
    """Without --probe the command sends no request; with --strict, healthy endpoints pass."""
    file = write(tmp_path, "DomainList:\none.invalid\ntwo.invalid\n")
    assert run("check", file, "--strict").returncode == 0
    assert run("check", file, "--strict", "--probe").returncode == 1


def test_what_would_change_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command compares with the named server, and on a terminal with this machine's server."""
    served = tmp_path / "served.txt"
    served.write_text("DomainList:\na.example\nold.example\n")
    file = write(tmp_path, "DomainList:\na.example priority=5\nnew.example\n")
    with running(tmp_path, served, workers=1) as server:
        url = f"http://127.0.0.1:{server.port}"
        lines = [
            f"against {url}: 6 changes",
            "  - api https://old.example/api/v1 priority=1",
            "  - socketio https://old.example priority=1",
            "  + api https://new.example/api/v1 priority=1",
            "  + socketio https://new.example priority=1",
            "  ~ api https://a.example/api/v1 priority=5 (was priority=0)",
            "  ~ socketio https://a.example priority=5 (was priority=0)",
        ]
        result = run("check", file, "--against", url)
        assert result.returncode == 0
        assert result.stdout.splitlines()[-7:] == lines
        document = json.loads(run("check", file, "--against", url, "--json").stdout)
        assert [entry["url"] for entry in document["change"]["added"]] == [
            "https://new.example/api/v1",
            "https://new.example",
        ]
        assert document["confirm"] == []
        assert "against" not in run("check", file).stdout
        guard = {"ENDPOINT_MAX_REMOVED": "0.4"}
        wanted = ["# confirm: removes 1 api", "# confirm: removes 1 socket"]
        result = run("check", file, "--against", url, **guard)
        assert [line.partition(": ")[2] for line in result.stdout.splitlines()[-2:]] == wanted
        confirmed = write(tmp_path, "\n".join([Path(file).read_text(), *wanted, ""]))
        document = json.loads(run("check", confirmed, "--against", url, "--json", **guard).stdout)
        assert document["confirm"] == []
        # Whether the served text has the lines too, and so has used them, only the server knows.
        lines_there = run("check", confirmed, "--against", url, **guard).stdout.splitlines()[-2:]
        for line, there in zip(wanted, lines_there, strict=True):
            assert f"{line} (it is there, and counts if it is new" in there
        monkeypatch.setenv("PORT", str(server.port))
        shown = re.sub("\x1b[^m]*m", "", on_a_terminal("check", file))
        assert [line.rstrip() for line in shown.splitlines()][-7:] == lines
        shown = on_a_terminal("check", str(served))
        assert shown.rstrip().endswith(f"against {url}: 0 changes")
    result = run("check", file, "--against", url)
    assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)
    assert f"{file}: ok: " in result.stdout, "the file is judged all the same"
    result = run("check", file, "--against", url, "--json")
    assert (result.returncode, result.stdout, len(result.stderr.splitlines())) == (1, "", 1)
    shown = on_a_terminal("check", file)
    assert f"not compared with what is served: {url}" in shown


def test_a_kind_that_the_server_would_miss(tmp_path: Path) -> None:
    """A text without endpoints of a served kind is refused where a least number is set."""
    guard = {"ENDPOINT_MIN_ENDPOINTS": "1"}
    served = tmp_path / "served.txt"
    served.write_text("DomainList:\na.example\nb.example\n")
    file = write(tmp_path, "ApiList:\na.example\nb.example\n")
    with running(tmp_path, served, workers=1) as server:
        url = f"http://127.0.0.1:{server.port}"
        assert run("check", file, "--against", url).returncode == 0
        result = run("check", file, "--against", url, **guard)
        assert result.returncode == 1
        reason = "the file has 0 usable Socket.io endpoints, and ENDPOINT_MIN_ENDPOINTS is 1"
        assert result.stdout.splitlines()[-1] == f"  the server would refuse it: {reason}"
        result = run("check", file, "--against", url, "--json", **guard)
        assert (result.returncode, json.loads(result.stdout)["refused"]) == (1, reason)
    assert run("check", file, **guard).returncode == 0


def test_a_warning_of_a_setting_counts_if_strict(tmp_path: Path) -> None:
    """``--strict`` makes every warning an error, also that of an unknown variable."""
    file = str(tmp_path / "endpoints.txt")
    Path(file).write_text("DomainList:\na.example\nb.example\n")
    assert run("check", file, "--strict").returncode == 0
    assert run("check", file, ENDPOINT_FOO="1").returncode == 0
    result = run("check", file, "--strict", ENDPOINT_FOO="1")
    assert result.returncode == 1
    assert "ENDPOINT_FOO" in result.stderr
