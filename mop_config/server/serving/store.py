"""What is served now, how it came to be, and what happened lately: the only mutable cell.

Readers take ``store.view`` once and have a consistent picture without a lock; the one
writer, the reload thread, replaces it whole.
"""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any

from ... import signals
from ...model.codec import Difference
from ..parsing.problems import Problem
from ..parsing.window import PlannedChange
from .change_event import ChangeEvent
from .snapshot import Snapshot

HISTORY = 20


class SourceState(StrEnum):
    """How what is served stands to the source.

    ``fresh``: it is what the source holds. ``rejected``: the source's newest text was
    refused. ``stale``: this process has not seen a good text, or cannot tell what the
    source holds, and serves the last good list. ``empty``: no good list was ever seen.
    """

    FRESH = "fresh"
    STALE = "stale"
    REJECTED = "rejected"
    EMPTY = "empty"


class Trigger(StrEnum):
    """What made a process look at its source."""

    START = "start"
    WATCH = "watch"
    POLL = "poll"
    SIGHUP = "sighup"
    ETCD = "etcd"
    API = "api"


class Result(StrEnum):
    """What came of it."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Reload:
    """One look at the source that meant something.

    Attributes:
        at: POSIX time.
        trigger: What caused it.
        result: What came of it.
        error: Why the text was refused, or None.
        duration: Seconds it took.
        etag: Content hash of what is served since.
        change: What changed, where something did.
        code: The problem's code where a text was refused or a source did not answer, or None.
        moment: Monotonic seconds, the same clock in every process of the host: the order of
            reloads, also where the system's clock was set back in between.
    """

    at: float
    trigger: Trigger
    result: Result
    error: str | None
    duration: float
    etag: str | None
    change: Difference | None = None
    code: str | None = None
    moment: float = field(default_factory=time.monotonic)


@dataclass(frozen=True, slots=True)
class ServerState:
    """A consistent picture of the store.

    Attributes:
        snapshot: What is served.
        state: See ``SourceState``.
        reason: Why the state is not ``fresh``, or None.
        problems: The first findings in the newest text that was read.
        errors: How many errors that text has.
        warnings: How many warnings it has.
        history: The latest reloads, newest first.
        planned: The next boundaries of windows in the served text.
    """

    snapshot: Snapshot
    state: SourceState = SourceState.EMPTY
    reason: str | None = None
    problems: tuple[Problem, ...] = ()
    errors: int = 0
    warnings: int = 0
    history: tuple[Reload, ...] = ()
    planned: tuple[PlannedChange, ...] = ()

    @property
    def last_reload(self) -> Reload | None:
        """The newest reload, or None before the first."""
        return self.history[0] if self.history else None

    @property
    def loaded(self) -> bool:
        """Whether any good list was ever seen."""
        return self.state is not SourceState.EMPTY

    @property
    def complete(self) -> bool:
        """Whether a list is served and no entry of the newest text was left out of it."""
        return self.loaded and self.errors == 0


class SnapshotStore:
    """Holds the view; each change is one swap, and signals follow it.

    Args:
        empty: The snapshot to serve until a good list is seen.
        on_reload: Called with each reload, for whoever counts them.
    """

    def __init__(
        self, empty: Snapshot, on_reload: Callable[[Reload], None] = lambda _: None
    ) -> None:
        self.view = ServerState(empty)
        self._on_reload = on_reload
        self.closing = False  # whether nobody may be parked any more
        self._lock = threading.Lock()
        self._bells: dict[bool, ChangeEvent] = {}  # by whether it is for the signed list

    def bell(self, *, signed: bool = False) -> ChangeEvent:
        """Give what rings when another list is served, or when the process is to end.

        Take it first, then look at the view: what changes after that rings it.

        Args:
            signed: Whether it is to ring too when the same list is signed anew.
        """
        with self._lock:
            bell = self._bells.get(signed)
            if bell is None or bell.pid != os.getpid():
                bell = self._bells[signed] = ChangeEvent()
            return bell

    def close(self) -> None:
        """Wake everybody who is parked, for good; safe in a signal handler."""
        self.closing = True
        for signed in (False, True):
            bell = self._bells.get(signed)
            if bell is not None and bell.pid == os.getpid():
                bell.set()

    def ring_signed(self) -> None:
        """Wake those who are parked for the signed list: it was signed anew."""
        self._ring(True)

    def _ring(self, *which: bool) -> None:
        for signed in which or (False, True):
            with self._lock:
                bell = self._bells.pop(signed, None)
            if bell is not None and bell.pid == os.getpid():
                bell.set()

    def publish(self, snapshot: Snapshot, reload: Reload, **changes: Any) -> None:
        """Serve a list that the source holds, be it another one or the same."""
        previous = self.view.snapshot if self.view.loaded else None
        self._swap(reload, snapshot=snapshot, reason=None, **changes)
        if reload.result is Result.APPLIED:
            signals.send(
                signals.config_reloaded,
                self,
                snapshot=snapshot,
                previous=previous,
                trigger=reload.trigger,
            )

    def adopt(self, snapshot: Snapshot, planned: tuple[PlannedChange, ...]) -> None:
        """Serve what another worker has found good; the source is as bad as before."""
        with self._lock:
            previous = self.view
            state = SourceState.STALE if previous.state is SourceState.EMPTY else previous.state
            self.view = replace(previous, snapshot=snapshot, state=state, planned=planned)
        self._ring()
        signals.send(
            signals.config_reloaded,
            self,
            snapshot=snapshot,
            previous=previous.snapshot if previous.loaded else None,
            trigger=Trigger.POLL,
        )

    def restamp(self, snapshot: Snapshot) -> None:
        """Serve the same list with another date and version."""
        with self._lock:
            self.view = replace(self.view, snapshot=snapshot)
        self.ring_signed()

    def refuse(self, reload: Reload, **changes: Any) -> None:
        """Note a text that was refused, or a source that could not be read."""
        self._swap(reload, reason=reload.error, **changes)
        signals.send(
            signals.config_rejected,
            self,
            reason=reload.error,
            problems=self.view.problems,
            trigger=reload.trigger,
        )

    def _swap(self, reload: Reload, **changes: Any) -> None:
        with self._lock:
            before = self.view.snapshot
            history = (reload, *self.view.history)[:HISTORY]
            self.view = replace(self.view, history=history, **changes)
        if self.view.snapshot is not before:
            self._ring()
        self._on_reload(reload)
