"""Check that the server's port is free before gunicorn starts.

gunicorn's own error message has a dozen lines and does not name the setting.
"""

import errno
import os
import socket
import time
from collections.abc import Mapping

from ..errors import MopConfigError
from ..server.settings import ProcessSettings

#: Seconds to wait until a stopping server releases the port; gunicorn waits as long.
PATIENCE = 5.0
_LOOK = 0.1


def check_port(process: ProcessSettings, environ: Mapping[str, str] = os.environ) -> None:
    """Check that the port is free, unless gunicorn gets its sockets in another way.

    Raises:
        MopConfigError: If the server cannot listen on the port; the message names the setting.
    """
    arguments = environ.get("GUNICORN_CMD_ARGS", "").replace("=", " ").split()
    passed = {"LISTEN_FDS", "GUNICORN_FD"} & environ.keys()
    if passed or any(word == "--bind" or word.startswith("-b") for word in arguments):
        return
    deadline = time.monotonic() + PATIENCE
    while (error := _bind(process)) is not None:
        if error.errno != errno.EADDRINUSE or time.monotonic() >= deadline:
            raise MopConfigError(_in_words(process, error))
        time.sleep(_LOOK)


def _bind(process: ProcessSettings) -> OSError | None:
    host = process.host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((host, process.port))
    except OSError as error:
        return error
    return None


def _in_words(process: ProcessSettings, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        place = f"{process.host}:{process.port}"
        return f"PORT={process.port} cannot be used: another program listens at {place}"
    if error.errno == errno.EACCES:
        more = "a port below 1024 takes root, or a socket that systemd hands over"
        return f"PORT={process.port} cannot be used: {more}"
    reason = error.strerror or str(error)
    return f"HOST={process.host} cannot be used: no address of this machine ({reason})"
