"""``keygen``, ``sign`` and ``verify``, as an operator uses them without a server."""

import json
import os
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple

import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from mop_config.cli import run
from mop_config.model.jws import MAX_NUMBER, SigningKey, TrustedKeys

from ..client.handmade import Answer, Asked, Handmade, handmade, wire
from ..conftest import GUIDE_JSON, SAMPLE
from ..disks import fill, small_disk
from ..servers import ENDPOINTS

KEY, OTHER = SigningKey.generate(), SigningKey.generate()
TRUSTED = TrustedKeys([KEY.public])


class Result(NamedTuple):
    """The output and the exit code of a command."""

    code: int
    out: str
    err: str


class Desk:
    """A folder with keys, in which commands run."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self._capsys = capsys
        for name, key in (("key", KEY), ("other", OTHER)):
            self.write(f"{name}.jwk", json.dumps(key.private_jwk()))
            self.write(f"{name}.pub", json.dumps(key.public))

    def write(self, name: str, text: str | bytes) -> Path:
        path = self.folder / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        path.chmod(0o600)
        return path

    def __call__(self, *arguments: object) -> Result:
        code = run([str(argument) for argument in arguments])
        return Result(code, *self._capsys.readouterr())

    def failing(self, *arguments: object, code: int = 1) -> str:
        """Run a failing command and return its one line, which must hold no secret."""
        result = self(*arguments)
        assert (result.code, result.out) == (code, "")
        (line,) = result.err.splitlines()
        assert line.startswith("mop-config: ")
        assert KEY.private_jwk()["d"] not in line
        return line

    def sign(self, *arguments: object) -> str:
        result = self("sign", *arguments, "--key", "key.jwk")
        assert (result.code, result.err) == (0, "")
        return result.out


@pytest.fixture
def desk(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Desk:
    for name in [name for name in os.environ if name.startswith("ENDPOINT_")]:
        monkeypatch.delenv(name)
    # The command line configures the loggers for a real process; keep pytest's handlers.
    monkeypatch.setattr(sys, "stdout", sys.stdout)
    monkeypatch.chdir(tmp_path)
    return Desk(tmp_path, capsys)


class TestKeygen:
    """A new key is private to its user, and no command overwrites it."""

    def test_into_a_file(self, desk: Desk) -> None:
        """The private key is private under any umask, and the public key is printed."""
        before = os.umask(0)
        try:
            result = desk("keygen", "--out", "new.jwk")
        finally:
            os.umask(before)
        path = desk.folder / "new.jwk"
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        key = SigningKey.read(path.read_text())
        assert json.loads(result.out) == key.public
        assert (result.code, result.err) == (0, "")
        assert key.private_jwk()["d"] not in result.out

    def test_a_full_disk(self, desk: Desk) -> None:
        """A full disk fails the command, with one line, and leaves no empty file behind."""
        disk = desk.folder / "disk"
        with small_disk(disk):
            fill(disk / "filler")
            assert "No space left" in desk.failing("keygen", "--out", "disk/key.jwk")
            (disk / "filler").unlink()
            assert desk("keygen", "--out", "disk/key.jwk").code == 0

    def test_an_output_that_takes_nothing(self, desk: Desk) -> None:
        """If the public half cannot be printed, the command fails, with one line."""
        program = [sys.executable, "-m", "mop_config", "keygen", "--out", str(desk.folder / "k")]
        with open("/dev/full", "w") as full:
            done = subprocess.run(program, stdout=full, stderr=subprocess.PIPE, check=False)
        assert (done.returncode, done.stderr) == (1, b"mop-config: No space left on device\n")

    def test_it_refuses_to_overwrite(self, desk: Desk) -> None:
        """An existing file is not overwritten, nor is a dangling symbolic link."""
        before = (desk.folder / "key.jwk").read_bytes()
        assert "never overwritten" in desk.failing("keygen", "--out", "key.jwk")
        assert (desk.folder / "key.jwk").read_bytes() == before
        (desk.folder / "link").symlink_to("nowhere")
        desk.failing("keygen", "--out", "link")
        assert not (desk.folder / "nowhere").exists()
        assert "No such file" in desk.failing("keygen", "--out", "no/such")

    def test_to_the_standard_output(self, desk: Desk) -> None:
        """The private key goes to standard output for a secret store, the public to stderr."""
        result = desk("keygen")
        assert json.loads(result.err) == SigningKey.read(result.out).public

    def test_as_json(self, desk: Desk) -> None:
        """--json prints one object, without the private key if that was written to a file."""
        document = json.loads(desk("keygen", "--json").out)
        assert SigningKey.read(json.dumps(document["private_key"])).kid == document["kid"]
        document = json.loads(desk("keygen", "--json", "--out", "j.jwk").out)
        assert document.keys() == {"kid", "public_key", "file"}

    def test_no_two_are_alike(self, desk: Desk) -> None:
        """Two calls create two different keys."""
        assert desk("keygen").out != desk("keygen").out


class TestSign:
    """``sign`` signs a list as the server does, without a server."""

    def test_the_sample(self, desk: Desk) -> None:
        """The output is the served list, signed, without a newline at the end."""
        file = desk.write("e.txt", SAMPLE.read_bytes())
        os.utime(file, (1_700_000_000, 1_700_000_000.5))
        before = time.time()
        text = desk.sign("e.txt")
        assert text == text.strip()
        found = TRUSTED.verify(text, time.time())
        assert int(before * 1000) <= found.ver <= time.time() * 1000
        assert found.exp - found.iat == 7 * 86400
        assert abs(found.iat - time.time()) < 60
        assert [e.url for e in found.config.api_endpoints] == [
            entry["url"] for entry in GUIDE_JSON["api_endpoints"]
        ]

    def test_the_life_and_the_version(self, desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
        """Options set the lifetime and the version; the server's variable sets the lifetime too."""
        found = TRUSTED.verify(desk.sign(SAMPLE, "--ttl", "2h", "--ver", "77"))
        assert (found.ver, found.exp - found.iat) == (77, 7200)
        monkeypatch.setenv("ENDPOINT_SIGNING_TTL", "30m")
        found = TRUSTED.verify(desk.sign(SAMPLE))
        assert found.exp - found.iat == 1800

    @pytest.mark.parametrize(("ahead", "counts"), [(-86400, False), (60, True), (86400, False)])
    def test_the_list_signed_last_has_the_highest_version(
        self, desk: Desk, ahead: float, counts: bool
    ) -> None:
        """The list that is signed last has the highest version, whatever the files' dates.

        A file date that is a little ahead of the clock becomes the version; a date far ahead does
        not.
        """
        desk.write("e.txt", "DomainList:\na.example\nb.example\n")
        newer = TRUSTED.verify(desk.sign("e.txt"))
        file = desk.write("e.txt", "DomainList:\nb.example\nc.example\n")
        date = int(time.time() + ahead)
        os.utime(file, (date, date))
        older = TRUSTED.verify(desk.sign("e.txt"))
        assert older.ver > newer.ver
        assert (older.ver == date * 1000) is counts

    def test_a_version_of_the_future(self, desk: Desk) -> None:
        """A version in the future is refused where apps would refuse it."""
        soon = int(time.time() + 3600) * 1000
        result = desk("sign", SAMPLE, "--key", "key.jwk", "--ver", soon)
        assert TRUSTED.verify(result.out).ver == soon
        assert "in the future" not in result.err
        for late in (int(time.time() + 86460) * 1000, MAX_NUMBER):
            line = desk.failing("sign", SAMPLE, "--key", "key.jwk", "--ver", late, code=2)
            assert "more than a day in the future" in line

    def test_the_next_change_is_named(self, desk: Desk) -> None:
        """A list whose next window boundary comes before its end must be signed again then."""
        late = datetime.now(UTC) + timedelta(hours=5, minutes=1)
        desk.write("e.txt", f"ApiList:\na.example until={late:%Y-%m-%dT%H:%M:%SZ}\nb.example\n")
        result = desk("sign", "e.txt", "--key", "key.jwk")
        change = "next change in 5 hours: − api https://a.example/api/v1"
        assert f"mop-config: {change}: sign again then\n" in result.err
        assert len(TRUSTED.verify(result.out).config.api_endpoints) == 2

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (b"", "no usable endpoint"),
            (b"DomainList:\n", "no usable endpoint"),
            (b"\0", "NUL"),
            (b"\xff", "UTF-8"),
        ],
    )
    def test_a_file_that_is_no_list(
        self, desk: Desk, text: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Text that is no list, and an empty list, are refused without output."""
        desk.write("e.txt", text)
        for allowed in ("0", "1"):
            monkeypatch.setenv("ENDPOINT_ALLOW_EMPTY", allowed)
            result = desk("sign", "e.txt", "--key", "key.jwk")
            assert (result.code, result.out) == (1, "")
            assert reason in result.err.splitlines()[-1]
        assert "missing" in desk.failing("sign", "none.txt", "--key", "key.jwk")

    def test_a_file_with_errors_is_not_signed(self, desk: Desk) -> None:
        """A file with errors is not signed, and each error is printed; warnings do not matter."""
        desk.write("e.txt", "DomainList:\na.example\n300.1.1.1\n")
        result = desk("sign", "e.txt", "--key", "key.jwk")
        assert (result.code, result.out) == (1, "")
        assert "bad-ip" in result.err or "not an IPv4 address" in result.err
        desk.write("e.txt", "DomainList:\na.example\n")
        result = desk("sign", "e.txt", "--key", "key.jwk")
        assert (result.code, len(TRUSTED.verify(result.out).config.api_endpoints)) == (0, 1)

    def test_a_bad_key(self, desk: Desk) -> None:
        """A public key, a missing key and a file that is no key are refused."""
        desk.write("bad.jwk", KEY.private_jwk()["d"])
        for key in ("key.pub", "none", "bad.jwk", "."):
            assert "--key" in desk.failing("sign", SAMPLE, "--key", key)
        rsa = generate_private_key(65537, 2048)
        desk.write("rsa.pem", rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        assert "another kind of key" in desk.failing("sign", SAMPLE, "--key", "rsa.pem")

    def test_a_key_that_everybody_can_read_is_warned_of(self, desk: Desk) -> None:
        """A key file that every user can read causes a warning, and is used."""
        (desk.folder / "key.jwk").chmod(0o604)
        result = desk("sign", SAMPLE, "--key", "key.jwk")
        assert TRUSTED.verify(result.out)
        assert "read by everybody" in result.err

    @pytest.mark.parametrize(
        "arguments",
        [
            ["sign", SAMPLE],
            ["sign", "--key", "key.jwk"],
            ["sign", "", "--key", "key.jwk"],
            ["sign", SAMPLE, "--key", "key.jwk", "--ttl", "1x"],
            ["sign", SAMPLE, "--key", "key.jwk", "--ttl", "5"],
            ["sign", SAMPLE, "--key", "key.jwk", "--ver", "-1"],
            ["sign", SAMPLE, "--key", "key.jwk", "--ver", "9" * 400],
            ["sign", "etcd://x", "--key", "key.jwk"],
            ["verify", "e.jws"],
            ["verify", "http://joe:hunter@x", "--key", "key.pub"],
            ["keygen", "--out", ""],
        ],
    )
    def test_a_wrong_call(self, desk: Desk, arguments: list[object]) -> None:
        """A wrong call exits with 2 and prints one line that names the help."""
        line = desk.failing(*arguments, code=2)
        assert "--help" in line
        assert "hunter" not in line


class TestVerify:
    """``verify`` checks if an app would accept the list."""

    @pytest.fixture
    def signed(self, desk: Desk) -> str:
        text = desk.sign(SAMPLE, "--ver", "1000")
        desk.write("e.jws", text)
        return text

    def test_a_good_file(self, desk: Desk, signed: str) -> None:
        """Either half of the key verifies the list; the command prints the signed claims."""
        for keys in (["key.pub"], ["key.jwk"], ["other.pub", "key.pub"]):
            result = desk("verify", "e.jws", *(a for key in keys for a in ("--key", key)))
            assert (result.code, result.err) == (0, "")
            assert "6 API and 6 Socket.io endpoints, version 1000" in result.out
            assert KEY.kid in result.out
        document = json.loads(desk("verify", "e.jws", "--key", "key.pub", "--json").out)
        assert document["ok"] is True
        assert (document["ver"], document["kid"]) == (1000, KEY.kid)
        assert document["counts"] == {"api": 6, "socketio": 6}
        assert document["exp"].endswith("Z")

    def test_a_newline_behind_it_does_not_matter(self, desk: Desk, signed: str) -> None:
        """A newline at the end, which editors add, does not matter."""
        desk.write("e.jws", signed + "\n")
        assert desk("verify", "e.jws", "--key", "key.pub").code == 0

    @pytest.mark.parametrize(
        ("change", "key", "reason"),
        [
            (lambda text: text, "other.pub", "not trusted"),
            (lambda text: text[:-8], "key.pub", "signature is wrong"),
            (lambda text: "x", "key.pub", "not a signed list"),
            (lambda text: "", "key.pub", "not a signed list"),
            (lambda text: "\0" * 1000, "key.pub", "not a signed list"),
            (
                lambda text: KEY.sign(b"{}", ver=1, iat=1, exp=2).decode(),
                "key.pub",
                "not a list",
            ),
            (
                lambda text: KEY.sign(b'{"api_endpoints":[]}', ver=1, iat=1, exp=2).decode(),
                "key.pub",
                "expired at 1970-01-01T00:00:02.000Z",
            ),
            (
                lambda text: KEY.sign(wire(["https://a.b"]), ver=2**52, iat=1, exp=2**40).decode(),
                "key.pub",
                "more than a day in the future",
            ),
        ],
    )
    def test_a_bad_file(
        self, desk: Desk, signed: str, change: object, key: str, reason: str
    ) -> None:
        """A bad file exits with 1 and gives the reason in words and as JSON."""
        assert callable(change)
        desk.write("e.jws", change(signed))
        assert reason in desk.failing("verify", "e.jws", "--key", key)
        result = desk("verify", "e.jws", "--key", key, "--json")
        document = json.loads(result.out)
        assert (result.code, document["ok"]) == (1, False)
        assert reason in document["reason"]
        assert document["code"]

    def test_what_cannot_be_read(self, desk: Desk, signed: str) -> None:
        """An unreadable list or key file is an error."""
        assert "none" in desk.failing("verify", "none", "--key", "key.pub")
        assert "none" in desk.failing("verify", "e.jws", "--key", "none")
        assert "'e.jws'" in desk.failing("verify", "e.jws", "--key", "e.jws")

    @pytest.fixture
    def server(self, signed: str) -> Iterator[Handmade]:
        def answer(asked: Asked) -> Answer:
            known = asked.path in {f"{ENDPOINTS}.jws", "/list.jws"}
            return (200, {}, signed.encode()) if known else (404, {}, b"")

        with handmade(answer) as server:
            yield server

    @pytest.mark.parametrize(
        "path", ["", "/", "/api/v1", ENDPOINTS, f"{ENDPOINTS}.jws", "/list.jws"]
    )
    def test_a_server(self, desk: Desk, server: Handmade, path: str) -> None:
        """The server may be given by any spelling of its URL; the request is for a signed list."""
        assert desk("verify", server.url + path, "--key", "key.pub").code == 0
        assert server.asked[0].header("accept") == "application/jose"

    def test_a_server_without_one(self, desk: Desk, server: Handmade) -> None:
        """If the server has no signed list, its answer is printed as the reason."""
        line = desk.failing("verify", f"{server.url}/none.jws", "--key", "key.pub")
        assert "404" in line
        line = desk.failing("verify", "http://127.0.0.1:1", "--key", "key.pub")
        assert "gives no answer" in line
