"""ConfigService makes the parts of one application, and starts and stops them in a process."""

import atexit
import contextlib
import logging
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

from prometheus_client.core import GaugeMetricFamily

from ..model.codec import iter_endpoints
from ..model.endpoint import Kind
from .auth.authenticator import TokenAuthenticator
from .bounded_call import Bounded
from .monitor.history import Slots
from .monitor.reports import ClientReports, Listed, ReportedEndpoint
from .monitor.results import HealthDocument
from .monitor.thread import MonitorThread
from .parsing.problems import Code, Problem
from .parsing.render import EMPTY
from .reload.pipeline import Reloader
from .reload.requests import ReloadRequests
from .reload.thread import ReloadThread
from .serving.responder import Responder
from .serving.signer import Signer
from .serving.snapshot import Snapshot
from .serving.store import ServerState, SnapshotStore, SourceState, Trigger
from .settings import Settings
from .sources import open_source
from .state import workers
from .state.directory import StateDirectory, hand_over
from .state.releases import ReleaseStore
from .state.worker_record import WatcherRecord, WorkerFigures, WorkerRecord, reload_for
from .status import lost_hooks
from .status.document import (
    StatusDocument,
    host_status,
    noticed,
    readiness,
    reload_report,
    worker_record,
)
from .status.gauges import host_gauges
from .status.metrics import Metrics

logger = logging.getLogger(__name__)

EXTENSION = "mop_config"

#: Seconds within which the workers must answer a request to reload.
RELOAD_PATIENCE = 10.0
#: Seconds between two reads of the workers' records.
RELOAD_LOOK = 0.05
#: Seconds for which a stopping process waits for a state folder that may hang.
STOP_PATIENCE = 1.0


class Places(NamedTuple):
    """The URL paths of the routes in the application.

    Attributes:
        prefix: Path in front of the routes of the configuration, without a slash at its end.
        home: Path of the dashboard, with a slash at its end.
    """

    prefix: str = "/api/v1/config"
    home: str = "/"


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
        now = time.time()
        self.metrics = Metrics()
        self.store = SnapshotStore(
            Snapshot.of(EMPTY, last_modified=int(now), loaded_at=now, max_age=settings.max_age),
            self.metrics.reload,
        )
        self.signer = Signer(settings)
        self.responder = Responder(self.store, self.signer)
        self.responder.max_waiters = settings.max_waiters or 0
        self._state_folder = settings.state_dir or state_folder
        self._open_records()
        self._reloader = Reloader(self.source, settings, self.store, self._releases)
        self.authenticator = TokenAuthenticator(settings) if settings.guarded else None
        self._lock = threading.Lock()
        self._reload_thread: ReloadThread | None = None
        self._pid = 0  # of the process in which the reload thread was started; 0 while none runs
        self._listed: tuple[Snapshot, Listed] | None = None
        self._reported: tuple[Any, ...] = ()
        for warning in (*settings.warnings, *self.signer.warnings):
            logger.warning("%s", warning)

    def _open_records(self) -> None:
        """Open the records of the user that this process runs as."""
        self._user = os.geteuid()
        key = workers.key(str(self.source))
        self._directory = StateDirectory.of_user(self._state_folder)
        self._directory.prepare()
        served = f"{key}.{workers.key(repr(self.settings))}"
        self._workers = workers.WorkerRegistry(self._directory, f"{served}.{workers.place()}")
        self._workers.sweep()
        self._monitor = MonitorThread(self.store, self.settings, self._directory, served)
        reports = self.settings.reports
        self.reports = ClientReports(self._directory, served) if reports else None
        self._releases = ReleaseStore(self._directory, key, self._has_siblings)
        self._requests_name = f"{served}.reload"
        self._requests = ReloadRequests(self._directory, self._requests_name, self.store)

    def hand_over(self, user: int, group: int) -> None:
        """Make the folder of records of the user that the workers will run as.

        Called by a master that runs as root, since only root may make the folder for that user.

        Args:
            user: User id of the workers.
            group: Group id of the workers.
        """
        hand_over(self._state_folder, user, group)

    def _has_siblings(self) -> bool:
        return bool(self._workers.others(os.getpid()))

    def load(self, *, may_wait: bool = False) -> None:
        """Load the source, or the last good list, in this thread; see ``Reloader.start``."""
        self._reloader.start(may_wait=may_wait)

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
            self._requests = ReloadRequests(self._directory, self._requests_name, self.store)
            if self._user != os.geteuid():
                # gunicorn --preload --user: the list was loaded as root, with root's records.
                self._open_records()
                self._reloader.releases = self._releases
                self._reloader.reload(Trigger.START)
            if self.reports is not None:
                # Each worker has a file of its own.
                self.reports = self.reports.for_process()
            # The source may have changed since the application was made.
            self._reloader.catch_up()
            self.store.closing = False
            self._reload_thread = self._new_reload_thread()
            self._pid = os.getpid()
            self._reload_thread.start()
            self._monitor.start()
        atexit.register(self.stop)
        lost = lost_hooks.notice()
        if lost:
            logger.warning("%s", lost)

    def _new_reload_thread(self) -> ReloadThread:
        return ReloadThread(
            self._reloader,
            self.settings.poll_interval,
            self._after_turn,
            self._requests,
            self._report_late,
        )

    def stop(self) -> None:
        """Stop the threads that ``start`` started in this process, and remove its record."""
        with self._lock:
            thread, self._reload_thread = self._reload_thread, None
            if thread is None or self._pid != os.getpid():
                return
            self._pid = 0
            self._reported = ()
            self.store.close()
        atexit.unregister(self.stop)
        self._monitor.stop()
        thread.stop()
        with contextlib.suppress(TimeoutError):
            Bounded(STOP_PATIENCE).call(partial(self._workers.remove, os.getpid()))

    def wake_reload_thread(self) -> None:
        """Make the reload thread read the source soon; safe in a signal handler.

        Before ``start`` in this process nothing happens, since starting reads the source.
        """
        thread = self._reload_thread
        if thread is not None and self._pid == os.getpid():
            thread.hup()

    # -- a reload of all workers

    def reload_everywhere(self) -> tuple[dict[str, Any], bool]:
        """Make every worker of this host read its source, and wait until all have answered.

        Returns:
            The document of ``reload_report``, and whether the request reached other workers.
        """
        self.revive()
        number, shared = self._requests.make()
        if self._reload_thread is None:
            self._requests.take()
            self._reloader.reload(Trigger.API)
            self._requests.note()
        deadline = time.monotonic() + RELOAD_PATIENCE
        while True:
            records = self._all_records() if shared else [self._own_record()]
            missing = any(reload_for(record, number) is None for record in records)
            if not missing or self.store.closing or time.monotonic() > deadline:
                return reload_report(records, number), shared
            shared = shared and self._requests.insist(number)
            time.sleep(RELOAD_LOOK)

    # -- the state of this process and of the host

    @property
    def alive(self) -> bool:
        """Whether the reload thread of this process runs."""
        thread = self._reload_thread
        return thread is not None and thread.alive

    def revive(self) -> None:
        """Replace a reload thread that has died."""
        with self._lock:
            thread = self._reload_thread
            if thread is None or self._pid != os.getpid() or thread.alive:
                return
            logger.error("the reload thread had died: starting another")
            self._reload_thread = self._new_reload_thread()
            self._reload_thread.start()

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Return whether this process is ready, and the document of ``/ready``.

        A process is ready if it serves a list and its reload thread is alive.
        """
        view = self._view()
        if self._pid == os.getpid() and not self.alive:
            self.revive()
            return False, readiness(view, "the reload thread had died")
        return view.state is not SourceState.EMPTY, readiness(view, view.reason)

    def _late(self) -> str | None:
        """Return the message that the reload thread hangs, or None if it does not."""
        thread = self._reload_thread
        late = None if thread is None or self._pid != os.getpid() else thread.late
        if late is None:
            return None
        return f"the reload thread stands still, for {late:.0f} s now: edits are not seen"

    def _view(self) -> ServerState:
        """Return the store's view; it is stale while the reload thread hangs."""
        view, late = self.store.view, self._late()
        if late is None:
            return view
        state = SourceState.STALE if view.loaded else view.state
        return replace(view, state=state, reason=late)

    def status(self) -> StatusDocument:
        """Return the status document of this host; see ``host_status``."""
        return host_status(
            str(self.source), self._all_records(), self._health(), self._reported_endpoints()
        )

    def gauges(self) -> list[GaugeMetricFamily]:
        """Return the gauges of this host; see ``host_gauges``."""
        return host_gauges(self._all_records(), self._health(), self._reported_endpoints())

    def check_history(self) -> Slots:
        """Return the checks of the last 24 hours of each endpoint; empty if checks are off."""
        return self._monitor.results.history() if self.settings.probe_interval else {}

    def listed(self) -> Listed:
        """Return the kind and URL of each endpoint that is served."""
        snapshot, known = self.store.view.snapshot, self._listed
        if known is None or known[0] is not snapshot:
            body = snapshot.plain.body
            urls = frozenset((k.value, e.url) for k in Kind for e in iter_endpoints(body, k))
            known = self._listed = snapshot, urls
        return known[1]

    def _reported_endpoints(self) -> list[ReportedEndpoint] | None:
        return None if self.reports is None else self.reports.totals(self.listed())

    def _health(self) -> HealthDocument | None:
        if not self.settings.probe_interval:
            return None
        return self._monitor.results.health(self.listed())

    def _all_records(self) -> list[WorkerRecord]:
        others = self._workers.others(os.getpid())
        notice = self._trouble()
        if notice is not None:
            others = [noticed(other, notice) for other in others]
        return [self._own_record(), *others]

    def _own_record(self) -> WorkerRecord:
        figures: WorkerFigures = {
            "waiters": self.responder.waiters,
            "good_at": self._reloader.loaded.good_at,
            "late": self._late() is not None,
        }
        answered = self._requests.answered
        return worker_record(
            os.getpid(), self._view(), self._watcher(), self._notices(), figures, answered
        )

    def _notices(self) -> Iterator[Problem]:
        for warning in (*self.settings.warnings, *self.signer.warnings):
            yield Problem.of(Code.SETTING, warning)
        yield from self.authenticator.problems if self.authenticator else ()
        lost = lost_hooks.notice()
        if lost:
            yield Problem.of(Code.NO_HOOKS, lost)
        late = self._late()
        if late is not None:
            yield Problem.of(Code.LATE, late)
        trouble = self._trouble()
        if trouble is not None:
            yield trouble

    def _trouble(self) -> Problem | None:
        why = self._directory.trouble
        if not why:
            return None
        return Problem.of(
            Code.STATE_FOLDER, f"the state folder {self._directory.path} cannot be used: {why}"
        )

    def _watcher(self) -> WatcherRecord:
        thread = self._reload_thread
        if thread is None:
            return {"mode": "poll", "alive": False}
        alive = thread.alive and self._late() is None and thread.trigger.alive
        return {"mode": thread.trigger.mode, "alive": alive}

    def _after_turn(self) -> None:
        """Do the periodic work of the process; the reload thread calls this after each turn."""
        self.responder.prepare()
        if self.authenticator is not None:
            self.authenticator.refresh()
        if self.reports is not None:
            self.reports.save()
        self._write_record()

    def _write_record(self) -> None:
        """Write this worker's record for the other workers, if it has changed or is missing."""
        state = (
            os.getpid(),
            self.store.view,
            self._watcher(),
            self.responder.waiters,
            self._requests.answered,
            self.authenticator and self.authenticator.problems,
            self._trouble(),
        )
        if state != self._reported or self._workers.is_due(os.getpid()):
            self._reported = state
            self._workers.write(self._own_record())

    def _report_late(self) -> None:
        """Write this worker's record; the guard thread calls this when the reload thread hangs."""
        self._reported = ()
        self._workers.write(self._own_record())
