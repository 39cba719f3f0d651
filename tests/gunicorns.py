"""Run gunicorn and hypercorn in forks of one process that has imported the servers.

A fork is a process of its own, with its own session, arguments, environment and log, and ends as
the server ends. It saves the imports, which take most of a server's start.
"""

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

SCRIPT = str(Path(sys.executable).parent / "gunicorn")
#: Hypercorn without a worker process, which would import everything once more.
HYPERCORN = [sys.executable, "-m", "hypercorn", "-w", "0"]

#: Forks for each message on a socket. What follows runs in the fork, with the ``arguments``, the
#: environment and the streams of the message. Its parent, a fork too, tells its pid and exit code.
FORKS = """
import gc, json, os, signal, socket, sys
control = socket.socket(fileno=int(sys.argv[1]))
# Else the end of each fork looks through all modules for garbage, for a fifth of a second.
gc.collect()
gc.freeze()
signal.signal(signal.SIGCHLD, signal.SIG_IGN)
while True:
    message, descriptors, _, _ = socket.recv_fds(control, 1 << 20, 4)
    if not message:
        sys.exit()
    if os.fork() == 0:
        break
    for descriptor in descriptors:
        os.close(descriptor)
signal.signal(signal.SIGCHLD, signal.SIG_DFL)
control.close()
*streams, end = descriptors
pid = os.fork()
if pid:
    # Only the parent of a process learns its exit code.
    for stream in streams:
        os.close(stream)
    os.write(end, b"%d " % pid)
    os.write(end, b"%d" % os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    os._exit(0)
os.close(end)
arguments, environ = json.loads(message)
os.environ.clear()
os.environ.update(environ)
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
sys.stdin, sys.stdout = open(0), open(1, "w")
sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
"""

_PROGRAM = f"""
import sys
import gunicorn.app.wsgiapp, gunicorn.arbiter
import mop_config.server.gunicorn.worker, mop_config.server.gunicorn.logger
import mop_config.server.web.app, mop_config.server.web.asgi
# What a server imports when it needs it.
import encodings.idna, uvicorn.lifespan.off, uvicorn.loops.uvloop
import hypercorn.__main__, hypercorn.asyncio.run
# The clients of the package socketio, which no server uses, import these for 0.4 s.
sys.modules.update(dict.fromkeys(["aiohttp", "requests"]))
import socketio
del sys.modules["aiohttp"], sys.modules["requests"]
{FORKS}
os.setsid()
sys.argv = arguments
sys.path[:1] = environ["PYTHONPATH"].split(os.pathsep)
if arguments[1:3] == ["-m", "hypercorn"]:
    sys.exit(hypercorn.__main__.main(arguments[3:]))
sys.exit(gunicorn.app.wsgiapp.run(prog="gunicorn"))
"""

_control: list[socket.socket] = []


@contextmanager
def forking(program: str, control: list[socket.socket]) -> Iterator[None]:
    """Run a process that forks for each message on a socket.

    Args:
        program: The program; its argument is the descriptor of its end of the socket.
        control: Holds our end of the socket while the process runs.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours.settimeout(60)
    with ours:
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-c", program, str(theirs.fileno())],
                cwd=Path(__file__).parent.parent,
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        control.append(ours)
        try:
            yield
        finally:
            control.remove(ours)
            ours.close()
            process.wait(10)


@contextmanager
def forking_servers() -> Iterator[None]:
    """Run the process that forks, unless it runs already."""
    with contextlib.nullcontext() if _control else forking(_PROGRAM, _control):
        yield


def can_fork(command: list[str], environ: Mapping[str, str]) -> bool:
    """Return whether a fork does the same as the command with these variables.

    Python, gunicorn and the metrics read some variables at their start or import.
    """
    early = ("PYTHON", "LC_", "LANG", "TZ", "PROMETHEUS", "FORWARDED_ALLOW_IPS")
    return (
        bool(_control)
        and (command[0] == SCRIPT or command[: len(HYPERCORN)] == HYPERCORN)
        and not any(name.startswith(early) and name != "PYTHONPATH" for name in environ)
    )


class Forked:
    """A program in a fork, with the methods of ``subprocess.Popen`` that the tests use.

    Args:
        control: Our end of the socket of the process that forks.
        command: The command line.
        environ: The whole environment.
        streams: Descriptors of standard input, output and error.

    Attributes:
        pid: Process id.
        returncode: The exit code; None until ``poll`` or ``wait`` has seen the end.
    """

    def __init__(
        self,
        control: socket.socket,
        command: Sequence[str],
        environ: Mapping[str, str],
        streams: tuple[int, int, int],
    ) -> None:
        self._command = command
        self._end, theirs = os.pipe()
        message = json.dumps([command, dict(environ)]).encode()
        socket.send_fds(control, [message], [*streams, theirs])
        os.close(theirs)
        self.pid = int(os.read(self._end, 20))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return the exit code, or None if the program runs."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the program has ended, and return its exit code."""
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(list(self._command), timeout or 0.0)
        return code

    def _look(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select([self._end], [], [], timeout)[0]:
            self.returncode = int(os.read(self._end, 20))
            os.close(self._end)
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal, unless the program has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM, unless the program has ended."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL, unless the program has ended."""
        self.send_signal(signal.SIGKILL)


def forked_server(command: list[str], environ: Mapping[str, str], log: int) -> Forked:
    """Start a server in a fork, with its log as standard output and error."""
    with open(os.devnull) as nothing:
        return Forked(_control[0], command, environ, (nothing.fileno(), log, log))
