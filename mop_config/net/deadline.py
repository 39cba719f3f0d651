"""``Deadline``: the common end of several network operations. Pure but for the clock.

httpcore passes time-outs unchanged from a request to the network stream. ``Limit`` is a time-out
that carries a deadline, so a stream knows at each step to which request the step belongs, even on
an HTTP/2 connection that many requests share.
"""

import time
from typing import Any, Self

#: Seconds that stand for no time-out: eleven days, within the range of every clock and poll.
FOREVER = 1e6


class Deadline:
    """The common deadline of several network operations.

    Args:
        until: The deadline in monotonic seconds.

    Attributes:
        hedge: The hedge that may interrupt a read, or None.
    """

    hedge: Any = None

    def __init__(self, until: float) -> None:
        self.until = until

    def least(self, timeout: float | None) -> float:
        """Return a time-out in seconds, bounded by the time left until the deadline."""
        left = max(0.0, self.until - time.monotonic())
        return left if timeout is None or timeout > left else timeout

    def wrote(self) -> None:
        """Record that a part of the request is written."""


class Limit(float):
    """A time-out in seconds that ends at a deadline at the latest."""

    deadline: Deadline

    @classmethod
    def of(cls, seconds: float, deadline: Deadline) -> Self:
        """Create a time-out."""
        limit = cls(seconds)
        limit.deadline = deadline
        return limit
