"""Which answer a request for the configuration gets: RFC 9110, sections 8, 12 and 13. Pure."""

import re
from collections.abc import Mapping, MutableMapping
from functools import lru_cache
from typing import Any, NamedTuple

from werkzeug.datastructures import Accept, MIMEAccept
from werkzeug.http import parse_accept_header, parse_etags

from .snapshot import Headers, Snapshot

#: Characters of a header value, or of a query, that are looked at; a longer one counts as absent.
#: werkzeug parses ``Accept`` in quadratic time, and the caches below keep whole values.
MAX_VALUE = 1024

# Behind the list's own tag: what a proxy that compresses the answer adds, such as -br.
_CODING = re.compile(r"-[\w!#$%&'*+.^`|~-]+", re.ASCII)
_NEGOTIATING = frozenset(
    {
        *("HTTP_ACCEPT", "HTTP_ACCEPT_CHARSET", "HTTP_ACCEPT_ENCODING", "HTTP_ACCEPT_LANGUAGE"),
        *("HTTP_IF_MATCH", "HTTP_IF_NONE_MATCH", "HTTP_IF_MODIFIED_SINCE", "HTTP_IF_RANGE"),
        *("HTTP_IF_UNMODIFIED_SINCE", "HTTP_RANGE"),
    }
)


def header(environ: Mapping[str, Any], name: str) -> str | None:
    """Give a request header's value, or None where it is absent or longer than ``MAX_VALUE``."""
    value: str | None = environ.get(name)
    return None if value is None or len(value) > MAX_VALUE else value


def forget_long_values(environ: MutableMapping[str, Any]) -> None:
    """Remove over-long headers of content negotiation and of conditions from a WSGI environ.

    Flask's request object parses those headers itself, without a limit.
    """
    for name in _NEGOTIATING:
        if len(environ.get(name, "")) > MAX_VALUE:
            del environ[name]


class ConditionalAnswer(NamedTuple):
    """A status line without its version, headers, and a body (empty for HEAD and 304)."""

    status: str
    headers: Headers
    body: bytes


def respond_conditionally(
    snapshot: Snapshot,
    method: str,
    accept_encoding: str | None = None,
    if_none_match: str | None = None,
    if_modified_since: str | None = None,
) -> ConditionalAnswer:
    """Answer a GET or HEAD from a snapshot, by the values of the request's headers.

    A request is never refused for what it accepts: who forbids every encoding gets the
    plain body. ``If-Modified-Since`` counts only when it names exactly our date, so that
    going back to an older file reaches clients that have seen the newer one.
    """
    variant = snapshot.plain
    if snapshot.gzip and accept_encoding and accepts_gzip(accept_encoding):
        variant = snapshot.gzip
    if if_none_match is not None:
        # Almost every client sends back the one tag it got, so compare before parsing.
        fresh = if_none_match == variant.etag or etag_matches(if_none_match, snapshot)
    else:
        fresh = if_modified_since == snapshot.last_modified_text
    if fresh:
        return ConditionalAnswer("304 NOT MODIFIED", variant.not_modified, b"")
    return ConditionalAnswer("200 OK", variant.headers, b"" if method == "HEAD" else variant.body)


def etag_matches(if_none_match: str, snapshot: Snapshot) -> bool:
    """Whether ``If-None-Match`` names a list, in whichever encoding.

    A client may hold any variant of the same list: all are as new as it gets. A proxy that
    compresses the answer makes a variant of its own, and adds the coding to the tag.
    """
    tags = _tags(if_none_match)
    if tags.contains_weak(snapshot.etag):
        return True
    own, length = snapshot.etag, len(snapshot.etag)
    return any(
        tag.startswith(own) and _CODING.fullmatch(tag, length)
        for tag in tags.as_set(include_weak=True)
    )


# After a change, all that waited for it name the same list.
_tags = lru_cache(maxsize=256)(parse_etags)


@lru_cache(maxsize=256)
def accepts_gzip(accept_encoding: str) -> bool:
    """Whether a client takes gzip, and does not like plain bytes better."""
    accept = parse_accept_header(accept_encoding, Accept)
    named = {value.lower(): quality for value, quality in accept}
    gzip = named.get("gzip", named.get("x-gzip", named.get("*", 0)))
    return gzip > 0 and gzip >= named.get("identity", 0)


class Wish(NamedTuple):
    """How a client likes the list.

    Attributes:
        signed: Whether it likes a signed list better than plain JSON.
        plain: Whether it takes plain JSON.
    """

    signed: bool
    plain: bool


@lru_cache(maxsize=256)
def preferred_form(accept: str) -> Wish:
    """Read ``Accept``: a signed list must be asked for by its name, ``application/jose``."""
    types = parse_accept_header(accept, MIMEAccept)
    named = {value.lower(): quality for value, quality in types}
    signed, plain = named.get("application/jose", 0), types.quality("application/json")
    better = signed >= plain if "application/json" not in named else signed > plain
    return Wish(signed > 0 and better, plain > 0)
