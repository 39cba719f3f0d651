"""The planned changes of a list in words: ``in 3 days: − api https://old.example``."""

from collections.abc import Sequence

from ..server.parsing.window import PlannedChange
from .output import plural

#: Units of time, in seconds, the largest first.
_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))
#: Maximum number of changes that are shown.
_MOST = 20


def plan_lines(planned: Sequence[PlannedChange], now: float) -> list[str]:
    """Return one line for each planned change, the next change first.

    Args:
        planned: The changes.
        now: POSIX seconds.
    """
    lines = [
        f"in {_duration(at - now)}: {'+' if added else '−'} {kind} {url}"
        for at, kind, added, url in planned[:_MOST]
    ]
    more = len(planned) - _MOST
    return [*lines, f"… and {more} more"] if more > 0 else lines


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    unit, size = next((unit for unit in _UNITS if seconds >= unit[1]), _UNITS[-1])
    return plural(max(1, round(seconds / size)), unit)
