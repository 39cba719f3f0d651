"""The faults of a primary: each fault is a context manager that applies it."""

import contextlib
import errno
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from tests.ports import closed_port
from tests.waiting import wait_for


class Victim(Protocol):
    """A server that a fault can be applied to."""

    port: int

    def start(self) -> None: ...
    def kill(self) -> None: ...
    def freeze(self) -> None: ...
    def thaw(self) -> None: ...


class RedisServer:
    """A redis-server process on a free port, without persistence."""

    def __init__(self) -> None:
        self.port = closed_port()
        self.start()

    def start(self) -> None:
        """Start the server, on the same port as before."""
        command = ["redis-server", "--port", str(self.port), "--bind", "127.0.0.1"]
        self.process = subprocess.Popen(
            [*command, "--save", "", "--appendonly", "no"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            start_new_session=True,
        )
        try:
            wait_for(self._answers, what="redis-server answers")
        except BaseException:
            self.kill()
            raise

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as sock:
                sock.sendall(b"PING\r\n")
                return sock.recv(5) == b"+PONG"
        except OSError:
            return False

    def kill(self) -> None:
        """Kill the process without a shutdown, as a power cut does."""
        self.process.kill()
        self.process.wait(10)

    def freeze(self) -> None:
        """Stop the process, so that its connections stay open and no request is answered."""
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Continue the stopped process."""
        self.process.send_signal(signal.SIGCONT)


@contextlib.contextmanager
def redis_pair() -> Iterator[tuple[RedisServer, RedisServer]]:
    """Run two Redis servers."""
    with contextlib.ExitStack() as stack:
        servers = []
        for _ in range(2):
            servers.append(RedisServer())
            stack.callback(servers[-1].kill)
        yield servers[0], servers[1]


@dataclass(frozen=True)
class Fault:
    """One kind of failure.

    Attributes:
        name: Its name in the report.
        about: One sentence that describes the fault.
        befall: Returns the context manager in which the fault lasts.
        tls: Whether the fault needs servers with TLS.
        redis: Whether the fault applies to a redis-server.
        seconds: Seconds for which requests are sent.
        in_turn: Whether clients run one after the other, each with its own servers. For faults
            of milliseconds, concurrent clients would disturb each other; for faults of
            seconds, running in turn would take too long.
        repeat: Factor on the number of repetitions, larger where chance matters: at faults of
            milliseconds.
        delay: Seconds in which the HTTP servers answer.
    """

    name: str
    about: str
    befall: Callable[[Any], AbstractContextManager[None]]
    tls: bool = False
    redis: bool = True
    seconds: float = 2.0
    in_turn: bool = False
    repeat: int = 1
    delay: float = 0.0


@contextlib.contextmanager
def _killed(victim: Victim) -> Iterator[None]:
    victim.kill()
    yield


@contextlib.contextmanager
def _frozen(victim: Victim) -> Iterator[None]:
    victim.freeze()
    try:
        yield
    finally:
        victim.thaw()


@contextlib.contextmanager
def _listener(port: int, backlog: int) -> Iterator[socket.socket]:
    """Listen on the port of a server that has just been killed."""

    def bound() -> bool:
        try:
            listener.bind(("127.0.0.1", port))
        except OSError as error:  # the last process of the killed server is still ending
            if error.errno != errno.EADDRINUSE:
                raise
            return False
        return True

    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        wait_for(bound, what="the port is free")
        listener.listen(backlog)
        yield listener


@contextlib.contextmanager
def _black_hole(victim: Victim) -> Iterator[None]:
    victim.kill()
    with contextlib.ExitStack() as stack:
        hole = stack.enter_context(_listener(victim.port, 0))
        while True:
            filler = stack.enter_context(socket.socket())
            filler.settimeout(0.2)
            try:
                filler.connect(hole.getsockname())
            except TimeoutError:
                break
        yield


@contextlib.contextmanager
def _silent(victim: Victim) -> Iterator[None]:
    """Let the kernel accept connections for a program that never reads them."""
    victim.kill()
    with _listener(victim.port, 512):
        yield


@contextlib.contextmanager
def _slow(victim: Any) -> Iterator[None]:
    victim.behave(delay=3.0)
    try:
        yield
    finally:
        victim.behave()


@contextlib.contextmanager
def _flapping(victim: Victim) -> Iterator[None]:
    over = threading.Event()

    def flap() -> None:
        while not over.is_set():
            victim.kill()
            over.wait(1.0)
            victim.start()
            over.wait(1.0)

    with ThreadPoolExecutor(1) as thread:
        flapping = thread.submit(flap)
        time.sleep(0.05)  # the first kill
        try:
            yield
        finally:
            over.set()
            flapping.result()


FAULTS = (
    Fault(
        "killed",
        "The primary dies as by SIGKILL: connections are reset, and dials are refused.",
        _killed,
        seconds=1.0,
        in_turn=True,
        repeat=2,
    ),
    Fault(
        "frozen",
        "The primary of an API that answers in 20 ms is stopped as by SIGSTOP: connections stay"
        " open, but no data comes.",
        _frozen,
        delay=0.02,
    ),
    Fault(
        "black hole",
        "The primary of an API that answers in 20 ms dies, and packets to its port are dropped"
        " silently.",
        _black_hole,
        delay=0.02,
    ),
    Fault(
        "stalled in TLS",
        "The primary dies, and its port accepts connections, but no TLS handshake completes.",
        _silent,
        tls=True,
        redis=False,
    ),
    Fault("slow", "The primary's first byte comes after 3 s.", _slow, redis=False),
    Fault(
        "flapping",
        "The primary is killed and, a second later, started again for a second, repeatedly.",
        _flapping,
        seconds=4.0,
        in_turn=True,
    ),
)
