"""Loaded is what the reloader remembers of its last read; ReloadAttempt is one read in progress."""

import math
import time
from dataclasses import dataclass
from typing import Any

from ..parsing.render import Rendering
from ..parsing.window import PlannedChange
from ..serving.store import Reload, Result, Trigger
from ..sources.file import Fingerprint, Order, SourceText
from ..state.release import LastGood, Release

#: Outdated reads in a row, and seconds since the first of them, after which a source that changes
#: all the time is read and rendered under the lock.
VAIN_TRIES = 3
VAIN_SECONDS = 2.0
#: Identity of every outage, so that an outage is noted once although its messages differ.
UNREACHABLE = b"unreachable"


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the reloader remembers of its last read of the source; replaced whole.

    Attributes:
        signature: Fingerprint of the source right before it was read.
        identity: Digest of the text that was read, or the reason why no text could be read.
        tries: Reads in a row whose text was outdated before its release was issued.
        vain_since: Monotonic seconds at the start of the first of these reads.
        confirmed: Place in etcd that the host's record named at the last of these reads.
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
    confirmed: Order | None = None
    good_at: float = 0.0
    seen_good: bool = False
    planned: tuple[PlannedChange, ...] = ()
    next_boundary: float = math.inf

    @property
    def reachable(self) -> bool:
        """Whether the source could be reached."""
        return self.identity != UNREACHABLE

    @property
    def in_vain(self) -> bool:
        """Whether the source changes so often that it has to be rendered under the lock."""
        late = time.monotonic() - self.vain_since > VAIN_SECONDS
        return self.tries >= VAIN_TRIES or (self.tries > 0 and late)


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
        return LastGood(
            text.data,
            Release(made.etag, max(text.mtime, made.boundary)),
            made.api_count,
            made.socketio_count,
            text.order,
            made.boundary,
            self.at,
            self.trigger.value,
        )

    def done(self, result: Result, etag: str, **details: Any) -> Reload:
        """End the attempt with a result, and return its record; see ``Reload`` for the details."""
        duration = time.monotonic() - self.started
        return Reload(self.at, self.trigger, result, duration=duration, etag=etag, **details)
