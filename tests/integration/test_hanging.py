"""Hanging parts: a mount whose server does not answer, a reload thread that hangs."""

import re
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from ..mounts import hanging_mount
from ..servers import ROOT, Server, gunicorn_command, running
from ..waiting import wait_for

#: Maximum seconds of a stop, whatever hangs.
STOP = 6.0
#: Maximum seconds until the status reports a hanging thread.
SAID = 12.0


def text(*hosts: str) -> str:
    return "DomainList:\n" + "".join(f"{host}\n" for host in hosts)


GOOD = text("a.example", "b.example").encode()
OTHER = text("c.example", "d.example").encode()


def ready(server: Server) -> tuple[int, Any]:
    answer = server.get("/ready")
    return answer.status, answer.json


def successful(server: Server) -> bool:
    metrics = server.get("/metrics").body.decode()
    found = re.search(r"^mop_config_last_reload_successful (\S+)$", metrics, re.MULTILINE)
    assert found is not None
    return float(found[1]) == 1


def all_are_stale(server: Server) -> bool:
    answers = [ready(server) for _ in range(6)]
    return all(status == 200 and told["state"] == "stale" for status, told in answers)


def all_have_failed(server: Server) -> bool:
    """Whether the last reload of each worker is an error, also of those that no request reached."""
    workers = server.status()["workers"]
    return all(worker["last_reload"]["result"] == "error" for worker in workers)


def stop(server: Server, number: int = signal.SIGTERM) -> float:
    began = time.monotonic()
    server.process.send_signal(number)
    server.process.wait(40)
    return time.monotonic() - began


def test_a_mount_that_hangs_is_said_and_stops_neither_requests_nor_a_stop(tmp_path: Path) -> None:
    with (
        hanging_mount(tmp_path / "mount", GOOD) as mount,
        running(tmp_path, mount.file) as server,
    ):
        assert ready(server)[1]["state"] == "fresh"
        mount.hang()
        wait_for(lambda: all_have_failed(server), seconds=SAID, what="every worker has looked")
        wait_for(lambda: all_are_stale(server), seconds=SAID, what="every worker says it")
        assert "hangs" in ready(server)[1]["reason"]
        status = server.status()
        assert status["state"] == "stale"
        assert status["last_reload"]["result"] == "error"
        assert [problem["code"] for problem in status["problems"]] == ["unreachable"]
        assert not successful(server)
        assert server.hosts() == ["a.example", "b.example"], "the list is served as ever"
        mount.write(OTHER)
        mount.hang(hangs=False)
        wait_for(lambda: server.all_serve("c.example", "d.example"), what="the edit is seen")
        wait_for(lambda: server.all_are("fresh"), what="all is well again")
        assert successful(server)
        mount.hang()
        assert stop(server) < STOP


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_mount_that_has_hung_for_long_does_not_hold_a_stop(tmp_path: Path, number: int) -> None:
    with (
        hanging_mount(tmp_path / "mount", GOOD) as mount,
        running(tmp_path, mount.file) as server,
    ):
        mount.hang()
        wait_for(lambda: all_are_stale(server), seconds=SAID, what="every worker says it")
        assert stop(server, number) < STOP


def test_a_start_on_a_mount_that_hangs_serves_the_last_good_list(tmp_path: Path) -> None:
    with hanging_mount(tmp_path / "mount", GOOD) as mount:
        with running(tmp_path, mount.file):
            pass
        mount.hang()
        began = time.monotonic()
        with running(tmp_path, mount.file, workers=1) as server:
            assert time.monotonic() - began < 10, "5 s, and what the processes need to start"
            assert server.hosts() == ["a.example", "b.example"]
            assert ready(server)[0] == 200
            assert ready(server)[1]["state"] == "stale"
            mount.hang(hangs=False)
            wait_for(lambda: server.all_are("fresh"), what="the mount is back")


def test_a_start_on_a_mount_that_hangs_without_any_good_list(tmp_path: Path) -> None:
    with hanging_mount(tmp_path / "mount", GOOD) as mount:
        mount.hang()
        with running(tmp_path, mount.file, workers=1) as server:
            assert ready(server)[0] == 503
            assert "hangs" in ready(server)[1]["reason"]
            mount.hang(hangs=False)
            wait_for(lambda: server.all_serve("a.example", "b.example"), what="the mount is back")


def test_a_token_file_on_a_mount_that_hangs_holds_nothing_up(tmp_path: Path) -> None:
    file = tmp_path / "endpoints.txt"
    file.write_bytes(GOOD)
    lines = b"ops:0000000000000000000000000000000000000000000000000000000000000000\n"
    with hanging_mount(tmp_path / "mount", lines, name="tokens") as mount:
        mount.hang()
        began = time.monotonic()
        with running(
            tmp_path, file, workers=0, ENDPOINT_TOKENS_FILE=str(mount.file), WEB_CONCURRENCY="1"
        ) as server:
            wait_for(lambda: ready(server)[0] == 200, what="the worker serves")
            assert time.monotonic() - began < 10
            assert server.get().status == 401, "nobody is admitted"
            assert ready(server)[1]["state"] == "fresh"
            assert stop(server) < STOP


#: An application in which one worker hangs in a signal receiver until a file exists.
APPLICATION = """
import os, time
from mop_config import create_app, signals

def hang(sender, trigger, **_):
    try:
        os.open({taken!r}, os.O_CREAT | os.O_EXCL)
    except FileExistsError:
        return
    while not os.path.exists({gone!r}):
        time.sleep(0.05)

app = create_app()
signals.config_reloaded.connect(hang, weak=False)
"""


def test_a_reload_thread_that_hangs_is_said_by_every_worker(tmp_path: Path) -> None:
    file, taken, gone = tmp_path / "endpoints.txt", tmp_path / "taken", tmp_path / "gone"
    file.write_bytes(GOOD)
    module = tmp_path / "hanging_application.py"
    module.write_text(APPLICATION.format(taken=str(taken), gone=str(gone)))
    command = gunicorn_command(target="hanging_application:app")
    with running(tmp_path, file, command=command, PYTHONPATH=f"{ROOT}:{tmp_path}") as server:
        file.write_bytes(OTHER)
        wait_for(
            lambda: all(server.status()["state"] == "stale" for _ in range(8)),
            seconds=SAID,
            what="whichever worker is asked says it",
        )
        # The status has the problems of one worker, and a second one may be stale for a moment.
        (late,) = wait_for(
            lambda: [p for p in server.status()["problems"] if p["code"] == "late"],
            what="the status names the reason",
        )
        assert late["severity"] == "error"
        wait_for(lambda: not server.status()["watcher"]["alive"], what="the status says that, too")
        assert not any(successful(server) for _ in range(6))
        (said,) = wait_for(
            lambda: [told for told in [ready(server)] if told[1]["state"] == "stale"],
            what="a request reaches the worker whose thread stands still",
        )
        assert said[0] == 200
        assert "reload thread" in said[1]["reason"]
        told = [ready(server) for _ in range(20)]
        assert {code for code, _ in told} == {200}
        reasons = [document["reason"] for _, document in told if document["state"] == "stale"]
        assert all("reload thread" in reason for reason in reasons)
        wait_for(lambda: "the reload thread stands still, for " in server.log, what="the log")
        gone.touch()
        wait_for(lambda: server.all_are("fresh"), what="it goes on")
        wait_for(lambda: server.all_serve("c.example", "d.example"), what="all serve the edit")
        assert successful(server)


def test_a_reload_thread_that_hangs_does_not_hold_a_stop(tmp_path: Path) -> None:
    file, taken = tmp_path / "endpoints.txt", tmp_path / "taken"
    file.write_bytes(GOOD)
    module = tmp_path / "hanging_application.py"
    module.write_text(APPLICATION.format(taken=str(taken), gone=str(tmp_path / "gone")))
    command = gunicorn_command(target="hanging_application:app")
    with running(tmp_path, file, command=command, PYTHONPATH=f"{ROOT}:{tmp_path}") as server:
        file.write_bytes(OTHER)
        wait_for(taken.exists, what="a reload thread hangs")
        assert stop(server) < STOP
