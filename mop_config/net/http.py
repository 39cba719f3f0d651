"""One bounded HTTP request: probes, list fetches, commands, etcd and the webhook send it.

A request has one deadline, from the look-up to the last byte, and a limit for its decompressed
body. The addresses of a host race (see ``connect``), TLS is verified for the
server's name, no redirect leads from https to http, no proxy sees a request to this machine, and
another thread can abort the request. The first functions are pure rules for all callers.
"""

import contextlib
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote, urljoin

from .. import __version__
from ..model.address import DEFAULT_PORTS, Url, is_loopback, parse_url
from .connect import Deadline, DialOptions, Owner, ServerAddress, offering
from .faults import BodyTooLargeError, Fault, HttpError, describe, fault_of, lacks_resources
from .proxies import headers_for
from .resolver import Resolver

if TYPE_CHECKING:  # httpcore takes a tenth of a second to load, so the first request loads it
    import httpcore2
    import httpx2

#: Headers of a request or a response.
Headers = Mapping[str, str]

USER_AGENT = f"mop-config/{__version__}"
_HTTP_SCHEMES = {"http": b"http", "ws": b"http", "https": b"https", "wss": b"https"}
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


class HttpReply(NamedTuple):
    """A response with any status.

    Attributes:
        status: The status code.
        headers: The headers, with names in lower case.
        body: The decompressed body; empty until the body has been read.
    """

    status: int
    headers: Mapping[str, str]
    body: bytes = b""

    def read(self, chunks: Iterable[bytes], max_bytes: int, *, cut: bool = False) -> "HttpReply":
        """Return the response with its body, decompressed if it is gzip.

        Args:
            chunks: The raw body.
            max_bytes: Limit of the decompressed length.
            cut: Whether to return the beginning of a longer body instead of raising.

        Raises:
            BodyTooLargeError: If the body is longer.
            HttpError: If the body breaks off, or is not valid gzip.
        """
        packed = self.headers.get("content-encoding", "").lower() == "gzip"
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if packed else None
        body = bytearray()
        for chunk in chunks:
            try:
                room = max_bytes - len(body) + 1
                body += chunk if unpack is None else unpack.decompress(chunk, room)
            except zlib.error as error:
                raise HttpError(Fault.PROTOCOL, f"the body is not gzip ({error})") from None
            if len(body) > max_bytes:
                if cut:
                    break
                text = f"the body is larger than {max_bytes} bytes"
                raise BodyTooLargeError(Fault.PROTOCOL, text)
        if unpack is not None and body and not (unpack.eof or cut):
            raise HttpError(Fault.PROTOCOL, "the gzip body breaks off")
        return self._replace(body=bytes(body[:max_bytes]))


class HttpConnection(Deadline):
    """A connection to one server, direct or by a proxy, for a few requests before one deadline.

    The first request connects; a later request connects again if the server has closed the
    connection. Close the connection at the end.

    Args:
        client: The client of the connection, whose ``abort`` ends its requests.
        where: The server.
        until: The deadline in monotonic seconds, which the caller may change.
        server_name: Name for TLS and ``Host``; None for the URL's host.

    Attributes:
        certificate: The server's certificate, as ``SSLSocket.getpeercert`` returns it.
    """

    def __init__(
        self, client: "HttpClient", where: Url, until: float, server_name: str | None = None
    ) -> None:
        super().__init__(until)
        name, port = server_name or where.host, where.port or DEFAULT_PORTS[where.scheme]
        self.certificate: dict[str, Any] = {}
        self._client = client
        self._scheme = _HTTP_SCHEMES[where.scheme]
        tls_name = name.strip("[]") if self._scheme == b"https" else None
        self._server = ServerAddress(where.host, port, tls_name)
        self._proxy: httpx2.Proxy | None = None
        if not is_loopback(where.host):
            self._proxy = client.dial.proxy_for(self._server)
        self._http: httpcore2.HTTP11Connection | None = None
        self._headers = {
            "Host": name if port == DEFAULT_PORTS[where.scheme] else f"{name}:{port}",
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
        }

    def close(self) -> None:
        """Close the connection; the next request opens a new connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def _open(self, origin: "httpcore2.Origin") -> "httpcore2.HTTP11Connection":
        """Connect to the server, or to the proxy and through it to the server."""
        import httpcore2

        from ._sync.connecting import connect

        self.close()
        client, until = self._client, time.monotonic() + self.least(self.read_limit)
        options = replace(client.dial, until=until, proxy_for=lambda _: self._proxy)
        stream = connect(self._server, options, client.resolver, client)
        tls = stream.get_extra_info("ssl_object")
        if tls is not None:
            self.certificate = tls.getpeercert() or {}
        self._http = httpcore2.HTTP11Connection(origin, stream)
        return self._http

    @contextlib.contextmanager
    def stream(
        self, method: str, target: str, headers: Headers | None = None, body: bytes = b""
    ) -> "Iterator[tuple[HttpReply, Iterator[bytes]]]":
        """Send a request; yield its response without the body, and the parts of the raw body.

        Raises:
            HttpError: If there is no response. The parts of the body raise, too.
        """
        import httpcore2

        length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
        fields: dict[Any, Any] = {**self._headers, **length, **(headers or {})}
        server = self._server
        for_proxy = headers_for(self._proxy, server.tls_name)
        if for_proxy is not None:
            target = f"http://{server.host}:{server.port}{target}"
            fields |= dict(for_proxy)
        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=self._scheme, host=server.host, port=server.port, target=target),
            headers=fields,
            content=body,
            extensions={"timeout": {"read": self, "write": self}},
        )
        with self.failures():
            http = self._http
            if http is None or not http.is_available() or http.has_expired():
                http = self._open(request.url.origin)
            response = http.handle_request(request)
        try:
            if response.status == HTTPStatus.PROXY_AUTHENTICATION_REQUIRED and self._proxy:
                raise HttpError(Fault.PROXY, "the proxy demands other credentials")
            received = {
                n.decode("latin-1").lower(): v.decode("latin-1") for n, v in response.headers
            }
            yield HttpReply(response.status, received), self._chunks(response)
        finally:
            response.close()

    def _chunks(self, response: "httpcore2.Response") -> Iterator[bytes]:
        """Yield the raw body of a response as it arrives."""
        if response.status == HTTPStatus.SWITCHING_PROTOCOLS:
            return  # the connection switches to another protocol
        with self.failures():
            for chunk in response.iter_stream():
                if time.monotonic() >= self.until:
                    raise TimeoutError("timed out")  # although bytes arrive without a pause
                yield chunk

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turn the exceptions of httpcore, h11 and sockets into an ``HttpError``."""
        try:
            yield
        except HttpError:
            raise
        except Exception as error:
            if self._client.aborted:
                raise HttpError(Fault.OURS, "aborted") from error
            fault = fault_of(error, connecting=self._http is None)
            if fault is Fault.OURS and not lacks_resources(error):
                fault = Fault.PROTOCOL  # the parser failed without an exception of its own
            raise HttpError(fault, describe(error)) from error


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
        token_host: A host besides loopback that is this machine, or an empty text.
        server_names: Name for TLS and ``Host`` by origin, if different from the URL's host.
        silence: Limit of one wait for bytes, in seconds; None for the deadline alone.
        https_only: Whether a redirect over http to another machine is refused.
    """

    url: str
    deadline: float
    max_bytes: int
    method: str = "GET"
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    token: str | None = None
    token_host: str = ""
    server_names: Mapping[str, str] = field(default_factory=dict)
    silence: float | None = None
    https_only: bool = False
    cut: bool = False


class HttpClient(Owner):
    """Sends bounded HTTP/1.1 requests, from any number of threads; keeps no connection.

    Args:
        dial: Options of the dial; ``timeout`` is the limit of one address in seconds. No proxy
            is used for this machine.
        resolver: Resolves hosts; None for a new ``Resolver``.

    Attributes:
        resolver: The resolver.
        dial: Options of the dial.
    """

    def __init__(self, dial: DialOptions, resolver: Resolver | None = None) -> None:
        super().__init__()
        self.resolver = resolver or Resolver()
        self.dial = replace(dial, tls=offering(dial.tls, ("http/1.1",)))

    def request(self, request: HttpRequest) -> HttpReply:
        """Send a request and return the response; follow the redirects of a ``GET``.

        Raises:
            HttpError: If there is no complete response within the limits.
        """
        url, token = request.url, request.token
        for _ in range(MAX_REDIRECTS + 1):
            where, target = _split(url)
            headers = dict(request.headers)
            is_safe = may_send_token(where) or where.host == request.token_host
            if token is not None and is_safe:
                headers["Authorization"] = f"Bearer {token}"
            name = request.server_names.get(origin_of(where))
            connection = HttpConnection(self, where, request.deadline, name)
            connection.read_limit = request.silence
            with (
                contextlib.closing(connection),
                connection.stream(request.method, target, headers, request.body) as (reply, chunks),
            ):
                location = reply.headers.get("location")
                redirects = request.method == "GET" and reply.status in _REDIRECTS
                if location is None or not redirects:
                    return reply.read(chunks, request.max_bytes, cut=request.cut)
            url, same = _redirected(url, where, location, https_only=request.https_only)
            token = token if same else None
        raise HttpError(Fault.PROTOCOL, f"more than {MAX_REDIRECTS} redirects")


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
    return after_url, origin_of(before) == origin_of(after)
