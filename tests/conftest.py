"""Fixtures for every test, which fail a test that leaves a thread, process or socket behind."""

import contextlib
import functools
import gc
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from hypothesis import settings

# A time limit for each example fails on a busy machine, whatever the code does.
settings.register_profile("mop-config", deadline=None)
settings.load_profile("mop-config")

# A shell starts background jobs with SIGINT ignored, and child processes would inherit that from
# the tests, which end them with SIGINT.
signal.signal(signal.SIGINT, signal.default_int_handler)

# ``nohup`` ignores SIGHUP in the same way.
signal.signal(signal.SIGHUP, signal.SIG_DFL)

# By default the system's resolver waits five seconds for a lost answer, which would exceed the
# tests' deadlines. The servers that the tests start inherit the variable.
os.environ["RES_OPTIONS"] = "timeout:1"

# The tests start hundreds of processes. Without bytecode files each process compiles every module
# of the package again, which takes longer than the work of most processes.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False

# Each TLS context loads the system's hundred and forty authorities, for 0.06 s of processor time.
# No test talks to a server that they have signed.
os.environ["SSL_CERT_FILE"] = str(Path(__file__).parent / "authority.pem")

# The collection of the tests makes a million objects that stay, so looking for garbage is in vain.
gc.disable()

#: Seconds that a test's threads and processes have to end after it.
PATIENCE = 15.0


def _threads() -> set[threading.Thread]:
    """Return the threads but that of the log, which lives as long as its process."""
    return {thread for thread in threading.enumerate() if thread.name != "mop-config-log"}


#: Processes whose children the leak check leaves out, since a browser's helpers come and go.
browsers: set[int] = set()


def below(pid: int) -> set[int]:
    """Return the processes below one; psutil would read every process of the machine."""
    found: set[int] = set()
    left = {pid}
    while left:
        new = children(left.pop())
        found |= new
        left |= new - browsers
    return found


def children(pid: int) -> set[int]:
    """Return what the threads of a process have started."""
    found: set[int] = set()
    with contextlib.suppress(OSError):  # the process has ended meanwhile
        for thread in os.listdir(f"/proc/{pid}/task"):
            with (
                contextlib.suppress(OSError),
                open(f"/proc/{pid}/task/{thread}/children", "rb", buffering=0) as file,
            ):
                found.update(map(int, file.read().split()))
    return found


def _descriptors() -> dict[str, str]:
    """Return the open sockets, pipes and inotify instances by descriptor."""
    found = {}
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except OSError:
            continue
        if target.startswith(("socket:", "pipe:", "anon_inode:")):
            found[name] = target
    return found


@pytest.fixture(autouse=True)
def _no_leaks() -> Iterator[None]:
    """Fail a test that leaves a thread, a process, a socket or a pipe behind."""
    before = _threads(), below(os.getpid()), _descriptors()
    yield
    deadline = time.monotonic() + PATIENCE
    while True:
        threads = _threads() - before[0]
        processes = below(os.getpid()) - before[1]
        descriptors = {
            name: target for name, target in _descriptors().items() if before[2].get(name) != target
        }
        if not (threads or processes or descriptors):
            return
        if time.monotonic() > deadline:
            pytest.fail(f"left behind: {threads or ''} {processes or ''} {descriptors or ''}")
        gc.collect()
        time.sleep(0.02)


@pytest.fixture
def program(request: pytest.FixtureRequest) -> str:
    """Return the path of the program in the test's parameter, or skip the test without it."""
    return need_program(request.param)


def need_program(name: str) -> str:
    """Find a program, or skip the test with the reason; a skip in CI is a failure."""
    path = shutil.which(name)
    if path is None:
        skip(f"{name} is not installed")
    return path or ""


def skip(reason: str) -> None:
    """Skip the running test; in CI, where every program is installed, fail it."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"skipped in CI: {reason}")
    pytest.skip(reason)


#: Folders whose tests start servers or programs, and helper modules that start them.
_SERVER_FOLDERS = {"cli", "integration"}
_SERVER_HELPERS = {
    f"tests.{name}"
    for name in (
        "servers",
        "etcds",
        "nginx",
        "users",
        "mounts",
        "load",
        "scrapes",
        "client.handmade",
        "client.fleet",
        "client.proxy",
        "client.socket_server",
        "conformance.runs",
    )
}


@functools.cache
def _starts_a_server(module: ModuleType) -> bool:
    if _SERVER_FOLDERS & set(module.__name__.split(".")):
        return True
    return any(
        getattr(value, "__module__", "") in _SERVER_HELPERS or value is subprocess
        for value in vars(module).values()
    )


def pytest_collection_finish() -> None:
    """Leave the modules and the tests out of the garbage collections from now on."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that start a server or a program, which ``make quick`` leaves out."""
    for item in items:
        if _starts_a_server(item.module):  # type: ignore[attr-defined]
            item.add_marker("server")


SAMPLE = Path(__file__).parent.parent / "config" / "endpoints.txt"

GUIDE_JSON = {
    "api_endpoints": [
        {"url": "https://log.ym1.com/api/v1", "priority": 0},
        {"url": "https://ym2.xyz/api/v1", "priority": 1},
        {"url": "https://xx/api/v1", "priority": 2},
        {"url": "https://ym3.net/api/v1", "priority": 3},
        {"url": "https://12.34.56.78/api/v1", "priority": 4},
        {"url": "https://9.10.11.12/api/v1", "priority": 5},
    ],
    "socketio_endpoints": [
        {"url": "https://log.ym1.com", "priority": 0},
        {"url": "https://ym2.xyz", "priority": 1},
        {"url": "https://xx", "priority": 2},
        {"url": "https://ym3.net", "priority": 3},
        {"url": "https://12.34.56.78", "priority": 4},
        {"url": "https://9.10.11.12", "priority": 5},
    ],
}
