"""``EndpointAttempts``: the failover loop for requests of any HTTP library."""

import contextlib
import re
from collections.abc import AsyncIterator, Iterator
from http.client import HTTPException
from typing import Any
from urllib.parse import urlsplit

from ..model.address import DEFAULT_PORTS
from ..net.faults import Fault, causes, fault_of, lacks_resources
from .pool.failover import OURS, Attempt, Failover, RetryTraits
from .pool.member import PoolMember, Target
from .pool.session import ClientState
from .transport.outcome import NoEndpointAvailable

#: Class names of the exceptions that report a network failure, by the library that raises them.
#: Names, because the libraries need not be installed.
_STANDARD = {"ConnectionError", "TimeoutError", "SSLError", "gaierror", "URLError"}
_REQUESTS = {"Timeout", "ChunkedEncodingError", "ProtocolError", "NewConnectionError"}
_AIOHTTP = {"ClientConnectionError", "ClientPayloadError", "HttpProcessingError"}
_HTTPX = {"NetworkError", "TimeoutException", "ProxyError"}
_FROM_THE_NETWORK = _STANDARD | _REQUESTS | _AIOHTTP | _HTTPX
#: The names of those that are raised before a connection is established, so that no server has
#: seen the request.
_CONNECTING = (
    {"ConnectionRefusedError", "gaierror", "SSLCertVerificationError"}
    | {"ConnectTimeout", "ConnectTimeoutError", "NewConnectionError"}
    | {"ClientConnectorError", "ConnectionTimeoutError", "ConnectError"}
)
#: The names of those that blame the proxy.
_OF_A_PROXY = {"ProxyError", "ClientProxyConnectionError", "ClientHttpProxyError"}
#: The names of those that have the status themselves, instead of a response.
_WITH_STATUS = {"ClientResponseError", "HTTPError"}
#: The message of urllib3's ``Retry(status_forcelist=…)``.
_REPEATED = re.compile(r"too many ([1-5][0-9]{2}) error responses")


class _NextEndpoint(Exception):  # noqa: N818 - control flow: ends a ``with`` block
    """Ends a block whose reported status counts against the endpoint, if an attempt follows."""


class EndpointAttempt:
    """One attempt at one endpoint: a context manager that records the outcome of its block.

    ``with attempt as endpoint:`` binds the endpoint's URL without a final ``/``. A block that
    ends normally is recorded as a success. A network exception moves the request to another
    endpoint; any other exception leaves the loop, and counts against no endpoint.

    Attributes:
        endpoint: The URL of the endpoint.
        server_name: The name for TLS and ``Host`` if the endpoint is an IP address, or None.
        seconds_left: Seconds that the request may still take.
    """

    def __init__(self, state: ClientState, failover: Failover, member: PoolMember) -> None:
        self.endpoint = member.url.rstrip("/")
        self.server_name = member.endpoint.server_name
        self.is_over = False
        self._state = state
        self._failover = failover
        self._member = member
        self._began = state.clock()
        self.seconds_left = max(0.0, failover.deadline - self._began)
        self._status: int | None = None

    def __enter__(self) -> str:
        return self.endpoint

    def status(self, code: int, retry_after: str | None = None) -> None:
        """Report the HTTP status of the response.

        A status that counts against the endpoint (``Policy.bad_status``, or 429 and 503 with
        ``Retry-After``) ends the block here, if the request may move to another endpoint.
        Otherwise the block continues with the response.

        Args:
            code: The status.
            retry_after: The header ``Retry-After``, or None.

        Raises:
            ValueError: If the status is not a number from 100 to 999.
        """
        if not isinstance(code, int) or not 100 <= code <= 999:
            raise ValueError(f"an HTTP status is a number from 100 to 999, not {code!r}")
        self._status = code
        outcome = self._outcome(code, retry_after)
        if outcome.fault is not None and self._moves_on(outcome):
            raise _NextEndpoint(f"{self.endpoint} answered {code}")

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        if self.is_over:
            return isinstance(error, _NextEndpoint)
        if error is None:
            self._moves_on(self._outcome(self._status or 200))
            return False
        if not isinstance(error, Exception):
            return False  # an interrupt or a cancellation says nothing about the endpoint
        outcome = self._outcome_of_error(error)
        if self._moves_on(outcome):
            return True
        over = outcome.fault in OURS or not self._failover.traits.may_go_on(outcome)
        if outcome.status is not None or over:
            return False
        raise NoEndpointAvailable(self._failover.trials) from error

    def _moves_on(self, outcome: Attempt) -> bool:
        """Record the outcome; return whether another attempt follows."""
        self.is_over = True
        with self._state:
            self._failover.record(outcome)
        return self._failover.member is not None

    def _outcome_of_error(self, error: Exception) -> Attempt:
        status, retry_after = _answer_of(error)
        fault, connecting = _fault_of(error)
        if fault not in (Fault.OURS, Fault.PROXY) and _is_elsewhere(error, self._member.target):
            fault = Fault.OURS  # the endpoint has answered, by a redirect to another server
        if status is None and (fault is Fault.OURS or connecting):
            status = self._status  # the block has failed after the answer, or elsewhere
        outcome = self._outcome(status, retry_after)
        if status is None:
            outcome.fault, outcome.sent, outcome.result = fault, not connecting, error
        return outcome

    def _outcome(self, status: int | None, retry_after: str | None = None) -> Attempt:
        state = self._state
        outcome = Attempt(self._member, state.clock(), self._began)
        if status is not None:
            outcome.judge_status(state.policy, status, retry_after, state.wall_clock())
        return outcome


class EndpointAttempts:
    """The attempts of one request, as an iterable for ``for`` and ``async for``.

    Args:
        state: The endpoints.
        idempotent: Whether the request may be executed twice without harm.
    """

    def __init__(self, state: ClientState, *, idempotent: bool) -> None:
        self._state = state
        self._traits = RetryTraits(idempotent=idempotent, replayable=True, hedged=False)

    def __iter__(self) -> Iterator[EndpointAttempt]:
        """Begin the request.

        Raises:
            NoEndpointAvailable: If the list is empty.
            RuntimeError: If an attempt was not used in a ``with`` statement.
        """
        state = self._state
        with state:
            failover = Failover(self._traits, state.api, state.budget, state.clock())
        if failover.member is None:
            raise NoEndpointAvailable
        while failover.member is not None:
            attempt = EndpointAttempt(state, failover, failover.member)
            yield attempt
            if not attempt.is_over:
                raise RuntimeError("use each attempt in a with statement: with attempt as endpoint")

    async def __aiter__(self) -> AsyncIterator[EndpointAttempt]:
        """Begin the request in a coroutine."""
        for attempt in self:
            yield attempt


def _answer_of(error: Exception) -> tuple[int | None, str | None]:
    """Return the status and ``Retry-After`` of an exception that carries a response, or None.

    ``raise_for_status`` of requests, httpx and aiohttp raises such exceptions. aiohttp also raises
    them, with status 400 and a cause, for a response that is no HTTP. urllib3, also below requests,
    names the status in a text after it has repeated the request in vain.
    """
    for cause in causes(error):
        if "ResponseError" in _names(cause) and (match := _REPEATED.fullmatch(str(cause))):
            return int(match[1]), None
    answer: Any = getattr(error, "response", None)
    if answer is None and error.__cause__ is None and not _WITH_STATUS.isdisjoint(_names(error)):
        answer = error
    status = getattr(answer, "status_code", getattr(answer, "status", None))
    if not isinstance(status, int) or not 100 <= status <= 599:
        return None, None
    headers = getattr(answer, "headers", None) or {}
    return status, headers.get("Retry-After")


def _fault_of(error: Exception) -> tuple[Fault, bool]:
    """Return the fault that an exception reports, and whether no connection was established.

    An exception that is not a network exception is the application's own fault.
    """
    found = causes(error)
    names = {name for cause in found for name in _names(cause)}
    if not _OF_A_PROXY.isdisjoint(names):
        return Fault.PROXY, True
    connecting = not _CONNECTING.isdisjoint(names)
    is_plain = any(isinstance(cause, HTTPException) for cause in found)
    if (_FROM_THE_NETWORK.isdisjoint(names) and not is_plain) or lacks_resources(error):
        return Fault.OURS, connecting
    # The innermost exception names the fault most exactly.
    faults = (fault_of(cause, connecting=connecting) for cause in reversed(found))
    usual = Fault.REFUSED if connecting else Fault.RESET
    return next((fault for fault in faults if fault is not Fault.OURS), usual), connecting


def _names(error: BaseException) -> list[str]:
    return [kind.__name__ for kind in type(error).__mro__]


def _is_elsewhere(error: Exception, target: Target) -> bool:
    """Whether an exception names another server than the endpoint.

    requests and httpx keep the request that failed, and aiohttp the request or the host; urllib
    names no server.
    """
    for cause in causes(error):
        with contextlib.suppress(RuntimeError, ValueError):  # httpx without a request; a bad port
            request = getattr(cause, "request", None) or getattr(cause, "request_info", None)
            url = getattr(request, "url", None)
            host, port = getattr(cause, "host", None), getattr(cause, "port", None)
            if url is not None:
                there = urlsplit(str(url))
                host, port = there.hostname, there.port or DEFAULT_PORTS.get(there.scheme)
            if isinstance(host, str):
                return (host.strip("[]").lower(), port) != (target.host.strip("[]"), target.port)
    return False
