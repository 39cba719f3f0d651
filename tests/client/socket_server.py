"""Real python-socketio servers for the tests, each in a process of its own."""

import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

from ..servers import Server
from ..waiting import wait_for


class SocketServer(Server):
    """A python-socketio server that says who it is."""

    scheme = "http"

    @property
    def url(self) -> str:
        """Where it listens, without a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """End it as a power cut would."""
        self.stop(signal.SIGKILL)


@contextlib.contextmanager
def socket_server(
    folder: Path,
    name: str,
    *,
    path: str = "",
    manner: str = "",
    transports: str = "",
    port: int = 0,
    certificate: tuple[str, str] | None = None,
) -> Iterator[SocketServer]:
    """Run a server.

    Args:
        folder: Where its log goes.
        name: What it answers to ``who``, and greets with.
        path: Where Socket.io is mounted, such as ``/ws``.
        manner: ``refuse`` or ``kick``; see ``socket_app``.
        transports: The only ones that it takes, or none for all.
        port: Where it listens; 0 for a free port.
        certificate: Files of the certificate and its key, or None.
    """
    command = [sys.executable, "-m", "hypercorn", "-b", f"127.0.0.1:{port}"]
    if certificate is not None:
        command += ["--certfile", certificate[0], "--keyfile", certificate[1]]
    environ = {
        "SOCKET_NAME": name,
        "SOCKET_PATH": path,
        "SOCKET_MANNER": manner,
        "SOCKET_TRANSPORTS": transports,
    }
    server = SocketServer([*command, "tests.client.socket_app:app"], folder, environ)
    server.scheme = "https" if certificate else "http"
    try:
        server.wait_until_up(0)

        def listens() -> bool:
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", server.port), 1).close()
                return True
            return False

        wait_for(listens, what=f"{name} takes connections")
        yield server
    finally:
        server.stop(signal.SIGKILL)
