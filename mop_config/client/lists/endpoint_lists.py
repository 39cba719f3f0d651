"""``EndpointLists``: applies every change to the endpoint lists of a manager, and keeps them."""

import contextlib
import dataclasses
import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

from ... import signals
from ...errors import AddressError, PayloadError, SignatureError, UpdateUntrusted
from ...files import locked
from ...model.address import parse_url
from ...model.endpoint import Endpoint, EndpointConfig, Kind, QrData, endpoint_changes, loads_qr
from ...model.jws import SignedList, looks_signed
from ...net.http import origin_of
from ..pool.session import ClientState
from ..transport.options import TransportOptions
from . import cache_file, rules
from .cache_file import CachedList
from .trust import Trust

logger = logging.getLogger(__name__)

#: The endpoints by their kind.
Kinds = Mapping[Kind, tuple[Endpoint, ...]]
#: Name of a QR code in place of a source URL.
_QR_CODE = "the QR code"
#: The words of ``endpoints_updated`` for the signs of ``endpoint_changes``.
_WORDS = {"+": "added", "-": "removed", "~": "changed"}
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


class ManagerSettings(NamedTuple):
    """The application's settings for updates of the list, and for reports.

    Attributes:
        built_in: The built-in endpoints.
        config_urls: Servers from which updates fetch the list, besides the endpoints.
        trust: Verifies signed lists; None if lists need not be signed.
        allow_http_lists: Whether an unsigned list is accepted over plain http from other machines.
        allow_http: Whether a list received over https may name endpoints over plain http.
        options: Options of the connections.
        token: The bearer token for sources of lists, or a function that returns the token.
        update_interval: Seconds between two updates; 0 for none.
        watch: Whether to wait for a new list by a long poll.
        report: Whether to report the outcomes of requests to the server of the list.
    """

    built_in: EndpointConfig
    config_urls: tuple[str, ...]
    trust: Trust | None
    allow_http_lists: bool
    allow_http: bool
    options: TransportOptions
    token: rules.Token
    update_interval: float
    watch: bool
    report: bool


class EndpointLists:
    """The endpoint lists of a manager: in its pools, and in its cache file.

    Args:
        state: The pools, and what sends the signals.
        settings: The application's settings.
        path: The cache file, or None.

    Attributes:
        kept: The origin, the room and the ETags of the list in use; its ``config`` is empty,
            because the pools hold the endpoints.
    """

    def __init__(self, state: ClientState, settings: ManagerSettings, path: Path | None) -> None:
        self.state = state
        self.settings = settings
        self.kept = CachedList("none")
        self._path = path
        self._trust = settings.trust
        rules.check_token(settings.token)
        self._unsaved = self._save_failed = False
        # The lock makes accepting a signed list and putting it into the pools one step. So of two
        # lists that arrive at once, the newer list stays.
        self._lock = threading.RLock()
        config = self._load()
        if not config and settings.built_in:
            config = settings.built_in
            self.kept = self.kept._replace(origin="seed")
        with state:
            self._replace(config.kinds())

    def _load(self) -> EndpointConfig:
        """Read the cache file; return an empty list if the file has no list."""
        cached = None if self._path is None else cache_file.load(self._path)
        if cached is None:
            return EndpointConfig()
        config = cached.config
        source = str(self._path)
        if self._trust is not None and config:
            with contextlib.suppress(UpdateUntrusted), self._refusals("cache", source):
                self._trust.recall(cached.jws)
            # The unencrypted endpoints that were dropped on acceptance stay dropped.
            kept = frozenset(rules.urls_of(config, rules.is_plain))
            signed: Kinds = EndpointConfig().kinds()
            for accepted in self._trust.accepted:  # the newer list sets the priorities
                signed = _merged(signed, accepted.config.kinds())
            config = rules.without_plain(EndpointConfig(*signed.values()), source, kept)
        try:
            config = rules.normalized(config, source)
        except PayloadError as error:
            logger.warning("the endpoint list in %s is ignored: %s", source, error)
            return EndpointConfig()
        if config:
            self.kept = cached._replace(config=EndpointConfig(), origin="cache")
        else:
            self.kept = self.kept._replace(room_id=cached.room_id)
        return config

    def _kinds(self) -> Kinds:
        """Return the list in use. The caller holds the lock of the state."""
        pools = {kind: self.state.pool(kind) for kind in Kind}
        return {kind: tuple(m.endpoint for m in pool.members()) for kind, pool in pools.items()}

    def _replace(self, kinds: Kinds) -> None:
        """Replace the endpoints of these kinds. The caller holds the lock of the state."""
        for kind, endpoints in kinds.items():
            self.state.pool(kind).replace(endpoints, self.state.clock())

    @property
    def config(self) -> EndpointConfig:
        """The list in use."""
        with self.state:
            return EndpointConfig(*self._kinds().values())

    @property
    def source(self) -> ListSource:
        """The origin and the age of the list."""
        origin, url, at = self.kept.origin, self.kept.url, self.kept.saved_at
        age = None if at is None else max(0.0, time.time() - at)
        return ListSource(origin, url, age, self._is_stale)

    @property
    def _is_stale(self) -> bool:
        return self._trust is not None and self._trust.stale

    @property
    def etags(self) -> Mapping[str, str]:
        """The ETags for conditional requests, by URL.

        No ETags are sent while the list is expired: a 304 from a server with the same old list
        must not end the search for a newer list.
        """
        return {} if self._is_stale else self.kept.etags

    # -- sources of updates

    def update_context(self, fallback: str | None, *, force: bool) -> rules.UpdateContext:
        """Return the state on which one update bases its decisions.

        Args:
            fallback: Server to request first, or None.
            force: Whether to apply a list that may leave no working endpoint.
        """
        settings = self.settings
        built_in = [endpoint.url for endpoint in settings.built_in.api_endpoints]
        with self.state as state:
            current = state.api.select(state.clock())
            pools = {kind: state.pool(kind).members() for kind in Kind}
            usable: dict[str, frozenset[str]] = {
                kind: frozenset(m.url for m in ms if m.health.usable) for kind, ms in pools.items()
            }
            urls = [member.url for member in pools[Kind.API]]
            quiet = state.policy.probe != "all" and current is not None and current.health.usable
        down = frozenset(urls) - usable[Kind.API]
        configured = frozenset(settings.config_urls).difference(urls, built_in)
        if quiet:  # contact only the endpoint in use
            urls, built_in = [], []
        # The built-in endpoints come last, so that a bad list does not cut the client off.
        last = [*settings.config_urls, *built_in]
        return rules.UpdateContext(
            rules.sources(fallback, None if current is None else current.url, urls, last, down),
            usable,
            self.etags,
            force,
            max_endpoints=state.policy.max_endpoints,
            configured=configured,
            trust=settings.trust,
            allow_http=settings.allow_http or bool(rules.urls_of(self.config, rules.is_plain)),
            https_only=settings.trust is None and not settings.allow_http_lists,
        )

    def server_names(self, fallback: str | None = None) -> dict[str, str]:
        """Return the ``server_name`` of each endpoint with a server name, by origin.

        A list sets the names of its own endpoints only. The application's own sources keep the
        application's names: otherwise a list could make a certificate for another name valid
        for these sources, or make the sources unreachable.

        Args:
            fallback: The server that this update requests first, or None.
        """
        built_in = self.settings.built_in.api_endpoints
        names = {origin_of(parse_url(e.url)): e.server_name for e in self.config.api_endpoints}
        for url in (fallback, *self.settings.config_urls):
            if url is not None:
                with contextlib.suppress(AddressError):  # the update reports the error
                    names[origin_of(parse_url(url.partition("?")[0]))] = None
        names |= {origin_of(parse_url(e.url)): e.server_name for e in built_in}
        return {origin: name for origin, name in names.items() if name is not None}

    # -- changes

    def put(self, kind: Kind, endpoint: Endpoint) -> None:
        """Add an endpoint, or change the priority of a known endpoint."""
        self._change(CachedList("manual"), partial(_merged, more={kind: (endpoint,)}))

    def remove(self, url: str) -> bool:
        """Remove an endpoint from both kinds; return False if the URL is unknown."""

        def without(ours: Kinds) -> Kinds:
            return {kind: tuple(e for e in each if e.url != url) for kind, each in ours.items()}

        return self._change(CachedList("manual"), without)

    def apply_qr(self, text: str | bytes, *, replace: bool, trust: bool) -> QrData:
        """Apply the endpoints of a QR text; see ``BaseManager.apply_qr``."""
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"the QR text must be a text or bytes, not {type(text).__name__}")
        with self._lock, self._refusals("qr", _QR_CODE):
            data, signed = self._read_qr(text, plain=trust)
            found = EndpointConfig(data.api_endpoints or (), data.socketio_endpoints or ())
            taken = rules.normalized(found, _QR_CODE).kinds()
            ours = self.config.kinds()
            given = {kind: taken[kind] for kind, each in data.kinds().items() if each is not None}
            for kind, endpoints in given.items():
                if replace and ours[kind] and not endpoints:
                    reason = "is empty: it would take every endpoint of its kind away"
                    raise PayloadError(kind.member, reason)
            if signed is not None and self._trust is not None:
                self._trust.take(signed, added=not replace)
            merged = partial(_merged, more=given)
            news = CachedList("qr", room_id=data.room_id)
            self._change(news, (lambda _: given) if replace else merged)
        return data

    def _read_qr(self, text: str | bytes, *, plain: bool) -> tuple[QrData, SignedList | None]:
        if not looks_signed(text):
            if self._trust is not None and not plain:
                raise SignatureError("not-signed", "it is not signed (trust=True takes it)")
            return loads_qr(text, self.state.policy.max_endpoints), None
        if self._trust is None:
            raise PayloadError("document", "it is signed: trusted_keys must say by whom")
        signed = self._trust.read(text)
        lists = signed.config
        return QrData(lists.api_endpoints, lists.socketio_endpoints, signed.room_id), signed

    def apply_remote(self, found: rules.NewList) -> bool:
        """Apply a remote list; endpoints that stay keep their health and statistics.

        Returns:
            Whether the list has changed.

        Raises:
            UpdateUntrusted: If a newer list was accepted meanwhile.
        """
        shown = rules.without_query(found.url)
        tags = {} if found.etag is None else {found.url: found.etag}
        with self._lock, self._refusals("remote", shown):
            if found.signed is not None and self._trust is not None:
                self._trust.take(found.signed)
            news = CachedList("remote", shown, etags=tags)
            return self._change(news, lambda _: found.config.kinds())

    @contextlib.contextmanager
    def _refusals(self, origin: str, url: str) -> Iterator[None]:
        """Turn the refusal of a signature into an ``UpdateUntrusted``, and report it."""
        try:
            yield
        except SignatureError as error:
            refusal = UpdateUntrusted(url, str(error), error.code)
            raise self.report_refused(origin, refusal) from None

    def report_refused(self, origin: str, error: UpdateUntrusted) -> UpdateUntrusted:
        """Log and signal an untrusted list, and return the error."""
        logger.warning("%s", error)
        about = {"origin": origin, "url": error.url, "code": error.code, "reason": error.reason}
        self.state.send(signals.endpoints_refused, about)
        return error

    def _change(self, news: CachedList, change: Callable[[Kinds], Kinds]) -> bool:
        """Change the list, save it, and send ``endpoints_updated``; return whether it changed.

        The ETags of the old list are dropped if the list has changed, because the next response
        must be a list then, not a 304.

        Args:
            news: The origin of the new list, its source, its room and its ETags.
            change: Returns the new endpoints of the kinds that may change.
        """
        with self.state:
            before = self._kinds()
            old = self.kept
            after = change(before)
            self._replace(after)
            changes = [
                c for kind in after for c in endpoint_changes(kind, before[kind], after[kind])
            ]
            if not changes and news.origin == "manual":
                return False
            etags = {**({} if changes else old.etags), **news.etags}
            room = news.room_id or old.room_id
            self.kept = news._replace(saved_at=time.time(), room_id=room, etags=etags)
        self._unsaved = True
        (self.state.wake or self.save)()  # the loop of a running manager saves the list
        if changes:
            about = {
                word: sorted({change.endpoint.url for change in changes if change.sign == sign})
                for sign, word in _WORDS.items()
            }
            logger.info("the endpoint list has changed (%s): %s", news.origin, about)
            about_list = {"origin": news.origin, "url": news.url, **about}
            self.state.send(signals.endpoints_updated, about_list)
        return bool(changes)

    # -- the cache file

    def save(self) -> None:
        """Write the list to the cache file, if there is a file and the list has changed."""
        with self._lock:
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
        etags = {url: etag for url, etag in self.kept.etags.items() if "?" not in url}
        cached = self.kept._replace(config=self.config, etags=etags, jws=())
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
        """Replace the lock in a child process: a thread may have held the parent's lock."""
        self._lock = threading.RLock()


def _merged(ours: Kinds, more: Kinds) -> Kinds:
    """Add endpoints to those of their kind, or change the priority of known endpoints.

    A known endpoint keeps its ``server_name`` unless it gets another: most ways to name an endpoint
    again, such as the short forms of a QR code, have no place for the name.
    """
    found = {}
    for kind, each in more.items():
        by_url = {endpoint.url: endpoint for endpoint in ours[kind]}
        for new in each:
            known = by_url.get(new.url)
            if known is not None and new.server_name is None:
                new = dataclasses.replace(new, server_name=known.server_name)
            by_url[new.url] = new
        found[kind] = tuple(by_url.values())
    return found
