"""MonitorThread: checks the served endpoints in one worker of the host, and takes over elsewhere.

Every worker has this thread. The worker that holds a lock checks the endpoints; the others try to
take the lock at each turn, and read the results.
"""

import logging
import signal
import threading

from ..logs.format import describe
from ..serving.snapshot import Snapshot
from ..serving.store import SnapshotStore
from ..settings import Settings
from ..state.directory import StateDirectory
from ..state.leader import Leadership
from .endpoint_monitor import EndpointMonitor
from .history import CheckHistory, Slots
from .results import HealthDocument, ProbeResults
from .schedule import best

logger = logging.getLogger(__name__)

#: Seconds between two turns: of the lock, the list, the checks and the alerts.
TURN = 0.5
#: Seconds that a stopping process waits for the thread; a slow disk may hold the thread up.
STOP_PATIENCE = 5.0


class MonitorThread:
    """The health checks of one application, in this worker or in another worker of the host.

    Args:
        store: The served list.
        settings: The interval of the checks, and the webhook; an interval of 0 turns checks off.
        directory: The state folder. While it is not writable nothing is checked, since each
            worker would check and send alerts for itself.
        stem: Start of the names of the records.
    """

    def __init__(
        self, store: SnapshotStore, settings: Settings, directory: StateDirectory, stem: str
    ) -> None:
        self._store = store
        self._settings = settings
        self._directory = directory
        self._stem = stem
        self._results = ProbeResults(directory, f"{stem}.checks.json", settings.probe_interval)
        self._history = CheckHistory(directory, f"{stem}.day.json")
        self._listed: tuple[Snapshot, frozenset[tuple[str, str]]] | None = None
        self._leadership = self._new_leadership()
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._complaint = ""

    def health(self) -> HealthDocument | None:
        """Return the results as the status shows them, or None if checks are off."""
        if not self._settings.probe_interval:
            return None
        snapshot, listed = self._store.view.snapshot, self._listed
        if listed is None or listed[0] is not snapshot:
            listed = self._listed = snapshot, _names(snapshot)
        return self._results.health(listed[1])

    def history(self) -> Slots:
        """Return the checks of the last 24 hours of each endpoint."""
        return self._history.read() if self._settings.probe_interval else {}

    def start(self) -> None:
        """Start the thread of this process, unless checks are off."""
        if not self._settings.probe_interval:
            return
        # After a fork this closes a copy of the descriptor; the parent keeps its lock.
        self._leadership.release()
        self._leadership, self._stopping = self._new_leadership(), threading.Event()
        self._thread = threading.Thread(
            target=self._run,
            args=(self._leadership, self._stopping),
            name="mop-config-monitor",
            daemon=True,
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread; checks that hang are aborted."""
        thread, self._thread = self._thread, None
        if thread is not None:
            self._stopping.set()
            thread.join(STOP_PATIENCE)

    def _run(self, leadership: Leadership, stopping: threading.Event) -> None:
        # All threads that are started from here leave SIGHUP to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        monitor: EndpointMonitor | None = None
        try:
            while not stopping.is_set():
                try:
                    if self._leads(leadership):
                        monitor = monitor or self._new_monitor()
                        monitor.turn(self._store.view.snapshot)
                        self._complaint = ""
                    elif monitor is not None:
                        lost, monitor = monitor, None
                        lost.close()
                except Exception as error:
                    cause = describe(error)
                    self._complain(cause, f"the health checks continue after {cause}")
                stopping.wait(min(TURN, self._settings.probe_interval))
        finally:
            if monitor is not None:
                monitor.close()
            leadership.release()

    def _new_monitor(self) -> EndpointMonitor:
        alerts = f"{self._stem}.alerts.json"
        return EndpointMonitor(
            self._settings, self._results, self._history, self._directory, alerts
        )

    def _new_leadership(self) -> Leadership:
        return Leadership(self._directory, f"{self._stem}.monitor")

    def _leads(self, leadership: Leadership) -> bool:
        try:
            return leadership.take()
        except OSError as error:
            reason = error.strerror or error
            self._complain(
                "no lock", f"no endpoint is checked, since no lock can be taken: {reason}"
            )
            leadership.release()
            return False

    def _complain(self, cause: str, message: str) -> None:
        """Log a message, unless the turns before had the same cause."""
        if cause != self._complaint:
            logger.warning("%s", message)
        self._complaint = cause


def _names(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    """Return the kind and URL of each served endpoint that is checked."""
    listed = best(snapshot.plain.body)
    return frozenset((kind.value, endpoint.url) for kind in listed for endpoint in listed[kind])
