"""The output of commands: a file's problems, and text from outside made printable."""

import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mop_config.cli.output import json_text

from ..client.handmade import handmade
from .forks import run
from .test_cli import on_a_terminal, write

#: A title for the terminal's window, a C1 control sequence, and a change of direction.
HOSTILE = "\x1b]0;owned\x07\x9b31m\u202eabc"
_OBEYED = re.compile("[\x07\x1b\x80-\x9f\u202a-\u202e]")


@contextmanager
def _speaking(line: bytes) -> Iterator[str]:
    """Run a server that answers every request with one line, and yield its URL."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(line)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        finally:
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()


@pytest.mark.parametrize(
    "line",
    [
        b"HTTP/1.1 500 \x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n",
        b"\x1b]0;owned\x07\r\n\r\n",
        b"HTTP/1.1 302 Found\r\nLocation: http://\x1b]0;owned\x07/\r\nContent-Length: 0\r\n\r\n",
    ],
    ids=["reason", "no HTTP", "location"],
)
@pytest.mark.parametrize(
    "command",
    [
        *(["probe", "FILE"], ["probe", "FILE", "--json"], ["probe", "URL"], ["qr", "URL"]),
        *(["show", "--diff", "URL"], ["watch", "URL"], ["status", "URL"], ["reload", "URL"]),
        ["verify", "URL", "--key", "KEY"],
    ],
    ids=" ".join,
)
def test_what_a_server_says_is_made_printable(
    tmp_path: Path, command: list[str], line: bytes
) -> None:
    """In a pipe, no command prints a server's text with bytes that a terminal would obey."""
    key = tmp_path / "public.jwk"
    run("keygen", "--out", str(tmp_path / "private.jwk"), "--public", str(key))
    with _speaking(line) as url:
        file = write(tmp_path, f"ApiList:\n{url}\n{url}/v2\n")
        words = {"FILE": file, "URL": url, "KEY": str(key)}
        result = run(*(words.get(word, word) for word in command))
    assert result.returncode == 1, result
    assert "Traceback" not in result.stderr
    assert not _OBEYED.search(result.stdout + result.stderr)


def test_a_table_on_a_terminal_obeys_nothing_from_outside(tmp_path: Path) -> None:
    """A table on a terminal has our colours and no escape sequence from the server."""
    with _speaking(b"HTTP/1.1 500 \x1b]0;owned\x07\r\nContent-Length: 0\r\n\r\n") as url:
        shown = on_a_terminal("probe", write(tmp_path, f"ApiList:\n{url}\n"), columns=100)
    assert "\x1b]0" not in shown
    assert "\x07" not in shown


def test_a_problem_document_is_made_printable() -> None:
    """The text of a problem document is made printable."""
    body = json.dumps({"detail": HOSTILE}).encode()
    headers = {"Content-Type": "application/problem+json"}
    with handmade(lambda asked: (500, headers, body)) as server:
        for command in (["probe"], ["qr"], ["show", "--diff"], ["status"], ["reload"], ["watch"]):
            result = run(*command, server.url)
            assert result.returncode == 1
            assert not _OBEYED.search(result.stdout + result.stderr), command


@pytest.mark.parametrize("command", ["check", "show", "probe", "qr", "publish"])
def test_a_file_and_its_name_are_made_printable(tmp_path: Path, command: str) -> None:
    """A file's lines and its name are made printable."""
    folder = tmp_path / "a\x1b]0;x\x07"
    folder.mkdir()
    file = write(folder, f"DomainList:\n{HOSTILE}\nApiList:\n{HOSTILE} x={HOSTILE}\nFo{HOSTILE}:\n")
    extra = ["--out", str(tmp_path / "out")] if command == "publish" else []
    for json_too in ([], ["--json"]) if command != "show" else ([],):
        result = run(command, file, *extra, *json_too)
        assert result.returncode == 1
        assert not _OBEYED.search(result.stdout + result.stderr)
        missing = run(command, file + HOSTILE, *extra, *json_too)
        assert missing.returncode == 1
        assert not _OBEYED.search(missing.stdout + missing.stderr)


def test_json_stays_what_it_says() -> None:
    """JSON output uses JSON escapes, and letters stay readable."""
    document = {"a": HOSTILE + "例\U000e0001é", "b": ["\ud800"]}
    text = json_text(document)
    assert json.loads(text) == document
    assert "例" in text
    assert not _OBEYED.search(text)
    assert text.replace("\n", "").isprintable()


@pytest.mark.parametrize("command", ["show", "probe", "qr", "publish"])
def test_problems_are_shown_with_their_severity(tmp_path: Path, command: str) -> None:
    """Each line says if its problem is an error (the entry is left out) or a warning."""
    file = write(tmp_path, "DomainList:\n127.0.0.1:1\na_b.com\nlocalhost:1\n")
    extra = ["--out", str(tmp_path / "out")] if command == "publish" else []
    result = run(command, file, *extra, ENDPOINT_PROTOCOL="http", ENDPOINT_FROB="1")
    lines = result.stderr.splitlines()
    assert any(line.startswith("mop-config: error: line 3, column 1: ") for line in lines)
    assert any(line.startswith("mop-config: warning: line 2, column 1: ") for line in lines)
    assert any(line.startswith("mop-config: warning: ENDPOINT_FROB ") for line in lines)
    assert any(line.startswith("mop-config: warning: URLs are generated") for line in lines)


class TestShow:
    """``mop-config show`` of a file without entries."""

    @pytest.mark.parametrize("text", ["", "# nothing\n", "DomainList:\n", "DomainList:\na_b\n"])
    def test_it_prints_what_a_server_would_serve(self, tmp_path: Path, text: str) -> None:
        """The command prints two empty lists, and the problem on standard error."""
        result = run("show", write(tmp_path, text))
        assert result.stdout == '{"api_endpoints":[],"socketio_endpoints":[]}\n'
        assert "mop-config: error: the file has no usable endpoint" in result.stderr
        assert result.returncode == 1
        shown = on_a_terminal("show", write(tmp_path, text))
        assert json.loads(shown[shown.index("{") :]) == {
            "api_endpoints": [],
            "socketio_endpoints": [],
        }

    def test_it_is_good_where_an_empty_list_is_allowed(self, tmp_path: Path) -> None:
        """An empty list is valid with ENDPOINT_ALLOW_EMPTY."""
        result = run("show", write(tmp_path, "DomainList:\n"), ENDPOINT_ALLOW_EMPTY="1")
        assert result.stdout == '{"api_endpoints":[],"socketio_endpoints":[]}\n'
        assert result.returncode == 0

    def test_what_is_refused_for_another_reason_prints_nothing(self, tmp_path: Path) -> None:
        """A file that is refused for another reason prints nothing: no server would serve it."""
        result = run("show", write(tmp_path, "DomainList:\na.com\nx_y\n"), ENDPOINT_STRICT="1")
        assert (result.returncode, result.stdout) == (1, "")


def test_the_caret_stands_at_the_attribute(tmp_path: Path) -> None:
    """The caret stands under the wrong attribute ``priorty=1``, not under the address before it."""
    file = write(tmp_path, "DomainList:\na.com priorty=1\nb.com\nc.com\n")
    result = run("check", file)
    assert result.returncode == 1
    assert f"{file}:2:7: error: " in result.stdout
    assert "did you mean priority=N?" in result.stdout
    lines = result.stdout.splitlines()
    quoted = next(i for i, line in enumerate(lines) if line.strip() == "a.com priorty=1")
    assert lines[quoted + 1].index("^") == lines[quoted].index("priorty")


def test_a_missing_file_has_no_line(tmp_path: Path) -> None:
    """A problem of the whole file has no line and no column."""
    for command in ("check", "show", "probe", "qr"):
        result = run(command, str(tmp_path / "none.txt"))
        assert result.returncode == 1
        assert "1:1" not in result.stdout + result.stderr
        assert "line 1" not in result.stdout + result.stderr
