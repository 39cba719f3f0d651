"""SnapshotStore holds the served snapshot, the state of the source and the latest reloads.

A snapshot is a rendered list with its bytes and headers, ready to be sent.

Readers read ``store.view`` once and get a consistent state without a lock. Each change, mostly by
the reload thread, replaces the whole view in one assignment.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from email.utils import formatdate
from enum import StrEnum
from typing import Any, NamedTuple, NotRequired, TypedDict

from ... import signals
from ...model.endpoint import Difference, rfc3339
from ..parsing.attributes import PlannedChange
from ..parsing.problems import Problem, ProblemRecord
from ..parsing.render import Rendering
from ..settings import Settings
from .answers import SECURITY_HEADERS, HeaderFields, Headers

HISTORY = 20


class Variant(NamedTuple):
    """One encoding of the body.

    Attributes:
        etag: The entity tag as it stands in the header, with its quotes.
        body: The bytes on the wire.
        headers: Headers of a 200 answer.
        not_modified: Headers of a 304 answer.
    """

    etag: str
    body: bytes
    headers: HeaderFields
    not_modified: HeaderFields

    @classmethod
    def of(cls, etag: str, body: bytes, own: Headers, common: Headers) -> "Variant":
        """Make a variant from the headers of a 200 answer only, and those of a 304 answer too.

        A 304 repeats the caching headers only; caches have the others (RFC 9110, 15.4.5).
        """
        common = (("ETag", etag), *common)
        headers = (*own, ("Content-Length", str(len(body))), *common)
        return cls(etag, body, HeaderFields(headers), HeaderFields(common))


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One list, ready to be served.

    Attributes:
        rendering: The rendered list.
        loaded_at: POSIX time at which this process began to serve the list.
        last_modified: POSIX seconds of ``Last-Modified``; rises whenever the content changes.
        last_modified_text: The same instant as an HTTP date.
        plain: The uncompressed variant.
        gzip: The compressed variant, or None if gzip would not make the body smaller enough.
        ver: The version in the signed list, in milliseconds; never falls when the content
            changes.
    """

    rendering: Rendering
    loaded_at: float
    last_modified: int
    last_modified_text: str
    plain: Variant
    gzip: Variant | None
    ver: int = 0

    @property
    def etag(self) -> str:
        """The content hash, equal on every worker and node."""
        return self.plain.etag[1:-1]

    @classmethod
    def of(
        cls,
        rendering: Rendering,
        settings: Settings,
        loaded_at: float,
        last_modified: int,
        ver: int = 0,
    ) -> "Snapshot":
        """Make the snapshot of a rendering that may be served.

        An empty list gets ``no-store``, because it only stands for a moment without a list.

        Args:
            rendering: The rendered list.
            settings: With a signing key, ``Accept`` selects the plain or the signed list at the
                same URL, so responses vary by ``Accept``. With access tokens, responses vary by
                ``Authorization`` and are ``private``.
            loaded_at: POSIX time at which this process began to serve the list.
            last_modified: POSIX seconds for ``Last-Modified``.
            ver: Version for the signed list, in milliseconds.
        """
        common = common_headers(settings, settings.max_age if rendering.usable else None)
        date = formatdate(last_modified, usegmt=True)
        dated = (("Content-Type", "application/json"), ("Last-Modified", date))
        plain, gzip = Variant.of(f'"{rendering.etag}"', rendering.body, dated, common), None
        if rendering.gzip is not None:
            encoded = (*dated, ("Content-Encoding", "gzip"))
            gzip = Variant.of(f'"{rendering.etag}-gzip"', rendering.gzip, encoded, common)
        return cls(rendering, loaded_at, last_modified, date, plain, gzip, ver)


def common_headers(settings: Settings, max_age: int | None) -> Headers:
    """Return the headers of both the 200 and the 304 answer, but for the ETag.

    Args:
        settings: The settings; see ``Snapshot.of``.
        max_age: Seconds for which a cache may keep the list; None forbids caches.
    """
    vary = ["Accept"] if settings.signing_key_file is not None else []
    vary += ["Accept-Encoding", "Authorization"] if settings.guarded else ["Accept-Encoding"]
    private = "private, " if settings.guarded else ""
    caching = "no-store" if max_age is None else f"{private}max-age={max_age}"
    return (("Cache-Control", caching), ("Vary", ", ".join(vary)), *SECURITY_HEADERS)


class SourceState(StrEnum):
    """How the served list relates to the source.

    ``fresh``: the list is the one that the source holds. ``rejected``: the source's newest text
    was refused, and the last good list is served. ``stale``: the source cannot be read, and the
    last good list is served. ``empty``: no good list was ever seen.
    """

    FRESH = "fresh"
    STALE = "stale"
    REJECTED = "rejected"
    EMPTY = "empty"


class Trigger(StrEnum):
    """The cause of a reload."""

    START = "start"
    WATCH = "watch"
    POLL = "poll"
    SIGHUP = "sighup"
    ETCD = "etcd"
    API = "api"


class Result(StrEnum):
    """The result of a reload."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REJECTED = "rejected"
    ERROR = "error"


class ReloadDocument(TypedDict):
    """A reload as the status document shows it; ``at`` is RFC 3339. See ``Reload``."""

    at: str
    trigger: str
    result: str
    error: str | None
    duration_seconds: float


class HistoryEntry(ReloadDocument):
    """A reload in the history of the status document."""

    etag: str | None
    code: NotRequired[str | None]
    change: NotRequired[dict[str, Any]]
    window: NotRequired[bool]


@dataclass(frozen=True, slots=True)
class Reload:
    """One reload of the source that is worth noting.

    Attributes:
        at: POSIX time of its start.
        trigger: The cause of the reload.
        result: The result of the reload.
        error: Why the text was refused, or None.
        duration: How long the reload took, in seconds.
        etag: Content hash of the list that is served after the reload; None if it is not known.
        change: The difference to the list before, or None if the list did not change.
        code: The problem's code if a text was refused or the source did not answer, or None.
        window: Whether a window of an entry has begun or ended, and the text is the same.
    """

    at: float
    trigger: Trigger
    result: Result
    error: str | None
    duration: float
    etag: str | None
    change: Difference | None = None
    code: str | None = None
    window: bool = False

    def as_dict(self) -> HistoryEntry:
        """Return the JSON object for the status."""
        entry: HistoryEntry = {
            "at": rfc3339(self.at),
            "trigger": self.trigger.value,
            "result": self.result.value,
            "error": self.error,
            "duration_seconds": round(self.duration, 6),
            "etag": self.etag,
            "code": self.code,
        }
        if self.change is not None:
            entry["change"] = self.change._asdict()
        if self.window:
            entry["window"] = True
        return entry


class ServedDocument(TypedDict):
    """What a worker or the host serves, as the status document shows it.

    ``counts`` has the number of endpoints of each kind, ``problem_counts`` the exact numbers of
    problems; at most 100 problems are named.
    """

    etag: str
    state: str
    loaded_at: str
    counts: dict[str, int]
    complete: bool
    problem_counts: dict[str, int]
    problems: list[ProblemRecord]
    planned: list[dict[str, str]]


@dataclass(frozen=True, slots=True)
class ServerState:
    """A consistent view of the store at one moment.

    Attributes:
        snapshot: The served snapshot.
        state: See ``SourceState``.
        reason: Why the state is not ``fresh``, or None.
        problems: The first problems in the newest text that was read.
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
        """Whether a good list was ever seen."""
        return self.state is not SourceState.EMPTY

    @property
    def complete(self) -> bool:
        """Whether a list is served and no entry of the newest text was left out of it."""
        return self.loaded and self.errors == 0


class SnapshotStore:
    """Holds the view; each change replaces the view in one step, and then sends a signal.

    Args:
        empty: The snapshot to serve until a good list is seen.
        on_reload: Called with each reload, for instance to count it.

    Attributes:
        view: The current view.
        closing: Whether the process shuts down, so that no request may be parked any more.
        listeners: Functions that are called, in any thread, when the served list changes and when
            the process shuts down. They must be safe in a signal handler.
    """

    def __init__(
        self, empty: Snapshot, on_reload: Callable[[Reload], None] = lambda _: None
    ) -> None:
        self.view = ServerState(empty)
        self.closing = False
        self.listeners: set[Callable[[], None]] = set()
        self._on_reload = on_reload
        self._lock = threading.Lock()

    def close(self) -> None:
        """Wake all parked requests, and let no request park again; safe in a signal handler."""
        self.closing = True
        self.wake()

    def wake(self) -> None:
        """Wake all parked requests: the served list has changed, or the process shuts down."""
        for listener in tuple(self.listeners):
            listener()

    def update(self, reload: Reload | None = None, **changes: Any) -> None:
        """Replace the view, wake the parked requests if the list has changed, and send a signal.

        A refused text or an unreadable source sends ``config_rejected``, and a new list sends
        ``config_reloaded``.

        Args:
            reload: The reload that has caused the update, for the history; None without one.
            changes: The members of the view that change.
        """
        with self._lock:
            before = self.view
            if reload is not None:
                changes |= {"history": (reload, *before.history)[:HISTORY], "reason": reload.error}
            view = self.view = replace(before, **changes)
        if view.snapshot is not before.snapshot:
            self.wake()
        if reload is not None:
            self._on_reload(reload)
        previous = before.snapshot if before.loaded else None
        if reload is not None and reload.error is not None:
            signal = signals.config_rejected
            about: dict[str, Any] = {"reason": reload.error, "problems": view.problems}
        elif view.loaded and (previous is None or view.snapshot.etag != previous.etag):
            signal = signals.config_reloaded
            about = {"snapshot": view.snapshot, "previous": previous}
        else:
            return
        if signal.receivers:
            trigger = Trigger.POLL if reload is None else reload.trigger
            signals.send(signal, self, trigger=trigger, **about)
