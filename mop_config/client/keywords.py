"""The keywords that managers, clients and transports take besides their own, with their types."""

import difflib
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypedDict, TypeVar

import httpx2

T_co = TypeVar("T_co", covariant=True)


class Several(Protocol[T_co]):
    """A collection of things, but not one text: ``str`` has another ``__contains__``."""

    def __contains__(self, value: object, /) -> bool: ...

    def __iter__(self) -> Iterator[T_co]: ...


class TransportKeywords(TypedDict, total=False):
    """How connections are made; each as for ``httpx2.HTTPTransport``.

    Attributes:
        verify: A context that verifies certificates, a file of authorities, or True.
        cert: Client certificate.
        http1: Whether HTTP/1.1 may be spoken.
        http2: Whether HTTP/2 may be spoken.
        limits: Of the connections to each endpoint.
        proxy: Proxy for every request.
        trust_env: Whether the environment's proxies and authorities count.
        local_address: Address to connect from.
        socket_options: Arguments of ``setsockopt``.
    """

    verify: ssl.SSLContext | str | bool
    cert: str | tuple[str, str] | tuple[str, str, str] | None
    http1: bool
    http2: bool
    limits: httpx2.Limits
    proxy: httpx2.URL | str | httpx2.Proxy | None
    trust_env: bool
    local_address: str | None
    socket_options: Iterable[Any] | None


class ClientKeywords(TransportKeywords, total=False):
    """What a client takes: how connections are made, and the options of ``httpx2.Client``."""

    auth: Any
    params: Any
    headers: Any
    cookies: Any
    timeout: float | tuple[float | None, ...] | httpx2.Timeout | None
    follow_redirects: bool
    max_redirects: int
    event_hooks: Mapping[str, list[Callable[..., Any]]] | None
    base_url: httpx2.URL | str
    default_encoding: str | Callable[[bytes], str | None]
    mounts: Mapping[str, Any] | None


class SocketKeywords(TypedDict, total=False):
    """What a Socket.io client takes: the options of ``socketio.Client`` that are the caller's."""

    reconnection: bool
    http_session: Any
    ssl_verify: bool
    reconnection_attempts: int
    reconnection_delay: float
    reconnection_delay_max: float
    randomization_factor: float
    logger: Any
    engineio_logger: Any
    serializer: Any
    json: Any
    handle_sigint: bool
    request_timeout: float
    websocket_extra_options: Mapping[str, Any] | None
    timestamp_requests: bool


class ConnectKeywords(TypedDict, total=False):
    """What connecting takes: the arguments of ``socketio.Client.connect`` but for the URL."""

    headers: Any
    auth: Any
    transports: list[str] | str | None
    namespaces: list[str] | str | None
    wait: bool
    wait_timeout: float


def check_keywords(callee: str, given: Iterable[str], kind: Any, own: Iterable[str] = ()) -> None:
    """Refuse a keyword that nothing takes.

    Args:
        callee: What was called, for the message.
        given: The keywords.
        kind: The TypedDict that names those that are taken.
        own: Parameters of the callee itself, for a suggestion.

    Raises:
        TypeError: Naming the keyword, and the nearest that there is.
    """
    known = list(kind.__annotations__)
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *own], 1)
            hint = f": did you mean {near[0]!r}?" if near else ""
            raise TypeError(f"{callee} got an unexpected keyword argument {name!r}{hint}")
