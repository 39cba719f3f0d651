"""Work that no request should wait for, done elsewhere.

Parsing holds the interpreter's lock: 100,000 entries would stall every request of a worker
for a second. A child at low priority does it, and hands back finished bytes. And where
threads are greenlets, a slow disk stalls the whole worker: real threads do that work.
"""

import sys
import threading
from collections.abc import Callable
from typing import TypeVar, cast

T = TypeVar("T")


def greenlets() -> bool:
    """Whether gevent has put greenlets in the place of threads in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def run_blocking(function: Callable[[], T]) -> T:
    """Call a function that blocks; under gevent in a real thread, while others go on."""
    if not greenlets():
        return function()
    from gevent import get_hub

    result, error = get_hub().threadpool.apply(_outcome, (function,))
    if error is not None:
        raise error
    return cast(T, result)


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    # An exception that left the thread would be printed with its traceback.
    try:
        return function(), None
    except Exception as error:
        return None, error


class BackgroundTask:
    """Calls a function in a thread of its own, once at a time.

    A call that comes while the function runs makes it run once more afterwards.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def call(self) -> None:
        """Have the function called soon."""
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
        """Wait until everything that was called for is done, at most ``timeout`` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)
