"""BackgroundTask runs a function in a thread of its own, at most once at a time."""

import threading
from collections.abc import Callable


class BackgroundTask:
    """Calls a function in a background thread, never twice at the same time.

    A call made while the function runs makes it run once more afterwards.

    Args:
        function: The function to call.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def call(self) -> None:
        """Call the function soon, in the background thread."""
        with self._lock:
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mop-config-background", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                self._wanted = False
            self._function()

    def wait(self, timeout: float) -> None:
        """Wait at most ``timeout`` seconds until every requested call has ended."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
