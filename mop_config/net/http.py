"""One bounded HTTP request: probes, list fetches, commands, etcd and the webhook send it.

A request has one deadline, from the look-up to the last byte, and a limit for its decompressed
body. The addresses of a host race (see ``connect``), TLS is verified for the
server's name, no redirect leads from https to http, no proxy sees a request to this machine, and
another thread can abort the request. The first functions are pure rules for all callers.
"""

import contextlib
import math
import socket
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import quote, urljoin

from ..model.address import DEFAULT_PORTS, Url, is_loopback, parse_url
from .connect import DialOptions, offering
from .faults import Fault, HttpError
from .resolver import Resolver

if TYPE_CHECKING:
    import httpx2

    from .connection import HttpConnection

#: Returns the proxy for the scheme and host of a URL; None means a direct connection.
ProxyChoice = Callable[[str, str], "httpx2.Proxy | None"]

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: Characters of a query that are not percent-encoded.
_QUERY_SAFE = "%/?:@!$&'()*+,;=-._~[]"
#: Limit of the doublings of a pause: 2^16 exceeds every upper bound, and no float overflows.
_MOST_DOUBLINGS = 16


def backoff(failures: int, first: float, longest: float) -> float:
    """Return the seconds to wait after failures in a row; each further failure doubles the pause.

    Args:
        failures: Number of failures in a row, from 1; 0 counts as 1.
        first: Seconds after the first failure.
        longest: Upper bound in seconds.
    """
    return min(longest, first * 2.0 ** min(max(failures - 1, 0), _MOST_DOUBLINGS))


def retry_after(text: str | None, now_posix: float) -> float | None:
    """Read a ``Retry-After`` header: seconds, or an HTTP date (RFC 9110, section 10.2.3).

    Args:
        text: The header's value; None if the response has none.
        now_posix: POSIX time, to which a date is compared.

    Returns:
        Seconds from 0 without an upper bound (callers apply their own), or None if the header
        is absent or invalid.
    """
    text = (text or "").strip()
    if text.isascii() and text.isdigit():
        return float(text)
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - now_posix)
    except (ValueError, TypeError, OverflowError):
        return None


def may_send_token(url: Url) -> bool:
    """Whether an access token may be sent to this URL: over https, or within this machine."""
    return url.scheme == "https" or is_loopback(url.host)


def origin_of(url: Url) -> str:
    """Return scheme, host and port of a URL."""
    return f"{url.scheme}://{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"


def proxy_of(environment: Mapping[str, str], scheme: str, host: str) -> "httpx2.Proxy | None":
    """Return the proxy that the environment names for a host, or None.

    Args:
        environment: Proxies by scheme, from ``urllib.request.getproxies``.
        scheme: The scheme of the URL.
        host: The host of the URL.
    """
    url = environment.get(scheme) or environment.get("all")
    if url is None or urllib.request.proxy_bypass(host):
        return None
    import httpx2  # not at the top: see ``connection``

    return httpx2.Proxy(url=url if "://" in url else f"http://{url}")


class HttpReply(NamedTuple):
    """A complete response with any status.

    Attributes:
        status: The status code.
        headers: The headers, with names in lower case.
        body: The decompressed body.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """A request, and its limits.

    Attributes:
        url: An http or https URL, with or without a query.
        deadline: Deadline of the whole response, in monotonic seconds.
        max_bytes: Limit of the decompressed body.
        cut: Whether a longer body is truncated; False: a longer body is an error.
        method: The method; only the redirects of a ``GET`` are followed.
        headers: Further headers.
        body: The content.
        token: Access token, sent to https or this machine only, and to no other server after a
            redirect; or None.
        server_names: Name for TLS and ``Host`` by origin, if different from the URL's host.
        silence: Limit of one wait for bytes, in seconds.
        https_only: Whether a redirect over http to another machine is refused.
    """

    url: str
    deadline: float
    max_bytes: int
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    token: str | None = None
    server_names: Mapping[str, str] = field(default_factory=dict)
    silence: float = math.inf
    https_only: bool = False
    cut: bool = False


class HttpClient:
    """Sends bounded HTTP/1.1 requests, from any number of threads; keeps no connection.

    Args:
        dial: Options of the dial; ``timeout`` is the limit of one address in seconds.
        resolver: Resolves hosts; None for a new ``Resolver``.
        connect_within: Limit of connecting, with the look-up, in seconds.
        proxy_for: Returns the proxy of a URL, except for this machine; None for direct
            connections.

    Attributes:
        resolver: The resolver.
        dial: Options of the dial.
        connect_within: Limit of connecting, with the look-up, in seconds.
        aborted: Whether ``abort`` was called.
    """

    def __init__(
        self,
        dial: DialOptions,
        resolver: Resolver | None = None,
        *,
        connect_within: float = math.inf,
        proxy_for: ProxyChoice | None = None,
    ) -> None:
        self.resolver = resolver or Resolver()
        self.aborted = False
        self.dial = replace(dial, tls=offering(dial.tls, ("http/1.1",)))
        self.connect_within = connect_within
        self._proxy_for = proxy_for
        self._sockets: set[socket.socket] = set()

    def connection(
        self, where: Url, deadline: float, server_name: str | None = None
    ) -> "HttpConnection":
        """Create a connection for a few requests, to be used as a context manager.

        Args:
            where: The server.
            deadline: Deadline of all requests, in monotonic seconds.
            server_name: Name for TLS and ``Host``; None for the URL's host.
        """
        from .connection import HttpConnection  # loads httpcore

        proxy = None
        if self._proxy_for is not None and not is_loopback(where.host):
            scheme = {"ws": "http", "wss": "https"}.get(where.scheme, where.scheme)
            proxy = self._proxy_for(scheme, where.host.strip("[]"))
        return HttpConnection(self, where, server_name, deadline, proxy)

    def request(self, request: HttpRequest) -> HttpReply:
        """Send a request and return the response; follow the redirects of a ``GET``.

        Raises:
            HttpError: If there is no complete response within the limits.
        """
        url, token = request.url, request.token
        for _ in range(MAX_REDIRECTS + 1):
            where, target = _split(url)
            headers = dict(request.headers)
            if token is not None and may_send_token(where):
                headers["Authorization"] = f"Bearer {token}"
            name = request.server_names.get(origin_of(where))
            with self.connection(where, request.deadline, name) as connection:
                connection.silence = request.silence
                with connection.stream(request.method, target, headers, request.body) as response:
                    location = response.headers.get("location")
                    if (
                        request.method != "GET"
                        or location is None
                        or response.status not in _REDIRECTS
                    ):
                        body = response.read(request.max_bytes, cut=request.cut)
                        return HttpReply(response.status, response.headers, body)
            url, same = _redirected(url, where, location, https_only=request.https_only)
            token = token if same else None
        raise HttpError(Fault.PROTOCOL, f"more than {MAX_REDIRECTS} redirects")

    def abort(self) -> None:
        """End running and later requests at once; takes no lock, so a finalizer may call it."""
        self.aborted = True
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                # Not SSLSocket.shutdown, which drops the TLS state under a reading thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def adopt(self, sock: socket.socket) -> None:
        """Register a socket that ``abort`` shuts down.

        Raises:
            ConnectionAbortedError: If ``abort`` was called.
        """
        self._sockets.add(sock)
        if self.aborted:
            raise ConnectionAbortedError("aborted")

    def release(self, sock: socket.socket) -> None:
        """Unregister a socket, so that ``abort`` no longer shuts it down."""
        self._sockets.discard(sock)


def _split(url: str) -> tuple[Url, str]:
    """Split a URL into the server and the request target (path and query)."""
    address, mark, query = url.partition("#")[0].partition("?")
    where = parse_url(address, underscores=True)
    return where, (where.path or "/") + mark + quote(query, safe=_QUERY_SAFE)


def _redirected(url: str, before: Url, location: str, *, https_only: bool) -> tuple[str, bool]:
    """Return a redirect's URL, and whether the token may follow: only to the same server."""
    try:
        after_url = urljoin(url, location)
        after, _ = _split(after_url)
    except ValueError as error:  # an AddressError, or an error of urljoin
        raise HttpError(Fault.PROTOCOL, f"a redirect to no usable URL ({error})") from None
    if before.scheme == "https" and after.scheme != "https":
        raise HttpError(Fault.PROTOCOL, "a redirect from https to http is not followed")
    if https_only and not may_send_token(after):
        raise HttpError(Fault.PROTOCOL, "a redirect to plain http is not followed")
    # http to https on one host, both at the default port, counts as the same server.
    upgraded = before.host == after.host and before.port is None and after.port is None
    return after_url, upgraded or origin_of(before) == origin_of(after)
