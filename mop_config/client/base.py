"""What a manager is, whichever way it waits: its lists, its choices, what it tells."""

import logging
import random
import time
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx2
import platformdirs
from blinker import NamedSignal

from .. import payload, signals
from ..errors import AddressError, PayloadError
from ..model import Endpoint, EndpointConfig
from ..probe import ProbeResult
from . import cache, wire
from .background import Background, Errands, Job
from .cache import CachedList
from .core import API, SOCKETIO, Core
from .options import NAMES
from .policy import Policy
from .pool import Event, EventKind, Member, Pool
from .update import Known, NewList, sources

logger = logging.getLogger(__name__)

#: What a built-in list may be made of.
Seed = EndpointConfig | Iterable[str | Endpoint | tuple[str, int]]
#: A token, or what gives it when it is needed; None while nobody is logged in.
Token = str | Callable[[], str | None] | None

_SIGNALS = {
    EventKind.SWITCHED: signals.endpoint_switched,
    EventKind.DOWN: signals.endpoint_down,
    EventKind.RECOVERED: signals.endpoint_recovered,
    EventKind.ALL_DOWN: signals.all_endpoints_down,
}


@dataclass(frozen=True, slots=True)
class EndpointState:
    """What is known of an endpoint at one moment.

    Attributes:
        url: Its URL.
        priority: The lower, the more preferred.
        is_healthy: Whether requests go there while nobody better is left; an endpoint of
            which nothing is known counts as healthy.
        failure_count: Failures in a row.
        last_checked: When its health was checked last (aware, UTC), or None.
        response_time: Smoothed seconds that a health check takes, or None.
        server_name: The name that its certificate is for, or None.
        state: ``unknown``, ``healthy``, ``suspect``, ``unhealthy`` or ``recovering``.
        is_current: Whether requests go there now.
        last_fault: What went wrong there last, in a word, or None.
    """

    url: str
    priority: int
    is_healthy: bool
    failure_count: int
    last_checked: datetime | None
    response_time: float | None
    server_name: str | None
    state: str
    is_current: bool
    last_fault: str | None


class ListSource(NamedTuple):
    """Where the list in use came from.

    Attributes:
        origin: ``cache``, ``seed``, ``remote``, ``qr``, ``manual`` or ``none``.
        url: The server that gave it, or None.
        age: Seconds since it was learnt, or None for a built-in list.
    """

    origin: str
    url: str | None
    age: float | None


class BaseManager:
    """The part of both managers that waits for nothing.

    Args:
        api_endpoints: Built-in API endpoints: URLs (the position is the priority), pairs of
            URL and priority, ``Endpoint`` objects, or an ``EndpointConfig`` of both kinds.
        socket_endpoints: Built-in Socket.io endpoints, likewise.
        cache_path: File that keeps the list over a restart; None keeps none, unless
            ``app`` is given.
        app: Name of the application, for a cache file in its user's usual place.
        config_urls: Servers to ask for a new list, besides the endpoints themselves.
        token: Sent to sources of lists, over https or within this machine only: a text, or
            a function that gives it, or None while nobody is logged in.
        policy: The figures; see ``Policy``.
        update_interval: Seconds between two updates of the list, varied by a tenth; 0 never
            asks by itself.
        watch: Whether to be told of a new list at once, by long poll.
        options: ``verify``, ``cert``, ``proxy`` and the other options of a transport, for
            health checks, updates, and the clients that the manager makes.

    Raises:
        AddressError: If a built-in URL cannot be used.
        ValueError: If certificates would not be verified.
    """

    def __init__(
        self,
        api_endpoints: Seed = (),
        socket_endpoints: Seed = (),
        *,
        cache_path: str | Path | None = None,
        app: str | None = None,
        config_urls: Sequence[str] = (),
        token: Token = None,
        policy: Policy | None = None,
        update_interval: float = 3600.0,
        watch: bool = False,
        **options: Any,
    ) -> None:
        self.policy = policy or Policy()
        self.config_urls = tuple(config_urls)
        self.update_interval = update_interval
        self.watch = watch
        self.transport_options = options
        self.core = Core(self.policy, time.monotonic, time.time, random.random, self._announce)
        self._token = token
        self._cache_path = _cache_path(cache_path, app)
        self._source = ListSource("none", None, None)
        self._learnt_at: float | None = None
        self._room_id: str | None = None
        self._etags: dict[str, str] = {}
        self._switches = {API: 0, SOCKETIO: 0}
        self._seconds_without_service = {API: 0.0, SOCKETIO: 0.0}
        self._unsaved = False
        self._background: Background | None = None
        self._finalizer: weakref.finalize[Any, Any] | None = None
        self._errands = Errands(self)
        self._load_first(_config(api_endpoints, socket_endpoints))

    def _load_first(self, seed: EndpointConfig) -> None:
        cached = None if self._cache_path is None else cache.load(self._cache_path)
        if cached is not None and cached.config:
            self._fill(cached.config)
            self._note_source("cache", cached.url, cached.saved_at)
            self._room_id, self._etags = cached.room_id, dict(cached.etags)
        elif seed:
            self._fill(seed)
            self._note_source("seed", None, None)

    def _fill(self, config: EndpointConfig) -> None:
        with self.core as core:
            now = core.clock()
            core.api.replace(config.api_endpoints, now)
            core.socketio.replace(config.socketio_endpoints, now)

    def _note_source(self, origin: str, url: str | None, learnt_at: float | None) -> None:
        self._source = ListSource(origin, url, None)
        self._learnt_at = learnt_at

    def _begin(self) -> None:
        if self._background is not None:
            return
        background = self._background = Background(self, self._errands)
        self.core.on_urgent = background.wake
        self.core.on_fork = background.restart
        # One that nobody holds any more takes its threads along.
        self._finalizer = weakref.finalize(self, background.stop)
        self._finalizer.atexit = False
        background.start()

    def _end(self) -> None:
        background, self._background = self._background, None
        self.core.on_urgent = self.core.on_fork = None
        if self._finalizer is not None:
            self._finalizer.detach()
        if background is not None:
            background.stop()
            self._errands = Errands(self)  # those of before are called off for good
        self.save_if_changed()

    # -- the lists

    @property
    def api_endpoints(self) -> tuple[EndpointState, ...]:
        """The API endpoints, by priority and insertion."""
        return self._states(API)

    @property
    def socket_endpoints(self) -> tuple[EndpointState, ...]:
        """The Socket.io endpoints, by priority and insertion."""
        return self._states(SOCKETIO)

    def _states(self, kind: str) -> tuple[EndpointState, ...]:
        with self.core as core:
            pool = core.pool(kind)
            current = pool.select(core.clock())
            return tuple(_state(member, current) for member in pool.members())

    @property
    def current_api_endpoint(self) -> EndpointState | None:
        """The API endpoint that requests go to now, or None."""
        return self._current(API)

    @property
    def current_socket_endpoint(self) -> EndpointState | None:
        """The Socket.io endpoint that connections go to now, or None."""
        return self._current(SOCKETIO)

    def _current(self, kind: str) -> EndpointState | None:
        with self.core as core:
            member = core.pool(kind).select(core.clock())
            return None if member is None else _state(member, member)

    def get_current_api_url(self) -> str | None:
        """Give the URL of the API endpoint that requests go to now, or None."""
        current = self.current_api_endpoint
        return None if current is None else current.url

    def get_current_socket_url(self) -> str | None:
        """Give the URL of the Socket.io endpoint in use, or None."""
        current = self.current_socket_endpoint
        return None if current is None else current.url

    def add_api_endpoint(self, url: str, priority: int = 0) -> None:
        """Add an API endpoint; one that is there gets this priority.

        Raises:
            AddressError: If the URL or the priority cannot be used.
        """
        self._add(API, Endpoint.parse(url, priority))

    def add_socket_endpoint(self, url: str, priority: int = 0) -> None:
        """Add a Socket.io endpoint; one that is there gets this priority.

        Raises:
            AddressError: If the URL or the priority cannot be used.
        """
        self._add(SOCKETIO, Endpoint.parse(url, priority))

    def _add(self, kind: str, endpoint: Endpoint) -> None:
        if kind == API:
            _check_api(endpoint)
        self._change("manual", None, lambda core: core.pool(kind).put(endpoint, core.clock()))

    def remove_endpoint(self, url: str) -> bool:
        """Take an endpoint out, of whichever kind; False where there is none.

        Raises:
            AddressError: If the URL is none.
        """
        wanted = Endpoint.parse(url).url
        with self.core as core:
            there = wanted in core.api or wanted in core.socketio
        if there:
            self._change("manual", None, lambda core: _remove(core, wanted))
        return there

    def _change(self, origin: str, url: str | None, change: Callable[[Core], None]) -> None:
        """Change the list, keep it, and tell of it."""
        with self.core as core:
            before = _urls(core)
            change(core)
            after = _urls(core)
        self._note_source(origin, url, time.time())
        self._list_changed()
        if before != after:
            about = {"added": sorted(after - before), "removed": sorted(before - after)}
            logger.info("the endpoint list has changed (%s): %s", origin, about)
            self._send(signals.endpoints_updated, {"origin": origin, "url": url, **about})

    def _list_changed(self) -> None:
        """Have the new list kept; a manager that runs does it in its own thread."""
        self._unsaved = True
        if self._background is None:
            self.save_if_changed()
        else:
            self._background.wake()

    @property
    def config(self) -> EndpointConfig:
        """The list as it stands."""
        with self.core as core:
            return EndpointConfig(
                tuple(member.endpoint for member in core.api.members()),
                tuple(member.endpoint for member in core.socketio.members()),
            )

    @property
    def list_source(self) -> ListSource:
        """Where the list in use came from, and how old it is."""
        age = None if self._learnt_at is None else max(0.0, time.time() - self._learnt_at)
        return self._source._replace(age=age)

    def save_if_changed(self) -> None:
        """Write the list to the cache file, if there is one and the list is not there yet."""
        if not self._unsaved:
            return
        self._unsaved = False
        if self._cache_path is None:
            return
        kept = CachedList(
            self.config,
            self._source.origin,
            self._source.url,
            self._learnt_at or time.time(),
            self._room_id,
            dict(self._etags),
        )
        try:
            cache.save(self._cache_path, kept)
        except OSError as error:
            logger.warning("the endpoint list cannot be kept in %s: %s", self._cache_path, error)

    # -- QR codes

    @property
    def room_id(self) -> str | None:
        """The room that came with the last QR code that named one, or None."""
        return self._room_id

    def apply_qr(self, text: str | bytes, *, replace: bool = False) -> payload.QrData:
        """Take in the endpoints of a QR text.

        Its endpoints are added or given its priorities; the others stay, unless
        ``replace``. A kind that the text does not speak of stays untouched.

        Args:
            text: One of the three forms; see ``mop_config.qr``.
            replace: Whether the text's list takes the place of ours.

        Returns:
            What the text says, with its ``room_id``.

        Raises:
            PayloadError: Naming the member that is at fault; nothing is changed then.
        """
        data = payload.loads_qr(text)
        for index, endpoint in enumerate(data.api_endpoints or ()):
            _check_api(endpoint, f"api_endpoints[{index}]")
        if data.room_id is not None:
            self._room_id = data.room_id
        lists = ((API, data.api_endpoints), (SOCKETIO, data.socketio_endpoints))

        def change(core: Core) -> None:
            for kind, endpoints in lists:
                if endpoints is not None:
                    _merge(core.pool(kind), endpoints, core.clock(), replace=replace)

        self._change("qr", None, change)
        return data

    # -- choosing by hand

    def pin(self, url: str) -> None:
        """Prefer one endpoint while nothing is wrong with it; it is returned to.

        Raises:
            KeyError: If it is not in the list.
        """
        wanted = Endpoint.parse(url).url
        with self.core as core:
            pools = [pool for pool in (core.api, core.socketio) if wanted in pool]
            if not pools:
                raise KeyError(url)
            for pool in pools:
                pool.pin(wanted, core.clock())
                pool.select(core.clock())

    def unpin(self) -> None:
        """Choose by priority and speed again."""
        with self.core as core:
            for pool in (core.api, core.socketio):
                pool.pin(None, core.clock())
                pool.select(core.clock())

    def select_best_endpoints(self) -> None:
        """Go to the best endpoint of each kind now, without dwelling on the one in use."""
        with self.core as core:
            for pool in (core.api, core.socketio):
                pool.choose_anew(core.clock())

    # -- what is known

    @property
    def is_offline(self) -> bool:
        """Whether this machine seems to have no network: then no endpoint is to blame."""
        with self.core as core:
            core.network.expire(core.clock())
            return core.network.offline

    def statistics(self) -> dict[str, Any]:
        """Give figures since the start: per endpoint, per kind, and of the budget."""
        with self.core as core:
            return {
                "offline": core.network.offline,
                "budget_tokens": core.budget.tokens,
                **{
                    kind: {
                        "switches": self._switches[kind],
                        "seconds_without_service": self._seconds_without_service[kind],
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
                    for kind in (API, SOCKETIO)
                },
            }

    def token(self) -> str | None:
        """Give the token for sources of lists as it is now; None while there is none."""
        return self._token() if callable(self._token) else self._token

    def record_probe(self, kind: str, url: str, result: ProbeResult) -> None:
        """Take in what a health check found."""
        with self.core as core:
            pool = core.pool(kind)
            member = pool.get(url)
            if member is None:
                return
            if result.path is not None:
                member.probe_path = result.path
            now = core.clock()
            pool.probed(member, result.fault, result.seconds, now, core.wall_clock())
            pool.select(now)

    def job_for(self, endpoint: EndpointState | str) -> Job:
        """Find what a health check of an endpoint needs.

        Raises:
            KeyError: If it is not in the list.
        """
        url = endpoint if isinstance(endpoint, str) else endpoint.url
        with self.core as core:
            for kind in (API, SOCKETIO):
                member = core.pool(kind).get(url)
                if member is not None:
                    return kind, member.endpoint, member.probe_path
        raise KeyError(url)

    def all_jobs(self) -> list[Job]:
        """List what a health check of every endpoint needs."""
        with self.core as core:
            return [
                (kind, member.endpoint, member.probe_path)
                for kind in (API, SOCKETIO)
                for member in core.pool(kind).members()
            ]

    def _check_one(self, job: Job) -> bool:
        result = self._errands.check(job)
        self.record_probe(job[0], job[1].url, result)
        return result.fault is None

    def _check_all(self) -> None:
        self._errands.check_all(
            self.all_jobs(), lambda job, result: self.record_probe(job[0], job[1].url, result)
        )

    def _update(self, fallback_url: str | None, token: str | None, *, force: bool) -> bool:
        changed, _ = self._errands.update(fallback_url, token, force=force)
        return changed

    def _for_transport(self, options: dict[str, Any]) -> dict[str, Any]:
        ours = {name: value for name, value in options.items() if name in NAMES}
        return {**self.transport_options, **ours}

    def _for_client(self, options: dict[str, Any]) -> dict[str, Any]:
        theirs = {name: value for name, value in options.items() if name not in NAMES}
        timeout = httpx2.Timeout(self.policy.total_timeout, connect=self.policy.connect_timeout)
        return {"base_url": wire.BASE_URL, "timeout": timeout, **theirs}

    def known(self, fallback: str | None, *, force: bool, wait: int) -> Known:
        """Say what an update has to know."""
        with self.core as core:
            current = core.api.select(core.clock())
            known = [member.url for member in core.api.members()]
            healthy = {
                kind: frozenset(m.url for m in core.pool(kind).members() if m.health.usable)
                for kind in (API, SOCKETIO)
            }
        current_url = None if current is None else current.url
        asked = sources(fallback, current_url, known, self.config_urls)
        return Known(asked, healthy, dict(self._etags), force, wait)

    def apply_remote(self, found: NewList) -> bool:
        """Make a remote list ours; endpoints that stay keep what is known of them.

        Returns:
            Whether it was another one.
        """
        self._etags = {} if found.etag is None else {found.url: found.etag}
        if same_lists(found.config, self.config):
            self._note_source("remote", found.url, time.time())
            self._list_changed()
            return False
        self._change("remote", found.url, lambda core: _replace(core, found.config))
        return True

    def _announce(self, event: Event) -> None:
        about = event.about
        kind = about["kind"]
        if event.kind is EventKind.SWITCHED:
            self._switches[kind] += 1
            self._seconds_without_service[kind] += about["seconds_without_service"]
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


def _cache_path(path: str | Path | None, app: str | None) -> Path | None:
    if path is not None:
        return Path(path)
    return None if app is None else platformdirs.user_cache_path(app) / "endpoints.json"


def _config(api: Seed, sockets: Seed) -> EndpointConfig:
    if isinstance(api, EndpointConfig):
        return api
    if isinstance(sockets, EndpointConfig):
        raise TypeError("an EndpointConfig has both kinds: give it first, and alone")
    config = EndpointConfig(tuple(_endpoints(api)), tuple(_endpoints(sockets)))
    for endpoint in config.api_endpoints:
        _check_api(endpoint)
    return config


def _endpoints(seed: Iterable[str | Endpoint | tuple[str, int]]) -> Iterable[Endpoint]:
    if isinstance(seed, str):
        raise TypeError("give a list of URLs, not one URL")
    for position, entry in enumerate(seed):
        if isinstance(entry, Endpoint):
            yield entry
        elif isinstance(entry, str):
            yield Endpoint.parse(entry, position)
        else:
            yield Endpoint.parse(*entry)


def _check_api(endpoint: Endpoint, where: str | None = None) -> None:
    if endpoint.url.startswith(("http://", "https://")):
        return
    message = "an API endpoint needs an http or https URL"
    if where is not None:
        raise PayloadError(where, message)
    raise AddressError("bad-scheme", message)


def _state(member: Member, current: Member | None) -> EndpointState:
    health = member.health
    checked = member.last_checked
    return EndpointState(
        url=member.url,
        priority=member.endpoint.priority,
        is_healthy=health.usable,
        failure_count=health.failures,
        last_checked=None if checked is None else datetime.fromtimestamp(checked, UTC),
        response_time=health.response_time,
        server_name=member.endpoint.server_name,
        state=health.state.value,
        is_current=member is current,
        last_fault=None if member.last_fault is None else member.last_fault.value,
    )


def _urls(core: Core) -> set[str]:
    return {member.url for pool in (core.api, core.socketio) for member in pool.members()}


def same_lists(one: EndpointConfig, other: EndpointConfig) -> bool:
    """Whether two lists hold the same endpoints, in whatever order."""
    return all(
        frozenset(one.kinds()[kind]) == frozenset(other.kinds()[kind]) for kind in one.kinds()
    )


def _remove(core: Core, url: str) -> None:
    core.api.remove(url, core.clock())
    core.socketio.remove(url, core.clock())


def _replace(core: Core, config: EndpointConfig) -> None:
    core.api.replace(config.api_endpoints, core.clock())
    core.socketio.replace(config.socketio_endpoints, core.clock())


def _merge(pool: Pool, endpoints: Iterable[Endpoint], now: float, *, replace: bool) -> None:
    if replace:
        pool.replace(endpoints, now)
        return
    for endpoint in endpoints:
        pool.put(endpoint, now)
