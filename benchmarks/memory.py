"""The memory of a worker, by the size of its list and after a thousand reloads."""

import contextlib
import itertools
import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.settings import UrlRules
from tests.servers import ENDPOINTS, Server, gunicorn_command, running

from .load import available, cpu_seconds, on_server_core, wrk
from .reload import CLASSES, PINNED, served_etags, site, text
from .report import Report, options

#: Reloads and requests until a worker's memory is stable, and the growth allowed after them.
WARM, WARM_REQUESTS, GOAL = 50, 10_000, 1.05
_MIB = 1 << 20


class Held(NamedTuple):
    """The resources of a worker."""

    rss_mib: float
    threads: int
    descriptors: int
    watches: int


def _held(pid: int) -> Held:
    """Return a process's memory, threads, descriptors and inotify watches, from /proc."""
    folder = Path("/proc") / str(pid)
    watches = 0
    for entry in (folder / "fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):  # closed in the meantime
            watches += f"\n{entry.read_text()}".count("\ninotify ")
    return Held(
        psutil.Process(pid).memory_info().rss / _MIB,
        len(os.listdir(folder / "task")),
        len(os.listdir(folder / "fd")),
        watches,
    )


def sizes(quick: bool) -> Report:
    """Measure a worker's memory by the size of its list."""
    report = Report(
        "memory: a worker",
        "MiB of one of 2 workers: rss is all of it, own is what it shares with nobody. Each has"
        " answered with the plain and with the compressed list.",
    )
    for entries in (6, 10_000) if quick else (6, 10_000, 50_000):
        for worker in CLASSES:
            with site(worker, entries, workers=2) as here:
                for coding in ("identity", "gzip") * 4:
                    here.server.get(**{"Accept-Encoding": coding})
                process = psutil.Process(here.server.workers[0])
                held = _held(process.pid)
                report.add(
                    entries=entries,
                    worker=worker,
                    own_mib=process.memory_full_info().uss / _MIB,
                    **held._asdict(),
                )
    return report


class Follower:
    """A server with one worker, and the folder of the worker's state file."""

    def __init__(self, server: Server, folder: Path) -> None:
        self.server = server
        self.state = folder / "state"
        self.worker = server.workers[0]

    def serves(self, etag: str) -> bool:
        """Return whether the worker's state file, written right after the swap, names this list."""
        return served_etags(self.state) == [etag]


@contextlib.contextmanager
def _followers(folder: Path, file: Path) -> Iterator[dict[str, Follower]]:
    with contextlib.ExitStack() as stack:
        found = {}
        for worker in CLASSES:
            own = folder / worker
            own.mkdir()
            command = on_server_core(gunicorn_command())
            server = stack.enter_context(
                running(own, file, workers=1, command=command, WORKER_CLASS=worker)
            )
            found[worker] = Follower(server, own)
        yield found


def _replace(file: Path, content: bytes) -> None:
    scratch = file.with_name("scratch")
    scratch.write_bytes(content)
    os.replace(scratch, file)


def reloads(quick: bool) -> Report:
    """Measure the growth of memory over reloads."""
    number = 60 if quick else 1000
    report = Report(
        "memory: after reloads",
        f"One worker each, a file of 10,000 entries replaced {number} times, each list asked for"
        f" once. MiB, threads, descriptors and inotify watches after {WARM} reloads and after"
        f" all. The goal is at most {GOAL} times the memory, and nothing left behind. CPU is the"
        f" server's processor time for a reload with what it is asked. {PINNED}",
    )
    contents = [text(10_000, seed).encode() for seed in range(7)]
    lists = [(each, render(each, UrlRules(), EMPTY_BODY).etag) for each in contents]
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "endpoints.txt"
        file.write_bytes(contents[-1])
        with _followers(Path(name), file) as followers:
            warm: dict[str, Held] = {}
            for count, (content, etag) in enumerate(itertools.cycle(lists), 1):
                _replace(file, content)
                _follow(followers, etag)
                if count == WARM:
                    warm = {worker: _quiet(each) for worker, each in followers.items()}
                if count == number:
                    break
            for worker, follower in followers.items():
                cpu = cpu_seconds(follower.server.pid) / number * 1000
                row = _row(worker, number, warm[worker], _quiet(follower))
                report.add(**row, cpu_ms=cpu)
    return report


def _follow(followers: dict[str, Follower], etag: str) -> None:
    """Wait until every worker serves the list, and request the list."""
    until = time.monotonic() + 60
    for worker, follower in followers.items():
        while not follower.serves(etag):
            if time.monotonic() > until:
                raise TimeoutError(f"{worker} does not follow:\n{follower.server.log[-2000:]}")
            time.sleep(0.01)
        follower.server.get()


def _quiet(follower: Follower) -> Held:
    """Measure a worker after it has finished the last list."""
    time.sleep(2)
    return _held(follower.worker)


def requests(quick: bool) -> Report:
    """Measure the growth of memory over requests."""
    number = 50_000 if quick else 2_000_000
    report = Report(
        "memory: after requests",
        f"One asgi worker with 6 entries; wrk asks for the list {number} times. MiB after"
        f" {WARM_REQUESTS} requests and after all. The goal is at most {GOAL} times the memory."
        f" {PINNED}",
    )
    with site("asgi", workers=1) as here:
        pid, port = here.server.workers[0], here.server.port
        asked = _ask(pid, port, WARM_REQUESTS)
        warm = _held(pid)
        asked += _ask(pid, port, number - asked)
        after = _held(pid)
    times = after.rss_mib / warm.rss_mib
    report.add(
        worker="asgi",
        requests=asked,
        rss_mib_warm=warm.rss_mib,
        rss_mib_end=after.rss_mib,
        times=times,
        held="yes" if times <= GOAL else "no",
    )
    return report


def _ask(pid: int, port: int, number: int) -> int:
    """Send at least that many requests, in loads of some seconds; return how many were sent."""
    sent = 0.0
    while sent < number:
        seconds = 1 if number <= WARM_REQUESTS else 10
        sent += wrk(pid, port, ENDPOINTS, seconds).rate * seconds
    return int(sent)


def _row(worker: str, number: int, warm: Held, after: Held) -> dict[str, Any]:
    cells: dict[str, Any] = {"worker": worker, "reloads": number}
    for name, before, now in zip(Held._fields, warm, after, strict=True):
        cells |= {f"{name}_{WARM}": before, f"{name}_end": now}
    times = after.rss_mib / warm.rss_mib
    held = times <= GOAL and all(a <= w for a, w in zip(after[1:], warm[1:], strict=True))
    return {**cells, "times": times, "held": "yes" if held else "no"}


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    yield sizes(quick)
    yield reloads(quick)
    if available("wrk", "taskset"):
        yield requests(quick)


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
