"""A request for the pool, rewritten for one endpoint, and its answer rewritten back. Pure.

Applications ask ``https://endpoint.invalid/users``: a host of our own, which stands for
whichever endpoint is current. So their cookies, authorisation and redirects stay with the
service when it moves to another endpoint.
"""

from functools import lru_cache
from typing import Any

import httpcore2
import httpx2

from ..pool.failover import RetryTraits
from ..pool.policy import IDEMPOTENT
from ..pool.target import Target

#: RFC 2606 keeps .invalid free: a request that gets past us reaches nobody.
HOST = "endpoint.invalid"
BASE_URL = f"https://{HOST}"
_RAW_HOST = HOST.encode()

#: Extension of a request that says whether its answer is wanted at once and whole.
WHOLE = "mop_config.whole"
#: Answers up to this many bytes are read whole where nothing was said.
SMALL = 1 << 16

_REWRITTEN = frozenset({b"location", b"set-cookie"})
_LENGTHS = frozenset(map(len, _REWRITTEN))  # most headers are told apart by that alone

Headers = list[tuple[bytes, bytes]]


def is_for_the_pool(request: httpx2.Request) -> bool:
    """Whether a request is for whichever endpoint is current, not for a host of its own."""
    return request.url.raw_host == _RAW_HOST


def traits_of(request: httpx2.Request) -> RetryTraits:
    """Return the traits of a request that decide whether it may be sent again."""
    method, replayable = request.method, _is_replayable(request.stream)
    keyed = method not in IDEMPOTENT and "Idempotency-Key" in request.headers
    return _traits(method, replayable, keyed)


@lru_cache(maxsize=64)
def _traits(method: str, replayable: bool, keyed: bool) -> RetryTraits:
    return RetryTraits.of(method, replayable=replayable, keyed=keyed)


def _is_replayable(stream: Any) -> bool:
    if isinstance(stream, httpx2.ByteStream):
        return True
    # A multipart body is made anew each time; its files must be able to go back, though.
    fields = getattr(stream, "fields", None)
    return fields is not None and all(
        isinstance(file := getattr(field, "file", b""), (bytes, str))
        or (hasattr(file, "seekable") and file.seekable())
        for field in fields
    )


def is_read_whole(
    request: httpx2.Request, traits: RetryTraits, response: httpcore2.Response
) -> bool:
    """Return whether the body of an answer is read before the application gets the answer.

    Then an endpoint that dies in the middle of the body costs the application nothing. A body
    that the application reads as it comes, or that may be endless, is passed on unread.
    """
    if not traits.may_move:
        return False
    whole: bool | None = request.extensions.get(WHOLE)
    return is_short(response) if whole is None else whole


def is_short(response: httpcore2.Response) -> bool:
    """Return whether an answer says that its body has at most ``SMALL`` bytes."""
    for name, value in response.headers:
        if name.lower() == b"content-length":
            return value.isdigit() and int(value[:9]) <= SMALL
    return False


def to_endpoint(
    request: httpx2.Request,
    target: Target,
    proxy: httpcore2.Proxy | None,
    timeouts: dict[str, Any],
) -> httpcore2.Request:
    """Address a request to one endpoint: its path prefix, Host and connection.

    Args:
        request: The request for the pool.
        target: The endpoint.
        proxy: The proxy on the way, or None. An HTTP proxy gets the whole URL of an endpoint
            without TLS, and its own header fields.
        timeouts: The time-outs that httpcore looks up at each step.
    """
    headers = request.headers.raw
    if headers and headers[0][0] == b"Host":  # where httpx2 puts it
        headers[0] = (b"Host", target.authority)
    else:
        headers = [header for header in headers if header[0].lower() != b"host"]
        headers.insert(0, (b"Host", target.authority))
    path = request.url.raw_path
    if path != b"*":
        path = target.prefix + path
    if proxy is not None and target.tls_name is None and proxy.url.scheme.startswith(b"http"):
        path = b"http://%b:%d%b" % (target.host.encode(), target.port, path)
        own = {name.lower() for name, _ in headers}
        headers = [h for h in proxy.headers if h[0].lower() not in own] + headers
    addressed = httpcore2.Request(
        method=request.method,
        url=httpcore2.URL(scheme=target.scheme, host=target.key, port=target.port, target=path),
        content=request.stream,
        extensions={**request.extensions, "timeout": timeouts},
    )
    # httpx2 has made bytes of them; the constructor would look at each again.
    addressed.headers = headers
    return addressed


def at_endpoint(
    request: httpx2.Request, target: Target, timeouts: dict[str, Any]
) -> httpx2.Request:
    """Address a request to one endpoint, as httpx2's own transports take it."""
    path = request.url.raw_path
    url = httpx2.URL(scheme=target.scheme.decode(), host=target.host, port=target.port).copy_with(
        raw_path=path if path == b"*" else target.prefix + path
    )
    headers = httpx2.Headers(request.headers)
    headers["Host"] = target.authority.decode()
    server_name = {} if target.tls_name is None else {"sni_hostname": target.tls_name}
    return httpx2.Request(
        request.method,
        url,
        headers=headers,
        stream=request.stream,
        extensions={**request.extensions, "timeout": timeouts, **server_name},
    )


def connect_request(
    proxy: httpcore2.Proxy, target: Target, timeouts: dict[str, Any]
) -> httpcore2.Request:
    """Make the CONNECT request that asks a proxy for a tunnel to an endpoint."""
    url, where = proxy.url, b"%b:%d" % (target.host.encode(), target.port)
    return httpcore2.Request(
        "CONNECT",
        httpcore2.URL(scheme=url.scheme, host=url.host, port=url.port, target=where),
        headers=[(b"Host", where), (b"Accept", b"*/*"), *proxy.headers],
        extensions={"timeout": timeouts},
    )


def port_of(url: httpcore2.URL) -> int:
    """Return the port of a proxy's URL, or the default one of its scheme."""
    return url.port or {b"http": 80, b"https": 443}.get(url.scheme, 1080)


class Default(float):
    """A time-out that the caller has not set: the policy's figures count instead."""


#: Seconds that stand for no time-out: eleven days, which every clock and poll can take.
FOREVER = 1e6


def total_of(wanted: dict[str, float | None], total: float) -> float:
    """Return the seconds that a request may take: the policy's, or more if the caller says so."""
    for name in ("read", "write"):
        if name in wanted and not isinstance(wanted[name], Default):
            seconds = wanted[name]
            total = FOREVER if seconds is None else min(FOREVER, max(total, seconds))
    return total


def least(wanted: float | None, limit: float) -> float:
    """Return a time-out of the caller's, or the policy's limit where that is shorter."""
    if wanted is not None and wanted <= limit:
        return wanted
    return limit


def from_endpoint(headers: Headers, target: Target) -> Headers:
    """Rewrite what an answer says of the endpoint's own address.

    A redirect to it becomes one to the pool, and a cookie for its domain becomes one for
    the pool's host; both would be lost on the way to another endpoint otherwise.
    """
    for name, _ in headers:
        if len(name) in _LENGTHS and name.lower() in _REWRITTEN:
            break
    else:
        return headers
    rewritten = []
    for name, value in headers:
        if name.lower() == b"location":
            value = _location(value, target)
        elif name.lower() == b"set-cookie":
            value = _cookie(value, target)
        rewritten.append((name, value))
    return rewritten


def _location(value: bytes, target: Target) -> bytes:
    if not value.startswith(b"/") and b"://" not in value:
        return value  # relative to the request's own path, which means the same here
    try:
        location = httpx2.URL(target.origin).join(value.decode("ascii"))
        origin = httpx2.URL(target.origin)
    except (httpx2.InvalidURL, UnicodeDecodeError):
        return value
    if (location.scheme, location.host, location.port) != (origin.scheme, origin.host, origin.port):
        return value
    path = location.raw_path
    if path == target.prefix or path.startswith((target.prefix + b"/", target.prefix + b"?")):
        rest = path[len(target.prefix) :]
        fragment = f"#{location.fragment}".encode() if location.fragment else b""
        return BASE_URL.encode() + (rest if rest.startswith(b"/") else b"/" + rest) + fragment
    return str(location).encode()


def _cookie(value: bytes, target: Target) -> bytes:
    pair, *attributes = value.split(b";")
    name = target.authority.rpartition(b":")[0] or target.authority
    kept = []
    for attribute in attributes:
        key, _, domain = attribute.strip().partition(b"=")
        if key.lower() == b"domain":
            wanted = domain.strip().lstrip(b".").lower()
            if name == wanted or name.endswith(b"." + wanted):
                continue
        elif key.lower() == b"path" and _is_below(domain.strip(), target.prefix):
            # The jar matches by the paths that the application asks for.
            kept.append(b" Path=" + (domain.strip()[len(target.prefix) :] or b"/"))
            continue
        kept.append(attribute)
    return b";".join([pair, *kept])


def _is_below(path: bytes, prefix: bytes) -> bool:
    return bool(prefix) and (path == prefix or path.startswith(prefix + b"/"))


def closed(request: httpx2.Request) -> httpx2.TransportError:
    """Make the exception of a request whose client was closed meanwhile."""
    return httpx2.TransportError("the client was closed during this request", request=request)


def translate(error: Exception, request: httpx2.Request) -> Exception:
    """Give httpx2's exception for one of httpcore2's: they have the same names."""
    if isinstance(error, httpx2.HTTPError):
        return error
    for ours in type(error).__mro__:
        kind = getattr(httpx2, ours.__name__, None)
        if isinstance(kind, type) and issubclass(kind, httpx2.TransportError):
            translated = kind(str(error), request=request)
            translated.__cause__ = error
            return translated
    return error
