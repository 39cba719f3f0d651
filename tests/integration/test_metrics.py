"""The metrics of a real gunicorn: any worker answers with the totals of all workers."""

import contextlib
import http.client
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from mop_config.server.status.metrics import PREFIX

from ..client.handmade import handmade
from ..scrapes import Scrape, check_with_promtool
from ..servers import ENDPOINTS, Server, gunicorn_command, running
from ..waiting import wait_for

WORKERS = 3
KILLS = 5


def scrape(server: Server) -> Scrape:
    answer = server.get("/metrics")
    assert answer.status == 200
    return Scrape(answer.body.decode())


def until(server: Server, shows: Callable[[Scrape], bool]) -> Scrape:
    """Scrape until a condition holds, and return that scrape."""
    scrapes: list[Scrape] = []

    def look() -> bool:
        scrapes[:] = [scrape(server)]
        return shows(scrapes[0])

    wait_for(look, seconds=30)
    return scrapes[0]


def text(*hosts: str) -> str:
    return "DomainList:\n" + "".join(f"{host}\n" for host in hosts)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("metrics")
    file = folder / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with running(folder, file, workers=WORKERS, TMPDIR=str(folder)) as server:
        yield server, file


def requests(told: Scrape, route: str = "/health") -> float:
    return told.total("mop_config_requests_total", route=route)


def test_every_worker_tells_the_same_exact_counts(site: tuple[Server, Path]) -> None:
    """Requests on new connections reach all workers, and the next scrape counts every one."""
    server, _ = site
    for route in ("/health", ENDPOINTS):
        before = requests(scrape(server), route)
        for number in range(1, 61):
            server.get(route)
            assert requests(scrape(server), route) == before + number
    told = scrape(server)
    assert told.total("mop_config_reloads_total", trigger="start") >= WORKERS
    check_with_promtool(told.text)


def test_counters_never_fall_while_workers_are_killed(tmp_path: Path) -> None:
    """Counters never fall or lose counts while workers are killed one by one during scrapes."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with running(tmp_path, file, workers=WORKERS, TMPDIR=str(tmp_path)) as server:
        (folder,) = tmp_path.glob(f"{PREFIX}*")
        files = sorted(folder.iterdir())
        _kill_workers(server)
        assert sorted(folder.iterdir()) == files, "nothing piles up"


def _kill_workers(server: Server) -> None:
    before = scrape(server)
    lowest = before.counters()
    falls: list[object] = []
    done = threading.Event()

    def watch() -> None:
        while not done.is_set():
            with contextlib.suppress(OSError, http.client.HTTPException):
                for key, value in scrape(server).counters().items():
                    if value < lowest.get(key, 0.0):
                        falls.append((key, value, lowest[key]))
                    lowest[key] = value

    watcher = threading.Thread(target=watch)
    watcher.start()
    answered = 0
    try:
        for _ in range(KILLS):
            victim = server.status()["workers"][0]["pid"]
            os.kill(victim, signal.SIGKILL)
            pids = {victim}
            while victim in pids or len(pids) < WORKERS:
                with contextlib.suppress(OSError, http.client.HTTPException):
                    server.get("/health")
                    answered += 1
                    pids = {worker["pid"] for worker in server.status()["workers"]}
    finally:
        done.set()
        watcher.join()
    assert falls == []
    after = scrape(server)
    # A worker may be killed after counting and before answering: that request counts too.
    assert answered <= requests(after) - requests(before) <= answered + KILLS
    starts = [told.total("mop_config_reloads_total", trigger="start") for told in (before, after)]
    assert starts[1] - starts[0] == KILLS


def test_the_source_as_all_workers_see_it(site: tuple[Server, Path]) -> None:
    """The reload metrics show a good text, then a bad text, and then a good text."""
    server, file = site

    def loads(told: Scrape, *results: str) -> float:
        return sum(told.total("mop_config_reloads_total", result=result) for result in results)

    before = scrape(server)

    def shows(told: Scrape, hosts: int, good: int, refused: int) -> bool:
        return (
            told.total("mop_config_last_reload_successful") == good
            and told.series("mop_config_endpoints", "kind") == {"api": hosts, "socketio": hosts}
            and loads(told, "rejected") - loads(before, "rejected") == refused
        )

    file.write_text(text("a.example", "b.example", "c.example"))
    until(server, lambda told: shows(told, 3, good=1, refused=0))
    file.write_text("DomainList\n" + "bad_host\n" * 120)
    bad = until(
        server,
        lambda told: (
            shows(told, 3, good=0, refused=WORKERS)
            and told.total("mop_config_problems", severity="error") == 122
        ),
    )
    file.write_text(text("a.example", "b.example"))
    after = until(server, lambda told: shows(told, 2, good=1, refused=WORKERS))
    # A worker that takes over another worker's list finds the file unchanged.
    good = ("applied", "unchanged")
    assert loads(after, *good) - loads(before, *good) >= 2 * WORKERS
    assert WORKERS < loads(after, "applied") - loads(before, "applied") <= 2 * WORKERS
    stamp = "mop_config_last_reload_success_timestamp_seconds"
    assert before.total(stamp) < bad.total(stamp) < after.total(stamp)


def test_parked_requests_of_all_workers(site: tuple[Server, Path]) -> None:
    """Parked requests are counted as waiting, and as requests when they are answered."""
    server, file = site
    etag = server.get().headers["ETag"]
    waiting = [http.client.HTTPConnection("127.0.0.1", server.port, timeout=60) for _ in range(9)]
    try:
        for connection in waiting:
            connection.request("GET", f"{ENDPOINTS}?wait=60", headers={"If-None-Match": etag})
        until(server, lambda told: told.total("mop_config_waiters") == 9)
        before = requests(scrape(server), ENDPOINTS)
        file.write_text(text("d.example", "e.example"))
        assert [connection.getresponse().status for connection in waiting] == [200] * 9
    finally:
        for connection in waiting:
            connection.close()
    until(server, lambda told: told.total("mop_config_waiters") == 0)
    assert requests(scrape(server), ENDPOINTS) == before + 9


def test_series_come_and_go_with_their_endpoints(tmp_path: Path) -> None:
    """The series of an endpoint exist, by kind and URL, only while the endpoint is served."""
    file = tmp_path / "endpoints.txt"
    up, seconds = "mop_config_endpoint_up", "mop_config_endpoint_response_seconds"
    with handmade(lambda _: (200, {}, b"{}")) as live, handmade(lambda _: (500, {}, b"")) as sick:
        urls = {f"{live.url}/x", f"{sick.url}/x"}
        file.write_text("ApiList:\n" + "\n".join(urls))
        with running(tmp_path, file, ENDPOINT_PROBE_INTERVAL="1") as server:
            expected = {f"{live.url}/x": 1.0, f"{sick.url}/x": 0.0}
            told = until(server, lambda told: told.series(up, "url") == expected)
            assert told.total(up, kind="api") == 1
            assert 0 < told.series(seconds, "url")[f"{live.url}/x"] < 30
            check_with_promtool(told.text)
            file.write_text(f"ApiList:\n{live.url}/x\n")
            gone = until(server, lambda told: f"{sick.url}/x" not in told.text)
            assert gone.series(up, "url") == {f"{live.url}/x": 1}


@pytest.mark.parametrize(
    ("options", "worker_class"),
    [(("--preload",), "gthread"), (("--preload",), "asgi")],
    ids=["gthread", "asgi"],
)
def test_other_ways_of_running_count_as_exactly(
    tmp_path: Path, options: tuple[str, ...], worker_class: str
) -> None:
    """Counts are exact with --preload too, and the metrics folder is removed with its master."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with running(
        tmp_path, file, *options, WORKER_CLASS=worker_class, TMPDIR=str(tmp_path)
    ) as server:
        for _ in range(20):
            server.get("/health")
        assert requests(scrape(server)) == 20
        os.kill(server.workers[0], signal.SIGKILL)
        starts = "mop_config_reloads_total"
        until(server, lambda told: told.total(starts, trigger="start") == 3)
        wait_for(lambda: len(server.status()["workers"]) == 2, what="it is ready")
        assert requests(scrape(server)) == 20
        assert len(list(tmp_path.glob(f"{PREFIX}*"))) == 1
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_the_operators_own_folder_is_kept_and_counted_in(tmp_path: Path) -> None:
    """The operator's own PROMETHEUS_MULTIPROC_DIR holds our counters too, and is kept."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    own = tmp_path / "own"
    own.mkdir()
    with running(tmp_path, file, TMPDIR=str(tmp_path), PROMETHEUS_MULTIPROC_DIR=str(own)) as server:
        for _ in range(20):
            server.get("/health")
        assert requests(scrape(server)) == 20
        assert not list(tmp_path.glob(f"{PREFIX}*"))
    assert list(own.glob("counter_*.db"))


def test_an_upgraded_master_has_a_folder_of_its_own(tmp_path: Path) -> None:
    """An upgraded master makes its own folder: the inherited one is removed with the old master."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    with running(tmp_path, file, TMPDIR=str(tmp_path)) as server:
        olds = server.workers
        (first,) = tmp_path.glob(f"{PREFIX}*")
        server.send(signal.SIGUSR2)
        new = wait_for(
            lambda: next((pid for pid in server.workers if pid not in olds), 0), seconds=20
        )
        upgraded = psutil.Process(new)
        try:
            wait_for(lambda: len(server.status()["workers"]) == 4, seconds=20)
            os.kill(server.pid, signal.SIGTERM)
            assert server.process.wait(20) == 0
            (second,) = tmp_path.glob(f"{PREFIX}*")
            assert second != first
            before = requests(scrape(server))
            for number in range(1, 11):
                server.get("/health")
                assert requests(scrape(server)) == before + number
            assert "Traceback" not in server.log
        finally:
            upgraded.terminate()
            upgraded.wait(20)
    assert not list(tmp_path.glob(f"{PREFIX}*"))


def test_without_our_hooks_each_worker_counts_for_itself(tmp_path: Path) -> None:
    """Without our hooks each worker counts alone, and the status says so."""
    file = tmp_path / "endpoints.txt"
    file.write_text(text("a.example", "b.example"))
    conf = tmp_path / "own.py"
    conf.write_text("bind = '127.0.0.1:0'\n")
    command = gunicorn_command("-c", str(conf))
    with running(tmp_path, file, command=command, workers=1, TMPDIR=str(tmp_path)) as server:
        server.get("/health")
        assert requests(scrape(server)) == 1
        (problem,) = server.status()["problems"]
        assert problem["code"] == "no-hooks"
        assert "counts its metrics for itself" in problem["message"]
