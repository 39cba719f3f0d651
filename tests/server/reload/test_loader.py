"""The Reloader reads the source into the store: applied, refused and remembered texts."""

import gc
import json
import os
import pickle
import resource
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mop_config import signals
from mop_config.errors import SourceError
from mop_config.server.parsing.problems import Code
from mop_config.server.parsing.render import EMPTY, EMPTY_BODY
from mop_config.server.reload import pipeline
from mop_config.server.reload.pipeline import LATE_TRIES, SWITCH_INTERVAL, Reloader
from mop_config.server.serving.store import Result, Snapshot, SnapshotStore, SourceState, Trigger
from mop_config.server.settings import Settings, UrlRules
from mop_config.server.sources.file import CLOSE_WAIT, FileSource, Fingerprint, SourceText
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.releases import LastGood, Release, ReleaseStore, parse

from ...disks import make_read_only, small_disk
from ...waiting import wait_for

GOOD = "DomainList:\na.com\nb.com\n"
OTHER = "DomainList:\nb.com\nc.com\n"


class Site:
    """A source and a state folder, with one reloader for each process."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "endpoints.txt"
        self.last_good = folder / "key.lastgood"

    def record(self) -> LastGood:
        return parse(StateDirectory(self.last_good.parent).read(self.last_good.name))

    def boot(self, **settings: Any) -> Reloader:
        settings.setdefault("max_bytes", 1 << 20)
        directory = StateDirectory(self.last_good.parent)
        loader = Reloader(
            FileSource(str(self.file), settings["max_bytes"]),
            Settings(**settings),
            SnapshotStore(Snapshot.of(EMPTY, Settings(), 0.0, 0)),
            ReleaseStore(directory, "key"),
        )
        loader.start()
        return loader


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def hosts(loader: Reloader) -> list[str]:
    body = json.loads(loader.store.view.snapshot.plain.body)
    return [entry["url"] for entry in body["socketio_endpoints"]]


def date(loader: Reloader) -> int:
    return loader.store.view.snapshot.last_modified


AB, BC = ["https://a.com", "https://b.com"], ["https://b.com", "https://c.com"]


class _Interrupted(FileSource):
    """A file that another process begins to overwrite right before each read, while ``busy``."""

    busy = False

    def read(self, expected: Fingerprint | None = None) -> SourceText:
        if not self.busy:
            return super().read(expected)
        with self.path.open("w") as writer:
            writer.write("DomainList:\nb.com\n")
            writer.flush()
            self.busy = False
            try:
                return super().read(expected)
            finally:
                self._writer = os.dup(writer.fileno())

    def finish(self, rest: str) -> None:
        os.write(self._writer, rest.encode())
        os.close(self._writer)


@pytest.mark.parametrize("in_vain", [False, True])
def test_a_writer_between_the_trigger_and_the_read_publishes_no_half(
    site: Site, in_vain: bool
) -> None:
    """Nor does a reload under the lock, which follows reads that were in vain."""
    site.file.write_text(GOOD)
    loader = site.boot()
    source = _Interrupted(str(site.file), 1 << 20)
    loader.source = source
    if in_vain:
        loader.loaded = replace(loader.loaded, outdated_at=(time.monotonic(),) * LATE_TRIES)
    source.busy = True
    assert not loader.reload(Trigger.SIGHUP, settled=source.fingerprint())
    assert hosts(loader) == AB
    source.finish("c.com\n")
    assert loader.reload(Trigger.SIGHUP, settled=source.fingerprint())
    assert hosts(loader) == BC


def test_a_good_file_is_applied(site: Site) -> None:
    """A good file is applied, and its reload has the number of changes."""
    site.file.write_text(GOOD)
    loader = site.boot()
    assert hosts(loader) == AB
    site.file.write_text(OTHER)
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == BC
    view = loader.store.view
    assert view.state is SourceState.FRESH
    reload = view.history[0]
    assert (reload.trigger, reload.result, reload.error) == (Trigger.WATCH, Result.APPLIED, None)
    assert str(reload.change) == "+2 -2 ~2 endpoints"
    assert reload.etag == view.snapshot.etag


BAD: dict[str, tuple[bytes | None, Code]] = {
    "missing": (None, Code.MISSING),
    "not UTF-8": (b"DomainList:\na.com\n\xff\xfe", Code.NOT_UTF8),
    "UTF-16": ("DomainList:\na.com\n".encode("utf-16"), Code.NUL),
    "NUL": (b"DomainList:\na.com\n\0", Code.NUL),
    "too large": (b"#" * (1 << 20) + b"\nDomainList:a.com", Code.TOO_LARGE),
    "empty": (b"", Code.NO_ENDPOINTS),
    "comments only": (b"# nothing\n", Code.NO_ENDPOINTS),
    "nothing usable": (b"DomainList:\na_b\n", Code.NO_ENDPOINTS),
}


@pytest.fixture(params=BAD)
def bad(request: pytest.FixtureRequest, site: Site) -> Code:
    """Give the site a function that makes the file bad, and return the expected code."""
    data, code = BAD[request.param]

    def put() -> None:
        if data is None:
            site.file.unlink(missing_ok=True)
        else:
            site.file.write_bytes(data)

    site.put_bad = put  # type: ignore[attr-defined]
    return code


def test_a_bad_file_leaves_the_served_list(site: Site, bad: Code) -> None:
    """A bad file keeps the list and gives the reason, and a good file then applies."""
    site.file.write_text(GOOD)
    loader = site.boot()
    served = loader.store.view.snapshot
    site.put_bad()  # type: ignore[attr-defined]
    loader.reload(Trigger.POLL)
    view = loader.store.view
    assert view.snapshot is served
    assert view.state is SourceState.REJECTED
    assert view.problems[0].code is bad
    assert view.reason == view.history[0].error == view.problems[0].message
    assert view.history[0].result is Result.REJECTED
    site.file.write_text(OTHER)
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == BC
    assert (loader.store.view.state, loader.store.view.reason) == (SourceState.FRESH, None)


def test_a_restart_with_a_bad_file_serves_the_last_good_list(site: Site, bad: Code) -> None:
    """A restart with a bad file serves the last good list as rejected, with its date and ETag."""
    site.file.write_text(GOOD)
    before = site.boot().store.view.snapshot
    site.put_bad()  # type: ignore[attr-defined]
    loader = site.boot()
    assert hosts(loader) == AB
    view = loader.store.view
    assert view.state is SourceState.REJECTED
    assert view.problems[0].code is bad
    assert (view.snapshot.etag, view.snapshot.last_modified) == (before.etag, before.last_modified)
    assert view.history[0].etag == before.etag
    site.file.write_text(OTHER)
    loader.reload(Trigger.WATCH)
    assert loader.store.view.state is SourceState.FRESH


def test_with_nothing_good_ever_seen_an_empty_list_is_served(site: Site) -> None:
    """Without any good list the empty list is served, in the state ``empty``."""
    loader = site.boot()
    view = loader.store.view
    assert (view.state, view.loaded) == (SourceState.EMPTY, False)
    assert view.snapshot.plain.body == EMPTY_BODY
    assert not site.last_good.exists()


def test_a_first_file_without_entries_is_served_as_what_it_is(site: Site) -> None:
    """A first file without entries is served as an empty list in the state ``fresh``."""
    site.file.write_text("# to be filled\n")
    loader = site.boot()
    assert loader.store.view.state is SourceState.FRESH
    assert hosts(loader) == []


def test_an_empty_file_may_replace_a_list_where_that_is_allowed(site: Site) -> None:
    """With ENDPOINT_ALLOW_EMPTY an empty file replaces the list, but a missing file does not."""
    site.file.write_text(GOOD)
    loader = site.boot(allow_empty=True)
    site.file.unlink()
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == AB
    site.file.write_text("")
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == []
    assert loader.store.view.state is SourceState.FRESH


def test_strict_refuses_a_file_with_any_error(site: Site) -> None:
    """Strict mode refuses and shows errors, and accepts warnings."""
    site.file.write_text(GOOD)
    loader = site.boot(strict=True)
    site.file.write_text(OTHER + "a_b\n")
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == AB
    view = loader.store.view
    assert [p.code for p in view.problems] == [Code.STRICT, Code.BAD_HOST]
    assert "line 4" in str(view.reason)
    site.file.write_text("DomainList:\nc.com\nC.com\n")
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == ["https://c.com"]


def test_a_change_of_words_alone_keeps_tag_and_date(site: Site) -> None:
    """A changed comment keeps ETag and date, and the problems are updated."""
    site.file.write_text(GOOD)
    loader = site.boot()
    before = loader.store.view.snapshot
    site.file.write_text("# comment\n" + GOOD + "a_b\n")
    os.utime(site.file, (1, 1))
    loader.reload(Trigger.WATCH)
    view = loader.store.view
    assert view.snapshot is before
    assert view.history[0].result is Result.UNCHANGED
    assert [p.code for p in view.problems] == [Code.BAD_HOST]


def test_the_date_is_the_files_and_moves_only_forward(site: Site) -> None:
    """Last-Modified is the file's date, but rises with each change, also for a rollback."""
    site.file.write_text(GOOD)
    os.utime(site.file, (1000, 1000))
    loader = site.boot()
    assert date(loader) == 1000
    for text, mtime, expected in [
        (OTHER, 2000, 2000),
        (GOOD, 1000, 2001),
        (OTHER, 2001, 2002),
        (OTHER + "#", 5000, 2002),
        (GOOD, 5000, 5000),
    ]:
        site.file.write_text(text)
        os.utime(site.file, (mtime, mtime))
        loader.reload(Trigger.WATCH)
        assert date(loader) == expected
    site.file.write_text(OTHER)
    os.utime(site.file, (3000, 3000))
    assert date(site.boot()) == 5001, "a restart does not set the clock back"
    assert date(site.boot()) == 5001


def test_a_date_in_the_future_is_not_believed(site: Site) -> None:
    """Last-Modified is never later than the answer (RFC 9110, 8.8.2.1)."""
    site.file.write_text(GOOD)
    os.utime(site.file, (2**33, 2**33))
    assert date(site.boot()) <= time.time()


def test_looking_quietly_notes_nothing_where_nothing_changed(site: Site) -> None:
    """A quiet reload of the same good or bad text notes nothing."""
    site.file.write_text(GOOD)
    loader = site.boot()
    loader.reload(Trigger.POLL, quietly=True)
    assert len(loader.store.view.history) == 1
    site.file.unlink()
    loader.reload(Trigger.POLL, quietly=True)
    loader.reload(Trigger.POLL, quietly=True)
    assert [r.result for r in loader.store.view.history] == [Result.REJECTED, Result.APPLIED]
    loader.reload(Trigger.SIGHUP)
    assert len(loader.store.view.history) == 3


def test_a_return_to_the_served_text_is_fresh_again(site: Site) -> None:
    """After a bad text, the return to the served text sets the state to fresh."""
    site.file.write_text(GOOD)
    loader = site.boot()
    site.file.write_text("")
    loader.reload(Trigger.WATCH)
    site.file.write_text(GOOD)
    loader.reload(Trigger.WATCH, quietly=True)
    assert loader.store.view.state is SourceState.FRESH
    assert [r.result.value for r in loader.store.view.history] == [
        "unchanged",
        "rejected",
        "applied",
    ]


def test_an_unexpected_failure_leaves_the_list_and_is_tried_again(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An unexpected exception keeps the list, and the next poll reads the file again."""
    site.file.write_text(GOOD)
    loader = site.boot()

    def fail(*_: object) -> None:
        raise MemoryError("no more")

    with monkeypatch.context() as patch:
        patch.setattr(pipeline, "render", fail)
        site.file.write_text(OTHER)
        loader.reload(Trigger.WATCH, quietly=True)
        view = loader.store.view
        assert (view.state, view.history[0].result) == (SourceState.STALE, Result.ERROR)
        assert view.reason == "MemoryError: no more"
        assert hosts(loader) == AB
    loader.reload(Trigger.POLL, quietly=True)
    assert hosts(loader) == BC


def test_the_signals_come_after_the_swap_and_a_receiver_that_raises_changes_nothing(
    site: Site,
) -> None:
    """Signals are sent after the swap, and a receiver that raises does not affect others."""
    site.file.write_text(GOOD)
    loader = site.boot()
    seen: list[tuple[Any, ...]] = []

    def broken(sender: SnapshotStore, **_: object) -> None:
        raise RuntimeError("receiver")

    def reloaded(sender: SnapshotStore, **about: Any) -> None:
        seen.append((sender.view.snapshot is about["snapshot"], about["previous"].etag))

    def rejected(sender: SnapshotStore, **about: Any) -> None:
        seen.append((about["reason"] == sender.view.reason, about["problems"][0].code))

    before = loader.store.view.snapshot.etag
    with (
        signals.config_reloaded.connected_to(broken),
        signals.config_reloaded.connected_to(reloaded),
        signals.config_rejected.connected_to(broken),
        signals.config_rejected.connected_to(rejected),
    ):
        site.file.write_text(OTHER)
        loader.reload(Trigger.WATCH)
        site.file.write_text("")
        loader.reload(Trigger.WATCH)
    assert seen == [(True, before), (True, Code.NO_ENDPOINTS)]
    assert hosts(loader) == BC


class TestLastGood:
    """The record of the last good list survives a restart."""

    def test_it_is_written_once_for_all_workers(self, site: Site) -> None:
        """A second worker with the same text does not write the record again."""
        site.file.write_text(GOOD)
        site.boot()
        before = site.last_good.stat()
        site.boot()
        assert site.last_good.stat().st_ino == before.st_ino

    @pytest.mark.parametrize(
        "damage", ["truncate", "flip", "garbage", "date", "deep", "empty", "folder"]
    )
    def test_a_damaged_one_is_ignored(self, site: Site, damage: str) -> None:
        """A torn or foreign record is ignored, and a good file is still applied."""
        site.file.write_text(GOOD)
        site.boot()
        data = site.last_good.read_bytes()
        site.last_good.unlink()
        if damage == "folder":
            site.last_good.mkdir()
        else:
            damaged = {
                "truncate": data[:-3],
                "flip": data[:-2] + b"X\n",
                "garbage": b'{"format":2}\nxx',
                "date": data.replace(b'"saved_at": 1', b'"saved_at": 9' + b"9" * 400),
                "deep": b"[" * 100_000 + b"\n",
                "empty": b"",
            }[damage]
            site.last_good.write_bytes(damaged)
        site.file.unlink()
        loader = site.boot()
        assert loader.store.view.state is SourceState.EMPTY
        site.file.write_text(GOOD)
        loader.reload(Trigger.WATCH)
        assert hosts(loader) == AB

    def test_one_that_cannot_be_written_stops_nothing(self, site: Site) -> None:
        """A record that cannot be written does not stop the server."""
        site.last_good.mkdir()
        site.file.write_text(GOOD)
        assert hosts(site.boot()) == AB

    def test_another_setting_reads_it_anew(self, site: Site) -> None:
        """The record has the text and not the URLs, so it is rendered by the new settings."""
        site.file.write_text(GOOD)
        site.boot()
        site.file.unlink()
        loader = site.boot(rules=UrlRules("http"))
        assert hosts(loader) == ["http://a.com", "http://b.com"]

    def test_a_failed_write_leaves_the_old_one(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A failed write keeps the old record and leaves no scratch file."""
        releases = ReleaseStore(StateDirectory(tmp_path), "x")

        def issue(data: bytes, etag: str) -> None:
            with releases.section():
                text = LastGood(data, Release(etag, 1.0), 1, 1, None, 0.0, 2.0, "start")
                releases.issue(text)

        issue(b"old", "e")

        def full(descriptor: int) -> None:
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(os, "fsync", full)
        issue(b"new", "f")
        assert "No space left" in caplog.text
        good = releases.load()
        assert good is not None
        assert good.data == b"old"
        assert {p.name for p in tmp_path.iterdir()} == {"x.lastgood", "x.lock"}


class TestWorkers:
    """Several processes serve one file, and each misses some edits."""

    def test_one_that_missed_the_good_text_follows_the_others(self, site: Site) -> None:
        """While the file is bad, all workers serve the newest good list of any worker."""
        site.file.write_text(GOOD)
        quick, slow = site.boot(), site.boot()
        site.file.write_text(OTHER)
        quick.reload(Trigger.WATCH)
        site.file.unlink()
        sent: list[list[str]] = []

        def receive(sender: SnapshotStore, **_: Any) -> None:
            sent.append(hosts(slow))

        with signals.config_reloaded.connected_to(receive):
            slow.reload(Trigger.WATCH)
            slow.follow_others()
            slow.follow_others()
        assert sent == [BC]
        quick.reload(Trigger.WATCH)
        assert slow.store.view.state is SourceState.REJECTED
        assert date(slow) == date(quick)
        quick.follow_others()
        assert hosts(quick) == BC

    def test_one_that_is_killed_after_a_release_leaves_its_text(self, site: Site) -> None:
        """A worker that starts with a bad file takes a killed worker's text and version."""
        site.file.write_text(GOOD)
        killed = site.boot()
        site.file.write_text(OTHER)
        killed.reload(Trigger.WATCH)
        site.file.unlink()
        born = site.boot()
        assert hosts(born) == BC
        assert born.store.view.snapshot.ver == killed.store.view.snapshot.ver
        assert date(born) == date(killed)

    def test_one_that_forked_long_ago_serves_the_newest_good_list(self, site: Site) -> None:
        """A worker serves the list on disk if it is newer than the fork's (``--preload``)."""
        site.file.write_text(GOOD)
        forked, other = site.boot(), site.boot()
        site.file.write_text(OTHER)
        other.reload(Trigger.WATCH)
        site.file.write_text("")
        forked.catch_up()
        assert hosts(forked) == BC

    def test_an_older_text_never_comes_back(self, site: Site) -> None:
        """A slow worker does not overwrite the record of a newer text."""
        site.file.write_text(GOOD)
        slow, quick = site.boot(), site.boot()
        site.file.write_text("DomainList:\nx.com\ny.com\n")
        slow.reload(Trigger.WATCH)
        site.file.write_text(OTHER)
        quick.reload(Trigger.WATCH)
        slow.follow_others()
        assert site.record().data == OTHER.encode()

    def test_two_lists_never_have_one_date(self, site: Site) -> None:
        """Two lists never have the same date, since If-Modified-Since would mix them up."""
        texts = [f"DomainList:\na{i}.com\nb{i}.com\n" for i in range(6)]
        site.file.write_text(texts[0])
        os.utime(site.file, (1000, 1000))
        workers = [site.boot() for _ in range(3)]
        seen: dict[int, str] = {}
        for number, text in enumerate([*texts, *texts]):
            site.file.write_text(text)
            os.utime(site.file, (1000 - number, 1000 - number))
            for index, worker in enumerate(workers):
                if (number + index) % 3:  # each worker misses some edits
                    worker.reload(Trigger.WATCH)
                    snapshot = worker.store.view.snapshot
                    assert seen.setdefault(snapshot.last_modified, snapshot.etag) == snapshot.etag
        for worker in workers:
            worker.reload(Trigger.WATCH)
        assert len({date(worker) for worker in workers}) == 1

    @pytest.mark.parametrize("damage", [b"", b"[[1]]", b"[" * 100_000, b'[["e",1,1e400]]', b"\xff"])
    def test_a_damaged_file_of_dates_begins_anew(self, site: Site, damage: bytes) -> None:
        """A damaged record does not stop a worker."""
        site.last_good.write_bytes(damage)
        site.file.write_text(GOOD)
        assert hosts(site.boot()) == AB

    def test_a_folder_that_can_only_be_read_is_read(self, site: Site) -> None:
        """A restart with a bad file and a read-only disk serves the last good list."""
        records = site.last_good.parent / "disk"
        with small_disk(records):
            site.last_good = records / "key.lastgood"
            site.file.write_text(GOOD)
            site.boot()
            site.file.unlink()
            before = sorted(path.name for path in records.iterdir())
            make_read_only(records)
            loader = site.boot()
            assert hosts(loader) == AB
            site.file.write_text(OTHER)
            loader.reload(Trigger.WATCH)
            assert hosts(loader) == BC
            assert sorted(path.name for path in records.iterdir()) == before


def test_a_file_that_is_being_written_is_not_read_at_the_start(site: Site) -> None:
    """A worker that starts during a save serves the last good list meanwhile."""
    site.file.write_text(GOOD)
    site.boot()
    with open(site.file, "w") as half:
        half.write("DomainList:\nhalf.com\nof.com\n")
        half.flush()
        loader = site.boot()
        assert hosts(loader) == AB
        assert loader.store.view.state is SourceState.STALE
        assert [problem.code for problem in loader.store.view.problems] == ["changing"]
        site.last_good.unlink()
        view = site.boot().store.view
        assert view.state is SourceState.FRESH, "it is better than nothing"
    assert site.boot().store.view.state is SourceState.FRESH


def test_a_file_that_is_being_written_is_not_read_by_a_reload(site: Site) -> None:
    """A writer is waited for until its close, or until its last write is two seconds ago."""
    site.file.write_text(GOOD)
    loader = site.boot()
    with open(site.file, "w") as half:
        half.write(OTHER)
        half.flush()
        assert not loader.reload(Trigger.SIGHUP)
        assert hosts(loader) == AB
        wait_for(lambda: loader.reload(Trigger.SIGHUP), seconds=CLOSE_WAIT + 3)
        assert hosts(loader) == BC


def test_a_file_that_changed_since_it_was_looked_at_is_not_read(site: Site) -> None:
    """A file that changed since it settled is not read, because a save may have begun."""
    site.file.write_text(GOOD)
    loader = site.boot()
    settled = loader.source.fingerprint()
    site.file.write_text("DomainList:\nhalf.com\nof.com\n")
    assert not loader.reload(Trigger.SIGHUP, settled=settled)
    assert hosts(loader) == AB
    assert loader.reload(Trigger.SIGHUP, settled=loader.source.fingerprint())


def test_a_process_without_descriptors_blames_no_file(site: Site) -> None:
    """Without free descriptors the reload fails with an error, keeps the list, and is retried."""
    site.file.write_text(GOOD)
    loader = site.boot()
    site.file.write_text(OTHER)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        assert not loader.reload(Trigger.WATCH, quietly=True)
        assert not loader.reload(Trigger.WATCH, quietly=True)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    view = loader.store.view
    assert (view.state, view.history[0].result) == (SourceState.STALE, Result.ERROR)
    assert "Too many open files" in str(view.reason)
    assert [reload.result for reload in view.history].count(Result.ERROR) == 1
    assert hosts(loader) == AB
    assert loader.reload(Trigger.WATCH, quietly=True)
    assert hosts(loader) == BC


def test_a_request_without_descriptors_is_noted_once(site: Site) -> None:
    """A requested reload is repeated until descriptors are free, and noted once."""
    site.file.write_text(GOOD)
    loader = site.boot()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
    try:
        for _ in range(5):
            assert not loader.reload(Trigger.SIGHUP)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    results = [reload.result for reload in loader.store.view.history]
    assert results == [Result.ERROR, Result.APPLIED]


def test_a_name_that_is_no_text_is_no_trouble(site: Site) -> None:
    """A file name that is not UTF-8 works."""
    site.file = site.file.with_name(os.fsdecode(b"end\xffpoints.txt"))
    loader = site.boot()
    assert loader.store.view.state is SourceState.EMPTY
    site.file.write_text(GOOD)
    loader.reload(Trigger.WATCH)
    assert hosts(loader) == AB


def test_a_receiver_that_exits_ends_nothing(site: Site) -> None:
    """SystemExit in a receiver does not end the reload thread."""
    site.file.write_text(GOOD)
    loader = site.boot()

    def leave(sender: SnapshotStore, **_: object) -> None:
        sys.exit("enough")

    with signals.config_reloaded.connected_to(leave):
        site.file.write_text(OTHER)
        loader.reload(Trigger.WATCH)
    assert hosts(loader) == BC


@pytest.mark.parametrize(
    ("data", "line", "column"),
    [
        (b"\0", 1, 1),
        (b"\xef\xbb\xbf\xff", 1, 1),
        (b"DomainList:\r\na.com\r\xc3\xa9\xc3\xa9\0x", 3, 3),
        (b"DomainList:\n\xc3\xa9.com \xff\xff", 2, 7),
        (b"DomainList:\nab\xc3", 2, 3),
        (b"\xff\n\xff\0", 2, 2),
    ],
)
def test_a_text_that_is_none_is_refused_where_it_stops(
    site: Site, data: bytes, line: int, column: int
) -> None:
    """A text that is not UTF-8 is refused with line and column, in code points."""
    site.file.write_bytes(data)
    loader = site.boot()
    (problem,) = loader.store.view.problems
    assert (problem.line, problem.column) == (line, column)
    assert f"line {line}" in problem.message
    error = pickle.loads(pickle.dumps(SourceError("nul", "x", line, column)))
    assert (error.line, error.column, str(error)) == (line, column, "x")


class TestShortTurns:
    """``short_turns`` gives requests the interpreter lock often while a list is rendered."""

    def test_they_end_with_the_rendering(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """Switch interval and garbage collector are restored, even if rendering fails."""
        site.file.write_text(GOOD)
        loader = site.boot()
        during: list[tuple[float, bool]] = []
        before = sys.getswitchinterval(), gc.isenabled()

        def fail(*_: object) -> None:
            during.append((sys.getswitchinterval(), gc.isenabled()))
            raise MemoryError("no more")

        monkeypatch.setattr(pipeline, "render", fail)
        site.file.write_text(OTHER)
        loader.reload(Trigger.WATCH)
        ((interval, collecting),) = during
        assert interval == pytest.approx(SWITCH_INTERVAL)
        assert not collecting
        assert (sys.getswitchinterval(), gc.isenabled()) == before
