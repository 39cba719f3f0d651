"""The keyword arguments that managers and clients accept, with their types."""

import inspect
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, Protocol, TypedDict, TypeVar

import httpx2

T_co = TypeVar("T_co", covariant=True)


class Several(Protocol[T_co]):
    """A collection of values. Type checkers refuse ``str``, whose ``__contains__`` differs."""

    def __contains__(self, value: object, /) -> bool: ...

    def __iter__(self) -> Iterator[T_co]: ...


class TransportKeywords(TypedDict, total=False):
    """The options of connections, as for ``httpx2.HTTPTransport``.

    Attributes:
        verify: A context that verifies certificates, a file of authorities, or True.
        cert: Client certificate.
        http1: Whether HTTP/1.1 is allowed.
        http2: Whether HTTP/2 is allowed.
        limits: Limits of the connections to each endpoint.
        proxy: Proxy for every request.
        trust_env: Whether to use the environment's proxies and certificate authorities.
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
    """The options of a client: the connection options and the options of ``httpx2.Client``."""

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
    """The options of ``socketio.Client``, but for those that the manager sets."""

    logger: Any
    engineio_logger: Any
    serializer: Any
    json: Any
    handle_sigint: bool
    request_timeout: float
    websocket_extra_options: Mapping[str, Any] | None
    timestamp_requests: bool


class ConnectKeywords(TypedDict, total=False):
    """The arguments of ``socketio.Client.connect``, without the URL."""

    headers: Any
    auth: Any
    transports: list[str] | str | None
    namespaces: list[str] | str | None
    wait: bool
    wait_timeout: float


def check_keywords(callee: Callable[..., object], given: Iterable[str], kind: Any) -> None:
    """Refuse an unknown keyword argument.

    Args:
        callee: The function or class that was called.
        given: The keywords.
        kind: The TypedDict of the known keywords.

    Raises:
        TypeError: If a keyword is unknown.
    """
    for name in given:
        if name not in kind.__annotations__:
            what = f"got an unexpected keyword argument {name!r}"
            raise TypeError(f"{callee.__qualname__}() {what}")


def check_flags(**flags: object) -> None:
    """Refuse what is neither true nor false: a text such as "no" would be true.

    Raises:
        TypeError: If a value is neither True nor False; the message names the argument.
    """
    for name, value in flags.items():
        if value not in (True, False):
            raise TypeError(f"{name} must be True or False, not {value!r}")


def check_plain(name: str, function: object) -> None:
    """Accept None or a plain function; refuse all else, also a coroutine function.

    Args:
        name: The argument.
        function: Its value.

    Raises:
        TypeError: If the value is neither None nor a plain function.
    """
    if function is not None and not callable(function):
        raise TypeError(f"{name} must be a function, not {function!r}")
    called = getattr(function, "__call__", None)  # noqa: B004 - ``__call__`` may be async
    if inspect.iscoroutinefunction(function) or inspect.iscoroutinefunction(called):
        reason = "no thread can await it"
        raise TypeError(f"{name} must be a plain function, not an async one: {reason}")
