"""GunicornLogger is gunicorn's logger with our line format, for our own messages too.

As the user of a request, the access log shows the name of the valid token in it. A user name that
the client sends is not logged as the user, and no text of a client can forge a log line.
"""

import logging
import re
from datetime import timedelta
from time import monotonic
from types import SimpleNamespace
from typing import Any

from gunicorn.glogging import Logger, SafeAtoms, loggers

from ...model.printable import printable
from ..auth import USER
from ..logs import MASK, LineFormatter, masked, queued
from ..web.asgi import Receive, Scope, Send, whole_environ

#: Headers with secrets, which must not get into the log in any ``--access-logformat``.
_SECRET = re.compile(r"\{(http_)?(proxy[-_])?(authorization|cookie)\}[ie]", re.IGNORECASE)


class Atoms(SafeAtoms):  # type: ignore[misc]
    """The values for a line of the access log, with tokens masked and line breaks escaped."""

    def __getitem__(self, k: str) -> Any:
        value = super().__getitem__(k)
        if _SECRET.fullmatch(k) and value != "-":
            return MASK
        return printable(masked(value)) if isinstance(value, str) else value


class GunicornLogger(Logger):  # type: ignore[misc]
    """Logs one line per event; ``--log-level``, ``--error-logfile`` and syslog work as usual."""

    atoms_wrapper_class = Atoms

    def setup(self, cfg: Any) -> None:
        """Set up gunicorn's handlers behind the queue; our logger uses those of the error log."""
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(LineFormatter())
        for log in (logging.root, *loggers()):
            log.handlers[:] = [queued(handler) for handler in log.handlers]
        logging.raiseExceptions = False  # would write tracebacks to standard error
        ours = logging.getLogger("mop_config")
        ours.handlers[:] = self.error_log.handlers
        # Warnings of libraries without a handler go to the error log too.
        logging.lastResort = next(iter(ours.handlers), None)
        ours.setLevel(self.error_log.level)
        ours.propagate = False

    def _get_user(self, environ: dict[str, Any]) -> str | None:
        # gunicorn would log any name that the client sends in Basic credentials.
        return environ.get(USER)


async def answer_and_log(app: Any, log: Any, scope: Scope, receive: Receive, send: Send) -> None:
    """Answer one request by an ASGI application, and log it.

    The logger puts the line into its queue; the event loop never waits for the log.

    Args:
        app: The application.
        log: gunicorn's logger.
        scope: The request, as for the application.
        receive: As for the application.
        send: As for the application.
    """
    if scope["type"] != "http":
        await app(scope, receive, send)
        return
    began = monotonic()
    answer = SimpleNamespace(status="-", headers=(), sent=0)

    async def counted(message: Any) -> None:
        if message["type"] == "http.response.start":
            answer.status = str(message["status"])
            answer.headers = _text(message)
        else:
            answer.sent += len(message.get("body", b""))
        await send(message)

    try:
        await app(scope, receive, counted)
    finally:
        environ = {**whole_environ(scope), USER: scope.get(USER)}
        request = SimpleNamespace(headers=_text(scope))
        log.access(answer, request, environ, timedelta(seconds=monotonic() - began))


def _text(message: Any) -> list[tuple[str, str]]:
    """Return the headers of a scope or of a message as text."""
    return [(n.decode("latin-1"), v.decode("latin-1")) for n, v in message["headers"]]
