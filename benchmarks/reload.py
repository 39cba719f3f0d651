"""The time from an edit to the last worker, the cost of parsing, and the delay of requests."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mop_config.model.endpoint import dumps
from mop_config.server.parsing.parser import parse
from mop_config.server.parsing.render import EMPTY_BODY, build, render
from mop_config.server.settings import UrlRules
from mop_config.server.state.directory import parse_record
from tests.servers import ENDPOINTS, Server, gunicorn_command, running

from .load import CORES, LOAD_CORE, SERVER_CORE, cpu_seconds, on_load_core, on_server_core
from .report import Report, median, options, percentile

WORKERS = 4
CLASSES = ("asgi", "gthread")
#: Most milliseconds that the reload of a list with so many entries may add to the worst answer.
ADDED = {10_000: 25, 50_000: 120}
#: Seconds of one open-loop load.
LOAD = 3.0
PINNED = f"The servers run on core {SERVER_CORE}, what asks and edits on core {LOAD_CORE}."


def text(entries: int, seed: int = 0) -> str:
    """Return a file with that number of entries, half domains and half addresses."""
    domains = entries // 2
    hosts = (f"host{i}-{seed}.example.com\n" for i in range(domains))
    addresses = (f"10.{i >> 16 & 255}.{i >> 8 & 255}.{i & 255}\n" for i in range(entries - domains))
    return f"DomainList:\n{''.join(hosts)}IPList:\n{''.join(addresses)}"


class Site:
    """A running server, its file, and the state files of its workers."""

    def __init__(self, server: Server, file: Path, workers: int) -> None:
        self.server = server
        self.file = file
        self.workers = workers
        self.state = file.parent / "state"

    def edit(self, content: str, way: str = "replace") -> float:
        """Change the file; return the seconds from the change until the last worker serves it.

        A worker writes its state file right after the swap, so a file that names the new
        list proves that the list is served.
        """
        etag = render(content.encode(), UrlRules(), EMPTY_BODY).etag
        scratch = self.file.with_name("scratch")
        target = self.file if way == "in place" else scratch
        target.write_text(content)
        if way == "replace":
            os.replace(scratch, self.file)
        done = time.perf_counter()
        while self._etags() != [etag] * self.workers:
            if time.perf_counter() - done > 300:
                raise TimeoutError(self.server.log[-2000:])
            time.sleep(0.001)
        return time.perf_counter() - done

    def _etags(self) -> list[str]:
        return served_etags(self.state)


def served_etags(state: Path) -> list[str]:
    """Return the ETag of the list that each worker serves, from the records in a state folder."""
    records = (parse_record(path.read_bytes()) for path in state.glob("*/[!.]*.worker.*"))
    return [record["served"]["etag"] for record in records]


@contextmanager
def site(worker_class: str, entries: int = 6, workers: int = WORKERS) -> Iterator[Site]:
    """Run a server on a file with that number of entries."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "endpoints.txt"
        file.write_text(text(entries))
        with running(
            file.parent,
            file,
            workers=workers,
            command=on_server_core(gunicorn_command()),
            WORKER_CLASS=worker_class,
            ENDPOINT_MAX_BYTES=str(1 << 30),
        ) as server:
            yield Site(server, file, workers)


def edits(quick: bool) -> Report:
    """Measure the time from the writer's close or rename to the last of four workers."""
    report = Report(
        "reload: edit to last worker",
        f"Milliseconds from the writer's close or rename until the last of {WORKERS} workers"
        " serves the new list: 6 entries, edits at random moments, of each server in turn. CPU is"
        f" the processor time of all workers in one edit and the pause before it. Ratio is asgi's"
        f" p99 beside the other class'; the goal is 1.05. {PINNED}",
    )
    count = 20 if quick else 120
    with ExitStack() as stack:
        sites = {each: stack.enter_context(site(each)) for each in CLASSES}
        for way in ("replace", "in place"):
            delays: dict[str, list[float]] = {each: [] for each in CLASSES}
            cpu = {each: -cpu_seconds(here.server.pid) for each, here in sites.items()}
            for number in range(count):
                for worker_class, here in sites.items():
                    time.sleep(random.uniform(0.05, 0.3))
                    delays[worker_class].append(here.edit(text(6, number + 1), way) * 1000)
            for worker_class, here in sites.items():
                cpu[worker_class] += cpu_seconds(here.server.pid)
                report.add(
                    worker=worker_class,
                    watcher=here.server.status()["watcher"]["mode"],
                    way=way,
                    edits=count,
                    p50_ms=median(delays[worker_class]),
                    p99_ms=percentile(delays[worker_class], 99),
                    max_ms=max(delays[worker_class]),
                    cpu_ms=cpu[worker_class] * 1000 / count,
                    ratio=percentile(delays[CLASSES[0]], 99) / percentile(delays[worker_class], 99),
                )
    return report


def sizes(quick: bool) -> Report:
    """Measure the cost of a text by its number of entries."""
    report = Report(
        "reload: cost of a text",
        "Milliseconds in one process, median of 5: parse is text to entries, build is entries"
        " to endpoints, render is all of it, with JSON, gzip and the difference.",
    )
    for entries in (6, 1_000, 10_000, 50_000):
        content = text(entries)
        spent: dict[str, list[float]] = {"parse": [], "build": [], "dumps": [], "render": []}
        for _ in range(1 if quick else 5):
            moments = [time.perf_counter()]
            file = parse(content)
            moments.append(time.perf_counter())
            built = build(file, UrlRules())
            moments.append(time.perf_counter())
            body = dumps(built.config)
            moments.append(time.perf_counter())
            render(content.encode(), UrlRules(), EMPTY_BODY)
            moments.append(time.perf_counter())
            for name, start, end in zip(spent, moments, moments[1:], strict=False):
                spent[name].append((end - start) * 1000)
        report.add(
            entries=entries,
            text_bytes=len(content),
            json_bytes=len(body),
            **{f"{name}_ms": median(values) for name, values in spent.items()},
        )
    return report


def stalls(quick: bool) -> Report:
    """Measure what a reload adds to the slowest request beside it."""
    pairs = 2 if quick else 9
    report = Report(
        "reload: stalls",
        f"Open-loop load of 100 requests a second for {LOAD:g} s (HEAD of the list and GET of"
        " /health in turn) on 2 workers, without and with a replaced file, in pairs;"
        " milliseconds from the moment at which a request should have left, medians of"
        f" {pairs} pairs. Added is the median of the pairs' differences of the worst requests."
        f" {PINNED}",
    )
    for entries, goal in ADDED.items():
        for worker_class in CLASSES:
            with site(worker_class, entries, workers=2) as here:
                reload: list[float] = []
                found = [
                    (
                        _under_open_load(here),
                        _under_open_load(here, text(entries, pair + 1), reload),
                    )
                    for pair in range(pairs)
                ]
            added = median([max(busy) - max(idle) for idle, busy in found])
            report.add(
                worker=worker_class,
                entries=entries,
                idle_worst_ms=median([max(idle) for idle, _ in found]),
                reload_worst_ms=median([max(busy) for _, busy in found]),
                added_ms=added,
                goal=goal,
                held="yes" if added <= goal else "no",
                reload_s=median(reload),
            )
    return report


def _under_open_load(
    here: Site, content: str | None = None, took: list[float] | None = None
) -> list[float]:
    """Return the latencies in milliseconds of a load during which the file is edited."""
    load = {
        "port": here.server.port,
        "seconds": LOAD,
        "rate": 100,
        "requests": [["HEAD", ENDPOINTS], ["GET", "/health"]],
    }
    command = [sys.executable, "-m", "benchmarks.openloop", json.dumps(load)]
    with subprocess.Popen(on_load_core(command), stdout=subprocess.PIPE) as process:
        time.sleep(0.7)
        if content is not None and took is not None:
            took.append(here.edit(content))
        output, _ = process.communicate()
    return [latency * 1000 for latency in json.loads(output)]


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    os.sched_setaffinity(0, {LOAD_CORE})
    try:
        yield edits(quick)
        yield sizes(quick)
        yield stalls(quick)
    finally:
        os.sched_setaffinity(0, CORES)


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
