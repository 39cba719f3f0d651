"""The work of the worker that checks the endpoints: what is due at each turn of its thread."""

import logging
import random
import ssl
import time
from functools import partial
from pathlib import Path

from ...health.probe import Prober, ProbeResult
from ...model.endpoint import Kind
from ...net.faults import Fault
from ..serving.snapshot import Snapshot
from ..settings import Settings
from ..sources.wakeup import Wakeup
from .errands import WorkerThreads
from .results import ProbeResults
from .schedule import HealthChange, ProbeSchedule, Watched, best, rules
from .webhook import OutageNotifier

logger = logging.getLogger(__name__)

#: How many endpoints are checked at a time.
PARALLEL = 16
#: Seconds that a check may take.
TIMEOUT = 5.0
#: Seconds from one writing of the findings to the next.
SAVE_INTERVAL = 0.5


class MonitorTurn:
    """What the worker that holds the lock does, from taking it to losing it.

    Args:
        settings: How often to look, and whom to tell.
        findings: Where what is found goes.
        alerts_path: Where messages to the webhook are kept.
        wake: Wakes the thread that calls ``turn``.
    """

    def __init__(
        self, settings: Settings, findings: ProbeResults, alerts_path: Path, wake: Wakeup
    ) -> None:
        # A hundred authorities are read for it.
        tls = ssl.create_default_context()
        self._findings = findings
        self._interval = settings.probe_interval
        self._prober = Prober(tls, TIMEOUT)
        self._checks = WorkerThreads(wake)
        self._messages = WorkerThreads(wake)
        self._probing = ProbeSchedule(rules(self._interval), random.random, findings.read())
        self._alerts = OutageNotifier(alerts_path, settings, tls, self._messages)
        self._followed: Snapshot | None = None
        self._widths = self._probing.widths()
        self._unsaved = True
        self._saved_at = -SAVE_INTERVAL

    def turn(self, snapshot: Snapshot) -> float:
        """Do what is due; give the seconds until there is more.

        Args:
            snapshot: What is served now.
        """
        self._follow(snapshot)
        if self._checks.finish():
            self._unsaved = True
            self._widen(snapshot)
        self._messages.finish()
        room = PARALLEL - self._checks.running
        for watched in self._probing.due(time.monotonic(), room):
            self._check(watched)
        self._alerts.look(self._probing)
        self._alerts.send()
        self._save()
        return self._wait()

    def _wait(self) -> float:
        now = time.monotonic()
        waits = [self._alerts.wait()]
        if self._checks.running < PARALLEL:
            waits.append(self._probing.wait(now))
        if self._unsaved:
            waits.append(max(0.0, self._saved_at + SAVE_INTERVAL - now))
        return min(waits)

    def _follow(self, snapshot: Snapshot) -> None:
        if snapshot is self._followed:
            return
        first, self._followed = self._followed is None, snapshot
        self._watch(snapshot)
        if first:
            logger.info(
                "this worker checks %d endpoints every %g s", len(self._probing), self._interval
            )

    def _widen(self, snapshot: Snapshot) -> None:
        widths = self._probing.widths()
        if widths != self._widths:
            self._widths = widths
            self._watch(snapshot)

    def _watch(self, snapshot: Snapshot) -> None:
        listed = best(snapshot.plain.body, self._widths)
        counts: dict[str, int] = {
            Kind.API: snapshot.api_count,
            Kind.SOCKETIO: snapshot.socketio_count,
        }
        others = {kind: counts[kind] - len(listed[kind]) for kind in counts}
        self._probing.follow(listed, time.monotonic(), time.time(), others=others)
        self._unsaved = True

    def _check(self, watched: Watched) -> None:
        work = partial(self._prober.check, watched.kind, watched.endpoint, watched.path)
        self._checks.run("check", work, partial(self._found, watched))

    def _found(self, watched: Watched, result: ProbeResult | None) -> None:
        outcome = result or ProbeResult(Fault.OURS, 0.0, "the check itself failed")
        change = self._probing.record(watched, outcome, time.monotonic(), time.time())
        if change is not None:
            _tell(change)

    def _save(self) -> None:
        now = time.monotonic()
        if self._unsaved and now >= self._saved_at + SAVE_INTERVAL:
            self._saved_at = now
            self._unsaved = not self._findings.write(self._probing.records())

    def abort(self) -> None:
        """End the checks and messages that run; takes no lock."""
        self._prober.abort()
        self._alerts.abort()

    def end(self) -> None:
        """Stop, and leave what is known to whoever comes next."""
        self.abort()
        self._checks.close()
        self._messages.close()
        if self._followed is not None:
            self._findings.write(self._probing.records())


def _tell(change: HealthChange) -> None:
    kind = Kind(change.kind).label
    if change.up:
        logger.info("the %s endpoint %s is back: %s", kind, change.url, change.detail)
    else:
        logger.warning("the %s endpoint %s is down: %s", kind, change.url, change.detail)
