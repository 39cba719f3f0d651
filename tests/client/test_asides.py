"""Failover sets a bad answer aside at once, and returns it whole if no endpoint does better."""

import socket
import time
from functools import partial

import httpx2
import pytest

from mop_config.client import Policy

from ..ports import closed_port
from ..waiting import wait_for
from .driver import Driver
from .fleet import timed
from .scripted import scripted
from .test_timeouts import Talk, _head, talking


def _keep(parts: list[bytes], part: bytes) -> bool:
    parts.append(part)
    return True


def sick(length: int, *parts: bytes, pause: float = 0.0, chunked: bool = False) -> Talk:
    """Make a server that answers 503 with a body in parts, and sends nothing after the last."""

    def talk(sock: socket.socket) -> None:
        while True:
            _head(sock)
            how = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {length}"
            sock.sendall(f"HTTP/1.1 503 Sick\r\n{how}\r\n\r\n".encode())
            for part in parts:
                sock.sendall(b"%x\r\n%b\r\n" % (len(part), part) if chunked else part)
                time.sleep(pause)

    return talk


@pytest.mark.parametrize("timeout", [None, 20.0, "default"])
@pytest.mark.parametrize("parts", [(), (b"a",), (b"a", b"b", b"c")])
def test_a_bad_answer_that_stalls_does_not_hold_the_request(
    kind: str, timeout: object, parts: tuple[bytes, ...]
) -> None:
    """A 503 whose body stalls moves the request on, whatever the caller's timeout."""
    options = {} if timeout == "default" else {"timeout": timeout}
    with (
        talking(sick(1000, *parts, pause=0.1)) as url,
        scripted({"good": ("200",)}) as ([good], _),
        Driver(kind, [url, good.url]) as driver,
        timed() as took,
    ):
        assert driver.get("/", **options).text == "ok"
    assert took.seconds < 2


def test_a_bad_answer_without_end_does_not_hold_the_request(kind: str) -> None:
    """A 503 whose chunked body never ends moves the request on."""
    with (
        talking(sick(0, *([b"x"] * 100), pause=0.05, chunked=True)) as url,
        scripted({"good": ("200",)}) as ([good], _),
        Driver(kind, [url, good.url]) as driver,
        timed() as took,
    ):
        assert driver.get("/").text == "ok"
    assert took.seconds < 2


@pytest.mark.parametrize("size", [0, 10, 200_000, 5_000_000])
def test_a_bad_answer_that_is_the_last_word_arrives_whole(kind: str, size: int) -> None:
    """The application gets the whole 503, as from httpx2, also after another failed attempt."""
    body = b"0123456789" * (size // 10)
    with talking(sick(size, body)) as url:
        plain = httpx2.get(url)
        for others in ([], [f"http://127.0.0.1:{closed_port()}"]):
            with Driver(kind, [url, *others]) as driver:
                answer = driver.get("/")
                assert (answer.status_code, answer.content) == (503, body)
                assert answer.headers["content-length"] == plain.headers["content-length"]
                assert answer.extensions["endpoint"] == url
                parts: list[bytes] = []
                driver.stream("/", partial(_keep, parts))
                assert b"".join(parts) == body


def test_a_last_word_that_comes_slowly_arrives_whole(kind: str) -> None:
    """A final 503 arrives whole even if its body takes longer than failover waits for one."""
    with (
        talking(sick(6, b"ab", b"cd", b"ef", pause=0.4)) as url,
        Driver(kind, [url, f"http://127.0.0.1:{closed_port()}"]) as driver,
    ):
        answer = driver.get("/")
        assert (answer.status_code, answer.text) == (503, "abcdef")


def test_a_last_word_that_breaks_off_says_so(kind: str) -> None:
    """A truncated final 503 raises ReadTimeout instead of returning a partial body."""
    policy = Policy(body_pause=0.5)
    with (
        talking(sick(1000, b"only this")) as url,
        Driver(kind, [url], policy) as driver,
        timed() as took,
    ):
        with pytest.raises(httpx2.ReadTimeout):
            driver.get("/")
        with pytest.raises(httpx2.ReadTimeout):
            httpx2.get(url, timeout=0.5)
    assert took.seconds < 4


def test_a_bad_answer_that_is_set_aside_ends_its_connection(kind: str) -> None:
    """The client closes the connection of an unused 503, and keeps that of the last word."""
    with (
        scripted({"a": ("503",), "b": ("503",)}) as ([a, b], _),
        Driver(kind, [a.url, b.url]) as driver,
    ):
        assert driver.get("/").extensions["endpoint"] == b.url
        wait_for(lambda: a.held == 0, what="the connection to a is closed")
        assert b.held == 1
