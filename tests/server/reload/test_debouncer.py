"""Tests of Debouncer: a changing file is read complete, and in time."""

import errno
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.server.reload.thread import CLOSE_GRACE, PATIENCE, QUIET, SILENT_QUIET, Debouncer
from mop_config.server.sources.file import CLOSE_WAIT, Fingerprint

OLD = Fingerprint(0, 1, 1, 0o100644, 100, 5, 5)
NEW = OLD._replace(size=120, mtime_ns=6)
NEWER = OLD._replace(size=130, mtime_ns=7)
BLANK = OLD._replace(size=0, mtime_ns=6)
GONE = Fingerprint(errno.ENOENT)


def looked(
    debouncer: Debouncer,
    fingerprint: Fingerprint,
    now: float,
    *,
    by_event: bool = False,
    expected: bool = True,
) -> None:
    debouncer.looked(fingerprint, now, by_event=by_event, expected=expected)


def test_nothing_is_due_while_nothing_changes() -> None:
    """Equal ``stat`` results cause no read."""
    debouncer = Debouncer(OLD)
    looked(debouncer, OLD, 1.0)
    assert debouncer.wait(1.0) == math.inf
    assert not debouncer.pending


def test_a_close_is_read_almost_at_once() -> None:
    """After a close event the file is complete."""
    debouncer = Debouncer(OLD)
    debouncer.written(1.0)
    debouncer.closed(1.1)
    assert debouncer.wait(1.1) == pytest.approx(CLOSE_GRACE)
    assert debouncer.wait(1.1 + CLOSE_GRACE) == 0


def test_a_write_waits_for_its_close() -> None:
    """A write event waits for the close event, even if the writer is slow."""
    debouncer = Debouncer(OLD)
    for moment in range(10):
        debouncer.written(float(moment))
        looked(debouncer, OLD._replace(size=moment), float(moment), by_event=True)
        assert debouncer.wait(moment + 0.9) > 0
    debouncer.closed(10.0)
    assert debouncer.wait(10.0 + CLOSE_GRACE) == 0


def test_a_close_that_never_comes_is_not_waited_for_forever() -> None:
    """Two seconds after the last write the file is read as it is."""
    debouncer = Debouncer(OLD)
    debouncer.written(1.0)
    assert debouncer.wait(1.0) == CLOSE_WAIT
    assert debouncer.wait(1.0 + CLOSE_WAIT) == 0


def test_a_write_right_behind_a_close_counts() -> None:
    """A second writer may open the file before it is read."""
    debouncer = Debouncer(OLD)
    debouncer.closed(1.0)
    debouncer.written(1.005)
    assert debouncer.wait(1.0 + CLOSE_GRACE) > 1


def test_a_change_of_another_sort_waits_for_a_moment_of_quiet() -> None:
    """Renames, mode changes and swapped links wait for 50 ms of quiet."""
    debouncer = Debouncer(OLD)
    looked(debouncer, NEW, 1.0, by_event=True)
    assert debouncer.wait(1.0) == pytest.approx(QUIET)


def test_two_equal_looks_do_where_no_event_can_be_expected() -> None:
    """While polling, each further change restarts the wait."""
    debouncer = Debouncer(OLD)
    looked(debouncer, NEW, 1.0, expected=False)
    looked(debouncer, NEWER, 1.04, expected=False)
    assert debouncer.wait(1.05) > 0.03
    looked(debouncer, NEWER, 1.04 + QUIET, expected=False)
    assert debouncer.wait(1.04 + QUIET) == 0


def test_a_change_without_its_event_leaves_the_event_time_to_come() -> None:
    """The event may be late, and report a write in progress."""
    debouncer = Debouncer(OLD)
    looked(debouncer, NEW, 1.0)
    assert debouncer.wait(1.0) == pytest.approx(SILENT_QUIET)
    debouncer = Debouncer(GONE)
    looked(debouncer, NEW, 1.0)
    assert debouncer.wait(1.0) == pytest.approx(SILENT_QUIET)


def test_an_empty_file_is_one_that_somebody_is_about_to_write() -> None:
    """An empty file is not read until a write follows, unless it was closed empty."""
    debouncer = Debouncer(OLD)
    looked(debouncer, BLANK, 1.0, by_event=True)
    assert debouncer.wait(1.0) == CLOSE_WAIT
    debouncer.closed(1.1)
    assert debouncer.wait(1.1 + CLOSE_GRACE) == 0


def test_being_asked_reads_now_unless_a_write_is_under_way() -> None:
    """SIGHUP during a save does not read a half-written file."""
    debouncer = Debouncer(OLD)
    debouncer.asked(1.0)
    assert debouncer.wait(1.0) == 0
    debouncer = Debouncer(OLD)
    debouncer.written(1.0)
    debouncer.asked(1.1)
    assert debouncer.wait(1.1) > 1


def test_reading_ends_what_was_pending() -> None:
    """After a read, no read is due until the next change."""
    debouncer = Debouncer(OLD)
    debouncer.closed(1.0)
    debouncer.finished(NEW)
    looked(debouncer, NEW, 2.0)
    assert debouncer.wait(2.0) == math.inf


def test_a_file_that_never_rests_is_told_of() -> None:
    """The file is reported, but not read during a write."""
    debouncer = Debouncer(OLD)
    now = 0.0
    while now <= PATIENCE:
        assert not debouncer.restless(now)
        debouncer.written(now)
        now += 0.5
    debouncer.written(now)
    assert debouncer.restless(now)
    assert debouncer.wait(now) == pytest.approx(CLOSE_WAIT)


STEPS = st.lists(
    st.tuples(
        st.floats(0.0, 0.5),
        st.sampled_from(["written", "closed", "asked", "same", "new", "blank", "gone"]),
        st.booleans(),
        st.booleans(),
    ),
    max_size=40,
)


@given(STEPS)
def test_whatever_happens_a_change_is_read_in_the_end_and_never_during_a_write(
    steps: list[tuple[float, str, bool, bool]],
) -> None:
    """A pending read is due within two seconds, unless a write is in progress."""
    debouncer = Debouncer(OLD)
    now, serial, current = 0.0, 0, OLD
    last_write = None
    for pause, step, by_event, expected in steps:
        now += pause
        if debouncer.wait(now) == 0:
            assert last_write is None or now >= last_write + CLOSE_WAIT - 1e-9
            debouncer.finished(current)
            last_write = None
        if step == "written":
            debouncer.written(now)
            last_write = now
        elif step == "closed":
            debouncer.closed(now)
            last_write = None
        elif step == "asked":
            debouncer.asked(now)
        elif step != "same":
            serial += 1
            sizes = {"new": 100 + serial, "blank": 0}
            fresh = OLD._replace(size=sizes.get(step, 0), mtime_ns=serial)
            current = GONE if step == "gone" else fresh
        debouncer.looked(current, now, by_event=by_event, expected=expected)
        if debouncer.pending:
            assert debouncer.wait(now) <= CLOSE_WAIT + 1e-9
    if current != OLD and not debouncer.pending:
        debouncer.looked(current, now, by_event=False, expected=True)
        assert not debouncer.pending


def test_a_read_that_came_to_nothing_is_tried_again_soon() -> None:
    """A failed read is repeated after a pause."""
    debouncer = Debouncer(OLD)
    debouncer.again(1.0)
    assert debouncer.wait(1.0) == pytest.approx(QUIET)
    debouncer.written(1.0)
    debouncer.again(1.0)
    assert debouncer.wait(1.0) == pytest.approx(CLOSE_WAIT), "a writer at work is still waited for"
