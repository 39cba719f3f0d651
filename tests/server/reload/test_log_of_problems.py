"""The log line of a reload names the file's problems."""

import logging
from pathlib import Path

import pytest

from mop_config import Settings, create_app


def log_of(caplog: pytest.LogCaptureFixture, tmp_path: Path, text: str, *, strict: bool) -> str:
    """Serve a text, and return what was logged."""
    file = tmp_path / "e.txt"
    file.write_text(text)
    with caplog.at_level(logging.INFO, "mop_config"):
        create_app(
            Settings(source=str(file), state_dir=str(tmp_path / "s"), strict=strict), start=False
        )
    return "\n".join(record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("strict", [False, True])
def test_the_log_names_the_first_problems(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, strict: bool
) -> None:
    """The log has the first five problems with severity and place, errors first."""
    text = "DomainList:\n10.0.0.1\na.com\n" + "".join(f"b{n}_c\n" for n in range(9))
    log = log_of(caplog, tmp_path, text, strict=strict)
    assert "first problems: error: line 4, column 1: " in log
    assert "'b4_c'" in log
    assert "'b5_c'" not in log
    assert "10.0.0.1" not in log


def test_a_warning_is_named_as_one(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """Without an error, the log has the warnings."""
    log = log_of(caplog, tmp_path, "DomainList:\na.com\n10.0.0.1\n", strict=False)
    assert "errors: 0, warnings: 1; first problems: warning: line 3, column 1: " in log


def test_a_good_file_has_none(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    """For a good file, the log line has no problem."""
    log = log_of(caplog, tmp_path, "DomainList:\na.com\nb.com\n", strict=False)
    assert "errors: 0, warnings: 0" in log
    assert "first problems" not in log
