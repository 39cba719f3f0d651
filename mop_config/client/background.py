"""``Background``: runs health checks, updates, reports and the long poll in threads.

The threads refer to the parts of the manager, not to the manager itself. So a manager is collected
when the application drops it, and its finalizer cancels the threads. Every wait can be cancelled.
"""

import contextlib
import logging
import queue
import random
import threading
import time
from collections.abc import Callable

from ..errors import MopConfigError, UpdateFailed
from ..health.jobs import Job, JobQueue
from ..health.probe import ProbeResult
from ..model.endpoint import Kind
from ..net.faults import Fault
from ..net.http import backoff
from .list_search import UpdateRound
from .lists.endpoint_lists import EndpointLists
from .pool.session import ClientState
from .reporter import EVERY
from .tasks import ClientTasks

logger = logging.getLogger(__name__)

#: Bounds of the random long-poll time in seconds. An edit answers every client at once, so
#: random times keep the clients from polling again in step.
WATCH_WAIT = (35, 58)
#: Seconds for which ``stop`` waits for all threads together.
CLOSE_PATIENCE = 0.8
#: Seconds until a failed update is retried; the pause doubles up to the update interval.
FIRST_RETRY = 30.0
#: Longest pause in seconds before a failed update is retried.
MAX_RETRY = FIRST_RETRY * 1024
#: Seconds until a failed long poll is retried; the pause doubles up to a minute.
FIRST_WATCH_RETRY = 1.0
MAX_WATCH_RETRY = 60.0
#: Seconds until the scheduler tries again to start a thread that could not be started.
RETRY = 1.0
#: A server that answers a long poll within fewer seconds did not hold its response.
HELD_AT_LEAST = 1.0
_IDLE = 3600.0


class _Wakeup:
    """A wake-up call for one waiting thread, over ``queue.SimpleQueue``.

    A finalizer calls ``set`` too, and may run between any two bytecodes. A ``threading.Event``
    could deadlock there, because the interrupted thread may hold the event's lock.
    """

    def __init__(self) -> None:
        self._calls: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """End the current wait, or the next wait if no thread waits."""
        self._calls.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until ``set`` is called, for at most ``seconds`` (capped at an hour)."""
        with contextlib.suppress(queue.Empty):
            self._calls.get(timeout=min(max(0.0, seconds), _IDLE))
            while True:
                self._calls.get_nowait()


class Background:
    """The threads of one run of a manager.

    Args:
        state: The pools with the endpoints to check.
        lists: The endpoint list to save.
        tasks: Runs the health checks and updates.
        update_interval: Seconds between two updates; 0 for none.
        watch: Whether to wait for a new list by a long poll.
        report: Whether to report the outcomes of requests to the server of the list.
    """

    def __init__(
        self,
        state: ClientState,
        lists: EndpointLists,
        tasks: ClientTasks,
        update_interval: float,
        *,
        watch: bool,
        report: bool,
    ) -> None:
        self._state = state
        self._lists = lists
        self._tasks = tasks
        self._update_interval = update_interval
        self._watching = watch
        self._stopped = False
        self._wakeup = _Wakeup()
        self._watch_wakeup = _Wakeup()
        self._queue = JobQueue()
        self._lock = threading.Lock()
        self._checking = 0
        self._short_of_resources = False  # whether the last start lacked a thread or descriptor
        self._updating = False
        self._next_report = time.monotonic() + EVERY if report else float("inf")
        self._failures = 0
        self._next_update = 0.0 if update_interval else float("inf")
        self._threads: list[threading.Thread] = []
        self._scheduler: threading.Thread | None = None
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Start the scheduler, which begins the first checks and the first update at once.

        Raises:
            RuntimeError: If the machine has no thread left; then no thread runs.
        """
        with self._state as state:
            for kind in Kind:
                state.pool(kind).forget_probes()  # checks of an earlier run never ended
        self._scheduler = self._spawn(self._schedule, "mop-config-client")

    def _spawn(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
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
        self._wakeup.set()
        with self._lock:
            scheduler = self._scheduler
            if not self._stopped and (scheduler is None or not scheduler.is_alive()):
                self._scheduler = self._try_spawn(self._schedule, "mop-config-client")

    def cancel(self) -> None:
        """Tell every thread to end, without waiting and without a lock."""
        self._stopped = True
        self._queue.clear()
        self._wakeup.set()
        self._watch_wakeup.set()
        self._tasks.close()

    def stop(self) -> None:
        """Cancel running tasks and wait for the threads, for at most ``CLOSE_PATIENCE`` seconds."""
        self.cancel()
        deadline = time.monotonic() + CLOSE_PATIENCE
        # A thread that ends may just have started another thread.
        while others := [
            thread
            for thread in self._threads
            if thread.is_alive() and thread is not threading.current_thread()
        ]:
            left = deadline - time.monotonic()
            if left <= 0:
                return
            others[0].join(left)

    # -- the schedule

    def _schedule(self) -> None:
        while not self._stopped:
            try:
                delay = self._run_due_work()
            except Exception as error:
                logger.error("the client goes on after %s: %s", type(error).__name__, error)
                delay = 1.0
            self._wakeup.wait(delay)

    def _run_due_work(self) -> float:
        self._lists.save()
        with self._state as state:
            now = state.clock()
            for kind in Kind:
                due = state.pool(kind).take_due(now)
                with self._lock:
                    self._queue.extend((kind, m.endpoint, m.probe_path) for m in due)
            next_check = min(state.api.next_due(), state.socketio.next_due())
        self._start_checks()
        if now >= self._next_update and not self._updating:
            # Set the flag first: the thread may clear it before the spawn returns.
            self._updating = True
            if self._try_spawn(self._update, "mop-config-update") is None:
                self._updating = False
        if now >= self._next_report:
            self._next_report = float("inf")  # until the report is sent
            if self._try_spawn(self._report, "mop-config-report") is None:
                self._next_report = now
        if self._watching and (self._watcher is None or not self._watcher.is_alive()):
            self._watcher = self._try_spawn(self._watch, "mop-config-watch")
        if self._short_of_resources:
            return RETRY
        next_update = float("inf") if self._updating else self._next_update
        return min(next_check, next_update, self._next_report) - now

    def _start_checks(self) -> None:
        with self._lock:
            free = self._state.policy.probe_parallelism - self._checking
            more = max(0, min(free, self._queue.ready()))
            self._checking += more
        for begun in range(more):
            if self._try_spawn(self._run_checks, "mop-config-check") is None:
                with self._lock:
                    self._checking -= more - begun
                return

    def _run_checks(self) -> None:
        done = None
        while True:
            with self._lock:
                if done is not None:
                    self._queue.done(done)
                done = job = None if self._stopped else self._queue.take()
                if job is None:
                    self._checking -= 1
                    return
            self._check(job)
            self._wakeup.set()

    def _check(self, job: Job) -> None:
        try:
            result = self._tasks.check(job)
        except Exception as error:
            result = ProbeResult(Fault.OURS, 0.0, f"{type(error).__name__}: {error}")
        if self._stopped:
            return
        if result.fault is not Fault.OURS:
            self._short_of_resources = False
        else:
            self._warn_of_shortage(f"{job[1].url} could not be checked: {result.detail}")
        try:
            self._tasks.record(job, result)
        except Exception as error:
            logger.error("a health check was lost: %s: %s", type(error).__name__, error)

    # -- updates

    def _update(self) -> None:
        try:
            self._tasks.update()
            self._failures = 0
            delay = self._update_interval
        except Exception as error:
            known = isinstance(error, MopConfigError)
            what = str(error) if known else f"the update failed: {type(error).__name__}: {error}"
            if not self._stopped:
                logger.log(self._log_level_of(error), "%s", what)
            self._failures += 1
            longest = min(MAX_RETRY, self._update_interval)
            delay = backoff(self._failures, FIRST_RETRY, longest)
        self._next_update = time.monotonic() + _jittered(delay)
        self._updating = False
        self._wakeup.set()

    def _report(self) -> None:
        delay = EVERY
        try:
            delay = self._tasks.reporter.run()
        except Exception as error:
            logger.error("a report was lost: %s: %s", type(error).__name__, error)
        self._next_report = time.monotonic() + delay
        self._wakeup.set()

    def _log_level_of(self, error: Exception) -> int:
        """Return the log level of a failed update: info if the API servers just have no list."""
        if not isinstance(error, MopConfigError):
            return logging.ERROR
        expected = isinstance(error, UpdateFailed) and error.cause == "not_implemented"
        no_source = not self._lists.rules.config_urls
        return logging.INFO if expected and no_source else logging.WARNING

    def _watch(self) -> None:
        """Fetch new lists by long polls."""
        quick_replies = 0  # consecutive polls that the server did not hold or answer
        while not self._stopped:
            began = time.monotonic()
            try:
                round_ = self._tasks.update(wait=random.randint(*WATCH_WAIT))  # noqa: S311
                quick_replies = quick_replies + 1 if time.monotonic() - began < HELD_AT_LEAST else 0
                delay = self._until_next_watch(round_, quick_replies)
            except Exception as error:
                if not self._stopped:
                    logger.info("watching: %s: %s", type(error).__name__, error)
                quick_replies += 1
                delay = backoff(quick_replies, FIRST_WATCH_RETRY, MAX_WATCH_RETRY)
            self._watch_wakeup.wait(_jittered(delay))

    def _until_next_watch(self, round_: UpdateRound, quick_replies: int) -> float:
        """Return the seconds until the next long poll.

        A server without long polls is polled once per update interval. A server that claims to
        hold its responses, but answers at once each time, is polled with growing delays.
        """
        if not round_.asked_to_wait and self._lists.etags:
            # A long poll needs an ETag, and only the first response supplied an ETag.
            return FIRST_WATCH_RETRY if quick_replies > 1 else 0.0
        if not (round_.asked_to_wait and round_.waited):
            return self._update_interval or _IDLE
        if quick_replies == 0 or (quick_replies <= 2 and round_.changed):
            return round_.pause
        retry = backoff(quick_replies, FIRST_WATCH_RETRY, MAX_WATCH_RETRY)
        return max(round_.pause, retry)


def _jittered(seconds: float) -> float:
    """Vary a delay by up to a tenth, so that a fleet of clients does not poll in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
