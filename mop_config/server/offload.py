"""Work that no request should wait for, done elsewhere.

Parsing holds the interpreter's lock: 100,000 entries would stall every request of a worker
for a second. A child at low priority does it, and hands back finished bytes. And where
threads are greenlets, a slow disk stalls the whole worker: real threads do that work.
"""

import contextlib
import gc
import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

from ..errors import SourceError
from .build import UrlRules
from .render import Rendering, render

T = TypeVar("T")

#: Bytes of text above which a child is worth its start of about 0.1 s.
THRESHOLD = 128 * 1024
#: The same where nothing else runs while we render.
GREENLETS_THRESHOLD = 16 * 1024

_PACKAGE_ROOT = str(Path(__file__).resolve().parents[2])
_PROGRAM = (
    "import sys; sys.path.insert(0, sys.argv[1]);"
    "from mop_config.server.offload import child; child()"
)


def greenlets() -> bool:
    """Whether gevent has put greenlets in the place of threads in this process."""
    monkey = sys.modules.get("gevent.monkey")
    return monkey is not None and bool(monkey.is_module_patched("threading"))


def in_a_thread(function: Callable[[], T]) -> T:
    """Call a function that blocks; under gevent in a real thread, while others go on."""
    if not greenlets():
        return function()
    from gevent import get_hub

    result, error = get_hub().threadpool.apply(_outcome, (function,))
    if error is not None:
        raise error
    return cast(T, result)


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    # An exception that left the thread would be printed with its traceback.
    try:
        return function(), None
    except Exception as error:
        return None, error


class Background:
    """Calls a function in a thread of its own, once at a time.

    A call that comes while the function runs makes it run once more afterwards.
    """

    def __init__(self, function: Callable[[], None]) -> None:
        self._function = function
        self._lock = threading.Lock()
        self._wanted = False
        self._thread: threading.Thread | None = None

    def call(self) -> None:
        """Have the function called soon."""
        with self._lock:
            self._wanted = True
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, name="mop-config-background", daemon=True
                )
                self._thread.start()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._wanted:
                    self._thread = None
                    return
                self._wanted = False
            self._function()

    def wait(self, timeout: float) -> None:
        """Wait until everything that was called for is done, at most ``timeout`` seconds."""
        thread = self._thread
        if thread is not None:
            thread.join(timeout)


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
