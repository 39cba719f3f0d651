"""The default worker with thousands of clients: parked long polls, and stuck connections."""

import contextlib
import os
import resource
import socket
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil

from tests.servers import Server, gunicorn_command, running
from tests.waiting import answers

from .load import available, on_server_core
from .peers import Http
from .push import _edits, _judge, _waiting
from .reload import text
from .report import Report, median, options, percentile

#: Seconds between two edits: enough for all clients to get the list and to poll again.
PAUSE = 15.0
#: Turns in which the servers of a comparison are loaded.
ROUNDS = 15
#: Stuck clients: they send no byte, half a head or half a body, or read no answer.
STUCK = (
    b"",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: ",
    b"POST /api/v1/config/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nhalf",
    b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
)


def _parked(quick: bool) -> Report:
    number, edits = (1000, 2) if quick else (10_000, 3)
    report = Report(
        "front: parked clients",
        f"{number} clients wait on one worker on one core; milliseconds from an edit until "
        "the last one has the new list, and the worker's unique memory for each. The clients "
        f"ask again {PAUSE - 5:g} s after their answer. Lost clients were not told before the"
        " next edit, and twice counts answers with a list that the client had."
        " The raw application wakes all clients by one asyncio.Event, without time-outs,"
        " tokens or counts. Ratio is ours beside it. The goals are 800 ms, or a ratio of 1.5,"
        " and 16 KB.",
    )
    raw = gunicorn_command("--graceful-timeout", "3", target="benchmarks.bare_app:waiting")
    found = {
        "raw ASGI": _tell(number, edits, raw),
        "mop-config": _tell(number, edits, gunicorn_command()),
    }
    last = found["mop-config"]["last_ms"]
    for name, row in found.items():
        report.add(server=name, waiters=number, **row, ratio=last / row["last_ms"])
    return report


def _tell(number: int, edits: int, command: list[str]) -> dict[str, Any]:
    with _raw(command) as (server, file), contextlib.ExitStack() as stack:
        before = _memory(server)
        found = stack.enter_context(_waiting(server, number, PAUSE - 5))
        each = (_memory(server) - before) / number / 1024
        made = list(_edits(server, file, edits, PAUSE))
        stack.close()
    judged = _judge(found, made)
    kept = ("median_ms", "last_ms", "worst_last_ms", "cpu_us", "lost", "twice", "turned_away")
    return {"memory_kb": each, **{name: judged[name] for name in kept}}


@contextlib.contextmanager
def _raw(command: list[str]) -> Iterator[tuple[Server, Path]]:
    """Run one worker on the servers' core, with any application, on a list of 6 entries."""
    with tempfile.TemporaryDirectory() as name:
        file = Path(name) / "endpoints.txt"
        file.write_text(text(6))
        command = on_server_core(command)
        with running(file.parent, file, workers=0, command=command, WEB_CONCURRENCY="1") as server:
            answers(server.port)
            yield server, file


def _memory(server: Server) -> int:
    return sum(psutil.Process(pid).memory_full_info().uss for pid in server.workers)


def _stuck(quick: bool) -> Report:
    number = 200 if quick else 1000
    report = Report(
        "front: stuck connections",
        "Milliseconds for GET /health on a connection of its own, beside so many connections "
        "that stick: a quarter each sends nothing, half a head, half a body, or reads "
        "nothing. One worker with its defaults; 300 requests. Closed after is when the half-"
        "sent heads were closed, in seconds. The goal is a p99 of 50 ms.",
    )
    with _raw(gunicorn_command()) as (server, _):
        report.add(stuck=0, **_health(server))
        report.add(stuck=number, **_health_beside_stuck(server, number))
    return report


def _health_beside_stuck(server: Server, number: int) -> dict[str, Any]:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = time.monotonic()
    with contextlib.ExitStack() as stack:
        held = [
            stack.enter_context(_hold(server.port, data))
            for data in STUCK
            for _ in range(number // len(STUCK))
        ]
        server.get("/health")
        found = _health(server)
        half = held[number // 4]
        half.settimeout(40)
        with contextlib.suppress(ConnectionResetError, TimeoutError):
            while half.recv(65536):
                pass
        return {**found, "closed_after_s": time.monotonic() - began}


def _hold(port: int, data: bytes) -> socket.socket:
    held = socket.create_connection(("127.0.0.1", port), timeout=30)
    held.sendall(data)
    return held


def _health(server: Server) -> dict[str, Any]:
    times = []
    for _ in range(300):
        began = time.monotonic()
        if server.get("/health").status != 200:
            raise RuntimeError("/health fails")
        times.append((time.monotonic() - began) * 1000)
    return {"p50_ms": median(times), "p99_ms": percentile(times, 99), "worst_ms": max(times)}


def _workers(quick: bool) -> Report:
    number, rounds = (1000, 1) if quick else (10_000, ROUNDS)
    report = Report(
        "front: two worker classes",
        "The same raw applications on gunicorn's own asgi worker and on uvicorn's, without our "
        "protocol and with our configuration file: microseconds of server CPU an answer, in "
        f"{rounds} turns; parked clients and stuck connections as in the tables above (no raw "
        "application closes a half-sent head: 40 s mean never); and seconds from SIGTERM until "
        "the server has ended, with 100 idle connections and a graceful time-out of 10 s.",
    )
    ending = ("--graceful-timeout", "10")
    commands = {
        name: partial(gunicorn_command, "-k", name, "--worker-connections", "20000", *ending)
        for name in ("asgi", "uvicorn_worker.UvicornWorker")
    }
    with contextlib.ExitStack() as stack:
        raw = {
            name: stack.enter_context(_raw(command(target="benchmarks.bare_app:raw")))[0]
            for name, command in commands.items()
        }
        peers = {name: Http(server.pid, server.port) for name, server in raw.items()}
        spent: dict[tuple[str, bool], list[float]] = {}
        for _ in range(rounds):
            for known in (False, True):
                for name, peer in peers.items():
                    cpu = peer.ask(1, known=known).cpu_us
                    spent.setdefault((name, known), []).append(cpu)
        for name, server in raw.items():
            row: dict[str, Any] = {
                "cpu_200_us": median(spent[name, False]),
                "cpu_304_us": median(spent[name, True]),
            }
            told = _tell(number, 2, commands[name](target="benchmarks.bare_app:waiting"))
            row |= {key: told[key] for key in ("memory_kb", "last_ms", "lost", "twice")}
            row |= _health_beside_stuck(server, number // 10)
            for _ in range(100):
                idle = stack.enter_context(_hold(server.port, STUCK[-1]))
                idle.recv(65536)
            began = time.monotonic()
            server.stop()
            report.add(worker=name, **row, end_s=time.monotonic() - began)
    return report


def reports(quick: bool) -> Iterator[Report]:
    """Run all benchmarks of this file."""
    if available("taskset"):
        yield _parked(quick)
        yield _stuck(quick)
        if available("wrk"):
            yield _workers(quick)


if __name__ == "__main__":
    os.environ.setdefault("PYTHONDONTWRITEBYTECODE", "1")
    for finished in reports(options(__doc__ or "").quick):
        finished.print()
