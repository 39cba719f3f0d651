"""``ClientTasks``: runs the health checks and list updates of a manager in the calling thread.

``ListSearch`` asks the sources of an update in parallel, so that dead sources cost no time.
"""

import os
import threading
import time
from collections.abc import Iterable
from heapq import nsmallest
from queue import Empty, SimpleQueue
from typing import NamedTuple

from ..errors import UpdateFailed, UpdateRefused, UpdateUntrusted
from ..health.jobs import PER_SERVER, Job, Report, check_each
from ..health.probe import Prober, ProbeResult
from ..model.endpoint import Endpoint, Kind
from ..model.jws import MEDIA_TYPE
from ..net.faults import Fault
from ..net.http import HttpClient, HttpReply, HttpRequest
from .lists.update import (
    Check,
    NewList,
    UpdateContext,
    combined_error,
    current_token,
    update,
)
from .parts import ManagerParts, Reporter
from .pool.pool import WATCHED

#: Seconds between the requests to two sources; a failed source starts the next request at once.
STAGGER = 0.25


class UpdateRound(NamedTuple):
    """The result of an update.

    Attributes:
        changed: Whether the list has changed.
        asked_to_wait: Whether the request was a long poll.
        waited: Whether the server that answered supports long polls.
        pause: Seconds until that server accepts another request.
    """

    changed: bool = False
    asked_to_wait: bool = False
    waited: bool = False
    pause: float = 0.0


Found = tuple[NewList | None, UpdateRound]


class ListSearch:
    """One search for a list, over the sources of an update.

    Args:
        parts: The parts of the manager.
        known: The state of the manager, with the sources in their order.
        any_healthy: Returns whether an endpoint of a new list is healthy.
        fallback: The source to request first, or None.
        token: Token to send; None for the manager's.
    """

    def __init__(
        self,
        parts: ManagerParts,
        known: UpdateContext,
        any_healthy: Check,
        fallback: str | None,
        token: str | None,
    ) -> None:
        self._parts = parts
        self._known = known
        self._any_healthy = any_healthy
        self._token = current_token(parts.token if token is None else token)
        self._server_names = parts.lists.server_names(fallback)
        self._events: SimpleQueue[tuple[int, Found | Exception | None]] = SimpleQueue()
        self._running: dict[int, HttpClient] = {}
        # Sources that hold their response until the list changes. Their silence is no failure.
        self._holding: set[int] = set()
        self._closed = False

    def close(self) -> None:
        """Cancel every request; takes no lock, so a finalizer may call it."""
        self._closed = True
        for client in list(self._running.values()):
            client.abort()
        self._events.put((-1, None))

    def run(self) -> Found:
        """Run the search to its end.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If no list found may be applied.
        """
        started, next_at, count = 0, 0.0, len(self._known.sources)
        errors: dict[int, UpdateFailed | UpdateRefused] = {}
        try:
            while not self._closed and (started < count or self._running):
                pause = None  # wait until a source reports
                if started < count and not self._holding:
                    pause = max(0.0, next_at - time.monotonic())
                if pause == 0.0:
                    self._start_source(started)
                    started, next_at = started + 1, time.monotonic() + STAGGER
                    continue
                try:
                    position, event = self._events.get(timeout=pause)
                except Empty:
                    continue
                if isinstance(event, tuple):
                    return event
                if isinstance(event, UpdateUntrusted):
                    self._parts.lists.report_refused("remote", event)
                if isinstance(event, (UpdateFailed, UpdateRefused)):
                    errors[position] = event
                elif event is not None:
                    raise event
                self._running.pop(position, None)
                next_at = 0.0
        finally:
            self.close()
        raise combined_error([errors[position] for position in sorted(errors)])

    def _start_source(self, position: int) -> None:
        self._running[position] = self._parts.new_client()
        thread = threading.Thread(
            target=self._run_source, args=(position,), name="mop-config-list", daemon=True
        )
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # no thread left: run in this thread
            self._run_source(position)

    def _run_source(self, position: int) -> None:
        try:
            self._events.put((position, self._find(position, self._running[position])))
        except Exception as error:
            self._events.put((position, error))

    def _find(self, position: int, client: HttpClient) -> Found:
        outcome = UpdateRound()

        def fetch(url: str, etag: str | None, wait: int, with_token: bool) -> HttpReply:
            nonlocal outcome
            if self._closed:
                client.abort()
            if wait:
                self._holding.add(position)
            try:
                reply = client.request(self._request(url, etag, wait, with_token))
            finally:
                self._holding.discard(position)
            if wait and reply.status not in {200, 304}:
                self._events.put((-1, None))  # start the next source
            # Any status may have ``Retry-After``: it comes with a 304 of many long polls.
            retry_after = reply.headers.get("retry-after")
            pause = self._parts.state.policy.busy_for(503, retry_after, time.time()) or 0.0
            waited = "wait" in reply.headers.get("preference-applied", "")
            outcome = UpdateRound(False, wait > 0, waited, pause)
            return reply

        found = update(self._known.sources[position], self._known, fetch, self._any_healthy)
        return found, outcome

    def _request(self, url: str, etag: str | None, wait: int, with_token: bool) -> HttpRequest:
        signed = self._known.trust is not None
        headers = {
            "Accept": MEDIA_TYPE if signed else "application/json",
            "Accept-Encoding": "gzip",
        }
        if etag is not None:
            headers["If-None-Match"] = etag
        return HttpRequest(
            url,
            self._parts.deadline() + wait,
            self._parts.state.policy.max_list_bytes,
            headers=headers,
            token=self._token if with_token else None,
            server_names=self._server_names,
            https_only=self._known.https_only,
        )


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

    def check_each(self, jobs: Iterable[Job], report: Report) -> list[threading.Thread]:
        """Start checks in threads, report each result in its thread, and return the threads."""
        parallelism = self._state.policy.probe_parallelism
        return check_each(self._prober, jobs, report, parallelism, PER_SERVER)

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
        search = ListSearch(self._parts, known, self._any_healthy, fallback, token)
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
