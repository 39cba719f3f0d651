"""``EndpointLists``: the endpoints of a manager, the current ones, and changes of the list."""

import logging
import random
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from blinker import NamedSignal

from ... import signals
from ...errors import PayloadError, SignatureError, UpdateUntrusted
from ...model import codec
from ...model.endpoint import Endpoint, EndpointConfig, Kind
from ...model.jws import SignedList, TrustedKeys
from ..pool.member import EndpointState, EventKind, PoolEvent, state_of
from ..pool.policy import Policy
from ..pool.pool import Pool
from ..pool.session import ClientState
from .bootstrap import check_api
from .cache import ListCache, ListSource
from .normalize import canonical_url, normalized
from .trust import Trust, read_qr
from .update import NewList

logger = logging.getLogger(__name__)

#: What stands for the address of a QR code.
_QR_CODE = "the QR code"

_SIGNALS = {
    EventKind.SWITCHED: signals.endpoint_switched,
    EventKind.DOWN: signals.endpoint_down,
    EventKind.RECOVERED: signals.endpoint_recovered,
    EventKind.ALL_DOWN: signals.all_endpoints_down,
}


class EndpointLists:
    """The part of a manager that touches no network.

    Args:
        policy: The figures.
        seed: The built-in endpoints.
        path: File that keeps the list over a restart, or None.
        keys: Keys that lists must be signed with, or None where they need not be.
    """

    def __init__(
        self,
        policy: Policy,
        seed: EndpointConfig,
        path: Path | None,
        keys: TrustedKeys | None = None,
    ) -> None:
        self.policy = policy
        self._state = ClientState(policy, time.monotonic, time.time, random.random, self._emit)
        self._seed = seed
        self._trust = (
            None if keys is None else Trust(keys, self._state.wall_clock, policy.max_endpoints)
        )
        # A signed list is accepted and put into the pools in one step: of two lists that arrive
        # at once, the newer one stays.
        self._apply_lock = threading.RLock()
        self._cache = ListCache(path, self._trust)
        config = self._cache.load()
        if not config and seed:
            config = seed
            self._cache.set_source("seed")
        with self._state as core:
            _replace(core, config)
        if self._cache.refusal is not None:
            self._report_refused("cache", _untrusted(str(path), self._cache.refusal))

    # -- what is in them

    @property
    def api_endpoints(self) -> tuple[EndpointState, ...]:
        """The API endpoints, by priority and insertion."""
        return self._states(Kind.API)

    @property
    def socket_endpoints(self) -> tuple[EndpointState, ...]:
        """The Socket.io endpoints, by priority and insertion."""
        return self._states(Kind.SOCKETIO)

    def _states(self, kind: str) -> tuple[EndpointState, ...]:
        with self._state as core:
            pool = core.pool(kind)
            current = pool.select(core.clock())
            return tuple(state_of(member, current) for member in pool.members())

    @property
    def current_api_endpoint(self) -> EndpointState | None:
        """The API endpoint that requests go to now, or None."""
        return self._current(Kind.API)

    @property
    def current_socket_endpoint(self) -> EndpointState | None:
        """The Socket.io endpoint that connections go to now, or None."""
        return self._current(Kind.SOCKETIO)

    def _current(self, kind: str) -> EndpointState | None:
        with self._state as core:
            member = core.pool(kind).select(core.clock())
            return None if member is None else state_of(member, member)

    def get_current_api_url(self) -> str | None:
        """Give the URL of the API endpoint that requests go to now, or None."""
        current = self.current_api_endpoint
        return None if current is None else current.url

    def get_current_socket_url(self) -> str | None:
        """Give the URL of the Socket.io endpoint in use, or None."""
        current = self.current_socket_endpoint
        return None if current is None else current.url

    @property
    def config(self) -> EndpointConfig:
        """The list as it stands."""
        with self._state as core:
            return EndpointConfig(
                tuple(member.endpoint for member in core.api.members()),
                tuple(member.endpoint for member in core.socketio.members()),
            )

    @property
    def list_source(self) -> ListSource:
        """Where the list in use came from, and how old it is."""
        return self._cache.source

    @property
    def is_offline(self) -> bool:
        """Whether this machine seems to have no network: then no endpoint is to blame."""
        with self._state as core:
            core.network.expire(core.clock())
            return core.network.offline

    def statistics(self) -> dict[str, Any]:
        """Give figures since the start: per endpoint, per kind, and of the budget."""
        with self._state as core:
            return {
                "offline": core.network.offline,
                "stale": self.list_source.stale,
                "budget_tokens": core.budget.tokens,
                **{
                    kind.value: {
                        "switches": core.switches[kind],
                        "seconds_without_service": core.seconds_without_service[kind],
                        "endpoints": {
                            member.url: {
                                "served": member.served,
                                "failed": member.failed,
                                "state": member.health.state.value,
                                "response_time": member.health.response_time,
                            }
                            for member in core.pool(kind).members()
                        },
                    }
                    for kind in Kind
                },
            }

    # -- changing them

    def add_api_endpoint(self, url: str, priority: int = 0) -> None:
        """Add an API endpoint; one that is there gets this priority.

        It stays until a server's list takes the place of ours.

        Raises:
            AddressError: If the URL or the priority cannot be used.
        """
        endpoint = Endpoint.parse(canonical_url(url), priority)
        check_api(endpoint)
        self._add(Kind.API, endpoint)

    def add_socket_endpoint(self, url: str, priority: int = 0) -> None:
        """Add a Socket.io endpoint; one that is there gets this priority.

        Raises:
            AddressError: If the URL or the priority cannot be used.
        """
        self._add(Kind.SOCKETIO, Endpoint.parse(canonical_url(url), priority))

    def _add(self, kind: str, endpoint: Endpoint) -> None:
        self._change_locally("manual", lambda core: core.pool(kind).put(endpoint, core.clock()))

    def remove_endpoint(self, url: str) -> bool:
        """Take an endpoint out, of whichever kind; False where there is none.

        Raises:
            AddressError: If the URL is none.
        """
        wanted = canonical_url(url)
        with self._state as core:
            there = wanted in core.api or wanted in core.socketio
        if there:
            self._change_locally("manual", lambda core: _remove(core, wanted))
        return there

    @property
    def room_id(self) -> str | None:
        """The room that came with the last QR code that named one, or None."""
        return self._cache.room_id

    def apply_qr(
        self, text: str | bytes, *, replace: bool = False, trust: bool = False
    ) -> codec.QrData:
        """Apply the endpoints of a QR text.

        Its endpoints are added or given its priorities; the others stay, unless
        ``replace``. A kind that the text does not speak of stays untouched.

        Args:
            text: One of the three forms, see ``mop_config.qr``, or a signed list.
            replace: Whether the text's list takes the place of ours.
            trust: Whether to take one that is not signed, though lists have to be; it is
                not kept over a restart.

        Returns:
            What the text says, with its ``room_id``.

        Raises:
            PayloadError: Naming the member that is at fault; nothing is changed then.
            UpdateUntrusted: If lists have to be signed, and this is no list to be trusted.
        """
        if not isinstance(text, (str, bytes)):
            raise TypeError(f"the QR text must be a text or bytes, not {type(text).__name__}")
        try:
            data, signed = read_qr(text, self._trust, self.policy.max_endpoints, plain=trust)
        except SignatureError as error:
            raise self._report_refused("qr", _untrusted(_QR_CODE, error)) from None
        for index, endpoint in enumerate(data.api_endpoints or ()):
            check_api(endpoint, f"api_endpoints[{index}]")
        if replace:
            self._check_not_emptied(data)
        found = EndpointConfig(data.api_endpoints or (), data.socketio_endpoints or ())
        found = normalized(found, _QR_CODE)
        lists = (
            (Kind.API, None if data.api_endpoints is None else found.api_endpoints),
            (Kind.SOCKETIO, None if data.socketio_endpoints is None else found.socketio_endpoints),
        )

        def change(core: ClientState) -> None:
            for kind, endpoints in lists:
                if endpoints is not None:
                    _merge(core.pool(kind), endpoints, core.clock(), replace=replace)

        with self._apply_lock:
            if signed is not None:
                self._accept_signed(signed, "qr", _QR_CODE, added=not replace)
            if data.room_id is not None:
                self._cache.room_id = data.room_id
            self._change_locally("qr", change)
        return data

    def _check_not_emptied(self, data: codec.QrData) -> None:
        """Refuse to replace endpoints that there are by none."""
        ours = self.config.kinds()
        for kind, endpoints in data.kinds().items():
            if endpoints == () and ours[kind]:
                reason = "is empty: it would take every endpoint of its kind away"
                raise PayloadError(kind.member, reason)

    def _apply_remote(self, found: NewList) -> bool:
        """Apply a remote list; endpoints that stay keep their health and statistics.

        Returns:
            Whether the list has changed.

        Raises:
            UpdateUntrusted: If a newer one was taken meanwhile.
        """
        with self._apply_lock:
            if found.signed is not None:
                self._accept_signed(found.signed, "remote", found.url)
            return self._put_remote(found)

    def _put_remote(self, found: NewList) -> bool:
        tags = {} if found.etag is None else {found.url: found.etag}
        if same_lists(found.config, self.config):
            self._cache.etags = {**self._cache.etags, **tags}
            self._cache.set_source("remote", found.url, time.time())
            self._list_changed()
            return False
        self._cache.etags = tags
        self._change("remote", found.url, lambda core: _replace(core, found.config))
        return True

    def _accept_signed(
        self, signed: SignedList, origin: str, url: str, *, added: bool = False
    ) -> None:
        if self._trust is None:
            return
        try:
            self._trust.take(signed, added=added)
        except SignatureError as error:
            raise self._report_refused(origin, _untrusted(url, error)) from None

    def _report_refused(self, origin: str, error: UpdateUntrusted) -> UpdateUntrusted:
        """Log and signal an untrusted list, and return the error."""
        logger.warning("%s", error)
        about = {"origin": origin, "url": error.url, "code": error.code, "reason": error.reason}
        self._send(signals.endpoints_refused, about)
        return error

    def _change_locally(self, origin: str, change: Callable[[ClientState], None]) -> None:
        # The list is no server's any more: the next reply must be a whole list, not a 304.
        self._cache.etags = {}
        self._change(origin, None, change)

    def _change(self, origin: str, url: str | None, change: Callable[[ClientState], None]) -> None:
        """Change the list, save it, and send ``endpoints_updated``."""
        with self._state as core:
            before = _entries(core)
            change(core)
            after = _entries(core)
        self._cache.set_source(origin, url, time.time())
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

    def _list_changed(self) -> None:
        """Save the new list to the cache file."""
        self._cache.mark_unsaved()
        self._save_if_changed()

    def _save_if_changed(self) -> None:
        """Write the list to the cache file, if there is one and the list is not there yet."""
        self._cache.save(lambda: self.config)

    # -- choosing by hand

    def pin(self, url: str) -> None:
        """Prefer one endpoint while nothing is wrong with it; it is returned to.

        Raises:
            KeyError: If it is not in the list.
        """
        wanted = canonical_url(url)
        with self._state as core:
            pools = [pool for pool in (core.api, core.socketio) if wanted in pool]
            if not pools:
                raise KeyError(f"{url} is not in the list")
            for pool in pools:
                pool.pin(wanted, core.clock())
                pool.select(core.clock())

    def unpin(self) -> None:
        """Choose by priority and speed again."""
        with self._state as core:
            for pool in (core.api, core.socketio):
                pool.pin(None, core.clock())
                pool.select(core.clock())

    def select_best_endpoints(self) -> None:
        """Go to the best endpoint of each kind now, without dwelling on the one in use."""
        with self._state as core:
            for pool in (core.api, core.socketio):
                pool.choose_anew(core.clock())

    # -- telling

    def _emit(self, event: PoolEvent) -> None:
        about = event.about
        kind = about["kind"]
        if event.kind is EventKind.SWITCHED:
            logger.warning(
                "%s requests go to %s instead of %s (%s, %.3f s without service)",
                kind,
                about["to_url"],
                about["from_url"],
                about["reason"],
                about["seconds_without_service"],
            )
        elif event.kind is EventKind.ALL_DOWN:
            logger.error("every %s endpoint is down: %s", kind, ", ".join(about["urls"]))
        elif event.kind is EventKind.DOWN:
            logger.warning("%s endpoint %s is down (%s)", kind, about["url"], about["reason"])
        else:
            logger.info("%s endpoint %s is healthy again", kind, about["url"])
        self._send(_SIGNALS[event.kind], about)

    def _send(self, signal: NamedSignal, about: dict[str, Any]) -> None:
        signals.send(signal, self, **about)


def _untrusted(url: str, error: SignatureError) -> UpdateUntrusted:
    return UpdateUntrusted(url, str(error), error.code)


def _entries(core: ClientState) -> dict[tuple[str, str], Endpoint]:
    return {
        (pool.kind, member.url): member.endpoint
        for pool in (core.api, core.socketio)
        for member in pool.members()
    }


def _urls(entries: Iterable[tuple[str, str]]) -> list[str]:
    return sorted({url for _, url in entries})


def same_lists(one: EndpointConfig, other: EndpointConfig) -> bool:
    """Whether two lists hold the same endpoints, in whatever order."""
    ours, theirs = one.kinds(), other.kinds()
    return all(_by_url(ours[kind]) == _by_url(theirs[kind]) for kind in ours)


def _by_url(endpoints: Iterable[Endpoint]) -> dict[str, Endpoint]:
    return {endpoint.url: endpoint for endpoint in endpoints}


def _remove(core: ClientState, url: str) -> None:
    core.api.remove(url, core.clock())
    core.socketio.remove(url, core.clock())


def _replace(core: ClientState, config: EndpointConfig) -> None:
    core.api.replace(config.api_endpoints, core.clock())
    core.socketio.replace(config.socketio_endpoints, core.clock())


def _merge(pool: Pool, endpoints: Iterable[Endpoint], now: float, *, replace: bool) -> None:
    if replace:
        pool.replace(endpoints, now)
        return
    for endpoint in endpoints:
        pool.put(endpoint, now)
