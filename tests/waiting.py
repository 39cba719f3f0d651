"""Waiting on a condition with a deadline: no test sleeps for luck."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T], *, seconds: float = 10.0, what: str = "", every: float = 0.01
) -> T:
    """Call ``condition`` until it gives something true, and give that; fail after a deadline."""
    deadline = time.monotonic() + seconds
    while True:
        if value := condition():
            return value
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        time.sleep(every)
