"""ConfigService makes the parts of one application, and starts and stops them in a process."""

import atexit
import logging
import os
import threading
import time
import weakref
from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily

from .. import __version__
from ..model.endpoint import Kind, iter_endpoints, rfc3339
from .auth import TokenAuthenticator
from .monitor.reports import ClientReports, Listed, ReportedEndpoint
from .monitor.schedule import Slots
from .monitor.thread import HealthDocument, MonitorThread
from .parsing.problems import Code, Problem, Severity
from .parsing.render import EMPTY
from .reload.pipeline import Reloader
from .reload.thread import ReloadThread
from .serving.responder import Responder, Signer
from .serving.store import ServerState, Snapshot, SnapshotStore, SourceState, Trigger
from .settings import Settings
from .sources import open_source
from .state.directory import StateDirectory, WorkerRecord, WorkerRegistry, key, place, reload_for
from .state.releases import ReleaseStore
from .status import lost_hooks
from .status.document import StatusDocument, host_status, readiness, reload_report
from .status.metrics import Metrics, host_gauges

logger = logging.getLogger(__name__)

EXTENSION = "mop_config"

#: Seconds within which the workers must answer a request to reload.
RELOAD_PATIENCE = 10.0
#: Limit of the planned changes that the status shows.
MAX_PLANNED = 20
#: Seconds between two reads of the workers' records.
RELOAD_LOOK = 0.05


class Places(NamedTuple):
    """The URL paths of the routes in the application.

    Attributes:
        prefix: Path in front of the routes of the configuration, without a slash at its end.
        home: Path of the dashboard, with a slash at its end.
    """

    prefix: str = "/api/v1/config"
    home: str = "/"


#: The services of this process. The workers of gunicorn find them here, because any framework's
#: middleware or mount may stand around an application.
SERVICES: weakref.WeakSet["ConfigService"] = weakref.WeakSet()


class ConfigService:
    """The parts of one application: its source, store, reload thread and health checks.

    Making the service starts nothing. ``load`` fills the store, ``start`` starts the threads of a
    process after a fork, and ``stop`` ends them.

    Args:
        settings: The settings of the application.
        state_folder: Folder of the last good list and the workers' records, unless the settings
            name a folder.
    """

    def __init__(self, settings: Settings, state_folder: str) -> None:
        self.settings = settings
        self.places = Places()
        self.source = open_source(settings)
        self.metrics = Metrics()
        now = time.time()
        empty = Snapshot.of(EMPTY, settings, now, int(now))
        self.store = SnapshotStore(empty, self.metrics.reload)
        self.signer = Signer(settings)
        self.responder = Responder(self.store, self.signer)
        self.responder.max_waiters = settings.max_waiters or 0
        self.state_folder = settings.state_dir or state_folder
        self._reloader = Reloader(self.source, settings, self.store, self._open_records())
        self.authenticator = TokenAuthenticator(settings) if settings.guarded else None
        self._lock = threading.Lock()
        self._reload_thread: ReloadThread | None = None
        self._lost = ""  # what is lost without our hooks of gunicorn
        self._pid = 0  # of the process in which the reload thread was started; 0 while none runs
        for warning in (*settings.warnings, *self.signer.warnings):
            logger.warning("%s", warning)
        SERVICES.add(self)

    def _open_records(self) -> ReleaseStore:
        """Open the records of this process, which belong to the user that it runs as."""
        self._opened_by = os.getpid(), os.geteuid()
        source = key(str(self.source))
        directory = self._directory = StateDirectory.of_user(self.state_folder)
        settings = self.settings
        # The workers of another version may write other records, for example during an upgrade.
        served = f"{source}.{key(__version__ + repr(settings))}"
        self._workers = WorkerRegistry(directory, served, f".{place()}")
        self._workers.sweep()
        # What was seen of the endpoints survives a restart with other settings than these.
        checked = (settings.rules, settings.health_path, settings.health_contains)
        seen = f"{source}.{key(repr(checked))}"
        alerts = f"{source}.{key(settings.alert_webhook or '')}.alerts.json"
        self._monitor = MonitorThread(self.store, settings, directory, seen, alerts)
        self.reports = ClientReports(directory, seen) if settings.reports else None
        return ReleaseStore(directory, source, lambda: bool(self._workers.others(os.getpid())))

    def load(self) -> None:
        """Load the source, or the last good list, in this thread; see ``Reloader.start``."""
        self._reloader.start()

    # -- the life of a process

    def ensure_started(self) -> None:
        """Start the threads of this process on its first request; later calls return at once."""
        if self._pid != os.getpid():
            self.start()

    def start(self) -> None:
        """Start the reload thread and the health checks of this process, unless they run.

        The objects that a fork copied from the parent are not stopped: stopping a copied observer
        would remove the parent's inotify watches.
        """
        with self._lock:
            if self._pid == os.getpid():
                return
            pid, user = self._opened_by
            if pid != os.getpid():
                releases = self._open_records()
                if user != os.geteuid():
                    # gunicorn --preload --user: the list was loaded as root, with root's records.
                    self._reloader.releases = releases
                    self._reloader.reload(Trigger.START)
            # The source may have changed since the application was made.
            self._reloader.catch_up()
            self.store.closing = False
            self._pid = os.getpid()
            self._reload_thread = ReloadThread(
                self._reloader, self._after_turn, self._workers, self._write_record
            )
            self._reload_thread.start()
            self._monitor.start()
        atexit.register(self.stop)
        self._lost = lost_hooks.notice()
        if self._lost:
            logger.warning("%s", self._lost)

    def _running(self) -> ReloadThread | None:
        """Return the reload thread of this process; None before ``start`` and after ``stop``."""
        return self._reload_thread if self._pid == os.getpid() else None

    def stop(self) -> None:
        """Stop the threads that ``start`` started in this process, and remove its record."""
        with self._lock:
            thread = self._running()
            if thread is None:
                return
            self._pid = 0
            self._reload_thread = None
            self.store.close()
        atexit.unregister(self.stop)
        self._monitor.stop()
        thread.stop()
        self._workers.remove(os.getpid())

    def wake_reload_thread(self) -> None:
        """Make the reload thread read the source soon; safe in a signal handler.

        Before ``start`` in this process nothing happens, since starting reads the source.
        """
        thread = self._running()
        if thread is not None:
            thread.hup()

    # -- a reload of all workers

    def reload_everywhere(self) -> tuple[dict[str, Any], bool]:
        """Make every worker of this host read its source, and wait until all have answered.

        Returns:
            The document of ``reload_report``, and whether the request reached other workers.
        """
        number, shared = self._workers.request_reload()
        if self._running() is None:
            self._reloader.reload(Trigger.API)
        deadline = time.monotonic() + RELOAD_PATIENCE
        while True:
            records = self._all_records() if shared else [self._own_record()]
            missing = any(reload_for(record, number) is None for record in records)
            if not missing or self.store.closing or time.monotonic() > deadline:
                return reload_report(records, number), shared
            time.sleep(RELOAD_LOOK)

    # -- the state of this process and of the host

    @property
    def alive(self) -> bool:
        """Whether the reload thread of this process runs."""
        thread = self._running()
        return thread is not None and thread.alive

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether this process is ready, and the document of ``/ready``.

        A process is ready if it serves a list and its reload thread is alive.
        """
        view, _ = self._view()
        if self._running() is not None and not self.alive:
            return False, readiness(view, "the reload thread has died")
        return view.loaded, readiness(view, view.reason)

    def _view(self) -> tuple[ServerState, str | None]:
        """Return the store's view, and the message that the reload thread hangs, or None.

        The view is stale while the thread hangs.
        """
        thread = self._running()
        view = self.store.view
        late = None if thread is None else thread.late
        if late is None:
            return view, None
        state = SourceState.STALE if view.loaded else view.state
        return replace(view, state=state, reason=late), late

    def status(self) -> StatusDocument:
        """Return the status document of this host; see ``host_status``."""
        return host_status(str(self.source), *self._host())

    def gauges(self) -> list[GaugeMetricFamily]:
        """Return the gauges of this host; see ``host_gauges``."""
        return host_gauges(*self._host())

    def _host(
        self,
    ) -> tuple[list[WorkerRecord], HealthDocument | None, list[ReportedEndpoint] | None]:
        """Return the workers' records, the checks' results, and what clients reported."""
        listed = self.listed()
        checks = self.settings.probe_interval > 0
        return (
            self._all_records(),
            self._monitor.results.health(listed) if checks else None,
            None if self.reports is None else self.reports.totals(listed),
        )

    def check_history(self) -> Slots:
        """Return the checks of the last 24 hours of each endpoint; empty if checks are off."""
        return self._monitor.results.history() if self.settings.probe_interval else {}

    def listed(self) -> Listed:
        """Return the kind and URL of each endpoint that is served."""
        return _listed(self.store.view.snapshot.plain.body)

    def _all_records(self) -> list[WorkerRecord]:
        return [self._own_record(), *self._workers.others(os.getpid())]

    def _own_record(self) -> WorkerRecord:
        thread = self._running()
        view, late = self._view()
        snapshot = view.snapshot
        notices = list(self._notices(late))
        errors = sum(notice.severity is Severity.ERROR for notice in notices)
        return {
            "pid": os.getpid(),
            "served": {
                "etag": snapshot.etag,
                "state": view.state.value,
                "loaded_at": rfc3339(snapshot.loaded_at),
                "counts": {kind.value: snapshot.rendering.count(kind) for kind in Kind},
                "complete": view.complete,
                "problem_counts": {
                    "error": view.errors + errors,
                    "warning": view.warnings + len(notices) - errors,
                },
                "problems": [problem.as_dict() for problem in (*notices, *view.problems)],
                "planned": [change.as_dict() for change in view.planned[:MAX_PLANNED]],
            },
            "watcher": {
                "mode": thread.watcher.mode if thread else "poll",
                "alive": thread is not None and thread.notices_changes,
            },
            "history": [reload.as_dict() for reload in view.history],
            "waiters": self.responder.waiters,
            "good_at": self._reloader.loaded.good_at,
            "late": late is not None,
            "answered": thread.answered if thread else self._workers.newest_request(),
        }

    def _notices(self, late: str | None) -> Iterator[Problem]:
        for warning in (*self.settings.warnings, *self.signer.warnings):
            yield Problem.of(Code.SETTING, warning)
        yield from self.authenticator.problems if self.authenticator else ()
        if self._lost:
            yield Problem.of(Code.NO_HOOKS, self._lost)
        if late is not None:
            yield Problem.of(Code.LATE, late)
        if trouble := self._directory.trouble:
            yield Problem.of(Code.STATE_FOLDER, trouble)

    def _after_turn(self) -> None:
        """Do the periodic work of the process; the reload thread calls this after each turn."""
        if self.authenticator is not None:
            self.authenticator.refresh()
        self._write_record()

    def _write_record(self) -> None:
        """Write this worker's record for the other workers, until ``stop`` removes the record."""
        if self._running() is not None:
            self._workers.write(self._own_record())


@lru_cache(maxsize=1)
def _listed(body: bytes) -> Listed:
    return frozenset((k.value, e.url) for k in Kind for e in iter_endpoints(body, k))
