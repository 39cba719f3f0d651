"""The pipeline from the source to what is served: read, render, judge, swap, remember."""

import hashlib
import logging
import time
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import SourceError
from ..payload import Difference
from . import lastgood
from .lastgood import LastGood
from .offload import in_a_thread, render_apart
from .problems import MAX_KEPT, Code, Problem, Severity
from .render import EMPTY_BODY, Rendering
from .settings import Settings
from .snapshot import Snapshot
from .sources import FileSource, Signature, SourceText
from .store import Reload, Result, State, Store, Trigger
from .times import rfc3339

logger = logging.getLogger(__name__)

#: Problems of a refused file that the log names.
LOGGED_PROBLEMS = 5


def judge(rendering: Rendering, settings: Settings, *, serving: bool) -> None:
    """Decide whether a rendered text may be served.

    Args:
        rendering: What the text gave.
        settings: Whether errors are tolerated, and an empty list allowed.
        serving: Whether the list that is served now has endpoints.

    Raises:
        SourceError: With code ``strict`` or ``no-endpoints``.
    """
    if settings.strict and rendering.errors:
        first = next((p for p in rendering.problems if p.severity is Severity.ERROR), None)
        raise SourceError(
            Code.STRICT, f"{rendering.errors} errors, and ENDPOINT_STRICT is set; first: {first}"
        )
    if serving and not rendering.usable and not settings.allow_empty:
        raise SourceError(
            Code.NO_ENDPOINTS,
            "the file has no usable endpoint, and must not replace a list that has some"
            " (ENDPOINT_ALLOW_EMPTY=1 would allow it)",
        )


class Loader:
    """The way from the source into the store, one call at a time; nothing in it raises.

    Args:
        source: Where the text comes from.
        settings: How to read it.
        store: Where the result goes.
        last_good: File that keeps the last good text, or None to go on without.
    """

    def __init__(
        self, source: FileSource, settings: Settings, store: Store, last_good: Path | None
    ) -> None:
        self.source = source
        self.settings = settings
        self.store = store
        self.last_good = last_good
        self.signature = Signature(0)  # of the source when it was read last
        self._fingerprint = b""  # of what was read last, or of why it could not be
        self._remembered: LastGood | None = None
        self._unsaved: LastGood | None = None
        self._seen_good = False

    def start(self) -> None:
        """Load for the first time, falling back to the last good list on disk."""
        if self.last_good is not None:
            self._remembered = lastgood.load(self.last_good)
        if not self.load(Trigger.START):
            self.give_up_waiting(Trigger.START)
        self.persist()

    @property
    def unsaved(self) -> bool:
        """Whether there is a good text that ``persist`` has not kept yet."""
        return self._unsaved is not None

    def persist(self) -> None:
        """Keep the newest good text on disk; apart from loading, since a disk may be slow."""
        good, self._unsaved = self._unsaved, None
        if good is None or self.last_good is None:
            return
        try:
            in_a_thread(partial(lastgood.keep, self.last_good, good))
        except OSError as error:
            logger.warning("the last good list cannot be saved: %s", error)

    def catch_up(self) -> None:
        """Load what changed since the last time, while no thread was looking."""
        self.load(Trigger.POLL, quietly=True)

    def load(self, trigger: Trigger, *, quietly: bool = False) -> bool:
        """Read the source and act on what it holds.

        Args:
            trigger: Why.
            quietly: Note nothing where nothing has changed since the last time.

        Returns:
            False if the source changed while it was read: try again when it rests.
        """
        attempt = _Attempt(trigger)
        signature = self.source.signature()
        text: SourceText | SourceError
        try:
            text = self.source.read()
            signature = text.signature
            fingerprint = hashlib.sha256(text.data).digest()
        except SourceError as error:
            if error.code == Code.CHANGING:
                return False
            text, fingerprint = error, str(error).encode()
        self.signature = signature
        if quietly and fingerprint == self._fingerprint:
            return True
        self._fingerprint = fingerprint
        self._act(text, attempt)
        return True

    def give_up_waiting(self, trigger: Trigger) -> None:
        """Say that the source does not come to rest."""
        message = f"{self.source} keeps changing: waiting until it rests"
        self._refuse(SourceError(Code.CHANGING, message), None, _Attempt(trigger))

    def _act(self, text: SourceText | SourceError, attempt: "_Attempt") -> None:
        rendering = None
        try:
            if isinstance(text, SourceError):
                raise text
            served = self.store.view.snapshot.plain.body
            rendering = render_apart(text.data, self.settings.rules, served)
            judge(rendering, self.settings, serving=self._serving())
            self._accept(text, rendering, attempt)
        except SourceError as error:
            self._refuse(error, rendering, attempt)
        except Exception as error:
            self._fingerprint = b""  # so that the next poll tries again
            self._fail(error, attempt)

    def _serving(self) -> bool:
        """Whether the list that a refusal would leave in place has endpoints."""
        snapshot = self.store.view.snapshot
        if self.store.view.loaded or self._remembered is None:
            return bool(snapshot.api_count + snapshot.socketio_count)
        return self._remembered.endpoints > 0

    def _accept(self, text: SourceText, rendering: Rendering, attempt: "_Attempt") -> None:
        self._seen_good = True
        view = self.store.view
        changes = {
            "state": State.FRESH,
            "problems": rendering.problems,
            "errors": rendering.errors,
            "warnings": rendering.warnings,
        }
        counts = f"{rendering.errors} errors, {rendering.warnings} warnings"
        if view.loaded and view.snapshot.etag == rendering.etag:
            snapshot = view.snapshot
            self.store.keep(attempt.done(Result.UNCHANGED, snapshot.etag), **changes)
            logger.info("unchanged (%s), etag %s; %s", attempt.trigger, snapshot.etag, counts)
        else:
            snapshot = self._snapshot(rendering, text.mtime, attempt.at)
            change = rendering.difference
            reload = attempt.done(Result.APPLIED, snapshot.etag, change=change)
            self.store.apply(snapshot, reload, **changes)
            logger.info(
                "%s, etag %s (%s, %.0f ms); %d API, %d Socket.io; %s",
                change,
                snapshot.etag,
                attempt.trigger,
                reload.duration * 1000,
                snapshot.api_count,
                snapshot.socketio_count,
                counts,
            )
        endpoints = snapshot.api_count + snapshot.socketio_count
        self._unsaved = LastGood(
            text.data, snapshot.etag, snapshot.last_modified, endpoints, time.time()
        )

    def _snapshot(self, rendering: Rendering, mtime: float, now: float) -> Snapshot:
        """Date a list: the source's date, but never back to or before an earlier list's."""
        date = int(min(mtime, now))
        earlier: Snapshot | LastGood | None = self._remembered
        if self.store.view.loaded:
            earlier = self.store.view.snapshot
        if earlier is not None:
            same = earlier.etag == rendering.etag
            date = earlier.last_modified if same else max(date, earlier.last_modified + 1)
        return Snapshot.of(
            rendering, last_modified=date, loaded_at=now, max_age=self.settings.max_age
        )

    def _refuse(self, error: SourceError, rendering: Rendering | None, attempt: "_Attempt") -> None:
        problem = Problem(1, 1, Code(error.code).severity, Code(error.code), str(error), "")
        found = rendering.problems if rendering else ()
        self._note_failure(
            attempt.done(Result.REJECTED, None, error=str(error)),
            problems=(problem, *found)[:MAX_KEPT],
            errors=1 + (rendering.errors if rendering else 0),
            warnings=rendering.warnings if rendering else 0,
        )
        first = "; ".join(str(p) for p in found[:LOGGED_PROBLEMS])
        self._log_failure(
            "refused", str(error), attempt, f"; first problems: {first}" * bool(first)
        )

    def _fail(self, error: Exception, attempt: "_Attempt") -> None:
        reason = f"{type(error).__name__}: {error}"
        self._note_failure(attempt.done(Result.ERROR, None, error=reason))
        self._log_failure("failed", reason, attempt, "")

    def _note_failure(self, reload: Reload, **changes: Any) -> None:
        view = self.store.view
        snapshot = view.snapshot
        if not view.loaded and self._remembered is not None:
            snapshot = self._from_memory(self._remembered) or snapshot
        if self._seen_good:
            refused = reload.result is Result.REJECTED
            changes["state"] = State.REJECTED if refused else State.STALE
        elif view.loaded or snapshot is not view.snapshot:
            changes["state"] = State.STALE
        reload = replace(reload, etag=snapshot.etag)
        self.store.refuse(reload, snapshot=snapshot, **changes)

    def _from_memory(self, good: LastGood) -> Snapshot | None:
        """Make the snapshot of the last good text; None where it gives none any more."""
        try:
            rendering = render_apart(good.data, self.settings.rules, EMPTY_BODY)
        except Exception as error:
            logger.error("the last good list cannot be used: %s", error)
            return None
        return self._snapshot(rendering, good.last_modified, time.time())

    def _log_failure(self, verb: str, reason: str, attempt: "_Attempt", more: str) -> None:
        view = self.store.view
        serving = f"still serving etag {view.snapshot.etag}" if view.loaded else "serving nothing"
        if view.state is State.STALE and self._remembered is not None:
            serving += f", the last good list of {rfc3339(self._remembered.saved_at)}"
        logger.error("%s (%s): %s; %s%s", verb, attempt.trigger, reason, serving, more)


class _Attempt:
    """Times one look at the source."""

    def __init__(self, trigger: Trigger) -> None:
        self.trigger = trigger
        self.at = time.time()
        self._started = time.perf_counter()

    def done(
        self,
        result: Result,
        etag: str | None,
        *,
        error: str | None = None,
        change: Difference | None = None,
    ) -> Reload:
        duration = time.perf_counter() - self._started
        return Reload(self.at, self.trigger, result, error, duration, etag, change)
