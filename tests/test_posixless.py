"""The client and its commands without the POSIX modules, as on Windows."""

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mop_config.model.jws import SigningKey

from .client.handmade import handmade, wire
from .client.test_update_real import serves
from .conftest import SAMPLE

ROOT = Path(__file__).parent.parent

#: A client in a process of its own: a request, a list, and the cache of both.
APPLICATION = """
import sys
from pathlib import Path
from mop_config.client import AsyncEndpointManager, EndpointManager

url, cache = sys.argv[1:]
with EndpointManager([url], cache_path=cache, update_interval=0, trust_env=False) as manager:
    assert manager.client().get("/users").status_code == 200
    manager.add_api_endpoint("https://b.example", 7)
with EndpointManager([url], cache_path=cache, update_interval=0) as manager:
    assert [each.priority for each in manager.api_endpoints] == [0, 7], manager.api_endpoints
assert AsyncEndpointManager([url])
print("it works")
"""


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a module with the names hidden that Windows does not have."""
    command = [sys.executable, "-m", "tests.posixless", *arguments]
    return subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_client_sends_requests_and_keeps_its_list(tmp_path: Path) -> None:
    """The client sends a request to a real server and keeps its list."""
    program = tmp_path / "application.py"
    program.write_text(APPLICATION)
    code = f"import runpy, tests.posixless as p; p.hide(); runpy.run_path({str(program)!r})"
    with handmade(serves(200, b"[]")) as server:
        command = [sys.executable, "-c", code, server.url, str(tmp_path / "list.json")]
        done = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
        )
    assert (done.returncode, done.stdout) == (0, "it works\n"), done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "shown"),
    [
        (["check", str(SAMPLE)], 0, "6 API and 6 Socket.io endpoints"),
        (["qr", str(SAMPLE), "--format", "single"], 0, "api_url"),
        (["watch", "--help"], 0, "mop-config watch"),
        (["--help"], 0, "verify"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else None,
)
def test_commands(arguments: Sequence[str], status: int, shown: str) -> None:
    """No command fails because of a missing POSIX module, at its imports or later."""
    done = run("mop_config", *arguments)
    assert done.returncode == status, done.stderr
    assert shown in done.stdout


def test_commands_that_ask_a_server(tmp_path: Path) -> None:
    """A list is probed, watched and verified."""
    listed = tmp_path / "endpoints.txt"
    with handmade(serves(200, wire(["http://127.0.0.1:9"]))) as server:
        listed.write_text(f"ApiList:\n{server.url}\n")
        done = run("mop_config", "probe", str(listed))
        assert "healthy" in done.stdout, done.stderr
        command = [sys.executable, "-m", "tests.posixless", "mop_config", "watch", server.url]
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as watch:
            assert watch.stdout is not None
            line = watch.stdout.readline()
            watch.kill()
        assert "1 API and 0 Socket.io endpoints" in line
    key = SigningKey.generate()
    public, signed = tmp_path / "public.jwk", tmp_path / "list.jws"
    public.write_text(json.dumps(key.public))
    body = wire(["https://a.example"])
    signed.write_bytes(key.sign(body, ver=1, iat=1_760_000_000, exp=4_102_444_800))
    done = run("mop_config", "verify", str(signed), "--key", str(public))
    assert done.returncode == 0, done.stderr
    assert "ok: 1 API" in done.stdout
