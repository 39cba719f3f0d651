"""Connections through a proxy: what the proxy's own failures are, and how long they may take.

Only the proxy is dialled here, and looks the endpoint up. Until it has reached the endpoint,
waiting for it is waiting for a connection, and bounded as such.
"""

import ssl
import time
from collections.abc import Iterable
from typing import Any

import httpcore2
from httpcore2._backends.sync import SyncStream

from ....net.connect import Place, connect
from ....net.connection import ProxyFailed
from ....net.resolver import Resolver
from ..attempt import ROUTE
from ..options import TransportOptions
from .connect import ConnectPlan, FailoverStream


class ProxyBackend(httpcore2.NetworkBackend):
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

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "ProxyStream":
        """Connect to the proxy.

        Raises:
            ProxyFailed: If it cannot be reached.
        """
        plan: ConnectPlan = ROUTE.get()
        plan.dialled = True
        options = self._options.for_dial(timeout, plan.dial_until(timeout))
        try:
            sock = connect(Place(host, port, None), options, self._resolver)
        except OSError as error:
            raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
        plan.ready = plan.member.target.tls_name is None
        until = None if plan.ready else min(plan.until, time.monotonic() + options.timeout)
        return ProxyStream(sock, until, proxys_tls=self._proxys_tls)


class ProxyStream(FailoverStream):
    """A stream to a proxy, or through it.

    Args:
        sock: A connected socket.
        until: When the proxy has to have reached the endpoint, in monotonic seconds; None once
            it has.
        proxys_tls: Whether the next TLS is the proxy's own.
    """

    def __init__(self, sock: Any, until: float | None, *, proxys_tls: bool) -> None:
        super().__init__(sock)
        self._until = until
        self._proxys_tls = proxys_tls

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, or wait for it."""
        return super().read(max_bytes, self._bounded(timeout))

    def _bounded(self, timeout: float | None) -> float | None:
        if self._until is None:
            return timeout
        left = max(0.0, self._until - time.monotonic())
        return left if timeout is None else min(timeout, left)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Any:
        """Begin TLS, with the proxy or through it with the endpoint.

        Raises:
            ProxyFailed: If the proxy's own TLS fails.
        """
        seconds = max(0.001, self._bounded(timeout) or 0.0)
        plain = SyncStream(self._sock)
        try:
            secured = plain.start_tls(ssl_context, server_hostname, seconds)
        except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
            if self._proxys_tls:
                raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
            raise
        if not self._proxys_tls:
            ROUTE.get().ready = True
        sock = secured.get_extra_info("socket")
        if sock is self._sock:
            return secured  # TLS within the proxy's TLS, which is no socket
        until = self._until if self._proxys_tls else None
        return ProxyStream(sock, until, proxys_tls=False)
