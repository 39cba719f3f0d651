"""A host name that a test decides about: what it leads to, and how long its look-up takes."""

import socket
import threading
from typing import Any

import pytest

NAME = "many.example"


class Names:
    """The system's resolver with one name more, whose look-up takes as long as it is told.

    Attributes:
        addresses: What the name leads to; an exception is raised.
        seconds: How long its look-up takes.
        asked: How often it was looked up.
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
