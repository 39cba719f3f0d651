"""One question to one member of etcd over its JSON gateway, and what its answer means.

etcd3gw knows the gateway's addresses and TLS. What it lacks is here: answers that are bounded
and end in time, and errors that tell a member that is down from a request that is refused.
"""

import json
import ssl
import time
from typing import TYPE_CHECKING, Any

from ...errors import SourceError
from ...model.address import EtcdAddress
from ...model.printable import blanked
from ..parsing.problems import Code
from ..settings import EtcdSettings

if TYPE_CHECKING:
    import requests
    from etcd3gw.client import Etcd3Client

#: Seconds for a connection, and for each wait for more of an answer.
CONNECT_TIMEOUT = 2.0
READ_TIMEOUT = 3.0
#: Bytes of an answer beside the text in it.
OVERHEAD = 1 << 16

Message = dict[str, Any]

#: gRPC's codes for what has to do with this member, or this moment: cancelled, deadline
#: exceeded, aborted, internal, unavailable, data loss.
_TRY_ANOTHER = frozenset({1, 4, 10, 13, 14, 15})
_STALE_TOKEN = ("invalid auth token", "revision in header is old", "revision of auth store is old")
_HINTS = (
    ("user name is empty", " (it wants ENDPOINT_ETCD_USER and ENDPOINT_ETCD_PASSWORD)"),
    ("permission denied", " (this user may not do that with this key)"),
    ("received message larger than max", " (a limit of etcd's: --max-request-bytes)"),
    ("request is too large", " (a limit of etcd's: --max-request-bytes)"),
)


class RefusedError(SourceError):
    """etcd has answered, with an error that no other member would spare us."""


class DownError(Exception):
    """This member does not answer as it should; another one may."""


class StaleTokenError(Exception):
    """The token has run out, or the member has never heard of it."""


class TooLongError(Exception):
    """The answer is longer than any that could be used."""


def connect(address: EtcdAddress, index: int, settings: EtcdSettings) -> "Etcd3Client":
    """Make a client for one member; it connects with its first request."""
    # Not at the top: it is an extra.
    from etcd3gw.client import Etcd3Client

    host, port = address.members[index]
    client = Etcd3Client(
        host=host.strip("[]"),
        port=port,
        protocol="https" if settings.tls else "http",
        api_path="/v3/",
    )
    session = client.session
    # The environment's proxies, .netrc and certificates are not meant for etcd.
    session.trust_env = False
    session.verify = settings.ca or _system_authorities()
    if settings.cert is not None:
        session.cert = (settings.cert, settings.key) if settings.key else settings.cert
    return client


def _system_authorities() -> str | bool:
    # requests would take certifi's, which know nothing of the operator's own.
    paths = ssl.get_default_verify_paths()
    return paths.cafile or paths.capath or True


def post(
    client: "Etcd3Client",
    path: str,
    message: Message,
    token: str,
    patience: float = READ_TIMEOUT,
) -> "requests.Response":
    """Send a request, and wait for the head of its answer.

    Args:
        client: The member to ask.
        path: Of the gateway, below ``/v3``.
        message: The request, as JSON.
        token: What the login gave; empty for none.
        patience: The most seconds to wait for a connection, and then for the answer.

    Raises:
        OSError: If there is no answer; requests' own exceptions are such.
        DownError: If the member says that it cannot answer now.
        StaleTokenError: If it wants another token.
        RefusedError: If the answer is an error.
    """
    # A member without a leader ends its watches, rather than hear of nothing for ever.
    headers = {"Grpc-Metadata-hasleader": "true", "Accept-Encoding": "identity"}
    if token:
        headers["Authorization"] = token
    response: requests.Response = client.session.post(
        client.get_url(path),
        json=message,
        headers=headers,
        timeout=(min(CONNECT_TIMEOUT, patience), min(READ_TIMEOUT, patience)),
        stream=True,
        allow_redirects=False,
    )
    if response.status_code == 200:
        return response
    with response:
        raise _error(response)


def _error(response: "requests.Response") -> Exception:
    status = response.status_code
    try:
        answer = read(response, OVERHEAD, time.monotonic() + READ_TIMEOUT)
        said = str(answer.get("message") or answer["error"])
    except (DownError, TooLongError, KeyError):
        return DownError(f"answers {status}, and not as etcd's gateway does")
    said = blanked(said)[:200]
    if any(sign in said for sign in _STALE_TOKEN):
        return StaleTokenError()
    if status >= 500 or answer.get("code") in _TRY_ANOTHER:
        return DownError(said)
    hint = next((hint for sign, hint in _HINTS if sign in said), "")
    return RefusedError(Code.UNREADABLE, f"etcd says: {said}{hint}")


def read(response: "requests.Response", limit: int, deadline: float) -> Message:
    """Read an answer.

    Args:
        response: The answer.
        limit: How long it may be, in bytes.
        deadline: Monotonic seconds at which it must be there.

    Raises:
        OSError: If it breaks off.
        DownError: If it is not what etcd answers, or comes too slowly.
        TooLongError: If it is longer than that.
    """
    # Not at the top: it comes with the extra.
    from urllib3.exceptions import HTTPError

    body = bytearray()
    try:
        # What has come so far: to wait for a whole piece would be to wait for whoever sends it
        # byte by byte.
        while piece := response.raw.read1(1 << 16):
            body += piece
            if len(body) > limit:
                raise TooLongError
            if time.monotonic() > deadline:
                raise DownError("the answer takes too long")
    except HTTPError as error:
        raise DownError(in_words(error)) from None
    return parse(bytes(body))


def parse(body: bytes) -> Message:
    """Read a JSON object.

    Raises:
        DownError: If it is none.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise DownError("answers no JSON of etcd's")
    return value


def in_words(error: BaseException) -> str:
    """Say what is behind an exception of requests' or of urllib3's."""
    inner: BaseException | None = error
    for _ in range(8):
        if isinstance(inner, ssl.SSLCertVerificationError):
            return f"its certificate is not accepted: {inner.verify_message}"
        if isinstance(inner, ssl.SSLError):
            return f"TLS: {inner.reason or inner}"
        if isinstance(inner, TimeoutError) or type(inner).__name__.endswith("Timeout"):
            return "no answer in time"
        if isinstance(inner, OSError) and inner.strerror:
            return inner.strerror
        inner = _behind(inner)
    return str(error)[:200]


def _behind(error: BaseException | None) -> BaseException | None:
    causes = [
        getattr(error, "reason", None),
        getattr(error, "__cause__", None),
        *getattr(error, "args", ()),
        getattr(error, "__context__", None),
    ]
    return next((cause for cause in causes if isinstance(cause, BaseException)), None)
