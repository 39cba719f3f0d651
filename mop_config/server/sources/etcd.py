"""A key in etcd v3: read and watched through whichever member responds."""

import base64
from collections.abc import Callable
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
    Watch,
)

T = TypeVar("T")

#: Limit of a request over all members in seconds, and the least share of each of them.
PATIENCE = 6.0
LEAST_PATIENCE = 2.0


class Found(NamedTuple):
    """The value of a key.

    Attributes:
        data: The text.
        revision: The revision of etcd's store at which the key was written.
        cluster: Id of the cluster.
    """

    data: bytes
    revision: int
    cluster: str = ""


class Etcd:
    """A key in etcd, and the members that serve it.

    It keeps no connection, so that both sides of a fork and several threads may use it.

    Args:
        address: The members, and the key.
        settings: The login and the certificates.
        max_bytes: Limit of the text's length in bytes.

    Attributes:
        preferred: Index of the member that responded last.
    """

    def __init__(self, address: EtcdAddress, settings: EtcdSettings, max_bytes: int) -> None:
        self.address = address
        self.preferred = 0
        self.max_bytes = max_bytes
        self._settings = settings
        self._resolver = Resolver()
        self._token = ""

    def __str__(self) -> str:
        return self.address.text

    @property
    def key(self) -> str:
        """The key in base64, as the gateway takes it."""
        return encode(self.address.key.encode())

    def get(self, revision: int = 0) -> Found | None:
        """Read the key by a majority of the members; return None if it does not exist.

        Args:
            revision: The revision to read; 0 is the newest.

        Raises:
            SourceError: With code ``too-large``, ``unreadable`` (a ``RefusedError``) or
                ``unreachable``.
        """
        answer = self.ask("/kv/range", {"key": self.key, "revision": str(revision)})
        try:
            kept, cluster = answer.get("kvs"), str(answer["header"].get("cluster_id", ""))
            return self.found(kept[0])._replace(cluster=cluster) if kept else None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise SourceError(Code.UNREACHABLE, f"{self}: the response is not etcd's") from None

    def found(self, kept: Message) -> Found:
        """Read the value of a key from a response.

        Raises:
            SourceError: With code ``too-large``.
            ValueError: If there is none (also ``LookupError`` or ``TypeError``).
        """
        data = base64.b64decode(kept.get("value", ""), validate=True)
        if len(data) > self.max_bytes:
            raise self._too_large()
        return Found(data, int(kept["mod_revision"]))

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

    def watch(self, stopping: Callable[[], bool], start: int = 0) -> Watch:
        """Open a watch on the key at the first member that responds.

        Args:
            stopping: Whether to give up before the next member.
            start: The revision to begin with; 0 is from now on.

        Raises:
            SourceError: As for ``get``.
        """
        request = {"key": self.key, "start_revision": str(start), "fragment": True}

        def once(index: int, member: Gateway) -> Watch:
            watch = member.watch({"create_request": request}, self._limit)
            watch.member = index
            return watch

        return self._with_member(once, stopping)

    @property
    def _limit(self) -> int:
        # Base64 makes four characters of three bytes.
        return self.max_bytes * 4 // 3 + OVERHEAD

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
