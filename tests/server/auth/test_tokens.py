"""Tokens: the grammar of the token file, and the authenticator that follows the file."""

import contextlib
import hashlib
import logging
import os
import resource
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.server import auth as keyring_module
from mop_config.server.auth import (
    MAX_FAULTS,
    Token,
    TokenAuthenticator,
    digest,
    is_name,
    line_of,
    parse,
)
from mop_config.server.parsing.problems import Code
from mop_config.server.settings import Settings

from ...waiting import wait_for

HEX = hashlib.sha256(b"secret-of-ci").hexdigest()
OTHER = hashlib.sha256(b"secret-of-app").hexdigest()


class TestFile:
    """The grammar of a line is ``name:sha256-hex[:read|admin]``."""

    def test_lines_comments_and_blanks(self) -> None:
        """Comments, blank lines, a byte order mark and any line ends are allowed."""
        text = f"\ufeff# tokens\r\n\r\nci:{HEX}:admin  # the pipeline\r\n app : {OTHER.upper()}\n"
        tokens, faults = parse(text.encode())
        assert faults == ()
        assert tokens == (
            Token("ci", bytes.fromhex(HEX), True),
            Token("app", bytes.fromhex(OTHER), False),
        )
        assert parse(f"{line_of(tokens[0])}\n".encode()) == (tokens[:1], ())

    @pytest.mark.parametrize(
        "line",
        [
            "secret-of-ci",
            "ci:",
            f"ci:{HEX[:-1]}",
            f"ci:{HEX}0",
            f"ci:{HEX}:write",
            f"ci:{HEX}:",
            f"ci:{HEX}:read:x",
            f":{HEX}",
            f"c i:{HEX}",
            f"-ci:{HEX}",
            f"{'n' * 65}:{HEX}",
            f"env-1:{HEX}",
            f"ci\x00:{HEX}",
            f"ci\x1b[2J:{HEX}",
            f"ci\u2028x:{HEX}",
            f"müller:{HEX}",
            f"app2:{OTHER}",
        ],
    )
    def test_a_bad_line_is_left_out_alone(self, line: str) -> None:
        """Only the bad line is left out; the report has its number and not its text."""
        tokens, faults = parse(f"app:{OTHER}\n{line}\n".encode())
        assert [token.name for token in tokens] == ["app"]
        ((number, message),) = faults
        assert number == 2
        assert HEX not in message
        assert "secret" not in message

    def test_a_line_that_is_no_text(self) -> None:
        """A line that is not UTF-8 is a bad line."""
        tokens, faults = parse(b"\xff\xfe:x\napp:" + OTHER.encode())
        assert (len(tokens), len(faults)) == (1, 1)

    def test_thousands_of_bad_lines_are_counted(
        self, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        """All bad lines are counted, and the first ones are reported one by one."""
        ring = Ring(tmp_path, "x\n" * 5000)
        assert len(ring.keyring.problems) == MAX_FAULTS
        assert "5000 of them" in caplog.text

    @given(st.binary(max_size=200))
    @pytest.mark.slow
    def test_anything(self, data: bytes) -> None:
        """``parse`` never raises, and accepts no line without a digest."""
        for token in parse(data)[0]:
            assert len(token.digest) == 32
            assert is_name(token.name)


def test_a_token_is_found_by_its_digest() -> None:
    """Only the exact text of a token is found, not its digest or a similar text."""
    keyring = TokenAuthenticator(Settings(tokens=("from-the-env",)))
    keyring._tokens = (Token("ci", digest("secret-of-ci"), True), *keyring._tokens)
    found = keyring.find("secret-of-ci")
    assert found is not None
    assert found.name == "ci"
    found = keyring.find("from-the-env")
    assert found is not None
    assert (found.name, found.admin) == ("env-1", True)
    for wrong in ("", "secret-of-c", "secret-of-ci ", HEX, "ci"):
        assert keyring.find(wrong) is None


class Ring:
    """A TokenAuthenticator with a token file of its own."""

    def __init__(self, folder: Path, text: str | None, **settings: object) -> None:
        self.file = folder / "tokens"
        if text is not None:
            self.file.write_text(text)
        self.keyring = TokenAuthenticator(Settings(tokens_file=str(self.file), **settings))  # type: ignore[arg-type]

    def knows(self, secret: str) -> bool:
        """Return whether a token is accepted after a refresh such as the reload thread's."""
        self.keyring.refresh()
        return self.keyring.find(secret) is not None

    def codes(self) -> list[str]:
        return [problem.code for problem in self.keyring.problems]


def test_the_file_is_followed(tmp_path: Path) -> None:
    """A token that is added to the file is accepted, and a removed one is refused."""
    ring = Ring(tmp_path, f"ci:{HEX}\n")
    assert ring.knows("secret-of-ci")
    ring.file.write_text(f"app:{OTHER}\n")
    wait_for(lambda: ring.knows("secret-of-app"))
    assert not ring.knows("secret-of-ci")
    assert ring.codes() == []


def test_a_change_of_equal_size_and_date_is_found(tmp_path: Path) -> None:
    """A change that keeps the size and the date changes the file's ctime."""
    ring = Ring(tmp_path, f"ci:{HEX}\n")
    before = os.stat(ring.file)
    ring.file.write_text(f"ab:{OTHER}\n")
    os.utime(ring.file, ns=(before.st_atime_ns, before.st_mtime_ns))
    wait_for(lambda: ring.knows("secret-of-app"))


@pytest.mark.parametrize("text", [None, "", "# none\n", "secret-of-ci\nci:no-digest\n"])
def test_a_file_without_a_good_line_admits_nobody(
    tmp_path: Path, text: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    """A missing, empty or bad file admits no token and is logged, until it is repaired."""
    with caplog.at_level(logging.ERROR):
        ring = Ring(tmp_path, text, tokens=("from-the-env",))
        assert not ring.knows("secret-of-ci")
    assert not ring.knows("from-the-env")
    assert "nobody is admitted" in caplog.text
    assert "secret" not in caplog.text
    ring.file.write_text(f"ci:{HEX}\n")
    wait_for(lambda: ring.knows("secret-of-ci"))
    assert ring.knows("from-the-env")
    assert ring.codes() == []


@pytest.mark.parametrize("how", ["missing", "empty", "folder", "all bad", "too large"])
def test_a_file_that_goes_bad_closes_the_door(tmp_path: Path, how: str) -> None:
    """A file that becomes missing, empty, bad or too large refuses all tokens."""
    ring = Ring(tmp_path, f"ci:{HEX}\n", tokens=("from-the-env",))
    assert ring.knows("from-the-env")
    if how == "empty":
        ring.file.write_text("")
    elif how == "all bad":
        ring.file.write_text("ci\n")
    elif how == "too large":
        ring.file.write_text(f"ci:{HEX}\n" + "#" * keyring_module.MAX_BYTES)
    else:
        ring.file.unlink()
        if how == "folder":
            ring.file.mkdir()
    wait_for(lambda: not ring.knows("secret-of-ci"))
    assert not ring.knows("from-the-env")


def test_a_bad_line_is_told_once_with_its_number(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A bad line is one problem in the status and one line in the log."""
    with caplog.at_level(logging.INFO):
        ring = Ring(tmp_path, f"ci:{HEX}\nsecret-of-app\n")
        for _ in range(5):
            assert ring.knows("secret-of-ci")
    (problem,) = ring.keyring.problems
    assert (problem.code, problem.line, problem.text) == (Code.TOKENS_LINE, 2, "")
    assert "line 2" in problem.message
    assert caplog.text.count("line 2") == 1
    assert "secret" not in caplog.text


def test_an_editor_that_empties_the_file_first_shuts_nobody_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is empty or missing for a moment does not count."""
    monkeypatch.setattr(keyring_module, "SETTLED", 2.0)
    ring = Ring(tmp_path, f"ci:{HEX}\n")
    with ring.file.open("w") as file:
        file.flush()
        began = time.monotonic()
        while time.monotonic() - began < 0.5:
            assert ring.knows("secret-of-ci")
        file.write(f"ci:{HEX}\napp:{OTHER}\n")
    wait_for(lambda: ring.knows("secret-of-app"))


def test_a_file_that_changes_all_the_time_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that never stays the same is read nevertheless, after ``LONGEST``."""
    monkeypatch.setattr(keyring_module, "SETTLED", 30.0)
    monkeypatch.setattr(keyring_module, "LONGEST", 0.2)
    ring = Ring(tmp_path, f"ci:{HEX}\n")

    def written_and_known() -> bool:
        os.utime(ring.file)
        return ring.knows("secret-of-app")

    ring.file.write_text(f"app:{OTHER}\n")
    wait_for(written_and_known)
    assert not ring.knows("secret-of-ci")


def test_a_read_without_a_descriptor_is_repeated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While this process has no descriptor left, the known tokens count, and the read is due."""
    monkeypatch.setattr(keyring_module, "AGAIN", 0.0)
    ring = Ring(tmp_path, f"ci:{HEX}\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    ring.file.write_text(f"app:{OTHER}\n")
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    try:
        with contextlib.suppress(OSError):
            while True:
                held.append(os.open("/dev/null", os.O_RDONLY))
        began = time.monotonic()
        while time.monotonic() - began < 2 * keyring_module.SETTLED:
            assert ring.knows("secret-of-ci")
    finally:
        for descriptor in held:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    wait_for(lambda: ring.knows("secret-of-app"))
