"""The connections of health checks and updates: bounded in time, and to be called off."""

import time
from collections.abc import Iterable
from typing import Any

import httpcore2
from httpcore2._backends.sync import SyncStream

from ...net.connect import Hold, Place, connect
from ...net.connection import ProxyFailed
from ...net.resolver import Resolver
from .options import TransportOptions


class BoundedBackend(httpcore2.NetworkBackend):
    """Connects for one errand, directly or to a proxy, and ends with it.

    Args:
        options: How to connect.
        resolver: Looks hosts up.
        hold: Takes the sockets that calling off shuts down.
        deadline: When the errand is over, in monotonic seconds.
        connect_timeout: Seconds for each address, and for a proxy to reach the server.
        look_up: Seconds for connecting with the look-up, in all.

    Attributes:
        connected: Whether a connection stood, to the server itself where that can be seen.
        tls_name: The name that the server's certificate must be for, or None without TLS.
        proxy: The scheme of the proxy that is connected to, or None without one.
    """

    def __init__(
        self,
        options: TransportOptions,
        resolver: Resolver,
        hold: Hold,
        *,
        deadline: float,
        connect_timeout: float,
        look_up: float,
    ) -> None:
        self.hold = hold
        self.connected = False
        self.tls_name: str | None = None
        self.proxy: str | None = None
        self._options = options
        self._resolver = resolver
        self._deadline = deadline
        self._connect_timeout = connect_timeout
        self._look_up = look_up
        self._connect_until = deadline

    def left(self) -> float:
        """Seconds until the deadline.

        Raises:
            httpcore2.ReadTimeout: If it is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the list took too long")
        return left

    def left_now(self) -> float:
        """Seconds for the next step: a proxy has no longer to connect than we would have."""
        left = self.left()
        if self.connected:
            return left
        return max(0.001, min(left, self._connect_until - time.monotonic()))

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "BoundedStream":
        """Connect to the server, with TLS where it has it, or to the proxy.

        Raises:
            OSError: If that fails.
            ProxyFailed: If the proxy cannot be reached.
        """
        left, now = self.left(), time.monotonic()
        until = now + min(left, max(self._connect_timeout, self._look_up))
        options = self._options.for_dial(min(left, self._connect_timeout), until)
        if self.proxy is None:
            sock = connect(Place(host, port, self.tls_name), options, self._resolver, self.hold)
        else:
            try:
                sock = connect(Place(host, port, None), options, self._resolver, self.hold)
            except OSError as error:
                raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
        self._connect_until = time.monotonic() + self._connect_timeout
        self.connected = self.proxy is None or self.tls_name is None
        return BoundedStream(SyncStream(sock), self, self.proxy == "https")


class BoundedStream(httpcore2.NetworkStream):
    """A stream that ends at the errand's deadline, and whose socket its owner holds."""

    def __init__(
        self, stream: httpcore2.NetworkStream, backend: BoundedBackend, proxys_tls: bool
    ) -> None:
        self._backend = backend
        self._stream = stream
        self._proxys_tls = proxys_tls
        self._sock = stream.get_extra_info("socket")
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]
        try:
            backend.hold.adopt(self._sock)
        except OSError:
            self.close()
            raise

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read what is there, or wait for it."""
        return self._stream.read(max_bytes, self._backend.left_now())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write everything."""
        self._stream.write(buffer, self._backend.left_now())

    def start_tls(
        self,
        ssl_context: Any,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "BoundedStream":
        """Begin TLS with the proxy or, through it, with the server; else it has begun."""
        backend = self._backend
        if backend.proxy is None:
            return self
        backend.hold.release(self._sock)
        # The handshake takes the socket away; a twin stays to be called off by.
        with self._sock.dup() as twin:
            try:
                backend.hold.adopt(twin)
                secured = self._stream.start_tls(ssl_context, server_hostname, backend.left_now())
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                if self._proxys_tls:
                    raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
                raise
            finally:
                backend.hold.release(twin)
        backend.connected = backend.connected or not self._proxys_tls
        return BoundedStream(secured, backend, proxys_tls=False)

    def close(self) -> None:
        """Close the socket."""
        self._backend.hold.release(self._sock)
        self._stream.close()
