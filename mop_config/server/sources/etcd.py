"""One key in etcd v3: read and watched, whichever member answers."""

import base64
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from ...errors import SourceError
from ...model.address import EtcdAddress
from ..parsing.problems import Code
from ..settings import EtcdSettings
from . import etcd_wire
from .etcd_watch import Watch
from .etcd_wire import DownError, Message, RefusedError, StaleTokenError, TooLongError, in_words

if TYPE_CHECKING:
    from etcd3gw.client import Etcd3Client

T = TypeVar("T")

#: Seconds for one question, over all members; and those that each of them has at least.
PATIENCE = 6.0
LEAST_PATIENCE = 2.0


class Found(NamedTuple):
    """What a key holds.

    Attributes:
        data: The text.
        revision: Of etcd's store, at which the key was written.
        cluster: Id of the cluster.
    """

    data: bytes
    revision: int
    cluster: str = ""


class Etcd:
    """A key in etcd, and the members that can be asked for it.

    It keeps no connection, so that it may be used on both sides of a fork and by several
    threads.

    Args:
        address: The members, and the key.
        settings: How to log in, and which certificates to use.
        max_bytes: How large the text may be, in bytes.

    Attributes:
        preferred: Index of the member that has answered last.
    """

    def __init__(self, address: EtcdAddress, settings: EtcdSettings, max_bytes: int) -> None:
        self.address = address
        self.preferred = 0
        self.max_bytes = max_bytes
        self._settings = settings
        self._token = ""

    def __str__(self) -> str:
        return self.address.text

    @property
    def key(self) -> str:
        """The key, as the gateway wants it."""
        return encode(self.address.key.encode())

    def get(self, revision: int = 0) -> Found | None:
        """Read the key, by a majority of the members; None where there is none.

        Args:
            revision: As of which revision; 0 is the newest.

        Raises:
            SourceError: With code ``too-large``, ``unreadable`` (a ``RefusedError``) or
                ``unreachable``.
        """
        answer = self.ask("/kv/range", {"key": self.key, "revision": str(revision)})
        try:
            kept, cluster = answer.get("kvs"), str(answer["header"].get("cluster_id", ""))
            return self.found(kept[0])._replace(cluster=cluster) if kept else None
        except (ValueError, TypeError, LookupError, AttributeError):
            raise SourceError(Code.UNREACHABLE, f"{self}: that is no answer of etcd's") from None

    def found(self, kept: Message) -> Found:
        """Read a value out of an answer.

        Raises:
            SourceError: With code ``too-large``.
            ValueError: If it is none (also a ``LookupError`` or ``TypeError``).
        """
        data = base64.b64decode(kept.get("value", ""), validate=True)
        if len(data) > self.max_bytes:
            raise self._too_large()
        return Found(data, int(kept["mod_revision"]))

    def ask(self, path: str, message: Message) -> Message:
        """Ask the members in turn until one answers.

        Args:
            path: Of the gateway, below ``/v3``.
            message: The request, as JSON.

        Raises:
            SourceError: As for ``get``.
        """
        # Those that hang must not use up the time of those that would answer.
        share = max(LEAST_PATIENCE, PATIENCE / len(self.address.members))

        def once(_: int, client: "Etcd3Client") -> Message:
            deadline = time.monotonic() + share
            with (
                client.session,
                etcd_wire.post(client, path, message, self._token, share) as response,
            ):
                return etcd_wire.read(response, self._limit, deadline)

        return self._with_member(once)

    def watch(self, stopping: Callable[[], bool], start: int = 0) -> Watch:
        """Open a watch on the key at the first member that answers.

        Args:
            stopping: Whether to give up before the next member.
            start: The revision to begin with; 0 is from now on.

        Raises:
            SourceError: As for ``get``.
        """
        request = {"key": self.key, "start_revision": str(start), "fragment": True}

        def once(index: int, client: "Etcd3Client") -> Watch:
            try:
                response = etcd_wire.post(
                    client, "/watch", {"create_request": request}, self._token
                )
                return Watch(index, client, response, self._limit)
            except BaseException:
                client.session.close()
                raise

        return self._with_member(once, stopping)

    @property
    def _limit(self) -> int:
        # In base64, four characters stand for three bytes.
        return self.max_bytes * 4 // 3 + etcd_wire.OVERHEAD

    def _too_large(self) -> SourceError:
        return SourceError(
            Code.TOO_LARGE, f"{self} is larger than {self.max_bytes} bytes (ENDPOINT_MAX_BYTES)"
        )

    def _with_member(
        self,
        once: "Callable[[int, Etcd3Client], T]",
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
            except TooLongError:
                raise self._too_large() from None
            else:
                self.preferred = index
                return answer
        raise SourceError(Code.UNREACHABLE, f"etcd does not answer ({'; '.join(failures)})")

    def _with_login(self, index: int, once: "Callable[[int, Etcd3Client], T]") -> T:
        """Ask one member; log in first where that is needed, or needed again."""
        try:
            try:
                return self._logged_in(index, once)
            except StaleTokenError:
                self._token = ""
                return self._logged_in(index, once)
        except StaleTokenError:
            raise DownError("does not take the token that it gave") from None
        except OSError as error:  # of requests, and of the certificates' files
            raise DownError(in_words(error)) from None

    def _logged_in(self, index: int, once: "Callable[[int, Etcd3Client], T]") -> T:
        if self._settings.user is not None and not self._token:
            self._login(index)
        return once(index, etcd_wire.connect(self.address, index, self._settings))

    def _login(self, index: int) -> None:
        client = etcd_wire.connect(self.address, index, self._settings)
        credentials = {"name": self._settings.user, "password": self._settings.password or ""}
        deadline = time.monotonic() + etcd_wire.READ_TIMEOUT
        try:
            with (
                client.session,
                etcd_wire.post(client, "/auth/authenticate", credentials, "") as response,
            ):
                answer = etcd_wire.read(response, etcd_wire.OVERHEAD, deadline)
        except RefusedError as error:
            if "authentication is not enabled" in error.message:
                return  # then anybody may read
            raise RefusedError(
                Code.UNREADABLE,
                f"{self}: etcd refuses the login of {self._settings.user!r}"
                " (ENDPOINT_ETCD_USER, ENDPOINT_ETCD_PASSWORD)",
            ) from None
        self._token = str(answer.get("token", ""))


def encode(data: bytes) -> str:
    """Give bytes as the gateway wants them."""
    return base64.b64encode(data).decode()
