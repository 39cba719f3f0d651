"""``Exchange``: one attempt at one endpoint; and the rewriting of its request and its answer.

Applications request ``https://endpoint.invalid/users``; our own host name stands for the current
endpoint. So cookies, authorisation and redirects still apply after a move to another endpoint.
"""

import time
from collections.abc import Sequence
from math import inf
from typing import Any, Protocol

import httpcore2
import httpx2

from ...net.connect import FOREVER, Deadline
from ...net.faults import Fault
from ..pool.failover import Attempt, DialRace, Failover, RetryTraits
from ..pool.member import PoolMember, Target
from ..pool.policy import BUSY_STATUS, IDEMPOTENT
from ..pool.session import ClientState
from .outcome import (
    Response,
    fault_of_attempt,
    is_of_http2,
    is_of_stream,
    may_have_been_sent,
    translate,
)

#: RFC 2606 reserves .invalid: a request that bypasses our transport reaches no server.
HOST = "endpoint.invalid"
BASE_URL = f"https://{HOST}"
RAW_HOST = HOST.encode()

#: Request extension: whether the body of the answer is read as a whole before it is returned.
WHOLE = "mop_config.whole"
#: Limit in bytes of bodies that are read as a whole if the extension is not set.
SMALL = 1 << 16

Headers = list[tuple[bytes, bytes]]


class HasState(Protocol):
    """The part of a manager that a transport needs."""

    @property
    def _state(self) -> ClientState:
        """The manager's pools."""


class Exchange(Attempt, Deadline):
    """One attempt of a request at one endpoint.

    Args:
        state: The manager's pools.
        failover: The endpoints of the request.
        member: The endpoint.
        request: The application's request.

    Attributes:
        wanted: The caller's time-outs in seconds, by name; None for no time-out.
        race: Whether the exchange may race dials, and leave a queue for another endpoint; False for
            the second request of a hedge.
        hedge_at: Monotonic seconds at which a hedge starts if no first byte has arrived.
        asked: When the request was sent, in monotonic seconds.
        connection: The connection of the request, or None.
        response: The answer, or None.
        headers: The request's headers if the instrumentation has changed them, or None.
        content: The body of the answer if it was read as a whole, or None.
        written: Whether a part of the request is written.
        unsent: Bytes of the body that are not yet written, about; None before the second write.
        timeouts: The request's time-outs, which httpcore reads at each step.
        called_off: Whether the other request of a hedge has won.
        second: The exchange of the second request of a hedge, or None.
        lost: The endpoints whose dial failed in a race that another endpoint ended, each with its
            fault.
    """

    # Defaults on the class, since most exchanges change no attribute.
    race = True
    connection: Any = None
    response: Any = None
    headers: Headers | None = None
    content: bytes | None = None
    written = False
    unsent: float | None = None
    called_off = False
    second: "Exchange | None" = None
    lost: Sequence[tuple[PoolMember, Fault]] = ()

    def __init__(
        self, state: ClientState, failover: Failover, member: PoolMember, request: httpx2.Request
    ) -> None:
        self.state = state
        self.failover = failover
        self.member = member
        self.request = request
        self.wanted: dict[str, float | None] = request.extensions.get("timeout") or {}
        self.until = failover.deadline
        self.began = self.asked = state.clock()
        self.hedge_at = self.began + failover.hedge_after
        self.timeouts: dict[str, Any] = {}

    def wrote(self, count: int) -> None:
        """Record that a part of the request is written.

        The request's timeout restarts with each part of its body, so that a slow upload is not
        ended while it makes progress. What HTTP/2 writes later, such as the answer to a PING,
        restarts nothing, unless the body's length is unknown.
        """
        if self.written:
            if self.unsent is None:
                headers = self.request.headers
                chunked = "Transfer-Encoding" in headers
                self.unsent = inf if chunked else float(headers.get("Content-Length", 0))
            if self.unsent > 0.0:
                self.until = max(self.until, time.monotonic() + self.failover.total)
            self.unsent -= count
        self.written = True

    # -- the outcome

    def answered(self, response: Any) -> None:
        """Record an answer."""
        # The deadline applies to the head only; the body has the caller's own time-outs.
        self.timeouts["read"] = self.wanted.get("read", Default(self.failover.total))
        self.timeouts["write"] = self.wanted.get("write")
        self.response, self.now = response, self.state.clock()
        self.first_byte = self.now - self.asked
        status, policy = response.status, self.state.policy
        if status in BUSY_STATUS or status in policy.bad_status:
            text = httpx2.Headers(response.headers).get("retry-after")
            self.judge_status(policy, status, text, self.state.wall_clock())
        else:
            self.status = status

    def failed(self, error: Exception, *, connected: bool) -> None:
        """Record an exception, before the answer or in its body."""
        if is_of_http2(error):
            connected, self.fault = may_have_been_sent(error), Fault.PROTOCOL
            self.reused = not connected or (self.reused and not is_of_stream(error))
        elif self.fault is None:
            self.fault = fault_of_attempt(error, connecting=not connected)
        self.now, self.result = self.state.clock(), error
        self.sent = connected and self.fault is not Fault.POOL_TIMEOUT

    def bound_pauses(self) -> None:
        """Bound the time-out for each read of the body, unless the caller set a read time-out."""
        if isinstance(self.timeouts["read"], Default):
            self.timeouts["read"] = min(self.timeouts["read"], self.state.policy.body_pause)

    def end_race(self, race: DialRace, winner: PoolMember | None) -> None:
        """Record the end of a dial race; without a winner, the last endpoint counts as failed.

        Losers are recorded at once, so that other requests avoid these endpoints before this
        request has its answer.

        Args:
            race: The race.
            winner: The endpoint that was ready first, or None.
        """
        losers = race.losers
        with self.state as state:
            if winner is None:
                *losers, (self.member, self.fault) = losers
            else:
                self.member = winner
            self.lost = [loser for loser in losers if loser[1] is not Fault.STALLED]
            for loser, fault in losers:
                self.failover.record_failure(Attempt(loser, state.clock(), self.began), fault)

    # -- the request and the answer, rewritten

    def for_pool(self, target: Target, for_proxy: Headers | None) -> httpcore2.Request:
        """Address the request to the endpoint: its path prefix, Host, connection and time-outs.

        Args:
            target: The endpoint as of the connection; the list may have changed since then.
            for_proxy: Header fields for an HTTP proxy that forwards the request, and so gets the
                absolute URL; None without such a proxy.
        """
        request = self.request
        self.timeouts = {"read": self, "write": self}
        self.read_limit, self.write_limit = self.wanted.get("read"), self.wanted.get("write")
        headers = [header for header in self._fields() if header[0].lower() != b"host"]
        headers.insert(0, (b"Host", target.authority))
        path = request.url.raw_path
        if path != b"*":
            path = target.prefix + path
        if for_proxy is not None:
            path = b"http://%b:%d%b" % (target.host.encode(), target.port, path)
            own = {name.lower() for name, _ in headers}
            headers = [h for h in for_proxy if h[0].lower() not in own] + headers
        addressed = httpcore2.Request(
            method=request.method,
            url=httpcore2.URL(scheme=target.scheme, host=target.key, port=target.port, target=path),
            content=request.stream,
            extensions={**request.extensions, "timeout": self.timeouts},
        )
        # Set after construction: the constructor would check each header again.
        addressed.headers = headers
        return addressed

    def for_transport(self) -> httpx2.Request:
        """Address the request to the endpoint, in the form for httpx2's own transports."""
        request, target, left = self.request, self.member.target, self.least(None)
        for name in ("connect", "pool", "read", "write"):
            self.timeouts[name] = least(self.wanted.get(name), left)
        connect = least(self.timeouts["connect"], self.state.policy.connect_timeout)
        self.timeouts["connect"] = connect
        path = request.url.raw_path
        path = path if path == b"*" else target.prefix + path
        origin = httpx2.URL(scheme=target.scheme.decode(), host=target.host, port=target.port)
        headers = httpx2.Headers(self._fields())
        headers["Host"] = target.authority.decode()
        server_name = {} if target.tls_name is None else {"sni_hostname": target.tls_name}
        return httpx2.Request(
            request.method,
            origin.copy_with(raw_path=path),
            headers=headers,
            stream=request.stream,
            extensions={**request.extensions, "timeout": self.timeouts, **server_name},
        )

    def _fields(self) -> Headers:
        """Return the headers to send: without TLS no cookies, once a cookie was set as Secure.

        The cookie jar cannot leave them out, since for the jar every endpoint has the https URL of
        the pool.
        """
        headers = self.headers or self.request.headers.raw
        if self.member.target.tls_name is None and self.state.has_secure_cookies:
            return [header for header in headers if header[0].lower() != b"cookie"]
        return headers

    def is_short(self) -> bool:
        """Return whether the answer declares a body of at most ``SMALL`` bytes."""
        length = httpx2.Headers(self.response.headers).get("content-length", "")
        return length.isdecimal() and int(length[:9]) <= SMALL

    def is_read_whole(self) -> bool:
        """Return whether the answer's body is read before the application gets the answer.

        Then another attempt follows if an endpoint dies in the middle of the body. A body that the
        application streams, or that may be endless, is returned unread.
        """
        traits = self.failover.traits
        if not (traits.idempotent and traits.replayable):
            return False
        whole: bool | None = self.request.extensions.get(WHOLE)
        return self.is_short() if whole is None else whole

    def answer(self, stream: Any) -> Response:
        """Return the answer for the application, with the pool's host for the endpoint's address.

        A redirect to the endpoint becomes a redirect to the pool, and a cookie for its domain
        becomes a cookie for the pool's host. Otherwise a move to another endpoint would lose both.

        Args:
            stream: The body.
        """
        headers: Headers = self.response.headers
        for position, (name, value) in enumerate(headers):
            if len(name) in _LENGTHS and (rewrite := _REWRITTEN.get(name.lower())):
                headers[position] = name, rewrite(value, self)
        extensions = self.response.extensions
        extensions["endpoint"] = self.member.url
        return Response(self.response.status, headers=headers, stream=stream, extensions=extensions)

    def body_failed(self, error: Exception, began: float) -> Exception:
        """Record a broken body that the application reads; return the exception to raise."""
        if not self.failover.uses_other_proxy:
            fault = fault_of_attempt(error, connecting=False)
            with self.state as state:
                state.api.failed(self.member, fault, state.clock(), began)
        return translate(error, self.request, self.member.url)

    # -- hedges

    def rival(self) -> "Exchange | None":
        """Return the exchange of the second request of a hedge, or None without an endpoint."""
        with self.state as state:
            member = self.failover.hedge(state.clock())
        if member is None:
            return None
        self.second = second = Exchange(self.state, self.failover, member, self.request)
        second.race, second.hedge_at, second.until = False, inf, self.until
        return second

    def settle(self, *, is_done: bool, overtaken: bool) -> "Exchange":
        """Choose between the two requests of a hedge; a failure of the other one is recorded.

        Args:
            is_done: Whether the second request has its outcome.
            overtaken: Whether this first request has no outcome, because the second won.
        """
        second = self.second
        if second is None:
            return self
        with self.state as state:
            if is_done and second.fault is not None:
                self.failover.record_failure(second, second.fault)
            elif is_done and overtaken:
                self.now = state.clock()
                if self.failover.record_overtaken(self.member, self.now, second):
                    self.failover.record_failure(self, Fault.STALLED)
                return second
            elif is_done and self.fault is not None:
                self.failover.record_failure(self, self.fault)
                return second
            elif self.fault is not None:  # the time is over
                second.now = state.clock()
                self.failover.record_failure(second, Fault.READ_TIMEOUT)
        return self


def traits_of(request: httpx2.Request) -> RetryTraits:
    """Return the traits of a request that decide whether it may be sent again."""
    method, stream = request.method, request.stream
    replayable = isinstance(stream, httpx2.ByteStream)
    keyed = method not in IDEMPOTENT and "Idempotency-Key" in request.headers
    return RetryTraits.of(method, replayable=replayable, keyed=keyed)


class Default(float):
    """Marks a time-out that the caller has not set, so that the policy's applies."""


def total_of(wanted: dict[str, float | None], total: float) -> float:
    """Return the total timeout of a request: the policy's, or the caller's longer time-out."""
    for name in ("read", "write"):
        if name in wanted and not isinstance(wanted[name], Default):
            seconds = wanted[name]
            total = FOREVER if seconds is None else min(FOREVER, max(total, seconds))
    return total


def least(wanted: float | None, limit: float) -> float:
    """Return the caller's time-out, bounded by the policy's limit."""
    return limit if wanted is None else min(wanted, limit)


def _location(value: bytes, exchange: Exchange) -> bytes:
    target, asked = exchange.member.target, exchange.request.url.raw_path
    try:
        origin = httpx2.URL(target.origin)
        # A relative redirect is relative to the endpoint's own path, and may leave the prefix.
        text = httpx2.Headers([(b"", value)])[""]  # decoded as httpx2 decodes it: not only ASCII
        location = origin.copy_with(raw_path=target.prefix + asked).join(text)
    except httpx2.InvalidURL:
        return value
    if (location.scheme, location.netloc) != (origin.scheme, origin.netloc):
        return value
    path = _without_prefix(location.raw_path, target.prefix)
    if path is not None:
        pool = {"scheme": "https", "netloc": RAW_HOST, "userinfo": b""}
        location = location.copy_with(**pool, raw_path=path)
    return str(location).encode()


def _cookie(value: bytes, exchange: Exchange) -> bytes:
    """Return a cookie for the pool's host and for all paths, which every endpoint gets."""
    pair, *attributes = value.split(b";")
    kept = []
    for attribute in attributes:
        key = attribute.partition(b"=")[0].strip().lower()
        exchange.state.has_secure_cookies |= key == b"secure"
        if key not in (b"domain", b"path"):
            kept.append(attribute)
    return b";".join([pair, *kept, b" Path=/"])


def _without_prefix(path: bytes, prefix: bytes) -> bytes | None:
    """Return the application's path of an endpoint's path; None for a path beside the prefix."""
    rest = path.removeprefix(prefix)
    if not path.startswith(prefix) or rest[:1] not in (b"", b"/", b"?"):
        return None
    return rest if rest.startswith(b"/") else b"/" + rest


_REWRITTEN = {b"location": _location, b"set-cookie": _cookie}
_LENGTHS = frozenset(map(len, _REWRITTEN))  # a quick test that excludes most headers
