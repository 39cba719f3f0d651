"""Masking replaces secrets in log lines, and no other text; the file of the log."""

import logging
import os
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from io import StringIO
from pathlib import Path

import pytest

from mop_config.server.logs import (
    LOG_QUEUE,
    LineFormatter,
    UnbufferedFileHandler,
    masked,
    queued,
    unbuffered,
)

from ..users import ALICE, as_user, needs_root

TOKEN = "mop_Ab3-_xyzAb3-_xyzAb3-_xyzAb3-_xyzAb3-_xyz123"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"/x/{TOKEN}/y", "/x/***/y"),
        (f"/?a={TOKEN}&b=1", "/?a=***&b=1"),
        ("GET /?token=s3cret&x=1 HTTP/1.1", "GET /?token=***&x=1 HTTP/1.1"),
        ("access_token=s3'c\"ret;x", "access_token=***"),
        ("https://a.com/?u=1&Access_Token=s3cret#x", "https://a.com/?u=1&Access_Token=***"),
        ("/?next=%2F%3Ftoken%3Ds3cret%26x", "/?next=%2F%3Ftoken%3D***%26x"),
        ("Header: 'Authorization Bearer s3cret x'", "Header: 'Authorization ***"),
        ("'Proxy-Authorization s3cret", "'Proxy-Authorization ***"),
        ("X: bearer  s3cret y", "X: bearer  *** y"),
        ("/Basic%20czNjcmV0", "/Basic%20***"),
        ("/?h=Authorization:+Bearer+s3cret", "/?h=Authorization:+***"),
    ],
)
def test_what_looks_like_a_secret_goes(text: str, expected: str) -> None:
    """A secret is masked at any place and in any case."""
    assert masked(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "mop_config.server.reload.pipeline: unchanged (poll), etag 0123456789abcdef; 0 errors",
        "mop_config_last_reload_success_timestamp_seconds",
        "tokens: 2 in /etc/mop-config/tokens",
        "GET /api/v1/config/endpoints?wait=30 HTTP/1.1",
    ],
)
def test_everything_else_stays(text: str) -> None:
    """Texts without a secret are not changed, such as the package's own name."""
    assert masked(text) == text


def test_our_own_lines_are_masked() -> None:
    """Our own log lines are masked, also the texts of exceptions."""
    record = logging.LogRecord("n", 20, "p", 1, "%s failed", (f"/?token={TOKEN}",), None)
    assert LineFormatter().format(record).endswith("n: /?token=*** failed")
    try:
        raise ValueError(TOKEN)
    except ValueError as error:
        about = (type(error), error, error.__traceback__)
    record = logging.LogRecord("n", 20, "p", 1, "failed", (), about)
    line = LineFormatter().format(record)
    assert "ValueError: ***" in line
    assert TOKEN not in line


def test_a_bad_log_statement_is_named_and_does_not_raise() -> None:
    """Arguments that do not fit are the fault of the statement, not of the request that logs."""
    stream = StringIO()
    handler = queued(logging.StreamHandler(stream))
    handler.handle(logging.LogRecord("n", 20, "app.py", 7, "%d of them", ("many",), None))
    LOG_QUEUE.drain(10)
    assert "the log statement at app.py:7 cannot be formatted: TypeError: " in stream.getvalue()


def test_a_line_that_a_pipe_takes_in_parts_is_written_whole() -> None:
    """The pipe does not block, and has less room than the line, so that each write is short."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    line = "x" * 1_000_000 + "\n"
    with open(reader, "rb") as pipe, ThreadPoolExecutor(1) as pool:
        read = pool.submit(pipe.read)
        with open(writer, "wb") as file, unbuffered(file.fileno(), "w") as stream:
            stream.write(line)
        assert read.result().decode() == line


@needs_root
def test_a_worker_that_may_not_enter_the_folder_of_the_log_writes_on(tmp_path: Path) -> None:
    """A file that root has opened takes the lines of workers of another user (``--user``)."""
    path = tmp_path / "private" / "log"
    path.parent.mkdir(0o700)
    record = logging.LogRecord("n", 20, "p", 1, "a line", (), None)
    with closing(UnbufferedFileHandler(str(path))) as handler:
        as_user(ALICE, lambda: handler.emit(record))
    assert path.read_text() == "a line\n"
