"""Bounded runs calls that may hang for ever, such as ``stat`` on a dead NFS mount, with a limit."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")

#: Seconds after which a call is tried although an earlier call still hangs. If this share of the
#: time since the first hanging call is longer, it is used instead. A call on a dead file system may
#: hang for ever, so that each try may cost a thread: tries must get rarer.
AGAIN = 30.0
AGAIN_SHARE = 0.1


class Bounded:
    """Calls each function in a thread of its own, and waits for it with a time-out.

    After the time-out the call is left to itself. Until it returns, or until the next try is due,
    further calls fail at once. Only one thread may use the object at a time.

    Args:
        seconds: How long to wait for a call that makes no progress, in seconds.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hanging: list[threading.Thread] = []
        self._since = 0.0  # monotonic time at which the first hanging call began
        self._again = 0.0  # monotonic time from which the next call may begin
        self._current: _BoundedCall | None = None
        self._moved = False

    def call(self, function: Callable[[], T]) -> T:
        """Call a function with the time-out, and return its result.

        Raises:
            TimeoutError: If the function does not return in time, or an earlier call still hangs.
        """
        now = time.monotonic()
        hanging = [thread for thread in self._hanging if thread.is_alive()]
        if now < self._again and len(hanging) == len(self._hanging):
            raise TimeoutError
        self._hanging, self._moved = hanging, False
        call = self._current = _BoundedCall(function)
        thread = threading.Thread(target=call.run, name="mop-config-look", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process cannot start another thread
            return function()
        while not call.done.wait(self.seconds) and self._moved:
            self._moved = False
        if not call.finished:
            self._since = self._since or now
            self._hanging.append(thread)
            self._again = now + max(AGAIN, AGAIN_SHARE * (now - self._since))
            raise TimeoutError
        self._since = self._again = 0.0
        return cast(T, call.result())

    def moved(self) -> None:
        """Note that the call made progress, which restarts its time-out."""
        self._moved = True

    def release(self) -> None:
        """Make the ``call`` that is waiting now fail at once with ``TimeoutError``."""
        if self._current is not None:
            self._current.done.set()


class _BoundedCall:
    """One call, with its result or its exception."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self.finished = False
        self.done = threading.Event()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:
            self._error = error
        self.finished = True
        self.done.set()

    def result(self) -> Any:
        if self._error is not None:
            raise self._error
        return self._result
