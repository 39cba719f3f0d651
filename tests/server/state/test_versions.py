"""The versions of signed lists: workers that missed edits, and a state folder that fails.

Each worker here is an application in this process whose turns the test runs by hand. The last
tests use real gunicorn workers.
"""

import errno
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from mop_config.client import EndpointManager, UpdateFailed
from mop_config.server.reload.pipeline import Reloader
from mop_config.server.serving.store import SourceState, Trigger
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.releases import parse

from ...client.handmade import NOBODY, QUICK
from ...disks import fill, small_disk
from ...servers import ENDPOINTS, Server, running
from ...waiting import wait_for
from ..serving.test_signed_list import AB, BC, CD, JWS, KEY, TRUSTED, Site, hosts, key_file, signed

OLD, NEWER = 1_700_000_000, 1_700_500_000


class Worker:
    """An application, and the turns of its reload thread by hand."""

    def __init__(self, booted: tuple[FlaskClient, Reloader]) -> None:
        self.client, self.loader = booted

    def look(self) -> "Worker":
        """Read the file as a turn of the reload thread does."""
        self.loader.reload(Trigger.POLL, quietly=True)
        return self.turn()

    def turn(self) -> "Worker":
        """Run a turn in which the file has not changed."""
        self.loader.follow_others()
        return self

    @property
    def ver(self) -> int:
        return signed(self.client).ver


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def boot(site: Site) -> Worker:
    return Worker(site.boot())


def agreed(*workers: Worker) -> int:
    """Return the version that all workers sign with, and check that their bytes are equal."""
    assert len({worker.client.get(JWS).data for worker in workers}) == 1
    assert len({str(worker.client.get(ENDPOINTS).headers) for worker in workers}) == 1
    return workers[0].ver


class TestATouch:
    """A touch (same content, newer date) means that the operator wants a newer version."""

    def test_it_raises_the_version_and_nothing_else(self, site: Site) -> None:
        """A touch raises the version in every worker, and the plain list keeps ETag and date."""
        site.write(AB, OLD)
        workers = [boot(site), boot(site)]
        plain = workers[0].client.get(ENDPOINTS)
        site.write(AB, NEWER + 0.5)
        assert workers[0].look().ver == NEWER * 1000 + 500
        assert agreed(workers[0], workers[1].turn()) == NEWER * 1000 + 500
        assert agreed(workers[0], workers[1].look()) == NEWER * 1000 + 500
        after = workers[0].client.get(ENDPOINTS)
        for name in ("ETag", "Last-Modified"):
            assert after.headers[name] == plain.headers[name]

    def test_so_it_does_at_a_restart(self, site: Site) -> None:
        """A touch before a restart raises the version and keeps the date."""
        site.write(AB, OLD)
        date = boot(site).client.get(ENDPOINTS).headers["Last-Modified"]
        site.write("# a word\n" + AB, NEWER)
        worker = boot(site)
        assert worker.ver == NEWER * 1000
        assert worker.client.get(ENDPOINTS).headers["Last-Modified"] == date
        assert boot(site).ver == NEWER * 1000

    def test_an_older_date_does_not(self, site: Site) -> None:
        """An older date, or one that was seen before, does not raise the version."""
        site.write(AB, NEWER)
        worker = boot(site)
        for date in (OLD, NEWER, OLD):
            site.write(AB, date)
            assert worker.look().ver == NEWER * 1000
        assert boot(site).ver == NEWER * 1000

    def test_a_date_to_come_counts_as_now_once(self, site: Site) -> None:
        """A future date counts as now once, and further reads by any worker keep the version."""
        site.write(AB, OLD)
        workers = [boot(site), boot(site)]
        site.write(AB, time.time() + 86400)
        ver = workers[0].look().ver
        assert OLD * 1000 < ver <= time.time() * 1000
        for worker in workers:
            worker.loader.reload(Trigger.SIGHUP)
        assert agreed(*workers) == boot(site).ver == ver

    def test_it_is_the_remedy_for_a_lost_folder(self, site: Site) -> None:
        """After a lost folder, a touch gives an older list a version that clients accept."""
        site.write(BC, NEWER)
        seen = boot(site).ver
        shutil.rmtree(site.settings["state_dir"])
        site.write(AB, OLD)
        worker = boot(site)
        assert worker.ver < seen
        site.write(AB)
        assert worker.look().ver > seen
        assert boot(site).ver == worker.ver

    def test_a_touch_of_a_refused_file_is_none(self, site: Site) -> None:
        """A touch of a refused file does not change the version of the served list."""
        site.write(AB, OLD)
        worker = boot(site)
        site.write("DomainList:\n", OLD + 1)
        worker.look()
        site.write("DomainList:\n", NEWER)
        assert worker.look().ver == OLD * 1000
        assert worker.loader.store.view.state is SourceState.REJECTED


class TestAWorkerThatMissedSomething:
    """A worker that missed edits agrees with the others, even without reading the file."""

    @pytest.mark.parametrize("date", [OLD, NEWER + 5000])
    @pytest.mark.parametrize("reads", [False, True])
    def test_an_edit_and_its_way_back(self, site: Site, date: float, reads: bool) -> None:
        """A worker that missed an edit and its rollback takes the higher version."""
        site.write(AB, OLD)
        stalled, other = boot(site), boot(site)
        site.write(BC, NEWER)
        assert other.look().ver == NEWER * 1000
        site.write(AB, date)
        other.look()
        if reads:
            stalled.look()
        assert agreed(stalled.turn(), other.turn()) > NEWER * 1000

    def test_while_the_file_is_bad(self, site: Site) -> None:
        """While the file is bad, the worker takes the last good list and its version."""
        site.write(AB, OLD)
        stalled, other = boot(site), boot(site)
        for text in (BC, AB, "DomainList:\n"):
            site.write(text, OLD)
            other.look()
        stalled.look()
        assert agreed(stalled.turn(), other.turn()) > OLD * 1000 + 1

    def test_looking_costs_a_stat(self, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
        """The record is read only if its ``stat`` fingerprint has changed."""
        worker = boot(site).turn()
        read: list[str] = []
        load = StateDirectory.load

        def note(directory: StateDirectory, name: str, *rest: Any) -> Any:
            read.append(name)
            return load(directory, name, *rest)

        monkeypatch.setattr(StateDirectory, "load", note)
        for _ in range(10):
            worker.turn()
        assert read == []
        (record,) = Path(site.settings["state_dir"]).rglob("*.lastgood")
        os.utime(record)
        worker.turn().turn()
        assert read == [record.name]


class TestALostFolder:
    """A live worker writes its records again after the state folder was lost."""

    def test_a_worker_that_is_born_then_agrees(self, site: Site) -> None:
        """A worker that starts later takes a version above those already served."""
        site.write(AB, OLD)
        living = boot(site)
        site.write(BC, NEWER)
        living.look()
        shutil.rmtree(site.settings["state_dir"])
        living.turn()
        site.write(AB, OLD)
        born = boot(site)
        assert born.ver > NEWER * 1000
        assert agreed(born.turn(), living.look(), born.turn()) > NEWER * 1000

    @pytest.mark.parametrize("first", [AB, BC])
    def test_also_if_it_was_quicker(self, site: Site, first: str) -> None:
        """A worker that started first with a low version takes the higher version later."""
        site.write(first, OLD)
        living = [boot(site), boot(site)]
        site.write(BC, NEWER)
        living[0].look()
        shutil.rmtree(site.settings["state_dir"])
        site.write(AB, OLD)
        born = boot(site)
        assert born.ver == OLD * 1000
        everybody = (*living, born)
        for worker in (*everybody, *everybody):
            worker.look()
        assert agreed(*everybody) > NEWER * 1000 - (first == BC)

    def test_where_it_cannot_be_made_there_is_one_warning(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """One warning is logged until the folder can be made again."""
        worker = boot(site)
        folder = Path(site.settings["state_dir"])
        shutil.rmtree(folder)
        folder.write_text("a file in its place")
        for _ in range(5):
            worker.turn()
        assert caplog.text.count("the last good list cannot be saved") == 1
        folder.unlink()
        worker.turn()
        assert len(list(folder.rglob("*.lastgood"))) == 1


def test_trouble_that_is_not_repeated_fades(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another worker may write the record by now, so that this one does not try any more."""
    directory = StateDirectory(tmp_path)
    directory.complain("the results", OSError(errno.ENOSPC, "No space left on device"))
    assert "No space left" in directory.trouble
    now = time.monotonic()
    monkeypatch.setattr(time, "monotonic", lambda: now + 61)
    assert directory.trouble == ""
    directory.complain("the results", OSError(errno.ENOSPC, "No space left on device"))
    assert "No space left" in directory.trouble


class TestAFullDisk:
    """On a full disk the old record stays, and the new one is written once there is room."""

    def test_the_record_stays_whole(self, site: Site, tmp_path: Path) -> None:
        """A write that fails half-way leaves the old record whole."""
        disk = tmp_path / "disk"
        with small_disk(disk):
            settings = {"state_dir": str(disk)}
            site.write(AB, NEWER)
            worker = Worker(site.boot(**settings))
            (record,) = disk.rglob("*.lastgood")
            kept = record.read_bytes()
            for text in disk.rglob("*.text.*"):
                text.unlink()  # else the server would remove it to make room for the record
            fill(disk / "full")
            for number in range(20):
                site.write(f"DomainList:\nb{number}.example\n", OLD + 0.1234567)
                worker.look()
                assert record.read_bytes() == kept
            (disk / "full").unlink()
            served = worker.turn().ver
            newest = StateDirectory(record.parent).read(record.name)
            assert parse(newest).release.version == served
            site.write(AB, OLD)
            assert Worker(site.boot(**settings)).ver > served

    def test_the_oldest_texts_make_room(
        self, site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A full disk costs as many kept texts as the newest one needs, and the log says so."""
        caplog.set_level("INFO")
        disk = tmp_path / "disk"
        with small_disk(disk):
            worker = Worker(site.boot(state_dir=str(disk)))
            for number in range(9):
                site.write(f"DomainList:\nb{number}.example\n", OLD + number)
                worker.look()
            kept = sorted(disk.rglob("*.text.*"))
            fill(disk / "full")
            site.write(AB, NEWER)
            worker.look()
            (record,) = disk.rglob("*.lastgood")
            assert parse(record.read_bytes()).data == AB.encode()
            left = sorted(disk.rglob("*.text.*"))
            assert len(left) > 5
            assert set(kept[-5:]) <= set(left)
            assert "the last good list cannot be saved: " in caplog.text
            assert "the last good list can be saved again" in caplog.text


@pytest.fixture
def real(tmp_path: Path) -> Iterator[tuple[Server, Path]]:
    """Run gunicorn with two workers, a key and a state folder."""
    folder = tmp_path
    file = folder / "endpoints.txt"
    file.write_text(AB)
    state = folder / "state"
    key = key_file(folder)
    with running(
        folder, file, ENDPOINT_SIGNING_KEY_FILE=key, ENDPOINT_STATE_DIR=str(state)
    ) as server:
        yield server, file


def put(file: Path, text: str, date: float | None = None) -> None:
    """Replace the file in one step."""
    scratch = file.with_suffix(".new")
    scratch.write_text(text)
    if date is not None:
        os.utime(scratch, (date, date))
    scratch.replace(file)


def settled(server: Server, expected: list[str], above: int) -> int:
    """Wait until every worker signs the list with one version above a bound, and return it."""

    def agreed() -> int | None:
        found = [TRUSTED.verify(server.get(JWS).body) for _ in range(12)]
        same = len({each.text for each in found}) == 1 and hosts(found[0]) == expected
        return found[0].ver if same and found[0].ver > above else None

    def still_agreed() -> int | None:
        ver = agreed()
        # All the answers may have come from one worker, while the other one was busy.
        time.sleep(0.5)
        return ver if ver is not None and agreed() == ver else None

    ver = wait_for(still_agreed, seconds=30, what=f"all sign {expected} with more than {above}")
    assert ver is not None
    return ver


class TestRealWorkers:
    """Real workers that are stopped or killed, or lose their state folder."""

    def test_one_that_is_stopped_during_an_edit(self, real: tuple[Server, Path]) -> None:
        """A client that has seen the edit accepts the rollback from every worker."""
        server, file = real
        put(file, AB, OLD)
        settled(server, ["a", "b"], 0)
        manager = EndpointManager(
            config_urls=[f"http://127.0.0.1:{server.port}"],
            trusted_keys=[KEY.public],
            policy=QUICK,
            verify=NOBODY,
            update_interval=0,
            trust_env=False,
        )
        stopped = server.workers[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            put(file, BC)

            # Some connections go to the stopped worker and get no answer.
            wait_for(lambda: taken(manager), seconds=30)
            put(file, AB, OLD)
        finally:
            os.kill(stopped, signal.SIGCONT)
        settled(server, ["a", "b"], OLD * 1000)
        for _ in range(10):
            manager.update_endpoints_from_remote()
        assert manager.api_endpoints[0].url == "https://a.example/api/v1"

    def test_a_folder_that_is_taken_away(self, real: tuple[Server, Path]) -> None:
        """Versions rise after the state folder was removed, and after a worker was killed."""
        server, file = real
        put(file, CD)
        newest = settled(server, ["c", "d"], 0)
        # The rename removes the folder in one step, while workers may write into it.
        shutil.rmtree((file.parent / "state").rename(file.parent / "gone"))
        put(file, AB, OLD)
        newest = settled(server, ["a", "b"], newest)
        os.kill(server.workers[0], signal.SIGKILL)
        put(file, BC, OLD + 5)
        settled(server, ["b", "c"], newest)


def taken(manager: EndpointManager) -> bool:
    """Return whether an update brings another list."""
    try:
        return manager.update_endpoints_from_remote()
    except UpdateFailed:
        return False
