"""Servers whose files are shared by several users, containers or folders."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from ..conftest import need_program, skip
from ..servers import Server, gunicorn_command
from ..users import ALICE, needs_root, place_for_all
from ..waiting import wait_for


def text(name: str) -> str:
    return f"DomainList:\n{name}-a.example\n{name}-b.example\n"


@pytest.fixture
def place() -> Iterator[Path]:
    with place_for_all() as folder:
        yield folder


def inside(server: Server) -> psutil.Process:
    """Return gunicorn's master, if the server's process is a wrapper around it."""
    return psutil.Process(server.pid).children()[0]


@contextlib.contextmanager
def started(command: list[str], folder: Path, file: Path, **environ: str) -> Iterator[Server]:
    given = {"ENDPOINT_CONFIG_FILE": str(file), "PORT": "0", "WEB_CONCURRENCY": "2", **environ}
    server = Server(command, folder, given)
    try:
        yield server.wait_until_up(2)
    finally:
        server.stop(signal.SIGKILL)


def follows(server: Server) -> None:
    wait_for(lambda: server.all_serve("two-a.example", "two-b.example"), what="it follows")


@needs_root
def test_two_containers_that_share_a_state_folder(place: Path) -> None:
    """Two containers with equal process ids keep separate worker records in one state folder."""
    unshare = [need_program("unshare"), "--pid", "--fork", "--kill-child", "--mount-proc"]
    if subprocess.run([*unshare, "true"], check=False, capture_output=True).returncode:
        skip("this system makes no namespaces")
    file = place / "endpoints.txt"
    file.write_text(text("one"))
    command = [*unshare, *gunicorn_command()]
    state = {"ENDPOINT_STATE_DIR": str(place / "state")}
    with (
        started(command, place, file, **state) as one,
        started(command, place, file, **state) as two,
    ):
        file.write_text(text("two"))
        for server in (one, two):
            follows(server)
        pids = [[worker["pid"] for worker in s.status()["workers"]] for s in (one, two)]
        # Threads use ids too, so one of the two ids may differ.
        assert set(pids[0]) & set(pids[1]), "some are the same, or this shows nothing"
        assert len(pids[0]) == len(pids[1]) == 2
        assert len(list((place / "state").rglob("*.worker.*"))) == 4
        inside(one).send_signal(signal.SIGTERM)
        one.process.wait(20)
        # The first server's stop has not removed the second's records.
        assert len(list((place / "state").rglob("*.worker.*"))) == 2
        assert len(two.status()["workers"]) == 2


def for_everybody(command: list[str]) -> list[str]:
    """Run a command in which users other than root may read the interpreter's files."""
    closed = [
        folder
        for folder in Path(sys.base_prefix).parents
        if folder.exists() and not folder.stat().st_mode & 0o001
    ]
    if not closed:
        return command
    home, python = closed[-1], sys.base_prefix
    script = (
        f"mount --make-rprivate / && mount --bind {python} /mnt"
        f" && mount -t tmpfs -o mode=755 tmpfs {home} && mkdir -p {python}"
        f' && mount --move /mnt {python} && exec "$@"'
    )
    return [need_program("unshare"), "--mount", "sh", "-c", script, "sh", *command]


@needs_root
@pytest.mark.parametrize("options", [("--preload",), ()], ids=["preload", "plain"])
def test_workers_of_another_user_remember_the_newest_list(
    place: Path, options: tuple[str, ...]
) -> None:
    """With gunicorn --user, a restart on a bad file serves the workers' last list."""
    file = place / "endpoints.txt"
    file.write_text(text("first"))
    given = ("--user", str(ALICE), "--group", str(ALICE))
    command = for_everybody(gunicorn_command(*options, *given))
    state = {"ENDPOINT_STATE_DIR": str(place / "state"), "TMPDIR": str(place)}
    with started(command, place, file, **state) as server:
        file.write_text(text("newest"))
        wait_for(lambda: server.all_serve("newest-a.example", "newest-b.example"))
        assert server.status()["problems"] == []
        wait_for(lambda: list((place / "state" / f"records-{ALICE}").glob("*.lastgood")))
        wait_for(
            lambda: any(
                b"newest" in path.read_bytes()
                for path in (place / "state" / f"records-{ALICE}").glob("*.lastgood")
            ),
            what="it is kept",
        )
        server.stop()
    file.write_text("\0")
    with started(command, place, file, **state) as server:
        assert server.hosts() == ["newest-a.example", "newest-b.example"]
        assert server.status()["state"] == "rejected"
        server.stop()


#: Modules that ``serve``, gunicorn or a child of theirs imports, or imports if it is installed.
SHADOWED = ("gunicorn", "shlex", "mop_config", "pickle", "setproctitle")


def test_serve_runs_nothing_from_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    """``serve`` and its parser process run no Python file of the current folder."""
    for module in SHADOWED:
        code = f"import pathlib; pathlib.Path('{module}.ran').touch()\n"
        (tmp_path / f"{module}.py").write_text(code)
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\n" + "".join(f"host{n}.example\n" for n in range(12000)))
    script = shutil.which("mop-config", path=str(Path(sys.executable).parent))
    if script is None:
        skip("mop-config is not installed as a script")
    command = ["sh", "-c", 'cd "$0" && exec "$@"', str(tmp_path), str(script), "serve"]
    with started(command, tmp_path, file, ENDPOINT_STATE_DIR=str(tmp_path / "state")) as server:
        assert server.hosts()[0] == "host0.example"
        assert server.stop() == 0
    assert list(tmp_path.glob("*.ran")) == []
    assert os.listdir(tmp_path / "state")
