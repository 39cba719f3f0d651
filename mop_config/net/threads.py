"""Threads beside those of the application."""

import sys
import threading
from collections.abc import Callable
from typing import Any


def start_thread(run: Callable[..., object], name: str, *args: Any) -> threading.Thread:
    """Start a daemon thread, for which the end of the interpreter does not wait.

    Raises:
        RuntimeError: If no thread is left, or if the interpreter ends. Python 3.11 would wait for
            ever there: in a ``__del__`` at its end no other thread runs any more.
    """
    if sys.is_finalizing():
        raise RuntimeError("can't create new thread at interpreter shutdown")  # as Python 3.12 says
    thread = threading.Thread(target=run, args=args, name=name, daemon=True)
    thread.start()
    return thread
