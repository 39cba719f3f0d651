"""The httpx2 client and transport that send requests to the current endpoint.

``Failover``, which does no I/O, decides where a request goes; the transport connects, sends, reads,
and records the outcome in an ``Exchange``.
"""

import contextlib
import logging
import math
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Unpack

import httpcore2
import httpx2

from ...keywords import TransportKeywords, check_keywords
from ...pool.failover import Failover
from ...pool.member import route_of
from ..attempt import BASE_URL, RAW_HOST, WHOLE, Exchange, HasState, total_of, traits_of
from ..options import TransportOptions
from ..outcome import closed, is_of_http2, why
from ..with_asyncio import hedged
from .connecting import AsyncConnector
from .connections import close

logger = logging.getLogger(__name__)


class AsyncClient(httpx2.AsyncClient):
    """The httpx2 client that a manager creates."""

    async def send(
        self, request: httpx2.Request, *, stream: bool = False, **options: Any
    ) -> httpx2.Response:
        """Send a request; see httpx2."""
        request.extensions[WHOLE] = not stream
        return await super().send(request, stream=stream, **options)


class AsyncFailoverTransport(httpx2.AsyncBaseTransport):
    """An httpx2 transport that sends requests to the current endpoint, and fails over to others.

    A request for ``base_url`` goes to the pool of endpoints; a request with a host of its own
    goes to that host, unchanged.

    Args:
        manager: The manager whose endpoints to use.
        transport: The transport that sends each attempt to the endpoint's real URL, for example
            an ``httpx2.MockTransport`` in a test; then there are no dial races and no hedges,
            and ``options`` have no effect. None: the client's own connections.
        options: ``verify``, ``cert``, ``http1``, ``http2``, ``limits``, ``proxy``,
            ``trust_env``, ``local_address``, ``socket_options``, as for httpx2's own transport.

    Raises:
        ValueError: If certificates would not be verified.
    """

    base_url = BASE_URL

    def __init__(
        self,
        manager: HasState,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        **options: Unpack[TransportKeywords],
    ) -> None:
        check_keywords(type(self), options, TransportKeywords)
        if not isinstance(transport, httpx2.AsyncBaseTransport | None):
            raise TypeError(f"transport must be an httpx2.AsyncBaseTransport, not {transport!r}")
        self._state = manager._state
        self._inner = transport
        self._manager = manager  # a client keeps its manager alive
        self._options = TransportOptions(**options)
        checked = getattr(manager, "_network_options", self._options)
        self._uses_other_proxy = self._options.proxy_choice != checked.proxy_choice
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        self._connector = AsyncConnector(self._state, self._options)
        self._plain: dict[str, httpx2.AsyncHTTPTransport] = {}  # for other hosts, by proxy

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request.

        Raises:
            NoEndpointAvailable: If no endpoint could be reached.
            httpx2.TransportError: If the request failed and must not be repeated.
        """
        if self._pid != os.getpid():
            self._open()  # a forked child must not share the parent's connections
        if request.url.raw_host != RAW_HOST:
            plain = self._inner or self._plain_for(request)
            return await plain.handle_async_request(request)
        state = self._state
        wanted, traits = request.extensions.get("timeout") or {}, traits_of(request)
        total = total_of(wanted, state.policy.total_timeout)
        route = route_of(request.method, request.url.path)
        with state:
            failover = Failover(traits, state.api, state.budget, state.clock(), total, route)
        failover.uses_other_proxy = self._uses_other_proxy
        try:
            await self._carry(failover, request)
        except BaseException:  # such as a cancellation: nobody gets the answer
            if failover.answer is not None:
                await close(failover.answer)
            raise
        return self._conclude(failover, request)

    async def _carry(self, failover: Failover, request: httpx2.Request) -> None:
        """Carry a request over the endpoints until it has its outcome."""
        state, connector = self._state, self._connector
        while failover.member is not None:
            exchange = await self._attempt(Exchange(state, failover, failover.member, request))
            if exchange.lost and _is_traced():
                await _trace_losers(exchange)
            if exchange.status is not None:
                if exchange.fault is not None:
                    exchange.bound_pauses()
                elif exchange.is_read_whole():
                    await self._read_whole(exchange)
            if connector.aborted and exchange.fault is not None:
                await close(exchange)
                raise closed(request)
            with state:
                failover.record(exchange)
            if failover.discard is not None:
                await close(failover.discard)
        if state.clock() >= connector.sweep_at and self._inner is None:
            await connector.sweep(state.clock())

    async def _attempt(self, exchange: Exchange) -> Exchange:
        """Send a request to an endpoint; return the exchange that has the outcome."""
        if self._inner is not None:
            await _send_through(self._inner, exchange)
            return exchange
        pools, member = self._connector.pools, exchange.member
        # ``get`` saves the call of ``pool_of`` for each request over an open connection.
        pool = pools.get(member.target.key) or self._connector.pool_of(member)
        pool.take_open(exchange)
        if exchange.hedge_at == math.inf:
            await self._send(exchange)
            return exchange
        if exchange.connection is None:
            # Connect first: a dial has its own race, so only late answers are hedged.
            try:
                await self._connector.connect(exchange)
            except Exception as error:
                await self._failed(exchange, error)
                return exchange
        if self._state.policy.hedge_delay == "auto":
            # A measured delay counts from here, as answers are measured; a fixed one counts
            # from the start of the call.
            exchange.hedge_at = self._state.clock() + exchange.failover.hedge_after
        return await hedged(exchange, self._send, close)

    async def _send(self, exchange: Exchange) -> None:
        """Connect if necessary, send the request once, and record the outcome."""
        try:
            while exchange.response is None:
                if exchange.connection is None:
                    await self._connector.connect(exchange)
                with contextlib.suppress(httpcore2.ConnectionNotAvailable):
                    if _is_traced():
                        await _ask_traced(exchange, self._ask)
                    else:
                        await self._ask(exchange)
        except Exception as error:
            await self._failed(exchange, error)
        else:
            exchange.answered(exchange.response)

    async def _failed(self, exchange: Exchange, error: Exception) -> None:
        """Record an exception; an exchange that got no connection gets a span of its own."""
        if exchange.connection is None and _is_traced():
            await _trace_failure(exchange, error)
        exchange.failed(error, connected=exchange.connection is not None)

    async def _ask(self, exchange: Exchange) -> None:
        """Send the request over the exchange's connection, and read the head of the answer.

        Raises:
            httpcore2.ConnectionNotAvailable: If the connection no longer takes requests.
        """
        connection = exchange.connection
        try:
            if exchange.called_off:
                raise httpcore2.ReadError("the other request of the hedge has its answer")
            addressed = exchange.for_pool(connection.pool.target, connection.pool.for_proxy)
            exchange.asked = self._state.clock()
            response = await connection.http.handle_async_request(addressed)
            if response.status == 407 and connection.pool.for_proxy is not None:
                raise httpcore2.ProxyError("407 Proxy Authentication Required")
            exchange.response = response
        except BaseException as error:
            if isinstance(error, httpcore2.ConnectionNotAvailable):
                exchange.connection = None
            if isinstance(error, Exception) and is_of_http2(error):
                connection.worn = True
            await connection.pool.release(connection)
            raise

    async def _read_whole(self, exchange: Exchange) -> None:
        """Read the body as a part of the attempt: after a broken body, another attempt follows."""
        exchange.bound_pauses()
        try:
            exchange.content = await exchange.response.aread()
        except Exception as error:
            exchange.status, exchange.reused = None, exchange.reused and is_of_http2(error)
            exchange.failed(error, connected=True)
        finally:
            await close(exchange)

    def _conclude(self, failover: Failover, request: httpx2.Request) -> httpx2.Response:
        if failover.answer is None:
            raise why(failover, request)
        exchange: Exchange = failover.answer
        whole = exchange.content
        stream = _AsyncBody(self, exchange) if whole is None else httpx2.ByteStream(whole)
        answer = exchange.answer(stream)
        if logger.isEnabledFor(logging.DEBUG):
            # httpx2's log line names only the pool's host; no query, which may hold secrets.
            path, url = request.url.path, exchange.member.url
            logger.debug("%s %s: %d from %s", request.method, path, answer.status_code, url)
        return answer

    def _plain_for(self, request: httpx2.Request) -> httpx2.AsyncHTTPTransport:
        proxy = self._options.proxy_for(request.url.scheme, request.url.host)
        key = "" if proxy is None else str(proxy.url)
        transport = self._plain.get(key)
        if transport is None:
            made = httpx2.AsyncHTTPTransport(**self._options.for_httpx(proxy))
            transport = self._plain.setdefault(key, made)
        return transport

    async def aclose(self) -> None:
        """Close every connection; running requests end with an error."""
        if self._pid != os.getpid():
            self._open()  # a shutdown would end the parent's connections
        await self._connector.close()
        if self._inner is not None:
            await self._inner.aclose()
        for transport in self._plain.values():
            await transport.aclose()


async def _send_through(transport: httpx2.AsyncBaseTransport, exchange: Exchange) -> None:
    """Send one attempt through a transport of the application, with the endpoint's real URL."""
    try:
        response = await transport.handle_async_request(exchange.for_transport())
    except Exception as error:
        unsent = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout))
        exchange.failed(error, connected=not unsent)
        return
    exchange.answered(
        httpcore2.Response(
            response.status_code,
            headers=response.headers.raw,
            content=response.stream,
            extensions=response.extensions,
        )
    )


def _is_traced() -> bool:
    """Return whether OpenTelemetry's instrumentation wraps httpx2's transport."""
    return hasattr(httpx2.AsyncHTTPTransport.handle_async_request, "__wrapped__")


async def _ask_traced(exchange: Exchange, ask: Callable[[Exchange], Awaitable[None]]) -> None:
    """Send one attempt within a span of OpenTelemetry's instrumentation.

    The instrumentation wraps a method of httpx2's transport. A call of that method with our own
    connection pool creates the span, with the endpoint's real address, and the ``traceparent``.

    Args:
        exchange: The attempt.
        ask: Function that sends the request of the exchange, and sets the response or raises.
    """

    async def send(addressed: httpcore2.Request) -> Any:
        exchange.headers = list(addressed.headers)  # with those that the instrumentation has added
        await ask(exchange)
        return exchange.response

    transport_class: Any = httpx2.AsyncHTTPTransport
    transport = transport_class.__new__(transport_class)  # without a connection pool of its own
    transport._pool = SimpleNamespace(handle_async_request=send)
    try:
        await transport_class.handle_async_request(transport, exchange.for_transport())
    except httpx2.TransportError as error:
        failure = error.__cause__ or error  # httpcore's exception, which httpx2 has translated
        raise failure from failure.__cause__


async def _trace_losers(exchange: Exchange) -> None:
    """Make a span for each endpoint that lost the dial race of an exchange."""
    for member, fault in exchange.lost:
        lost = Exchange(exchange.state, exchange.failover, member, exchange.request)
        await _trace_failure(lost, httpcore2.ConnectError(str(fault)))


async def _trace_failure(exchange: Exchange, error: Exception) -> None:
    """Make a span for an attempt that got no connection."""

    async def fail(_: Exchange) -> None:
        raise error

    with contextlib.suppress(Exception):
        await _ask_traced(exchange, fail)


@dataclass(eq=False)
class _AsyncBody(httpx2.AsyncByteStream):
    """The body of an answer for the application; a broken body counts against the endpoint."""

    transport: AsyncFailoverTransport
    exchange: Exchange

    async def __aiter__(self) -> AsyncIterator[bytes]:
        exchange, began = self.exchange, self.exchange.state.clock()
        try:
            async for part in exchange.response.aiter_stream():
                yield part
        except Exception as error:
            if self.transport._connector.aborted:
                raise closed(exchange.request) from error
            raise exchange.body_failed(error, began) from error

    async def aclose(self) -> None:
        await close(self.exchange)
