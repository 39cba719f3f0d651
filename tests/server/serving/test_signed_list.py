"""The signed list over HTTP: its content, its signing times and its versions."""

import json
import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from mop_config.client import EndpointManager
from mop_config.errors import SettingsError
from mop_config.model.jws import SignedList, SigningKey, TrustedKeys
from mop_config.server.reload.pipeline import Reloader
from mop_config.server.service import EXTENSION, ConfigService
from mop_config.server.serving.answers import preferred_form
from mop_config.server.serving.responder import Signer, check_key
from mop_config.server.serving.store import Trigger
from mop_config.server.settings import Settings
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.releases import LastGood, Release, ReleaseStore
from mop_config.server.web.app import create_app

from ...client.handmade import NOBODY, QUICK
from ...etcds import running_cluster
from ...servers import ENDPOINTS, Server, gunicorn_command, running
from ...waiting import wait_for

JWS = f"{ENDPOINTS}.jws"
KEYS = "/api/v1/config/keys"
KEY = SigningKey.generate()
TRUSTED = TrustedKeys([KEY.public])
WEEK = 7 * 86400
AB, BC, CD = (f"DomainList:\n{a}.example\n{b}.example\n" for a, b in ("ab", "bc", "cd"))


def key_file(folder: Path, key: SigningKey = KEY) -> str:
    path = folder / "key.jwk"
    path.write_text(json.dumps(key.private_jwk()))
    path.chmod(0o600)
    return str(path)


class Site:
    """A file and a state folder, and applications that start and stop on them like servers."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "endpoints.txt"
        self.key = key_file(folder)
        self.settings: dict[str, Any] = {
            "source": str(self.file),
            "state_dir": str(folder / "state"),
            "signing_key_file": self.key,
        }
        self.write(AB)

    def write(self, text: str, mtime: float | None = None) -> None:
        self.file.write_text(text)
        if mtime is not None:
            os.utime(self.file, (mtime, mtime))

    def boot(self, **settings: Any) -> tuple[FlaskClient, Reloader]:
        """Start an application that reads its file only when the test calls the reloader."""
        app = create_app(Settings(**{**self.settings, **settings}), start=False)
        service: ConfigService = app.extensions[EXTENSION]
        return app.test_client(), service._reloader


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def signed(client: FlaskClient) -> SignedList:
    """Return the signed list of a server, verified as by a client that trusts its key."""
    answer = client.get(JWS)
    assert answer.status_code == 200
    return TRUSTED.verify(answer.data, time.time())


def hosts(found: SignedList) -> list[str]:
    return [endpoint.url.split("/")[2].partition(".")[0] for endpoint in found.config.api_endpoints]


class TestTheRoute:
    """The signed list has its own URL and its own ETag."""

    def test_it_is_the_list(self, site: Site) -> None:
        """The signed list has the endpoints of the plain list, and its own media type."""
        client, _ = site.boot()
        answer = client.get(JWS)
        assert answer.content_type == "application/jose"
        assert answer.headers["Cache-Control"] == "max-age=60"
        plain = client.get(ENDPOINTS)
        assert answer.headers["ETag"] != plain.headers["ETag"]
        claims = TRUSTED.verify(answer.data)
        assert [e.url for e in claims.config.api_endpoints] == [
            entry["url"]
            for entry in plain.json["api_endpoints"]  # type: ignore[index]
        ]

    def test_conditions(self, site: Site) -> None:
        """Only its own ETag gives 304, and HEAD is GET without a body."""
        client, _ = site.boot()
        answer = client.get(JWS)
        tag = answer.headers["ETag"]
        assert not tag.startswith("W/")
        again = client.get(JWS, headers={"If-None-Match": tag})
        assert (again.status_code, again.data, again.headers["ETag"]) == (304, b"", tag)
        plain = client.get(ENDPOINTS).headers["ETag"]
        assert client.get(JWS, headers={"If-None-Match": plain}).status_code == 200
        assert client.get(ENDPOINTS, headers={"If-None-Match": tag}).status_code == 200
        head = client.head(JWS)
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(answer.data))
        assert client.post(JWS).status_code == 405

    def test_a_date_is_no_condition(self, site: Site) -> None:
        """If-Modified-Since is ignored, since two lists may be signed for the same period."""
        client, _ = site.boot()
        assert "Last-Modified" not in client.get(JWS).headers
        for date in ("", client.get(ENDPOINTS).headers["Last-Modified"]):
            assert client.get(JWS, headers={"If-Modified-Since": date}).status_code == 200

    @pytest.mark.parametrize(
        ("accept", "is_signed"),
        [
            (None, False),
            ("", False),
            ("*/*", False),
            ("application/*", False),
            ("application/json", False),
            ("application/jose", True),
            ("Application/JOSE", True),
            ("application/jose, */*", True),
            ("application/jose, application/json;q=0.5", True),
            ("application/jose;q=0.5, application/json", False),
            ("application/jose, application/json", False),
            ("application/jose;q=0, */*", False),
            ("application/jose;q=0.1, application/json;q=0", True),
            ("text/html, application/jose;q=0.9, */*;q=0.8", True),
            ("application/josef", False),
            (",;q=,application/jose;q=x", False),
        ],
    )
    def test_negotiation(self, site: Site, accept: str | None, is_signed: bool) -> None:
        """Accept must name application/jose and not prefer JSON; the answer varies by Accept."""
        client, _ = site.boot()
        headers = {} if accept is None else {"Accept": accept}
        answer = client.get(ENDPOINTS, headers=headers)
        kind = "application/jose" if is_signed else "application/json"
        assert (answer.status_code, answer.content_type) == (200, kind)
        assert "Accept" in [part.strip() for part in answer.headers["Vary"].split(",")]
        if is_signed:
            assert answer.data == client.get(JWS).data

    def test_a_long_poll_waits_for_another_list(self, site: Site) -> None:
        """A long poll ends when the list changes, with the new signed list."""
        client, loader = site.boot(max_waiters=1)
        tag = client.get(JWS).headers["ETag"]
        quick = client.get(f"{JWS}?wait=0.05", headers={"If-None-Match": tag})
        assert (quick.status_code, quick.headers["Preference-Applied"]) == (304, "wait")
        assert client.get(f"{JWS}?wait=x").status_code == 400
        answers: list[TestResponse] = []

        def ask() -> None:
            answers.append(client.get(f"{JWS}?wait=30", headers={"If-None-Match": tag}))

        waiting = threading.Thread(target=ask)
        waiting.start()
        responder = client.application.extensions[EXTENSION].responder
        wait_for(lambda: responder.waiters == 1)
        site.write(BC)
        loader.reload(Trigger.WATCH)
        waiting.join(20)
        assert answers[0].status_code == 200
        assert answers[0].headers["Cache-Control"] == "no-store"
        assert hosts(TRUSTED.verify(answers[0].data)) == ["b", "c"]

    def test_a_long_poll_ends_with_the_next_signature(self, site: Site) -> None:
        """A thread that waits looks once a second, and sees a list that was signed again."""
        client, _ = site.boot(max_waiters=1)
        service: ConfigService = client.application.extensions[EXTENSION]
        now = [float(WEEK)]
        service.signer._clock = lambda: now[0]
        tag = client.get(JWS).headers["ETag"]
        answers: list[TestResponse] = []

        def ask() -> None:
            answers.append(client.get(f"{JWS}?wait=30", headers={"If-None-Match": tag}))

        waiting = threading.Thread(target=ask)
        waiting.start()
        wait_for(lambda: service.responder.waiters == 1)
        now[0] += WEEK / 2
        waiting.join(20)
        assert answers[0].status_code == 200
        assert TRUSTED.verify(answers[0].data).iat == now[0]

    def test_the_keys_are_published(self, site: Site) -> None:
        """The JWK set has the public keys only."""
        client, _ = site.boot()
        answer = client.get(KEYS)
        assert answer.content_type == "application/jwk-set+json"
        assert answer.json == {"keys": [KEY.public]}
        again = client.get(KEYS, headers={"If-None-Match": answer.headers["ETag"]})
        assert again.status_code == 304
        assert TrustedKeys([answer.data]).verify(client.get(JWS).data).kid == KEY.kid


class TestWhatIsNotSigned:
    """If a list cannot be signed, the answer is a problem and never an unsigned list."""

    def test_without_a_key(self, site: Site) -> None:
        """Without a key the answer is 404, or JSON if the client accepts JSON too."""
        client, _ = site.boot(signing_key_file=None)
        for path, accept in ((JWS, "*/*"), (ENDPOINTS, "application/jose")):
            answer = client.get(path, headers={"Accept": accept})
            assert (answer.status_code, answer.content_type) == (404, "application/problem+json")
        answer = client.get(ENDPOINTS, headers={"Accept": "application/jose, */*;q=0.1"})
        assert (answer.status_code, answer.content_type) == (200, "application/json")
        assert answer.headers["Vary"] == "Accept-Encoding"
        assert client.get(KEYS).json == {"keys": []}
        assert client.head(JWS).data == b""

    @pytest.mark.parametrize("allow_empty", [False, True])
    def test_an_empty_list(self, site: Site, allow_empty: bool) -> None:
        """An empty list is not signed, since a signature would outlast that moment."""
        site.write("# nothing\n")
        client, _ = site.boot(allow_empty=allow_empty)
        assert client.get(ENDPOINTS).status_code == 200
        answer = client.get(JWS)
        assert (answer.status_code, answer.headers["Cache-Control"]) == (503, "no-store")
        assert "empty" in answer.json["detail"]  # type: ignore[index]

    def test_the_last_good_list_stays_signed(self, site: Site) -> None:
        """While the file is bad, a restarted server signs the last good list with its version."""
        before = signed(site.boot()[0])
        site.write("DomainList:\n")
        client, _ = site.boot()
        assert signed(client)[:3] == before[:3]

    def test_a_key_that_has_gone_bad_stops_no_worker(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A worker with a bad key serves the plain list, and reports the bad key."""
        Path(site.key).write_text("nonsense")
        client, _ = site.boot()
        assert client.get(ENDPOINTS).status_code == 200
        assert client.get(JWS).status_code == 503
        assert client.get(KEYS).json == {"keys": []}
        status = client.get("/api/v1/config/status").json
        (problem,) = status["problems"]  # type: ignore[index]
        assert problem["code"] == "setting"
        assert "ENDPOINT_SIGNING_KEY_FILE" in problem["message"]
        assert "lists are not signed" in caplog.text
        assert "nonsense" not in caplog.text


class TestTheKeyFile:
    """The key file is checked before any worker starts."""

    @pytest.mark.parametrize("what", ["missing", "folder", "nonsense", "public", "fifo"])
    def test_a_bad_one_is_refused_at_the_start(self, tmp_path: Path, what: str) -> None:
        """The error is one line with the name of the variable."""
        path = tmp_path / what
        if what == "folder":
            path.mkdir()
        elif what == "fifo":
            os.mkfifo(path)
        elif what != "missing":
            path.write_text(json.dumps(KEY.public) if what == "public" else "hunter2")
        with pytest.raises(SettingsError, match="ENDPOINT_SIGNING_KEY_FILE") as caught:
            check_key(Settings(signing_key_file=str(path)))
        assert "hunter2" not in str(caught.value)
        assert len(str(caught.value).splitlines()) == 1

    @pytest.mark.parametrize("by", ["mop-config", "gunicorn"])
    def test_no_server_starts_with_a_bad_one(self, tmp_path: Path, by: str) -> None:
        """The server exits with one line on standard error."""
        command = gunicorn_command()
        if by == "mop-config":
            command = [str(Path(command[0]).parent / "mop-config"), "serve"]
        variables = {"ENDPOINT_SIGNING_KEY_FILE": str(tmp_path / "none"), "PORT": "0"}
        server = Server(command, tmp_path, variables)
        assert server.process.wait(60) != 0
        server.stop()
        (line,) = server.log.splitlines()
        assert line.startswith("mop-config: ENDPOINT_SIGNING_KEY_FILE=")
        assert "is missing" in line

    def test_one_that_everybody_can_read_is_reported(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A world-readable key file is reported in log and status; a group-readable one is not."""
        os.chmod(site.key, 0o640)
        assert Signer(Settings(signing_key_file=site.key)).warnings == ()
        os.chmod(site.key, 0o644)
        client, _ = site.boot()
        assert client.get(JWS).status_code == 200
        status = client.get("/api/v1/config/status").json
        assert "mode 0644" in status["problems"][0]["message"]  # type: ignore[index]
        assert "mode 0644" in caplog.text
        assert KEY.private_jwk()["d"] not in caplog.text


class TestTheLife:
    """A list is signed once for each half of its lifetime."""

    def test_the_moment_is_the_same_everywhere(self, site: Site) -> None:
        """All servers sign for the same instant, and at least half of the lifetime is left."""
        client, _ = site.boot()
        found = signed(client)
        assert found.exp - found.iat == WEEK
        assert found.iat % (WEEK // 2) == 0
        assert found.exp - time.time() >= WEEK / 2
        other, _ = site.boot()
        assert other.get(JWS).data == client.get(JWS).data

    def test_it_is_signed_anew_at_half_of_it(self, site: Site) -> None:
        """The list is signed again after half of its lifetime only, with the same version."""
        _, loader = site.boot()
        snapshot = loader.store.view.snapshot
        now = [1000.0]
        ours = Signer(
            Settings(signing_key_file=site.key, signing_ttl=200.0, max_age=500), lambda: now[0]
        )
        first = ours.signed(snapshot)
        assert first is not None
        now[0] = 1099.9
        assert ours.signed(snapshot) is first
        now[0] = 1100.0
        second = ours.signed(snapshot)
        assert second is not None
        assert second.etag != first.etag
        claims = [TRUSTED.verify(found.plain.body) for found in (first, second)]
        assert [(c.iat, c.exp) for c in claims] == [(1000, 1200), (1100, 1300)]
        assert claims[0].ver == claims[1].ver

    def test_nobody_keeps_it_longer_than_it_holds(self, site: Site) -> None:
        """max-age is limited so that no cache keeps the list after its expiry."""
        client, _ = site.boot(signing_ttl=101.0, max_age=86400)
        assert client.get(JWS).headers["Cache-Control"] == "max-age=51"
        assert client.get(ENDPOINTS).headers["Cache-Control"] == "max-age=86400"


def releases(folder: Path, key: str) -> ReleaseStore:
    return ReleaseStore(StateDirectory(folder), key)


def issue(store: ReleaseStore, etag: str, mtime: float) -> Release:
    """Return the release that a worker with this store issues for a list."""
    with store.section():
        text = LastGood(b"", Release(etag, mtime), 2, 2, None, 0.0, time.time(), "start")
        return store.issue(text).release


class TestTheVersion:
    """The version never falls when the content changes, whatever happens to the file."""

    def test_it_is_the_files_date_at_first(self, site: Site) -> None:
        """The first version is the file's date, on every node; a future date counts as now."""
        site.write(AB, 1_700_000_000.25)
        assert signed(site.boot()[0]).ver == 1_700_000_000_250
        site.write(BC, time.time() + 86400)
        assert signed(site.boot(state_dir=site.key + ".state")[0]).ver <= time.time() * 1000

    def test_an_older_file_gets_a_higher_one(self, site: Site) -> None:
        """A file that is restored with its old date gets a higher version than the newer file."""
        site.write(AB, 1_700_000_000)
        client, loader = site.boot()
        site.write(BC, 1_700_001_000)
        loader.reload(Trigger.WATCH)
        second = signed(client)
        site.write(AB, 1_700_000_000)
        loader.reload(Trigger.WATCH)
        third = signed(client)
        assert hosts(third) == ["a", "b"]
        assert third.ver > second.ver == 1_700_001_000_000

    @pytest.mark.parametrize("lost", [False, True])
    def test_so_it_does_over_a_restart(self, site: Site, lost: bool) -> None:
        """After a restart an older file gets a higher version, even without the last good list."""
        site.write(BC, 1_700_001_000)
        before = signed(site.boot()[0])
        site.write(AB, 1_700_000_000)
        if lost:
            next(Path(site.settings["state_dir"]).rglob("*.lastgood")).unlink()
        assert signed(site.boot()[0]).ver > before.ver

    def test_the_same_contents_keep_theirs(self, site: Site) -> None:
        """A comment or a restart keeps the version unless the date of the file is newer."""
        site.write(AB, 1_700_000_000)
        client, loader = site.boot()
        before = signed(client)
        site.write("# hello\n" + AB, 1_700_000_000)
        loader.reload(Trigger.WATCH)
        assert signed(client).ver == before.ver
        assert signed(site.boot()[0]).ver == before.ver

    def test_moving_the_source_takes_it_along(self, site: Site, tmp_path: Path) -> None:
        """A new source in the same state folder gets a higher version, even with an old text."""
        site.write(BC, 1_700_001_000)
        before = signed(site.boot()[0])
        elsewhere = tmp_path / "elsewhere.txt"
        elsewhere.write_text(AB)
        os.utime(elsewhere, (1_600_000_000, 1_600_000_000))
        assert signed(site.boot(source=str(elsewhere))[0]).ver > before.ver

    def test_moving_to_etcd_and_back(self, site: Site, tmp_path: Path) -> None:
        """The version rises from file to etcd, with each value there, and back to an old file."""
        site.write(BC)
        found = [signed(site.boot()[0])]
        with running_cluster(tmp_path / "etcd") as cluster:
            cluster.put(AB)
            client, loader = site.boot(source=cluster.address())
            found.append(signed(client))
            for text in (CD, AB):
                cluster.put(text)
                loader.reload(Trigger.WATCH)
                found.append(signed(client))
        site.write(BC, 1_600_000_000)
        found.append(signed(site.boot()[0]))
        assert ["".join(hosts(each)) for each in found] == ["bc", "ab", "cd", "ab", "bc"]
        versions = [each.ver for each in found]
        assert versions == sorted(set(versions))

    def test_all_workers_agree(self, site: Site) -> None:
        """Workers that missed different edits sign equal lists with equal versions."""
        site.write(AB, 1_700_000_000)
        workers = [site.boot() for _ in range(3)]
        versions: dict[int, str] = {}
        for number, text in enumerate([AB, BC, CD, AB, BC, AB, CD, BC]):
            site.write(text, 1_700_000_000 - number)
            for index, (client, loader) in enumerate(workers):
                if (number + index) % 3:
                    loader.reload(Trigger.WATCH)
                    found = signed(client)
                    assert versions.setdefault(found.ver, found.digest) == found.digest
        for _, loader in workers:
            loader.reload(Trigger.WATCH)
        assert len({client.get(JWS).data for client, _ in workers}) == 1

    def test_a_disk_that_is_full_does_not_stop_it(
        self, site: Site, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The version rises while the record cannot be written, and once it can be again."""
        site.write(BC, 1_700_001_000)
        client, loader = site.boot()
        versions = [signed(client).ver]
        (record,) = Path(site.settings["state_dir"]).rglob("*.lastgood")
        kept = record.read_bytes()
        record.unlink()
        record.mkdir()
        site.write(CD, 1_600_000_000)
        loader.reload(Trigger.WATCH)
        versions.append(signed(client).ver)
        assert "cannot be saved" in caplog.text
        record.rmdir()
        record.write_bytes(kept)
        site.write(BC, 1_700_001_000)
        loader.reload(Trigger.WATCH)
        versions.append(signed(client).ver)
        assert versions == sorted(set(versions))

    @pytest.mark.parametrize(
        "damage", [b"", b"[", b'{"version": 1e400}', b'{"format": 1}', b"\xff"]
    )
    def test_a_damaged_record_begins_anew(self, tmp_path: Path, damage: bytes) -> None:
        """A damaged record is replaced, above the versions of the folder's other sources."""
        other = issue(releases(tmp_path, "other"), "x", 5.0)
        (tmp_path / "key.lastgood").write_bytes(damage)
        given = Release("e", 1.0, 1, other.version + 1)
        assert issue(releases(tmp_path, "key"), "e", 1.0) == given
        assert issue(releases(tmp_path, "key"), "e", 1.0) == given

    def test_a_worker_in_the_place_of_a_dead_one_agrees(self, tmp_path: Path) -> None:
        """A replaced worker keeps the version, although another source has a higher version."""
        given = issue(releases(tmp_path, "key"), "e", 1.0)
        other = issue(releases(tmp_path, "other"), "x", 5.0)
        born = ReleaseStore(StateDirectory(tmp_path), "key", lambda: True)
        assert issue(born, "e", 1.0) == given
        first = issue(releases(tmp_path, "key"), "e", 1.0)
        assert first.version > other.version

    def test_the_records_are_private(self, site: Site) -> None:
        """The folder of records has mode 0700, and each record has mode 0600."""
        site.boot()
        (folder,) = Path(site.settings["state_dir"]).iterdir()
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        for path in folder.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        assert list(folder.glob("*.lastgood"))


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """Run gunicorn with two workers and a key."""
    folder = tmp_path_factory.mktemp("real")
    file = folder / "endpoints.txt"
    file.write_text(AB)
    key = key_file(folder)
    with running(folder, file, ENDPOINT_SIGNING_KEY_FILE=key, ENDPOINT_SIGNING_TTL="1h") as server:
        yield server, file


def settled(server: Server, expected: list[str]) -> SignedList:
    """Return the signed list once every worker signs the expected list with the same bytes."""

    def agreed() -> SignedList | None:
        answers = {server.get(JWS).body for _ in range(8)}
        found = TRUSTED.verify(next(iter(answers)), time.time())
        served = server.all_serve(*(f"{host}.example" for host in expected))
        return found if served and len(answers) == 1 and hosts(found) == expected else None

    found = wait_for(agreed, seconds=20, what=f"all sign {expected}")
    assert found is not None
    return found


class TestAgainstTheRealServer:
    """Server and client together: edits and rollbacks reach the client."""

    def manager(self, server: Server, **options: Any) -> EndpointManager:
        return EndpointManager(
            config_urls=[f"http://127.0.0.1:{server.port}"],
            trusted_keys=[KEY.public],
            policy=QUICK,
            verify=NOBODY,
            update_interval=0,
            trust_env=False,
            **options,
        )

    def test_a_rollback_reaches_a_client(self, real: tuple[Server, Path], tmp_path: Path) -> None:
        """A client accepts an older text that is restored with an older date."""
        server, file = real
        manager = self.manager(server, cache_path=tmp_path / "cache.json")
        file.write_text(AB)
        os.utime(file, (1_700_000_000, 1_700_000_000))
        settled(server, ["a", "b"])
        assert manager.update_endpoints_from_remote()
        scratch = file.with_suffix(".new")
        scratch.write_text(BC)
        scratch.replace(file)
        newer = settled(server, ["b", "c"])
        assert manager.update_endpoints_from_remote()
        assert manager.api_endpoints[1].url == "https://c.example/api/v1"
        assert not manager.update_endpoints_from_remote()
        scratch.write_text(AB)
        os.utime(scratch, (1_700_000_000, 1_700_000_000))
        scratch.replace(file)
        older = settled(server, ["a", "b"])
        assert older.ver > newer.ver
        assert manager.update_endpoints_from_remote()
        assert manager.api_endpoints[0].url == "https://a.example/api/v1"

    def test_a_watching_client_is_told_at_once(self, real: tuple[Server, Path]) -> None:
        """A watching client gets a change by a long poll of the signed list."""
        server, file = real
        file.write_text(AB)
        settled(server, ["a", "b"])
        with self.manager(server, watch=True) as manager:
            wait_for(lambda: manager._lists.etags, seconds=20)
            scratch = file.with_suffix(".new")
            scratch.write_text(CD)
            scratch.replace(file)
            wait_for(
                lambda: "https://c.example/api/v1" in [e.url for e in manager.api_endpoints],
                seconds=20,
            )
            assert not manager.list_source.stale


def test_a_wish_is_read_once(site: Site) -> None:
    """The same Accept header is parsed once, not for each request."""
    preferred_form.cache_clear()
    client, _ = site.boot()
    for _ in range(5):
        client.get(ENDPOINTS, headers={"Accept": "application/jose"})
    assert preferred_form.cache_info().misses == 1
