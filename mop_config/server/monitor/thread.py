"""Checks the served endpoints: a thread in each worker, of which one on the host is at work.

The others try once a second to take the lock that the one holds, and read what it finds.
"""

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Any

from ...model.endpoint import Kind
from ..logs.format import describe
from ..serving.snapshot import Snapshot
from ..serving.store import SnapshotStore
from ..settings import Settings
from ..sources.wakeup import STOP, Wakeup
from ..state.leader import Leadership
from .results import ProbeResults
from .schedule import LIMIT, best
from .turn import MonitorTurn

logger = logging.getLogger(__name__)

#: Seconds between two looks at the lock and at the list.
TURN = 1.0
#: Seconds that a stopping process gives a slow disk.
STOP_PATIENCE = 5.0


class MonitorThread:
    """The checks of one application: in this process, or in another one of the host.

    Args:
        store: What is served.
        settings: How often to look, and whom to tell; an interval of 0 is never.
        stem: What the files in the state folder begin with. While none can be written, nothing
            is checked: each worker would do it, and tell, for itself.
    """

    def __init__(self, store: SnapshotStore, settings: Settings, stem: Path) -> None:
        self._store = store
        self._settings = settings
        self._stem = stem
        path = stem.with_name(f"{stem.name}.findings.json")
        self._findings = ProbeResults(path, settings.probe_interval)
        self._listed: tuple[Snapshot, frozenset[tuple[str, str]]] | None = None
        self._watch: _Watch | None = None

    def health(self) -> dict[str, Any] | None:
        """Give what was found, as the status shows it; None where checks are off."""
        if not self._settings.probe_interval:
            return None
        snapshot, listed = self._store.view.snapshot, self._listed
        if listed is None or listed[0] is not snapshot:
            listed = self._listed = snapshot, _listed(snapshot)
        return self._findings.health(listed[1])

    def start(self) -> None:
        """Start the thread of this process, where there is something for it to do."""
        if not self._settings.probe_interval:
            return
        if self._watch is not None:
            self._watch.leave()
            self._watch = None
        self._watch = _Watch(self._store, self._settings, self._findings, self._stem)
        self._watch.start()

    def stop(self) -> None:
        """End the thread; a check that hangs is called off."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.stop()


def _listed(snapshot: Snapshot) -> frozenset[tuple[str, str]]:
    listed = best(snapshot.plain.body, dict.fromkeys(Kind, LIMIT))
    return frozenset((kind, endpoint.url) for kind in listed for endpoint in listed[kind])


class _Watch:
    """The thread, in one process."""

    def __init__(
        self, store: SnapshotStore, settings: Settings, findings: ProbeResults, stem: Path
    ) -> None:
        self._pid = os.getpid()
        self._store = store
        self._settings = settings
        self._findings = findings
        self._alerts_path = stem.with_name(f"{stem.name}.alerts.json")
        self._leadership = Leadership(stem.with_name(f"{stem.name}.monitor"))
        self._wake = Wakeup()
        self._round: MonitorTurn | None = None
        self._stopping = False
        self._complained = False
        self._trouble = ""
        self._thread = threading.Thread(target=self._run, name="mop-config-monitor", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def leave(self) -> None:
        """Leave the lock to the parent, where a fork has copied all this."""
        if self._pid != os.getpid():
            self._leadership.release()

    def stop(self) -> None:
        self._stopping = True
        self._wake.send(STOP)
        current = self._round
        if current is not None:
            current.abort()
        self._thread.join(STOP_PATIENCE)
        if not self._thread.is_alive():
            self._wake.close()

    def _run(self) -> None:
        # Every thread that is started from here must leave SIGHUP to the main thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        try:
            while not self._stopping:
                self._wake.wait(self._safe_turn())
        finally:
            self._end_round()
            self._leadership.release()

    def _safe_turn(self) -> float:
        try:
            wait = self._turn()
        except Exception as error:
            trouble = describe(error)
            if trouble != self._trouble:
                self._trouble = trouble
                logger.error("checking goes on after %s", trouble)
            return TURN
        self._trouble = ""
        return wait

    def _turn(self) -> float:
        if not self._leads():
            self._end_round()
            return TURN
        if self._round is None:
            self._round = MonitorTurn(self._settings, self._findings, self._alerts_path, self._wake)
        if self._stopping:
            return 0.0
        return min(TURN, self._round.turn(self._store.view.snapshot))

    def _leads(self) -> bool:
        try:
            leads = self._leadership.take()
            self._complained = False
            return leads
        except OSError as error:
            if not self._complained:
                self._complained = True
                logger.warning(
                    "no endpoint is checked, since no lock can be made in the state folder: %s",
                    error.strerror or error,
                )
            self._leadership.release()
            return False

    def _end_round(self) -> None:
        current, self._round = self._round, None
        if current is not None:
            current.end()
