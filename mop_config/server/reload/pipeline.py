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
from ...model.endpoint import rfc3339
from ..parsing.problems import MAX_KEPT, Code, Problem
from ..parsing.render import (
    EMPTY,
    Rendering,
    check_replaces,
    first_problems,
    last_passed,
    next_boundary,
    render,
    with_planned_refusals,
)
from ..serving.store import Reload, Result, Snapshot, SnapshotStore, SourceState, Trigger
from ..settings import Settings
from ..sources import Source
from ..sources.file import Fingerprint, identity_of
from ..state.releases import LastGood, Release, ReleaseStore

logger = logging.getLogger(__name__)

#: Seconds after which the rendering thread gives up the interpreter lock to a waiting thread.
#: A request acquires the lock several times, and Python's default is 5 ms for each of them.
SWITCH_INTERVAL = 0.0005
# Two services in one process must not restore each other's values.
_one_at_a_time = threading.Lock()

#: Outdated reads in a row, and seconds since the first of them, after which a source that changes
#: all the time is read and rendered under the lock.
LATE_TRIES = 3
LATE_SECONDS = 2.0
#: Identity of every outage, so that an outage is noted once although its messages differ.
UNREACHABLE = b"unreachable"
#: Codes that say nothing of the source's text, because the text could not be read.
_UNREAD = frozenset({Code.UNREACHABLE, Code.DETACHED, Code.CHANGING})


@contextlib.contextmanager
def short_turns() -> Iterator[None]:
    """Shorten the interpreter's switch interval and pause the garbage collector meanwhile.

    A full collection holds the interpreter lock while it visits every object of the list: 65 ms
    for 50,000 entries. Rendering makes no reference cycles, so there is nothing to collect.
    """
    with _one_at_a_time:
        interval = sys.getswitchinterval()
        collecting = gc.isenabled()
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
        fingerprint: Fingerprint of the source right before it was read.
        identity: Digest of the text that was read, or the reason why no text could be read.
        outdated_at: Monotonic seconds at the starts of the first reads in a row whose text was
            outdated before its release was issued.
        good_at: POSIX time at which the served list was found good, by any worker; 0 for never.
        judge_at: POSIX time at which a refused text is read and judged anew: its first boundary,
            or when another list was served; infinity for never.
    """

    fingerprint: Fingerprint = Fingerprint(0)  # noqa: RUF009 - immutable
    identity: bytes = b""
    outdated_at: tuple[float, ...] = ()
    good_at: float = 0.0
    judge_at: float = math.inf


class ReloadAttempt:
    """One attempt to serve a text: its trigger, the state before, and its start.

    Args:
        trigger: The cause of the attempt.
        before: What the reloader remembered before.
        quietly: Note nothing if nothing has changed since the last read.

    Attributes:
        rendering: The list of now, once it is rendered; empty before.
    """

    def __init__(self, trigger: Trigger, before: Loaded, *, quietly: bool = False) -> None:
        self.trigger = trigger
        self.before = before
        self.quietly = quietly
        self.rendering: Rendering = EMPTY
        self.at = time.time()
        self.started = time.monotonic()

    def repeats(self, loaded: Loaded) -> bool:
        """Whether a quiet read found the same text or failure as before, so nothing is noted."""
        return self.quietly and loaded.identity == self.before.identity

    def done(self, result: Result, etag: str, **details: Any) -> Reload:
        """End the attempt with a result, and return its record; see ``Reload`` for the details."""
        duration = time.monotonic() - self.started
        return Reload(self.at, self.trigger, result, duration=duration, etag=etag, **details)


#: A list, its text with the release, and why the guard refuses the list of now. Then the list is
#: that of the last boundary of the same text.
Accepted = tuple[Rendering, LastGood, SourceError | None]


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

    def start(self) -> None:
        """Load for the first time, falling back to the last good list on disk."""
        if not any(self.reload(Trigger.START) for _ in range(LATE_TRIES + 1)):
            self.report_changing(Trigger.START)

    def report_changing(self, trigger: Trigger) -> None:
        """Report that the source keeps changing, so that it cannot be read yet."""
        message = f"{self.source} keeps changing: waiting until it rests"
        self._note(SourceError(Code.CHANGING, message), ReloadAttempt(trigger, self.loaded))

    def catch_up(self) -> None:
        """Read the source if it has changed since the last read, while no thread watched it."""
        if self.source.fingerprint() != self.loaded.fingerprint:
            self.reload(Trigger.POLL, quietly=True)

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
            False if the source is being written or has changed meanwhile, or could not be read for
            lack of descriptors; then the caller reloads again in a moment.
        """
        source = self.source
        before = self.loaded
        attempt = ReloadAttempt(trigger, before, quietly=quietly)
        fingerprint = settled or source.fingerprint()
        tries = before.outdated_at
        late = len(tries) >= LATE_TRIES or (tries and attempt.started - tries[0] > LATE_SECONDS)
        try:
            host = self.releases.follow()  # before the read, see ``is_behind``
            if (host or self.store.view.loaded) and source.being_written():
                return False
            with self.releases.section(rendering=True) if late else contextlib.nullcontext():
                text = source.read(fingerprint)
                if late and (source.being_written() or not source.is_current(text)):
                    raise SourceError(Code.CHANGING, f"{source} has changed meanwhile")
                self.loaded = replace(
                    before, fingerprint=text.fingerprint, identity=text.identity, outdated_at=()
                )
                anew = text.identity == before.identity and before.judge_at <= time.time()
                attempt.quietly = quietly and not anew
                # The same text gets a release if it was touched or the host released another list.
                view = self.store.view
                disputed = host is not None and host.release.etag != view.snapshot.etag
                moved = text.fingerprint != before.fingerprint or disputed
                if attempt.repeats(self.loaded) and not (moved and view.state is SourceState.FRESH):
                    return True

                def outdated() -> bool:
                    behind = self.releases.is_behind(text.order, host and host.order)
                    return not late and (behind or not source.is_current(text))

                modified_at = min(text.mtime, before.judge_at) if anew else text.mtime
                new = LastGood(text.data, Release("", modified_at), order=text.order)
                rendering, good, _ = self._accept(new, attempt, outdated)
            self._publish(rendering, good, attempt)
            if text.detached:
                self._note(SourceError(Code.DETACHED, text.detached), attempt)
        except Exception as error:
            return self._refuse(error, attempt, fingerprint)
        return True

    # -- the steps of a reload

    def _render(self, data: bytes, at: float) -> Rendering:
        with short_turns():
            served = self.store.view.snapshot.plain.body
            rendering = render(data, self.settings.rules, served, at)
            return with_planned_refusals(rendering, self.settings)

    def _accept(
        self, text: LastGood, attempt: ReloadAttempt, outdated: Callable[[], bool]
    ) -> Accepted:
        """Render a text as of now, check its list, and issue the release of the list.

        Windows are judged at the later of now and the last boundary that has passed, so a clock
        that is set back does not bring expired entries back.

        Args:
            text: The text, with its release if it was found good before. The release of a new text
                has only the date of the source.
            attempt: The attempt to serve the text.
            outdated: Called in the critical section; whether the text must not be used any more.

        Raises:
            SourceError: With code ``changing`` if the text is outdated, or if the host has passed
                a later boundary meanwhile; else as for ``check_replaces``, for a new text only.
        """
        refusal = None
        at = max(time.time(), self.releases.boundary)
        made = attempt.rendering = self._render(text.data, at)
        with self.releases.section():
            if outdated() or self.releases.boundary > at:
                raise SourceError(Code.CHANGING, f"{self.source} has changed meanwhile")
            last = self.releases.last
            if last is not None and last.data == text.data and last.boundary < made.boundary:
                # As if this node had run at each of the boundaries, so that all nodes agree.
                passed = last_passed(last.data, self.settings, last.boundary, made.boundary)
                last = last._replace(boundary=passed)
            try:
                check_replaces(made, self.settings, last and last.listed)
            except SourceError as error:
                if not text.release.etag:
                    raise
                refusal = error
                made = self._render(text.data, last.boundary if last else text.boundary)
            # A boundary counts as a change at its own instant.
            modified_at = max(text.release.modified_at, made.boundary)
            good = text._replace(
                release=text.release._replace(etag=made.etag, modified_at=modified_at),
                api=made.api_count,
                socketio=made.socketio_count,
                boundary=made.boundary,
                saved_at=attempt.at,
                trigger=text.trigger or attempt.trigger.value,
            )
            return made, self.releases.issue(good), refusal

    def _publish(
        self, rendering: Rendering, good: LastGood, attempt: ReloadAttempt, *, window: bool = False
    ) -> None:
        self.loaded = replace(self.loaded, good_at=time.time(), judge_at=math.inf)
        view = self.store.view
        is_new = not view.loaded or view.snapshot.etag != rendering.etag
        if is_new:
            snapshot = self._snapshot(rendering, good.release, time.time())
        else:
            snapshot = self._restamp(good.release)
            if attempt.repeats(self.loaded) and view.state is SourceState.FRESH:
                self.store.update(planned=rendering.planned)
                return  # the text was only touched
        result = Result.APPLIED if is_new else Result.UNCHANGED
        change = rendering.difference if is_new else None
        reload = attempt.done(result, snapshot.etag, error=None, change=change, window=window)
        self.store.update(
            reload,
            snapshot=snapshot,
            state=SourceState.FRESH,
            problems=rendering.problems,
            errors=rendering.errors,
            warnings=rendering.warnings,
            planned=rendering.planned,
        )
        what = f"{change or result} ({attempt.trigger}), etag {snapshot.etag}"
        served = f"{rendering.api_count} API, {rendering.socketio_count} Socket.io"
        counts = f"errors: {rendering.errors}, warnings: {rendering.warnings}"
        told = first_problems(rendering.problems)
        logger.info("%s, %.0f ms; %s; %s%s", what, reload.duration * 1000, served, counts, told)

    def _snapshot(self, rendering: Rendering, release: Release, loaded_at: float) -> Snapshot:
        date, version = release.last_modified, release.version
        return Snapshot.of(rendering, self.settings, loaded_at, date, version)

    def _restamp(self, release: Release) -> Snapshot:
        """Serve the same list with the date and the version of a release, if those differ."""
        snapshot = self.store.view.snapshot
        if (snapshot.last_modified, snapshot.ver) != (release.last_modified, release.version):
            snapshot = self._snapshot(snapshot.rendering, release, snapshot.loaded_at)
            self.store.update(snapshot=snapshot)
            logger.info("version %d, etag %s", snapshot.ver, snapshot.etag)
        return snapshot

    # -- texts that were found good before

    def follow_others(self, *, refused: bool = False) -> None:
        """Serve the host's last good list if another worker found one that is newer than ours.

        A worker that missed a good text before the file became bad would otherwise serve another
        list than its siblings for as long as the file stays bad. A worker that missed an edit and
        its rollback would serve the list with too low a version.

        Args:
            refused: Whether the source's text was just refused, so that it will not be served.
        """
        view = self.store.view
        good = self.releases.follow()
        if good is None:
            return
        if view.loaded and good.release.etag == view.snapshot.etag:
            self._restamp(good.release)
            return
        newer = not view.loaded or good.release.version > view.snapshot.ver
        reads = view.state is SourceState.FRESH and not refused
        if reads or not newer or not self.releases.trusted:
            return
        attempt = ReloadAttempt(Trigger.POLL, self.loaded, quietly=True)
        if (judged := self._judge_anew(good, attempt)) is not None:
            self.loaded = replace(self.loaded, good_at=good.saved_at)
            self._adopt(*judged[:2], "the last good list of this host")

    def _adopt(self, rendering: Rendering, good: LastGood, what: str) -> None:
        state = self.store.view.state if self.store.view.loaded else SourceState.STALE
        snapshot = self._snapshot(rendering, good.release, time.time())
        self.store.update(snapshot=snapshot, state=state)
        logger.info("etag %s, %s", snapshot.etag, what)
        # A newer text that was refused may be acceptable beside this list.
        self.loaded = replace(self.loaded, judge_at=time.time())

    def _judge_anew(self, good: LastGood, attempt: ReloadAttempt) -> Accepted | None:
        """Accept a saved text as of now; None if that fails, or the host has another text now."""
        releases = self.releases
        try:
            return self._accept(
                good, attempt, lambda: releases.last is not None and releases.last.data != good.data
            )
        except Exception as error:
            self._refuse(error, attempt, self.loaded.fingerprint)
            return None
        finally:
            if attempt.rendering is not EMPTY:
                self.store.update(planned=attempt.rendering.planned)

    @property
    def seconds_to_boundary(self) -> float:
        """Seconds until a window of the served text begins or ends; infinity without one."""
        return max(0.0, next_boundary(self.store.view.planned) - time.time())

    def pass_boundary(self) -> None:
        """Render and check the served text again, since a window has begun or ended.

        The source is not read: an entry's window ends even if the source is bad or cannot be
        reached.
        """
        good = self.releases.served
        attempt = ReloadAttempt(Trigger.POLL, self.loaded, quietly=True)
        judged = None if good is None else self._judge_anew(good, attempt)
        if judged is None:
            return
        rendering, good, refusal = judged
        # The status is about the newest text of the source, which may not be the served text.
        is_newest = self.loaded.identity == identity_of(good.data)
        if refusal is not None and is_newest:
            self._note(refusal, attempt)
        elif refusal is not None:
            logger.error("a change by a window is refused: %s", refusal)
        elif is_newest or self.store.view.state is SourceState.FRESH:
            self._publish(rendering, good, attempt, window=True)
        else:
            self._adopt(rendering, good, "since a window has begun or ended")

    # -- failures

    def _refuse(self, error: Exception, attempt: ReloadAttempt, fingerprint: Fingerprint) -> bool:
        """Note why a text is not served; return False if the source is read again in a moment."""
        before = attempt.before
        reason = error
        if not isinstance(reason, SourceError):  # the text did not cause it: a lack of memory, say
            reason = SourceError("", f"{type(error).__name__}: {error}")
            fingerprint = before.fingerprint
        if reason.code == Code.CHANGING:
            tries = (*before.outdated_at, attempt.started)[:LATE_TRIES]
            self.loaded = replace(before, outdated_at=tries)
            return False
        if self.loaded is before or not reason.code:  # else the identity of the text is kept
            identity = UNREACHABLE if reason.code == Code.UNREACHABLE else str(reason).encode()
            self.loaded = Loaded(fingerprint, identity, good_at=before.good_at)
        else:
            served = self.releases.served
            is_served = served is not None and served.data == attempt.rendering.data
            at = math.inf if is_served else next_boundary(attempt.rendering.planned)
            self.loaded = replace(self.loaded, judge_at=at)
        # A lack of descriptors is met 20 times a second until it is over, and noted once.
        again = isinstance(error, OSError)
        told = attempt.trigger is Trigger.POLL and str(reason) == self.store.view.reason
        if not ((attempt.quietly or again or told) and self.loaded.identity == before.identity):
            self._note(reason, attempt)
        return not again

    def _note(self, error: SourceError, attempt: ReloadAttempt) -> None:
        """Note why the source's text is not served: it is refused, or something has failed."""
        self.follow_others(refused=True)
        code = Code(error.code) if error.code else None
        view = self.store.view
        found = attempt.rendering
        changes: dict[str, Any] = {}
        if code is not None:
            problem = Problem.of(code, str(error), error.line, error.column)
            changes["problems"] = (problem, *found.problems)[:MAX_KEPT]
            changes["errors"] = 1 + found.errors
            changes["warnings"] = found.warnings
        if code is None or code in _UNREAD:
            result, state, what = Result.ERROR, SourceState.STALE, "failed"
        else:
            result, state, what = Result.REJECTED, SourceState.REJECTED, "refused"
        reload = attempt.done(result, view.snapshot.etag, error=str(error), code=code)
        self.store.update(reload, state=state if view.loaded else SourceState.EMPTY, **changes)
        serving = "serving nothing"
        if view.loaded:
            good_at = rfc3339(self.loaded.good_at)
            serving = f"still serving etag {view.snapshot.etag}, the last good list of {good_at}"
        told = first_problems(found.problems)
        logger.error("%s (%s): %s; %s%s", what, attempt.trigger, error, serving, told)
