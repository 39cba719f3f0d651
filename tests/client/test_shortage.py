"""A process that runs out of threads or descriptors for a moment recovers.

Each case runs in a child process with lowered rlimits. The limit of processes does not apply
to root, so the child changes its user id first.
"""

import json
import os
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ..servers import ENDPOINTS, ROOT
from ..waiting import wait_for
from .handmade import Answer, Asked, handmade
from .socket_server import SocketServer, socket_server

#: The start of each child's code: helpers that lower a limit and restore it.
PREAMBLE = '''
import contextlib, json, os, resource, socket, sys, threading, time, logging
logging.basicConfig(stream=sys.stderr, level=logging.INFO)
import asyncio, concurrent.futures.thread, encodings.idna, psutil
from mop_config import signals
from mop_config.client import AsyncEndpointManager, EndpointManager
from tests.client.handmade import NOBODY, QUICK
from tests.waiting import wait_for
from dataclasses import replace
from pathlib import Path

OPTIONS = {"policy": QUICK, "verify": NOBODY, "trust_env": False, "update_interval": 0}

@contextlib.contextmanager
def no_threads():
    """The user may have no more threads than there are."""
    if os.getuid() == 0:
        os.setuid(40000 + os.getpid() % 20000)
    _, hard = resource.getrlimit(resource.RLIMIT_NPROC)
    resource.setrlimit(resource.RLIMIT_NPROC, (1, hard))
    try:
        threading.Thread(target=int).start()
    except RuntimeError:
        pass
    else:
        raise AssertionError("the limit does not hold")
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NPROC, (hard, hard))

@contextlib.contextmanager
def no_descriptors(left=0):
    """No descriptor is left, or only so many."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    top = max(map(int, os.listdir("/proc/self/fd"))) + 1
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + left, hard))
    with contextlib.suppress(OSError):
        while True:
            held.append(os.dup(0))
    for _ in range(left):
        os.close(held.pop())
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in held:
            os.close(descriptor)

def tell(**about):
    print(json.dumps(about), flush=True)
'''


def child(
    code: str,
    *arguments: str,
    until: Callable[[], bool] | None = None,
    on_line: Callable[[], object] | None = None,
    seconds: float = 60,
) -> tuple[dict[str, Any], str]:
    """Run code in a child process, and return its last JSON line and its log.

    Args:
        code: Python code that follows the preamble.
        arguments: Its ``sys.argv[1:]``.
        until: Standard input stays open until this returns true; None closes it at once.
        on_line: Called when the child has printed its first line.
        seconds: Time limit of each wait.
    """
    process = subprocess.Popen(
        [sys.executable, "-c", PREAMBLE + textwrap.dedent(code), *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        if until is not None:
            wait_for(lambda: until() or process.poll() is not None, seconds=seconds)
        if on_line is not None:
            assert process.stdout is not None
            process.stdout.readline()
            on_line()
        out, log = process.communicate("", timeout=seconds)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 0, log
    assert out, log
    return json.loads(out.splitlines()[-1]), log


class TestBackground:
    """Health checks, updates and the watch during a shortage."""

    def test_a_moment_without_threads(self) -> None:
        """Without threads checks run one after another, and updates run after the shortage."""
        with handmade() as one, handmade() as two:
            told, log = child(
                """
                one, two = sys.argv[1:]
                manager = EndpointManager([one], **{**OPTIONS, "update_interval": 0.2})
                with manager:
                    wait_for(lambda: manager.api_endpoints[0].state == "healthy")
                    tried = manager.api_endpoints[0].last_checked
                    updates = manager._lifecycle.tasks.updates
                    with no_threads():
                        manager.add_api_endpoint(two)
                        wait_for(lambda: {e.state for e in manager.api_endpoints} == {"healthy"})
                        failed = updates._in_a_row
                        wait_for(lambda: updates._in_a_row > failed + 2)
                    tell()
                    sys.stdout.flush()
                    sys.stdin.readline()
                """,
                one.url,
                two.url,
                until=lambda: one.count(ENDPOINTS) > 8,
            )
        assert told == {}
        assert log.count("can't start new thread") > 2

    def test_a_start_without_threads_can_be_repeated(self) -> None:
        """``start`` without threads raises, leaves no thread behind, and can be repeated.

        The second start checks the endpoint, and runs an update, which fails.
        """
        with handmade() as server:
            told, _ = child(
                """
                manager = EndpointManager(sys.argv[1:], watch=True, **OPTIONS)
                with no_threads():
                    try:
                        manager.start()
                    except RuntimeError as error:
                        said = str(error)
                assert threading.active_count() == 1, threading.enumerate()
                with manager:
                    wait_for(lambda: manager.api_endpoints[0].state == "healthy")
                    wait_for(lambda: manager._lifecycle.tasks.updates._in_a_row)
                tell(said=said)
                """,
                server.url,
            )
        assert "thread" in told["said"]

    def test_checks_by_hand_need_no_thread(self) -> None:
        """``check_all`` works without new threads, because it checks in the caller's thread."""
        with handmade() as one, handmade() as two:
            told, _ = child(
                """
                manager = EndpointManager(sys.argv[1:], **OPTIONS)
                with no_threads():
                    manager.check_all()
                tell(states=[e.state for e in manager.api_endpoints])
                """,
                one.url,
                two.url,
            )
        assert told["states"] == ["healthy", "healthy"]

    def test_an_asynchronous_manager_closes_without_threads(self) -> None:
        """An asynchronous manager stops its threads even if it can start none to wait for them."""
        with handmade() as server:
            child(
                """
                async def main():
                    manager = AsyncEndpointManager(sys.argv[1:], **OPTIONS)
                    async with manager:
                        while manager.api_endpoints[0].state != "healthy":
                            await asyncio.sleep(0.01)
                        wait_for(lambda: threading.active_count() == 2)
                        limit.enter_context(no_threads())
                    wait_for(lambda: threading.active_count() == 1, what="all threads ended")
                    limit.close()
                limit = contextlib.ExitStack()
                asyncio.run(main())
                tell()
                """,
                server.url,
            )

    @pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
    def test_a_moment_without_descriptors(self, host: str) -> None:
        """A lack of descriptors blames no endpoint, and checks and requests work after it."""
        with handmade() as one, handmade() as two:
            told, log = child(
                """
                manager = EndpointManager(sys.argv[1:], **OPTIONS)
                down = []
                receive = lambda sender, **about: down.append(about)
                for signal in (signals.endpoint_down, signals.all_endpoints_down):
                    signal.connect(receive)
                client = manager.client(start=False)
                with manager:
                    wait_for(lambda: {e.state for e in manager.api_endpoints} == {"healthy"})
                    with no_descriptors():
                        errors = []
                        for _ in range(4):
                            manager.check_all()
                            try:
                                client.get("/")
                            except Exception as error:
                                errors.append(f"{type(error).__name__}: {error}")
                        during = [(e.state, e.last_fault) for e in manager.api_endpoints]
                        offline = manager.is_offline
                    manager.check_all()
                    after = [e.state for e in manager.api_endpoints]
                    client.get("/")
                client.close()
                tell(during=during, after=after, down=down, errors=errors, offline=offline)
                """,
                *(server.url.replace("127.0.0.1", host) for server in (one, two)),
            )
        assert [state for state, _ in told["during"]] == ["healthy", "healthy"]
        assert {fault for _, fault in told["during"]} <= {None, "ours"}
        assert told["after"] == ["healthy", "healthy"]
        assert not told["down"]
        assert not told["offline"]
        assert log.count("could not be checked") == 1  # once for 2 endpoints and 4 rounds
        assert len(told["errors"]) == 4
        assert {error.partition(":")[0] for error in told["errors"]} == {"ConnectError"}
        assert all("Too many open files" in error for error in told["errors"])

    def test_what_was_due_is_written_after_a_moment_without_descriptors(
        self, tmp_path: Path
    ) -> None:
        """A list that was changed without descriptors is written to the cache afterwards."""
        with handmade() as one:
            told, _ = child(
                """
                file = Path(sys.argv[2])
                with EndpointManager([sys.argv[1]], cache_path=file, **OPTIONS) as manager:
                    wait_for(lambda: manager.api_endpoints[0].state == "healthy")
                    with no_descriptors():
                        manager.add_api_endpoint("https://new.example", 5)
                        time.sleep(0.3)
                        there = file.exists()
                    manager.check_endpoint_health(sys.argv[1])
                    wait_for(lambda: file.exists() and "new.example" in file.read_text())
                tell(there=there)
                """,
                one.url,
                str(tmp_path / "cache.json"),
            )
        assert told == {"there": False}


#: Answers the first request for /slow after ``seconds``, and all others at once.
def slow_once(seconds: float = 1.5) -> Callable[[Asked], Answer]:
    first = threading.Event()

    def answer(asked: Asked) -> Answer:
        if asked.path == "/slow" and not first.is_set():
            first.set()
            time.sleep(seconds)
        return (200, {}, b"slow" if asked.path == "/slow" else b"ok")

    return answer


class TestHedge:
    """A hedge that cannot be started does not fail its request."""

    @pytest.mark.parametrize("lack", ["no_threads", "no_descriptors"])
    @pytest.mark.parametrize("kind", ["sync", "async"])
    def test_the_request_goes_on(self, lack: str, kind: str) -> None:
        """Without threads or descriptors the request is answered and no endpoint is down."""
        with handmade(slow_once()) as one, handmade() as two:
            told, _ = child(
                """
                policy = replace(QUICK, hedge_delay=1.0)
                options = {**OPTIONS, "policy": policy}
                def sync():
                    manager = EndpointManager(sys.argv[1:3], **options)
                    with manager.client(start=False) as client:
                        return manager, client.get("/slow").text
                async def main():
                    manager = AsyncEndpointManager(sys.argv[1:3], **options)
                    async with manager.client(start=False) as client:
                        return manager, (await client.get("/slow")).text
                def run():
                    found.extend(sync() if sys.argv[4] == "sync" else asyncio.run(main()))
                found = []
                asking = threading.Thread(target=run)
                asking.start()
                wait_for(lambda: "ESTABLISHED" in {
                    c.status for c in psutil.Process().net_connections("tcp4")})
                with globals()[sys.argv[3]]():
                    asking.join()
                manager, text = found
                tell(text=text, states=[(e.state, e.last_fault) for e in manager.api_endpoints])
                """,
                one.url,
                two.url,
                lack,
                kind,
            )
        assert told["text"] in {"slow", "ok"}
        assert told["states"][0][0] in {"healthy", "suspect"}
        assert told["states"][1][1] in {None, "ours"}

    def test_a_thread_that_outlives_the_main_one(self) -> None:
        """A request works after the main thread has ended, when CPython 3.12 starts no thread."""
        with handmade(slow_once()) as one, handmade() as two:
            told, _ = child(
                """
                policy = replace(QUICK, hedge_delay=0.3)
                manager = EndpointManager(sys.argv[1:], **{**OPTIONS, "policy": policy})
                client = manager.client(start=False)
                client.get("/warm")
                def late():
                    threading.main_thread().join()
                    tell(text=client.get("/slow").text)
                    client.close()
                threading.Thread(target=late).start()
                """,
                one.url,
                two.url,
            )
        assert told["text"] in {"slow", "ok"}


@pytest.mark.parametrize("lack", ["no_descriptors", "no_threads"])
@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_socket_comes_back_after_a_shortage(
    kind: str, lack: str, tmp_path: Path, pair: tuple[SocketServer, SocketServer]
) -> None:
    """A socket that broke during a shortage reconnects, and no live endpoint is blamed."""
    with socket_server(tmp_path, "p") as primary:
        told, _ = child(
            """
            from mop_config.client import AsyncFailoverSocketClient, FailoverSocketClient
            first, second, kind, lack = sys.argv[1:]
            policy = replace(QUICK, first_backoff=0.1, max_backoff=0.3, unhealthy_after=1000)
            manager = EndpointManager((), [first, second], **{**OPTIONS, "policy": policy})
            def break_it(endpoint):
                with globals()[lack]():
                    print("break", flush=True)
                    deadline = time.monotonic() + 20
                    while endpoint() == first and time.monotonic() < deadline:
                        time.sleep(0.01)
                    time.sleep(1.0)
                    return endpoint()
            def sync():
                client = FailoverSocketClient(manager)
                client.connect()
                during = break_it(lambda: client.endpoint)
                wait_for(lambda: client.endpoint == second, seconds=20)
                name = client.call("who")
                client.disconnect()
                return during, name
            async def main():
                client = AsyncFailoverSocketClient(manager)
                await client.connect()
                during = await asyncio.to_thread(break_it, lambda: client.endpoint)
                async with asyncio.timeout(20):
                    while client.endpoint != second:
                        await asyncio.sleep(0.01)
                name = await client.call("who")
                await client.disconnect()
                return during, name
            during, name = sync() if kind == "sync" else asyncio.run(main())
            states = {e.url: (e.is_healthy, e.last_fault) for e in manager.socket_endpoints}
            manager.close()
            tell(during=during, name=name, fault=states[second])
            """,
            primary.url,
            pair[1].url,
            kind,
            lack,
            on_line=primary.kill,
        )
    assert told["name"] == "b"
    assert told["fault"][0]
    assert told["fault"][1] in {None, "ours"}


def test_a_user_without_a_home(tmp_path: Path) -> None:
    """Without a home directory the manager works, warns, and writes no cache."""
    with handmade() as server:
        told, log = child(
            """
            for name in ("HOME", "XDG_CACHE_HOME"):
                os.environ.pop(name, None)
            os.setuid(40000 + os.getpid() % 20000)
            manager = EndpointManager([sys.argv[1]], app="some-app", **OPTIONS)
            manager.add_api_endpoint("https://new.example", 5)
            with manager.client() as client:
                tell(status=client.get("/").status_code, here=Path("~").exists())
            """,
            server.url,
        )
    assert told == {"status": 200, "here": False}
    assert log.count("not kept: this user has no home") == 1
