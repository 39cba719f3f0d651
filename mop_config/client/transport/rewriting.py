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


def shape_of(request: httpx2.Request) -> RetryTraits:
    """See what about a request decides whether it may be sent again."""
    method, replayable = request.method, _is_replayable(request.stream)
    keyed = method not in IDEMPOTENT and "Idempotency-Key" in request.headers
    return _shape(method, replayable, keyed)


@lru_cache(maxsize=64)
def _shape(method: str, replayable: bool, keyed: bool) -> RetryTraits:
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
    request: httpx2.Request, shape: RetryTraits, response: httpcore2.Response
) -> bool:
    """Whether the body of an answer is read before the application gets the answer.

    Then an endpoint that dies in the middle of it costs the application nothing. A body
    that it wants to read in its own time, or that may be endless, is handed on as it comes.
    """
    if not shape.may_move:
        return False
    whole: bool | None = request.extensions.get(WHOLE)
    if whole is not None:
        return whole
    for name, value in response.headers:
        if name.lower() == b"content-length":
            return value.isdigit() and int(value[:9]) <= SMALL
    return False


def to_endpoint(
    request: httpx2.Request, target: Target, timeouts: dict[str, Any]
) -> httpcore2.Request:
    """Address a request to one endpoint: its path prefix, Host and connection."""
    return _addressed(request, target, target.key, {**request.extensions, "timeout": timeouts})


def by_proxy(
    request: httpx2.Request, target: Target, timeouts: dict[str, Any]
) -> httpcore2.Request:
    """Address a request to one endpoint, by the host that a proxy has to connect to."""
    sni = target.tls_name
    more = {**request.extensions, "timeout": timeouts, "sni_hostname": sni}
    return _addressed(request, target, target.host.encode(), more)


def _addressed(
    request: httpx2.Request, target: Target, host: bytes, extensions: dict[str, Any]
) -> httpcore2.Request:
    headers = request.headers.raw
    if headers and headers[0][0] == b"Host":  # where httpx2 puts it
        headers[0] = (b"Host", target.authority)
    else:
        headers = [header for header in headers if header[0].lower() != b"host"]
        headers.insert(0, (b"Host", target.authority))
    path = request.url.raw_path
    addressed = httpcore2.Request(
        method=request.method,
        url=httpcore2.URL(
            scheme=target.scheme,
            host=host,
            port=target.port,
            target=target.prefix + path if path != b"*" else path,
        ),
        content=request.stream,
        extensions=extensions,
    )
    # httpx2 has made bytes of them; the constructor would look at each again.
    addressed.headers = headers
    return addressed


class Default(float):
    """A time-out that the caller has not set: the policy's figures count instead."""


#: What stands for no time-out, in seconds: eleven days, which every clock and poll can take.
FOREVER = 1e6


def total_of(request: httpx2.Request, total: float) -> float:
    """Give the seconds that a request may take: the policy's, or more if the caller wants it."""
    wanted = request.extensions.get("timeout") or {}
    set_by_caller = [
        FOREVER if wanted[name] is None else wanted[name]
        for name in ("read", "write")
        if name in wanted and not isinstance(wanted[name], Default)
    ]
    return min(FOREVER, max(total, *set_by_caller)) if set_by_caller else total


def timeouts_of(request: httpx2.Request, connect: float, left: float) -> dict[str, Any]:
    """Give a request's time-outs, in seconds.

    Reading and writing are bounded by the stream, which sees the clock at each step, and
    only up to the first byte of the answer.
    """
    wanted = request.extensions.get("timeout") or {}
    return {
        "connect": _least(wanted.get("connect"), connect),
        "read": wanted.get("read", Default(left)),
        "write": wanted.get("write"),
        "pool": _least(wanted.get("pool"), left),
    }


def all_timeouts_of(request: httpx2.Request, connect: float, left: float) -> dict[str, Any]:
    """Give a request's time-outs where the stream is not ours, as through a proxy."""
    timeouts = timeouts_of(request, min(connect, left), left)
    return {name: _least(wanted, left) for name, wanted in timeouts.items()}


def _least(wanted: float | None, limit: float) -> float:
    if wanted is not None and wanted <= limit:
        return wanted
    return Default(limit) if isinstance(wanted, Default) else limit


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
