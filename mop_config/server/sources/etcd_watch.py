"""An open stream of what happens to a key in etcd."""

import os
import socket
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import TYPE_CHECKING

from ...errors import SourceError
from ..parsing.problems import Code
from .etcd_wire import DownError, Message, TooLongError, in_words, parse

if TYPE_CHECKING:
    import requests
    from etcd3gw.client import Etcd3Client

#: Seconds of silence after which a watch is opened anew: a member that hangs is silent too.
IDLE = 10.0


class Watch:
    """A watch: whoever opened it takes its messages and leaves it by ``with``.

    Args:
        member: Index of the member that it comes from.
        client: The client, which is closed with it.
        response: The answer that does not end.
        limit: How long a message may be, in bytes.

    Raises:
        DownError: If it has ended already.
    """

    def __init__(
        self, member: int, client: "Etcd3Client", response: "requests.Response", limit: int
    ) -> None:
        self.member = member
        self._client = client
        self._response = response
        self._limit = limit
        self._lock = threading.Lock()
        self._closed = False
        connection = response.raw.connection
        if connection is None or connection.sock is None:
            response.close()
            raise DownError("ends a watch before it begins")
        connection.sock.settimeout(IDLE)
        # A descriptor of our own: who closes the watch from another thread must not hit one
        # that means something else by then.
        self._plug = socket.socket(fileno=os.dup(connection.sock.fileno()))

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._lock:
            self._closed = True
            self._plug.close()
        self._response.close()
        self._client.session.close()

    def idle(self, seconds: float) -> None:
        """End after so many seconds of silence, rather than ``IDLE``."""
        connection = self._response.raw.connection
        if connection is not None and connection.sock is not None:
            connection.sock.settimeout(seconds)

    def close(self) -> None:
        """End the stream, from any thread."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._plug.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it has ended by itself

    def messages(self) -> Iterator[Message]:
        """Give etcd's messages as they come: the first tells that the watch stands.

        It ends when nothing has come for ``IDLE`` seconds, and when the watch is closed.

        Raises:
            SourceError: With code ``unreachable`` if the stream breaks, ``too-large`` if a
                message is larger than a text may be.
        """
        # Not at the top: it comes with the extra.
        from urllib3.exceptions import HTTPError, ReadTimeoutError

        try:
            for line in self._lines():
                yield _result(line)
            raise DownError("the connection has ended")
        except ReadTimeoutError:
            return
        except (HTTPError, OSError, DownError) as error:
            if not self._closed:
                words = str(error) if isinstance(error, DownError) else in_words(error)
                raise SourceError(Code.UNREACHABLE, words) from None
        except TooLongError:
            raise SourceError(Code.TOO_LARGE, "a change is larger than a text may be") from None

    def _lines(self) -> Iterator[bytes]:
        line = bytearray()
        for chunk in self._response.raw.stream(1 << 16):
            *ends, rest = chunk.split(b"\n")
            for end in ends:
                line += end
                if line.strip():
                    yield bytes(line)
                line.clear()
            line += rest
            if len(line) > self._limit:
                raise TooLongError


def _result(line: bytes) -> Message:
    answer = parse(line)
    result = answer.get("result")
    if isinstance(result, dict):
        return result
    error = answer.get("error")
    said = error.get("message") if isinstance(error, dict) else error
    raise DownError(f"etcd says: {said}"[:200])
