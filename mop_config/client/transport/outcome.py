"""Outcomes: what the answers and exceptions of httpcore mean for the pool and the application."""

import logging
from collections.abc import Iterable
from typing import Any, NamedTuple

import httpcore2
import httpx2

from ...errors import MopConfigError
from ...net.faults import Fault, fault_of
from ..pool.failover import FailedAttempt, Outcome, Verdict
from ..pool.policy import BUSY_STATUS
from ..pool.session import ClientState
from . import rewriting
from .attempt import Exchange, Losers
from .dial import DialError

logger = logging.getLogger(__name__)

_FROM_THE_WIRE = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
    httpx2.TransportError,  # of the application's own transport
)


class NoEndpointAvailable(httpx2.TransportError, MopConfigError):  # noqa: N818 - the contract's
    """No endpoint could be reached, or the list is empty.

    A test may raise it too: ``NoEndpointAvailable([("https://a.example", "refused", 0.1)])``.

    Args:
        attempts: URL, fault and seconds of each failed attempt, in order.
        request: The request, or None.

    Attributes:
        attempts: The failed attempts in order: ``url``, ``fault`` and ``seconds`` of each.
    """

    def __init__(
        self,
        attempts: Iterable[tuple[str, str, float]] = (),
        request: httpx2.Request | None = None,
    ) -> None:
        self.attempts = tuple(FailedAttempt(url, Fault(fault), s) for url, fault, s in attempts)
        tried = "; ".join(f"{t.url}: {t.fault} after {t.seconds:.3f} s" for t in self.attempts)
        super().__init__(
            f"no endpoint is available: {tried or 'the list is empty'}", request=request
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Rebuild the exception from its attempts: ``args`` holds the message made of them."""
        return type(self), (self.attempts,), self.__dict__


class Response(httpx2.Response):
    """httpx2's response, whose errors name the endpoint that gave it."""

    def raise_for_status(self) -> httpx2.Response:
        """Raise the error of a bad status; see ``httpx2.Response``."""
        try:
            return super().raise_for_status()
        except httpx2.HTTPStatusError as error:
            if endpoint := self.extensions.get("endpoint"):
                error.add_note(f"answered by {endpoint}")
            raise


class ResponseVerdict(NamedTuple):
    """An answer, the exchange that brought it, and its body if that has been read already."""

    exchange: Exchange
    response: httpcore2.Response
    content: bytes | None = None

    def bound_pauses(self, seconds: float) -> None:
        """Bound the time-out for each read of the body, unless the caller has set one."""
        timeouts = self.exchange.timeouts
        if isinstance(timeouts["read"], rewriting.Default):
            timeouts["read"] = min(timeouts["read"], seconds)


def connect_message(fault: Fault | None, error: DialError) -> str:
    """Return why no connection could be made; for a lack of resources, in the system's words."""
    return str(error.__cause__ if fault is Fault.OURS and error.__cause__ else fault)


def answered(core: ClientState, exchange: Exchange, response: httpcore2.Response) -> Outcome:
    """Return the outcome of an exchange that brought an answer."""
    busy = None
    if response.status in BUSY_STATUS:
        after = next((v for k, v in response.headers if k.lower() == b"retry-after"), None)
        text = None if after is None else after.decode("latin-1")
        busy = core.policy.busy_for(response.status, text, core.wall_clock())
    return Outcome(
        exchange.member,
        core.clock(),
        exchange.began,
        status=response.status,
        busy=busy,
        result=ResponseVerdict(exchange, response),
        first_byte=core.clock() - exchange.asked,
        losers=exchange.losers,
        losers_recorded=exchange.losers_recorded,
        bad_status=core.policy.bad_status,
        apart=exchange.apart,
    )


def failed(core: ClientState, exchange: Exchange, error: Exception) -> Outcome:
    """Return the outcome of an exchange that ended with an exception."""
    connected = exchange.connection is not None
    of_http2 = is_of_http2(error)
    if of_http2:
        connected, fault = _may_have_been_sent(error), Fault.PROTOCOL
    else:
        fault = exchange.fault or _fault_of(error, connecting=not connected)
    return Outcome(
        exchange.member,
        core.clock(),
        exchange.began,
        fault=fault,
        sent=connected and fault is not Fault.POOL_TIMEOUT,
        reused=of_http2 or exchange.reused,
        result=error,
        losers=exchange.losers,
        losers_recorded=exchange.losers_recorded,
        apart=exchange.apart,
    )


def broken(core: ClientState, outcome: Outcome, error: Exception) -> Outcome:
    """Return the outcome of an exchange whose answer broke off in its body."""
    return Outcome(
        outcome.member,
        core.clock(),
        outcome.began,
        fault=_fault_of(error, connecting=False),
        result=error,
        losers=outcome.losers,
        losers_recorded=outcome.losers_recorded,
        apart=outcome.apart,
    )


def settle(exchange: Exchange, first: Outcome | None, second: Outcome | None = None) -> Outcome:
    """Choose between the outcomes of a hedge; the other one becomes a loser.

    Args:
        exchange: The first request.
        first: Its outcome, or None while it has none.
        second: The outcome of the second request, or None.
    """
    core = exchange.session.core
    if second is not None and second.good and not (first is not None and first.good):
        losers = _overtaken(core, exchange) if first is None else _beaten(core, first)
        second.losers = (*losers, *second.losers)
        second.losers_recorded = exchange.losers_recorded
        return second
    if first is None:
        raise RuntimeError("neither request of a hedge has an outcome")
    if second is not None and not second.good:
        first.losers = (*first.losers, *_beaten(core, second))
    return first


def _overtaken(core: ClientState, exchange: Exchange) -> Losers:
    """Return the losers that a request stands for whose hedge had the first answer."""
    if exchange.apart:
        return exchange.losers
    with core:
        counts = core.api.overtaken(exchange.member, exchange.hedge_after, core.clock())
    stalled = ((exchange.member, Fault.STALLED),) if counts else ()
    return (*exchange.losers, *stalled)


def _beaten(core: ClientState, outcome: Outcome) -> Losers:
    """Return the losers that an unused outcome stands for."""
    fault = outcome.fault or Fault.BAD_STATUS
    if outcome.busy is not None:
        fault = Fault.BUSY
    if outcome.busy is not None and not outcome.apart:
        with core:
            core.api.busy(outcome.member, outcome.busy, outcome.now)
    return (*outcome.losers, (outcome.member, fault))


#: Exceptions of h2 for a request of which nothing was sent.
_UNSENT = frozenset({"TooManyStreamsError", "NoAvailableStreamIDError", "StreamIDTooLowError"})
_REFUSED_STREAM = 7  # RFC 9113: it has not been processed


def is_of_http2(error: Exception) -> bool:
    """Return whether an HTTP/2 connection can take no more requests: its end, or no stream left.

    A server may end a connection by GOAWAY at any time, and streams that were given up count
    until the server has ended them. So the error says something about the connection, which
    other requests have used, and nothing about the endpoint.
    """
    cause = error.args[0] if error.args else None
    if isinstance(error, httpcore2.LocalProtocolError):
        return type(cause).__module__.startswith("h2.")
    return type(cause).__name__ in {"ConnectionTerminated", "StreamReset"}


def _may_have_been_sent(error: Exception) -> bool:
    cause = error.args[0] if error.args else None
    if getattr(cause, "error_code", None) == _REFUSED_STREAM:
        return False
    return type(cause).__name__ not in _UNSENT and "SEND_HEADERS" not in str(cause)


def _fault_of(error: Exception, *, connecting: bool) -> Fault:
    if isinstance(error, httpx2.UnsupportedProtocol) or not isinstance(error, _FROM_THE_WIRE):
        return Fault.OURS  # of the application's own body, or of a mistake in it
    return fault_of(error, connecting=connecting)


def broke_off(core: ClientState, exchange: Exchange, error: Exception, began: float) -> None:
    """Record that an answer broke off in its body, unless the client has a proxy of its own."""
    if exchange.apart:
        return
    with core:
        core.api.failed(exchange.member, fault_of(error, connecting=False), core.clock(), began)


def why(verdict: Verdict, request: httpx2.Request) -> Exception:
    """Return the exception with which a request ends."""
    if verdict.error is not None:
        endpoint = verdict.trials[-1].url
        logger.info("%s %s failed at %s: %r", *_method_and_path(request), endpoint, verdict.error)
        return named(rewriting.translate(verdict.error, request), endpoint)
    logger.info("%s %s failed at every endpoint", *_method_and_path(request))
    return NoEndpointAvailable(verdict.trials, request)


def named(error: Exception, endpoint: str) -> Exception:
    """Add the endpoint to an exception of httpx2: its URL is that of the pool."""
    if isinstance(error, httpx2.HTTPError):
        error.add_note(f"at {endpoint}")
    return error


def log_answer(request: httpx2.Request, status: int, endpoint: str) -> None:
    """Log which endpoint has answered: httpx2's own line only knows the pool's host."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s %s: %d from %s", *_method_and_path(request), status, endpoint)


def _method_and_path(request: httpx2.Request) -> tuple[str, str]:
    return request.method, request.url.path  # a query may hold what no log should
