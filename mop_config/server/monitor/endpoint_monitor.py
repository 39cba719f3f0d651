"""EndpointMonitor: the health checks of the one worker of a host that checks the endpoints."""

import logging
import random
import ssl
import time
from concurrent.futures import Future, ThreadPoolExecutor

from ...health.probe import HealthRequest, Prober, ProbeResult
from ...health.state import Transition
from ...net.faults import Fault
from ..serving.snapshot import Snapshot
from ..settings import Settings
from ..state.directory import StateDirectory
from .history import CheckHistory
from .results import ProbeResults
from .schedule import ProbeSchedule, WatchedEndpoint, best, rules
from .webhook import OutageNotifier

logger = logging.getLogger(__name__)

#: Limit of checks at a time.
PARALLEL = 16
#: Limit of one check in seconds.
TIMEOUT = 5.0


class EndpointMonitor:
    """Checks the served endpoints and notifies the webhook, as long as this worker has the lock.

    Args:
        settings: The interval of the checks, and the webhook.
        results: Where the results are written.
        history: Where the history of the checks is written.
        directory: The state folder.
        alerts: Name of the record of the alerts.
    """

    def __init__(
        self,
        settings: Settings,
        results: ProbeResults,
        history: CheckHistory,
        directory: StateDirectory,
        alerts: str,
    ) -> None:
        tls = ssl.create_default_context()
        self._results = results
        self._history = history
        self._interval = settings.probe_interval
        request = HealthRequest.containing(settings.health_path, settings.health_contains)
        self._prober = Prober(tls, TIMEOUT, request=request)
        self._pool = ThreadPoolExecutor(PARALLEL, "mop-config-check")
        self._checks: dict[WatchedEndpoint, Future[ProbeResult]] = {}
        self._schedule = ProbeSchedule(
            rules(self._interval), random.random, results.read(), history.read()
        )
        self._notifier = OutageNotifier(directory, alerts, settings, tls)
        self._followed: Snapshot | None = None
        self._saved = False
        self._history_saved = True

    def turn(self, snapshot: Snapshot) -> None:
        """Take in the results of checks, notify the webhook, and start the checks that are due.

        Args:
            snapshot: The served list.
        """
        self._follow(snapshot)
        self._collect()
        self._notifier.turn(self._schedule)
        for watched in self._schedule.due(time.monotonic()):
            self._checks[watched] = self._pool.submit(
                self._prober.check, watched.kind, watched.endpoint, watched.path
            )
            watched.checking = True
        if not self._saved:
            self._saved = self._results.write(self._schedule.records())
        if not self._history_saved and self._history.is_due():
            self._history.write(self._schedule.slots())
            self._history_saved = True

    def _follow(self, snapshot: Snapshot) -> None:
        if snapshot is self._followed:
            return
        self._schedule.follow(best(snapshot.plain.body), time.monotonic(), time.time())
        self._saved = False
        if self._followed is None:
            logger.info(
                "this worker checks %d endpoints every %g s", len(self._schedule), self._interval
            )
        self._followed = snapshot

    def _collect(self) -> None:
        done = [watched for watched, check in self._checks.items() if check.done()]
        for watched in done:
            result = _result(self._checks.pop(watched))
            transition = self._schedule.record(watched, result, time.monotonic(), time.time())
            _log(watched, transition)
            self._saved = self._history_saved = False

    def close(self) -> None:
        """Abort the checks that run without waiting for them, and write the results."""
        self._prober.abort()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._notifier.close()
        if self._followed is not None:
            self._results.write(self._schedule.records())
            self._history.write(self._schedule.slots())


def _result(check: Future[ProbeResult]) -> ProbeResult:
    error = check.exception()
    return check.result() if error is None else ProbeResult(Fault.OURS, 0.0, type(error).__name__)


def _log(watched: WatchedEndpoint, transition: Transition) -> None:
    kind, url = watched.kind.label, watched.endpoint.url
    if transition.came_back:
        logger.info("the %s endpoint %s is back: %s", kind, url, watched.detail)
    elif transition.went_down:
        logger.warning("the %s endpoint %s is down: %s", kind, url, watched.detail)
