"""Event: what wakes the reload thread, and wait_for_events, which takes the events of a queue.

A signal handler runs between two bytecodes of the main thread, which may hold the lock that the
handler needs: ``threading.Event.set`` in a handler has deadlocked a worker. ``SimpleQueue.put``
takes no such lock, so any thread and any signal handler may call it.
"""

from enum import Enum
from queue import Empty, SimpleQueue


class Event(Enum):
    """An event that wakes the reload thread."""

    WRITTEN = "the file was written, and is not closed yet"
    CLOSED = "the file was closed after writing, or replaced by a rename"
    OTHER = "any other event that may mean a change of the source"
    SIGHUP = "SIGHUP"
    STOP = "the process stops"


Events = SimpleQueue[Event]


def wait_for_events(queue: Events, timeout: float) -> list[Event]:
    """Wait for an event, at most ``timeout`` seconds, and return all that are in the queue."""
    found = []
    try:
        found.append(queue.get(timeout=timeout))
        while True:
            found.append(queue.get_nowait())
    except Empty:
        return found
