"""A bad answer that is set aside: it may be the last word, and must not hold up the request."""

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpcore2
import httpx2

from .. import rewriting

#: How much of a bad answer is read before anybody wants it.
AHEAD = 1 << 20


class Aside(httpx2.SyncByteStream):
    """The body of a bad answer, read by a thread of its own while the request goes on.

    Args:
        response: The answer.
        request: What was asked, for exceptions.
        timeouts: Those of its body, as httpcore looks them up.
    """

    def __init__(
        self, response: httpcore2.Response, request: httpx2.Request, timeouts: dict[str, Any]
    ) -> None:
        self._response = response
        self._request = request
        self._timeouts = timeouts
        self._parts: Iterator[bytes] = iter(response.iter_stream())
        self._read = bytearray()
        self._error: Exception | None = None
        self._more = True
        self._unwanted = False
        self._over = threading.Event()

    def wait(self, seconds: float) -> None:
        """Read the body for at most so long; the rest comes later, if anybody wants it."""
        thread = threading.Thread(target=self._run, name="mop-config-aside", daemon=True)
        try:
            thread.start()
        except (RuntimeError, MemoryError):  # no thread to be had: what comes in time will do
            self._timeouts["read"] = seconds
            self._run()
        self._over.wait(seconds)

    def _run(self) -> None:
        try:
            for part in self._parts:
                self._read += part
                if self._unwanted or len(self._read) > AHEAD:
                    break
            else:
                self._more = False
                self._response.close()
        except Exception as error:
            self._error, self._more = error, False
        finally:
            self._over.set()
            if self._unwanted:
                self._let_go()

    def __iter__(self) -> Iterator[bytes]:
        self._over.wait()
        yield bytes(self._read)
        try:
            if self._error is not None:
                raise self._error
            if self._more:
                yield from self._parts
        except Exception as error:
            raise rewriting.translate(error, self._request) from error

    def close(self) -> None:
        """Let go of the answer; a thread that reads it ends."""
        self._unwanted = True
        if self._over.is_set():
            self._let_go()
        elif self._response.extensions.get("http_version") != b"HTTP/2":
            sock = self._response.extensions["network_stream"].get_extra_info("socket")
            with contextlib.suppress(OSError, TypeError):
                # Not SSLSocket's own, which takes the TLS state away from the thread.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)

    def _let_go(self) -> None:
        with contextlib.suppress(Exception):
            self._response.close()
