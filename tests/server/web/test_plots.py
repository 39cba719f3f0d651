"""The plots of the last 24 hours, as data for the template."""

import pytest

from mop_config.server.monitor.schedule import SLOT_SECONDS, SLOTS, Slot
from mop_config.server.web.dashboard.viewmodel import (
    KIND_HEIGHT,
    LINE_HEIGHT,
    Bar,
    endpoint_plot,
    kind_plot,
)

#: The number of the slot at the right edge, and a time in it.
LAST = 1_000_000
NOW = LAST * SLOT_SECONDS + 10.0


def slots(*checks: tuple[int, int, float] | None, last: int = LAST) -> list[Slot]:
    """Return slots that end at ``last``; None is a slot without a check."""
    first = last - len(checks) + 1
    return [Slot(first + i, *check) for i, check in enumerate(checks) if check is not None]


def test_a_line_breaks_where_no_check_was_good() -> None:
    """Each unbroken stretch is a line, and the bar shows the failures."""
    plot = endpoint_plot(slots((1, 1, 0.010), (2, 1, 0.020), (1, 0, 0.0), (1, 1, 0.005)), NOW)
    assert plot is not None
    assert [len(points.split()) for points in plot["lines"]] == [2, 2]
    assert (plot["checks"], plot["uptime"], plot["low"], plot["high"], plot["top"]) == (
        5,
        60.0,
        5,
        20,
        20,
    )
    assert plot["lines"][0].split()[1] == f"{SLOTS - 2.5:g},1.5"
    assert [(bar.x, bar.width, bar.level) for bar in plot["bars"]] == [
        (SLOTS - 4, 1, "good"),
        (SLOTS - 3, 1, "warn"),
        (SLOTS - 2, 1, "bad"),
        (SLOTS - 1, 1, "good"),
    ]


def test_a_slot_without_a_check_is_a_gap() -> None:
    """A slot without a check is a gap in the line and in the bar."""
    plot = endpoint_plot(slots((1, 1, 0.1), (1, 1, 0.1), None, (1, 1, 0.1)), NOW)
    assert plot is not None
    assert [(bar.x, bar.width) for bar in plot["bars"]] == [(SLOTS - 4, 2), (SLOTS - 1, 1)]
    assert len(plot["lines"]) == 2


def test_a_healthy_day_is_one_bar_of_96_slots() -> None:
    """Slots outside the last 24 hours are left out."""
    plot = endpoint_plot(slots(*[(30, 30, 3.0)] * 200, last=LAST + 7), NOW)
    assert plot is not None
    assert plot["bars"] == [Bar(0, SLOTS, 0.0, "good")]
    assert (plot["checks"], plot["uptime"], plot["top"]) == (30 * SLOTS, 100.0, 100)
    points = [point.split(",") for point in plot["lines"][0].split()]
    assert len(points) == SLOTS
    assert all(0 <= float(x) <= SLOTS and 0 <= float(y) <= LINE_HEIGHT for x, y in points)


def test_one_failure_of_many_is_not_rounded_away() -> None:
    """The share of good checks is rounded down."""
    plot = endpoint_plot(slots((100_000, 99_999, 1.0)), NOW)
    assert plot is not None
    assert plot["uptime"] == 99.9
    assert plot["bars"][0].level == "warn"


@pytest.mark.parametrize(
    ("seconds", "top"), [(0.0, 1), (0.0004, 1), (0.0012, 2), (0.012, 20), (0.05, 50), (4.9, 5000)]
)
def test_the_scale_ends_at_a_round_number(seconds: float, top: int) -> None:
    """The top of the scale is a round number, not below the longest duration."""
    plot = endpoint_plot(slots((1, 1, seconds)), NOW)
    assert plot is not None
    assert plot["top"] == top
    # A line of one point is drawn as a dot.
    assert len(plot["lines"][0].split()) == 2


def test_without_a_good_check_there_is_no_line() -> None:
    """Without a good check there is no line, and without any check no plot."""
    plot = endpoint_plot(slots((1, 0, 0.0), (1, 0, 0.0)), NOW)
    assert plot is not None
    assert (plot["lines"], plot["low"], plot["high"], plot["uptime"]) == ([], 0, 0, 0.0)
    assert endpoint_plot([], NOW) is None
    assert endpoint_plot(slots((1, 1, 0.1), last=LAST - SLOTS), NOW) is None


def test_a_kind_is_the_sum_of_its_endpoints() -> None:
    """The plot of a kind is the mean number of endpoints that were up, of those checked."""
    day = slots((2, 2, 0.1), (2, 1, 0.1), (2, 0, 0.0))
    other = slots((2, 2, 0.1), (2, 2, 0.1), (2, 0, 0.0))
    plot = kind_plot("api", [day, other, []], NOW)
    assert plot is not None
    assert (plot["all"], plot["low"], plot["high"]) == (2, 0, 2)
    assert [(bar.height, bar.level) for bar in plot["bars"]] == [
        (KIND_HEIGHT, "good"),
        (KIND_HEIGHT * 0.75, "warn"),
        (0, "bad"),
    ]
    assert kind_plot("api", [[], []], NOW) is None
