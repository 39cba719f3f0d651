"""A manager across forks, garbage collection and many starts leaks no thread and no socket."""

import gc
import os
import subprocess
import sys
import threading
import time
import weakref
from collections.abc import Callable

import psutil
import pytest

from mop_config.client import AsyncEndpointManager, EndpointManager

from ..ports import closed_port
from ..waiting import wait_for
from .fleet import silence
from .handmade import NOBODY, OK, QUICK, Answer, Asked, Handmade, handmade, source, urls, wire

A, B = "https://a.example", "https://b.example"


def manager_of(*api: str, **options: object) -> EndpointManager:
    defaults = {"policy": QUICK, "verify": NOBODY, "update_interval": 0, "trust_env": False}
    return EndpointManager(list(api), **{**defaults, **options})  # type: ignore[arg-type]


def threads() -> list[str]:
    return sorted(t.name for t in threading.enumerate() if t.name.startswith("mop-config"))


def in_a_child(work: Callable[[], bool]) -> int:
    """Fork, call ``work`` in the child and return the child's exit status: 0 for True."""
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            code = 0 if work() else 1
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.kill(pid, 9)
    os.waitpid(pid, 0)
    return -1


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
class TestFork:
    """A forked child starts its own checks and does not disturb those of its parent."""

    def test_a_child_checks_for_itself(self) -> None:
        """A child runs checks from its first use of the manager; the parent's checks continue."""
        pids: list[str] = []

        def answer(asked: Asked) -> Answer:
            pids.append(asked.path)
            return OK

        with handmade(answer) as server, manager_of(server.url) as manager:
            wait_for(lambda: manager.api_endpoints[0].state == "healthy")

            def work() -> bool:
                assert manager.get_current_api_url() == server.url
                wait_for(lambda: "mop-config-client" in threads())
                manager.add_api_endpoint(f"{server.url}/child")
                wait_for(lambda: manager.api_endpoints[0].state == "healthy")
                wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))
                manager.close()
                return threads() == []

            assert in_a_child(work) == 0
            assert "/child/health" in pids
            manager.add_api_endpoint(f"{server.url}/parent")
            wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))

    def test_a_child_that_closes_breaks_nothing_of_its_parents(self) -> None:
        """Closing the manager in a child leaves the parent's inherited connections open."""
        with source(wire([A]), holds=True) as (lists, server):
            manager = manager_of(config_urls=[server.url], watch=True)
            with manager:
                wait_for(lambda: any("wait=" in path for path in server.paths))

                def close() -> bool:
                    manager.close()
                    return True

                def drop() -> bool:
                    nonlocal manager
                    del manager
                    gc.collect()
                    return True

                def call_off() -> bool:
                    manager._lifecycle.tasks.cancel()
                    return True

                asked = len(server.asked)
                assert in_a_child(close) == 0
                assert in_a_child(drop) == 0
                assert in_a_child(call_off) == 0
                lists.put(wire([A, B]))
                wait_for(lambda: len(manager.api_endpoints) == 2)
                assert len(server.asked) <= asked + 6

    def test_a_child_applies_a_code_although_a_list_was_applied_at_the_fork(self) -> None:
        """The first call of the child replaces the lock that a thread of the parent held."""
        manager = manager_of(A)

        def apply() -> bool:
            manager.apply_qr(wire([B]))
            manager.close()
            return [endpoint.url for endpoint in manager.api_endpoints] == [A, B]

        held, over = threading.Event(), threading.Event()

        def hold() -> None:
            with manager._lists._lock:
                held.set()
                over.wait(30)

        holder = threading.Thread(target=hold)
        holder.start()
        assert held.wait(5)
        try:
            assert in_a_child(apply) == 0
        finally:
            over.set()
            holder.join()

    def test_a_fork_in_the_midst_of_everything(self) -> None:
        """A child works although other threads held locks and ran checks at the fork."""
        with silence() as port, handmade() as server:
            manager = manager_of(f"http://127.0.0.1:{port}", server.url)
            stop = threading.Event()

            def busy() -> None:
                while not stop.is_set():
                    manager.add_api_endpoint(A)
                    manager.statistics()

            workers = [threading.Thread(target=busy) for _ in range(3)]

            def work() -> bool:
                manager.remove_endpoint(f"http://127.0.0.1:{port}")
                manager.remove_endpoint(A)
                manager.add_api_endpoint(f"{server.url}/child")
                wait_for(lambda: all(e.state == "healthy" for e in manager.api_endpoints))
                assert manager.check_endpoint_health(server.url)
                manager.close()
                return True

            with manager:
                for worker in workers:
                    worker.start()
                try:
                    for _ in range(5):
                        assert in_a_child(work) == 0
                finally:
                    stop.set()
                    for worker in workers:
                        worker.join()

    def test_a_client_works_in_the_child(self) -> None:
        """A client of the parent also works in a child and a grandchild."""
        with handmade() as server, manager_of(server.url) as manager, manager.client() as client:
            assert client.get("/parent").status_code == 200

            def grandchild() -> bool:
                return client.get("/grandchild").status_code == 200

            def work() -> bool:
                return client.get("/child").status_code == 200 and in_a_child(grandchild) == 0

            assert in_a_child(work) == 0
            assert client.get("/parent").status_code == 200

    def test_the_childs_threads_agree_on_one_lock(self) -> None:
        """Threads that enter the state concurrently after a fork share one new lock."""
        manager = manager_of(A)

        def work() -> bool:
            locks: list[threading.Lock] = []
            barrier = threading.Barrier(8)

            def enter() -> None:
                barrier.wait()
                with manager._state as core:
                    locks.append(core._lock)

            workers = [threading.Thread(target=enter) for _ in range(8)]
            for worker in workers:
                worker.start()
            for worker in workers:
                worker.join()
            return len(set(map(id, locks))) == 1

        assert [in_a_child(work) for _ in range(3)] == [0] * 3


@pytest.mark.skipif(
    sys.version_info >= (3, 12),
    reason="these refuse the thread by themselves, and 3.13.0 crashes in its garbage collection",
)
def test_a_request_while_the_interpreter_ends() -> None:
    """A request in a ``__del__`` at the end of the interpreter is sent, without a new thread.

    The first endpoint is dead, which asks for a health check, and so for a thread.
    """
    with handmade() as server:
        code = f"""
from mop_config.client import EndpointManager

manager = EndpointManager(["http://127.0.0.1:{closed_port()}", {server.url!r}], update_interval=0)

class Last:
    def __init__(self):
        self.client = manager.client()

    def __del__(self):
        print(self.client.get("/last").text, flush=True)

last = Last()
"""
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, check=True, timeout=20, capture_output=True, text=True)
        assert (done.stdout, server.paths.count("/last")) == ("ok\n", 1), done.stderr


class TestGarbage:
    """A manager without references is garbage-collected, and its threads end."""

    @pytest.mark.parametrize("kind", [EndpointManager, AsyncEndpointManager])
    def test_one_that_never_ran(self, kind: type[EndpointManager]) -> None:
        """A manager that never started is collected."""
        manager = kind([A], verify=NOBODY)
        gone = weakref.ref(manager)
        del manager
        gc.collect()
        assert gone() is None

    def test_one_that_runs(self) -> None:
        """A running manager is collected between two checks."""
        with handmade() as server:
            manager = manager_of(server.url).start()
            wait_for(lambda: server.asked)
            gone = weakref.ref(manager)
            del manager
            wait_for(lambda: gc.collect() is not None and gone() is None)
            wait_for(lambda: threads() == [])

    def test_one_that_waits_for_news_and_for_checks(self) -> None:
        """A manager is collected during a long poll and a check that is never answered."""
        with silence() as port:
            silent = f"http://127.0.0.1:{port}"
            with source(wire([A], [silent]), holds=True) as (_, server):
                self.drop_one_that_waits(server)

    def drop_one_that_waits(self, server: Handmade) -> None:
        manager = manager_of(config_urls=[server.url], watch=True).start()
        wait_for(lambda: any("wait=" in path for path in server.paths))
        wait_for(lambda: "mop-config-check" in threads())
        gone = weakref.ref(manager)
        del manager
        wait_for(lambda: gc.collect() is not None and gone() is None)
        wait_for(lambda: threads() == [], seconds=3)

    def test_a_client_keeps_its_manager(self) -> None:
        """A client keeps a reference to its manager, so the client alone is enough."""
        with handmade() as server:
            client = manager_of(server.url).client()
            gc.collect()
            with client:
                assert client.get("/users").status_code == 200

    def test_a_finaliser_takes_no_lock(self) -> None:
        """``cancel`` takes no lock, because a finaliser may run while any lock is held."""
        with handmade() as server:
            manager = manager_of(server.url).start()
            background = manager._lifecycle.tasks
            with background._lock, manager._lifecycle._lock, manager._state:
                background.cancel()
            wait_for(lambda: threads() == [])
            manager.close()


def test_a_thousand_lives_leave_nothing() -> None:
    """A thousand starts and closes of a manager leave no thread and no file descriptor."""
    process = psutil.Process()
    with handmade() as server:
        manager = manager_of(server.url, config_urls=[server.url], update_interval=3600.0)
        for _ in range(3):  # creates the objects that are made only once
            manager.start()
            manager.close()
        gc.collect()
        before = threading.active_count(), process.num_fds()
        slowest = 0.0
        for number in range(1000):
            manager.start()
            if number % 100 == 0:
                wait_for(lambda: server.asked)
            began = time.monotonic()
            manager.close()
            slowest = max(slowest, time.monotonic() - began)
        wait_for(lambda: (threading.active_count(), process.num_fds()) <= before)
        assert slowest <= 1.0
        assert urls(manager.api_endpoints) == [server.url]


def test_a_thousand_managers_leave_nothing() -> None:
    """A thousand managers that are collected unclosed leave no thread and no file descriptor."""
    process = psutil.Process()
    with handmade() as server:
        manager_of(server.url).start().close()
        gc.collect()
        before = threading.active_count(), process.num_fds()
        for _ in range(1000):
            manager_of(server.url).start()

        def left() -> tuple[int, int]:
            gc.collect()
            return threading.active_count(), process.num_fds()

        wait_for(lambda: left() <= before)
