"""Whose fault a failure is: exceptions of sockets, TLS and HTTP, put into a few words. Pure.

Only the kinds in ``COUNTED`` speak against an endpoint. What we did ourselves (a full
connection pool, a cancelled request) speaks against nobody, and what looks like a machine
without a network is judged by the pool, which sees all hosts.
"""

import errno
import socket
import ssl
from collections.abc import Iterator
from enum import StrEnum


class Fault(StrEnum):
    """What went wrong, in one word."""

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
    POOL_TIMEOUT = "pool-timeout"
    OURS = "ours"


#: Speaks against the endpoint.
COUNTED = frozenset(
    {
        Fault.REFUSED,
        Fault.CONNECT_TIMEOUT,
        Fault.NO_SUCH_HOST,
        Fault.TLS,
        Fault.RESET,
        Fault.READ_TIMEOUT,
        Fault.PROTOCOL,
        Fault.BAD_STATUS,
    }
)
#: May mean that this machine has no network.
NETWORK = frozenset({Fault.UNREACHABLE, Fault.RESOLVER})

_NO_ROUTE = frozenset({errno.ENETUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL})
_NO_NAME = frozenset(
    {socket.EAI_NONAME, getattr(socket, "EAI_NODATA", socket.EAI_NONAME), socket.EAI_FAIL}
)


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        if isinstance(error, BaseExceptionGroup):
            yield from _chain(error.exceptions[-1])
        error = error.__cause__ or error.__context__


def fault_of(error: BaseException, *, connecting: bool) -> Fault:
    """Say what an exception means.

    Args:
        error: What was raised; its causes are looked at too, since HTTP libraries wrap
            the socket's own exceptions.
        connecting: Whether it came before a connection stood.
    """
    for cause in _chain(error):
        if (fault := _of_one(cause)) is not None:
            return fault
    names = {type(cause).__name__ for cause in _chain(error)}
    if names & {"PoolTimeout"}:
        return Fault.POOL_TIMEOUT
    if names & {"ConnectTimeout", "ReadTimeout", "WriteTimeout", "TimeoutError"}:
        return Fault.CONNECT_TIMEOUT if connecting else Fault.READ_TIMEOUT
    if names & {"RemoteProtocolError", "BadStatusLine", "LineTooLong", "IncompleteRead"}:
        return Fault.PROTOCOL
    if names & {"LocalProtocolError", "UnsupportedProtocol", "CancelledError", "InvalidURL"}:
        return Fault.OURS
    return Fault.REFUSED if connecting else Fault.RESET


def _of_one(error: BaseException) -> Fault | None:
    if isinstance(error, ssl.SSLError):
        return Fault.TLS
    if isinstance(error, socket.gaierror):
        return Fault.NO_SUCH_HOST if error.errno in _NO_NAME else Fault.RESOLVER
    if isinstance(error, ConnectionRefusedError):
        return Fault.REFUSED
    if isinstance(error, (ConnectionResetError, BrokenPipeError, ConnectionAbortedError)):
        return Fault.RESET
    if isinstance(error, OSError) and error.errno in _NO_ROUTE:
        return Fault.UNREACHABLE
    return None
