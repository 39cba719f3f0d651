"""Every way of changing the file reaches every worker within a second."""

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..conftest import need_program
from ..servers import Server, running
from ..waiting import wait_for

#: Maximum seconds from the end of the write until every worker serves the new list.
LIMIT = 1.0
WORKERS = 4


def text(*hosts: str) -> str:
    return "DomainList:\n" + "".join(f"{host}\n" for host in hosts)


OLD = ["old-a.example", "old-b.example"]
NEW = ["new-a.example", "new-b.example", "new-c.example"]


class Site:
    """A running server, its file, and a counter for new lists."""

    def __init__(self, server: Server, file: Path) -> None:
        self.server = server
        self.file = file
        self.serial = 0
        self.hosts = OLD

    def next_text(self) -> str:
        """Return the text of a new list."""
        self.serial += 1
        self.hosts = [f"n{self.serial}-{host}" for host in NEW]
        return text(*self.hosts)

    def seen_by_all(self, since: float) -> None:
        """Check that every worker serves the newest list at most ``LIMIT`` after ``since``."""
        wait_for(
            lambda: self.server.all_serve(*self.hosts),
            seconds=LIMIT - (time.monotonic() - since),
            what=f"all workers serve {self.hosts}; status {self.server.status()}",
        )
        assert len(self.server.status()["workers"]) == WORKERS
        for _ in range(4 * WORKERS):
            assert self.server.hosts() == self.hosts


@pytest.fixture(scope="module")
def server_and_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    folder = tmp_path_factory.mktemp("site")
    (folder / "conf").mkdir()
    file = folder / "conf" / "endpoints.txt"
    file.write_text(text(*OLD))
    with running(folder, file, workers=WORKERS) as server:
        yield server, file


@pytest.fixture
def site(server_and_file: tuple[Server, Path]) -> Site:
    """Return the shared server on a plain file, with a new good list in place."""
    server, file = server_and_file
    site = Site(server, file)
    site.serial = int(time.time() * 1000) % 10**9
    replace(file, site.next_text())
    site.seen_by_all(time.monotonic())
    return site


def replace(file: Path, content: str) -> None:
    scratch = file.with_name("scratch")
    scratch.write_text(content)
    os.replace(scratch, file)


def run(*command: str, **kwargs: object) -> None:
    subprocess.run(command, check=True, capture_output=True, timeout=20, **kwargs)  # type: ignore[call-overload]


def by_vim(file: Path, content: str) -> None:
    vim(file, content, "set backupcopy&")


def by_vim_in_place(file: Path, content: str) -> None:
    vim(file, content, "set backupcopy=yes")


def vim(file: Path, content: str, setting: str) -> None:
    lines = "\\r".join(content.splitlines())
    run(
        need_program("vim"),
        *("-u", "NONE", "-N", "-n", "-e", "-s"),
        *("-c", setting, "-c", f"%s/\\_.*/{lines}/", "-c", "wq", str(file)),
    )


def by_nano(file: Path, content: str) -> None:
    """Edit in nano on a real terminal with an operator's keys."""
    nano = need_program("nano")
    pid, terminal = os.forkpty()
    if pid == 0:
        os.environ["TERM"] = "xterm"
        os.execv(nano, [nano, "--ignorercfiles", str(file)])
    try:
        screen = b""

        def shows(word: bytes) -> bool:
            nonlocal screen
            screen += os.read(terminal, 65536)
            return word in screen

        wait_for(lambda: shows(b"Exit"), what="nano has started")
        os.write(terminal, b"\x1b\\")  # to the first line
        for _ in range(20):
            os.write(terminal, b"\x0b")  # cut a line
        os.write(terminal, content.replace("\n", "\r").encode())
        os.write(terminal, b"\x0f\r\x18")  # write out under this name, exit
        wait_for(lambda: os.waitpid(pid, os.WNOHANG)[0] == pid, what="nano has ended")
    finally:
        os.close(terminal)


def by_ed(file: Path, content: str) -> None:
    run(need_program("ed"), "-s", str(file), input=f"%d\na\n{content}.\nw\nq\n".encode())


def by_sed(file: Path, content: str) -> None:
    first, *rest = content.splitlines()
    script = [f"1s/.*/{first}/", "2,$d", *(f"$a{line}" for line in rest)]
    scratch = file.with_name("one-line")
    scratch.write_text("x\n")
    os.replace(scratch, file)
    run("sed", "-i", *(part for line in script for part in ("-e", line)), str(file))


def by_cp(file: Path, content: str) -> None:
    other = file.parent.parent / "other"
    other.write_text(content)
    run("cp", str(other), str(file))


def by_mv(file: Path, content: str) -> None:
    other = file.parent.parent / "other"
    other.write_text(content)
    run("mv", str(other), str(file))


def by_rsync(file: Path, content: str) -> None:
    other = file.parent.parent / "other"
    other.write_text(content)
    run(need_program("rsync"), "-t", "--ignore-times", str(other), str(file))


def by_append(file: Path, content: str) -> None:
    """Cut the file to its first line, then append the rest."""
    first, rest = content.split("\n", 1)
    with file.open("r+") as handle:
        handle.write(first + "\n")
        handle.truncate()
    with file.open("a") as handle:
        handle.write(rest)


def by_truncating_it_by_name(file: Path, content: str) -> None:
    """Use truncate(2), which causes no close event."""
    file.write_text(content + "one.too-many.example\n")
    os.truncate(file, len(content))


def by_deleting_and_recreating(file: Path, content: str) -> None:
    file.unlink()
    file.write_text(content)


def by_rewriting_with_the_same_date_and_size(file: Path, content: str) -> None:
    """Keep date and size, so that stat shows almost no change."""
    before = file.stat()
    file.write_text(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))


WAYS = [
    replace,
    by_vim,
    by_vim_in_place,
    by_nano,
    by_ed,
    by_sed,
    by_cp,
    by_mv,
    by_rsync,
    by_append,
    by_truncating_it_by_name,
    by_deleting_and_recreating,
    by_rewriting_with_the_same_date_and_size,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_an_edit_is_seen_by_all_workers(site: Site, way: Callable[[Path, str], None]) -> None:
    """Three edits in a row reach every worker, however the editor writes the file."""
    for _ in range(3):
        way(site.file, site.next_text())
        site.seen_by_all(time.monotonic())


def test_git_checkout(site: Site) -> None:
    """A checkout between two branches of a repository with the file reaches every worker."""
    git = need_program("git")
    folder = site.file.parent

    def run_git(*arguments: str) -> None:
        options = ("-c", "user.name=t", "-c", "user.email=t@example", "-c", "init.defaultBranch=a")
        run(git, *options, *arguments, cwd=folder)

    run_git("init", "-q")
    try:
        first = site.file.read_text()
        hosts = site.hosts
        run_git("add", "endpoints.txt")
        run_git("commit", "-qm", "one")
        run_git("checkout", "-qb", "b")
        site.file.write_text(site.next_text())
        second = site.hosts
        run_git("commit", "-qam", "two")
        site.seen_by_all(time.monotonic())
        for branch, expected in [("a", hosts), ("b", second), ("a", hosts)]:
            run_git("checkout", "-q", branch)
            site.hosts = expected
            site.seen_by_all(time.monotonic())
        assert site.file.read_text() == first
    finally:
        shutil.rmtree(folder / ".git")


@pytest.mark.parametrize("recreate", [False, True], ids=["truncated", "recreated"])
def test_a_slow_writer_is_waited_for(site: Site, recreate: bool) -> None:
    """No worker serves an empty or partial list while the file is being written."""
    before = site.server.hosts()
    content = site.next_text()
    if recreate:
        site.file.unlink()
    with site.file.open("w") as handle:
        for line in content.splitlines(keepends=True):
            handle.write(line)
            handle.flush()
            deadline = time.monotonic() + 0.4
            while time.monotonic() < deadline:
                assert site.server.hosts() == before
    site.seen_by_all(time.monotonic())


def test_the_folder_is_renamed_away_and_a_new_one_put_in_its_place(site: Site) -> None:
    """The watch stays on the renamed folder; polling by name finds the new folder."""
    folder = site.file.parent
    for _ in range(3):
        other = folder.with_name("next")
        other.mkdir()
        (other / site.file.name).write_text(site.next_text())
        folder.rename(folder.with_name("away"))
        other.rename(folder)
        site.seen_by_all(time.monotonic())
        shutil.rmtree(folder.with_name("away"))
        # the new folder is watched too
        replace(site.file, site.next_text())
        site.seen_by_all(time.monotonic())


def test_an_empty_moment_between_two_lists_is_survived(site: Site) -> None:
    """While the folder is missing, the list stays and the status gives the reason."""
    folder = site.file.parent
    before = site.server.hosts()
    folder.rename(folder.with_name("away"))
    wait_for(lambda: "missing" in str(site.server.status()["last_reload"]["error"]))
    assert site.server.hosts() == before
    folder.with_name("away").rename(folder)
    wait_for(lambda: site.server.status()["state"] == "fresh", seconds=LIMIT)
    replace(site.file, site.next_text())
    site.seen_by_all(time.monotonic())


class TestLinks:
    """The path leads over symbolic links, as in many deployments."""

    @pytest.fixture
    def linked(self, tmp_path: Path) -> Iterator[Site]:
        """``conf/endpoints.txt`` -> ``data/current`` -> ``one``, and a spare ``two``."""
        (tmp_path / "conf").mkdir()
        (tmp_path / "data").mkdir()
        for name in ("one", "two"):
            (tmp_path / "data" / name).write_text(text(*OLD))
        (tmp_path / "data" / "current").symlink_to("one")
        file = tmp_path / "conf" / "endpoints.txt"
        file.symlink_to("../data/current")
        with running(tmp_path, file, workers=WORKERS) as server:
            yield Site(server, file)

    def retarget(self, link: Path, target: str) -> None:
        scratch = link.with_name("scratch-link")
        scratch.symlink_to(target)
        os.replace(scratch, link)

    def test_targets_are_edited_and_links_set_anew(self, linked: Site) -> None:
        """Editing a target and replacing a link apply at every link of the chain."""
        data = linked.file.parent.parent / "data"
        replace(data / "one", linked.next_text())
        linked.seen_by_all(time.monotonic())
        (data / "two").write_text(linked.next_text())
        self.retarget(data / "current", "two")
        linked.seen_by_all(time.monotonic())
        (data / "two").write_text(linked.next_text())
        linked.seen_by_all(time.monotonic())
        (data / "one").write_text(linked.next_text())
        self.retarget(linked.file, "../data/one")
        linked.seen_by_all(time.monotonic())
        with (data / "one").open("w") as handle:  # slowly, at the end of the chain
            content = linked.next_text()
            before = linked.server.hosts()
            handle.write(content[:30])
            handle.flush()
            deadline = time.monotonic() + 0.5
            while time.monotonic() < deadline:
                assert linked.server.hosts() == before
            handle.write(content[30:])
        linked.seen_by_all(time.monotonic())

    def test_a_configmap_volume(self, tmp_path: Path) -> None:
        """Three swaps of Kubernetes' ..data link with equal dates all apply."""
        volume = tmp_path / "volume"

        def publish(number: int, content: str) -> None:
            folder = volume / f"..2026_{number}"
            folder.mkdir(parents=True)
            (folder / "endpoints.txt").write_text(content)
            os.utime(folder / "endpoints.txt", (1_700_000_000, 1_700_000_000))
            (volume / "..data_tmp").symlink_to(folder.name)
            os.replace(volume / "..data_tmp", volume / "..data")

        publish(0, text(*OLD))
        (volume / "endpoints.txt").symlink_to("..data/endpoints.txt")
        with running(tmp_path, volume / "endpoints.txt", workers=WORKERS) as server:
            site = Site(server, volume / "endpoints.txt")
            for number in range(1, 4):
                publish(number, site.next_text())
                site.seen_by_all(time.monotonic())
                shutil.rmtree(volume / f"..2026_{number - 1}")
            assert server.status()["watcher"] == {"mode": "inotify", "alive": True}

    def test_an_edit_that_no_event_tells_of(self, tmp_path: Path) -> None:
        """An edit through another hard link causes no event, so polling must find the edit."""
        (tmp_path / "conf").mkdir()
        (tmp_path / "elsewhere").mkdir()
        file, other = tmp_path / "conf" / "endpoints.txt", tmp_path / "elsewhere" / "same"
        file.write_text(text(*OLD))
        other.hardlink_to(file)
        with running(tmp_path, file, workers=WORKERS) as server:
            site = Site(server, file)
            for _ in range(3):
                other.write_text(site.next_text())
                site.seen_by_all(time.monotonic())
            assert server.status()["last_reload"]["trigger"] == "poll"


@pytest.mark.alone
@pytest.mark.parametrize("save", [replace, Path.write_text])
def test_an_editor_that_saves_every_100_ms(
    tmp_path: Path, save: Callable[[Path, str], object]
) -> None:
    """Both workers serve some text within 5 s, although each text is outdated when it is read.

    Rendering the long list takes longer than the editor's pause.
    """
    file = tmp_path / "endpoints.txt"
    many = "".join(f"h{number}.example\n" for number in range(10_000))
    file.write_text(text(*OLD))
    with running(tmp_path, file) as server:
        site = Site(server, file)
        before, saved = set(server.etags()), 0
        began = time.monotonic()
        while before & set(server.etags()):
            assert time.monotonic() - began < 5
            save(file, site.next_text() + many)
            saved += 1
            time.sleep(max(0.0, began + 0.1 * saved - time.monotonic()))
        save(file, site.next_text())
        wait_for(lambda: server.all_serve(*site.hosts), seconds=10)
