"""The asynchronous driver: httpx2 requests over the pool, on asyncio.

The same generator as in the synchronous driver decides; only waiting differs. A warm
request creates no task: a timer starts the rival of one that waits too long.
"""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, Unpack, cast

import httpcore2
import httpx2

from ....net.faults import Fault
from ...keywords import TransportKeywords, check_keywords
from ...pool.failover import Attempt, Outcome, Verdict
from ...pool.session import ClientState, FailoverSession
from ...pool.target import Target
from .. import rewriting
from .._sync.transport import HasCore
from ..attempt import ROUTE, Moved
from ..connection_pools import Pools, tidy
from ..options import TransportOptions
from ..outcome import (
    Response,
    ResponseVerdict,
    answered,
    broke_off,
    broken,
    failed,
    is_of_http2,
    log_answer,
    named,
    of_rival,
    why,
)
from .asides import AsyncAside
from .connect import AsyncConnectPlan, AsyncFailoverBackend, AsyncHedge
from .proxies import AsyncProxyBackend


class AsyncFailoverTransport(httpx2.AsyncBaseTransport):
    """Sends requests to whichever endpoint of a manager is current, and to another if need be.

    The twin of ``FailoverTransport`` for ``httpx2.AsyncClient``, on asyncio.

    Args:
        manager: Whose endpoints to use.
        options: As for ``FailoverTransport``.

    Raises:
        ValueError: If certificates would not be verified.
    """

    base_url = rewriting.BASE_URL

    def __init__(self, manager: HasCore, **options: Unpack[TransportKeywords]) -> None:
        check_keywords(f"{type(self).__name__}()", options, TransportKeywords)
        self._state = manager._state
        self._manager = manager  # lives as long as its clients
        self._options = TransportOptions.of(**options)
        # The way that the manager's checks take, by which the pool judges its endpoints.
        self._shared: TransportOptions = getattr(manager, "_network_options", self._options)
        self._open()

    def _open(self) -> None:
        self._pid = os.getpid()
        core = self._state
        self._backend = AsyncFailoverBackend(self._options, core.resolver, core.policy.race_delay)
        # One for each endpoint: requests that hang at one must not keep others from the next.
        self._connections = Pools(core, self._new_pool)
        self._proxies: dict[str, httpcore2.AsyncConnectionPool] = {}  # by proxy and endpoint
        self._plain: dict[str, httpx2.AsyncHTTPTransport] = {}  # to other hosts, by proxy
        self._tasks: set[asyncio.Task[Any]] = set()  # those that wait for an answer
        self._ending: list[Any] = []  # connections to close
        self._ended: set[asyncio.Task[Any]] = set()  # those that ``aclose`` has called off
        self._closed = False

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request.

        Raises:
            NoEndpointAvailable: If no endpoint could be reached.
            httpx2.TransportError: What happened, where the request must not be repeated.
        """
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        cancellations = task.cancelling()
        self._tasks.add(task)
        try:
            return await self._handle(request)
        except asyncio.CancelledError:
            if task not in self._ended or task.uncancel() > cancellations:
                raise
            raise rewriting.closed(request) from None
        finally:
            self._tasks.discard(task)
            self._ended.discard(task)

    async def _handle(self, request: httpx2.Request) -> httpx2.Response:
        if self._pid != os.getpid():
            self._open()  # a fork must not share its parent's connections
        if not rewriting.is_for_the_pool(request):
            return await self._plain_for(request).handle_async_request(request)
        swept = self._connections.sweep(self._state.clock(), list(self._proxies.values()))
        if swept or self._ending:
            await self._end(swept)
        shape = rewriting.shape_of(request)
        call = self._state.call(
            shape, rewriting.total_of(request, self._state.policy.total_timeout)
        )
        while isinstance(call.step, Attempt):
            outcome = await self._attempt(call, call.step, request, hedged=shape.hedged)
            if outcome.good and rewriting.is_read_whole(request, shape, outcome.result.response):
                outcome = await self._read_whole(outcome)
            elif outcome.status is not None and not outcome.good and shape.may_go_on(outcome):
                await self._set_aside(outcome, request)
            call.record(outcome)
        return await self._conclude(call.step, request)

    def _new_pool(self) -> httpcore2.AsyncConnectionPool:
        return httpcore2.AsyncConnectionPool(**self._options.for_pool(self._backend))

    async def _attempt(
        self, call: FailoverSession, attempt: Attempt, request: httpx2.Request, *, hedged: bool
    ) -> Outcome:
        if attempt.discard is not None:
            await attempt.discard.held.aclose()
        now = self._state.clock()
        route = AsyncConnectPlan(call, attempt.member, now + attempt.seconds_left, race=True)
        route.hedge_at = now + self._state.policy.hedge_delay
        if hedged:
            route.rival = AsyncHedge(self._state, route, partial(self._send, request))
        try:
            outcome = await self._send(request, route)
            return outcome if route.rival is None else await route.rival.settled(outcome)
        finally:
            if route.rival is not None:
                await route.rival.abandon()
            if route.deposit is not None:
                await route.deposit.aclose()

    async def _send(self, request: httpx2.Request, route: "AsyncConnectPlan") -> Outcome:
        """Send a request once, and say what came of it, whatever that is."""
        route.began = self._state.clock()
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
            if is_of_http2(error):
                self._connections.retire(route.pool)
            return failed(self._state, route, error)
        finally:
            ROUTE.reset(token)
            route.forget_queues()
        return answered(self._state, route, response)

    async def _exchange(
        self, request: httpx2.Request, route: "AsyncConnectPlan"
    ) -> httpcore2.Response:
        try:
            while True:
                try:
                    return await self._request(request, route)
                except Moved as moved:
                    route.move(moved.won)
                except httpcore2.PoolTimeout:
                    if route.deposit is not None:
                        # The server may be keeping a thread for it: it must not wait in a queue.
                        await route.take_deposit().aclose()
                        route.race = True
                    elif not route.leave_queue(self._state.clock(), self._state.policy.hedge_delay):
                        raise
        except BaseException:
            if route.pool is not None:
                await self._end(tidy(route.pool))  # one of them may be this request's
            raise

    async def _end(self, connections: list[Any]) -> None:
        """Close connections; where this task is cancelled, the next request closes the rest."""
        self._ending.extend(connections)
        while self._ending:
            await self._ending.pop().aclose()

    async def _request(
        self, request: httpx2.Request, route: "AsyncConnectPlan"
    ) -> httpcore2.Response:
        response: httpcore2.Response
        target = route.member.target
        proxy = self._options.for_target(target)
        route.apart = self._options.takes_another_way(self._shared, target)
        connect = self._state.policy.connect_timeout
        if proxy is None:
            queue = 0.0 if route.deposit is not None else route.queue_for(self._state.clock())
            timeouts = route.timeouts = rewriting.timeouts_of(request, connect, queue)
            addressed = rewriting.to_endpoint(request, target, timeouts)
            pool = route.pool = self._connections.to(route.member.url, target)
            response = await pool.handle_async_request(addressed)
            return response
        timeouts = route.timeouts = rewriting.all_timeouts_of(
            request, connect, route.until - self._state.clock()
        )
        addressed = rewriting.by_proxy(request, target, timeouts)
        timeouts["pool"] = min(timeouts["pool"], route.queue_for(self._state.clock()))
        route.pool = self._proxied(proxy, target)
        response = await route.pool.handle_async_request(addressed)
        return response

    async def _read_whole(self, outcome: Outcome) -> Outcome:
        """Read the body as a part of the attempt: where it breaks off, another follows."""
        response = outcome.result.response
        outcome.result.bound_pauses(self._state.policy.body_pause)
        try:
            content = await response.aread()
        except Exception as error:
            return broken(self._state, outcome, error)
        finally:
            await response.aclose()
        outcome.result = outcome.result._replace(content=content)
        return outcome

    async def _set_aside(self, outcome: Outcome, request: httpx2.Request) -> None:
        """Keep a bad answer, which may be the last word, and read what comes of it at once."""
        outcome.result.bound_pauses(self._state.policy.body_pause)
        answer: ResponseVerdict = outcome.result
        aside = AsyncAside(answer.response, request)
        outcome.result = answer._replace(aside=aside)
        await aside.wait(self._state.policy.race_delay)

    async def _conclude(self, verdict: Verdict, request: httpx2.Request) -> httpx2.Response:
        if verdict.discard is not None:
            await verdict.discard.held.aclose()
        if verdict.answer is None:
            raise why(verdict, request)
        answer: ResponseVerdict = verdict.answer
        member, response, content = answer.member, answer.response, answer.content
        response.extensions["endpoint"] = member.url
        log_answer(request, response.status, member.url)
        body: httpx2.ByteStream | AsyncAside | _AsyncBody
        if answer.aside is not None:
            body = answer.aside
        elif content is None:
            body = _AsyncBody(self._state, answer, request, lambda: self._closed)
        else:
            body = httpx2.ByteStream(content)
        return Response(
            response.status,
            headers=rewriting.from_endpoint(response.headers, member.target),
            stream=body,
            extensions=response.extensions,
        )

    def _plain_for(self, request: httpx2.Request) -> httpx2.AsyncHTTPTransport:
        proxy = self._options.proxy_for(request.url.scheme, request.url.host)
        key = "" if proxy is None else str(proxy.url)
        if key not in self._plain:
            self._plain[key] = httpx2.AsyncHTTPTransport(**self._options.for_httpx(proxy))
        return self._plain[key]

    def _proxied(self, proxy: httpx2.Proxy, target: Target) -> httpcore2.AsyncConnectionPool:
        key = f"{proxy.url} {target.key.decode()}"
        if key not in self._proxies:
            backend = AsyncProxyBackend(self._options, self._state.resolver, proxy.url.scheme)
            self._proxies[key] = self._options.async_proxy_pool(proxy, backend)
        return self._proxies[key]

    async def aclose(self) -> None:
        """Close every connection; requests that are under way end with an error."""
        self._closed = True
        for task in self._tasks - {asyncio.current_task()} - self._ended:
            self._ended.add(task)
            task.cancel()
        for pool in (*self._connections.all(), *self._proxies.values()):
            await pool.aclose()
        await self._end([])
        for transport in self._plain.values():
            await transport.aclose()


class _AsyncBody(httpx2.AsyncByteStream):
    """The body of an answer; an endpoint that breaks off in it has failed."""

    def __init__(
        self,
        core: ClientState,
        answer: ResponseVerdict,
        request: httpx2.Request,
        closed: Callable[[], bool],
    ) -> None:
        self._closed = closed
        self._state = core
        self._answer = answer
        self._response: httpcore2.Response = answer.response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        began = self._state.clock()
        try:
            async for part in self._response.aiter_stream():
                yield part
        except Exception as error:
            if self._closed():
                raise rewriting.closed(self._request) from error
            broke_off(self._state, self._answer, error, began)
            raise named(
                rewriting.translate(error, self._request), self._answer.member.url
            ) from error

    async def aclose(self) -> None:
        await self._response.aclose()
