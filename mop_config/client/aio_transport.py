"""The asynchronous driver: httpx2 requests over the pool, on asyncio.

The same generator as in the synchronous driver decides; only waiting differs. A warm
request creates no task: a timer starts the rival of one that waits too long.
"""

import asyncio
import contextlib
import os
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from functools import partial
from typing import Any, cast

import httpcore2
import httpx2

from ..faults import Fault
from ..resolve import Resolver
from . import wire
from .core import Call, Core
from .dial import DialError, dial_async
from .failover import Attempt, Outcome, Race, Verdict
from .member import Member
from .options import TransportOptions
from .outcomes import Answer, answered, beaten, broke_off, broken, failed, of_rival, why
from .route import ROUTE, Moved, Route
from .transport import HasCore


class _Stream(httpcore2.AsyncNetworkStream):
    """A connected stream, with TLS already where the endpoint has it."""

    def __init__(self, stream: httpcore2.AsyncNetworkStream) -> None:
        self._stream = stream
        tls: ssl.SSLObject | None = stream.get_extra_info("ssl_object")
        self._shared = tls is not None and tls.selected_alpn_protocol() == "h2"
        self._turn = asyncio.Lock()
        self.aclose = stream.aclose  # type: ignore[method-assign]
        self.get_extra_info = stream.get_extra_info  # type: ignore[method-assign]

    # These two give the awaitable on: one coroutine less to go through.
    def read(self, max_bytes: int, timeout: float | None = None) -> Awaitable[bytes]:  # type: ignore[override]
        """Read what is there, or wait for it."""
        route: _Route | None = ROUTE.get()
        if route is not None:
            timeout = route.least(timeout)
        return self._stream.read(max_bytes, timeout)

    def write(self, buffer: bytes, timeout: float | None = None) -> Awaitable[None]:  # type: ignore[override]
        """Write everything."""
        route: _Route | None = ROUTE.get()
        if route is not None:
            timeout = route.least(timeout)
            if route.rival is not None:
                route.rival.arm()
            if route.deposit is not None:
                return self._write_instead(route.take_deposit(), buffer, timeout)
        if self._shared and buffer:
            # One request that is called off must not leave half a frame to the others.
            return asyncio.shield(self._write_whole(buffer, timeout))
        return self._stream.write(buffer, timeout)

    async def _write_instead(
        self, other: httpcore2.AsyncNetworkStream, buffer: bytes, timeout: float | None
    ) -> None:
        """Write; the server may be waiting on the connection that a race has left."""
        await other.aclose()
        await self.write(buffer, timeout)

    async def _write_whole(self, buffer: bytes, timeout: float | None) -> None:
        async with self._turn:
            await self._stream.write(buffer, timeout)

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
        route: _Route = ROUTE.get()
        stream = route.take_deposit()
        if stream is None:
            route.look_around()
        route.dialled = True
        if stream is None:
            stream = await self._race(route, timeout)
        route.ready = True
        return _Stream(stream)

    async def _race(self, route: Route, timeout: float | None) -> httpcore2.AsyncNetworkStream:
        race = Race(route.member, route.another, self._race_delay)
        try:
            won = await dial_async(
                race, self._options.for_dial(timeout, route.until), self._resolver
            )
        except DialError as error:
            route.unreachable(race.faults)
            raise httpcore2.ConnectError(str(route.fault)) from error
        route.finished(won, race.faults)
        if won.member is not route.member:
            raise Moved(won)
        route.losers += won.losers
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
        self._open()

    def _open(self) -> None:
        options, limits = self._options, self._options.limits
        self._pid = os.getpid()
        resolver = Resolver()  # a fork must not wait for its parent's look-ups
        self._connections = httpcore2.AsyncConnectionPool(
            ssl_context=options.tls,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            http1=options.http1,
            http2=options.http2,
            network_backend=_Backend(options, resolver, self._core.policy.race_delay),
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
            outcome = await self._attempt(call, call.step, request, hedged=shape.hedged)
            if outcome.good and wire.is_read_whole(request, shape, outcome.result.response):
                outcome = await self._read_whole(outcome)
            elif outcome.status is not None and not outcome.good and shape.may_move:
                await self._set_aside(outcome)
            call.went(outcome)
        return await self._conclude(call.step, request)

    async def _attempt(
        self, call: Call, attempt: Attempt, request: httpx2.Request, *, hedged: bool
    ) -> Outcome:
        if attempt.discard is not None:
            await attempt.discard.response.aclose()
        route = _Route(call, attempt.member, self._core.clock() + attempt.seconds_left, race=True)
        if hedged:
            route.rival = _Rival(self._core, route, partial(self._send, request))
        try:
            outcome = await self._send(request, route)
            return outcome if route.rival is None else await route.rival.settled(outcome)
        finally:
            if route.rival is not None:
                await route.rival.abandon()
            if route.deposit is not None:
                await route.deposit.aclose()

    async def _send(self, request: httpx2.Request, route: "_Route") -> Outcome:
        """Send a request once, and say what came of it, whatever that is."""
        route.began = self._core.clock()
        token = ROUTE.set(route)
        try:
            response = await self._exchange(request, route)
        except asyncio.CancelledError:
            overtaken = None if route.rival is None else route.rival.has_overtaken()
            if overtaken is None:
                raise
            losers = (*route.losers, (route.member, Fault.STALLED))
            return of_rival(overtaken, losers, route.told)
        except Exception as error:
            return failed(self._core, route, error)
        finally:
            ROUTE.reset(token)
        return answered(self._core, route, response)

    async def _exchange(self, request: httpx2.Request, route: "_Route") -> httpcore2.Response:
        while True:
            try:
                return await self._request(request, route)
            except Moved as moved:
                route.move(moved.won)
            except httpcore2.PoolTimeout:
                if route.deposit is None:
                    raise
                # The server may be keeping a thread for it: it must not wait in a queue.
                await route.take_deposit().aclose()
                route.race = True

    async def _request(self, request: httpx2.Request, route: "_Route") -> httpcore2.Response:
        target = route.member.target
        proxy = self._options.for_target(target)
        connect = self._core.policy.connect_timeout
        if proxy is None:
            queue = 0.0 if route.deposit is not None else route.until - route.began
            timeouts = wire.timeouts_of(request, connect, queue)
            addressed = wire.to_endpoint(request, target, timeouts)
            return await self._connections.handle_async_request(addressed)
        timeouts = wire.all_timeouts_of(request, connect, route.until - self._core.clock())
        addressed = wire.by_proxy(request, target, timeouts)
        if route.rival is not None:
            route.rival.arm()
        return await self._proxied(proxy).handle_async_request(addressed)

    async def _read_whole(self, outcome: Outcome) -> Outcome:
        """Read the body as a part of the attempt: where it breaks off, another follows."""
        response = outcome.result.response
        try:
            content = await response.aread()
        except Exception as error:
            return broken(self._core, outcome, error)
        finally:
            await response.aclose()
        outcome.result = Answer(outcome.member, response, content)
        return outcome

    async def _set_aside(self, outcome: Outcome) -> None:
        """Read a bad answer: it may be the last word, and others need its connection."""
        response, content = outcome.result.response, bytearray()
        until = self._core.clock() + self._core.policy.race_delay
        # Whatever breaks off here, what there is of it will do.
        with contextlib.suppress(Exception):
            async with contextlib.aclosing(response):
                async for part in response.aiter_stream():
                    content += part
                    if len(content) > wire.SMALL or self._core.clock() > until:
                        break
        outcome.result = Answer(outcome.member, response, bytes(content))

    async def _conclude(self, verdict: Verdict, request: httpx2.Request) -> httpx2.Response:
        if verdict.discard is not None:
            await verdict.discard.response.aclose()
        if verdict.answer is None:
            raise why(verdict, request)
        member, response, content = verdict.answer
        response.extensions["endpoint"] = member.url
        body: httpx2.ByteStream | _Body
        if content is None:
            body = _Body(self._core, member, response, request)
        else:
            body = httpx2.ByteStream(content)
        return httpx2.Response(
            response.status,
            headers=wire.from_endpoint(response.headers, member.target),
            stream=body,
            extensions=response.extensions,
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


class _Route(Route):
    """A route that may get a rival, which is kept with it."""

    rival: "_Rival | None" = None


class _Rival:
    """The same request, sent to another endpoint when the first takes too long.

    Args:
        core: Whose pools to use.
        route: That of the first request.
        send: Sends the same request on another route.
    """

    def __init__(
        self, core: Core, route: _Route, send: Callable[[_Route], Coroutine[Any, Any, Outcome]]
    ) -> None:
        self._core = core
        self._route = route
        self._send = send
        self._asker = cast("asyncio.Task[Any]", asyncio.current_task())
        self._cancellations = self._asker.cancelling()
        self._task: asyncio.Task[Outcome] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._asking = True  # whether the first request still waits
        self._overtaking = False

    def arm(self) -> None:
        """Take note that the first request goes out now: from here on it may be too slow."""
        if self._timer is None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self._core.policy.hedge_delay, self._start)

    def _start(self) -> None:
        call = self._route.call
        member = call.rival(self._core.clock())
        if member is None:
            return
        route = _Route(call, member, self._route.until, race=False)
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

    async def settled(self, outcome: Outcome) -> Outcome:
        """Settle on an outcome, now that the first request has one."""
        self._asking = False
        if self._overtaking:  # a time-out came first
            self._asker.uncancel()
        if self._task is None or (outcome.good and not self._task.done()):
            return outcome
        # While the rival is asking, its answer is as good as ours would have been.
        await asyncio.wait([self._task])
        theirs, self._task = self._task.result(), None
        if theirs.good and not outcome.good:
            await _discard(outcome)
            return of_rival(theirs, beaten(self._core, outcome), self._route.told)
        await _discard(theirs)
        if not theirs.good:
            outcome.losers = (*outcome.losers, *beaten(self._core, theirs))
        return outcome

    async def abandon(self) -> None:
        """Let go of it, whatever it is doing."""
        self._asking = False
        if self._timer is not None:
            self._timer.cancel()
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])  # which a cancellation of our own interrupts
        if not task.cancelled():
            await _discard(task.result())


async def _discard(outcome: Outcome) -> None:
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
