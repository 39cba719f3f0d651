"""Load from one core on a server on another core, and the CPU time of an answer."""

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import psutil

CORES = sorted(os.sched_getaffinity(0))
#: The cores of the server and of the load generator, the same core on a machine with one.
SERVER_CORE, LOAD_CORE = CORES[0], CORES[-1]
#: All cores, in the syntax of taskset.
ALL_CORES = ",".join(map(str, CORES))
#: Connections of a busy server; few enough that the load generator is not the limit.
CONNECTIONS = 8

_LUA = """
wrk.method, wrk.body = %s, %s
function done(summary, latency)
  io.write(string.format('{"requests":%%d,"micros":%%d,"p50":%%d,"p99":%%d,"failed":%%d}\\n',
    summary.requests, summary.duration, latency:percentile(50), latency:percentile(99),
    summary.errors.connect + summary.errors.read + summary.errors.write
    + summary.errors.status + summary.errors.timeout))
end
"""


class Spent(NamedTuple):
    """The results of a load, in the units of the field names."""

    rate: float
    p50_ms: float
    p99_ms: float
    cpu_us: float


def on_server_core(command: Sequence[str], cores: str = str(SERVER_CORE)) -> list[str]:
    """Return a command that runs on the servers' core, with the same process id."""
    return ["taskset", "-c", cores, *command]


def on_load_core(command: Sequence[str]) -> list[str]:
    """Return a command that runs on the load generator's core."""
    return ["taskset", "-c", str(LOAD_CORE), *command]


@contextlib.contextmanager
def program(command: Sequence[str], folder: Path, **environ: str) -> Iterator[int]:
    """Run a server on the servers' core, yield its process id, and end all its processes."""
    with tempfile.TemporaryFile(dir=folder) as log:
        process = subprocess.Popen(
            on_server_core(command),
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process.pid
        finally:
            family = [psutil.Process(process.pid)] if process.poll() is None else []
            family += [child for parent in family for child in parent.children(recursive=True)]
            for each in family:
                with contextlib.suppress(psutil.NoSuchProcess):
                    each.kill()
            process.wait(10)


def cpu_seconds(pid: int) -> float:
    """Return the CPU seconds of a process and its descendants, with a resolution of nanoseconds."""
    process = psutil.Process(pid)
    family = [pid, *(child.pid for child in process.children(recursive=True))]
    # The clock id of clock_getcpuclockid(3), because /proc only counts hundredths of a second.
    return sum(time.clock_gettime((~each << 3) | 2) for each in family)


def wait_until_idle(pid: int) -> None:
    """Wait until a server has finished requests whose clients have gone."""
    spent = cpu_seconds(pid)
    for _ in range(1000):
        time.sleep(0.05)
        before, spent = spent, cpu_seconds(pid)
        if spent - before < 0.005:
            return
    raise TimeoutError(f"process {pid} is never idle")


def wrk(
    pid: int,
    port: int,
    path: str,
    seconds: float,
    *,
    headers: Sequence[str] = (),
    post: str | None = None,
    connections: int = CONNECTIONS,
    timeout: float = 60,
) -> Spent:
    """Send requests over kept connections as fast as they are answered; a failure raises."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        method = "GET" if post is None else "POST"
        script.write(_LUA % (json.dumps(method), "nil" if post is None else json.dumps(post)))
        script.flush()
        command = [
            "wrk",
            "-t1",
            f"-c{connections}",
            f"-d{seconds:g}s",
            "--timeout",
            f"{timeout:g}s",
        ]
        for header in headers:
            command += ["-H", header]
        url = f"http://127.0.0.1:{port}{path}"
        before = cpu_seconds(pid)
        output = subprocess.run(
            on_load_core([*command, "-s", script.name, url]),
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        cpu = cpu_seconds(pid) - before
    wait_until_idle(pid)
    found = json.loads(output.splitlines()[-1])
    if found["failed"] or not found["requests"]:
        raise RuntimeError(f"{url}: {found['failed']} of {found['requests']} requests failed")
    return Spent(
        found["requests"] / found["micros"] * 1e6,
        found["p50"] / 1000,
        found["p99"] / 1000,
        cpu / found["requests"] * 1e6,
    )


def redis_get(pid: int, port: int, key: str, requests: int) -> Spent:
    """Load a Redis key with redis-benchmark, because wrk only supports HTTP."""
    command = ["redis-benchmark", "-p", str(port), "-c", str(CONNECTIONS), "-n", str(requests)]
    before = cpu_seconds(pid)
    output = subprocess.run(
        on_load_core([*command, "--csv", "GET", key]), check=True, capture_output=True, text=True
    ).stdout
    cpu = cpu_seconds(pid) - before
    names, values = (line.replace('"', "").split(",") for line in output.split("\n")[:2])
    found = dict(zip(names, values, strict=True))
    return Spent(
        float(found["rps"]),
        float(found["p50_latency_ms"]),
        float(found["p99_latency_ms"]),
        cpu / requests * 1e6,
    )


def available(*programs: str) -> bool:
    """Return whether all programs are installed, also in the folders that only root searches."""
    return all(which(name) for name in programs)


def which(name: str) -> str | None:
    """Return the path of a program, or None."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
