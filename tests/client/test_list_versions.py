"""Versions of signed lists: how far in the future they may be, and which key's mark counts."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from mop_config.client import EndpointManager, UpdateUntrusted
from mop_config.model.jws import MAX_NUMBER, SigningKey

from .handmade import handmade, wire
from .test_trusted_keys import ALWAYS, NEXT, OURS, A, B, C, Mirror, manager_of, names

DAY = 86400
#: Seconds by which a phone's clock is behind.
BEHIND = 5 * DAY


def signed(
    api: list[str], seconds: float = 0.0, key: SigningKey = OURS, *, iat: float | None = None
) -> bytes:
    """Sign a list whose version is ``seconds`` ahead of the clock."""
    now = int(time.time())
    moment = now if iat is None else int(iat)
    ver = min(int((now + seconds) * 1000), MAX_NUMBER)
    return key.sign(wire([*api, ALWAYS]), ver=ver, iat=moment, exp=MAX_NUMBER)


@pytest.fixture
def mirror() -> Iterator[Mirror]:
    found = Mirror()
    with handmade(found) as server:
        found.server = server
        yield found


def take(manager: EndpointManager, mirror: Mirror, body: bytes) -> bool:
    """Serve a list and update from it; return whether the list was updated."""
    mirror.body = body
    return manager.update_endpoints_from_remote()


def refused(manager: EndpointManager, mirror: Mirror, body: bytes) -> str:
    """Update from a list that must be refused; return the code of the error."""
    with pytest.raises(UpdateUntrusted) as caught:
        take(manager, mirror, body)
    return caught.value.code


def both(path: Path, mirror: Mirror, *keys: SigningKey) -> EndpointManager:
    """Make a manager that trusts these keys and stores its list and marks at ``path``."""
    return manager_of(mirror.url, cache_path=path, trusted_keys=[key.public for key in keys])


class TestAhead:
    """Lists whose version is in the future."""

    @pytest.mark.parametrize("seconds", [DAY + 60, 400 * DAY, 2**60])
    def test_more_than_a_day_is_refused(self, mirror: Mirror, seconds: float) -> None:
        """A list or QR code more than a day ahead is refused, and blocks no later list."""
        manager = manager_of(mirror.url)
        body = signed([A], seconds)
        assert refused(manager, mirror, body) == "ahead"
        with pytest.raises(UpdateUntrusted) as caught:
            manager.apply_qr(body)
        assert caught.value.code == "ahead"
        assert take(manager, mirror, signed([B]))
        assert names(manager) == [B]

    def test_less_than_a_day_is_not(self, mirror: Mirror) -> None:
        """A list less than a day ahead is accepted, because clocks differ."""
        assert take(manager_of(mirror.url), mirror, signed([A], DAY - 60))

    def test_a_phone_whose_clock_is_behind_takes_the_list_with_one_warning(
        self, mirror: Mirror, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A list ahead of the clock but not of its own ``iat`` is accepted with one warning."""
        manager, now = manager_of(mirror.url), time.time()
        assert take(manager, mirror, signed([A], BEHIND, iat=now + BEHIND))
        assert take(manager, mirror, signed([B], BEHIND + 60, iat=now + BEHIND + 60))
        assert names(manager) == [B]
        assert caplog.text.count("in the future") == 1
        # The ``iat`` of the list in use also counts: another node signed this list earlier.
        assert take(manager, mirror, signed([C], BEHIND + 90, iat=now))

    def test_a_list_far_in_the_future_blocks_nothing_for_good(
        self, mirror: Mirror, tmp_path: Path
    ) -> None:
        """The mark of a list is at most a day ahead, so it blocks later lists for a day only."""
        path = tmp_path / "list.json"
        manager = both(path, mirror, OURS)
        assert take(manager, mirror, signed([A], 2**60, iat=MAX_NUMBER))
        assert refused(manager, mirror, signed([B])) == "older"
        later = time.time() + DAY + 60
        assert take(both(path, mirror, OURS), mirror, signed([B], DAY + 60, iat=later))


class TestWhoseMark:
    """The version mark of a key that is no longer trusted is ignored."""

    @pytest.mark.parametrize("lost", ["nothing", "list"])
    def test_it_no_longer_counts(self, mirror: Mirror, tmp_path: Path, lost: str) -> None:
        """The marks of keys that are still trusted keep counting, even if the list is lost."""
        path = tmp_path / "list.json"
        manager = both(path, mirror, OURS, NEXT)
        old, own = signed([A], -60), signed([B])
        assert take(manager, mirror, own)
        assert take(manager, mirror, signed([C], DAY / 2, NEXT))
        assert refused(manager, mirror, own) == "older"
        if lost != "nothing":
            path.write_bytes(b"")
        later = both(path, mirror, OURS)
        assert names(later) == []
        assert refused(later, mirror, old) == "older"
        assert take(later, mirror, own)
        assert names(later) == [B]
        assert refused(both(path, mirror, OURS), mirror, old) == "older"

    def test_nor_does_that_of_another_process(self, mirror: Mirror, tmp_path: Path) -> None:
        """The mark of an untrusted key is ignored even if another process shares the cache file."""
        path = tmp_path / "list.json"
        ours = both(path, mirror, OURS)
        assert take(both(path, mirror, OURS, NEXT), mirror, signed([C], DAY / 2, NEXT))
        assert take(ours, mirror, signed([A]))
        assert take(ours, mirror, signed([B], 1))
        assert names(both(path, mirror, OURS)) == [B]
