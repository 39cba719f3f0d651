"""WsgiBridge: a bounded pool of threads, and whole bodies of requests and answers."""

import asyncio
import threading
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from mop_config.server.web.asgi import QUEUE, WsgiBridge

Message = dict[str, Any]


def scope(**changes: Any) -> dict[str, Any]:
    return {
        "type": "http",
        "method": "POST",
        "path": "/x",
        "query_string": b"",
        "headers": [(b"host", b"x")],
        "http_version": "1.1",
        "server": ("x", 80),
        "client": ("192.0.2.1", 4711),
        **changes,
    }


async def ask(
    bridge: WsgiBridge, *messages: Message, silent: bool = False, **changes: Any
) -> tuple[int, dict[str, str], bytes]:
    """Send one request; a silent client sends nothing after the messages."""
    left = list(messages or [{"type": "http.request", "body": b"", "more_body": False}])
    sent: list[Message] = []

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.sleep(60 if silent else 0)
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await bridge(scope(**changes), receive, send)
    if not sent:
        return 0, {}, b""
    headers = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return sent[0]["status"], headers, b"".join(message.get("body", b"") for message in sent)


def echo(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer with values from the environ."""
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = ("REQUEST_METHOD", "SCRIPT_NAME", "PATH_INFO", "CONTENT_LENGTH", "REMOTE_ADDR")
    yield " ".join(environ[name] for name in names).encode()
    yield b" " + environ["wsgi.input"].read()


def run(
    bridge: WsgiBridge, *messages: Message, **changes: Any
) -> tuple[int, dict[str, str], bytes]:
    try:
        return asyncio.run(ask(bridge, *messages, **changes))
    finally:
        bridge.close()


def test_a_body_in_pieces_is_handed_over_whole() -> None:
    """The application gets the whole body and its length, even without Content-Length."""
    pieces = [{"type": "http.request", "body": b"ab", "more_body": True}]
    pieces += [{"type": "http.request", "body": b"c", "more_body": False}]
    status, headers, body = run(WsgiBridge(echo, 1, 64), *pieces)
    assert (status, body) == (200, b"POST  /x 3 192.0.2.1 abc")
    assert headers["content-length"] == str(len(body))


def test_the_mount_point_becomes_the_script_name() -> None:
    """``root_path`` becomes SCRIPT_NAME, and is removed from the path."""
    _, _, body = run(WsgiBridge(echo, 1, 64), path="/a/b/x", root_path="/a/b")
    assert body == b"POST /a/b /x 0 192.0.2.1 "


@pytest.mark.parametrize(
    ("messages", "headers"),
    [
        ([{"type": "http.request", "body": b"x" * 65, "more_body": False}], []),
        ([{"type": "http.request", "body": b"x" * 40, "more_body": True}] * 2, []),
        ([], [(b"content-length", b"65")]),
        ([], [(b"content-length", b"9" * 30)]),
    ],
)
def test_a_body_that_is_too_large_is_413(messages: list[Message], headers: Any) -> None:
    """A body beyond the limit gets 413, and the application is not called."""
    status, sent, _ = run(WsgiBridge(echo, 1, 64), *messages, headers=headers)
    assert status == 413
    assert sent["content-type"] == "application/problem+json"


def test_a_body_that_does_not_come_is_408() -> None:
    """A late body gets 408 after the time-out, without occupying a thread."""
    part = {"type": "http.request", "body": b"x", "more_body": True}
    before = threading.active_count()
    status, _, _ = run(WsgiBridge(echo, 1, 64, body_timeout=0.05), part, silent=True)
    assert status == 408
    assert threading.active_count() == before


def test_a_client_that_leaves_gets_nothing() -> None:
    """The request of a client that has left is dropped before it occupies a thread."""
    part = {"type": "http.request", "body": b"x", "more_body": True}
    assert run(WsgiBridge(echo, 1, 64), part) == (0, {}, b"")


def test_a_full_queue_is_503_with_retry_after() -> None:
    """Requests beyond the threads and the queue get 503 at once; the others are answered."""
    go_on = threading.Event()

    def slow(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        go_on.wait(20)
        return echo(environ, start_response)

    async def scene(bridge: WsgiBridge) -> list[int]:
        held = [asyncio.create_task(ask(bridge)) for _ in range(2 + QUEUE)]
        await asyncio.sleep(0)
        while not all(task.done() or len(bridge.occupied) == 2 + QUEUE for task in held):
            await asyncio.sleep(0.01)
        status, headers, _ = await asyncio.wait_for(ask(bridge), 5)
        assert status == 503
        assert int(headers["retry-after"]) > 0
        go_on.set()
        return [(await task)[0] for task in held]

    bridge = WsgiBridge(slow, 2, 64)
    try:
        assert asyncio.run(scene(bridge)) == [200] * (2 + QUEUE)
    finally:
        go_on.set()
        bridge.close()


def test_a_failure_is_a_problem_document_without_a_traceback(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An error in the middle of the answer gives 500, and the iterable is closed."""
    closed: list[bool] = []

    class Pieces:
        def __iter__(self) -> Any:
            yield b"half"
            raise ValueError("broken")

        def close(self) -> None:
            closed.append(True)

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Any:
        start_response("200 OK", [])
        return Pieces()

    status, headers, body = run(WsgiBridge(app, 1, 64))
    assert (status, closed) == (500, [True])
    assert headers["content-type"] == "application/problem+json"
    assert b"half" not in body
    assert [record.exc_info for record in caplog.records] == [None]


def test_a_name_with_underscores_is_left_out() -> None:
    """A header with underscores is dropped, since WSGI would mix it up with the hyphenated one."""
    seen: dict[str, Any] = {}

    def app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        seen.update(environ)
        return echo(environ, start_response)

    run(
        WsgiBridge(app, 1, 64),
        headers=[
            (b"x_forwarded_for", b"1"),
            (b"x-forwarded-for", b"2"),
            (b"x-forwarded-for", b"3"),
        ],
    )
    assert seen["HTTP_X_FORWARDED_FOR"] == "2,3"


def test_context_variables_of_the_request_reach_the_application() -> None:
    """The application runs in the request's context, which tracing needs for its span."""
    from contextvars import ContextVar

    variable: ContextVar[str] = ContextVar("variable", default="none")

    def app(_environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        start_response("200 OK", [])
        return [variable.get().encode()]

    async def scene(bridge: WsgiBridge) -> bytes:
        variable.set("span")
        return (await ask(bridge))[2]

    bridge = WsgiBridge(app, 1, 64)
    try:
        assert asyncio.run(scene(bridge)) == b"span"
    finally:
        bridge.close()
