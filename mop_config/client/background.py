"""The background threads of a manager: scheduler, health checks, updates and long poll.

The threads hold the manager by a weak reference, so that a manager that the application dropped
is collected and its threads end. Every wait can be cancelled: closing takes less than a second.
"""

import contextlib
import logging
import queue
import random
import threading
import time
import weakref
from collections.abc import Callable
from typing import Protocol

from ..errors import MopConfigError, UpdateFailed
from ..health.jobs import Job, JobQueue
from ..health.probe import ProbeResult
from ..model.endpoint import Kind
from ..net.faults import Fault
from ..net.http import backoff
from .list_search import UpdateRound
from .pool.policy import Policy
from .pool.session import ClientState
from .tasks import ClientTasks

logger = logging.getLogger(__name__)

#: Bounds of the random long-poll time in seconds. An edit answers every client at once; different
#: times keep the clients from coming back in step.
WATCH_WAIT = (35, 58)
#: Seconds that closing waits for all threads together.
CLOSE_PATIENCE = 0.8
#: Seconds until an update that failed is tried again, doubling up to the interval.
FIRST_RETRY = 30.0
#: Longest pause before it is tried again, in seconds; the update interval may be shorter.
MAX_RETRY = FIRST_RETRY * 1024
#: Seconds until a watch that failed is tried again, doubling up to a minute.
FIRST_WATCH_RETRY = 1.0
MAX_WATCH_RETRY = 60.0
#: Seconds until a thread that could not be started is tried again.
RETRY = 1.0
#: A long poll that is answered within fewer seconds was not held.
HELD_AT_LEAST = 1.0
_IDLE = 3600.0


class _Wakeup:
    """A wake-up call for one waiting thread, over ``queue.SimpleQueue``.

    A finaliser sets it too, and may run between any two bytecodes: a ``threading.Event`` could
    deadlock there, because the interrupted thread may hold its lock.
    """

    def __init__(self) -> None:
        self._wakeups: queue.SimpleQueue[None] = queue.SimpleQueue()

    def set(self) -> None:
        """End the current wait, or the next one if no thread waits."""
        self._wakeups.put(None)

    def wait(self, seconds: float) -> None:
        """Wait until ``set`` is called, for at most ``seconds`` (capped at an hour)."""
        with contextlib.suppress(queue.Empty):
            self._wakeups.get(timeout=min(max(0.0, seconds), _IDLE))
            while True:
                self._wakeups.get_nowait()


class BackgroundOwner(Protocol):
    """The part of a manager that its background threads use."""

    policy: Policy
    config_urls: tuple[str, ...]
    update_interval: float
    watch: bool
    _state: ClientState

    @property
    def _has_etag(self) -> bool: ...

    def _record_probe(self, kind: str, url: str, result: ProbeResult) -> None: ...

    def _save_if_changed(self) -> None: ...


class Background:
    """The threads of a running manager.

    Args:
        manager: The manager, held by a weak reference.
        tasks: Runs the health checks and updates.
    """

    def __init__(self, manager: BackgroundOwner, tasks: ClientTasks) -> None:
        self._manager = weakref.ref(manager)
        self._tasks = tasks
        self._update_interval = manager.update_interval
        self._watching = manager.watch
        self._open()

    def _open(self) -> None:
        self._stopped = False
        self._schedule_wakeup = _Wakeup()
        self._watch_wakeup = _Wakeup()
        self._queue = JobQueue()
        self._lock = threading.Lock()
        self._checking = 0
        self._short_of_resources = (
            False  # whether the last thing that was to be done lacked something
        )
        self._updating = False
        self._failures = 0
        self._next_update = 0.0 if self._update_interval else float("inf")
        self._threads: list[threading.Thread] = []
        self._scheduler: threading.Thread | None = None
        self._watcher: threading.Thread | None = None

    def start(self) -> None:
        """Start the scheduler; the first checks and the first update begin at once.

        Raises:
            RuntimeError: If the machine has no thread left; nothing runs then.
        """
        self._scheduler = self._spawn(self._schedule, "mop-config-client")

    def restart(self, tasks: ClientTasks) -> None:
        """Start the scheduler in a forked child, which has none of its parent's threads."""
        self._tasks = tasks
        self._open()
        self._scheduler = self._try_spawn(self._schedule, "mop-config-client")

    def _spawn(self, target: Callable[[], None], name: str) -> threading.Thread:
        thread = threading.Thread(target=target, name=name, daemon=True)
        thread.start()
        self._threads = [*(t for t in self._threads if t.is_alive()), thread]
        return thread

    def _try_spawn(self, target: Callable[[], None], name: str) -> threading.Thread | None:
        """Start a thread, or return None if that fails; the scheduler tries again soon."""
        try:
            thread = self._spawn(target, name)
        except (RuntimeError, MemoryError) as error:
            self._warn_of_shortage(f"{name} could not be started: {error}")
            return None
        self._short_of_resources = False
        return thread

    def _warn_of_shortage(self, what: str) -> None:
        """Log a lack of threads or descriptors once, until one is available again."""
        if not self._short_of_resources:
            logger.warning("%s; no endpoint is blamed, and it is tried again", what)
        self._short_of_resources = True

    def wake(self) -> None:
        """Run the scheduler now, starting its thread again if a fork ended it."""
        self._schedule_wakeup.set()
        with self._lock:
            # A forked child may have had no thread left for it.
            scheduler = self._scheduler
            if not self._stopped and (scheduler is None or not scheduler.is_alive()):
                self._scheduler = self._try_spawn(self._schedule, "mop-config-client")

    def cancel(self) -> None:
        """Tell every thread to end, without waiting and without a lock."""
        self._stopped = True
        self._queue.clear()
        self._schedule_wakeup.set()
        self._watch_wakeup.set()
        self._tasks.close()

    def stop(self) -> None:
        """Cancel running tasks and wait for the threads, for at most ``CLOSE_PATIENCE`` seconds."""
        self.cancel()
        deadline = time.monotonic() + CLOSE_PATIENCE
        # A thread that ends may have started another one just before.
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
            manager = self._manager()
            if manager is None:
                return
            try:
                delay = self._run_due_work(manager)
            except Exception as error:
                logger.error("the client goes on after %s: %s", type(error).__name__, error)
                delay = 1.0
            del manager
            self._schedule_wakeup.wait(delay)

    def _run_due_work(self, manager: BackgroundOwner) -> float:
        manager._save_if_changed()
        with manager._state as core:
            now = core.clock()
            for kind in Kind:
                due = core.pool(kind).take_due(now)
                with self._lock:
                    self._queue.extend((kind, m.endpoint, m.probe_path) for m in due)
            next_check = min(core.api.next_due(), core.socketio.next_due())
        self._check_queue(manager.policy.probe_parallelism)
        if now >= self._next_update and not self._updating:
            # The thread clears the flag, maybe before the spawn returns.
            self._updating = True
            if self._try_spawn(self._update, "mop-config-update") is None:
                self._updating = False
        if self._watching and (self._watcher is None or not self._watcher.is_alive()):
            self._watcher = self._try_spawn(self._watch, "mop-config-watch")
        if self._short_of_resources:
            return RETRY
        next_update = float("inf") if self._updating else self._next_update
        return min(next_check, next_update) - now

    def _check_queue(self, parallelism: int) -> None:
        with self._lock:
            more = max(0, min(parallelism - self._checking, self._queue.ready()))
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
            result = self._result_of(job)
            manager = self._manager()
            if manager is not None and not self._stopped:
                try:
                    manager._record_probe(job[0], job[1].url, result)
                except Exception as error:
                    logger.error("a health check was lost: %s: %s", type(error).__name__, error)
            del manager
            self._schedule_wakeup.set()

    def _result_of(self, job: Job) -> ProbeResult:
        try:
            result = self._tasks.check(job)
        except Exception as error:
            result = ProbeResult(Fault.OURS, 0.0, f"{type(error).__name__}: {error}")
        if result.fault is not Fault.OURS:
            self._short_of_resources = False
        elif not self._stopped:
            self._warn_of_shortage(f"{job[1].url} could not be checked: {result.detail}")
        return result

    def _update(self) -> None:
        try:
            self._tasks.update()
            self._failures = 0
            delay = self._update_interval
        except MopConfigError as error:
            if not self._stopped:
                logger.log(self._log_level_of(error), "%s", error)
            delay = self._until_next_try()
        except Exception as error:
            logger.error("the update failed: %s: %s", type(error).__name__, error)
            delay = self._until_next_try()
        self._next_update = time.monotonic() + _jittered(delay)
        self._updating = False
        self._schedule_wakeup.set()

    def _until_next_try(self) -> float:
        self._failures += 1
        return backoff(self._failures, FIRST_RETRY, min(MAX_RETRY, self._update_interval))

    def _log_level_of(self, error: MopConfigError) -> int:
        """Return the log level of a failed update: API servers without a list are no fault."""
        manager = self._manager()
        expected = isinstance(error, UpdateFailed) and error.cause == "not_implemented"
        if expected and manager is not None and not manager.config_urls:
            return logging.INFO
        return logging.WARNING

    # -- long poll

    def _watch(self) -> None:
        quick_replies = 0  # answers in a row that came at once, or not at all
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
            if self._manager() is None:
                return
            self._watch_wakeup.wait(_jittered(delay))

    def _until_next_watch(self, round_: UpdateRound, quick_replies: int) -> float:
        """Return the seconds until the next long poll.

        A server without long polls is asked once per update interval. A server that claims to
        hold its answers, but answers at once each time, is asked with growing delays.
        """
        if not round_.asked_to_wait:
            # A long poll needs an ETag, which only the first answer gives.
            manager = self._manager()
            knows = manager is not None and manager._has_etag
            if not knows:
                return self._update_interval or _IDLE
            return FIRST_WATCH_RETRY if quick_replies > 1 else 0.0
        if not round_.waited:
            return self._update_interval or _IDLE
        if quick_replies == 0 or (quick_replies <= 2 and round_.changed):
            return round_.pause
        retry = backoff(quick_replies, FIRST_WATCH_RETRY, MAX_WATCH_RETRY)
        return max(round_.pause, retry)


def _jittered(seconds: float) -> float:
    """Vary a delay by a tenth, so that a fleet does not ask in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
