"""A fleet of server processes that tests can kill, freeze, slow down and make answer errors."""

import contextlib
import errno
import json
import os
import signal
import socket
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import trustme

from ..gunicorns import HYPERCORN
from ..servers import Server, gunicorn_command
from ..waiting import wait_for

_GUNICORN = "control_socket_disable = True\nkeepalive = 30\nerrorlog = '-'\n"


class Backend:
    """One server process of the test application.

    Args:
        fleet: The fleet that the server belongs to.
        name: The name that the server gives in its answers.
        port: Port to listen on; 0 for a free port.
        tls: Subject names of the certificate; empty for plain HTTP.
        http2: Run hypercorn, which speaks HTTP/2, instead of gunicorn.
        threads: Number of requests that gunicorn answers concurrently.
    """

    def __init__(
        self,
        fleet: "Fleet",
        name: str,
        *,
        port: int = 0,
        tls: tuple[str, ...] = (),
        http2: bool = False,
        threads: int = 16,
    ) -> None:
        self.fleet = fleet
        self.name = name
        self.tls = tls
        self.http2 = http2
        self.threads = threads
        self.port = port
        self._mood = fleet.folder / f"{name}.mood"
        self._posts = fleet.folder / f"{name}.posts"
        self._mood.write_text("{}")
        self._posts.touch()
        self.start()

    def start(self) -> None:
        """Start the server, on its previous port if it ran before."""
        environ = {
            "FLEET_NAME": self.name,
            "FLEET_MOOD": str(self._mood),
            "FLEET_POSTS": str(self._posts),
        }
        self.server = Server(self._command(), self.fleet.folder, environ)
        self.port = self.server.wait_until_up(0).port
        wait_for(self._answers, what=f"{self.name} answers")

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                if self.tls:
                    context = self.fleet.trust()
                    context.check_hostname = False
                    sock = context.wrap_socket(sock)
                with sock:
                    sock.sendall(b"GET /calm HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
                    return sock.recv(12).endswith(b"200")
        except OSError:
            return False

    def _command(self) -> list[str]:
        files = self.fleet.certificate(*self.tls) if self.tls else None
        target = "tests.client.app:app"
        if self.http2:
            # hypercorn has no option for the number of threads; asyncio's default is enough.
            command = [*HYPERCORN, "-b", f"127.0.0.1:{self.port}"]
            options = [] if files is None else ["--certfile", files[0], "--keyfile", files[1]]
            return [*command, *options, f"wsgi:{target}"]
        config = self.fleet.folder / "gunicorn.py"
        config.write_text(_GUNICORN)
        options = [] if files is None else ["--certfile", files[0], "--keyfile", files[1]]
        return gunicorn_command(
            *("-c", str(config), "-b", f"127.0.0.1:{self.port}", "-w", "1"),
            *("-k", "gthread", "--threads", str(self.threads), *options),
            target=target,
        )

    @property
    def url(self) -> str:
        """URL of the API endpoint."""
        return f"http{'s' if self.tls else ''}://127.0.0.1:{self.port}/api/v1"

    def behave(self, **mood: Any) -> None:
        """Set the ``delay`` in seconds, ``status`` and ``headers`` of the following answers."""
        scratch = self._mood.with_suffix(".new")
        scratch.write_text(json.dumps(mood))
        scratch.replace(self._mood)

    def posts(self) -> list[str]:
        """The numbers of the executed POSTs, with a repeated entry for a repeated execution."""
        return self._posts.read_text().split()

    def _signal(self, number: int) -> None:
        # Each server runs in its own session, so its process group includes the workers.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.server.pid, number)

    def kill(self) -> None:
        """Kill the server and its workers with SIGKILL, as a power cut would."""
        self._signal(signal.SIGKILL)
        self.server.process.wait(10)

    def freeze(self) -> None:
        """Suspend the server with SIGSTOP: connections stay open, and nothing answers."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Resume the server with SIGCONT."""
        self._signal(signal.SIGCONT)

    def restart(self) -> None:
        """Kill the server and start it again on the same port."""
        self.kill()
        self.start()

    def close(self) -> None:
        """Kill the server and release its resources."""
        self.kill()
        self.server.stop()


class Fleet:
    """A set of servers; ``fleet_in`` stops them all at the end.

    Args:
        folder: Directory for logs, mood files and certificates.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.backends: list[Backend] = []

    @cached_property
    def authority(self) -> trustme.CA:
        """The certificate authority that signs the fleet's certificates."""
        return trustme.CA()

    def trust(self) -> ssl.SSLContext:
        """Make a TLS context that trusts the fleet's authority besides the system's."""
        context = ssl.create_default_context()
        self.authority.configure_trust(context)
        return context

    def certificate(self, *names: str) -> tuple[str, str]:
        """Write a certificate for these names and its key; return both paths."""
        stem = self.folder / "-".join(names)
        certificate, key = stem.with_suffix(".pem"), stem.with_suffix(".key")
        if not certificate.exists():
            issued = self.authority.issue_cert(*names)
            issued.private_key_pem.write_to_path(key)
            for number, blob in enumerate(issued.cert_chain_pems):
                blob.write_to_path(certificate, append=number > 0)
        return str(certificate), str(key)

    def add(self, name: str, **options: Any) -> Backend:
        """Start a server; see ``Backend``."""
        backend = Backend(self, name, **options)
        self.backends.append(backend)
        return backend

    def pair(self, **options: Any) -> tuple[Backend, Backend]:
        """Start a primary and a backup."""
        return self.add("primary", **options), self.add("backup", **options)


def open_sockets() -> list[str]:
    """Return the open sockets of this process."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(f"/proc/self/fd/{name}"))
    return [target for target in found if target.startswith("socket:")]


@contextlib.contextmanager
def fleet_in(folder: Path) -> Iterator[Fleet]:
    """Yield a fleet and stop its servers at the end."""
    fleet = Fleet(folder)
    try:
        yield fleet
    finally:
        for backend in fleet.backends:
            backend.thaw()
            backend.close()


def _binds(sock: socket.socket, host: str, port: int) -> bool:
    """Try to bind a socket; return False while a killed process still holds the address."""
    try:
        sock.bind((host, port))
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        return False
    return True


@contextlib.contextmanager
def black_hole(port: int = 0, host: str = "127.0.0.1") -> Iterator[int]:
    """Yield a port whose listen backlog is full, so that the kernel drops every SYN."""
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(socket.socket())
        hole.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for(lambda: _binds(hole, host, port), what="the port is free")
        hole.listen(0)
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(hole.getsockname())
            except TimeoutError:
                break
        yield hole.getsockname()[1]


@contextlib.contextmanager
def silence() -> Iterator[int]:
    """Yield a port whose connections are established, but never get any data."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(512)
        yield listener.getsockname()[1]


@dataclass
class Timed:
    """Duration of a block.

    Attributes:
        seconds: Duration in seconds; 0 until the block ends.
    """

    seconds: float = 0.0


@contextlib.contextmanager
def timed() -> Iterator[Timed]:
    """Measure the duration of a block."""
    result, began = Timed(), time.perf_counter()
    try:
        yield result
    finally:
        result.seconds = time.perf_counter() - began
