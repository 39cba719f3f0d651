"""The format of log lines: one line per event, times in UTC, no traceback.

Text from outside, such as a path, a header or a line of the endpoint file, may contain line breaks
and tokens. Line breaks are escaped, so that the text cannot forge a line, and tokens are masked.
"""

import logging
import sys
import traceback
from types import TracebackType

from ...model.codec import rfc3339
from ...model.printable import printable
from .masking import masked
from .queue import queued

_FORMAT = "%(asctime)s [%(process)d] [%(levelname)s] %(name)s: %(message)s"


class LineFormatter(logging.Formatter):
    """Formats a record as exactly one line."""

    def __init__(self) -> None:
        super().__init__(_FORMAT)

    def formatTime(self, record: logging.LogRecord, datefmt: str | None = None) -> str:
        return rfc3339(record.created)

    def formatException(
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None]
        | tuple[None, None, None],
    ) -> str:
        return describe(ei[1]) if ei[1] is not None else ""

    def formatStack(self, stack_info: str) -> str:
        return ""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None
        line = super().format(record).rstrip("\n").replace("\n", " | ")
        return printable(masked(line))


def describe(error: BaseException) -> str:
    """Describe in one line an exception and the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def log_to_stderr() -> None:
    """Write our log records to standard error, unless the program has a handler for them."""
    logger = logging.getLogger("mop_config")
    handlers = [*logger.handlers, *logging.getLogger().handlers]
    if any(not isinstance(handler, logging.NullHandler) for handler in handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    outer = queued(handler)
    # If the program adds a handler to the root logger later, only that handler writes.
    outer.addFilter(lambda record: not logging.getLogger().handlers)
    logger.addHandler(outer)
    logger.setLevel(logging.INFO)
