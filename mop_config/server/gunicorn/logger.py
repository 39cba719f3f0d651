"""gunicorn's logger with our line format, for our own messages too.

The access log names who asked by the name of the token that was shown and found good; what a
client says of itself is neither believed nor able to look like a line of its own.
"""

import logging
from typing import Any

from gunicorn.glogging import Logger, SafeAtoms, loggers

from ...model.printable import printable
from ..auth.policy import USER
from ..logs.format import LineFormatter
from ..logs.masking import MASK, masked
from ..logs.queue import DescriptorStream, QueuedHandler, queued

#: Headers that must not get into a log, whatever format it is given: they hold secrets.
_SECRET = frozenset(
    {
        "{authorization}i",
        "{proxy-authorization}i",
        "{cookie}i",
        "{http_authorization}e",
        "{http_proxy_authorization}e",
        "{http_cookie}e",
    }
)


class Atoms(SafeAtoms):  # type: ignore[misc]
    """The parts of a line of the access log, each without a token or anything that ends a line."""

    def __getitem__(self, k: str) -> Any:
        value = super().__getitem__(k)
        if k.lower() in _SECRET and value != "-":
            return MASK
        return printable(masked(value)) if isinstance(value, str) else value


class GunicornLogger(Logger):  # type: ignore[misc]
    """Writes one line an event; ``--log-level``, ``--error-logfile`` and syslog work as ever."""

    atoms_wrapper_class = Atoms

    def setup(self, cfg: Any) -> None:
        """Set gunicorn's handlers up, put the queue in front, share the error log's with ours."""
        for log in _loggers():
            log.handlers[:] = [_behind(handler) for handler in log.handlers]
        super().setup(cfg)
        for handler in self.error_log.handlers:
            handler.setFormatter(LineFormatter())
        for log in _loggers():
            log.handlers[:] = [queued(handler) for handler in log.handlers]
        # What a library has to say goes to standard error past all handlers.
        last = logging.StreamHandler()
        last.setLevel(logging.WARNING)
        last.setFormatter(LineFormatter())
        logging.lastResort = queued(last)
        logging.raiseExceptions = False  # would write tracebacks to standard error
        ours = logging.getLogger("mop_config")
        ours.handlers[:] = self.error_log.handlers
        ours.setLevel(self.error_log.level)
        ours.propagate = False

    def reopen_files(self) -> None:
        """Open the log files anew: on SIGUSR1, after they were moved away."""
        super().reopen_files()
        for log in _loggers():
            for handler in log.handlers:
                stream = getattr(_behind(handler), "stream", None)
                if isinstance(stream, DescriptorStream):
                    stream.reopen()

    def _get_user(self, environ: dict[str, Any]) -> str | None:
        # gunicorn would take whatever name a client makes up.
        return environ.get(USER)


def _loggers() -> list[logging.Logger]:
    return [logging.root, *loggers()]


def _behind(handler: logging.Handler) -> logging.Handler:
    return handler.target if isinstance(handler, QueuedHandler) else handler
