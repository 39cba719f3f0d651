"""One health check over the wire, for the client and for the server's monitor.

An API endpoint is asked for ``{base}/health`` and, on 404 only, for ``/health`` at the root.
A Socket.io endpoint is asked for an Engine.IO handshake, and told goodbye. No redirect is
followed, no proxy of the environment used, no more than 64 KiB read, and the time limit
holds for all of it together. Only the standard library is needed.
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
from ..model.endpoint import Endpoint
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
    """What a health check found.

    Attributes:
        fault: What is wrong, or None.
        seconds: How long it took.
        detail: What was seen, in words.
        path: The path that answered, for the next check, or None.
        certificate_expires: When the certificate ends, or None without TLS.
        name_matches: Whether the certificate is for the endpoint's name, or None where
            that was not seen.
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


class Line(Protocol):
    """A way to one endpoint, for a few small requests before a deadline.

    Attributes:
        connected: Whether a connection stood.
        path: The path of the endpoint's URL, without a final ``/``.
        certificate_expires: When the endpoint's certificate ends, or None.
        name_matches: Whether that is for the endpoint's name, or None.
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
        """Connect, where a request would not do so by itself."""

    def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, bytes]:
        """Send a request; give the status and the beginning of the body."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""


#: Makes the way to an endpoint, up to a monotonic deadline, where that is no direct one; its
#: owner calls it off by what it holds.
Detour = Callable[[Endpoint, float, Hold], Line | None]


class Prober:
    """Runs health checks, from any number of threads.

    Args:
        tls: Context that verifies certificates.
        timeout: Seconds that a check may take.
        resolver: Looks hosts up; one of its own if None.
        detour: Gives the way by a proxy, or None where an endpoint is reached directly.
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
        ask = _api if kind == "api" else _socketio
        return self._examine(endpoint, lambda line: ask(line, known_path))

    def check_each(
        self,
        jobs: Iterable[Job],
        report: Callable[[Job, ProbeResult], object],
        parallel: int,
        share: int | None = None,
    ) -> list[threading.Thread]:
        """Begin to check endpoints, so many at a time.

        Args:
            jobs: Whom to check.
            report: Takes each result, in the thread that found it; once it gives True, those
                that wait are left out.
            parallel: How many at a time.
            share: How many of one server at a time, or None for any number.

        Returns:
            The threads that do it; none where the machine has no thread left and the checks ran
            in the caller's. They are daemons: of an interrupt in the middle of its start, one
            may wait for a lock for ever.
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

    def post(self, url: str, headers: dict[str, str], body: str) -> ProbeResult:
        """Send a message, under the rules of a check; any 2xx is good.

        Args:
            url: Where to: http or https, maybe with a query.
            headers: Headers of the request.
            body: ASCII text.

        Raises:
            AddressError: If the URL cannot be used.
        """
        address, mark, query = url.partition("?")
        target = (parse_url(address).path or "/") + mark + query

        def send(line: Line) -> "Finding":
            status, _ = line.ask("POST", target, headers, body)
            good = 200 <= status < 300
            return None if good else Fault.BAD_STATUS, f"answers {status}", None

        return self._examine(Endpoint.parse(address), send)

    def _examine(self, endpoint: Endpoint, ask: Callable[[Line], "Finding"]) -> ProbeResult:
        started = time.monotonic()
        line = self._line_to(endpoint, started + self._timeout)
        try:
            line.connect()
            fault, detail, path = ask(line)
        except Exception as error:
            fault, detail, path = self._fault_of(error, line), _describe(error), None
        finally:
            line.close()
        seconds = time.monotonic() - started
        return ProbeResult(
            fault,
            seconds,
            detail,
            path,
            line.certificate_expires,
            line.name_matches,
            line.status,
            line.retry_after,
        )

    def _line_to(self, endpoint: Endpoint, deadline: float) -> Line:
        hold = Hold(self.adopt, self.release)
        detour = None if self._detour is None else self._detour(endpoint, deadline, hold)
        return detour or _Line(self, endpoint, deadline)

    def _fault_of(self, error: Exception, line: Line) -> Fault:
        if self._aborted:
            return Fault.OURS
        if isinstance(error, ssl.SSLCertVerificationError):
            line.name_matches = False if error.verify_code in _OTHER_NAME else None
        fault = fault_of(error, connecting=not line.connected)
        if fault is Fault.OURS and not lacks_resources(error):
            return Fault.PROTOCOL  # an answer that the parser has no exception for
        return fault

    def abort(self) -> None:
        """Make every check that runs end now, and every later one at once; takes no lock."""
        self._aborted = True
        for sock in list(self._sockets):
            with contextlib.suppress(OSError):
                # Not SSLSocket's own, which takes the TLS state away from whoever reads.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def adopt(self, sock: socket.socket) -> None:
        """Make a socket one that ``abort`` ends."""
        self._sockets.add(sock)
        if self._aborted:
            raise ConnectionAbortedError("aborted")

    def release(self, sock: socket.socket) -> None:
        """Forget a socket."""
        self._sockets.discard(sock)


def _describe(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return error.verify_message
    return str(error) or type(error).__name__


class _Line:
    """A connection to one endpoint, for a few small requests before a deadline."""

    def __init__(self, prober: Prober, endpoint: Endpoint, deadline: float) -> None:
        url = parse_url(endpoint.url)
        name = endpoint.server_name or url.host
        self._prober = prober
        self._deadline = deadline
        port = url.port or DEFAULT_PORTS[url.scheme]
        server_name = name.strip("[]") if url.scheme in {"https", "wss"} else None
        self._place = Place(url.host, port, server_name)
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
            TimeoutError: If it is over.
        """
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        return left

    def connect(self) -> None:
        """Connect to the first address that is ready, with TLS where the endpoint has it."""
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

    def ask(
        self, method: str, target: str, headers: dict[str, str] | None = None, body: str = ""
    ) -> tuple[int, bytes]:
        """Send a request; give the status and the beginning of the body."""
        if self._sock is None:
            self.connect()
        connection = http.client.HTTPConnection(self._place.host, self._place.port)
        connection.sock = _Deadline(self._sock, self.left)
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


class _Deadline:
    """A socket for ``http.client`` whose every operation ends at one common deadline."""

    def __init__(self, sock: Any, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left

    def sendall(self, data: bytes) -> None:
        self._sock.settimeout(self._left())
        self._sock.sendall(data)

    def makefile(self, mode: str) -> io.BufferedReader:
        return io.BufferedReader(_Reader(self._sock, self._left))

    def close(self) -> None:
        """Do nothing: the line closes its socket."""


class _Reader(io.RawIOBase):
    def __init__(self, sock: Any, left: Callable[[], float]) -> None:
        self._sock = sock
        self._left = left

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        self._sock.settimeout(self._left())
        return int(self._sock.recv_into(buffer))


def expiry(sock: Any) -> datetime | None:
    """Say when the certificate of a TLS connection ends, or None."""
    certificate = sock.getpeercert() or {}
    ends = certificate.get("notAfter")
    if not isinstance(ends, str):
        return None
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(ends), UTC)


Finding = tuple[Fault | None, str, str | None]


def _api(line: Line, known_path: str | None) -> Finding:
    usual = [f"{line.path}/health", "/health"]
    for path in dict.fromkeys([known_path, *usual] if known_path else usual):
        status, _ = line.ask("GET", path)
        if 200 <= status < 300:
            return None, f"{path} answers {status}", path
        if status != http.HTTPStatus.NOT_FOUND:
            break
    return Fault.BAD_STATUS, f"{path} answers {status}", None


def _socketio(line: Line, known_path: str | None) -> Finding:  # noqa: ARG001 - one path only
    path = line.path if line.path.endswith("/socket.io") else f"{line.path}/socket.io"
    target = f"{path}/?{_HANDSHAKE}"
    status, data = line.ask("GET", target)
    session = _session(data) if status == http.HTTPStatus.OK else None
    if session is not None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            line.ask("POST", f"{target}&sid={session}", {"Content-Type": "text/plain"}, "1")
        return None, f"{path} opens a session", path
    if status == http.HTTPStatus.BAD_REQUEST:
        # A server may take WebSocket connections only.
        line.close()
        status, _ = line.ask("GET", f"{path}/?EIO=4&transport=websocket", _WEBSOCKET)
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
