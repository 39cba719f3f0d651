"""The next release: dates and versions stay in order, whichever worker reads which text."""

import contextlib
import itertools
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.server.sources.file import Order
from mop_config.server.state import directory as directory_module
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.releases import (
    MAX_TEXTS,
    LastGood,
    Release,
    ReleaseStore,
    next_release,
    parse,
)

from ...disks import fill, small_disk
from ...waiting import wait_for

NOW = 10_000.0
GIVEN = Release("a", 1000.0, 1000, 1_000_000)
SERVED = Release("b", 3.0, 3000, 3_000_000)


@pytest.mark.parametrize(
    ("known", "etag", "modified_at", "floor", "expected"),
    [
        # The first list has the date of its source.
        ([], "a", 1000.25, 0, Release("a", 1000.25, 1000, 1_000_250)),
        ([], "a", 1000.0, 5_000_000, Release("a", 1000.0, 1000, 5_000_001)),
        ([], "a", 20_000.0, 0, Release("a", 20_000.0, 10_000, 10_000_000)),
        ([], "a", -5.0, 0, Release("a", -5.0, 0, 0)),
        # Another list has a later date and a higher version, whatever the date of its source is.
        ([GIVEN], "b", 2000.0, 0, Release("b", 2000.0, 2000, 2_000_000)),
        ([GIVEN], "b", 1000.0, 0, Release("b", 1000.0, 1001, 1_000_001)),
        ([GIVEN], "b", 500.0, 0, Release("b", 500.0, 1001, 1_000_001)),
        ([GIVEN], "b", 500.0, 7_000_000, Release("b", 500.0, 1001, 7_000_001)),
        ([GIVEN], "b", 20_000.0, 0, Release("b", 20_000.0, 10_000, 10_000_000)),
        # The same list of the same source keeps its release.
        ([GIVEN], "a", 1000.0, 0, GIVEN),
        ([GIVEN], "a", 500.0, 0, GIVEN),
        # A touch raises the version and keeps the date.
        ([GIVEN], "a", 2000.0, 0, Release("a", 2000.0, 1000, 2_000_000)),
        ([GIVEN], "a", 20_000.0, 0, Release("a", 20_000.0, 1000, 10_000_000)),
        # A list that comes back from another source has a higher version than there.
        ([GIVEN], "a", 1000.0, 7_000_000, Release("a", 1000.0, 1000, 7_000_001)),
        # The record was lost, and this process serves a later release.
        ([GIVEN, SERVED], "a", 1000.0, 0, Release("a", 1000.0, 3001, 3_000_001)),
        ([GIVEN, SERVED], "b", 3.0, 0, SERVED),
        ([GIVEN, SERVED._replace(version=900)], "c", 9.0, 0, Release("c", 9.0, 3001, 1_000_001)),
    ],
)
def test_the_rule(
    known: list[Release], etag: str, modified_at: float, floor: int, expected: Release
) -> None:
    assert next_release(known, etag, modified_at, NOW, floor) == expected


reads = st.lists(
    st.tuples(
        st.integers(0, 3),  # the reader
        st.sampled_from("abc"),  # the list
        st.floats(0, 3e4, allow_nan=False),  # the date of its source, possibly in the future
    ),
    max_size=40,
)


@given(reads)
def test_any_interleaving_gives_rising_versions_and_distinct_dates(
    steps: list[tuple[int, str, float]],
) -> None:
    """In any order of readers, versions rise and dates differ, as under the host's lock."""
    record: Release | None = None
    served: dict[int, Release] = {}
    given: list[Release] = []
    for reader, etag, modified_at in steps:
        known = [each for each in (record, served.get(reader)) if each is not None]
        record = served[reader] = next_release(known, etag, modified_at, NOW)
        given.append(record)
    for before, after in itertools.pairwise(given):
        assert after.version > before.version or after == before
        assert after.last_modified >= before.last_modified
    dates: dict[int, str] = {}
    for each in given:
        assert dates.setdefault(each.last_modified, each.etag) == each.etag


def test_a_record_is_read_as_it_was_written() -> None:
    for order in (None, Order("14841639068965178418", 7)):
        text = LastGood(b"text\n", GIVEN, 3, 4, order, 6.0, 5.0, "watch")
        assert parse(text.dump()) == text


def test_a_record_of_version_1_0_0_is_read() -> None:
    """An update must lose neither the last good text nor its version."""
    record = (
        b'{"release": ["e1", 5.5, 5, 6], "api": 1, "socketio": 1,'
        b' "order": ["14841639068965178418", 7], "boundary": 4.0, "saved_at": 6.5,'
        b' "trigger": "watch", "format": 5,'
        b' "sha256": "d7141db9a4e98486bc384d8255ab3a1264c84b7303f98ab081e895dbb1480195"}'
        b"\nDomainList:\na.example\n"
    )
    order = Order("14841639068965178418", 7)
    release = Release("e1", 5.5, 5, 6)
    text = b"DomainList:\na.example\n"
    assert parse(record) == LastGood(text, release, 1, 1, order, 4.0, 6.5, "watch")


# -- in the state folder


def store(folder: Path) -> ReleaseStore:
    return ReleaseStore(StateDirectory(folder), "key")


def issue(releases: ReleaseStore, etag: str, order: Order | None = None) -> Release:
    with releases.section():
        text = LastGood(b"", Release(etag, 1000.0), 2, 2, order, 0.0, NOW, "start")
        return releases.issue(text).release


def recorded(releases: ReleaseStore) -> Release:
    """Return the last release of the host."""
    good = releases.follow()
    assert good is not None
    assert good[2:6] == (2, 2, None, 0.0)
    return good.release


def _hold(folder: Path, rendering: bool) -> None:
    with StateDirectory(folder).locked("key.lock", mark=rendering):
        (folder / "held").touch()
        time.sleep(600)


@contextlib.contextmanager
def stopped_holder(folder: Path, *, rendering: bool = False) -> Iterator[None]:
    """Run a process that is stopped (SIGSTOP) in the critical section."""
    holder = multiprocessing.get_context("fork").Process(target=_hold, args=(folder, rendering))
    holder.start()
    assert holder.pid is not None
    try:
        wait_for((folder / "held").exists)
        os.kill(holder.pid, signal.SIGSTOP)
        yield
    finally:
        holder.kill()
        holder.join()
        holder.close()


def test_a_stopped_holder_stops_nobody(tmp_path: Path) -> None:
    """While the lock's holder is stopped, others serve a higher version, and record it later."""
    other = store(tmp_path)
    before = issue(other, "a")
    with stopped_holder(tmp_path):
        began = time.monotonic()
        after = issue(other, "b")
        assert time.monotonic() - began < directory_module.PATIENCE + 1
        assert (after.version, after.last_modified) == (before.version + 1, 1001)
        assert issue(store(tmp_path), "b") == after, "each worker finds the same"
        assert recorded(other) == before
        assert recorded(store(tmp_path)) == before
    assert recorded(other) == after
    assert recorded(store(tmp_path)) == after


def test_a_holder_that_renders_is_given_more_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others wait ``LONG_PATIENCE`` for a holder that renders, and then go on."""
    monkeypatch.setattr(directory_module, "LONG_PATIENCE", 1.5)
    with stopped_holder(tmp_path, rendering=True):
        began = time.monotonic()
        issue(store(tmp_path), "a")
        assert 1.5 <= time.monotonic() - began < 4


def test_a_lower_revision_is_read_once_more(tmp_path: Path) -> None:
    """A lower revision is accepted as a restored backup only after one more read."""
    issue(store(tmp_path), "b", Order("1", 7))
    slow = store(tmp_path)
    with slow.section():
        assert slow.is_behind(Order("1", 6), None)
        assert slow.is_behind(Order("2", 9), None)
        assert not slow.is_behind(Order("1", 8), None)
        assert not slow.is_behind(Order("1", 6), Order("1", 7))
        assert not slow.is_behind(None, None)


# -- the good texts


def good(number: int, size: int = 10) -> LastGood:
    data = b"%08d" % number + os.urandom(size)
    release = Release(f"e{number}", 1.0, number, number)
    return LastGood(data, release, 1, 1, None, 0.0, 1.0 * number, "watch")


def test_the_last_texts_are_kept(tmp_path: Path) -> None:
    """The last ``MAX_TEXTS`` texts are kept, newest first, with release, time and trigger."""
    texts = [good(number) for number in range(1, MAX_TEXTS + 11)]
    kept = ReleaseStore(StateDirectory(tmp_path), "key")
    for text in texts:
        kept.write(text)
    assert list(kept.history()) == texts[: -MAX_TEXTS - 1 : -1]
    assert kept.load() == texts[-1]


def put(releases: ReleaseStore, text: str, modified_at: float) -> LastGood:
    """Release a text as a reload does."""
    release = Release(text, modified_at)
    with releases.section():
        good = LastGood(text.encode(), release, 1, 1, None, 0.0, NOW, "start")
        return releases.issue(good)


def test_the_same_text_is_kept_once(tmp_path: Path) -> None:
    """A touch adds no text to the history, and a slow worker does not add one again."""
    slow, quick = store(tmp_path), store(tmp_path)
    first, second = put(slow, "first", 1000.0), put(quick, "second", 1000.0)
    assert put(quick, "second", 1000.0) == second
    touched = put(quick, "second", 5000.0)
    assert touched.release.version > second.release.version
    slow.follow()
    kept = ReleaseStore(StateDirectory(tmp_path), "key")
    assert list(kept.history()) == [second, first]
    assert kept.load() == touched


def test_a_full_folder_costs_the_history_and_never_the_last_good_text(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    with small_disk(disk):
        kept = ReleaseStore(StateDirectory(disk), "key")
        for number in range(1, 4):
            kept.write(good(number, 20_000))
        assert len(list(kept.history())) == 3
        fill(disk / "full")
        newest = good(4, 24_000)
        kept.write(newest)
        assert kept.load() == newest


def test_records_of_an_earlier_format_are_passed_over_with_one_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "key.lastgood").write_bytes(b'{"format": 2, "sha256": "x"}\nDomainList:\n')
    kept = ReleaseStore(StateDirectory(tmp_path), "key")
    for _ in range(3):
        assert kept.load() is None
    (line,) = caplog.records
    assert "of another version: it is ignored" in line.getMessage()


def test_a_folder_in_place_of_a_record_costs_no_descriptor(tmp_path: Path) -> None:
    (tmp_path / "key.lastgood").mkdir()
    kept = ReleaseStore(StateDirectory(tmp_path), "key")
    before = os.listdir("/proc/self/fd")
    for _ in range(5):
        assert kept.load() is None
    assert len(os.listdir("/proc/self/fd")) == len(before)
