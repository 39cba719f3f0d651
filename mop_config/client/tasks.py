"""``ClientTasks``: runs the health checks and list updates of a manager in the calling thread."""

import os
import threading
from collections.abc import Callable, Iterable
from heapq import nsmallest
from queue import SimpleQueue

from ..health.jobs import PER_SERVER, Job
from ..health.probe import Prober, ProbeResult
from ..model.endpoint import Endpoint, Kind
from ..net.faults import Fault
from .list_search import ListSearch, UpdateRound
from .lists.token import current_token
from .parts import ManagerParts
from .pool.pool import WATCHED
from .reporter import Reporter


class ClientTasks:
    """Runs health checks and list updates until ``cancel`` cancels them for good.

    Args:
        parts: The parts of the manager.

    Attributes:
        reporter: Sends the reports.
    """

    def __init__(self, parts: ManagerParts) -> None:
        self._parts = parts
        self._state = parts.state
        self._prober = Prober(
            parts.options.tls,
            parts.state.policy.health_timeout,
            parts.state.resolver,
            parts.options.proxy_for,
            parts.health,
        )
        self.reporter = Reporter(parts)
        self._stopped = False
        self._searches: set[ListSearch] = set()
        self._applying_lock = threading.Lock()
        self._manual_updates = 0
        self._pid = os.getpid()

    def cancel(self) -> None:
        """Cancel all checks and updates; takes no lock, so a finalizer may call it."""
        self._stopped = True
        # Don't shut down a parent's sockets from a forked child: the parent still uses them.
        if self._pid == os.getpid():
            self._prober.abort()
            self.reporter.close()
            for search in list(self._searches):
                search.close()

    # -- health checks

    def check(self, job: Job) -> ProbeResult:
        """Check one endpoint without recording the result."""
        return self._prober.check(*job)

    def check_all(self) -> None:
        """Check the best endpoints of each kind, record the results, and wait for all."""
        with self._state as state:
            jobs = [
                (kind.value, member.endpoint, member.probe_path)
                for kind in Kind
                for member in state.pool(kind).watched()
            ]
        for thread in self.check_each(jobs, self.record):
            thread.join()

    def check_each(
        self, jobs: Iterable[Job], report: Callable[[Job, ProbeResult], object]
    ) -> Iterable[threading.Thread]:
        """Start checks in threads, report each result in its thread, and return the threads."""
        parallelism = self._state.policy.probe_parallelism
        return self._prober.check_each(jobs, report, parallelism, PER_SERVER)

    def record(self, job: Job, result: ProbeResult) -> None:
        """Record the result of a health check, and choose the endpoint again."""
        with self._state as state:
            pool = state.pool(job[0])
            member = pool.get(job[1].url)
            if member is None:
                return
            now, posix, busy = state.clock(), state.wall_clock(), None
            if result.fault is Fault.OURS:
                # The check was cancelled, or this process lacks descriptors or threads.
                member.probing = False
                member.health.postpone(now, state.random())
                return
            if result.path is not None:
                member.probe_path = result.path
            if result.status is not None:
                busy = state.policy.busy_for(result.status, result.retry_after, posix)
            pool.probed(member, result.fault, result.seconds, now, posix, busy)
            pool.select(now)

    def _any_healthy(self, kind: str, endpoints: tuple[Endpoint, ...]) -> bool:
        """Return whether one of the best endpoints of a new list is healthy."""
        results: SimpleQueue[bool] = SimpleQueue()

        def report(_: Job, result: ProbeResult) -> bool:
            results.put(result.fault is None)
            return result.fault is None

        best = nsmallest(WATCHED, endpoints, key=lambda endpoint: endpoint.priority)
        jobs: list[Job] = [(kind, endpoint, None) for endpoint in best]
        self.check_each(jobs, report)
        return any(results.get() for _ in jobs)  # the first healthy endpoint ends the wait

    # -- updates

    def update(
        self,
        fallback: str | None = None,
        token: str | None = None,
        *,
        force: bool = False,
        wait: int = 0,
        by_hand: bool = False,
    ) -> UpdateRound:
        """Update the list.

        Args:
            fallback: Source to request first, or None.
            token: Token to send; None for the manager's.
            force: Whether to apply a list that may leave no working endpoint.
            wait: Seconds for which a server may hold its response while the list is unchanged.
            by_hand: Whether the application requested the update. A background update that began
                earlier is then dropped, because its list is older.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If every list found would leave no working endpoint, or is not
                trusted.
        """
        began, lists = self._manual_updates, self._parts.lists
        known = lists.update_context(fallback, force=force, wait=wait)
        token = current_token(self._parts.token if token is None else token)
        names = lists.server_names(fallback)
        search = ListSearch(self._parts, known, token, names, self._any_healthy)
        self._searches.add(search)
        if self._stopped:
            search.close()
        try:
            found, outcome = search.run()
        finally:
            self._searches.discard(search)
        if found is None:
            return outcome
        with self._applying_lock:
            if not by_hand and self._manual_updates != began:
                return outcome
            self._manual_updates += by_hand
            return outcome._replace(changed=lists.apply_remote(found))
