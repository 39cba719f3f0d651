"""Window boundaries: every worker serves the next list at the boundary, and none before."""

import json
import os
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mop_config.model.jws import SigningKey, TrustedKeys
from mop_config.server.parsing.render import Rendering
from mop_config.server.reload.pipeline import Reloader
from mop_config.server.serving.store import SourceState, Trigger

from ...servers import ENDPOINTS, running
from ...waiting import wait_for
from .test_loader import Site, hosts

START = datetime(2027, 1, 1, tzinfo=UTC).timestamp()
TEXT = """DomainList:
old.example until=2027-01-02
a.example
new.example from=2027-01-03
"""
FIRST, SECOND, THIRD = (
    ["https://old.example", "https://a.example"],
    ["https://a.example"],
    ["https://a.example", "https://new.example"],
)
DAY = 86400.0

Clock = Callable[[float], None]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """Set the clock to a number of days after the start."""

    def turn(days: float) -> None:
        monkeypatch.setattr(time, "time", lambda: START + days * DAY)

    turn(0.5)
    return turn


@pytest.fixture
def site(tmp_path: Path, clock: Clock) -> Site:
    site = Site(tmp_path)
    write(site, TEXT)
    return site


def write(site: Site, text: str) -> None:
    site.file.write_text(text)
    os.utime(site.file, (START, START))


def test_each_worker_passes_it_alike(site: Site, clock: Clock) -> None:
    """Date and version are those of the boundary, whenever a worker passes it."""
    workers = [site.boot(), site.boot()]
    for days, expected, boundary in ((1.0, SECOND, 1), (2.5, THIRD, 2)):
        clock(days)
        for delay, worker in enumerate(workers):
            clock(days + delay / 10)
            assert worker.seconds_to_boundary == 0
            worker.pass_boundary()
            snapshot = worker.store.view.snapshot
            assert hosts(worker) == expected
            assert snapshot.ver == (START + boundary * DAY) * 1000
            assert snapshot.last_modified == START + boundary * DAY
            assert worker.store.view.state is SourceState.FRESH
    assert workers[0].seconds_to_boundary == float("inf")


def test_another_node_that_starts_later_has_the_same(
    site: Site, tmp_path: Path, clock: Clock
) -> None:
    passed = site.boot()
    clock(1.0)
    passed.pass_boundary()
    clock(1.7)
    (tmp_path / "elsewhere").mkdir()
    other = Site(tmp_path / "elsewhere")
    write(other, TEXT)
    started = other.boot().store.view.snapshot
    there = passed.store.view.snapshot
    assert (started.etag, started.ver, started.last_modified) == (
        there.etag,
        there.ver,
        there.last_modified,
    )


def test_a_poll_between_two_workers_brings_nothing_back(site: Site, clock: Clock) -> None:
    """A worker that is late at the boundary does not release its older list again."""
    quick, slow = site.boot(), site.boot()
    clock(1.0)
    quick.pass_boundary()
    version = quick.store.view.snapshot.ver
    assert slow.reload(Trigger.POLL, quietly=True)
    slow.follow_others()
    quick.follow_others()
    assert hosts(quick) == SECOND
    assert quick.store.view.snapshot.ver == version
    slow.pass_boundary()
    assert hosts(slow) == SECOND
    assert slow.store.view.snapshot.ver == version


def pass_while_rendering(
    monkeypatch: pytest.MonkeyPatch, clock: Clock, days: float, quick: Reloader
) -> None:
    """Let a worker pass a boundary right after the next rendering of any other worker."""

    rendered = Reloader._render

    def meanwhile(slow: Reloader, data: bytes, at: float) -> Rendering:
        rendering = rendered(slow, data, at)
        monkeypatch.setattr(Reloader, "_render", rendered)
        clock(days)
        quick.pass_boundary()
        return rendering

    monkeypatch.setattr(Reloader, "_render", meanwhile)


def test_an_edit_that_is_rendered_while_another_worker_passes_it(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The edit is not released with the list from before the boundary, and it is not forgotten."""
    quick, slow = site.boot(), site.boot()
    pass_while_rendering(monkeypatch, clock, 1.0, quick)
    write(site, f"{TEXT}edited.example\n")
    assert not slow.reload(Trigger.WATCH, quietly=True)
    slow.pass_boundary()
    assert hosts(slow) == SECOND
    assert slow.reload(Trigger.WATCH, quietly=True)
    assert hosts(slow) == [*SECOND, "https://edited.example"]


def test_a_worker_that_is_paused_at_one_releases_no_older_list(
    site: Site, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker has passed the next boundary meanwhile."""
    quick, slow = site.boot(), site.boot()
    clock(1.0)
    pass_while_rendering(monkeypatch, clock, 2.0, quick)
    slow.pass_boundary()
    assert hosts(slow) == FIRST
    assert slow.seconds_to_boundary == 0
    slow.pass_boundary()
    assert hosts(slow) == THIRD
    assert slow.store.view.snapshot.ver == quick.store.view.snapshot.ver


def test_a_clock_that_is_set_back_revives_nothing(site: Site, clock: Clock) -> None:
    """A clock that is set back does not bring expired entries back, even after a restart."""
    worker = site.boot()
    clock(1.0)
    worker.pass_boundary()
    clock(0.2)
    worker.reload(Trigger.SIGHUP)
    assert hosts(worker) == SECOND
    assert hosts(site.boot()) == SECOND


@pytest.mark.parametrize("bad", [b"", b"\0", None])
def test_it_is_passed_while_the_source_is_bad(site: Site, clock: Clock, bad: bytes | None) -> None:
    """Windows of the served text begin and end while the source is bad, also after a restart."""
    worker = site.boot()
    if bad is None:
        site.file.unlink()
    else:
        site.file.write_bytes(bad)
    worker.reload(Trigger.WATCH)
    clock(1.0)
    worker.pass_boundary()
    assert hosts(worker) == SECOND
    assert worker.store.view.state is SourceState.REJECTED
    clock(2.0)
    assert hosts(site.boot()) == THIRD


GUARDED: list[dict[str, Any]] = [{"min_endpoints": 2}, {"max_removed": 0.4}]


@pytest.mark.parametrize("guard", GUARDED)
def test_a_boundary_that_the_guard_refuses_keeps_the_former_list(
    site: Site, clock: Clock, guard: dict[str, Any]
) -> None:
    """A refused boundary keeps the list, also after a restart; a later good boundary is passed."""
    worker = site.boot(**guard)
    clock(1.0)
    worker.pass_boundary()
    assert hosts(worker) == FIRST
    assert worker.store.view.state is SourceState.REJECTED
    assert 0 < worker.seconds_to_boundary <= DAY
    worker.reload(Trigger.SIGHUP)
    restarted = site.boot(**guard)
    for each in (worker, restarted):
        assert hosts(each) == FIRST
        assert each.store.view.snapshot.ver == START * 1000
    clock(2.0)
    if "min_endpoints" in guard:
        for each in (worker, restarted):
            each.pass_boundary()
            assert hosts(each) == THIRD
            assert each.store.view.state is SourceState.FRESH
            assert each.store.view.reason is None


STEPS = "".join(
    ["DomainList:\n", *(f"a{n}.example\n" for n in range(6)), "b.example until=2027-01-02\n"]
    + [f"{name}.example until=2027-01-03\n" for name in "cde"]
)


@pytest.mark.parametrize(
    ("max_removed", "left", "state"),
    [
        (0.35, 6, SourceState.FRESH),
        (0.3, 9, SourceState.REJECTED),
        (0.05, 10, SourceState.REJECTED),
    ],
)
def test_nodes_that_miss_a_boundary_agree_with_a_node_that_passes_each(
    tmp_path: Path, clock: Clock, max_removed: float, left: int, state: SourceState
) -> None:
    """A node that was off or suspended judges each boundary by itself, as a running node does."""
    nodes = []
    for name in ("running", "off", "suspended"):
        (tmp_path / name).mkdir()
        site = Site(tmp_path / name)
        write(site, STEPS)
        nodes.append((site, site.boot(max_removed=max_removed)))
    (_, running), (off, _), (_, suspended) = nodes
    clock(1.0)
    running.pass_boundary()
    clock(2.5)
    for each in (running, suspended, restarted := off.boot(max_removed=max_removed)):
        each.pass_boundary()
        assert len(hosts(each)) == left
        assert each.store.view.state is state
        assert each.store.view.snapshot.ver == running.store.view.snapshot.ver
    restarted.reload(Trigger.SIGHUP)
    assert hosts(restarted) == hosts(off.boot(max_removed=max_removed)) == hosts(running)


@pytest.mark.parametrize("guard", GUARDED)
def test_a_refused_boundary_does_not_hide_that_the_file_is_missing(
    site: Site, clock: Clock, guard: dict[str, Any]
) -> None:
    """The status says what is wrong with the file, which an operator can mend."""
    worker = site.boot(**guard)
    site.file.unlink()
    worker.reload(Trigger.WATCH)
    clock(1.0)
    worker.pass_boundary()
    assert hosts(worker) == FIRST
    assert worker.store.view.state is SourceState.REJECTED
    assert "is missing" in str(worker.store.view.reason)
    assert 0 < worker.seconds_to_boundary <= DAY


def test_real_workers_change_at_the_boundary(tmp_path: Path) -> None:
    """Every worker changes to the same list within 2 s after the boundary, never before.

    The signed list changes with it, and its version is the boundary's.
    """
    file, private = tmp_path / "endpoints.txt", SigningKey.generate()
    file.write_text("DomainList:\na.example\n")
    key = tmp_path / "key.json"
    key.write_text(json.dumps(private.private_jwk()))
    key.chmod(0o600)
    trusted = TrustedKeys([private.public])
    with running(tmp_path, file, ENDPOINT_SIGNING_KEY_FILE=str(key)) as server:
        boundary = int(time.time()) + 6
        moment = f"{datetime.fromtimestamp(boundary, UTC):%Y-%m-%dT%H:%M:%SZ}"
        scratch = tmp_path / "scratch"
        scratch.write_text(
            f"DomainList:\na.example\nold.example until={moment}\nnew.example from={moment}\n"
        )
        scratch.replace(file)
        wait_for(lambda: server.all_serve("a.example", "old.example"))
        while (asked := time.time()) < boundary:
            seen = server.hosts()
            assert seen == ["a.example", "old.example"] or time.time() >= boundary, asked
            time.sleep(0.05)
        wait_for(lambda: server.all_serve("a.example", "new.example"), seconds=2)
        assert len(set(server.etags())) == 1
        date = datetime.fromtimestamp(boundary, UTC)
        assert server.get().headers["Last-Modified"] == f"{date:%a, %d %b %Y %H:%M:%S GMT}"
        for _ in range(8):
            signed = trusted.verify(server.get(f"{ENDPOINTS}.jws").body)
            assert signed.ver == boundary * 1000
            assert "new.example" in str(signed.config)
            assert "old.example" not in str(signed.config)


def judge(worker: Reloader) -> None:
    """Do what the reload thread does at a boundary, without its waits."""
    if worker.seconds_to_boundary == 0:
        worker.pass_boundary()
    if worker.loaded.judge_at <= time.time():
        assert worker.reload(Trigger.POLL, quietly=True)


def refusing(folder: Path, text: str) -> Reloader:
    """Return a worker that serves two endpoints, and has refused a newer text with too few."""
    site = Site(folder)
    write(site, "DomainList:\na.example\nb.example\n")
    worker = site.boot(min_endpoints=2)
    write(site, f"DomainList:\n{text}")
    assert worker.reload(Trigger.WATCH)
    assert worker.store.view.state is SourceState.REJECTED
    return worker


def test_a_refused_text_is_judged_anew_at_its_boundary(tmp_path: Path, clock: Clock) -> None:
    """A text with too few endpoints is served once its windows have brought enough of them.

    A node that starts after the boundary serves it with the same date and version.
    """
    sites = []
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        sites.append(Site(tmp_path / name))
        write(sites[-1], "DomainList:\na.example\nb.example\n")
    running, other = (site.boot(min_endpoints=2) for site in sites)
    windows = "late.example from=2027-01-02\nb.example from=2027-01-03\n"
    for each in sites:
        write(each, f"DomainList:\na.example\n{windows}")
    assert running.reload(Trigger.WATCH)
    assert running.store.view.history[0].code == "too-few"
    assert hosts(running) == ["https://a.example", "https://b.example"]
    assert running.reload(Trigger.POLL, quietly=True)
    assert running.loaded.judge_at == START + DAY
    clock(1.25)
    judge(running)
    served = running.store.view.snapshot
    assert hosts(running) == ["https://a.example", "https://late.example"]
    assert running.store.view.state is SourceState.FRESH
    assert served.last_modified == START + DAY
    assert running.loaded.judge_at == float("inf")
    assert running.seconds_to_boundary == 0.75 * DAY
    assert other.reload(Trigger.WATCH)
    assert other.store.view.snapshot.etag == served.etag
    assert other.store.view.snapshot.ver == served.ver


def test_a_text_that_stays_refused_is_noted_once_at_each_boundary(
    tmp_path: Path, clock: Clock
) -> None:
    """A text of which all entries begin later is refused until enough of them have begun."""
    worker = refusing(tmp_path, "c.example from=2027-01-02\nd.example from=2027-01-03\n")
    assert worker.store.view.history[0].code == "no-endpoints"
    clock(1.0)
    judge(worker)
    judge(worker)
    assert [entry.code for entry in worker.store.view.history] == ["too-few", "no-endpoints", None]
    # As after another worker's list was served: what was told already is not told again.
    worker.loaded = replace(worker.loaded, judge_at=time.time())
    judge(worker)
    assert [entry.code for entry in worker.store.view.history] == ["too-few", "no-endpoints", None]
    clock(2.0)
    judge(worker)
    assert hosts(worker) == ["https://c.example", "https://d.example"]


def test_a_text_that_cannot_be_read_at_its_boundary_is_judged_when_it_can(
    tmp_path: Path, clock: Clock
) -> None:
    worker = refusing(tmp_path, "c.example\nd.example from=2027-01-02\n")
    file = Site(tmp_path).file
    file.rename(tmp_path / "elsewhere.txt")
    clock(1.0)
    judge(worker)
    assert worker.store.view.history[0].code == "missing"
    assert worker.loaded.judge_at == float("inf")
    (tmp_path / "elsewhere.txt").rename(file)
    assert worker.reload(Trigger.POLL, quietly=True)
    assert hosts(worker) == ["https://c.example", "https://d.example"]


@pytest.mark.parametrize("window", [" until=2027-01-02", ""])
def test_the_served_text_passes_a_boundary_before_a_refused_one_is_judged(
    tmp_path: Path, clock: Clock, window: str
) -> None:
    """The guard compares the newer text with the list of now, as it does after a restart.

    So each worker decides alike, whichever is first, also if only the served text has a window.
    """
    site = Site(tmp_path)
    write(site, "DomainList:\na.example\nb.example\nc.example until=2027-01-02\n")
    workers = [site.boot(max_removed=0.5) for _ in range(2)]
    write(site, f"DomainList:\na.example\nd.example{window.replace('until', 'from')}\n")
    for worker in workers:
        assert worker.reload(Trigger.WATCH)
        assert worker.store.view.history[0].code == "too-many-removed"
    clock(1.0)
    for worker in workers:
        for _ in range(2):
            judge(worker)
            worker.follow_others()
        assert hosts(worker) == ["https://a.example", "https://d.example"]
        assert worker.store.view.state is SourceState.FRESH
    assert len({worker.store.view.snapshot.ver for worker in workers}) == 1


def test_a_served_text_that_is_refused_at_its_boundary_is_noted_once(
    tmp_path: Path, clock: Clock
) -> None:
    """A reload by hand in between does not add a second note at the next boundary."""
    site = Site(tmp_path)
    write(site, "DomainList:\na.example\nb.example until=2027-01-02\nc.example until=2027-01-03\n")
    worker = site.boot(min_endpoints=3)
    clock(1.0)
    judge(worker)
    assert worker.reload(Trigger.SIGHUP)
    clock(2.0)
    judge(worker)
    assert [entry.code for entry in worker.store.view.history] == ["too-few"] * 3 + [None]


@pytest.mark.parametrize("is_written", [False, True])
def test_the_thread_reads_a_refused_text_at_its_boundary(tmp_path: Path, is_written: bool) -> None:
    """It reads by its debouncer, so that no half of a text is served that is being written."""
    file = tmp_path / "endpoints.txt"
    file.write_text("DomainList:\na.example\nb.example\n")
    file.chmod(0o644)
    with running(tmp_path, file, ENDPOINT_MIN_ENDPOINTS="2") as server:
        at = int(time.time()) + 6  # a busy machine takes a while to refuse the text
        window = datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")
        text = f"DomainList:\nc.example\nd.example from={window}\n"
        file.write_text(text)
        wait_for(partial(server.all_are, "rejected"))
        if is_written:
            with file.open("w") as writer:
                writer.write(text)
                while time.time() < at + 0.5:
                    writer.flush()
                    time.sleep(0.05)
                    writer.write("#\n")
                assert server.hosts() == ["a.example", "b.example"]
                writer.write("e.example\n")
            wait_for(partial(server.all_serve, "c.example", "d.example", "e.example"))
        wait_for(partial(server.all_are, "fresh"), seconds=10)
        assert server.hosts()[:2] == ["c.example", "d.example"]
        assert time.time() >= at
