"""Ports for what has to know its own before it listens."""

import random
import socket


def free_ports(number: int) -> list[int]:
    """Ports that nobody listens at now, and that the system gives to nobody who asks for any."""
    found: list[int] = []
    while len(found) < number:
        port = random.randrange(10_000, 32_768)
        with socket.socket() as sock:
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def closed_port() -> int:
    """A port that refuses."""
    return free_ports(1)[0]
