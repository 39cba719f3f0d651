"""The part that the synchronous and the asynchronous manager share.

``BaseManager`` adds options, threads, health checks and updates to ``EndpointLists``.
"""

import contextlib
import logging
import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import httpx2

from ..errors import AddressError
from ..health.jobs import Job
from ..health.probe import ProbeResult
from ..model.address import parse_url
from ..model.endpoint import Kind
from ..net.faults import Fault
from .background import Background
from .fetch import origin_of
from .keywords import ClientKeywords, Several, TransportKeywords, check_keywords
from .lists.bootstrap import Bootstrap, config_of
from .lists.cache import cache_path as usual_cache_path
from .lists.endpoint_lists import EndpointLists
from .lists.normalize import canonical_url, has_plain
from .lists.token import Token, check_token, current_token
from .lists.trust import Key
from .lists.trust import trusted_keys as read_trusted_keys
from .lists.update import UpdateContext, check_urls, sources
from .pool.member import EndpointState
from .pool.policy import Policy, check_interval
from .tasks import ClientTasks
from .transport import rewriting
from .transport.options import NAMES, TransportOptions

logger = logging.getLogger(__name__)

#: Options that a TLS context is made from.
_OF_TLS = frozenset({"verify", "cert", "trust_env"})


#: The manager's own parameters, for a suggestion.
_OWN_PARAMETERS = (
    "api_endpoints",
    "socket_endpoints",
    "cache_path",
    "app",
    "config_urls",
    "token",
    "policy",
    "update_interval",
    "watch",
    "trusted_keys",
    "allow_http_lists",
    "allow_http",
)


class BaseManager(EndpointLists):
    """Options and life cycle of both managers; see ``__init__`` for the arguments."""

    _background: Background | None = None
    _finalizer: "weakref.finalize[Any, Any] | None" = None
    _was_started = False

    def __init__(
        self,
        api_endpoints: Bootstrap = (),
        socket_endpoints: Bootstrap = (),
        *,
        cache_path: str | Path | None = None,
        app: str | None = None,
        config_urls: Several[str] = (),
        token: Token = None,
        policy: Policy | None = None,
        update_interval: float = 3600.0,
        watch: bool = False,
        trusted_keys: Several[Key] | None = None,
        allow_http_lists: bool = False,
        allow_http: bool = False,
        **options: Unpack[TransportKeywords],
    ) -> None:
        """Create a manager. Health checks and updates begin when it is started.

        Args:
            api_endpoints: Built-in API endpoints: URLs (the position is the priority), pairs of
                URL and priority, ``Endpoint`` objects, or an ``EndpointConfig`` of both kinds.
            socket_endpoints: Built-in Socket.io endpoints, likewise.
            cache_path: File that keeps the list over a restart. None: no file, unless ``app`` is
                given.
            app: Name of the application, for a cache file in its user's usual place.
            config_urls: Servers that updates read a list from, besides the endpoints themselves.
            token: Sent to sources of lists, over https or within this machine only: a text, or
                a function that gives it, or None while nobody is logged in.
            policy: The figures; see ``Policy``.
            update_interval: Seconds between two updates of the list, varied by a tenth, 0 to
                1,000,000. 0: no updates by itself.
            watch: Whether a long poll fetches a new list as soon as a server has it.
            trusted_keys: Public keys, each a JWK or a JWK set (a ``dict`` or JSON), PEM, or the
                path of a file of them. Then no list is taken that none of them has signed, or
                that has expired or is older than one before: not from a server, the cache or a
                QR code. None: lists need not be signed.
            allow_http_lists: Whether a list that is not signed is taken over plain http from other
                machines than this one, though anybody on the way could change it.
            allow_http: Whether a list that came over https may name endpoints over plain http,
                though the list in use names none.
            options: For health checks, updates, and the clients that the manager makes: ``verify``
                (a context that verifies certificates, or a file of authorities), ``cert``,
                ``proxy``, ``trust_env`` (whether the environment's proxies and authorities count),
                ``limits``, ``http1``, ``http2``, ``local_address`` and ``socket_options``, each as
                for ``httpx2.HTTPTransport``.

        Raises:
            TypeError: If an argument is unknown, or of another kind than said here.
            AddressError: If a built-in URL or a source cannot be used.
            ValueError: If a value cannot be used, or certificates would not be verified.
            SigningKeyError: If a trusted key cannot be used.
            MissingExtra: If keys are given, and the extra ``signing`` is not installed.
        """
        check_keywords(f"{type(self).__name__}()", options, TransportKeywords, _OWN_PARAMETERS)
        check_token(token)
        check_interval(update_interval)
        if not isinstance(policy, Policy | None):
            raise TypeError(f"policy must be a Policy, not {policy!r}")
        check_urls(config_urls)
        self.config_urls = tuple(config_urls)
        self.update_interval = update_interval
        self.watch = watch
        self._transport_options: dict[str, Any] = {**options}
        # Health checks and updates speak HTTP/1.1, whatever the clients do.
        self._network_options = TransportOptions.of(
            **{**self._transport_options, "http1": True, "http2": False}
        )
        self._allow_http_lists = allow_http_lists
        self._allow_http = allow_http
        self._token = token
        self._lifecycle_lock = threading.Lock()
        seed = config_of(api_endpoints, socket_endpoints)
        keys = None if trusted_keys is None else read_trusted_keys(trusted_keys)
        super().__init__(policy or Policy(), seed, usual_cache_path(cache_path, app), keys)
        self._state.on_fork = self._restart_after_fork
        self._tasks = ClientTasks(self)

    def __repr__(self) -> str:
        pools = [(self._state.pool(kind), kind.label) for kind in Kind]
        what = [f"{len(pool)} {word} ({pool.current_url or 'none in use'})" for pool, word in pools]
        state = "stopped" if self._background is None else "running"
        return f"<{type(self).__name__} {', '.join(what)}, {state}>"

    # -- a life

    def _start_if_new(self) -> None:
        """Start the threads, unless this manager was ever started or closed before."""
        if self._was_started:
            return
        try:
            self._start_threads()
        except (RuntimeError, MemoryError) as error:  # no thread left: the next call tries again
            logger.warning("health checks and updates could not be started: %s", error)

    def _start_threads(self) -> None:
        with self._lifecycle_lock:
            self._was_started = True
            if self._background is not None:
                return
            with self._state as core:
                for pool in (core.api, core.socketio):
                    pool.forget_probes()  # the checks of an earlier run never ended
            background = Background(self, self._tasks)
            try:
                background.start()
            except BaseException:
                self._was_started = False
                raise
            self._background = background
            self._state.on_urgent = background.wake
            # The threads end when the application drops its last reference to the manager.
            self._finalizer = weakref.finalize(self, background.cancel)
            self._finalizer.atexit = False
            background.wake()  # an endpoint may have become urgent meanwhile

    def _stop_threads(self) -> None:
        self._was_started = True
        with self._state:
            pass  # in a forked child, replace the locks and sockets of the parent
        with self._lifecycle_lock:
            background, self._background = self._background, None
            self._state.on_urgent = None
            if self._finalizer is not None:
                self._finalizer.detach()
            if background is not None:
                background.stop()
                self._tasks = ClientTasks(self)  # the old tasks are cancelled for good
        self._save_if_changed()

    def _restart_after_fork(self) -> None:
        """Replace locks, sockets and threads in a forked child: threads do not survive fork."""
        self._lifecycle_lock = threading.Lock()
        self._cache.reset_after_fork()
        self._apply_lock = threading.RLock()
        self._tasks = ClientTasks(self)  # the old sockets and look-ups are the parent's
        if self._background is not None:
            with self._state as core:
                for pool in (core.api, core.socketio):
                    pool.forget_probes()
            self._background.restart(self._tasks)

    def _list_changed(self) -> None:
        """Save the new list to the cache file; a running manager does so in its own thread."""
        background = self._background
        if background is None:
            super()._list_changed()
        else:
            self._cache.mark_unsaved()
            background.wake()

    # -- health

    def _record_probe(self, kind: str, url: str, result: ProbeResult) -> None:
        """Record the result of a health check, and choose the endpoint again."""
        with self._state as core:
            pool = core.pool(kind)
            member = pool.get(url)
            if member is None:
                return
            if result.fault is Fault.OURS:
                # The check was cancelled, or this process lacks descriptors or threads.
                member.probing = False
                member.health.postpone(core.clock(), core.random())
                return
            if result.path is not None:
                member.probe_path = result.path
            now, posix, busy = core.clock(), core.wall_clock(), None
            if result.status is not None:
                busy = self.policy.busy_for(result.status, result.retry_after, posix)
            pool.probed(member, result.fault, result.seconds, now, posix, busy)
            pool.select(now)

    def _job_for(self, endpoint: EndpointState | str) -> Job:
        url = endpoint if isinstance(endpoint, str) else endpoint.url
        wanted = canonical_url(url)
        with self._state as core:
            for kind in Kind:
                member = core.pool(kind).get(wanted)
                if member is not None:
                    return kind, member.endpoint, member.probe_path
        raise KeyError(f"{url} is not in the list")

    def _all_jobs(self) -> list[Job]:
        with self._state as core:
            return [
                (kind, member.endpoint, member.probe_path)
                for kind in Kind
                for member in core.pool(kind).watched()
            ]

    def _check_one(self, job: Job) -> bool:
        result = self._tasks.check(job)
        self._record_probe(job[0], job[1].url, result)
        return result.fault is None

    def _check_all(self) -> None:
        self._tasks.check_all(
            self._all_jobs(), lambda job, result: self._record_probe(job[0], job[1].url, result)
        )

    # -- updates

    def _current_token(self) -> str | None:
        """Return the bearer token for list sources, or None while there is none."""
        return current_token(self._token)

    def _update_context(self, fallback: str | None, *, force: bool, wait: int) -> UpdateContext:
        """Collect the state that one update decides by."""
        with self._state as core:
            current = core.api.select(core.clock())
            members = core.api.members()
            down = frozenset(m.url for m in members if not m.health.usable)
            healthy: dict[str, frozenset[str]] = {
                kind: frozenset(m.url for m in core.pool(kind).members() if m.health.usable)
                for kind in Kind
            }
        others = [m.url for m in members]
        # The built-in endpoints come last: a bad list must not lock the client out of every source.
        last = [*self.config_urls, *(endpoint.url for endpoint in self._seed.api_endpoints)]
        asked = sources(fallback, None if current is None else current.url, others, last, down)
        return UpdateContext(
            asked,
            healthy,
            self._etags(),
            force,
            wait,
            self._trust,
            self.policy.max_endpoints,
            self._allow_http_lists,
            self._allow_http or has_plain(self.config),
        )

    def _etags(self) -> dict[str, str]:
        # With an expired list, a 304 from a server that has nothing newer must not end the search.
        return {} if self._trust is not None and self._trust.stale else dict(self._cache.etags)

    def _server_names(self, fallback: str | None = None) -> dict[str, str]:
        """Map the origin of each endpoint with a ``server_name`` to that name.

        A list names its own endpoints only. The sources that the application has chosen keep the
        names that the application gave them: otherwise a list could make a certificate for any
        name good for them, or lock the application out of them.

        Args:
            fallback: The server that this update asks first, or None.
        """
        chosen = [fallback, *self.config_urls, *(e.url for e in self._seed.api_endpoints)]
        names: dict[str, str | None] = {}
        for endpoint in self.config.api_endpoints:
            names[_origin(endpoint.url)] = endpoint.server_name
        for url in chosen:
            if url is not None:
                with contextlib.suppress(AddressError):  # the update itself says what is wrong
                    names[_origin(url)] = None
        for endpoint in self._seed.api_endpoints:
            names[_origin(endpoint.url)] = endpoint.server_name
        return {origin: name for origin, name in names.items() if name is not None}

    @property
    def _has_etag(self) -> bool:
        """Whether an ETag is known, which a long poll needs."""
        return bool(self._etags())

    def _update(self, fallback_url: str | None, token: str | None, *, force: bool) -> bool:
        return self._tasks.update(fallback_url, token, force=force, by_hand=True).changed

    # -- clients

    def _for_transport(self, options: Mapping[str, Any]) -> dict[str, Any]:
        check_keywords(f"{type(self).__name__}.client()", options, ClientKeywords, ["start"])
        ours = {name: value for name, value in options.items() if name in NAMES}
        merged = {**self._transport_options, **ours}
        if merged.get("http1", True) and not merged.get("http2") and not ours.keys() & _OF_TLS:
            # Reuse the TLS context: creating another one takes a tenth of a second.
            merged |= {"verify": self._network_options.tls, "cert": None}
        return merged

    def _for_client(self, options: Mapping[str, Any]) -> dict[str, Any]:
        theirs = {name: value for name, value in options.items() if name not in NAMES}
        total, connect = self.policy.total_timeout, self.policy.connect_timeout
        timeout = httpx2.Timeout(rewriting.Default(total), connect=rewriting.Default(connect))
        return {"base_url": rewriting.BASE_URL, "timeout": timeout, **theirs}


def _origin(url: str) -> str:
    return origin_of(parse_url(url))
