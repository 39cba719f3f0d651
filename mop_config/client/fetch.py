"""Asking a server for its list: one GET, bounded in size and time, that can be called off."""

import contextlib
import re
import socket
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import httpcore2
import httpx2

from ..address import DEFAULT_PORTS, Url, parse_url
from ..errors import AddressError
from ..resolve import Resolver
from ..signing import MEDIA_TYPE
from .options import TransportOptions
from .policy import Policy
from .update import Fetch, Reply, may_see_token

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
# Anything else cannot stand in a header, and would end up in an error message on its way.
_TOKEN = re.compile(r"[!-~]+")

Headers = dict[bytes | str, bytes | str]


def origin_of(url: Url) -> str:
    """Name the server that a URL leads to."""
    return f"{url.scheme}://{url.host}:{url.port or DEFAULT_PORTS[url.scheme]}"


class _Stream(httpcore2.NetworkStream):
    """A stream that ends at a deadline, and whose socket others can find."""

    def __init__(self, stream: httpcore2.NetworkStream, line: "_Line") -> None:
        self._line = line
        self._sock: socket.socket = stream.get_extra_info("socket")
        self._stream = stream
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]
        line.sockets.add(self._sock)
        if line.fetcher.closed:
            self.close()
            raise ConnectionAbortedError("called off")

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._stream.read(max_bytes, self._line.left())

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._stream.write(buffer, self._line.left())

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "_Stream":
        self._line.sockets.discard(self._sock)
        # The handshake takes the socket away; a twin stays to be called off by.
        with self._sock.dup() as twin:
            self._line.sockets.add(twin)
            try:
                secured = self._stream.start_tls(ssl_context, server_hostname, timeout)
            finally:
                self._line.sockets.discard(twin)
        return _Stream(secured, self._line)

    def close(self) -> None:
        self._line.sockets.discard(self._sock)
        self._stream.close()


class _Line(httpcore2.SyncBackend):
    """Connects for one request."""

    def __init__(self, fetcher: "Fetcher", deadline: float) -> None:
        self.fetcher = fetcher
        self.sockets = fetcher.sockets
        self._deadline = deadline

    def left(self) -> float:
        """Seconds until the deadline.

        Raises:
            httpcore2.ReadTimeout: If it is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise httpcore2.ReadTimeout("the list took too long")
        return left

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        until = time.monotonic() + (self.left() if timeout is None else timeout)

        def left() -> float:
            if (seconds := until - time.monotonic()) > 0:
                return seconds
            raise httpcore2.ConnectTimeout("connecting took too long")

        failure: Exception = httpcore2.ConnectError("the host has no address")
        # The system's own look-up knows no time limit.
        for address, seconds in self.fetcher.resolver.attempts(host, left):
            try:
                stream = super().connect_tcp(address, port, seconds, local_address, socket_options)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failure = error
            else:
                return _Stream(stream, self)
        raise failure


class Fetcher:
    """Asks servers for their lists, from any number of threads.

    Args:
        options: How to connect.
        policy: The figures.
        resolver: Looks hosts up.

    Attributes:
        sockets: Those that are in use.
        closed: Whether everything is called off.
    """

    def __init__(self, options: TransportOptions, policy: Policy, resolver: Resolver) -> None:
        self.resolver = resolver
        self._options = options
        self._policy = policy
        self.sockets: set[socket.socket] = set()
        self.closed = False

    def fetch(self, fetch: Fetch, token: str | None, names: Mapping[str, str]) -> Reply:
        """Ask for a list; never raises.

        A redirect is followed within https, or from http; a token goes to no other server.

        Args:
            fetch: What to ask for.
            token: Sent where ``fetch`` allows it, or None.
            names: The names that servers answer to, where not their host's, by origin.
        """
        url = fetch.url
        kind = MEDIA_TYPE if fetch.signed else "application/json"
        headers: Headers = {"Accept": kind, "Accept-Encoding": "gzip"}
        if fetch.etag is not None:
            headers["If-None-Match"] = fetch.etag
        if fetch.wait:
            url = f"{url}?wait={fetch.wait}"
        deadline = time.monotonic() + self._policy.total_timeout + fetch.wait
        try:
            if token is not None and fetch.with_token:
                headers["Authorization"] = _authorization(token)
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(url, headers, names, deadline)
                if isinstance(answer, Reply):
                    return answer
                url = _redirected(url, answer, headers)
                if fetch.guarded and not may_see_token(parse_url(url.partition("?")[0])):
                    raise ValueError("a redirect to plain http is not followed")
        except (OSError, ValueError, httpcore2.TimeoutException) as error:
            return Reply(None, problem=str(error) or type(error).__name__)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            return Reply(None, problem=str(error) or type(error).__name__)
        return Reply(None, problem=f"more than {MAX_REDIRECTS} redirects")

    def _get(
        self, url: str, headers: Headers, names: Mapping[str, str], deadline: float
    ) -> Reply | str:
        """Give the answer, or the place that it redirects to."""
        where = parse_url(url.partition("?")[0])
        line = _Line(self, deadline)
        extensions: dict[str, Any] = {"timeout": self._timeouts(line.left())}
        name = names.get(origin_of(where))
        if name is not None:
            extensions["sni_hostname"] = name
            headers = {**headers, "Host": name if where.port is None else f"{name}:{where.port}"}
        with (
            self._pool(where, line) as pool,
            pool.stream("GET", url, headers=headers, extensions=extensions) as response,
        ):
            about = {k.lower(): v.decode("latin-1") for k, v in response.headers}
            if response.status in _REDIRECTS and b"location" in about:
                return about[b"location"]
            return Reply(
                response.status,
                self._body(response, about.get(b"content-encoding", ""), line),
                about.get(b"etag"),
                waited="wait" in about.get(b"preference-applied", ""),
                retry_after=self._pause(about.get(b"retry-after")),
            )

    def _timeouts(self, left: float) -> dict[str, float]:
        connect = min(self._policy.connect_timeout, left)
        return {"connect": connect, "read": left, "write": left, "pool": left}

    def _pause(self, retry_after: str | None) -> float:
        # Here it may stand beside any status: 304 is the answer of a server with many waiters.
        return self._policy.busy_for(503, retry_after, time.time()) or 0.0

    @contextlib.contextmanager
    def _pool(self, where: Url, line: _Line) -> Iterator[httpcore2.ConnectionPool]:
        if self.closed:
            raise ConnectionAbortedError("called off")
        proxy = self._options.proxy_for(where.scheme, where.host.strip("[]"))
        if proxy is not None:
            with self._options.proxy_pool(proxy) as pool:
                yield pool
            return
        with httpcore2.ConnectionPool(
            ssl_context=self._options.tls,
            network_backend=line,
            local_address=self._options.local_address,
        ) as pool:
            yield pool

    def _body(self, response: httpcore2.Response, encoding: str, line: _Line) -> bytes:
        limit = self._policy.max_list_bytes
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None
        body = bytearray()
        for chunk in response.iter_stream():
            line.left()
            room = limit - len(body) + 1
            try:
                body += chunk if unpack is None else unpack.decompress(chunk, room)
            except zlib.error as error:
                raise ValueError(f"the list is not gzip ({error})") from None
            if len(body) > limit:
                raise ValueError(f"the list is larger than {limit} bytes")
        return bytes(body)

    def close(self) -> None:
        """Call off what is under way, and everything later; takes no lock."""
        self.closed = True
        for sock in list(self.sockets):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which takes the TLS state away from whoever reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _authorization(token: str) -> str:
    token = token.strip()
    if not _TOKEN.fullmatch(token):
        raise ValueError("the token holds characters that a bearer token cannot have")
    return f"Bearer {token}"


def _redirected(url: str, location: str, headers: Headers) -> str:
    before = parse_url(url.partition("?")[0])
    try:
        target = str(httpx2.URL(url).join(location))
        after = parse_url(target.partition("?")[0], ("http", "https"))
    except (httpx2.InvalidURL, AddressError) as error:
        raise ValueError(f"a redirect to no usable URL ({error})") from None
    if before.scheme == "https" and after.scheme != "https":
        raise ValueError("a redirect from https to http is not followed")
    if not (_same_server(before, after) and may_see_token(after)):
        headers.pop("Authorization", None)
    return target


def _same_server(before: Url, after: Url) -> bool:
    """Whether a redirect stays where it is, or goes from its http to its https."""
    if origin_of(before) == origin_of(after):
        return True
    return before.host == after.host and before.port is None and after.port is None
