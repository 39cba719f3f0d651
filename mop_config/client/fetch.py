"""Asking a server for its list: one GET, bounded in size and time, that can be called off."""

import contextlib
import socket
import ssl
import threading
import zlib
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore2
import httpx2

from ..address import parse_url
from ..errors import AddressError
from .options import TransportOptions
from .policy import Policy
from .update import Fetch, Reply, may_see_token

MAX_REDIRECTS = 5
Headers = dict[bytes | str, bytes | str]


class _Stream(httpcore2.NetworkStream):
    """A stream whose socket others can find, also once it speaks TLS."""

    def __init__(self, stream: httpcore2.NetworkStream, sockets: set[socket.socket]) -> None:
        self._sockets = sockets
        self._sock: socket.socket = stream.get_extra_info("socket")
        self._stream = stream
        self.read = stream.read  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]
        sockets.add(self._sock)

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "_Stream":
        self._sockets.discard(self._sock)
        secured = self._stream.start_tls(ssl_context, server_hostname, timeout)
        return _Stream(secured, self._sockets)

    def close(self) -> None:
        self._sockets.discard(self._sock)
        self._stream.close()


class _Backend(httpcore2.SyncBackend):
    def __init__(self, sockets: set[socket.socket]) -> None:
        self._sockets = sockets

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        stream = super().connect_tcp(host, port, timeout, local_address, socket_options)
        return _Stream(stream, self._sockets)


class Fetcher:
    """Asks servers for their lists, from any number of threads.

    Args:
        options: How to connect.
        policy: The figures.
    """

    def __init__(self, options: TransportOptions, policy: Policy) -> None:
        self._options = options
        self._policy = policy
        self._sockets: set[socket.socket] = set()
        self._closed = threading.Event()

    def fetch(self, fetch: Fetch, token: str | None) -> Reply:
        """Ask for a list; never raises.

        A redirect is followed within https, or from http; a token goes to no other host.
        """
        url = fetch.url
        headers: Headers = {"Accept": "application/json", "Accept-Encoding": "gzip"}
        if fetch.etag is not None:
            headers["If-None-Match"] = fetch.etag
        if token is not None and fetch.with_token:
            headers["Authorization"] = f"Bearer {token}"
        if fetch.wait:
            url = f"{url}?wait={fetch.wait}"
        try:
            for _ in range(MAX_REDIRECTS + 1):
                answer = self._get(url, headers, fetch.wait)
                if isinstance(answer, Reply):
                    return answer
                url = self._redirected(url, answer, headers)
        except (OSError, ValueError, httpcore2.TimeoutException) as error:
            return Reply(None, problem=str(error) or type(error).__name__)
        except (httpcore2.NetworkError, httpcore2.ProtocolError, httpcore2.ProxyError) as error:
            return Reply(None, problem=str(error) or type(error).__name__)
        return Reply(None, problem=f"more than {MAX_REDIRECTS} redirects")

    def _get(self, url: str, headers: Headers, wait: int) -> Reply | str:
        """Give the answer, or the place that it redirects to."""
        timeout = self._policy.total_timeout + wait
        timeouts = {
            "connect": self._policy.connect_timeout,
            "read": timeout,
            "write": timeout,
            "pool": timeout,
        }
        with (
            self._pool(url) as pool,
            pool.stream("GET", url, headers=headers, extensions={"timeout": timeouts}) as response,
        ):
            about = {k.lower(): v.decode("latin-1") for k, v in response.headers}
            if response.status in {301, 302, 303, 307, 308} and b"location" in about:
                return about[b"location"]
            return Reply(
                response.status,
                self._body(response, about.get(b"content-encoding", "")),
                about.get(b"etag"),
                waited="wait" in about.get(b"preference-applied", ""),
            )

    @contextlib.contextmanager
    def _pool(self, url: str) -> Iterator[httpcore2.ConnectionPool]:
        if self._closed.is_set():
            raise ConnectionAbortedError("closed")
        where = parse_url(url.partition("?")[0])
        proxy = self._options.proxy_for(where.scheme, where.host.strip("[]"))
        if proxy is not None:
            with self._options.proxy_pool(proxy) as pool:
                yield pool
            return
        with httpcore2.ConnectionPool(
            ssl_context=self._options.tls,
            network_backend=_Backend(self._sockets),
            local_address=self._options.local_address,
        ) as pool:
            yield pool

    def _body(self, response: httpcore2.Response, encoding: str) -> bytes:
        limit = self._policy.max_list_bytes
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if encoding == "gzip" else None
        body = bytearray()
        for chunk in response.iter_stream():
            room = limit - len(body) + 1
            try:
                body += chunk if unpack is None else unpack.decompress(chunk, room)
            except zlib.error as error:
                raise ValueError(f"the list is not gzip ({error})") from None
            if len(body) > limit:
                raise ValueError(f"the list is larger than {limit} bytes")
        return bytes(body)

    def _redirected(self, url: str, location: str, headers: Headers) -> str:
        before = parse_url(url.partition("?")[0])
        try:
            target = str(httpx2.URL(url).join(location))
            after = parse_url(target.partition("?")[0], ("http", "https"))
        except (httpx2.InvalidURL, AddressError) as error:
            raise ValueError(f"a redirect to no usable URL ({error})") from None
        if before.scheme == "https" and after.scheme != "https":
            raise ValueError("a redirect from https to http is not followed")
        if after.host != before.host or not may_see_token(after):
            headers.pop("Authorization", None)
        return target

    def close(self) -> None:
        """Call off what is under way, and everything later."""
        self._closed.set()
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
