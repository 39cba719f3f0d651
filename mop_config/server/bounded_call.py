"""Calls that may hang for ever, such as a look at a mount whose server is gone, with a bound."""

import threading
import time
from collections.abc import Callable
from typing import Any, TypeVar, cast

T = TypeVar("T")

#: Seconds after which a call is tried although an earlier one still hangs, and the share of the
#: time since the first one that is waited for instead where that is longer. What an unmounted
#: file system holds may hang for ever: so each try may cost a thread, and tries must get rarer.
AGAIN = 30.0
AGAIN_SHARE = 0.1


class Bounded:
    """Calls functions, each in a thread of its own, and waits for each only so long.

    A call that is not back by then is left to itself. Until it comes back, or for some time,
    further calls fail at once. One caller at a time.

    Args:
        seconds: How long to wait for a call that does not go forward.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._hanging: list[threading.Thread] = []
        self._since = 0.0  # when the first of them began
        self._again = 0.0  # when the next one may begin
        self._current: _BoundedCall | None = None
        self._moved = False

    def call(self, function: Callable[[], T]) -> T:
        """Call a function.

        Raises:
            TimeoutError: If it is not back in time, or an earlier one hangs still.
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
        except RuntimeError:  # the process may have no more of them
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
        """Note that the call goes forward: it is given its time once more."""
        self._moved = True

    def release(self) -> None:
        """Have a call that is waited for fail at once."""
        if self._current is not None:
            self._current.done.set()


class _BoundedCall:
    """One call, and what came of it."""

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
