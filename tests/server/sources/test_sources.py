"""Tests of FileSource: no kind of file can hang or deceive the server."""

import os
import socket
import threading
from errno import ENOENT, ENOTDIR
from pathlib import Path

import pytest

from mop_config.errors import SourceError
from mop_config.server.parsing.problems import Code
from mop_config.server.sources.file import CLOSE_WAIT, Events, FileSource, Watcher

from ...conftest import skip
from ...waiting import wait_for


def code_of(path: Path | str, max_bytes: int = 1000) -> str:
    with pytest.raises(SourceError) as caught:
        FileSource(str(path), max_bytes).read()
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)
    return caught.value.code


def test_a_file_is_read_with_its_date(tmp_path: Path) -> None:
    """The text has the unchanged bytes, and the time of the last change."""
    path = tmp_path / "x"
    path.write_bytes(b"\xef\xbb\xbfabc\r\n")
    os.utime(path, (5, 784111777.5))
    source = FileSource(str(path), 1000)
    text = source.read()
    assert (text.data, text.mtime) == (b"\xef\xbb\xbfabc\r\n", 784111777.5)
    assert text.fingerprint == source.fingerprint()


def test_a_file_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    """One byte more is too large."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * 1000)
    assert len(FileSource(str(path), 1000).read().data) == 1000
    path.write_bytes(b"x" * 1001)
    assert code_of(path) == "too-large"


def test_a_writer_at_work_is_known(tmp_path: Path) -> None:
    """The owner of a file can detect a writer without disturbing it."""
    path = tmp_path / "x"
    source = FileSource(str(path), 1000)
    assert source.being_written() is None, "there is no file"
    path.write_bytes(b"x")
    if source.being_written() is None:
        skip("this file system or user cannot ask who writes")
    assert source.being_written() is False
    with path.open("ab"):
        assert source.being_written() is True
        wait_for(lambda: source.being_written() is False, seconds=CLOSE_WAIT + 3)
    with path.open("rb"):
        assert source.being_written() is False


def test_what_is_missing_is_missing(tmp_path: Path) -> None:
    """A missing file, folder or link target, and a path below a file, are ``missing``."""
    (tmp_path / "file").write_text("x")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for name in ("gone", "no/such/folder", "dangling", "file/below"):
        assert code_of(tmp_path / name) == "missing"
        assert FileSource(str(tmp_path / name), 10).fingerprint().error in {ENOENT, ENOTDIR}


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """Folders, FIFOs, devices, sockets and terminals are refused."""
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for path in (tmp_path, tmp_path / "fifo", Path("/dev/zero"), tmp_path / "socket"):
            assert code_of(path) == "not-regular"
    master, slave = os.openpty()
    assert code_of(os.ttyname(slave)) == "not-regular"
    os.close(master)
    os.close(slave)


def test_a_loop_of_links_is_unreadable(tmp_path: Path) -> None:
    """A loop of links is an error with a reason."""
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    assert code_of(tmp_path / "a") == "unreadable"


def test_a_file_without_permission_is_unreadable(tmp_path: Path) -> None:
    """Without permission the file is ``unreadable``, except for root."""
    path = tmp_path / "x"
    path.write_text("x")
    path.chmod(0)
    if os.geteuid() != 0:
        assert code_of(path) == "unreadable"
        return
    tmp_path.chmod(0o755)
    for parent in tmp_path.parents:
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o005)
    pid = os.fork()
    if pid == 0:  # a child of another user, since root may read everything
        os.setuid(54321)
        try:
            FileSource(str(path), 10).read()
        except SourceError as error:
            os._exit(0 if error.code == "unreadable" else 1)
        os._exit(2)
    assert os.waitpid(pid, 0)[1] == 0


@pytest.mark.slow
def test_a_file_that_grows_while_it_is_read_is_told_from_a_whole_one(tmp_path: Path) -> None:
    """A file that grows during the read is refused as ``changing``."""
    path = tmp_path / "x"
    path.write_bytes(b"x" * (8 << 20))
    stop = threading.Event()

    def grow() -> None:
        with path.open("ab", buffering=0) as file:
            while not stop.is_set():
                file.write(b"y" * 4096)

    thread = threading.Thread(target=grow)
    thread.start()
    try:
        wait_for(lambda: path.stat().st_size > 8 << 20)
        for _ in range(3):
            wait_for(lambda: _is_told_apart(path), every=0.0)
    finally:
        stop.set()
        thread.join()


def _is_told_apart(path: Path) -> bool:
    """Return whether a read was refused; otherwise the text must be complete."""
    try:
        text = FileSource(str(path), 1 << 34).read()
    except SourceError as error:
        assert error.code == "changing"
        return True
    assert len(text.data) == text.fingerprint.size
    return False


def test_the_path_is_followed_at_each_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Links are resolved at each access; relative paths belong to the start folder."""
    (tmp_path / "a").write_text("a")
    (tmp_path / "b").write_text("b")
    (tmp_path / "link").symlink_to("a")
    monkeypatch.chdir(tmp_path)
    source = FileSource("link", 10)
    assert source.read().data == b"a"
    before = source.fingerprint()
    (tmp_path / "new").symlink_to("b")
    (tmp_path / "new").replace(tmp_path / "link")
    monkeypatch.chdir("/")
    assert source.read().data == b"b"
    assert source.fingerprint() != before


def test_a_save_since_the_trigger_looked_is_not_read(tmp_path: Path) -> None:
    """A rename keeps the contents, and so does not count as a save."""
    path = tmp_path / "endpoints.txt"
    path.write_text("one")
    source = FileSource(str(path), 10)
    looked = source.fingerprint()
    path.rename(tmp_path / "aside")
    (tmp_path / "aside").rename(path)
    assert source.read(looked).data == b"one"
    path.write_text("longer")
    with pytest.raises(SourceError) as raised:
        source.read(looked)
    assert raised.value.code == Code.CHANGING


def test_a_save_of_the_same_size_in_the_same_tick_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "endpoints.txt"
    path.write_text("one")
    source = FileSource(str(path), 10)
    text = source.read()
    assert source.is_current(text)
    path.write_text("two")
    os.utime(path, ns=(text.fingerprint.mtime_ns, text.fingerprint.mtime_ns))
    assert not source.is_current(text)
    path.unlink()
    assert not source.is_current(text)


def test_an_event_that_meets_a_stop_is_no_error(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """watchdog's emitter, which is asked once more after the stop, logs nothing."""
    watcher = Watcher(tmp_path / "endpoints.txt", Events())
    watcher.check(0.0)
    assert watcher._observer is not None
    (emitter,) = watcher._observer.emitters
    watcher.stop()
    emitter.queue_events(0.0)
    assert caplog.text == ""


def test_root_is_needed_for_nothing_here() -> None:
    """The helper that skips fails in CI instead."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CI", "true")
        with pytest.raises(pytest.fail.Exception):
            skip("reason")
        patch.delenv("CI")
        with pytest.raises(pytest.skip.Exception):
            skip("reason")
