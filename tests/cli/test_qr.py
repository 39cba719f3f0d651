"""``mop-config qr``: output to a terminal, a pipe and a file, and reading codes back."""

import io
import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from mop_config import cli, qr
from mop_config.model.endpoint import loads

from ..client.handmade import source, wire
from ..conftest import GUIDE_JSON, SAMPLE, need_program
from ..servers import ROOT
from .forks import run
from .test_cli import on_a_terminal, write


class Result(NamedTuple):
    """The result of one call."""

    returncode: int
    stdout: str
    stderr: str


Call = Callable[..., Result]

SCREEN = re.compile(r"\x1b\[38;5;16;48;5;231m([ ▀▄█]+)\x1b\[0m")
FULL = json.dumps(GUIDE_JSON, separators=(",", ":"))


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Call:
    """Return a function that runs the command in this process, which saves the start."""
    for name in [name for name in os.environ if name.startswith("ENDPOINT_")]:
        monkeypatch.delenv(name)
    monkeypatch.chdir(ROOT)

    def run_here(*arguments: str) -> Result:
        code = cli.run(["qr", *arguments])
        return Result(code, *capsys.readouterr())

    return run_here


def photo(rows: list[str]) -> bytes:
    """Render terminal rows as an image: each character is two modules, one above the other."""
    width = len(rows[0])
    assert {len(row) for row in rows} == {width}
    picture = Image.new("L", (width, 2 * len(rows)), 255)
    for y, row in enumerate(rows):
        for x, character in enumerate(row):
            upper, lower = divmod(" ▄▀█".index(character), 2)
            picture.putpixel((x, 2 * y), 255 * (1 - upper))
            picture.putpixel((x, 2 * y + 1), 255 * (1 - lower))
    out = io.BytesIO()
    picture.resize((6 * width, 12 * len(rows)), Image.Resampling.NEAREST).save(out, "PNG")
    return out.getvalue()


class TestTerminal:
    """The QR code on a terminal."""

    def test_it_can_be_read_off_the_screen(self, tmp_path: Path) -> None:
        """Both decoders read the code from the screen: black on white in any colour scheme."""
        shown = on_a_terminal("qr", "--room-id", "大厅", columns=120, lines=60)
        rows = SCREEN.findall(shown)
        expected = qr.dumps(loads(FULL), "full", "大厅")
        image = photo(rows)
        assert qr.scan(image) == expected
        (tmp_path / "screen.png").write_bytes(image)
        command = [need_program("zbarimg"), "--raw", "-q", str(tmp_path / "screen.png")]
        read = subprocess.run(command, capture_output=True, check=True).stdout
        assert read.decode() == expected + "\n"
        assert all(row.startswith(" " * 4) and row.endswith(" " * 4) for row in rows)
        assert {*rows[0], *rows[1], *rows[-2], *rows[-1]} == {" "}
        assert "mop-config:" not in shown

    def test_one_that_is_too_small(self) -> None:
        """A terminal that is too small gets the whole code, and a note with the code's size."""
        note = "the code is 89 columns wide and 45 lines high: enlarge the terminal, or use --limit"
        for columns, lines in ((88, 60), (89, 45), (20, 10)):
            shown = on_a_terminal("qr", columns=columns, lines=lines)
            assert qr.scan(photo(SCREEN.findall(shown))) == FULL
            assert note in shown
        assert note not in on_a_terminal("qr", columns=89, lines=46)


class TestOutput:
    """Output to a pipe or a file."""

    def test_a_pipe_gets_the_text(self) -> None:
        """A pipe gets the text and a newline."""
        result = run("qr")
        assert (result.returncode, result.stdout, result.stderr) == (0, FULL + "\n", "")
        single = run("qr", "--format", "single", "--room-id", "r", str(SAMPLE)).stdout
        assert json.loads(single) == {
            "api_url": "https://log.ym1.com/api/v1",
            "socketio_url": "https://log.ym1.com",
            "room_id": "r",
        }

    def test_a_server_s_list(self, call: Call) -> None:
        """The command draws a server's list, given its URL."""
        with source(b"") as (lists, server):
            lists.body = wire(["https://a.example"])
            result = call(server.url)
        assert result.stdout == '{"api_endpoints":[{"url":"https://a.example","priority":0}]}\n'

    @pytest.mark.parametrize("suffix", [".png", ".PNG", ".svg"])
    def test_a_file(self, call: Call, tmp_path: Path, suffix: str) -> None:
        """The suffix selects the format; the file is replaced atomically and is readable by all."""
        path = tmp_path / f"code{suffix}"
        path.write_text("what was there")
        result = call("--out", str(path), "--limit", "2")
        assert result.returncode == 0
        assert result.stdout.startswith(f"{path}: full form, ")
        text = qr.fit(loads(FULL), limit=2).text
        assert path.read_bytes() == qr.image(text, suffix.lower()[1:])
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()
        assert [entry.name for entry in tmp_path.iterdir()] == [path.name]

    def test_a_symbolic_link_stays(self, call: Call, tmp_path: Path) -> None:
        """The file that a symbolic link names is written, and the link stays."""
        (tmp_path / "site").mkdir()
        link = tmp_path / "app.svg"
        link.symlink_to("site/code.svg")
        for _ in range(2):
            assert call("--out", str(link)).returncode == 0
            assert link.is_symlink()
            assert (tmp_path / "site/code.svg").read_bytes().startswith(b"<?xml")
            (tmp_path / "site/code.svg").write_bytes(b"old")

    def test_json(self, call: Call, tmp_path: Path) -> None:
        """--json prints a document for programs."""
        path = tmp_path / "code.svg"
        document = json.loads(call("--json", "--out", str(path)).stdout)
        assert document == {
            "format": "full",
            "bytes": len(FULL),
            "capacity": 2952,
            "text": FULL,
            "out": str(path),
        }
        assert path.exists()

    def test_a_long_list(self, call: Call, tmp_path: Path) -> None:
        """A long list gets the form that fits, with a note; a list that fits no form is refused."""
        file = write(tmp_path, "DomainList:\n" + "".join(f"h{i}.example\n" for i in range(50)))
        result = call(file)
        assert len(json.loads(result.stdout)["api_endpoints"]) == 50
        assert result.stderr == (
            "mop-config: only the list form fits: URLs, without priorities and server names\n"
        )
        result = call(file, "--format", "full")
        assert (result.returncode, result.stdout) == (1, "")
        assert re.fullmatch(
            r"mop-config: the full form takes \d+ bytes, and the code has room for 2952: what fits"
            r" is format full with limit \d+, or format list, or format single\n",
            result.stderr,
        )

    @pytest.mark.parametrize(
        "arguments",
        [
            ["--format", "best"],
            ["--limit", "0"],
            ["--limit", "1001"],
            ["--room-id", ""],
            ["--room-id", "r" * 129],
            ["--out", "code.gif"],
            ["--out", ""],
            ["--scan", ""],
            ["--scan", "a.png", "--limit", "2"],
            ["--scan", "a.png", "file"],
            ["--scan", "a.png", "--token-file", "file"],
            ["ftp://x", "y"],
            ["http://joe:hunter@127.0.0.1:1"],
            [""],
        ],
    )
    def test_a_wrong_call(self, call: Call, arguments: list[str]) -> None:
        """A wrong call exits with 2 and prints one line that names the help."""
        result = call(*arguments)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1
        assert "--help" in result.stderr
        assert "hunter" not in result.stderr

    def test_what_cannot_be_done(
        self, call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """No list, an empty list or no writable place exits with 1 and prints one line."""
        monkeypatch.setenv("ENDPOINT_ALLOW_EMPTY", "1")
        bare = write(tmp_path, "# nothing\n")
        for arguments in (
            [str(tmp_path / "none")],
            [bare],
            [str(SAMPLE), "--out", str(tmp_path / "none" / "a.png")],
        ):
            result = call(*arguments)
            assert (result.returncode, result.stdout) == (1, "")
            assert "Traceback" not in result.stderr
            assert result.stderr.splitlines()[-1].startswith("mop-config: ")

    def test_a_file_without_an_endpoint(self, call: Call, tmp_path: Path) -> None:
        """The error of a file without endpoints says so, and does not mention servers."""
        bare = write(tmp_path, "DomainList:\n")
        assert call(bare) == Result(1, "", f"mop-config: {bare} has no usable endpoint\n")


class TestScan:
    """``--scan`` reads a code from an image."""

    def test_it_prints_what_the_code_says(self, call: Call, tmp_path: Path) -> None:
        """The command prints one line per endpoint, and the rest of the text."""
        path = tmp_path / "code.png"
        text = qr.dumps(
            loads(
                '{"api_endpoints":[{"url":"https://1.2.3.4","priority":5,'
                '"server_name":"a.example"}],"socketio_endpoints":[]}'
            ),
            room_id="a\x1b[31m\nb",
            extra={"theme": {"dark": True}},
        )
        path.write_bytes(qr.image(text, "png"))
        result = call("--scan", str(path))
        assert result.returncode == 0
        assert result.stdout.splitlines() == [
            "api_endpoints https://1.2.3.4 priority=5 server_name=a.example",
            "room_id a [31m b",
            'theme {"dark": true}',
        ]
        document = json.loads(call("--scan", str(path), "--json").stdout)
        assert document == json.loads(text)

    def test_what_the_command_wrote(self, call: Call, tmp_path: Path) -> None:
        """The command reads back the code that it wrote."""
        path = tmp_path / "code.png"
        assert call("--out", str(path), "--format", "list").returncode == 0
        document = json.loads(call("--scan", str(path), "--json").stdout)
        assert document == GUIDE_JSON

    def test_an_image_that_cannot_be_read(self, call: Call, tmp_path: Path) -> None:
        """An unreadable image exits with 1 and prints one line that names the file."""
        (tmp_path / "text.png").write_text("text")
        (tmp_path / "other.png").write_bytes(qr.image("https://example.com", "png"))
        for name, reason in (
            ("none.png", "No such file"),
            ("text.png", "is not a PNG"),
            ("other.png", "the code holds no endpoints"),
        ):
            result = call("--scan", str(tmp_path / name))
            assert (result.returncode, result.stdout) == (1, "")
            assert len(result.stderr.splitlines()) == 1
            assert reason in result.stderr
            assert name in result.stderr

    def test_without_the_extra(self) -> None:
        """Without the extra, the error names the package to install; drawing works without it."""
        code = (
            "import sys\n"
            "sys.modules['zxingcpp'] = sys.modules['PIL'] = None\n"
            "from mop_config.cli import main\n"
            "main()\n"
        )
        for arguments, status in ((["--scan", "x.png"], 1), ([str(SAMPLE), "--json"], 0)):
            result = subprocess.run(
                [sys.executable, "-c", code, "qr", *arguments],
                cwd=ROOT,
                capture_output=True,
                text=True,
                check=False,
            )
            assert result.returncode == status
            assert ("pip install 'mop-config[qr]'" in result.stderr) == bool(status)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
