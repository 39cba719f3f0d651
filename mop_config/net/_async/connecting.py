"""Connections to a server, direct or by a proxy, and TLS within a connection to a proxy."""

import ssl
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import httpcore2

from ..connect import GLANCE, Deadline, DialOptions, HostDial, Owner, Place, Ring, Timeout
from ..faults import UNREACHABLE_PROXY
from ..resolver import Resolver
from ..streams import AsyncStream

_PROXY_PORTS = {b"http": 80, b"https": 443}


async def connect(
    place: Place, options: DialOptions, resolver: Resolver, owner: Owner | None = None
) -> AsyncStream:
    """Connect to the first address of a host that is ready.

    Args:
        place: The server.
        options: The limits and options of each dial.
        resolver: Resolves the host.
        owner: Object that may abort the connection from another thread; None for no owner.

    Raises:
        OSError: If no address was ready in time; a ``socket.gaierror`` if the host has no address.
    """
    with Ring(owner) as ring:
        HostDial(ring, place, options, resolver)
        while not ring.owner.aborted:
            await AsyncStream.wait_for(ring, GLANCE)
            for dial in ring.finished():
                if dial.error is not None:
                    raise dial.error
                return AsyncStream(dial.socket, ring.owner)
    raise ConnectionAbortedError("called off")


async def connect_by_proxy(
    proxy: httpcore2.Proxy, place: Place, options: DialOptions, resolver: Resolver, owner: Owner
) -> Any:
    """Connect to a server through a proxy, which resolves the server's host.

    An HTTP proxy gets requests to a server without TLS itself, so it needs no tunnel for them.

    Args:
        proxy: The proxy.
        place: The server.
        options: The limits and options of each dial to the proxy.
        resolver: Resolves the host of the proxy.
        owner: Object that may abort the connection from another thread.

    Raises:
        httpcore2.ProxyError: If the proxy cannot be reached, or does not reach the server.
    """
    url, name, tls = proxy.url, None, options.tls
    if url.scheme == b"https":
        name, tls = url.host.decode(), proxy.ssl_context or httpcore2.default_ssl_context()
    at = Place(url.host.decode(), url.port or _PROXY_PORTS.get(url.scheme, 1080), name)
    try:
        outer = await connect(at, replace(options, tls=tls), resolver, owner)
    except OSError as error:
        raise httpcore2.ProxyError(f"{UNREACHABLE_PROXY}: {error}") from error
    deadline = Deadline(min(options.until, time.monotonic() + options.timeout))
    deadline.hedge = options.hedge
    try:
        if place.tls_name is not None or url.scheme not in _PROXY_PORTS:
            await _open_tunnel(outer, proxy, place, deadline)
        if place.tls_name is None:
            return outer
        inner = AsyncTlsStream(outer, options.tls, place.tls_name)
        await inner.shake_hands(deadline)
        return inner
    except BaseException as error:
        await outer.aclose()
        if isinstance(error, OSError):  # raised by TLS
            raise httpcore2.ConnectError(str(error)) from error
        raise


async def _open_tunnel(
    stream: AsyncStream, proxy: httpcore2.Proxy, place: Place, deadline: Deadline
) -> None:
    """Open a proxy's tunnel to a server.

    Raises:
        httpcore2.ProxyError: If the proxy refuses.
    """
    url = proxy.url
    timeouts: dict[str, Any] = {"read": deadline, "write": deadline}
    if url.scheme not in _PROXY_PORTS:
        from httpcore2._async.socks_proxy import _init_socks5_connection

        host = place.host.strip("[]").encode()
        await _init_socks5_connection(
            stream, host=host, port=place.port, auth=proxy.auth, timeouts=timeouts
        )
        return
    where = b"%b:%d" % (place.host.encode(), place.port)
    request = httpcore2.Request(
        "CONNECT",
        httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=where),
        headers=[(b"Host", where), (b"Accept", b"*/*"), *proxy.headers],
        extensions={"timeout": timeouts},
    )
    http = httpcore2.AsyncHTTP11Connection(url.origin, stream)
    response = await http.handle_async_request(request)
    if not 200 <= response.status < 300:
        reason = response.extensions.get("reason_phrase", b"").decode("ascii", "ignore")
        raise httpcore2.ProxyError(f"{response.status} {reason}")
    # The plain stream suffices: httpcore's wrapper can hold no bytes, as the server sent none.


class AsyncTlsStream(httpcore2.AsyncNetworkStream):
    """TLS within the stream to a proxy, which may have TLS of its own."""

    def __init__(self, stream: AsyncStream, context: ssl.SSLContext, name: str) -> None:
        self._stream = stream
        self._received, self._to_send = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._received, self._to_send, server_hostname=name)

    async def shake_hands(self, timeout: Timeout) -> None:
        """Do the TLS handshake."""
        await self._run(self._tls.do_handshake, timeout)
        self._stream.shared = self._tls.selected_alpn_protocol() == "h2"

    async def read(self, max_bytes: int, timeout: Timeout = None) -> bytes:
        """Read the bytes that have arrived; wait if none has arrived."""
        try:
            return bytes(await self._run(lambda: self._tls.read(max_bytes), timeout))
        except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
            return b""
        except ssl.SSLError as error:
            raise httpcore2.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: Timeout = None) -> None:
        """Write the whole buffer."""
        if buffer:
            await self._run(lambda: self._tls.write(buffer), timeout)

    async def _run(self, step: Callable[[], Any], timeout: Timeout) -> Any:
        """Repeat a step of TLS until it has the bytes that it needs; return its result."""
        while True:
            try:
                return step()
            except ssl.SSLWantReadError:
                pass  # write first: the server may be waiting for these bytes
            finally:
                if self._to_send.pending:
                    await self._stream.write(self._to_send.read(), timeout)
            if data := await self._stream.read(1 << 16, timeout):
                self._received.write(data)
            else:
                self._received.write_eof()

    async def aclose(self) -> None:
        """Close the connection to the proxy."""
        await self._stream.aclose()

    def get_extra_info(self, info: str) -> Any:
        """Return the extra info that httpcore requests by name, or None."""
        return self._tls if info == "ssl_object" else self._stream.get_extra_info(info)
