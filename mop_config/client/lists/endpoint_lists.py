"""``EndpointLists``: applies every change to the endpoint lists of a manager, and keeps them."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from blinker import NamedSignal

from ... import signals
from ...errors import AddressError, PayloadError, SignatureError, UpdateUntrusted
from ...files import locked
from ...model import codec
from ...model.address import parse_url
from ...model.endpoint import Endpoint, EndpointConfig, Kind
from ...model.jws import SignedList, looks_signed
from ...net.http import origin_of
from ..pool.session import ClientState
from . import cache_file
from .cache_file import CachedList
from .normalize import is_plain, normalized, urls_of, without_plain, without_query
from .update import ListRules, NewList, UpdateContext, sources

logger = logging.getLogger(__name__)

#: Name of a QR code in place of a source URL.
_QR_CODE = "the QR code"
#: Seconds to wait for the flock of the cache file; after that, the next turn saves the list.
_LOCK_TIMEOUT = 0.1


class ListSource(NamedTuple):
    """Where the list in use came from.

    Attributes:
        origin: ``cache``, ``seed``, ``remote``, ``qr``, ``manual`` or ``none``.
        url: The server that sent the list, or None.
        age: Seconds since the list arrived, or None for a built-in list.
        stale: Whether the list has expired, and no source has a newer list.
    """

    origin: str
    url: str | None
    age: float | None
    stale: bool = False


class EndpointLists:
    """The endpoint lists of a manager: in its pools, and in its cache file.

    Args:
        state: The pools.
        rules: The application's settings for the sources of lists.
        path: The cache file, or None.
        send: Sends a signal.

    Attributes:
        save_later: Asks a running manager to call ``save`` in its own thread; None to save at
            once.
        room_id: The room of the last QR code that named a room, or None.
    """

    def __init__(
        self,
        state: ClientState,
        rules: ListRules,
        path: Path | None,
        send: Callable[[NamedSignal, dict[str, Any]], None],
    ) -> None:
        self.rules = rules
        self.save_later: Callable[[], None] | None = None
        self.room_id: str | None = None
        self._path = path
        self._state = state
        self._trust = rules.trust
        self._send = send
        self._source = ListSource("none", None, None)
        self._arrived_at: float | None = None  # POSIX time
        self._etags: dict[str, str] = {}  # of remote lists that equal the list in use, by URL
        self._unsaved = self._save_failed = False
        # The lock makes accepting a signed list and putting it into the pools one step. So of two
        # lists that arrive at once, the newer list stays.
        self._apply_lock = threading.RLock()
        self._save_lock = threading.Lock()
        config = self._load()
        if not config and rules.built_in:
            config = rules.built_in
            self._source = ListSource("seed", None, None)
        with state:
            _replace(state, config)

    def _load(self) -> EndpointConfig:
        """Read the cache file; return an empty list if the file has no list."""
        cached = None if self._path is None else cache_file.load(self._path)
        if cached is None:
            return EndpointConfig()
        self.room_id, config = cached.room_id, cached.config
        if self._trust is not None and config:
            try:
                self._trust.recall(cached.jws)
            except SignatureError as error:
                self.report_refused("cache", _untrusted(str(self._path), error))
            # The unencrypted endpoints that were dropped on acceptance stay dropped.
            kept = frozenset(urls_of(config, is_plain))
            config = without_plain(self._trust.config(), str(self._path), kept)
        config = normalized(config, str(self._path))
        if config:
            self._etags = cached.etags
            self._source = ListSource("cache", cached.url, None)
            self._arrived_at = cached.saved_at
        return config

    @property
    def config(self) -> EndpointConfig:
        """The list in use."""
        with self._state as state:
            pools = [state.pool(kind) for kind in Kind]
            return EndpointConfig(*(tuple(m.endpoint for m in pool.members()) for pool in pools))

    @property
    def source(self) -> ListSource:
        """The origin and the age of the list."""
        at = self._arrived_at
        age = None if at is None else max(0.0, time.time() - at)
        return self._source._replace(age=age, stale=self._is_stale)

    @property
    def _is_stale(self) -> bool:
        return self._trust is not None and self._trust.stale

    @property
    def etags(self) -> dict[str, str]:
        """The ETags for conditional requests, by URL.

        No ETags are sent while the list is expired: a 304 from a server with the same old list
        must not end the search for a newer list.
        """
        return {} if self._is_stale else dict(self._etags)

    # -- sources of updates

    def update_context(self, fallback: str | None, *, force: bool, wait: int) -> UpdateContext:
        """Return the state on which one update bases its decisions.

        Args:
            fallback: Server to request first, or None.
            force: Whether to apply a list that may leave no working endpoint.
            wait: Seconds for which a server may hold its reply.
        """
        rules = self.rules
        with self._state as state:
            current = state.api.select(state.clock())
            usable = {
                kind.value: frozenset(m.url for m in state.pool(kind).members() if m.health.usable)
                for kind in Kind
            }
            urls = [member.url for member in state.api.members()]
            quiet = state.policy.probe != "all" and current is not None and current.health.usable
        down = frozenset(urls) - usable[Kind.API]
        # The built-in endpoints come last, so that a bad list does not cut the client off.
        last = [*rules.config_urls, *(e.url for e in rules.built_in.api_endpoints)]
        endpoints = {*urls, *(e.url for e in rules.built_in.api_endpoints)}
        if quiet:  # contact only the endpoint in use
            urls, last = [], list(rules.config_urls)
        plain = rules.allow_http or bool(urls_of(self.config, is_plain))
        return UpdateContext(
            sources(fallback, None if current is None else current.url, urls, last, down),
            usable,
            self.etags,
            force,
            wait,
            rules._replace(allow_http=plain),
            state.policy.max_endpoints,
            frozenset(rules.config_urls) - endpoints,
        )

    def server_names(self, fallback: str | None = None) -> dict[str, str]:
        """Return the ``server_name`` of each endpoint with a server name, by origin.

        A list sets the names of its own endpoints only. The application's own sources keep the
        application's names: otherwise a list could make a certificate for another name valid
        for these sources, or make the sources unreachable.

        Args:
            fallback: The server that this update requests first, or None.
        """
        built_in = self.rules.built_in.api_endpoints
        names = {origin_of(parse_url(e.url)): e.server_name for e in self.config.api_endpoints}
        for url in (fallback, *self.rules.config_urls):
            if url is not None:
                with contextlib.suppress(AddressError):  # the update reports the error
                    names[origin_of(parse_url(url.partition("?")[0]))] = None
        names |= {origin_of(parse_url(e.url)): e.server_name for e in built_in}
        return {origin: name for origin, name in names.items() if name is not None}

    # -- changes

    def put(self, kind: Kind, endpoint: Endpoint) -> None:
        """Add an endpoint, or change the priority of a known endpoint."""
        self._change("manual", None, lambda s: s.pool(kind).put(endpoint, s.clock()))

    def remove(self, url: str) -> bool:
        """Remove an endpoint from both kinds; return False if the URL is unknown."""

        def change(state: ClientState) -> None:
            for kind in Kind:
                state.pool(kind).remove(url, state.clock())

        return self._change("manual", None, change)

    def apply_qr(self, text: str | bytes, *, replace: bool, trust: bool) -> codec.QrData:
        """Apply the endpoints of a QR text; see ``BaseManager.apply_qr``."""
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"the QR text must be a text or bytes, not {type(text).__name__}")
        try:
            data, signed = self._read_qr(text, plain=trust)
        except SignatureError as error:
            raise self.report_refused("qr", _untrusted(_QR_CODE, error)) from None
        found = EndpointConfig(data.api_endpoints or (), data.socketio_endpoints or ())
        taken, ours = normalized(found, _QR_CODE).kinds(), self.config.kinds()
        given = {kind: taken[kind] for kind, each in data.kinds().items() if each is not None}
        for kind, endpoints in given.items():
            if replace and ours[kind] and not endpoints:
                reason = "is empty: it would take every endpoint of its kind away"
                raise PayloadError(kind.member, reason)

        def change(state: ClientState) -> None:
            for kind, endpoints in given.items():
                if replace:
                    state.pool(kind).replace(endpoints, state.clock())
                else:
                    for endpoint in endpoints:
                        state.pool(kind).put(endpoint, state.clock())

        with self._apply_lock:
            if signed is not None:
                self._accept_signed(signed, "qr", _QR_CODE, added=not replace)
            if data.room_id is not None:
                self.room_id = data.room_id
            self._change("qr", None, change)
        return data

    def _read_qr(self, text: str | bytes, *, plain: bool) -> tuple[codec.QrData, SignedList | None]:
        if not looks_signed(text):
            if self._trust is not None and not plain:
                raise SignatureError("not-signed", "it is not signed (trust=True takes it)")
            return codec.loads_qr(text, self._state.policy.max_endpoints), None
        if self._trust is None:
            raise PayloadError("document", "it is signed: trusted_keys must say by whom")
        signed = self._trust.read(text)
        lists = signed.config
        return codec.QrData(lists.api_endpoints, lists.socketio_endpoints, signed.room_id), signed

    def apply_remote(self, found: NewList) -> bool:
        """Apply a remote list; endpoints that stay keep their health and statistics.

        Returns:
            Whether the list has changed.

        Raises:
            UpdateUntrusted: If a newer list was accepted meanwhile.
        """
        shown = without_query(found.url)
        with self._apply_lock:
            if found.signed is not None:
                self._accept_signed(found.signed, "remote", shown)
            tags = {} if found.etag is None else {found.url: found.etag}
            return self._change("remote", shown, lambda s: _replace(s, found.config), tags)

    def _accept_signed(
        self, signed: SignedList, origin: str, url: str, *, added: bool = False
    ) -> None:
        if self._trust is None:
            return
        try:
            self._trust.take(signed, added=added)
        except SignatureError as error:
            raise self.report_refused(origin, _untrusted(url, error)) from None

    def report_refused(self, origin: str, error: UpdateUntrusted) -> UpdateUntrusted:
        """Log and signal an untrusted list, and return the error."""
        logger.warning("%s", error)
        about = {"origin": origin, "url": error.url, "code": error.code, "reason": error.reason}
        self._send(signals.endpoints_refused, about)
        return error

    def _change(
        self,
        origin: str,
        url: str | None,
        change: Callable[[ClientState], None],
        etags: dict[str, str] | None = None,
    ) -> bool:
        """Change the list, save it, and send ``endpoints_updated``; return whether it changed.

        ``etags`` are the ETags of the new list. The ETags of the old list are dropped if the list
        has changed, because the next response must be a list then, not a 304.
        """
        with self._state as state:
            before = _entries(state)
            change(state)
            after = _entries(state)
        if before == after and origin == "manual":
            return False
        self._etags = {**(self._etags if before == after else {}), **(etags or {})}
        self._source, self._arrived_at = ListSource(origin, url, None), time.time()
        self._unsaved = True
        (self.save_later or self.save)()
        if before == after:
            return False
        about = {
            "added": _urls(after.keys() - before.keys()),
            "removed": _urls(before.keys() - after.keys()),
            "changed": _urls(e for e in after if e in before and after[e] != before[e]),
        }
        logger.info("the endpoint list has changed (%s): %s", origin, about)
        self._send(signals.endpoints_updated, {"origin": origin, "url": url, **about})
        return True

    # -- the cache file

    def save(self) -> None:
        """Write the list to the cache file, if there is a file and the list has changed."""
        with self._save_lock:
            if not self._unsaved or self._path is None:
                return
            self._unsaved = False
            try:
                self._write(self._path)
                self._save_failed = False
            except OSError as error:
                self._unsaved = True  # retry on the next turn: a full disk may be freed
                if not self._save_failed and not isinstance(error, BlockingIOError):
                    logger.warning("the endpoint list cannot be kept in %s: %s", self._path, error)
                    self._save_failed = True

    def _write(self, path: Path) -> None:
        arrived_at, room = self._arrived_at or time.time(), self.room_id
        etags = {url: etag for url, etag in self._etags.items() if "?" not in url}
        origin, url, *_ = self._source
        cached = CachedList(self.config, origin, url, arrived_at, room, etags)
        if self._trust is None:
            cache_file.save(path, cached)
            return
        with locked(path.with_name(f"{path.name}.lock"), _LOCK_TIMEOUT):
            if self._trust.is_behind():
                return  # another process has written a newer list
            jws = tuple(signed.text for signed in self._trust.accepted)
            # Keep no unsigned list: the next start would refuse it.
            config = cached.config if jws else EndpointConfig()
            # The lists come before the marks, so that the lists are not older than these.
            cache_file.save(path, cached._replace(config=config, jws=jws))
            self._trust.save_marks()

    def reset_after_fork(self) -> None:
        """Replace the locks in a child process: a thread may have held the parent's locks."""
        self._save_lock = threading.Lock()
        self._apply_lock = threading.RLock()
        if self._trust is not None:
            self._trust.reset_after_fork()


def _untrusted(url: str, error: SignatureError) -> UpdateUntrusted:
    return UpdateUntrusted(url, str(error), error.code)


def _entries(state: ClientState) -> dict[tuple[str, str], Endpoint]:
    return {
        (kind, member.url): member.endpoint
        for kind in Kind
        for member in state.pool(kind).members()
    }


def _urls(entries: Iterable[tuple[str, str]]) -> list[str]:
    return sorted({url for _, url in entries})


def _replace(state: ClientState, config: EndpointConfig) -> None:
    for kind, endpoints in config.kinds().items():
        state.pool(kind).replace(endpoints, state.clock())
