"""``ClientTasks``: runs the health checks and list updates of a manager in the calling thread.

``background`` calls the tasks from the manager's threads, and the manager calls them when the
application requests a check or an update.
"""

import os
import threading
from collections.abc import Callable, Iterable
from heapq import nsmallest
from queue import SimpleQueue

from ..health.jobs import PER_SERVER, Job
from ..health.probe import HealthRequest, Prober, ProbeResult
from ..model.endpoint import Kind
from ..net.faults import Fault
from .fetch import Fetcher
from .list_search import ListSearch, UpdateRound
from .lists.endpoint_lists import EndpointLists
from .lists.token import Token, current_token
from .lists.update import Check
from .pool.pool import WATCHED
from .pool.session import ClientState
from .reporter import Reporter
from .transport.options import TransportOptions


class ClientTasks:
    """Runs health checks and list updates until ``close`` cancels them for good.

    Args:
        state: The pools with the endpoints to check.
        lists: The endpoint list to update.
        options: Options of the connections.
        token: The bearer token for sources of lists, or a function that returns the token.
        health: The request that a health check sends.
    """

    def __init__(
        self,
        state: ClientState,
        lists: EndpointLists,
        options: TransportOptions,
        token: Token,
        health: HealthRequest,
    ) -> None:
        self._state = state
        self._lists = lists
        self._options = options
        self._token = token
        self._prober = Prober(
            options.tls, state.policy.health_timeout, state.resolver, options.proxy_for, health
        )
        self.reporter = Reporter(state, lists, options, token)
        self._searches: set[ListSearch] = set()
        self._closed = False
        self._applying_lock = threading.Lock()
        self._manual_updates = 0
        self._pid = os.getpid()

    def close(self) -> None:
        """Cancel all checks and updates; takes no lock, so a finalizer may call it."""
        # Don't shut down a parent's sockets from a forked child: the parent still uses them.
        if self._pid == os.getpid():
            self._prober.abort()
            self.reporter.close()
            self._closed = True
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

    def _any_healthy(self, check: Check) -> bool:
        """Return whether one of the best endpoints of a new list is healthy."""
        results: SimpleQueue[bool] = SimpleQueue()

        def report(_: Job, result: ProbeResult) -> bool:
            results.put(result.fault is None)
            return result.fault is None

        best = nsmallest(WATCHED, check.endpoints, key=lambda endpoint: endpoint.priority)
        jobs: list[Job] = [(check.kind, endpoint, None) for endpoint in best]
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
        began = self._manual_updates
        search = ListSearch(
            self._lists.update_context(fallback, force=force, wait=wait),
            current_token(self._token if token is None else token),
            self._lists.server_names(fallback),
            self._new_fetcher,
            self._any_healthy,
            lambda error: self._lists.report_refused("remote", error),
        )
        self._searches.add(search)
        try:
            found, round_ = search.run()
        finally:
            self._searches.discard(search)
        if found is None:
            return round_
        with self._applying_lock:
            if not by_hand and self._manual_updates != began:
                return round_
            self._manual_updates += by_hand
            return round_._replace(changed=self._lists.apply_remote(found))

    def _new_fetcher(self) -> Fetcher:
        fetcher = Fetcher(self._options, self._state.policy, self._state.resolver)
        if self._closed:
            fetcher.close()
        return fetcher
