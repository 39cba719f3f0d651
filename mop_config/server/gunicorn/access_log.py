"""AccessLog writes a line for each request of an ASGI application through gunicorn's logger."""

from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

from ..auth.policy import USER
from ..web.bridge import Receive, Scope, Send, whole_environ


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
        answer = SimpleNamespace(status="-", headers=(), sent=0)

        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                answer.status, answer.headers = str(message["status"]), _text(message)
            else:
                answer.sent += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, counted)
        finally:
            environ = {**whole_environ(scope), USER: scope.get(USER)}
            request = SimpleNamespace(headers=_text(scope))
            self._log.access(answer, request, environ, timedelta(seconds=monotonic() - began))


def _text(message: Any) -> list[tuple[str, str]]:
    """Return the headers of a scope or of a message as text."""
    return [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]]
