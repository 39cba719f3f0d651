"""Attempts that go through another transport: the application's own, or OpenTelemetry's wrapper."""

from collections.abc import Awaitable, Callable
from types import SimpleNamespace
from typing import Any

import httpcore2
import httpx2

from ..attempt import Default, Exchange, at_endpoint, least


async def send_through(
    transport: httpx2.AsyncBaseTransport, exchange: Exchange, request: httpx2.Request
) -> None:
    """Send one attempt through a transport of the application, with the endpoint's real URL."""
    left = exchange.least(None)
    wanted = request.extensions.get("timeout") or {}
    exchange.pause = wanted.get("read", Default(left))
    connect = least(wanted.get("connect"), exchange.core.policy.connect_timeout)
    timeouts = {name: least(wanted.get(name), left) for name in ("pool", "write")}
    timeouts |= {"connect": min(connect, left), "read": least(exchange.pause, left)}
    exchange.timeouts = timeouts
    addressed = at_endpoint(request, exchange.member.target, timeouts)
    try:
        response = await transport.handle_async_request(addressed)
    except Exception as error:
        unsent = isinstance(error, (httpx2.ConnectError, httpx2.ConnectTimeout))
        exchange.failed(error, connected=not unsent)
        return
    exchange.timeouts["read"] = exchange.pause
    exchange.answered(
        httpcore2.Response(
            response.status_code,
            headers=response.headers.raw,
            content=response.stream,
            extensions=response.extensions,
        )
    )


def is_traced() -> bool:
    """Return whether OpenTelemetry's instrumentation wraps httpx2's transport."""
    return hasattr(httpx2.AsyncHTTPTransport.handle_async_request, "__wrapped__")


async def ask_traced(
    request: httpx2.Request,
    exchange: Exchange,
    ask: Callable[[httpx2.Request], Awaitable[httpcore2.Response]],
) -> httpcore2.Response:
    """Send one attempt within a span of OpenTelemetry's instrumentation.

    The instrumentation wraps a method of httpx2's transport. A call of that method with our own
    connection pool creates the span, with the endpoint's real address, and the ``traceparent``.

    Args:
        request: The request for the pool.
        exchange: The attempt.
        ask: Function that sends the request, and returns the answer or raises.
    """
    outcome: httpcore2.Response | Exception | None = None

    async def send(addressed: httpcore2.Request) -> httpcore2.Response:
        """Send the request with the headers that the instrumentation has added."""
        nonlocal outcome
        traced = httpx2.Request(
            request.method,
            request.url,
            headers=addressed.headers,
            stream=request.stream,
            extensions=request.extensions,
        )
        try:
            outcome = await ask(traced)
        except Exception as error:
            outcome = error
            raise
        return outcome

    transport_class: Any = httpx2.AsyncHTTPTransport
    transport = transport_class.__new__(transport_class)  # without a connection pool of its own
    transport._pool = SimpleNamespace(handle_async_request=send)
    addressed = at_endpoint(request, exchange.member.target, {})
    try:
        await transport_class.handle_async_request(transport, addressed)
    except Exception:
        if outcome is None:
            raise
    if isinstance(outcome, Exception):
        raise outcome
    assert outcome is not None  # noqa: S101 - the method returns the answer of ``send``
    return outcome
