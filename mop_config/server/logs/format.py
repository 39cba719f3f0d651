"""Log lines: one line an event, UTC, whoever wrote it, and no traceback.

What comes from outside (a path, a header, a line of the endpoint file) may hold line
breaks; escaped, it cannot pretend to be a line of its own. It may hold a token; that is masked.
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
    """Say in one line what an exception is and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


def log_to_stderr() -> None:
    """Show our log on standard error, as long as nobody else handles it."""
    logger = logging.getLogger("mop_config")
    handlers = [*logger.handlers, *logging.getLogger().handlers]
    if any(not isinstance(handler, logging.NullHandler) for handler in handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    outer = queued(handler)
    # Once the program has handlers at the root, those get every line.
    outer.addFilter(lambda record: not logging.getLogger().handlers)
    logger.addHandler(outer)
    logger.setLevel(logging.INFO)
