"""Failures in operation: bad files, killed processes, dead threads, exhausted limits."""

import contextlib
import http.client
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mop_config import create_app
from mop_config.server.service import EXTENSION, ConfigService
from mop_config.server.settings import Settings
from mop_config.server.sources.file import Watcher

from ..conftest import need_program, skip
from ..disks import fill, small_disk
from ..load import under_load
from ..servers import ENDPOINTS, ROOT, Server, gunicorn_command, running
from ..waiting import wait_for


def text(*hosts: str) -> str:
    return "DomainList:\n" + "".join(f"{host}\n" for host in hosts)


GOOD = text("a.example", "b.example")
HOSTS = ["a.example", "b.example"]
#: An endpoint file without a problem, with both kinds of endpoints.
BOTH = """DomainList:
{0}-a.example
{0}-b.example
ApiList:
https://{0}-c.example
https://{0}-d.example
"""


def replace(file: Path, content: str | bytes) -> None:
    """Replace whatever is at the path with a new file."""
    scratch = file.with_name("scratch")
    scratch.write_bytes(content.encode() if isinstance(content, str) else content)
    if file.is_dir() and not file.is_symlink():
        file.rmdir()
    os.replace(scratch, file)


def followed(server: Server, file: Path, name: str, seconds: float = 10.0) -> float:
    """Check that every worker applies a good file; return the seconds until then."""
    hosts = [f"{name}-1.example", f"{name}-2.example"]
    began = time.monotonic()
    replace(file, text(*hosts))
    wait_for(
        lambda: server.all_serve(*hosts),
        seconds=seconds,
        what=f"{name} is served by all workers",
    )
    return time.monotonic() - began


def asked(connection: http.client.HTTPConnection) -> str:
    """Return the list that a kept connection serves."""
    connection.request("GET", ENDPOINTS)
    return connection.getresponse().read().decode()


def remove(file: Path) -> None:
    file.unlink()


def fifo(file: Path) -> None:
    file.unlink()
    os.mkfifo(file)


def directory(file: Path) -> None:
    file.unlink()
    file.mkdir()


def device(file: Path) -> None:
    file.unlink()
    file.symlink_to("/dev/zero")


def loop(file: Path) -> None:
    file.unlink()
    file.symlink_to(file.name)


def dangling(file: Path) -> None:
    file.unlink()
    file.symlink_to("nowhere")


def content(data: bytes) -> Callable[[Path], None]:
    def put(file: Path) -> None:
        replace(file, data)

    return put


BAD = {
    "missing": (remove, "is missing"),
    "dangling link": (dangling, "is missing"),
    "FIFO": (fifo, "no regular file"),
    "directory": (directory, "is a directory"),
    "device": (device, "no regular file"),
    "loop of links": (loop, "cannot be read"),
    "not UTF-8": (content(b"DomainList:\nx.example\n\xff\n"), "not UTF-8"),
    "NUL": (content(b"DomainList:\nx.example\n\0"), "NUL"),
    "too large": (content(GOOD.encode() + b"#" * 1_100_000), "larger than 1048576"),
    "100 MB of garbage": (content(b"\x01garbage\xfe" * 10_000_000), "larger than 1048576"),
    "empty": (content(b""), "no usable endpoint"),
    "nothing usable": (content(b"DomainList:\na_b\n"), "no usable endpoint"),
}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("bad")
    (folder / "conf").mkdir()
    file = folder / "conf" / "endpoints.txt"
    file.write_text(GOOD)
    with running(folder, file) as server:
        yield server, file


@pytest.mark.parametrize("name", BAD)
def test_a_bad_file_changes_nothing_but_the_status(shared: tuple[Server, Path], name: str) -> None:
    """A bad file changes only the status; the next good file applies in the same processes."""
    server, file = shared
    pids = server.workers
    followed(server, file, f"before-{list(BAD).index(name)}")
    before, log_length = server.get(), len(server.log)
    spoil, reason = BAD[name]
    with under_load(server.port) as loads:
        spoil(file)
        wait_for(
            lambda: all(
                worker["last_reload"]["result"] == "rejected"
                and reason in str(worker["last_reload"]["error"])
                for _ in range(8)
                for worker in server.status()["workers"]
            ),
            what=f"{name} is refused",
        )
        time.sleep(0.3)  # no late effect
    assert all(set(load.answers) == {before.body} for load in loads)
    status = server.status()
    assert status["state"] == "rejected"
    assert reason in status["last_reload"]["error"]
    assert reason in status["problems"][0]["message"]
    assert server.get("/ready").json == {
        "state": "rejected",
        "reason": status["last_reload"]["error"],
        "complete": False,
        "problem_counts": status["problem_counts"],
    }
    assert status["complete"] is False
    assert status["problem_counts"]["error"] >= 1
    assert reason in server.log[log_length:]
    assert "Traceback" not in server.log
    followed(server, file, f"after-{list(BAD).index(name)}")
    assert server.workers == pids


#: The reason in ``/ready`` without a problem.
FRESH = {"state": "fresh", "reason": None, "complete": True}


def test_a_file_that_never_rests(shared: tuple[Server, Path]) -> None:
    """A file that changes constantly is reported and the list stays, until the file rests."""
    server, file = shared
    followed(server, file, "calm")
    before = server.hosts()
    stop = threading.Event()

    def scribble() -> None:
        with file.open("ab", buffering=0) as handle:
            while not stop.wait(0.05):
                handle.write(b"late.example\n")

    thread = threading.Thread(target=scribble)
    thread.start()
    try:
        wait_for(
            lambda: "keeps changing" in str(server.status()["last_reload"]["error"]), seconds=15
        )
        status = server.status()
        assert status["state"] == "stale"
        assert [problem["code"] for problem in status["problems"]] == ["changing"]
        assert server.hosts() == before
    finally:
        stop.set()
        thread.join()
    wait_for(lambda: server.hosts() == [*before, "late.example"], what="the file at rest")
    wait_for(lambda: server.status()["state"] == "fresh", what="the other worker has read it, too")


def wait_until_succeeded(server: Server, victim: int) -> None:
    wait_for(
        lambda: victim not in server.workers and server.all_know(2),
        seconds=30,
        what="the successor has started",
    )


@pytest.mark.parametrize("options", [(), ("--preload",)], ids=["plain", "preload"])
def test_a_killed_workers_successor_serves_the_last_good_list(
    tmp_path: Path, options: tuple[str, ...]
) -> None:
    """After kill -9 with a bad file, the new worker serves the last good list, then the next.

    With ``--preload`` the new worker starts with the list of the master's start.
    """
    file = tmp_path / "endpoints.txt"
    file.write_text(text("old.example", "older.example"))
    with running(tmp_path, file, *options) as server:
        replace(file, GOOD)
        wait_for(lambda: server.all_serve(*HOSTS))
        replace(file, b"\xff")
        wait_for(lambda: server.all_are("rejected"))
        for victim in server.workers:
            os.kill(victim, signal.SIGKILL)
            wait_until_succeeded(server, victim)
            for _ in range(20):
                assert server.hosts() == HOSTS
            assert server.get("/ready").status == 200
            assert len(set(server.etags())) == 1
            # The new worker has not read a good file itself.
            states = {server.get("/ready").json["state"] for _ in range(8)}
            assert states == {"rejected"}, "whichever worker is asked"
        followed(server, file, "good")
        wait_for(lambda: server.all_are("fresh"))


@pytest.mark.parametrize(
    "spoil", [remove, content(b"DomainList:\n\xff")], ids=["missing", "broken"]
)
def test_a_restart_serves_the_last_good_list_and_says_so(
    tmp_path: Path, spoil: Callable[[Path], None]
) -> None:
    """A restart on a bad file serves the last good list; /ready, status and log say so."""
    file = tmp_path / "endpoints.txt"
    file.write_text(GOOD)
    with running(tmp_path, file) as server:
        before = server.get()
    assert "Shutting down" in server.log
    assert "Error while closing" not in server.log
    spoil(file)
    with running(tmp_path, file) as server:
        after = server.get()
        assert after.body == before.body
        assert after.headers["ETag"] == before.headers["ETag"]
        assert after.headers["Last-Modified"] == before.headers["Last-Modified"]
        ready = server.get("/ready")
        assert (ready.status, ready.json["state"]) == (200, "rejected")
        assert ready.json["reason"] == server.status()["last_reload"]["error"]
        assert server.status()["state"] == "rejected"
        assert "the last good list of" in server.log
        followed(server, file, "repaired")
        wait_for(lambda: server.get("/ready").json == FRESH)


def test_a_first_start_without_a_file_serves_an_empty_list_and_is_not_ready(
    tmp_path: Path,
) -> None:
    """A first start without a file serves an empty list and is not ready, until a file appears."""
    file = tmp_path / "endpoints.txt"
    with running(tmp_path, file, ENDPOINT_POLL_INTERVAL="60") as server:
        answer = server.get()
        assert answer.json == {"api_endpoints": [], "socketio_endpoints": []}
        assert answer.headers["Cache-Control"] == "no-store"
        assert server.get("/ready").status == 503
        assert server.get("/ready").json["state"] == "empty"
        assert server.get("/health").status == 200
        followed(server, file, "first")
        wait_for(lambda: server.get("/ready").status == 200)


def test_two_servers_side_by_side_restart_on_their_own_last_good_lists(tmp_path: Path) -> None:
    """Two servers with one state folder each restart on their own last good list."""
    files = [tmp_path / name for name in ("one", "two")]
    state = str(tmp_path / "state")
    for file in files:
        file.write_text(text(f"{file.name}-a.example", f"{file.name}-b.example"))

    @contextlib.contextmanager
    def both() -> Iterator[list[Server]]:
        with (
            running(tmp_path, files[0], ENDPOINT_STATE_DIR=state) as one,
            running(tmp_path, files[1], ENDPOINT_STATE_DIR=state) as two,
        ):
            yield [one, two]

    with both() as servers:
        for server in servers:
            assert [w["pid"] for w in server.status()["workers"]] == server.workers
    for file in files:
        file.write_bytes(b"\0")
    with both() as servers:
        for server, file in zip(servers, files, strict=True):
            assert server.hosts() == [f"{file.name}-a.example", f"{file.name}-b.example"]
            assert server.status()["state"] == "rejected"


def in_trouble(server: Server) -> bool:
    codes = [problem["code"] for problem in server.status().get("problems", ())]
    return codes == ["state-folder"]


def at_one(server: Server) -> bool:
    """Return whether every answer shows both workers with one list and no problem."""
    found = [server.status() for _ in range(8)]
    return all(
        len(status["workers"]) == 2
        and len({worker["etag"] for worker in status["workers"]}) == 1
        and not status["problems"]
        for status in found
    )


def test_a_state_folder_that_fills_up_is_used_again_once_there_is_room(tmp_path: Path) -> None:
    """A full state folder is reported; with room again, the newest list is saved."""
    state, file = tmp_path / "state", tmp_path / "endpoints.txt"
    file.write_text(BOTH.format("one"))
    with small_disk(state):
        with running(tmp_path, file) as server:
            wait_for(lambda: at_one(server))
            fill(state / "filler")
            replace(file, BOTH.format("two"))
            wait_for(lambda: server.hosts()[0] == "two-a.example")
            wait_for(
                lambda: all(in_trouble(server) for _ in range(8)), what="whoever is asked says so"
            )
            (problem, *_) = server.status()["problems"]
            assert (problem["severity"], problem["line"]) == ("warning", 1)
            assert "No space left on device" in problem["message"]
            (state / "filler").unlink()
            wait_for(lambda: at_one(server), seconds=15, what="all is well again")
            for path in state.rglob("*.worker.*"):
                path.unlink()
            wait_for(lambda: at_one(server), what="files that somebody took away are there again")
            log = server.log
        assert 1 <= log.count("state cannot be saved") <= 2, "once a worker"
        assert "this worker's state can be saved again" in log
        # Older texts are removed to make room for the last good text.
        assert log.count("the last good list cannot be saved") <= 2, "once a worker at most"
        file.write_bytes(b"\0")
        with running(tmp_path, file) as server:
            assert server.hosts()[0] == "two-a.example"


def test_a_state_folder_that_cannot_be_used_at_the_start_is_used_later(tmp_path: Path) -> None:
    """An unusable state folder is used when it becomes usable, without a restart."""
    state, file = tmp_path / "state", tmp_path / "endpoints.txt"
    file.write_text(BOTH.format("one"))
    state.write_text("no folder")
    with running(tmp_path, file, workers=1, WEB_CONCURRENCY="2") as server:
        wait_for(lambda: all(in_trouble(server) for _ in range(8)))
        state.unlink()
        wait_for(lambda: at_one(server), seconds=15, what="each worker knows of the other")
        wait_for(lambda: list(state.rglob("*.lastgood")), what="the list is saved")
        log = server.log
    assert log.count("the last good list cannot be saved") <= 2, "once a worker"
    file.write_bytes(b"\0")
    with running(tmp_path, file) as server:
        assert server.hosts()[0] == "one-a.example"


def test_the_end_of_watchdogs_emitter(tmp_path: Path) -> None:
    """Deleting the watched folder ends watchdog's emitter; a new folder is watched again."""
    folder = tmp_path / "conf"
    folder.mkdir()
    file = folder / "endpoints.txt"
    file.write_text(GOOD)
    with running(tmp_path, file, ENDPOINT_POLL_INTERVAL="60") as server:
        shutil.rmtree(folder)
        wait_for(lambda: server.status()["state"] == "rejected")
        assert server.hosts() == HOSTS
        folder.mkdir()
        # Earlier than the next attempt to watch, which comes after ten seconds.
        assert followed(server, file, "again") < 5
        wait_for(lambda: server.status()["watcher"] == {"mode": "inotify", "alive": True})


A_THREAD_DIES = pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")


class TestThreads:
    """Dying threads of a service in this process, where the tests can reach them."""

    @pytest.fixture
    def service(self, tmp_path: Path) -> Iterator[ConfigService]:
        file = tmp_path / "endpoints.txt"
        file.write_text(GOOD)
        app = create_app(
            Settings(source=str(file), state_dir=str(tmp_path / "state"), poll_interval=0.2),
            start=False,
        )
        service: ConfigService = app.extensions[EXTENSION]
        self.client = app.test_client()
        self.file = file
        service.start()
        yield service
        service.stop()

    def served(self) -> list[str]:
        document = self.client.get("/api/v1/config/endpoints").json
        assert document is not None
        return [entry["url"].split("/")[2] for entry in document["socketio_endpoints"]]

    def follows(self, name: str) -> None:
        replace(self.file, text(name))
        wait_for(lambda: self.served() == [name], what=f"{name} is served")

    @A_THREAD_DIES
    def test_the_end_of_watchdogs_dispatcher(
        self, service: ConfigService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A handler that raises ends watchdog's dispatcher silently; the service replaces it."""
        reloader = service._reload_thread
        assert reloader is not None
        watcher = reloader.watcher
        assert isinstance(watcher, Watcher)
        wait_for(lambda: watcher.alive)
        observer = watcher._observer
        assert observer is not None

        class Bomb:
            def __getattr__(self, name: str) -> None:
                raise RuntimeError("the dispatcher dies of this")

        assert watcher._retry_at > 0
        monkeypatch.setattr(watcher, "_retry_at", 0.0)
        observer.event_queue.put((Bomb(), Bomb()))
        observer.join(5)
        assert not observer.is_alive()
        self.follows("x.example")
        wait_for(lambda: watcher.alive)
        assert watcher._observer is not observer

    def test_an_exception_does_not_end_the_reload_thread(
        self, service: ConfigService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An exception in the reload thread is logged, and the thread continues."""
        failed = threading.Event()

        def fail(*_: object, **__: object) -> None:
            failed.set()
            raise RuntimeError("unforeseen")

        with monkeypatch.context() as patch:
            patch.setattr(service._reloader, "reload", fail)
            replace(self.file, text("y.example"))
            assert failed.wait(5)
        wait_for(lambda: self.served() == ["y.example"])
        assert service.alive

    def test_a_process_without_descriptors_follows_once_it_has_some(
        self, service: ConfigService
    ) -> None:
        """Without free descriptors the thread survives, and later reads the file again."""
        scratch = self.file.with_name("scratch")
        scratch.write_text(text("w.example"))
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            os.replace(scratch, self.file)
            wait_for(lambda: "Too many open files" in str(service.store.view.reason))
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        wait_for(lambda: self.served() == ["w.example"])
        assert self.client.get("/ready").json == FRESH

    @A_THREAD_DIES
    def test_a_dead_reload_thread_is_told_of(
        self, service: ConfigService, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A dead reload thread makes /ready answer 503, and the list stays served."""

        def end(*_: object, **__: object) -> None:
            raise SystemExit

        with monkeypatch.context() as patch:
            patch.setattr(service._reloader, "reload", end)
            replace(self.file, text("z.example"))
            wait_for(lambda: not service.alive)
        assert self.served() == HOSTS
        response = self.client.get("/ready")
        assert response.status_code == 503
        assert "died" in response.json["reason"]  # type: ignore[index]

    def test_stopping_and_starting_leaves_nothing_behind(self, service: ConfigService) -> None:
        """Starting and stopping leaves no thread or descriptor, which a fixture checks."""
        for number in range(5):
            service.stop()
            service.start()
            self.follows(f"n{number}.example")

    def test_a_fork_does_not_disturb_the_parent(self, service: ConfigService) -> None:
        """A forked child removes no watch of its parent, and starts anew if it serves."""
        pid = os.fork()
        if pid == 0:
            with contextlib.suppress(BaseException):
                service.stop()
                ok = not service.alive
                service.ensure_started()
                ok = ok and service.alive
                service.stop()
                os._exit(0 if ok else 1)
            os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        for number in range(5):
            self.follows(f"after{number}.example")
            # On a busy machine polling may find the edit before the watch.
            last = service.status()["last_reload"]
            if last is not None and last["trigger"] == "watch":
                return
        pytest.fail("the watch tells of nothing")


class TestLimits:
    """Limits of the system: inotify, permissions, descriptors."""

    @pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
    def test_inotify_exhausted(self, tmp_path: Path, limit: str) -> None:
        """Without inotify watches, polling every 0.25 s finds edits."""
        unshare = need_program("unshare")
        probe = [unshare, "-Ur", "sh", "-c", f"echo 0 > /proc/sys/user/{limit}"]
        if subprocess.run(probe, capture_output=True, check=False).returncode:
            skip("user namespaces are not allowed here")
        script = f'echo 0 > /proc/sys/user/{limit}; exec "$@"'
        command = [unshare, "-Ur", "sh", "-c", script, "sh", *gunicorn_command()]
        file = tmp_path / "endpoints.txt"
        file.write_text(GOOD)
        with running(tmp_path, file, command=command, workers=4) as server:
            assert server.status()["watcher"] == {"mode": "poll", "alive": True}
            assert "watching is not possible" in server.log
            assert min(followed(server, file, f"n{number}") for number in range(5)) < 1
            file.write_text(text("in-place.example"))
            wait_for(lambda: server.all_serve("in-place.example"), seconds=4)

    def unprivileged(self) -> list[str]:
        """Return a command prefix that removes root's file permissions."""
        if os.geteuid() != 0:
            return []
        setpriv = need_program("setpriv")
        return [setpriv, "--bounding-set=-dac_override,-dac_read_search"]

    def test_chmod_000_and_back(self, tmp_path: Path) -> None:
        """An unreadable file keeps the list, and a readable file applies again."""
        file = tmp_path / "endpoints.txt"
        file.write_text(GOOD)
        command = [*self.unprivileged(), *gunicorn_command()]
        with running(
            tmp_path, file, command=command, workers=4, ENDPOINT_POLL_INTERVAL="60"
        ) as server:
            for _ in range(2):
                file.chmod(0)
                wait_for(
                    lambda: "Permission denied" in str(server.status()["last_reload"]["error"])
                )
                assert server.hosts() == HOSTS
                file.chmod(0o644)
                wait_for(lambda: server.all_are("fresh"))
            assert min(followed(server, file, f"n{number}") for number in range(3)) < 1

    def test_a_folder_that_may_not_be_listed(self, tmp_path: Path) -> None:
        """inotify sees no event in a folder without read permission: polling follows edits."""
        folder = tmp_path / "conf"
        folder.mkdir()
        file = folder / "endpoints.txt"
        file.write_text(GOOD)
        folder.chmod(0o311)
        command = [*self.unprivileged(), *gunicorn_command()]
        try:
            with running(tmp_path, file, command=command, workers=4) as server:
                assert server.status()["watcher"] == {"mode": "poll", "alive": True}
                assert "may not be listed" in server.log
                assert min(followed(server, file, f"n{number}") for number in range(3)) < 1
                # With permission again, watching resumes by itself.
                folder.chmod(0o755)
                wait_for(
                    lambda: server.status()["watcher"]["mode"] == "inotify", seconds=30, every=0.2
                )
        finally:
            folder.chmod(0o755)

    @pytest.mark.parametrize("limit", ["-S", "-SH"])
    def test_more_connections_than_descriptors(self, tmp_path: Path, limit: str) -> None:
        """The soft limit is raised; at the hard limit connections wait, and edits still apply."""
        file = tmp_path / "endpoints.txt"
        file.write_text(GOOD)
        command = ["bash", "-c", f'ulimit {limit} -n 200; exec "$@"', "-", *gunicorn_command()]
        with (
            running(tmp_path, file, command=command, workers=1, WORKER_CLASS="gthread") as server,
            contextlib.ExitStack() as stack,
        ):
            kept = []
            for _ in range(90 if limit == "-SH" else 250):
                connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
                kept.append(stack.enter_context(contextlib.closing(connection)))
                connection.request("GET", "/health")
                assert connection.getresponse().read()
            if limit == "-SH":
                for _ in range(150):
                    stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            replace(file, text("z.example"))
            wait_for(lambda: "z.example" in asked(kept[0]), what="the edit is followed")

    def test_a_state_folder_that_cannot_be_written(self, tmp_path: Path) -> None:
        """A read-only state folder causes a warning only."""
        (tmp_path / "state").write_text("in the way")
        file = tmp_path / "endpoints.txt"
        file.write_text(GOOD)
        with running(tmp_path, file, workers=1) as server:
            assert "the last good list cannot be saved" in server.log
            followed(server, file, "x")


class TestBadEnvironment:
    """A malformed value ends the start with one line."""

    @pytest.mark.parametrize(
        ("command", "code"),
        [
            (gunicorn_command(), 1),
            ([sys.executable, "-m", "mop_config", "serve"], 1),
            ([sys.executable, "-m", "flask", "--app", "wsgi", "run"], 3),
            ([sys.executable, "-m", "waitress", "--listen=127.0.0.1:0", "wsgi:app"], 3),
        ],
        ids=["gunicorn", "mop-config", "flask", "waitress"],
    )
    def test_variable_value_and_what_is_allowed(self, command: list[str], code: int) -> None:
        """The line names the variable, the value and the allowed values, without a traceback."""
        environ = {**os.environ, "ENDPOINT_PROTOCOL": "gopher"}
        result = subprocess.run(
            command, env=environ, capture_output=True, text=True, timeout=30, check=False
        )
        assert result.returncode == code
        assert result.stderr.strip() == (
            "mop-config: ENDPOINT_PROTOCOL='gopher' cannot be used: it must be one of http, https"
        )

    def test_a_default_port_that_is_none_only_warns(self, tmp_path: Path) -> None:
        """An invalid default port is a warning, and the server runs without a default port."""
        file = tmp_path / "endpoints.txt"
        file.write_text(GOOD)
        with running(tmp_path, file, ENDPOINT_DEFAULT_PORT="many", ENDPOINT_PROTCOL="x") as server:
            assert "ENDPOINT_DEFAULT_PORT='many'" in server.log
            assert "did you mean ENDPOINT_PROTOCOL?" in server.log
            assert server.hosts() == HOSTS


#: An application whose clock is set back by an hour when a file exists.
SET_BACK = """
import os, time
real = time.time
time.time = lambda: real() - 3600 * os.path.exists({path!r})
from mop_config import create_app
app = create_app()
"""


def test_the_clock_is_set_back(tmp_path: Path) -> None:
    """After the clock is set back, the status names the newest reload, not the latest date."""
    file, back = tmp_path / "endpoints.txt", tmp_path / "back"
    file.write_text(GOOD)
    (tmp_path / "set_back_application.py").write_text(SET_BACK.format(path=str(back)))
    command = gunicorn_command(target="set_back_application:app")
    with running(tmp_path, file, command=command, PYTHONPATH=f"{ROOT}:{tmp_path}") as server:
        started = server.status()["last_reload"]
        back.touch()
        os.kill(server.workers[0], signal.SIGHUP)
        wait_for(
            lambda: all(server.status()["last_reload"]["trigger"] == "sighup" for _ in range(8)),
            what="whichever worker is asked names the newest reload",
        )
        assert server.status()["last_reload"]["at"] < started["at"]
        followed(server, file, "edit")
        assert server.status()["last_reload"]["trigger"] == "watch"


#: An application on a simulated CIFS, which refuses every lease as if a writer existed.
NO_LEASES = """
import errno, fcntl
real = fcntl.fcntl

def refuse(descriptor, command, argument=0):
    if command == fcntl.F_SETLEASE and argument != fcntl.F_UNLCK:
        raise OSError(errno.EAGAIN, "Resource temporarily unavailable")
    return real(descriptor, command, argument)

fcntl.fcntl = refuse
from mop_config import create_app
app = create_app()
"""


def test_a_file_system_that_never_grants_a_lease_is_no_writer(tmp_path: Path) -> None:
    """On a file system without leases, edits apply as fast and a start does not wait."""
    file = tmp_path / "endpoints.txt"
    file.write_text(GOOD)
    (tmp_path / "no_leases_application.py").write_text(NO_LEASES)
    command = gunicorn_command(target="no_leases_application:app")
    path = f"{ROOT}:{tmp_path}"
    with running(tmp_path, file, command=command, PYTHONPATH=path) as server:
        times = [followed(server, file, f"edit{number}") for number in range(3)]
        file.write_text(text("in-place-a.example", "in-place-b.example"))
        began = time.monotonic()
        wait_for(
            lambda: server.all_serve("in-place-a.example", "in-place-b.example"),
            what="an edit in place",
        )
        times.append(time.monotonic() - began)
        assert max(times) < 1.9, times
    with running(tmp_path, file, command=command, PYTHONPATH=path) as server:
        assert server.all_are("fresh")
        assert "keeps changing" not in server.log
