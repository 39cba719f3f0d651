"""A key in etcd as a source, asked of real members and of servers that are none."""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import trustme

from mop_config.errors import SettingsError, SourceError
from mop_config.model.address import EtcdAddress
from mop_config.server import sources
from mop_config.server.parsing.problems import Code
from mop_config.server.parsing.render import EMPTY
from mop_config.server.reload.pipeline import UNREACHABLE, Reloader
from mop_config.server.serving.store import Result, Snapshot, SnapshotStore, SourceState, Trigger
from mop_config.server.settings import EtcdSettings, Settings
from mop_config.server.sources import etcd as etcd_module
from mop_config.server.sources.etcd import EtcdSource
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.releases import ReleaseStore

from ...client.handmade import Answer, Asked, handmade
from ...etcds import KEY, Cluster, encode, running_cluster
from ...ports import free_ports

ONE = "DomainList:\none.example\nother.example\n"
TWO = "DomainList:\ntwo.example\nother.example\n"


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with running_cluster(tmp_path_factory.mktemp("etcd")) as cluster:
        yield cluster


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """A key of the test's own."""
    return str(request.node.name)


def source(address: str, max_bytes: int = 1 << 20) -> EtcdSource:
    return EtcdSource(EtcdAddress.parse(address), EtcdSettings(), max_bytes)


def with_login(address: str, **login: str) -> EtcdSource:
    return EtcdSource(EtcdAddress.parse(address), EtcdSettings(**login), 1 << 20)


def refusal(source: EtcdSource) -> SourceError:
    with pytest.raises(SourceError) as caught:
        source.read()
    assert "\n" not in str(caught.value)
    return caught.value


def loader(address: str, folder: Path, **settings: Any) -> Reloader:
    """A worker's loader, which has loaded once."""
    loader = Reloader(
        source(address, settings.pop("max_bytes", 1 << 20)),
        Settings(**settings),
        SnapshotStore(Snapshot.of(EMPTY, Settings(), 0.0, 0)),
        ReleaseStore(StateDirectory(folder), "key"),
    )
    loader.start()
    return loader


def served(loader: Reloader) -> tuple[str, int]:
    """ETag and date."""
    snapshot = loader.store.view.snapshot
    return snapshot.etag, snapshot.last_modified


# -- reading


def test_the_text_is_the_files(cluster: Cluster, key: str) -> None:
    """Byte for byte, with the revision that tells it from others."""
    revision = cluster.put(ONE, key)
    text = source(cluster.address(key)).read()
    assert text.data == ONE.encode()
    assert text.order is not None
    assert text.order.revision == revision
    assert abs(text.mtime - time.time()) < 60


def test_keys_are_bytes_and_taken_as_they_stand(cluster: Cluster) -> None:
    """Slashes, percent signs and what is not ASCII."""
    cluster.put(TWO, "/mop/%41/端点")
    assert source(cluster.address("/mop/%41/端点")).read().data == TWO.encode()


def test_a_missing_key(cluster: Cluster, key: str) -> None:
    assert refusal(source(cluster.address(key))).code == Code.MISSING


def test_a_text_that_is_too_large(cluster: Cluster, key: str) -> None:
    """At the limit it is good; one byte more is refused, and so is much more."""
    limit = 1000
    cluster.put("x" * limit, key)
    assert len(source(cluster.address(key), limit).read().data) == limit
    for size in (limit + 1, 1_000_000):
        cluster.put("x" * size, key)
        error = refusal(source(cluster.address(key), limit))
        assert error.code == Code.TOO_LARGE
        assert "ENDPOINT_MAX_BYTES" in str(error)


def test_the_next_member_is_asked(cluster: Cluster, key: str) -> None:
    """And stays the first one to be asked."""
    cluster.put(ONE, key)
    (dead,) = free_ports(1)
    etcd = source(cluster.address(key).replace("etcd://", f"etcd://127.0.0.1:{dead},"))
    assert etcd.preferred == 0
    assert etcd.read().data == ONE.encode()
    assert etcd.preferred == 1


@contextmanager
def silent(*sent: bytes) -> Iterator[int]:
    """The port of a server that takes every connection, and then says so much, byte by byte."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        if not sent:
            yield server.getsockname()[1]
            return
        closing = threading.Event()

        def drip() -> None:
            with contextlib.suppress(OSError), server.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(sent[0])
                while not closing.wait(0.1):
                    connection.sendall(b" ")

        thread = threading.Thread(target=drip)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            closing.set()
            server.shutdown(socket.SHUT_RDWR)
            thread.join()


def test_those_that_hang_leave_time_for_one_that_answers(cluster: Cluster, key: str) -> None:
    """Two of them, and one that never comes to an end."""
    cluster.put(ONE, key)
    head = b'HTTP/1.1 200 OK\r\nContent-Length: 99999\r\n\r\n{"kvs":'
    with silent() as first, silent() as second, silent(head) as third:
        hanging = "".join(f"127.0.0.1:{port}," for port in (first, second, third))
        etcd = source(cluster.address(key).replace("etcd://", f"etcd://{hanging}"))
        began = time.monotonic()
        assert etcd.read().data == ONE.encode()
        assert time.monotonic() - began < 12
        assert etcd.preferred == 3


# -- loading


def test_the_same_rules_as_for_a_file(cluster: Cluster, key: str, tmp_path: Path) -> None:
    """What is refused leaves the last good list in place, and the reason is told."""
    cluster.put(ONE, key)
    one = loader(cluster.address(key), tmp_path)
    good = served(one)
    bad: list[tuple[str | bytes | None, str]] = [
        ("", "no usable endpoint"),
        ("DomainList:\n", "no usable endpoint"),
        (b"\xff", "not UTF-8"),
        (b"\xff\xfe", "UTF-16"),
        ("DomainList:\nx\0\n", "NUL"),
        (None, "there is no such key"),
    ]
    for text, what in bad:
        if text is None:
            cluster.delete(key)
        else:
            cluster.put(text, key)
        one.reload(Trigger.ETCD, quietly=True)
        view = one.store.view
        assert (view.state, served(one)) == (SourceState.REJECTED, good)
        assert what in (view.reason or "")
        assert view.history[0].trigger == "etcd"
    cluster.put(TWO, key)
    one.reload(Trigger.ETCD, quietly=True)
    assert one.store.view.state is SourceState.FRESH
    assert served(one) != good


def test_workers_agree_on_dates(cluster: Cluster, key: str, tmp_path: Path) -> None:
    """etcd keeps none: a text is as old as its first reader says, for all of them."""
    cluster.put(ONE, key)
    first, second = (loader(cluster.address(key), tmp_path) for _ in range(2))
    assert served(first) == served(second)
    dates = [served(first)[1]]
    for text in (TWO, ONE, TWO):
        cluster.put(text, key)
        for worker in (first, second):
            worker.reload(Trigger.ETCD, quietly=True)
        assert served(first) == served(second)
        dates.append(served(first)[1])
    assert dates == sorted(set(dates))  # forward with each change
    # One that has slept through them all.
    assert served(loader(cluster.address(key), tmp_path)) == served(first)


def test_an_outage_is_noted_once(tmp_path: Path) -> None:
    """However its reason reads; and what comes back unchanged is fresh again."""
    mood: list[Answer | None] = []

    def answer(asked: Asked) -> Answer:
        return mood[0] or kept(ONE, 5)

    with handmade(answer) as server:
        mood.append(None)
        one = loader(server.url.replace("http://", "etcd://") + "/k", tmp_path)
        good = served(one)
        assert good[0]
        assert one.loaded.identity != UNREACHABLE
        for status in (500, 503, 404, 200):
            mood[0] = (status, {}, b"what is this?")
            one.reload(Trigger.POLL, quietly=True)
            assert one.loaded.identity == UNREACHABLE
            assert one.store.view.state is SourceState.STALE
            assert served(one) == good
        assert [reload.result for reload in one.store.view.history] == [
            Result.ERROR,
            Result.APPLIED,
        ]
        assert "etcd does not answer" in (one.store.view.reason or "")
        mood[0] = None
        one.reload(Trigger.POLL, quietly=True)
        assert one.loaded.identity != UNREACHABLE
        assert one.store.view.state is SourceState.FRESH
        assert served(one) == good


def test_away_at_the_start(tmp_path: Path) -> None:
    """The last good list of the state folder is served, and the state says so."""
    mood = [kept(ONE, 5)]
    with handmade(lambda asked: mood[0]) as server:
        address = server.url.replace("http://", "etcd://") + "/k"
        good = served(loader(address, tmp_path))
    again = loader(address, tmp_path)
    assert again.store.view.state is SourceState.STALE
    assert served(again) == good
    assert "Connection refused" in (again.store.view.reason or "")
    assert loader(address, tmp_path / "elsewhere").store.view.state is SourceState.EMPTY


def test_a_restore_to_an_older_revision_is_served(tmp_path: Path) -> None:
    """The revision falls, the date does not: clients that know the newer list learn of it."""
    mood = [kept(ONE, 5)]
    with handmade(lambda asked: mood[0]) as server:
        address = server.url.replace("http://", "etcd://") + "/k"
        workers = [loader(address, tmp_path) for _ in range(2)]
        seen = [served(workers[0])]
        for answer in (kept(TWO, 7), kept(ONE, 5), kept(TWO, 6)):
            mood[0] = answer
            for worker in workers:
                # A lower revision is read once more, as the trigger does after a failure.
                assert any(worker.reload(Trigger.ETCD, quietly=True) for _ in range(2))
            assert served(workers[0]) == served(workers[1])
            seen.append(served(workers[0]))
    assert seen[0][0] == seen[2][0] != seen[1][0] == seen[3][0]
    assert [date for _, date in seen] == sorted({date for _, date in seen})


def kept(text: str, revision: int) -> Answer:
    """An answer to a range request."""
    entry = {"key": "aw==", "mod_revision": str(revision), "value": encode(text)}
    return 200, {}, json.dumps({"header": {}, "kvs": [entry], "count": "1"}).encode()


# -- what is no etcd


@pytest.mark.parametrize(
    "answer",
    [
        (404, {}, b"404 page not found\n"),
        (200, {}, b"<html>"),
        (200, {}, b"[]"),
        (200, {}, b'{"kvs": [{"value": "!!!", "mod_revision": "5"}]}'),
        (200, {}, b'{"kvs": [{"value": "eA=="}]}'),
        (200, {}, b'{"kvs": "?"}'),
        (200, {}, b"[" * 50_000),
        (302, {"Location": "/elsewhere"}, b""),
        (503, {}, b'{"error": "etcdserver: no leader", "code": 14}'),
        (400, {}, b'{"error": "etcdserver: request timed out", "code": 14}'),
    ],
)
def test_an_answer_of_no_use(answer: Answer) -> None:
    """Is as good as none: another member may give a better one."""
    with handmade(lambda asked: answer) as server:
        address = server.url.replace("http://", "etcd://")
        error = refusal(source(f"{address}/k"))
        assert error.code == Code.UNREACHABLE
        assert {asked.path for asked in server.asked} == {"/v3/kv/range"}


def test_an_endless_answer() -> None:
    """Is read as far as a text could go, and no further."""
    body = b'{"kvs": [{"value": "' + b"x" * 3_000_000
    with handmade(lambda asked: (200, {}, body)) as server:
        error = refusal(source(server.url.replace("http://", "etcd://") + "/k", 1000))
    assert error.code == Code.TOO_LARGE


def test_the_environments_proxy_and_netrc_are_not_for_etcd(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Nor its certificates."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login a password b\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    with handmade(lambda asked: kept(ONE, 5)) as server:
        assert source(server.url.replace("http://", "etcd://") + "/k").read().data == ONE.encode()
        assert server.asked[0].header("Authorization") is None


def test_what_etcd_says_is_bounded_and_printable() -> None:
    """A line of a log is a line."""
    said = json.dumps({"error": "a\nb\x1b[31m" + "x" * 1000, "code": 3}).encode()
    with handmade(lambda asked: (400, {}, said)) as server:
        error = refusal(source(server.url.replace("http://", "etcd://") + "/k"))
    assert error.code == Code.UNREADABLE
    assert str(error).isprintable()
    assert len(str(error)) < 300


# -- TLS and logins


class Safe:
    """A cluster with TLS and users, and the files that a client needs."""

    def __init__(self, cluster: Cluster, folder: Path) -> None:
        self.cluster = cluster
        self.ca = str(folder / "ca.pem")
        self.other_ca = str(folder / "other.pem")
        self.cert = str(folder / "client.pem")


@contextmanager
def safe_cluster(folder: Path) -> Iterator[Safe]:
    folder.mkdir(parents=True, exist_ok=True)
    authority, other = trustme.CA(), trustme.CA()
    server = authority.issue_cert("127.0.0.1", "localhost")
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    other.cert_pem.write_to_path(str(folder / "other.pem"))
    server.private_key_pem.write_to_path(str(folder / "server.key"))
    server.cert_chain_pems[0].write_to_path(str(folder / "server.pem"))
    authority.issue_cert("client").private_key_and_cert_chain_pem.write_to_path(
        str(folder / "client.pem")
    )
    context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    options = ("--cert-file", str(folder / "server.pem"), "--key-file", str(folder / "server.key"))
    with running_cluster(folder / "etcd", 1, *options, context=context) as cluster:
        cluster.put(ONE)
        steps: list[tuple[str, dict[str, Any]]] = [
            ("/auth/user/add", {"name": "root", "password": "rootpw"}),
            ("/auth/user/add", {"name": "mop", "password": "right"}),
            ("/auth/user/add", {"name": "nobody", "password": "right"}),
            ("/auth/role/add", {"name": "root"}),
            ("/auth/role/add", {"name": "reader"}),
            (
                "/auth/role/grant",
                {"name": "reader", "perm": {"permType": "READ", "key": encode(KEY)}},
            ),
            ("/auth/user/grant", {"user": "root", "role": "root"}),
            ("/auth/user/grant", {"user": "mop", "role": "reader"}),
            ("/auth/enable", {}),
        ]
        for path, message in steps:
            cluster.ask(path, message)
        cluster.root = "rootpw"
        yield Safe(cluster, folder)


@pytest.fixture(scope="module")
def safe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Safe]:
    with safe_cluster(tmp_path_factory.mktemp("safe")) as safe:
        yield safe


def test_tls_and_a_login(safe: Safe) -> None:
    """With a certificate of our own and without."""
    address = safe.cluster.address()
    for more in ({}, {"cert": safe.cert}):
        etcd = with_login(address, ca=safe.ca, user="mop", password="right", **more)
        assert etcd.read().data == ONE.encode()


def test_a_token_that_holds_no_longer_is_renewed(safe: Safe) -> None:
    """Tokens end with time, and with a new password."""
    etcd = with_login(safe.cluster.address(), ca=safe.ca, user="mop", password="right")
    etcd.read()
    token = etcd._token
    assert token
    safe.cluster.ask("/auth/user/changepw", {"name": "mop", "password": "right"})
    assert etcd.read().data == ONE.encode()
    assert etcd._token != token


@pytest.mark.parametrize(
    ("login", "code", "what"),
    [
        ({"user": "mop", "password": "wrong"}, Code.UNREADABLE, "authentication failed"),
        ({"user": "who", "password": "right"}, Code.UNREADABLE, "authentication failed"),
        ({"user": "nobody", "password": "right"}, Code.UNREADABLE, "permission denied"),
        ({}, Code.UNREADABLE, "user name is empty"),
    ],
)
def test_a_login_that_is_refused(safe: Safe, login: dict[str, str], code: str, what: str) -> None:
    """One line that says so, without the password."""
    error = refusal(with_login(safe.cluster.address(), ca=safe.ca, **login))
    assert error.code == code
    assert what in str(error)
    assert "wrong" not in str(error)


def test_a_certificate_that_is_not_trusted(safe: Safe) -> None:
    """By another authority, by the system's, and where etcd is asked without TLS."""
    address = safe.cluster.address()
    for login in ({"ca": safe.other_ca}, {"cert": safe.cert}):
        error = refusal(with_login(address, **login))
        assert error.code == Code.UNREACHABLE
        assert "certificate" in str(error)
    assert refusal(source(address)).code == Code.UNREACHABLE


def test_files_that_vanish_later(safe: Safe, tmp_path: Path) -> None:
    """A certificate that is just being replaced is an outage, and ends no process."""
    gone = str(tmp_path / "gone.pem")
    for login in ({"ca": gone}, {"ca": safe.ca, "cert": gone}):
        assert refusal(with_login(safe.cluster.address(), **login)).code == Code.UNREACHABLE


def test_a_login_where_none_is_wanted(cluster: Cluster, key: str) -> None:
    """etcd without users takes anybody."""
    cluster.put(ONE, key)
    etcd = with_login(cluster.address(key), user="mop", password="right")
    assert etcd.read().data == ONE.encode()


# -- at the start


@pytest.mark.parametrize(
    ("etcd", "variable"),
    [
        ({"user": "a"}, "ENDPOINT_ETCD_PASSWORD"),
        ({"password": "a"}, "ENDPOINT_ETCD_USER"),
        ({"ca": "/nowhere.pem"}, "ENDPOINT_ETCD_CA"),
        ({"ca": __file__}, "ENDPOINT_ETCD_CA"),
        ({"cert": "/nowhere.pem"}, "ENDPOINT_ETCD_CERT"),
        ({"cert": __file__, "key": __file__}, "ENDPOINT_ETCD_CERT"),
        ({"key": "/nowhere.pem"}, "ENDPOINT_ETCD_CERT"),
    ],
)
def test_settings_that_cannot_work(etcd: dict[str, str], variable: str) -> None:
    """End the start with one line."""
    settings = Settings(source="etcd://h:2379/k", etcd=EtcdSettings(**etcd))
    with pytest.raises(SettingsError) as caught:
        sources.check_source(settings)
    assert caught.value.variable == variable
    assert "\n" not in str(caught.value)
    # Where the list comes from a file, they do not matter.
    sources.check_source(Settings(source="x.txt", etcd=EtcdSettings(**etcd)))


def test_pauses_grow_to_a_limit_and_differ() -> None:
    """Many workers must not come back at the same moment."""
    for failures in range(1, 100):
        longest = min(etcd_module.LONGEST_PAUSE, etcd_module.FIRST_PAUSE * 2 ** (failures - 1))
        pauses = {etcd_module.pause(failures) for _ in range(20)}
        assert len(pauses) > 1
        assert all(longest / 2 <= pause <= longest for pause in pauses)
