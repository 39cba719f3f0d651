"""``ListSearch``: asks the sources of an update in parallel, so that dead sources cost no time."""

import queue
import threading
import time
from collections.abc import Callable
from typing import NamedTuple

from ..errors import UpdateFailed, UpdateRefused, UpdateUntrusted
from .fetch import Fetcher
from .lists.update import (
    Check,
    Fetch,
    FetchReply,
    NewList,
    UpdateContext,
    combined_error,
    update,
)

#: Seconds between the requests to two sources; a failed source starts the next request at once.
STAGGER = 0.25


class UpdateRound(NamedTuple):
    """The result of an update.

    Attributes:
        changed: Whether the list has changed.
        asked_to_wait: Whether the request was a long poll.
        waited: Whether the server that answered supports long polls.
        pause: Seconds until that server accepts another request.
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
        known: The state of the manager, with the sources in their order.
        token: Token for the sources that may receive the token, or None.
        server_names: Name for TLS and ``Host`` by origin, if different from the URL's host.
        new_fetcher: Creates the cancellable fetcher of one source.
        any_healthy: Returns whether an endpoint of a new list is healthy.
        report_refused: Called with the error of each untrusted list.
    """

    def __init__(
        self,
        known: UpdateContext,
        token: str | None,
        server_names: dict[str, str],
        new_fetcher: Callable[[], Fetcher],
        any_healthy: Callable[[Check], bool],
        report_refused: Callable[[UpdateUntrusted], object],
    ) -> None:
        self._known = known
        self._token = token
        self._server_names = server_names
        self._new_fetcher = new_fetcher
        self._any_healthy = any_healthy
        self._report_refused = report_refused
        self._events: queue.SimpleQueue[tuple[int, _Event]] = queue.SimpleQueue()
        self._running: dict[int, Fetcher] = {}
        # Sources that hold their response until the list changes. Their silence is no failure.
        self._holding: set[int] = set()
        self._errors: dict[int, UpdateFailed | UpdateRefused] = {}
        self._closed = False

    def close(self) -> None:
        """Cancel every fetch; takes no lock, so a finalizer may call it."""
        self._closed = True
        for fetcher in list(self._running.values()):
            fetcher.close()
        self._events.put((-1, None))

    def run(self) -> Found:
        """Run the search to its end.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If no list found may be applied.
        """
        started, next_at = 0, 0.0
        count = len(self._known.sources)
        try:
            while not self._closed and (started < count or self._running):
                pause = None  # wait until a source reports
                if started < count and not self._holding:
                    pause = max(0.0, next_at - time.monotonic())
                if pause == 0.0:
                    self._start_source(started)
                    started, next_at = started + 1, time.monotonic() + STAGGER
                    continue
                found = self._wait(pause)
                if isinstance(found, tuple):
                    return found
                if found:
                    next_at = 0.0
        finally:
            self.close()
        raise combined_error([self._errors[position] for position in sorted(self._errors)])

    def _wait(self, seconds: float | None) -> Found | bool:
        """Wait for a source; return the list of the source, or whether the source failed."""
        try:
            position, event = self._events.get(timeout=seconds)
        except queue.Empty:
            return False
        if isinstance(event, tuple):
            return event
        if isinstance(event, UpdateUntrusted):
            self._report_refused(event)
        if isinstance(event, (UpdateFailed, UpdateRefused)):
            self._errors[position] = event
        elif event is not None:
            raise event
        self._running.pop(position, None)
        return True

    def _start_source(self, position: int) -> None:
        self._running[position] = self._new_fetcher()
        thread = threading.Thread(
            target=self._run_source, args=(position,), name="mop-config-list", daemon=True
        )
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # no thread left: run in this thread
            self._run_source(position)

    def _run_source(self, position: int) -> None:
        event: _Event
        try:
            event = self._find(position, self._running[position])
        except Exception as error:
            event = error
        self._events.put((position, event))

    def _find(self, position: int, fetcher: Fetcher) -> Found:
        flow = update(self._known.sources[position], self._known)
        reply: FetchReply | bool | None = None
        outcome = UpdateRound()
        while True:
            try:
                step = next(flow) if reply is None else flow.send(reply)
            except StopIteration as end:
                return end.value, outcome
            if isinstance(step, Fetch):
                if step.wait:
                    self._holding.add(position)
                reply = fetcher.fetch(step, self._token, self._server_names)
                if position in self._holding:
                    self._holding.discard(position)
                    if reply.status not in {200, 304}:
                        self._events.put((-1, None))  # end the search
                outcome = UpdateRound(False, step.wait > 0, reply.waited, reply.retry_after)
            else:
                reply = self._any_healthy(step)
