"""The cache file of the list: written atomically, private, and ignored if it is invalid."""

import json
import logging
import os
import stat
import threading
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mop_config.client import EndpointManager
from mop_config.client.lists import cache_file
from mop_config.client.lists.cache_file import CachedList
from mop_config.model.endpoint import Endpoint, EndpointConfig

LIST = CachedList(
    "remote",
    "https://a.example/api/v1/config/endpoints",
    1_800_000_000.5,
    "room123",
    {"https://a.example/api/v1/config/endpoints": '"1"'},
    config=EndpointConfig(
        (Endpoint("https://a.example", 0), Endpoint("https://10.0.0.1:8443", 3, "a.example")),
        (Endpoint("wss://s.example/ws", 0),),
    ),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "app" / "endpoints.json"


def test_what_is_saved_is_loaded(path: Path) -> None:
    """``save`` creates the folder, and ``load`` returns every saved field."""
    cache_file.save(path, LIST)
    assert cache_file.load(path) == LIST
    bare = CachedList("manual", saved_at=0.0, config=LIST.config)
    cache_file.save(path, bare)
    assert cache_file.load(path) == bare


def test_nobody_else_may_read_it(path: Path) -> None:
    """The file has mode 0600 and its new folder 0700, whatever the umask."""
    before = os.umask(0)
    try:
        cache_file.save(path, LIST)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_public_file_becomes_private(path: Path) -> None:
    """``save`` replaces a public file with a file of mode 0600."""
    path.parent.mkdir()
    path.write_text("{}")
    path.chmod(0o644)
    cache_file.save(path, LIST)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_no_token_is_in_it() -> None:
    """The cached list has no field for an access token."""
    fields = ("origin", "url", "saved_at", "room_id", "etags", "jws", "config")
    assert CachedList._fields == fields


def test_a_save_that_fails_leaves_the_old_list(path: Path) -> None:
    """A failed save keeps the old list and leaves no temporary file."""
    cache_file.save(path, LIST)
    os.chmod(path.parent, 0o700)
    blocked = path.parent / "folder"
    blocked.mkdir()
    with pytest.raises(OSError):  # noqa: PT011 - the errno depends on the system
        cache_file.save(blocked, LIST)
    assert cache_file.load(path) == LIST
    assert sorted(entry.name for entry in path.parent.iterdir()) == ["endpoints.json", "folder"]


def test_no_other_kind_of_file_is_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A FIFO, or a device such as /dev/null, stays, and a warning names it."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    with EndpointManager(cache_path=fifo, update_interval=0) as manager:
        manager.add_api_endpoint("http://127.0.0.1:9")
    assert stat.S_ISFIFO(fifo.stat().st_mode)
    assert f"cannot be kept in {fifo}: [Errno 22] it is no regular file" in caplog.text


@pytest.mark.parametrize("there", [True, False], ids=["there", "dangling"])
def test_a_symbolic_link_stays(tmp_path: Path, there: bool) -> None:
    """The list goes into the file that a symbolic link names, and the link stays."""
    kept, link = tmp_path / "kept.json", tmp_path / "endpoints.json"
    if there:
        kept.write_text("{}")
    link.symlink_to(kept.name)
    cache_file.save(link, LIST)
    assert link.is_symlink()
    assert cache_file.load(kept) == LIST


def test_a_reader_never_sees_half_of_it(path: Path) -> None:
    """``load`` returns a whole list while other threads save."""
    lists = [LIST._replace(room_id="r" * length) for length in (1, 100)]
    cache_file.save(path, lists[0])
    over = threading.Event()
    failures: list[BaseException] = []

    def write(one: CachedList) -> None:
        try:
            while not over.is_set():
                cache_file.save(path, one)
        except BaseException as error:
            failures.append(error)

    writers = [threading.Thread(target=write, args=(one,)) for one in lists]
    for writer in writers:
        writer.start()
    try:
        for _ in range(300):
            assert cache_file.load(path) in lists
    finally:
        over.set()
        for writer in writers:
            writer.join()
    assert failures == []
    assert [entry.name for entry in path.parent.iterdir()] == ["endpoints.json"]


def test_no_file_is_no_list_and_no_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A missing file is a first start: ``load`` returns None and logs nothing."""
    assert cache_file.load(path) is None
    assert caplog.records == []


def _document(**changes: Any) -> str:
    document = {
        "format": 2,
        "config": {"api_endpoints": [], "socketio_endpoints": []},
        "origin": "manual",
        "url": None,
        "saved_at": 0,
        "room_id": None,
        "etags": {},
        "jws": [],
    }
    return json.dumps({**document, **changes})


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "\0\0\0",
        "[]",
        "null",
        "1",
        '"text"',
        "{}",
        "[" * 100_000,
        _document(format=1),
        _document(config=[]),
        _document(config={"api_endpoints": [{"url": "nonsense", "priority": 0}]}),
        _document(config={"api_endpoints": [{"url": "https://a.example", "priority": -1}]}),
        _document(jws=None),
        _document(jws=[7]),
        _document(origin=None),
        _document(url=5),
        _document(saved_at="2026"),
        _document(room_id=5),
        _document(etags=[]),
        _document(etags=None),
        _document(etags={"https://a.example": 5}),
        _document(etags={"https://a.example": "a\nb"}),
        _document(etags={"https://a.example": "ü"}),
        _document(other=1),
    ],
)
def test_a_torn_or_foreign_file_is_ignored_with_a_warning(
    path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    """``load`` ignores a truncated or foreign file with a warning that names its path."""
    path.parent.mkdir()
    path.write_text(content)
    with caplog.at_level(logging.WARNING):
        assert cache_file.load(path) is None
    (record,) = caplog.records
    assert str(path) in record.getMessage()
    assert "object" not in record.getMessage()  # of an internal error
    assert len(record.getMessage()) < 1000


def test_a_whole_document_is_none_of_those(path: Path) -> None:
    """The unchanged document loads, so each case above fails only for its own change."""
    path.parent.mkdir()
    path.write_text(_document())
    assert cache_file.load(path) is not None


def test_any_beginning_of_a_file_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``load`` ignores any truncated file, such as a full disk leaves."""
    cache_file.save(path, LIST)
    whole = path.read_bytes()
    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        assert cache_file.load(path) is None
    assert len(caplog.records) == len(range(0, len(whole), 7))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=60))
def test_no_content_stops_a_start(path: Path, content: bytes) -> None:
    """``load`` returns None for any bytes."""
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert cache_file.load(path) is None


def test_a_folder_in_its_place_is_ignored(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """``load`` ignores a folder at the path with a warning."""
    path.mkdir(parents=True)
    assert cache_file.load(path) is None
    assert len(caplog.records) == 1


def test_a_list_that_no_manager_would_take_is_ignored(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A cached list with an API endpoint at ``ws://`` does not stop the application."""
    cache_file.save(
        path, CachedList("manual", config=EndpointConfig((Endpoint("ws://a.example"),)))
    )
    manager = EndpointManager(["https://b.example"], cache_path=path, update_interval=0)
    assert [each.url for each in manager.api_endpoints] == ["https://b.example"]
    assert f"the endpoint list in {path} is ignored: " in caplog.text
    manager.close()


@pytest.mark.parametrize("app", ["", ".", " "])
def test_an_empty_name_is_no_application(app: str) -> None:
    """All applications with an empty name would read and write one file."""
    with pytest.raises(ValueError, match="app must be the name of an application, not '"):
        EndpointManager(["https://a.example"], app=app)
