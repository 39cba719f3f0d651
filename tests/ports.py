"""Free ports for servers that must know their port before they listen."""

import random
import socket


def free_ports(number: int) -> list[int]:
    """Return unused ports that the system does not hand out as ephemeral ports."""
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
    """Return a port that refuses connections."""
    return free_ports(1)[0]
