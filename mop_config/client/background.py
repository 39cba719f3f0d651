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
from functools import partial
from math import inf

from ..errors import MopConfigError, UpdateFailed
from ..health.jobs import CheckQueue, Job
from ..health.probe import ProbeResult
from ..model.endpoint import Kind
from ..net.faults import Fault
from ..net.http import backoff
from .parts import EVERY, ManagerParts
from .tasks import ClientTasks, UpdateRound

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


class Background(ClientTasks):
    """One run of a manager: its tasks, and the threads that run them once ``start`` is called.

    Args:
        parts: The parts of the manager.
    """

    def __init__(self, parts: ManagerParts) -> None:
        super().__init__(parts)
        self._wakeup = _Wakeup()
        parallel = parts.state.policy.probe_parallelism
        self._checks = CheckQueue(self._prober, self._report_check, parallel)
        self._lock = threading.Lock()
        self._short_of_resources = False  # whether the last start lacked a thread or descriptor
        self._failures = 0  # of updates in a row
        self._quick_replies = 0  # long polls in a row that the server did not hold or answer
        #: The work with a thread of its own: when it is due, infinity while it runs or for never,
        #: and the function that does the work and returns the seconds until it is due again.
        self._due = {
            "update": 0.0 if parts.update_interval else inf,
            "watch": 0.0 if parts.watch else inf,
            "report": time.monotonic() + EVERY if parts.report else inf,
        }
        self._work = {"update": self._update, "watch": self._watch, "report": self.reporter.run}
        self._threads: list[threading.Thread] = []
        self._scheduler: threading.Thread | None = None

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
        self._wakeup.set()
        super().cancel()

    def stop(self) -> None:
        """Cancel running tasks and wait for the threads, for at most ``CLOSE_PATIENCE`` seconds."""
        self.cancel()
        deadline, own = time.monotonic() + CLOSE_PATIENCE, threading.current_thread()
        # A thread that ends may just have started another thread.
        while others := [t for t in self._threads if t.is_alive() and t is not own]:
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
        self._parts.lists.save()
        with self._state as state:
            now = state.clock()
            for kind in Kind:
                due = state.pool(kind).take_due(now)
                self._checks.extend((kind, m.endpoint, m.probe_path) for m in due)
            wait = min(state.api.next_due(), state.socketio.next_due()) - now
        self._checks.start(partial(self._try_spawn, name="mop-config-check"))
        now = time.monotonic()
        for name, at in self._due.items():
            if now >= at:
                self._due[name] = inf  # first: the thread may end before the spawn returns
                if self._try_spawn(partial(self._run, name), f"mop-config-{name}") is None:
                    self._due[name] = at
        return RETRY if self._short_of_resources else min(wait, min(self._due.values()) - now)

    def _run(self, name: str) -> None:
        """Do work that was due, and schedule it again."""
        delay = EVERY
        try:
            delay = self._work[name]()
        except Exception as error:
            logger.error("the %s failed: %s: %s", name, type(error).__name__, error)
        self._due[name] = time.monotonic() + delay
        self._wakeup.set()

    def _report_check(self, job: Job, result: ProbeResult) -> bool:
        if not self._stopped:
            if result.fault is not Fault.OURS:
                self._short_of_resources = False
            else:
                self._warn_of_shortage(f"{job[1].url} could not be checked: {result.detail}")
            self.record(job, result)
        self._wakeup.set()
        return self._stopped

    # -- updates

    def _update(self) -> float:
        try:
            self.update()
            self._failures = 0
            return _jittered(self._parts.update_interval)
        except Exception as error:
            known = isinstance(error, MopConfigError)
            what = str(error) if known else f"the update failed: {type(error).__name__}: {error}"
            if not self._stopped:
                logger.log(self._log_level_of(error), "%s", what)
            self._failures += 1
            longest = min(MAX_RETRY, self._parts.update_interval)
            return _jittered(backoff(self._failures, FIRST_RETRY, longest))

    def _log_level_of(self, error: Exception) -> int:
        """Return the log level of a failed update: info if the API servers just have no list."""
        if not isinstance(error, MopConfigError):
            return logging.ERROR
        expected = isinstance(error, UpdateFailed) and error.cause == "not_implemented"
        no_source = not self._parts.lists.rules.config_urls
        return logging.INFO if expected and no_source else logging.WARNING

    def _watch(self) -> float:
        """Fetch a new list by a long poll; return the seconds until the next long poll."""
        began = time.monotonic()
        try:
            outcome = self.update(wait=random.randint(*WATCH_WAIT))  # noqa: S311
            is_quick = time.monotonic() - began < HELD_AT_LEAST
            self._quick_replies = self._quick_replies + 1 if is_quick else 0
            return _jittered(self._until_next_watch(outcome, self._quick_replies))
        except Exception as error:
            if not self._stopped:
                logger.info("watching: %s: %s", type(error).__name__, error)
            self._quick_replies += 1
            return _jittered(backoff(self._quick_replies, FIRST_WATCH_RETRY, MAX_WATCH_RETRY))

    def _until_next_watch(self, round_: UpdateRound, quick_replies: int) -> float:
        """Return the seconds until the next long poll.

        A server without long polls is polled once per update interval. A server that claims to
        hold its responses, but answers at once each time, is polled with growing delays.
        """
        if not round_.asked_to_wait and self._parts.lists.etags:
            # A long poll needs an ETag, and only the first response supplied an ETag.
            return FIRST_WATCH_RETRY if quick_replies > 1 else 0.0
        if not (round_.asked_to_wait and round_.waited):
            return self._parts.update_interval or _IDLE
        if quick_replies == 0 or (quick_replies <= 2 and round_.changed):
            return round_.pause
        retry = backoff(quick_replies, FIRST_WATCH_RETRY, MAX_WATCH_RETRY)
        return max(round_.pause, retry)


class Lifecycle:
    """Starts and stops the runs of a manager, and starts a run again in a forked child.

    Args:
        parts: The parts of the manager.

    Attributes:
        tasks: The current run, or the next run if the manager is stopped; cancelled tasks stay
            cancelled.
        is_running: Whether health checks and updates run.
    """

    def __init__(self, parts: ManagerParts) -> None:
        self.tasks = Background(parts)
        self.is_running = False
        self._parts = parts
        self._lock = threading.Lock()
        self._was_started = False
        parts.state.on_fork = self._restart_after_fork

    def start_if_new(self) -> None:
        """Start the threads, unless the manager was started or closed before."""
        if self._was_started:
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
                self._set_running(running=True)
                self.tasks.wake()  # an endpoint may have become urgent meanwhile
            self._was_started = True

    def _set_running(self, *, running: bool) -> None:
        self.is_running = running
        wake = self.tasks.wake if running else None
        self._parts.state.on_urgent = self._parts.lists.save_later = wake

    def stop(self) -> None:
        """Stop the threads within a second, and save the list."""
        self._was_started = True
        with self._parts.state:
            pass  # in a forked child, replace the locks and sockets of the parent
        with self._lock:
            if self.is_running:
                self._set_running(running=False)
                self.tasks.stop()
                self.tasks = Background(self._parts)
        self._parts.lists.save()

    def cancel(self) -> None:
        """Cancel the threads without waiting and without a lock: a finalizer calls this."""
        self.tasks.cancel()

    def _restart_after_fork(self) -> None:
        """Replace locks, sockets and threads in a forked child: threads do not survive a fork."""
        self._lock = threading.Lock()
        self._parts.lists.reset_after_fork()
        self.tasks = Background(self._parts)
        if self.is_running:
            self._set_running(running=True)
            with contextlib.suppress(RuntimeError, MemoryError):  # ``wake`` tries again
                self.tasks.start()


def _jittered(seconds: float) -> float:
    """Vary a delay by up to a tenth, so that a fleet of clients does not poll in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
