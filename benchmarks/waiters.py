"""Thousands of long polls in one process: one epoll instance, no threads.

Run as a module with a JSON object of ``port``, ``number``, ``etag`` and ``away``. The module prints
``sent`` on standard output when all requests are sent, and all answers at the end of its standard
input. A client that is answered sends its next request after ``away`` seconds, which stand for
the travel time of the answer and the next request.
"""

import json
import re
import resource
import select
import socket
import sys
import time
from collections import deque

from tests.servers import ENDPOINTS

_STATUS = re.compile(rb"HTTP/1\.1 (\d+)")
_ETAG = re.compile(rb"\r\netag: (\S+)", re.IGNORECASE)
_LENGTH = re.compile(rb"\r\ncontent-length: (\d+)", re.IGNORECASE)


class Waiter:
    """One client on one connection.

    Attributes:
        told: The time, status and ETag of each answer.
        turned_away: Number of answers without a free place, with Retry-After.
    """

    def __init__(self, port: int, etag: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=60)
        self.told: list[tuple[float, int, str]] = []
        self.turned_away = 0
        self._known = etag.encode()
        self._buffer = b""

    def ask(self) -> None:
        """Send a long poll with the ETag of the last answer."""
        self.socket.sendall(
            b"GET %s?wait=60 HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: %s\r\n\r\n"
            % (ENDPOINTS.encode(), self._known)
        )

    def read(self) -> bool:
        """Read from the socket; return whether an answer is complete."""
        data = self.socket.recv(1 << 18)
        if not data:
            raise ConnectionError("the server closed the connection of a waiter")
        self._buffer += data
        head, end, body = self._buffer.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not end or len(body) < (int(length[1]) if length else 0):
            return False
        self._buffer = b""
        status, etag = _STATUS.match(head), _ETAG.search(head)
        if status is None or etag is None:
            raise ValueError(head)
        self.told.append((time.monotonic(), int(status[1]), etag[1].decode()))
        self.turned_away += b"\r\nretry-after:" in head.lower()
        self._known = etag[1]
        return True


def run(port: int, number: int, etag: str, away: float) -> list[Waiter]:
    """Run that number of long polls until standard input ends."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    poll = select.epoll()
    waiters: dict[int, Waiter] = {}
    for _ in range(number):
        waiter = Waiter(port, etag)
        waiter.ask()
        waiters[waiter.socket.fileno()] = waiter
        poll.register(waiter.socket, select.EPOLLIN)
    print("sent", flush=True)
    poll.register(sys.stdin, select.EPOLLIN)
    return _wait(poll, waiters, away)


def _wait(poll: select.epoll, waiters: dict[int, Waiter], away: float) -> list[Waiter]:
    again: deque[tuple[float, Waiter]] = deque()
    while True:
        left = max(0.0, again[0][0] - time.monotonic()) if again else None
        for descriptor, _ in poll.poll(left):
            if descriptor == sys.stdin.fileno():
                return list(waiters.values())
            if waiters[descriptor].read():
                again.append((time.monotonic() + away, waiters[descriptor]))
        while again and again[0][0] <= time.monotonic():
            again.popleft()[1].ask()


if __name__ == "__main__":
    finished = run(**json.loads(sys.argv[1]))
    print(json.dumps([[waiter.told, waiter.turned_away] for waiter in finished]))
