"""What answers and exceptions of httpcore mean to the pool; both drivers ask here."""

import logging
from typing import Any, NamedTuple

import httpcore2
import httpx2

from ...net.faults import Fault, fault_of
from ..pool.failover import Outcome, Verdict
from ..pool.member import PoolMember
from ..pool.policy import BUSY_STATUS
from ..pool.session import ClientState
from . import rewriting
from .attempt import Losers, Route
from .dial import DialError
from .exceptions import NoEndpointAvailable

logger = logging.getLogger(__name__)

_FROM_THE_WIRE = (
    httpcore2.NetworkError,
    httpcore2.TimeoutException,
    httpcore2.ProtocolError,
    httpcore2.ProxyError,
)


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
    """An answer, where it came from, and its body if that has been read already.

    ``timeouts`` are the request's, as httpcore looks them up at each step, or None. ``apart`` is
    the route's. ``aside`` is the body of a bad answer, which has not come as a whole yet, or None.
    """

    member: PoolMember
    response: httpcore2.Response
    content: bytes | None = None
    timeouts: dict[str, Any] | None = None
    apart: bool = False
    aside: Any = None

    def bound_pauses(self, seconds: float) -> None:
        """Have the rest of the body fail if it pauses for longer, unless the caller says when."""
        if self.timeouts is not None:
            wanted = self.timeouts.get("read")
            if isinstance(wanted, rewriting.Default):
                self.timeouts["read"] = min(wanted, seconds)

    @property
    def held(self) -> Any:
        """What is to be closed where nobody wants the answer."""
        return self.response if self.aside is None else self.aside


def connect_message(fault: Fault | None, error: DialError) -> str:
    """Say why no connection stands: what this process lacks, in the system's own words."""
    return str(error.__cause__ if fault is Fault.OURS and error.__cause__ else fault)


def answered(core: ClientState, route: Route, response: httpcore2.Response) -> Outcome:
    """Say what an answer means."""
    busy = None
    if response.status in BUSY_STATUS:
        after = next((v for k, v in response.headers if k.lower() == b"retry-after"), None)
        text = None if after is None else after.decode("latin-1")
        busy = core.policy.busy_for(response.status, text, core.wall_clock())
    return Outcome(
        route.member,
        core.clock(),
        route.began,
        status=response.status,
        busy=busy,
        result=ResponseVerdict(route.member, response, timeouts=route.timeouts, apart=route.apart),
        losers=route.losers,
        losers_recorded=route.told,
        bad_status=core.policy.bad_status,
        apart=route.apart,
    )


def failed(core: ClientState, route: Route, error: Exception) -> Outcome:
    """Say what an exception means."""
    connected = not route.dialled or route.ready
    if isinstance(error, (httpcore2.ConnectError, httpcore2.ConnectTimeout, httpcore2.ProxyError)):
        connected = False
    of_http2 = is_of_http2(error)
    if of_http2:
        connected, fault = _may_have_been_sent(error), Fault.PROTOCOL
    else:
        fault = route.fault or _fault_of(error, connecting=not connected)
    return Outcome(
        route.member,
        core.clock(),
        route.began,
        fault=fault,
        sent=connected and fault is not Fault.POOL_TIMEOUT,
        reused=of_http2 or not route.dialled,
        result=error,
        losers=route.losers,
        losers_recorded=route.told,
        apart=route.apart,
    )


def broken(core: ClientState, outcome: Outcome, error: Exception) -> Outcome:
    """Say what it means that an answer broke off in its body."""
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


def beaten(core: ClientState, outcome: Outcome) -> Losers:
    """Give an outcome that is of no use beside another one as what it has lost."""
    fault = outcome.fault or Fault.BAD_STATUS
    if outcome.busy is not None:
        fault = Fault.BUSY
    if outcome.busy is not None and not outcome.apart:
        with core:
            core.api.busy(outcome.member, outcome.busy, outcome.now)
    return (*outcome.losers, (outcome.member, fault))


def of_rival(outcome: Outcome, losers: Losers, told: int) -> Outcome:
    """Give a rival's answer as the attempt's own: these lost against it."""
    outcome.losers = (*losers, *outcome.losers)
    outcome.losers_recorded = told
    return outcome


#: h2's words for a request of which nothing has been sent.
_UNSENT = frozenset({"TooManyStreamsError", "NoAvailableStreamIDError", "StreamIDTooLowError"})
_REFUSED_STREAM = 7  # RFC 9113: it has not been processed


def is_of_http2(error: Exception) -> bool:
    """Whether an HTTP/2 connection can take no more requests: its end, or no stream left.

    A server ends connections by GOAWAY as it likes, and streams that were given up count until
    it has ended them. So this speaks against the connection, which other requests have used,
    and not against the endpoint.
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
    if not isinstance(error, _FROM_THE_WIRE):
        return Fault.OURS  # of the application's own body, or of a mistake in it
    return fault_of(error, connecting=connecting)


def broke_off(core: ClientState, answer: ResponseVerdict, error: Exception, began: float) -> None:
    """Note that an answer broke off in its body, unless a proxy of the client's own was between."""
    if answer.apart:
        return
    with core:
        core.api.failed(answer.member, fault_of(error, connecting=False), core.clock(), began)


def why(verdict: Verdict, request: httpx2.Request) -> Exception:
    """Give the exception that a request ends with."""
    if verdict.error is not None:
        endpoint = verdict.trials[-1].url
        logger.info("%s %s failed at %s: %r", *_asked(request), endpoint, verdict.error)
        return named(rewriting.translate(verdict.error, request), endpoint)
    logger.info("%s %s failed at every endpoint", *_asked(request))
    return NoEndpointAvailable(verdict.trials, request)


def named(error: Exception, endpoint: str) -> Exception:
    """Have an exception of httpx2 name the endpoint: its URL is that of the pool."""
    if isinstance(error, httpx2.HTTPError):
        error.add_note(f"at {endpoint}")
    return error


def log_answer(request: httpx2.Request, status: int, endpoint: str) -> None:
    """Say in the log who has answered: httpx2's own line only knows the pool's host."""
    if logger.isEnabledFor(logging.INFO):
        logger.info("%s %s: %d from %s", *_asked(request), status, endpoint)


def _asked(request: httpx2.Request) -> tuple[str, str]:
    return request.method, request.url.path  # a query may hold what no log should
