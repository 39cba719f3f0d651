"""Reloader reads the source, renders and checks its text, and publishes the list."""

import contextlib
import gc
import logging
import math
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...errors import SourceError
from ...model.codec import rfc3339
from ..parsing.attributes import PlannedChange
from ..parsing.problems import MAX_KEPT, Code, Problem
from ..parsing.render import Rendering, first_problems, render
from ..serving.snapshot import Snapshot
from ..serving.store import Reload, Result, SnapshotStore, SourceState, Trigger
from ..settings import Settings
from ..sources import Source
from ..sources.file import Fingerprint, SourceText, detached
from ..state.releases import LastGood, Release, ReleaseStore
from .guard import check_replaces, count, with_planned_refusals

logger = logging.getLogger(__name__)

#: Seconds after which the rendering thread gives up the interpreter lock to a waiting thread.
#: A request acquires the lock several times, and Python's default is 5 ms for each of them.
SWITCH_INTERVAL = 0.0005
# Two services in one process must not restore each other's values.
_one_at_a_time = threading.Lock()

#: Outdated reads in a row, and seconds since the first of them, after which a source that changes
#: all the time is read and rendered under the lock.
VAIN_TRIES = 3
VAIN_SECONDS = 2.0
#: Identity of every outage, so that an outage is noted once although its messages differ.
UNREACHABLE = b"unreachable"
#: Limit of the planned changes that the status shows.
MAX_PLANNED = 20
#: Seconds until a boundary is tried again after a failure such as a lack of memory.
BOUNDARY_RETRY = 5.0


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Shorten the interpreter's switch interval and pause the garbage collector meanwhile.

    A full collection holds the interpreter lock while it visits every object of the list: 65 ms
    for 50,000 entries. Rendering makes no reference cycles, so there is nothing to collect.
    """
    with _one_at_a_time:
        interval, collecting = sys.getswitchinterval(), gc.isenabled()
        sys.setswitchinterval(min(interval, SWITCH_INTERVAL))
        gc.disable()
        try:
            yield
        finally:
            sys.setswitchinterval(interval)
            if collecting:
                gc.enable()


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the reloader remembers of its last read of the source; replaced whole.

    Attributes:
        signature: Fingerprint of the source right before it was read.
        identity: Digest of the text that was read, or the reason why no text could be read.
        tries: Reads in a row whose text was outdated before its release was issued.
        vain_since: Monotonic seconds at the start of the first of these reads.
        good_at: POSIX time at which the served list was found good, by any worker; 0 for never.
        seen_good: Whether this process has read a good text.
        planned: The next changes by windows in the served text.
        next_boundary: POSIX seconds of the next window boundary, at which the served text has to
            be rendered again; infinity without a boundary.
    """

    signature: Fingerprint = Fingerprint(0)  # noqa: RUF009 - immutable
    identity: bytes = b""
    tries: int = 0
    vain_since: float = 0.0
    good_at: float = 0.0
    seen_good: bool = False
    planned: tuple[PlannedChange, ...] = ()
    next_boundary: float = math.inf

    @property
    def reachable(self) -> bool:
        """Whether the source could be reached."""
        return self.identity != UNREACHABLE


class ReloadAttempt:
    """One read of the source: its trigger, the state before, and its duration.

    Attributes:
        rendering: The list that was read, once it is rendered.
    """

    def __init__(self, trigger: Trigger, before: Loaded, *, quietly: bool = False) -> None:
        self.trigger = trigger
        self.before = before
        self.quietly = quietly
        self.rendering: Rendering | None = None
        self.at = time.time()
        self.started = time.monotonic()

    def repeats(self, loaded: Loaded) -> bool:
        """Whether a quiet read found the same text or failure as before, so nothing is noted."""
        return self.quietly and loaded.identity == self.before.identity

    def good(self, text: SourceText, made: Rendering) -> LastGood:
        """Return the text with its list's figures, for which a release will be issued."""
        # A boundary counts as a change at its own instant.
        release = Release(made.etag, max(text.mtime, made.boundary))
        counts, trigger = (made.api_count, made.socketio_count), self.trigger.value
        return LastGood(text.data, release, *counts, text.order, made.boundary, self.at, trigger)

    def done(self, result: Result, etag: str, **details: Any) -> Reload:
        """End the attempt with a result, and return its record; see ``Reload`` for the details."""
        duration = time.monotonic() - self.started
        return Reload(self.at, self.trigger, result, duration=duration, etag=etag, **details)


class Reloader:
    """Reads the source and serves its list, one call at a time; no public method raises.

    Args:
        source: The source of the text.
        settings: The settings for parsing and checking the text.
        store: The store that gets the result.
        releases: Issues dates and versions for all workers of the host, and keeps the texts.

    Attributes:
        loaded: What the last read has found.
    """

    def __init__(
        self, source: Source, settings: Settings, store: SnapshotStore, releases: ReleaseStore
    ) -> None:
        self.source = source
        self.settings = settings
        self.store = store
        self.loaded = Loaded()
        self.releases = releases

    # -- when to read

    def start(self, *, may_wait: bool = False) -> None:
        """Load for the first time, falling back to the last good list on disk.

        Args:
            may_wait: Whether a reload follows soon. Then a file that is being written is left
                alone until its writer has closed it, if there is a list to serve.
        """
        waits = may_wait and self.releases.last_good() and self.source.being_written()
        if waits or not any(self.reload(Trigger.START) for _ in range(VAIN_TRIES + 1)):
            self.give_up_waiting(Trigger.START)

    def catch_up(self) -> None:
        """Read the source if it has changed since the last read, while no thread watched it."""
        changed = self.source.signature() != self.loaded.signature
        if changed and not (self.store.view.loaded and self.source.being_written()):
            self.reload(Trigger.POLL, quietly=True)

    def give_up_waiting(self, trigger: Trigger) -> None:
        """Report that the source keeps changing, so that it cannot be read yet."""
        message = f"{self.source} keeps changing: waiting until it rests"
        attempt = ReloadAttempt(trigger, self.loaded)
        self._note(SourceError(Code.CHANGING, message), attempt, refused=True)

    def reload(
        self, trigger: Trigger, *, quietly: bool = False, settled: Fingerprint | None = None
    ) -> bool:
        """Read the source, and serve its list if that is acceptable.

        Args:
            trigger: The cause of the reload.
            quietly: Note nothing if nothing has changed since the last read.
            settled: Fingerprint of the source when the trigger decided to read it; a writer may
                have been at work since then. None takes the fingerprint now.

        Returns:
            False if the source has changed meanwhile, or could not be read for lack of
            descriptors; then the caller reloads again in a moment.
        """
        source, releases, before = self.source, self.releases, self.loaded
        attempt = ReloadAttempt(trigger, before, quietly=quietly)
        signature = settled or source.signature()
        late = before.tries and attempt.started - before.vain_since > VAIN_SECONDS
        late = late or before.tries >= VAIN_TRIES
        try:
            with releases.section(rendering=True) if late else contextlib.nullcontext():
                host = releases.follow()  # before the read, see ``is_behind``
                text = source.read(signature)
                if late and (source.being_written() or not source.is_current(text)):
                    return False
                self._remember(attempt, text.signature, text.identity)
                if self._is_settled(text, host, attempt):
                    return True
                at = self._moment()
                rendering = attempt.rendering = self._render(text.data, at)
                with releases.section() as section:
                    behind = section.is_behind(text.order, host and host.order)
                    outdated = not late and (behind or not source.is_current(text))
                    if outdated or releases.boundary > at:
                        return self._count_vain(attempt)
                    check_replaces(rendering, self.settings, text.data, section.last)
                    good = releases.issue(section, attempt.good(text, rendering))
            self._publish(rendering, good.release, attempt)
            if text.detached:
                self._note(SourceError(Code.DETACHED, detached(source)), attempt, refused=False)
        except SourceError as error:
            return self._reject(error, attempt, signature)
        except Exception as error:
            return self._fail(error, attempt)
        return True

    # -- the steps of a reload

    def _remember(self, attempt: ReloadAttempt, signature: Fingerprint, identity: bytes) -> None:
        self.loaded = replace(attempt.before, signature=signature, identity=identity, tries=0)

    def _moment(self) -> float:
        """Return the time at which windows are evaluated, never before a boundary already passed.

        So a clock that is set back does not bring expired entries back.
        """
        return max(time.time(), self.releases.boundary)

    def _render(self, data: bytes, at: float) -> Rendering:
        with short_turns():
            served = self.store.view.snapshot.plain.body
            rendering = render(data, self.settings.rules, served, at)
        return with_planned_refusals(rendering, self.settings)

    def _plan(self, rendering: Rendering) -> None:
        planned, boundary = rendering.planned[:MAX_PLANNED], rendering.next_boundary
        self.loaded = replace(self.loaded, planned=planned, next_boundary=boundary)

    def _count_vain(self, attempt: ReloadAttempt) -> bool:
        """Count a read whose text was outdated before its release was issued; return False."""
        before = attempt.before
        since = before.vain_since if before.tries else attempt.started
        self.loaded = replace(before, tries=before.tries + 1, vain_since=since)
        return False

    def _is_settled(self, text: SourceText, host: LastGood | None, attempt: ReloadAttempt) -> bool:
        """Whether the same text was read before, and no new release is needed.

        The same text gets a release if it was touched or the host released another list.
        """
        if not attempt.repeats(self.loaded):
            return False
        view = self.store.view
        disputed = host is not None and host.release.etag != view.snapshot.etag
        moved = text.signature != attempt.before.signature or disputed
        return not moved or view.state is not SourceState.FRESH

    def _publish(self, rendering: Rendering, release: Release, attempt: ReloadAttempt) -> None:
        self._plan(rendering)
        self.loaded = replace(self.loaded, good_at=time.time(), seen_good=True)
        view, change = self.store.view, None
        if view.loaded and view.snapshot.etag == rendering.etag:
            result, snapshot = Result.UNCHANGED, self._restamp(release)
            if attempt.repeats(self.loaded) and view.state is SourceState.FRESH:
                return  # the text was only touched
        else:
            result, snapshot = Result.APPLIED, self._snapshot(rendering, release)
            change = rendering.difference
        reload = attempt.done(result, snapshot.etag, error=None, change=change)
        self.store.publish(
            snapshot,
            reload,
            state=SourceState.FRESH,
            problems=rendering.problems,
            errors=rendering.errors,
            warnings=rendering.warnings,
            planned=self.loaded.planned,
        )
        what = f"{change or result} ({attempt.trigger}), etag {snapshot.etag}"
        served = f"{snapshot.api_count} API, {snapshot.socketio_count} Socket.io"
        counts = f"{count(rendering.errors, 'error')}, {count(rendering.warnings, 'warning')}"
        told = first_problems(rendering.problems)
        logger.info("%s, %.0f ms; %s; %s%s", what, reload.duration * 1000, served, counts, told)

    def _snapshot(self, rendering: Rendering, release: Release) -> Snapshot:
        date, version = release.last_modified, release.version
        return Snapshot.of(rendering, self.settings, time.time(), date, version)

    def _restamp(self, release: Release) -> Snapshot:
        """Serve the same list with the date and the version of another release."""
        snapshot = self.store.view.snapshot
        stamped = snapshot.stamped(release.last_modified, release.version)
        if stamped is not snapshot:
            self.store.restamp(stamped)
            logger.info("version %d, etag %s", stamped.ver, stamped.etag)
        return stamped

    # -- texts that were found good before

    def follow_others(self) -> None:
        """Serve the host's last good list if another worker found one that is newer than ours.

        A worker that missed a good text before the file became bad would otherwise serve another
        list than its siblings for as long as the file stays bad. A worker that missed an edit and
        its rollback would serve the list with too low a version.
        """
        view, good = self.store.view, self.releases.follow()
        if good is None:
            return
        if view.loaded and good.release.etag == view.snapshot.etag:
            self._restamp(good.release)
            return
        if view.state is SourceState.FRESH or not self.releases.trusted:
            return
        newer = not view.loaded or good.release.version > view.snapshot.ver
        if newer and (snapshot := self._from_disk(good)) is not None:
            self.store.adopt(snapshot, self.loaded.planned)
            logger.info("etag %s, which another worker has found good", snapshot.etag)

    def _from_disk(self, good: LastGood) -> Snapshot | None:
        """Make the snapshot of a saved text, or return None if the text cannot be used."""
        try:
            attempt = ReloadAttempt(Trigger(good.trigger), self.loaded)
            judged = self._judge_anew(good, attempt, fall_back=True)
        except Exception as error:
            logger.error("the last good list cannot be used: %s", error)
            return None
        self.loaded = replace(self.loaded, good_at=good.saved_at)
        return judged and self._snapshot(*judged)

    def _judge_anew(
        self, good: LastGood, attempt: ReloadAttempt, *, fall_back: bool = False
    ) -> tuple[Rendering, Release] | None:
        """Render and check a saved text as of now, and issue its release.

        Args:
            good: The text.
            attempt: The attempt to use the text.
            fall_back: Whether the list of the text's last boundary is used if the guard refuses
                the list of now; else ``SourceError`` is raised.

        Returns:
            None if the host has released another text, or has passed a later boundary, meanwhile.
        """
        at = self._moment()
        rendering = self._render(good.data, at)
        self._plan(rendering)
        with self.releases.section() as section:
            replaced = section.last is not None and section.last.data != good.data
            if replaced or self.releases.boundary > at:
                return None
            try:
                check_replaces(rendering, self.settings, good.data, section.last)
            except SourceError:
                if not fall_back:
                    attempt.rendering = rendering
                    raise
                rendering = self._render(good.data, good.boundary)
            text = SourceText(good.data, good.release.modified_at, Fingerprint(0), good.order)
            renewed = attempt.good(text, rendering)
            return rendering, self.releases.issue(section, renewed, good.release).release

    @property
    def seconds_to_boundary(self) -> float:
        """Seconds until a window of the served text begins or ends; infinity without one."""
        return max(0.0, self.loaded.next_boundary - time.time())

    def pass_boundary(self) -> None:
        """Render and check the served text again, since a window has begun or ended.

        The source is not read: an entry's window ends even if the source is bad or cannot be
        reached.
        """
        good = self.releases.served
        if good is None:
            return
        self.loaded = replace(self.loaded, next_boundary=time.time() + BOUNDARY_RETRY)
        attempt = ReloadAttempt(Trigger.POLL, self.loaded)
        try:
            judged = self._judge_anew(good, attempt)
        except SourceError as error:
            self._note(error, attempt, refused=True)
        except Exception as error:
            self._fail(error, attempt)
        else:
            if judged is not None and self.store.view.state is SourceState.FRESH:
                self._publish(*judged, attempt)
            elif judged is not None:
                snapshot = self._snapshot(*judged)
                self.store.adopt(snapshot, self.loaded.planned)
                logger.info("etag %s: a window has begun or ended", snapshot.etag)

    # -- failures

    def _reject(self, error: SourceError, attempt: ReloadAttempt, signature: Fingerprint) -> bool:
        if error.code == Code.CHANGING:
            return False
        unreachable = error.code == Code.UNREACHABLE
        if attempt.rendering is None:  # else the identity of the text that was read is kept
            identity = UNREACHABLE if unreachable else str(error).encode()
            self._remember(attempt, signature, identity)
        if not attempt.repeats(self.loaded):
            self._note(error, attempt, refused=not unreachable)
        return True

    def _fail(self, error: Exception, attempt: ReloadAttempt) -> bool:
        """Note a failure that the text did not cause, such as a lack of descriptors."""
        reason = f"{type(error).__name__}: {error}"
        self.loaded = replace(attempt.before, identity=reason.encode())
        if self.loaded.identity != attempt.before.identity:
            self._note(SourceError("", reason), attempt, refused=False)
        return not isinstance(error, OSError)

    def _note(self, error: SourceError, attempt: ReloadAttempt, *, refused: bool) -> None:
        """Note why the source's text is not served: it is refused, or something has failed."""
        code = Code(error.code) if error.code else None
        view, rendering, changes = self.store.view, attempt.rendering, dict[str, Any]()
        snapshot, found = view.snapshot, rendering.problems if rendering else ()
        result, state, what, told = Result.ERROR, SourceState.STALE, "failed", ""
        if not view.loaded and (good := self.releases.last_good()) is not None:
            snapshot = self._from_disk(good) or snapshot
        if refused and code is not None:
            problem = Problem(error.line, error.column, code.severity, code, str(error), "")
            changes["problems"] = (problem, *found)[:MAX_KEPT]
            changes["errors"] = 1 + (rendering.errors if rendering else 0)
            changes["warnings"] = rendering.warnings if rendering else 0
            result, what, told = Result.REJECTED, "refused", first_problems(found)
        if self.loaded.seen_good:
            state = SourceState.REJECTED if refused else SourceState.STALE
        elif not view.loaded and snapshot is view.snapshot:
            state = SourceState.EMPTY
        reload = attempt.done(result, snapshot.etag, error=str(error), code=code)
        changes |= {"snapshot": snapshot, "state": state, "planned": self.loaded.planned}
        self.store.refuse(reload, **changes)
        self.follow_others()
        view = self.store.view
        serving = f"still serving etag {view.snapshot.etag}" if view.loaded else "serving nothing"
        if view.loaded and not self.loaded.seen_good:
            serving += f", the last good list of {rfc3339(self.loaded.good_at)}"
        logger.error("%s (%s): %s; %s%s", what, attempt.trigger, error, serving, told)
