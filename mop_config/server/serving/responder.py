"""The answer to a request for the list: at once, or when the list changes.

Flask's view and the layer in front of Flask both ask here, so that they cannot differ.
"""

import random
import re
import threading
import time
from collections.abc import Callable
from functools import lru_cache
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs

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
from .snapshot import Snapshot
from .store import SnapshotStore

#: Longest time for which a client may ask to be parked, in seconds.
MAX_WAIT = 60
#: Those that are turned away come back after so many seconds, not all at once.
RETRY_AFTER = (5, 20)

_SECONDS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?")

Environ = dict[str, Any]


class Responder:
    """Answers from a store, and parks long polls.

    Args:
        store: What is served.
        signer: What signs it.

    Attributes:
        max_waiters: How many requests may be parked in this process.
        waiters: How many are.
    """

    def __init__(self, store: SnapshotStore, signer: Signer) -> None:
        self._store = store
        self._signer = signer
        self._lock = threading.Lock()
        self._tag = ""  # of the signed list, when it was looked at last
        self.max_waiters = 0
        self.waiters = 0

    def respond(self, environ: Environ, *, signed: bool = False) -> ConditionalAnswer:
        """Answer a GET or HEAD.

        Args:
            environ: The request, as WSGI has it (PEP 3333).
            signed: Whether the list is wanted signed in any case.
        """
        accept = header(environ, "HTTP_ACCEPT")
        query = environ.get("QUERY_STRING")
        waits = _waits(query) if query else ()
        if not waits:
            return self._respond(environ, accept, None, signed=signed)
        if len(waits) > 1:
            found = _problem(environ, 400, "wait may be given once only")
        else:
            found = self._respond(environ, accept, waits[0], signed=signed)
        headers = [header for header in found.headers if header[0] != "Cache-Control"]
        headers += [("Cache-Control", "no-store"), ("Preference-Applied", "wait")]
        return found._replace(headers=headers)

    def _respond(
        self, environ: Environ, accept: str | None, wait: str | None, *, signed: bool
    ) -> ConditionalAnswer:
        if signed or (accept and self._prefers_signed(accept)):
            return self._respond_signed(environ, wait)
        if wait is not None:
            return self._poll(environ, wait, self._plain)
        return self._answer(environ, self._plain(), header(environ, "HTTP_IF_MODIFIED_SINCE"))

    def prepare(self) -> None:
        """Sign what is served before anybody asks, and wake those who wait for that."""
        tag = self._signer.prepare(self._store.view.snapshot)
        if tag != self._tag:
            self._tag = tag
            self._store.ring_signed()

    def _respond_signed(self, environ: Environ, wait: str | None) -> ConditionalAnswer:
        found: ConditionalAnswer | None = None
        if self._signer.refusal(self._plain()) is None:
            if wait is not None:
                found = self._poll(environ, wait, self._signed)
            else:
                found = self._answer(environ, self._signed(), None)
        # It may have become empty while the request was parked.
        refusal = self._signer.refusal(self._plain())
        if found is None or refusal is not None:
            return _problem(environ, *(refusal or (503, "there was no list to sign; try again")))
        return found

    def _prefers_signed(self, accept: str) -> bool:
        signed, plain = preferred_form(accept)
        # Who would take JSON as well is not sent away where there is no key.
        return signed and not (plain and self._signer.key is None)

    def _plain(self) -> Snapshot:
        return self._store.view.snapshot

    def _signed(self) -> Snapshot:
        # An empty one is not signed: whoever asks looks for a refusal afterwards.
        snapshot = self._store.view.snapshot
        return self._signer.signed(snapshot) or snapshot

    def _answer(self, environ: Environ, snapshot: Snapshot, since: str | None) -> ConditionalAnswer:
        return respond_conditionally(
            snapshot,
            environ["REQUEST_METHOD"],
            header(environ, "HTTP_ACCEPT_ENCODING"),
            header(environ, "HTTP_IF_NONE_MATCH"),
            since,
        )

    def _poll(
        self, environ: Environ, wait: str, subject: Callable[[], Snapshot]
    ) -> ConditionalAnswer:
        method, known = environ["REQUEST_METHOD"], header(environ, "HTTP_IF_NONE_MATCH")
        if not _SECONDS.fullmatch(wait) or float(wait) > MAX_WAIT:
            detail = f"wait must be a number of seconds from 0 to {MAX_WAIT}"
            return _problem(environ, 400, detail)
        turned_away = False
        if method == "GET" and known is not None:
            client = environ.get("gunicorn.socket")
            turned_away = not self._park(known, float(wait), client, subject)
        status, headers, body = self._answer(environ, subject(), None)
        if turned_away and status.startswith("304"):  # it may have changed since
            retry_after = str(random.randint(*RETRY_AFTER))  # noqa: S311
            headers = [*headers, ("Retry-After", retry_after)]
        return ConditionalAnswer(status, headers, body)

    def _park(
        self, known: str, seconds: float, client: Any, subject: Callable[[], Snapshot]
    ) -> bool:
        """Wait until the list is none that the client knows; False if there is no room."""
        store, until = self._store, time.monotonic() + seconds
        signed = subject == self._signed
        if seconds == 0 or not etag_matches(known, subject()):
            return True
        with self._lock:
            if self.waiters >= self.max_waiters:
                return False
            self.waiters += 1
        try:
            bell = store.bell(signed=signed)
            while not store.closing and etag_matches(known, subject()):
                left = until - time.monotonic()
                if left <= 0 or not bell.wait(left, client):
                    break  # or nobody is there to be answered
                if etag_matches(known, subject()):
                    bell = store.bell(signed=signed)  # it rang for another list
        finally:
            with self._lock:
                self.waiters -= 1
        return True


def _problem(environ: Environ, status: int, detail: str) -> ConditionalAnswer:
    headers, body = problem_details(status, detail)
    line = f"{status} {HTTPStatus(status).phrase.upper()}"
    return ConditionalAnswer(line, headers, body if environ["REQUEST_METHOD"] == "GET" else b"")


def _waits(query: str) -> tuple[str, ...]:
    """Find each ``wait`` in a query string."""
    return _short_waits(query) if len(query) <= MAX_VALUE else _parse_waits(query)


def _parse_waits(query: str) -> tuple[str, ...]:
    return tuple(parse_qs(query, keep_blank_values=True).get("wait", ()))


# Thousands of clients ask with the same query; a long one is not worth its room.
_short_waits = lru_cache(maxsize=256)(_parse_waits)
