"""The answer to a request for the list: at once, or when the list changes.

Flask's view and the layer in front of Flask both ask here, so that they cannot differ.
"""

import random
import re
import threading
import time
from functools import lru_cache
from typing import Any
from urllib.parse import parse_qs

from .answer import Answer, answer, names
from .problem_json import problem_answer
from .store import Store

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

    Attributes:
        max_waiters: How many requests may be parked in this process.
        waiters: How many are.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lock = threading.Lock()
        self.max_waiters = 0
        self.waiters = 0

    def respond(self, environ: Environ) -> Answer:
        """Answer a GET or HEAD.

        Args:
            environ: The request, as WSGI has it (PEP 3333).
        """
        query = environ.get("QUERY_STRING")
        if query and (wait := _wait(query)) is not None:
            return self._poll(environ, wait)
        return answer(
            self._store.view.snapshot,
            environ["REQUEST_METHOD"],
            environ.get("HTTP_ACCEPT_ENCODING"),
            environ.get("HTTP_IF_NONE_MATCH"),
            environ.get("HTTP_IF_MODIFIED_SINCE"),
        )

    def _poll(self, environ: Environ, wait: str) -> Answer:
        method, known = environ["REQUEST_METHOD"], environ.get("HTTP_IF_NONE_MATCH")
        if not _SECONDS.fullmatch(wait) or float(wait) > MAX_WAIT:
            detail = f"wait must be a number of seconds from 0 to {MAX_WAIT}"
            headers, body = problem_answer(400, detail)
            return Answer("400 BAD REQUEST", headers, body if method == "GET" else b"")
        turned_away = False
        if method == "GET" and known is not None:
            turned_away = not self._park(known, float(wait), environ.get("gunicorn.socket"))
        status, headers, body = answer(
            self._store.view.snapshot, method, environ.get("HTTP_ACCEPT_ENCODING"), known
        )
        headers = [header for header in headers if header[0] != "Cache-Control"]
        headers += [("Cache-Control", "no-store"), ("Preference-Applied", "wait")]
        if turned_away:
            headers.append(("Retry-After", str(random.randint(*RETRY_AFTER))))  # noqa: S311
        return Answer(status, headers, body)

    def _park(self, known: str, seconds: float, client: Any) -> bool:
        """Wait until the list is none that the client knows; False if there is no room."""
        store, until = self._store, time.monotonic() + seconds
        if seconds == 0 or not names(known, store.view.snapshot):
            return True
        with self._lock:
            if self.waiters >= self.max_waiters:
                return False
            self.waiters += 1
        try:
            while (left := until - time.monotonic()) > 0:
                bell = store.bell()
                if store.closing or not names(known, store.view.snapshot):
                    break
                if not bell.wait(left, client):
                    break  # nobody is there to be answered
        finally:
            with self._lock:
                self.waiters -= 1
        return True


@lru_cache(maxsize=256)
def _wait(query: str) -> str | None:
    """Find ``wait`` in a query string."""
    return next(iter(parse_qs(query, keep_blank_values=True).get("wait", ())), None)
