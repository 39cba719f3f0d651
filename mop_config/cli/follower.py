"""The state machine of ``watch``: turns responses into events and request times. Pure.

A server that supports long polls (``Preference-Applied: wait``) gets the next request at once and
responds when its list changes. Any other server gets a request at each interval.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from ..errors import PayloadError
from ..model import codec
from ..model.codec import EndpointChange
from ..model.endpoint import EndpointConfig
from ..net.http import backoff, retry_after
from .differences import list_changes

#: Seconds for which the server may hold a long poll.
WAIT = 25
#: Bounds in seconds of the backoff after failed requests; each failure doubles the pause.
FIRST_PAUSE, LAST_PAUSE = 1.0, 30.0
#: Seconds between two long polls that ended early without a new list.
HASTE_PAUSE = 1.0
#: Maximum of ``Retry-After``, in seconds.
MAX_RETRY_AFTER = 3600.0


class ListEvent(NamedTuple):
    """An event of the list or of the server, to be printed.

    Attributes:
        name: ``start``, ``changed``, ``refused`` (the response is no valid list, and
            the last list stays), ``lost`` or ``back``.
        changes: The difference, for ``changed``.
        reason: The reason of ``refused`` and ``lost``.
        seconds: For ``back``, the seconds for which the server was lost; None if the server had
            only served a refused list, and now serves the good list again.
    """

    name: str
    changes: Sequence[EndpointChange] = ()
    reason: str | None = None
    seconds: float | None = None


class Step(NamedTuple):
    """The result of a request: the events in order, and the seconds before the next request."""

    events: list[ListEvent]
    pause: float


class ListFollower:
    """The last known list of a server, and the state of the server.

    Args:
        interval: Seconds between two requests to a server without long polls.
        chance: Returns random numbers from 0 to 1, so that many followers do not poll in step.

    Attributes:
        config: The last good list, or None before the first list.
        etag: The ``ETag`` of the last response, valid or not, or None.
    """

    def __init__(self, interval: float, chance: Callable[[], float]) -> None:
        self.config: EndpointConfig | None = None
        self.etag: str | None = None
        self._interval = interval
        self._chance = chance
        self._failures = 0
        self._lost_at = 0.0
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
        """Record a 200, or a 304 (which has no body).

        Args:
            body: The body, or None for a 304.
            headers: Headers of the response, with names in lower case.
            now: Monotonic time in seconds.
            posix: POSIX time.
            took: Seconds between request and response.
        """
        events = []
        if self._failures:
            events.append(ListEvent("back", seconds=now - self._lost_at))
            self._failures = 0
        if body is not None:
            self.etag = headers.get("etag")
            events += self._read(body)
        new = any(event.name in {"start", "changed"} for event in events)
        return Step(events, self._pause(headers, posix=posix, took=took, new=new))

    def _read(self, body: bytes) -> list[ListEvent]:
        before, refused, self._refusal = self.config, self._refusal, None
        try:
            config = codec.loads(body)
        except PayloadError as error:
            self._refusal = f"what it gives is no list: {error}"
        else:
            if before and not config:
                self._refusal = "its list is empty"
        if self._refusal:
            new = self._refusal != refused
            return [ListEvent("refused", reason=self._refusal)] if new else []
        self.config = config
        if before is None:
            return [ListEvent("start")]
        if config == before:
            return [ListEvent("back")] if refused else []
        return [ListEvent("changed", list_changes(before, config))]

    def _pause(self, headers: Mapping[str, str], *, posix: float, took: float, new: bool) -> float:
        asked_for = _asked_for(headers.get("retry-after"), posix)
        if "wait" not in headers.get("preference-applied", "") or self.etag is None:
            return max(self._interval, asked_for) * (0.9 + 0.2 * self._chance())
        if asked_for:
            return asked_for * (1 + 0.1 * self._chance())
        # A stopping server ends all long polls at once; the pause spreads the clients' retries.
        return 0.0 if new or took > WAIT / 2 else HASTE_PAUSE * (0.5 + self._chance())

    def failed(self, reason: str, *, now: float, posix: float, retry: str | None = None) -> Step:
        """Record a request without a usable response.

        Args:
            reason: The cause, in words.
            now: Monotonic time in seconds.
            posix: POSIX time.
            retry: ``Retry-After`` of the response, or None.
        """
        events = []
        if not self._failures:
            self._lost_at = now
            events.append(ListEvent("lost", reason=reason))
        self._failures += 1
        pause = backoff(self._failures, FIRST_PAUSE, LAST_PAUSE)
        asked_for = _asked_for(retry, posix)
        if asked_for > pause:
            return Step(events, asked_for * (1 + 0.1 * self._chance()))
        return Step(events, pause * (0.5 + 0.5 * self._chance()))


def _asked_for(header: str | None, posix: float) -> float:
    """Return the seconds of a ``Retry-After`` header within our limit; 0 if it is not valid."""
    return min(retry_after(header, posix) or 0.0, MAX_RETRY_AFTER)
