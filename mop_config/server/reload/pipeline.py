"""Reloader reads the source, renders and checks its text, and publishes the list."""

import contextlib
import hashlib
import logging
import time
from dataclasses import replace
from typing import Any

from ...errors import SourceError
from ...model.codec import rfc3339
from ...model.endpoint import Kind
from ..parsing.problems import MAX_KEPT, Code, Problem, first_problems
from ..parsing.render import EMPTY_BODY, Rendering, render, render_body
from ..parsing.window import PlannedChange
from ..serving.snapshot import Snapshot
from ..serving.store import Reload, Result, SnapshotStore, SourceState, Trigger
from ..settings import Settings
from ..sources import Source
from ..sources.file import Fingerprint, SourceText, detached
from ..state.last_good import LastGood
from ..state.release import Order, Release
from ..state.releases import CriticalSection, ReleaseRequest, ReleaseStore
from .guard import Replaced, check_acceptable, with_planned_refusals
from .loaded import VAIN_TRIES, Loaded, ReloadAttempt
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
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        store: SnapshotStore,
        releases: ReleaseStore,
    ) -> None:
        self.source = source
        self.settings = settings
        self.store = store
        self.loaded = Loaded()
        self._releases = releases

    # -- when to read

    def start(self, *, may_wait: bool = False) -> None:
        """Load for the first time, falling back to the last good list on disk.

        Args:
            may_wait: Whether a reload follows soon. Then a file that is being written is left
                alone until its writer has closed it, if there is a list to serve.
        """
        if may_wait and self._releases.last_good() and self.source.being_written():
            self.loaded = Loaded(self.source.signature(), interrupted=True)
            self.give_up_waiting(Trigger.START)
        elif not any(self.reload(Trigger.START) for _ in range(VAIN_TRIES + 1)):
            self.give_up_waiting(Trigger.START)
        self._releases.archive()

    def catch_up(self) -> None:
        """Read the source if it has changed since the last read, while no thread watched it."""
        if self.source.signature() == self.loaded.signature:
            return
        interrupted = self.store.view.loaded and bool(self.source.being_written())
        self.loaded = replace(self.loaded, interrupted=interrupted)
        if not interrupted:
            self.reload(Trigger.POLL, quietly=True)

    def replace_records(self, releases: ReleaseStore) -> None:
        """Use the records of the user that this process now runs as, and load again."""
        self._releases = releases
        self.reload(Trigger.START)

    def give_up_waiting(self, trigger: Trigger) -> None:
        """Report that the source keeps changing, so that it cannot be read yet."""
        message = f"{self.source} keeps changing: waiting until it rests"
        attempt = ReloadAttempt(trigger, self.loaded, self.loaded.signature, quietly=False)
        self._refuse(SourceError(Code.CHANGING, message), attempt)

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
        attempt = ReloadAttempt(trigger, self.loaded, signature, quietly=quietly)
        try:
            return self._reload(attempt)
        except SourceError as error:
            return self._reject(error, attempt)
        except Exception as error:
            return self._fail(error, attempt)

    # -- the steps of a reload

    def _reload(self, attempt: ReloadAttempt) -> bool:
        """Read, render, check, issue a release with the text saved, and publish."""
        late = attempt.before.in_vain
        with self._releases.section(rendering=True) if late else contextlib.nullcontext():
            text = self.source.read()
            changed = text.signature.contents != attempt.signature.contents
            if (late or changed) and not self._is_whole(text):
                return False
            self._look(attempt, text.signature, _identity(text))
            if attempt.repeats(self.loaded):
                return self._confirm(text, attempt)
            at = self._moment()
            rendering = attempt.rendering = self._render(text.data, at)
            with self._releases.section() as section:
                behind = self._releases.boundary > at
                if behind or (not late and self._is_outdated(text, section, attempt)):
                    return False
                replaced = self._replaced(section, rendering.etag)
                check_acceptable(rendering, self.settings, text.data, replaced)
                good = self._releases.issue(
                    section,
                    _release_request(text, rendering, attempt, rendering.boundary),
                    attempt.at,
                )
        self._publish(rendering, good.record.release, attempt)
        if text.detached:
            self._note_error(detached(self.source), attempt, Code.DETACHED)
        return True

    def _is_whole(self, text: SourceText) -> bool:
        """Whether no writer was at work on the text, which has changed since its trigger."""
        return not self.source.being_written() and self.source.is_current(text)

    def _look(self, attempt: ReloadAttempt, signature: Fingerprint, identity: bytes) -> None:
        reachable = identity != _UNREACHABLE
        self.loaded = replace(
            attempt.before,
            signature=signature,
            identity=identity,
            reachable=reachable,
            interrupted=False,
            tries=0,
            confirmed=None,
        )

    def _moment(self) -> float:
        """Return the time at which windows are evaluated, never before a boundary already passed.

        So a clock that is set back does not bring expired entries back.
        """
        return max(time.time(), self._releases.boundary)

    def _render(self, data: bytes, at: float, served: bytes | None = None) -> Rendering:
        with short_turns():
            body = self.store.view.snapshot.plain.body if served is None else served
            rendering = render(data, self.settings.rules, body, at)
        return with_planned_refusals(rendering, self.settings)

    def _replaced(self, section: CriticalSection, etag: str) -> Replaced | None:
        """Return the host's last list; None if there is no list, or if it is the same list."""
        last, snapshot = section.last, self.store.view.snapshot
        if last is None or last.record.release.etag == etag:
            return None
        counts = {Kind.API: last.record.api, Kind.SOCKETIO: last.record.socketio}
        if self.settings.max_removed >= 1:
            return Replaced(counts)
        if last.record.release.etag == snapshot.etag:
            return Replaced(counts, last.data, snapshot.plain.body)
        body = render_body(last.data, self.settings.rules, last.record.boundary)
        return Replaced(counts, last.data, body)

    def _is_outdated(
        self, text: SourceText, section: CriticalSection, attempt: ReloadAttempt
    ) -> bool:
        """Whether the source may have another text by now; if so, count the read as outdated."""
        before = attempt.before
        if self.source.is_current(text) and not section.is_behind(_order(text), before.confirmed):
            return False
        self.loaded = replace(
            before,
            tries=before.tries + 1,
            vain_since=before.vain_since if before.tries else attempt.started,
            confirmed=section.last and section.last.record.order,
        )
        return True

    def _confirm(self, text: SourceText, attempt: ReloadAttempt) -> bool:
        """Issue a release for the same text if it was touched or the host released another list."""
        view = self.store.view
        host = self._releases.follow()
        disputed = host is not None and host.record.release.etag != view.snapshot.etag
        moved = text.signature != attempt.before.signature or disputed
        if not moved or view.state is not SourceState.FRESH:
            return True
        with self._releases.section() as section:
            if self._is_outdated(text, section, attempt):
                return False
            served = self._releases.served
            boundary = 0.0 if served is None else served.record.boundary
            if self._releases.boundary > boundary:
                return True  # another worker has passed a boundary; this worker will do so soon
            good = self._releases.issue(
                section, _release_request(text, view.snapshot, attempt, boundary), attempt.at
            )
        self._restamp(good.record.release)
        return True

    def _publish(self, rendering: Rendering, release: Release, attempt: ReloadAttempt) -> None:
        self.loaded = replace(
            self.loaded,
            good_at=time.time(),
            from_disk=None,
            seen_good=True,
            next_boundary=rendering.next_boundary,
        )
        counts = f"{_count(rendering.errors, 'error')}, {_count(rendering.warnings, 'warning')}"
        counts += first_problems(rendering.problems)
        changes = {
            "state": SourceState.FRESH,
            "problems": rendering.problems,
            "errors": rendering.errors,
            "warnings": rendering.warnings,
            "planned": rendering.planned[:MAX_PLANNED],
        }
        view = self.store.view
        if view.loaded and view.snapshot.etag == rendering.etag:
            snapshot = self._restamp(release)
            self.store.publish(snapshot, attempt.done(Result.UNCHANGED, snapshot.etag), **changes)
            logger.info("unchanged (%s), etag %s; %s", attempt.trigger, snapshot.etag, counts)
            return
        snapshot = self._snapshot(rendering, release)
        reload = attempt.done(Result.APPLIED, snapshot.etag, change=rendering.difference)
        self.store.publish(snapshot, reload, **changes)
        logger.info(
            "%s, etag %s (%s, %.0f ms); %d API, %d Socket.io; %s",
            rendering.difference,
            snapshot.etag,
            attempt.trigger,
            reload.duration * 1000,
            snapshot.api_count,
            snapshot.socketio_count,
            counts,
        )

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

    # -- the state folder

    def follow_others(self) -> None:
        """Serve the host's last good list if another worker found one that is newer than ours.

        A worker that missed a good text before the file became bad would otherwise serve another
        list than its siblings for as long as the file stays bad. A worker that missed an edit and
        its rollback would serve the list with too low a version.
        """
        self._releases.archive()
        view, good = self.store.view, self._releases.follow()
        if good is None:
            return
        release = good.record.release
        if view.loaded and release.etag == view.snapshot.etag:
            self._restamp(release)
            return
        if view.state is SourceState.FRESH or not self._releases.trusted:
            return
        if view.loaded and release.version <= view.snapshot.ver:
            return
        adopted = self._from_disk(good)
        if adopted is not None:
            self.store.adopt(*adopted)
            logger.info("etag %s, which another worker has found good", adopted[0].etag)

    def _from_disk(self, good: LastGood) -> tuple[Snapshot, tuple[PlannedChange, ...]] | None:
        """Make the snapshot of a saved text, or return None if the text cannot be used."""
        try:
            rendering, release = self._judge_anew(good)
        except Exception as error:
            logger.error("the last good list cannot be used: %s", error)
            return None
        self.loaded = replace(
            self.loaded,
            good_at=good.saved_at,
            from_disk=good.saved_at,
            next_boundary=rendering.next_boundary,
        )
        return self._snapshot(rendering, release), rendering.planned[:MAX_PLANNED]

    def _judge_anew(self, good: LastGood) -> tuple[Rendering, Release]:
        """Render a saved text as of now, or of its boundary if the guard refuses; release it."""
        saved = good.record
        rendering = self._render(good.data, self._moment(), EMPTY_BODY)
        with self._releases.section() as section:
            try:
                replaced = self._replaced(section, rendering.etag)
                check_acceptable(rendering, self.settings, good.data, replaced)
            except SourceError:
                now = rendering
                rendering = self._render(good.data, saved.boundary, EMPTY_BODY)
                rendering = rendering._replace(planned=now.planned)
            request = _renewal(good, rendering, good.trigger)
            issued = self._releases.issue(section, request, time.time(), saved.release)
        return rendering, issued.record.release

    # -- boundaries of windows

    @property
    def seconds_to_boundary(self) -> float:
        """Seconds until a window of the served text begins or ends; infinity without one."""
        return max(0.0, self.loaded.next_boundary - time.time())

    def pass_boundary(self) -> None:
        """Render and check the served text again, since a window has begun or ended.

        The source is not read: an entry's window ends even if the source is bad or cannot be
        reached.
        """
        good = self._releases.served
        if good is None:
            return
        self.loaded = replace(self.loaded, next_boundary=time.time() + BOUNDARY_RETRY)
        attempt = ReloadAttempt(Trigger.POLL, self.loaded, self.loaded.signature, quietly=False)
        try:
            self._pass_boundary(good, attempt)
        except SourceError as error:
            self._refuse(error, attempt)
        except Exception as error:
            self._fail(error, attempt)

    def _pass_boundary(self, good: LastGood, attempt: ReloadAttempt) -> None:
        rendering = attempt.rendering = self._render(good.data, self._moment())
        self.loaded = replace(self.loaded, next_boundary=rendering.next_boundary)
        with self._releases.section() as section:
            if section.last is not None and section.last.data != good.data:
                return  # the next reload finds the newer text
            replaced = self._replaced(section, rendering.etag)
            check_acceptable(rendering, self.settings, good.data, replaced)
            request = _renewal(good, rendering, attempt.trigger.value)
            issued = self._releases.issue(section, request, attempt.at)
        if self.store.view.state is SourceState.FRESH:
            self._publish(rendering, issued.record.release, attempt)
        else:
            snapshot = self._snapshot(rendering, issued.record.release)
            self.store.adopt(snapshot, rendering.planned[:MAX_PLANNED])
            logger.info("etag %s: a window has begun or ended", snapshot.etag)

    # -- failures

    def _reject(self, error: SourceError, attempt: ReloadAttempt) -> bool:
        if error.code == Code.CHANGING:
            return False
        unreachable = error.code == Code.UNREACHABLE
        identity = _UNREACHABLE if unreachable else str(error).encode()
        if attempt.rendering is None:  # else the identity of the text that was read is kept
            self._look(attempt, attempt.signature, identity)
        if attempt.repeats(self.loaded):
            return True
        if unreachable:
            self._note_error(str(error), attempt, Code.UNREACHABLE)
        else:
            self._refuse(error, attempt)
        return True

    def _fail(self, error: Exception, attempt: ReloadAttempt) -> bool:
        """Note a failure that the text did not cause, such as a lack of descriptors."""
        reason = f"{type(error).__name__}: {error}"
        self.loaded = replace(attempt.before, identity=reason.encode())
        if self.loaded.identity != attempt.before.identity:
            self._note_error(reason, attempt)
        return not isinstance(error, OSError)

    def _refuse(self, error: SourceError, attempt: ReloadAttempt) -> None:
        code, rendering = Code(error.code), attempt.rendering
        problem = Problem(error.line, error.column, code.severity, code, str(error), "")
        found = rendering.problems if rendering else ()
        self._note_failure(
            attempt.done(Result.REJECTED, None, error=str(error), code=code),
            problems=(problem, *found)[:MAX_KEPT],
            errors=1 + (rendering.errors if rendering else 0),
            warnings=rendering.warnings if rendering else 0,
        )
        self._log_failure("refused", str(error), attempt, first_problems(found))

    def _note_error(self, reason: str, attempt: ReloadAttempt, code: str | None = None) -> None:
        self._note_failure(attempt.done(Result.ERROR, None, error=reason, code=code))
        self._log_failure("failed", reason, attempt, "")

    def _note_failure(self, reload: Reload, **changes: Any) -> None:
        view = self.store.view
        snapshot = view.snapshot
        if not view.loaded and (good := self._releases.last_good()) is not None:
            snapshot, changes["planned"] = self._from_disk(good) or (snapshot, ())
        if self.loaded.seen_good:
            refused = reload.result is Result.REJECTED
            changes["state"] = SourceState.REJECTED if refused else SourceState.STALE
        elif view.loaded or snapshot is not view.snapshot:
            changes["state"] = SourceState.STALE
        self.store.refuse(replace(reload, etag=snapshot.etag), snapshot=snapshot, **changes)
        self.follow_others()

    def _log_failure(self, verb: str, reason: str, attempt: ReloadAttempt, more: str) -> None:
        view = self.store.view
        serving = f"still serving etag {view.snapshot.etag}" if view.loaded else "serving nothing"
        if self.loaded.from_disk is not None:
            serving += f", the last good list of {rfc3339(self.loaded.from_disk)}"
        logger.error("%s (%s): %s; %s%s", verb, attempt.trigger, reason, serving, more)


#: Identity of every outage, so that an outage is noted once although its messages differ.
_UNREACHABLE = b"unreachable"


def _identity(text: SourceText) -> bytes:
    return hashlib.sha256(text.data).digest() + b"detached" * text.detached


def _release_request(
    text: SourceText, made: Rendering | Snapshot, attempt: ReloadAttempt, boundary: float
) -> ReleaseRequest:
    return ReleaseRequest(
        made.etag,
        made.api_count,
        made.socketio_count,
        max(text.mtime, boundary),
        _order(text),
        text.data,
        attempt.trigger.value,
        boundary,
    )


def _renewal(good: LastGood, rendering: Rendering, trigger: str) -> ReleaseRequest:
    """Request a release for a saved text; a boundary counts as a change at its own instant."""
    return ReleaseRequest(
        rendering.etag,
        rendering.api_count,
        rendering.socketio_count,
        max(good.record.release.modified_at, rendering.boundary),
        good.record.order,
        good.data,
        trigger,
        rendering.boundary,
    )


def _order(text: SourceText) -> Order | None:
    return Order(text.cluster, text.revision) if text.revision else None


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
