"""Work that takes its time on the wire, each piece in a thread of its own."""

import logging
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

from ..sources.wakeup import OTHER, Wakeup

logger = logging.getLogger(__name__)


class WorkerThreads:
    """Runs pieces of work, and hands their results to the one thread that waits for them.

    Args:
        wake: Wakes that thread.
    """

    def __init__(self, wake: Wakeup) -> None:
        self._wake = wake
        self._lock = threading.Lock()
        self._done: deque[tuple[Callable[[Any], None], Any]] = deque()
        self._closed = False
        self._complaint = ""
        self.running = 0

    def run(self, name: str, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        """Do ``work`` in a thread, and call ``then`` with its result when ``finish`` is called.

        The result is None where the work raised, or could not even begin.
        """
        self.running += 1
        thread = threading.Thread(
            target=self._run, args=(work, then), name=f"mop-config-{name}", daemon=True
        )
        try:
            thread.start()
        except RuntimeError as error:  # the process may have no more of them
            self._complain(str(error))
            self._deliver(then, None)

    def _run(self, work: Callable[[], Any], then: Callable[[Any], None]) -> None:
        result: Any = None
        try:
            result = work()
        except Exception as error:
            # Only what it is: its words may hold a URL.
            self._complain(type(error).__name__)
        else:
            self._complaint = ""
        self._deliver(then, result)

    def _complain(self, what: str) -> None:
        if what != self._complaint:
            self._complaint = what
            logger.error("checks or messages end with: %s", what)

    def _deliver(self, then: Callable[[Any], None], result: Any) -> None:
        with self._lock:
            self._done.append((then, result))
            # The pipe of a thread that has ended may be somebody else's by now.
            if not self._closed:
                self._wake.send(OTHER)

    def finish(self) -> int:
        """Hand over the results that have come; give their number."""
        count = 0
        while self._done:
            then, result = self._done.popleft()
            self.running -= 1
            count += 1
            then(result)
        return count

    def close(self) -> None:
        """Wake nobody any more; what still runs ends unheard."""
        with self._lock:
            self._closed = True
