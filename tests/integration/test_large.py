"""Large lists: the cost of loading them, and the latency of requests meanwhile."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mop_config.server.parsing.parser import parse

from ..servers import ENDPOINTS, ROOT, Server, running
from ..waiting import wait_for


def text(entries: int, name: str = "h") -> str:
    return "DomainList:\n" + "".join(f"{name}{i}.example.com\n" for i in range(entries))


def seconds_to_parse(content: str) -> float:
    started = time.process_time()
    parse(content)
    return time.process_time() - started


def _least(enough: float, attempts: int, content: str) -> float:
    """Return the least seconds of several parses, since the host may slow some of them."""
    least = seconds_to_parse(content)
    while least > enough and (attempts := attempts - 1):
        least = min(least, seconds_to_parse(content))
    return least


@pytest.mark.alone
def test_parsing_grows_linearly() -> None:
    """Parsing 100,000 entries takes at most 0.6 s, and ten times as many about ten times that."""
    small = _least(0.6, 12, text(100_000))
    assert small <= 0.6
    assert _least(15 * small, 2, text(1_000_000)) <= 15 * small


def latencies(server: Server, seconds: float) -> "subprocess.Popen[bytes]":
    """Start open-loop load: 150 requests per second, sent on schedule however slow the answers."""
    load = {
        "port": server.port,
        "seconds": seconds,
        "rate": 150,
        "requests": [["HEAD", ENDPOINTS], ["GET", "/health"]],
    }
    command = [sys.executable, "-m", "benchmarks.openloop", json.dumps(load)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, cwd=ROOT)


def wait_until_all_left(server: Server, before: set[str]) -> None:
    wait_for(lambda: before.isdisjoint(server.etags()), seconds=60)


#: Seconds that a reload may add to the slowest answer, by the number of entries.
ADDED = {10_000: 0.025, 50_000: 0.12}


def worst(process: "subprocess.Popen[bytes]") -> float:
    """Return the slowest answer of a load, in seconds."""
    output, _ = process.communicate()
    answered = json.loads(output)
    assert len(answered) == 300
    return float(max(answered))


@pytest.mark.alone
@pytest.mark.parametrize("entries", ADDED)
@pytest.mark.parametrize("worker_class", ["asgi", "gthread"])
def test_nobody_waits_for_a_reload(tmp_path: Path, worker_class: str, entries: int) -> None:
    """A reload adds little to the slowest answer, compared with the same load without a reload.

    A machine with few cores stalls sometimes by itself, and a flawed design would stall
    each time, so one good pair of five is enough.
    """
    file = tmp_path / "endpoints.txt"
    file.write_text(text(entries))
    with running(tmp_path, file, WORKER_CLASS=worker_class) as server:
        added = []
        for attempt in range(5):
            with latencies(server, 2.0) as process:
                without = worst(process)
            before = {server.status()["etag"]}
            with latencies(server, 2.0) as process:
                scratch = file.with_name("scratch")
                scratch.write_text(text(entries, f"r{attempt}-"))
                os.replace(scratch, file)
                beside = worst(process)
            wait_until_all_left(server, before)
            added.append(beside - without)
            if added[-1] <= ADDED[entries]:
                break
        print("added", added)
        assert min(added) <= ADDED[entries], added


def test_more_than_the_usual_limit_is_served_where_it_is_raised(tmp_path: Path) -> None:
    """Requests are answered while a list above the default limit loads.

    The benchmarks load a million entries.
    """
    file = tmp_path / "endpoints.txt"
    file.write_text(text(2))
    with running(tmp_path, file, workers=1, ENDPOINT_MAX_BYTES=str(1 << 28)) as server:
        scratch = file.with_name("scratch")
        scratch.write_text(text(40_000, "h" * 50))
        assert scratch.stat().st_size > 1048576
        os.replace(scratch, file)
        slowest = 0.0
        while server.status()["counts"]["api"] != 40_000:
            time.sleep(0.05)  # leave the processor to the loading thread
            started = time.monotonic()
            assert server.get("/health").status == 200
            slowest = max(slowest, time.monotonic() - started)
        assert slowest < 5
        assert server.status()["state"] == "fresh"
