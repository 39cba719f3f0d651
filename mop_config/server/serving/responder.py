"""Responder decides the answer to a request for the endpoint list: at once, or by a long poll.

Flask's view and the ASGI application both call the responder, so that their answers are equal. The
responder itself never waits: it returns a ``LongPoll``, and each front waits in its own way.
"""

import random
import re
import threading
import time
from collections.abc import Mapping
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

from .change_event import ChangeEvent
from .conditional import (
    MAX_VALUE,
    ConditionalAnswer,
    etag_matches,
    header,
    preferred_form,
    respond_conditionally,
)
from .problem_details import problem_details
from .signer import Signer
from .snapshot import Headers
from .store import SnapshotStore

#: Longest time for which a client may ask to be parked, in seconds.
MAX_WAIT = 60
#: Range of the ``Retry-After`` of requests beyond the limit; random, so that they spread out.
RETRY_AFTER = (5, 20)

_SECONDS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?")

Environ = Mapping[str, Any]


class Responder:
    """Answers requests for the list from a store, and counts the parked ones.

    Args:
        store: Holds the served list.
        signer: Signs the served list.

    Attributes:
        max_waiters: How many requests may be parked in this process.
        waiters: How many requests are parked now.
    """

    def __init__(self, store: SnapshotStore, signer: Signer) -> None:
        self.store = store
        self._signer = signer
        self._lock = threading.Lock()
        self._tag = ""  # ETag of the signed list at the last ``prepare``
        self.max_waiters = 0
        self.waiters = 0

    def respond(self, environ: Environ, *, signed: bool = False) -> "ConditionalAnswer | LongPoll":
        """Return the answer to a GET or HEAD, or the long poll that the request asks for.

        Args:
            environ: The request in WSGI's form (PEP 3333): method, query and headers.
            signed: Whether the path is that of the signed list; ``Accept`` may select the signed
                list on the other path.
        """
        accept = header(environ, "HTTP_ACCEPT")
        signed = signed or bool(accept and self._prefers_signed(accept))
        query = environ.get("QUERY_STRING")
        waits = _waits(query) if query else ()
        if not waits:
            since = None if signed else header(environ, "HTTP_IF_MODIFIED_SINCE")
            return self.answer(environ, signed=signed, since=since)
        if len(waits) > 1:
            return waited(problem(400, "wait may be given once only"))
        found = self.answer(environ, signed=signed)
        if found.status.startswith(("4", "5")):
            return waited(found)
        if not _SECONDS.fullmatch(waits[0]) or float(waits[0]) > MAX_WAIT:
            detail = f"wait must be a number of seconds from 0 to {MAX_WAIT}"
            return waited(problem(400, detail))
        seconds = float(waits[0])
        if seconds == 0 or environ["REQUEST_METHOD"] != "GET" or not found.status.startswith("304"):
            return waited(found)
        if self._take_place():
            return LongPoll(self, environ, seconds, signed=signed)
        retry_after = str(random.randint(*RETRY_AFTER))  # noqa: S311
        return waited(found, ("Retry-After", retry_after))

    def answer(
        self, environ: Environ, *, signed: bool, since: str | None = None
    ) -> ConditionalAnswer:
        """Return the answer from the list that is served now.

        Args:
            environ: The request.
            signed: Whether the client gets the signed list.
            since: ``If-Modified-Since``, or None if the header is absent or must not count.
        """
        snapshot = self.store.view.snapshot
        if signed:
            refusal = self._signer.refusal(snapshot)
            if refusal is not None:
                return problem(*refusal)
            snapshot = self._signer.signed(snapshot) or snapshot
        return respond_conditionally(
            snapshot,
            environ["REQUEST_METHOD"],
            header(environ, "HTTP_ACCEPT_ENCODING"),
            header(environ, "HTTP_IF_NONE_MATCH"),
            since,
        )

    def knows(self, known: str, *, signed: bool) -> bool:
        """Return whether ``If-None-Match`` names the list that is served now."""
        snapshot = self.store.view.snapshot
        return etag_matches(known, (signed and self._signer.signed(snapshot)) or snapshot)

    def prepare(self) -> None:
        """Sign the served list ahead of the first request; wake its long polls if it changed."""
        tag = self._signer.prepare(self.store.view.snapshot)
        if tag != self._tag:
            self._tag = tag
            self.store.ring_signed()

    def _prefers_signed(self, accept: str) -> bool:
        signed, plain = preferred_form(accept)
        # Without a key, a client that accepts JSON too gets JSON rather than a refusal.
        return signed and not (plain and self._signer.key is None)

    def _take_place(self) -> bool:
        with self._lock:
            if self.waiters >= self.max_waiters:
                return False
            self.waiters += 1
            return True

    def free_place(self) -> None:
        """Free the place of a long poll that has ended."""
        with self._lock:
            self.waiters -= 1


class LongPoll:
    """A request that waits until the served list differs from the list that its client has.

    A long poll occupies one of the responder's places until ``close``. The front waits as long as
    ``event`` returns an event and ``until`` is not reached, closes the poll, and then answers.

    Args:
        responder: The responder that has a place for the poll.
        environ: The request.
        seconds: How long the client is willing to wait.
        signed: Whether the client asks for the signed list.

    Attributes:
        until: Monotonic time at which the wait ends.
    """

    __slots__ = ("_environ", "_known", "_responder", "_signed", "until")

    def __init__(
        self, responder: Responder, environ: Environ, seconds: float, *, signed: bool
    ) -> None:
        self._responder = responder
        self._environ = environ
        self._known = header(environ, "HTTP_IF_NONE_MATCH") or ""
        self._signed = signed
        self.until = time.monotonic() + seconds

    def event(self) -> ChangeEvent | None:
        """Return the event to wait for, or None if the list differs or the process shuts down."""
        store = self._responder.store
        # Get the event before reading the list, so that a change in between is not missed.
        event = store.bell(signed=self._signed)
        if store.closing or not self._responder.knows(self._known, signed=self._signed):
            return None
        return event

    def wait(self, client: Any = None) -> ConditionalAnswer:
        """Wait in this thread, and return the answer.

        Args:
            client: The client's socket, which is polled for a hang-up; None if it is not known.
        """
        try:
            while (event := self.event()) is not None:
                left = self.until - time.monotonic()
                if left <= 0 or not event.wait(left, client):
                    break
        finally:
            self.close()
        return self.answer()

    def close(self) -> None:
        """Free the poll's place among the parked requests."""
        self._responder.free_place()

    def answer(self) -> ConditionalAnswer:
        """Return the answer from the list that is served now."""
        return waited(self._responder.answer(self._environ, signed=self._signed))


def waited(answer: ConditionalAnswer, *more: tuple[str, str]) -> ConditionalAnswer:
    """Return the answer to a request with ``wait``: ``no-store``, ``Preference-Applied: wait``."""
    return answer._replace(headers=(*_waited(answer.headers), *more))


# A change answers thousands of long polls with the same headers.
@lru_cache(maxsize=64)
def _waited(headers: Headers) -> Headers:
    kept = (header for header in headers if header[0] != "Cache-Control")
    return (*kept, ("Cache-Control", "no-store"), ("Preference-Applied", "wait"))


def problem(status: int, detail: str) -> ConditionalAnswer:
    """Return a problem document as an answer."""
    headers, body = problem_details(status, detail)
    return ConditionalAnswer(f"{status} {HTTPStatus(status).phrase.upper()}", headers, body)


def _waits(query: str) -> tuple[str, ...]:
    """Return each value of ``wait`` in a query string."""
    return _short_waits(query) if len(query) <= MAX_VALUE else _parse_waits(query)


def _parse_waits(query: str) -> tuple[str, ...]:
    return tuple(parse_qs(query, keep_blank_values=True).get("wait", ()))


# Thousands of clients send the same query. Long queries are not kept in memory.
_short_waits = lru_cache(maxsize=256)(_parse_waits)
