"""Run commands in forks of one process that has imported the command line.

A fork is a process of its own, with its own arguments, environment and streams, and ends as the
command ends. It saves the imports, which take most of the time of a short command.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from .. import gunicorns
from ..servers import ROOT

_PROGRAM = f"""
from mop_config.cli import cli, main
for name in cli.list_commands(None):
    cli.get_command(None, name)
# What commands import when they need it.
import joserfc.jwk, joserfc.jws, segno
import mop_config.net._sync.connecting, mop_config.server.export
{gunicorns.FORKS}
main(arguments)
"""

_control: list[socket.socket] = []


def forking() -> AbstractContextManager[None]:
    """Run the process that forks."""
    return gunicorns.forking(_PROGRAM, _control)


def start(
    arguments: Sequence[str], environ: Mapping[str, str], streams: tuple[int, int, int]
) -> gunicorns.Forked:
    """Start a command in a fork; its end must be waited for.

    Args:
        arguments: The words after ``mop-config``.
        environ: The whole environment.
        streams: Descriptors of standard input, output and error.
    """
    return gunicorns.Forked(_control[0], arguments, environ, streams)


def start_into(folder: Path, *arguments: str, **environ: str) -> gunicorns.Forked:
    """Start a command without the settings of this process; it writes into ``out`` and ``err``."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("ENDPOINT_", "MOP_"))}
    with (
        open(os.devnull) as nothing,
        (folder / "out").open("wb") as out,
        (folder / "err").open("wb") as err,
    ):
        streams = nothing.fileno(), out.fileno(), err.fileno()
        return start(arguments, {**clean, **environ}, streams)


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
            streams = nothing.fileno(), out.fileno(), err.fileno()
            code = start(arguments, clean, streams).wait(60)
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(arguments, code, out.read(), err.read())
