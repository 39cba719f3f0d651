"""Connections to a server, direct or by a proxy."""

import contextlib
import time
from typing import Any

import httpcore2

from ..connect import DialOptions, HostDial, Owner, Place, Ring
from ..deadline import FOREVER, Deadline, Limit
from ..proxies import ProxyFailed
from ..resolver import Resolver
from ..with_asyncio import AsyncSocketWaits
from .stream import AsyncStream, secured

#: Longest wait between two looks at the dials.
GLANCE = 0.1
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
    with Ring() as ring:
        try:
            if owner is not None:
                owner.adopt(ring.waker)
            ring.add(HostDial(ring, place, options, resolver))
            while True:
                await wait_for_ring(ring, ring.pause(GLANCE))
                for dial in ring.finished():
                    if dial.error is not None:
                        raise dial.error
                    return AsyncStream(dial.take(), owner)
        finally:
            if owner is not None:
                owner.release(ring.waker)


async def wait_for_ring(ring: Ring, seconds: float) -> None:
    """Wait until a socket of a ring is ready, for at most ``seconds``."""
    with contextlib.suppress(TimeoutError):
        await AsyncSocketWaits(ring).readable(seconds)


async def connect_by_proxy(
    proxy: httpcore2.Proxy,
    place: Place,
    options: DialOptions,
    resolver: Resolver,
    deadline: Deadline,
    owner: Owner | None = None,
) -> Any:
    """Connect to a server through a proxy, which resolves the server's host.

    An HTTP proxy gets requests to a server without TLS itself, so it needs no tunnel for them.

    Args:
        proxy: The proxy.
        place: The server.
        options: The limits and options of each dial to the proxy.
        resolver: Resolves the host of the proxy.
        deadline: Deadline of the whole, which this function may bring forward.
        owner: Object that may abort the connection from another thread; None for no owner.

    Raises:
        ProxyFailed: If the proxy cannot be reached.
        httpcore2.ProxyError: If the proxy does not reach the server.
    """
    url, limit = proxy.url, Limit.of(FOREVER, deadline)
    stream: Any
    try:
        at = Place(url.host.decode(), url.port or _PROXY_PORTS.get(url.scheme, 1080), None)
        stream = await connect(at, options, resolver, owner)
        deadline.until = min(deadline.until, time.monotonic() + options.timeout)
        if url.scheme == b"https":
            tls = proxy.ssl_context or httpcore2.default_ssl_context()
            stream = await secured(stream, tls, at.host, limit)
    except (OSError, httpcore2.NetworkError, httpcore2.TimeoutException) as error:
        raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
    if place.tls_name is None and url.scheme in _PROXY_PORTS:
        return stream
    try:
        await _open_tunnel(stream, proxy, place, limit)
        if place.tls_name is None:
            return stream
        return await secured(stream, options.tls, place.tls_name, limit)
    except BaseException:
        await stream.aclose()
        raise


async def _open_tunnel(stream: Any, proxy: httpcore2.Proxy, place: Place, limit: Limit) -> None:
    """Open a proxy's tunnel to a server.

    Raises:
        httpcore2.ProxyError: If the proxy refuses.
    """
    url = proxy.url
    if url.scheme not in _PROXY_PORTS:
        from httpcore2._async.socks_proxy import _init_socks5_connection

        host = place.host.strip("[]").encode()
        stream.limit = limit  # httpcore passes no time-out here
        await _init_socks5_connection(stream, host=host, port=place.port, auth=proxy.auth)
        stream.limit = None
        return
    where = b"%b:%d" % (place.host.encode(), place.port)
    request = httpcore2.Request(
        "CONNECT",
        httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=where),
        headers=[(b"Host", where), (b"Accept", b"*/*"), *proxy.headers],
        extensions={"timeout": {"read": limit, "write": limit}},
    )
    response = await httpcore2.AsyncHTTP11Connection(url.origin, stream).handle_async_request(
        request
    )
    if not 200 <= response.status < 300:
        reason = response.extensions.get("reason_phrase", b"").decode("ascii", "ignore")
        raise httpcore2.ProxyError(f"{response.status} {reason}")
    # The plain stream suffices: httpcore's wrapper can hold no bytes, as the server sent none.
