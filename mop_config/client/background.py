"""A manager's threads: health checks, updates, and being told of a new list.

They know the manager only weakly, so that one that nobody holds any more is collected, and
takes them along. Whatever they wait for can be called off: closing takes no second.
"""

import contextlib
import logging
import random
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from ..errors import MopConfigError
from ..model import Endpoint
from ..probe import Prober, ProbeResult
from .core import API, SOCKETIO
from .fetch import Fetcher
from .options import TransportOptions
from .update import Check, Fetch, Flow, NewList, Reply, update

if TYPE_CHECKING:
    from .base import BaseManager

logger = logging.getLogger(__name__)

#: Seconds for which a server is asked to hold an answer that has nothing new.
WATCH_WAIT = 55
#: Seconds that closing waits for each thread.
CLOSE_PATIENCE = 0.8
#: Seconds until an update that failed is tried again, doubling up to the interval.
FIRST_RETRY = 30.0
#: Seconds until a watch that failed is tried again, doubling up to a minute.
FIRST_WATCH_RETRY = 1.0
_IDLE = 3600.0

Job = tuple[str, Endpoint, str | None]


class Errands:
    """What a manager asks the network, done in the thread of whoever asks.

    Args:
        manager: Whose endpoints to look at; held weakly.
    """

    def __init__(self, manager: "BaseManager") -> None:
        self._manager = weakref.ref(manager)
        options = TransportOptions.of(**manager.transport_options)
        self._parallelism = manager.policy.probe_parallelism
        self._prober = Prober(options.tls, manager.policy.health_timeout)
        self._fetcher = Fetcher(options, manager.policy)
        self._updating = threading.Lock()

    def close(self) -> None:
        """Call everything off."""
        self._prober.abort()
        self._fetcher.close()

    def check(self, job: Job) -> ProbeResult:
        """Check one endpoint."""
        return self._prober.check(*job)

    def check_all(self, jobs: Iterable[Job], report: Callable[[Job, ProbeResult], None]) -> None:
        """Check endpoints, so many at a time, and wait for the last."""
        queue = deque(jobs)

        def work() -> None:
            with contextlib.suppress(IndexError):
                while True:
                    job = queue.popleft()
                    report(job, self.check(job))

        threads = [
            threading.Thread(target=work, name="mop-config-check", daemon=True)
            for _ in range(min(self._parallelism, len(queue)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def any_healthy(self, check: Check) -> bool:
        """Whether one of some endpoints that are not ours yet is healthy."""
        good: list[bool] = []
        jobs = [(check.kind, endpoint, None) for endpoint in check.endpoints]
        self.check_all(jobs, lambda _, result: good.append(result.fault is None))
        return any(good)

    def update(
        self,
        fallback: str | None = None,
        token: str | None = None,
        *,
        force: bool = False,
        wait: int = 0,
    ) -> tuple[bool, bool]:
        """Update the manager's list.

        Returns:
            Whether there was something new, and whether the server held its answer.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If the only lists found would leave nothing that works.
        """
        manager = self._manager()
        if manager is None:
            return False, False
        if token is None:
            token = manager.token()
        # A request that waits for news must not keep others from asking.
        with contextlib.nullcontext() if wait else self._updating:
            known = manager.known(fallback, force=force, wait=wait)
            found, waited = self._run(update(known), token)
            return found is not None and manager.apply_remote(found), waited

    def _run(self, flow: Flow, token: str | None) -> tuple[NewList | None, bool]:
        answer: Reply | bool | None = None
        waited = False
        while True:
            try:
                step = next(flow) if answer is None else flow.send(answer)
            except StopIteration as end:
                return end.value, waited
            if isinstance(step, Fetch):
                answer = self._fetcher.fetch(step, token)
                waited = answer.waited
            else:
                answer = self.any_healthy(step)


class Background:
    """The threads of a manager that runs.

    Args:
        manager: Held weakly.
        errands: What the threads do.
    """

    def __init__(self, manager: "BaseManager", errands: Errands) -> None:
        self._manager = weakref.ref(manager)
        self._errands = errands
        self._update_interval = manager.update_interval
        self._watching = manager.watch
        self._open()

    def _open(self) -> None:
        self._stopped = threading.Event()
        self._wake = threading.Event()
        self._queue: deque[Job] = deque()
        self._lock = threading.Lock()
        self._checking = 0
        self._updating = False
        self._failures = 0
        self._next_update = 0.0 if self._update_interval else float("inf")
        self._threads: list[threading.Thread] = []

    def start(self) -> None:
        """Start; the first checks and the first update begin at once."""
        self._spawn(self._schedule, "mop-config-client")
        if self._watching:
            self._spawn(self._watch, "mop-config-watch")

    def restart(self) -> None:
        """Start anew in a child process, which has none of its parent's threads."""
        self._open()
        manager = self._manager()
        if manager is not None:
            with manager.core as core:
                for pool in (core.api, core.socketio):
                    pool.forget_probes()
        self.start()

    def _spawn(self, target: Callable[[], None], name: str) -> None:
        thread = threading.Thread(target=target, name=name, daemon=True)
        self._threads = [t for t in self._threads if t.is_alive()]
        self._threads.append(thread)
        thread.start()

    def wake(self) -> None:
        """Have the schedule looked at now."""
        self._wake.set()

    def stop(self) -> None:
        """Stop everything, calling off what is under way."""
        self._stopped.set()
        self._queue.clear()
        self._wake.set()
        self._errands.close()
        deadline = time.monotonic() + CLOSE_PATIENCE
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    # -- the schedule

    def _schedule(self) -> None:
        while not self._stopped.is_set():
            self._wake.clear()
            manager = self._manager()
            if manager is None:
                return
            try:
                delay = self._turn(manager)
            except Exception as error:
                logger.error("the client goes on after %s: %s", type(error).__name__, error)
                delay = 1.0
            del manager
            self._wake.wait(delay)

    def _turn(self, manager: "BaseManager") -> float:
        manager.save_if_changed()
        with manager.core as core:
            now = core.clock()
            for kind in (API, SOCKETIO):
                due = core.pool(kind).take_due(now)
                self._queue.extend((kind, m.endpoint, m.probe_path) for m in due)
            next_check = min(core.api.next_due(), core.socketio.next_due())
        self._check_queue(manager.policy.probe_parallelism)
        if now >= self._next_update and not self._updating:
            self._updating = True
            self._spawn(self._update, "mop-config-update")
        next_update = float("inf") if self._updating else self._next_update
        return max(0.0, min(next_check, next_update, now + _IDLE) - now)

    def _check_queue(self, parallelism: int) -> None:
        with self._lock:
            more = min(parallelism - self._checking, len(self._queue))
            self._checking += max(0, more)
        for _ in range(more):
            self._spawn(self._check, "mop-config-check")

    def _check(self) -> None:
        while True:
            with self._lock:
                if not self._queue:
                    self._checking -= 1
                    return
                job = self._queue.popleft()
            result = self._errands.check(job)
            manager = self._manager()
            if manager is not None and not self._stopped.is_set():
                manager.record_probe(job[0], job[1].url, result)
            del manager
            self._wake.set()

    def _update(self) -> None:
        try:
            self._errands.update()
            self._failures = 0
            delay = self._update_interval
        except MopConfigError as error:
            if not self._stopped.is_set():
                logger.warning("%s", error)
            delay = min(self._update_interval, FIRST_RETRY * 2.0 ** min(self._failures, 10))
            self._failures += 1
        except Exception as error:
            logger.error("the update failed: %s: %s", type(error).__name__, error)
            delay = self._update_interval
        self._next_update = time.monotonic() + _about(delay)
        self._updating = False
        self._wake.set()

    # -- being told

    def _watch(self) -> None:
        failures = 0
        while not self._stopped.is_set():
            try:
                _, waited = self._errands.update(wait=WATCH_WAIT)
                # A server that does not hold its answers must not be asked in a circle.
                delay, failures = (0.0 if waited else self._update_interval or _IDLE), 0
            except MopConfigError as error:
                if not self._stopped.is_set():
                    logger.info("watching: %s", error)
                delay = min(60.0, FIRST_WATCH_RETRY * 2.0 ** min(failures, 10))
                failures += 1
            if self._manager() is None:
                return
            self._stopped.wait(_about(delay))


def _about(seconds: float) -> float:
    """Vary a delay by a tenth, so that a fleet does not ask in step."""
    return seconds * random.uniform(0.9, 1.1)  # noqa: S311 - no secret
