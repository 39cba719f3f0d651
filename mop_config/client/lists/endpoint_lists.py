"""``EndpointLists``: applies every change to the endpoint lists of a manager."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from blinker import NamedSignal

from ... import signals
from ...errors import AddressError, PayloadError, SignatureError, UpdateUntrusted
from ...model import codec
from ...model.address import parse_url
from ...model.endpoint import Endpoint, EndpointConfig, Kind
from ...model.jws import SignedList
from ...net.http import origin_of
from ..pool.session import ClientState
from .bootstrap import check_api
from .cache import ListCache
from .normalize import has_plain, normalized, without_query
from .trust import Trust, read_qr
from .update import NewList, UpdateContext, sources

logger = logging.getLogger(__name__)

#: Name of a QR code in place of a source URL.
_QR_CODE = "the QR code"


@dataclass(frozen=True, slots=True)
class ListRules:
    """The application's settings for the sources of lists.

    Attributes:
        built_in: The built-in endpoints.
        config_urls: Servers from which updates fetch the list, besides the endpoints.
        trust: Verifies signed lists; None if lists need not be signed.
        allow_http_lists: Whether an unsigned list is accepted over plain http from another machine.
        allow_http: Whether a list received over https may name endpoints over plain http.
    """

    built_in: EndpointConfig
    config_urls: tuple[str, ...]
    trust: Trust | None
    allow_http_lists: bool
    allow_http: bool


class EndpointLists:
    """The endpoint lists of a manager: in its pools, and in its cache file.

    Args:
        state: The pools.
        rules: The application's settings for the sources of lists.
        cache: The origin and the cache file of the list.
        send: Sends a signal.

    Attributes:
        save_later: Asks a running manager to call ``save`` in its own thread; None to save at
            once.
    """

    def __init__(
        self,
        state: ClientState,
        rules: ListRules,
        cache: ListCache,
        send: Callable[[NamedSignal, dict[str, Any]], None],
    ) -> None:
        self.rules = rules
        self.cache = cache
        self.save_later: Callable[[], None] | None = None
        self._state = state
        self._trust = rules.trust
        self._send = send
        # The lock makes accepting a signed list and putting it into the pools one step. So of two
        # lists that arrive at once, the newer list stays.
        self._apply_lock = threading.RLock()
        config = cache.load()
        if not config and rules.built_in:
            config = rules.built_in
            cache.set_source("seed")
        with state:
            _replace(state, config)
        if cache.refusal is not None:
            self.report_refused("cache", _untrusted(str(cache.path), cache.refusal))

    @property
    def config(self) -> EndpointConfig:
        """The list in use."""
        with self._state as state:
            pools = [state.pool(kind) for kind in Kind]
            return EndpointConfig(*(tuple(m.endpoint for m in pool.members()) for pool in pools))

    @property
    def etags(self) -> dict[str, str]:
        """The ETags for conditional requests, by URL.

        No ETags are sent while the list is expired: a 304 from a server with the same old list
        must not end the search for a newer list.
        """
        return {} if self._trust is not None and self._trust.stale else dict(self.cache.etags)

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
        return UpdateContext(
            sources(fallback, None if current is None else current.url, urls, last, down),
            usable,
            self.etags,
            force,
            wait,
            self._trust,
            state.policy.max_endpoints,
            rules.allow_http_lists,
            rules.allow_http or has_plain(self.config),
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
        self._change_locally("manual", lambda s: s.pool(kind).put(endpoint, s.clock()))

    def remove(self, url: str) -> bool:
        """Remove an endpoint from both kinds; return False if the URL is unknown."""
        with self._state as state:
            there = url in state.api or url in state.socketio

        def change(state: ClientState) -> None:
            for kind in Kind:
                state.pool(kind).remove(url, state.clock())

        if there:
            self._change_locally("manual", change)
        return there

    def apply_qr(self, text: str | bytes, *, replace: bool, trust: bool) -> codec.QrData:
        """Apply the endpoints of a QR text; see ``BaseManager.apply_qr``."""
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"the QR text must be a text or bytes, not {type(text).__name__}")
        try:
            most = self._state.policy.max_endpoints
            data, signed = read_qr(text, self._trust, most, plain=trust)
        except SignatureError as error:
            raise self.report_refused("qr", _untrusted(_QR_CODE, error)) from None
        for index, endpoint in enumerate(data.api_endpoints or ()):
            check_api(endpoint, f"api_endpoints[{index}]")
        if replace:
            self._check_not_emptied(data)
        found = EndpointConfig(data.api_endpoints or (), data.socketio_endpoints or ())
        lists = normalized(found, _QR_CODE).kinds()
        given = {kind: lists[kind] for kind, each in data.kinds().items() if each is not None}

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
                self.cache.room_id = data.room_id
            self._change_locally("qr", change)
        return data

    def _check_not_emptied(self, data: codec.QrData) -> None:
        """Refuse an empty list that would replace endpoints."""
        ours = self.config.kinds()
        for kind, endpoints in data.kinds().items():
            if endpoints == () and ours[kind]:
                reason = "is empty: it would take every endpoint of its kind away"
                raise PayloadError(kind.member, reason)

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
            if same_lists(found.config, self.config):
                self.cache.etags = {**self.cache.etags, **tags}
                self.cache.set_source("remote", shown, time.time())
                self._list_changed()
                return False
            self.cache.etags = tags
            self._change("remote", shown, lambda state: _replace(state, found.config))
            return True

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

    def _change_locally(self, origin: str, change: Callable[[ClientState], None]) -> None:
        # The list no longer equals a server's list: the next response must be a list, not a 304.
        self.cache.etags = {}
        self._change(origin, None, change)

    def _change(self, origin: str, url: str | None, change: Callable[[ClientState], None]) -> None:
        """Change the list, save it, and send ``endpoints_updated``."""
        with self._state as state:
            before = _entries(state)
            change(state)
            after = _entries(state)
        self.cache.set_source(origin, url, time.time())
        self._list_changed()
        if before == after:
            return
        about = {
            "added": _urls(after.keys() - before.keys()),
            "removed": _urls(before.keys() - after.keys()),
            "changed": _urls(e for e in after if e in before and after[e] != before[e]),
        }
        logger.info("the endpoint list has changed (%s): %s", origin, about)
        self._send(signals.endpoints_updated, {"origin": origin, "url": url, **about})

    # -- the cache file

    def _list_changed(self) -> None:
        self.cache.mark_unsaved()
        if self.save_later is None:
            self.save()
        else:
            self.save_later()

    def save(self) -> None:
        """Write the list to the cache file, if there is a file and the list has changed."""
        self.cache.save(lambda: self.config)

    def reset_after_fork(self) -> None:
        """Replace the locks in a child process: a thread may have held the parent's locks."""
        self.cache.reset_after_fork()
        self._apply_lock = threading.RLock()


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


def same_lists(one: EndpointConfig, other: EndpointConfig) -> bool:
    """Return whether two lists hold the same endpoints, in any order."""
    ours, theirs = one.kinds(), other.kinds()
    return all({e.url: e for e in ours[k]} == {e.url: e for e in theirs[k]} for k in ours)


def _replace(state: ClientState, config: EndpointConfig) -> None:
    for kind, endpoints in config.kinds().items():
        state.pool(kind).replace(endpoints, state.clock())
