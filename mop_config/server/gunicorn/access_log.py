"""AccessLog writes a line for each request of an ASGI application through gunicorn's logger."""

from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

from ..auth.policy import USER
from ..web.bridge import Receive, Scope, Send, request_environ


class AccessLog:
    """An ASGI application that logs the requests of another one.

    The logger puts the line into its queue; the event loop never waits for the log.

    Args:
        app: The other application.
        log: gunicorn's logger.
    """

    def __init__(self, app: Any, log: Any) -> None:
        self._app = app
        self._log = log

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request by the other application, and log it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began = monotonic()
        answer = SimpleNamespace(status="-", headers=[], sent=0)

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status = str(message["status"])
                answer.headers = [
                    (n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]
                ]
            else:
                answer.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            environ = _environ(scope)
            request = SimpleNamespace(headers=_headers(scope))
            self._log.access(answer, request, environ, timedelta(seconds=monotonic() - began))


def _headers(scope: Scope) -> list[tuple[str, str]]:
    return [(name.decode("latin-1"), value.decode("latin-1")) for name, value in scope["headers"]]


def _environ(scope: Scope) -> dict[str, Any]:
    environ = request_environ(scope, scope["path"])
    query = scope["query_string"].decode("latin-1")
    target = scope.get("raw_path", b"").decode("latin-1")
    environ["RAW_URI"] = f"{target}?{query}" if query else target
    environ["SERVER_PROTOCOL"] = f"HTTP/{scope['http_version']}"
    if scope.get("client"):
        environ["REMOTE_ADDR"], port = scope["client"]
        environ["REMOTE_PORT"] = str(port)
    if USER in scope:
        environ[USER] = scope[USER]
    return environ
