"""Attempts through a transport of the application, or with OpenTelemetry's instrumentation."""

import re
import socket
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from opentelemetry.instrumentation.httpx import HTTPX2ClientInstrumentor
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from mop_config.client import AsyncEndpointManager, EndpointManager, NoEndpointAvailable, Policy

from ..ports import closed_port
from .driver import Driver
from .scripted import scripted
from .test_timeouts import _head, talking

A, B = "https://a.example/api/v1", "https://b.example:8443"
Handler = Callable[[httpx2.Request], httpx2.Response]


def _driver(kind: str, handler: Handler, *urls: str, **options: Any) -> Driver:
    return Driver(kind, urls or (A, B), transport=httpx2.MockTransport(handler), **options)


def test_each_attempt_is_asked_with_the_endpoints_real_url(kind: str) -> None:
    """The inner transport gets each attempt with the endpoint's real URL and ``Host``."""
    asked: list[tuple[str, str, str]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append((request.method, str(request.url), request.headers["Host"]))
        if request.url.host == "a.example":
            raise httpx2.ConnectError("refused", request=request)
        return httpx2.Response(200, json={"from": "b"})

    with _driver(kind, handler) as driver:
        answer = driver.request("POST", "/users?page=2", json={"name": "x"})
        assert answer.json() == {"from": "b"}
        assert answer.extensions["endpoint"] == B
        assert driver.state(A) == "suspect"
    assert asked == [
        ("POST", "https://a.example/api/v1/users?page=2", "a.example"),
        ("POST", "https://b.example:8443/users?page=2", "b.example:8443"),
    ]


def test_a_post_that_may_have_been_executed_raises_the_transports_own_error(kind: str) -> None:
    """A POST that fails after sending is attempted once and raises the transport's error."""
    asked: list[str] = []
    broken = httpx2.ReadError("gone")

    def handler(request: httpx2.Request) -> httpx2.Response:
        asked.append(str(request.url))
        raise broken

    with _driver(kind, handler) as driver:
        with pytest.raises(httpx2.ReadError) as raised:
            driver.request("POST", "/", content=b"x")
        assert raised.value is broken
        assert len(asked) == 1
        with pytest.raises(NoEndpointAvailable):
            driver.get("/")
        assert len(asked) == 3


@pytest.mark.parametrize("status", [502, 503])
def test_a_bad_status_moves_a_get_on(kind: str, status: int) -> None:
    """A bad status from the inner transport moves a GET to the next endpoint."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        return httpx2.Response(status if request.url.host == "a.example" else 200, text="ok")

    with _driver(kind, handler) as driver:
        assert driver.get("/").extensions["endpoint"] == B


class _Broken(httpx2.SyncByteStream, httpx2.AsyncByteStream):
    """A body that breaks off with ReadError."""

    def __iter__(self) -> Iterator[bytes]:
        yield b"half of "
        raise httpx2.ReadError("gone")

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b"half of "
        raise httpx2.ReadError("gone")


def test_a_body_that_breaks_off_costs_a_get_nothing(kind: str) -> None:
    """A GET whose body breaks off moves to the next endpoint."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        if request.url.host == "a.example":
            return httpx2.Response(200, stream=_Broken())
        return httpx2.Response(200, text="the whole")

    with _driver(kind, handler) as driver:
        assert driver.get("/").text == "the whole"


def test_a_mistake_in_the_handler_is_raised_as_it_is(kind: str) -> None:
    """An exception that is not of httpx2 is raised as is and counts against no endpoint."""

    def handler(request: httpx2.Request) -> httpx2.Response:
        raise AssertionError("the test's own")

    with _driver(kind, handler) as driver:
        with pytest.raises(AssertionError, match="the test's own"):
            driver.get("/")
        assert driver.state(A) == "unknown"


def test_other_hosts_and_time_outs_go_through_it_too(kind: str) -> None:
    """Requests to other hosts use the inner transport, with timeouts within the request's."""
    seen: list[tuple[str, dict[str, float]]] = []

    def handler(request: httpx2.Request) -> httpx2.Response:
        seen.append((request.url.host, dict(request.extensions["timeout"])))
        return httpx2.Response(200)

    with _driver(kind, handler, policy=Policy(total_timeout=7.0)) as driver:
        driver.get("/")
        driver.get("/", timeout=1.5)
        driver.get("https://elsewhere.example/")
    assert [host for host, _ in seen] == ["a.example", "a.example", "elsewhere.example"]
    assert seen[0][1]["connect"] == 2.0
    assert 6.5 < seen[0][1]["read"] <= 7.0
    assert seen[1][1] == {"connect": 1.5, "read": 1.5, "write": 1.5, "pool": 1.5}


def test_a_real_transport_may_be_the_inner_one() -> None:
    """A real ``HTTPTransport`` works as the inner transport."""
    with (
        scripted({"a": ("503",), "b": ("200",)}) as ([a, b], _),
        httpx2.HTTPTransport() as inner,
        EndpointManager([a.url, b.url], update_interval=0).client(
            start=False, transport=inner
        ) as client,
    ):
        assert client.get("/").extensions["endpoint"] == b.url
        with client.stream("GET", "/") as answer:
            assert answer.read() == client.get("/").content


# -- OpenTelemetry


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    """Instrument httpx2 with OpenTelemetry and collect the spans."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    instrumentor = HTTPX2ClientInstrumentor()
    instrumentor.instrument(tracer_provider=provider)
    try:
        yield exporter
    finally:
        instrumentor.uninstrument()
        provider.shutdown()


def _url(span: ReadableSpan) -> str:
    attributes = span.attributes or {}
    return str(attributes.get("url.full") or attributes.get("http.url"))


def test_each_attempt_is_a_span_with_the_endpoints_real_address(
    kind: str, spans: InMemorySpanExporter
) -> None:
    """Each attempt is a span with its real URL, and its request carries that ``traceparent``."""
    heads: list[str] = []

    def endpoint(status: str) -> Callable[[socket.socket], None]:
        def serve(sock: socket.socket) -> None:
            while head := _head(sock):
                heads.append(bytes(head).decode())
                sock.sendall(f"HTTP/1.1 {status} X\r\nContent-Length: 2\r\n\r\nok".encode())

        return serve

    with (
        talking(endpoint("503")) as bad,
        talking(endpoint("200")) as good,
        Driver(kind, [bad, good], trust_env=False) as driver,
    ):
        answer = driver.get("/users", headers={"X-Mine": "1"})
        assert answer.text == "ok"
        assert "traceparent" not in answer.request.headers
    found = spans.get_finished_spans()
    assert [_url(span) for span in found] == [f"{bad}/users", f"{good}/users"]
    for span, head in zip(found, heads, strict=True):
        sent = re.search(r"(?im)^traceparent: 00-(\w+)-(\w+)-", head)
        assert sent is not None
        assert span.context is not None
        assert sent.groups() == (
            trace.format_trace_id(span.context.trace_id),
            trace.format_span_id(span.context.span_id),
        )
        assert "x-mine: 1" in head.lower()


def test_an_attempt_without_a_connection_is_a_span_with_its_error(
    kind: str, spans: InMemorySpanExporter
) -> None:
    """A failed dial race is one span with the URL of its last endpoint and an error status."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    with Driver(kind, [url], trust_env=False) as driver, pytest.raises(NoEndpointAvailable):
        driver.get("/")
    (span,) = spans.get_finished_spans()
    assert _url(span) == f"{url}/"
    assert span.status.status_code is trace.StatusCode.ERROR


def test_each_endpoint_of_a_dial_race_that_fails_is_a_span(
    kind: str, spans: InMemorySpanExporter
) -> None:
    """A refused endpoint has a span with its own address and an error status."""

    def serve(sock: socket.socket) -> None:
        while _head(sock):
            sock.sendall(b"HTTP/1.1 200 X\r\nContent-Length: 2\r\n\r\nok")

    dead = [f"http://127.0.0.1:{closed_port()}" for _ in range(2)]
    with talking(serve) as good, Driver(kind, [*dead, good], trust_env=False) as driver:
        assert driver.get("/users").text == "ok"
    found = {_url(span): span.status.status_code for span in spans.get_finished_spans()}
    errors = dict.fromkeys((f"{url}/users" for url in dead), trace.StatusCode.ERROR)
    assert found == {**errors, f"{good}/users": trace.StatusCode.UNSET}
    spans.clear()
    with Driver(kind, dead, trust_env=False) as driver, pytest.raises(NoEndpointAvailable):
        driver.get("/users")
    assert {_url(span) for span in spans.get_finished_spans()} == {*errors}


def test_without_instrumentation_no_span_is_made(kind: str) -> None:
    """Without instrumentation, the client does not wrap httpx2's transport."""
    with scripted({"a": ("200",)}) as ([a], _), Driver(kind, [a.url]) as driver:
        assert driver.get("/").status_code == 200
    assert not hasattr(httpx2.HTTPTransport.handle_request, "__wrapped__")


def test_a_transport_of_the_other_kind_is_refused() -> None:
    """A synchronous transport cannot serve an async client, and the other way round."""
    with httpx2.HTTPTransport() as plain:
        with pytest.raises(TypeError, match=r"must be an httpx2\.AsyncBaseTransport"):
            AsyncEndpointManager([A]).client(transport=plain)  # type: ignore[arg-type]
        with pytest.raises(TypeError, match=r"must be an httpx2\.BaseTransport"):
            EndpointManager([A]).client(transport=httpx2.AsyncHTTPTransport())  # type: ignore[arg-type]
