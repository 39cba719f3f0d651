"""The number of threads of a gthread worker: its speed, and the effect of idle clients."""

import contextlib
import http.client
import socket
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import psutil

from tests.servers import ENDPOINTS, Server, gunicorn_command, running

from .load import Spent, available, on_server_core, wrk
from .reload import text
from .report import Report, median, options

NUMBERS = (4, 8, 16, 32)
IDLE, HALF = 64, 8


@contextlib.contextmanager
def _idle(port: int) -> Iterator[None]:
    """Open connections that got one answer and stay idle."""
    with contextlib.ExitStack() as stack:
        for _ in range(IDLE):
            client = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            stack.enter_context(contextlib.closing(client))
            client.request("GET", ENDPOINTS)
            client.getresponse().read()
        yield


@contextlib.contextmanager
def _half(port: int) -> Iterator[None]:
    """Open connections that never complete their headers."""
    with contextlib.ExitStack() as stack:
        for _ in range(HALF):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", port), 60))
            client.sendall(f"GET {ENDPOINTS} HTTP/1.1\r\nHost: localhost\r\n".encode())
        yield


CONDITIONS: dict[str, Callable[[int], AbstractContextManager[None]]] = {
    "alone": lambda _: contextlib.nullcontext(),
    "idle": _idle,
    "half": _half,
}


def _ask(server: Server, condition: str) -> Spent | None:
    """Load a server; return None if the server no longer answers."""
    with CONDITIONS[condition](server.port):
        try:
            return wrk(server.pid, server.port, ENDPOINTS, 1, connections=32, timeout=5)
        except RuntimeError:
            return None


def _row(number: int, server: Server, found: dict[str, list[Spent | None]]) -> dict[str, Any]:
    cells: dict[str, Any] = {"threads": number}
    for condition, tries in found.items():
        good = [each for each in tries if each is not None]
        cells[f"{condition}_requests_s"] = median([each.rate for each in good]) if good else 0
        cells[f"{condition}_p99_ms"] = median([each.p99_ms for each in good]) if good else "none"
        cells[f"{condition}_cpu_us"] = median([each.cpu_us for each in good]) if good else "none"
        cells[f"{condition}_starved"] = len(tries) - len(good)
    cells["rss_mib"] = psutil.Process(server.workers[0]).memory_info().rss / (1 << 20)
    return cells


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    rounds = 2 if quick else 5
    report = Report(
        "threads: gthread",
        "2 workers on one core, 6 entries, wrk with 32 connections on another core: alone, with"
        f" {IDLE} idle connections, and with {HALF} clients that never end their headers. Medians"
        f" of {rounds} rounds with every server in each. Starved: rounds in which nobody was"
        " answered, or somebody never.",
    )
    if not available("wrk", "taskset"):
        report.note = "Left out: it needs wrk and taskset."
        yield report
        return
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        file = Path(name) / "endpoints.txt"
        file.write_text(text(6))
        servers: dict[int, Server] = {}
        for number in NUMBERS:
            folder = Path(name) / str(number)
            folder.mkdir()
            command = on_server_core(gunicorn_command())
            servers[number] = stack.enter_context(
                running(folder, file, command=command, THREADS=str(number))
            )
        found: dict[int, dict[str, list[Spent | None]]] = {
            number: {condition: [] for condition in CONDITIONS} for number in NUMBERS
        }
        for _ in range(rounds):
            for condition in CONDITIONS:
                for number, server in servers.items():
                    found[number][condition].append(_ask(server, condition))
        for number, server in servers.items():
            report.add(**_row(number, server, found[number]))
    yield report


if __name__ == "__main__":
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
