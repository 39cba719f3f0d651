"""``mop-config publish``: it writes files so that a static web server can replace the server."""

import contextlib
import gzip
import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from mop_config import create_app, qr
from mop_config.model.jws import SigningKey, TrustedKeys
from mop_config.server.export import StaticExporter
from mop_config.server.settings import Settings
from mop_config.server.state.directory import StateDirectory
from mop_config.server.state.releases import parse

from ..conftest import GUIDE_JSON, SAMPLE
from ..servers import ROOT
from ..users import ALICE, MALLORY, as_user, busy, needs_root, place_for_all
from ..waiting import wait_for
from .forks import run
from .test_cli import write

LIST = "api/v1/config/endpoints"


def publish(folder: Path, file: str | Path, *options: str, **environ: str) -> list[str]:
    """Publish into ``out``, and return the files that changed."""
    result = run(*command(folder, file, *options), **state(folder), **environ)
    assert (result.returncode, result.stderr) == (0, "")
    return result.stdout.splitlines()


def command(folder: Path, file: str | Path, *options: str) -> list[str]:
    return ["publish", str(file), "--out", str(folder / "out"), *options]


def state(folder: Path) -> dict[str, str]:
    return {"ENDPOINT_STATE_DIR": str(folder / "state")}


@contextmanager
def publishing(
    folder: Path, file: Path, *options: str, **environ: str
) -> Iterator["subprocess.Popen[str]"]:
    """Run ``publish --watch`` on a file."""
    arguments = command(folder, file, "--watch", *options)
    with subprocess.Popen(
        [sys.executable, "-m", "mop_config", *arguments],
        cwd=ROOT,
        env={**os.environ, **state(folder), **environ},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture
def key(tmp_path: Path) -> Path:
    """Create a file with a signing key."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(SigningKey.generate().private_jwk()))
    path.chmod(0o600)
    return path


class TestOnce:
    """One call without ``--watch``, as from a script."""

    def test_the_files_are_what_a_server_answers(self, tmp_path: Path) -> None:
        """The files equal the server's answers: list, compressed list, codes and health check."""
        names = publish(tmp_path, SAMPLE)
        out = tmp_path / "out"
        assert sorted(names) == sorted(
            str(path.relative_to(out)) for path in out.rglob("*") if path.is_file()
        )
        body = (out / LIST).read_bytes()
        assert json.loads(body) == GUIDE_JSON
        assert gzip.decompress((out / f"{LIST}.gz").read_bytes()) == body
        assert json.loads((out / "health").read_bytes())["status"] == "healthy"
        text = (out / "api/v1/config/qr.json").read_text()
        assert json.loads(text) == GUIDE_JSON
        assert qr.scan(out / "api/v1/config/qr.png") == text

    def test_everybody_may_read_them(self, tmp_path: Path) -> None:
        """The files are readable for all users, even with a strict umask."""
        publish(tmp_path, SAMPLE)
        assert stat.S_IMODE((tmp_path / "out" / LIST).stat().st_mode) == 0o644

    def test_what_has_not_changed_is_not_touched(self, tmp_path: Path) -> None:
        """Unchanged files keep their modification time, which copying tools and caches compare."""
        file = write(tmp_path, "DomainList:\na.example\nb.example\n")
        assert publish(tmp_path, file)
        before = (tmp_path / "out" / LIST).stat()
        assert publish(tmp_path, file) == []
        after = (tmp_path / "out" / LIST).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        write(tmp_path, "DomainList:\na.example\nc.example\n")
        assert LIST in publish(tmp_path, file)

    def test_a_signed_list_needs_no_key_where_it_is_served(self, tmp_path: Path, key: Path) -> None:
        """The signed list verifies with the public keys that are published beside it."""
        publish(tmp_path, SAMPLE, "--key", str(key))
        out = tmp_path / "out"
        keys = json.loads((out / "api/v1/config/keys").read_bytes())
        assert "d" not in keys["keys"][0]
        signed = TrustedKeys([keys]).verify((out / f"{LIST}.jws").read_bytes())
        assert [e.url for e in signed.config.api_endpoints] == [
            entry["url"] for entry in GUIDE_JSON["api_endpoints"]
        ]

    def test_what_was_signed_elsewhere_stays(self, tmp_path: Path, key: Path) -> None:
        """A mirror has no key, so publishing leaves the signed list from another host in place."""
        publish(tmp_path, SAMPLE, "--key", str(key))
        signed = tmp_path / "out" / f"{LIST}.jws"
        before = signed.read_bytes()
        assert publish(tmp_path, SAMPLE) == []
        assert signed.read_bytes() == before

    def test_a_refused_text_changes_nothing(self, tmp_path: Path) -> None:
        """A refused text exits with 1 and one line; files stay unchanged, also on a first run."""
        publish(tmp_path, SAMPLE)
        before = (tmp_path / "out" / LIST).read_bytes()
        file = tmp_path / "e.txt"
        for text in (None, "", "\0", "DomainList:\n1.2.3.999\n"):
            if text is not None:
                file.write_text(text)
            result = run(*command(tmp_path, file), **state(tmp_path))
            assert (result.returncode, result.stdout) == (1, "")
            assert len(result.stderr.splitlines()) == 1
            assert (tmp_path / "out" / LIST).read_bytes() == before

    def test_good_entries_are_published_and_bad_ones_told(self, tmp_path: Path) -> None:
        """Good entries are published, bad entries are reported, and the exit code is 1."""
        file = write(tmp_path, "DomainList:\na.example\nb.example\n1.2.3.999\n")
        result = run(*command(tmp_path, file), **state(tmp_path))
        assert result.returncode == 1
        assert "line 4" in result.stderr
        assert LIST in result.stdout.splitlines()

    def test_two_lists_of_one_length_have_two_dates(self, tmp_path: Path) -> None:
        """Two lists of equal length get different dates.

        A web server builds its ETag from date and size, so equal dates would give equal ETags.
        """
        dates = set()
        for name in "abcde":
            file = write(tmp_path, f"DomainList:\n{name}.example\nz.example\n")
            publish(tmp_path, file)
            dates.add(int((tmp_path / "out" / LIST).stat().st_mtime))
        assert len(dates) == 5

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    def test_a_full_disk_leaves_every_file_as_it_was(self, tmp_path: Path) -> None:
        """With a full disk no file is replaced, and the error names the file that did not fit."""
        out = tmp_path / "out"
        out.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(out)], check=True)
        try:
            publish(tmp_path, SAMPLE)
            before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
            (out / "filler").write_bytes(bytes(60 << 10))
            hosts = "".join(f"host{number}.example\n" for number in range(500))
            file = write(tmp_path, f"DomainList:\n{hosts}")
            result = run(*command(tmp_path, file), **state(tmp_path))
            assert result.returncode == 1
            assert result.stderr.splitlines()[-1].startswith("mop-config: No space left on device:")
            assert str(out) in result.stderr.splitlines()[-1]
            assert {path: path.read_bytes() for path in before} == before
            assert not list(out.rglob(".*"))
        finally:
            subprocess.run(["umount", str(out)], check=True)

    def test_json_names_each_file_with_its_type(self, tmp_path: Path) -> None:
        """--json names each file with its media type, for uploads into object storage."""
        result = run(*command(tmp_path, SAMPLE, "--json"), **state(tmp_path))
        files = {each["path"]: each for each in json.loads(result.stdout)["files"]}
        assert files[f"{LIST}.gz"] == {
            "path": f"{LIST}.gz",
            "content_type": "application/json",
            "content_encoding": "gzip",
            "changed": True,
        }

    def test_a_key_that_is_none_is_refused(self, tmp_path: Path) -> None:
        """An invalid key is refused, so that no list is published unsigned by mistake."""
        result = run(*command(tmp_path, SAMPLE, "--key", str(SAMPLE)), **state(tmp_path))
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


class TestWhoMayRead:
    """The web server's user can read files that another user publishes."""

    @pytest.mark.parametrize("umask", [0o077, 0o027])
    def test_folders_and_files_whatever_the_umask(self, tmp_path: Path, umask: int) -> None:
        """Folders (also created parents) and files are readable under any umask."""
        before = os.umask(umask)
        try:
            publish(tmp_path, SAMPLE, "--out", str(tmp_path / "a" / "b"))
        finally:
            os.umask(before)
        paths = [tmp_path / "a", *(tmp_path / "a").rglob("*")]
        modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in paths}
        assert modes == {(True, 0o755), (False, 0o644)}

    def test_a_file_that_was_made_private_is_opened(self, tmp_path: Path) -> None:
        """A file with a private mode is opened to all users again."""
        publish(tmp_path, SAMPLE)
        out = tmp_path / "out"
        (out / LIST).chmod(0o600)
        assert publish(tmp_path, SAMPLE) == [LIST]
        assert stat.S_IMODE((out / LIST).stat().st_mode) == 0o644


def refused(folder: Path, place: Path) -> str:
    """Publish and return the error: exit 1, and one line that names the obstacle."""
    result = run(*command(folder, SAMPLE), **state(folder))
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "which is not replaced" in line
    assert line.endswith(str(place))
    return line


class TestWhatIsInTheWay:
    """A foreign link, folder or pipe in the place of a file is refused and left alone."""

    @pytest.mark.parametrize("name", [LIST, "health"])
    def test_a_link_in_the_place_of_a_file(self, tmp_path: Path, name: str) -> None:
        """A symbolic link is refused, even if its target has the right content."""
        publish(tmp_path, SAMPLE)
        path = tmp_path / "out" / name
        target = path.rename(tmp_path / "elsewhere")
        path.symlink_to(target)
        assert "no regular file" in refused(tmp_path, path)
        assert path.is_symlink()

    @pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
    def test_a_folder_or_a_pipe_there(self, tmp_path: Path, make: Callable[[Path], None]) -> None:
        """A folder or a named pipe is refused, and the command does not hang."""
        publish(tmp_path, SAMPLE)
        path = tmp_path / "out" / LIST
        path.unlink()
        make(path)
        refused(tmp_path, path)

    @pytest.mark.parametrize("name", ["api", "api/v1/config"])
    def test_a_link_in_the_place_of_a_folder(self, tmp_path: Path, name: str) -> None:
        """A linked folder is refused, and nothing is written behind the link."""
        path, elsewhere = tmp_path / "out" / name, tmp_path / "elsewhere"
        path.parent.mkdir(parents=True)
        elsewhere.mkdir()
        path.symlink_to(elsewhere)
        assert "no folder of ours" in refused(tmp_path, path)
        assert not list(elsewhere.iterdir())

    def test_a_file_that_is_removed_is_a_file(self, tmp_path: Path) -> None:
        """A file that is no longer published is removed, but a link in its place is not."""
        publish(tmp_path, SAMPLE)
        path = tmp_path / "out/api/v1/config/qr.png"
        path.unlink()
        path.symlink_to(SAMPLE)
        hosts = "".join(f"host{number}.example\n" for number in range(2000))
        file = write(tmp_path, f"DomainList:\n{hosts}")
        result = run(*command(tmp_path, file), **state(tmp_path))
        assert result.returncode == 1
        assert result.stderr.splitlines()[-1].endswith(str(path))
        assert path.is_symlink()

    @needs_root
    def test_the_folder_itself_may_be_a_link_of_ours(self, tmp_path: Path) -> None:
        """The output folder may be a link of our user, as web roots are, but of no other user."""
        (tmp_path / "real").mkdir()
        out = tmp_path / "out"
        out.symlink_to(tmp_path / "real")
        publish(tmp_path, SAMPLE)
        assert (tmp_path / "real" / LIST).exists()
        os.chown(out, MALLORY, MALLORY, follow_symlinks=False)
        assert "no folder of ours" in refused(tmp_path, out)


@needs_root
class TestRootInAnothersFolder:
    """Root publishes into a folder of another user, who may swap any file at any moment."""

    @pytest.fixture
    def place(self) -> Iterator[Path]:
        with place_for_all() as folder:
            yield folder

    def test_no_file_of_roots_is_opened_to_anybody(self, place: Path) -> None:
        """No file of root is opened to others, while the user swaps files and folders for links."""
        secret = place / "secret"
        secret.mkdir()
        (secret / "key").write_text("root's")
        os.utime(secret / "key", (1, 1))
        (secret / "key").chmod(0o600)
        secret.chmod(0o700)
        publish(place, SAMPLE)
        out = place / "out"
        for path in (out, *out.rglob("*")):
            os.chown(path, MALLORY, MALLORY)
        folder = out / "api/v1/config"

        def swap_files() -> None:
            for name in os.listdir(folder):
                if name.startswith("."):
                    os.unlink(folder / name)
                    os.symlink(secret / "key", folder / name)

        def swap_folders() -> None:
            os.rename(folder, aside := folder.with_name("aside"))
            os.symlink(secret, folder)
            os.unlink(folder)
            os.rename(aside, folder)

        file = place / "e.txt"
        settings = Settings(source=str(file), state_dir=str(place / "state"))
        with busy(MALLORY, swap_files, swap_folders):
            for number in range(40):
                # Two lists in turn, since the codes of more lists would take most of the time.
                file.write_text(f"DomainList:\na{number % 2}.example\nz.example\n")
                with contextlib.suppress(OSError):
                    StaticExporter(settings, out, str(place / "state")).publish()
        assert os.listdir(secret) == ["key"]
        for path, mode in ((secret, 0o700), (secret / "key", 0o600)):
            assert stat.S_IMODE(path.stat().st_mode) == mode
        assert (secret / "key").stat().st_mtime == 1
        assert (secret / "key").read_text() == "root's"

    def test_the_service_users_records_are_shared_and_stay_his(self, place: Path) -> None:
        """The service's server and root's command share the records that stay the service's.

        Both give a list one date and one version, and no record belongs to root.
        """
        records = place / "state"
        records.mkdir()
        os.chown(records, ALICE, ALICE)
        file = place / "e.txt"
        file.write_text("DomainList:\na.example\nb.example\n")
        settings = Settings(source=str(file), state_dir=str(records))

        def serve() -> None:
            client = create_app(settings, start=False).test_client()
            (place / "served").write_text(client.get(f"/{LIST}").headers["Last-Modified"])

        (place / "served").touch()
        os.chown(place / "served", ALICE, ALICE)
        as_user(ALICE, serve)
        for text in ("c.example", "d.example", "e.example"):
            file.write_text(f"DomainList:\n{text}\nb.example\n")
            os.utime(file, (1e9, 1e9))  # equal dates, so that only the records tell the files apart
            publish(place, file)
            given = (place / "out" / LIST).stat()
            assert given
            as_user(ALICE, serve)
        owners = {path.stat().st_uid for path in records.rglob("*")}
        assert owners == {ALICE}
        (record,) = records.rglob("*.lastgood")
        assert parse(StateDirectory(record.parent, ALICE).read(record.name)).release.version

    def test_a_version_that_the_service_user_planted_is_not_gone_on_from(
        self, place: Path, key: Path
    ) -> None:
        """A planted version is not continued, because no client would accept that version."""
        records = place / "state"
        records.mkdir()
        os.chown(records, ALICE, ALICE)
        file = write(place, "DomainList:\na.example\nb.example\n")
        publish(place, file, "--key", str(key))
        (record,) = records.rglob("*.lastgood")
        directory = StateDirectory(record.parent, ALICE)
        good = parse(directory.read(record.name))
        release = good.release._replace(last_modified=1 << 36, version=1 << 51)
        planted = good._replace(release=release)
        directory.write(record.name, planted.dump(), sync=False)
        file = write(place, "DomainList:\nc.example\nb.example\n")
        publish(place, file, "--key", str(key))
        keys = json.loads((place / "out/api/v1/config/keys").read_bytes())
        signed = TrustedKeys([keys]).verify((place / "out" / f"{LIST}.jws").read_bytes())
        assert signed.ver < (time.time() + 86400) * 1000

    def test_nothing_that_the_service_user_links_to_is_read_or_written(self, place: Path) -> None:
        """Links in the place of the records folder or of a record are neither read nor written."""
        secret = place / "secret"
        secret.write_text("root's")
        secret.chmod(0o600)
        records = place / "state"
        records.mkdir()
        os.chown(records, ALICE, ALICE)
        file = write(place, "DomainList:\na.example\nb.example\n")
        publish(place, file)
        (inside,) = records.iterdir()
        for path in list(inside.iterdir()):
            path.unlink()
            path.symlink_to(secret)
        file = write(place, "DomainList:\nc.example\nb.example\n")
        assert run(*command(place, file), **state(place)).returncode == 0
        assert (secret.read_text(), stat.S_IMODE(secret.stat().st_mode)) == ("root's", 0o600)
        shutil.rmtree(inside)
        away = place / "away"
        away.mkdir(mode=0o700)
        inside.symlink_to(away)
        file = write(place, "DomainList:\nd.example\nb.example\n")
        assert run(*command(place, file), **state(place)).returncode == 0
        assert not list(away.iterdir())

    def test_a_list_that_the_service_user_planted_is_not_published(
        self, place: Path, key: Path
    ) -> None:
        """A planted list is not signed, even while the source is missing.

        Root signs only texts that root has read.
        """
        records, file = place / "state", place / "e.txt"
        file.write_text("DomainList:\nevil.example\nb.example\n")
        records.mkdir()
        os.chown(records, MALLORY, MALLORY)
        settings = Settings(source=str(file), state_dir=str(records))
        as_user(MALLORY, lambda: create_app(settings, start=False))
        file.unlink()
        out = place / "out" / LIST
        with publishing(place, file, "--key", str(key)) as process:
            says(process, "is missing")
            file.write_text("DomainList:\ngood.example\nb.example\n")
            wait_for(out.exists, what="the list is published")
            assert b"evil" not in out.read_bytes()
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0


def says(process: "subprocess.Popen[str]", words: str) -> None:
    """Read the output until it contains the words."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it ended, and never said {words!r}")


class TestWatch:
    """``--watch`` follows a file."""

    def test_an_edit_is_published_and_a_bad_one_is_not(self, tmp_path: Path) -> None:
        """A good edit is published, a missing file is not; the process ends on a signal."""
        file, out = tmp_path / "e.txt", tmp_path / "out" / LIST
        file.write_text("DomainList:\na.example\nb.example\n")
        with publishing(tmp_path, file) as process:
            wait_for(out.exists, what="the list is published")
            file.write_text("DomainList:\nc.example\nb.example\n")
            wait_for(lambda: b"c.example" in out.read_bytes(), what="the edit is published")
            file.unlink()
            says(process, "is missing")
            assert b"c.example" in out.read_bytes()
            file.write_text("DomainList:\nd.example\nb.example\n")
            wait_for(lambda: b"d.example" in out.read_bytes(), what="the file is back")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0

    def test_a_boundary_is_published_when_it_comes(self, tmp_path: Path, key: Path) -> None:
        """The list and the signed list change at a boundary of ``until=``, and not before."""
        boundary = int(time.time()) + 5
        moment = f"{datetime.fromtimestamp(boundary, UTC):%Y-%m-%dT%H:%M:%SZ}"
        file = write(tmp_path, f"DomainList:\na.example\nold.example until={moment}\n")
        out, keys = tmp_path / "out", SigningKey.read(key.read_text()).public
        with publishing(tmp_path, Path(file), ENDPOINT_SIGNING_KEY_FILE=str(key)):
            wait_for((out / LIST).exists, what="the list is published")
            wait_for(lambda: b"old.example" not in (out / LIST).read_bytes(), what="the boundary")
            assert time.time() >= boundary

            def signed() -> bool:
                found = TrustedKeys([keys]).verify((out / f"{LIST}.jws").read_bytes())
                return "old.example" not in str(found.config) and found.ver == boundary * 1000

            wait_for(signed, what="the signed list is published")

    def test_a_folder_that_somebody_changes_is_put_right(self, tmp_path: Path) -> None:
        """Changed files are repaired, whether the source is polled or not."""
        file, out = write(tmp_path, "DomainList:\na.example\nb.example\n"), tmp_path / "out"
        with publishing(tmp_path, Path(file), ENDPOINT_POLL_INTERVAL="0") as process:
            says(process, "published")
            listed = (out / LIST).read_bytes()
            (out / LIST).write_bytes(listed.replace(b"a.example", b"x.example"))
            (out / "health").unlink()
            wait_for(lambda: (out / LIST).read_bytes() == listed, what="it is put right")
            wait_for((out / "health").exists, what="what was taken away is back")
            # As a terminal that closes does: nobody could end the program then.
            process.send_signal(signal.SIGHUP)
            assert process.wait(10) == -signal.SIGHUP

    def test_a_folder_that_cannot_be_written_to_is_tried_again(self, tmp_path: Path) -> None:
        """A failed write prints one line and is retried until it succeeds."""
        file, out = tmp_path / "e.txt", tmp_path / "out"
        file.write_text("DomainList:\na.example\nb.example\n")
        out.write_text("in the way")
        with publishing(tmp_path, file) as process:
            says(process, "cannot be published")
            out.unlink()
            wait_for((out / LIST).exists, what="the list is published")
            process.send_signal(signal.SIGINT)
            assert process.wait(10) == 130

    def test_a_signature_is_renewed_at_half_of_its_life(self, tmp_path: Path, key: Path) -> None:
        """A signature is renewed at half of its lifetime, without an edit or other writes."""
        file, now = write(tmp_path, "DomainList:\na.example\nb.example\n"), [1e9]
        settings = Settings(
            source=file,
            state_dir=str(tmp_path / "state"),
            signing_key_file=str(key),
            signing_ttl=100,
        )
        publisher = StaticExporter(settings, tmp_path / "out", str(tmp_path / "state"))
        publisher._signer._clock = lambda: now[0]
        publisher.publish()
        now[0] += 49
        assert publisher.publish()[0] == []
        now[0] += 1
        assert publisher.publish()[0] == [f"{LIST}.jws"]
