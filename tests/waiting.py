"""Waiting for a condition with a deadline, in place of fixed sleeps."""

import socket
import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def wait_for(
    condition: Callable[[], T], *, seconds: float = 10.0, what: str = "", every: float = 0.01
) -> T:
    """Call ``condition`` until its result is true, and return the result; fail after a deadline."""
    began = time.monotonic()
    while True:
        if value := condition():
            return value
        waited = time.monotonic() - began
        if waited > seconds:
            raise AssertionError(f"not within {seconds} s: {what or condition}")
        # Most conditions ask a server, whose answers take the processor from the awaited work.
        time.sleep(max(every, min(waited / 20, 0.05)))


def answers(port: int) -> None:
    """Wait until a server listens on a port."""

    def listens() -> bool:
        try:
            with socket.create_connection(("127.0.0.1", port), 1):
                return True
        except OSError:
            return False

    wait_for(listens, seconds=30, what=f"somebody listens on {port}")
