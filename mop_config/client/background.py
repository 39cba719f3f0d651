"""``Background``: runs health checks, updates, reports and the long poll in threads.

The threads refer to the lists of the manager, not to the manager itself. So a manager is collected
when the application drops it, and its finalizer cancels the threads. Every wait can be cancelled.
"""

import contextlib
import logging
import os
import queue
import threading
import time
import weakref
from collections.abc import Callable, Iterable

from ..health import probe
from ..model.endpoint import Endpoint
from ..net.faults import Fault
from ..net.threads import start_thread
from .lists.endpoint_lists import EndpointLists
from .pool.member import PoolMember
from .pool.pool import WATCHED
from .updates import EVERY, IDLE, ListUpdates

logger = logging.getLogger(__name__)

#: Seconds for which ``stop`` waits for all threads together.
CLOSE_PATIENCE = 0.8
#: Seconds after which a loop goes on after an exception, such as a lack of threads.
RETRY = 1.0
#: Seconds that a loop leaves the interpreter to the request that has woken it: health checks
#: would hold the interpreter lock while the request goes on to another endpoint.
YIELD = 0.02


def jobs_of(kind: str, members: Iterable[PoolMember]) -> list[probe.Job]:
    """Return the checks of these endpoints."""
    return [(kind, member.endpoint, member.probe_path) for member in members]


class Background:
    """One run of a manager: health checks, updates and reports, once ``start`` is called.

    Each of the three has a loop in a thread of its own. The application may ask for checks and
    updates in its own threads, too. ``cancel`` cancels all of them for good.

    Args:
        lists: The lists of the manager.
        health: The request that a health check sends.

    Attributes:
        updates: Updates the list, and sends the reports.
    """

    def __init__(self, lists: EndpointLists, health: probe.HealthRequest) -> None:
        settings = lists.settings
        self._lists = lists
        self._state = state = lists.state
        dial = settings.options.for_dial(state.policy.health_timeout)
        self._prober = probe.Prober(dial, state.resolver, health)
        self._is_short = False  # whether the last check or start lacked a thread or descriptor
        self.updates = ListUpdates(lists, self._any_healthy)
        self._parallel = state.policy.probe_parallelism
        self._checks = probe.CheckQueue(self._prober, self._record_scheduled, self._parallel)
        #: The work of each loop, which returns the seconds until it is due again.
        self._works: dict[str, Callable[[], float]] = {"client": self._run_due_checks}
        if settings.update_interval or settings.watch:
            self._works["update"] = self.updates.run
        if settings.report:
            self._works["report"] = self.updates.report
        # A finalizer wakes the loops, too, and may run between any two bytecodes. A
        # ``threading.Event`` could deadlock there: the interrupted thread may hold its lock.
        self._wakeups: dict[str, queue.SimpleQueue[None]] = {
            name: queue.SimpleQueue() for name in self._works
        }
        # Reentrant: a ``__del__`` of the application may send a request, which wakes the loop.
        self._lock = threading.RLock()
        self._loops: dict[str, threading.Thread] = {}
        self._checking: list[threading.Thread] = []
        with state:
            for pool in state.pools:
                for member in pool.members():
                    member.probing = False  # checks of an earlier run never ended

    def start(self, name: str = "client") -> None:
        """Start a loop unless it runs; that of the health checks starts the other loops.

        Raises:
            RuntimeError: If the machine has no thread left; then no thread runs.
        """
        with self._lock:
            loop = self._loops.get(name)
            if not self._prober.aborted and (loop is None or not loop.is_alive()):
                self._loops[name] = start_thread(self._loop, f"mop-config-{name}", name)

    def wake(self) -> None:
        """Wake the loop of the health checks; start it if it does not run, as in a forked child."""
        self._wakeups["client"].put(None)
        with contextlib.suppress(RuntimeError, MemoryError):  # no thread left: the next call tries
            self.start()

    def cancel(self) -> None:
        """Tell every thread to end, without waiting and without a lock."""
        self._prober.abort()
        self.updates.client.abort()
        for wakeups in self._wakeups.values():
            wakeups.put(None)

    def stop(self) -> None:
        """Cancel running tasks and wait for the threads, for at most ``CLOSE_PATIENCE`` seconds."""
        self.cancel()
        deadline = time.monotonic() + CLOSE_PATIENCE
        own = threading.current_thread()
        # A loop that ends may just have started another thread.
        while others := [
            thread
            for thread in [*self._loops.values(), *self._checking]
            if thread.is_alive() and thread is not own
        ]:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            others[0].join(left)

    # -- the loops

    def _loop(self, name: str) -> None:
        """Do the work of a loop, each time after the pause that the work has asked for."""
        work, told = self._works[name], ""
        if name == "report":
            self._pause(name, EVERY)
        while not self._prober.aborted:
            try:
                delay, told = work(), ""
            except Exception as error:
                delay, what = RETRY, f"{type(error).__name__}: {error}"
                if what != told:
                    logger.error("the client goes on after %s", what)
                told = what
            self._pause(name, delay)

    def _pause(self, name: str, seconds: float) -> None:
        """Wait for a time, or until a wake-up and then for ``YIELD`` seconds."""
        wakeups = self._wakeups[name]
        with contextlib.suppress(queue.Empty):
            wakeups.get(timeout=max(0.0, seconds))
            end = time.monotonic() + YIELD
            # Wake-ups until then are one with the first; the end of the time raises Empty.
            while not self._prober.aborted:
                wakeups.get(timeout=max(0.0, end - time.monotonic()))

    def _run_due_checks(self) -> float:
        """Start the checks that are due; return the seconds until the next check."""
        self._lists.save()
        with self._state as state:
            now = state.clock()
            jobs = [job for pool in state.pools for job in jobs_of(pool.kind, pool.take_due(now))]
            wait = min(pool.next_due() for pool in state.pools) - now
        running = [thread for thread in self._checking if thread.is_alive()]
        self._checking = running + self._checks.start(jobs)
        for name in self._works:
            self.start(name)
        return min(wait, IDLE)

    # -- health checks

    def check(self, kind: str, member: PoolMember) -> bool:
        """Check one endpoint, record the result, and return whether the endpoint is healthy."""
        job = (kind, member.endpoint, member.probe_path)
        result = self._prober.check(*job)
        self.record(job, result)
        return result.fault is None

    def check_all(self) -> None:
        """Check the best endpoints of each kind, record the results, and wait for all."""
        with self._state as state:
            jobs = [job for pool in state.pools for job in jobs_of(pool.kind, pool.watched())]
        self.check_jobs(jobs)

    def check_jobs(self, jobs: Iterable[probe.Job]) -> None:
        """Run checks in threads, record the results, and wait for all."""
        for thread in probe.CheckQueue(self._prober, self.record, self._parallel).start(jobs):
            thread.join()

    def warn_of_shortage(self, what: str) -> None:
        """Log a lack of threads or descriptors once, until a check has its result again."""
        with self._lock:
            was_short, self._is_short = self._is_short, True
        if not was_short:
            logger.warning("%s", what)

    def record(self, job: probe.Job, result: probe.ProbeResult) -> bool:
        """Record the result of a health check; return whether the checks are cancelled."""
        if self._prober.aborted:
            return True
        if result.fault is Fault.OURS:
            self.warn_of_shortage(f"{job[1].url} could not be checked: {result.detail}")
        else:
            self._is_short = False
        with self._state as state:
            pool, now = state.pool(job[0]), state.clock()
            member = pool.get(job[1].url)
            if member is not None:
                pool.probed(member, result, now, state.wall_clock())
                pool.select(now)
        return False

    def _record_scheduled(self, job: probe.Job, result: probe.ProbeResult) -> bool:
        is_cancelled = self.record(job, result)
        self._wakeups["client"].put(None)  # the next check of the endpoint has a time now
        return is_cancelled

    def _any_healthy(self, kind: str, endpoints: tuple[Endpoint, ...]) -> bool:
        """Return whether one of the best endpoints of a new list is healthy."""
        results: queue.SimpleQueue[bool] = queue.SimpleQueue()

        def report(_: probe.Job, result: probe.ProbeResult) -> bool:
            results.put(result.fault is None)
            return result.fault is None

        best = sorted(endpoints, key=lambda endpoint: endpoint.priority)[:WATCHED]
        jobs: list[probe.Job] = [(kind, endpoint, None) for endpoint in best]
        probe.CheckQueue(self._prober, report, self._parallel).start(jobs)
        return any(results.get() for _ in jobs)  # the first healthy endpoint ends the wait


class Lifecycle:
    """Starts and stops the runs of a manager, and starts a run again in a forked child.

    Args:
        lists: The lists of the manager.
        health: The request that a health check sends.

    Attributes:
        tasks: The current run, or the next run if the manager is stopped; cancelled tasks stay
            cancelled.
        is_running: Whether health checks and updates run; None before the first start or stop.
    """

    def __init__(self, lists: EndpointLists, health: probe.HealthRequest) -> None:
        self.tasks = Background(lists, health)
        self.is_running: bool | None = None
        self._lists = lists
        self._health = health
        self._lock = threading.Lock()
        _LIFECYCLES.add(self)

    def start_if_new(self) -> None:
        """Start the threads, unless the manager was started or closed before."""
        if self.is_running is not None:
            return
        try:
            self.start()
        except (RuntimeError, MemoryError) as error:  # no thread left: the next call retries
            self.tasks.warn_of_shortage(f"the health checks could not be started: {error}")

    def start(self) -> None:
        """Start the threads if they are not running.

        Raises:
            RuntimeError: If the machine has no thread left.
        """
        with self._lock:
            if not self.is_running:
                self.tasks.start()
                self.is_running = True
                self._lists.state.wake = self.tasks.wake
                self.tasks.wake()  # an endpoint may have become urgent meanwhile

    def stop(self) -> None:
        """Stop the threads within a second, and save the list."""
        with self._lock:
            if self.is_running:
                self._lists.state.wake = None
                self.tasks.stop()
                self.tasks = Background(self._lists, self._health)
            self.is_running = False
        self._lists.save()

    def restart_after_fork(self) -> None:
        """Replace locks, sockets and threads in a forked child: threads do not survive a fork."""
        state = self._lists.state
        self._lock = threading.Lock()
        state.reset_after_fork()
        self._lists.reset_after_fork()
        state.wake = None  # would wake the parent's loop
        self.tasks = Background(self._lists, self._health)
        if self.is_running:
            state.wake = self.tasks.wake
            state.api.urgent = True  # so the first use starts the threads


#: The managers of this process.
_LIFECYCLES: weakref.WeakSet[Lifecycle] = weakref.WeakSet()


def _restart_all_after_fork() -> None:
    for lifecycle in _LIFECYCLES:
        lifecycle.restart_after_fork()


if hasattr(os, "register_at_fork"):  # Windows has no fork
    os.register_at_fork(after_in_child=_restart_all_after_fork)
