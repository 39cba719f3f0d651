"""``ListSearch``: asks the sources of an update in parallel, so that dead sources cost no time."""

import queue
import threading
import time
from typing import NamedTuple

from ..errors import UpdateFailed, UpdateRefused, UpdateUntrusted
from ..model.jws import MEDIA_TYPE
from ..net.http import HttpClient, HttpRequest
from .lists.update import Check, FetchReply, NewList, UpdateContext, combined_error, update
from .parts import ManagerParts

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


class ListSearch:
    """One search for a list, over the sources of an update.

    Args:
        parts: The parts of the manager.
        known: The state of the manager, with the sources in their order.
        token: Token for the sources that may receive the token, or None.
        server_names: Name for TLS and ``Host`` by origin, if different from the URL's host.
        any_healthy: Returns whether an endpoint of a new list is healthy.
    """

    def __init__(
        self,
        parts: ManagerParts,
        known: UpdateContext,
        token: str | None,
        server_names: dict[str, str],
        any_healthy: Check,
    ) -> None:
        self._parts = parts
        self._known = known
        self._token = token
        self._server_names = server_names
        self._any_healthy = any_healthy
        self._events: queue.SimpleQueue[tuple[int, Found | Exception | None]] = queue.SimpleQueue()
        self._running: dict[int, HttpClient] = {}
        # Sources that hold their response until the list changes. Their silence is no failure.
        self._holding: set[int] = set()
        self._closed = False

    def close(self) -> None:
        """Cancel every request; takes no lock, so a finalizer may call it."""
        self._closed = True
        for client in list(self._running.values()):
            client.abort()
        self._events.put((-1, None))

    def run(self) -> Found:
        """Run the search to its end.

        Raises:
            UpdateFailed: If no list was found.
            UpdateRefused: If no list found may be applied.
        """
        started, next_at, count = 0, 0.0, len(self._known.sources)
        errors: dict[int, UpdateFailed | UpdateRefused] = {}
        try:
            while not self._closed and (started < count or self._running):
                pause = None  # wait until a source reports
                if started < count and not self._holding:
                    pause = max(0.0, next_at - time.monotonic())
                if pause == 0.0:
                    self._start_source(started)
                    started, next_at = started + 1, time.monotonic() + STAGGER
                    continue
                try:
                    position, event = self._events.get(timeout=pause)
                except queue.Empty:
                    continue
                if isinstance(event, tuple):
                    return event
                if isinstance(event, UpdateUntrusted):
                    self._parts.lists.report_refused("remote", event)
                if isinstance(event, (UpdateFailed, UpdateRefused)):
                    errors[position] = event
                elif event is not None:
                    raise event
                self._running.pop(position, None)
                next_at = 0.0
        finally:
            self.close()
        raise combined_error([errors[position] for position in sorted(errors)])

    def _start_source(self, position: int) -> None:
        self._running[position] = self._parts.new_client()
        thread = threading.Thread(
            target=self._run_source, args=(position,), name="mop-config-list", daemon=True
        )
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # no thread left: run in this thread
            self._run_source(position)

    def _run_source(self, position: int) -> None:
        try:
            self._events.put((position, self._find(position, self._running[position])))
        except Exception as error:
            self._events.put((position, error))

    def _find(self, position: int, client: HttpClient) -> Found:
        outcome = UpdateRound()

        def fetch(url: str, etag: str | None, wait: int, with_token: bool) -> FetchReply:
            nonlocal outcome
            if self._closed:
                client.abort()
            if wait:
                self._holding.add(position)
            reply, outcome = self._fetch(client, self._request(url, etag, wait, with_token), wait)
            self._holding.discard(position)
            if wait and reply.status not in {200, 304}:
                self._events.put((-1, None))  # start the next source
            return reply

        found = update(self._known.sources[position], self._known, fetch, self._any_healthy)
        return found, outcome

    def _request(self, url: str, etag: str | None, wait: int, with_token: bool) -> HttpRequest:
        signed = self._known.trust is not None
        headers = {
            "Accept": MEDIA_TYPE if signed else "application/json",
            "Accept-Encoding": "gzip",
        }
        if etag is not None:
            headers["If-None-Match"] = etag
        return HttpRequest(
            url,
            self._parts.deadline() + wait,
            self._parts.state.policy.max_list_bytes,
            headers=headers,
            token=self._token if with_token else None,
            server_names=self._server_names,
            https_only=self._known.https_only,
        )

    def _fetch(
        self, client: HttpClient, request: HttpRequest, wait: int
    ) -> tuple[FetchReply, UpdateRound]:
        try:
            reply = client.request(request)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            problem = str(error) or type(error).__name__
            return FetchReply(None, problem=problem), UpdateRound(asked_to_wait=wait > 0)
        # Any status may have ``Retry-After``: a server with many long polls sends it with a 304.
        retry_after = reply.headers.get("retry-after")
        pause = self._parts.state.policy.busy_for(503, retry_after, time.time()) or 0.0
        waited = "wait" in reply.headers.get("preference-applied", "")
        return (
            FetchReply(reply.status, reply.body, reply.headers.get("etag")),
            UpdateRound(False, wait > 0, waited, pause),
        )
