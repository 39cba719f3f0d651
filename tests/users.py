"""Other users of this machine, for tests that run as root: processes with unused ids.

The processes are forks that drop root, so they need no access to the interpreter's files.
"""

import encodings.idna  # noqa: F401 - a fork that has dropped root cannot load it
import os
import shutil
import signal
import tempfile
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ALICE, MALLORY = 54321, 54322

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")


@contextmanager
def place_for_all() -> Iterator[Path]:
    """Create a folder that every user can enter; pytest's own folders are private."""
    folder = Path(tempfile.mkdtemp(prefix="mop-config-test-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def _fork(user: int, action: Callable[[], object]) -> int:
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setgroups([])
        os.setresgid(user, user, user)
        os.setresuid(user, user, user)
        os.umask(0o022)
        action()
        os._exit(0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def as_user(user: int, action: Callable[[], object]) -> None:
    """Run a function as a user in a forked process; the function must not raise."""
    assert os.waitstatus_to_exitcode(os.waitpid(_fork(user, action), 0)[1]) == 0


@contextmanager
def busy(user: int, *actions: Callable[[], object]) -> Iterator[None]:
    """Run functions as a user in a loop during the block, and ignore their failures."""
    reads, writes = os.pipe()

    def again() -> None:
        os.write(writes, b".")
        while True:
            for action in actions:
                try:
                    action()
                except OSError:
                    continue

    pid = _fork(user, again)
    try:
        assert os.read(reads, 1)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(reads)
        os.close(writes)
