"""The classification of exceptions as faults of the endpoint, the network or our side."""

import asyncio
import errno
import http.client
import os
import socket
import ssl
from itertools import pairwise

import httpcore2
import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mop_config.net.faults import COUNTED, NETWORK, Fault, fault_of


def caused(*errors: BaseException) -> BaseException:
    """Chain the exceptions: the first is raised from the second, and so on; return the first."""
    for error, cause in pairwise(errors):
        error.__cause__ = cause
    return errors[0]


def system(code: int) -> OSError:
    return OSError(code, os.strerror(code))


TRUNCATED = ssl.SSLEOFError(8, "EOF occurred in violation of protocol")
WRONG_CERTIFICATE = ssl.SSLCertVerificationError(1, "certificate verify failed")
NO_NAME = socket.gaierror(socket.EAI_NONAME, "Name or service not known")
TRY_AGAIN = socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (system(errno.ECONNREFUSED), Fault.REFUSED),
        (caused(httpcore2.ConnectError(), system(errno.ECONNREFUSED)), Fault.REFUSED),
        (httpcore2.ConnectError("All connection attempts failed"), Fault.REFUSED),
        (httpcore2.ProxyError("502 Bad Gateway"), Fault.REFUSED),
        (system(errno.EHOSTUNREACH), Fault.REFUSED),
        (TimeoutError("timed out"), Fault.CONNECT_TIMEOUT),
        (system(errno.ETIMEDOUT), Fault.CONNECT_TIMEOUT),
        (httpcore2.ConnectTimeout(), Fault.CONNECT_TIMEOUT),
        (httpx2.ConnectTimeout(""), Fault.CONNECT_TIMEOUT),
        (caused(httpcore2.ConnectError(), NO_NAME), Fault.NO_SUCH_HOST),
        (caused(httpcore2.ConnectError(), TRY_AGAIN), Fault.RESOLVER),
        (caused(httpcore2.ConnectError(), WRONG_CERTIFICATE), Fault.TLS),
        (TRUNCATED, Fault.TLS),
        (system(errno.ECONNRESET), Fault.RESET),
        (system(errno.ENETUNREACH), Fault.UNREACHABLE),
        (system(errno.EADDRNOTAVAIL), Fault.UNREACHABLE),
        (caused(httpcore2.ConnectError(), system(errno.ENETUNREACH)), Fault.UNREACHABLE),
        (
            caused(
                httpcore2.ConnectError(),
                OSError("All connection attempts failed"),
                ExceptionGroup("", [system(errno.EINVAL), system(errno.ENETUNREACH)]),
            ),
            Fault.UNREACHABLE,
        ),
        (system(errno.EMFILE), Fault.OURS),
        (caused(httpcore2.ConnectError(), system(errno.ENOBUFS)), Fault.OURS),
        (httpcore2.PoolTimeout(), Fault.POOL_TIMEOUT),
        (httpx2.PoolTimeout(""), Fault.POOL_TIMEOUT),
    ],
)
def test_before_a_connection_stands(error: BaseException, fault: Fault) -> None:
    """Each exception of a dial gives its fault."""
    assert fault_of(error, connecting=True) is fault


@pytest.mark.parametrize(
    ("error", "fault"),
    [
        (caused(httpcore2.ReadError(), system(errno.ECONNRESET)), Fault.RESET),
        (caused(httpcore2.WriteError(), system(errno.EPIPE)), Fault.RESET),
        (httpcore2.ReadError(), Fault.RESET),
        (httpx2.ReadError(""), Fault.RESET),
        (ConnectionAbortedError(), Fault.RESET),
        (caused(httpcore2.WriteError(), TRUNCATED), Fault.RESET),
        (caused(httpcore2.ReadError(), ssl.SSLZeroReturnError(6, "closed")), Fault.RESET),
        (caused(httpcore2.ReadError(), ssl.SSLError(1, "bad record mac")), Fault.TLS),
        (httpcore2.ReadTimeout(), Fault.READ_TIMEOUT),
        (httpcore2.WriteTimeout(), Fault.READ_TIMEOUT),
        (TimeoutError(), Fault.READ_TIMEOUT),
        (httpcore2.RemoteProtocolError("Server disconnected"), Fault.PROTOCOL),
        (http.client.BadStatusLine("garbage"), Fault.PROTOCOL),
        (http.client.IncompleteRead(b""), Fault.PROTOCOL),
        (http.client.HTTPException("got more than 100 headers"), Fault.PROTOCOL),
        (http.client.RemoteDisconnected("closed"), Fault.RESET),
        (httpcore2.LocalProtocolError("too much data"), Fault.OURS),
        (httpcore2.UnsupportedProtocol("ftp"), Fault.OURS),
        (asyncio.CancelledError(), Fault.OURS),
        (KeyboardInterrupt(), Fault.OURS),
    ],
)
def test_on_a_connection(error: BaseException, fault: Fault) -> None:
    """Each exception of an exchange gives its fault."""
    assert fault_of(error, connecting=False) is fault


def test_a_body_that_cannot_be_made_is_nobodys_fault() -> None:
    """An upload generator that raises is not the endpoint's fault."""
    assert fault_of(ValueError("no such row"), connecting=False) is Fault.OURS
    assert fault_of(RuntimeError(), connecting=True) is Fault.OURS


def test_what_the_application_was_dealing_with_says_nothing() -> None:
    """The context of a request made in an ``except`` block does not affect its fault."""
    try:
        raise ConnectionRefusedError(errno.ECONNREFUSED, "another service is down")
    except ConnectionRefusedError:
        try:
            raise httpcore2.ReadError("broken")
        except httpcore2.ReadError as error:
            assert error.__context__ is not None
            assert fault_of(error, connecting=False) is Fault.RESET


def test_the_outer_word_counts_where_it_is_clear() -> None:
    """The outer exception decides if it is clear: a read time-out stays a read time-out."""
    error = caused(httpcore2.ReadTimeout(), system(errno.ECONNRESET))
    assert fault_of(error, connecting=False) is Fault.READ_TIMEOUT


def test_causes_in_a_circle_end() -> None:
    """A cycle in an exception's causes does not hang the classification."""
    error = caused(httpcore2.ConnectError(), httpcore2.ConnectError())
    error.__cause__.__cause__ = error  # type: ignore[union-attr]
    assert fault_of(error, connecting=True) is Fault.REFUSED


@given(st.sampled_from(sorted(errno.errorcode)), st.booleans())
def test_every_system_error_is_somebodys_fault(code: int, connecting: bool) -> None:
    """Every errno gives a fault, and an errno of a missing network never counts."""
    fault = fault_of(system(code), connecting=connecting)
    assert (fault in COUNTED) + (fault in NETWORK) + (fault is Fault.OURS) == 1


def test_which_faults_count() -> None:
    """A busy endpoint, a full connection pool and a missing network do not count as failures."""
    assert set(Fault) - COUNTED == {
        Fault.STALLED,
        Fault.BUSY,
        Fault.UNREACHABLE,
        Fault.RESOLVER,
        Fault.PROXY,
        Fault.POOL_TIMEOUT,
        Fault.OURS,
    }
    assert frozenset({Fault.UNREACHABLE, Fault.RESOLVER}) == NETWORK
