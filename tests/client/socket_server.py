"""Real python-socketio servers for the tests, each in a process of its own."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

from ..gunicorns import HYPERCORN
from ..servers import Server
from ..waiting import wait_for


class SocketServer(Server):
    """A python-socketio server that gives its name to clients."""

    scheme = "http"

    @property
    def url(self) -> str:
        """URL of the server, without a path."""
        return f"{self.scheme}://127.0.0.1:{self.port}"

    def kill(self) -> None:
        """Kill the server with SIGKILL, as a power cut would."""
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
    """Run a python-socketio server.

    Args:
        folder: Directory of the server's log.
        name: The name that the server sends in ``hello`` and in reply to ``who``.
        path: Path where Socket.io is mounted, such as ``/ws``.
        manner: ``refuse``, ``kick`` or empty; see ``socket_app``.
        transports: Allowed transports, separated by commas; empty allows all.
        port: Port to listen on; 0 for a free port.
        certificate: Paths of the certificate and its key; None for plain HTTP.
    """
    command = [*HYPERCORN, "-b", f"127.0.0.1:{port}"]
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
