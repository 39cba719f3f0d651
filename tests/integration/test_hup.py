"""SIGHUP to any process, at any time, under load: no request fails and no worker is replaced."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import psutil
import pytest

from mop_config.server.gunicorn_conf import WORKER_CLASSES
from mop_config.server.status import lost_hooks

from ..conftest import below
from ..load import under_load
from ..servers import ROOT, Server, gunicorn_command, running
from ..waiting import wait_for

CLASSES = ["asgi", "gthread", "sync"]


def text(number: int) -> str:
    return f"DomainList:\na{number}.example\nb{number}.example\n"


def body(number: int) -> bytes:
    """Return the body that the server must answer for ``text(number)``."""
    hosts = [f"a{number}.example", f"b{number}.example"]
    document = {
        "api_endpoints": [
            {"url": f"https://{host}/api/v1", "priority": i} for i, host in enumerate(hosts)
        ],
        "socketio_endpoints": [
            {"url": f"https://{host}", "priority": i} for i, host in enumerate(hosts)
        ],
    }
    return json.dumps(document, separators=(",", ":")).encode()


BAD = [b"", b"DomainList:\n\xff\xfe\n", b"DomainList:\na_b\n", b"DomainList:\nx.example\0"]


class Writer:
    """Replaces the file with good and broken texts in turn."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.number = 0

    def good(self) -> None:
        self.number += 1
        self._put(text(self.number).encode())

    def bad(self) -> None:
        self._put(BAD[self.number % len(BAD)])

    def _put(self, data: bytes) -> None:
        scratch = self.file.with_name("scratch")
        scratch.write_bytes(data)
        os.replace(scratch, self.file)

    @property
    def valid(self) -> set[bytes]:
        return {body(number) for number in range(self.number + 1)}


def hup(*pids: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGHUP)


def master(server: Server) -> None:
    hup(server.pid)


def one_worker(server: Server) -> None:
    hup(server.workers[0])


def all_workers(server: Server) -> None:
    hup(*server.workers)


def everyone(server: Server) -> None:
    """Send SIGHUP to every process, as ``kill -HUP $(pidof python)`` does."""
    hup(server.pid, *below(server.pid))


def _blocks_sighup(pid: int) -> bool:
    """Return whether a process's main thread blocks SIGHUP."""
    status = Path(f"/proc/{pid}/status").read_text()
    mask = next(line.split()[1] for line in status.splitlines() if line.startswith("SigBlk"))
    return bool(int(mask, 16) >> (signal.SIGHUP - 1) & 1)


@pytest.fixture(scope="module", params=CLASSES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Server, Writer]]:
    folder = tmp_path_factory.mktemp("site")
    file = folder / "endpoints.txt"
    file.write_text(text(0))
    with running(folder, file, WORKER_CLASS=request.param) as server:
        yield server, Writer(file)


def settled(server: Server, writer: Writer) -> None:
    """Wait until every worker serves the newest good list."""
    writer.good()
    wait_for(
        lambda: server.all_serve(f"a{writer.number}.example", f"b{writer.number}.example"),
        what="all workers follow",
    )


def test_twenty_each_with_edits_and_broken_files(site: tuple[Server, Writer]) -> None:
    """SIGHUP to the master, a worker, all workers or all processes loses no request or worker."""
    server, writer = site
    pids = server.workers
    with under_load(server.port) as loads:
        for target in (master, one_worker, all_workers, everyone):
            for number in range(20):
                [writer.good, lambda: None, writer.bad][number % 3]()
                target(server)
                time.sleep(0.01)
        settled(server, writer)
    assert server.workers == pids
    assert all(set(load.answers) <= writer.valid for load in loads)
    assert "Traceback" not in server.log
    assert "sent SIGHUP" not in server.log


def test_a_storm_of_two_hundred(site: tuple[Server, Writer]) -> None:
    """A SIGHUP to every process each 0.05 s loses no request.

    The default worker class gets 200 signals, and the others get 100.
    """
    server, writer = site
    pids = server.workers
    hups = 200 if "AsgiWorker" in server.log else 100
    with under_load(server.port) as loads:
        started = time.monotonic()
        for number in range(hups):
            everyone(server)
            if number % 5 == 0:
                [writer.good, writer.bad][number % 2]()
            time.sleep(max(0.0, started + 0.05 * (number + 1) - time.monotonic()))
        settled(server, writer)
    assert server.workers == pids
    assert all(set(load.answers) <= writer.valid for load in loads)


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_a_storm_while_the_file_is_written_in_place(tmp_path: Path, worker_class: str) -> None:
    """SIGHUP during an in-place save does not make a worker serve a partial file."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    with (
        running(tmp_path, file, WORKER_CLASS=worker_class) as server,
        under_load(server.port) as loads,
    ):
        for number in range(1, 41):
            with file.open("w") as half:
                everyone(server)
                half.write("DomainList:\n")
                for letter in "ab":
                    half.flush()
                    everyone(server)
                    time.sleep(0.005 * (number % 4))
                    half.write(f"{letter}{number}.example\n")
                everyone(server)
            time.sleep(0.06 * (number % 5))
        wait_for(lambda: server.all_serve(f"a{number}.example", f"b{number}.example"))
    answers = set().union(*(load.answers for load in loads))
    assert answers <= {body(number) for number in range(41)}
    assert len(answers) > 5


@pytest.mark.parametrize("script", [True, False], ids=["gunicorn", "serve"])
@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_an_upgrade_of_gunicorn_itself(tmp_path: Path, worker_class: str, script: bool) -> None:
    """SIGUSR2 and then SIGTERM to the old master upgrade the code without a failed request."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    command = gunicorn_command() if script else [sys.executable, "-m", "mop_config", "serve"]
    with running(tmp_path, file, command=command, WORKER_CLASS=worker_class) as server:
        olds = server.workers
        server.send(signal.SIGUSR2)
        new = wait_for(
            lambda: next((pid for pid in server.workers if pid not in olds), 0), seconds=20
        )
        upgraded = psutil.Process(new)
        try:
            wait_for(lambda: len(server.status()["workers"]) == 4, seconds=20)
            with under_load(server.port, keep_alive=(False,)):
                os.kill(server.pid, signal.SIGTERM)
                assert server.process.wait(20) == 0
                Writer(file).good()
                wait_for(lambda: server.get().body == body(1))
        finally:
            upgraded.terminate()
            upgraded.wait(20)


@pytest.mark.parametrize("worker_class", CLASSES)
def test_during_worker_start(tmp_path: Path, worker_class: str) -> None:
    """SIGHUP at any moment of a worker's start kills no worker."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    with running(tmp_path, file, WORKER_CLASS=worker_class) as server:
        pids = set(server.workers)
        with under_load(server.port):
            for more in range(1, 4):
                server.send(signal.SIGTTIN)
                deadline = time.monotonic() + 20
                while len(server.status()["workers"]) < 2 + more:
                    assert time.monotonic() < deadline
                    for _ in range(50):
                        everyone(server)
            settled(server, Writer(file))
        assert pids < set(server.workers)
        assert len(server.workers) == 5
        assert "sent SIGHUP" not in server.log


#: Sets a worker's signal handlers; fails if SIGHUP had its default action at any call meanwhile.
_HANDLERS = """
import os, signal, sys
from gunicorn import util
kind = util.load_class(sys.argv[1])
worker = kind.__new__(kind)
worker.PIPE = os.pipe()
os.set_blocking(worker.PIPE[1], False)
signal.signal(signal.SIGHUP, lambda *_: None)
seen = []
sys.setprofile(lambda *_: seen.append(signal.getsignal(signal.SIGHUP)))
worker.init_signals()
sys.setprofile(None)
assert signal.getsignal(signal.SIGHUP) == worker.handle_hup
assert len(seen) > 5
assert signal.SIG_DFL not in seen
"""


@pytest.mark.parametrize("worker_class", CLASSES)
def test_sighup_never_has_its_default_action(worker_class: str) -> None:
    """A new worker replaces the master's handler of SIGHUP, without a moment of the default one."""
    name = f"mop_config.server.gunicorn.{WORKER_CLASSES[worker_class]}"
    command = [sys.executable, "-c", _HANDLERS, name]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def _has_workers(server: Server, count: int) -> bool:
    return len(server.workers) == len(server.status()["workers"]) == count


@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_workers_that_come_and_go_lose_no_request(tmp_path: Path, worker_class: str) -> None:
    """SIGTTIN adds a worker, and SIGTTOU ends the oldest one after its requests."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    with running(tmp_path, file, WORKER_CLASS=worker_class) as server:
        writer, olds = Writer(file), server.workers
        with under_load(server.port, keep_alive=(False,)):
            for number, count in ((signal.SIGTTIN, 3), (signal.SIGTTOU, 2)) * 2:
                server.send(number)
                wait_for(partial(_has_workers, server, count), seconds=30, what=f"{count} workers")
                settled(server, writer)
        assert not set(olds) & set(server.workers), "the oldest workers end first"


@pytest.mark.parametrize("worker_class", CLASSES)
def test_a_stop_right_after_the_start(tmp_path: Path, worker_class: str) -> None:
    """SIGTERM right after the start also stops workers that are still starting."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    environ = {
        "ENDPOINT_CONFIG_FILE": str(file),
        "ENDPOINT_STATE_DIR": str(tmp_path / "state"),
        "PORT": "0",
        "WORKER_CLASS": worker_class,
        "WEB_CONCURRENCY": "4",
    }
    server = Server(gunicorn_command(), tmp_path, environ)
    try:
        wait_for(lambda: "Booting worker" in server.log, seconds=30)
        began = time.monotonic()
        server.send(signal.SIGTERM)
        assert server.process.wait(25) == 0
        assert time.monotonic() - began < 15
    finally:
        server.stop(signal.SIGKILL)


#: A process with the handlers of gunicorn's master, which ends each child right after its fork.
MASTER = """
import os, signal, time
from mop_config.server import gunicorn_conf

gunicorn_conf.let_newborns_end()
signal.signal(signal.SIGTERM, lambda *_: None)
children = []
for _ in range(30):
    child = os.fork()
    if child == 0:
        time.sleep(3)
        os._exit(0)
    os.kill(child, signal.SIGTERM)
    children.append(child)
ends = [os.waitpid(child, 0)[1] for child in children]
print(sum(os.WIFSIGNALED(end) for end in ends), signal.pthread_sigmask(signal.SIG_BLOCK, ()))
"""


def test_a_sigterm_before_a_workers_first_step() -> None:
    """A worker that gets SIGTERM before it has run at all still ends by the signal."""
    command = [sys.executable, "-c", MASTER]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert result.stdout == "30 set()\n"


@pytest.mark.parametrize(
    ("module", "options"),
    [(False, ()), (True, ("--preload",))],
    ids=["script-plain", "module-preload"],
)
@pytest.mark.parametrize("worker_class", CLASSES)
def test_every_way_of_starting_gunicorn(
    tmp_path: Path, worker_class: str, module: bool, options: tuple[str, ...]
) -> None:
    """However gunicorn is started, it follows edits, reloads on SIGHUP and stops cleanly."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    command = gunicorn_command(*options, module=module)
    if not module:
        command.insert(0, sys.executable)  # a new process, not a fork of one with the imports
    with running(tmp_path, file, command=command, WORKER_CLASS=worker_class) as server:
        pids = server.workers
        writer = Writer(file)
        settled(server, writer)
        everyone(server)
        wait_for(
            lambda: all(
                worker["last_reload"]["trigger"] == "sighup"
                for worker in server.status()["workers"]
            ),
            what="all workers have reloaded",
        )
        assert server.workers == pids
        # The kernel blocks SIGHUP while a handler runs.
        wait_for(lambda: not any(_blocks_sighup(pid) for pid in pids), what="none blocks SIGHUP")
        assert f"{WORKER_CLASSES[worker_class]}\n" in server.log
        assert server.status()["watcher"] == {"mode": "inotify", "alive": True}
        assert server.stop() == 0
    assert "Traceback" not in server.log
    assert list((tmp_path / "state").rglob("*.worker.*")) == []


def test_the_masters_handler_is_ours(tmp_path: Path) -> None:
    """Our SIGHUP handler runs in the master; gunicorn's would replace the workers.

    The handler is an internal API of gunicorn, so this test guards it.
    """
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    with running(tmp_path, file) as server:
        pids = server.workers
        master(server)
        wait_for(lambda: server.log.count("unchanged (sighup)") == len(pids))
        assert server.workers == pids
        assert "Hang up: Master" not in server.log


def test_the_control_socket_is_there_for_who_asks(tmp_path: Path) -> None:
    """The control socket exists only on request: its default path is shared by a user's servers."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    path = tmp_path / "ctl"
    with running(tmp_path, file, "--control-socket", str(path), workers=1):
        wait_for(path.is_socket)
    home = tmp_path / "home"
    home.mkdir()
    with running(tmp_path, file, workers=1, HOME=str(home), XDG_RUNTIME_DIR=str(home)):
        assert list(home.rglob("*")) == []


def test_without_our_hooks_log_and_status_say_what_is_lost(tmp_path: Path) -> None:
    """A custom -c serves and follows edits; log and status name the effect of SIGHUP there."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    config = tmp_path / "custom.py"
    config.write_text(
        'bind = "127.0.0.1:0"\nworkers = 2\nthreads = 4\ncontrol_socket_disable = True\n'
    )
    command = gunicorn_command("-c", str(config))
    with running(tmp_path, file, command=command, workers=0) as server:
        wait_for(lambda: server.get().status == 200)
        settled(server, Writer(file))
        assert "without mop-config's hooks" in server.log
        codes = [problem["code"] for problem in server.status()["problems"]]
        assert "no-hooks" in codes


OWN_CONFIG = """
from mop_config.server.gunicorn_conf import *
bind = "127.0.0.1:0"
workers = 1
{own}
"""


@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("on_starting", "def on_starting(server): pass"),
        ("worker_class", "worker_class = 'gthread'"),
    ],
)
def test_what_the_operator_puts_in_the_place_of_ours_is_named(
    tmp_path: Path, name: str, own: str
) -> None:
    """If the operator overrides a hook, log and status name the loss and the remedy."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    config = tmp_path / "own.py"
    config.write_text(OWN_CONFIG.format(own=own))
    command = gunicorn_command("-c", str(config))
    with running(tmp_path, file, command=command, workers=0, WEB_CONCURRENCY="1") as server:
        wait_for(lambda: server.get().status == 200)
        lost = f"hooks ({name}): SIGHUP ends or replaces workers instead of reloading in place"
        wait_for(lambda: lost in server.log, what="the log says it")
        (problem,) = server.status()["problems"]
        assert problem["code"] == "no-hooks"
        assert lost in problem["message"]


def test_a_hook_of_the_operators_that_calls_ours_loses_nothing(tmp_path: Path) -> None:
    """If the operator's hook calls ours, SIGHUP to the master reloads in place without notice."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    config = tmp_path / "own.py"
    own = "def on_starting(server):\n    gunicorn_conf.on_starting(server)"
    text_of = OWN_CONFIG.format(own=own)
    config.write_text(f"from mop_config.server import gunicorn_conf\n{text_of}")
    command = gunicorn_command("-c", str(config))
    with running(tmp_path, file, command=command, workers=1) as server:
        pids = server.workers
        master(server)
        wait_for(lambda: "unchanged (sighup)" in server.log)
        assert (server.workers, server.status()["problems"]) == (pids, [])


def test_an_application_of_ones_own_with_our_configuration(tmp_path: Path) -> None:
    """The command in the warning runs our hooks with another application, found in its folder."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text(0))
    (tmp_path / "mine.py").write_text(
        "from flask import Flask\nfrom mop_config import init_app\n"
        "app = Flask(__name__)\ninit_app(app)\n"
    )
    way = "gunicorn -c python:mop_config.server.gunicorn_conf"
    assert way in lost_hooks.REMEDY
    for document in ("docs/embedding.md", "docs/deploy.md"):
        assert way in (ROOT / document).read_text()
    command = gunicorn_command(
        *way.split()[1:], "--chdir", str(tmp_path), module=True, target="mine:app"
    )
    with running(tmp_path, file, command=command) as server:
        pids = server.workers
        master(server)
        wait_for(lambda: server.log.count("unchanged (sighup)") == len(pids))
        assert (server.workers, server.status()["problems"]) == (pids, [])


def test_other_servers(tmp_path: Path) -> None:
    """flask run and waitress follow edits, also before the first request, and stop.

    SIGHUP, which a closing terminal sends, ends them as it ends any Flask program.
    """
    file = tmp_path / "endpoints.txt"
    commands: dict[str, Callable[[int], list[str]]] = {
        "flask": lambda port: [
            *(sys.executable, "-m", "flask", "--app", "wsgi", "run", "--port", str(port))
        ],
        "waitress": lambda port: [
            *(sys.executable, "-m", "waitress", f"--listen=127.0.0.1:{port}", "wsgi:app")
        ],
    }
    for name, command in commands.items():
        folder = tmp_path / name
        folder.mkdir()
        file.write_text(text(0))
        with running(folder, file, command=command(0), workers=0) as server:
            writer = Writer(file)
            writer.good()
            assert server.get().body == body(1), f"{name}: the first request sees the edit"
            settled(server, writer)
            writer.bad()
            wait_for(lambda: server.status()["state"] == "rejected", what=name)
            assert server.get().body == body(writer.number)
            hup(server.pid)
            assert server.process.wait(20) == -signal.SIGHUP, name
