"""Health checks against real HTTP and Engine.IO servers, with TLS and without."""

import contextlib
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
import trustme

from mop_config import Endpoint
from mop_config.health.probe import MAX_BYTES, HealthRequest, Prober, ProbeResult
from mop_config.net.connect import DialOptions, ServerAddress
from mop_config.net.faults import Fault

from ..client.fleet import black_hole, silence
from ..client.handmade import MISSING, NOBODY, OK, Answer, Asked, handmade
from ..client.socket_server import socket_server
from ..ports import closed_port
from ..waiting import wait_for

OPEN = b'0{"sid":"abc-123","upgrades":["websocket"],"pingInterval":25000,"pingTimeout":20000}'


def look(
    kind: str,
    url: str,
    name: str | None = None,
    *,
    tls: ssl.SSLContext = NOBODY,
    timeout: float = 5,
    request: HealthRequest | None = None,
) -> ProbeResult:
    prober = Prober(DialOptions(tls, timeout), request=request or HealthRequest())
    return prober.check(kind, Endpoint.parse(url, 0, name))


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Return the authority that signs the certificates of this module's servers."""
    return trustme.CA()


@pytest.fixture(scope="module")
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """Return a TLS context that trusts the authority."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.configure_trust(context)
    return context


def presenting(certificate: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    certificate.configure_cert(context)
    return context


class TestHttp:
    """The health check of an API endpoint."""

    @pytest.mark.parametrize("status", [200, 204, 299])
    def test_any_success_is_good(self, status: int) -> None:
        """Any 2xx status is healthy, whatever the body."""
        with handmade(lambda asked: (status, {}, b"")) as server:
            result = look("api", f"{server.url}/api/v1")
        assert result.fault is None
        assert result.path == "/api/v1/health"
        assert 0 < result.seconds < 5
        assert (result.certificate_expires, result.name_matches) == (None, None)

    def test_another_path_takes_the_place_of_health(self) -> None:
        """The check requests the path below the endpoint's URL, and at the root after a 404."""
        with handmade(lambda asked: OK if asked.path == "/ok" else MISSING) as server:
            prober = Prober(DialOptions(NOBODY, 5), request=HealthRequest("/ok"))
            endpoint = Endpoint.parse(f"{server.url}/api", 0)
            assert prober.check("api", endpoint).path == "/ok"
            assert prober.check("api", endpoint, "/ok").path == "/ok"
            # Remembered from a check with another path.
            assert prober.check("api", endpoint, "/health").fault is None
        assert server.paths == ["/api/ok", "/ok", "/ok", "/api/ok", "/ok"]

    def test_a_judge_gets_status_headers_and_the_body(self) -> None:
        """A judge function gets status, headers and body, and decides alone."""
        seen: list[tuple[int, str | None, bytes]] = []

        def judge(status: int, headers: Mapping[str, str], body: bytes) -> bool:
            seen.append((status, headers.get("x-service"), body))
            return body == b"teapot"

        request = HealthRequest("/health", judge)
        with handmade(lambda asked: (418, {"X-Service": "ours"}, b"teapot")) as server:
            assert look("api", server.url, request=request).fault is None
            server.answer = lambda asked: OK
            result = look("api", server.url, request=request)
        assert (result.fault, result.path) == (Fault.BAD_STATUS, None)
        assert (
            result.detail == "/health answers 200, but this is not the answer of a healthy endpoint"
        )
        assert seen == [(418, "ours", b"teapot"), (200, None, b"ok")]

    def test_a_judge_gets_the_first_64_kib(self) -> None:
        request = HealthRequest("/health", lambda status, headers, body: len(body) == MAX_BYTES)
        with handmade(lambda asked: (200, {}, b"x" * (MAX_BYTES + 1))) as server:
            assert look("api", server.url, request=request).fault is None

    def test_a_judge_that_exits_blames_nobody(self) -> None:
        request = HealthRequest("/health", lambda status, headers, body: sys.exit(3))
        with handmade() as server:
            result = look("api", server.url, request=request)
        assert result.fault is Fault.OURS
        assert "healthy() raised SystemExit: 3" in result.detail

    def test_a_judge_that_raises_blames_nobody(self) -> None:
        request = HealthRequest("/health", lambda status, headers, body: bool(1 / 0))
        with handmade() as server:
            result = look("api", server.url, request=request)
        assert result.fault is Fault.OURS
        assert "healthy() raised ZeroDivisionError: division by zero" in result.detail

    @pytest.mark.parametrize(
        ("answer", "fault"),
        [
            ((200, {}, b'{"service":"mop-api"}'), None),
            ((200, {}, b"<html>This domain is for sale"), Fault.BAD_STATUS),
            ((503, {}, b'{"service":"mop-api"}'), Fault.BAD_STATUS),
        ],
    )
    def test_a_text_that_the_answer_must_hold(self, answer: Answer, fault: Fault | None) -> None:
        """With a required text, the body must hold that text, besides the status."""
        request = HealthRequest.containing("/health", '"mop-api"')
        with handmade(lambda asked: answer) as server:
            assert look("api", server.url, request=request).fault is fault

    @pytest.mark.parametrize("status", [301, 401, 403, 405, 429, 500, 502, 503])
    def test_no_other_status_is(self, status: int) -> None:
        """Any other status is unhealthy: the check tries no second path and no redirect."""
        with handmade(lambda asked: (status, {"Location": "/ok"}, b"")) as server:
            result = look("api", f"{server.url}/api/v1")
        assert (result.fault, result.path) == (Fault.BAD_STATUS, None)
        assert str(status) in result.detail
        assert server.paths == ["/api/v1/health"]

    def test_a_base_without_a_path_is_asked_once(self) -> None:
        """An endpoint without a path is requested once: its health URL is the root's."""
        with handmade(lambda asked: MISSING) as server:
            assert look("api", server.url).fault is Fault.BAD_STATUS
        assert server.paths == ["/health"]

    @pytest.mark.parametrize("slash", ["", "/"])
    def test_a_slash_at_the_end_changes_nothing(self, slash: str) -> None:
        """One slash stands before ``health``, if the URL ends with a slash or not."""
        with handmade() as server:
            look("api", f"{server.url}/v2{slash}")
        assert server.paths == ["/v2/health"]

    def test_the_server_sees_the_endpoints_name(self) -> None:
        """The Host header names the endpoint, with the port unless it is the default."""
        with handmade() as server:
            look("api", server.url, "api.example.com")
        (asked,) = server.asked
        assert asked.header("host") == f"api.example.com:{server.port}"
        assert (asked.header("user-agent") or "").startswith("mop-config/")

    def test_a_connection_that_closes_between_two_questions_is_made_anew(self) -> None:
        """If the server closes the connection after a 404, the check opens a new connection."""

        def answer(asked: Asked) -> Answer:
            status, headers, body = OK if asked.path == "/health" else MISSING
            return status, {**headers, "Connection": "close"}, body

        with handmade(answer) as server:
            assert look("api", f"{server.url}/v1").path == "/health"

    def test_an_answer_without_end_is_not_read_to_the_end(self) -> None:
        """The check stops reading an endless body at a size limit."""
        with handmade(lambda asked: (200, {}, b"x" * (MAX_BYTES * 40))) as server:
            result = look("api", server.url)
        assert result.fault is None


class TestFaults:
    """Every failure gives a fault word and never an exception."""

    def test_refused(self) -> None:
        """A refused connection gives its fault."""
        result = look("api", f"http://127.0.0.1:{closed_port()}")
        assert result.fault is Fault.REFUSED

    def test_no_such_host(self) -> None:
        """A name that cannot exist (RFC 6761) is a failed look-up, also without a resolver."""
        assert look("api", "http://a.invalid").fault in {Fault.NO_SUCH_HOST, Fault.RESOLVER}

    @pytest.mark.parametrize("kind", ["api", "socketio"])
    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_swallowed(self, kind: str, scheme: str) -> None:
        """A network that drops packets costs the time limit and no more."""
        with black_hole() as port:
            result = look(kind, f"{scheme}://127.0.0.1:{port}", timeout=0.3)
        assert result.fault is Fault.CONNECT_TIMEOUT
        assert 0.3 <= result.seconds < 1.5

    def test_stalled_in_tls(self) -> None:
        """A connection that stalls in the TLS handshake does not count as connected."""
        with silence() as port:
            result = look("api", f"https://127.0.0.1:{port}", timeout=0.3)
        assert result.fault is Fault.CONNECT_TIMEOUT
        assert result.seconds < 1.5

    def test_silent(self) -> None:
        """A server that never answers gives a read time-out."""
        with silence() as port:
            result = look("api", f"http://127.0.0.1:{port}", timeout=0.3)
        assert result.fault is Fault.READ_TIMEOUT

    def test_a_byte_at_a_time(self) -> None:
        """The time limit applies to the whole answer, not to each read."""

        def drip(sock: socket.socket) -> None:
            for _ in range(200):
                sock.sendall(b"H")
                time.sleep(0.02)

        with raw(drip) as port:
            result = look("api", f"http://127.0.0.1:{port}", timeout=0.4)
        assert result.fault in {Fault.READ_TIMEOUT, Fault.PROTOCOL}
        assert result.seconds < 2

    @pytest.mark.parametrize(
        "said",
        [
            b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\n",
            b"HTTP/1.1 " + b"9" * 70000,
        ],
        ids=["ssh", "nothing", "odd-length", "endless-line"],
    )
    def test_no_http(self, said: bytes) -> None:
        """A server that sends no HTTP, or nothing, gives a protocol fault."""
        with raw(lambda sock: sock.sendall(said)) as port:
            assert look("api", f"http://127.0.0.1:{port}").fault is Fault.PROTOCOL

    def test_plain_http_where_tls_should_be(self) -> None:
        """A plain HTTP server at an https URL gives a TLS fault."""
        with handmade() as server:
            result = look("api", server.url.replace("http", "https"))
        assert result.fault is Fault.TLS

    def test_a_proxy_that_is_none(self) -> None:
        """The check ignores an invalid proxy in the environment, so that no endpoint is blamed."""

        def proxy_for(server: ServerAddress) -> httpx2.Proxy:
            return httpx2.Proxy("nothing://proxy.example")

        prober = Prober(DialOptions(NOBODY, 5, proxy_for=proxy_for))
        result = prober.check("api", Endpoint("http://api.example"))
        assert result.fault is Fault.OURS
        assert "proxy" in result.detail

    def test_called_off(self) -> None:
        """An abort ends running checks at once and later checks too; no endpoint is blamed."""
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(10)
            prober = Prober(DialOptions(NOBODY, 30))
            endpoint = Endpoint(f"https://127.0.0.1:{listener.getsockname()[1]}")
            results: list[ProbeResult] = []
            checkers = [
                threading.Thread(target=lambda: results.append(prober.check("api", endpoint)))
                for _ in range(3)
            ]
            for checker in checkers:
                checker.start()
            for _ in checkers:
                stack.enter_context(listener.accept()[0])
            prober.abort()
            for checker in checkers:
                checker.join(5)
            results.append(prober.check("socketio", endpoint))
        assert [result.fault for result in results] == [Fault.OURS] * 4
        assert prober._sockets == set()

    def test_an_abort_before_a_socket_is_connected_ends_its_check(self) -> None:
        """An abort also ends a check whose socket is not connected and so cannot be shut down."""

        class Interrupted(Prober):
            def adopt(self, sock: socket.socket) -> None:
                super().adopt(sock)
                self.abort()

        with silence() as port:
            result = Interrupted(DialOptions(NOBODY, 20)).check(
                "api", Endpoint(f"http://127.0.0.1:{port}")
            )
        assert result.fault is Fault.OURS
        assert result.seconds < 10


class Watched(Prober):
    """A prober that records each connection's ALPN protocol when the connection ends."""

    def __init__(self, tls: ssl.SSLContext, timeout: float) -> None:
        super().__init__(DialOptions(tls, timeout))
        self.chosen: list[str | None] = []

    def release(self, sock: socket.socket) -> None:
        if isinstance(sock, ssl.SSLSocket):
            self.chosen.append(sock.selected_alpn_protocol())
        super().release(sock)


class TestTls:
    """Certificates are always verified, and their data is reported."""

    def test_a_good_certificate(self, authority: trustme.CA, trust: ssl.SSLContext) -> None:
        """The result holds the certificate's end date and says that its name matches."""
        ends = datetime.now(UTC).replace(microsecond=0) + timedelta(days=30)
        certificate = authority.issue_cert("127.0.0.1", not_after=ends)
        with handmade(tls=presenting(certificate)) as server:
            result = look("api", server.url, tls=trust)
        assert result.fault is None
        assert result.certificate_expires == ends
        assert result.name_matches is True

    def test_a_server_name_is_what_the_certificate_must_be_for(
        self, authority: trustme.CA, trust: ssl.SSLContext
    ) -> None:
        """A configured server name is used for SNI, Host and the certificate check."""
        context = presenting(authority.issue_cert("api.example.com"))
        names: list[Any] = []
        context.sni_callback = lambda sock, name, context: names.append(name)
        with handmade(tls=context) as server:
            good = look("api", server.url, "api.example.com", tls=trust)
            bad = look("api", server.url, tls=trust)
        assert good.fault is None
        assert names[0] == "api.example.com"
        assert server.asked[0].header("host") == f"api.example.com:{server.port}"
        assert (bad.fault, bad.name_matches) == (Fault.TLS, False)
        assert "mismatch" in bad.detail.lower()

    @pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
    def test_another_name(self, host: str, authority: trustme.CA, trust: ssl.SSLContext) -> None:
        """A certificate for another name or address has a fault of its own."""
        with handmade(tls=presenting(authority.issue_cert("other.example"))) as server:
            result = look("api", f"https://{host}:{server.port}", tls=trust)
        assert (result.fault, result.name_matches) == (Fault.TLS, False)

    def test_a_stranger_signed(self, trust: ssl.SSLContext) -> None:
        """For a certificate of an unknown authority, the result says nothing of the name."""
        stranger = trustme.CA().issue_cert("127.0.0.1")
        with handmade(tls=presenting(stranger)) as server:
            result = look("api", server.url, tls=trust)
        assert (result.fault, result.name_matches) == (Fault.TLS, None)
        assert result.certificate_expires is None

    def test_an_expired_one(self, authority: trustme.CA, trust: ssl.SSLContext) -> None:
        """An expired certificate gives the reason in words."""
        past = datetime.now(UTC) - timedelta(days=1)
        certificate = authority.issue_cert("127.0.0.1", not_after=past)
        with handmade(tls=presenting(certificate)) as server:
            result = look("api", server.url, tls=trust)
        assert result.fault is Fault.TLS
        assert "expired" in result.detail

    def test_a_context_that_a_client_offers_http2_with(
        self, authority: trustme.CA, trust: ssl.SSLContext
    ) -> None:
        """The check negotiates HTTP/1.1 even if the client's TLS context offers HTTP/2."""
        context = presenting(authority.issue_cert("127.0.0.1"))
        context.set_alpn_protocols(["h2", "http/1.1"])
        trust.set_alpn_protocols(["h2", "http/1.1"])
        with handmade(tls=context) as server:
            prober = Watched(trust, 5)
            assert prober.check("api", Endpoint(server.url)).fault is None
        assert prober.chosen == ["http/1.1"]


class TestEngineIo:
    """The health check of a Socket.io endpoint, an Engine.IO handshake."""

    @pytest.mark.parametrize(
        ("path", "engine"),
        [
            ("", "/socket.io"),
            ("/ws", "/ws/socket.io"),
            ("/ws/", "/ws/socket.io"),
            ("/ws/socket.io", "/ws/socket.io"),
            ("/mysocket.io", "/mysocket.io/socket.io"),
        ],
    )
    def test_the_engines_path(self, path: str, engine: str) -> None:
        """The Engine.IO path is appended once to the URL's path, and the session is closed."""

        def answer(asked: Asked) -> Answer:
            if not asked.path.startswith(f"{engine}/?EIO=4&transport=polling"):
                return MISSING
            return (200, {}, OPEN if asked.method == "GET" else b"ok")

        with handmade(answer) as server:
            result = look("socketio", f"{server.url}{path}")
        assert (result.fault, result.path) == (None, engine)
        assert [asked.method for asked in server.asked] == ["GET", "POST"]
        assert server.paths[1].endswith("&sid=abc-123")

    def test_a_websocket_scheme_is_its_http_one(self) -> None:
        """A ``ws`` URL is checked over plain HTTP."""
        with handmade(lambda asked: (200, {}, OPEN)) as server:
            assert look("socketio", server.url.replace("http", "ws")).fault is None

    @pytest.mark.parametrize(
        "answer",
        [
            (404, {}, b""),
            (200, {}, b"<html>welcome</html>"),
            (200, {}, b"0{"),
            (200, {}, b"0[]"),
            (200, {}, b'0{"sid":5}'),
            (200, {}, b'0{"sid":"a\\nb"}'),
            (200, {}, b"0" + b"[" * 60000),
            (500, {}, OPEN),
            (400, {}, b"no"),
        ],
        ids=lambda answer: str(answer[2][:12]),
    )
    def test_no_handshake(self, answer: Answer) -> None:
        """A web server without an Engine.IO handshake is unhealthy."""
        with handmade(lambda asked: answer) as server:
            assert look("socketio", server.url).fault is Fault.BAD_STATUS

    def test_a_server_that_takes_websockets_only(self) -> None:
        """A WebSocket-only server, which answers 400 to polling, is healthy."""

        def answer(asked: Asked) -> Answer:
            if "transport=websocket" in asked.path and asked.header("upgrade") == "websocket":
                return 101, {"Upgrade": "websocket", "Connection": "Upgrade"}, b""
            return 400, {}, b"transport"

        with handmade(answer) as server:
            result = look("socketio", server.url)
        assert result.fault is None
        assert "WebSocket" in result.detail

    def test_a_goodbye_that_fails_matters_to_nobody(self) -> None:
        """A failure to close the session does not matter after a good handshake."""

        def answer(asked: Asked) -> Answer:
            return (200, {}, OPEN) if asked.method == "GET" else (500, {}, b"")

        with handmade(answer) as server:
            assert look("socketio", server.url).fault is None

    @pytest.mark.parametrize(("path", "transports"), [("", ""), ("/ws", "websocket")])
    def test_a_real_server(self, tmp_path: Path, path: str, transports: str) -> None:
        """python-socketio is healthy at either path and transport, and keeps no session."""
        with socket_server(tmp_path, "a", path=path, transports=transports) as server:
            result = look("socketio", f"{server.url}{path}")
            assert result.fault is None, result
            wait_for(lambda: server.get("/sessions").json == 0, what="the session is closed")


class raw:  # noqa: N801 - used like a function
    """A server that passes each connection to a function after the first request."""

    def __init__(self, serve: Any) -> None:
        self._serve = serve
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> int:
        self._thread.start()
        return int(self._listener.getsockname()[1])

    def _run(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            with sock:
                try:
                    sock.recv(65536)
                    self._serve(sock)
                except OSError:
                    continue

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join(10)


@pytest.fixture(autouse=True)
def _resolver_threads() -> Iterator[None]:
    """Wait after the test until running look-ups have ended."""
    yield
    wait_for(lambda: not any(t.name == "mop-config-resolve" for t in threading.enumerate()))
