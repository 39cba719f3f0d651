"""The plots of the dashboard: the last 24 hours of each endpoint and of each kind. Pure.

A plot is drawn in units of slots: a slot is one unit wide, and the page scales the drawing.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Iterable
from itertools import groupby
from typing import Any, NamedTuple

from ...monitor.history import SLOT_SECONDS, SLOTS, Slot

#: Heights of the line of response time and of the whole plot; the bar of uptime is below the line.
LINE_HEIGHT, PLOT_HEIGHT = 22.0, 30.0
BAR_TOP = LINE_HEIGHT + 2
#: Distance of the line from its upper and lower edge, so that it is not cut.
_MARGIN = 1.5
#: Height of the plot of a kind.
KIND_HEIGHT = 40.0


class Bar(NamedTuple):
    """A rectangle over adjacent slots.

    Attributes:
        x: Left edge.
        width: Number of slots.
        height: Height, if the plot gives it a meaning.
        level: ``good``, ``warn`` or ``bad``.
    """

    x: int
    width: int
    height: float
    level: str


def endpoint_plot(slots: Iterable[Slot], now: float) -> dict[str, Any] | None:
    """Draw the plot of an endpoint; None if it was not checked in the last 24 hours.

    Args:
        slots: The slots, oldest first.
        now: POSIX time at the right edge.

    Returns:
        ``bars``, the bar of uptime: all checks of a slot were good, some of them, or none;
        ``lines``, the points of each unbroken stretch of the line of response time, for SVG's
        ``points``; ``top``, the response time at the top of the scale; the number of ``checks``;
        ``uptime``, the percentage of good checks, rounded down to one decimal place; ``low`` and
        ``high``, the shortest and the longest response time of a slot, 0 if all checks failed.
        Times are in milliseconds.
    """
    recent = _recent(slots, now)
    if not recent:
        return None
    times = {x: 1000 * slot.seconds / slot.good for x, slot in recent if slot.good}
    high = max(times.values(), default=0.0)
    top = _round_up(high)
    checks = sum(slot.checks for _, slot in recent)
    good = sum(slot.good for _, slot in recent)
    # In an unbroken stretch, the distance between the place and the position stays the same.
    stretches = groupby(enumerate(sorted(times)), key=lambda pair: pair[1] - pair[0])
    return {
        "bars": _merged(Bar(x, 1, 0.0, _level(slot.good, slot.checks)) for x, slot in recent),
        "lines": [_points([x for _, x in stretch], times, top) for _, stretch in stretches],
        "top": top,
        "checks": checks,
        "uptime": math.floor(1000 * good / checks) / 10,
        "low": round(min(times.values(), default=0.0)),
        "high": round(high),
    }


def kind_plot(kind: str, endpoints: Iterable[Iterable[Slot]], now: float) -> dict[str, Any] | None:
    """Draw the plot of a kind; None if no endpoint was checked in the last 24 hours.

    Args:
        kind: The kind.
        endpoints: The slots of each endpoint of the kind.
        now: POSIX time at the right edge.

    Returns:
        The ``kind``; ``bars``, the mean number of endpoints that were up in each slot; ``all``,
        the number of endpoints at the top of the scale; ``low`` and ``high``, the lowest and the
        highest number of a slot.
    """
    up: defaultdict[int, float] = defaultdict(float)
    checked: Counter[int] = Counter()
    for slots in endpoints:
        for x, slot in _recent(slots, now):
            up[x] += slot.good / slot.checks
            checked[x] += 1
    if not checked:
        return None
    top = max(checked.values())
    means = {x: round(up[x], 1) for x in sorted(checked)}
    bars = (
        Bar(x, 1, round(KIND_HEIGHT * mean / top, 2), _level(mean, checked[x]))
        for x, mean in means.items()
    )
    low, high = min(means.values()), max(means.values())
    return {"kind": kind, "bars": _merged(bars), "all": top, "low": low, "high": high}


def _recent(slots: Iterable[Slot], now: float) -> list[tuple[int, Slot]]:
    """Return the slots of the last 24 hours with the place of each, from 0 at the left."""
    first = int(now // SLOT_SECONDS) - SLOTS + 1
    return [(slot.number - first, slot) for slot in slots if 0 <= slot.number - first < SLOTS]


def _level(good: float, of: int) -> str:
    if good >= of:
        return "good"
    return "warn" if good > 0 else "bad"


def _merged(bars: Iterable[Bar]) -> list[Bar]:
    """Join adjacent bars that look alike: a healthy endpoint has one bar instead of 96."""
    merged: list[Bar] = []
    for _, run in groupby(enumerate(bars), key=lambda pair: (pair[1].x - pair[0], *pair[1][2:])):
        alike = [bar for _, bar in run]
        merged.append(alike[0]._replace(width=len(alike)))
    return merged


def _points(places: list[int], times: dict[int, float], top: int) -> str:
    room = LINE_HEIGHT - 2 * _MARGIN
    points = [f"{x + 0.5:g},{LINE_HEIGHT - _MARGIN - room * times[x] / top:.4g}" for x in places]
    # SVG draws a line of one point as a dot only if the line has that point twice.
    return " ".join(points * 2 if len(points) == 1 else points)


def _round_up(milliseconds: float) -> int:
    """Return the next 1, 2 or 5 with zeros, so that the scale is easy to read."""
    power: int = 10 ** max(0, math.ceil(math.log10(max(milliseconds, 1.0))) - 1)
    return next(power * step for step in (1, 2, 5, 10) if power * step >= milliseconds)
