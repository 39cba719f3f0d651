"""A bind-mounted file in a container keeps its old content when the host replaces the file."""

import contextlib
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import skip
from ..servers import ENDPOINTS, STATUS, Server, running
from ..waiting import wait_for
from .test_hanging import successful

GOOD = "DomainList:\na.example\nb.example\n"
NEW = "DomainList:\nc.example\nd.example\n"


@contextlib.contextmanager
def bound(host: Path, inside: Path) -> Iterator[None]:
    """Bind-mount one file over another, as container engines do."""
    inside.touch()
    command = ["mount", "--bind", str(host), str(inside)]
    if os.geteuid() != 0 or subprocess.run(command, check=False, capture_output=True).returncode:
        skip("no file can be mounted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(inside)], check=True)


def replace(host: Path) -> None:
    scratch = host.with_name("scratch")
    scratch.write_text(NEW)
    scratch.replace(host)


def reason(server: Server) -> str:
    return str(server.get("/ready").json["reason"])


@pytest.mark.parametrize("change", [replace, Path.unlink])
def test_a_replaced_or_removed_original_is_said(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    host, inside = tmp_path / "host.txt", tmp_path / "mounted file.txt"
    host.write_text(GOOD)
    with bound(host, inside), running(tmp_path, inside) as server:
        host.write_text(NEW)
        wait_for(lambda: server.all_serve("c.example", "d.example"), what="an edit in place")
        assert server.all_are("fresh")
        change(host)
        wait_for(lambda: server.all_are("stale"), what="every worker says it")
        assert server.get("/ready").status == 200
        wait_for(lambda: "mount the folder" in reason(server), what="each worker knows why")
        status = server.status()
        assert "mount the folder" in status["last_reload"]["error"]
        assert [problem["code"] for problem in status["problems"]] == ["detached"]
        assert not successful(server)
        assert server.all_serve("c.example", "d.example")
        with running(tmp_path, inside, ENDPOINT_STATE_DIR=str(tmp_path / "other")) as second:
            assert second.all_serve("c.example", "d.example"), "it is all that there is"
            wait_for(lambda: second.all_are("stale"), what="every worker says it")
            wait_for(lambda: "mount the folder" in reason(second), what="each worker knows why")


def test_a_file_whose_mount_is_made_anew_is_fresh_again(tmp_path: Path) -> None:
    host, inside = tmp_path / "host.txt", tmp_path / "mounted.txt"
    host.write_text(GOOD)
    with contextlib.ExitStack() as first:
        first.enter_context(bound(host, inside))
        with running(tmp_path, inside) as server:
            replace(host)
            wait_for(lambda: server.all_are("stale"), what="every worker says it")
            first.close()
            with bound(host, inside):
                wait_for(lambda: server.all_serve("c.example", "d.example"), what="the new mount")
                # The list is served before the worker's record of it is written.
                wait_for(lambda: server.all_are("fresh"), what="every worker says so")


def test_a_replaced_token_file_is_said(tmp_path: Path) -> None:
    """The status and the log name the mount; the tokens that the mount shows stay valid."""
    file, host, inside = tmp_path / "endpoints.txt", tmp_path / "host", tmp_path / "tokens"
    file.write_text(GOOD)
    host.write_text(f"ops:{hashlib.sha256(b'secret').hexdigest()}:admin\n")
    with (
        bound(host, inside),
        running(
            tmp_path, file, workers=0, WEB_CONCURRENCY="1", ENDPOINT_TOKENS_FILE=str(inside)
        ) as server,
    ):
        shown = {"Authorization": "Bearer secret"}
        wait_for(lambda: server.get(ENDPOINTS, **shown).status == 200, what="the token is good")
        replace(host)

        def codes() -> list[str]:
            return [each["code"] for each in server.get(STATUS, **shown).json["problems"]]

        wait_for(lambda: codes() == ["detached"], what="the status says it")
        wait_for(lambda: "mount the folder" in server.log, what="a thread writes the log")
        answer = server.request("POST", "/api/v1/config/reload", **shown)
        assert (answer.status, answer.json["problems"]) == (200, []), "the list has no problem"
