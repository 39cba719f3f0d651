"""One health check over the wire, for the client and for the server's monitor.

An API endpoint gets ``GET {base}/health`` and, on 404 only, ``GET /health``. A Socket.io
endpoint gets an Engine.IO handshake, whose session is then closed. A check follows no redirect,
uses no proxy of the environment and reads at most 64 KiB; one deadline covers all its requests.
Only the standard library is needed.
"""

import contextlib
import http.client
import io
import json
import logging
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple, Protocol
from urllib.parse import quote

from .. import __version__
from ..model.address import DEFAULT_PORTS, parse_url
from ..model.endpoint import Endpoint, Kind
from ..net.connect import DialOptions, Hold, Place, connect
from ..net.faults import Fault, fault_of, lacks_resources
from ..net.resolver import Resolver
from ..net.tls import offering
from .jobs import Job, JobQueue

logger = logging.getLogger(__name__)

MAX_BYTES = 64 * 1024
USER_AGENT = f"mop-config/{__version__}"
_HANDSHAKE = "EIO=4&transport=polling"
#: OpenSSL's X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH.
_OTHER_NAME = frozenset({62, 64})
_WEBSOCKET = {
    "Upgrade": "websocket",
    "Connection": "Upgrade",
    "Sec-WebSocket-Version": "13",
    "Sec-WebSocket-Key": "bW9wLWNvbmZpZyBwcm9iZQ==",
}


class ProbeResult(NamedTuple):
    """The result of a health check.

    Attributes:
        fault: The kind of failure, or None for a healthy endpoint.
        seconds: Duration of the check.
        detail: Description of the response or of the failure.
        path: The path that answered, to be tried first by the next check, or None.
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


class ProbeConnection(Protocol):
    """A connection to one endpoint, direct or by a proxy, for a few requests before a deadline.

    Attributes:
        connected: Whether the connection was established.
        path: The path of the endpoint's URL, without a final ``/``.
        certificate_expires: When the endpoint's certificate ends, or None.
        name_matches: Whether the certificate is for the endpoint's name, or None.
        status: The status of the last answer, or None.
        retry_after: Its ``Retry-After``, or None.
    """

    connected: bool
    path: str
    certificate_expires: datetime | None
    name_matches: bool | None
    status: int | None
    retry_after: str | None

    def connect(self) -> None:
        """Establish the connection, unless the first request does so."""

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, bytes]:
        """Send a request; return the status and at most ``MAX_BYTES`` of the body."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""


#: Makes the connection by a proxy to an endpoint, given a monotonic deadline and the ``Hold``
#: through which the check can be aborted; None means that the endpoint is reached directly.
Detour = Callable[[Endpoint, float, Hold], ProbeConnection | None]


#: The fault or None, what was seen in words, and the path that answered or None.
CheckOutcome = tuple[Fault | None, str, str | None]


class Prober:
    """Runs health checks, from any number of threads.

    Args:
        tls: Context that verifies certificates.
        timeout: Limit of one check, in seconds.
        resolver: Looks up host names; None for a new one.
        detour: Makes connections by a proxy; None if there is no proxy.
    """

    def __init__(
        self,
        tls: ssl.SSLContext,
        timeout: float,
        resolver: Resolver | None = None,
        detour: Detour | None = None,
    ) -> None:
        self.tls = offering(tls, ["http/1.1"])
        self.resolver = resolver or Resolver()
        self._timeout = timeout
        self._detour = detour
        self._sockets: set[socket.socket] = set()
        self._aborted = False

    def check(self, kind: str, endpoint: Endpoint, known_path: str | None = None) -> ProbeResult:
        """Check one endpoint; never raises.

        Args:
            kind: ``api`` or ``socketio``.
            endpoint: What to check.
            known_path: The path that answered before, or None.
        """
        check = _check_api if kind == Kind.API else _check_socketio
        return self._examine(endpoint, lambda connection: check(connection, known_path))

    def check_each(
        self,
        jobs: Iterable[Job],
        report: Callable[[Job, ProbeResult], object],
        parallel: int,
        share: int | None = None,
    ) -> list[threading.Thread]:
        """Start checks of several endpoints in threads.

        Args:
            jobs: The endpoints to check.
            report: Called with each result, in the thread of the check; after it has returned
                True, no further check is started.
            parallel: Limit of checks at a time.
            share: Limit of checks of one server at a time; None for no limit.

        Returns:
            The threads of the checks; empty if no thread could be started and the checks ran in
            the caller's thread. They are daemons: if an interrupt arrives while a thread starts,
            it may wait for a lock for ever.
        """
        queue, lock = JobQueue(jobs, share), threading.Lock()

        def work() -> None:
            done = None
            while True:
                with lock:
                    if done is not None:
                        queue.done(done)
                    done = job = queue.take()
                if job is None:
                    return
                if report(job, self.check(*job)) is True:
                    with lock:
                        queue.clear()

        threads = [
            threading.Thread(target=work, name="mop-config-check", daemon=True)
            for _ in range(min(parallel, queue.ready()))
        ]
        started = []
        for thread in threads:
            try:
                thread.start()
            except RuntimeError as error:
                if not lacks_resources(error):
                    raise  # an interrupt in the middle of the start leaves a lock in disorder
                # Out of threads: those that run take the jobs, or else the caller does.
                logger.debug("fewer checks at a time: %s", error)
                break
            started.append(thread)
        if not started:
            work()
        return started

    def _examine(
        self, endpoint: Endpoint, check: Callable[[ProbeConnection], CheckOutcome]
    ) -> ProbeResult:
        started = time.monotonic()
        connection = self._connection_to(endpoint, started + self._timeout)
        try:
            connection.connect()
            fault, detail, path = check(connection)
        except Exception as error:
            fault, detail, path = self._fault_of(error, connection), _describe(error), None
        finally:
            connection.close()
        seconds = time.monotonic() - started
        return ProbeResult(
            fault,
            seconds,
            detail,
            path,
            connection.certificate_expires,
            connection.name_matches,
            connection.status,
            connection.retry_after,
        )

    def _connection_to(self, endpoint: Endpoint, deadline: float) -> ProbeConnection:
        hold = Hold(self.adopt, self.release)
        detour = None if self._detour is None else self._detour(endpoint, deadline, hold)
        return detour or _DirectConnection(self, endpoint, deadline)

    def _fault_of(self, error: Exception, connection: ProbeConnection) -> Fault:
        if self._aborted:
            return Fault.OURS
        if isinstance(error, ssl.SSLCertVerificationError):
            connection.name_matches = False if error.verify_code in _OTHER_NAME else None
        fault = fault_of(error, connecting=not connection.connected)
        if fault is Fault.OURS and not lacks_resources(error):
            return Fault.PROTOCOL  # an answer that the parser has no exception for
        return fault

    def abort(self) -> None:
        """End running checks now and later ones at once, without taking a lock."""
        self._aborted = True
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                # SSLSocket.shutdown would drop the TLS state that another thread is reading with.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def adopt(self, sock: socket.socket) -> None:
        """Register a socket that ``abort`` shuts down."""
        self._sockets.add(sock)
        if self._aborted:
            raise ConnectionAbortedError("aborted")

    def release(self, sock: socket.socket) -> None:
        """Remove a socket from those that ``abort`` shuts down."""
        self._sockets.discard(sock)


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error) or type(error).__name__


class _DirectConnection:
    """A direct connection to one endpoint, without a proxy."""

    def __init__(self, prober: Prober, endpoint: Endpoint, deadline: float) -> None:
        url = parse_url(endpoint.url)
        name = endpoint.host_name
        self._prober = prober
        self._deadline = deadline
        port = url.port or DEFAULT_PORTS[url.scheme]
        tls_name = name.strip("[]") if url.scheme in {"https", "wss"} else None
        self._place = Place(url.host, port, tls_name)
        self._authority = name if port == DEFAULT_PORTS[url.scheme] else f"{name}:{port}"
        self._sock: socket.socket | None = None
        self.connected = False
        self.path = url.path.rstrip("/")
        self.certificate_expires: datetime | None = None
        self.name_matches: bool | None = None
        self.status: int | None = None
        self.retry_after: str | None = None

    def left(self) -> float:
        """Seconds until the deadline.

        Raises:
            TimeoutError: If the deadline has passed.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def connect(self) -> None:
        """Connect to the first address that accepts, with TLS for https and wss."""
        prober = self._prober
        options = DialOptions(prober.tls, self.left(), until=self._deadline)
        hold = Hold(prober.adopt, prober.release)
        sock = self._sock = connect(self._place, options, prober.resolver, hold)
        prober.adopt(sock)
        if isinstance(sock, ssl.SSLSocket):
            self.certificate_expires = expiry(sock)
            self.name_matches = True
        self.connected = True

    def close(self) -> None:
        """Close the connection."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._prober.release(sock)
            sock.close()

    def request(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, bytes]:
        """Send a request; return the status and at most ``MAX_BYTES`` of the body."""
        if self._sock is None:
            self.connect()
        connection = http.client.HTTPConnection(self._place.host, self._place.port)
        connection.sock = _DeadlineSocket(self._sock, self.left)
        about = {"Host": self._authority, "User-Agent": USER_AGENT, "Accept": "*/*"}
        connection.request(method, target, body or None, {**about, **(headers or {})})
        with connection.getresponse() as response:
            if response.status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                data = b""
            else:
                data = response.read(MAX_BYTES)
            if response.will_close or not response.isclosed():
                self.close()
            self.status = response.status
            self.retry_after = response.getheader("Retry-After")
            return response.status, data


class _DeadlineSocket:
    """A socket for ``http.client`` whose every operation ends at one common deadline."""

    def __init__(self, sock: Any, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_DeadlineReader(self._sock, self._left))

    def close(self) -> None:
        """Do nothing: the connection closes its socket."""


class _DeadlineReader(io.RawIOBase):
    def __init__(self, sock: Any, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._left())
        return int(self._sock.recv_into(buffer))


def expiry(sock: Any) -> datetime | None:
    """Return the expiry date of the peer's certificate, or None without one."""
    certificate = sock.getpeercert() or {}
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)


def _check_api(connection: ProbeConnection, known_path: str | None) -> CheckOutcome:
    usual = [f"{connection.path}/health", "/health"]
    for path in dict.fromkeys([known_path, *usual] if known_path else usual):
        status, _ = connection.request("GET", path)
        if 200 <= status < 300:
            return None, f"{path} answers {status}", path
        if status != http.HTTPStatus.NOT_FOUND:
            break
    return Fault.BAD_STATUS, f"{path} answers {status}", None


def _check_socketio(connection: ProbeConnection, known_path: str | None) -> CheckOutcome:  # noqa: ARG001 - one path only
    path = (
        connection.path
        if connection.path.endswith("/socket.io")
        else f"{connection.path}/socket.io"
    )
    target = f"{path}/?{_HANDSHAKE}"
    status, data = connection.request("GET", target)
    session = _session(data) if status == http.HTTPStatus.OK else None
    if session is not None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            connection.request(
                "POST", f"{target}&sid={session}", {"Content-Type": "text/plain"}, "1"
            )
        return None, f"{path} opens a session", path
    if status == http.HTTPStatus.BAD_REQUEST:
        # A server may take WebSocket connections only.
        connection.close()
        status, _ = connection.request("GET", f"{path}/?EIO=4&transport=websocket", _WEBSOCKET)
        if status == http.HTTPStatus.SWITCHING_PROTOCOLS:
            return None, f"{path} opens a WebSocket", path
    return Fault.BAD_STATUS, f"{path} answers {status}, and no handshake", None


def _session(data: bytes) -> str | None:
    """Read the session's id out of an Engine.IO open packet: ``0`` and a JSON object."""
    try:
        document = json.loads(data[1:]) if data.startswith(b"0") else None
    except (ValueError, RecursionError):
        return None
    session = document.get("sid") if isinstance(document, dict) else None
    if isinstance(session, str) and session.isascii() and session.isprintable():
        return quote(session, safe="")
    return None
