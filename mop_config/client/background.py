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
from collections.abc import Callable, Iterable
from functools import partial
from math import inf

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
#: Seconds until the scheduler tries again to start a thread that could not be started.
RETRY = 1.0
#: Seconds that the scheduler leaves the interpreter to the request that has woken it: its checks
#: would hold the interpreter lock while the request goes on to another endpoint.
YIELD = 0.02


def jobs_of(kind: str, members: Iterable[PoolMember]) -> list[probe.Job]:
    """Return the checks of these endpoints."""
    return [(kind, member.endpoint, member.probe_path) for member in members]


class Background:
    """One run of a manager: health checks and updates, in threads once ``start`` is called.

    The application may ask for checks and updates in its own threads, too. ``cancel`` cancels all
    of them for good.

    Args:
        lists: The lists of the manager.
        health: The request that a health check sends.

    Attributes:
        updates: Updates the list, and sends the reports.
    """

    def __init__(self, lists: EndpointLists, health: probe.HealthRequest) -> None:
        settings = lists.settings
        options = settings.options
        self._lists = lists
        self._state = state = lists.state
        self._prober = probe.Prober(
            options.tls, state.policy.health_timeout, state.resolver, options.proxy_for, health
        )
        self._stopped = False
        self.updates = ListUpdates(lists, self._any_healthy)
        self._pid = os.getpid()
        # A finalizer wakes the scheduler, too, and may run between any two bytecodes. A
        # ``threading.Event`` could deadlock there: the interrupted thread may hold its lock.
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()
        self._parallel = state.policy.probe_parallelism
        self._checks = probe.CheckQueue(self._prober, self._record_scheduled, self._parallel)
        self._lock = threading.Lock()
        self._short_of_resources = False  # whether the last start lacked a thread or descriptor
        #: When the work with a thread of its own is due; infinity while it runs, or for never.
        self._due = {
            "update": 0.0 if settings.update_interval or settings.watch else inf,
            "report": time.monotonic() + EVERY if settings.report else inf,
        }
        self._threads: list[threading.Thread] = []
        self._scheduler: threading.Thread | None = None

    def start(self) -> None:
        """Start the scheduler, which begins the first checks and the first update at once.

        Raises:
            RuntimeError: If the machine has no thread left; then no thread runs.
        """
        self._scheduler = self._spawn(self._run_schedule, "mop-config-client")

    def _spawn(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = start_thread(target, name)
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        return thread

    def _try_spawn(self, target: Callable[[], None], name: str) -> threading.Thread | None:
        """Start a thread. Return None if the start fails; the scheduler retries it soon."""
        try:
            thread = self._spawn(target, name)
        except (RuntimeError, MemoryError) as error:
            self._warn_of_shortage(f"{name} could not be started: {error}")
            return None
        self._short_of_resources = False
        return thread

    def _warn_of_shortage(self, what: str) -> None:
        """Log a lack of threads or descriptors once, until they are available again."""
        if not self._short_of_resources:
            logger.warning("%s; no endpoint is blamed, and it is tried again", what)
        self._short_of_resources = True

    def wake(self) -> None:
        """Wake the scheduler; start its thread if that start failed in a forked child."""
        self._wakeups.put(None)
        with self._lock:
            scheduler = self._scheduler
            if not self._stopped and (scheduler is None or not scheduler.is_alive()):
                self._scheduler = self._try_spawn(self._run_schedule, "mop-config-client")

    def cancel(self) -> None:
        """Tell every thread to end, without waiting and without a lock."""
        self._stopped = True
        self._wakeups.put(None)
        # Don't shut down a parent's sockets from a forked child: the parent still uses them.
        if self._pid == os.getpid():
            self._prober.abort()
            self.updates.close()

    def stop(self) -> None:
        """Cancel running tasks and wait for the threads, for at most ``CLOSE_PATIENCE`` seconds."""
        self.cancel()
        deadline = time.monotonic() + CLOSE_PATIENCE
        own = threading.current_thread()
        # A thread that ends may just have started another thread.
        while others := [t for t in self._threads if t.is_alive() and t is not own]:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            others[0].join(left)

    # -- the schedule

    def _run_schedule(self) -> None:
        with self._state as state:
            for pool in state.pools:
                for member in pool.members():
                    member.probing = False  # checks of an earlier run never ended
        while not self._stopped:
            try:
                delay = self._run_due_work()
            except Exception as error:
                logger.error("the client goes on after %s: %s", type(error).__name__, error)
                delay = 1.0
            with contextlib.suppress(queue.Empty):
                self._wakeups.get(timeout=min(max(0.0, delay), IDLE))
                end = time.monotonic() + YIELD
                # Wake-ups until then are one with the first; the end of the time raises Empty.
                while not self._stopped:
                    self._wakeups.get(timeout=max(0.0, end - time.monotonic()))

    def _run_due_work(self) -> float:
        self._lists.save()
        with self._state as state:
            now = state.clock()
            jobs = [job for pool in state.pools for job in jobs_of(pool.kind, pool.take_due(now))]
            wait = min(pool.next_due() for pool in state.pools) - now
        self._checks.start(jobs, partial(self._try_spawn, name="mop-config-check"))
        now = time.monotonic()
        for name, work in (("update", self.updates.run), ("report", self.updates.report)):
            at = self._due[name]
            if now >= at:
                self._due[name] = inf  # first: the thread may end before the spawn returns
                run = partial(self._run, name, work)
                if self._try_spawn(run, f"mop-config-{name}") is None:
                    self._due[name] = at
        return RETRY if self._short_of_resources else min(wait, min(self._due.values()) - now)

    def _run(self, name: str, work: Callable[[], float]) -> None:
        """Do work that was due; the work returns the seconds until it is due again."""
        delay = EVERY
        try:
            delay = work()
        except Exception as error:
            logger.error("the %s failed: %s: %s", name, type(error).__name__, error)
        self._due[name] = time.monotonic() + delay
        self._wakeups.put(None)

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

    def record(self, job: probe.Job, result: probe.ProbeResult) -> bool:
        """Record the result of a health check; return whether the checks are cancelled."""
        if self._stopped:
            return True
        if result.fault is not Fault.OURS:
            self._short_of_resources = False
        else:
            self._warn_of_shortage(f"{job[1].url} could not be checked: {result.detail}")
        with self._state as state:
            pool, now = state.pool(job[0]), state.clock()
            member = pool.get(job[1].url)
            if member is not None:
                pool.probed(member, result, now, state.wall_clock())
                pool.select(now)
        return False

    def _record_scheduled(self, job: probe.Job, result: probe.ProbeResult) -> bool:
        is_cancelled = self.record(job, result)
        self._wakeups.put(None)  # the next check of the endpoint has a time now
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
        lists.state.on_fork = self._restart_after_fork

    def start_if_new(self) -> None:
        """Start the threads, unless the manager was started or closed before."""
        if self.is_running is not None:
            return
        try:
            self.start()
        except (RuntimeError, MemoryError) as error:  # no thread left: the next call retries
            logger.warning("health checks and updates could not be started: %s", error)

    def start(self) -> None:
        """Start the threads if they are not running.

        Raises:
            RuntimeError: If the machine has no thread left.
        """
        with self._lock:
            if not self.is_running:
                self.tasks.start()
                self.is_running = True
                self._lists.state.on_urgent = self._lists.save_later = self.tasks.wake
                self.tasks.wake()  # an endpoint may have become urgent meanwhile

    def stop(self) -> None:
        """Stop the threads within a second, and save the list."""
        with self._lists.state:
            pass  # in a forked child, replace the locks and sockets of the parent
        with self._lock:
            if self.is_running:
                self._lists.state.on_urgent = self._lists.save_later = None
                self.tasks.stop()
                self.tasks = Background(self._lists, self._health)
            self.is_running = False
        self._lists.save()

    def _restart_after_fork(self) -> None:
        """Replace locks, sockets and threads in a forked child: threads do not survive a fork."""
        self._lock = threading.Lock()
        self._lists.reset_after_fork()
        self.tasks = Background(self._lists, self._health)
        if self.is_running:
            self._lists.state.on_urgent = self._lists.save_later = self.tasks.wake
            self.tasks.wake()
