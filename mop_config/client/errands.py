"""What a manager asks the network: health checks, and lists."""

import contextlib
import logging
import os
import threading
import weakref
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple

from ..probe import Job, Prober, ProbeResult
from .fetch import Fetcher
from .update import Check, Fetch, Flow, NewList, Refused, Reply, update

if TYPE_CHECKING:
    from .base import BaseManager

logger = logging.getLogger(__name__)


class Round(NamedTuple):
    """What came of an update.

    Attributes:
        changed: Whether there was something new.
        asked_to_wait: Whether the server that answered was asked to hold its answer.
        waited: Whether it knows how to.
        pause: Seconds for which it asked to be left alone.
    """

    changed: bool = False
    asked_to_wait: bool = False
    waited: bool = False
    pause: float = 0.0


class Errands:
    """What a manager asks the network, done in the thread of whoever asks.

    Args:
        manager: Whose endpoints to look at; held weakly.
    """

    def __init__(self, manager: "BaseManager") -> None:
        self._manager = weakref.ref(manager)
        self._parallelism = manager.policy.probe_parallelism
        options, policy, resolver = manager.network_options, manager.policy, manager.core.resolver
        self._prober = Prober(options.tls, policy.health_timeout, resolver)
        self._fetcher = Fetcher(options, policy, resolver)
        self._updating = threading.Lock()
        self._pid = os.getpid()

    def close(self) -> None:
        """Call everything off."""
        # A child process has copies of its parent's sockets, which go on.
        if self._pid == os.getpid():
            self._prober.abort()
            self._fetcher.close()

    def check(self, job: Job) -> ProbeResult:
        """Check one endpoint."""
        return self._prober.check(*job)

    def check_all(self, jobs: Iterable[Job], report: Callable[[Job, ProbeResult], object]) -> None:
        """Check endpoints, so many at a time, and wait for the last.

        Args:
            jobs: Whom to check.
            report: Takes each result; once it gives True, those that wait are left out.
        """
        for thread in self._prober.check_each(jobs, report, self._parallelism):
            thread.join()

    def any_healthy(self, check: Check) -> bool:
        """Whether one of some endpoints that are not ours yet is healthy."""
        good = threading.Event()

        def report(_: Job, result: ProbeResult) -> bool:
            if result.fault is None:
                good.set()
            return good.is_set()

        self.check_all([(check.kind, endpoint, None) for endpoint in check.endpoints], report)
        return good.is_set()

    def update(
        self,
        fallback: str | None = None,
        token: str | None = None,
        *,
        force: bool = False,
        wait: int = 0,
    ) -> Round:
        """Update the manager's list.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If the only lists found would leave nothing that works, or are
                not to be trusted.
        """
        # A request that waits for news must not keep others from asking.
        with contextlib.nullcontext() if wait else self._updating:
            manager = self._manager()
            if manager is None:
                return Round()
            if token is None:
                token = manager.token()
            names = manager.server_names(fallback)
            flow = update(manager.known(fallback, force=force, wait=wait))
            del manager  # nobody must be kept alive by a question that takes a minute
            found, round_ = self._run(flow, token, names)
            manager = self._manager()
            if found is None or manager is None:
                return round_
            return round_._replace(changed=manager.apply_remote(found))

    def _run(
        self, flow: Flow, token: str | None, names: dict[str, str]
    ) -> tuple[NewList | None, Round]:
        answer: Reply | bool | None = None
        round_ = Round()
        while True:
            try:
                step = next(flow) if answer is None else flow.send(answer)
            except StopIteration as end:
                return end.value, round_
            if isinstance(step, Fetch):
                answer = self._fetcher.fetch(step, token, names)
                round_ = Round(False, step.wait > 0, answer.waited, answer.retry_after)
            elif isinstance(step, Refused):
                answer = True
                manager = self._manager()
                if manager is not None:
                    manager.tell_refused("remote", step.error)
            else:
                answer = self.any_healthy(step)
