"""Reloader reads the source, renders and checks its text, and publishes the list."""

import contextlib
import gc
import logging
import math
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

from ...errors import SourceError
from ...model.codec import rfc3339
from ..parsing.attributes import PlannedChange
from ..parsing.problems import MAX_KEPT, Code, Problem
from ..parsing.render import Rendering, first_problems, render
from ..serving.store import Reload, Result, Snapshot, SnapshotStore, SourceState, Trigger
from ..settings import Settings
from ..sources import Source
from ..sources.file import Fingerprint, SourceText
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
    """One attempt to serve a text: its trigger, the state before, and its start.

    Args:
        trigger: The cause of the attempt.
        before: What the reloader remembered before.
        quietly: Note nothing if nothing has changed since the last read.

    Attributes:
        rendering: The list of now, once it is rendered.
    """

    def __init__(self, trigger: Trigger, before: Loaded, *, quietly: bool = False) -> None:
        self.trigger, self.before, self.quietly = trigger, before, quietly
        self.rendering: Rendering | None = None
        self.at, self.started = time.time(), time.monotonic()

    def repeats(self, loaded: Loaded) -> bool:
        """Whether a quiet read found the same text or failure as before, so nothing is noted."""
        return self.quietly and loaded.identity == self.before.identity

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
        saved = self.releases.follow() if may_wait and self.releases.trusted else None
        waits = saved is not None and self.source.being_written()
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
        self._note(SourceError(Code.CHANGING, message), attempt)

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
                self.loaded = replace(
                    before, signature=text.signature, identity=text.identity, tries=0
                )
                if self._is_settled(text, host, attempt):
                    return True

                def outdated() -> bool:
                    behind = releases.is_behind(text.order, host and host.order)
                    return not late and (behind or not source.is_current(text))

                new = LastGood(text.data, Release("", text.mtime), order=text.order)
                accepted = self._accept(new, attempt, outdated)
            if accepted is None:
                since = before.vain_since if before.tries else attempt.started
                self.loaded = replace(before, tries=before.tries + 1, vain_since=since)
                return False
            self._publish(*accepted[:2], attempt)
            if text.detached:
                self._note(SourceError(Code.DETACHED, text.detached), attempt)
        except Exception as error:
            return self._refuse(error, attempt, signature)
        return True

    # -- the steps of a reload

    def _render(self, data: bytes, at: float) -> Rendering:
        with short_turns():
            served = self.store.view.snapshot.plain.body
            rendering = render(data, self.settings.rules, served, at)
        return with_planned_refusals(rendering, self.settings)

    def _accept(
        self, text: LastGood, attempt: ReloadAttempt, outdated: Callable[[], bool]
    ) -> tuple[Rendering, Release, SourceError | None] | None:
        """Render a text as of now, check its list, and issue the release of the list.

        Windows are judged at the later of now and the last boundary that has passed, so a clock
        that is set back does not bring expired entries back.

        Args:
            text: The text, with its release if it was found good before.
            attempt: The attempt to serve the text.
            outdated: Called in the critical section; whether the text must not be used any more.

        Returns:
            The list, its release, and why the guard refuses the list of now: then this is the list
            of the last boundary. None if the text is outdated, or if the host has passed a later
            boundary meanwhile.
        """
        releases, at, refusal = self.releases, max(time.time(), self.releases.boundary), None
        made = attempt.rendering = self._render(text.data, at)
        with releases.section():
            if outdated() or releases.boundary > at:
                return None
            try:
                check_replaces(made, self.settings, text.data, releases.last)
            except SourceError as error:
                if not text.release.etag:
                    raise
                refusal, made = error, self._render(text.data, text.boundary)
            good = text._replace(
                # A boundary counts as a change at its own instant.
                release=Release(made.etag, max(text.release.modified_at, made.boundary)),
                api=made.api_count,
                socketio=made.socketio_count,
                boundary=made.boundary,
                saved_at=attempt.at,
                trigger=attempt.trigger.value,
            )
            return made, releases.issue(good).release, refusal

    def _plan(self, rendering: Rendering) -> None:
        planned, boundary = rendering.planned[:MAX_PLANNED], rendering.next_boundary
        self.loaded = replace(self.loaded, planned=planned, next_boundary=boundary)

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
        self.store.update(
            reload,
            snapshot=snapshot,
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
            self.store.update(snapshot=stamped)
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
        newer = not view.loaded or good.release.version > view.snapshot.ver
        if view.state is SourceState.FRESH or not newer or not self.releases.trusted:
            return
        try:
            attempt = ReloadAttempt(Trigger(good.trigger), self.loaded)
            judged = self._judge_anew(good, attempt)
        except Exception as error:
            logger.error("the last good list cannot be used: %s", error)
            return
        self.loaded = replace(self.loaded, good_at=good.saved_at)
        if judged is not None:
            self._adopt(*judged[:2], "the last good list of this host")

    def _adopt(self, rendering: Rendering, release: Release, what: str) -> None:
        snapshot = self._snapshot(rendering, release)
        state = self.store.view.state if self.store.view.loaded else SourceState.STALE
        self.store.update(snapshot=snapshot, state=state, planned=self.loaded.planned)
        logger.info("etag %s, %s", snapshot.etag, what)

    def _judge_anew(
        self, good: LastGood, attempt: ReloadAttempt
    ) -> tuple[Rendering, Release, SourceError | None] | None:
        """Accept a saved text as of now, unless the host has released another text meanwhile."""

        def outdated() -> bool:
            return self.releases.last is not None and self.releases.last.data != good.data

        judged = self._accept(good, attempt, outdated)
        if attempt.rendering is not None:
            self._plan(attempt.rendering)
        return judged

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
            if judged is None:
                return
            rendering, release, refusal = judged
            if refusal is not None:
                self._note(refusal, attempt)
            elif self.store.view.state is SourceState.FRESH:
                self._publish(rendering, release, attempt)
            else:
                self._adopt(rendering, release, "since a window has begun or ended")
        except Exception as error:
            self._refuse(error, attempt, self.loaded.signature)

    # -- failures

    def _refuse(self, error: Exception, attempt: ReloadAttempt, signature: Fingerprint) -> bool:
        """Note why a text is not served; return False if the source is read again in a moment."""
        before = attempt.before
        if not isinstance(error, SourceError):  # the text did not cause it: a lack of memory, say
            reason = f"{type(error).__name__}: {error}"
            self.loaded = replace(before, identity=reason.encode())
            if self.loaded.identity != before.identity:
                self._note(SourceError("", reason), attempt)
            return not isinstance(error, OSError)
        if error.code == Code.CHANGING:
            return False
        if attempt.rendering is None:  # else the identity of the text that was read is kept
            identity = UNREACHABLE if error.code == Code.UNREACHABLE else str(error).encode()
            self.loaded = replace(before, signature=signature, identity=identity, tries=0)
        if not attempt.repeats(self.loaded):
            self._note(error, attempt)
        return True

    def _note(self, error: SourceError, attempt: ReloadAttempt) -> None:
        """Note why the source's text is not served: it is refused, or something has failed."""
        code = Code(error.code) if error.code else None
        refused = code not in {None, Code.UNREACHABLE, Code.DETACHED}
        if not self.store.view.loaded:
            self.follow_others()
        view, rendering, changes = self.store.view, attempt.rendering, dict[str, Any]()
        found = rendering.problems if rendering else ()
        result, state, what, told = Result.ERROR, SourceState.STALE, "failed", ""
        if refused and code is not None:
            problem = Problem.of(code, str(error), error.line, error.column)
            changes["problems"] = (problem, *found)[:MAX_KEPT]
            changes["errors"] = 1 + (rendering.errors if rendering else 0)
            changes["warnings"] = rendering.warnings if rendering else 0
            result, what, told = Result.REJECTED, "refused", first_problems(found)
        if not view.loaded:
            state = SourceState.EMPTY
        elif refused and self.loaded.seen_good:
            state = SourceState.REJECTED
        reload = attempt.done(result, view.snapshot.etag, error=str(error), code=code)
        self.store.update(reload, state=state, planned=self.loaded.planned, **changes)
        self.follow_others()
        view = self.store.view
        serving = f"still serving etag {view.snapshot.etag}" if view.loaded else "serving nothing"
        if view.loaded and not self.loaded.seen_good:
            serving += f", the last good list of {rfc3339(self.loaded.good_at)}"
        logger.error("%s (%s): %s; %s%s", what, attempt.trigger, error, serving, told)
