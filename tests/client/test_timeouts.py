"""The caller's timeouts hold, and the policy's apply where the caller gave none."""

import contextlib
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import httpx2
import pytest

from mop_config.client import EndpointManager, NoEndpointAvailable, Policy

from .driver import Driver
from .fleet import silence, timed
from .handmade import handmade
from .scripted import scripted

#: Short limits for quick tests; the caller's own timeouts are longer.
SHORT = Policy(total_timeout=0.6, body_pause=0.2, hedge_delay=0.1)

Talk = Callable[[socket.socket], None]


def _head(sock: socket.socket) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data:
        if not (part := sock.recv(65536)):
            raise ConnectionResetError
        data += part
    return data


@contextlib.contextmanager
def talking(talk: Talk) -> Iterator[str]:
    """Run an endpoint that calls ``talk`` with each connection, and yield its URL."""
    listener = socket.create_server(("127.0.0.1", 0))
    threads: list[threading.Thread] = []
    socks: list[socket.socket] = []

    def serve(sock: socket.socket) -> None:
        with sock, contextlib.suppress(OSError):
            talk(sock)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                socks.append(listener.accept()[0])
                threads.append(threading.Thread(target=serve, args=(socks[-1],)))
                threads[-1].start()

    accepting = threading.Thread(target=accept)
    accepting.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        accepting.join()
        for sock in socks:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in threads:
            thread.join()


def slow_reader(sock: socket.socket) -> None:
    """Read an upload slowly but without a pause, and the half that fits into buffers at once.

    So the client waits for room in the buffers, and not for the answer after its last byte.
    """
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
    while True:
        head, _, body = _head(sock).partition(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: *(\d+)", head)
        whole = int(length[1]) if length else 0
        left = whole - len(body)
        while left > 0:
            if left > whole // 2:
                time.sleep(0.02)
            left -= len(sock.recv(1 << 20))
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


def pausing(seconds: float) -> Talk:
    """Return a talk that pauses in the middle of each answer's body."""

    def talk(sock: socket.socket) -> None:
        while True:
            _head(sock)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\no")
            time.sleep(seconds)
            sock.sendall(b"k")

    return talk


def late(seconds: float) -> Talk:
    """Return a talk that answers after some seconds."""

    def talk(sock: socket.socket) -> None:
        while True:
            _head(sock)
            time.sleep(seconds)
            sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    return talk


def flood(sock: socket.socket) -> None:
    """Send interim answers faster than a client reads them, and no answer."""
    _head(sock)
    while True:
        sock.sendall(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" * 100)


def test_a_flood_of_interim_answers_ends(kind: str) -> None:
    """Deadlines and hedges hold even if there is always something to read."""
    with talking(flood) as url, handmade() as backup:
        with Driver(kind, [url], SHORT) as driver, timed() as took:
            with pytest.raises(httpx2.ReadTimeout):
                driver.request("POST", "/", content=b"x")
            assert driver.state(url) == "suspect"
        assert took.seconds < 5
        policy = replace(SHORT, total_timeout=20.0)
        with Driver(kind, [url, backup.url], policy) as driver, timed() as took:
            assert driver.get("/").extensions["endpoint"] == backup.url
        assert took.seconds < 5


def test_a_flood_of_interim_answers_ends_a_check() -> None:
    """A health check has the time of the policy, whatever the endpoint sends."""
    policy = Policy(health_timeout=0.5)
    with talking(flood) as url, EndpointManager([url], policy=policy) as manager, timed() as took:
        assert not manager.check_endpoint_health(manager.api_endpoints[0])
    assert took.seconds < 5


def test_an_upload_that_goes_on_is_not_ended(kind: str) -> None:
    """An upload that makes progress outlasts any total timeout, and no endpoint is blamed."""
    body = bytes(12 << 20)
    with talking(slow_reader) as url, httpx2.Client() as plain:
        with timed() as took:
            assert plain.post(url, content=body, timeout=5).text == "ok"
        policy = Policy(total_timeout=took.seconds / 3, hedge_delay=0.1)
        with Driver(kind, [url], policy) as driver:
            for options in ({"timeout": 5}, {"timeout": None}, {}):
                answer = driver.request("POST", "/", content=body, **options)
                assert answer.text == "ok"
            assert driver.state(url) == "healthy"


def test_an_upload_part_by_part_is_not_ended(kind: str) -> None:
    """An upload in parts is not ended while the application takes its time between parts."""

    def parts() -> Iterator[bytes]:
        for _ in range(8):
            time.sleep(0.15)
            yield b"part"

    with scripted({"a": ("200",)}) as ([a], _), Driver(kind, [a.url], SHORT) as driver:
        assert driver.request("POST", "/", content=driver.body(parts)).text == "ok"
        assert driver.state(a.url) == "healthy"


def test_an_upload_that_stands_still_ends(kind: str) -> None:
    """An upload without progress ends with a WriteTimeout after the policy's total."""
    with (
        silence() as port,
        Driver(kind, [f"http://127.0.0.1:{port}"], SHORT) as driver,
        timed() as took,
        pytest.raises(httpx2.WriteTimeout),
    ):
        driver.request("POST", "/", content=bytes(32 << 20))
    assert took.seconds < 5


@pytest.mark.parametrize("timeout", [5.0, None, httpx2.Timeout(5.0, connect=1.0)])
def test_a_longer_wait_for_an_answer_holds(kind: str, timeout: object) -> None:
    """A caller's longer timeout holds beyond the policy's total, as in plain httpx2."""
    with talking(late(0.8)) as url:
        with httpx2.Client(timeout=5) as plain:
            assert plain.get(url).text == "ok"
        with Driver(kind, [url], SHORT) as driver:
            assert driver.get("/", timeout=timeout).text == "ok"
            assert driver.request("POST", "/", content=b"x", timeout=timeout).text == "ok"
            with pytest.raises(NoEndpointAvailable):
                driver.get("/")
        with Driver(kind, [url], SHORT, timeout=timeout) as driver:
            assert driver.get("/").text == "ok"


@pytest.mark.parametrize("timeout", [5.0, None])
def test_a_longer_pause_in_a_body_holds(kind: str, timeout: float | None) -> None:
    """A caller's longer timeout allows a longer pause within a body."""
    with talking(pausing(0.7)) as url:
        with Driver(kind, [url], SHORT) as driver:
            assert driver.get("/", timeout=timeout).text == "ok"
            with pytest.raises(NoEndpointAvailable):
                driver.get("/")
        with Driver(kind, [url, f"{url}/other"], SHORT, timeout=timeout) as driver:
            assert driver.get("/").extensions["endpoint"] == url
            assert driver.state(url) == "healthy"


def test_a_shorter_pause_in_a_body_holds(kind: str) -> None:
    """A caller's shorter timeout ends a pause within a body before the policy's limit."""
    with (
        talking(pausing(3.2)) as url,
        Driver(kind, [url]) as driver,
        timed() as took,
        pytest.raises(NoEndpointAvailable),
    ):
        driver.get("/", timeout=0.3)
    assert took.seconds < 3


def test_the_callers_time_holds_at_the_endpoint_that_is_asked_as_well(kind: str) -> None:
    """The caller's timeout applies to the hedge as well as to the first request."""
    with (
        silence() as port,
        talking(late(1.5)) as url,
        Driver(kind, [f"http://127.0.0.1:{port}", url], SHORT) as driver,
    ):
        assert driver.get("/", timeout=10).extensions["endpoint"] == url


def test_a_short_time_still_bounds_each_attempt(kind: str) -> None:
    """A short timeout limits each attempt, and the remaining endpoints are still tried."""
    with (
        silence() as one,
        silence() as two,
        scripted({"c": ("200",)}) as ([c], _),
        Driver(
            kind, [f"http://127.0.0.1:{one}", f"http://127.0.0.1:{two}", c.url], timeout=0.3
        ) as driver,
        timed() as took,
    ):
        assert driver.request("PUT", "/", content=b"x").text == "ok"
    assert 0.59 < took.seconds < 4


def test_both_requests_of_a_hedge_that_hang_are_named(kind: str) -> None:
    """If neither request of a hedge is answered in time, the error names both endpoints."""
    with silence() as one, silence() as two:
        urls = [f"http://127.0.0.1:{port}" for port in (one, two)]
        with Driver(kind, urls, SHORT) as driver, pytest.raises(NoEndpointAvailable) as caught:
            driver.get("/")
    assert sorted(trial.url for trial in caught.value.attempts) == sorted(urls)
    assert {trial.fault for trial in caught.value.attempts} == {"read-timeout"}
