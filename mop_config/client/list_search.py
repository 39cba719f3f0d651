"""Asking the sources of lists: several at a time, so that no dead one is waited for."""

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import UpdateFailed, UpdateRefused, UpdateUntrusted
from .fetch import Fetcher
from .lists.update import Check, Fetch, FetchReply, Known, NewList, Refused, combined, update

#: Seconds from the start of one source to that of the next; at once, where one has failed.
GAP = 0.25
#: Sources that may be under way at one time.
MOST = 8
#: A source that has been silent for so many seconds no longer counts among those.
SILENT = 1.0


class UpdateRound(NamedTuple):
    """What came of an update.

    Attributes:
        changed: Whether there was something new.
        asked_to_wait: Whether the server that answered was asked to hold its answer.
        waited: Whether it knows how to.
        pause: Seconds for which it asked to be left alone.
    """

    changed: bool = False
    asked_to_wait: bool = False
    waited: bool = False
    pause: float = 0.0


Found = tuple[NewList | None, UpdateRound]
_Event = Found | UpdateFailed | UpdateRefused | Exception | None


class ListSearch:
    """One search for a list, over the sources of an update.

    Args:
        known: What the update has to know; the best source comes first.
        token: Sent to sources that may see it, or None.
        names: The names that servers answer to, where not their host's, by origin.
        new_fetcher: Makes what asks one source, and can be called off.
        any_healthy: Says whether one of some endpoints is healthy.
        tell_refused: Told of each list that nobody vouches for.
    """

    def __init__(
        self,
        known: Known,
        token: str | None,
        names: dict[str, str],
        new_fetcher: Callable[[], Fetcher],
        any_healthy: Callable[[Check], bool],
        tell_refused: Callable[[UpdateUntrusted], object],
    ) -> None:
        self._known = known
        self._token = token
        self._names = names
        self._new_fetcher = new_fetcher
        self._any_healthy = any_healthy
        self._tell_refused = tell_refused
        self._events: queue.SimpleQueue[tuple[int, _Event]] = queue.SimpleQueue()
        self._running: dict[int, Fetcher] = {}
        # Sources that hold their answer until there is another list: these are silent for long.
        self._holding: set[int] = set()
        self._errors: dict[int, UpdateFailed | UpdateRefused] = {}
        self._closed = False

    def close(self) -> None:
        """Call everything off; takes no lock."""
        self._closed = True
        for fetcher in list(self._running.values()):
            fetcher.close()
        self._events.put((-1, None))

    def run(self) -> Found:
        """Search, and wait for the end.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If the only lists found must not be taken.
        """
        begun, next_at = 0, 0.0
        count = len(self._known.sources)
        try:
            while not self._closed and (begun < count or self._running):
                pause = self._pause(next_at) if begun < count else None
                if pause == 0.0:
                    self._begin(begun)
                    begun, next_at = begun + 1, time.monotonic() + GAP
                    continue
                found = self._wait(pause)
                if isinstance(found, tuple):
                    return found
                if found:
                    next_at = 0.0
        finally:
            self.close()
        raise combined([self._errors[position] for position in sorted(self._errors)])

    def _pause(self, next_at: float) -> float | None:
        """Give the seconds until another source may be asked; None until something happens."""
        if self._holding:
            return None
        now = time.monotonic()
        heard = sorted((f.heard_at for f in list(self._running.values())), reverse=True)
        busy = [at for at in heard if now - at < SILENT]
        if len(busy) >= MOST:
            next_at = max(next_at, busy[-1] + SILENT)
        return max(0.0, next_at - now)

    def _wait(self, seconds: float | None) -> Found | bool:
        """Wait for a source; give what it found, or else whether it has failed."""
        try:
            position, event = self._events.get(timeout=seconds)
        except queue.Empty:
            return False
        if isinstance(event, tuple):
            return event
        if isinstance(event, UpdateUntrusted):
            self._tell_refused(event)
        if isinstance(event, (UpdateFailed, UpdateRefused)):
            self._errors[position] = event
        elif event is not None:
            raise event
        self._running.pop(position, None)
        return True

    def _begin(self, position: int) -> None:
        self._running[position] = self._new_fetcher()
        ask = threading.Thread(
            target=self._ask, args=(position,), name="mop-config-list", daemon=True
        )
        try:
            ask.start()
        except (RuntimeError, MemoryError):  # no thread left: then one after the other
            self._ask(position)

    def _ask(self, position: int) -> None:
        event: _Event
        try:
            event = self._find(position, self._running[position])
        except Exception as error:
            event = error
        self._events.put((position, event))

    def _find(self, position: int, fetcher: Fetcher) -> Found:
        flow = update(self._known._replace(sources=(self._known.sources[position],)))
        answer: FetchReply | bool | None = None
        round_ = UpdateRound()
        while True:
            try:
                step = next(flow) if answer is None else flow.send(answer)
            except StopIteration as end:
                return end.value, round_
            if isinstance(step, Fetch):
                if step.wait:
                    self._holding.add(position)
                answer = fetcher.fetch(step, self._token, self._names)
                if position in self._holding:
                    self._holding.discard(position)
                    if answer.status not in {200, 304}:
                        self._events.put((-1, None))  # the others need not wait any longer
                round_ = UpdateRound(False, step.wait > 0, answer.waited, answer.retry_after)
            elif isinstance(step, Refused):
                answer = True  # told by the thread that waits, once this source has ended
            else:
                answer = self._any_healthy(step)
