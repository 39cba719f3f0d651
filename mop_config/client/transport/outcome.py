"""The exceptions of failed requests, and the classification of httpcore's exceptions."""

import logging
from collections.abc import Iterable
from typing import Any

import httpcore2
import httpx2

from ...errors import MopConfigError
from ...net.faults import Fault, fault_of
from ..pool.failover import FailedAttempt, Failover

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


#: Exceptions of h2 that are raised before any byte of the request is sent.
_UNSENT = frozenset({"TooManyStreamsError", "NoAvailableStreamIDError", "StreamIDTooLowError"})
_REFUSED_STREAM = 7  # RFC 9113: the request was not processed


def is_of_http2(error: Exception) -> bool:
    """Return whether an exception is of HTTP/2: a connection or a stream has ended.

    A server may end a connection by GOAWAY at any time, and abandoned streams count until the
    server has ended them. So an error of a connection that has served requests does not count
    against the endpoint.
    """
    return type(_of_h2(error)).__module__.startswith("h2.")


def _of_h2(error: Exception) -> object:
    """Return the exception or event of h2 in an exception of httpcore2, or the exception itself."""
    return error.args[0] if isinstance(error, httpcore2.ProtocolError) and error.args else error


def is_of_stream(error: Exception) -> bool:
    """Return whether the server has reset the stream of an HTTP/2 exception, or cut it short."""
    return type(_of_h2(error)).__name__ in {"StreamReset", "InvalidBodyLengthError"}


def may_have_been_sent(error: Exception) -> bool:
    """Return whether the server may have seen the request of an HTTP/2 exception."""
    cause = _of_h2(error)
    if getattr(cause, "error_code", None) == _REFUSED_STREAM:
        return False
    return type(cause).__name__ not in _UNSENT and "SEND_HEADERS" not in str(cause)


def fault_of_attempt(error: Exception, *, connecting: bool) -> Fault:
    """Return the fault of an exception, which may come from the application's body."""
    if is_of_http2(error):
        return Fault.PROTOCOL
    if isinstance(error, httpx2.UnsupportedProtocol) or not isinstance(error, _FROM_THE_WIRE):
        return Fault.OURS  # raised by the application's request body
    return fault_of(error, connecting=connecting)


def closed(request: httpx2.Request) -> httpx2.TransportError:
    """Create the exception of a request whose client was closed meanwhile."""
    return httpx2.TransportError("the client was closed during this request", request=request)


def translate(error: Exception, request: httpx2.Request, endpoint: str) -> Exception:
    """Return httpx2's exception of the same name as an httpcore2 exception.

    A note names the endpoint, because the exception's URL has the pool's host.
    """
    translated = error
    if is_of_http2(error):
        translated = httpx2.RemoteProtocolError(str(error), request=request)
        translated.__cause__ = error
    elif not isinstance(error, httpx2.HTTPError):
        for ours in type(error).__mro__:
            kind = getattr(httpx2, ours.__name__, None)
            if isinstance(kind, type) and issubclass(kind, httpx2.TransportError):
                translated = kind(str(error), request=request)
                translated.__cause__ = error
                break
    if isinstance(translated, httpx2.HTTPError):
        translated.add_note(f"at {endpoint}")
    return translated


def why(failover: Failover, request: httpx2.Request) -> Exception:
    """Return the exception that a failed request raises."""
    method, path = request.method, request.url.path  # without the query, which may hold secrets
    if failover.error is not None:
        endpoint = failover.trials[-1].url
        logger.info("%s %s failed at %s: %r", method, path, endpoint, failover.error)
        return translate(failover.error, request, endpoint)
    logger.info("%s %s failed at every endpoint", method, path)
    return NoEndpointAvailable(failover.trials, request)
