"""The client uses the application's TLS context and never changes it."""

import socket
import ssl
import threading
from pathlib import Path
from typing import Any

import pytest
import trustme

from mop_config.client import EndpointManager, FailoverSocketClient, NoEndpointAvailable
from mop_config.health.probe import Prober
from mop_config.model.endpoint import Endpoint
from mop_config.net.connect import DialOptions, offering

from .driver import Driver
from .streams import Streams, speaking


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """The certificate authority that signs the server certificates."""
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """A server context whose ALPN list has HTTP/2, HTTP/1.1 and the application's protocol."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    context.set_alpn_protocols(["mine", "h2", "http/1.1"])
    return context


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """An application's client context that offers its own protocol by ALPN."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.set_alpn_protocols(["mine"])
    return context


def _still_offers_its_own(trust: ssl.SSLContext, server: Streams) -> bool:
    port = int(server.url.rpartition(":")[2])
    with (
        socket.create_connection(("127.0.0.1", port)) as raw,
        trust.wrap_socket(raw, server_hostname="127.0.0.1") as sock,
    ):
        return sock.selected_alpn_protocol() == "mine"


@pytest.mark.parametrize("http2", [True, False])
def test_the_protocols_of_the_applications_context_stay(
    trust: ssl.SSLContext, server_context: ssl.SSLContext, kind: str, http2: bool
) -> None:
    """Requests and health checks leave the ALPN protocols of the context unchanged."""
    with speaking(server_context) as server:
        with Driver(kind, [server.url], verify=trust, http2=http2, trust_env=False) as driver:
            version = "HTTP/2" if http2 else "HTTP/1.1"
            assert driver.get("/users").http_version == version
            assert driver.get(f"{server.url}/plain").http_version == version
            with driver.checking():
                pass
        assert Prober(DialOptions(trust, 5.0)).check("api", Endpoint(server.url)).fault is None
        assert _still_offers_its_own(trust, server)


def test_requests_and_checks_at_the_same_time_offer_each_their_own(
    trust: ssl.SSLContext, server_context: ssl.SSLContext, kind: str
) -> None:
    """Concurrent checks over the same context do not turn HTTP/2 requests into HTTP/1.1."""
    over = threading.Event()
    with speaking(server_context) as server:
        prober = Prober(DialOptions(trust, 5.0))

        def check() -> None:
            while not over.is_set():
                assert prober.check("api", Endpoint(server.url)).fault is None

        checker = threading.Thread(target=check)
        checker.start()
        versions = []
        try:
            for _ in range(40):
                with Driver(kind, [server.url], verify=trust, http2=True) as driver:
                    versions.append(driver.get("/users").http_version)
        finally:
            over.set()
            checker.join()
    assert versions == ["HTTP/2"] * 40


def test_a_context_of_ours_trusts_whom_the_applications_trusts(
    authority: trustme.CA, trust: ssl.SSLContext, server_context: ssl.SSLContext, kind: str
) -> None:
    """The derived context follows the original's CAs, also later ones, names and TLS versions."""
    with speaking(server_context) as server:
        stranger = ssl.create_default_context()
        with Driver(kind, [server.url], verify=stranger) as driver:
            with pytest.raises(NoEndpointAvailable) as caught:
                driver.get("/")
            assert [trial.fault for trial in caught.value.attempts] == ["tls"]
            authority.configure_trust(stranger)
            assert driver.get("/").text == "ok"
        misnamed = Endpoint(server.url, 0, "other.example.com")
        with (
            Driver(kind, [misnamed], verify=trust) as driver,
            pytest.raises(NoEndpointAvailable),
        ):
            driver.get("/")
        old = ssl.create_default_context()
        authority.configure_trust(old)
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        with Driver(kind, [server.url], verify=old) as driver:
            assert driver.get("/").text == "ok"
        assert [peer.sock.version() for peer in server.peers][-1] in {"TLSv1.2", None}


def test_the_applications_client_certificate_is_shown(
    authority: trustme.CA, trust: ssl.SSLContext, server_context: ssl.SSLContext, kind: str
) -> None:
    """Requests and checks both present the client certificate of the application's context."""
    authority.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    # With TLS 1.3 the client would see the refusal only after the handshake.
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    with speaking(server_context) as server:
        assert Prober(DialOptions(trust, 5.0)).check("api", Endpoint(server.url)).fault == "tls"
        authority.issue_cert("client@example.com").configure_cert(trust)
        assert Prober(DialOptions(trust, 5.0)).check("api", Endpoint(server.url)).fault is None
        with Driver(kind, [server.url], verify=trust, http2=True) as driver:
            assert driver.get("/").http_version == "HTTP/2"


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_authorities_and_a_client_certificate_from_files(
    authority: trustme.CA, server_context: ssl.SSLContext, kind: str, tmp_path: Path
) -> None:
    """``verify`` and ``cert`` take files, without a warning of httpx2."""
    authority.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2
    authorities, own = tmp_path / "ca.pem", tmp_path / "own.pem"
    authority.cert_pem.write_to_path(authorities)
    authority.issue_cert("client@example.com").private_key_and_cert_chain_pem.write_to_path(own)
    with speaking(server_context) as server:
        files: dict[str, Any] = {"verify": str(authorities), "cert": str(own)}
        with Driver(kind, [server.url], of_manager=files, **files) as driver:
            assert driver.get("/").text == "ok"
            assert driver.check(server.url)


def test_a_context_is_lent_once_however_often_it_is_handed_on(trust: ssl.SSLContext) -> None:
    """A context derived from a derived context still uses the application's CA certificates."""
    again = offering(offering(trust, ["h2"]), ["http/1.1"])
    assert again.sslobject_class.lender is trust  # type: ignore[attr-defined]


def test_a_socket_client_leaves_the_context_alone(
    trust: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """A Socket.io client leaves the context's ALPN protocols, although urllib3 sets its own."""
    with speaking(server_context) as server:
        manager = EndpointManager(
            [], [server.url], verify=trust, update_interval=0, trust_env=False
        )
        client = FailoverSocketClient(manager)
        try:
            with pytest.raises(Exception, match=r".+"):
                client.connect(wait_timeout=1)
        finally:
            client.disconnect()
        assert server.peers
        assert _still_offers_its_own(trust, server)
