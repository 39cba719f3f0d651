"""The guarantees of one bounded HTTP request."""

import contextlib
import gzip
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx2
import pytest
import trustme

from mop_config.net.connect import DialOptions
from mop_config.net.faults import BodyTooLargeError, Fault, HttpError
from mop_config.net.http import HttpClient, HttpRequest
from mop_config.net.resolver import Resolver

from ..client.fleet import black_hole, silence
from ..client.handmade import NOBODY, Answer, Asked, handmade
from ..client.proxy import forward_proxy
from ..ports import closed_port

TOKEN = "a-token"
MAX_BYTES = 10_000


def client(
    tls: ssl.SSLContext = NOBODY, resolver: Resolver | None = None, **options: Any
) -> HttpClient:
    return HttpClient(DialOptions(tls, 5.0, **options), resolver)


def asking(url: str, seconds: float = 5.0, **options: Any) -> HttpRequest:
    return HttpRequest(url, time.monotonic() + seconds, MAX_BYTES, **options)


def answering(answer: Answer) -> Callable[[Asked], Answer]:
    return lambda asked: answer


@contextmanager
def raw(serve: Callable[[socket.socket], None]) -> Iterator[int]:
    """Listen on a port, and pass its one connection to a function after the request's head."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def run() -> None:
            sock, _ = listener.accept()
            with sock:
                data = b""
                while b"\r\n\r\n" not in data and (part := sock.recv(65536)):
                    data += part
                try:
                    serve(sock)
                except OSError:
                    return

        thread = threading.Thread(target=run)
        thread.start()
        yield listener.getsockname()[1]
        thread.join(10)


class TestDeadline:
    """One deadline applies to connecting, sending, redirects and reading together."""

    def test_while_connecting(self) -> None:
        """The deadline ends a dial into a network that drops packets."""
        with black_hole() as port:
            began = time.monotonic()
            with pytest.raises(HttpError, match="timed out") as failure:
                client().request(asking(f"http://127.0.0.1:{port}", 0.3))
        assert failure.value.fault is Fault.CONNECT_TIMEOUT
        assert 0.3 <= time.monotonic() - began < 1.5

    @pytest.mark.parametrize("start", [b"", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
    def test_byte_by_byte(self, start: bytes) -> None:
        """The deadline ends an answer whose headers or body arrive byte by byte."""

        def drip(sock: socket.socket) -> None:
            sock.sendall(start)
            for _ in range(400):
                sock.sendall(b"H")
                time.sleep(0.02)

        with raw(drip) as port:
            began = time.monotonic()
            with pytest.raises(HttpError, match="timed out") as failure:
                client().request(asking(f"http://127.0.0.1:{port}", 0.4))
        assert failure.value.fault is Fault.READ_TIMEOUT
        assert time.monotonic() - began < 2

    def test_a_server_that_reads_nothing(self) -> None:
        """The deadline ends the sending of a body that the server does not read."""
        with silence() as port:
            began = time.monotonic()
            request = asking(f"http://127.0.0.1:{port}", 0.4, method="POST", body=b"x" * 50_000_000)
            with pytest.raises(HttpError, match="timed out"):
                client().request(request)
        assert time.monotonic() - began < 2

    def test_silence_has_a_limit_of_its_own(self) -> None:
        """The silence limit ends a request before the deadline."""
        with silence() as port:
            began = time.monotonic()
            with pytest.raises(HttpError, match="timed out"):
                client().request(asking(f"http://127.0.0.1:{port}", 60, silence=0.2))
        assert time.monotonic() - began < 2

    def test_redirects_share_it(self) -> None:
        """Redirects share the deadline of their request."""

        def answer(asked: Asked) -> Answer:
            time.sleep(0.25)
            return 302, {"Location": asked.path + "x"}, b""

        with handmade(answer) as server:
            with pytest.raises(HttpError, match="timed out"):
                client().request(asking(f"{server.url}/", 0.6))
            assert len(server.asked) <= 3


class TestBody:
    """The size limit applies to the unpacked body."""

    def test_a_gzip_bomb(self) -> None:
        """A gzip bomb is not unpacked beyond the limit."""
        packed = gzip.compress(b"0" * 50_000_000)
        with handmade(answering((200, {"Content-Encoding": "gzip"}, packed))) as server:
            tracemalloc.start()
            try:
                with pytest.raises(BodyTooLargeError, match="larger than 10000 bytes"):
                    client().request(asking(server.url))
                reply = client().request(asking(server.url, cut=True))
                _, most = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert reply.body == b"0" * MAX_BYTES
        assert most < 10_000_000

    @pytest.mark.parametrize("size", [0, MAX_BYTES, MAX_BYTES + 1])
    def test_the_limit_itself_is_allowed(self, size: int) -> None:
        """A body of exactly the limit is allowed, packed or not."""
        body = b"1" * size
        for headers, sent in (({}, body), ({"Content-Encoding": "gzip"}, gzip.compress(body))):
            with handmade(answering((200, dict(headers), sent))) as server:
                if size <= MAX_BYTES:
                    assert client().request(asking(server.url)).body == body
                    continue
                with pytest.raises(BodyTooLargeError):
                    client().request(asking(server.url))

    def test_a_gzip_body_that_breaks_off(self) -> None:
        """A part of a gzip body is an error, though the response has the length that it states."""
        packed = gzip.compress(b"text" * 1000)[:-9]
        with (
            handmade(answering((200, {"Content-Encoding": "gzip"}, packed))) as server,
            pytest.raises(HttpError, match="the gzip body breaks off"),
        ):
            client().request(asking(server.url))

    def test_a_body_that_is_not_gzip(self) -> None:
        """A body that is not gzip is an error with a reason in words."""
        with (
            handmade(answering((200, {"Content-Encoding": "gzip"}, b"plain"))) as server,
            pytest.raises(HttpError, match="not gzip"),
        ):
            client().request(asking(server.url))

    def test_a_body_that_breaks_off(self) -> None:
        """A body that is cut off is not returned as a response."""
        with (
            raw(lambda s: s.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")) as port,
            pytest.raises(HttpError) as failure,
        ):
            client().request(asking(f"http://127.0.0.1:{port}"))
        assert failure.value.fault is Fault.PROTOCOL

    def test_a_connection_that_is_closed_without_a_response(self) -> None:
        """A connection closed without a response is a fault of the protocol, as in a request."""
        with raw(lambda sock: None) as port, pytest.raises(HttpError) as failure:
            client().request(asking(f"http://127.0.0.1:{port}"))
        assert failure.value.fault is Fault.PROTOCOL

    def test_any_status_is_a_response(self) -> None:
        """A response with any status is returned with its headers and body."""
        answer = 503, {"Retry-After": "7"}, b"busy"
        with handmade(answering(answer)) as server:
            reply = client().request(asking(f"{server.url}/a?q=1 2&é", method="POST", body=b"hi"))
        assert (reply.status, reply.headers["retry-after"], reply.body) == (503, "7", b"busy")
        (asked,) = server.asked
        assert (asked.method, asked.path, asked.body) == ("POST", "/a?q=1%202&%C3%A9", b"hi")
        assert (asked.header("user-agent") or "").startswith("mop-config/")


class TestServer:
    """The address that is dialled, and the name that is verified."""

    def test_each_address_of_a_host_is_tried(self) -> None:
        """Each address is tried: the first refuses, and the second drops packets for 0.25 s."""
        with handmade() as server, black_hole(server.port, "127.0.0.2"):
            resolver = Resolver(lambda host: ["127.0.0.3", "127.0.0.2", "127.0.0.1"])
            url = f"http://api.example:{server.port}"
            began = time.monotonic()
            assert client(resolver=resolver).request(asking(url, 30)).status == 200
        assert time.monotonic() - began < 3

    def test_nobody_listens(self) -> None:
        """A refused connection gives the system's error text."""
        with pytest.raises(HttpError, match="refused") as failure:
            client().request(asking(f"http://127.0.0.1:{closed_port()}"))
        assert failure.value.fault is Fault.REFUSED

    def test_the_certificate_is_for_the_server_name(self) -> None:
        """The server name is used for SNI, ``Host`` and the certificate check."""
        authority = trustme.CA()
        trust, context = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.configure_trust(trust)
        authority.issue_cert("api.example.com").configure_cert(context)
        with handmade(tls=context) as server:
            names = {server.url: "api.example.com"}
            assert client(trust).request(asking(server.url, server_names=names)).status == 200
            assert server.asked[0].header("host") == f"api.example.com:{server.port}"
            with pytest.raises(HttpError, match="certificate cannot be trusted") as failure:
                client(trust).request(asking(server.url))
        assert failure.value.fault is Fault.TLS


class TestRedirects:
    """A redirect never makes a request less safe."""

    def test_none_leads_from_https_to_http(self) -> None:
        """A redirect from https to http is refused, even on this machine."""
        authority = trustme.CA()
        trust, context = ssl.create_default_context(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.configure_trust(trust)
        authority.issue_cert("127.0.0.1").configure_cert(context)
        with handmade() as plain:
            with (
                handmade(answering((302, {"Location": plain.url}, b"")), context) as server,
                pytest.raises(HttpError, match="from https to http is not followed"),
            ):
                client(trust).request(asking(server.url))
            assert plain.asked == []

    def test_none_leads_over_http_where_that_is_refused(self) -> None:
        """A redirect over http to another machine is refused if the caller forbids plain http."""
        with (
            handmade(answering((302, {"Location": "http://list.example/"}, b""))) as server,
            pytest.raises(HttpError, match="redirect to plain http"),
        ):
            client().request(asking(server.url, https_only=True))

    def test_a_token_stays_with_its_server(self) -> None:
        """A redirect to another server drops the token; another port is another server."""

        def answer(asked: Asked) -> Answer:
            return (302, {"Location": "/b"}, b"") if asked.path == "/a" else (302, to, b"")

        with handmade() as other:
            to = {"Location": f"{other.url}/c"}
            with handmade(answer) as server:
                client().request(asking(f"{server.url}/a", token=TOKEN))
                seen = [asked.header("authorization") for asked in (*server.asked, *other.asked)]
        assert seen == [f"Bearer {TOKEN}", f"Bearer {TOKEN}", None]

    def test_a_post_follows_none(self) -> None:
        """A POST follows no redirect: the redirect is its response."""
        answer = 307, {"Location": "http://127.0.0.1:1/"}, b""
        with handmade(answering(answer)) as server:
            assert client().request(asking(server.url, method="POST")).status == 307

    @pytest.mark.parametrize(
        "location", ["ftp://a.com/", "http://a b/", "http://[::1", "http://u@a/"]
    )
    def test_a_place_that_is_no_url(self, location: str) -> None:
        """An invalid ``Location`` is an error with a reason in words."""
        with (
            handmade(answering((302, {"Location": location}, b""))) as server,
            pytest.raises(HttpError, match="redirect to no usable URL"),
        ):
            client().request(asking(server.url))


class TestProxy:
    """Proxies are used for other machines only."""

    def test_it_sees_no_request_to_this_machine(self) -> None:
        """A request to this machine bypasses the proxy; requests to all other hosts use it."""
        with handmade() as server, forward_proxy({"api.example": server.port}) as proxy:
            asker = client(proxy_for=lambda place: httpx2.Proxy(proxy.url))
            assert asker.request(asking(server.url)).status == 200
            assert proxy.asked == []
            assert asker.request(asking(f"http://api.example:{server.port}/x")).status == 200
            assert proxy.asked == [f"GET http://api.example:{server.port}/x HTTP/1.1"]

    def test_a_proxy_that_is_not_there_is_to_blame(self) -> None:
        """If the proxy refuses the connection, the error blames the proxy."""
        url = f"http://127.0.0.1:{closed_port()}"
        asker = client(proxy_for=lambda place: httpx2.Proxy(url))
        for scheme in ("http", "https"):
            with pytest.raises(HttpError, match="proxy cannot be reached") as failure:
                asker.request(asking(f"{scheme}://api.example/"))
            assert failure.value.fault is Fault.PROXY

    def test_a_proxy_that_demands_credentials(self) -> None:
        """If the proxy demands credentials, the error blames the proxy."""
        with forward_proxy({}, login="user:secret") as proxy:
            asker = client(
                proxy_for=lambda place: httpx2.Proxy(proxy.url.replace("user:secret@", ""))
            )
            for scheme in ("http", "https"):
                with pytest.raises(HttpError) as failure:
                    asker.request(asking(f"{scheme}://api.example/"))
                assert failure.value.fault is Fault.PROXY


class TestAbort:
    """``abort`` from another thread ends all requests at once."""

    @pytest.mark.parametrize("scheme", ["http", "https"])
    def test_what_runs_and_what_comes_later(self, scheme: str) -> None:
        """An abort ends running and later requests without a fault, and closes every socket."""
        failures: list[HttpError] = []
        with contextlib.ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
            listener.settimeout(10)
            port, asker = listener.getsockname()[1], client()

            def ask() -> None:
                try:
                    asker.request(asking(f"{scheme}://127.0.0.1:{port}", 30))
                except HttpError as error:
                    failures.append(error)

            threads = [threading.Thread(target=ask) for _ in range(3)]
            for thread in threads:
                thread.start()
            for _ in threads:
                stack.enter_context(listener.accept()[0])
            asker.abort()
            for thread in threads:
                thread.join(5)
            ask()
        assert [error.fault for error in failures] == [Fault.OURS] * 4
        assert asker._sockets == set()

    def test_in_the_middle_of_a_body(self) -> None:
        """An abort ends a request whose body has stalled half-way."""
        halfway, over = threading.Event(), threading.Event()

        def stop_halfway(sock: socket.socket) -> None:
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx")
            halfway.set()
            over.wait(30)

        with raw(stop_halfway) as port:
            asker = client()

            def abort_halfway() -> None:
                halfway.wait(30)
                asker.abort()

            aborter = threading.Thread(target=abort_halfway)
            aborter.start()
            began = time.monotonic()
            with pytest.raises(HttpError) as failure:
                asker.request(asking(f"http://127.0.0.1:{port}", 30))
            over.set()
            aborter.join(5)
        assert failure.value.fault is Fault.OURS
        assert time.monotonic() - began < 10
        assert asker._sockets == set()
