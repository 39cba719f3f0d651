"""``mop-config token``, and how commands send a token to a server."""

import hashlib
import json
import re
import socket
from pathlib import Path

import psutil
import pytest

from mop_config.cli.server_api import ask, read_token, route
from mop_config.errors import MopConfigError
from mop_config.server.auth import parse

from ..client.handmade import Answer, Asked, handmade, wire
from ..ports import closed_port
from .forks import run

TOKEN = "mop_a-token.of~tests=="
LIST = wire(["https://a.com/api/v1", "https://b.com/api/v1"])


class TestNew:
    """``mop-config token new``."""

    def test_a_token_and_its_line(self) -> None:
        """The line holds the digest of the token, and the server accepts the token."""
        result = run("token", "new", "phone-app")
        assert (result.returncode, result.stderr) == (0, "")
        fields = dict(line.split("\t") for line in result.stdout.splitlines())
        assert list(fields) == ["token", "line"]
        expected = hashlib.sha256(fields["token"].encode()).hexdigest()
        assert fields["line"] == f"phone-app:{expected}:read"
        (token,) = parse(fields["line"].encode())[0]
        assert (token.name, token.admin) == ("phone-app", False)

    def test_json_for_an_admin(self) -> None:
        """--json prints the token for programs, and two calls give different tokens."""
        documents = [
            json.loads(run("token", "new", "ci", "--admin", "--json").stdout) for _ in "ab"
        ]
        assert {document["scope"] for document in documents} == {"admin"}
        assert len({document["token"] for document in documents}) == 2
        for document in documents:
            assert re.fullmatch(r"mop_[A-Za-z0-9_-]{43}", document["token"])
            assert parse(document["line"].encode())[0][0].admin

    @pytest.mark.parametrize("name", ["", "a b", "a:b", "a\nb", "#a", "-", "n" * 65, "env-1", "ü"])
    def test_a_bad_name(self, name: str) -> None:
        """A bad name is a wrong call and prints one line."""
        result = run("token", "new", "--", name)
        assert (result.returncode, result.stdout) == (2, "")
        assert len(result.stderr.splitlines()) == 1


class TestReadToken:
    """The token is read from a file, or else from the environment."""

    def test_both(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """The file takes precedence over the environment."""
        monkeypatch.delenv("MOP_CONFIG_TOKEN", raising=False)
        assert read_token(None) is None
        monkeypatch.setenv("MOP_CONFIG_TOKEN", TOKEN)
        assert read_token(None) == TOKEN
        (tmp_path / "token").write_text("another\n")
        assert read_token(str(tmp_path / "token")) == "another"

    @pytest.mark.parametrize("held", [b"", b"\n", b"a b", b"a\nb", b"\xff", b"x" * 600, b"a\x1bb"])
    def test_what_is_no_token_is_never_shown(
        self, tmp_path: Path, held: bytes, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Text that is no token is neither printed nor sent."""
        file = tmp_path / "token"
        file.write_bytes(held)
        with pytest.raises(MopConfigError, match=r"token holds no token: one line") as error:
            read_token(str(file))
        assert "xxx" not in str(error.value)
        assert "a b" not in str(error.value)
        if held.isascii() and held.strip():
            monkeypatch.setenv("MOP_CONFIG_TOKEN", held.decode())
            with pytest.raises(MopConfigError, match="MOP_CONFIG_TOKEN holds no token"):
                read_token(None)

    def test_a_file_that_cannot_be_read(self, tmp_path: Path) -> None:
        """An unreadable token file is reported."""
        for path in (tmp_path, tmp_path / "none"):
            with pytest.raises(MopConfigError, match="cannot be read"):
                read_token(str(path))


def asked_with(request: Asked) -> str | None:
    return request.headers.get("authorization")


class TestAsk:
    """A request carries the token only to servers that may see it."""

    def test_this_machine_is_shown_the_token(self) -> None:
        """A server on this machine gets the token as a bearer token, if there is a token."""
        with handmade(lambda request: (200, {}, LIST)) as server:
            for token, shown in ((TOKEN, f"Bearer {TOKEN}"), (None, None)):
                assert ask(server.url, token=token).status == 200
                assert asked_with(server.asked[-1]) == shown

    def test_a_redirect_is_not(self) -> None:
        """A redirect to any server drops the token."""
        with handmade(lambda request: (200, {}, LIST)) as other:
            to = {"Location": f"{other.url}/x"}
            with handmade(lambda request: (302, to, b"")) as server:
                assert ask(server.url, token=TOKEN).status == 200
                assert asked_with(server.asked[0]) == f"Bearer {TOKEN}"
            assert asked_with(other.asked[0]) is None

    def test_a_proxy_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """The request bypasses a proxy, which could read the token over http."""
        with handmade(lambda request: (200, {}, LIST)) as server:
            monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
            monkeypatch.delenv("no_proxy", raising=False)
            monkeypatch.delenv("NO_PROXY", raising=False)
            assert ask(server.url, token=TOKEN).status == 200
            assert ask(server.url, token=None).status == 200

    def test_plain_http_to_another_machine_is_not(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Over plain http no token goes to another machine, and the refusal gives the reason."""
        refusal = b'{"detail":"a token is needed\\u001b[2J"}'

        def answer(request: Asked) -> Answer:
            return 401, {}, refusal

        with handmade(answer) as proxy:
            # The proxy plays the network between this machine and the server.
            monkeypatch.setenv("http_proxy", proxy.url)
            for name in ("no_proxy", "NO_PROXY"):
                monkeypatch.delenv(name, raising=False)
            reply = ask("http://config.example.com/x", token=TOKEN)
            assert asked_with(proxy.asked[0]) is None
        line = str(reply.refusal())
        assert "401 Unauthorized: a token is needed" in line
        assert "a token goes to https or to this machine only" in line
        assert line.isprintable()

    def test_an_address_of_this_machine_is_shown_it(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """A server that listens on a network address gets the token, and no proxy sees it."""
        addresses = [each for card in psutil.net_if_addrs().values() for each in card]
        ours = [each.address for each in addresses if each.family == socket.AF_INET]
        host = next(address for address in ours if not address.startswith("127."))
        with handmade() as proxy, handmade(host=host) as server:
            monkeypatch.setenv("http_proxy", proxy.url)
            assert ask(server.url, token=TOKEN).status == 200
            assert asked_with(server.asked[0]) == f"Bearer {TOKEN}"
            assert proxy.asked == []

    def test_whoever_is_not_there(self) -> None:
        """A refused connection prints one line."""
        with pytest.raises(MopConfigError, match="gives no answer"):
            ask(f"http://127.0.0.1:{closed_port()}/x")

    @pytest.mark.parametrize(
        "url",
        [
            "http://a.com",
            "http://a.com/",
            "http://a.com/api/v1",
            "http://a.com/api/v1/config/endpoints",
            "http://a.com/api/v1/config/endpoints.jws",
        ],
    )
    def test_a_route_of_a_server(self, url: str) -> None:
        """The route's URL is built from any spelling of the server."""
        path = "/api/v1/config/reload"
        assert route(url, path, "URL") == "http://a.com/api/v1/config/reload"
        assert route(url.replace(".com", ".com/under"), path, "URL").endswith(".com/under" + path)


class TestReload:
    """``mop-config reload`` against servers that are not mop-config."""

    @pytest.mark.parametrize(
        ("answer", "word"),
        [
            ((404, {}, b"nothing"), "answers 404 Not Found"),
            ((200, {}, b"<html>"), "did not return a reload result"),
            ((200, {}, b"[]"), "did not return a reload result"),
            ((200, {}, b'{"workers":[1]}'), "did not return a reload result"),
            ((200, {}, b"[" * 100_000), "did not return a reload result"),
            ((307, {"Location": "http://127.0.0.1:1/"}, b""), "answers 307"),
            ((500, {}, b'{"detail":"\\u001b[31m\\n"}'), "answers 500"),
        ],
    )
    def test_one_line(self, answer: Answer, word: str) -> None:
        """Any answer of such a server gives one line."""
        with handmade(lambda request: answer) as server:
            result = run("reload", server.url, MOP_CONFIG_TOKEN=TOKEN)
        assert (result.returncode, result.stdout) == (1, "")
        assert word in result.stderr
        assert len(result.stderr.splitlines()) == 1
        assert result.stderr.rstrip("\n").isprintable()
        assert TOKEN not in result.stderr
