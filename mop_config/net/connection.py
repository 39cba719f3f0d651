"""A connection to one server for a few requests: httpcore over sockets that share one deadline.

httpcore has only a time-out for each operation. Here all operations of a connection, from the
look-up to the last byte, end at one deadline. The owner holds each socket, so that another thread
can shut the socket down. ``http`` imports this module with its first request, because httpcore
takes a tenth of a second to load.
"""

import contextlib
import math
import ssl
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import httpcore2
import httpx2
from httpcore2._backends.sync import SyncStream

from .. import __version__
from ..model.address import DEFAULT_PORTS, Url
from .connect import DialOptions, Owner, Place, connect
from .faults import (
    BodyTooLargeError,
    Fault,
    HttpError,
    describe,
    fault_of,
    lacks_resources,
)
from .resolver import Resolver

USER_AGENT = f"mop-config/{__version__}"
_HTTP_SCHEMES = {"http": b"http", "ws": b"http", "https": b"https", "wss": b"https"}
_SWITCHING_PROTOCOLS = 101
_NEEDS_CREDENTIALS = 407

#: Bytes of a request that are written between two checks of the deadline.
_PIECE = 1 << 14


class ProxyFailed(httpcore2.ProxyError):
    """The proxy cannot be reached or demands other credentials; the server is not at fault."""


class ConnectionOwner(Owner, Protocol):
    """The part of an HTTP client that its connections use.

    Attributes:
        aborted: Whether the client has aborted its connections.
        heard_at: When bytes arrived last, in monotonic seconds.
    """

    aborted: bool
    heard_at: float


class DeadlineBackend(httpcore2.NetworkBackend):
    """Connects to one server, directly or by a proxy.

    Args:
        dial: Options of the dial; ``timeout`` limits one address, and a proxy's own connect.
        resolver: Resolves hosts.
        owner: Object that holds the sockets.
        deadline: Deadline of all operations, in monotonic seconds.
        connect_within: Limit of connecting to all addresses together, in seconds.

    Attributes:
        deadline: The deadline, which the caller may change.
        silence: Limit of one wait for bytes, in seconds.
        tls_name: The name that the server's certificate must be for, or None without TLS.
        proxy: The scheme of the proxy, or None for a direct connection.
        connected: Whether a connection to the server was established.
        certificate: The server's certificate, as ``SSLSocket.getpeercert`` returns it.
    """

    def __init__(
        self,
        dial: DialOptions,
        resolver: Resolver,
        owner: ConnectionOwner,
        deadline: float,
        connect_within: float,
    ) -> None:
        self.deadline = deadline
        self.silence = math.inf
        self.tls_name: str | None = None
        self.proxy: str | None = None
        self.connected = False
        self.certificate: dict[str, Any] = {}
        self.owner = owner
        self._dial = dial
        self._resolver = resolver
        self._connect_within = connect_within
        self._connect_until = math.inf

    def left(self) -> float:
        """Return the seconds for the next operation.

        A proxy gets only as much time to connect to the server as a direct connection.

        Raises:
            httpcore2.ReadTimeout: If the deadline has passed.
        """
        now = time.monotonic()
        until = self.deadline if self.connected else min(self.deadline, self._connect_until)
        if now >= until:
            raise httpcore2.ReadTimeout("timed out")
        return min(until - now, self.silence)

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> "DeadlineStream":
        """Connect to the server, including its TLS, or to the proxy.

        Raises:
            OSError: If the server cannot be reached.
            ProxyFailed: If the proxy cannot be reached.
        """
        self.connected, self._connect_until = False, math.inf
        left = self.left()
        until = time.monotonic() + min(left, self._connect_within)
        options = replace(self._dial, timeout=min(left, self._dial.timeout), until=until)
        place = Place(host, port, self.tls_name if self.proxy is None else None)
        try:
            sock = connect(place, options, self._resolver, self.owner)
        except OSError as error:
            if self.proxy is not None:
                raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
            raise
        self._connect_until = time.monotonic() + self._dial.timeout
        self.connected = self.proxy is None or self.tls_name is None
        if isinstance(sock, ssl.SSLSocket):
            self.certificate = sock.getpeercert() or {}
        return DeadlineStream(SyncStream(sock), self, proxy_tls=self.proxy == "https")


class DeadlineStream(httpcore2.NetworkStream):
    """A connected stream whose operations end at the backend's deadline.

    Args:
        stream: The connected stream of httpcore.
        backend: The backend with the deadline.
        proxy_tls: Whether the next TLS handshake is with the proxy, not with the server.
    """

    def __init__(
        self, stream: httpcore2.NetworkStream, backend: DeadlineBackend, *, proxy_tls: bool
    ) -> None:
        self._stream = stream
        self._backend = backend
        self._proxy_tls = proxy_tls
        self._unanswered = False
        self._sock = stream.get_extra_info("socket")
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]
        try:
            backend.owner.adopt(self._sock)
        except OSError:
            self.close()
            raise

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Read at most ``max_bytes`` bytes.

        Raises:
            ConnectionResetError: If the server closes the connection instead of answering.
        """
        data = self._stream.read(max_bytes, self._backend.left())
        if data:
            self._unanswered = False
            self._backend.owner.heard_at = time.monotonic()
        elif self._unanswered:
            raise ConnectionResetError("the connection was closed without an answer")
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Write the whole buffer."""
        self._unanswered = True
        for start in range(0, len(buffer), _PIECE):
            self._stream.write(buffer[start : start + _PIECE], self._backend.left())

    def start_tls(
        self, ssl_context: Any, server_hostname: str | None = None, timeout: float | None = None
    ) -> "DeadlineStream":
        """Start TLS with a proxy or through it; a direct connection has its TLS already."""
        backend = self._backend
        if backend.proxy is None:
            return self
        backend.owner.release(self._sock)
        # The handshake detaches the socket's descriptor, so an abort shuts down a duplicate.
        with self._sock.dup() as duplicate:
            try:
                backend.owner.adopt(duplicate)
                stream = self._stream.start_tls(ssl_context, server_hostname, backend.left())
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                if self._proxy_tls:
                    raise ProxyFailed(f"the proxy cannot be reached: {error}") from error
                raise
            finally:
                backend.owner.release(duplicate)
        if not self._proxy_tls:
            backend.connected = True
            backend.certificate = stream.get_extra_info("ssl_object").getpeercert() or {}
        return DeadlineStream(stream, backend, proxy_tls=False)

    def close(self) -> None:
        """Close the connection."""
        self._backend.owner.release(self._sock)
        self._stream.close()


class HttpConnection:
    """A connection to one server, direct or by a proxy, for a few requests before one deadline.

    Use the object as a context manager. The first request connects; a later request connects
    again if the server has closed the connection.

    Args:
        where: The server.
        server_name: Name for TLS and ``Host``; None for the URL's host.
        backend: The backend, which connects to the server or to the proxy.
        proxy: The proxy, or None.
        tls: Context that verifies certificates.
    """

    def __init__(
        self,
        where: Url,
        server_name: str | None,
        backend: DeadlineBackend,
        proxy: httpx2.Proxy | None,
        tls: ssl.SSLContext,
    ) -> None:
        name, port = server_name or where.host, where.port or DEFAULT_PORTS[where.scheme]
        usual = port == DEFAULT_PORTS[where.scheme]
        scheme = _HTTP_SCHEMES[where.scheme]
        backend.tls_name = name.strip("[]") if scheme == b"https" else None
        backend.proxy = None if proxy is None else proxy.url.scheme
        self.backend = backend
        self._where = scheme, where.host.encode(), port
        self._headers = {
            "Host": name if usual else f"{name}:{port}",
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
        }
        self._pool = httpcore2.ConnectionPool(
            ssl_context=tls,
            proxy=None if proxy is None else for_httpcore(proxy),
            max_connections=1,
            network_backend=backend,
        )

    def __enter__(self) -> "HttpConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new connection."""
        self._pool.close()

    @contextlib.contextmanager
    def stream(
        self,
        method: str,
        target: str,
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
    ) -> "Iterator[HttpResponse]":
        """Send a request, and yield its response as soon as the headers have arrived.

        Raises:
            HttpError: If there is no response.
        """
        scheme, host, port = self._where
        length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=scheme, host=host, port=port, target=target),
            headers=list({**self._headers, **length, **(headers or {})}.items()),
            content=body,
            extensions={"sni_hostname": self.backend.tls_name},
        )
        with self.failures():
            response = self._pool.handle_request(request)
        try:
            if response.status == _NEEDS_CREDENTIALS and self.backend.proxy is not None:
                raise HttpError(Fault.PROXY, "the proxy demands other credentials")
            yield HttpResponse(response, self)
        finally:
            response.close()

    @contextlib.contextmanager
    def failures(self) -> Iterator[None]:
        """Turn the exceptions of httpcore, h11 and sockets into an ``HttpError``."""
        try:
            yield
        except HttpError:
            raise
        except Exception as error:
            if self.backend.owner.aborted:
                raise HttpError(Fault.OURS, "aborted") from error
            fault = fault_of(error, connecting=not self.backend.connected)
            if fault is Fault.OURS and not lacks_resources(error):
                fault = Fault.PROTOCOL  # the parser failed without an exception of its own
            raise HttpError(fault, describe(error)) from error


class HttpResponse:
    """A response whose body has not been read yet.

    Attributes:
        status: The status code.
        headers: The headers, with names in lower case.
    """

    def __init__(self, response: httpcore2.Response, connection: HttpConnection) -> None:
        self.status = response.status
        self.headers = {
            name.decode("latin-1").lower(): value.decode("latin-1")
            for name, value in response.headers
        }
        self._response = response
        self._connection = connection

    def chunks(self) -> Iterator[bytes]:
        """Yield the raw body as it arrives, without decoding.

        Raises:
            HttpError: If the body breaks off.
        """
        if self.status == _SWITCHING_PROTOCOLS:
            return  # 101: the connection switches to another protocol
        with self._connection.failures():
            assert isinstance(self._response.stream, Iterable)  # noqa: S101 - the sync half of a union
            yield from self._response.stream

    def read(self, max_bytes: int, *, cut: bool = False) -> bytes:
        """Return the body, decompressed if it is gzip.

        Args:
            max_bytes: Limit of the decompressed length.
            cut: Whether to return the beginning of a longer body instead of raising.

        Raises:
            BodyTooLargeError: If the body is longer.
            HttpError: If the body breaks off, or is not valid gzip.
        """
        packed = self.headers.get("content-encoding", "").lower() == "gzip"
        unpack = zlib.decompressobj(16 + zlib.MAX_WBITS) if packed else None
        body = bytearray()
        for chunk in self.chunks():
            try:
                room = max_bytes - len(body) + 1
                body += chunk if unpack is None else unpack.decompress(chunk, room)
            except zlib.error as error:
                raise HttpError(Fault.PROTOCOL, f"the body is not gzip ({error})") from None
            if len(body) > max_bytes:
                if cut:
                    return bytes(body[:max_bytes])
                raise BodyTooLargeError(
                    Fault.PROTOCOL, f"the body is larger than {max_bytes} bytes"
                )
        return bytes(body)


def for_httpcore(proxy: httpx2.Proxy) -> httpcore2.Proxy:
    """Return a proxy in the form that httpcore takes."""
    return httpcore2.Proxy(
        url=str(proxy.url),
        auth=proxy.raw_auth,
        headers=proxy.headers.raw,
        ssl_context=proxy.ssl_context,
    )
