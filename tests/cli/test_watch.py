"""``mop-config watch``: the command follows a served list through edits, restarts and failures."""

import contextlib
import itertools
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings

from mop_config import Endpoint, EndpointConfig, cli
from mop_config.cli.output import ListChanges
from mop_config.cli.watch import (
    FIRST_PAUSE,
    HASTE_PAUSE,
    MAX_RETRY_AFTER,
    WAIT,
    pause_asked_for,
)
from mop_config.model.endpoint import EndpointChange, dumps, loads

from ..client.handmade import Answer, Asked, handmade, source, wire
from ..client.test_qr import CONFIGS
from ..ports import closed_port
from ..servers import ROOT, running
from ..waiting import wait_for
from .forks import run, start_into

#: The time at the start of each line.
TIME = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z "


class Watching:
    """A running ``watch`` process, and its output so far."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        self._out, self._err = folder / "out", folder / "err"
        self.process = start_into(folder, "watch", *arguments, **environ)

    @property
    def out(self) -> str:
        return self._out.read_text()

    @property
    def err(self) -> str:
        return self._err.read_text()

    @property
    def lines(self) -> list[str]:
        """Return the printed lines without their times."""
        return [line.partition(" ")[2] for line in self.out.splitlines()]

    def wait_for(self, text: str) -> None:
        """Wait until the output contains a text."""
        wait_for(lambda: text in self.out + self.err or self.process.poll() is not None, seconds=30)
        assert text in self.out + self.err


@contextlib.contextmanager
def watching(folder: Path, *arguments: str, **environ: str) -> Iterator[Watching]:
    """Run ``watch`` until Ctrl-C, which ends it without output."""
    watch = Watching(folder, arguments, environ)
    try:
        yield watch
        assert watch.process.poll() is None, watch.err
        watch.process.send_signal(signal.SIGINT)
        assert watch.process.wait(20) == 130
        assert "Traceback" not in watch.err
    finally:
        watch.process.kill()
        watch.process.wait(10)


def read_until(terminal: int, text: str) -> str:
    """Read a terminal's output until it contains a text."""
    shown, deadline = "", time.monotonic() + 30
    while text not in shown:
        left = deadline - time.monotonic()
        assert left > 0, shown
        assert select.select([terminal], [], [], left)[0], shown
        shown += os.read(terminal, 4096).decode(errors="replace")
    return shown


class TestAServer:
    """A real server with long polls."""

    def test_edits_restarts_and_commands(self, tmp_path: Path) -> None:
        """Each edit is printed at once and passed to the command; the loss of the server is too."""
        file, seen = tmp_path / "endpoints.txt", tmp_path / "seen"
        file.write_text("ApiList:\na.example\nb.example\n")
        with contextlib.ExitStack() as servers:
            server = servers.enter_context(running(tmp_path, file, workers=1))
            url = f"http://127.0.0.1:{server.port}"
            with watching(tmp_path, url, "--exec", f"cat >> {seen}; exit 3") as watch:
                watch.wait_for("2 API and 0 Socket.io endpoints")
                file.write_text("ApiList:\nb.example priority=7\n1.2.3.4 server_name=d.example\n")
                watch.wait_for("the command failed with exit code 3")
                assert watch.lines[1:] == [
                    "- api https://a.example/api/v1 priority=0",
                    "+ api https://1.2.3.4/api/v1 priority=1 server_name=d.example",
                    "~ api https://b.example/api/v1 priority=7 (was priority=1)",
                ]
                assert seen.read_bytes() == server.get().body + b"\n"
                file.write_text("no list")
                wait_for(lambda: server.status()["state"] == "rejected")
                server.stop()
                watch.wait_for(" lost: http")
                file.write_text("ApiList:\nb.example priority=7\nc.example\n")
                servers.enter_context(running(tmp_path, file, workers=1, PORT=str(server.port)))
                watch.wait_for(f" back: {url}/")
                watch.wait_for("+ api https://c.example/api/v1 priority=1")
                wait_for(lambda: len(seen.read_text().splitlines()) == 2)
                assert watch.err.count("lost") == 1
        for line in watch.out.splitlines():
            assert re.match(TIME, line)


class TestEvents:
    """The events that ``watch`` prints for simulated servers."""

    def test_json(self, tmp_path: Path) -> None:
        """--json prints one document per event, without the output of the command."""
        with (
            source(wire(["https://a.example"], ["https://s.example"]), holds=True) as (lists, at),
            watching(tmp_path, at.url, "--json", "--exec", "cat") as watch,
        ):
            watch.wait_for("start")
            lists.put(wire(["https://b.example", "https://a.example"], ["https://s.example"]))
            watch.wait_for("changed")
            lists.put(b"<html>")
            watch.wait_for("lost")
        start, changed, lost = (json.loads(line) for line in watch.out.splitlines())
        assert start.pop("at").endswith("Z")
        assert start == {"event": "start", "counts": {"api": 1, "socketio": 1}}
        del changed["at"]
        a_before = {"kind": "api", "url": "https://a.example", "priority": 0}
        assert changed == {
            "event": "changed",
            "counts": {"api": 2, "socketio": 1},
            "added": [{"kind": "api", "url": "https://b.example", "priority": 0}],
            "removed": [],
            "changed": [{**a_before, "priority": 1, "before": a_before}],
        }
        assert "no list: document: not JSON" in lost["reason"]
        assert loads(watch.err) == loads(
            wire(["https://b.example", "https://a.example"], ["https://s.example"])
        )

    def test_a_server_without_long_polls(self, tmp_path: Path) -> None:
        """A server without long polls is polled at the interval with ``If-None-Match``."""
        with source(wire(["https://a.example"])) as (lists, server):
            with watching(tmp_path, server.url, "--interval", "0.1") as watch:
                wait_for(lambda: len(server.asked) >= 4, seconds=30)
                lists.put(wire(["https://b.example"]))
                watch.wait_for("+ api https://b.example")
            assert server.asked[0].header("if-none-match") is None
            assert server.asked[1].header("if-none-match") is not None
            assert {path.partition("?")[2] for path in server.paths} == {f"wait={WAIT}"}

    def test_a_list_that_is_none_is_not_applied(self, tmp_path: Path) -> None:
        """An invalid list is reported once and the command does not run; a good list resumes."""
        good = wire(["https://a.example"])
        with source(good) as (lists, server):
            arguments = (server.url, "--interval", "0.05", "--exec", "echo ran")
            with watching(tmp_path, *arguments) as watch:
                watch.wait_for("1 API")
                lists.put(b'{"api_endpoints": [{"url": "https://a b"}]}')
                watch.wait_for("api_endpoints[0].url")
                lists.put(wire())
                count = len(server.asked)
                wait_for(lambda: len(server.asked) > count + 1)
                lists.put(good)
                watch.wait_for(" back: ")
                assert watch.err.count("lost") == 1
                assert watch.lines == [f"{server.url}{PATH}: 1 API and 0 Socket.io endpoints"]

    def test_a_server_in_trouble(self, tmp_path: Path) -> None:
        """A lost server is reported once with its reason, and Retry-After is honoured."""
        body, trouble = wire(["https://a.example"]), threading.Event()
        times: list[float] = []

        def answer(asked: Asked) -> Answer:
            if not trouble.is_set() or len(times) == 2:
                return 200, {"ETag": '"1"'}, body
            times.append(time.monotonic())
            detail = json.dumps({"detail": "closed for\x1b[31mrepairs"}).encode()
            return 503, {"Retry-After": "2"}, detail

        with (
            handmade(answer) as server,
            watching(tmp_path, server.url, "--interval", "0.05") as watch,
        ):
            watch.wait_for("1 API")
            trouble.set()
            watch.wait_for(" back: ")
        assert times[1] - times[0] >= 2
        assert watch.err.count("lost") == 1
        assert "answers 503 Service Unavailable: closed for [31mrepairs" in watch.err

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("kill -9 $$", "failed with exit code -9"),
            ("exit 7", "failed with exit code 7"),
        ],
    )
    def test_a_command_that_fails(self, tmp_path: Path, command: str, reason: str) -> None:
        """A failed command is reported, and watching continues."""
        with (
            source(wire(["https://a.example"]), holds=True) as (lists, server),
            watching(tmp_path, server.url, "--exec", command, SHELL="/bin/sh") as watch,
        ):
            watch.wait_for("1 API")
            lists.put(wire(["https://b.example"]))
            watch.wait_for(reason)
            lists.put(wire(["https://c.example"]))
            watch.wait_for("+ api https://c.example")

    def test_a_sigterm_waits_for_the_command(self, tmp_path: Path) -> None:
        """SIGTERM ends the command, and waits for what it runs, so that no two of these overlap."""
        go, ran = tmp_path / "go", tmp_path / "ran"
        script = f"echo a >> {ran}; while [ ! -e {go} ]; do sleep 0.05; done; echo b >> {ran}"
        with source(wire(["https://a.example"]), holds=True) as (lists, server):
            watch = Watching(tmp_path, (server.url, "--exec", script), {"SHELL": "/bin/sh"})
            try:
                watch.wait_for("1 API")
                lists.put(wire(["https://b.example"]))
                wait_for(ran.exists, seconds=30)
                watch.process.terminate()
                with pytest.raises(subprocess.TimeoutExpired):
                    watch.process.wait(0.5)
                go.touch()
                assert watch.process.wait(20) == 0
                assert ran.read_text() == "a\nb\n"
                assert watch.err == ""
            finally:
                watch.process.kill()
                watch.process.wait(10)

    def test_a_sigterm_ends_a_long_poll(self, tmp_path: Path) -> None:
        """SIGTERM ends a command that waits for a change, without output."""
        with source(wire(["https://a.example"]), holds=True) as (_, server):
            watch = Watching(tmp_path, (server.url,), {})
            try:
                watch.wait_for("1 API")
                wait_for(lambda: len(server.asked) == 2, seconds=30)
                watch.process.terminate()
                assert watch.process.wait(20) == 0
                assert watch.err == ""
            finally:
                watch.process.kill()
                watch.process.wait(10)

    def test_the_command_runs_in_the_user_s_shell(self, tmp_path: Path) -> None:
        """The command runs in the user's shell as one text; a missing program is reported."""
        shell = tmp_path / "shell"
        shell.write_text(f'#!/bin/sh\necho "$#:$1:$2" > {tmp_path}/called\n')
        shell.chmod(0o755)
        with source(wire(["https://a.example"]), holds=True) as (lists, server):
            arguments = (server.url, "--exec", "a | b 'c d'")
            with watching(tmp_path, *arguments, SHELL=str(shell)) as watch:
                watch.wait_for("1 API")
                lists.put(wire(["https://b.example"]))
                called = tmp_path / "called"
                wait_for(lambda: called.exists() and called.read_text() == "2:-c:a | b 'c d'\n")
                shell.unlink()
                lists.put(wire(["https://c.example"]))
                watch.wait_for("the command cannot be run: ")

    def test_a_server_that_has_nothing_new_for_who_has_nothing(self) -> None:
        """A server that answers 304 to the first request leaves the command without a list."""
        with handmade(lambda asked: (304, {"ETag": '"x"'}, b"")) as server:
            result = run("watch", server.url)
        assert result.returncode == 1
        assert "304" in result.stderr
        assert result.stderr.count("\n") == 1
        assert "unexpected" not in result.stderr

    def test_the_token_is_shown(self, tmp_path: Path) -> None:
        """The token is read from its file before each request; the server's answer decides."""
        body, wanted = wire(["https://a.example"]), ["first-token-0123"]

        def answer(asked: Asked) -> Answer:
            if asked.header("authorization") != f"Bearer {wanted[0]}":
                return 401, {}, b""
            return 200, {"ETag": '"1"'}, body

        token = tmp_path / "token"
        token.write_text("first-token-0123\n")
        with handmade(answer) as server:
            arguments = (server.url, "--interval", "0.05", "--token-file", str(token))
            with watching(tmp_path, *arguments) as watch:
                watch.wait_for("1 API")
                wanted[0] = "other-token-0123"
                watch.wait_for("401 Unauthorized")
                token.write_text("other-token-0123\n")
                watch.wait_for(" back: ")
        assert "token-0123" not in watch.out + watch.err

    def test_a_terminal_gets_colours(self) -> None:
        """A terminal gets colours."""
        with source(wire(["https://a.example"]), holds=True) as (lists, server):
            master, slave = pty.openpty()
            process = subprocess.Popen(
                [sys.executable, "-m", "mop_config", "watch", server.url],
                cwd=ROOT,
                env={**os.environ, "TERM": "xterm"},
                stdout=slave,
                stderr=slave,
            )
            try:
                os.close(slave)
                shown = read_until(master, "1 API")
                lists.put(wire(["https://b.example"]))
                shown += read_until(master, "+ api https://b.example")
            finally:
                process.send_signal(signal.SIGINT)
                assert process.wait(20) == 130
                os.close(master)
        assert re.match(f"{TIME}http", shown)
        assert "\x1b[31m- api https://a.example" in shown
        assert "\x1b[32m+ api https://b.example" in shown

    def test_a_reader_that_goes_away(self, tmp_path: Path) -> None:
        """A reader that closes the pipe ends the command silently at the next line."""
        with source(wire(["https://a.example"])) as (lists, server):
            line = f"{sys.executable} -m mop_config watch {server.url} --interval 0.05 | head -n 1"
            with subprocess.Popen(
                ["bash", "-c", f"set -o pipefail; {line}"],
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            ) as shell:
                assert shell.stdout is not None
                try:
                    assert "1 API" in shell.stdout.readline()

                    def ended() -> bool:
                        # `head` may still be running when the first of these events is printed.
                        lists.put(wire([f"https://b{time.monotonic_ns()}.example"]))
                        return shell.poll() is not None

                    wait_for(ended, seconds=30, every=0.1)
                    _, err = shell.communicate(timeout=30)
                finally:
                    shell.kill()
        assert (shell.returncode, err) == (1, "")


PATH = "/api/v1/config/endpoints"


class TestCalls:
    """Servers and calls that end the command at once."""

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ((404, {}, b""), "answers 404 Not Found"),
            ((200, {}, b"<html>"), "gives no list: document: not JSON"),
        ],
    )
    def test_no_list_to_begin_with(self, answer: Answer, reason: str) -> None:
        """A first answer without a list exits with 1 and prints one line."""
        with handmade(lambda asked: answer) as server:
            result = run("watch", server.url)
        assert (result.returncode, result.stdout) == (1, "")
        assert len(result.stderr.splitlines()) == 1
        assert reason in result.stderr

    def test_nobody_there(self) -> None:
        """A refused connection prints one line and no traceback."""
        result = run("watch", f"http://127.0.0.1:{closed_port()}")
        assert (result.returncode, len(result.stderr.splitlines())) == (1, 1)

    @pytest.mark.parametrize(
        "arguments",
        [
            [],
            ["a.txt"],
            [""],
            ["ftp://x"],
            ["http://x", "--exec", ""],
            ["http://x", "--interval", "0"],
            ["http://x", "--interval", "nan"],
            ["http://joe:hunter@x"],
        ],
    )
    def test_a_wrong_call(self, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
        """A wrong call exits with 2 and prints one line that names the help."""
        assert cli.run(["watch", *arguments]) == 2
        out, err = capsys.readouterr()
        assert (out, len(err.splitlines())) == ("", 1)
        assert "--help" in err
        assert "hunter" not in err


def followed(
    folder: Path, answers: list[Answer], *arguments: str
) -> tuple[list[float], list[dict[str, Any]]]:
    """Follow a server that gives the answers in turn, and repeats the last one.

    Returns:
        The pause in seconds after each answer, and the events.
    """
    times: list[float] = []

    def answer(asked: Asked) -> Answer:
        times.append(time.monotonic())
        return answers[min(len(times), len(answers)) - 1]

    with handmade(answer) as server, watching(folder, server.url, "--json", *arguments) as watch:
        wait_for(lambda: len(times) > len(answers), seconds=30)
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    return pauses[: len(answers)], [json.loads(line) for line in watch.out.splitlines()]


def names(events: list[dict[str, Any]]) -> list[str]:
    return [event["event"] for event in events]


LONG_POLL = {"ETag": '"1"', "Preference-Applied": "wait"}
LIST, OTHER = wire(["https://a.example"]), wire(["https://b.example"])


class TestPauses:
    """The time of the next request after each answer."""

    def test_long_polls(self, tmp_path: Path) -> None:
        """A list is followed by the next request at once, an early end without a list is not.

        A server that is stopping ends its long polls early.
        """
        other_tag = {**LONG_POLL, "ETag": '"2"'}
        answers = [(200, LONG_POLL, LIST), (200, LONG_POLL, OTHER)]
        early = [(304, LONG_POLL, b""), (200, other_tag, OTHER)]
        pauses, events = followed(tmp_path, [*answers, *early])
        assert max(pauses[:2]) < HASTE_PAUSE
        assert min(pauses[2:]) >= HASTE_PAUSE
        assert names(events) == ["start", "changed"]

    @pytest.mark.parametrize(
        "headers",
        [
            {"ETag": '"1"'},
            {"ETag": '"1"', "Preference-Applied": "respond-async"},
            {"Preference-Applied": "wait"},
        ],
    )
    def test_no_long_polls(self, tmp_path: Path, headers: dict[str, str]) -> None:
        """The interval counts without long polls, and without an ETag, which ends each at once."""
        (pause,), _ = followed(tmp_path, [(200, headers, LIST)], "--interval", "1.5")
        assert pause >= 1.5

    @pytest.mark.parametrize("preference", ["wait", ""])
    def test_a_server_without_room(self, tmp_path: Path, preference: str) -> None:
        """A server whose long-poll places are taken gives the time of the next request."""
        told = {"ETag": '"1"', "Preference-Applied": preference, "Retry-After": "2"}
        answers = [(200, LONG_POLL, LIST), (304, told, b"")]
        pauses, _ = followed(tmp_path, answers, "--interval", "0.05")
        assert pauses[1] >= 2

    def test_a_lost_server(self, tmp_path: Path) -> None:
        """The pause doubles while the server is lost; a shorter Retry-After changes nothing."""
        good = (200, {"ETag": '"1"'}, LIST)
        bad = (503, {"Retry-After": "1"}, b"")
        pauses, events = followed(tmp_path, [good, bad, bad, good, bad], "--interval", "0.05")
        assert pauses[1] >= FIRST_PAUSE
        assert pauses[2] >= 2 * FIRST_PAUSE
        assert FIRST_PAUSE <= pauses[4] < 4 * FIRST_PAUSE
        assert names(events) == ["start", "lost", "back", "lost"]
        assert "answers 503" in events[1]["reason"]

    def test_a_server_that_is_back_with_the_same_list(self, tmp_path: Path) -> None:
        """After a failure the list is asked for without a wait, and then by a long poll at once."""
        waits: list[str] = []

        def answer(asked: Asked) -> Answer:
            waits.append(asked.path.partition("?wait=")[2])
            if len(waits) == 1:
                return 200, LONG_POLL, LIST
            if len(waits) == 2:
                return 503, {}, b""
            return (304, LONG_POLL, b"") if waits[-1] != "0" else (304, {"ETag": '"1"'}, b"")

        with handmade(answer) as server, watching(tmp_path, server.url, "--json") as watch:
            wait_for(lambda: len(waits) > 4, seconds=20)
        assert waits[:5] == ["25", "25", "0", "25", "25"]
        assert names([json.loads(line) for line in watch.out.splitlines()])[1:] == ["lost", "back"]

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            (None, 0),
            ("", 0),
            ("0", 0),
            ("12", 12),
            (" 12 ", 12),
            ("-1", 0),
            ("1.5", 0),
            ("soon", 0),
            ("٣", 0),
            ("9" * 400, MAX_RETRY_AFTER),
            (formatdate(1060, usegmt=True), 60),
            (formatdate(940, usegmt=True), 0),
            ("Fri, 31 Dec 9999 23:59:59 GMT", MAX_RETRY_AFTER),
            ("Fri, 31 Dec 99999 23:59:59 GMT", 0),
        ],
    )
    def test_what_retry_after_may_be(self, text: str | None, seconds: float) -> None:
        """Retry-After is seconds or a date; any other text counts as no header."""
        headers = {} if text is None else {"retry-after": text}
        assert pause_asked_for(headers, 1000.0) == seconds


class TestLists:
    """The meaning of each list."""

    def test_what_is_refused_is_told_once(self, tmp_path: Path) -> None:
        """A refused list is reported once; the next good list is compared with the last good."""
        answers = [(200, {"ETag": '"1"'}, body) for body in (LIST, b"x", wire(), OTHER, wire())]
        _, events = followed(tmp_path, [*answers, answers[3]], "--interval", "0.05")
        assert names(events) == ["start", "lost", "back", "changed", "lost", "back"]
        assert "gives no list" in events[1]["reason"]
        assert "gives an empty list" in events[4]["reason"]

    def test_an_empty_list_to_begin_with(self, tmp_path: Path) -> None:
        """An empty first list is a list: the server has no endpoints yet."""
        answers = [(200, {"ETag": '"1"'}, body) for body in (wire(), wire(), LIST)]
        _, events = followed(tmp_path, answers, "--interval", "0.05")
        assert names(events) == ["start", "changed"]
        assert events[0]["counts"] == {"api": 0, "socketio": 0}

    def test_the_order_alone(self, tmp_path: Path) -> None:
        """A different order is a change without added, removed or changed endpoints."""
        one, two = Endpoint("https://a.example"), Endpoint("https://b.example")
        lists = (EndpointConfig((one, two)), EndpointConfig((two, one)))
        answers = [(200, {"ETag": '"1"'}, dumps(config)) for config in lists]
        _, events = followed(tmp_path, answers, "--interval", "0.05")
        assert names(events) == ["start", "changed"]
        assert [events[1][name] for name in ("added", "removed", "changed")] == [[], [], []]


class TestChange:
    """The difference of two lists."""

    @settings(max_examples=50)
    @given(CONFIGS, CONFIGS)
    def test_the_change_leads_from_one_to_the_other(
        self, before: EndpointConfig, after: EndpointConfig
    ) -> None:
        """Applying the change to the old list gives the new list; the reverse change leads back."""
        change, back = ListChanges(before, after), ListChanges(after, before)
        added, removed = of_sign(change, "+"), of_sign(change, "-")
        assert added == of_sign(back, "-")
        changed = [each for each in change if each.sign == "~"]
        now = members(before) - removed - {(each.kind, each.before) for each in changed}
        assert now | added | of_sign(change, "~") == members(after)
        for _, _, endpoint, was in changed:
            assert was is not None
            assert was.url == endpoint.url
            assert was != endpoint


def of_sign(changes: list[EndpointChange], sign: str) -> set[tuple[str, Endpoint | None]]:
    return {(each.kind, each.endpoint) for each in changes if each.sign == sign}


def members(config: EndpointConfig) -> set[tuple[str, Endpoint | None]]:
    return {
        *(("api", endpoint) for endpoint in config.api_endpoints),
        *(("socketio", endpoint) for endpoint in config.socketio_endpoints),
    }


def test_bash_completes_commands_and_options() -> None:
    """Bash completes commands and options at a real prompt, as `docs/watch.md` sets it up."""
    master, slave = pty.openpty()
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with subprocess.Popen(
        ["bash", "--norc", "--noprofile", "-i"],
        env={**os.environ, "PATH": path, "PS1": "$ ", "TERM": "dumb", "HISTFILE": "/dev/null"},
        stdin=slave,
        stdout=slave,
        stderr=slave,
        start_new_session=True,
    ) as bash:
        os.close(slave)
        read_until(master, "$ ")
        for typed, shown in (
            ('eval "$(_MOP_CONFIG_COMPLETE=bash_source mop-config)"; echo do""ne\n', "done"),
            ("mop-config wa\t", "mop-config watch "),
            ("http://x --ex\t", "--exec "),
            ("\x15mop-config qr --format si\t", "--format single "),
        ):
            os.write(master, typed.encode())
            read_until(master, shown)
        os.write(master, b"\x15exit\n")
        bash.wait(20)
    os.close(master)
