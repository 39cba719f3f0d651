"""Tests of the status document of a host, and of log lines."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from mop_config.model.endpoint import rfc3339
from mop_config.server.logs import LineFormatter
from mop_config.server.parsing.problems import Code, Problem, Severity
from mop_config.server.serving.store import HistoryEntry
from mop_config.server.state.directory import (
    StateDirectory,
    WorkerRecord,
    WorkerRegistry,
    dump_record,
    parse_record,
    started,
)
from mop_config.server.status.document import (
    common_etag,
    differing,
    dropped_entries,
    host_status,
)


def event(at: float, result: str = "applied", **more: Any) -> HistoryEntry:
    entry: dict[str, Any] = {
        "at": rfc3339(at),
        "trigger": "watch",
        "result": result,
        "error": None,
        "duration_seconds": 0.1,
        "etag": "e",
        **more,
    }
    return cast(HistoryEntry, entry)


def worker(
    pid: int,
    state: str = "fresh",
    etag: str = "e",
    *,
    complete: bool = True,
    errors: int = 0,
    warnings: int = 0,
    **more: Any,
) -> WorkerRecord:
    base: WorkerRecord = {
        "pid": pid,
        "served": {
            "etag": etag,
            "state": state,
            "loaded_at": rfc3339(5.0),
            "counts": {"api": 1, "socketio": 1},
            "complete": complete,
            "problem_counts": {"error": errors, "warning": warnings},
            "problems": [],
            "planned": [],
        },
        "watcher": {"mode": "inotify", "alive": True},
        "history": [event(float(pid))],
        "waiters": 0,
        "good_at": 5.0,
        "late": False,
        "answered": 0,
    }
    return cast(WorkerRecord, {**base, **more})


def last_reload(status: Any) -> Any:
    return status["last_reload"]


def test_the_worst_worker_speaks_for_the_host() -> None:
    """A worker that cannot follow its source is not hidden by the others."""
    for worst, others in [
        ("rejected", ["fresh"]),
        ("rejected", ["stale", "fresh"]),
        ("stale", ["fresh"]),
        ("empty", ["rejected", "stale", "fresh"]),
    ]:
        states = [worker(1, worst, "bad"), *(worker(2 + i, s) for i, s in enumerate(others))]
        status = host_status("x", states)
        assert (status["state"], status["etag"]) == (worst, "bad")


def test_a_late_thread_hides_no_faulty_entries() -> None:
    """The problems of the process say nothing about the entries, which are still counted."""
    late = Problem.of(Code.LATE, "the reload thread stands still").as_dict()
    bad = Problem(3, 1, Severity.ERROR, Code.BAD_HOST, "no host name", "a_b").as_dict()
    state = worker(1, complete=False, errors=2)
    state["served"]["problems"] = [late, bad]
    assert dropped_entries(host_status("x", [state])) == 1


def test_a_setting_that_only_one_worker_cannot_use_is_not_hidden() -> None:
    """A worker that has started later may have found another key file than the others."""
    open_key, bad_key = (
        Problem.of(Code.SETTING, message).as_dict() for message in ("readable by all", "no key")
    )
    old, new = worker(1, warnings=1), worker(2, warnings=1)
    old["served"]["problems"], new["served"]["problems"] = [open_key], [bad_key]
    status = host_status("x", [old, new, old])
    assert [problem["message"] for problem in status["problems"]] == ["no key", "readable by all"]
    assert status["problem_counts"] == {"error": 0, "warning": 2}
    assert old["served"]["problem_counts"]["warning"] == 1


def test_one_worker_that_left_entries_out_makes_the_host_incomplete() -> None:
    """The host is incomplete if any worker is."""
    states = [worker(1), worker(2, complete=False)]
    assert host_status("x", states)["complete"] is False
    assert host_status("x", states[:1])["complete"] is True


def test_every_worker_is_listed_with_its_own_last_reload() -> None:
    """The workers are sorted by process id; the host's last reload is that of one of them."""
    status = host_status("x", [worker(9), worker(3)])
    assert [w["pid"] for w in status["workers"]] == [3, 9]
    assert last_reload(status)["at"] == "1970-01-01T00:00:03.000Z"


def test_watching_is_alive_only_if_every_workers_is() -> None:
    """The mode is ``poll`` if one worker polls."""
    deaf = worker(2, watcher={"mode": "poll", "alive": False})
    assert host_status("x", [worker(1), deaf])["watcher"] == {"mode": "poll", "alive": False}


def test_the_history_is_that_of_one_worker() -> None:
    """Of equal workers, the one with the lowest process id counts, which is the oldest one."""
    oldest = worker(1, history=[event(20.1), event(10.0)])
    young = worker(2, history=[event(30.0, "unchanged")])
    other = worker(3, history=[event(20.0), event(10.1)])
    for workers in ([oldest, young, other], [other, young, oldest]):
        status = host_status("x", workers)
        assert [e["at"] for e in status["history"]] == [rfc3339(20.1), rfc3339(10.0)]
        assert last_reload(status)["at"] == rfc3339(20.1)
    refused = worker(4, "rejected", history=[event(5.0, "rejected", error="no")])
    status = host_status("x", [oldest, refused])
    assert last_reload(status)["error"] == "no"


def _broken(good: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a worker's record without each member, and with each member of another type."""
    for name in good:
        yield {key: value for key, value in good.items() if key != name}
    for name in ("pid", "started", "served", "watcher", "history"):
        yield {**good, name: ["x"]}
    (reload,) = good["history"]
    for name, value in {
        "pid": True,
        "answered": "1",
        "history": [{**reload, "result": "x"}],
    }.items():
        yield {**good, name: value}
    for name, value in {
        "state": "fresher",
        "loaded_at": "yesterday",
        "counts": {"api": 1},
        "problems": [{"code": "x"}],
    }.items():
        yield {**good, "served": {**good["served"], name: value}}


class TestHostState:
    """The files of the workers."""

    def test_live_workers_are_seen_and_dead_ones_cleaned_away(self, tmp_path: Path) -> None:
        """Files of dead workers are removed, whatever ended the workers."""
        host = WorkerRegistry(StateDirectory(tmp_path), "k")
        other = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        try:
            host.write(worker(os.getpid()))
            host.write(worker(other.pid))
            assert [w["pid"] for w in host.others(os.getpid())] == [other.pid]
        finally:
            other.kill()
            other.communicate()
        assert host.others(os.getpid()) == []
        assert [p.name for p in tmp_path.iterdir()] == [f"k.worker.{os.getpid()}.json"]

    def test_a_reused_process_id_is_another_process(self, tmp_path: Path) -> None:
        """The start time tells two processes of the same id apart."""
        host = WorkerRegistry(StateDirectory(tmp_path), "k")
        host.write(worker(1))
        directory = StateDirectory(tmp_path)
        record = parse_record(directory.read("k.worker.1.json"))
        assert record["started"] == started(1) != ""
        record["started"] = "12345678901"
        directory.write("k.worker.1.json", dump_record(record), sync=False)
        assert host.others(os.getpid()) == []

    def test_foreign_and_torn_files_are_passed_over(self, tmp_path: Path) -> None:
        """Foreign and torn files are ignored."""
        host = WorkerRegistry(StateDirectory(tmp_path), "k")
        host.write(worker(1))
        good = parse_record(StateDirectory(tmp_path).read("k.worker.1.json"))
        assert len(host.others(os.getpid())) == 1
        texts = [
            "",
            "[]",
            '{"pid":"x"}',
            "{",
            "[" * 100_000,
            "\xff",
            *map(json.dumps, _broken(good)),
        ]
        for name, text in enumerate(texts, 1):
            (tmp_path / f"k.worker.{name}.json").write_text(text)
        assert host.others(os.getpid()) == []

    def test_a_folder_that_cannot_be_used_is_done_without(
        self, tmp_path: Path, caplog: Any
    ) -> None:
        """The server warns once and works without the folder."""
        (tmp_path / "file").write_text("")
        below = StateDirectory.of_user(tmp_path / "file" / "below")
        assert not below.save("record", b"", "a record")
        assert "a record cannot be saved" in caplog.text
        directory = StateDirectory.of_user(tmp_path / "a" / "b")
        directory.make()
        assert directory.path.stat().st_mode & 0o777 == 0o700
        host = WorkerRegistry(directory, "k")
        directory.path.rmdir()
        directory.path.write_text("a file in its place")
        caplog.clear()
        host.write(worker(os.getpid()))
        host.write(worker(os.getpid()))
        assert len(caplog.records) == 1

    def test_a_folder_that_cannot_be_read_has_no_other_workers(self, tmp_path: Path) -> None:
        """The folder is made by the first record."""
        host = WorkerRegistry(StateDirectory(tmp_path / "gone"), "k")
        assert host.others(1) == []
        host.write(worker(os.getpid()))
        assert host.others(1) == [host.others(2)[0]]

    def test_a_file_is_written_again_where_it_is_missing(self, tmp_path: Path) -> None:
        """A failed write says so, and a record that was removed counts as missing."""
        host, pid = WorkerRegistry(StateDirectory(tmp_path / "s"), "k"), os.getpid()
        (tmp_path / "s").write_text("no folder")
        assert not host.write(worker(pid))
        (tmp_path / "s").unlink()
        assert host.write(worker(pid))
        (path,) = (tmp_path / "s").iterdir()
        written = path.stat()
        assert host.write(worker(pid))
        assert path.stat() == written, "nothing has changed"
        path.unlink()
        assert host.write(worker(pid))
        assert path.exists()


def test_of_equal_workers_the_one_with_the_most_problems_speaks() -> None:
    """A problem that only one worker knows is listed and counted, whichever worker is first."""
    notice = Problem(1, 1, Severity.WARNING, Code.STATE_FOLDER, "full", "")
    troubled = worker(2, warnings=1)
    troubled["served"]["problems"] = [notice.as_dict()]
    for workers in ([worker(1), troubled], [troubled, worker(3)]):
        status = host_status("x", workers)
        assert status["problems"] == [notice.as_dict()]
        assert status["problem_counts"]["warning"] == 1
    assert host_status("x", [troubled, worker(1, "stale")])["state"] == "stale"


def test_a_log_line_is_one_line() -> None:
    """Text from outside cannot forge a log line; an exception is one line."""
    try:
        raise ValueError("bad\nthing")
    except ValueError:
        info = sys.exc_info()
    record = logging.LogRecord(
        "n", logging.INFO, "p", 1, "path %s", ("/a\r\n2026 [1] forged\x1b[31m\u2028",), info
    )
    line = LineFormatter().format(record)
    assert len(line.splitlines()) == 1
    assert "\\r\\n" in line.replace(" | ", "\\n") or "\\r | " in line
    assert "\x1b" not in line
    assert "ValueError: bad" in line
    assert "Traceback" not in line
    assert line[:4].isdigit()
    assert line[23] == "Z"


def test_a_clock_that_was_set_back_does_not_change_the_order() -> None:
    """The times are shown as recorded; the order is that in which the worker reloaded."""
    old = event(7200.0)
    new = event(3700.0, "rejected", error="bad")
    status = host_status("x", [worker(1, history=[new, old]), worker(2, history=[old])])
    assert last_reload(status)["result"] == "rejected"
    assert [e["at"] for e in status["history"]] == [
        "1970-01-01T01:01:40.000Z",
        "1970-01-01T02:00:00.000Z",
    ]


@pytest.mark.parametrize("stopped", [1, 2])
def test_of_two_workers_the_newer_list_counts(stopped: int) -> None:
    """A stopped worker serves an old list, whatever its process id; the other is not blamed."""
    workers = [worker(1, etag="new"), worker(2, etag="new")]
    old = workers[stopped - 1]
    old["served"] = {**old["served"], "etag": "old", "loaded_at": rfc3339(4.0)}
    old["history"] = [event(0.5)]
    status = host_status("the source", workers, None, None)
    assert status["etag"] == "new"
    assert common_etag(status["workers"]) == "new"
    assert differing(status["workers"]) == [stopped]


def test_the_host_serves_the_common_list() -> None:
    """The list that the status shows is never that of a worker that differs."""
    first, second = worker(1, etag="a"), worker(2, etag="b")
    first["served"] = {**first["served"], "loaded_at": rfc3339(9.0)}
    status = host_status("the source", [first, second])
    assert status["etag"] == common_etag(status["workers"]) == "b"
