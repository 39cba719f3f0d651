"""The planned changes of a list in words: ``in 3 days: − api https://old.example``."""

from collections.abc import Sequence

from ..model.codec import rfc3339
from ..server.parsing.window import PlannedChange

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
        f"in {_duration(change.at - now)}: {_sign(change)} {change.kind} {change.url}"
        for change in planned[:_MOST]
    ]
    if len(planned) > _MOST:
        lines.append(f"… and {len(planned) - _MOST} more")
    return lines


def plan_document(planned: Sequence[PlannedChange]) -> list[dict[str, str]]:
    """Return the planned changes as JSON objects; times are RFC 3339."""
    return [
        {
            "at": rfc3339(change.at),
            "change": "added" if change.added else "removed",
            "kind": change.kind,
            "url": change.url,
        }
        for change in planned
    ]


def _sign(change: PlannedChange) -> str:
    return "+" if change.added else "−"


def _duration(seconds: float) -> str:
    """Return a duration in its largest unit."""
    for unit, size in _UNITS:
        if (count := round(seconds / size)) >= 1 and seconds >= size:
            return f"{count} {unit}" + ("" if count == 1 else "s")
    return "1 second"
