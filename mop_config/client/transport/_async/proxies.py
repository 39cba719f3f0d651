"""Connections through a proxy, on asyncio: the twin of ``proxies``."""

import ssl
import time
from collections.abc import Awaitable, Iterable
from typing import Any

import httpcore2

from ....net.connect import Place
from ....net.connection import ProxyFailed
from ....net.resolver import Resolver
from ..attempt import ROUTE
from ..options import TransportOptions
from .connect import AsyncConnectPlan, AsyncFailoverStream
from .dial import connect_async


class AsyncProxyBackend(httpcore2.AsyncNetworkBackend):
    """Dials a proxy for the request that needs a connection through it.

    Args:
        options: How to connect.
        resolver: Looks the proxy up.
        scheme: The proxy's own: ``https`` has TLS of its own.
    """

    def __init__(self, options: TransportOptions, resolver: Resolver, scheme: str) -> None:
        self._options = options
        self._resolver = resolver
        self._proxys_tls = scheme == "https"

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "AsyncProxyStream":
        """Connect to the proxy.

        Raises:
            ProxyFailed: If it cannot be reached.
        """
        route: AsyncConnectPlan = ROUTE.get()
        route.dialled = True
        options = self._options.for_dial(timeout, route.dial_until(timeout))
        try:
            stream = await connect_async(Place(host, port, None), options, self._resolver)
        except (OSError, httpcore2.NetworkError, httpcore2.TimeoutException) as error:
            raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
        route.ready = route.member.target.tls_name is None
        until = None if route.ready else min(route.until, time.monotonic() + options.timeout)
        return AsyncProxyStream(stream, until, proxys_tls=self._proxys_tls)


class AsyncProxyStream(AsyncFailoverStream):
    """A stream to a proxy, or through it; see its twin."""

    def __init__(
        self, stream: httpcore2.AsyncNetworkStream, until: float | None, *, proxys_tls: bool
    ) -> None:
        super().__init__(stream)
        self._until = until
        self._proxys_tls = proxys_tls

    def read(self, max_bytes: int, timeout: float | None = None) -> Awaitable[bytes]:  # type: ignore[override]
        """Read what is there, or wait for it."""
        return super().read(max_bytes, self._bounded(timeout))

    def _bounded(self, timeout: float | None) -> float | None:
        if self._until is None:
            return timeout
        left = max(0.0, self._until - time.monotonic())
        return left if timeout is None else min(timeout, left)

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "AsyncProxyStream":
        """Begin TLS, with the proxy or through it with the endpoint.

        Raises:
            ProxyFailed: If the proxy's own TLS fails.
        """
        try:
            secured = await self._stream.start_tls(
                ssl_context, server_hostname, self._bounded(timeout)
            )
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            if self._proxys_tls:
                raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
            raise
        if self._proxys_tls:
            return AsyncProxyStream(secured, self._until, proxys_tls=False)
        ROUTE.get().ready = True
        return AsyncProxyStream(secured, None, proxys_tls=False)
