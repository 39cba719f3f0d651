"""``BaseManager``: the parts of a manager, and what it does without I/O."""

import asyncio
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Unpack

import httpx2

from ..errors import AddressError
from ..health.probe import AnswerJudge, HealthRequest
from ..model.address import normalise_path
from ..model.endpoint import Endpoint, EndpointConfig, Kind, QrData
from ..net.resolver import LookUp, Resolve, resolver_of
from .attempts import EndpointAttempts
from .background import Lifecycle
from .keywords import (
    ClientKeywords,
    Several,
    TransportKeywords,
    check_flags,
    check_keywords,
    check_plain,
)
from .lists import cache_file, rules
from .lists.endpoint_lists import EndpointLists, ListSource, ManagerSettings
from .lists.trust import Key, Trust
from .pool.member import EndpointState, PoolMember
from .pool.policy import Policy, checked_number
from .pool.pool import Pool
from .pool.session import ClientState
from .transport.attempt import BASE_URL, Default
from .transport.options import NAMES, TransportOptions

#: Health checks and updates always use HTTP/1.1.
_HTTP1_ONLY = {"http1": True, "http2": False}
#: Options that determine the TLS context.
_TLS_OPTIONS = frozenset({"verify", "cert", "trust_env"})


class BaseManager:
    """The parts of a manager, and its public members that do no I/O.

    The pools (``_state``), the lists (``_lists``) and the threads (``_lifecycle``) do the work.
    None of these parts refers to the manager. See ``__init__`` for the arguments.
    """

    client: Any  # methods of the subclasses
    start: Any

    def __init__(
        self,
        api_endpoints: rules.Bootstrap = (),
        socket_endpoints: rules.Bootstrap = (),
        *,
        cache_path: str | Path | None = None,
        app: str | None = None,
        config_urls: Several[str] = (),
        token: rules.Token = None,
        policy: Policy | None = None,
        update_interval: float = 3600.0,
        watch: bool = False,
        report: bool = False,
        trusted_keys: Several[Key] | None = None,
        health_path: str = "/health",
        healthy: AnswerJudge | None = None,
        resolver: LookUp | None = None,
        resolve: Resolve = "custom-second",
        allow_http_lists: bool = False,
        allow_http: bool = False,
        **options: Unpack[TransportKeywords],
    ) -> None:
        """Create a manager. Health checks and updates begin with ``start``.

        Args:
            api_endpoints: Built-in API endpoints: URLs (the position is the priority), pairs of
                URL and priority, ``Endpoint`` objects, or an ``EndpointConfig`` of both kinds.
            socket_endpoints: Built-in Socket.io endpoints, in the same forms.
            cache_path: Cache file that keeps the list over a restart. None: no file, unless
                ``app`` is given.
            app: Name of the application; the cache file is in the user's cache directory. None: no
                such file.
            config_urls: Servers from which updates fetch the list, besides the endpoints.
            token: Bearer token for the sources of lists, sent only over https or within this
                machine: a text, or a function that returns the text, or None for no token.
            policy: Timeouts, delays and limits; None: the defaults of ``Policy``.
            update_interval: Seconds between two updates of the list, varied by up to a
                tenth; 0 to 1,000,000. 0: no automatic updates.
            watch: Whether a long poll fetches a new list as soon as a server publishes it.
            report: Whether to send the server of the list, at most every 10 minutes, the number of
                successes and failures of each endpoint; a report names no request and no user.
            trusted_keys: Public keys, each a JWK or a JWK set (a ``dict`` or JSON), PEM, or the
                path of a file of them. Then a list from a server, the cache or a QR code is
                accepted only if a trusted key has signed the list, if the list has not expired,
                and if no newer list was accepted before. None: lists need not be signed.
            health_path: Path of the health check below an API endpoint's URL. If that URL answers
                404, the path at the server's root is checked.
            healthy: Function that judges the response to a health check from its status, its
                headers (names in lower case) and the first 64 KiB of its body. Called in
                threads.
                None: any 2xx status is good.
            resolver: Resolver of the application: a function or a coroutine function from a host to
                its IP addresses. The resolver runs beside the system's resolver if the latter takes
                250 ms or fails, or if no address found has a certificate for the host. Called in
                threads. None: the system's resolver alone.
            resolve: ``custom-second`` to use ``resolver`` after the system's resolver, or
                ``system`` to leave ``resolver`` unused.
            allow_http_lists: Whether an unsigned list is accepted over plain http from other
                machines, though anybody on the network path could change the list.
            allow_http: Whether a list received over https may name endpoints over plain http,
                though the list in use names no such endpoint.
            options: Connection options of health checks, updates and clients: ``verify``
                (a context that verifies certificates, or a file of authorities), ``cert``,
                ``proxy``, ``trust_env`` (whether to use the environment's proxies and authorities),
                ``limits``, ``http1``, ``http2``, ``local_address`` and ``socket_options``, each as
                for ``httpx2.HTTPTransport``.

        Raises:
            TypeError: If an argument is unknown or has a wrong type.
            AddressError: If a built-in URL or a source cannot be used.
            ValueError: If a value cannot be used, or certificates would not be verified.
            SigningKeyError: If a trusted key cannot be used.
            MissingExtra: If keys are given, and the extra ``signing`` is not installed.
        """
        check_keywords(type(self), options, TransportKeywords)
        check_flags(watch=watch, report=report)
        check_flags(allow_http_lists=allow_http_lists, allow_http=allow_http)
        self.policy = policy = _checked_policy(policy)
        file = cache_file.cache_path(cache_path, app)
        self._transport_options: dict[str, Any] = {**options}
        self._network_options = network = TransportOptions(**self._transport_options | _HTTP1_ONLY)
        trust = None if trusted_keys is None else Trust(trusted_keys, policy.max_endpoints, file)
        seed = rules.config_of(api_endpoints, socket_endpoints)
        urls = rules.checked_urls(config_urls)
        interval = checked_number("update_interval", update_interval, " seconds")
        settings = ManagerSettings(
            seed, urls, trust, allow_http_lists, allow_http, network, token, interval, watch, report
        )
        self._state = state = ClientState(policy, self, resolver_of(resolver, resolve))
        self._lists = EndpointLists(state, settings, file)
        self._lifecycle = lifecycle = Lifecycle(self._lists, _health_request(health_path, healthy))
        # The threads end when the application drops its last reference to the manager.
        weakref.finalize(self, lambda: lifecycle.tasks.cancel()).atexit = False

    def __repr__(self) -> str:
        what = [
            f"{len(pool)} {kind.label} ({pool.current.url if pool.current else 'none in use'})"
            for kind, pool in zip(Kind, self._state.pools, strict=True)
        ]
        state = "running" if self._lifecycle.is_running else "stopped"
        return f"<{type(self).__name__} {', '.join(what)}, {state}>"

    # -- the endpoints

    @property
    def api_endpoints(self) -> tuple[EndpointState, ...]:
        """The API endpoints, by priority and insertion."""
        return self._endpoints(Kind.API)

    @property
    def socket_endpoints(self) -> tuple[EndpointState, ...]:
        """The Socket.io endpoints, by priority and insertion."""
        return self._endpoints(Kind.SOCKETIO)

    def _endpoints(self, kind: Kind) -> tuple[EndpointState, ...]:
        with self._state as state:
            pool = state.pool(kind)
            current = pool.select(state.clock())
            return tuple(m.state(is_current=m is current) for m in pool.members())

    @property
    def current_api_endpoint(self) -> EndpointState | None:
        """The API endpoint that requests go to now, or None."""
        return self._current(Kind.API)

    @property
    def current_socket_endpoint(self) -> EndpointState | None:
        """The Socket.io endpoint that connections go to now, or None."""
        return self._current(Kind.SOCKETIO)

    def _current(self, kind: Kind) -> EndpointState | None:
        with self._state as state:
            member = state.pool(kind).select(state.clock())
            return None if member is None else member.state(is_current=True)

    def get_current_api_url(self) -> str | None:
        """Return the URL of the API endpoint that requests go to now, or None."""
        current = self.current_api_endpoint
        return None if current is None else current.url

    def get_current_socket_url(self) -> str | None:
        """Return the URL of the Socket.io endpoint that connections go to now, or None."""
        current = self.current_socket_endpoint
        return None if current is None else current.url

    @property
    def is_offline(self) -> bool:
        """Whether this machine seems to have no network, so that failures blame no endpoint.

        It is always False if all endpoints have one host: a dead host and a missing network look
        alike until a second host cannot be reached either.
        """
        with self._state as state:
            state.network.expire(state.clock())
            return state.network.offline

    def statistics(self) -> dict[str, Any]:
        """Return counts and times per endpoint and per kind, and the retry budget."""
        with self._state as state:
            found = {
                pool.kind: {
                    "switches": pool.switches,
                    "seconds_without_service": pool.seconds_without_service,
                    "endpoints": {
                        member.url: {
                            "served": member.served,
                            "failed": member.failed,
                            "state": member.health.state.value,
                            "response_time": member.health.response_time,
                        }
                        for member in pool.members()
                    },
                }
                for pool in state.pools
            }
            tokens, offline = state.budget.tokens, state.network.offline
        stale = self.list_source.stale
        return {"stale": stale, "offline": offline, "budget_tokens": tokens, **found}

    def pin(self, url: str) -> None:
        """Prefer one endpoint while it is healthy; requests return to it after it recovers.

        Raises:
            KeyError: If the endpoint is not in the list.
        """
        with self._state as state:
            for pool, member in self._find(url):
                pool.pin(member.url, state.clock())

    def unpin(self) -> None:
        """Remove the pin: choose by priority and speed again."""
        with self._state as state:
            for pool in state.pools:
                pool.pin(None, state.clock())

    def select_best_endpoints(self) -> None:
        """Switch to the best endpoint of each kind now, without the minimum dwell time."""
        with self._state as state:
            for pool in state.pools:
                pool.choose_anew(state.clock())

    def attempts(self, *, idempotent: bool = False) -> EndpointAttempts:
        """Return the attempts of one request that the application sends by another HTTP library.

        ::

            for attempt in manager.attempts(idempotent=True):
                with attempt as endpoint:
                    response = requests.get(f"{endpoint}/users", timeout=attempt.seconds_left)
                    attempt.status(response.status_code)

        A network exception, or a status that counts against the endpoint, ends the block
        and moves the request to the next endpoint; when no endpoint is left, the loop raises
        ``NoEndpointAvailable``. Coroutines may use ``async for``. The call
        starts a manager that never ran.

        Args:
            idempotent: Whether the request may be executed twice without harm. If False, the
                request moves only after a failure to connect.
        """
        self._start_if_new()
        return EndpointAttempts(self._state, idempotent=idempotent)

    # -- the list

    @property
    def config(self) -> EndpointConfig:
        """The list in use."""
        return self._lists.config

    @property
    def list_source(self) -> ListSource:
        """The origin, URL and age of the list in use."""
        return self._lists.source

    @property
    def room_id(self) -> str | None:
        """The room of the last QR code that named a room, or None."""
        return self._lists.kept.room_id

    def add_api_endpoint(self, url: str, priority: int = 0) -> None:
        """Add an API endpoint, or change the priority of a known endpoint.

        The endpoint stays until a server's list replaces the list in use.

        Raises:
            AddressError: If the URL or the priority cannot be used.
        """
        endpoint = Endpoint.parse(rules.canonical_url(url), priority)
        rules.check_api(endpoint)
        self._lists.put(Kind.API, endpoint)

    def add_socket_endpoint(self, url: str, priority: int = 0) -> None:
        """Add a Socket.io endpoint, or change the priority of a known endpoint.

        Raises:
            AddressError: If the URL or the priority cannot be used.
        """
        self._lists.put(Kind.SOCKETIO, Endpoint.parse(rules.canonical_url(url), priority))

    def remove_endpoint(self, url: str) -> bool:
        """Remove an endpoint of either kind; return False if the URL is unknown.

        Raises:
            AddressError: If the text is not a URL.
        """
        return self._lists.remove(rules.canonical_url(url))

    def apply_qr(self, text: str | bytes, *, replace: bool = False, trust: bool = False) -> QrData:
        """Apply the endpoints of a QR text.

        New endpoints are added, and known endpoints get the text's priorities. The other endpoints
        stay, unless ``replace`` is True. A kind that the text does not name stays unchanged.

        Args:
            text: A QR text in one of the three forms of ``mop_config.qr``, or a signed list.
            replace: Whether the list of the text replaces the list in use.
            trust: Whether to accept an unsigned text although ``trusted_keys`` are set. The
                endpoints of such a text are not kept over a restart.

        Returns:
            The contents of the text, with its ``room_id``.

        Raises:
            PayloadError: If a member of the text is invalid; the list stays unchanged.
            UpdateUntrusted: If lists have to be signed, and the text is not trusted.
        """
        return self._lists.apply_qr(text, replace=replace, trust=trust)

    # -- for the subclasses

    def _start_if_new(self) -> None:
        """Start the threads, unless this manager was started or closed before."""
        self._enter_loop()
        self._lifecycle.start_if_new()

    def _enter_loop(self) -> None:
        """Let an asynchronous manager send its signals in the running event loop."""
        if hasattr(self, "__aenter__"):
            self._state.loop = asyncio._get_running_loop() or self._state.loop

    def _check(self, endpoint: EndpointState | str) -> bool:
        url = endpoint if isinstance(endpoint, str) else endpoint.url
        with self._state:
            pool, member = self._find(url)[0]
        return self._lifecycle.tasks.check(pool.kind, member)

    def _find(self, url: str) -> list[tuple[Pool, PoolMember]]:
        """Return the pools that have an endpoint, each with its member, under the state's lock.

        Raises:
            KeyError: If the endpoint is not in the list.
        """
        wanted = rules.canonical_url(url)
        found = [(pool, member) for pool in self._state.pools if (member := pool.get(wanted))]
        if not found:
            raise KeyError(f"{url} is not in the list")
        return found

    def _client_options(
        self, options: Mapping[str, Any], *, start: bool
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Return the options of a client, and those of its transport; start the manager first."""
        check_keywords(self.client, options, ClientKeywords)
        if start:
            self._start_if_new()
        given = {name: value for name, value in options.items() if name in NAMES}
        merged = {**self._transport_options, **given}
        http1_only = merged.get("http1", True) and not merged.get("http2")
        if http1_only and not given.keys() & _TLS_OPTIONS:
            # Reuse the TLS context: creating a context takes a tenth of a second.
            merged |= {"verify": self._network_options.tls, "cert": None}
        policy = self.policy
        timeout = httpx2.Timeout(
            Default(policy.total_timeout), connect=Default(policy.connect_timeout)
        )
        own = {name: value for name, value in options.items() if name not in NAMES}
        return {"base_url": BASE_URL, "timeout": timeout, **own}, merged


def _checked_policy(policy: Policy | None) -> Policy:
    if not isinstance(policy, Policy | None):
        raise TypeError(f"policy must be a Policy, not {policy!r}")
    return policy or Policy()


def _health_request(path: str, healthy: AnswerJudge | None) -> HealthRequest:
    """Return the request of the health checks, with the canonical spelling of its path.

    Raises:
        TypeError: If ``path`` is not a text, or ``healthy`` not a plain function.
        AddressError: If ``path`` is not a valid path.
    """
    check_plain("healthy", healthy)
    if not isinstance(path, str):
        raise TypeError(f"health_path must be a path, not {path!r}")
    if not path.startswith("/"):
        raise AddressError("bad-url", f"health_path must begin with '/': {path!r}")
    return HealthRequest(normalise_path(path), healthy)
