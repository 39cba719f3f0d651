"""The asynchronous driver: httpx2 requests over the pool, on asyncio.

The same generator as in the synchronous driver decides; only waiting differs. A warm
request creates no task: a timer starts the rival of one that waits too long.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, cast

import httpcore2
import httpx2

from ..faults import Fault
from ..resolve import Resolver
from . import wire
from .core import Call, Core
from .dial import DialError, dial_async
from .failover import Attempt, Outcome, Race, Verdict
from .options import TransportOptions
from .outcomes import answered, broke_off, failed, why
from .pool import Member
from .route import ROUTE, Moved, Route
from .transport import HasCore


class _Stream(httpcore2.AsyncNetworkStream):
    """A connected stream, with TLS already where the endpoint has it."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self.read = stream.read  # type: ignore[method-assign]
        self.write = stream.write  # type: ignore[method-assign]
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> "_Stream":
        """Do nothing: the dial has done it, under the endpoint's own name."""
        return self


class _Backend(httpcore2.AsyncNetworkBackend):
    """Dials by the route of the request that needs a connection."""

    def __init__(self, options: TransportOptions, resolver: Resolver, race_delay: float) -> None:
        self._options = options
        self._resolver = resolver
        self._race_delay = race_delay

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> _Stream:
        """Connect to the route's endpoint, or to one that is ready before it.

        Raises:
            Moved: With the connection, where another endpoint was ready first.
            httpcore2.ConnectError: If none was.
        """
        route = cast(Route, ROUTE.get())
        route.dialled = True
        stream = route.take_deposit() or await self._race(route, timeout)
        route.ready = True
        return _Stream(stream)

    async def _race(self, route: Route, timeout: float | None) -> httpcore2.AsyncNetworkStream:
        race = Race(route.member, route.another, self._race_delay)
        try:
            won = await dial_async(race, self._options.for_dial(timeout), self._resolver)
        except DialError as error:
            route.unreachable(race.faults)
            raise httpcore2.ConnectError(str(route.fault)) from error
        if won.member is not route.member:
            raise Moved(won)
        route.losers = won.losers
        return won.connection


class AsyncFailoverTransport(httpx2.AsyncBaseTransport):
    """Sends requests to whichever endpoint of a manager is current, and to another if need be.

    The twin of ``FailoverTransport`` for ``httpx2.AsyncClient``, on asyncio.

    Args:
        manager: Whose endpoints to use.
        options: As for ``FailoverTransport``.

    Raises:
        ValueError: If certificates would not be verified.
    """

    base_url = wire.BASE_URL

    def __init__(self, manager: HasCore, **options: Any) -> None:
        self._core = manager.core
        self._manager = manager  # lives as long as its clients
        self._options = TransportOptions.of(**options)
        self._resolver = Resolver()
        self._open()

    def _open(self) -> None:
        options, limits = self._options, self._options.limits
        self._pid = os.getpid()
        self._connections = httpcore2.AsyncConnectionPool(
            ssl_context=options.tls,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=options.http1,
            http2=options.http2,
            network_backend=_Backend(options, self._resolver, self._core.policy.race_delay),
        )
        self._proxies: dict[str, httpcore2.AsyncConnectionPool] = {}  # to endpoints, by proxy
        self._plain: dict[str, httpx2.AsyncHTTPTransport] = {}  # to other hosts, by proxy

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request.

        Raises:
            NoEndpointAvailable: If no endpoint could be reached.
            httpx2.TransportError: What happened, where the request must not be repeated.
        """
        if self._pid != os.getpid():
            self._open()  # a fork must not share its parent's connections
        if not wire.is_for_the_pool(request):
            return await self._plain_for(request).handle_async_request(request)
        shape = wire.shape_of(request)
        call = self._core.call(shape)
        while isinstance(call.step, Attempt):
            call.went(await self._attempt(call, call.step, request, hedged=shape.hedged))
        return await self._conclude(call.step, request)

    async def _attempt(
        self, call: Call, attempt: Attempt, request: httpx2.Request, *, hedged: bool
    ) -> Outcome:
        if attempt.discard is not None:
            await attempt.discard.response.aclose()
        route = Route(call, attempt.member, race=True)
        try:
            if hedged:
                return await self._hedged(route, request, attempt.seconds_left)
            return await self._send(route, request, attempt.seconds_left)
        finally:
            if route.deposit is not None:
                await route.deposit.aclose()

    async def _hedged(self, route: Route, request: httpx2.Request, seconds: float) -> Outcome:
        """Send a request; ask another endpoint besides when the answer takes too long."""
        rival = _Rival(
            self._core,
            route,
            lambda other: self._send(other, request, seconds),
        )
        try:
            outcome = await self._send(route, request, seconds)
        except asyncio.CancelledError:
            overtaken = rival.has_overtaken()
            if overtaken is None:
                raise
            overtaken.losers = (*route.losers, (route.member, Fault.STALLED), *overtaken.losers)
            return overtaken
        else:
            return await rival.after(outcome)
        finally:
            await rival.abandon()

    async def _send(self, route: Route, request: httpx2.Request, seconds: float) -> Outcome:
        """Send a request once, and say what came of it, whatever that is."""
        began = self._core.clock()
        token = ROUTE.set(route)
        try:
            response = await self._exchange(route, request, seconds)
        except Exception as error:
            return failed(self._core, route, error, began)
        finally:
            ROUTE.reset(token)
        return answered(self._core, route.member, response, began, route.losers)

    async def _exchange(
        self, route: Route, request: httpx2.Request, seconds: float
    ) -> httpcore2.Response:
        try:
            return await self._request(route, request, seconds)
        except Moved as moved:
            route.move(moved.won)
            return await self._request(route, request, seconds)

    async def _request(
        self, route: Route, request: httpx2.Request, seconds: float
    ) -> httpcore2.Response:
        target = route.member.target
        timeouts = wire.timeouts_of(request, self._core.policy.connect_timeout, seconds)
        proxy = self._options.for_target(target)
        if proxy is None:
            addressed = wire.to_endpoint(request, target, timeouts)
            return await self._connections.handle_async_request(addressed)
        addressed = wire.by_proxy(request, target, timeouts)
        return await self._proxied(proxy).handle_async_request(addressed)

    async def _conclude(self, verdict: Verdict, request: httpx2.Request) -> httpx2.Response:
        if verdict.discard is not None:
            await verdict.discard.response.aclose()
        if verdict.answer is None:
            raise why(verdict, request)
        member, response = verdict.answer
        return httpx2.Response(
            response.status,
            headers=wire.from_endpoint(response.headers, member.target),
            stream=_Body(self._core, member, response, request),
            extensions={**response.extensions, "endpoint": member.url},
        )

    def _plain_for(self, request: httpx2.Request) -> httpx2.AsyncHTTPTransport:
        proxy = self._options.proxy_for(request.url.scheme, request.url.host)
        key = "" if proxy is None else str(proxy.url)
        if key not in self._plain:
            self._plain[key] = httpx2.AsyncHTTPTransport(**self._options.for_httpx(proxy))
        return self._plain[key]

    def _proxied(self, proxy: httpx2.Proxy) -> httpcore2.AsyncConnectionPool:
        key = str(proxy.url)
        if key not in self._proxies:
            self._proxies[key] = self._options.async_proxy_pool(proxy)
        return self._proxies[key]

    async def aclose(self) -> None:
        """Close every connection."""
        await self._connections.aclose()
        for pool in self._proxies.values():
            await pool.aclose()
        for transport in self._plain.values():
            await transport.aclose()


class _Rival:
    """The same request, sent to another endpoint when the first takes too long."""

    def __init__(
        self, core: Core, route: Route, send: Callable[[Route], Coroutine[Any, Any, Outcome]]
    ) -> None:
        self._core = core
        self._route = route
        self._send = send
        self._asker = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancellations = self._asker.cancelling()
        self._task: asyncio.Task[Outcome] | None = None
        self._asking = True  # whether the first request still waits
        self._overtaking = False
        loop = asyncio.get_running_loop()
        self._timer = loop.call_later(core.policy.hedge_delay, self._start)

    def _start(self) -> None:
        member = self._route.call.rival(self._core.clock())
        if member is None:
            return
        route = Route(self._route.call, member, race=False)
        self._task = asyncio.get_running_loop().create_task(self._send(route))
        self._task.add_done_callback(self._arrived)

    def _arrived(self, task: "asyncio.Task[Outcome]") -> None:
        if self._asking and not task.cancelled() and task.result().good:
            self._overtaking = True
            self._asker.cancel()

    def has_overtaken(self) -> Outcome | None:
        """Give the rival's answer if the asker was cancelled for it, and for nothing else."""
        self._asking = False
        if not self._overtaking or self._asker.uncancel() > self._cancellations:
            return None
        task, self._task = self._task, None
        return task.result() if task is not None else None

    async def after(self, outcome: Outcome) -> Outcome:
        """Settle on an outcome, now that the first request has one."""
        self._asking = False
        if outcome.fault is None or self._task is None:
            return outcome
        # The rival is still asking: its answer is as good as ours would have been.
        theirs = await self._task
        if theirs.good:
            self._task = None
            theirs.losers = (*outcome.losers, (outcome.member, outcome.fault), *theirs.losers)
            return theirs
        fault = theirs.fault or Fault.BAD_STATUS
        outcome.losers = (*outcome.losers, (theirs.member, fault))
        return outcome

    async def abandon(self) -> None:
        """Let go of it, whatever it is doing."""
        self._timer.cancel()
        self._asking = False
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            outcome = await task
            if outcome.status is not None:
                await outcome.result.response.aclose()


class _Body(httpx2.AsyncByteStream):
    """The body of an answer; an endpoint that breaks off in it has failed."""

    def __init__(
        self, core: Core, member: Member, response: httpcore2.Response, request: httpx2.Request
    ) -> None:
        self._core = core
        self._member = member
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        began = self._core.clock()
        try:
            async for part in self._response.aiter_stream():
                yield part
        except Exception as error:
            broke_off(self._core, self._member, error, began)
            raise wire.translate(error, self._request) from error

    async def aclose(self) -> None:
        await self._response.aclose()
