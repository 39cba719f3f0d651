"""The checks of the last 24 hours of each endpoint, in slots of a quarter of an hour. Pure."""

from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

#: Length of a slot, and number of slots that are kept for each endpoint: 24 hours.
SLOT_SECONDS = 900
SLOTS = 96


class Slot(NamedTuple):
    """The checks of one endpoint in a quarter of an hour.

    Attributes:
        number: POSIX time of the slot in units of ``SLOT_SECONDS``.
        checks: Number of checks.
        good: Number of good checks.
        seconds: Sum of the durations of the good checks.
    """

    number: int
    checks: int
    good: int
    seconds: float


#: The slots of each endpoint, oldest first, by kind and URL.
Slots = Mapping[tuple[str, str], list[Slot]]


def add_check(slots: deque[Slot], posix: float, seconds: float | None) -> None:
    """Add a check to the slots of an endpoint.

    Args:
        slots: The slots, oldest first.
        posix: POSIX time of the check.
        seconds: Duration of the check, or None for a failed check.
    """
    number = int(posix // SLOT_SECONDS)
    while slots and slots[-1].number > number:
        slots.pop()  # the clock was set back
    last = slots.pop() if slots and slots[-1].number == number else Slot(number, 0, 0, 0.0)
    good = seconds is not None
    total = round(last.seconds + (seconds or 0.0), 6)
    slots.append(Slot(number, last.checks + 1, last.good + good, total))
