"""FileSource reads the endpoint file safely, whatever the path names; Watcher watches its folders.

Every system call on the file has a deadline, because ``stat`` never returns on a mount whose server
is gone.

The watcher watches the folder of the path as written and the folder of the path that this resolves
to: a watch on the file itself would miss every replacement of the file. The event handler only
wakes the reload thread, since an exception in a handler would silently end watchdog's dispatcher
thread.
"""

import contextlib
import errno
import hashlib
import logging
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from enum import Enum
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NamedTuple, TypeVar

from watchdog import events as fs
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

from ...errors import SourceError
from ...files import open_flags
from ..parsing.problems import Code

try:
    import fcntl
except ImportError:  # Windows has neither leases nor flock
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)
# watchdog logs this error at each stop that meets an event, although nothing is wrong.
logging.getLogger("watchdog.observers.inotify").addFilter(
    lambda record: "called when the thread is inactive" not in record.getMessage()
)

_OUR_LACK = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOMEM})
_FLAGS = os.O_RDONLY | open_flags("O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY", "O_BINARY")


T = TypeVar("T")

#: Seconds to wait for the close after the last write.
CLOSE_WAIT = 2.0
#: Deadline of a ``stat`` or a read in seconds.
LOOK = 3.0
#: Seconds, times the calls that hang, after which another call is tried. A call on a dead file
#: system may hang for ever, so that each try may cost a thread: tries must get rarer.
AGAIN = 30.0


#: Seconds before watching is tried again where it failed.
RETRY = 3.0
#: Seconds between two wake-ups that events of other files in the folder may cause.
NEIGHBOUR_INTERVAL = 0.05


class Event(Enum):
    """An event that wakes the reload thread."""

    WRITTEN = "the file was written, and is not closed yet"
    CLOSED = "the file was closed after writing or replaced by a rename, or the key changed"
    OTHER = "any other event that may mean a change of the source"
    SIGHUP = "SIGHUP"
    STOP = "the process stops"


#: The events of watchdog that are watched, and what each means if it is about the file itself.
#: Opened and closed-without-write are left out: each read of the file would cause another read.
_MEANINGS: dict[type[fs.FileSystemEvent], Event] = {
    fs.FileModifiedEvent: Event.WRITTEN,
    fs.FileAttribEvent: Event.OTHER,
    fs.FileClosedEvent: Event.CLOSED,
    fs.FileCreatedEvent: Event.OTHER,
    fs.FileMovedEvent: Event.OTHER,
    fs.FileDeletedEvent: Event.OTHER,
    fs.DirCreatedEvent: Event.OTHER,
    fs.DirMovedEvent: Event.OTHER,
    fs.DirDeletedEvent: Event.OTHER,
}
#: The events for the reload thread. A signal handler runs between two bytecodes of the main thread,
#: which may hold the lock that the handler needs: ``threading.Event.set`` in a handler has
#: deadlocked a worker. ``SimpleQueue.put`` takes no such lock, so any thread and any signal handler
#: may call it.
Events = SimpleQueue[Event]


class Fingerprint(NamedTuple):
    """The ``stat`` result of a file; as long as it is equal, the content is, with rare exceptions.

    For a key in etcd, ``mtime_ns`` is the revision, and all other fields but the size are 0. If
    ``stat`` fails, ``error`` is its ``errno``, and all other fields are 0.
    """

    error: int
    device: int = 0
    inode: int = 0
    mode: int = 0
    size: int = 0
    mtime_ns: int = 0
    ctime_ns: int = 0
    links: int = 1

    @classmethod
    def of(cls, s: os.stat_result) -> "Fingerprint":
        """Make the fingerprint of a ``stat`` result."""
        times = (s.st_mtime_ns, s.st_ctime_ns)
        return cls(0, s.st_dev, s.st_ino, s.st_mode, s.st_size, *times, s.st_nlink)

    @classmethod
    def at(cls, path: Path) -> "Fingerprint":
        """Return the fingerprint of a path; never raises."""
        try:
            return cls.of(os.stat(path))
        except OSError as error:
            return cls(error.errno or errno.EIO)

    @property
    def contents(self) -> "Fingerprint":
        """The fingerprint without ``ctime``, which a rename or a change of owner sets too."""
        return self._replace(ctime_ns=0)

    @property
    def blank(self) -> bool:
        """Whether the file exists and is empty."""
        return not self.error and self.size == 0


class Order(NamedTuple):
    """The place of a text among the texts of a key in etcd.

    Attributes:
        cluster: Id of the etcd cluster; revisions of different clusters cannot be compared.
        revision: Revision at which the key was written.
    """

    cluster: str
    revision: int


@contextlib.contextmanager
def opened(path: str | Path, flags: int, folder: int | None = None) -> Iterator[int]:
    """Open a file or a folder; the context is its descriptor, which is closed at the end.

    Args:
        path: The path.
        flags: The flags of ``os.open``.
        folder: Descriptor of the folder to which the path is relative; None for the present folder.
    """
    descriptor = os.open(path, flags, dir_fd=folder)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class SourceText(NamedTuple):
    """A text that was read from the source.

    Attributes:
        data: The bytes.
        mtime: POSIX seconds of the last change.
        fingerprint: Fingerprint of the source right before the read.
        order: Place of the text in etcd, or None for a file. With a place, ``mtime`` is the time at
            which the read began.
        detached: The message that the file is a bind mount whose original was replaced or removed,
            so that edits of the original are not visible here; else empty.
    """

    data: bytes
    mtime: float
    fingerprint: Fingerprint
    order: Order | None = None
    detached: str = ""

    @property
    def identity(self) -> bytes:
        """A digest that differs whenever another text was read, or the same is detached."""
        return identity_of(self.data) + self.detached.encode()


def identity_of(data: bytes) -> bytes:
    """Return the ``identity`` of a text of a file that is not detached, or of a key."""
    return hashlib.sha256(data).digest()


class FileSource:
    """A regular file on this machine; only one thread may use the object at a time.

    Args:
        path: Path of the file; symbolic links are followed at each access.
        max_bytes: Limit of the size in bytes.
        patience: Deadline of a ``stat`` or a read in seconds.
    """

    def __init__(self, path: str, max_bytes: int, patience: float = LOOK) -> None:
        self._patience = patience
        self._hanging: list[Future[Any]] = []
        self._again = 0.0  # monotonic time from which the next call may begin
        self.path = Path(os.path.abspath(path))
        # A file name may have bytes that are not UTF-8; messages are text.
        self._name = os.fsencode(self.path).decode("utf-8", "backslashreplace")
        self.max_bytes = max_bytes

    def __str__(self) -> str:
        return self._name

    def fingerprint(self, before: Callable[[], None] = lambda: None) -> Fingerprint:
        """Return the fingerprint of the file.

        Args:
            before: Called first, under the same deadline, because it touches the same file system.
                This method only raises what ``before`` raises.
        """

        def look() -> Fingerprint:
            before()
            return Fingerprint.at(self.path)

        return self._call(look, Fingerprint(errno.ETIMEDOUT))

    def _call(self, function: Callable[[], T], late: T) -> T:
        """Call a function in a thread of its own, wait with a time-out, and return its result.

        After the time-out the call is left to itself. Until it returns, or until the next try is
        due, further calls return at once.

        Args:
            function: The function.
            late: Returned if the function does not return in time, or an earlier call still hangs.
        """
        now = time.monotonic()
        self._hanging = [call for call in self._hanging if not call.done()]
        if self._hanging and now < self._again:
            return late
        call: Future[T] = Future()

        def run() -> None:
            try:
                call.set_result(function())
            except BaseException as error:
                call.set_exception(error)

        try:
            threading.Thread(target=run, name="mop-config-look", daemon=True).start()
        except RuntimeError:  # the process cannot start another thread
            return function()
        try:
            return call.result(self._patience)
        except TimeoutError:
            self._hanging.append(call)
            self._again = now + AGAIN * len(self._hanging)
            return late

    def being_written(self) -> bool | None:
        """Whether a process writes to the file: it has the file open, and wrote lately.

        None if that is unknown. A process may keep a file open for ever, so the file counts as
        complete ``CLOSE_WAIT`` after its last change.
        """
        return self._call(self._being_written, None)

    def _being_written(self) -> bool | None:
        """Request a read lease, which is only granted if no process has the file open for writing.

        See fcntl(2). Only the owner of the file and root may request a lease, on Linux, on a local
        file system.
        """
        if not hasattr(fcntl, "F_SETLEASE"):
            return None
        try:
            descriptor = os.open(self.path, _FLAGS)
        except OSError:
            return None
        try:
            if abs(time.time() - os.fstat(descriptor).st_ctime) > CLOSE_WAIT:
                return False
            # If another process opens the file while the lease is held, the kernel sends a signal.
            # SIGURG is ignored; the default, SIGIO, would end the process.
            fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGURG)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_RDLCK)
            fcntl.fcntl(descriptor, fcntl.F_SETLEASE, fcntl.F_UNLCK)
        except OSError as error:
            refused = error.errno == errno.EAGAIN
            return True if refused and _grants_leases(os.path.realpath(self.path)) else None
        finally:
            os.close(descriptor)
        return False

    def read(self, expected: Fingerprint | None = None) -> SourceText:
        """Read the file.

        The file is opened without blocking, so that a FIFO or a terminal cannot hang the thread.
        The number of bytes is bounded, because the file may grow during the read.

        Args:
            expected: Fingerprint that the file must still have; None reads whatever is there.

        Raises:
            SourceError: With code ``missing``, ``unreadable``, ``unreachable``,
                ``not-regular``, ``too-large`` or ``changing``.
            OSError: If this process lacks descriptors or memory.
        """
        text = self._call(partial(self._read, expected), None)
        if text is None:
            limit = f"{self._patience:g} s: its file system hangs"
            raise SourceError(Code.UNREACHABLE, f"{self._name} gives no answer within {limit}")
        return text

    def _read(self, expected: Fingerprint | None) -> SourceText | None:
        fingerprint = Fingerprint.at(self.path)
        if expected is not None and fingerprint.contents != expected.contents:
            raise SourceError(Code.CHANGING, f"{self._name} changes while it is read")
        try:
            with opened(self.path, _FLAGS) as descriptor:
                before = os.fstat(descriptor)
                if not stat.S_ISREG(before.st_mode):
                    kind = "a directory" if stat.S_ISDIR(before.st_mode) else "no regular file"
                    raise SourceError(Code.NOT_REGULAR, f"{self._name} is {kind}")
                with open(descriptor, "rb", closefd=False) as file:
                    data = file.read(min(before.st_size, self.max_bytes) + 1)
                after = os.fstat(descriptor)
        except OSError as error:
            raise self._unreadable(error) from None
        if len(data) > self.max_bytes:
            limit = f"{self.max_bytes} bytes (ENDPOINT_MAX_BYTES)"
            raise SourceError(Code.TOO_LARGE, f"{self._name} is larger than {limit}")
        same = Fingerprint.of(before).contents == Fingerprint.of(after).contents
        if not same or len(data) != before.st_size:
            raise SourceError(Code.CHANGING, f"{self._name} changes while it is read")
        detached = self._detached() if after.st_nlink == 0 else ""
        return SourceText(data, after.st_mtime, fingerprint, detached=detached)

    def is_current(self, text: SourceText) -> bool:
        """Whether the file still has the content that was read.

        Two saves of the same size within one tick of the clock look alike, so the bytes are
        compared as well.
        """
        try:
            return self.read(text.fingerprint).data == text.data
        except (SourceError, OSError):
            return False

    def _detached(self) -> str:
        """Return the message for a file without links that is a mount point, else an empty text.

        On some file systems no file has a link count.
        """
        # In proc(5), a space in a path is written in octal.
        path = os.fsencode(os.path.realpath(self.path)).replace(b" ", rb"\040")
        with contextlib.suppress(OSError):
            if b" %b " % path not in Path("/proc/self/mountinfo").read_bytes():
                return ""
        return (
            f"{self._name} is mounted by itself, and was replaced or removed where it comes from:"
            " the mount shows the old file for ever; mount the folder that holds it instead"
        )

    def _unreadable(self, error: OSError) -> SourceError | OSError:
        if error.errno in _OUR_LACK:
            return error
        if error.errno in {errno.ENOENT, errno.ENOTDIR}:
            return SourceError(Code.MISSING, f"{self._name} is missing")
        # Opening a socket fails with ENXIO.
        if error.errno in {errno.ENXIO, errno.ENODEV}:
            return SourceError(Code.NOT_REGULAR, f"{self._name} is no regular file")
        return SourceError(Code.UNREADABLE, f"{self._name} cannot be read: {error.strerror}")


def _grants_leases(path: str) -> bool:
    """Whether the file system of a file grants leases at all.

    CIFS, and NFS without a delegation, refuse every lease with EAGAIN, as if there were a writer.
    So a lease is requested on a new file without a name (``O_TMPFILE``), which no other process can
    have open. If no such file can be made, the file system counts as one without leases.
    """
    with contextlib.suppress(OSError):
        with open(os.open(os.path.dirname(path), os.O_TMPFILE | os.O_RDWR, 0o600), "r+b") as file:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        return True
    return False


class Watcher(fs.FileSystemEventHandler):
    """Keeps a watchdog observer on the folders of a file, and handles its events.

    Args:
        path: The file.
        events: The queue of the events.
    """

    def __init__(self, path: Path, events: Events) -> None:
        self._path = path
        self._events = events
        self._observer: BaseObserver | None = None
        self._folders: dict[str, tuple[int, int]] = {}  # device and inode of each existing folder
        self._names: set[str] = set()  # the paths in events; watchdog resolves no symbolic link
        self._retry_at = 0.0
        self._complaint = ""
        self._checking = threading.Lock()
        self._ended = False
        self._quiet_until = 0.0  # no event of another file is passed on before

    @property
    def mode(self) -> str:
        """``inotify``, or the name of another system's mechanism; ``poll`` while not watching."""
        if self._observer is None:
            return "poll"
        return type(self._observer).__name__.removesuffix("Observer").lower()

    @property
    def alive(self) -> bool:
        """Whether every thread that delivers events is running."""
        observer = self._observer
        reader = getattr(observer, "_inotify_fd", None)
        return observer is not None and (
            observer.is_alive()
            and len(observer.emitters) == len(self._folders)
            and all(emitter.is_alive() for emitter in observer.emitters)
            # The thread that reads the inotify descriptor; other systems have no such thread.
            and (reader is None or reader.is_alive())
        )

    def check(self, now: float) -> None:
        """Start or renew the observer if the folders or its threads have changed.

        Called at each ``stat`` of the file: a folder may have been renamed and replaced, or a
        thread of watchdog may have ended. If an earlier call still hangs in the file system, this
        call does nothing.

        Args:
            now: Monotonic seconds.
        """
        if not self._checking.acquire(blocking=False):
            return
        try:
            written = os.path.join(os.path.realpath(self._path.parent), self._path.name)
            names = {written, os.path.realpath(self._path)}
            found = {folder: Fingerprint.at(Path(folder)) for folder in map(os.path.dirname, names)}
            folders = {folder: status[1:3] for folder, status in found.items() if not status.error}
            same = (names, folders) == (self._names, self._folders)
            if self._ended or (same and (self.alive or now < self._retry_at)):
                return
            self._unwatch()
            self._names = names
            self._folders = folders
            self._retry_at = now + RETRY
            complaint = self._start() if folders else ""
            if complaint and complaint != self._complaint:
                logger.warning("%s: polling instead", complaint)
            self._complaint = complaint
        finally:
            self._checking.release()

    def stop(self) -> None:
        """Stop watching for good."""
        self._ended = True
        self._unwatch()

    def _unwatch(self) -> None:
        observer, self._observer = self._observer, None
        if observer is not None:
            # stop() may raise if a thread of the observer has died; the rest must be closed still.
            with contextlib.suppress(Exception):
                observer.stop()
            if observer.is_alive():
                observer.join(2.0)

    def _start(self) -> str:
        """Start an observer; return why that is not possible, or an empty text."""
        # inotify delivers no events of a folder that this process may not list.
        if not all(os.access(folder, os.R_OK) for folder in self._folders):
            return "a folder of the file may not be listed"
        try:
            self._observer = Observer()
            for folder in self._folders:
                self._observer.schedule(self, folder, event_filter=list(_MEANINGS))
            self._observer.start()
        except (OSError, RuntimeError) as error:
            self._unwatch()
            return f"watching is not possible ({error})"
        # stop() may have run meanwhile: it does not wait for a check that hangs.
        if self._ended:
            self._unwatch()
        return ""

    def dispatch(self, event: fs.FileSystemEvent) -> None:
        """Put an event of watchdog into the queue of the reload thread."""
        meaning = _MEANINGS.get(type(event), Event.OTHER)
        if isinstance(event, fs.FileMovedEvent) and os.fsdecode(event.dest_path) in self._names:
            meaning = Event.CLOSED
        elif os.fsdecode(event.src_path) not in self._names:
            # A log file in the same folder may be written to a thousand times a second. The next
            # regular stat finds the changes whose events are dropped here.
            if (now := time.monotonic()) < self._quiet_until:
                return
            self._quiet_until = now + NEIGHBOUR_INTERVAL
            meaning = Event.OTHER
        self._events.put(meaning)
