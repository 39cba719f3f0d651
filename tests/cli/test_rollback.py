"""``mop-config history`` and ``rollback``: with real servers, many kinds of files, a real etcd."""

import contextlib
import io
import json
import os
import re
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from mop_config.cli import run
from mop_config.cli.output import AS_ROOT
from mop_config.server.parsing.render import EMPTY_BODY, render
from mop_config.server.settings import Settings, UrlRules
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.directory import key as key_of
from mop_config.server.state.releases import LastGood, Release, ReleaseStore

from ..disks import fill, small_disk
from ..etcds import running_cluster
from ..integration.test_bind_mount import bound
from ..integration.test_users import for_everybody
from ..servers import Server, gunicorn_command, running
from ..users import ALICE, as_user, needs_root, place_for_all
from ..waiting import wait_for
from .test_push import on_a_terminal


def text(*hosts: str) -> str:
    return "DomainList:\n" + "".join(f"{host}\n" for host in hosts)


ONE, TWO, THREE = (
    text("a.example", "one.example"),
    text("a.example", "two.example"),
    text("a.example"),
)


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in list(os.environ):
        if name.startswith("ENDPOINT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ENDPOINT_STATE_DIR", str(tmp_path / "state"))
    monkeypatch.setenv("ENDPOINT_CONFIG_FILE", str(tmp_path / "endpoints.txt"))


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.txt"
    path.write_text(ONE)
    return path


@pytest.fixture
def server(tmp_path: Path, file: Path) -> Iterator[Server]:
    """A server that has served three texts, the newest with one endpoint of each kind."""
    with running(tmp_path, file) as server:
        for edit, hosts in ((TWO, ("a.example", "two.example")), (THREE, ("a.example",))):
            file.write_text(edit)
            wait_for(partial(server.all_serve, *hosts))
        wait_for(lambda: len(releases()) == 3)
        yield server


def keep(file: Path, folder: Path, *texts: tuple[str, str]) -> None:
    """Keep texts with the given ETags and versions 1001, 1002 and so on."""
    directory = StateDirectory.of_user(folder / "state")
    directory.make()
    store = ReleaseStore(directory, key_of(str(file)))
    for number, (content, etag) in enumerate(texts, start=1001):
        release = Release(etag, 1.0, 1, number)
        store.write(LastGood(content.encode(), release, 1, 1, None, 0.0, float(number), "watch"))


@pytest.fixture
def past(tmp_path: Path, file: Path) -> None:
    """The three texts of ``server`` as a service has left them, without the service."""
    keep(file, tmp_path, (ONE, "abcd0001"), (TWO, "abcd0002"), (THREE, "abcd0003"))
    file.write_text(THREE)


def called(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> Any:
    """Run a command with --json, and return its document."""
    capsys.readouterr()
    assert run([*arguments, "--json"]) == code
    return json.loads(capsys.readouterr().out)


def etag_of(file: Path) -> str:
    """Return the ETag of the list in a file by the rules of a server."""
    return render(file.read_bytes(), UrlRules(), EMPTY_BODY, time.time()).etag


def releases() -> list[Any]:
    """Read the releases from ``history``, newest first, without a trace in the captured output."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as out,
        contextlib.redirect_stderr(io.StringIO()),
    ):
        code = run(["history", "--json"])
    return [] if code else list(json.loads(out.getvalue())["releases"])


def test_the_past_is_listed_and_comes_back(
    server: Server, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The history is newest first, with each text's changes; the status has the same ETag.

    A rollback ends when every worker serves the text; the written text is a new release.
    """
    document = called(capsys, "history")
    newest, middle, oldest = document["releases"]
    assert document["source"] == os.environ["ENDPOINT_CONFIG_FILE"]
    assert newest["etag"] == server.status()["etag"]
    assert newest["release"] > middle["release"] > oldest["release"]
    assert newest["counts"] == {"api": 1, "socketio": 1}
    assert (newest["change"]["added"], newest["change"]["removed"]) == (0, 2)
    assert (middle["change"]["added"], middle["change"]["removed"]) == (2, 2)
    assert oldest["change"] is None
    assert oldest["trigger"] == "start"
    assert {newest["trigger"], middle["trigger"]} <= {"watch", "poll"}

    assert run(["history"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [
        str(row["release"]) for row in document["releases"]
    ]
    assert "+0 -2 endpoints" in lines[0]
    assert lines[0].endswith(newest["etag"])

    before = document["releases"]
    assert run(["rollback", str(before[2]["release"])]) == 0
    shown = capsys.readouterr()
    assert set(server.etags()) == {before[2]["etag"]}
    assert file.read_text() == ONE
    assert "+one.example" in shown.out
    assert "every worker serves it (2)" in shown.out
    assert shown.err == ""
    wait_for(lambda: len(releases()) == 4)
    assert releases()[0]["release"] > before[0]["release"]
    assert releases()[0]["etag"] == before[2]["etag"]

    document = called(capsys, "rollback", before[2]["etag"][:8])
    assert (document["result"], sorted(document["workers"])) == ("unchanged", server.workers)


@pytest.mark.usefixtures("past")
def test_two_releases_are_compared(capsys: pytest.CaptureFixture[str]) -> None:
    """A release is named by number or start of an ETag; the second defaults to the newest."""
    newest, middle, oldest = called(capsys, "history")["releases"]
    document = called(capsys, "history", "--diff", str(oldest["release"]), middle["etag"][:12])
    assert (document["from"], document["to"]) == (oldest["release"], middle["release"])
    assert [line for line in document["diff"] if line[0] in "+-"][2:] == [
        "-one.example",
        "+two.example",
    ]
    assert (
        run(["history", "--diff", f'"{middle["etag"]}"', os.environ["ENDPOINT_CONFIG_FILE"]]) == 0
    )
    shown = capsys.readouterr().out
    assert f"+++ {newest['release']}" in shown
    assert "-two.example" in shown


def test_a_bad_file_is_replaced_by_the_newest_good_text(
    server: Server, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A rollback replaces a bad file with the newest good text.

    The workers already serve that list, but the command ends only after they have read the file
    again. It needs no worker.
    """
    newest = called(capsys, "history")["releases"][0]
    file.write_bytes(b"\xff\xfe\0")
    wait_for(lambda: server.status()["state"] == "rejected")
    assert called(capsys, "rollback", str(newest["release"]))["result"] == "written"
    assert server.status()["state"] == "fresh"
    file.unlink()
    wait_for(lambda: server.status()["state"] == "rejected")
    assert called(capsys, "rollback", str(newest["release"]))["result"] == "written"
    assert file.read_text() == THREE
    assert file.stat().st_mode & 0o777 == 0o644

    # Without a running server the text is written, and the next start serves it.
    server.stop()
    assert run(["rollback", str(releases()[2]["release"])]) == 0
    assert "no running worker is seen from here" in capsys.readouterr().out
    assert file.read_text() == ONE


def test_on_a_terminal_it_asks(server: Server, file: Path) -> None:
    """On a terminal the command asks first, and a write during the question is not lost."""
    oldest = str(releases()[2]["release"])
    shown, code = on_a_terminal(["rollback", oldest], "n")
    assert (code, "nothing is written" in shown) == (1, True)
    assert file.read_text() == THREE
    edit = text("edited.example")
    shown, code = on_a_terminal(["rollback", oldest], "y", lambda: file.write_text(edit))
    assert (code, "has changed since it was compared" in shown) == (1, True)
    assert file.read_text() == edit
    shown, code = on_a_terminal(["rollback", oldest, "--yes"], "")
    assert (code, "[y/N]" in shown, "every worker serves it" in shown) == (0, False, True)
    assert file.read_text() == ONE


@pytest.mark.usefixtures("past")
def test_symbolic_links_and_modes_stay(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The target of a symbolic link is replaced, its mode stays, and no temporary file is left."""
    real = tmp_path / "real" / "list.txt"
    real.parent.mkdir()
    file.rename(real)
    real.chmod(0o640)
    file.symlink_to("real/list.txt")
    before = real.stat().st_ino
    assert called(capsys, "rollback", releases()[1]["etag"])["result"] == "written"
    assert file.is_symlink()
    assert real.read_text() == TWO
    assert (real.stat().st_mode & 0o777, real.stat().st_ino != before) == (0o640, True)
    assert [path.name for path in real.parent.iterdir()] == ["list.txt"]


@pytest.mark.usefixtures("past")
def test_hard_links_are_refused_unless_in_place(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Hard links are refused without --in-place.

    A new file would leave the old text under the other name.
    """
    other = tmp_path / "other.txt"
    os.link(file, other)
    oldest = str(releases()[2]["release"])
    assert run(["rollback", oldest]) == 1
    assert "2 hard links" in capsys.readouterr().err
    assert file.read_text() == THREE
    assert called(capsys, "rollback", oldest, "--in-place")["result"] == "written"
    assert other.read_text() == ONE
    assert other.samefile(file)


@needs_root
@pytest.mark.usefixtures("past")
def test_the_owner_stays(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If root writes, the file keeps its owner."""
    os.chown(file, 12345, 23456)
    assert called(capsys, "rollback", releases()[2]["etag"])["result"] == "written"
    assert (file.stat().st_uid, file.stat().st_gid) == (12345, 23456)


@pytest.fixture
def place(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Create a folder that every user can enter, with a list and the settings of a service."""
    with place_for_all() as place:
        (place / "endpoints.txt").write_text(ONE)
        (place / "environment").write_text(
            f"ENDPOINT_CONFIG_FILE={place}/endpoints.txt\nENDPOINT_STATE_DIR={place}/state\n"
        )
        yield place


def said(place: Path, *arguments: str) -> str:
    """Run a command as another user, check that it fails with one line, and return the line."""

    def action() -> None:
        with (place / "said").open("w") as file, contextlib.redirect_stderr(file):
            assert run(arguments) == 1

    (place / "said").touch()
    (place / "said").chmod(0o666)
    as_user(ALICE, action)
    line = (place / "said").read_text()
    assert line.count("\n") == 1
    return line


@needs_root
def test_another_user_is_told_what_to_run(place: Path) -> None:
    """Without access to settings, state folder or records, the error names the command to run."""
    options = ("--env-file", str(place / "environment"))
    state = place / "state"
    StateDirectory.of_user(state).make()
    line = said(place, "history", *options)
    assert f"the records in {state} belong to another user; {AS_ROOT}\n" in line
    state.chmod(0o700)
    line = said(place, "rollback", "1234", *options)
    assert f"may not read the state folder {state}; {AS_ROOT}\n" in line
    (place / "environment").chmod(0o600)
    line = said(place, "history", *options)
    assert f"environment cannot be read: Permission denied; {AS_ROOT}\n" in line


@needs_root
def test_root_finds_the_records_of_the_service(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Root finds the service's records.

    A service user who may not write the file gets the command to run.
    """
    file, state = place / "endpoints.txt", place / "state"
    options = ("--env-file", str(place / "environment"))
    user = ("--user", str(ALICE), "--group", str(ALICE))
    command = for_everybody(gunicorn_command(*user))
    with running(place, file, command=command, TMPDIR=str(place)) as server:
        file.write_text(TWO)
        wait_for(lambda: server.all_serve("a.example", "two.example"))
        wait_for(lambda: len(called(capsys, "history", *options)["releases"]) == 2)
        document = called(capsys, "history", *options)
        oldest = document["releases"][1]["etag"]
        assert document["folder"] == str(state / f"records-{ALICE}")
        line = said(place, "rollback", oldest, *options)
        assert f"cannot be written (Permission denied); {AS_ROOT}\n" in line
        assert file.read_text() == TWO
        assert called(capsys, "rollback", oldest, *options)["result"] == "written"
        assert server.all_serve("a.example", "one.example")


@pytest.mark.usefixtures("past")
def test_a_text_that_the_server_would_refuse_now(
    file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that the current settings refuse is refused before anything is written."""
    monkeypatch.setenv("ENDPOINT_MAX_BYTES", "20")
    assert run(["rollback", str(releases()[2]["release"])]) == 1
    assert (
        "larger than 20 bytes (ENDPOINT_MAX_BYTES): nothing is written" in capsys.readouterr().err
    )
    assert file.read_text() == THREE


def test_a_worker_that_refuses_it(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A worker's refusal is the command's error, as its settings may differ from the shell's."""
    file.write_text(ONE + "bad_host!\n")
    with running(tmp_path, file) as server:
        file.write_text(TWO)
        wait_for(lambda: server.all_serve("a.example", "two.example"))
        wait_for(lambda: len(releases()) == 2)
        oldest = str(releases()[1]["release"])
        server.stop()
        with running(tmp_path, file, ENDPOINT_STRICT="1"):
            for _ in range(2):  # the second time the text is there already, and refused already
                assert run(["rollback", oldest]) == 1
                error = capsys.readouterr().err
                assert re.search(
                    r"worker \d+ does not serve it: 1 error, and ENDPOINT_STRICT is set", error
                )


def test_windows_are_judged_for_the_time_of_each_text(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The history shows what a text changed at its time, also after its windows have ended."""
    window = "old.example until=1970-01-01T00:20:00Z"  # the texts are of the seconds 1001 to 1003
    keep(
        file,
        tmp_path,
        (text("a.example"), "abcd0001"),
        (text("a.example", window), "abcd0002"),
        (text("a.example"), "abcd0003"),
    )
    newest, middle, _ = called(capsys, "history")["releases"]
    assert [newest["change"][name] for name in ("added", "removed")] == [0, 2]
    assert [middle["change"][name] for name in ("added", "removed")] == [2, 0]
    document = called(capsys, "history", "--diff", "abcd0001", "abcd0002")
    assert [document["change"][name] for name in ("added", "removed")] == [2, 0]


def test_a_key_in_etcd(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key in etcd is written in a transaction; its history is the host's, not etcd's."""
    with running_cluster(tmp_path) as cluster:
        address = cluster.address("rollback")
        monkeypatch.setenv("ENDPOINT_CONFIG_FILE", address)
        cluster.put(ONE, "rollback")
        with running(tmp_path, address) as server:
            cluster.put(TWO, "rollback")
            wait_for(lambda: server.all_serve("a.example", "two.example"))
            wait_for(lambda: len(releases()) == 2)
            cluster.delete("rollback")
            oldest = called(capsys, "history", address)["releases"][1]
            document = called(capsys, "rollback", str(oldest["release"]), address)
            assert document["result"] == "written"
            assert cluster.get("rollback") == ONE.encode()
            assert server.all_serve("a.example", "one.example")
            shown, code = on_a_terminal(
                ["rollback", releases()[1]["etag"]], "y", lambda: cluster.put(THREE, "rollback")
            )
            assert (code, "has changed since it was compared" in shown) == (1, True)
            assert cluster.get("rollback") == THREE.encode()


@pytest.mark.parametrize("command", [["history"], ["rollback", "1234"]])
def test_no_state_folder(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The error names the state folder and the option for another."""
    assert run(command) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert f"the state folder {tmp_path / 'state'} is not there" in error
    StateDirectory.of_user(tmp_path / "state").make()
    assert run(command) == 1
    assert f"holds no good text of {tmp_path / 'endpoints.txt'}" in capsys.readouterr().err


@pytest.mark.usefixtures("past")
def test_releases_that_are_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Too short, unknown and ambiguous starts of an ETag are refused."""
    for release in ("123", "ffffffffffff", "1"):
        assert run(["rollback", release]) == 1
        assert f"no good text of release {release}" in capsys.readouterr().err
        newest = called(capsys, "history")["releases"][0]["etag"]
        assert run(["history", "--diff", newest, release]) == 1
        assert f"no good text of release {release}" in capsys.readouterr().err
    for arguments in (["history", "a", "b"], ["history", "--diff"], ["history", ""], ["rollback"]):
        assert run(arguments) == 2
        assert capsys.readouterr().err.count("\n") == 1
    state = StateDirectory.of_user(tmp_path / "state")
    assert any(name.startswith(key_of(Settings.from_environ().source)) for name in state.names())


def test_a_file_that_is_a_mount_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A bind-mounted file cannot be replaced, so --in-place writes into it."""
    file, host = tmp_path / "endpoints.txt", tmp_path / "host.txt"
    host.write_text(ONE)
    keep(file, tmp_path, (TWO, "e1"))
    with bound(host, file):
        assert run(["rollback", "1001"]) == 1
        assert "it is mounted by itself; use --in-place" in capsys.readouterr().err
        assert host.read_text() == ONE
        assert run(["rollback", "1001", "--in-place"]) == 0
        assert host.read_text() == TWO


def test_in_place_on_a_full_disk_the_old_text_stays(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A text that does not fit is not left half-written, and no worker serves half of it."""
    disk = tmp_path / "disk"
    large = text(*(f"host-{number:06}.example" for number in range(3000)))
    with small_disk(disk):
        file = disk / "endpoints.txt"
        file.write_text(ONE)
        keep(file, tmp_path, (large, "abcd0001"))
        with running(tmp_path, file) as server:
            fill(disk / "filler")
            assert run(["rollback", "1001", str(file), "--in-place"]) == 1
            assert "No space left on device" in capsys.readouterr().err
            assert file.read_text() == ONE
            with file.open("a") as end:
                end.write("c.example\n")
            wait_for(partial(server.all_serve, "a.example", "one.example", "c.example"))
            results = [reload["result"] for reload in server.status()["history"]]
            assert results.count("applied") == 2


def test_a_text_whose_windows_have_ended(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text comes back, but an ended window does not, and the command says so."""
    keep(file, tmp_path, (f"{THREE}old.example until=2020-01-02\n", "abcd0001"))
    assert run(["rollback", "1001"]) == 0
    shown = capsys.readouterr().out
    assert "+0 -2 endpoints since release 1001, as windows (from=, until=) have" in shown
    document = called(capsys, "rollback", "1001")
    assert (document["windows"]["removed"], document["etag"]) == (2, etag_of(file))
    keep(file, tmp_path, (TWO, "abcd0002"))
    assert called(capsys, "rollback", "abcd0002")["windows"] is None


def test_the_beginning_of_an_etag(
    file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start of an ETag must match one list; of several texts of it the newest is used."""
    keep(file, tmp_path, (ONE, "abcd00"), (TWO, "abcd11"), (f"# new\n{ONE}", "abcd00"))
    assert run(["rollback", "abcd"]) == 1
    assert "abcd may mean abcd00 or abcd11: name more" in capsys.readouterr().err
    assert called(capsys, "rollback", "abcd0")["release"] == 1003
    assert file.read_text() == f"# new\n{ONE}"
    assert called(capsys, "rollback", "1001")["result"] == "written"
    assert file.read_text() == ONE
    assert called(capsys, "rollback", "1001")["result"] == "unchanged"


def test_a_removal_is_confirmed(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the user's yes, the command confirms the removal as often as the guard requires.

    Confirming lines that the present text already holds do not count.
    """
    monkeypatch.setenv("ENDPOINT_MAX_REMOVED", "0.4")
    large = text("a.example", "b.example", "c.example")
    lines = "# confirm: removes 2 api\n# confirm: removes 2 socket\n"
    with running(tmp_path, file, ENDPOINT_MAX_REMOVED="0.4") as server:
        file.write_text(THREE + "# confirm: removes 1 api\n# confirm: removes 1 socket\n")
        wait_for(lambda: server.all_serve("a.example"))
        wait_for(lambda: len(releases()) == 2)
        small = str(releases()[0]["release"])
        file.write_text(f"{large}{lines}")
        wait_for(lambda: server.all_serve("a.example", "b.example", "c.example"))
        shown, code = on_a_terminal(["rollback", small], "y")
        assert (code, "every worker serves it (2)" in shown) == (0, True)
        assert "added: # confirm: removes 2 api" in shown
        assert server.all_serve("a.example")
        assert file.read_text().count("removes 2 socket") == 2
