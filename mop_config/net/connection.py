"""A connection to one server for a few requests: httpcore over streams that share one deadline.

``http`` imports this module with its first request, because httpcore takes a tenth of a second to
load.
"""

import contextlib
import math
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any, Protocol

import httpcore2
import httpx2

from .. import __version__
from ..model.address import DEFAULT_PORTS, Url
from ._sync.connecting import connect, connect_by_proxy
from .connect import DialOptions, Owner, Place
from .faults import (
    BodyTooLargeError,
    Fault,
    HttpError,
    describe,
    fault_of,
    lacks_resources,
)
from .resolver import Resolver
from .streams import FOREVER, Deadline, Limit, for_httpcore

USER_AGENT = f"mop-config/{__version__}"
_HTTP_SCHEMES = {"http": b"http", "ws": b"http", "https": b"https", "wss": b"https"}
_SWITCHING_PROTOCOLS = 101
_NEEDS_CREDENTIALS = 407


class ConnectionOwner(Owner, Protocol):
    """The part of an HTTP client that its connections use; see ``HttpClient``."""

    dial: DialOptions
    connect_within: float
    resolver: Resolver
    aborted: bool


class HttpConnection(Deadline):
    """A connection to one server, direct or by a proxy, for a few requests before one deadline.

    Use the object as a context manager. The first request connects; a later request connects
    again if the server has closed the connection.

    Args:
        client: The client of the connection, whose ``abort`` ends its requests.
        where: The server.
        server_name: Name for TLS and ``Host``; None for the URL's host.
        until: The deadline in monotonic seconds, which the caller may change.
        proxy: The proxy, or None.

    Attributes:
        silence: Limit of one wait for bytes, in seconds.
        certificate: The server's certificate, as ``SSLSocket.getpeercert`` returns it.
    """

    def __init__(
        self,
        client: ConnectionOwner,
        where: Url,
        server_name: str | None,
        until: float,
        proxy: httpx2.Proxy | None,
    ) -> None:
        super().__init__(until)
        name, port = server_name or where.host, where.port or DEFAULT_PORTS[where.scheme]
        scheme = _HTTP_SCHEMES[where.scheme]
        self.silence = math.inf
        self.certificate: dict[str, Any] = {}
        self._client = client
        self._connected = False
        self._place = Place(where.host, port, name.strip("[]") if scheme == b"https" else None)
        self._origin = httpcore2.Origin(scheme, where.host.encode(), port)
        self._proxy = None if proxy is None else for_httpcore(proxy)
        self._http: httpcore2.HTTP11Connection | None = None
        self._headers = {
            "Host": name if port == DEFAULT_PORTS[where.scheme] else f"{name}:{port}",
            "User-Agent": USER_AGENT,
            "Accept": "*/*",
        }

    def __enter__(self) -> "HttpConnection":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the next request opens a new connection."""
        if self._http is not None:
            self._http.close()
            self._http = None

    def check(self) -> None:
        """Raise ``ReadTimeout`` after the deadline, even if bytes arrive without a pause."""
        if time.monotonic() >= self.until:
            raise httpcore2.ReadTimeout("timed out")

    def _open(self) -> httpcore2.HTTP11Connection:
        """Connect to the server, or to the proxy and through it to the server."""
        self.close()
        self.check()
        self._connected = False
        client, left = self._client, self.least(self.silence)
        options = replace(
            client.dial,
            timeout=min(left, client.dial.timeout),
            until=time.monotonic() + min(left, client.connect_within),
        )
        if self._proxy is None:
            stream = connect(self._place, options, client.resolver, client)
        else:
            deadline = Deadline(self.until)
            stream = connect_by_proxy(
                self._proxy, self._place, options, client.resolver, deadline, client
            )
        self._connected = True
        tls = stream.get_extra_info("ssl_object")
        if tls is not None and self._place.tls_name is not None:
            self.certificate = tls.getpeercert() or {}
        self._http = httpcore2.HTTP11Connection(self._origin, stream)
        return self._http

    def _heard(self) -> bool:
        """Return whether the server has sent the beginning of a response."""
        # httpcore's exception is the same for an empty and an incomplete response.
        return self._http is not None and self._http._h11_state.trailing_data[0] != b""  # noqa: SLF001

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
        length = {"Content-Length": str(len(body))} if body or method == "POST" else {}
        fields = {**self._headers, **length, **(headers or {})}
        own = []
        scheme, proxy, place = self._origin.scheme, self._proxy, self._place
        if proxy is not None and place.tls_name is None and proxy.url.scheme.startswith(b"http"):
            target, own = f"http://{place.host}:{place.port}{target}", proxy.headers
        limit = Limit.of(min(FOREVER, self.silence), self)
        request = httpcore2.Request(
            method,
            httpcore2.URL(scheme=scheme, host=place.host, port=place.port, target=target),
            headers=[*fields.items(), *own],
            content=body,
            extensions={"timeout": {"read": limit, "write": limit}},
        )
        with self.failures():
            http = self._http
            if http is None or not http.is_available() or http.has_expired():
                http = self._open()
            response = http.handle_request(request)
        try:
            if response.status == _NEEDS_CREDENTIALS and proxy is not None:
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
            if self._client.aborted:
                raise HttpError(Fault.OURS, "aborted") from error
            fault = fault_of(error, connecting=not self._connected)
            if fault is Fault.OURS and not lacks_resources(error):
                fault = Fault.PROTOCOL  # the parser failed without an exception of its own
            elif "without sending a response" in str(error) and not self._heard():
                fault = Fault.RESET
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
            for chunk in self._response.stream:
                self._connection.check()
                yield chunk

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
