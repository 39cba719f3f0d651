"""The ASGI application gives the same answers as the Flask application."""

import asyncio
import atexit
import io
import itertools
import json
import threading
import time
from collections.abc import Iterable, Iterator
from functools import partial
from http import HTTPStatus
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from werkzeug.test import EnvironBuilder, run_wsgi_app

from mop_config.model.jws import SigningKey
from mop_config.server.service import EXTENSION, ConfigService
from mop_config.server.serving.answers import ConditionalAnswer
from mop_config.server.serving.responder import LongPoll
from mop_config.server.settings import Settings
from mop_config.server.web.asgi import WsgiBridge, create_asgi_app, request_environ

from ...conftest import SAMPLE
from ...servers import ENDPOINTS
from ...waiting import wait_for

Result = tuple[str, list[tuple[str, str]], bytes]


#: One event loop for all requests of the main thread, since making a loop is slow.
LOOP = asyncio.new_event_loop()
atexit.register(LOOP.close)
#: The bridges whose threads end after each test, since starting threads is slow.
USED: set[WsgiBridge] = set()
#: The request that each other one is derived from.
REQUEST = EnvironBuilder(path="/").get_environ()


@pytest.fixture(autouse=True)
def threads_end() -> Iterator[None]:
    """End the threads of the bridges that the test has used."""
    yield
    for bridge in USED:
        bridge.close()
    USED.clear()


def ask_asgi(app: Any, scope: dict[str, Any], body: bytes = b"") -> Result:
    """Send one request to an ASGI application, from a client that stays connected."""

    async def run() -> list[Any]:
        sent: list[Any] = []
        left = asyncio.Event()
        messages = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> Any:
            if messages:
                return messages.pop()
            await left.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message)

        await app(scope, receive, send)
        return sent

    main = threading.current_thread() is threading.main_thread()
    start, *rest = LOOP.run_until_complete(run()) if main else asyncio.run(run())
    USED.add(app)
    status = HTTPStatus(start["status"])
    headers = [(name.decode("latin-1"), v.decode("latin-1")) for name, v in start["headers"]]
    line = f"{status:d} {status.phrase.upper()}"
    return line, headers, b"".join(message.get("body", b"") for message in rest)


class Sides:
    """One application, called as ASGI and as WSGI."""

    def __init__(self, folder: Path, **settings: Any) -> None:
        values = {"source": str(SAMPLE), "state_dir": str(folder / "state"), **settings}
        self.asgi = create_asgi_app(Settings(**values), start=False)
        self.service: ConfigService = self.asgi.app.extensions[EXTENSION]
        self.service.responder.max_waiters = 0
        self.etag = self.service.store.view.snapshot.etag
        self.date = self.service.store.view.snapshot.last_modified_text

    def ask(
        self, method: str = "GET", path: str = ENDPOINTS, query: str = "", **headers: str
    ) -> Result:
        """Send a request to both sides, check that the answers are equal, and return the answer."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        flask = self.ask_flask(method, path, query, named)
        assert self.ask_asgi(method, path, query, named) == flask, (method, path, query, headers)
        return flask

    def ask_flask(self, method: str, path: str, query: str, headers: dict[str, str]) -> Result:
        """Send a request to the Flask application."""
        named = {f"HTTP_{name.upper().replace('-', '_')}": v for name, v in headers.items()}
        environ = {**REQUEST, **named, "wsgi.input": io.BytesIO()}
        environ.update(REQUEST_METHOD=method, PATH_INFO=path, QUERY_STRING=query)
        body, status, sent = run_wsgi_app(self.asgi.app, environ)
        return status, shown(sent), b"".join(body)

    def ask_asgi(self, method: str, path: str, query: str, headers: dict[str, str]) -> Result:
        """Send a request to the ASGI application."""
        status, sent, body = ask_asgi(self.asgi, self.scope(method, path, query, headers))
        return status, shown(sent), body

    def scope(self, method: str, path: str, query: str, headers: dict[str, str]) -> dict[str, Any]:
        """Return a request as an ASGI server would describe it."""
        return {
            "type": "http",
            "asgi": {"version": "3.0"},
            "method": method,
            "path": path.encode("latin-1").decode("utf-8", "surrogateescape"),
            "query_string": query.encode("latin-1"),
            "headers": [
                (name.lower().encode(), value.encode("latin-1"))
                for name, value in {"Host": "localhost", **headers}.items()
            ],
            "http_version": "1.1",
            "scheme": "http",
            "server": ("localhost", 80),
        }


def shown(headers: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """Return the headers sorted, without Retry-After, which is random."""
    kept = ((name.title(), value) for name, value in headers if name.lower() != "retry-after")
    return sorted((_NAMES.get(name, name), value) for name, value in kept)


_NAMES = {"Etag": "ETag", "Www-Authenticate": "WWW-Authenticate"}


@pytest.fixture(scope="module")
def sides(tmp_path_factory: pytest.TempPathFactory) -> Sides:
    return Sides(tmp_path_factory.mktemp("sides"))


METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "FROB"]
ENCODINGS = [None, "", "gzip", "identity;q=0", "gzip;q=0", "gzip;q=0.5, identity", "*;q=0", "br"]
PATHS = [
    ENDPOINTS,
    ENDPOINTS + "/",
    "/" + ENDPOINTS,
    "/api//v1/config/endpoints",
    "/api/v1/config/%65ndpoints",
    "/api/v1/config/../config/endpoints",
    "/API/v1/config/endpoints",
    "/nope",
    "/health",
    "",
]
ACCEPTS = [
    None,
    "*/*",
    "application/json",
    "application/jose",
    "application/jose;q=0",
    "application/json;q=0.5, application/jose",
    "text/html, application/jose;q=0.1",
]
QUERIES = ["", "x=1", "wait", "wait=", "wait=0", "wait=61", "wait=-1", "wait=x", "%77ait=0"]
QUERIES += ["wait=0&wait=0", "x=\xff", "%ff"]


def test_head_has_the_headers_of_get_and_no_body(sides: Sides) -> None:
    """HEAD has the headers of GET, also Content-Length, and no body, in both fronts."""
    for encoding in ("", "gzip"):
        status, headers, body = sides.ask("GET", Accept_Encoding=encoding)
        assert body
        assert sides.ask("HEAD", Accept_Encoding=encoding) == (status, headers, b"")


@pytest.mark.slow
def test_every_combination_of_conditions(sides: Sides) -> None:
    """All combinations of methods, encodings, ETags and dates get equal answers."""
    tag, packed = f'"{sides.etag}"', f'"{sides.etag}-gzip"'
    tags = [None, tag, packed, f"W/{tag}", "*", '"x"', f'"x", {tag}', "nonsense", ""]
    dates = [None, sides.date, "Sun, 06 Nov 1994 08:49:37 GMT", "nonsense"]
    for method, encoding, wanted, date in itertools.product(METHODS, ENCODINGS, tags, dates):
        headers = {
            "Accept_Encoding": encoding,
            "If_None_Match": wanted,
            "If_Modified_Since": date,
        }
        sides.ask(method, **{name: v for name, v in headers.items() if v is not None})


@pytest.mark.slow
def test_every_combination_where_lists_are_signed(tmp_path: Path) -> None:
    """With a signing key, all combinations of media types, encodings and ETags do too."""
    key = tmp_path / "key.json"
    key.write_text(json.dumps(SigningKey.generate().private_jwk()))
    sides = Sides(tmp_path, signing_key_file=str(key))
    status, headers, body = sides.ask(Accept="application/jose")
    assert (status, body.count(b".")) == ("200 OK", 2)
    signed = dict(headers)["ETag"]
    assert sides.ask(Accept="application/jose", If_None_Match=signed)[0] == "304 NOT MODIFIED"
    tags = [None, f'"{sides.etag}"', signed, "*", f'"x", {signed}']
    dates = [None, sides.date]
    paths = [ENDPOINTS, f"{ENDPOINTS}.jws", f"{ENDPOINTS}.jws/"]
    for method, path, query, accept, encoding, tag, date in itertools.product(
        ["GET", "HEAD", "POST"], paths, ["", "wait=0"], ACCEPTS, [None, "gzip"], tags, dates
    ):
        wanted = {"Accept": accept, "Accept_Encoding": encoding}
        known = {"If_None_Match": tag, "If_Modified_Since": date}
        sides.ask(
            method,
            path,
            query,
            **{name: value for name, value in (wanted | known).items() if value is not None},
        )


@pytest.mark.slow
def test_every_odd_path_and_query(sides: Sides) -> None:
    """Odd paths and queries get equal answers, with and without an ETag."""
    for method, path, query in itertools.product(METHODS, PATHS, QUERIES):
        sides.ask(method, path, query)
        sides.ask(method, path, query, If_None_Match=f'"{sides.etag}"')
        sides.ask(method, path, query, Accept="text/html", Origin="https://a.com")


@given(
    st.sampled_from(["GET", "HEAD"]),
    st.text(max_size=8).map(lambda tail: ENDPOINTS[:-1] + tail),
    st.text(st.characters(max_codepoint=255), max_size=20),
    st.dictionaries(
        st.sampled_from(["Accept", "Accept_Encoding", "If_None_Match", "If_Modified_Since"]),
        st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=30),
    ),
)
@settings(max_examples=300)
@pytest.mark.slow
def test_anything(
    sides: Sides, method: str, path: str, query: str, headers: dict[str, str]
) -> None:
    """Random paths, queries and headers get equal answers."""
    if "wait" not in query:
        sides.ask(method, path.encode().decode("latin-1"), query, **headers)


@pytest.mark.parametrize("origins", [(), ("*",), ("https://a.com",)])
@pytest.mark.parametrize("hosts", [(), ("a.com", ".b.com")])
def test_origins_and_hosts(
    tmp_path: Path, origins: tuple[str, ...], hosts: tuple[str, ...]
) -> None:
    """Both sides apply TRUSTED_HOSTS and CORS in the same way."""
    sides = Sides(tmp_path, cors_origins=origins, trusted_hosts=hosts)
    for method in ("GET", "HEAD", "OPTIONS", "POST"):
        for host in ("a.com", "A.com:80", "x.b.com", "evil.com", "[::1]", "a b", ""):
            for origin in ("", "https://a.com", "https://evil.com", "null"):
                headers = {"Origin": origin} if origin else {}
                status, _, _ = sides.ask(method, Host=host, **headers)
                refused = bool(hosts) and host in {"evil.com", "[::1]", "a b", ""}
                assert status.startswith("400") == refused


def test_a_server_that_adds_headers_adds_them_to_one_answer(sides: Sides) -> None:
    """The server gets a copy of the headers, so that its changes do not leak."""

    def start_response(status: str, headers: list[tuple[str, str]]) -> None:
        headers.append(("X-Added", "1"))

    environ = EnvironBuilder(path=ENDPOINTS).get_environ()
    wsgi: Any = sides.asgi.app
    wsgi(environ, start_response)
    assert "X-Added" not in dict(sides.ask()[1])


FRONTS = ["ask_flask", "ask_asgi"]


class TestWait:
    """The query ``?wait=SECONDS`` makes a long poll."""

    @pytest.mark.parametrize(
        "wait", ["", "x", "-1", "60.1", "61", "1e1", "1000", "nan", "%D9%A3", "1,5", "0&wait=0"]
    )
    def test_a_malformed_one_is_refused(self, sides: Sides, wait: str) -> None:
        """A malformed ``wait`` gets 400 with the allowed values, and is never parked."""
        status, headers, body = sides.ask(query=f"wait={wait}", If_None_Match=f'"{sides.etag}"')
        assert status.startswith("400")
        assert dict(headers)["Content-Type"] == "application/problem+json"
        assert [v for name, v in headers if name == "Cache-Control"] == ["no-store"]
        assert [v for name, v in headers if name == "Preference-Applied"] == ["wait"]
        assert (b"once" if "&" in wait else b"from 0 to 60") in body

    def test_every_other_answer_tells_of_it_too(self, sides: Sides) -> None:
        """Answers other than the list also have Preference-Applied and no-store."""
        for accept, status in [("application/jose", "404"), ("*/*", "200")]:
            found, headers, _ = sides.ask(query="wait=0", Accept=accept)
            assert found.startswith(status)
            assert [v for name, v in headers if name == "Cache-Control"] == ["no-store"]
            assert [v for name, v in headers if name == "Preference-Applied"] == ["wait"]

    def test_without_a_tag_or_with_another_it_is_answered_at_once(self, sides: Sides) -> None:
        """Without the current ETag the list is sent at once, with Preference-Applied."""
        for headers in ({}, {"If_None_Match": '"old"'}, {"If_Modified_Since": sides.date}):
            status, sent, body = sides.ask(query="wait=60", **headers)
            assert status.startswith("200")
            assert body
            assert dict(sent)["Preference-Applied"] == "wait"
            assert dict(sent)["Cache-Control"] == "no-store"
            assert dict(sent)["ETag"] == f'"{sides.etag}"'

    def test_an_error_of_one_client_keeps_no_other_from_its_answer(self, tmp_path: Path) -> None:
        """If the answer to one parked poll fails, the other polls are answered."""
        sides = Sides(tmp_path)
        sides.service.responder.max_waiters = 3
        fields = [(b"if-none-match", f'"{sides.etag}"'.encode())]
        ended: list[int] = []
        errors: list[Any] = []

        def end(number: int) -> None:
            ended.append(number)
            raise OSError(number)

        async def run() -> None:
            asyncio.get_running_loop().set_exception_handler(
                lambda _, context: errors.append(context)
            )
            for number in range(3):
                poll = sides.asgi.answer_at_once(
                    request_environ("GET", ENDPOINTS, b"wait=9", fields)
                )
                assert isinstance(poll, LongPoll)
                sides.asgi.polls().add(poll, partial(end, number))
            sides.service.store.close()
            while len(errors) < 3:
                await asyncio.sleep(0.01)

        asyncio.run(asyncio.wait_for(run(), 5))
        assert sorted(ended) == [0, 1, 2]
        assert sides.service.responder.waiters == 0

    def test_head_never_waits(self, sides: Sides) -> None:
        """HEAD is answered at once, since its answer has no body to wait for."""
        status, sent, body = sides.ask("HEAD", query="wait=60", If_None_Match=f'"{sides.etag}"')
        assert (status[:3], body) == ("304", b"")
        assert dict(sent)["Preference-Applied"] == "wait"

    def test_who_finds_no_room_comes_back_later(self, sides: Sides) -> None:
        """Beyond the limit of long polls, 304 has a random Retry-After."""
        assert sides.service.responder.max_waiters == 0
        environ = {
            "REQUEST_METHOD": "GET",
            "QUERY_STRING": "wait=60",
            "HTTP_IF_NONE_MATCH": f'"{sides.etag}"',
        }
        seen = set()
        for _ in range(60):
            found = sides.service.responder.respond(environ)
            assert isinstance(found, ConditionalAnswer)
            status, headers, _ = found
            assert status == 304
            assert dict(headers)["Cache-Control"] == "no-store"
            seen.add(int(dict(headers)["Retry-After"]))
        assert len(seen) > 5
        assert min(seen) >= 5
        environ["QUERY_STRING"] = "wait=0"
        found = sides.service.responder.respond(environ)
        assert isinstance(found, ConditionalAnswer)
        assert "Retry-After" not in dict(found.headers)

    @pytest.mark.parametrize("front", FRONTS)
    def test_it_ends_with_its_time(self, tmp_path: Path, front: str) -> None:
        """A long poll ends with 304 after its time, and frees its place."""
        sides = Sides(tmp_path)
        sides.service.responder.max_waiters = 1
        began = time.monotonic()
        known = {"If-None-Match": f'"{sides.etag}"'}
        status, headers, body = getattr(sides, front)("GET", ENDPOINTS, "wait=0.2", known)
        assert 0.2 <= time.monotonic() - began < 5
        assert (status[:3], body) == ("304", b"")
        assert dict(headers)["Preference-Applied"] == "wait"
        assert sides.service.responder.waiters == 0

    @pytest.mark.parametrize("front", FRONTS)
    def test_everybody_is_told_of_a_change_once(self, tmp_path: Path, front: str) -> None:
        """A change ends the long poll of each encoding's ETag; an unchanged reload ends none."""
        file = tmp_path / "endpoints.txt"
        file.write_text("DomainList:\na.com\nb.com\n")
        sides = Sides(tmp_path, source=str(file))
        service = sides.service
        service.responder.max_waiters = 10
        answers: list[Result] = []

        def poll(tag: str) -> None:
            headers = {"If-None-Match": tag}
            answers.append(getattr(sides, front)("GET", ENDPOINTS, "wait=30", headers))

        tags = [f'"{sides.etag}"', f'"{sides.etag}-gzip"', f'W/"{sides.etag}"', "*"]
        threads = [threading.Thread(target=poll, args=(tag,)) for tag in tags]
        for thread in threads:
            thread.start()
        wait_for(lambda: service.responder.waiters == 4)
        service.load()
        assert service.responder.waiters == 4
        file.write_text("DomainList:\nc.com\nd.com\n")
        service.load()
        wait_for(lambda: len(answers) >= 3, what="those who knew the old list are told")
        service.store.close()
        for thread in threads:
            thread.join(5)
        # If-None-Match: * matches every list, so that its long poll ends with 304.
        assert sorted(status[:3] for status, _, _ in answers) == ["200", "200", "200", "304"]
        assert {body for status, _, body in answers if status[:3] == "200"} == {sides.ask()[2]}
        assert service.responder.waiters == 0
