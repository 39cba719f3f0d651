"""The WSGI application of the test endpoints echoes the request and the server's name as JSON.

It reads its behaviour from a file at each request, so a test can change it while the server runs.
"""

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

NAME = os.environ.get("FLEET_NAME", "")
MOOD = Path(os.environ.get("FLEET_MOOD", ""))
POSTS = Path(os.environ.get("FLEET_POSTS", ""))
PREFIX = "/api/v1"

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]


def app(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    """Answer one request with the delay, status and headers that the mood file gives now."""
    path = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] == "POST" and "HTTP_X_NUMBER" in environ:
        _note(environ["HTTP_X_NUMBER"])
    mood = {} if path.endswith("/calm") else json.loads(MOOD.read_text() or "{}")
    time.sleep(mood.get("delay", 0.0))
    page = _PAGES.get(path.removeprefix(PREFIX))
    if page is not None:
        return page(environ, start_response)
    body = environ["wsgi.input"].read() if environ["REQUEST_METHOD"] != "GET" else b""
    told = json.dumps(
        {
            "server": NAME,
            "method": environ["REQUEST_METHOD"],
            "path": path,
            "query": environ.get("QUERY_STRING", ""),
            "host": environ.get("HTTP_HOST", environ.get("SERVER_NAME")),
            "protocol": environ["SERVER_PROTOCOL"],
            "cookie": environ.get("HTTP_COOKIE", ""),
            "authorization": environ.get("HTTP_AUTHORIZATION", ""),
            "body": body.decode("latin-1")[:2000],
            "length": len(body),
        }
    ).encode()
    headers = [("Content-Type", "application/json"), ("Content-Length", str(len(told)))]
    headers += [(name, value) for name, value in mood.get("headers", {}).items()]
    start_response(f"{mood.get('status', 200)} Mood", headers)
    return [told]


def _note(number: str) -> None:
    """Record an executed POST with one O_APPEND write, so concurrent records never interleave."""
    with POSTS.open("ab", buffering=0) as posts:
        posts.write(number.encode() + b"\n")


def _redirect(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    to = environ["QUERY_STRING"].removeprefix("to=")
    to = to.replace("SELF", environ["HTTP_HOST"])
    start_response("302 Found", [("Location", to), ("Content-Length", "0")])
    return [b""]


def _cookies(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    host = environ["HTTP_HOST"].partition(":")[0]
    headers = [
        ("Set-Cookie", "plain=1; Path=/"),
        ("Set-Cookie", "below=3; Path=/api/v1/auth; HttpOnly"),
        ("Set-Cookie", "prefix=4; Path=/api/v1"),
        ("Set-Cookie", "parent=5; Path=/api"),
        ("Set-Cookie", "beside=6; Path=/ap"),
        ("Set-Cookie", f"domain=2; Domain={host}; Path=/"),
        ("Content-Length", "0"),
    ]
    start_response("200 OK", headers)
    return [b""]


def _stream(environ: Environ, start_response: StartResponse) -> Iterable[bytes]:
    start_response("200 OK", [("Content-Type", "text/plain")])

    def parts() -> Iterator[bytes]:
        for number in range(20):
            yield b"%d\n" % number
            time.sleep(0.1)

    return parts()


_PAGES: dict[str, Callable[[Environ, StartResponse], Iterable[bytes]]] = {
    "/redirect": _redirect,
    "/cookies": _cookies,
    "/stream": _stream,
}
