"""EtcdSource: a key in etcd v3, read and watched through whichever member responds."""

import base64
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from ...errors import SourceError
from ...model.address import EtcdAddress
from ...net.faults import BodyTooLargeError
from ...net.resolver import Resolver
from ..parsing.problems import Code
from ..settings import EtcdSettings
from .etcd_gateway import (
    OVERHEAD,
    READ_TIMEOUT,
    DownError,
    Gateway,
    Message,
    RefusedError,
    StaleTokenError,
)
from .file import Fingerprint, Order, SourceText

T = TypeVar("T")

#: Limit of a request over all members in seconds, and the least share of each of them.
PATIENCE = 6.0
LEAST_PATIENCE = 2.0


class Found(NamedTuple):
    """The value of a key.

    Attributes:
        data: The text.
        order: The cluster, and the revision at which the key was written.
    """

    data: bytes
    order: Order


class Watch(NamedTuple):
    """A watch that is established.

    Attributes:
        position: Index of the member that sends the messages.
        member: The member, whose ``close`` ends the watch from any thread.
        messages: The messages; each is a change of the key.
    """

    position: int
    member: Gateway
    messages: Generator[Message, None, None]


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
    """

    def __init__(self, address: EtcdAddress, settings: EtcdSettings, max_bytes: int) -> None:
        self.address = address
        self.preferred = 0
        self.max_bytes = max_bytes
        self.key = encode(address.key.encode())
        self._settings = settings
        self._resolver = Resolver()
        self._token = ""
        self._seen = Fingerprint(0)
        # Base64 makes four characters of three bytes.
        self._limit = max_bytes * 4 // 3 + OVERHEAD

    def __str__(self) -> str:
        return self.address.text

    def signature(self) -> Fingerprint:
        """Return the revision that was read last, without a request to etcd."""
        return self._seen

    def being_written(self) -> bool | None:
        """Return False: a key is written in one step."""
        return False

    def is_current(self, text: SourceText) -> bool:
        """Whether the key may still hold a text; its revision tells, without asking etcd again."""
        return True

    def read(self) -> SourceText:
        """Read the key by a majority of the members.

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
            SourceError: With code ``too-large``, ``unreadable`` (a ``RefusedError``) or
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
            raise self._too_large()
        return found

    def ask(self, path: str, message: Message) -> Message:
        """Send a request to the members in turn until one responds.

        Args:
            path: Path below ``/v3`` of the gateway.
            message: The request, as JSON.

        Raises:
            SourceError: As for ``get``.
        """
        # Members that hang must not use up the time of those that would respond.
        share = max(LEAST_PATIENCE, PATIENCE / len(self.address.members))
        return self._with_member(lambda _, member: member.post(path, message, self._limit, share))

    def watch(self, stopping: Callable[[], bool]) -> Watch:
        """Open a watch on the key, from now on, at the first member that responds.

        Args:
            stopping: Whether to give up before the next member.

        Raises:
            SourceError: As for ``get``.
        """
        request = {"create_request": {"key": self.key, "fragment": True}}

        def once(index: int, member: Gateway) -> Watch:
            messages = member.watch(request, self._limit)
            next(messages)  # the first message says that the watch is established
            return Watch(index, member, messages)

        return self._with_member(once, stopping)

    def _too_large(self) -> SourceError:
        return SourceError(
            Code.TOO_LARGE, f"{self} is larger than {self.max_bytes} bytes (ENDPOINT_MAX_BYTES)"
        )

    def _with_member(
        self,
        once: Callable[[int, Gateway], T],
        stopping: Callable[[], bool] = lambda: False,
    ) -> T:
        members = self.address.members
        first = self.preferred
        failures: list[str] = []
        for index in (*range(first, len(members)), *range(first)):
            if failures and stopping():
                break
            try:
                answer = self._with_login(index, once)
            except DownError as error:
                host, port = members[index]
                failures.append(f"{host}:{port}: {error}")
            except BodyTooLargeError:
                raise self._too_large() from None
            else:
                self.preferred = index
                return answer
        raise SourceError(Code.UNREACHABLE, f"etcd does not answer ({'; '.join(failures)})")

    def _with_login(self, index: int, once: Callable[[int, Gateway], T]) -> T:
        """Send a request to one member; log in first where no token is valid."""
        member = self.address.members[index]
        for _ in range(2):
            if self._settings.user is not None and not self._token:
                self._token = self._login(Gateway(member, self._settings, self._resolver))
            try:
                return once(index, Gateway(member, self._settings, self._resolver, self._token))
            except StaleTokenError:
                self._token = ""
        raise DownError("does not accept the token that it issued")

    def _login(self, member: Gateway) -> str:
        credentials = {"name": self._settings.user, "password": self._settings.password or ""}
        try:
            answer = member.post("/auth/authenticate", credentials, OVERHEAD, READ_TIMEOUT)
        except RefusedError as error:
            if "authentication is not enabled" in error.message:
                return ""  # etcd requires no login then
            raise RefusedError(
                Code.UNREADABLE,
                f"{self}: etcd refuses the login of {self._settings.user!r}"
                " (ENDPOINT_ETCD_USER, ENDPOINT_ETCD_PASSWORD)",
            ) from None
        return str(answer.get("token", ""))


def encode(data: bytes) -> str:
    """Return bytes in base64, as the gateway takes them."""
    return base64.b64encode(data).decode()
