"""MonitorThread: checks the served endpoints in one worker of the host, and takes over elsewhere.

Every worker has this thread. The worker that holds a lock checks the endpoints and tells the
webhook of outages; the others try to take the lock at each turn. ``ProbeResults`` are the records
through which all workers know what that worker has found.
"""

import logging
import math
import os
import random
import signal
import ssl
import threading
import time
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from functools import lru_cache
from typing import Any, TypedDict

from ...health.probe import HealthRequest, Prober, ProbeResult
from ...net.connect import DialOptions
from ..logs import describe
from ..serving.store import Snapshot, SnapshotStore
from ..settings import Settings
from ..state.directory import Leadership, StateDirectory, dump_record, parse_record
from .alerts import OutageNotifier
from .schedule import EndpointHealth, ProbeSchedule, Slot, Slots, WatchedEndpoint, best, rules

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
#: Results are out of date after this number of intervals and, for checks that hang, these seconds.
OLD_INTERVALS = 3
OLD_SECONDS = 15.0
#: The records in words, for the log.
_RESULTS = "the results of the health checks"
_HISTORY = "the history of the health checks"


class HealthDocument(TypedDict):
    """The member ``health`` of the status document."""

    interval_seconds: float
    alive: bool
    pid: int | None
    checked_at: str | None
    endpoints: list[EndpointHealth]


class ProbeResults:
    """The records through which all workers know the check results and their history.

    The worker that checks may be killed at any moment, and another worker takes over. The history
    has a record of its own, because it is larger and is written less often.

    Args:
        directory: The state folder.
        stem: Start of the names of the records.
        interval: Seconds between two checks of an endpoint.
    """

    def __init__(self, directory: StateDirectory, stem: str, interval: float) -> None:
        self._directory = directory
        self._interval = interval
        self._results = f"{stem}.probes.json"
        self._history = f"{stem}.day.json"

    def write(self, endpoints: list[EndpointHealth]) -> bool:
        """Write this process's results for all workers.

        Returns:
            Whether that worked. If not, there is one warning until it works again.
        """
        record = dump_record({"pid": os.getpid(), "endpoints": endpoints})
        return self._directory.save(self._results, record, _RESULTS)

    def write_history(self, slots: Slots) -> None:
        """Write the history of all endpoints; a failure costs the history only."""
        rows = [{"kind": kind, "url": url, "slots": found} for (kind, url), found in slots.items()]
        self._directory.save(self._history, dump_record({"endpoints": rows}), _HISTORY)

    def read(self) -> tuple[int | None, list[EndpointHealth]]:
        """Return the latest results, and the process id of their worker, or None without any."""
        record = self._directory.load(self._results, _parse, _RESULTS)
        return (record["pid"], record["endpoints"]) if record else (None, [])

    def history(self) -> Slots:
        """Return the history of all endpoints; empty without a usable record."""
        return self._directory.load(self._history, _parse_history, _HISTORY) or {}

    def health(self, listed: Collection[tuple[str, str]]) -> HealthDocument:
        """Return the member ``health`` of the status document.

        Args:
            listed: Kind and URL of each served endpoint, since the results may be older than the
                list.
        """
        written = self._directory.fingerprint(self._results).mtime_ns / 1e9
        pid, endpoints = self.read()
        # Of a worker that was killed, another worker takes over the checks within a second.
        limit = OLD_INTERVALS * self._interval + OLD_SECONDS
        # A worker writes after every check, but has nothing to write for an empty list.
        alive = pid is not None and (time.time() - written <= limit or not endpoints)
        endpoints = [e for e in endpoints if (e["kind"], e["url"]) in listed]
        return {
            "interval_seconds": self._interval,
            "alive": alive,
            "pid": pid if alive else None,
            "checked_at": max((e["checked_at"] or "" for e in endpoints), default="") or None,
            "endpoints": endpoints,
        }


# Nearly every reader finds the record unchanged.
_parse = lru_cache(maxsize=2)(parse_record)


@lru_cache(maxsize=2)  # nearly every reader finds the record unchanged
def _parse_history(data: bytes) -> Slots:
    rows: list[dict[str, Any]] = parse_record(data)["endpoints"]
    return {(row["kind"], row["url"]): [Slot(*slot) for slot in row["slots"]] for row in rows}


class MonitorThread:
    """The health checks of one application, in this worker or in another worker of the host.

    Args:
        store: The served list.
        settings: The interval of the checks, and the webhook; an interval of 0 turns checks off.
        directory: The state folder. While it is not writable nothing is checked, since each
            worker would check and send alerts for itself.
        stem: Start of the names of the records.
        alerts: Name of the record of the alerts. It depends neither on the checks nor on the
            URLs, so that whoever mends a wrong health path is told of the recovery.

    Attributes:
        results: The results of the worker that checks, for every worker.
    """

    def __init__(
        self,
        store: SnapshotStore,
        settings: Settings,
        directory: StateDirectory,
        stem: str,
        alerts: str,
    ) -> None:
        self._store = store
        self._settings = settings
        self._directory = directory
        self._alerts = alerts
        self.results = ProbeResults(directory, stem, settings.probe_interval)
        self._lock = f"{stem}.monitor"
        self._thread: threading.Thread | None = None
        self._complaint = ""
        self._pause = min(TURN, settings.probe_interval)

    def start(self) -> None:
        """Start the thread of this process, unless checks are off."""
        if not self._settings.probe_interval:
            return
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
        leadership = Leadership(self._directory, self._lock)
        while not stopping.is_set():
            try:
                if leadership.take():
                    self._lead(leadership, stopping)
            except OSError as error:
                self._directory.complain(_RESULTS, error)
            except Exception as error:
                complaint = f"no endpoint is checked now: {describe(error)}"
                if complaint != self._complaint:
                    logger.error("%s", complaint)
                self._complaint = complaint
            stopping.wait(self._pause)
        leadership.release()

    def _lead(self, leadership: Leadership, stopping: threading.Event) -> None:
        """Check the endpoints as long as this worker has the lock."""
        monitor = EndpointMonitor(self.results, self._settings, self._directory, self._alerts)
        with closing(monitor):
            while leadership.take() and not stopping.is_set():
                monitor.turn(self._store.view.snapshot)
                self._complaint = ""
                stopping.wait(self._pause)


class EndpointMonitor:
    """Checks the served endpoints and notifies the webhook, as long as this worker has the lock.

    Args:
        results: The records of the results.
        settings: The interval of the checks, and the webhook.
        directory: The state folder.
        alerts: Name of the record of the alerts.
    """

    def __init__(
        self, results: ProbeResults, settings: Settings, directory: StateDirectory, alerts: str
    ) -> None:
        self._results = results
        request = HealthRequest.containing(settings.health_path, settings.health_contains)
        self._prober = Prober(DialOptions(ssl.create_default_context(), TIMEOUT), request=request)
        self._pool = ThreadPoolExecutor(PARALLEL, "mop-config-check")
        self._checks: dict[WatchedEndpoint, Future[ProbeResult]] = {}
        _, known = results.read()
        slots = results.history()
        self._schedule = ProbeSchedule(rules(settings.probe_interval), random.random, known, slots)
        self._notifier = OutageNotifier(directory, alerts, settings, self._prober)
        self._followed: Snapshot | None = None
        self._saved = False
        self._save_history_at = math.inf  # monotonic; infinite while the history is saved

    def turn(self, snapshot: Snapshot) -> None:
        """Take in the results of checks, notify the webhook, and start the checks that are due.

        Args:
            snapshot: The served list.
        """
        if snapshot is not self._followed:
            self._schedule.follow(best(snapshot.plain.body), time.monotonic(), time.time())
            self._followed = snapshot
            self._saved = False
        self._collect()
        self._notifier.turn(self._schedule)
        for watched in self._schedule.due(time.monotonic()):
            self._checks[watched] = self._pool.submit(
                self._prober.check, watched.kind, watched.endpoint, watched.path
            )
        if not self._saved:
            self._saved = self._results.write(self._schedule.results())
        if time.monotonic() >= self._save_history_at:
            self._results.write_history(self._schedule.slots())
            self._save_history_at = math.inf

    def _collect(self) -> None:
        for watched in [watched for watched, check in self._checks.items() if check.done()]:
            result = self._checks.pop(watched).result()
            change = self._schedule.record(watched, result, time.monotonic(), time.time())
            where = watched.kind.label, watched.endpoint.url, watched.results["detail"]
            if change.came_back:
                logger.info("the %s endpoint %s is back: %s", *where)
            elif change.went_down:
                logger.warning("the %s endpoint %s is down: %s", *where)
            self._saved = False
            self._save_history_at = min(self._save_history_at, time.monotonic() + SAVE_EVERY)

    def close(self) -> None:
        """Abort the checks that run without waiting for them, and write the results."""
        self._prober.abort()
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._notifier.close()
        if self._followed is not None:
            self._results.write(self._schedule.results())
            self._results.write_history(self._schedule.slots())
