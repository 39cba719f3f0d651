"""A state folder shared with hostile users: records that another user planted are ignored."""

import json
import os
import stat
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from flask.testing import FlaskClient

from mop_config import create_app
from mop_config.model.jws import SigningKey
from mop_config.server.settings import Settings
from mop_config.server.state.directory import StateDirectory

from ...users import ALICE, MALLORY, as_user, busy, needs_root, place_for_all

pytestmark = needs_root
LIST = "/api/v1/config/endpoints"
GOOD = "DomainList:\ngood-a.example\ngood-b.example\n"
EVIL = "DomainList:\nevil-a.example\nevil-b.example\n"


@pytest.fixture
def place() -> Iterator[Path]:
    with place_for_all() as folder:
        yield folder


class Site:
    """A source, a key and a state folder, in a folder that all users may enter."""

    def __init__(self, place: Path) -> None:
        self.file = place / "endpoints.txt"
        self.file.write_text(GOOD)
        self.key = place / "key.json"
        self.key.write_text(json.dumps(SigningKey.generate().private_jwk()))
        self.state = place / "state"
        self.settings = Settings(
            source=str(self.file), state_dir=str(self.state), signing_key_file=str(self.key)
        )

    def boot(self) -> FlaskClient:
        return create_app(self.settings, start=False).test_client()

    def hosts(self, client: FlaskClient) -> list[str]:
        document = client.get(LIST).json
        assert document is not None
        return [entry["url"].split("/")[2] for entry in document["socketio_endpoints"]]

    def records(self, user: int = 0) -> Path:
        return StateDirectory.of_user(self.state, user).path

    def evil_records(self, owner: int) -> None:
        """Give a user the records of a server with another list."""
        self.file.write_text(EVIL)
        self.boot()
        self.file.unlink()
        for path in (self.state, self.records(), *self.records().iterdir()):
            os.chown(path, owner, owner, follow_symlinks=False)


@pytest.fixture
def site(place: Path) -> Site:
    return Site(place)


class TestWhatSomebodyElseOwns:
    """Records of another user are ignored, whoever owns the folders around them."""

    def test_a_planted_list_is_neither_served_nor_signed(self, site: Site) -> None:
        """A folder of records that another user owns is not used."""
        site.evil_records(MALLORY)
        client = site.boot()
        assert site.hosts(client) == []
        assert client.get(f"{LIST}.jws").status_code != 200 or "evil" not in client.get(LIST).text
        assert client.get("/ready").status_code == 503

    def test_the_status_says_whose_it_is(
        self, site: Site, caplog: pytest.LogCaptureFixture
    ) -> None:
        """Log and status name the owner, and the server works without the folder."""
        site.evil_records(MALLORY)
        site.file.write_text(GOOD)
        client = site.boot()
        assert site.hosts(client) == ["good-a.example", "good-b.example"]
        assert f"user {MALLORY} owns it" in caplog.text
        document = client.get("/api/v1/config/status").json
        assert document is not None
        problems = [p for p in document["problems"] if p["code"] == "state-folder"]
        assert f"user {MALLORY} owns it, not user 0" in problems[0]["message"]

    def test_one_planted_file_in_a_folder_of_ours(self, site: Site) -> None:
        """A record of another user in our own folder is ignored."""
        site.evil_records(0)
        (planted,) = self._of(site, "*.lastgood")
        os.chown(planted, MALLORY, MALLORY)
        assert site.hosts(site.boot()) == []

    def test_a_file_that_everybody_may_write_to(self, site: Site) -> None:
        """A world-writable record is ignored, even if it is ours."""
        site.evil_records(0)
        (planted,) = self._of(site, "*.lastgood")
        planted.chmod(0o666)
        assert site.hosts(site.boot()) == []

    @pytest.mark.parametrize("kind", ["link", "pipe", "folder"])
    def test_what_is_no_file(self, site: Site, kind: str) -> None:
        """A link, pipe or folder in place of a record is ignored, and does not block the start."""
        site.evil_records(0)
        (planted,) = self._of(site, "*.lastgood")
        moved = planted.rename(site.state / "moved")
        if kind == "link":
            planted.symlink_to(moved)
        elif kind == "pipe":
            os.mkfifo(planted)
        else:
            planted.mkdir()
        assert site.hosts(site.boot()) == []

    @pytest.mark.parametrize("owner", [MALLORY, 0])
    def test_a_link_to_a_folder_of_records(self, site: Site, owner: int) -> None:
        """A link to a folder of records is not followed, even to our own folder."""
        site.evil_records(0)
        site.records().rename(site.state / "elsewhere")
        site.records().symlink_to(site.state / "elsewhere")
        os.chown(site.records(), owner, owner, follow_symlinks=False)
        assert site.hosts(site.boot()) == []

    @staticmethod
    def _of(site: Site, pattern: str) -> list[Path]:
        return list(site.records().glob(pattern))


class TestTheFolderAround:
    """The state folder may belong to root or to a group."""

    @staticmethod
    def prepares(state: Path) -> Callable[[], None]:
        def prepare() -> None:
            StateDirectory.of_user(state).write("record", b"", sync=False)

        return prepare

    def test_a_group_may_write_to_it(self, site: Site) -> None:
        """The records stay private in a group-writable volume (Kubernetes fsGroup)."""
        site.state.mkdir()
        os.chown(site.state, 0, ALICE)
        site.state.chmod(0o2770)
        as_user(ALICE, self.prepares(site.state))
        folder = site.records(ALICE)
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700 | stat.S_ISGID
        # A volume that is mounted again is opened to the group again.
        folder.chmod(0o2770)
        as_user(ALICE, self.prepares(site.state))
        assert folder.stat().st_mode & 0o077 == 0

    def test_two_users_have_records_of_their_own(self, site: Site) -> None:
        """Two users have separate records in one world-writable folder."""
        site.state.mkdir()
        site.state.chmod(0o1777)
        for user in (ALICE, MALLORY):
            as_user(user, self.prepares(site.state))
        assert {path.stat().st_uid for path in site.state.iterdir()} == {ALICE, MALLORY}

    def test_making_it_creates_nothing_elsewhere(self, site: Site, place: Path) -> None:
        """Neither making the folder nor a write follows a link in place of the folder."""
        site.state.mkdir()
        os.chown(site.state, MALLORY, MALLORY)
        target = place / "created"
        site.records().symlink_to(target)
        directory = StateDirectory.of_user(site.state)
        directory.make()
        assert not directory.save("record", b"", "a record")
        assert not target.exists()

    def test_a_folder_that_is_swapped_all_the_time(self, site: Site, place: Path) -> None:
        """While a user swaps the folder for his own, his records are neither read nor written."""
        site.evil_records(MALLORY)
        site.state.chmod(0o700)
        evil = site.records().rename(site.state / "evil")
        ours, aside = site.records(), site.state / "aside"
        swaps = [
            partial(os.rename, ours, aside),
            partial(os.symlink, evil, ours),
            partial(os.unlink, ours),
            partial(os.rename, evil, ours),
            partial(os.rename, ours, evil),
            partial(os.rename, aside, ours),
        ]
        before = {path: path.read_bytes() for path in evil.iterdir()}
        secret = place / "secret"
        secret.write_text("root's")
        secret.chmod(0o600)
        with busy(MALLORY, *swaps):
            for number in range(60):
                if number % 2:
                    site.file.unlink(missing_ok=True)
                else:
                    site.file.write_text(GOOD)
                assert set(site.hosts(site.boot())) <= {"good-a.example", "good-b.example"}
        for folder in site.state.iterdir():
            if not folder.is_symlink() and folder.stat().st_uid == MALLORY:
                for path in folder.iterdir():
                    assert path.read_bytes() == before[evil / path.name]
        assert stat.S_IMODE(secret.stat().st_mode) == 0o600
