"""Outcomes: turn httpcore's answers and exceptions into outcomes, responses and errors."""

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
    httpx2.TransportError,  # raised by the application's own transport
)


class NoEndpointAvailable(httpx2.TransportError, MopConfigError):  # noqa: N818 - public name
    """No endpoint could be reached, or the list is empty.

    A test may raise the exception, too::

        raise NoEndpointAvailable([("https://a.example", "refused", 0.1)])

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
        """Rebuild the exception from its attempts, because ``args`` holds only the message."""
        return type(self), (self.attempts,), self.__dict__


class Response(httpx2.Response):
    """httpx2's response; its errors name the endpoint that answered."""

    def raise_for_status(self) -> httpx2.Response:
        """Raise the error of a bad status; see ``httpx2.Response``."""
        try:
            return super().raise_for_status()
        except httpx2.HTTPStatusError as error:
            if endpoint := self.extensions.get("endpoint"):
                error.add_note(f"answered by {endpoint}")
            raise


class ResponseVerdict(NamedTuple):
    """An answer, its exchange, and its body if the body has been read."""

    exchange: Exchange
    response: httpcore2.Response
    content: bytes | None = None

    def bound_pauses(self, seconds: float) -> None:
        """Bound the time-out for each read of the body, unless the caller set a read time-out."""
        timeouts = self.exchange.timeouts
        if isinstance(timeouts["read"], rewriting.Default):
            timeouts["read"] = min(timeouts["read"], seconds)


def connect_message(fault: Fault | None, error: DialError) -> str:
    """Return why no connection could be made; for a lack of resources, the system's message."""
    return str(error.__cause__ if fault is Fault.OURS and error.__cause__ else fault)


def answered(core: ClientState, exchange: Exchange, response: httpcore2.Response) -> Outcome:
    """Return the outcome of an exchange that received an answer."""
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
    """Choose between the two outcomes of a hedge; the unused outcome becomes a loser.

    Args:
        exchange: The first request.
        first: The outcome of the first request, or None if it has no outcome yet.
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
    """Return the losers of a first request that its hedge overtook."""
    if exchange.apart:
        return exchange.losers
    with core:
        counts = core.api.overtaken(exchange.member, exchange.hedge_after, core.clock())
    stalled = ((exchange.member, Fault.STALLED),) if counts else ()
    return (*exchange.losers, *stalled)


def _beaten(core: ClientState, outcome: Outcome) -> Losers:
    """Return the losers that result from the unused outcome of a hedge."""
    fault = outcome.fault or Fault.BAD_STATUS
    if outcome.busy is not None:
        fault = Fault.BUSY
    if outcome.busy is not None and not outcome.apart:
        with core:
            core.api.busy(outcome.member, outcome.busy, outcome.now)
    return (*outcome.losers, (outcome.member, fault))


#: Exceptions of h2 that are raised before any byte of the request is sent.
_UNSENT = frozenset({"TooManyStreamsError", "NoAvailableStreamIDError", "StreamIDTooLowError"})
_REFUSED_STREAM = 7  # RFC 9113: the request was not processed


def is_of_http2(error: Exception) -> bool:
    """Return whether an HTTP/2 connection takes no more requests: it ended, or has no stream left.

    A server may end a connection by GOAWAY at any time, and abandoned streams count until the
    server has ended them. So the error concerns the shared connection, and does not count against
    the endpoint.
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
        return Fault.OURS  # raised by the application's request body
    return fault_of(error, connecting=connecting)


def broke_off(core: ClientState, exchange: Exchange, error: Exception, began: float) -> None:
    """Record a body that broke off, unless the client uses a proxy of its own."""
    if exchange.apart:
        return
    with core:
        core.api.failed(exchange.member, fault_of(error, connecting=False), core.clock(), began)


def why(verdict: Verdict, request: httpx2.Request) -> Exception:
    """Return the exception that a failed request raises."""
    if verdict.error is not None:
        endpoint = verdict.trials[-1].url
        logger.info("%s %s failed at %s: %r", *_method_and_path(request), endpoint, verdict.error)
        return named(rewriting.translate(verdict.error, request), endpoint)
    logger.info("%s %s failed at every endpoint", *_method_and_path(request))
    return NoEndpointAvailable(verdict.trials, request)


def named(error: Exception, endpoint: str) -> Exception:
    """Add the endpoint to an httpx2 exception, whose URL has the pool's host."""
    if isinstance(error, httpx2.HTTPError):
        error.add_note(f"at {endpoint}")
    return error


def log_answer(request: httpx2.Request, status: int, endpoint: str) -> None:
    """Log which endpoint answered, because httpx2's log line names only the pool's host."""
    if logger.isEnabledFor(logging.DEBUG):
        logger.debug("%s %s: %d from %s", *_method_and_path(request), status, endpoint)


def _method_and_path(request: httpx2.Request) -> tuple[str, str]:
    return request.method, request.url.path  # without the query, which may hold secrets
