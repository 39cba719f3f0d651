"""The manager's network tasks: health checks of endpoints and updates of the list.

``ClientTasks`` runs each task in the calling thread. ``background`` calls it from the manager's
own threads, and the manager calls it when the application asks for a check or an update.
"""

import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from heapq import nsmallest
from queue import SimpleQueue
from typing import Protocol

from ..errors import UpdateUntrusted
from ..health.jobs import PER_SERVER, Job
from ..health.probe import Prober, ProbeResult
from .fetch import Fetcher
from .list_search import ListSearch, UpdateRound
from .lists.token import current_token
from .lists.update import Check, NewList, UpdateContext
from .pool.policy import Policy
from .pool.pool import WATCHED
from .pool.session import ClientState
from .transport.detour import Detours
from .transport.options import TransportOptions

logger = logging.getLogger(__name__)


class UpdateOwner(Protocol):
    """The part of a manager that its network tasks use."""

    policy: Policy
    _state: ClientState
    _network_options: TransportOptions

    def _current_token(self) -> str | None: ...

    def _server_names(self, fallback: str | None = None) -> dict[str, str]: ...

    def _update_context(self, fallback: str | None, *, force: bool, wait: int) -> UpdateContext: ...

    def _apply_remote(self, found: NewList) -> bool: ...

    def _report_refused(self, origin: str, error: UpdateUntrusted) -> UpdateUntrusted: ...


class ClientTasks:
    """Health checks and list updates of one manager, run in the calling thread.

    Args:
        manager: The manager whose endpoints are checked and whose list is updated. Held by a
            weak reference, so that a manager that the application dropped is collected.
    """

    def __init__(self, manager: UpdateOwner) -> None:
        self._manager = weakref.ref(manager)
        self._parallelism = manager.policy.probe_parallelism
        options, policy = manager._network_options, manager.policy
        resolver = manager._state.resolver
        detours = Detours(options, policy, resolver)
        self._prober = Prober(options.tls, policy.health_timeout, resolver, detours)
        self._options, self._policy = options, policy
        self._searches: set[ListSearch] = set()
        self._closed = False
        self._applying_lock = threading.Lock()
        self._manual_updates = 0
        self._pid = os.getpid()

    def close(self) -> None:
        """Call everything off."""
        # A child process has copies of its parent's sockets, which go on.
        if self._pid == os.getpid():
            self._prober.abort()
            self._closed = True
            for search in list(self._searches):
                search.close()

    def check(self, job: Job) -> ProbeResult:
        """Check one endpoint."""
        return self._prober.check(*job)

    def check_all(self, jobs: Iterable[Job], report: Callable[[Job, ProbeResult], object]) -> None:
        """Check endpoints, so many at a time, and wait for the last.

        Args:
            jobs: The checks to run.
            report: Takes each result; once it gives True, those that wait are left out.
        """
        for thread in self._prober.check_each(jobs, report, self._parallelism, PER_SERVER):
            thread.join()

    def any_healthy(self, check: Check) -> bool:
        """Whether one of the best of some endpoints that are not ours yet is healthy."""
        results: SimpleQueue[bool] = SimpleQueue()

        def report(_: Job, result: ProbeResult) -> bool:
            results.put(result.fault is None)
            return result.fault is None

        best = nsmallest(WATCHED, check.endpoints, key=lambda endpoint: endpoint.priority)
        jobs: list[Job] = [(check.kind, endpoint, None) for endpoint in best]
        self._prober.check_each(jobs, report, self._parallelism, PER_SERVER)
        return any(results.get() for _ in jobs)  # the first good one ends it

    def update(
        self,
        fallback: str | None = None,
        token: str | None = None,
        *,
        force: bool = False,
        wait: int = 0,
        by_hand: bool = False,
    ) -> UpdateRound:
        """Update the manager's list.

        Args:
            fallback: Source to ask first, or None.
            token: Token to send; None takes the manager's.
            force: Whether to take a list that may leave nothing that works.
            wait: Seconds for which a server may hold an answer that has nothing new.
            by_hand: Whether somebody waits for it. What the background finds meanwhile is older,
                and left.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If the only lists found would leave nothing that works, or are
                not to be trusted.
        """
        manager = self._manager()
        if manager is None:
            return UpdateRound()
        token = manager._current_token() if token is None else current_token(token)
        names = manager._server_names(fallback)
        known, began = (
            manager._update_context(fallback, force=force, wait=wait),
            self._manual_updates,
        )
        del manager  # a fetch that takes a minute must not keep the manager alive
        search = ListSearch(
            known, token, names, self._new_fetcher, self.any_healthy, self._report_refused
        )
        self._searches.add(search)
        try:
            found, round_ = search.run()
        finally:
            self._searches.discard(search)
        manager = self._manager()
        if found is None or manager is None:
            return round_
        with self._applying_lock:
            if not by_hand and self._manual_updates != began:
                return round_
            self._manual_updates += by_hand
            return round_._replace(changed=manager._apply_remote(found))

    def _new_fetcher(self) -> Fetcher:
        fetcher = Fetcher(self._options, self._policy, self._prober.resolver)
        fetcher.closed = self._closed
        return fetcher

    def _report_refused(self, error: UpdateUntrusted) -> None:
        manager = self._manager()
        if manager is not None:
            manager._report_refused("remote", error)
