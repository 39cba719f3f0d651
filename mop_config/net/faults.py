"""Classify exceptions of sockets, TLS and HTTP by fault, and describe them in a few words. Pure.

Only the faults in ``COUNTED`` count against an endpoint. A full connection pool, a cancelled
request and an unreachable proxy are no faults of the endpoint. The pool, which sees all hosts,
decides whether this machine has lost its network.
"""

import errno
import socket
import ssl
from enum import StrEnum
from typing import Any


class Fault(StrEnum):
    """The kind of a failure, in one word."""

    REFUSED = "refused"
    CONNECT_TIMEOUT = "connect-timeout"
    NO_SUCH_HOST = "no-such-host"
    TLS = "tls"
    RESET = "reset"
    READ_TIMEOUT = "read-timeout"
    PROTOCOL = "protocol"
    BAD_STATUS = "bad-status"
    STALLED = "stalled"
    BUSY = "busy"
    UNREACHABLE = "unreachable"
    RESOLVER = "resolver"
    PROXY = "proxy"
    POOL_TIMEOUT = "pool-timeout"
    OURS = "ours"


#: Faults that may mean that this machine has no network.
NETWORK = frozenset({Fault.UNREACHABLE, Fault.RESOLVER})
#: Faults that do not count against the endpoint, besides those of the network.
_UNCOUNTED = {Fault.STALLED, Fault.BUSY, Fault.PROXY, Fault.POOL_TIMEOUT, Fault.OURS}
#: Faults that count against the endpoint.
COUNTED = frozenset(Fault) - NETWORK - _UNCOUNTED

#: Error codes of exhausted descriptors, buffers or memory: another endpoint would fail, too.
_EXHAUSTED = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
_CODES = {
    **dict.fromkeys((errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL), Fault.UNREACHABLE),
    **dict.fromkeys(_EXHAUSTED, Fault.OURS),
}
#: Beginning of our message about a proxy that cannot be reached.
UNREACHABLE_PROXY = "the proxy cannot be reached"
#: Beginnings of a proxy's messages about faults that are not the endpoint's.
_REFUSALS = ("407", "Requested ", "Invalid username/password", UNREACHABLE_PROXY)
#: CPython's messages when a thread cannot be started (no threads or memory left, or, from 3.12 on,
#: after the main thread has ended). The exception is only a RuntimeError.
_NO_THREAD = ("can't start new thread", "can't create new thread")
_NO_NAME = {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAIL}


class HttpError(OSError):
    """A request got no complete response; the text says why, in a few words.

    Attributes:
        fault: The kind of failure.
    """

    def __init__(self, fault: Fault, reason: str) -> None:
        super().__init__(reason)
        self.fault = fault


class ProxyError(OSError):
    """A proxy cannot be reached, or opens no tunnel; the text says why."""


class BodyTooLargeError(HttpError):
    """A response's body is longer than the caller accepts."""


def describe(error: BaseException) -> str:
    """Describe an exception, or the cause behind it, in a few words."""
    for cause in causes(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if isinstance(cause, ssl.SSLCertVerificationError):
            return f"its certificate cannot be trusted: {cause.verify_message}"
        if isinstance(cause, ssl.SSLError):
            return f"TLS: {cause.reason or cause}"
        if not names.isdisjoint({"TimeoutException", "TimeoutError"}):
            return "timed out"
        if "ProxyError" in names:
            break
        if isinstance(cause, OSError) and cause.strerror:
            return cause.strerror
    return str(error) or type(error).__name__


def causes(error: BaseException) -> list[BaseException]:
    """List an exception and the exceptions that caused it, the outermost first.

    requests and urllib keep the cause as an argument or as ``reason``. The context of an exception
    is no cause: the application may have been handling it when it sent the request.
    """
    found: list[BaseException] = []
    waiting: list[Any] = [error]
    while waiting:
        cause = waiting.pop(0)
        if isinstance(cause, BaseException) and all(cause is not other for other in found):
            found.append(cause)
            last = cause.exceptions[-1:] if isinstance(cause, BaseExceptionGroup) else ()
            waiting += [*last, cause.__cause__, getattr(cause, "reason", None), *cause.args]
    return found


def lacks_resources(error: BaseException) -> bool:
    """Whether this process or machine has run out of descriptors, memory or threads.

    Args:
        error: The exception; its causes are examined too.
    """
    return any(
        isinstance(cause, MemoryError)
        or (isinstance(cause, OSError) and cause.errno in _EXHAUSTED)
        or (isinstance(cause, RuntimeError) and str(cause).startswith(_NO_THREAD))
        for cause in causes(error)
    )


#: The fault that a class of exceptions reports before and after a connection is established. Some
#: classes stand by their names, because their libraries need not be installed.
_FAULTS: dict[type | str, tuple[Fault, Fault]] = {
    ssl.SSLEOFError: (Fault.TLS, Fault.RESET),  # the server closed the connection
    ssl.SSLZeroReturnError: (Fault.TLS, Fault.RESET),
    ssl.SSLError: (Fault.TLS, Fault.TLS),
    ConnectionRefusedError: (Fault.REFUSED, Fault.REFUSED),
    ConnectionError: (Fault.RESET, Fault.RESET),
    "PoolTimeout": (Fault.POOL_TIMEOUT, Fault.POOL_TIMEOUT),
    "TimeoutException": (Fault.CONNECT_TIMEOUT, Fault.READ_TIMEOUT),
    "TimeoutError": (Fault.CONNECT_TIMEOUT, Fault.READ_TIMEOUT),
    "RemoteProtocolError": (Fault.PROTOCOL, Fault.PROTOCOL),
    "HTTPException": (Fault.PROTOCOL, Fault.PROTOCOL),
    "HttpProcessingError": (Fault.PROTOCOL, Fault.PROTOCOL),  # aiohttp
}
#: Classes of httpcore, httpx and the standard library for any connection failure; the cause, if
#: there is a cause, is more specific.
_VAGUE = frozenset({"NetworkError", "ProxyError", "OSError"})


def fault_of(error: BaseException, *, connecting: bool) -> Fault:
    """Return the fault that an exception reports.

    Args:
        error: The exception; its causes are examined too, because HTTP libraries wrap the
            exceptions of sockets.
        connecting: Whether the exception was raised before a connection was established.
    """
    vague = False
    for cause in causes(error):
        names = {kind.__name__ for kind in type(cause).__mro__}
        if "ProxyError" in names and str(cause).startswith(_REFUSALS):
            return Fault.PROXY
        if isinstance(cause, socket.gaierror):
            return Fault.NO_SUCH_HOST if cause.errno in _NO_NAME else Fault.RESOLVER
        if isinstance(cause, OSError) and cause.errno in _CODES:
            return _CODES[cause.errno]
        for kind in type(cause).__mro__:
            faults = _FAULTS.get(kind) or _FAULTS.get(kind.__name__)
            if faults is not None:
                return faults[0 if connecting else 1]
        vague = vague or not names.isdisjoint(_VAGUE)
    if not vague:
        return Fault.OURS  # for example a cancellation, or a body that cannot be read
    return Fault.REFUSED if connecting else Fault.RESET
