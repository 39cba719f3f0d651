"""``Lifecycle``: starts and stops a manager's threads, and restarts them after a fork."""

import contextlib
import logging
import threading
from collections.abc import Callable

from .background import Background
from .lists.endpoint_lists import EndpointLists
from .pool.session import ClientState
from .tasks import ClientTasks

logger = logging.getLogger(__name__)


class Lifecycle:
    """Starts and stops the runs of a manager, one after the other.

    Args:
        state: The pools, which wake the background threads if an endpoint needs a check at once.
        lists: The lists, which a running manager saves in its own thread.
        new_tasks: Creates the tasks of a run, because cancelled tasks stay cancelled.
        new_background: Creates the threads of a run.

    Attributes:
        tasks: The tasks of the current run, or of the next run if the manager is stopped.
    """

    def __init__(
        self,
        state: ClientState,
        lists: EndpointLists,
        new_tasks: Callable[[], ClientTasks],
        new_background: Callable[[ClientTasks], Background],
    ) -> None:
        self.tasks = new_tasks()
        self._state = state
        self._lists = lists
        self._new_tasks = new_tasks
        self._new_background = new_background
        self._lock = threading.Lock()
        self._background: Background | None = None
        self._was_started = False
        state.on_fork = self._restart_after_fork

    @property
    def is_running(self) -> bool:
        """Whether health checks and updates run."""
        return self._background is not None

    def start_if_new(self) -> None:
        """Start the threads, unless the manager was started or closed before."""
        if self._was_started:
            return
        try:
            self.start()
        except (RuntimeError, MemoryError) as error:  # no thread left: the next call retries
            logger.warning("health checks and updates could not be started: %s", error)

    def start(self) -> None:
        """Start the threads if they are not running.

        Raises:
            RuntimeError: If the machine has no thread left.
        """
        with self._lock:
            if self._background is None:
                background = self._new_background(self.tasks)
                background.start()
                self._use(background)
                background.wake()  # an endpoint may have become urgent meanwhile
            self._was_started = True

    def _use(self, background: Background | None) -> None:
        self._background = background
        wake = None if background is None else background.wake
        self._state.on_urgent = self._lists.save_later = wake

    def stop(self) -> None:
        """Stop the threads within a second, and save the list."""
        self._was_started = True
        with self._state:
            pass  # in a forked child, replace the locks and sockets of the parent
        with self._lock:
            background = self._background
            self._use(None)
            if background is not None:
                background.stop()
                self.tasks = self._new_tasks()
        self._lists.save()

    def cancel(self) -> None:
        """Cancel the threads without waiting and without a lock: a finalizer calls this."""
        if self._background is not None:
            self._background.cancel()

    def _restart_after_fork(self) -> None:
        """Replace locks, sockets and threads in a forked child: threads do not survive a fork."""
        self._lock = threading.Lock()
        self._lists.reset_after_fork()
        self.tasks = self._new_tasks()
        if self._background is not None:
            self._use(self._new_background(self.tasks))
            with contextlib.suppress(RuntimeError, MemoryError):  # ``wake`` tries again
                self._background.start()
