"""Reloader reads the source, renders and checks its text, and publishes the list."""

import contextlib
import logging
import time
from dataclasses import replace
from typing import Any

from ...errors import SourceError
from ...model.codec import rfc3339
from ...model.endpoint import Kind
from ..parsing.problems import MAX_KEPT, Code, Problem, first_problems
from ..parsing.render import Rendering, render, render_body
from ..serving.snapshot import Snapshot
from ..serving.store import Result, SnapshotStore, SourceState, Trigger
from ..settings import Settings
from ..sources import Source
from ..sources.file import Fingerprint, SourceText, detached
from ..state.release import LastGood, Release
from ..state.releases import CriticalSection, ReleaseStore
from .guard import Replaced, check_acceptable, count, with_planned_refusals
from .loaded import UNREACHABLE, VAIN_TRIES, Loaded, ReloadAttempt
from .short_turns import short_turns

logger = logging.getLogger(__name__)

#: Limit of the planned changes that the status shows.
MAX_PLANNED = 20
#: Seconds until a boundary is tried again after a failure such as a lack of memory.
BOUNDARY_RETRY = 5.0


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
        self._note_failure(message, attempt, SourceError(Code.CHANGING, message))

    def reload(
        self, trigger: Trigger, *, quietly: bool = False, settled: Fingerprint | None = None
    ) -> bool:
        """Read the source, and serve its list if that is acceptable.

        Args:
            trigger: The cause of the reload.
            quietly: Note nothing if nothing has changed since the last read.
            settled: Fingerprint of the source when the trigger decided to read it; None skips
                the comparison.

        Returns:
            False if the source has changed meanwhile, or could not be read for lack of
            descriptors; then the caller reloads again in a moment.
        """
        signature = self.source.signature()
        if settled is not None and signature.contents != settled.contents:
            return False
        attempt = ReloadAttempt(trigger, self.loaded, quietly=quietly)
        try:
            return self._reload(attempt, signature)
        except SourceError as error:
            return self._reject(error, attempt, signature)
        except Exception as error:
            return self._fail(error, attempt)

    # -- the steps of a reload

    def _reload(self, attempt: ReloadAttempt, signature: Fingerprint) -> bool:
        """Read, render, check, issue a release with the text saved, and publish."""
        releases, late = self.releases, attempt.before.in_vain
        with releases.section(rendering=True) if late else contextlib.nullcontext():
            text = self.source.read()
            changed = text.signature.contents != signature.contents
            # A writer may have been at work since the trigger decided to read.
            if (late or changed) and (
                self.source.being_written() or not self.source.is_current(text)
            ):
                return False
            self._remember(attempt, text.signature, text.identity)
            if self._is_settled(text, attempt):
                return True
            at = self._moment()
            rendering = attempt.rendering = self._render(text.data, at)
            with releases.section() as section:
                behind = releases.boundary > at
                if behind or (not late and self._is_outdated(text, section, attempt)):
                    return False
                self._check(rendering, text.data, section)
                good = releases.issue(section, attempt.good(text, rendering))
        self._publish(rendering, good.release, attempt)
        if text.detached:
            self._note_failure(detached(self.source), attempt, code=Code.DETACHED)
        return True

    def _remember(self, attempt: ReloadAttempt, signature: Fingerprint, identity: bytes) -> None:
        self.loaded = replace(
            attempt.before, signature=signature, identity=identity, tries=0, confirmed=None
        )

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
        planned = rendering.planned[:MAX_PLANNED]
        boundary = rendering.next_boundary
        self.loaded = replace(self.loaded, planned=planned, next_boundary=boundary)

    def _check(self, rendering: Rendering, data: bytes, section: CriticalSection) -> None:
        """Raise ``SourceError`` if the list may not replace the host's last list."""
        last, replaced = section.last, None
        if last is not None and last.release.etag != rendering.etag:
            replaced = Replaced({Kind.API: last.api, Kind.SOCKETIO: last.socketio}, last.data)
            if self.settings.max_removed < 1:
                body = render_body(last.data, self.settings.rules, last.boundary)
                replaced = replaced._replace(body=body)
        check_acceptable(rendering, self.settings, data, replaced)

    def _is_outdated(
        self, text: SourceText, section: CriticalSection, attempt: ReloadAttempt
    ) -> bool:
        """Whether the source may have another text by now; if so, count the read as outdated."""
        before, order = attempt.before, section.last and section.last.order
        if self.source.is_current(text) and not section.is_behind(text.order, before.confirmed):
            return False
        since = before.vain_since if before.tries else attempt.started
        tries = before.tries + 1
        self.loaded = replace(before, tries=tries, vain_since=since, confirmed=order)
        return True

    def _is_settled(self, text: SourceText, attempt: ReloadAttempt) -> bool:
        """Whether the same text was read before, and no new release is needed.

        The same text gets a release if it was touched or the host released another list.
        """
        if not attempt.repeats(self.loaded):
            return False
        view, host = self.store.view, self.releases.follow()
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
        counts = f"{count(rendering.errors, 'error')}, {count(rendering.warnings, 'warning')}"
        counts += first_problems(rendering.problems)
        if change is None:
            logger.info("unchanged (%s), etag %s; %s", attempt.trigger, snapshot.etag, counts)
            return
        served = f"{snapshot.api_count} API, {snapshot.socketio_count} Socket.io"
        how = f"{attempt.trigger}, {reload.duration * 1000:.0f} ms"
        logger.info("%s, etag %s (%s); %s; %s", change, snapshot.etag, how, served, counts)

    def _snapshot(self, rendering: Rendering, release: Release) -> Snapshot:
        return Snapshot.of(
            rendering,
            last_modified=release.last_modified,
            loaded_at=time.time(),
            max_age=self.settings.max_age,
            ver=release.version,
            negotiated=self.settings.signing_key_file is not None,
            guarded=self.settings.guarded,
        )

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
            judged = self._judge_anew(good)
        except Exception as error:
            logger.error("the last good list cannot be used: %s", error)
            return None
        self.loaded = replace(self.loaded, good_at=good.saved_at)
        return judged and self._snapshot(*judged)

    def _judge_anew(
        self, good: LastGood, attempt: ReloadAttempt | None = None
    ) -> tuple[Rendering, Release] | None:
        """Render and check a saved text as of now, and issue its release.

        Args:
            good: The text.
            attempt: The attempt that ends if the guard refuses the list. Without an attempt, the
                list of the text's last boundary is used then.

        Returns:
            None if the host has released another text meanwhile.
        """
        rendering = self._render(good.data, self._moment())
        self._plan(rendering)
        with self.releases.section() as section:
            if section.last is not None and section.last.data != good.data:
                return None
            try:
                self._check(rendering, good.data, section)
            except SourceError:
                if attempt is not None:
                    attempt.rendering = rendering
                    raise
                rendering = self._render(good.data, good.boundary)
            # A boundary counts as a change at its own instant.
            modified_at = max(good.release.modified_at, rendering.boundary)
            renewed = good._replace(
                release=Release(rendering.etag, modified_at),
                api=rendering.api_count,
                socketio=rendering.socketio_count,
                boundary=rendering.boundary,
                saved_at=time.time(),
                trigger=good.trigger if attempt is None else attempt.trigger.value,
            )
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
            self._note_failure(str(error), attempt, error)
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
            refusal = None if unreachable else error
            self._note_failure(str(error), attempt, refusal, Code(error.code))
        return True

    def _fail(self, error: Exception, attempt: ReloadAttempt) -> bool:
        """Note a failure that the text did not cause, such as a lack of descriptors."""
        reason = f"{type(error).__name__}: {error}"
        self.loaded = replace(attempt.before, identity=reason.encode())
        if self.loaded.identity != attempt.before.identity:
            self._note_failure(reason, attempt)
        return not isinstance(error, OSError)

    def _note_failure(
        self,
        reason: str,
        attempt: ReloadAttempt,
        refusal: SourceError | None = None,
        code: Code | None = None,
    ) -> None:
        """Note why the source's text is not served: it is refused, or something has failed."""
        view, rendering, changes = self.store.view, attempt.rendering, dict[str, Any]()
        snapshot, found = view.snapshot, rendering.problems if rendering else ()
        result, state = Result.ERROR, SourceState.STALE
        if not view.loaded and (good := self.releases.last_good()) is not None:
            snapshot = self._from_disk(good) or snapshot
        if refusal is not None:
            code = Code(refusal.code)
            problem = Problem(refusal.line, refusal.column, code.severity, code, reason, "")
            changes["problems"] = (problem, *found)[:MAX_KEPT]
            changes["errors"] = 1 + (rendering.errors if rendering else 0)
            changes["warnings"] = rendering.warnings if rendering else 0
            result = Result.REJECTED
            state = SourceState.REJECTED if self.loaded.seen_good else SourceState.STALE
        if not self.loaded.seen_good and not view.loaded and snapshot is view.snapshot:
            state = SourceState.EMPTY
        reload = attempt.done(result, snapshot.etag, error=reason, code=code)
        planned = self.loaded.planned
        self.store.refuse(reload, snapshot=snapshot, state=state, planned=planned, **changes)
        self.follow_others()
        view = self.store.view
        serving = f"still serving etag {view.snapshot.etag}" if view.loaded else "serving nothing"
        if view.loaded and not self.loaded.seen_good:
            serving += f", the last good list of {rfc3339(self.loaded.good_at)}"
        logger.error(
            "%s (%s): %s; %s%s",
            "failed" if refusal is None else "refused",
            attempt.trigger,
            reason,
            serving,
            "" if refusal is None else first_problems(found),
        )
