"""The checks of the last 24 hours, and the record that keeps them over a restart."""

import json
from collections import deque
from pathlib import Path
from typing import Any

import pytest

from mop_config.model.endpoint import Kind
from mop_config.server.monitor.schedule import (
    SLOT_SECONDS,
    SLOTS,
    ProbeSchedule,
    Slot,
    add_check,
    rules,
)
from mop_config.server.monitor.thread import ProbeResults
from mop_config.server.state.directory import StateDirectory, dump_record, parse_record

from .test_probing import Bench, named

KEY = ("api", "https://a.example")


def test_a_check_counts_in_the_slot_of_its_time() -> None:
    """Failures count without a duration; at most 24 hours are kept."""
    slots: deque[Slot] = deque(maxlen=SLOTS)
    for posix, seconds in ((10.0, 0.5), (899.0, None), (900.0, 0.25), (2700.0, None)):
        add_check(slots, posix, seconds)
    assert list(slots) == [Slot(0, 2, 1, 0.5), Slot(1, 1, 1, 0.25), Slot(3, 1, 0, 0.0)]
    for number in range(4, 300):
        add_check(slots, number * SLOT_SECONDS, 0.1)
    assert [slot.number for slot in slots] == list(range(300 - SLOTS, 300))


def test_a_clock_that_is_set_back_leaves_no_slot_in_the_future() -> None:
    """Slots in the future are dropped, since they would block new ones."""
    slots = deque([Slot(5, 3, 3, 1.0), Slot(900, 1, 1, 1.0)], maxlen=SLOTS)
    add_check(slots, 6 * SLOT_SECONDS, 0.5)
    assert list(slots) == [Slot(5, 3, 3, 1.0), Slot(6, 1, 1, 0.5)]


def test_the_history_is_kept_over_a_restart(tmp_path: Path) -> None:
    """The history survives a restart for the endpoints that are still in the list."""
    bench = Bench(interval=300)
    bench.follow(named("a", "b"))
    bench.up = {"https://a.example"}
    bench.run(60)
    slots = bench.probing.slots()
    assert slots[KEY] == [Slot(1, 1, 1, 0.25)]
    ProbeResults(StateDirectory(tmp_path), "f", 300).write_history(slots)
    known = ProbeResults(StateDirectory(tmp_path), "f", 300).history()
    assert known == slots
    heir = ProbeSchedule(rules(300), lambda: 0.5, (), known)
    heir.follow({Kind.API: named("a")}, 0.0, 0.0)
    assert heir.slots() == {KEY: slots[KEY]}


@pytest.mark.parametrize(
    "slots",
    [
        [[1, 1, 1]],
        [[1, 1, 1, 0.5, 0]],
        [[1, 0, 0, 0.0]],
        [[1, 1, "1", 0.5]],
        "no",
    ],
)
def test_a_foreign_or_torn_file_is_no_history(tmp_path: Path, slots: Any) -> None:
    """A foreign or torn record counts as no history, and the page is shown."""
    history = ProbeResults(StateDirectory(tmp_path), "f", 300)
    assert history.history() == {}
    history.write_history({KEY: [Slot(1, 1, 1, 0.5)]})
    good = parse_record(StateDirectory(tmp_path).read("f.day.json"))
    (endpoint,) = good["endpoints"]
    bad = {**good, "endpoints": [{**endpoint, "slots": slots}]}
    for text in (json.dumps(bad), json.dumps(good)[:-5], ""):
        (tmp_path / "f.day.json").write_text(text)
        assert ProbeResults(StateDirectory(tmp_path), "f", 300).history() == {}
    StateDirectory(tmp_path).write("f.day.json", dump_record(good), sync=False)
    assert ProbeResults(StateDirectory(tmp_path), "f", 300).history() == {KEY: [Slot(1, 1, 1, 0.5)]}
