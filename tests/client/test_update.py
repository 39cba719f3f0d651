"""Updates: the sources of a new list, and the rules for accepting it."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from mop_config.client.lists.rules import (
    NewList,
    UpdateContext,
    combined_error,
    list_urls,
    sources,
    update,
)
from mop_config.errors import AddressError, UpdateFailed, UpdateRefused
from mop_config.model.address import parse_url
from mop_config.model.endpoint import Endpoint
from mop_config.net.http import HttpReply, may_send_token

A, B, C = "https://a.example", "https://b.example", "https://c.example"
PATH = "/api/v1/config/endpoints"


def answer(status: int, body: bytes = b"", etag: str | None = None) -> HttpReply:
    """Return a server's answer."""
    return HttpReply(status, {} if etag is None else {"etag": etag}, body)


NOT_FOUND = answer(404)
#: Stands for a server that refuses connections.
SILENCE = answer(0)


def listing(*api: str, sockets: tuple[str, ...] = (), etag: str | None = '"1"') -> HttpReply:
    """Return a server's answer with a list."""
    kinds = {"api_endpoints": api, "socketio_endpoints": sockets}
    lists = {
        kind: [{"url": url, "priority": place} for place, url in enumerate(urls)]
        for kind, urls in kinds.items()
    }
    return answer(200, json.dumps(lists).encode(), etag)


class Fetch(NamedTuple):
    """A request for a list."""

    request_url: str
    etag: str | None
    wait: int
    with_token: bool

    @property
    def url(self) -> str:
        """The URL of the list."""
        return self.request_url.partition("?wait=")[0]


class Servers:
    """Canned answers by URL, with a log of fetches and health checks."""

    def __init__(self, answers: dict[str, HttpReply], alive: tuple[str, ...] = ()) -> None:
        self.answers = answers
        self.alive = alive
        self.fetched: list[Fetch] = []
        self.checked: list[tuple[str, tuple[str, ...]]] = []

    def update(self, known: UpdateContext) -> NewList | None:
        """Ask the sources one after the other, like a search whose sources fail at once."""
        errors: list[UpdateFailed | UpdateRefused] = []
        for source in known.sources:
            try:
                return update(source, known, self._fetch, self._any_healthy).found
            except (UpdateFailed, UpdateRefused) as error:
                errors.append(error)
        raise combined_error(errors)

    def _fetch(self, url: str, etag: str | None, wait: int, with_token: bool) -> HttpReply:
        self.fetched.append(Fetch(url, etag, wait, with_token))
        reply = self.answers.get(self.fetched[-1].url, SILENCE)
        if reply is SILENCE:
            raise ConnectionRefusedError("connection refused")
        return reply

    def _any_healthy(self, kind: str, endpoints: tuple[Endpoint, ...]) -> bool:
        urls = tuple(endpoint.url for endpoint in endpoints)
        self.checked.append((kind, urls))
        return any(url in self.alive for url in urls)

    @property
    def asked(self) -> list[str]:
        return [fetch.url for fetch in self.fetched]


def known(
    *urls: str, api: tuple[str, ...] = (), socketio: tuple[str, ...] = (), **more: Any
) -> UpdateContext:
    healthy = {"api": frozenset(api), "socketio": frozenset(socketio)}
    return UpdateContext(urls, healthy, **{"etags": {}, **more})


class TestSources:
    """The order of the sources, and the URLs of their lists."""

    def test_the_best_one_then_a_configured_one_then_the_others(self) -> None:
        """The order is explicit, configured, current, others, then dead sources; each once."""
        assert sources(C, B, [A, B], ["https://d.example", A]) == (C, "https://d.example", B, A)
        assert sources(None, B, [A, B, C], []) == (B, A, C)
        assert sources(None, B, [A, B, C], ["https://d.example"], {A, B}) == (
            C,
            "https://d.example",
            B,
            A,
        )
        assert sources(C, B, [A, B], [A], {A, B, C}) == (C, B, A)
        assert sources(None, None, [], []) == ()

    @pytest.mark.parametrize(
        ("base", "urls"),
        [
            (A, [A + PATH]),
            (A + "/", [A + PATH]),
            (A + "/api/v1", [A + PATH]),
            (A + "/api/v1/", [A + PATH]),
            (A + PATH, [A + PATH]),
            (A + PATH + "/", [A + PATH]),
            (A + "/v2", [A + "/v2/config/endpoints", A + "/v2" + PATH, A + PATH]),
            (A + "/x/api/v1", [A + "/x" + PATH, A + PATH]),
            ("http://[::1]:8000/api/v1", ["http://[::1]:8000" + PATH]),
        ],
    )
    def test_a_base_url_works_with_and_without_its_path(self, base: str, urls: list[str]) -> None:
        """The list's URLs are derived from a base URL with any path, the likeliest first."""
        assert list_urls(base) == urls

    @pytest.mark.parametrize(
        ("url", "urls"),
        [
            (A, [A + PATH]),
            (A + "/api/v1", [A + PATH]),
            (A + PATH, [A + PATH]),
            (A + "/x/list", [A + "/x/list", A + "/x/list/config/endpoints", A + "/x/list" + PATH]),
            (A + "/v1.2", [A + "/v1.2", A + "/v1.2/config/endpoints", A + "/v1.2" + PATH]),
            (A + "/l.jws", [A + "/l.jws"]),
            (A + "/owner/raw/list.json", [A + "/owner/raw/list.json"]),
            (A + "/list?X-Sig=a%2Fb&e=1", [A + "/list?X-Sig=a%2Fb&e=1"]),
            (A + PATH + "?key=1", [A + PATH + "?key=1"]),
        ],
    )
    def test_a_configured_url_may_be_that_of_a_list(self, url: str, urls: list[str]) -> None:
        """A configured URL may be the list itself, which is tried first."""
        assert list_urls(url, configured=True)[:3] == urls
        assert len(list_urls(url + "?", configured=True)) == 1

    @pytest.mark.parametrize("query", ["a b", "a#b", "\u00e4", "a\n"])
    def test_a_query_that_cannot_be_sent(self, query: str) -> None:
        with pytest.raises(AddressError, match="the query holds a character"):
            list_urls(f"{A}/list?{query}", configured=True)

    def test_a_url_as_it_stands_gets_no_token_and_is_not_asked_to_wait(self) -> None:
        """A configured URL gets no token and no wait; URLs below it are tried afterwards."""
        signed, prefix = A + "/list?sig=1", B + "/v2"
        servers = Servers({signed: answer(403), prefix: answer(200, b"<html>")})
        servers.answers[prefix + "/config/endpoints"] = listing(A)
        found = servers.update(
            known(signed, prefix, configured=(signed, prefix), wait=9, etags={signed: '"1"'})
        )
        assert found is not None
        assert found.url == prefix + "/config/endpoints"
        assert [(f.request_url, f.with_token) for f in servers.fetched] == [
            (signed, False),
            (prefix, False),
            (prefix + "/config/endpoints", True),
        ]

    def test_the_query_of_a_url_shows_in_no_error(self) -> None:
        """Error messages omit the query of a URL, which may be a credential."""
        url = A + "/list?sig=secret"
        for reply in (SILENCE, answer(403), answer(200, b"no list"), listing()):
            with pytest.raises((UpdateFailed, UpdateRefused)) as caught:
                Servers({url: reply}).update(known(url, configured=(url,)))
            assert A + "/list?…" in str(caught.value)
            assert "secret" not in str(caught.value)

    def test_the_best_reason_is_told(self) -> None:
        """The error reports the answer at the URL itself, not the 404 below it."""
        url = A + "/list"
        servers = Servers(dict.fromkeys(list_urls(url), NOT_FOUND))
        servers.answers[url] = answer(200, b"no list")
        with pytest.raises(UpdateFailed) as caught:
            servers.update(known(url, configured=(url,)))
        assert caught.value.cause == "invalid"
        assert [where for where, _ in caught.value.attempts] == [url]
        servers.answers[url] = NOT_FOUND
        with pytest.raises(UpdateFailed) as caught:
            servers.update(known(url, configured=(url,)))
        assert caught.value.attempts == ((url, "it answers 404"),)

    @pytest.mark.parametrize("base", ["wss://a.example", "a.example", "https://a b", ""])
    def test_what_is_no_web_address_has_no_list(self, base: str) -> None:
        """A base URL that is not http or https raises AddressError."""
        with pytest.raises(AddressError):
            list_urls(base)

    def test_the_next_place_is_asked_where_there_is_nothing(self) -> None:
        """After 404, 405 or 501 the next URL of the source is tried, but not after a silence."""
        for nothing in (404, 405, 501):
            servers = Servers({A + "/v2/config/endpoints": answer(nothing), A + PATH: listing(A)})
            servers.answers[A + "/v2" + PATH] = NOT_FOUND
            found = servers.update(known(A + "/v2"))
            assert found is not None
            assert found.url == A + PATH
            assert servers.asked == list_urls(A + "/v2")
        servers = Servers({})
        with pytest.raises(UpdateFailed):
            servers.update(known(A + "/v2"))
        assert len(servers.asked) == 1

    def test_the_next_source_is_asked_where_one_gives_no_list(self) -> None:
        """After any failure the next source is asked, and the first list ends the search."""
        servers = Servers({A + PATH: answer(200, b"<html>"), B + PATH: answer(500)})
        servers.answers[C + PATH] = listing(C)
        found = servers.update(known("nonsense", A, B, C, "https://d.example"))
        assert found is not None
        assert [e.url for e in found.config.api_endpoints] == [C]
        assert (found.url, found.etag) == (C + PATH, '"1"')
        assert servers.asked == [A + PATH, B + PATH, C + PATH]


class TestConditional:
    """Conditional requests with ETags."""

    def test_the_tag_of_each_source_is_its_own(self) -> None:
        """Each source gets only its own ETag."""
        servers = Servers({B + PATH: answer(304)})
        assert servers.update(known(A, B, etags={B + PATH: '"b"'})) is None
        assert [fetch.etag for fetch in servers.fetched] == [None, '"b"']

    def test_not_modified_without_a_tag_is_no_answer(self) -> None:
        """A 304 to a request without an ETag is an invalid answer."""
        servers = Servers({A + PATH: answer(304), B + PATH: listing(B)})
        found = servers.update(known(A, B))
        assert found is not None
        assert found.url == B + PATH

    def test_only_a_source_that_we_have_a_list_of_may_hold_its_answer(self) -> None:
        """Only a request with an ETag asks the server to wait, since a first list is urgent."""
        servers = Servers({B + PATH: answer(304)})
        servers.update(known(A, B, etags={B + PATH: '"b"'}, wait=30))
        assert [fetch.wait for fetch in servers.fetched] == [0, 30]


class TestToken:
    """The sources that may get the token."""

    @pytest.mark.parametrize(
        ("url", "may"),
        [
            ("https://a.example", True),
            ("https://12.34.56.78:8443", True),
            ("http://127.0.0.1:8000", True),
            ("http://127.9.9.9", True),
            ("http://[::1]:8000", True),
            ("http://localhost:8000", True),
            ("http://a.example", False),
            ("http://10.0.0.1", False),
            ("http://[2001:db8::1]", False),
            ("http://localhost.evil.example", False),
            ("http://127.evil.example", False),
            ("http://127.0.0.1.evil.example", False),
            ("http://localhostevil.example", False),
        ],
    )
    def test_https_or_this_machine(self, url: str, may: bool) -> None:
        """The token is sent to https and to loopback hosts only."""
        assert may_send_token(parse_url(url)) is may

    def test_each_request_says_whether_it_may_carry_the_token(self) -> None:
        """Each fetch says whether it may carry the token."""
        servers = Servers({})
        with pytest.raises(UpdateFailed):
            servers.update(known(A, "http://b.example", "http://localhost:1"))
        assert [fetch.with_token for fetch in servers.fetched] == [True, False, True]


class TestCauses:
    """The causes of a failed update."""

    @pytest.mark.parametrize(
        ("reply", "cause"),
        [
            (SILENCE, "unreachable"),
            (answer(500), "unreachable"),
            (answer(503), "unreachable"),
            (answer(429), "unreachable"),
            (answer(401), "unauthorized"),
            (answer(403), "unauthorized"),
            (answer(404), "not_implemented"),
            (answer(405), "not_implemented"),
            (answer(501), "not_implemented"),
            (answer(400), "invalid"),
            (answer(304), "invalid"),
            (answer(204), "invalid"),
            (answer(200, b"<html>no</html>"), "invalid"),
            (answer(200, b"[]"), "invalid"),
            (answer(200, b'{"api_endpoints": [{"url": "x", "priority": 0}]}'), "invalid"),
            (answer(200, b'{"api_endpoints": {}}'), "invalid"),
            (answer(200, b"\xff\xfe\x00"), "invalid"),
            (answer(200, b"[" * 100_000), "invalid"),
        ],
    )
    def test_the_first_source_gives_the_cause(self, reply: HttpReply, cause: str) -> None:
        """The first source determines the cause, and the error lists all sources."""
        servers = Servers({A + PATH: reply})
        with pytest.raises(UpdateFailed) as failure:
            servers.update(known(A, B))
        assert failure.value.cause == cause
        assert [url for url, _ in failure.value.attempts] == [A + PATH, B + PATH]

    def test_without_a_source_it_is_unreachable(self) -> None:
        """Without a source the cause is "unreachable", and the message says so."""
        with pytest.raises(UpdateFailed, match="no source") as failure:
            Servers({}).update(known())
        assert (failure.value.cause, failure.value.attempts) == ("unreachable", ())

    def test_what_is_no_address_is_invalid(self) -> None:
        """An invalid source URL has the cause "invalid" and is not requested."""
        servers = Servers({})
        with pytest.raises(UpdateFailed) as failure:
            servers.update(known("wss://a.example"))
        assert (failure.value.cause, servers.asked) == ("invalid", [])


class TestGuards:
    """A list that would leave no working endpoint is refused."""

    @pytest.mark.parametrize("force", [False, True])
    @pytest.mark.parametrize("healthy", [(), (A,)])
    def test_an_empty_one_is_always_refused(self, force: bool, healthy: tuple[str, ...]) -> None:
        """An empty list is always refused, even with ``force``."""
        servers = Servers({A + PATH: listing()})
        with pytest.raises(UpdateRefused, match="empty") as refused:
            servers.update(known(A, api=healthy, force=force))
        assert refused.value.url == A + PATH

    def test_one_that_keeps_a_healthy_endpoint_is_taken_unseen(self) -> None:
        """A list that keeps a healthy endpoint is accepted without checks."""
        servers = Servers({A + PATH: listing(C, A)})
        assert servers.update(known(A, api=(A, B))) is not None
        assert servers.checked == []

    def test_one_that_is_all_new_is_looked_at_first(self) -> None:
        """A list of only new endpoints is accepted if a check finds a healthy one."""
        servers = Servers({A + PATH: listing(B, C)}, alive=(C,))
        found = servers.update(known(A, api=(A,)))
        assert found is not None
        assert servers.checked == [("api", (B, C))]

    def test_one_that_is_all_new_and_dead_is_refused(self) -> None:
        """A list of only new, dead endpoints is refused without ``force``."""
        servers = Servers({A + PATH: listing(B, C)})
        with pytest.raises(UpdateRefused, match="force=True"):
            servers.update(known(A, api=(A,)))
        assert servers.update(known(A, api=(A,), force=True)) is not None

    def test_where_nothing_works_any_list_is_taken(self) -> None:
        """Without a healthy endpoint any list is accepted without checks."""
        servers = Servers({A + PATH: listing(B)})
        assert servers.update(known(A)) is not None
        assert servers.checked == []

    def test_each_kind_is_guarded(self) -> None:
        """Each kind is guarded: sockets must not vanish, nor be replaced without a check."""
        lost = Servers({A + PATH: listing(A)})
        with pytest.raises(UpdateRefused, match="socketio"):
            lost.update(known(A, api=(A,), socketio=(A,)))
        new = Servers({A + PATH: listing(A, sockets=(B,))}, alive=(B,))
        assert new.update(known(A, api=(A,), socketio=(A,))) is not None
        assert new.checked == [("socketio", (B,))]

    @pytest.mark.parametrize(
        ("second", "end"),
        [
            (listing(A), "applied"),
            (answer(304), "unchanged"),
            (SILENCE, "refused"),
            (listing(), "refused"),
        ],
    )
    def test_after_a_refusal_the_next_source_is_asked(self, second: HttpReply, end: str) -> None:
        """After a refused list the next source is asked; the refusal is raised if all fail."""
        servers = Servers({A + PATH: listing(), B + PATH: second})
        ask: Callable[[], NewList | None] = lambda: servers.update(  # noqa: E731
            known(A, B, api=(A,), etags={B + PATH: '"b"'})
        )
        if end == "refused":
            with pytest.raises(UpdateRefused) as refused:
                ask()
            assert refused.value.url == A + PATH
        else:
            found = ask()
            assert (found is None) == (end == "unchanged")
        assert servers.asked == [A + PATH, B + PATH]


def test_a_password_in_a_source_is_never_echoed() -> None:
    """The error of a source with a password does not contain the password."""
    source = "http://joe:hunter@a.example"
    with pytest.raises(UpdateFailed) as caught:
        Servers({}).update(UpdateContext((source,), {}, {}))
    assert caught.value.cause == "invalid"
    assert "hunter" not in str(caught.value)
