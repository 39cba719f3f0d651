"""Trusted keys: lists are accepted only with the signature of a trusted key."""

import asyncio
import codecs
import json
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mop_config import signals
from mop_config.client import (
    AsyncEndpointManager,
    EndpointManager,
    UpdateFailed,
    UpdateRefused,
    UpdateUntrusted,
)
from mop_config.client.lists import cache_file
from mop_config.client.lists.cache_file import CachedList
from mop_config.client.lists.rules import list_urls
from mop_config.client.lists.trust import Trust, trusted_keys
from mop_config.errors import PayloadError, SigningKeyError
from mop_config.model.jws import SignedList, SigningKey, jwk_set

from ..servers import ENDPOINTS
from ..waiting import wait_for
from .handmade import MISSING, NOBODY, OK, QUICK, Answer, Asked, Handmade, handmade, urls, wire
from .managers import hearing

OURS, NEXT, OTHERS = (SigningKey.generate() for _ in range(3))
JWS = f"{ENDPOINTS}.jws"
HOUR = 3600.0
A, B, C = (f"https://{name}.example/api/v1" for name in "abc")
#: Is in every list, so that no list is refused for dropping all healthy endpoints.
ALWAYS = "https://always.example/api/v1"


def token(
    api: list[str], ver: int = 1000, key: SigningKey = OURS, *, ttl: float = HOUR, **more: Any
) -> bytes:
    """Return a signed list that expires ``ttl`` seconds from now."""
    body = wire([*api, ALWAYS] if api else [])
    if more:
        body = json.dumps({**json.loads(body), **more}, separators=(",", ":")).encode()
    now = int(time.time())
    return key.sign(body, ver=ver, iat=now, exp=int(now + ttl))


class Mirror:
    """An untrusted source of signed lists that answers with ETags."""

    def __init__(self) -> None:
        self.body = b""
        self.frozen = False  # whether every conditional request gets 304
        self.server: Handmade | None = None

    def __call__(self, asked: Asked) -> Answer:
        path = asked.path.partition("?")[0]
        if path.endswith("/health"):
            return OK
        if path != JWS or not self.body:
            return MISSING
        tag = f'"{hash(self.body):x}"'
        known = asked.header("if-none-match")
        if known == tag or (self.frozen and known is not None):
            return 304, {"ETag": tag}, b""
        return 200, {"ETag": tag, "Content-Type": "application/jose"}, self.body

    @property
    def url(self) -> str:
        assert self.server is not None
        return self.server.url


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    found = Mirror()
    with handmade(found) as server:
        found.server = server
        yield found


def manager_of(*sources: str, **options: Any) -> EndpointManager:
    defaults = {"policy": QUICK, "verify": NOBODY, "update_interval": 0, "trust_env": False}
    keys = {"trusted_keys": [OURS.public]}
    return EndpointManager(config_urls=sources, **{**defaults, **keys, **options})


def names(manager: EndpointManager | AsyncEndpointManager) -> list[str]:
    """Return the URLs of the API endpoints, without the one in every list."""
    return [url for url in urls(manager.api_endpoints) if url != ALWAYS]


def refusal(manager: EndpointManager) -> str:
    """Return the code of a refused update, after comparing the error with the signal."""
    before = manager.config
    with (
        hearing(signals.endpoints_refused) as heard,
        pytest.raises(UpdateUntrusted) as caught,
    ):
        manager.update_endpoints_from_remote()
    assert manager.config == before
    (_, about), *_ = heard
    assert about == {
        "origin": "remote",
        "url": caught.value.url,
        "code": caught.value.code,
        "reason": caught.value.reason,
    }
    return caught.value.code


class TestFromASource:
    """Lists from a server or from an attacker on the way."""

    def test_a_signed_list_is_taken(self, mirror: Mirror) -> None:
        """A signed list is fetched from its .jws URL and later by its ETag."""
        mirror.body = token([A, B])
        manager = manager_of(mirror.url)
        assert manager.update_endpoints_from_remote()
        assert names(manager) == [A, B]
        assert manager.list_source[:2] == ("remote", mirror.url + JWS)
        assert not manager.list_source.stale
        assert not manager.update_endpoints_from_remote()
        assert mirror.server is not None
        first, second = mirror.server.asked
        assert (first.path, first.header("accept")) == (JWS, "application/jose")
        assert second.header("if-none-match") is not None

    @pytest.mark.parametrize(
        ("body", "code"),
        [
            (wire([A]), "not-signed"),
            (b"<html>", "not-signed"),
            (b"x" * 4_000_000, "not-signed"),
            (token([A], key=OTHERS), "unknown-key"),
            (token([A])[:-4], "bad-signature"),
            (token([A])[:200], "not-signed"),
            (token([A], ttl=-301), "expired"),
            (token([A], ver=2**60), "bad-claims"),
        ],
        ids=lambda value: value if isinstance(value, str) else None,
    )
    def test_anything_else_is_refused(self, mirror: Mirror, body: bytes, code: str) -> None:
        """A list without a valid signature is refused even with ``force``; the old list stays."""
        mirror.body = body
        manager = manager_of(mirror.url)
        manager.add_api_endpoint(B)
        assert refusal(manager) == code
        with pytest.raises(UpdateUntrusted):
            manager.update_endpoints_from_remote(force=True)
        assert names(manager) == [B]

    def test_a_byte_order_mark_is_passed_over(self, mirror: Mirror, tmp_path: Path) -> None:
        """A list and a key that an editor has saved with a UTF-8 BOM are read as without it."""
        mirror.body = codecs.BOM_UTF8 + token([A])
        key = tmp_path / "key.jwk"
        key.write_text(json.dumps(OURS.public), encoding="utf-8-sig")
        manager = manager_of(mirror.url, trusted_keys=[key])
        assert manager.update_endpoints_from_remote()
        assert names(manager) == [A]

    def test_five_minutes_make_no_difference(self, mirror: Mirror) -> None:
        """Clocks may differ by five minutes when the expiry is checked."""
        mirror.body = token([A], ttl=-200)
        assert manager_of(mirror.url).update_endpoints_from_remote()

    def test_a_server_without_a_signed_list(self, mirror: Mirror) -> None:
        """A server without a signed list has no list for this client, even with a plain one."""
        with pytest.raises(UpdateFailed) as caught:
            manager_of(mirror.url).update_endpoints_from_remote()
        assert caught.value.cause == "not_implemented"

    def test_the_next_source_is_asked(self, mirror: Mirror) -> None:
        """After a refused list the next source is asked; the signal names the refused one."""
        mirror.body = token([A])
        with handmade(lambda asked: (200, {}, wire([B]))) as bad:
            manager = manager_of(bad.url, mirror.url)
            with hearing(signals.endpoints_refused) as heard:
                assert manager.update_endpoints_from_remote()
        assert names(manager) == [A]
        assert [about["url"] for _, about in heard] == [bad.url + JWS]

    def test_a_replayed_list_is_refused(self, mirror: Mirror) -> None:
        """A signed list that is older than the last accepted one is refused."""
        old, new = token([A], 1000), token([B], 2000)
        manager = manager_of(mirror.url)
        for mirror.body in (old, new):
            assert manager.update_endpoints_from_remote()
        mirror.body = old
        assert refusal(manager) == "older"
        assert names(manager) == [B]

    def test_a_lower_version_of_the_same_list_is_no_news(self, mirror: Mirror) -> None:
        """The same content with a lower version is accepted as unchanged; the mark stays."""
        manager = manager_of(mirror.url)
        mirror.body = token([A], 2000)
        assert manager.update_endpoints_from_remote()
        mirror.body = token([A], 500, ttl=2 * HOUR)
        assert not manager.update_endpoints_from_remote()
        mirror.body = token([B], 1999)
        assert refusal(manager) == "older"
        mirror.body = token([B], 2001)
        assert manager.update_endpoints_from_remote()

    def test_one_mark_stands_for_all_keys(self, mirror: Mirror) -> None:
        """One version mark holds for all keys, so an old list of the old key stays refused."""
        manager = manager_of(mirror.url, trusted_keys=[OURS.public, NEXT.public])
        for mirror.body in (token([A], 1000), token([B], 2000, NEXT)):
            assert manager.update_endpoints_from_remote()
        mirror.body = token([A], 1000)
        assert refusal(manager) == "older"
        mirror.body = token([C], 3000, OURS)
        assert manager.update_endpoints_from_remote()

    def test_a_signed_list_may_be_refused_for_what_is_in_it(self, mirror: Mirror) -> None:
        """The other rules hold for signed lists too, and a refused list does not move the mark."""
        manager = manager_of(mirror.url)
        mirror.body = token([], 5000)
        with pytest.raises(UpdateRefused, match="empty") as caught:
            manager.update_endpoints_from_remote()
        assert not isinstance(caught.value, UpdateUntrusted)
        mirror.body = token(["wss://a.example"], 5000)  # no API endpoint
        with pytest.raises(UpdateFailed):
            manager.update_endpoints_from_remote()
        mirror.body = token([A], 1000)
        assert manager.update_endpoints_from_remote()

    def test_asyncio(self, mirror: Mirror) -> None:
        """AsyncEndpointManager applies the same rules."""

        async def main() -> tuple[bool, str]:
            async with AsyncEndpointManager(
                config_urls=[mirror.url],
                update_interval=0,
                trusted_keys=[OURS.public],
                policy=QUICK,
                verify=NOBODY,
                trust_env=False,
            ) as manager:
                mirror.body = token([A], 2000)
                changed = await manager.update_endpoints_from_remote()
                mirror.body = token([B], 1000)
                with pytest.raises(UpdateUntrusted) as caught:
                    await manager.update_endpoints_from_remote()
                return changed, caught.value.code

        assert asyncio.run(main()) == (True, "older")

    def test_a_running_manager_goes_on(self, mirror: Mirror) -> None:
        """A running manager keeps its list after a refusal and tries again."""
        mirror.body = token([A], key=OTHERS)
        with (
            hearing(signals.endpoints_refused) as heard,
            manager_of(mirror.url, update_interval=0.2) as manager,
        ):
            wait_for(lambda: heard)
            mirror.body = token([B])
            wait_for(lambda: names(manager) == [B])


class TestExpiry:
    """A signed list expires, but stays in use until a newer one arrives."""

    def test_a_frozen_mirror_is_found_out(self, mirror: Mirror) -> None:
        """A mirror that always answers 304 is refused once the list has expired."""
        mirror.body = token([A], 1000, ttl=-290)
        mirror.frozen = True
        manager = manager_of(mirror.url)
        assert manager.update_endpoints_from_remote()
        assert not manager.update_endpoints_from_remote()
        assert manager._lists.settings.trust is not None
        manager._lists.settings.trust._clock = lambda: time.time() + 20
        assert manager.list_source.stale
        assert refusal(manager) == "expired"

        other = Mirror()
        other.body = token([B], 2000)
        with handmade(other) as server:
            other.server = server
            lists = manager._lists
            lists.settings = lists.settings._replace(config_urls=(mirror.url, other.url))
            assert manager.update_endpoints_from_remote()
        assert names(manager) == [B]
        assert not manager.list_source.stale

    def test_the_last_list_is_used_on(self, mirror: Mirror) -> None:
        """An expired list stays in use and is stale until the same list is signed again."""
        mirror.body = token([A], 1000, ttl=-290)
        manager = manager_of(mirror.url)
        assert manager.update_endpoints_from_remote()
        assert manager.statistics()["stale"] is False
        assert manager._lists.settings.trust is not None
        manager._lists.settings.trust._clock = lambda: time.time() + 20
        assert manager.statistics()["stale"] is True
        assert not manager._lists.etags
        assert manager.get_current_api_url() == A
        mirror.body = token([A], 1000)
        assert not manager.update_endpoints_from_remote()
        assert manager.statistics()["stale"] is False
        assert manager.get_current_api_url() == A

    def test_a_built_in_list_does_not_expire(self) -> None:
        """A built-in list has no expiry."""
        manager = manager_of(api_endpoints=[A])
        assert manager.list_source == ("seed", None, None, False)


class TestTheCache:
    """The cache file is not trusted."""

    @pytest.fixture
    def path(self, tmp_path: Path, mirror: Mirror) -> Path:
        """Return the path of a cache that has stored version 1000 and then 2000."""
        path = tmp_path / "cache.json"
        manager = manager_of(mirror.url, cache_path=path)
        for mirror.body in (token([A], 1000), token([B], 2000)):
            assert manager.update_endpoints_from_remote()
        return path

    def test_a_list_and_its_mark_outlast_a_restart(self, path: Path, mirror: Mirror) -> None:
        """The list and its mark are loaded from the cache before any request."""
        manager = manager_of(mirror.url, cache_path=path)
        assert names(manager) == [B]
        assert manager.list_source.origin == "cache"
        mirror.body = token([A], 1000)
        with pytest.raises(UpdateUntrusted, match="older"):
            manager.update_endpoints_from_remote(mirror.url)
        assert oct(path.with_name("cache.json.mark").stat().st_mode)[-3:] == "600"

    def test_an_expired_one_is_taken_and_stale(self, tmp_path: Path) -> None:
        """An expired list in the cache is used and marked as stale."""
        path = tmp_path / "cache.json"
        manager = manager_of(cache_path=path)
        manager.apply_qr(token([A], ttl=-290))
        document = json.loads(path.read_text())
        document["jws"] = [token([A], ttl=-1e6).decode()]
        path.write_text(json.dumps(document))
        restarted = manager_of(cache_path=path)
        assert names(restarted) == [A]
        assert restarted.list_source[:1] == ("cache",)
        assert restarted.list_source.stale

    @pytest.mark.parametrize(
        ("jws", "code"),
        [
            (None, "not-signed"),
            ("nonsense", "not-signed"),
            (token([C], 3000, OTHERS).decode(), "unknown-key"),
            (token([C], 3000).decode()[:-4] + "AAAA", "bad-signature"),
            (token([A], 1000).decode(), "older"),
        ],
    )
    def test_a_changed_one_is_refused(
        self, path: Path, jws: str | None, code: str, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A changed list in the cache is refused for the built-in list."""
        document = json.loads(path.read_text())
        document["jws"] = [] if jws is None else [jws]
        document["config"] = json.loads(wire([C]))
        path.write_text(json.dumps(document))
        with hearing(signals.endpoints_refused) as heard:
            manager = manager_of(api_endpoints=["https://seed.example"], cache_path=path)
        assert names(manager) == ["https://seed.example"]
        assert manager.list_source.origin == "seed"
        ((_, about),) = heard
        assert (about["origin"], about["code"], about["url"]) == ("cache", code, str(path))
        assert str(path) in caplog.text

    def test_the_plain_list_in_it_counts_for_nothing(self, path: Path) -> None:
        """Only the signed list in the cache counts, not the plain one."""
        document = json.loads(path.read_text())
        document["config"] = json.loads(wire([C]))
        path.write_text(json.dumps(document))
        assert names(manager_of(cache_path=path)) == [B]

    def test_a_lost_cache_does_not_lose_the_mark(self, path: Path, mirror: Mirror) -> None:
        """Deleting the cache file does not delete the mark, so an old list stays refused."""
        path.unlink()
        manager = manager_of(mirror.url, cache_path=path)
        assert names(manager) == []
        mirror.body = token([A], 1000)
        assert refusal(manager) == "older"

    @pytest.mark.parametrize(
        "damage",
        [
            b"",
            b"{}",
            b"[1]",
            b'{"kid":[-1,""]}',
            b"[" * 10**5,
            b'{"OURS":["late","x"]}',
            b'{"OURS":[null,7]}',
            b'{"OURS":[7]}',
        ],
    )
    def test_a_damaged_mark_is_ignored(self, path: Path, damage: bytes) -> None:
        """If the mark file is damaged, the version of the cached list counts."""
        damage = damage.replace(b"OURS", OURS.kid.encode())
        path.with_name("cache.json.mark").write_bytes(damage)
        manager = manager_of(cache_path=path)
        assert names(manager) == [B]
        assert manager._lists.settings.trust is not None
        assert manager._lists.settings.trust.mark is not None
        assert manager._lists.settings.trust.mark.ver == 2000

    def test_a_folder_in_the_place_of_the_mark(
        self, path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A folder in the place of the mark file is ignored; the cached list's version counts."""
        mark = path.with_name("cache.json.mark")
        mark.unlink()
        mark.mkdir()
        manager = manager_of(mirror.url, cache_path=path)
        assert names(manager) == [B]
        mirror.body = token([A], 1000)
        assert refusal(manager) == "older"
        assert "is ignored" in caplog.text

    def test_what_another_process_took_counts_at_once(self, path: Path, mirror: Mirror) -> None:
        """Processes share the mark in the file, and no process lowers the mark."""
        behind = manager_of(mirror.url, cache_path=path)
        ahead = manager_of(mirror.url, cache_path=path)
        mirror.body = token([C], 8000)
        assert ahead.update_endpoints_from_remote()
        mirror.body = token([A], 7000)
        assert refusal(behind) == "older"
        with pytest.raises(UpdateUntrusted, match="older"):
            behind.apply_qr(mirror.body)
        assert names(behind) == [B]
        behind.add_api_endpoint("https://own.example")
        assert names(manager_of(cache_path=path)) == [C]
        mirror.body = token([A], 9000)
        assert behind.update_endpoints_from_remote(force=True)
        mirror.body = token([B], 8500)
        assert refusal(ahead) == "older"

    def test_another_process_may_be_ahead(self, path: Path, mirror: Mirror) -> None:
        """A process does not overwrite a newer list that another process has cached."""
        behind = manager_of(mirror.url, cache_path=path)
        ahead = manager_of(mirror.url, cache_path=path)
        mirror.body = token([C], 3000)
        assert ahead.update_endpoints_from_remote()
        behind.add_api_endpoint("https://own.example")
        assert names(manager_of(cache_path=path)) == [C]

    def test_one_that_is_slow_to_write_sets_nothing_back(
        self, path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """A process that writes slowly does not overwrite a newer list of another process."""
        save, looked, go_on = cache_file.save, threading.Event(), threading.Event()

        def slow(file: Path, kept: CachedList) -> None:
            if A in urls(kept.config.api_endpoints):
                looked.set()
                assert go_on.wait(10)
            save(file, kept)

        monkeypatch.setattr(cache_file, "save", slow)
        slow_one, other = (manager_of(mirror.url, cache_path=path) for _ in range(2))
        mirror.body = token([A], 7000)
        thread = threading.Thread(target=slow_one.update_endpoints_from_remote)
        thread.start()
        try:
            assert looked.wait(10)
            mirror.body = token([C], 8000)
            assert other.update_endpoints_from_remote()
        finally:
            go_on.set()
            thread.join()
        other._lists.save()
        assert names(manager_of(cache_path=path)) == [C]
        mirror.body = token([B], 7500)
        assert refusal(manager_of(mirror.url, cache_path=path)) == "older"

    def test_of_two_lists_at_once_the_newer_one_stays(
        self, path: Path, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """If an update and a QR code are applied at once, the newer list stays."""
        take, taken, go_on = Trust.take, threading.Event(), threading.Event()

        def slow(trust: Trust, signed: SignedList, **options: bool) -> None:
            take(trust, signed, **options)
            if signed.ver == 7000:
                taken.set()
                go_on.wait(0.5)

        monkeypatch.setattr(Trust, "take", slow)
        manager = manager_of(mirror.url, cache_path=path)
        mirror.body = token([A], 7000)
        thread = threading.Thread(target=manager.update_endpoints_from_remote)
        thread.start()
        try:
            assert taken.wait(10)
            manager.apply_qr(token([C], 8000), replace=True)
        finally:
            go_on.set()
            thread.join()
        assert names(manager) == [C]

    def test_a_cache_of_before_is_not_trusted(self, tmp_path: Path) -> None:
        """A cache written without ``trusted_keys`` is not used."""
        path = tmp_path / "cache.json"
        manager_of(cache_path=path, trusted_keys=None).add_api_endpoint(C)
        assert names(manager_of(cache_path=path)) == []

    def test_a_disk_that_cannot_be_written_to(
        self, tmp_path: Path, mirror: Mirror, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Without a writable cache the mark still counts while the process runs."""
        (tmp_path / "file").write_text("")
        manager = manager_of(mirror.url, cache_path=tmp_path / "file" / "cache.json")
        mirror.body = token([B], 2000)
        assert manager.update_endpoints_from_remote()
        assert "cannot be kept" in caplog.text
        mirror.body = token([A], 1000)
        assert refusal(manager) == "older"


class TestByHand:
    """Changes by the program and by QR codes."""

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return tmp_path / "cache.json"

    def test_the_program_may_add_what_it_likes(self, mirror: Mirror, tmp_path: Path) -> None:
        """The program may add endpoints without a signature; they are not cached."""
        path = tmp_path / "cache.json"
        manager = manager_of(mirror.url, cache_path=path)
        manager.add_api_endpoint(C)
        assert names(manager) == [C]
        with hearing(signals.endpoints_refused) as heard:
            assert names(manager_of(cache_path=path)) == []
        assert heard == []
        mirror.body = token([A])
        assert manager.update_endpoints_from_remote(force=True)
        manager.add_api_endpoint(C, 9)
        assert sorted(names(manager)) == [A, C]
        assert names(manager_of(cache_path=path)) == [A]

    def test_a_plain_qr_code_needs_trust(self) -> None:
        """An unsigned QR code is refused unless the call has ``trust=True``."""
        manager = manager_of()
        text = json.dumps({"api_url": A, "room_id": "r1"})
        with (
            hearing(signals.endpoints_refused) as heard,
            pytest.raises(UpdateUntrusted, match="not signed"),
        ):
            manager.apply_qr(text)
        assert (manager.room_id, manager.api_endpoints) == (None, ())
        assert [about["origin"] for _, about in heard] == ["qr"]
        assert manager.apply_qr(text, trust=True).room_id == "r1"
        assert names(manager) == [A]

    def test_a_signed_qr_code_does_not(self, tmp_path: Path) -> None:
        """A signed QR code is cached, and the rules of signed lists apply."""
        path = tmp_path / "cache.json"
        manager = manager_of(cache_path=path)
        data = manager.apply_qr(token([A, B], 2000, room_id="r2").decode())
        assert data.room_id == manager.room_id == "r2"
        assert names(manager) == [A, B]
        restarted = manager_of(cache_path=path)
        assert (names(restarted), restarted.room_id) == ([A, B], "r2")
        for text, code in (
            (token([C], 1000), "older"),
            (token([C], 3000, OTHERS), "unknown-key"),
            (token([C], 3000, ttl=-301), "expired"),
        ):
            with pytest.raises(UpdateUntrusted) as caught:
                restarted.apply_qr(text, trust=True)
            assert caught.value.code == code
        assert names(restarted) == [A, B]
        restarted.apply_qr(token([C], 3000), replace=True)
        assert names(restarted) == [C]

    def test_what_a_signed_qr_code_was_added_to_stays(self, path: Path, mirror: Mirror) -> None:
        """After a restart, list and signed QR codes are verified and merged until a newer list."""
        manager = manager_of(mirror.url, cache_path=path)
        mirror.body = token([A], 8000)
        assert manager.update_endpoints_from_remote()
        manager.apply_qr(token([B], 9000, room_id="r9"))
        assert names(manager) == [A, B]
        restarted = manager_of(mirror.url, cache_path=path)
        assert (names(restarted), restarted.room_id) == ([A, B], "r9")
        restarted.apply_qr(token([C], 9500))
        again = manager_of(mirror.url, cache_path=path)
        assert names(again) == [A, B, C]
        assert again.config == restarted.config
        mirror.body = token([A], 8000)
        assert refusal(again) == "older"
        mirror.body = token([C], 9600)
        assert again.update_endpoints_from_remote()
        assert names(manager_of(cache_path=path)) == [C]

    def test_a_crash_between_the_two_files_loses_nothing(self, path: Path, mirror: Mirror) -> None:
        """A crash between writing the list and its mark loses no list."""
        manager = manager_of(mirror.url, cache_path=path)
        mirror.body = token([A], 8000)
        assert manager.update_endpoints_from_remote()
        mark = path.with_name("cache.json.mark")
        before = mark.read_bytes()
        manager.apply_qr(token([B], 9000))
        mark.write_bytes(before)
        assert names(manager_of(cache_path=path)) == [A, B]

    def test_a_newer_qr_code_may_cover_older_lists(self, path: Path) -> None:
        """A QR code that is scanned again is kept once, and at most 16 older lists are kept."""
        manager = manager_of(cache_path=path)
        for number, api in enumerate([[A], [B], [A], [A, B]]):
            manager.apply_qr(token(api, 1000 + number))
        assert len(json.loads(path.read_text())["jws"]) == 3
        assert sorted(names(manager_of(cache_path=path))) == [A, B]
        for number in range(40):
            manager.apply_qr(token([f"https://q{number}.example/api/v1"], 2000 + number))
        assert len(json.loads(path.read_text())["jws"]) == 17
        manager.apply_qr(token([C], 3000), replace=True)
        assert names(manager_of(cache_path=path)) == names(manager) == [C]

    @pytest.mark.parametrize(
        ("beside", "code"),
        [
            (token([A], 8000, OTHERS), "unknown-key"),
            (token([A], 8000)[:-4] + b"AAAA", "bad-signature"),
            (wire([A]), "not-signed"),
        ],
    )
    def test_nothing_else_can_be_put_beside_it(
        self, path: Path, mirror: Mirror, beside: bytes, code: str
    ) -> None:
        """A write access to the cache cannot add a list without a trusted signature."""
        manager = manager_of(mirror.url, cache_path=path)
        mirror.body = token([A], 8000)
        assert manager.update_endpoints_from_remote()
        manager.apply_qr(token([B], 9000))
        document = json.loads(path.read_text())
        document["jws"][0] = beside.decode()
        path.write_text(json.dumps(document))
        with hearing(signals.endpoints_refused) as heard:
            assert names(manager_of(cache_path=path)) == [B]
        assert [about["code"] for _, about in heard] == [code]

    def test_a_signed_qr_code_without_keys(self) -> None:
        """A signed QR code without ``trusted_keys`` raises a PayloadError."""
        manager = manager_of(trusted_keys=None)
        with pytest.raises(PayloadError, match="trusted_keys"):
            manager.apply_qr(token([A]))


class TestTheKeys:
    """The forms of ``trusted_keys``."""

    def test_every_form(self, tmp_path: Path) -> None:
        """A key may be a dict, JSON, a key set, or a file of these."""
        file = tmp_path / "key.jwk"
        file.write_text(json.dumps(OURS.public))
        both = jwk_set([OURS, NEXT])
        for keys in (
            [OURS.public],
            [json.dumps(OURS.public)],
            [both],
            ["\n" + json.dumps(both)],
            [file],
            [str(file), NEXT.public],
        ):
            assert trusted_keys(keys).kids[0] == OURS.kid  # type: ignore[arg-type]

    @pytest.mark.parametrize(
        "keys",
        [[], [""], ["nonsense"], [{}], ["{"], [OURS.private_jwk()], [OURS.public, "a\0b"], [0]],
    )
    def test_what_is_no_key(self, keys: list[Any]) -> None:
        """An invalid key raises in the constructor, and the error contains no secret."""
        with pytest.raises(SigningKeyError, match="trusted_keys") as caught:
            manager_of(trusted_keys=keys)
        assert OURS.private_jwk()["d"] not in str(caught.value)

    @pytest.mark.parametrize("keys", [json.dumps(OURS.public), OURS.public, Path("x")])
    def test_one_key_is_no_list(self, keys: Any) -> None:
        """A single key instead of a list raises a TypeError."""
        with pytest.raises(TypeError, match="list of keys"):
            manager_of(trusted_keys=keys)


@pytest.mark.parametrize(
    ("base", "wanted"),
    [
        ("https://a", ["https://a" + JWS]),
        ("https://a/api/v1", ["https://a" + JWS]),
        ("https://a" + ENDPOINTS, ["https://a" + JWS]),
        (
            "https://a/x",
            ["https://a/x/config/endpoints.jws", "https://a/x" + JWS, "https://a" + JWS],
        ),
        ("https://a" + JWS, ["https://a" + JWS]),
        ("https://cdn/x/list.jws", ["https://cdn/x/list.jws"]),
    ],
)
def test_the_addresses_of_a_signed_list(base: str, wanted: list[str]) -> None:
    """The URL of the signed list is derived from any base URL, and likewise the plain one."""
    assert list_urls(base, signed=True) == wanted
    assert list_urls("https://a" + JWS) == ["https://a" + ENDPOINTS]


@pytest.mark.parametrize("place", ["/lists/endpoints", "/lists/endpoints?sig=1", "/a.jws"])
def test_a_signed_list_at_any_url(place: str) -> None:
    """A signed list is recognised by its content, and needs ``trusted_keys``."""
    body = token([C])
    with handmade(lambda asked: (200, {}, body) if asked.path == place else MISSING) as server:
        manager = manager_of(server.url + place)
        assert manager.update_endpoints_from_remote()
        assert names(manager) == [C]
        with pytest.raises(UpdateFailed, match="it is signed: trusted_keys must say by whom"):
            manager_of(server.url + place, trusted_keys=None).update_endpoints_from_remote()
        body = wire([C])
        with pytest.raises(UpdateUntrusted, match="signed"):
            manager_of(server.url + place).update_endpoints_from_remote()


def test_a_newer_list_may_come_in_between() -> None:
    """Of two lists that were read at once, the older is refused after the newer was taken."""
    trust = Trust([OURS.public], 10, None)
    old, new = trust.read(token([A], 1000)), trust.read(token([B], 2000))
    trust.take(new)
    with pytest.raises(ValueError, match="older"):
        trust.take(old)
    assert trust.accepted == (new,)


def test_the_error_survives_a_journey() -> None:
    """UpdateUntrusted can be pickled with all its fields."""
    error = UpdateUntrusted("https://a", "it is not signed", "not-signed")
    copy = pickle.loads(pickle.dumps(error))
    assert (copy.url, copy.reason, copy.code) == (error.url, error.reason, error.code)
    assert str(copy) == "the endpoint list from https://a is refused: it is not signed"
