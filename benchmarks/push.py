"""The time from an edit to the answer of the last long poll."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from tests.servers import Server, gunicorn_command, running

from .load import (
    ALL_CORES,
    LOAD_CORE,
    SERVER_CORE,
    available,
    cpu_seconds,
    on_load_core,
    on_server_core,
)
from .reload import text
from .report import Report, median, options, percentile

WORKERS = 2
#: Goal for the last waiter's delay, in milliseconds.
GOAL = 1000


class Case(NamedTuple):
    """One measurement's parameters.

    Attributes:
        worker: gunicorn's worker class.
        waiters: Number of parked clients.
        away_ms: Milliseconds from an answer to its client's next request.
        cores: Cores of the workers, in the syntax of taskset.
    """

    worker: str
    waiters: int
    away_ms: int = 50
    cores: str = str(SERVER_CORE)


#: Two gthread workers can park 28 requests.
CASES = (
    Case("asgi", 1_000),
    Case("asgi", 5_000, cores=ALL_CORES),
    Case("gthread", 28),
)


class Edit(NamedTuple):
    """The time of an edit, the ETag of its list, and the CPU seconds of telling all waiters."""

    at: float
    etag: str
    cpu: float


def _edits(server: Server, file: Path, number: int, pause: float = 4) -> Iterator[Edit]:
    """Replace the file, and wait until every answer to the edit has been sent."""
    for count in range(1, number + 1):
        scratch = file.with_name("scratch")
        scratch.write_text(text(6, count))
        before = cpu_seconds(server.pid)
        os.replace(scratch, file)
        at = time.monotonic()
        time.sleep(pause)  # the goal is one second, so an answer after four seconds counts as lost
        yield Edit(at, server.get().headers["ETag"], cpu_seconds(server.pid) - before)


@contextlib.contextmanager
def _waiting(server: Server, number: int, away: float) -> Iterator[list[Any]]:
    """Run that number of waiters during the block; afterwards the list holds their answers."""
    etag = server.get().headers["ETag"]
    wanted = {"port": server.port, "number": number, "etag": etag, "away": away}
    command = on_load_core([sys.executable, "-m", "benchmarks.waiters", json.dumps(wanted)])
    found: list[Any] = []
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "sent\n":
                raise RuntimeError("the parked clients have failed")
            for _ in range(20):
                server.get("/health")  # connections are accepted in order: the waiters' come first
            yield found
            output, _ = process.communicate("", timeout=60)
            found += json.loads(output)
        finally:
            process.kill()


def _measure(case: Case, edits: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        file = Path(name) / "endpoints.txt"
        file.write_text(text(6))
        command = on_server_core(gunicorn_command(), case.cores)
        server = stack.enter_context(
            running(file.parent, file, workers=WORKERS, command=command, WORKER_CLASS=case.worker)
        )
        found = stack.enter_context(_waiting(server, case.waiters, case.away_ms / 1000))
        made = list(_edits(server, file, edits))
        stack.close()  # ends the waiters, which then report
    return {**case._asdict(), "edits": edits, **_judge(found, made)}


def _judge(found: list[Any], made: list[Edit]) -> dict[str, Any]:
    """Return the delays, and the number of lost, duplicate and wrong answers."""
    delays: list[list[float]] = [[] for _ in made]
    told = [[(at, etag) for at, status, etag in answers if status == 200] for answers, _ in found]
    for each in told:
        for edit, delay in zip(made, delays, strict=True):
            delay += [(at - edit.at) * 1000 for at, etag in each if etag == edit.etag][:1]
    number = len(found)
    goal = median([max(delay) for delay in delays])
    return {
        "median_ms": median([median(delay) for delay in delays]),
        "p99_ms": median([percentile(delay, 99) for delay in delays]),
        "last_ms": goal,
        "worst_last_ms": max(max(delay) for delay in delays),
        "cpu_us": median([edit.cpu for edit in made]) / number * 1e6,
        "lost": sum(number - len(delay) for delay in delays),
        "twice": sum(len(each) - len({etag for _, etag in each}) for each in told),
        "turned_away": sum(away for _, away in found),
        "held": "yes" if goal <= GOAL else "no",
    }


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    report = Report(
        "push: edit to last waiter",
        f"Milliseconds from the rename until the parked clients have the new list, on {WORKERS}"
        f" workers; all clients are one process on core {LOAD_CORE}. Away is the time in"
        " milliseconds from an answer to the client's next request. 6 entries. Median, p99 and last"
        " are medians of the edits; the worst last is that of all edits. Lost clients were not told"
        " before the next edit 4 s later, and twice counts answers with a list that the client had."
        " CPU is the processor time of all workers in these seconds, in microseconds for each"
        f" client, with its next request. The goal is {GOAL} ms for the last client.",
    )
    if not available("taskset"):
        report.note = "Left out: it needs taskset."
    else:
        for case in CASES[:1] if quick else CASES:
            report.add(**_measure(case, 2 if quick else 7))
    yield report


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
