"""The way of a health check through a proxy, as the requests that it stands for take it."""

from collections.abc import Iterator
from datetime import datetime

import httpcore2
import httpx2

from ...health.probe import MAX_BYTES, USER_AGENT, ProbeConnection, expiry
from ...model.endpoint import Endpoint
from ...net.connect import Hold
from ...net.connection import ProxyFailed
from ...net.resolver import Resolver
from ..pool.policy import Policy
from ..pool.target import target_of
from .bounded import BoundedBackend
from .options import TransportOptions

_NEEDS_CREDENTIALS = 407


class Detours:
    """Makes the ways to the endpoints that only a proxy reaches.

    Args:
        options: How to connect, and by which proxy.
        policy: The figures.
        resolver: Looks proxies up.
    """

    def __init__(self, options: TransportOptions, policy: Policy, resolver: Resolver) -> None:
        self._options = options
        self._policy = policy
        self._resolver = resolver

    def __call__(self, endpoint: Endpoint, deadline: float, hold: Hold) -> ProbeConnection | None:
        """Give the way to an endpoint, or None where no proxy is in it."""
        proxy = self._options.for_target(target_of(endpoint))
        if proxy is None:
            return None
        timeout = self._policy.connect_timeout
        backend = BoundedBackend(
            self._options,
            self._resolver,
            hold,
            deadline=deadline,
            connect_timeout=timeout,
            look_up=self._policy.health_timeout,
        )
        return _Detour(self._options, proxy, backend, endpoint)


class _Detour:
    """A pool of one connection through a proxy, for a few small requests."""

    def __init__(
        self,
        options: TransportOptions,
        proxy: httpx2.Proxy,
        backend: BoundedBackend,
        endpoint: Endpoint,
    ) -> None:
        self._target = target_of(endpoint)
        self._backend = backend
        backend.proxy, backend.tls_name = proxy.url.scheme, self._target.tls_name
        self._pool = options.proxy_pool(proxy, backend)
        self.path = self._target.prefix.decode()
        self.connected = False
        self.certificate_expires: datetime | None = None
        self.name_matches: bool | None = None
        self.status: int | None = None
        self.retry_after: str | None = None

    def connect(self) -> None:
        """Do nothing: the first request connects."""

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, bytes]:
        """Send a request; give the status and the beginning of the body.

        Raises:
            ProxyFailed: If the proxy cannot be reached, or wants other credentials.
        """
        at, left = self._target, self._backend.left()
        about = {"Host": at.authority.decode(), "User-Agent": USER_AGENT, "Accept": "*/*"}
        url = httpcore2.URL(scheme=at.scheme, host=at.host.encode(), port=at.port, target=target)
        try:
            with self._pool.stream(
                method,
                url,
                headers=list({**about, **(headers or {})}.items()),
                content=body.encode() or None,
                extensions={
                    "timeout": {"read": left, "write": left, "pool": left},
                    "sni_hostname": at.tls_name,
                },
            ) as response:
                if response.status == _NEEDS_CREDENTIALS:
                    raise ProxyFailed("the proxy wants other credentials")
                self._note(response)
                return response.status, _beginning(response)
        finally:
            self.connected = self._backend.connected

    def _note(self, response: httpcore2.Response) -> None:
        about = {name.lower(): value.decode("latin-1") for name, value in response.headers}
        self.status, self.retry_after = response.status, about.get(b"retry-after")
        tls = response.extensions["network_stream"].get_extra_info("ssl_object")
        if tls is not None and self._target.tls_name is not None:
            self.certificate_expires, self.name_matches = expiry(tls), True

    def close(self) -> None:
        """Close the connection."""
        self._pool.close()


def _beginning(response: httpcore2.Response) -> bytes:
    if response.status == 101:
        return b""
    data = bytearray()
    parts: Iterator[bytes] = response.iter_stream()
    for part in parts:
        data += part
        if len(data) >= MAX_BYTES:
            break
    return bytes(data[:MAX_BYTES])
