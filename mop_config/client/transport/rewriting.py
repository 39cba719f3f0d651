"""Rewrites a request for the pool to one endpoint, and the answer back to the pool. Pure.

Applications request ``https://endpoint.invalid/users``; our own host name stands for the current
endpoint. So cookies, authorisation and redirects still apply after a move to another endpoint.
"""

from typing import Any

import httpcore2
import httpx2

from ...net.connect import FOREVER
from ..pool.failover import RetryTraits
from ..pool.member import Target
from ..pool.policy import IDEMPOTENT

#: RFC 2606 reserves .invalid: a request that bypasses our transport reaches no server.
HOST = "endpoint.invalid"
BASE_URL = f"https://{HOST}"
RAW_HOST = HOST.encode()

#: Request extension: whether the body of the answer is read as a whole before it is returned.
WHOLE = "mop_config.whole"
#: Limit in bytes of bodies that are read as a whole if the extension is not set.
SMALL = 1 << 16

_REWRITTEN = frozenset({b"location", b"set-cookie"})
_LENGTHS = frozenset(map(len, _REWRITTEN))  # a quick test that excludes most headers

Headers = list[tuple[bytes, bytes]]


def traits_of(request: httpx2.Request) -> RetryTraits:
    """Return the traits of a request that decide whether it may be sent again."""
    method, stream = request.method, request.stream
    replayable = isinstance(stream, httpx2.ByteStream) or _is_replayable(stream)
    keyed = method not in IDEMPOTENT and "Idempotency-Key" in request.headers
    return RetryTraits.of(method, replayable=replayable, keyed=keyed)


def _is_replayable(stream: Any) -> bool:
    # httpx2 rebuilds a multipart body for each attempt, but its files must be seekable.
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

    Then another attempt follows if an endpoint dies in the middle of the body. A body that the
    application streams, or that may be endless, is returned unread.
    """
    if not (traits.idempotent and traits.replayable):
        return False
    whole: bool | None = request.extensions.get(WHOLE)
    return is_short(response) if whole is None else whole


def is_short(response: httpcore2.Response) -> bool:
    """Return whether an answer declares a body of at most ``SMALL`` bytes."""
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
        proxy: The proxy, or None. For an endpoint without TLS, an HTTP proxy gets the absolute
            URL and the proxy's own header fields.
        timeouts: The time-outs that httpcore reads at each step.
    """
    headers = request.headers.raw
    if headers and headers[0][0] == b"Host":  # httpx2 puts Host first
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
    # Set after construction: the constructor would check each header again.
    addressed.headers = headers
    return addressed


def at_endpoint(
    request: httpx2.Request, target: Target, timeouts: dict[str, Any]
) -> httpx2.Request:
    """Address a request to one endpoint, in the form for httpx2's own transports."""
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


class Default(float):
    """Marks a time-out that the caller has not set, so that the policy's applies."""


def total_of(wanted: dict[str, float | None], total: float) -> float:
    """Return the total timeout of a request: the policy's, or the caller's longer time-out."""
    for name in ("read", "write"):
        if name in wanted and not isinstance(wanted[name], Default):
            seconds = wanted[name]
            total = FOREVER if seconds is None else min(FOREVER, max(total, seconds))
    return total


def least(wanted: float | None, limit: float) -> float:
    """Return the caller's time-out, bounded by the policy's limit."""
    if wanted is not None and wanted <= limit:
        return wanted
    return limit


def from_endpoint(headers: Headers, target: Target) -> Headers:
    """Replace the endpoint's own address in the headers of an answer by the pool's host.

    A redirect to the endpoint becomes a redirect to the pool, and a cookie for its domain becomes
    a cookie for the pool's host. Otherwise a move to another endpoint would lose both.
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
        return value  # relative to the request's path: unchanged
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
            # The cookie jar matches the application's paths, without the endpoint's prefix.
            kept.append(b" Path=" + (domain.strip()[len(target.prefix) :] or b"/"))
            continue
        kept.append(attribute)
    return b";".join([pair, *kept])


def _is_below(path: bytes, prefix: bytes) -> bool:
    return bool(prefix) and (path == prefix or path.startswith(prefix + b"/"))


def closed(request: httpx2.Request) -> httpx2.TransportError:
    """Create the exception of a request whose client was closed meanwhile."""
    return httpx2.TransportError("the client was closed during this request", request=request)


def translate(error: Exception, request: httpx2.Request) -> Exception:
    """Return httpx2's exception of the same name as an httpcore2 exception."""
    if isinstance(error, httpx2.HTTPError):
        return error
    for ours in type(error).__mro__:
        kind = getattr(httpx2, ours.__name__, None)
        if isinstance(kind, type) and issubclass(kind, httpx2.TransportError):
            translated = kind(str(error), request=request)
            translated.__cause__ = error
            return translated
    return error
