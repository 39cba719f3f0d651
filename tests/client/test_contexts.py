"""The TLS context that an application hands in is used, and never changed."""

import socket
import ssl
import threading

import pytest
import trustme

from mop_config.client import EndpointManager, FailoverSocketClient, NoEndpointAvailable
from mop_config.health.probe import Prober
from mop_config.model.endpoint import Endpoint
from mop_config.net.tls import offering

from .driver import Driver
from .streams import Streams, speaking


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    """Who signs the servers' certificates."""
    return trustme.CA()


@pytest.fixture
def server_context(authority: trustme.CA) -> ssl.SSLContext:
    """A server's context, which speaks HTTP/2, HTTP/1.1 and a protocol of the application."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1", "localhost").configure_cert(context)
    context.set_alpn_protocols(["mine", "h2", "http/1.1"])
    return context


@pytest.fixture
def trust(authority: trustme.CA) -> ssl.SSLContext:
    """An application's context, which it uses for a protocol of its own as well."""
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
    """After requests, checks, updates and attempts of Socket.io clients."""
    with speaking(server_context) as server:
        with Driver(kind, [server.url], verify=trust, http2=http2, trust_env=False) as driver:
            version = "HTTP/2" if http2 else "HTTP/1.1"
            assert driver.get("/users").http_version == version
            assert driver.get(f"{server.url}/plain").http_version == version
            with driver.checking():
                pass
        assert Prober(trust, 5.0).check("api", Endpoint(server.url)).fault is None
        assert _still_offers_its_own(trust, server)


def test_requests_and_checks_at_the_same_time_offer_each_their_own(
    trust: ssl.SSLContext, server_context: ssl.SSLContext, kind: str
) -> None:
    """Over one context: no request that asked for HTTP/2 is made over HTTP/1.1."""
    over = threading.Event()
    with speaking(server_context) as server:
        prober = Prober(trust, 5.0)

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
    """Not less, not more: its authorities, also those it learns later, its names and versions."""
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
    """By requests as well as by checks."""
    authority.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.maximum_version = ssl.TLSVersion.TLSv1_2  # where a refusal shows at once
    with speaking(server_context) as server:
        assert Prober(trust, 5.0).check("api", Endpoint(server.url)).fault == "tls"
        authority.issue_cert("client@example.com").configure_cert(trust)
        assert Prober(trust, 5.0).check("api", Endpoint(server.url)).fault is None
        with Driver(kind, [server.url], verify=trust, http2=True) as driver:
            assert driver.get("/").http_version == "HTTP/2"


def test_a_context_is_lent_once_however_often_it_is_handed_on(trust: ssl.SSLContext) -> None:
    """A context made from one of ours still takes its authorities from the application's."""
    again = offering(offering(trust, ["h2"]), ["http/1.1"])
    assert again.sslobject_class.lender is trust  # type: ignore[attr-defined]


def test_a_socket_client_leaves_the_context_alone(
    trust: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """urllib3 sets protocols of its own on the context that it is given."""
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
