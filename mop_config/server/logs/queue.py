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
        self._thread: threading.Thread | None = None
        self._lost = 0
        self._failing = False

    def put(self, write: Callable[[], None]) -> None:
        """Add a write, which the thread calls soon; never blocks."""
        with self._lock:
            self._writes.put(write)
            while self._writes.qsize() > self._limit:
                with contextlib.suppress(Empty):
                    self._writes.get_nowait()
                    self._lost += 1
            if self._thread is None:
                self._start()

    def _start(self) -> None:
        thread = threading.Thread(target=self._run, name="mop-config-log", daemon=True)
        # The thread inherits the signal mask. While the main thread blocks SIGHUP until its handler
        # is installed, a thread that accepts SIGHUP would end the process.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            thread.start()
            self._thread = thread
        except RuntimeError:
            pass  # no thread can be started; the next record tries again
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _run(self) -> None:
        while True:
            try:
                write = self._writes.get(timeout=IDLE)
            except Empty:
                with self._lock:
                    if self._writes.empty():
                        self._thread = None
                        return
                continue
            self._report_lost()
            with contextlib.suppress(Exception):
                write()

    def note_failure(self) -> None:
        """Count a record that could not be written."""
        with self._lock:
            self._lost += 1
            self._failing = True

    def note_success(self) -> None:
        """Note that a record was written."""
        self._failing = False

    def _report_lost(self) -> None:
        with self._lock:
            lost = 0 if self._failing else self._lost
            self._lost -= lost
        if lost:
            ours = logging.getLogger("mop_config")
            message = "log records lost: %d; the log did not take them in time"
            record = ours.makeRecord(
                ours.name, logging.WARNING, __file__, 0, message, (lost,), None, "_report_lost"
            )
            for handler in ours.handlers:
                if isinstance(handler, QueuedHandler):
                    handler.write(record)

    def drain(self, still: float, longest: float) -> None:
        """Wait until all records that are in the queue now are written.

        Args:
            still: Limit of the wait without progress, in seconds.
            longest: Limit of the whole wait, in seconds.
        """
        with self._lock:
            if self._thread is None and self._writes.empty():
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
        """Put a record into the queue."""
        ready = self._ready(record)
        LOG_QUEUE.put(lambda: self.write(ready))

    def _ready(self, record: logging.LogRecord) -> logging.LogRecord:
        """Return a copy with its text made now, since arguments may change before it is written."""
        ready = copy.copy(record)
        message = record.getMessage()
        if record.exc_info:
            formatter = self.target.formatter or _FORMATTER
            message = f"{message}\n{formatter.formatException(record.exc_info)}"
        ready.msg, ready.args = message, None
        ready.exc_info = ready.exc_text = ready.stack_info = None
        return ready

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
        self._moved = False

    @classmethod
    def to_file(cls, path: str) -> "DescriptorStream":
        """Append to a file.

        Raises:
            OSError: If it cannot be opened.
        """
        return cls(_append(path), path)

    def write(self, text: str) -> None:
        """Write a text; count it as lost if it cannot be written."""
        data = text.encode("utf-8", "backslashreplace")
        try:
            self._follow()
            while data:
                data = data[self._write(data) :]
        except OSError:
            LOG_QUEUE.note_failure()
        else:
            LOG_QUEUE.note_success()

    def _write(self, data: bytes) -> int:
        try:
            return os.write(self._descriptor, data)
        except BlockingIOError:  # another process has made the shared pipe non-blocking
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            poll.poll()
            return 0

    def flush(self) -> None:
        """Do nothing: there is no buffer."""

    def reopen(self) -> None:
        """Reopen the file soon, because it was moved away; safe in a signal handler."""
        if self._path is not None:
            self._moved = True
            LOG_QUEUE.put(self._follow)

    def _follow(self) -> None:
        if self._moved and self._path is not None:
            self._moved = False
            fresh = _append(self._path)
            os.dup2(fresh, self._descriptor, inheritable=False)
            os.close(fresh)


def _append(path: str) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)


def queued(handler: logging.Handler) -> logging.Handler:
    """Return a handler that puts records into the queue for this handler, which may block."""
    if isinstance(handler, QueuedHandler):
        return handler
    return QueuedHandler(unbuffered(handler))


def unbuffered(handler: logging.Handler) -> logging.Handler:
    """Make a handler write to its file or standard stream through a ``DescriptorStream``."""
    if type(handler) is logging.FileHandler:
        handler.close()
        handler.stream = DescriptorStream.to_file(handler.baseFilename)  # type: ignore[assignment]
    elif isinstance(handler, logging.StreamHandler) and handler.stream in (sys.stdout, sys.stderr):
        # If a program, such as a test, has replaced the stream, it may have no descriptor.
        with contextlib.suppress(OSError, ValueError, AttributeError):
            handler.setStream(DescriptorStream(handler.stream.fileno()))
    return handler
