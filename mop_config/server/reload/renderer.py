"""Rendering of large texts in a child process, so that no request waits for it."""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
from pathlib import Path
from typing import BinaryIO, cast

from ...errors import SourceError
from ..concurrency import greenlets
from ..parsing.builder import UrlRules
from ..parsing.render import Rendering, render

#: Bytes of text above which a child is worth its start of about 0.1 s.
THRESHOLD = 128 * 1024


#: The same where nothing else runs while we render.
GREENLETS_THRESHOLD = 16 * 1024


_PACKAGE_ROOT = str(Path(__file__).resolve().parents[3])


_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from mop_config.server.reload.renderer import child; child()"
)


class Renderer:
    """Does what ``render`` does, in a child process where the text is large."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.aborted = False

    def render(self, data: bytes, rules: UrlRules, served: bytes) -> Rendering:
        """Turn an endpoint file's bytes into everything that an answer needs.

        Raises:
            SourceError: Where the bytes are no text.
            ChildProcessError: If the child ends without a result.
        """
        threshold = GREENLETS_THRESHOLD if greenlets() else THRESHOLD
        if len(data) <= threshold or not sys.executable:
            return render(data, rules, served)
        process = self._process = _start()
        with process:
            if self.aborted:
                process.kill()
            output, _ = process.communicate(pickle.dumps((data, rules, served)))
        self._process = None
        if process.returncode:
            raise ChildProcessError(f"the rendering process ended with {process.returncode}")
        result = pickle.loads(output)
        if isinstance(result, SourceError):
            raise result
        return cast(Rendering, result)

    def abort(self) -> None:
        """End the child that works, and any later one: the process is to stop."""
        self.aborted = True
        process = self._process
        if process is not None:
            with contextlib.suppress(OSError):
                process.kill()


def _start() -> subprocess.Popen[bytes]:
    command = [sys.executable, "-P", "-c", _PROGRAM, _PACKAGE_ROOT]
    # "kill -HUP $(pidof python)" and Ctrl-C hit the child too. A blocked signal stays blocked
    # across exec; and gevent's Popen is found only where it is looked up late.
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGINT})
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


def child() -> None:
    """Be the child: one request on standard input, one result on standard output."""
    os.nice(10)
    # Short-lived and full of objects that stay: collecting garbage would only cost time.
    gc.disable()
    try:
        _serve(sys.stdin.buffer, sys.stdout.buffer)
        sys.stdout.flush()
    except (BrokenPipeError, EOFError):
        os._exit(1)  # the worker is gone: nobody waits for the result


def _serve(requests: BinaryIO, results: BinaryIO) -> None:
    data, rules, served = pickle.load(requests)
    result: Rendering | SourceError
    try:
        result = render(data, rules, served)
    except SourceError as error:
        result = error
    pickle.dump(result, results, protocol=pickle.HIGHEST_PROTOCOL)
