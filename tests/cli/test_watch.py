"""``mop-config watch``: the command follows a served list through edits, restarts and failures."""

import contextlib
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

import pytest
from hypothesis import given, settings

from mop_config import Endpoint, EndpointConfig, cli
from mop_config.cli.output import ListChanges
from mop_config.cli.server_api import ServerReply
from mop_config.cli.watch import (
    HASTE_PAUSE,
    LAST_PAUSE,
    MAX_RETRY_AFTER,
    WAIT,
    ListEvent,
    ListFollower,
    Step,
    pause_asked_for,
)
from mop_config.model.endpoint import EndpointChange, dumps, loads

from ..client.handmade import Answer, Asked, handmade, source, wire
from ..client.test_qr import CONFIGS
from ..ports import closed_port
from ..servers import ROOT, running
from ..waiting import wait_for
from .forks import run

LONG_POLL = {"etag": '"1"', "preference-applied": "wait"}


class Watching:
    """A running ``watch`` process, and its output so far."""

    def __init__(self, folder: Path, arguments: tuple[str, ...], environ: dict[str, str]) -> None:
        self._out, self._err = folder / "out", folder / "err"
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("ENDPOINT_", "MOP_"))}
        with self._out.open("wb") as out, self._err.open("wb") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "mop_config", "watch", *arguments],
                cwd=ROOT,
                env={**clean, **environ},
                stdout=out,
                stderr=err,
            )

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
                watch.wait_for(" back after ")
                watch.wait_for("+ api https://c.example/api/v1 priority=1")
                wait_for(lambda: len(seen.read_text().splitlines()) == 2)
                assert watch.err.count("lost") == 1
        for line in watch.out.splitlines():
            assert re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ ", line)


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
            watch.wait_for("refused")
        start, changed, refused = (json.loads(line) for line in watch.out.splitlines())
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
        assert "no list: document: not JSON" in refused["reason"]
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
                watch.wait_for("its list is empty")
                count = len(server.asked)
                wait_for(lambda: len(server.asked) > count + 2)
                lists.put(good)
                watch.wait_for("back with a good list")
                assert watch.err.count("not applied") == 2
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
            watch.wait_for("back after ")
        assert times[1] - times[0] >= 2
        assert watch.err.count("lost") == 1
        assert "answers 503 Service Unavailable: closed for [31mrepairs" in watch.err

    @pytest.mark.parametrize(
        ("command", "reason"),
        [
            ("kill -9 $$", "was ended by signal 9"),
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
                watch.wait_for("back after")
        assert "token-0123" not in watch.out + watch.err

    def test_a_terminal_gets_colours(self) -> None:
        """A terminal gets colours and the time of day."""
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
        assert re.match(r"\d\d:\d\d:\d\d http", shown)
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
            ((200, {}, b"<html>"), "what it gives is no list"),
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


def follower(interval: float = 30.0, chance: float = 1.0) -> ListFollower:
    return ListFollower(interval, lambda: chance)


def answered(
    who: ListFollower,
    body: bytes | None,
    headers: dict[str, str] | None = None,
    *,
    took: float = 0.0,
    now: float = 0.0,
) -> Step:
    told = {**LONG_POLL, **(headers or {})}
    reply = ServerReply("", 304 if body is None else 200, told, body or b"")
    return who.answered(reply, pause_asked_for(told, 0.0), now, took)


LIST, OTHER = wire(["https://a.example"]), wire(["https://b.example"])


class TestFollower:
    """The time of the next request, and the meaning of each answer."""

    def test_a_change_is_followed_at_once(self) -> None:
        """After a change, or a long poll that ends, the next request follows at once."""
        who = follower()
        assert answered(who, LIST) == Step([ListEvent("start")], 0.0)
        assert who.config == loads(LIST)
        assert answered(who, None, took=WAIT) == Step([], 0.0)
        step = answered(who, OTHER)
        assert ([event.name for event in step.events], step.pause) == (["changed"], 0.0)
        assert who.config == loads(OTHER)

    @pytest.mark.parametrize("chance", [0.0, 0.5, 1.0])
    def test_a_server_that_answers_in_haste_is_not_stormed(self, chance: float) -> None:
        """Early answers and constantly changing ETags do not cause a storm of requests.

        A server that is stopping releases its long polls early.
        """
        who = follower(chance=chance)
        answered(who, LIST)
        for body in (None, LIST):
            step = answered(who, body, took=0.01)
            assert step.events == []
            assert HASTE_PAUSE * 0.5 <= step.pause <= HASTE_PAUSE * 1.5

    @pytest.mark.parametrize(
        "headers", [{"preference-applied": ""}, {"preference-applied": "respond-async"}]
    )
    def test_one_without_long_polls_is_asked_at_the_interval(self, headers: dict[str, str]) -> None:
        """Without long polls the interval varies by a tenth; a longer Retry-After is kept."""
        for chance, pause in ((0.0, 27.0), (0.5, 30.0), (1.0, 33.0)):
            assert answered(follower(chance=chance), LIST, headers).pause == pytest.approx(pause)
        asked = answered(follower(chance=0.5), LIST, {**headers, "retry-after": "100"})
        assert asked.pause == pytest.approx(100)

    def test_one_without_a_tag_cannot_hold_its_answer(self) -> None:
        """Without an ETag the interval applies, because a long poll would return at once."""
        who = follower(chance=0.5)
        reply = ServerReply("", 200, {"preference-applied": "wait"}, LIST)
        step = who.answered(reply, 0.0, 0.0, 0.0)
        assert step.pause == 30.0

    def test_one_without_room_says_when(self) -> None:
        """A server whose long-poll places are taken gives the time of the next request."""
        who = follower()
        answered(who, LIST)
        assert answered(who, None, {"retry-after": "7"}).pause == pytest.approx(7.7)

    @pytest.mark.parametrize("chance", [0.0, 1.0])
    def test_a_lost_server_is_asked_ever_more_rarely(self, chance: float) -> None:
        """The pause doubles up to a limit, with jitter, and only one event is printed."""
        who = follower(chance=chance)
        answered(who, LIST)
        steps = [who.failed("gone", 0.0, n) for n in range(2000)]
        assert [event.name for step in steps for event in step.events] == ["lost"]
        pauses = [step.pause / (0.5 + 0.5 * chance) for step in steps]
        assert pauses[:6] == [1, 2, 4, 8, 16, 30]
        assert set(pauses[5:]) == {LAST_PAUSE}
        back, changed = answered(who, OTHER, now=2500).events
        assert (back.name, back.seconds, changed.name) == ("back", 2500, "changed")
        assert who.failed("gone", 0.0, 0.0).pause == pauses[0] * (0.5 + 0.5 * chance)

    def test_retry_after_is_honoured_where_it_is_longer(self) -> None:
        """A Retry-After shorter than our own pause is ignored."""
        who = follower(chance=0.0)
        assert who.failed("busy", 120.0, 0.0).pause == 120
        assert [who.failed("busy", 1.0, 0.0).pause for _ in range(3)] == [1, 2, 4]

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
        step = follower(chance=0.0).failed("busy", pause_asked_for(headers, 1000.0), 0.0)
        assert step.pause == max(seconds, 0.5), "0.5 is the follower's own first pause"

    def test_what_is_refused_is_told_once(self) -> None:
        """A refused list is reported once; the next good list is compared with the last good."""
        who = follower()
        answered(who, LIST)
        names = []
        for body in (b"x", b"x", wire(), None, OTHER, wire(), OTHER):
            step = answered(who, body)
            names += [event.name for event in step.events]
        assert names == ["refused", "refused", "changed", "refused", "back"]
        assert who.config == loads(OTHER)

    def test_an_empty_list_to_begin_with(self) -> None:
        """An empty first list is a list: the server has no endpoints yet."""
        who = follower()
        assert answered(who, wire()).events == [ListEvent("start")]
        assert who.config == EndpointConfig()
        assert answered(who, wire()).events == []
        assert [event.name for event in answered(who, LIST).events] == ["changed"]


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

    def test_the_order_alone(self) -> None:
        """A different order is a change without added, removed or changed endpoints."""
        one, two = Endpoint("https://a.example"), Endpoint("https://b.example")
        who = follower()
        answered(who, dumps(EndpointConfig((one, two))))
        (event,) = answered(who, dumps(EndpointConfig((two, one)))).events
        assert (event.name, event.changes) == ("changed", [])


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
