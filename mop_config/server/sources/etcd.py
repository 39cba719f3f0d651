"""EtcdSource reads a key in etcd v3, and EtcdWatcher watches it, at whichever member responds.

The requests go to the JSON gateway of a member.
"""

import base64
import contextlib
import json
import logging
import math
import random
import ssl
import threading
import time
from collections.abc import Callable, Generator, Iterator
from typing import Any, NamedTuple, TypeVar

from ...errors import SettingsError, SourceError
from ...model.address import EtcdAddress, parse_url
from ...model.printable import blanked
from ...net.connect import DialOptions
from ...net.faults import BodyTooLargeError, Fault, HttpError
from ...net.http import HttpClient, HttpConnection, HttpReply, backoff
from ...net.resolver import Resolver
from ..parsing.problems import Code
from ..settings import EtcdSettings
from .file import Event, Events, Fingerprint, Order, SourceText

logger = logging.getLogger(__name__)

#: Limits of a connection, and of each wait for bytes, in seconds.
CONNECT_TIMEOUT = 2.0
READ_TIMEOUT = 3.0
#: Seconds of silence after which a watch ends, because a member that hangs is silent too.
IDLE = 10.0
#: Bytes of a response beside the text in it.
OVERHEAD = 1 << 16

Message = dict[str, Any]
Messages = Generator[Message, None, None]

#: gRPC's codes for a fault of this member or this moment: cancelled, deadline exceeded, aborted,
#: internal, unavailable, data loss.
_TRY_ANOTHER = frozenset({1, 4, 10, 13, 14, 15})
_STALE_TOKEN = ("invalid auth token", "revision in header is old", "revision of auth store is old")

T = TypeVar("T")
#: Seconds that the members share for one request, and the least share of each; without a login.
PATIENCE = 6.0
LEAST_PATIENCE = 2.0


def _down(reason: object) -> HttpError:
    """Return the error that a member does not respond as it should; another member may."""
    return HttpError(Fault.PROTOCOL, str(reason))


class Member(NamedTuple):
    """A member, as a request addresses it.

    Attributes:
        host: Host of the member.
        port: Port of the member.
        token: The token of the login; empty without a login.
    """

    host: str
    port: int
    token: str = ""


class StaleTokenError(Exception):
    """The token has expired, or this member does not know it."""


def tls_context(settings: EtcdSettings) -> ssl.SSLContext:
    """Make the TLS context for requests to etcd.

    Raises:
        SettingsError: If a certificate cannot be used.
    """
    if not settings.tls:
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # not used
    variable, path = "ENDPOINT_ETCD_CA", settings.ca
    allowed = "a file of certificates in PEM"
    try:
        context = ssl.create_default_context(cafile=path)
        if settings.cert is not None:
            variable, path = "ENDPOINT_ETCD_CERT", settings.cert
            allowed = (
                "a certificate in PEM, with its key, which has no password, in the same file or"
                " in ENDPOINT_ETCD_KEY"
            )
            # OpenSSL would ask for the password of a key on the terminal.
            context.load_cert_chain(path, settings.key, password=lambda: "")
    except OSError as error:
        reason = error.strerror
        if isinstance(error, ssl.SSLError):
            reason = error.reason or "no PEM"
        raise SettingsError(variable, path or "", f"{allowed} ({reason})") from None
    return context


def _error(status: int, body: bytes) -> Exception:
    try:
        answer = parse(body)
        said = str(answer.get("message") or answer["error"])
    except (HttpError, KeyError):
        return _down(f"answers {status}, which is no response of etcd's gateway")
    said = blanked(said)[:200]
    if any(sign in said for sign in _STALE_TOKEN):
        return StaleTokenError()
    if status >= 500 or answer.get("code") in _TRY_ANOTHER:
        return _down(said)
    return SourceError(Code.UNREADABLE, f"etcd says: {said}")


def parse(body: bytes) -> Message:
    """Read a JSON object.

    Raises:
        HttpError: If the text is no JSON object.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict):
        raise _down("its response is no JSON object")
    return value


def _lines(chunks: Iterator[bytes], limit: int) -> Iterator[bytes]:
    line = b""
    for chunk in chunks:
        *ends, line = (line + chunk).split(b"\n")
        yield from filter(bytes.strip, ends)
        if len(line) > limit:
            raise SourceError(Code.TOO_LARGE, "a change is larger than a text may be")


def _result(line: bytes) -> Message:
    answer = parse(line)
    result = answer.get("result")
    if isinstance(result, dict) and not result.get("canceled"):
        return result
    raise _down(f"etcd says: {blanked(str(answer))}"[:200])


class Found(NamedTuple):
    """The value of a key.

    Attributes:
        data: The text.
        order: The cluster, and the revision at which the key was written.
    """

    data: bytes
    order: Order


class EtcdSource:
    """A key in etcd v3, whose value is the text of an endpoint file.

    It keeps no connection, so that both sides of a fork and several threads may use it.

    Args:
        address: The members, and the key.
        settings: The login and the certificates.
        max_bytes: Limit of the text's length in bytes.

    Attributes:
        preferred: Index of the member that responded last.
        key: The key in base64, as the gateway takes it.
        longest: Seconds that a request to members that all hang may take, with a login at each.
    """

    def __init__(self, address: EtcdAddress, settings: EtcdSettings, max_bytes: int) -> None:
        self.address = address
        self.preferred = 0
        self._most = f"{max_bytes} bytes (ENDPOINT_MAX_BYTES)"
        self.max_bytes = max_bytes
        self.key = encode(address.key.encode())
        self._settings = settings
        self._resolver = Resolver()
        self._token = ""
        # Members that hang must not use up the time of those that would respond.
        self._share = max(LEAST_PATIENCE, PATIENCE / len(address.members))
        self.longest = len(address.members) * (READ_TIMEOUT + self._share)
        self._seen = Fingerprint(0)
        # Base64 makes four characters of three bytes.
        self._limit = max_bytes * 4 // 3 + OVERHEAD

    def __str__(self) -> str:
        return self.address.text

    def fingerprint(self, before: Callable[[], None] = lambda: None) -> Fingerprint:
        """Call ``before``; return the revision that was read last, without a request to etcd."""
        before()
        return self._seen

    def being_written(self) -> bool | None:
        """Return False: a key is written in one step."""
        return False

    def is_current(self, text: SourceText) -> bool:
        """Whether the key may still hold a text; its revision tells, without asking etcd again."""
        return True

    def read(self, expected: Fingerprint | None = None) -> SourceText:
        """Read the key by a majority of the members.

        Args:
            expected: Unused: a key is never torn.

        Raises:
            SourceError: With code ``missing``, or as for ``get``.
        """
        began = time.time()
        found = self.get()
        if found is None:
            raise SourceError(Code.MISSING, f"{self} is missing: there is no such key")
        self._seen = Fingerprint(0, size=len(found.data), mtime_ns=found.order.revision)
        return SourceText(found.data, began, self._seen, found.order)

    def get(self) -> Found | None:
        """Read the key by a majority of the members; return None if it does not exist.

        Raises:
            SourceError: With code ``too-large``, ``unreadable`` or
                ``unreachable``.
        """
        answer = self.ask("/kv/range", {"key": self.key})
        try:
            kept = answer.get("kvs")
            if not kept:
                return None
            data = base64.b64decode(kept[0].get("value", ""), validate=True)
            cluster = str(answer["header"].get("cluster_id", ""))
            found = Found(data, Order(cluster, int(kept[0]["mod_revision"])))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise SourceError(Code.UNREACHABLE, f"{self}: the response is not etcd's") from None
        if len(data) > self.max_bytes:
            raise SourceError(Code.TOO_LARGE, f"{self} is larger than {self._most}")
        return found

    def ask(self, path: str, message: Message) -> Message:
        """Send a request to the members in turn until one responds.

        Args:
            path: Path below ``/v3`` of the gateway.
            message: The request, as JSON.

        Raises:
            SourceError: As for ``get``.
        """
        return self._with_member(lambda member: self._post(member, path, message, self._share))

    def watch(self, stopping: Callable[[], bool]) -> tuple[HttpClient, Messages]:
        """Open a watch on the key, from now on, at the first member that responds.

        Args:
            stopping: Whether to give up before the next member.

        Returns:
            The client, whose ``abort`` ends the watch from any thread, and the messages, each of
            which is a change of the key. They end after a silence, and when the watch is closed.

        Raises:
            SourceError: As for ``get``.
        """

        def once(member: Member) -> tuple[HttpClient, Messages]:
            client = self._client()
            messages = self._messages(client, member)
            next(messages)  # the first message says that the watch is established
            return client, messages

        return self._with_member(once, stopping)

    # -- one member

    def _with_member(
        self, once: Callable[[Member], T], stopping: Callable[[], bool] = lambda: False
    ) -> T:
        members = self.address.members
        first = self.preferred
        failures: list[str] = []
        for index in (*range(first, len(members)), *range(first)):
            if failures and stopping():
                break
            try:
                answer = self._with_login(members[index], once)
            except BodyTooLargeError:
                raise SourceError(Code.TOO_LARGE, f"{self} is larger than {self._most}") from None
            except HttpError as error:
                host, port = members[index]
                failures.append(f"{host}:{port}: {error}")
            else:
                self.preferred = index
                return answer
        raise SourceError(Code.UNREACHABLE, f"etcd does not answer ({'; '.join(failures)})")

    def _with_login(self, place: tuple[str, int], once: Callable[[Member], T]) -> T:
        """Send a request to one member; log in first where no token is valid."""
        login = {"name": self._settings.user, "password": self._settings.password}
        for _ in range(2):
            if self._settings.user is not None and not self._token:
                try:
                    answer = self._post(Member(*place), "/auth/authenticate", login, READ_TIMEOUT)
                    self._token = str(answer.get("token", ""))
                except (SourceError, HttpError) as error:
                    # The user may be set before authentication is enabled.
                    if "authentication is not enabled" not in str(error):
                        raise
            try:
                return once(Member(*place, self._token))
            except Exception as error:
                # etcd gives no answer at all if the token names a later raft index than its own: a
                # token from before a restore.
                self._token = ""
                if not isinstance(error, StaleTokenError):
                    raise
        raise _down("does not accept the token that it issued")

    def _client(self) -> HttpClient:
        """Make the client of one request or one watch; no proxy of the environment is used."""
        try:
            tls = tls_context(self._settings)
        except SettingsError as error:  # a certificate may be replaced just now
            raise _down(error) from None
        return HttpClient(DialOptions(tls, CONNECT_TIMEOUT), self._resolver)

    def _post(self, member: Member, path: str, message: Message, seconds: float) -> Message:
        """Send a request, and return the response.

        Raises:
            Exception: As for ``_sent``; BodyTooLargeError if the response is longer than a text.
        """
        with self._sent(self._client(), member, path, message, seconds) as (_, reply, chunks):
            return parse(reply.read(chunks, self._limit).body)

    def _messages(self, client: HttpClient, member: Member) -> Messages:
        """Open a watch, and yield etcd's messages; the first says that the watch is established.

        Raises:
            Exception: As for ``_sent``, also if the stream breaks off.
        """
        request = {"create_request": {"key": self.key, "fragment": True}}
        established = False
        try:
            with self._sent(client, member, "/watch", request, READ_TIMEOUT) as (stream, _, chunks):
                stream.until = math.inf
                stream.read_limit = IDLE
                for line in _lines(chunks, self._limit):
                    yield _result(line)
                    established = True
        except HttpError as error:
            if established and error.fault is Fault.READ_TIMEOUT:
                return
            raise
        if not client.aborted:
            raise _down("the connection has ended")

    @contextlib.contextmanager
    def _sent(
        self, client: HttpClient, member: Member, path: str, message: Message, seconds: float
    ) -> Iterator[tuple[HttpConnection, HttpReply, Iterator[bytes]]]:
        """Send a request, and give the connection, the response and the parts of its body.

        Args:
            client: The client.
            member: The member.
            path: Path below ``/v3``.
            message: The request, as JSON.
            seconds: Limit of the whole request.

        Raises:
            HttpError: If the member does not respond as it should; another member may.
            SourceError: With code ``unreadable`` if any other member would respond with the same
                error.
            StaleTokenError: If it requires another token.
        """
        scheme = "https" if self._settings.tls else "http"
        where = parse_url(f"{scheme}://{member.host}:{member.port}", underscores=True)
        # A member without a leader ends its watches instead of staying silent for ever.
        headers = {"Grpc-Metadata-hasleader": "true", "Content-Type": "application/json"}
        if member.token:
            headers["Authorization"] = member.token
        connection = HttpConnection(client, where, time.monotonic() + seconds)
        connection.read_limit = READ_TIMEOUT
        body = json.dumps(message).encode()
        with (
            contextlib.closing(connection),
            connection.stream("POST", f"/v3{path}", headers, body) as (reply, chunks),
        ):
            if reply.status != 200:
                raise _error(reply.status, reply.read(chunks, OVERHEAD, cut=True).body)
            yield connection, reply, chunks


def encode(data: bytes) -> str:
    """Return bytes in base64, as the gateway takes them."""
    return base64.b64encode(data).decode()


#: Upper bounds in seconds of the pause after the first failure, and after any failure.
FIRST_PAUSE = 0.25
LONGEST_PAUSE = 10.0


def pause(failures: int) -> float:
    """Return the seconds to wait after a number of failures in a row, with jitter."""
    return backoff(failures, FIRST_PAUSE, LONGEST_PAUSE) * random.uniform(0.5, 1.0)  # noqa: S311 - no secret


class EtcdWatcher:
    """Watches a key in etcd in a thread of its own, and wakes the reload thread after each event.

    The watch is opened before the key is read, so that no change in between is missed. It starts
    at the present revision, so that a compaction or a restore of the cluster does not disturb it.

    Args:
        source: The key.
        events: The queue of the events.
    """

    mode = "etcd"

    def __init__(self, source: EtcdSource, events: Events) -> None:
        self._source = source
        self._events = events
        self._failures = 0
        self._client: HttpClient | None = None  # of the watch that is established
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mop-config-etcd", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether a watch is established."""
        return self._client is not None

    def check(self, now: float) -> None:
        """Start the thread on the first call."""
        if self._thread.ident is None:
            self._thread.start()

    def stop(self) -> None:
        """End the watch, and wait for its thread."""
        self._stopping.set()
        if (client := self._client) is not None:
            client.abort()
        if self._thread.ident is not None:
            self._thread.join()

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self._follow()
            except Exception as error:
                self._client = None
                self._failures += 1
                # The reload thread reads the key, and so learns whether etcd responds at all.
                if self._failures == 1:
                    self._events.put(Event.CLOSED)
                if not isinstance(error, (SourceError, HttpError)):
                    logger.error("watching etcd failed: %s: %s", type(error).__name__, error)
                elif self._failures == 2:
                    logger.warning("the watch on etcd is lost: %s", error)
                self._stopping.wait(pause(self._failures))

    def _follow(self) -> None:
        """Watch the key until the member has been silent for too long; the caller watches again."""
        client, watch = self._source.watch(self._stopping.is_set)
        with contextlib.closing(watch) as messages:
            if self._failures:
                logger.info("watching etcd again")
            self._client, self._failures = client, 0
            self._events.put(Event.CLOSED)
            if not self._stopping.is_set():  # else ``stop`` may not have seen the watch
                for _ in messages:
                    self._events.put(Event.CLOSED)
