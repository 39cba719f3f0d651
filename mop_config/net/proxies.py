"""Proxies: the one for a host, and the tunnel to a server, which is a step of the dial.

An HTTP proxy forwards requests to a server without TLS, and opens a tunnel (``CONNECT``) to a
server with TLS. A SOCKS5 proxy opens a tunnel to every server.
"""

import base64
import contextlib
import importlib.util
import socket
import urllib.request
from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from .faults import ProxyError

if TYPE_CHECKING:  # slow to load
    import httpx2

_PORTS = {"http": 80, "socks5": 1080, "socks5h": 1080}
#: Limit in bytes of a proxy's answer before the tunnel.
_MOST = 1 << 16

#: A step of a tunnel, which waits for the proxy at each ``yield``.
Step = Generator[None, None, Any]


def proxy_at(proxy: Any) -> "httpx2.Proxy":
    """Return the proxy with a URL, or a proxy of httpx2 unchanged.

    Raises:
        ValueError: If the URL is invalid, its scheme is unknown, or the proxy itself has TLS.
        ImportError: If a SOCKS proxy needs a package that is not installed.
    """
    import httpx2

    try:
        given = proxy if isinstance(proxy, httpx2.Proxy) else httpx2.Proxy(url=proxy)
    except httpx2.InvalidURL as error:
        raise ValueError(f"a proxy must be a URL: {error}") from None
    scheme = given.url.scheme
    if scheme not in _PORTS:
        raise ValueError(f"a proxy must be at http:// or socks5://, not at {scheme}://")
    if scheme != "http" and importlib.util.find_spec("socksio") is None:
        raise ImportError("SOCKS needs the package socksio: pip install 'httpx2[socks]'")
    return given


def proxies_of_environment() -> dict[str, str]:
    """Return the URLs of the environment's proxies, by the scheme of the requests.

    Raises:
        ValueError: See ``proxy_at``; the message names the variable.
        ImportError: Likewise.
    """
    found = {}
    for scheme, url in urllib.request.getproxies().items():
        if scheme in {"http", "https", "all"}:
            found[scheme] = url if "://" in url else f"http://{url}"
            try:
                proxy_at(found[scheme])
            except (ValueError, ImportError) as error:
                kind = ImportError if isinstance(error, ImportError) else ValueError
                raise kind(f"{scheme}_proxy: {error}") from None
    return found


def proxy_of(environment: Mapping[str, str], scheme: str, host: str) -> "httpx2.Proxy | None":
    """Return the proxy that the environment names for a host, or None.

    Args:
        environment: See ``proxies_of_environment``.
        scheme: The scheme of the URL.
        host: The host of the URL.
    """
    url = environment.get(scheme) or environment.get("all")
    if url is None or urllib.request.proxy_bypass(host):
        return None
    return proxy_at(url)


def address_of(proxy: "httpx2.Proxy") -> tuple[str, int]:
    """Return the host of a proxy, in brackets if IPv6, and its port."""
    host = proxy.url.host
    return f"[{host}]" if ":" in host else host, proxy.url.port or _PORTS[proxy.url.scheme]


def headers_for(
    proxy: "httpx2.Proxy | None", tls_name: str | None
) -> list[tuple[bytes, bytes]] | None:
    """Return the header fields for a proxy that forwards requests; None without such a proxy.

    Args:
        proxy: The proxy, or None.
        tls_name: The TLS name of the server; None without TLS.
    """
    if proxy is None or tls_name is not None or proxy.url.scheme != "http":
        return None
    return _headers_of(proxy)


def _headers_of(proxy: "httpx2.Proxy") -> list[tuple[bytes, bytes]]:
    if proxy.raw_auth is None:
        return proxy.headers.raw
    login = base64.b64encode(b":".join(proxy.raw_auth))
    return [(b"Proxy-Authorization", b"Basic " + login), *proxy.headers.raw]


def open_tunnel(sock: socket.socket, proxy: "httpx2.Proxy", host: str, port: int) -> Step:
    """Open a tunnel to a server; yield to wait until the socket is readable.

    Args:
        sock: A non-blocking socket that is connected to the proxy.
        proxy: The proxy.
        host: Host of the server, in brackets if IPv6; the proxy resolves it.
        port: Port of the server.

    Raises:
        ProxyError: If the proxy refuses.
    """
    if proxy.url.scheme == "http":
        return _connect(sock, proxy, f"{host}:{port}".encode())
    return _socks(sock, proxy, host.strip("[]"), port)


def _connect(sock: socket.socket, proxy: "httpx2.Proxy", where: bytes) -> Step:
    """Open the tunnel of an HTTP proxy (RFC 9110, section 9.3.6)."""
    fields = [(b"Host", where), (b"Accept", b"*/*"), *_headers_of(proxy)]
    lines = [b"CONNECT %b HTTP/1.1" % where, *(b"%b: %b" % field for field in fields)]
    sock.send(b"\r\n".join([*lines, b"", b""]))
    head = b""
    while b"\r\n\r\n" not in head:
        head += yield from _receive(sock, _MOST - len(head))
    status = head.split(b"\r\n")[0].partition(b" ")[2].decode("latin-1")
    if not status.startswith("2"):
        raise ProxyError(status)


def _socks(sock: socket.socket, proxy: "httpx2.Proxy", host: str, port: int) -> Step:
    """Open the tunnel of a SOCKS5 proxy (RFC 1928), with a login (RFC 1929) if there is one."""
    import socksio

    protocol = socksio.SOCKS5Connection()

    def ask(request: Any) -> Step:
        protocol.send(request)
        sock.send(protocol.data_to_send())
        return protocol.receive_data((yield from _receive(sock, _MOST)))

    login, methods = proxy.raw_auth, socksio.SOCKS5AuthMethod
    method = methods.NO_AUTH_REQUIRED if login is None else methods.USERNAME_PASSWORD
    connect = socksio.SOCKS5Command.CONNECT
    try:
        yield from ask(socksio.SOCKS5AuthMethodsRequest([method]))
        if login is not None:
            answer = yield from ask(socksio.SOCKS5UsernamePasswordRequest(*login))
            if not answer.success:
                raise ProxyError("Invalid username/password")
        request = socksio.SOCKS5CommandRequest.from_address(connect, (host, port))
        answer = yield from ask(request)
    except socksio.SOCKSError as error:  # such as a proxy that accepts no such login
        raise ProxyError(f"Requested {method.name}: {error}") from error
    if answer.reply_code is not socksio.SOCKS5ReplyCode.SUCCEEDED:
        raise ProxyError(f"the proxy reports {answer.reply_code.name}")


def _receive(sock: socket.socket, most: int) -> Step:
    """Wait for bytes of the proxy, and return them."""
    while True:
        yield
        with contextlib.suppress(BlockingIOError):
            if part := sock.recv(most):
                return part
            raise ProxyError("the proxy closed the connection")
