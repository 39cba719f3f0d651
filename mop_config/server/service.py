"""Everything of one application that lives in a process: started after fork, stopped at exit."""

import atexit
import contextlib
import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from types import FrameType
from typing import Any, NamedTuple

from .auth.authenticator import TokenAuthenticator
from .bounded_call import Bounded
from .gunicorn.worker import GunicornWorker
from .monitor.thread import MonitorThread
from .parsing.problems import Code, Problem, Severity
from .parsing.render import EMPTY
from .reload.pipeline import Reloader
from .reload.requests import ReloadRequests, ReloadResponder
from .reload.thread import ReloadThread
from .serving.responder import Responder
from .serving.signer import Signer
from .serving.snapshot import Snapshot
from .serving.store import ServerState, SnapshotStore, SourceState
from .settings import Settings
from .sources import open_source
from .state import workers as hoststate
from .state.releases import ReleaseStore
from .status import lost_hooks
from .status.document import (
    answer_state,
    host_status,
    noticed,
    readiness,
    reload_report,
    worker_state,
)
from .status.gauges import Gauge, host_gauges, worker_figures
from .status.metrics import Metrics

logger = logging.getLogger(__name__)

EXTENSION = "mop_config"

#: Seconds that the workers have for a reload that somebody waits for, and between two looks
#: at whether they are done.
RELOAD_PATIENCE = 10.0
RELOAD_LOOK = 0.05
#: Seconds that a stopping process gives a state folder that may hang.
STOP_PATIENCE = 1.0


class Places(NamedTuple):
    """Where the routes stand in the application.

    Attributes:
        prefix: What precedes the routes of the configuration.
        home: Path of the dashboard, with a slash at its end.
    """

    prefix: str = "/api/v1/config"
    home: str = "/"


class ConfigService:
    """The store of an application, and the thread that keeps it up to date.

    Args:
        settings: What to serve, and how.
        state_folder: Where the last good list and the workers' state are kept, unless the
            settings name a folder.
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
        self._loader = Reloader(self.source, settings, self.store, self._memory)
        self.keyring = TokenAuthenticator(settings) if settings.guarded else None
        self._lock = threading.Lock()
        self._reloader: ReloadThread | None = None
        self._pid = 0  # of the process in which the reload thread was started
        self._worker: GunicornWorker | None = None
        self._previous_handler: Any = None
        self._reported: tuple[Any, ...] = ()
        for warning in (*settings.warnings, *self.signer.warnings):
            logger.warning("%s", warning)

    def _open_records(self) -> None:
        """Open the records of the user that this process runs as."""
        self._user = os.geteuid()
        key = hoststate.key(str(self.source))
        self._folder, writable = hoststate.prepare(self._state_folder)
        served = f"{key}.{hoststate.key(repr(self.settings))}"
        self._host = hoststate.WorkerRegistry(
            self._folder, f"{served}.{hoststate.place()}", writable=writable
        )
        self._monitor = MonitorThread(self.store, self.settings, self._folder / served)
        self._memory = ReleaseStore(
            self._folder, key, writable=writable, siblings=self._has_siblings
        )
        self._requests = ReloadRequests(self._folder / f"{served}.reload")
        self._answering = ReloadResponder(self._requests, self.store)

    def hand_over(self, user: int, group: int) -> None:
        """Let the user that the workers will run as keep records; root's master calls."""
        hoststate.hand_over(self._state_folder, user, group)

    def _has_siblings(self) -> bool:
        return bool(self._host.others(os.getpid()))

    def load(self, *, may_wait: bool = False) -> None:
        """Load the source, or the last good list, in this thread; see ``Reloader.start``."""
        self._loader.start(may_wait=may_wait)

    # -- the life of a process

    def ensure_started(self) -> None:
        """Start the reload thread on first use in a process; cheap ever after."""
        if self._pid != os.getpid():
            self.start()

    def start(self) -> None:
        """Start the reload thread of this process, unless it runs.

        What a fork copied of another process's thread is left alone: stopping an observer
        in a child takes the parent's watches away.
        """
        with self._lock:
            if self._pid == os.getpid():
                return
            self._answering = ReloadResponder(self._requests, self.store)
            if self._user != os.geteuid():
                # gunicorn --preload --user: root has loaded, with the records that are root's.
                self._open_records()
                self._loader.remember_anew(self._memory)
            # The application may be older than this moment: nobody looked in between.
            self._loader.catch_up()
            self.store.closing = False
            self._reloader = self._new_reloader()
            self._pid = os.getpid()
            self._reloader.start()
            self._monitor.start()
        atexit.register(self.stop)
        lost = lost_hooks.notice()
        if lost:
            logger.warning("%s", lost)

    def _new_reloader(self) -> ReloadThread:
        return ReloadThread(
            self._loader,
            self.settings.poll_interval,
            on_turn=self._after_turn,
            on_late=self._report_late,
            answering=self._answering,
        )

    def stop(self) -> None:
        """Stop what ``start`` started in this process."""
        with self._lock:
            reloader, self._reloader = self._reloader, None
            if reloader is None or self._pid != os.getpid():
                return
            self._pid = 0
            self._reported = ()
            self.store.close()
        atexit.unregister(self.stop)
        self._monitor.stop()
        reloader.stop()
        with contextlib.suppress(TimeoutError):
            Bounded(STOP_PATIENCE).call(partial(self._host.remove, os.getpid()))

    # -- signals

    def handle_sighup(self) -> None:
        """Reload on SIGHUP from now on; a handler that was there is called as well.

        Only the main thread may do this; elsewhere nothing changes. Nor does it where gunicorn is
        not at work: SIGHUP is what ends a program whose terminal closes.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        if not lost_hooks.under_gunicorn():
            return
        previous = signal.getsignal(signal.SIGHUP)
        if previous == self._on_sighup:
            return
        self._previous_handler = previous if callable(previous) else None
        signal.signal(signal.SIGHUP, self._on_sighup)
        signal.siginterrupt(signal.SIGHUP, False)

    def _on_sighup(self, number: int, frame: FrameType | None) -> None:
        # Before the start in this process nothing is to be done: starting looks at the file.
        reloader = self._reloader
        if reloader is not None and self._pid == os.getpid():
            reloader.hup()
        if self._previous_handler is not None:
            self._previous_handler(number, frame)

    def handle_stop(self) -> None:
        """Release parked requests when the worker is told to end: it waits for them."""
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
            previous = signal.getsignal(number)
            if callable(previous):
                signal.signal(number, partial(self._on_stop, previous))
                signal.siginterrupt(number, False)

    def _on_stop(self, previous: Any, number: int, frame: FrameType | None) -> None:
        self.store.close()
        previous(number, frame)

    def live_in(self, worker: Any) -> None:
        """Find how many long polls may be parked in a worker of gunicorn's, and heed its end.

        Args:
            worker: gunicorn's own object; it has not begun to serve.
        """
        self._worker = GunicornWorker(worker, self.settings.max_waiters)
        self.responder.max_waiters = self._worker.waiters

    def reload_everywhere(self) -> tuple[dict[str, Any], bool]:
        """Have every worker of this host read its source, and wait until all have.

        Returns:
            What came of it, see ``reload_report``; and whether other workers were asked.
        """
        self.revive()
        number, shared = self._requests.make()
        if self._reloader is None:
            self._load_alone()
        deadline = time.monotonic() + RELOAD_PATIENCE
        while True:
            workers = self._workers() if shared else [self._own_state()]
            report = reload_report(workers, number)
            missing = any(worker["last_reload"] is None for worker in report["workers"])
            if not missing or self.store.closing or time.monotonic() > deadline:
                return report, shared
            shared = shared and self._requests.insist(number)
            time.sleep(RELOAD_LOOK)

    def _load_alone(self) -> None:
        # Nothing follows the source in this process.
        asked = self._answering.asked()
        if asked is not None:
            self._loader.load(asked)
        self._answering.note()

    # -- what it says of itself

    @property
    def alive(self) -> bool:
        """Whether the reload thread of this process runs."""
        reloader = self._reloader
        return reloader is not None and reloader.alive

    def revive(self) -> None:
        """Put another reload thread in the place of one that has died."""
        with self._lock:
            reloader = self._reloader
            if reloader is None or self._pid != os.getpid() or reloader.alive:
                return
            logger.error("the reload thread had died: starting another")
            self._reloader = self._new_reloader()
            self._reloader.start()
        with contextlib.suppress(Exception):
            reloader.stop()

    def ready(self) -> tuple[bool, dict[str, Any]]:
        """Say whether this process serves a list and keeps it up to date, and why not."""
        view = self._view()
        if self._pid == os.getpid() and not self.alive:
            self.revive()
            return False, readiness(view, "the reload thread had died")
        return view.state is not SourceState.EMPTY, readiness(view, view.reason)

    def _late(self) -> str | None:
        """Say that the reload thread stands still, where it does."""
        reloader = self._reloader
        late = None if reloader is None or self._pid != os.getpid() else reloader.late
        if late is None:
            return None
        return f"the reload thread stands still, for {late:.0f} s now: edits are not seen"

    def _view(self) -> ServerState:
        """Give the store's view, as what it is while nobody follows the source: stale."""
        view, late = self.store.view, self._late()
        if late is None:
            return view
        state = SourceState.STALE if view.loaded else view.state
        return replace(view, state=state, reason=late)

    def status(self) -> dict[str, Any]:
        """Say what all workers of this host serve, and what happened lately."""
        return host_status(str(self.source), self._workers(), self._health())

    def gauges(self) -> list[Gauge]:
        """Say the same in figures, for the metrics."""
        return host_gauges(self._workers(), self._health())

    def _health(self) -> dict[str, Any] | None:
        return self._monitor.health()

    def _workers(self) -> list[dict[str, Any]]:
        others = self._host.others(os.getpid())
        notice = self._trouble()
        if notice is not None:
            others = [noticed(other, notice) for other in others]
        return [self._own_state(), *others]

    def _own_state(self) -> dict[str, Any]:
        view, notices = self._view(), list(self._notices())
        errors = sum(notice.severity is Severity.ERROR for notice in notices)
        figures = worker_figures(
            errors=view.errors + errors,
            warnings=view.warnings + len(notices) - errors,
            waiters=self.responder.waiters,
            good_at=self._loader.good_at,
            late=self._late() is not None,
        )
        answered = answer_state(*self._answering.answered)
        state = worker_state(os.getpid(), view, self._watcher(), notices)
        return {**state, "figures": figures, "answered": answered}

    def _notices(self) -> Iterator[Problem]:
        for warning in (*self.settings.warnings, *self.signer.warnings):
            yield Problem(1, 1, Code.SETTING.severity, Code.SETTING, warning, "")
        yield from self.keyring.problems if self.keyring else ()
        lost = lost_hooks.notice()
        if lost:
            yield Problem(1, 1, Code.NO_HOOKS.severity, Code.NO_HOOKS, lost, "")
        late = self._late()
        if late is not None:
            yield Problem(1, 1, Code.LATE.severity, Code.LATE, late, "")
        trouble = self._trouble()
        if trouble is not None:
            yield trouble

    def _trouble(self) -> Problem | None:
        why = self._memory.trouble or self._host.trouble
        if not why:
            return None
        code, message = Code.STATE_FOLDER, f"the state folder {self._folder} cannot be used: {why}"
        return Problem(1, 1, code.severity, code, message, "")

    def _watcher(self) -> dict[str, Any]:
        reloader = self._reloader
        mode = reloader.watcher.mode if reloader else "poll"
        alive = self.alive and self._late() is None
        alive = alive and (mode == "poll" or bool(reloader and reloader.watcher.alive))
        return {"mode": mode, "alive": alive}

    def _after_turn(self) -> None:
        """Do what is to be done now and then; the reload thread calls."""
        if self._worker is not None and self._worker.ending:
            if not self.store.closing:
                self.store.close()
            self._worker.let_go()
        self._report()

    def _report(self) -> None:
        """Write this worker's state where the others read it, if it has changed or is not there."""
        self.responder.prepare()
        if self.keyring is not None:
            self.keyring.refresh()
        state = (
            *(os.getpid(), self.store.view, self._watcher(), self.responder.waiters),
            *(self._answering.answered, self.keyring and self.keyring.problems),
            self._trouble(),
        )
        if state != self._reported or self._host.is_due(os.getpid()):
            self._reported = state
            self._host.write(self._own_state())

    def _report_late(self) -> None:
        """Tell the other workers that the reload thread of this one stands still."""
        self._reported = ()
        self._host.write(self._own_state())
