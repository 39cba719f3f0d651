"""Real etcd for the tests: clusters on free ports, whose members can be killed and frozen."""

import base64
import contextlib
import http.client
import json
import os
import select
import signal
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .conftest import need_program
from .ports import free_ports
from .waiting import wait_for

KEY = "mop/endpoints"


def encode(text: str | bytes) -> str:
    """Encode a key or value in base64, as etcd's JSON gateway requires."""
    return base64.b64encode(text.encode() if isinstance(text, str) else text).decode()


class RefusedError(Exception):
    """An etcd answer with an error status."""


class Member:
    """One member of a cluster: a process, its folder and its ports."""

    def __init__(self, folder: Path, name: str, ports: tuple[int, int], scheme: str) -> None:
        self.folder, self.name = folder / name, name
        self.port, peer_port = ports
        self.url = f"{scheme}://127.0.0.1:{self.port}"
        self.peer_url = f"http://127.0.0.1:{peer_port}"
        self.command: list[str] = []
        self.frozen = False
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the member on its existing data."""
        with (self.folder.parent / f"{self.name}.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        """Send a signal to the member's process."""
        assert self.process is not None
        os.kill(self.process.pid, number)

    def freeze(self) -> None:
        """Stop the process, so that its connections stay open and no request is answered."""
        self.send(signal.SIGSTOP)
        self.frozen = True

    def thaw(self) -> None:
        """Continue the stopped process."""
        self.send(signal.SIGCONT)
        self.frozen = False

    def kill(self) -> None:
        """Kill the process without a shutdown, as a power cut does."""
        if self.running:
            self.send(signal.SIGKILL)
        self.frozen = False
        if self.process is not None:
            self.process.wait(10)


class Cluster:
    """A cluster, with a client of its own that shares no code with the product.

    Args:
        members: The members, in the order of their ports.
        context: TLS context that verifies the members; None without TLS.
    """

    def __init__(self, members: list[Member], context: ssl.SSLContext | None) -> None:
        self.members = members
        self.root = ""  # password of the user "root", if authentication is on
        self._context = context

    def address(self, key: str = KEY) -> str:
        """Return the value of ``ENDPOINT_CONFIG_FILE`` that names the key in this cluster."""
        return f"etcd://{','.join(f'127.0.0.1:{m.port}' for m in self.members)}/{key}"

    def _login(self, member: int) -> dict[str, str]:
        if not self.root:
            return {}
        root, self.root = self.root, ""
        try:
            answer = self.ask("/auth/authenticate", {"name": "root", "password": root}, member)
        finally:
            self.root = root
        return {"Authorization": answer["token"]}

    def ask(self, path: str, message: dict[str, Any], member: int = 0, timeout: float = 5) -> Any:
        """Send one request to one member."""
        port = self.members[member].port
        connection = (
            http.client.HTTPSConnection("127.0.0.1", port, timeout=timeout, context=self._context)
            if self._context
            else http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
        )
        headers = self._login(member)
        with contextlib.closing(connection):
            connection.request("POST", f"/v3{path}", json.dumps(message), headers)
            response = connection.getresponse()
            body = response.read()
        if response.status != 200:
            raise RefusedError(f"{response.status} {body!r}")
        return json.loads(body)

    def any(self, path: str, message: dict[str, Any]) -> Any:
        """Send a request to one member after another until a member answers."""

        def once() -> Any:
            for index, member in enumerate(self.members):
                if member.running and not member.frozen:
                    with contextlib.suppress(OSError, RefusedError, http.client.HTTPException):
                        # A lone member gets more time, so that no request is sent twice.
                        timeout = 2 if len(self.members) > 1 else 20
                        return self.ask(path, message, index, timeout=timeout)
            return None

        return wait_for(once, seconds=30, what="etcd answers", every=0.05)

    def put(self, text: str | bytes, key: str = KEY) -> int:
        """Write the key; return the revision."""
        answer = self.any("/kv/put", {"key": encode(key), "value": encode(text)})
        return int(answer["header"]["revision"])

    def get(self, key: str = KEY) -> bytes | None:
        """Read the key."""
        kept = self.any("/kv/range", {"key": encode(key)}).get("kvs")
        return base64.b64decode(kept[0].get("value", "")) if kept else None

    def delete(self, key: str = KEY) -> None:
        """Delete the key."""
        self.any("/kv/deleterange", {"key": encode(key)})

    def wait_until_up(self) -> "Cluster":
        """Wait until a majority of the members answers."""
        try:
            self.any("/kv/range", {"key": encode("anything")})
        except AssertionError as error:
            logs = [member.folder.parent / f"{member.name}.log" for member in self.members]
            raise AssertionError("\n".join(log.read_text()[-2000:] for log in logs)) from error
        return self

    def stop(self) -> None:
        """Stop every member."""
        for member in self.members:
            member.kill()


def make_cluster(
    folder: Path, size: int = 1, *options: str, context: ssl.SSLContext | None = None
) -> Cluster:
    """Prepare a cluster without starting it; skip the test if etcd is not installed."""
    program = need_program("etcd")
    ports = free_ports(2 * size)
    scheme = "https" if context else "http"
    folder.mkdir(parents=True, exist_ok=True)
    members = [
        Member(folder, f"m{i}", (ports[2 * i], ports[2 * i + 1]), scheme) for i in range(size)
    ]
    cluster = ",".join(f"{m.name}={m.peer_url}" for m in members)
    for member in members:
        member.command = [
            *(program, "--name", member.name, "--data-dir", str(member.folder)),
            *("--listen-client-urls", member.url, "--advertise-client-urls", member.url),
            *("--listen-peer-urls", member.peer_url),
            *("--initial-advertise-peer-urls", member.peer_url),
            *("--initial-cluster", cluster, "--initial-cluster-state", "new"),
            *("--heartbeat-interval", "50", "--election-timeout", "500"),
            *("--logger", "zap", "--log-level", "error", "--bcrypt-cost", "4"),
            *options,
        ]
    return Cluster(members, context)


@contextmanager
def running_cluster(
    folder: Path, size: int = 1, *options: str, context: ssl.SSLContext | None = None
) -> Iterator[Cluster]:
    """Run a cluster for the block, and stop it after that."""
    cluster = make_cluster(folder, size, *options, context=context)
    try:
        for member in cluster.members:
            member.start()
        yield cluster.wait_until_up()
    finally:
        cluster.stop()


class Wire:
    """A TCP forwarder that can be cut: the server behind it stays alive and is unreachable."""

    def __init__(self, port: int) -> None:
        self._target = ("127.0.0.1", port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._broken = False
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def cut(self) -> None:
        """Close every connection and refuse new connections until ``mend``."""
        with self._lock:
            self._broken = True
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)

    def mend(self) -> None:
        """Accept connections again."""
        self._broken = False

    def close(self) -> None:
        """Stop the forwarder."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self._broken:
                near.close()
                continue
            thread = threading.Thread(target=self._forward, args=(near,))
            self._threads.append(thread)
            thread.start()

    def _forward(self, near: socket.socket) -> None:
        with near, contextlib.suppress(OSError), socket.create_connection(self._target) as far:
            with self._lock:
                self._open |= {near, far}
            try:
                other = {near: far, far: near}
                while not self._broken:
                    for one in select.select([near, far], [], [])[0]:
                        data = one.recv(65536)
                        if not data:
                            return
                        other[one].sendall(data)
            finally:
                with self._lock:
                    self._open -= {near, far}
