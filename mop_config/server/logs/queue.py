"""LogQueue is a bounded queue between the loggers of a process and its log.

A terminal that was stopped with Ctrl-S, or a pipe that no process reads, blocks every write. So a
logger only puts its record into the queue, and a daemon thread writes the record. The thread holds
no lock while it writes, so that neither ``logging.shutdown`` nor a fork nor the end of the
interpreter waits for it. ``logging.handlers.QueueListener`` is not used, because it writes under
the handler's lock, and its ``stop`` waits without a limit.
"""

import atexit
import contextlib
import copy
import logging
import os
import select
import signal
import sys
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

#: Limit of waiting records; beyond it the oldest records are dropped.
LIMIT = 10_000
#: Seconds without a record after which the thread ends; the next record starts a new thread.
IDLE = 1.0
#: Limits of the wait for the log at the exit of the process, in seconds: without progress, and in
#: all.
EXIT_STILL = 0.5
EXIT_LONGEST = 5.0

_FORMATTER = logging.Formatter()


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
                # If no thread can be started, the next record tries again.
                with contextlib.suppress(RuntimeError):
                    threading.Thread(target=self._run, name="mop-config-log", daemon=True).start()
                    self._running = True

    def _run(self) -> None:
        # While the main thread blocks SIGHUP until its handler is installed, a thread that accepts
        # SIGHUP would end the process.
        signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        while True:
            try:
                write = self._writes.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if self._writes.empty():
                        self._running = False
                        return
                continue
            try:
                write()
            except Exception:
                with self._lock:
                    self._lost += 1
            else:
                with contextlib.suppress(Exception):
                    self._report_lost()

    def _report_lost(self) -> None:
        lost, ours = self._lost, logging.getLogger("mop_config")
        if not lost:
            return
        line = f"log records lost: {lost}; the log did not take them in time"
        record = logging.makeLogRecord(
            {"name": ours.name, "levelno": logging.WARNING, "levelname": "WARNING", "msg": line}
        )
        for handler in ours.handlers:
            if isinstance(handler, QueuedHandler):
                handler.write(record)
        with self._lock:
            self._lost -= lost

    def drain(self, still: float, longest: float) -> None:
        """Wait until all records that are in the queue now are written.

        Args:
            still: Limit of the wait without progress, in seconds.
            longest: Limit of the whole wait, in seconds.
        """
        with self._lock:
            if not self._running and self._writes.empty():
                return
        done = threading.Event()
        self.put(done.set)
        end = time.monotonic() + longest
        left = self._writes.qsize()
        while not done.wait(min(still, max(0.0, end - time.monotonic()))):
            before, left = left, self._writes.qsize()
            if left >= before or time.monotonic() >= end:
                return


LOG_QUEUE = LogQueue()
# Exit handlers run in reverse order: after those of other modules, which may log, and before the
# handler of ``logging``.
atexit.register(LOG_QUEUE.drain, EXIT_STILL, EXIT_LONGEST)


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
        message = record.getMessage()
        if record.exc_info:
            formatter = self.target.formatter or _FORMATTER
            message = f"{message}\n{formatter.formatException(record.exc_info)}"
        ready.msg, ready.args = message, None
        ready.exc_info = ready.exc_text = ready.stack_info = None
        LOG_QUEUE.put(lambda: self.write(ready))

    def write(self, record: logging.LogRecord) -> None:
        """Write a record in the queue's thread, without the handler's lock."""
        if self.target.filter(record):
            self.target.emit(record)


class DescriptorStream:
    """A stream that writes to a descriptor, in UTF-8 in any locale.

    The stream has no buffer, no lock, and no ``close`` that could wait for the disk.

    Args:
        descriptor: The descriptor.
        path: Path of the file, so that the file can be reopened; None for no file.
    """

    def __init__(self, descriptor: int, path: str | None = None) -> None:
        self._descriptor = descriptor
        self._path = path

    def write(self, text: str) -> None:
        """Write a text.

        Raises:
            OSError: If it cannot be written.
        """
        data = text.encode("utf-8", "backslashreplace")
        while data:
            try:
                data = data[os.write(self._descriptor, data) :]
            except BlockingIOError:  # another process has made the shared pipe non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def reopen(self) -> None:
        """Reopen the file, because it was moved away."""
        if self._path is not None:
            fresh = _append(self._path)
            os.dup2(fresh, self._descriptor, inheritable=False)
            os.close(fresh)


def _append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def queued(handler: logging.Handler) -> logging.Handler:
    """Return a handler that puts records into the queue for this handler, which may block.

    A handler of a file or a standard stream writes through a ``DescriptorStream``, and raises if it
    fails, so that the queue counts the record as lost.
    """
    if isinstance(handler, QueuedHandler):
        return handler
    if isinstance(handler, logging.StreamHandler):
        handler.handleError = _raise  # type: ignore[method-assign]
    if type(handler) is logging.FileHandler:
        handler.close()
        path = handler.baseFilename
        handler.stream = DescriptorStream(_append(path), path)  # type: ignore[assignment]
    elif isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
        # If a program, such as a test, has replaced the stream, it may have no descriptor.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            handler.setStream(DescriptorStream(handler.stream.fileno()))
    return QueuedHandler(handler)


def _raise(record: logging.LogRecord) -> None:  # noqa: ARG001 - the method's parameter
    if error := sys.exception():
        raise error
