"""Health checks over the wire, for the client and for the server's monitor.

An API endpoint gets ``GET {base}/health`` and, on 404 only, ``GET /health``; ``HealthRequest``
can set another path, and a judge of the whole answer. A Socket.io endpoint gets an
Engine.IO handshake, whose session is then closed. A check follows no redirect and reads at most
64 KiB; one deadline covers all its requests. ``CheckQueue`` runs checks in threads, with a limit of
all checks and of those of one server.
"""

import contextlib
import http
import json
import logging
import ssl
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import quote, urlsplit

from ..model.address import parse_url
from ..model.endpoint import Endpoint, Kind
from ..net.connect import DialOptions
from ..net.faults import Fault, HttpError, causes, lacks_resources
from ..net.http import Headers, HttpClient, HttpConnection, HttpReply
from ..net.resolver import Resolver
from ..net.threads import start_thread

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
DEFAULT_PATH = "/health"
#: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_NAME = frozenset({62, 64})
_WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "bW9wLWNvbmZpZyBwcm9iZQ==",
}


#: Function that judges an answer by its status, its headers (names in lower case) and the first
#: 64 KiB of its body; returns whether the endpoint is healthy.
AnswerJudge = Callable[[int, Mapping[str, str], bytes], bool]


class HealthRequest(NamedTuple):
    """The request of an API endpoint's health check, and the answers that it accepts.

    Attributes:
        path: The path below the endpoint's URL. If that URL answers 404, the path at the server's
            root is requested.
        judge: Function that judges the answer; None accepts any 2xx status.
    """

    path: str = DEFAULT_PATH
    judge: AnswerJudge | None = None

    @classmethod
    def containing(cls, path: str, text: str) -> "HealthRequest":
        """Return a request that requires a 2xx status and, unless empty, ``text`` in the body."""
        needed = text.encode()
        return cls(path, lambda status, _, body: _is_success(status) and needed in body)


_USUAL = HealthRequest()


def _is_success(status: int, *_: object) -> bool:
    return 200 <= status < 300


class ProbeResult(NamedTuple):
    """The result of a health check.

    Attributes:
        fault: The kind of failure, or None for a healthy endpoint.
        seconds: Duration of the check.
        detail: Description of the response or of the failure.
        path: The path that answered, which the next check requests first, or None.
        certificate_expires: When the certificate ends, or None without TLS.
        name_matches: Whether the certificate is for the endpoint's name, or None if no
            certificate was received.
        status: The status of the last answer, or None.
        retry_after: Its ``Retry-After``, or None.
    """

    fault: Fault | None
    seconds: float
    detail: str
    path: str | None = None
    certificate_expires: datetime | None = None
    name_matches: bool | None = None
    status: int | None = None
    retry_after: str | None = None


#: A check: ``api`` or ``socketio``, the endpoint, and the path that answered before, or None.
Job = tuple[str, Endpoint, str | None]
#: Function that gets each result, in the thread of the check. After it has returned True, no
#: further check is begun.
Report = Callable[[Job, ProbeResult], object]
#: Limit of a client's concurrent checks of one server (host and port).
PER_SERVER = 4


class Prober(HttpClient):
    """Runs health checks, from any number of threads.

    Args:
        dial: Options of the dial; ``timeout`` is also the limit of one check, in seconds.
        resolver: Resolves host names; None for a new ``Resolver``.
        request: The request to API endpoints, and the answers that pass.
    """

    def __init__(
        self,
        dial: DialOptions,
        resolver: Resolver | None = None,
        request: HealthRequest = _USUAL,
    ) -> None:
        super().__init__(dial, resolver)
        self._health_request = request
        from ..net._sync import connecting  # noqa: F401 - slow, so before a time-out begins

    def check(self, kind: str, endpoint: Endpoint, known_path: str | None = None) -> ProbeResult:
        """Check one endpoint; never raises.

        Args:
            kind: ``api`` or ``socketio``.
            endpoint: The endpoint to check.
            known_path: The path that answered before, or None.
        """
        where, started = parse_url(endpoint.url), time.monotonic()
        until = started + self.dial.timeout
        try:
            connection = HttpConnection(self, where, until, endpoint.server_name)
        except Exception as error:  # for example, the environment's proxy cannot be used
            return ProbeResult(Fault.OURS, 0.0, str(error) or type(error).__name__)
        base = where.path.rstrip("/")
        try:
            with contextlib.closing(connection), connection.failures():
                if kind == Kind.API:
                    result = self._check_api(connection, base, known_path)
                else:
                    result = _check_socketio(connection, base)
        except HttpError as error:
            refusals = (e for e in causes(error) if isinstance(e, ssl.SSLCertVerificationError))
            name_matches = False if any(e.verify_code in _OTHER_NAME for e in refusals) else None
            result = ProbeResult(error.fault, 0.0, str(error), name_matches=name_matches)
        if connection.certificate:
            result = result._replace(name_matches=True)
        ends = connection.certificate.get("notAfter")
        expires = ends and datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)
        return result._replace(seconds=time.monotonic() - started, certificate_expires=expires)

    def _check_api(
        self, connection: HttpConnection, base: str, known_path: str | None
    ) -> ProbeResult:
        """Request the health URLs in turn until one exists."""
        wanted = self._health_request
        paths = [f"{base}{wanted.path}", wanted.path]
        if known_path == wanted.path:
            paths.reverse()
        for path in dict.fromkeys(paths):
            reply = _request(connection, path)
            if reply.status != http.HTTPStatus.NOT_FOUND:
                break
        detail = f"{path} answers {reply.status}"
        try:
            if (wanted.judge or _is_success)(*reply):
                return _result(None, detail, path, reply)
        except (Exception, SystemExit) as error:  # raised by the application's judge
            reason = f"{detail}, and healthy() raised {type(error).__name__}: {error}"
            return _result(Fault.OURS, reason, None, reply)
        if _is_success(reply.status):
            detail += ", but this is not the answer of a healthy endpoint"
        return _result(Fault.BAD_STATUS, detail, None, reply)


def _spawn(run: Callable[[], None]) -> threading.Thread | None:
    # A daemon: an interrupt during the start may leave the thread waiting for a lock for ever. At
    # its end the interpreter would wait for such a thread of a ThreadPoolExecutor.
    try:
        return start_thread(run, "mop-config-check")
    except RuntimeError as error:
        if not lacks_resources(error):
            raise  # an interrupt during the start leaves a lock held
        logger.debug("fewer checks at a time: %s", error)
        run()
        return None


class CheckQueue:
    """A queue of health checks, and the threads that run them in order.

    A check is passed over while its server has reached its limit.

    Args:
        prober: Runs the checks.
        report: Gets the results.
        parallel: Limit of concurrent checks.
        share: Limit of concurrent checks of one server.
    """

    def __init__(
        self, prober: Prober, report: Report, parallel: int, share: int = PER_SERVER
    ) -> None:
        self._prober = prober
        self._report = report
        self._parallel, self._share = parallel, share
        self._lock = threading.Lock()
        self._waiting: deque[tuple[str, Job]] = deque()
        self._under_way: Counter[str] = Counter()

    def start(self, jobs: Iterable[Job]) -> list[threading.Thread]:
        """Add checks at the end, start threads for them, and return the threads.

        If no thread can be started, the caller runs the checks.
        """
        with self._lock:
            self._waiting.extend((urlsplit(job[1].url).netloc, job) for job in jobs)
            ready = sum(self._under_way[server] < self._share for server, _ in self._waiting)
            more = min(ready, self._parallel - self._under_way.total())
        started: list[threading.Thread] = []
        while len(started) < more and (thread := _spawn(self._run)) is not None:
            started.append(thread)
        return started

    def _run(self) -> None:
        """Run checks as long as the limits allow one."""
        while True:
            with self._lock:
                ready = (each for each in self._waiting if self._under_way[each[0]] < self._share)
                found = next(ready, None)
                if found is None or self._under_way.total() >= self._parallel:
                    return
                self._waiting.remove(found)
                server, job = found
                self._under_way[server] += 1
            enough = False
            try:
                enough = self._report(job, self._prober.check(*job)) is True
            except Exception as error:
                logger.error("a health check was lost: %s: %s", type(error).__name__, error)
            with self._lock:
                self._under_way[server] -= 1
                if enough:
                    self._waiting.clear()


def _check_socketio(connection: HttpConnection, base: str) -> ProbeResult:
    """Open an Engine.IO session by polling and close it, or else open a WebSocket."""
    path = base if base.endswith("/socket.io") else f"{base}/socket.io"
    target = f"{path}/?EIO=4&transport=polling"
    reply = _request(connection, target)
    session = _session(reply.body) if reply.status == http.HTTPStatus.OK else None
    opens = "a session"
    if session is not None:
        with contextlib.suppress(HttpError):
            goodbye = f"{target}&sid={session}"
            _request(connection, goodbye, {"Content-Type": "text/plain"}, b"1")
    elif reply.status == http.HTTPStatus.BAD_REQUEST:
        # Some servers accept WebSocket connections only.
        connection.close()
        target = f"{path}/?EIO=4&transport=websocket"
        reply = _request(connection, target, _WEBSOCKET)
        opens = "a WebSocket"
    if session is not None or reply.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
        return _result(None, f"{path} opens {opens}", path, reply)
    detail = f"{path} answers {reply.status}, and no handshake"
    return _result(Fault.BAD_STATUS, detail, None, reply)


def _result(fault: Fault | None, detail: str, path: str | None, reply: HttpReply) -> ProbeResult:
    """Return the result of a check that got an answer."""
    retry_after = reply.headers.get("retry-after")
    return ProbeResult(fault, 0.0, detail, path, status=reply.status, retry_after=retry_after)


def _request(
    connection: HttpConnection, target: str, headers: Headers | None = None, body: bytes = b""
) -> HttpReply:
    """Send a GET, or a POST with a body; return at most ``MAX_BYTES`` of the response's body."""
    method = "POST" if body else "GET"
    with connection.stream(method, target, headers, body) as (reply, chunks):
        return reply.read(chunks, MAX_BYTES, cut=True)


def _session(data: bytes) -> str | None:
    """Return the session id in an Engine.IO open packet (``0`` and a JSON object)."""
    try:
        document = json.loads(data[1:]) if data.startswith(b"0") else None
    except (ValueError, RecursionError):
        return None
    session = document.get("sid") if isinstance(document, dict) else None
    if isinstance(session, str) and session.isascii() and session.isprintable():
        return quote(session, safe="")
    return None
