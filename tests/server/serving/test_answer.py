"""Conditional requests, encodings and caching of the list."""

import gzip

import pytest

from mop_config.server.parsing.render import EMPTY, EMPTY_BODY, render
from mop_config.server.serving.answers import SECURITY_HEADERS, ConditionalAnswer
from mop_config.server.serving.responder import respond_conditionally
from mop_config.server.serving.store import Snapshot
from mop_config.server.settings import Settings, UrlRules

from ...conftest import SAMPLE


def snapshot(data: bytes = SAMPLE.read_bytes(), last_modified: int = 784111777) -> Snapshot:
    rendering = render(data, UrlRules(), EMPTY_BODY)
    return Snapshot.of(rendering, Settings(), 0.0, last_modified)


SERVED = snapshot()
TAG = f'"{SERVED.etag}"'
PACKED_TAG = f'"{SERVED.etag}-gzip"'
DATE = "Sun, 06 Nov 1994 08:49:37 GMT"


def ask(served: Snapshot, method: str, *values: str | None) -> ConditionalAnswer:
    """Return the answer to a request with the values of the headers that count, in this order."""
    names = ("HTTP_ACCEPT_ENCODING", "HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE")
    given = {name: v for name, v in zip(names, values, strict=False) if v is not None}
    return respond_conditionally(served, {"REQUEST_METHOD": method, **given})


def test_a_plain_answer() -> None:
    """The answer has the body, its length, a strong ETag, Last-Modified and max-age."""
    status, headers, body = ask(SERVED, "GET")
    assert status == 200
    assert dict(headers) == {
        "Content-Type": "application/json",
        "Content-Length": str(len(body)),
        "ETag": TAG,
        "Cache-Control": "max-age=60",
        "Vary": "Accept-Encoding",
        "Last-Modified": DATE,
        **dict(SECURITY_HEADERS),
    }


def test_the_compressed_answer_has_a_tag_of_its_own() -> None:
    """The gzip variant has its own ETag, since it is another representation (RFC 9110, 8.8.3.3)."""
    _status, headers, body = ask(SERVED, "GET", "gzip")
    assert dict(headers)["Content-Encoding"] == "gzip"
    assert dict(headers)["ETag"] == PACKED_TAG
    assert dict(headers)["Content-Length"] == str(len(body))
    assert gzip.decompress(body) == ask(SERVED, "GET").body


@pytest.mark.parametrize(
    ("accept", "packed"),
    [
        (None, False),
        ("", False),
        ("gzip", True),
        ("GZIP", True),
        ("x-gzip", True),
        ("br, gzip;q=0.5", True),
        ("*", True),
        ("*;q=0.1", True),
        ("gzip;q=0", False),
        ("gzip;q=0, *", False),
        ("identity", False),
        ("identity;q=0.5, gzip;q=0.4", False),
        ("identity;q=0.5, gzip;q=0.5", True),
        ("identity;q=0", False),
        ("identity;q=0, gzip", True),
        ("*;q=0", False),
        ("br", False),
        ("gzip;q=nonsense", False),
        (",;=,", False),
    ],
)
def test_what_is_accepted_chooses_the_encoding_and_is_never_refused(
    accept: str | None, packed: bool
) -> None:
    """There is no 406: a client that forbids every encoding gets the plain list."""
    status, headers, _ = ask(SERVED, "GET", accept)
    assert status == 200
    assert ("Content-Encoding" in dict(headers)) is packed


@pytest.mark.parametrize("accept", [None, "gzip"])
@pytest.mark.parametrize(
    ("if_none_match", "fresh"),
    [
        (TAG, True),
        (PACKED_TAG, True),
        (f"W/{TAG}", True),
        (f'"x", {PACKED_TAG}, "y"', True),
        ("*", True),
        ('"x"', False),
        (SERVED.etag, True),
        ("", False),
        (TAG.upper(), False),
    ],
)
def test_if_none_match_takes_either_variants_tag(
    if_none_match: str, fresh: bool, accept: str | None
) -> None:
    """A client that has the list in any encoding gets 304."""
    status, headers, body = ask(SERVED, "GET", accept, if_none_match)
    assert status == (304 if fresh else 200)
    assert bool(body) is not fresh
    if fresh:
        assert "Content-Length" not in dict(headers)
        assert dict(headers)["ETag"] == (PACKED_TAG if accept else TAG)


def test_if_modified_since_must_match_exactly() -> None:
    """A rollback has an older date, and must reach clients that have seen the newer list."""
    assert ask(SERVED, "GET", None, None, DATE).status == 304
    for date in ("Sun, 06 Nov 1994 08:49:38 GMT", "Sun, 06 Nov 2033 08:49:37 GMT", "", "nonsense"):
        assert ask(SERVED, "GET", None, None, date).status == 200


def test_if_none_match_outweighs_if_modified_since() -> None:
    """If-Modified-Since is ignored if If-None-Match is present (RFC 9110, 13.1.3)."""
    assert ask(SERVED, "GET", None, '"x"', DATE).status == 200


def test_an_empty_list_must_not_be_cached() -> None:
    """The empty list has no-store, since it stands for a moment without a list."""
    empty = Snapshot.of(EMPTY, Settings(), 0.0, 0)
    assert dict(ask(empty, "GET").headers)["Cache-Control"] == "no-store"
    assert ask(empty, "GET").body == b'{"api_endpoints":[],"socketio_endpoints":[]}'


def test_equal_lists_have_equal_tags_whatever_the_text() -> None:
    """The ETag depends on the content only, so it is the same on every worker and node."""
    text = b"\xef\xbb\xbf" + SAMPLE.read_bytes().replace(b"\n", b"\r\n") + b"# more"
    assert snapshot(text).etag == SERVED.etag
    assert snapshot(b"DomainList: a.com").etag != SERVED.etag
