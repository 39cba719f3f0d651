"""Responder decides the answer to a request for the endpoint list: at once, or by a long poll.

Flask's view and the ASGI application both call the responder, so that their answers are equal. The
responder itself never waits: it returns a ``LongPoll``, and each front waits in its own way.
Conditional requests follow RFC 9110, sections 8 and 13.

Signer signs the list as a JWS, once for each list and each half of its lifetime. The bytes do not
depend on the process that signs: every worker, and every node that has the key and the list with
the same version, makes the same JWS.
"""

import contextlib
import hashlib
import math
import random
import re
import stat
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from queue import Empty, SimpleQueue
from typing import Any
from urllib.parse import parse_qs

from werkzeug.http import parse_etags

from ...errors import MissingExtra, SettingsError, SigningKeyError, SourceError
from ...model.jws import MEDIA_TYPE, SigningKey
from ...net.polling import ENDED, new_poll
from ..settings import Settings
from ..sources.file import FileSource
from .answers import (
    ConditionalAnswer,
    HeaderFields,
    accepts_gzip,
    header,
    preferred_form,
    problem,
)
from .store import Snapshot, SnapshotStore, Variant, common_headers

#: Longest time for which a client may ask to be parked, in seconds.
MAX_WAIT = 60
#: Range of the ``Retry-After`` of requests beyond the limit; random, so that they spread out.
RETRY_AFTER = (5, 20)

#: Seconds between two looks at whether the client of a thread that waits has hung up.
HANG_UP_LOOK = 1.0

_SECONDS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?")
# What may stand behind the list's own tag: a suffix such as -br, which a compressing proxy adds.
_CODING = re.compile(r"-[\w!#$%&'*+.^`|~-]+", re.ASCII)
# After a change, all long polls name the same list.
_tags = lru_cache(maxsize=256)(parse_etags)

Environ = dict[str, Any]
_VARIABLE = "ENDPOINT_SIGNING_KEY_FILE"
_MAX_KEY_BYTES = 65536


def read_key(path: str) -> tuple[SigningKey, tuple[str, ...]]:
    """Read the signing key, and return it with the warnings about its file.

    Raises:
        SettingsError: If the key cannot be used.
    """
    try:
        text = FileSource(path, _MAX_KEY_BYTES).read()
        key = SigningKey.read(text.data)
    except MissingExtra as error:
        raise SettingsError(_VARIABLE, path, f"left empty, since {error}") from None
    except (SigningKeyError, SourceError, OSError) as error:
        allowed = f"a file with an Ed25519 private key, as JWK or PEM ({error})"
        raise SettingsError(_VARIABLE, path, allowed) from None
    mode = stat.S_IMODE(text.fingerprint.mode)
    if mode & stat.S_IROTH:
        return key, (f"{_VARIABLE}={path!r} can be read by everybody (mode {mode:04o})",)
    return key, ()


def check_key(settings: Settings) -> None:
    """Check the signing key before any process is started.

    Raises:
        SettingsError: If a key file is set, and its key cannot be used.
    """
    if settings.signing_key_file is not None:
        read_key(settings.signing_key_file)


class Signer:
    """Signs the served list if there is a signing key.

    A key file that became bad after the start does not stop a worker: the worker logs a warning
    and serves the list unsigned only.

    Args:
        settings: The path of the key file, and the lifetime of a signed list.
        clock: Returns POSIX seconds.

    Attributes:
        key: The signing key, or None if there is no usable key.
        warnings: Warnings about the key file.
    """

    def __init__(self, settings: Settings, clock: Callable[[], float] = time.time) -> None:
        self._settings = settings
        self._clock = clock
        self._ttl = int(settings.signing_ttl)
        self._half = self._ttl // 2
        self._lock = threading.Lock()
        self._made: tuple[Snapshot, int, Snapshot] | None = None  # plain, period, signed
        self.key: SigningKey | None = None
        self.warnings: tuple[str, ...] = ()
        if settings.signing_key_file is not None:
            try:
                self.key, self.warnings = read_key(settings.signing_key_file)
            except SettingsError as error:
                self.warnings = (f"lists are not signed: {error}",)

    def refusal(self) -> tuple[int, str]:
        """Return the status code and the reason if ``signed`` has returned None."""
        if self._settings.signing_key_file is None:
            return 404, f"lists are not signed here: {_VARIABLE} is not set"
        if self.key is None:
            return 503, "the signing key cannot be used; the server's log says why"
        return 503, "there is no list to sign: an empty one is served"

    def signed(self, snapshot: Snapshot) -> Snapshot | None:
        """Return the signed form of a list; None without a key, and for an empty list."""
        if self.key is None or not snapshot.rendering.usable:
            return None
        period = int(self._clock()) // self._half
        with self._lock:
            made = self._made
            if made is None or made[0] is not snapshot or made[1] != period:
                made = self._made = snapshot, period, self._sign(self.key, snapshot, period)
            return made[2]

    def _sign(self, key: SigningKey, snapshot: Snapshot, period: int) -> Snapshot:
        iat = period * self._half
        body = key.sign(snapshot.plain.body, ver=snapshot.ver, iat=iat, exp=iat + self._ttl)
        tag = hashlib.sha256(body).hexdigest()[:32]
        # A cached signed list must stay valid for as long as the cache may keep it.
        max_age = min(self._settings.max_age, self._ttl - self._half)
        common = common_headers(self._settings, max_age)
        # No Last-Modified: two different lists may be signed for the same period.
        own = (("Content-Type", MEDIA_TYPE),)
        variant = Variant.of(f'"{tag}"', body, own, common)
        return replace(snapshot, plain=variant, gzip=None, last_modified_text="")


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
        self.lock = threading.Lock()
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
        if accept and not signed:
            prefers, plain = preferred_form(accept)
            # Without a key, a client that accepts JSON too gets JSON rather than a refusal.
            signed = prefers and not (plain and self._signer.key is None)
        query = environ.get("QUERY_STRING")
        waits = parse_qs(query, keep_blank_values=True).get("wait") if query else None
        if waits:
            return self._respond_to_wait(environ, waits, signed)
        return self.answer(environ, signed, dated=not signed)

    def _respond_to_wait(
        self, environ: Environ, waits: list[str], signed: bool
    ) -> "ConditionalAnswer | LongPoll":
        found = self.answer(environ, signed)
        seconds = float(waits[0]) if _SECONDS.fullmatch(waits[0]) else math.inf
        if len(waits) > 1:
            found = problem(400, "wait may be given once only")
        elif found.status < 400 and seconds > MAX_WAIT:
            found = problem(400, f"wait must be a number of seconds from 0 to {MAX_WAIT}")
        elif found.status == 304 and seconds > 0 and environ["REQUEST_METHOD"] == "GET":
            with self.lock:
                if self.waiters < self.max_waiters:
                    self.waiters += 1
                    return LongPoll(self, environ, signed, time.monotonic() + seconds, found)
            retry_after = str(random.randint(*RETRY_AFTER))  # noqa: S311
            return waited(found).adding(("Retry-After", retry_after))
        return waited(found)

    def answer(self, environ: Environ, signed: bool, *, dated: bool = False) -> ConditionalAnswer:
        """Return the answer from the list that is served now.

        Args:
            environ: The request.
            signed: Whether the client gets the signed list.
            dated: Whether ``If-Modified-Since`` counts.
        """
        snapshot = self.store.view.snapshot
        if signed:
            found = self._signer.signed(snapshot)
            if found is None:
                return problem(*self._signer.refusal())
            snapshot = found
        return respond_conditionally(snapshot, environ, dated=dated)


@dataclass(slots=True, eq=False)
class LongPoll:
    """A request that waits until the served list differs from the list that its client has.

    A long poll occupies one of the responder's places until ``close``. The front waits until
    ``is_over``, which it asks whenever the store calls its listeners, or until ``until``; it then
    closes the poll and answers.

    Attributes:
        responder: The responder that has a place for the poll.
        environ: The request.
        signed: Whether the client asks for the signed list.
        until: Monotonic time at which the wait ends.
        found: The answer at the last call of ``is_over``.
    """

    responder: Responder
    environ: Environ
    signed: bool
    until: float
    found: ConditionalAnswer

    def is_over(self) -> bool:
        """Return whether the list differs from the client's or the process shuts down."""
        self.found = self.responder.answer(self.environ, self.signed)
        return self.responder.store.closing or self.found.status != 304

    def wait(self, client: Any = None) -> ConditionalAnswer:
        """Wait in this thread, and return the answer.

        Args:
            client: The client's socket, which is looked at for a hang-up; None if it is not known.
        """
        # Its ``put`` takes no lock, so that a signal handler may call it.
        changes: SimpleQueue[None] = SimpleQueue()
        listen = partial(changes.put, None)
        hang_up = new_poll()
        listeners = self.responder.store.listeners
        # Listen before reading the list, so that a change in between is not missed.
        listeners.add(listen)
        try:
            if client is not None:
                hang_up.register(client, ENDED)
            while not self.is_over() and not hang_up.poll(0):
                left = self.until - time.monotonic()
                if left <= 0:
                    break
                with contextlib.suppress(Empty):
                    changes.get(timeout=min(left, HANG_UP_LOOK))
        finally:
            listeners.discard(listen)
            self.close()
        return waited(self.found)

    def close(self) -> None:
        """Free the poll's place among the parked requests."""
        with self.responder.lock:
            self.responder.waiters -= 1


def waited(answer: ConditionalAnswer) -> ConditionalAnswer:
    """Return the answer to a request with ``wait``: ``no-store``, ``Preference-Applied: wait``."""
    return answer._replace(headers=_waited(answer.headers))


# A change answers thousands of long polls with the same headers.
@lru_cache(maxsize=64)
def _waited(headers: HeaderFields) -> HeaderFields:
    kept = (each for each in headers if each[0] != "Cache-Control")
    return HeaderFields((*kept, ("Cache-Control", "no-store"), ("Preference-Applied", "wait")))


def respond_conditionally(
    snapshot: Snapshot, environ: Mapping[str, Any], *, dated: bool = True
) -> ConditionalAnswer:
    """Answer a GET or HEAD from a snapshot by the request's headers.

    There is no 406: a client that forbids every encoding gets the plain body.
    ``If-Modified-Since`` matches only if its date equals the list's date, so that a rollback to
    an older file reaches clients that have seen the newer one.

    Args:
        snapshot: The list.
        environ: The request in WSGI's form.
        dated: Whether ``If-Modified-Since`` counts.
    """
    variant = snapshot.plain
    accepted = header(environ, "HTTP_ACCEPT_ENCODING")
    if snapshot.gzip and accepted and accepts_gzip(accepted):
        variant = snapshot.gzip
    tags = header(environ, "HTTP_IF_NONE_MATCH")
    if tags is not None:
        # Almost every client sends back the one tag it got, so compare before parsing.
        fresh = tags == variant.etag or etag_matches(tags, snapshot)
    else:
        since = header(environ, "HTTP_IF_MODIFIED_SINCE")
        fresh = dated and since == snapshot.last_modified_text
    if fresh:
        return ConditionalAnswer(304, variant.not_modified, b"")
    return ConditionalAnswer(200, variant.headers, variant.body)


def etag_matches(if_none_match: str, snapshot: Snapshot) -> bool:
    """Return whether ``If-None-Match`` names the ETag of a list, in any of its encodings.

    All variants of a list are equally new. A compressing proxy makes a variant of its own, and
    adds the name of the coding to the ETag.
    """
    tags, own = _tags(if_none_match), snapshot.etag
    return tags.contains_weak(own) or any(
        tag.startswith(own) and _CODING.fullmatch(tag, len(own))
        for tag in tags.as_set(include_weak=True)
    )
