"""A host name whose addresses and DNS look-up time the test sets."""

import socket
import threading
from typing import Any

import pytest

NAME = "many.example"


class Names:
    """A patch of ``socket.getaddrinfo`` that resolves one more name, with a delay.

    Attributes:
        addresses: Addresses of the name, or the exception that its look-up raises.
        seconds: Duration of a look-up, in seconds; setting ``answer`` ends it early.
        asked: Number of look-ups of the name.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.addresses: list[str] | socket.gaierror = []
        self.seconds = 0.0
        self.asked = 0
        self.answer = threading.Event()
        system = socket.getaddrinfo

        def look_up(host: Any, port: Any, *options: Any, **more: Any) -> Any:
            if host not in (NAME, NAME.encode()):
                return system(host, port, *options, **more)
            self.asked += 1
            self.answer.wait(self.seconds)
            if isinstance(self.addresses, socket.gaierror):
                raise self.addresses
            found: list[Any] = []
            for address in self.addresses:
                found += system(address, port, *options, **more)
            return found

        monkeypatch.setattr(socket, "getaddrinfo", look_up)
