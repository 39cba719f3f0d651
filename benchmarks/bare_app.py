"""WSGI and ASGI applications with the same bytes as ours: two minimal ones, and a Flask view."""

import asyncio
import functools
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from flask import Flask, Response, request

from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.serving.store import Snapshot, Variant
from mop_config.server.settings import Settings, UrlRules
from tests.servers import ENDPOINTS

_file = Path(os.environ["ENDPOINT_CONFIG_FILE"])


def _read() -> Variant:
    return Snapshot.of(
        render(_file.read_bytes(), UrlRules(), EMPTY_BODY),
        Settings(),
        time.time(),
        int(time.time()),
    ).plain


_served = _read()
_raw_headers = [(name.lower().encode(), value.encode()) for name, value in _served.headers]
_raw_not_modified = [(n.lower().encode(), value.encode()) for n, value in _served.not_modified]


def bare(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Return a constant response: the lowest cost of a WSGI application under this server."""
    if "HTTP_IF_NONE_MATCH" in environ:
        start_response("304 NOT MODIFIED", [*_served.not_modified])
        return [b""]
    start_response("200 OK", [*_served.headers])
    return [_served.body]


flask = Flask(__name__, static_folder=None)


@flask.get(ENDPOINTS)
def endpoints() -> Any:
    """Return the bytes as a view in the style of Flask's documentation."""
    response = Response(_served.body, headers=_served.headers)
    return response.make_conditional(request)


async def raw(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Send a constant response: the lowest cost of an ASGI application under this server."""
    if scope["type"] == "http":
        known = any(name == b"if-none-match" for name, _ in scope["headers"])
        await send(
            {
                "type": "http.response.start",
                "status": 304 if known else 200,
                "headers": _raw_not_modified if known else _raw_headers,
            }
        )
        await send({"type": "http.response.body", "body": b"" if known else _served.body})


class _Waiters:
    """The event of the long polls, set when the file has changed."""

    def __init__(self) -> None:
        self.changed = asyncio.Event()
        self.served = _served
        self._task = asyncio.create_task(self._watch())

    async def _watch(self) -> None:
        before = _file.stat().st_mtime_ns
        while True:
            await asyncio.sleep(0.01)
            if before != (before := _file.stat().st_mtime_ns):
                self.served = _read()
                self.changed.set()
                self.changed = asyncio.Event()


@functools.cache
def _waiters() -> _Waiters:
    return _Waiters()


async def waiting(scope: dict[str, Any], _receive: Any, send: Any) -> None:
    """Park each request that knows the list on one event, without any bound or time-out."""
    if scope["type"] != "http":
        return
    waiters = _waiters()
    known = dict(scope["headers"]).get(b"if-none-match")
    if known == waiters.served.etag.encode():
        await waiters.changed.wait()
    headers = [(name.lower().encode(), value.encode()) for name, value in waiters.served.headers]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": waiters.served.body})
