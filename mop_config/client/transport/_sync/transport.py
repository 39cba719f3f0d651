"""The synchronous driver: httpx2 requests over the pool.

A warm request stays on its caller's thread from start to end. Dialling races endpoints
there too; only a request that has waited a second for its first byte gets a thread, in
which another endpoint is asked as well.
"""

import os
from collections.abc import Iterator
from functools import partial
from typing import Protocol, Unpack

import httpcore2
import httpx2

from ....net.faults import Fault
from ...keywords import TransportKeywords, check_keywords
from ...pool.failover import Attempt, Outcome, Verdict
from ...pool.session import ClientState, FailoverSession
from ...pool.target import Target
from .. import rewriting
from ..attempt import ROUTE, Moved
from ..connection_pools import Pools, tidy
from ..options import TransportOptions
from ..outcome import (
    Response,
    ResponseVerdict,
    answered,
    beaten,
    broke_off,
    broken,
    failed,
    is_of_http2,
    log_answer,
    named,
    of_rival,
    why,
)
from .asides import Aside
from .connect import ConnectPlan, FailoverBackend, OpenStreams, Overtaken, discard
from .proxies import ProxyBackend


class HasCore(Protocol):
    """What a transport needs of a manager."""

    @property
    def _state(self) -> ClientState:
        """The manager's pools."""


class FailoverTransport(httpx2.BaseTransport):
    """Sends requests to whichever endpoint of a manager is current, and to another if need be.

    A request for ``FailoverTransport.base_url`` goes to the pool; a request with a host of
    its own goes there, untouched.

    Args:
        manager: Whose endpoints to use.
        options: ``verify``, ``cert``, ``http1``, ``http2``, ``limits``, ``proxy``,
            ``trust_env``, ``local_address``, ``socket_options``: as for
            ``httpx2.HTTPTransport``.

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
        self._backend = FailoverBackend(self._options, core.resolver, core.policy.race_delay)
        # One for each endpoint: requests that hang at one must not keep others from the next.
        self._connections = Pools(core, self._new_pool)
        self._proxies: dict[str, httpcore2.ConnectionPool] = {}  # by proxy and endpoint
        self._plain: dict[str, httpx2.HTTPTransport] = {}  # to other hosts, by proxy
        self._lines = OpenStreams()

    def handle_request(self, request: httpx2.Request) -> httpx2.Response:
        """Send a request.

        Raises:
            NoEndpointAvailable: If no endpoint could be reached.
            httpx2.TransportError: What happened, where the request must not be repeated.
        """
        if self._pid != os.getpid():
            self._open()  # a fork must not share its parent's connections
        if not rewriting.is_for_the_pool(request):
            return self._plain_for(request).handle_request(request)
        for connection in self._connections.sweep(
            self._state.clock(), list(self._proxies.values())
        ):
            connection.close()
        shape = rewriting.shape_of(request)
        call = self._state.call(
            shape, rewriting.total_of(request, self._state.policy.total_timeout)
        )
        while isinstance(call.step, Attempt):
            outcome = self._attempt(call, call.step, request, hedged=shape.hedged)
            if outcome.good and rewriting.is_read_whole(request, shape, outcome.result.response):
                outcome = self._read_whole(outcome)
            elif outcome.status is not None and not outcome.good and shape.may_go_on(outcome):
                self._set_aside(outcome, request)
            if self._lines.closed and not outcome.good:
                if outcome.status is not None:
                    outcome.result.held.close()
                raise rewriting.closed(request)
            call.record(outcome)
        return self._conclude(call.step, request)

    def _new_pool(self) -> httpcore2.ConnectionPool:
        return _pool_class(self._options)(**self._options.for_pool(self._backend))

    def _attempt(
        self, call: FailoverSession, attempt: Attempt, request: httpx2.Request, *, hedged: bool
    ) -> Outcome:
        if attempt.discard is not None:
            attempt.discard.held.close()
        now = self._state.clock()
        send = partial(self._send, request) if hedged else None
        plan = ConnectPlan(call, attempt.member, now + attempt.seconds_left, send, race=True)
        plan.hedge_at = now + self._state.policy.hedge_delay
        plan.lines = self._lines
        try:
            return self._settled(plan, self._send(request, plan))
        finally:
            plan.finish()

    def _send(self, request: httpx2.Request, plan: ConnectPlan) -> Outcome:
        """Send a request once, and say what came of it, whatever that is."""
        plan.began = self._state.clock()
        token = ROUTE.set(plan)
        try:
            response = self._exchange(request, plan)
        except Overtaken as overtaken:
            losers = (*plan.losers, (plan.member, Fault.STALLED))
            return of_rival(overtaken.outcome, losers, plan.told)
        except Exception as error:
            if is_of_http2(error):
                self._connections.retire(plan.pool)
            return failed(self._state, plan, error)
        finally:
            ROUTE.reset(token)
            plan.forget_queues()
        return answered(self._state, plan, response)

    def _exchange(self, request: httpx2.Request, plan: ConnectPlan) -> httpcore2.Response:
        try:
            while True:
                try:
                    return self._request(request, plan)
                except Moved as moved:
                    plan.move(moved.won)
                except httpcore2.PoolTimeout:
                    if plan.deposit is not None:
                        # The server may be keeping a thread for it: it must not wait in a queue.
                        plan.take_deposit().close()
                        plan.race = True
                    elif not plan.leave_queue(self._state.clock(), self._state.policy.hedge_delay):
                        raise
        except BaseException:
            if plan.pool is not None:
                for connection in tidy(plan.pool):  # one of them may be this request's
                    connection.close()
            raise

    def _request(self, request: httpx2.Request, plan: ConnectPlan) -> httpcore2.Response:
        response: httpcore2.Response
        target = plan.member.target
        proxy = self._options.for_target(target)
        plan.apart = self._options.takes_another_way(self._shared, target)
        connect = self._state.policy.connect_timeout
        if proxy is None:
            queue = 0.0 if plan.deposit is not None else plan.queue_for(self._state.clock())
            timeouts = plan.timeouts = rewriting.timeouts_of(request, connect, queue)
            addressed = rewriting.to_endpoint(request, target, timeouts)
            pool = plan.pool = self._connections.to(plan.member.url, target)
            response = pool.handle_request(addressed)
            return response
        timeouts = plan.timeouts = rewriting.all_timeouts_of(
            request, connect, plan.until - self._state.clock()
        )
        timeouts["pool"] = min(timeouts["pool"], plan.queue_for(self._state.clock()))
        plan.pool = self._proxied(proxy, target)
        response = plan.pool.handle_request(rewriting.by_proxy(request, target, timeouts))
        return response

    def _settled(self, plan: ConnectPlan, outcome: Outcome) -> Outcome:
        """Settle on the rival's answer where ours is of no use and it is still asking."""
        rival, plan.rival = plan.rival, None
        if rival is None:
            return outcome
        theirs = None
        if not outcome.good:
            theirs = rival.wait(plan.until - self._state.clock())
        rival.abandon()
        if theirs is None:
            return outcome
        if theirs.good:
            discard(outcome)
            return of_rival(theirs, beaten(self._state, outcome), plan.told)
        discard(theirs)
        outcome.losers = (*outcome.losers, *beaten(self._state, theirs))
        return outcome

    def _read_whole(self, outcome: Outcome) -> Outcome:
        """Read the body as a part of the attempt: where it breaks off, another follows."""
        response = outcome.result.response
        outcome.result.bound_pauses(self._state.policy.body_pause)
        try:
            content = response.read()
        except Exception as error:
            return broken(self._state, outcome, error)
        finally:
            response.close()
        outcome.result = outcome.result._replace(content=content)
        return outcome

    def _set_aside(self, outcome: Outcome, request: httpx2.Request) -> None:
        """Keep a bad answer, which may be the last word, and read what comes of it at once."""
        outcome.result.bound_pauses(self._state.policy.body_pause)
        answer: ResponseVerdict = outcome.result
        aside = Aside(answer.response, request, answer.timeouts or {})
        outcome.result = answer._replace(aside=aside)
        aside.wait(self._state.policy.race_delay)

    def _conclude(self, verdict: Verdict, request: httpx2.Request) -> httpx2.Response:
        if verdict.discard is not None:
            verdict.discard.held.close()
        if verdict.answer is None:
            raise why(verdict, request)
        answer: ResponseVerdict = verdict.answer
        member, response, content = answer.member, answer.response, answer.content
        response.extensions["endpoint"] = member.url
        log_answer(request, response.status, member.url)
        body: httpx2.ByteStream | Aside | _Body
        if answer.aside is not None:
            body = answer.aside
        elif content is None:
            body = _Body(self._state, answer, request, self._lines)
        else:
            body = httpx2.ByteStream(content)
        return Response(
            response.status,
            headers=rewriting.from_endpoint(response.headers, member.target),
            stream=body,
            extensions=response.extensions,
        )

    def _plain_for(self, request: httpx2.Request) -> httpx2.HTTPTransport:
        proxy = self._options.proxy_for(request.url.scheme, request.url.host)
        key = "" if proxy is None else str(proxy.url)
        transport = self._plain.get(key)
        if transport is None:
            transport = httpx2.HTTPTransport(**self._options.for_httpx(proxy))
            transport = self._plain.setdefault(key, transport)
        return transport

    def _proxied(self, proxy: httpx2.Proxy, target: Target) -> httpcore2.ConnectionPool:
        key = f"{proxy.url} {target.key.decode()}"
        pool = self._proxies.get(key)
        if pool is None:
            backend = ProxyBackend(self._options, self._state.resolver, proxy.url.scheme)
            pool = _pool_class(self._options)(**self._options.for_proxy_pool(proxy, backend))
            pool = self._proxies.setdefault(key, pool)
        return pool

    def close(self) -> None:
        """Close every connection; requests that are under way end with an error."""
        self._lines.close()
        for pool in (*self._connections.all(), *self._proxies.values()):
            pool.close()
        for transport in self._plain.values():
            transport.close()


def _pool_class(options: TransportOptions) -> type[httpcore2.ConnectionPool]:
    """Choose the pool: that for HTTP/2 needs h2, which is an optional package."""
    if not options.http2:
        return httpcore2.ConnectionPool
    from .http2 import ThreadSafePool

    return ThreadSafePool


class _Body(httpx2.SyncByteStream):
    """The body of an answer; an endpoint that breaks off in it has failed."""

    def __init__(
        self,
        core: ClientState,
        answer: ResponseVerdict,
        request: httpx2.Request,
        lines: OpenStreams,
    ) -> None:
        self._lines = lines
        self._state = core
        self._answer = answer
        self._response: httpcore2.Response = answer.response
        self._request = request

    def __iter__(self) -> Iterator[bytes]:
        began = self._state.clock()
        try:
            yield from self._response.iter_stream()
        except Exception as error:
            if self._lines.closed:
                raise rewriting.closed(self._request) from error
            broke_off(self._state, self._answer, error, began)
            raise named(
                rewriting.translate(error, self._request), self._answer.member.url
            ) from error

    def close(self) -> None:
        self._response.close()
