"""``mop-config publish``: files that a web server serves as the server would."""

import gzip
import json
import os
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mop_config import qr
from mop_config.server.publisher import Publisher
from mop_config.server.settings import Settings
from mop_config.signing import SigningKey, TrustedKeys

from .conftest import GUIDE_JSON, SAMPLE
from .servers import ROOT
from .test_cli import run, write
from .waiting import wait_for

LIST = "api/v1/config/endpoints"


def publish(folder: Path, file: str | Path, *options: str, **environ: str) -> list[str]:
    """Publish into ``out``, and give the files that have changed."""
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
    """Follow a file."""
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
    """A file with a signing key."""
    path = tmp_path / "key.json"
    path.write_text(json.dumps(SigningKey.generate().private_jwk()))
    path.chmod(0o600)
    return path


class TestOnce:
    """One call, as from a script."""

    def test_the_files_are_what_a_server_answers(self, tmp_path: Path) -> None:
        """The list, the same compressed, codes that hold it, and a health check."""
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
        assert "https://log.ym1.com/api/v1" in (out / "index.html").read_text()

    def test_everybody_may_read_them(self, tmp_path: Path) -> None:
        """A web server is another user, and the umask may be strict."""
        publish(tmp_path, SAMPLE)
        assert stat.S_IMODE((tmp_path / "out" / LIST).stat().st_mode) == 0o644

    def test_what_has_not_changed_is_not_touched(self, tmp_path: Path) -> None:
        """Copying tools and caches go by the date."""
        file = write(tmp_path, "DomainList:\na.example\nb.example\n")
        assert publish(tmp_path, file)
        before = (tmp_path / "out" / LIST).stat()
        assert publish(tmp_path, file) == []
        after = (tmp_path / "out" / LIST).stat()
        assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
        write(tmp_path, "DomainList:\na.example\nc.example\n")
        assert LIST in publish(tmp_path, file)

    def test_a_signed_list_needs_no_key_where_it_is_served(self, tmp_path: Path, key: Path) -> None:
        """The signature is checked with the key that lies beside it, and goes with the key."""
        publish(tmp_path, SAMPLE, "--key", str(key))
        out = tmp_path / "out"
        keys = json.loads((out / "api/v1/config/keys").read_bytes())
        assert "d" not in keys["keys"][0]
        signed = TrustedKeys([keys]).verify((out / f"{LIST}.jws").read_bytes())
        assert [e.url for e in signed.config.api_endpoints] == [
            entry["url"] for entry in GUIDE_JSON["api_endpoints"]
        ]

    def test_what_was_signed_elsewhere_stays(self, tmp_path: Path, key: Path) -> None:
        """A mirror has no key: the signed list is brought there, and is nobody else's."""
        publish(tmp_path, SAMPLE, "--key", str(key))
        signed = tmp_path / "out" / f"{LIST}.jws"
        before = signed.read_bytes()
        assert publish(tmp_path, SAMPLE) == ["index.html"]  # it links to what it has published
        assert signed.read_bytes() == before

    def test_a_refused_text_changes_nothing(self, tmp_path: Path) -> None:
        """1, one line, and the files stand, also those of a first time."""
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
        """As a server would; the exit code says that something is wrong."""
        file = write(tmp_path, "DomainList:\na.example\nb.example\n1.2.3.999\n")
        result = run(*command(tmp_path, file), **state(tmp_path))
        assert result.returncode == 1
        assert "line 4" in result.stderr
        assert LIST in result.stdout.splitlines()

    def test_two_lists_of_one_length_have_two_dates(self, tmp_path: Path) -> None:
        """A web server's tag is made of date and size, and would call them the same."""
        dates = set()
        for name in "abcde":
            file = write(tmp_path, f"DomainList:\n{name}.example\nz.example\n")
            publish(tmp_path, file)
            dates.add(int((tmp_path / "out" / LIST).stat().st_mtime))
        assert len(dates) == 5

    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount")
    def test_a_full_disk_leaves_every_file_as_it_was(self, tmp_path: Path) -> None:
        """Not one new file beside an old one; and it says which did not fit."""
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

    def test_what_a_killed_run_left_is_taken_away(self, tmp_path: Path) -> None:
        """But not what another one is just writing."""
        publish(tmp_path, SAMPLE)
        listed = tmp_path / "out" / LIST
        left, other = (listed.with_name(f".endpoints.{pid}.7") for pid in (1, 2))
        for path in (left, other):
            path.write_bytes(b"half a list")
        os.utime(left, (time.time() - 3600,) * 2)
        listed.unlink()
        publish(tmp_path, SAMPLE)
        assert listed.exists()
        assert (left.exists(), other.exists()) == (False, True)

    def test_json_names_each_file_with_its_type(self, tmp_path: Path) -> None:
        """For whoever copies them into object storage."""
        result = run(*command(tmp_path, SAMPLE, "--json"), **state(tmp_path))
        files = {each["path"]: each for each in json.loads(result.stdout)["files"]}
        assert files[f"{LIST}.gz"] == {
            "path": f"{LIST}.gz",
            "content_type": "application/json",
            "content_encoding": "gzip",
            "changed": True,
        }

    def test_a_key_that_is_none_is_refused(self, tmp_path: Path) -> None:
        """Nothing is published unsigned by mistake."""
        result = run(*command(tmp_path, SAMPLE, "--key", str(SAMPLE)), **state(tmp_path))
        assert result.returncode == 1
        assert len(result.stderr.splitlines()) == 1
        assert not (tmp_path / "out").exists()


def says(process: "subprocess.Popen[str]", words: str) -> None:
    """Read on until it says so."""
    assert process.stderr is not None
    for line in process.stderr:
        if words in line:
            return
    pytest.fail(f"it ended, and never said {words!r}")


class TestWatch:
    """Following a file."""

    def test_an_edit_is_published_and_a_bad_one_is_not(self, tmp_path: Path) -> None:
        """Good, missing, good again; then it ends when told to."""
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

    @pytest.mark.parametrize("interval", ["0.5", "0"])
    def test_a_folder_that_somebody_changes_is_put_right(
        self, tmp_path: Path, interval: str
    ) -> None:
        """Now and then, and at once on SIGHUP."""
        file, out = write(tmp_path, "DomainList:\na.example\nb.example\n"), tmp_path / "out"
        with publishing(tmp_path, Path(file), ENDPOINT_POLL_INTERVAL=interval) as process:
            says(process, "published")
            listed = (out / LIST).read_bytes()
            (out / LIST).write_bytes(listed.replace(b"a.example", b"x.example"))
            (out / "index.html").unlink()
            if interval == "0":
                process.send_signal(signal.SIGHUP)
            wait_for(lambda: (out / LIST).read_bytes() == listed, what="it is put right")
            wait_for((out / "index.html").exists, what="what was taken away is back")
            process.send_signal(signal.SIGTERM)
            assert process.wait(10) == 0

    def test_a_folder_that_cannot_be_written_to_is_tried_again(self, tmp_path: Path) -> None:
        """One line, and the list once it can."""
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
        """Without an edit; and nothing else is written."""
        file, now = write(tmp_path, "DomainList:\na.example\nb.example\n"), [1e9]
        settings = Settings(
            source=file,
            state_dir=str(tmp_path / "state"),
            signing_key_file=str(key),
            signing_ttl=100,
        )
        publisher = Publisher(settings, tmp_path / "out", lambda: now[0])
        publisher.publish()
        now[0] += 49
        assert publisher.publish()[0] == []
        now[0] += 1
        assert publisher.publish()[0] == [f"{LIST}.jws"]
