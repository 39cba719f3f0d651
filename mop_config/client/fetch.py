"""``Fetcher``: one cancellable GET of an endpoint list, bounded in size and time."""

import contextlib
import socket
import time
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import httpcore2
import httpx2

from ..errors import AddressError
from ..model.address import DEFAULT_PORTS, Url, parse_url
from ..model.jws import MEDIA_TYPE
from ..net.connect import Hold
from ..net.http import may_send_token
from ..net.resolver import Resolver
from .lists.normalize import origin_of
from .lists.update import Fetch, FetchReply
from .pool.policy import Policy
from .transport.bounded import BoundedBackend
from .transport.options import TransportOptions

MAX_REDIRECTS = 5
_REDIRECTS = frozenset({301, 302, 303, 307, 308})

Headers = dict[bytes | str, bytes | str]


class Fetcher:
    """Fetches endpoint lists, from any number of threads.

    Args:
        options: How to connect.
        policy: The figures.
        resolver: Looks hosts up.

    Attributes:
        sockets: The sockets in use.
        closed: Whether every fetch is cancelled.
        heard_at: When a server last sent something, or else when this was made, in monotonic
            seconds.
    """

    def __init__(self, options: TransportOptions, policy: Policy, resolver: Resolver) -> None:
        self.resolver = resolver
        self._options = options
        self._policy = policy
        self.sockets: set[socket.socket] = set()
        self.closed = False
        self.heard_at = time.monotonic()

    def fetch(self, fetch: Fetch, token: str | None, server_names: Mapping[str, str]) -> FetchReply:
        """Fetch a list. An error is returned as ``FetchReply.problem``.

        A redirect is followed within https, or from http; a token goes to no other server.

        Args:
            fetch: What to ask for.
            token: Sent where ``fetch`` allows it, or None.
            server_names: Name for TLS and ``Host`` by origin, where it is not the URL's host.
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
                headers["Authorization"] = f"Bearer {token}"
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(url, headers, server_names, deadline)
                if isinstance(answer, FetchReply):
                    return answer
                url = _redirected(url, answer, headers)
                if fetch.https_only and not may_send_token(parse_url(url.partition("?")[0])):
                    raise ValueError("a redirect to plain http is not followed")
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            return FetchReply(None, problem=str(error) or type(error).__name__)
        except httpcore2.TimeoutException as error:
            return FetchReply(None, problem=str(error) or type(error).__name__)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            return FetchReply(None, problem=str(error) or type(error).__name__)
        return FetchReply(None, problem=f"more than {MAX_REDIRECTS} redirects")

    def _get(
        self, url: str, headers: Headers, server_names: Mapping[str, str], deadline: float
    ) -> FetchReply | str:
        """Give the answer, or the place that it redirects to."""
        where = parse_url(url.partition("?")[0])
        backend = self._backend(deadline)
        left = backend.left()
        extensions: dict[str, Any] = {"timeout": {"read": left, "write": left, "pool": left}}
        name = server_names.get(origin_of(where))
        backend.tls_name = name or where.host.strip("[]") if where.scheme == "https" else None
        extensions["sni_hostname"] = backend.tls_name
        if name is not None:
            headers = {**headers, "Host": name if where.port is None else f"{name}:{where.port}"}
        with (
            self._pool(where, backend) as pool,
            pool.stream(
                "GET", _for_httpcore(url, where), headers=headers, extensions=extensions
            ) as response,
        ):
            self.heard_at = time.monotonic()
            received = {k.lower(): v.decode("latin-1") for k, v in response.headers}
            if response.status in _REDIRECTS and b"location" in received:
                return received[b"location"]
            return FetchReply(
                response.status,
                self._body(response, received.get(b"content-encoding", ""), backend),
                received.get(b"etag"),
                waited="wait" in received.get(b"preference-applied", ""),
                retry_after=self._pause(received.get(b"retry-after")),
            )

    def _backend(self, deadline: float) -> BoundedBackend:
        return BoundedBackend(
            self._options,
            self.resolver,
            Hold(self.adopt, self.sockets.discard),
            deadline=deadline,
            connect_timeout=self._policy.connect_timeout,
            look_up=self._policy.health_timeout,
        )

    def adopt(self, sock: socket.socket) -> None:
        """Make a socket one that ``close`` shuts down.

        Raises:
            ConnectionAbortedError: If everything has been called off.
        """
        self.sockets.add(sock)
        if self.closed:
            raise ConnectionAbortedError("called off")

    def _pause(self, retry_after: str | None) -> float:
        # Here it may stand beside any status: 304 is the answer of a server with many waiters.
        return self._policy.busy_for(503, retry_after, time.time()) or 0.0

    @contextlib.contextmanager
    def _pool(self, where: Url, backend: BoundedBackend) -> Iterator[httpcore2.ConnectionPool]:
        if self.closed:
            raise ConnectionAbortedError("called off")
        proxy = self._options.proxy_for(where.scheme, where.host.strip("[]"))
        if proxy is not None:
            backend.proxy = proxy.url.scheme
            with self._options.proxy_pool(proxy, backend) as pool:
                yield pool
            return
        with httpcore2.ConnectionPool(
            ssl_context=self._options.tls, network_backend=backend
        ) as pool:
            yield pool

    def _body(self, response: httpcore2.Response, encoding: str, backend: BoundedBackend) -> bytes:
        limit = self._policy.max_list_bytes
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None
        body = bytearray()
        for chunk in response.iter_stream():
            self.heard_at = time.monotonic()
            backend.left()
            room = limit - len(body) + 1
            try:
                body += chunk if unpack is None else unpack.decompress(chunk, room)
            except zlib.error as error:
                raise ValueError(f"the list is not gzip ({error})") from None
            if len(body) > limit:
                raise ValueError(f"the list is larger than {limit} bytes")
        return bytes(body)

    def close(self) -> None:
        """Cancel running and later fetches, without a lock."""
        self.closed = True
        for sock in list(self.sockets):
            with contextlib.suppress(OSError):
                # SSLSocket.shutdown would remove the TLS state under a reading thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _for_httpcore(url: str, where: Url) -> httpcore2.URL:
    """Give a URL with the brackets of an IPv6 host, which a proxy needs."""
    target = httpx2.URL(url).raw_path
    return httpcore2.URL(
        scheme=where.scheme,
        host=where.host,
        port=where.port or DEFAULT_PORTS[where.scheme],
        target=target,
    )


def _redirected(url: str, location: str, headers: Headers) -> str:
    before = parse_url(url.partition("?")[0])
    try:
        target = str(httpx2.URL(url).join(location))
        after = parse_url(target.partition("?")[0], ("http", "https"))
    except (httpx2.InvalidURL, AddressError) as error:
        raise ValueError(f"a redirect to no usable URL ({error})") from None
    if before.scheme == "https" and after.scheme != "https":
        raise ValueError("a redirect from https to http is not followed")
    if not (_same_server(before, after) and may_send_token(after)):
        headers.pop("Authorization", None)
    return target


def _same_server(before: Url, after: Url) -> bool:
    """Whether a redirect stays where it is, or goes from its http to its https."""
    if origin_of(before) == origin_of(after):
        return True
    return before.host == after.host and before.port is None and after.port is None
