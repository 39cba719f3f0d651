"""The pipeline from the source to what is served: read, render, judge, swap, remember."""

import hashlib
import logging
import time
from dataclasses import replace
from typing import Any

from ...errors import SourceError
from ...model.codec import Difference, rfc3339
from ..parsing.problems import MAX_KEPT, Code, Problem, Severity, first_problems
from ..parsing.render import EMPTY_BODY, Rendering, render
from ..serving.snapshot import Snapshot
from ..serving.store import Reload, Result, SnapshotStore, SourceState, Trigger
from ..settings import Settings
from ..sources import Source
from ..sources.file import Fingerprint, SourceText, detached
from ..state.last_good import LastGood
from ..state.ledger import LedgerLine, Release
from ..state.releases import ReleaseStore
from ..state.sightings import Sighting
from .short_turns import short_turns

logger = logging.getLogger(__name__)

#: Seconds from one failure to save a text to the next try.
RETRY = 3.0


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
            Code.STRICT,
            f"{_count(rendering.errors, 'error')}, and ENDPOINT_STRICT is set; first: {first}",
        )
    if serving and not rendering.usable and not settings.allow_empty:
        raise SourceError(
            Code.NO_ENDPOINTS,
            "the file has no usable endpoint, and must not replace a list that has some"
            " (ENDPOINT_ALLOW_EMPTY=1 would allow it)",
        )


class Reloader:
    """The way from the source into the store, one call at a time; nothing in it raises.

    Args:
        source: Where the text comes from.
        settings: How to read it.
        store: Where the result goes.
        releases: What the workers of a host know together, and what outlives them.
    """

    def __init__(
        self, source: Source, settings: Settings, store: SnapshotStore, releases: ReleaseStore
    ) -> None:
        self.source = source
        self.settings = settings
        self.store = store
        self.signature = Fingerprint(0)  # of the source when it was read last
        self.interrupted = False  # whether the first look found a writer at work
        self.reachable = True  # whether the source could be asked at all the last time
        self._releases = releases
        self._fingerprint = b""  # of what was read last, or of why it could not be
        self._mtime = 0.0  # when the source was changed to what is served, where that is known
        self._mismatch: Fingerprint | None = None
        self._remembered: LastGood | None = None  # without its text, once that is of no use
        self._unsaved: LastGood | None = None
        self._failed: LastGood | None = None  # what could not be saved
        self._retry_at = 0.0  # when that is tried again, in monotonic seconds
        self._order = 0.0  # tells which of two good texts is newer, among all workers
        self._good_at = 0.0  # when what is served was found good, here or by another worker
        self._seen_good = False
        self._from_disk: LastGood | None = None  # what is served, where it came from there

    def start(self, *, may_wait: bool = False) -> None:
        """Load for the first time, falling back to the last good list on disk.

        Args:
            may_wait: Whether somebody will look again. Then a file that is being written
                to is left alone until its writer is done, if there is a list to serve.
        """
        self._remembered = self._releases.load()
        if may_wait and self._remembered is not None and self.source.being_written():
            self.signature = self.source.signature()
            self.interrupted = True
            self.give_up_waiting(Trigger.START)
        elif not self.load(Trigger.START):
            self.give_up_waiting(Trigger.START)
        self.persist()

    @property
    def good_at(self) -> float:
        """POSIX time at which what is served was found good, by whichever worker; 0 for never."""
        return self._good_at

    @property
    def unsaved(self) -> bool:
        """Whether there is a good text that ``persist`` is to keep, for the first time or again."""
        again = self._failed is not None and time.monotonic() >= self._retry_at
        return again or self._unsaved is not None

    def persist(self) -> None:
        """Keep the newest good text on disk; apart from loading, since a disk may be slow."""
        good, self._unsaved = self._unsaved, None
        good = good or self._failed
        if good is not None:
            self._failed = None if self._releases.keep(good) else good
            self._retry_at = time.monotonic() + RETRY

    def catch_up(self) -> None:
        """Load what changed since the last time, while no thread was looking."""
        if self.source.signature() == self.signature:
            return
        self.interrupted = self.store.view.loaded and bool(self.source.being_written())
        if not self.interrupted:
            self.load(Trigger.POLL, quietly=True)

    def remember_anew(self, releases: ReleaseStore) -> None:
        """Load once more, now that this process runs as another user, whose records these are."""
        self._releases = releases
        self.load(Trigger.START)

    def follow_others(self) -> None:
        """Serve what another worker has found good, while this one has nothing as new.

        A worker that was not there, or not quick enough, while a good text stood in a file
        that is bad now, must not differ from the others for as long as it stays bad. Nor must
        one that has missed an edit and its way back: the list has a higher version since.
        """
        if self.store.view.loaded:
            self._restamp(self._releases.follow(self._line(self.store.view.snapshot)))
        view = self.store.view
        good = None if view.state is SourceState.FRESH else self._releases.newer_than(self._order)
        if good is None or good.etag == view.snapshot.etag:
            return
        snapshot = self._from_memory(good)
        if snapshot is not None:
            self.store.adopt(snapshot)
            logger.info("etag %s, which another worker has found good", snapshot.etag)

    def load(
        self, trigger: Trigger, *, quietly: bool = False, settled: Fingerprint | None = None
    ) -> bool:
        """Read the source and act on what it holds.

        Args:
            trigger: Why.
            quietly: Note nothing where nothing has changed since the last time.
            settled: What the source looked like when it was decided to read it.

        Returns:
            False if the source changed in the meantime or while it was read, or could not
            be read for want of descriptors: try again in a moment.
        """
        attempt = _Attempt(trigger)
        signature = self.source.signature()
        text: SourceText | SourceError
        try:
            text = self.source.read()
            signature = text.signature
            fingerprint = hashlib.sha256(text.data).digest() + _DETACHED * text.detached
        except SourceError as error:
            if error.code == Code.CHANGING:
                return False
            text, fingerprint = error, _fingerprint(error)
        except OSError as error:
            if str(error).encode() != self._fingerprint:
                self._fingerprint = str(error).encode()
                self._fail(_described(error), attempt)
            return False
        if settled is not None and self._differs(signature, settled):
            return False
        moved, self.signature = signature != self.signature, signature
        self.reachable = fingerprint != _UNREACHABLE
        if quietly and fingerprint == self._fingerprint:
            if (
                moved
                and isinstance(text, SourceText)
                and self.store.view.state is SourceState.FRESH
            ):
                self._restamp(self._confirmed(self._dated(text).mtime, attempt.at))
            return True
        known, self._fingerprint = self._fingerprint.removesuffix(_DETACHED), fingerprint
        if not fingerprint.endswith(_DETACHED):
            self._act(text, attempt)
            return True
        if known != fingerprint.removesuffix(_DETACHED):
            self._act(text, attempt)
        self._fail(detached(self.source), _Attempt(trigger), Code.DETACHED)
        return True

    def _differs(self, signature: Fingerprint, settled: Fingerprint) -> bool:
        """Whether the source is not what was decided on; never twice for the same decision.

        On some file systems an open file never looks like its path does.
        """
        if signature.contents == settled.contents or settled == self._mismatch:
            return False
        self._mismatch = settled
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
            rendering = self._render(text.data, served)
            judge(rendering, self.settings, serving=self._serving())
            self._accept(self._dated(text), rendering, attempt)
        except SourceError as error:
            if error.code == Code.UNREACHABLE:
                self._fail(str(error), attempt, Code.UNREACHABLE)
            else:
                self._refuse(error, rendering, attempt)
        except Exception as error:
            self._fingerprint = b""  # so that the next poll tries again
            self._fail(_described(error), attempt)

    def _render(self, data: bytes, served: bytes) -> Rendering:
        with short_turns():
            return render(data, self.settings.rules, served)

    def _dated(self, text: SourceText) -> SourceText:
        """Date a text whose source does not: it counts from when a worker saw it first."""
        if not text.revision:
            return text
        digest = hashlib.sha256(text.data).hexdigest()[:16]
        sighting = Sighting(text.revision, digest, began=text.mtime)
        return text._replace(mtime=self._releases.first_seen(sighting, time.time()))

    def _serving(self) -> bool:
        """Whether the list that a refusal would leave in place has endpoints."""
        snapshot = self.store.view.snapshot
        if self.store.view.loaded or self._remembered is None:
            return bool(snapshot.api_count + snapshot.socketio_count)
        return self._remembered.endpoints > 0

    def _accept(self, text: SourceText, rendering: Rendering, attempt: "_Attempt") -> None:
        self._seen_good, self._from_disk = True, None
        self._good_at = time.time()
        self._order = text.mtime if text.revision else self._good_at
        view = self.store.view
        changes = {
            "state": SourceState.FRESH,
            "problems": rendering.problems,
            "errors": rendering.errors,
            "warnings": rendering.warnings,
        }
        counts = f"{_count(rendering.errors, 'error')}, {_count(rendering.warnings, 'warning')}"
        counts += first_problems(rendering.problems)
        if view.loaded and view.snapshot.etag == rendering.etag:
            snapshot = self._restamp(self._confirmed(text.mtime, attempt.at))
            self.store.keep(attempt.done(Result.UNCHANGED, snapshot.etag), **changes)
            logger.info("unchanged (%s), etag %s; %s", attempt.trigger, snapshot.etag, counts)
        else:
            snapshot = self._snapshot(rendering, text.mtime, attempt.at)
            stamp = self._confirmed(text.mtime, attempt.at, snapshot)
            snapshot = snapshot.stamped(snapshot.last_modified, stamp.ver)
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
            text.data, snapshot.etag, snapshot.last_modified, endpoints, self._order
        )
        self._forget_text()

    def _line(self, snapshot: Snapshot) -> LedgerLine:
        return LedgerLine(snapshot.etag, self._mtime, snapshot.last_modified, snapshot.ver)

    def _confirmed(self, mtime: float, now: float, snapshot: Snapshot | None = None) -> Release:
        """Give the stamp of the list that is served, or is to be, with a source of this date."""
        line = self._line(snapshot or self.store.view.snapshot)
        self._mtime = mtime
        return self._releases.confirm(line, mtime, _version(min(mtime, now)))

    def _restamp(self, stamp: Release) -> Snapshot:
        """Serve the same list with a higher version, if there is one."""
        snapshot = self.store.view.snapshot
        if stamp.ver > snapshot.ver:
            snapshot = snapshot.stamped(*stamp)
            self.store.restamp(snapshot)
            logger.info("version %d, etag %s", snapshot.ver, snapshot.etag)
        return snapshot

    def _forget_text(self) -> None:
        if self._remembered is not None:
            self._remembered = self._remembered._replace(data=b"")

    def _snapshot(self, rendering: Rendering, mtime: float, now: float) -> Snapshot:
        """Date a list: the source's date, but never back to or before an earlier list's."""
        seen = min(mtime, now)
        wanted, above = Release(int(seen), _version(seen)), 0
        earlier: Snapshot | LastGood | None = self._remembered
        if self.store.view.loaded:
            earlier = self.store.view.snapshot
            above = self.store.view.snapshot.ver
            wanted = wanted._replace(ver=max(wanted.ver, above + 1))
        same = earlier is not None and earlier.etag == rendering.etag
        if earlier is not None and not same:
            wanted = wanted._replace(date=max(wanted.date, earlier.last_modified + 1))
        stamp = self._releases.stamp(rendering.etag, mtime, wanted, above)
        self._mtime = 0.0
        return Snapshot.of(
            rendering,
            last_modified=earlier.last_modified if earlier and same else stamp.date,
            loaded_at=now,
            max_age=self.settings.max_age,
            ver=stamp.ver,
            negotiated=self.settings.signing_key_file is not None,
            guarded=self.settings.guarded,
        )

    def _refuse(self, error: SourceError, rendering: Rendering | None, attempt: "_Attempt") -> None:
        code = Code(error.code)
        problem = Problem(error.line, error.column, code.severity, code, str(error), "")
        found = rendering.problems if rendering else ()
        self._note_failure(
            attempt.done(Result.REJECTED, None, error=str(error), code=code),
            problems=(problem, *found)[:MAX_KEPT],
            errors=1 + (rendering.errors if rendering else 0),
            warnings=rendering.warnings if rendering else 0,
        )
        self._log_failure("refused", str(error), attempt, first_problems(found))

    def _fail(self, reason: str, attempt: "_Attempt", code: str | None = None) -> None:
        self._note_failure(attempt.done(Result.ERROR, None, error=reason, code=code))
        self._log_failure("failed", reason, attempt, "")

    def _note_failure(self, reload: Reload, **changes: Any) -> None:
        view = self.store.view
        snapshot = view.snapshot
        if not view.loaded and self._remembered is not None:
            snapshot = self._from_memory(self._remembered) or snapshot
        if self._seen_good:
            refused = reload.result is Result.REJECTED
            changes["state"] = SourceState.REJECTED if refused else SourceState.STALE
        elif view.loaded or snapshot is not view.snapshot:
            changes["state"] = SourceState.STALE
        reload = replace(reload, etag=snapshot.etag)
        self.store.refuse(reload, snapshot=snapshot, **changes)
        self.follow_others()

    def _from_memory(self, good: LastGood) -> Snapshot | None:
        """Make the snapshot of a last good text; None where it gives none any more."""
        try:
            rendering = self._render(good.data, EMPTY_BODY)
            snapshot = self._snapshot(rendering, good.last_modified, time.time())
        except Exception as error:
            logger.error("the last good list cannot be used: %s", error)
            return None
        self._good_at = self._order = good.saved_at
        self._from_disk = good._replace(data=b"")
        return snapshot

    def _log_failure(self, verb: str, reason: str, attempt: "_Attempt", more: str) -> None:
        view = self.store.view
        serving = f"still serving etag {view.snapshot.etag}" if view.loaded else "serving nothing"
        if self._from_disk is not None:
            serving += f", the last good list of {rfc3339(self._from_disk.saved_at)}"
        logger.error("%s (%s): %s; %s%s", verb, attempt.trigger, reason, serving, more)


#: However an outage shows itself, it is noted once.
_UNREACHABLE = b"unreachable"
#: Follows the fingerprint of a text whose file is detached.
_DETACHED = b"detached"


def _version(moment: float) -> int:
    return max(0, int(moment * 1000))


def _described(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def _fingerprint(error: SourceError) -> bytes:
    return _UNREACHABLE if error.code == Code.UNREACHABLE else str(error).encode()


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


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
        code: str | None = None,
    ) -> Reload:
        duration = time.perf_counter() - self._started
        return Reload(self.at, self.trigger, result, error, duration, etag, change, code)
