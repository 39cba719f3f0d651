"""Run commands in forks of one process that has imported the command line.

A fork is a process of its own, with its own arguments, environment and streams, and ends as the
command ends. It saves the imports, which take most of the time of a short command.
"""

import json
import os
import socket
import subprocess
import sys
import tempfile
from contextlib import AbstractContextManager

from .. import gunicorns
from ..servers import ROOT

_PROGRAM = """
import gc, json, os, socket, sys
from mop_config.cli import cli, main
for name in cli.list_commands(None):
    cli.get_command(None, name)
# What commands import when they need it.
import joserfc.jwk, joserfc.jws, segno
import mop_config.net._sync.connecting, mop_config.server.export
control = socket.socket(fileno=int(sys.argv[1]))
# Else the end of each fork looks through all modules for garbage, for a fifth of a second.
gc.collect()
gc.freeze()
while True:
    message, streams, _, _ = socket.recv_fds(control, 1 << 20, 3)
    if not message:
        sys.exit()
    child = os.fork()
    if child == 0:
        break
    for stream in streams:
        os.close(stream)
    control.send(b"%d" % os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
control.close()
arguments, environ = json.loads(message)
os.environ.clear()
os.environ.update(environ)
for number, stream in enumerate(streams):
    os.dup2(stream, number)
    os.close(stream)
sys.stdin, sys.stdout = open(0), open(1, "w")
sys.stderr = open(2, "w", buffering=1, errors="backslashreplace")
main(arguments)
"""

_control: list[socket.socket] = []


def forking() -> AbstractContextManager[None]:
    """Run the process that forks."""
    return gunicorns.forking(_PROGRAM, _control)


def start(
    arguments: tuple[str, ...], environ: dict[str, str], streams: tuple[int, int, int]
) -> None:
    """Start a command in a fork; its exit code must be read with ``ended``.

    Args:
        arguments: The words after ``mop-config``.
        environ: The whole environment.
        streams: Descriptors of standard input, output and error.
    """
    message = json.dumps([arguments, environ]).encode()
    socket.send_fds(_control[0], [message], streams)


def ended() -> int:
    """Wait until the command has ended, and return its exit code."""
    return int(_control[0].recv(100))


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run a command without the settings of this process, in a pipe."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("ENDPOINT_")} | environ
    if not _control:  # a test of another folder
        return subprocess.run(
            [sys.executable, "-m", "mop_config", *arguments],
            cwd=ROOT,
            env=clean,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        with open(os.devnull) as nothing:
            start(arguments, clean, (nothing.fileno(), out.fileno(), err.fileno()))
            code = ended()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())
