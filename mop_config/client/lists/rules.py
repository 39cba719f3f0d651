"""The rules for lists: which URLs to request, which lists to accept, and their form.

The caller passes the network in. Only ``Trust`` looks at the clock, and at its file of marks.
"""

import logging
import re
from collections.abc import Callable, Container, Iterable, Mapping
from dataclasses import replace
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from ... import errors
from ...model.address import identity, is_ip, parse_url
from ...model.endpoint import Endpoint, EndpointConfig, loads
from ...model.jws import SignedList, looks_signed
from ...net.http import HttpReply, may_send_token
from ..keywords import Several, check_plain
from .cache_file import is_etag
from .trust import Trust

logger = logging.getLogger(__name__)

#: The types of a built-in list.
Bootstrap = EndpointConfig | Several[str | Endpoint | tuple[str, int]]
#: Limit of the endpoints that a log line names.
_NAMED = 5
_HTTP_ONLY = "an API endpoint needs an http or https URL"
#: A token, or a function that returns the current token; None while no user is logged in.
Token = str | Callable[[], str | None] | None

# With any other character httpx2 would quote the header in its error message.
_TOKEN_FORM = re.compile(r"[!-~]+")
PATH = "/api/v1/config/endpoints"
_ROUTE = "/config/endpoints"
_PLAIN_HTTP_REFUSED = (
    "over plain http anybody on the way could change the list: it is taken from this machine only,"
    " or signed (trusted_keys), or with allow_http_lists=True"
)
#: Statuses that say that there is no list at a URL.
_ABSENT = frozenset({404, 405, 501})
#: Suffix of the URL of a signed list.
SIGNED_SUFFIX = ".jws"
#: The end of a path that names a file, such as ``.json``.
_FILE = re.compile(r"\.[a-z]+", re.IGNORECASE)


class NewList(NamedTuple):
    """A list to apply.

    Attributes:
        config: The endpoints.
        url: The URL of the list.
        etag: The ETag of the list, or None.
        signed: The signed list, if lists have to be signed; else None.
    """

    config: EndpointConfig
    url: str
    etag: str | None
    signed: SignedList | None = None


class SourceAnswer(NamedTuple):
    """The result of an update from one source.

    Attributes:
        found: The list to apply, or None if the list has not changed.
        reply: The response of the source.
        source: The source.
        may_wait: Whether the next request to the source may be a long poll.
    """

    found: NewList | None
    reply: HttpReply
    source: str
    may_wait: bool


#: Fetches a list from its URL. The other arguments are the ETag of the client's list from this URL
#: or None, the seconds for which the server may hold its response, and whether the token may be
#: sent to this URL.
Fetch = Callable[[str, str | None, int, bool], HttpReply]
#: Checks endpoints of one kind, and returns whether one of them is healthy.
Check = Callable[[str, tuple[Endpoint, ...]], bool]


class UpdateContext(NamedTuple):
    """The state of a manager on which an update bases its decisions.

    Attributes:
        sources: URLs to request, best first.
        healthy: URLs of the healthy endpoints, by kind.
        etags: The ETag of the list in use, by the URLs that serve the list.
        force: Whether a list is accepted even if no endpoint of the list works.
        wait: Seconds for which a server may hold its response while the list is unchanged.
        max_endpoints: Limit of the endpoints of a list.
        configured: The sources from ``config_urls``, each of which may be the URL of a list.
        trust: Verifies signed lists; None if lists need not be signed.
        allow_http: Whether a list received over https may name endpoints over plain http.
        https_only: Whether a list is accepted over https or from this machine only.
    """

    sources: tuple[str, ...]
    healthy: Mapping[str, frozenset[str]]
    etags: Mapping[str, str]
    force: bool = False
    wait: int = 0
    max_endpoints: int | None = None
    configured: Container[str] = frozenset()
    trust: Trust | None = None
    allow_http: bool = True
    https_only: bool = False


def sources(
    fallback: str | None,
    current: str | None,
    known: Iterable[str],
    config_urls: Iterable[str],
    down: Container[str] = frozenset(),
) -> tuple[str, ...]:
    """Return the sources in the order of their requests.

    The first source is ``fallback``, or else the endpoint in use. Then follow the first of
    ``config_urls``, the other sources, and the sources that are down.

    Args:
        fallback: The first source, or None.
        current: The endpoint in use, or None.
        known: All endpoints.
        config_urls: The configured sources.
        down: The endpoints that are known to be down.
    """
    configured = tuple(config_urls)
    others = [url for url in (current, *known, *configured) if url]
    ordered = [fallback] if fallback else []
    ordered += sorted(others, key=lambda url: url in down)
    ordered[1:1] = [url for url in configured if url not in down][:1]
    return tuple(dict.fromkeys(ordered))


def is_route(url: str) -> bool:
    """Whether a URL is the list route of a list server, not the URL of a list file."""
    return url.removesuffix(SIGNED_SUFFIX).endswith(_ROUTE)


def list_urls(source: str, *, signed: bool = False, configured: bool = False) -> list[str]:
    """Return the possible URLs of a source's list, the likeliest first.

    No server is expected below the URL of a file, which would get the access token.

    Args:
        source: A server's URL, with or without its API path, or the URL of a list. A URL with a
            query is used unchanged.
        signed: Whether to return the URLs of the signed list.
        configured: Whether the source is from ``config_urls``, and so may be any URL of a list.

    Raises:
        AddressError: If the source is not an http or https URL.
    """
    address, mark, query = source.partition("?")
    url = parse_url(address, ("http", "https"))
    if mark:
        if not query.isascii() or not query.isprintable() or " " in query or "#" in query:
            raise errors.AddressError(
                "bad-url", "the query holds a character that no query may hold"
            )
        return [url.text + mark + query]
    path = url.path.rstrip("/")
    root = url.text[: len(url.text) - len(url.path)]
    if path.endswith(SIGNED_SUFFIX) and (signed or path.endswith(PATH + SIGNED_SUFFIX)):
        return [root + (path if signed else path.removesuffix(SIGNED_SUFFIX))]
    tail = SIGNED_SUFFIX if signed else ""
    if path.endswith(_ROUTE):
        return [root + path + tail]
    if configured and _FILE.fullmatch(PurePosixPath(path).suffix):
        return [url.text]
    below = [path + _ROUTE] if path else []
    if not path.endswith("/api/v1"):
        below.append(path + PATH)
    as_it_stands = [url.text] if configured and path and not path.endswith("/api/v1") else []
    return [*as_it_stands, *(root + each + tail for each in dict.fromkeys([*below, PATH]))]


def checked_urls(config_urls: Iterable[str]) -> tuple[str, ...]:
    """Return the ``config_urls`` of a manager.

    Raises:
        TypeError: If the argument is not a list of texts.
        AddressError: If a text cannot be the URL of a source.
    """
    if isinstance(config_urls, (str, bytes)):
        raise TypeError(f"config_urls must be a list of URLs, not one: [{config_urls!r}]")
    for index, url in enumerate(config_urls):
        if not isinstance(url, str):
            raise TypeError(f"config_urls[{index}] must be a URL, not {url!r}")
        try:
            list_urls(url, configured=True)
        except errors.AddressError as error:
            raise errors.AddressError(error.code, f"config_urls[{index}]: {error}") from None
    return tuple(config_urls)


def combined_error(found: Iterable[Exception]) -> Exception:
    """Combine the errors of all sources into one error, the best source's first.

    A refusal takes precedence over a failure, because a refused source did have a list.
    """
    failures: list[errors.UpdateFailed] = []
    for error in found:
        if not isinstance(error, errors.UpdateFailed):
            return error
        failures.append(error)
    attempts = tuple(attempt for failure in failures for attempt in failure.attempts)
    return errors.UpdateFailed(failures[0].cause if failures else "unreachable", attempts)


def update(source: str, known: UpdateContext, fetch: Fetch, any_healthy: Check) -> SourceAnswer:
    """Fetch the list of one source, and judge whether it may be applied.

    Args:
        source: A source from ``known.sources``.
        known: The state of the manager.
        fetch: Fetches a list.
        any_healthy: Checks endpoints of a new list.

    Raises:
        UpdateFailed: If the source has no list.
        UpdateRefused: If the list would leave no working endpoint, or (``UpdateUntrusted``) is not
            trusted.
    """
    try:
        configured = source in known.configured
        urls = list_urls(source, signed=known.trust is not None, configured=configured)
    except errors.AddressError as error:
        shown = re.sub(r"//.*[@＠]", "//***@", without_query(source))
        raise _failed(shown, "invalid", str(error)) from None
    failure: errors.UpdateFailed | errors.UpdateUntrusted | None = None
    for url in urls:
        etag = known.etags.get(url)
        private = may_send_token(parse_url(url.partition("?")[0]))
        if known.https_only and not private:
            raise _failed(url, "invalid", _PLAIN_HTTP_REFUSED)
        wait = known.wait if etag else 0
        asked = f"{url}?wait={wait}" if wait and is_route(url) else url
        try:
            reply = fetch(asked, etag, wait, private and is_route(url))
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            failure = failure or _failed(url, "unreachable", str(error) or type(error).__name__)
            break
        held = not wait or "wait" in reply.headers.get("preference-applied", "")
        may_wait = is_route(url) and held
        if reply.status == 304 and etag is not None:
            return SourceAnswer(None, reply, source, may_wait)
        try:
            found = _read(url, reply, known)
        except (errors.UpdateFailed, errors.UpdateUntrusted) as error:
            if failure is None or (_is_absence(failure) and not _is_absence(error)):
                failure = error
        else:
            _check_acceptable(found, known, any_healthy)
            return SourceAnswer(found, reply, source, may_wait)
        if is_route(url) and reply.status not in _ABSENT:
            break
    raise failure or _failed(source, "unreachable", "not asked")


def _is_absence(error: Exception) -> bool:
    return isinstance(error, errors.UpdateFailed) and error.cause == "not_implemented"


def _failed(url: str, cause: str, detail: str) -> errors.UpdateFailed:
    return errors.UpdateFailed(cause, ((without_query(url), detail),))


def _cause_of(status: int) -> str:
    if status in _ABSENT:
        return "not_implemented"
    if status in {401, 403}:
        return "unauthorized"
    return "unreachable" if status >= 500 or status == 429 else "invalid"


def _read(url: str, reply: HttpReply, known: UpdateContext) -> NewList:
    shown = without_query(url)
    trust = known.trust
    if reply.status != 200:
        raise _failed(url, _cause_of(reply.status), f"it answers {reply.status}")
    try:
        if trust is None and looks_signed(reply.body):
            raise errors.PayloadError("document", "it is signed: trusted_keys must say by whom")
        signed = None if trust is None else trust.read(reply.body)
        config = signed.config if signed else loads(reply.body, known.max_endpoints)
        config = normalized(config, shown)
        if url.startswith("https:") and not known.allow_http:
            config = without_plain(config, shown)
        etag = reply.headers.get("etag")
        return NewList(config, url, etag if is_etag(etag) else None, signed)
    except errors.SignatureError as error:
        raise errors.UpdateUntrusted(shown, str(error), error.code) from None
    except errors.PayloadError as error:
        raise _failed(url, "invalid", str(error)) from None


def _check_acceptable(found: NewList, known: UpdateContext, any_healthy: Check) -> None:
    """Check the endpoints of a list if it would replace every healthy endpoint.

    Raises:
        UpdateRefused: If the list must not be applied.
    """
    if not found.config:
        raise errors.UpdateRefused(without_query(found.url), "it is empty")
    if known.force:
        return
    for kind, endpoints in found.config.kinds().items():
        healthy = known.healthy.get(kind, frozenset())
        if not healthy or any(endpoint.url in healthy for endpoint in endpoints):
            continue
        if not endpoints or not any_healthy(kind, endpoints):
            raise errors.UpdateRefused(
                without_query(found.url),
                f"it would drop every healthy {kind} endpoint, and none of its own is healthy"
                " (force=True applies it all the same)",
            )


def check_token(token: Token) -> None:
    """Check the ``token`` of a manager.

    Raises:
        TypeError: If the token is an asynchronous function, or of another type.
        ValueError: If the token is not valid; the message never shows a text.
    """
    if token is None or callable(token):
        check_plain("token", token)
    elif fault := _fault_of_token(token):
        error = ValueError if isinstance(token, str) else TypeError
        raise error(f"token {fault}")


def current_token(token: Any) -> str | None:
    """Return the current token, checked to be valid in a header; None without a token.

    Raises:
        UpdateFailed: If the token cannot be used; the message never shows the token.
    """
    found = token() if callable(token) else token
    if found is None:
        return None
    if fault := _fault_of_token(found):
        raise errors.UpdateFailed("invalid", (("the token", fault),))
    return str(found).strip()


def _fault_of_token(token: Any) -> str:
    if not isinstance(token, str):
        return f"must be a text, a function that gives it, or None, not {type(token).__name__}"
    if not token.strip():
        return "is empty: None means that there is none"
    if not _TOKEN_FORM.fullmatch(token.strip()):
        return "holds characters that a bearer token cannot have"
    return ""


# -- built-in and remote lists in their canonical form


def config_of(api: Bootstrap, sockets: Bootstrap) -> EndpointConfig:
    """Read the built-in endpoints of both kinds.

    Raises:
        AddressError: If a URL or a priority cannot be used.
        TypeError: If an argument has another type.
    """
    if isinstance(sockets, EndpointConfig) or (isinstance(api, EndpointConfig) and tuple(sockets)):
        raise TypeError("an EndpointConfig has both kinds: give it first, and alone")
    if isinstance(api, EndpointConfig):
        sockets, api = api.socketio_endpoints, api.api_endpoints
    kinds = (_endpoints("api_endpoints", api), _endpoints("socket_endpoints", sockets))
    return EndpointConfig(*map(canonical, kinds))


def _endpoints(name: str, seed: Any) -> Iterable[Endpoint]:
    if isinstance(seed, (str, bytes)):
        raise TypeError(f"{name} must be a list of URLs, not one: [{seed!r}]")
    if not isinstance(seed, Iterable):
        raise TypeError(f"{name} must be a list of URLs, not {seed!r}")
    for position, entry in enumerate(seed):
        where = f"{name}[{position}]"
        url, priority = entry if isinstance(entry, tuple) and len(entry) == 2 else (entry, position)
        if not isinstance(url, (str, Endpoint)):
            forms = "a URL, a pair of URL and priority, or an Endpoint"
            raise TypeError(f"{where} must be {forms}, not {entry!r}")
        try:
            endpoint = url if isinstance(url, Endpoint) else Endpoint.parse(url, priority)
            if name == "api_endpoints":
                check_api(endpoint)
        except errors.AddressError as error:
            raise errors.AddressError(error.code, f"{where}: {error}") from None
        yield endpoint


def _is_http(endpoint: Endpoint) -> bool:
    return endpoint.url.startswith(("http://", "https://"))


def check_api(endpoint: Endpoint) -> None:
    """Check that the scheme of an API endpoint is http or https.

    Raises:
        AddressError: If the endpoint has another scheme.
    """
    if not _is_http(endpoint):
        raise errors.AddressError("bad-scheme", _HTTP_ONLY)


def canonical_url(url: str) -> str:
    """Return the canonical URL of an endpoint: no default port, no final slash.

    Raises:
        AddressError: If the text is not a URL of an endpoint.
    """
    if not isinstance(url, str):
        raise TypeError(f"an endpoint's URL must be a text, not {url!r}")
    return identity(*parse_url(url)[1:]).rstrip("/")


def without_query(url: str) -> str:
    """Return a URL without its query, for logs and files: a signed query is a credential."""
    address, mark, _ = url.partition("?")
    return address + "?…" if mark else address


def canonical(endpoints: Iterable[Endpoint]) -> tuple[Endpoint, ...]:
    """Return endpoints with canonical URLs; of two endpoints with one URL the first stays."""
    found: dict[str, Endpoint] = {}
    for endpoint in endpoints:
        url = canonical_url(endpoint.url)
        found.setdefault(url, endpoint if url == endpoint.url else replace(endpoint, url=url))
    return tuple(found.values())


def normalized(config: EndpointConfig, source: str) -> EndpointConfig:
    """Make the URLs of a list canonical, and drop each ``server_name`` beside a host name.

    A ``server_name`` beside a host name would make a certificate for one name valid for another
    name, so only an IP address may have a ``server_name``.

    Args:
        config: The list.
        source: The source of the list, for the log.

    Raises:
        PayloadError: If an API endpoint is not an http or https URL.
    """
    for index, endpoint in enumerate(config.api_endpoints):
        if not _is_http(endpoint):
            raise errors.PayloadError(f"api_endpoints[{index}]", _HTTP_ONLY)
    misnamed = dict.fromkeys(urls_of(config, _is_misnamed))
    _warn(
        "%s: server_name is left out, it may stand at an IP address only: %s", source, [*misnamed]
    )
    kinds = (
        canonical(replace(e, server_name=None) if e.url in misnamed else e for e in endpoints)
        for endpoints in config.kinds().values()
    )
    return EndpointConfig(*kinds)


def _is_misnamed(endpoint: Endpoint) -> bool:
    return endpoint.server_name is not None and not is_ip(parse_url(endpoint.url).host)


def is_plain(endpoint: Endpoint) -> bool:
    """Whether the traffic to an endpoint is unencrypted (http or ws)."""
    return endpoint.url.startswith(("http://", "ws://"))


def urls_of(config: EndpointConfig, wanted: Callable[[Endpoint], bool]) -> list[str]:
    """List the URLs of the endpoints of both kinds for which ``wanted`` is true."""
    return [e.url for endpoints in config.kinds().values() for e in endpoints if wanted(e)]


def without_plain(config: EndpointConfig, source: str, kept: Container[str] = ()) -> EndpointConfig:
    """Return a list without its unencrypted endpoints, except for the URLs in ``kept``."""
    left_out = [url for url in urls_of(config, is_plain) if url not in kept]
    _warn("%s: endpoints over plain http are left out (allow_http=True): %s", source, left_out)
    gone = frozenset(left_out)
    kinds = config.kinds().values()
    return EndpointConfig(*(tuple(e for e in kind if e.url not in gone) for kind in kinds))


def _warn(message: str, source: str, urls: list[str]) -> None:
    if urls:
        logger.warning(message, source, ", ".join(urls[:_NAMED]))
