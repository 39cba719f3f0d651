"""``mop-config push`` against a real etcd: its writes, its conflicts and its messages."""

import itertools
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from mop_config.cli import run
from mop_config.cli.texts import EtcdTarget
from mop_config.errors import MopConfigError
from mop_config.model.address import EtcdAddress
from mop_config.server.settings import Settings

from ..etcds import Cluster, running_cluster
from ..ports import free_ports
from ..servers import ROOT
from ..test_readme import blocks

ONE = "DomainList:\none.example\nother.example\n"
TWO = "DomainList:\ntwo.example\nother.example\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("ENDPOINT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "endpoints.txt"
    path.write_text(ONE)
    return path


@pytest.fixture
def key(request: pytest.FixtureRequest, cluster: Cluster) -> str:
    """Return a key that only this test uses."""
    return cluster.address(request.node.name)


def name(key: str) -> str:
    return EtcdAddress.parse(key).key


def pushed(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, Any]:
    """Run the command with --json; return the exit code and the document."""
    code = run(["push", *arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_a_file_is_written(
    cluster: Cluster, key: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A push prints the difference and the revision; a second push changes nothing."""
    assert run(["push", str(file), key]) == 0
    shown = capsys.readouterr()
    assert cluster.get(name(key)) == ONE.encode()
    assert "+one.example" in shown.out
    assert "+4 -0 endpoints" in shown.out
    assert f"{key}: written, revision " in shown.out
    assert shown.err == ""

    file.write_text(TWO)
    code, document = pushed(capsys, str(file), key)
    assert (code, document["result"]) == (0, "written")
    assert document["revision"] > document["previous_revision"]
    assert [line for line in document["diff"] if line[0] in "+-"][2:] == [
        "-one.example",
        "+two.example",
    ]
    assert cluster.get(name(key)) == TWO.encode()

    code, document = pushed(capsys, str(file), key)
    assert (code, document["result"]) == (0, "unchanged")


def test_the_key_of_the_environment(
    cluster: Cluster,
    key: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without an argument, push writes to and check reads from the servers' configured key."""
    monkeypatch.setenv("ENDPOINT_CONFIG_FILE", key)
    assert run(["push", str(file)]) == 0
    assert cluster.get(name(key)) == ONE.encode()
    assert run(["check"]) == 0
    assert run(["show", key]) == 0
    assert "https://one.example" in capsys.readouterr().out


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("DomainList:\n1.2.3.999\nother.example\n", "not an IPv4 address"),
        ("DomainList:\n", "no usable endpoint"),
        ("DomainList:\nx\0.example\n", "NUL"),
    ],
)
def test_a_file_with_errors_is_refused(
    cluster: Cluster,
    key: str,
    file: Path,
    text: str,
    what: str,
    force: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A file with errors is refused, also with --force, which only overrides conflicts."""
    cluster.put(ONE, "refused")
    file.write_text(text)
    assert run(["push", str(file), cluster.address("refused"), *force]) == 1
    shown = capsys.readouterr()
    assert what in shown.err
    assert "Traceback" not in shown.err
    assert shown.out == ""
    assert cluster.get("refused") == ONE.encode()


def test_a_removal_needs_its_line(
    cluster: Cluster,
    key: str,
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A text that the servers would refuse for what it removes is not written."""
    monkeypatch.setenv("ENDPOINT_MAX_REMOVED", "0.4")
    assert run(["push", str(file), key]) == 0
    capsys.readouterr()
    file.write_text("DomainList:\none.example\n")
    assert run(["push", str(file), key]) == 1
    error = capsys.readouterr().err
    lines = ["# confirm: removes 1 api", "# confirm: removes 1 socket"]
    assert error.rstrip().endswith(f"has used it: {' and '.join(lines)}")
    assert cluster.get(name(key)) == ONE.encode()
    with file.open("a") as text:
        text.writelines(f"{line}\n" for line in lines)
    assert run(["push", str(file), key]) == 0


def test_warnings_are_shown(key: str, file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Warnings are shown, and the file is pushed."""
    file.write_text("DomainList:\none.example\n")
    assert run(["push", str(file), key]) == 0
    assert "warning" in capsys.readouterr().err


def test_passwords_are_not_shown(
    cluster: Cluster, key: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Passwords and terminal control characters of the stored text are not printed."""
    cluster.put(ONE + "https://user:secret@three.example\n\x1b[31mred\n", name(key))
    assert run(["push", str(file), key]) == 0
    shown = capsys.readouterr()
    assert "three.example" in shown.out
    assert "secret" not in shown.out + shown.err
    assert "\x1b" not in shown.out


def test_somebody_elses_change_is_not_overwritten(
    cluster: Cluster, key: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a terminal the command asks before it overwrites another change.

    The transaction detects a change between the question and the answer.
    """
    cluster.put(TWO, name(key))
    text, code = on_a_terminal(["push", str(file), key], "y", lambda: cluster.put("x", name(key)))
    assert code == 1
    assert "has changed since it was compared" in text
    assert cluster.get(name(key)) == b"x"

    text, code = on_a_terminal(["push", str(file), key], "n")
    assert (code, "nothing is written" in text) == (1, True)
    assert cluster.get(name(key)) == b"x"

    cluster.put(TWO, name(key))
    text, code = on_a_terminal(
        ["push", str(file), key, "--force"], "y", lambda: cluster.put("x", name(key))
    )
    assert (code, "written, revision" in text) == (0, True)
    assert cluster.get(name(key)) == ONE.encode()

    file.write_text(TWO)
    text, code = on_a_terminal(["push", str(file), key, "--yes"], "")
    assert (code, "[y/N]" in text) == (0, False)
    assert cluster.get(name(key)) == TWO.encode()


def test_a_password_in_the_key_is_not_echoed(
    file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A password in the key's URL is not echoed, and the message names the right setting."""
    assert run(["push", str(file), "etcd://user:hunter2@127.0.0.1/k"]) == 2
    shown = capsys.readouterr()
    assert "hunter2" not in shown.out + shown.err
    assert "ENDPOINT_ETCD_PASSWORD" in shown.err


def test_the_text_that_is_there_may_be_larger_than_what_a_server_takes(
    cluster: Cluster, key: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stored text larger than a server's limit can be replaced."""
    cluster.put("DomainList:\n" + "".join(f"h{n}.example\n" for n in range(300)), name(key))
    monkeypatch.setenv("ENDPOINT_MAX_BYTES", "2000")
    assert run(["push", str(file), key]) == 0
    assert cluster.get(name(key)) == ONE.encode()


def on_a_terminal(arguments: list[str], answer: str, meanwhile: Any = None) -> tuple[str, int]:
    """Run the command on a pseudo-terminal and answer its question."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "mop_config", *arguments]
    process = subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    text = ""
    try:
        while True:
            try:
                text += os.read(ours, 65536).decode("utf-8", "replace")
            except OSError:  # EOF: the child has ended
                return text, process.wait(10)
            if answer and text.endswith("[y/N]: "):
                if meanwhile:
                    meanwhile()
                os.write(ours, f"{answer}\n".encode())
    finally:
        os.close(ours)
        process.kill()
        process.wait(10)


def test_a_write_compares_the_revision(cluster: Cluster, key: str) -> None:
    """A key that was written since it was read is not written, and a second read is the remedy."""
    target = EtcdTarget(replace(Settings(), source=key))
    assert target.read() == b""
    target.write(ONE.encode())
    first = target.revision
    assert first
    target.revision = None
    with pytest.raises(MopConfigError, match="has changed since it was compared"):
        target.write(TWO.encode())
    assert target.read() == ONE.encode()
    assert target.revision == first
    target.write(TWO.encode())
    assert (target.revision or 0) > first


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        ([], "Missing argument 'FILE'"),
        (["etcd://h/k"], "name the FILE"),
        (["FILE"], "name the ETCD-KEY: ENDPOINT_CONFIG_FILE names none"),
        (["FILE", "etcd://h"], "is not etcd://"),
        (["FILE", "http://h/k"], "is not etcd://"),
        (["FILE", "etcd://h:99999/k"], "port"),
        (["FILE", "etcd://h/k", "more"], "unexpected extra argument (more)"),
        (["", "etcd://h/k"], "argument 2 (after push) must not be empty"),
    ],
)
def test_wrong_calls(
    arguments: list[str], what: str, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A wrong call exits with 2 and prints one line."""
    assert run(["push", *(str(file) if a == "FILE" else a for a in arguments)]) == 2
    error = capsys.readouterr().err
    assert what in error
    assert error.count("\n") == 1


def test_an_etcd_that_is_not_there(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """If no member answers, the error names each member with its reason."""
    first, second = free_ports(2)
    assert run(["push", str(file), f"etcd://127.0.0.1:{first},127.0.0.1:{second}/k"]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert error.count("Connection refused") == 2
    assert str(first) in error


def test_a_text_that_etcd_does_not_take(
    key: str, file: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text above etcd's own limit fails, and the message is etcd's."""
    monkeypatch.setenv("ENDPOINT_MAX_BYTES", "4000000")
    file.write_text(f"{ONE}# {'x' * 3_000_000}\n")
    assert run(["push", str(file), key]) == 1
    assert "larger than max" in capsys.readouterr().err


def test_two_at_once(cluster: Cluster, key: str, tmp_path: Path) -> None:
    """Each of two concurrent pushes compares with its own read, so neither is lost unseen."""
    cluster.put(ONE, name(key))
    pushes = []
    for i in range(2):
        path = tmp_path / f"{i}.txt"
        path.write_text(f"DomainList:\nh{i}.example\nother.example\n")
        command = [sys.executable, "-m", "mop_config", "push", str(path), key, "--json"]
        pushes.append(subprocess.Popen(command, cwd=ROOT, stdout=-1, stderr=-1, text=True))
    written = set()
    for process in pushes:
        out, _ = process.communicate(timeout=60)
        assert (process.returncode == 0) == bool(out)
        if out:
            document = json.loads(out)
            assert document["result"] == "written"
            written.add((document["previous_revision"], document["revision"]))
    # Each push has replaced the previous text.
    chain = sorted(written)
    assert chain
    assert all(earlier[1] == later[0] for earlier, later in itertools.pairwise(chain))
    assert cluster.get(name(key)) != ONE.encode()


def test_the_commands_of_the_docs(
    cluster: Cluster, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commands of the docs run in order in one shell, and etcd then holds their text."""
    (block,) = [b for b in blocks((ROOT / "docs" / "etcd.md").read_text(), "sh") if "push" in b]
    assert block.splitlines()[-1] == "mop-config serve"
    cluster.put(ONE, name(key))
    shown = "etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379/mop/endpoints"
    script = block.replace(shown, f"'{key}'")
    assert key in script
    steps = "set -e\n" + script.replace("mop-config serve", "mop-config show")
    result = subprocess.run(
        ["bash", "-c", steps],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "log.ym1.com" in result.stdout
    assert cluster.get(name(key)) == (ROOT / "config" / "endpoints.txt").read_bytes()
