"""Log records of a process: their format, the masking of secrets, and the queue to the log.

A log line is one event: times are UTC, there is no traceback. Text from outside, such as a path, a
header or a line of the endpoint file, may contain line breaks and tokens. Line breaks are escaped,
so that the text cannot forge a line, and tokens are masked.

A terminal that was stopped with Ctrl-S, or a pipe that no process reads, blocks every write. So a
logger only puts its record into the queue, and a daemon thread writes the record. The thread holds
no lock while it writes, so that neither ``logging.shutdown`` nor a fork nor the end of the
interpreter waits for it. ``logging.handlers.QueueListener`` is not used, because it writes under
the handler's lock, and its ``stop`` waits without a limit.
"""

import atexit
import contextlib
import copy
import io
import logging
import os
import re
import select
import sys
import threading
import traceback
from collections.abc import Callable
from logging.handlers import WatchedFileHandler
from queue import Empty, SimpleQueue
from typing import Any

from ..model.endpoint import rfc3339
from ..model.printable import printable

#: Limit of waiting records; beyond it the oldest records are dropped.
LIMIT = 10_000
#: Limit of the wait for the log at the exit of the process, in seconds.
EXIT_PATIENCE = 1.0

#: What stands in place of a token or a password.
MASK = "***"

#: Texts that may be secret. Requests may contain tokens in unexpected places: in a malformed
#: header, in a query, in ``Referer``.
_SECRETS = (
    # Tokens of ``mop-config token new``, in any place; ``mop_config`` itself is no token.
    (re.compile(r"mop_(?!config)[A-Za-z0-9_-]{8,}"), MASK),
    # A malformed header: the limits of the token in it are unknown, so the rest is masked.
    (re.compile(r"(authorization(?:[\s:=+]|%20|%3a)+).+", re.IGNORECASE | re.DOTALL), rf"\1{MASK}"),
    (re.compile(r"\b((?:bearer|basic)(?:[\s:=+]|%20|%3a)+)[^\s&]+", re.IGNORECASE), rf"\1{MASK}"),
    # A space ends a request target, and an ampersand, raw or encoded, ends a parameter.
    (re.compile(r"(token(?:=|%3d))(?:(?!%26)[^\s&])+", re.IGNORECASE), rf"\1{MASK}"),
)
logger = logging.getLogger("mop_config")


def masked(text: str) -> str:
    """Replace each token, and each text that looks like a token, by three asterisks."""
    for pattern, mask in _SECRETS:
        text = pattern.sub(mask, text)
    return text


class LineFormatter(logging.Formatter):
    """Formats a record as exactly one line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line, with line breaks escaped and tokens masked."""
        text = _message(record).rstrip("\n").replace("\n", " | ")
        head = f"{rfc3339(record.created)} [{record.process}] [{record.levelname}] {record.name}"
        line = masked(f"{head}: {text}")
        return line if line.isprintable() else printable(line)


def _message(record: logging.LogRecord) -> str:
    error = record.exc_info[1] if record.exc_info else None
    try:
        text = record.getMessage()
    except Exception as wrong:  # a bad log statement must not fail the request that executes it
        statement = f"{record.pathname}:{record.lineno}"
        text = f"the log statement at {statement} cannot be formatted: {describe(wrong)}"
    return f"{text}\n{describe(error)}" if error else text


def describe(error: BaseException) -> str:
    """Describe in one line an exception and the place where it was raised."""
    frames = traceback.extract_tb(error.__traceback__)
    where = f" ({frames[-1].filename}:{frames[-1].lineno})" if frames else ""
    return f"{type(error).__name__}: {error}{where}"


class LogQueue:
    """A queue of write functions, and the thread that calls them in order.

    Args:
        limit: Limit of waiting writes.
    """

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._begin()
        # The thread does not survive a fork, and the parent writes the waiting records.
        os.register_at_fork(after_in_child=self._begin)

    def _begin(self) -> None:
        # Reentrant: a signal handler may log while the main thread is in here.
        self._lock = threading.RLock()
        self._writes: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._running = False
        self._lost = 0

    def put(self, write: Callable[[], None]) -> None:
        """Add a write, which the thread calls soon; never blocks."""
        with self._lock:
            self._writes.put(write)
            while self._writes.qsize() > self._limit:
                with contextlib.suppress(Empty):
                    self._writes.get_nowait()
                    self._lost += 1
            if not self._running:
                self._running = True  # first: a signal handler may log during the start
                try:
                    threading.Thread(target=self._run, name="mop-config-log", daemon=True).start()
                except RuntimeError:  # no thread is left: the next record tries again
                    self._running = False

    def _run(self) -> None:
        while True:
            write = self._writes.get()
            try:
                write()
                self._report_lost()
            except Exception:
                with self._lock:
                    self._lost += 1

    def _report_lost(self) -> None:
        lost, line = self._lost, "log records lost: %d; the log did not take them in time"
        if lost:
            record = logger.makeRecord(logger.name, logging.WARNING, "", 0, line, (lost,), None)
            for handler in logger.handlers:
                if isinstance(handler, QueuedHandler):
                    handler.write(record)
            with self._lock:
                self._lost -= lost

    def drain(self, patience: float) -> None:
        """Wait until all records that are in the queue now are written, or the time is over.

        Args:
            patience: Limit of the wait in seconds.
        """
        if self._running or self._writes.qsize():  # without a thread, ``put`` starts one
            done = threading.Event()
            self.put(done.set)
            done.wait(patience)


LOG_QUEUE = LogQueue()
# Exit handlers run in reverse order: after those of other modules, which may log, and before the
# handler of ``logging``.
atexit.register(LOG_QUEUE.drain, EXIT_PATIENCE)


class QueuedHandler(logging.Handler):
    """Puts records into the queue; the queue's thread passes them to another handler.

    Args:
        target: The handler that writes the records.
    """

    def __init__(self, target: logging.Handler) -> None:
        super().__init__(target.level)
        self.target = target

    def emit(self, record: logging.LogRecord) -> None:
        """Put a copy of a record into the queue, with its text made now.

        The arguments of the record may change before it is written.
        """
        ready = copy.copy(record)
        ready.msg, ready.args = _message(record), None
        ready.exc_info = ready.exc_text = ready.stack_info = None
        LOG_QUEUE.put(lambda: self.write(ready))

    def write(self, record: logging.LogRecord) -> None:
        """Write a record in the queue's thread, without the handler's lock."""
        if self.target.filter(record):
            self.target.emit(record)


class UnbufferedFileHandler(WatchedFileHandler):
    """Writes to a file without a buffer, and opens the file anew after it was moved away."""

    def _open(self) -> io.TextIOWrapper:
        return unbuffered(self.baseFilename, "a")

    def reopenIfNeeded(self) -> None:  # noqa: N802 - the method's name
        """Open the file anew, unless this process may not look at it: root may have opened it."""
        with contextlib.suppress(OSError):
            super().reopenIfNeeded()


class _PatientFile(io.FileIO):
    """A file that also writes the rest of a text that a non-blocking pipe takes in parts."""

    def write(self, data: Any) -> int:
        rest = memoryview(data)
        while rest:
            written = super().write(rest)
            if written is None:  # the pipe is full
                select.select([], [self], [])
            rest = rest[written or 0 :]
        return len(data)


def unbuffered(file: str | int, mode: str) -> io.TextIOWrapper:
    """Return a stream in UTF-8 in any locale, whose ``close`` has nothing to write."""
    raw = _PatientFile(file, mode, closefd=isinstance(file, str))
    return io.TextIOWrapper(raw, "utf-8", "backslashreplace", write_through=True)


def queued(handler: logging.Handler) -> logging.Handler:
    """Return a handler that puts records into the queue for this handler, which may block.

    A handler of a file or a standard stream gets a stream without a buffer.
    """
    if isinstance(handler, QueuedHandler):
        return handler
    if type(handler) is logging.FileHandler:
        handler.close()
        file = UnbufferedFileHandler(handler.baseFilename)
        file.setFormatter(handler.formatter)
        file.setLevel(handler.level)
        file.filters = handler.filters
        return QueuedHandler(file)
    if isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
        # If a program, such as a test, has replaced the stream, it may have no descriptor.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            handler.setStream(unbuffered(handler.stream.fileno(), "w"))
    return QueuedHandler(handler)


def log_to_stderr() -> None:
    """Write our log records to standard error, unless the program has a handler for them."""
    handlers = [*logger.handlers, *logging.getLogger().handlers]
    if any(not isinstance(handler, logging.NullHandler) for handler in handlers):
        return
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(LineFormatter())
    outer = queued(handler)
    # If the program adds a handler to the root logger later, only that handler writes.
    outer.addFilter(lambda _: not logging.getLogger().handlers)
    logger.addHandler(outer)
    logger.setLevel(logging.INFO)
