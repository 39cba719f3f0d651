"""MonitorThread: checks the served endpoints in one worker of the host, and takes over elsewhere.

Every worker has this thread. The worker that holds a lock checks the endpoints and tells the
webhook of outages; the others try to take the lock at each turn.
"""

import logging
import random
import signal
import ssl
import threading
import time
from concurrent.futures import Future, ThreadPoolExecutor

from ...health.probe import HealthRequest, Prober, ProbeResult
from ...health.state import Transition
from ..logs import describe
from ..serving.snapshot import Snapshot
from ..serving.store import SnapshotStore
from ..settings import Settings
from ..state.directory import Leadership, StateDirectory
from .alerts import OutageNotifier
from .results import ProbeResults
from .schedule import ProbeSchedule, WatchedEndpoint, best, rules

logger = logging.getLogger(__name__)

#: Seconds between two turns: of the lock, the list, the checks and the alerts.
TURN = 0.5
#: Seconds that a stopping process waits for the thread; a slow disk may hold the thread up.
STOP_PATIENCE = 5.0
#: Limit of checks at a time.
PARALLEL = 16
#: Limit of one check in seconds.
TIMEOUT = 5.0
#: Seconds between two writes of the history.
SAVE_EVERY = 10.0


class MonitorThread:
    """The health checks of one application, in this worker or in another worker of the host.

    Args:
        store: The served list.
        settings: The interval of the checks, and the webhook; an interval of 0 turns checks off.
        directory: The state folder. While it is not writable nothing is checked, since each
            worker would check and send alerts for itself.
        stem: Start of the names of the records.

    Attributes:
        results: The results of the worker that checks, for every worker.
    """

    def __init__(
        self, store: SnapshotStore, settings: Settings, directory: StateDirectory, stem: str
    ) -> None:
        self._store = store
        self._settings = settings
        self._directory = directory
        self._stem = stem
        self.results = ProbeResults(directory, stem, settings.probe_interval)
        self._leadership = Leadership(directory, f"{stem}.monitor")
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._complaint = ""

    def start(self) -> None:
        """Start the thread of this process, unless checks are off."""
        if not self._settings.probe_interval:
            return
        # After a fork this closes a copy of the descriptor; the parent keeps its lock.
        self._leadership.release()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mop-config-monitor", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; checks that hang are aborted."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(STOP_PATIENCE)

    def _run(self) -> None:
        # All threads that are started from here leave SIGHUP to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        stopping = self._stopping
        monitor: EndpointMonitor | None = None
        while not stopping.is_set():
            try:
                if self._leads():
                    monitor = monitor or EndpointMonitor(
                        self._settings, self.results, self._directory, f"{self._stem}.alerts.json"
                    )
                    monitor.turn(self._store.view.snapshot)
                    self._complaint = ""
                elif monitor is not None:
                    lost, monitor = monitor, None
                    lost.close()
            except Exception as error:
                self._complain(f"the health checks continue after {describe(error)}")
            stopping.wait(min(TURN, self._settings.probe_interval))
        if monitor is not None:
            monitor.close()
        self._leadership.release()

    def _leads(self) -> bool:
        try:
            return self._leadership.take()
        except OSError as error:
            reason = error.strerror or error
            self._complain(f"no endpoint is checked, since no lock can be taken: {reason}")
            self._leadership.release()
            return False

    def _complain(self, message: str) -> None:
        """Log a message, unless the turn before had the same message."""
        if message != self._complaint:
            logger.warning("%s", message)
        self._complaint = message


class EndpointMonitor:
    """Checks the served endpoints and notifies the webhook, as long as this worker has the lock.

    Args:
        settings: The interval of the checks, and the webhook.
        results: Where the results are written.
        directory: The state folder.
        alerts: Name of the record of the alerts.
    """

    def __init__(
        self, settings: Settings, results: ProbeResults, directory: StateDirectory, alerts: str
    ) -> None:
        tls = ssl.create_default_context()
        self._results = results
        self._interval = settings.probe_interval
        request = HealthRequest.containing(settings.health_path, settings.health_contains)
        self._prober = Prober(tls, TIMEOUT, request=request)
        self._pool = ThreadPoolExecutor(PARALLEL, "mop-config-check")
        self._checks: dict[WatchedEndpoint, Future[ProbeResult]] = {}
        self._schedule = ProbeSchedule(
            rules(self._interval), random.random, results.read(), results.history()
        )
        self._notifier = OutageNotifier(directory, alerts, settings, tls)
        self._followed: Snapshot | None = None
        self._saved = False
        self._history_saved = True
        self._save_history_at = 0.0  # monotonic

    def turn(self, snapshot: Snapshot) -> None:
        """Take in the results of checks, notify the webhook, and start the checks that are due.

        Args:
            snapshot: The served list.
        """
        if snapshot is not self._followed:
            self._schedule.follow(best(snapshot.plain.body), time.monotonic(), time.time())
            if self._followed is None:
                count = len(self._schedule)
                logger.info("this worker checks %d endpoints every %g s", count, self._interval)
            self._followed, self._saved = snapshot, False
        self._collect()
        self._notifier.turn(self._schedule)
        for watched in self._schedule.due(time.monotonic()):
            self._checks[watched] = self._pool.submit(
                self._prober.check, watched.kind, watched.endpoint, watched.path
            )
            watched.checking = True
        if not self._saved:
            self._saved = self._results.write(self._schedule.results())
        if not self._history_saved and time.monotonic() >= self._save_history_at:
            self._results.write_history(self._schedule.slots())
            self._history_saved = True
            self._save_history_at = time.monotonic() + SAVE_EVERY

    def _collect(self) -> None:
        for watched in [watched for watched, check in self._checks.items() if check.done()]:
            result = self._checks.pop(watched).result()
            _log(watched, self._schedule.record(watched, result, time.monotonic(), time.time()))
            self._saved = self._history_saved = False

    def close(self) -> None:
        """Abort the checks that run without waiting for them, and write the results."""
        self._prober.abort()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._notifier.close()
        if self._followed is not None:
            self._results.write(self._schedule.results())
            self._results.write_history(self._schedule.slots())


def _log(watched: WatchedEndpoint, transition: Transition) -> None:
    kind, url, detail = watched.kind.label, watched.endpoint.url, watched.results["detail"]
    if transition.came_back:
        logger.info("the %s endpoint %s is back: %s", kind, url, detail)
    elif transition.went_down:
        logger.warning("the %s endpoint %s is down: %s", kind, url, detail)
