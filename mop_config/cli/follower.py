"""How a served list is followed: what an answer means, and when to ask again. Pure.

A server that knows long polls (``Preference-Applied: wait``) is asked again at once and
answers when its list changes; any other server is asked at an interval.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from ..errors import PayloadError
from ..model import codec
from ..model.endpoint import Endpoint, EndpointConfig, Kind
from ..net.http import backoff, retry_after

#: Seconds that the server is asked to hold its answer.
WAIT = 25
#: Seconds before a failed attempt is repeated: doubled each time, from the first to the last.
FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
#: Seconds between two answers that came sooner than asked for and had nothing new.
HASTE_PAUSE = 1.0
#: A server may keep us away for so many seconds.
MAX_RETRY_AFTER = 3600.0

Member = tuple[str, Endpoint]


@dataclass(frozen=True, slots=True)
class ListChange:
    """How one list differs from the one before, endpoint by endpoint.

    Attributes:
        added: Kind (``api`` or ``socketio``) and endpoint.
        removed: The same.
        changed: Kind, the endpoint before, and the endpoint now: priority or server name.
    """

    added: list[Member] = field(default_factory=list)
    removed: list[Member] = field(default_factory=list)
    changed: list[tuple[str, Endpoint, Endpoint]] = field(default_factory=list)

    @classmethod
    def between(cls, before: EndpointConfig, after: EndpointConfig) -> "ListChange":
        """Compare two lists; one that only the order tells apart gives an empty change."""
        change = cls()
        for kind in Kind:
            old = {endpoint.url: endpoint for endpoint in before.kinds()[kind]}
            new = {endpoint.url: endpoint for endpoint in after.kinds()[kind]}
            change.removed.extend((kind, e) for url, e in old.items() if url not in new)
            change.added.extend((kind, e) for url, e in new.items() if url not in old)
            change.changed.extend(
                (kind, old[url], e) for url, e in new.items() if url in old and old[url] != e
            )
        return change


class ListEvent(NamedTuple):
    """Something that whoever follows a list wants to know.

    Attributes:
        name: ``start``, ``changed``, ``refused`` (what the server gives is no list to
            follow; the last one counts), ``lost`` or ``back``.
        config: The list that counts from now on.
        change: What changed, of ``changed``.
        reason: Why, of ``refused`` and ``lost``.
        seconds: How long the server was lost, of ``back``; None where it gave a list that
            was refused, and has the good one again.
    """

    name: str
    config: EndpointConfig
    change: ListChange | None = None
    reason: str | None = None
    seconds: float | None = None


class Step(NamedTuple):
    """What follows from an attempt: events, in order, and the pause before the next, in s."""

    events: list[ListEvent]
    pause: float


class ListFollower:
    """What is known of a served list.

    Args:
        interval: Seconds between two questions to a server that does not hold its answers.
        chance: Gives numbers from 0 to 1: many that follow one server do not ask in step.

    Attributes:
        config: The last good list.
        etag: The tag of what the server gave last, good or not, or None.
    """

    def __init__(self, interval: float, chance: Callable[[], float]) -> None:
        self.config: EndpointConfig | None = None
        self.etag: str | None = None
        self._interval = interval
        self._chance = chance
        self._failures = 0
        self._lost_at: float | None = None
        self._refusal: str | None = None

    def answered(
        self,
        body: bytes | None,
        headers: Mapping[str, str],
        *,
        now: float,
        posix: float,
        took: float,
    ) -> Step:
        """Take a 200, or a 304 (which has no body).

        Args:
            body: What the server gave.
            headers: Of the answer, with names in lower case.
            now: Seconds of a clock that never goes back.
            posix: POSIX time.
            took: Seconds that the answer took.
        """
        self._failures = 0
        events = []
        current = self.config or EndpointConfig()
        if self._lost_at is not None:
            events.append(ListEvent("back", current, seconds=now - self._lost_at))
            self._lost_at = None
        if body is not None:
            self.etag = headers.get("etag")
            events += self._read(body)
        new = any(event.name in {"start", "changed"} for event in events)
        return Step(events, self._pause(headers, posix=posix, took=took, new=new))

    def _read(self, body: bytes) -> list[ListEvent]:
        before = self.config
        try:
            config = codec.loads(body)
        except PayloadError as error:
            return self._refuse(f"what it gives is no list: {error}")
        if before and not config:
            return self._refuse("its list is empty")
        refused, self._refusal = self._refusal, None
        self.config = config
        if before is None:
            return [ListEvent("start", config)]
        if config == before:
            return [ListEvent("back", config)] if refused else []
        return [ListEvent("changed", config, ListChange.between(before, config))]

    def _refuse(self, reason: str) -> list[ListEvent]:
        told, self._refusal = self._refusal, reason
        current = self.config or EndpointConfig()
        return [] if told == reason else [ListEvent("refused", current, reason=reason)]

    def _pause(self, headers: Mapping[str, str], *, posix: float, took: float, new: bool) -> float:
        asked_for = _asked_for(headers.get("retry-after"), posix)
        if "wait" not in headers.get("preference-applied", "") or self.etag is None:
            return max(self._interval, asked_for) * (0.9 + 0.2 * self._chance())
        if asked_for:
            return asked_for * (1 + 0.1 * self._chance())
        # A server that stops lets go of all that wait; without a pause they would storm it.
        return 0.0 if new or took > WAIT / 2 else HASTE_PAUSE * (0.5 + self._chance())

    def failed(self, reason: str, *, now: float, posix: float, retry: str | None = None) -> Step:
        """Take an attempt that gave no list.

        Args:
            reason: Why, in words.
            now: Seconds of a clock that never goes back.
            posix: POSIX time.
            retry: The answer's ``Retry-After``, or None.
        """
        events = []
        if self._lost_at is None:
            self._lost_at = now
            events.append(ListEvent("lost", self.config or EndpointConfig(), reason=reason))
        self._failures += 1
        pause = backoff(self._failures, FIRST_PAUSE, LAST_PAUSE)
        asked_for = _asked_for(retry, posix)
        if asked_for > pause:
            return Step(events, asked_for * (1 + 0.1 * self._chance()))
        return Step(events, pause * (0.5 + 0.5 * self._chance()))


def _asked_for(header: str | None, posix: float) -> float:
    """Return the seconds of a ``Retry-After`` header within our limit; 0 without a valid one."""
    return min(retry_after(header, posix) or 0.0, MAX_RETRY_AFTER)
