"""A mount that hangs, for the tests: a FUSE file system of one file, without libfuse.

The file system speaks the kernel's protocol (fuse(4), ``linux/fuse.h``) through ``/dev/fuse``, as
far as one folder with one regular file needs, and disables the kernel's caches. A hanging file
system reads no request, so a process that accesses the file waits until the file system continues,
or until a fatal signal.
"""

import contextlib
import errno
import os
import select
import stat
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from .conftest import skip

_HEADER = struct.Struct("<IIQQIIIHH")
_OUT = struct.Struct("<IiQ")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _RELEASE, _FLUSH = 1, 2, 3, 14, 15, 18, 25
_INIT, _OPENDIR, _READDIR, _RELEASEDIR, _ACCESS, _INTERRUPT, _FORGETS = 26, 27, 28, 29, 34, 36, 42
_ROOT, _FILE = 1, 2


class HangingMount:
    """A folder with one file, whose file system can be made to hang.

    Args:
        folder: The mount point.
        name: The file's name.
        data: The file's contents.
    """

    def __init__(self, folder: Path, name: str, data: bytes) -> None:
        self.file = folder / name
        self._name = name.encode()
        self._data = data
        self._changed_at = time.time_ns()
        self._hangs = False
        self._wake = os.pipe()
        self._device = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    @property
    def device(self) -> int:
        return self._device

    def write(self, data: bytes) -> None:
        """Change the file without an event, as a network file system's server does."""
        self._data, self._changed_at = data, time.time_ns()

    def hang(self, *, hangs: bool = True) -> None:
        """Stop answering, or answer again."""
        self._hangs = hangs
        os.write(self._wake[1], b".")

    def close(self) -> None:
        """End the file system; a waiting process gets an error."""
        os.write(self._wake[1], b"q")
        self._thread.join(10)
        os.close(self._device)
        for end in self._wake:
            os.close(end)

    def _run(self) -> None:
        while True:
            poll = select.poll()
            poll.register(self._wake[0], select.POLLIN)
            if not self._hangs:
                poll.register(self._device, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll()}
            if self._wake[0] in ready:
                if b"q" in os.read(self._wake[0], 64):
                    return
            elif self._device in ready:
                with contextlib.suppress(OSError):
                    self._answer(os.read(self._device, 1 << 20))

    def _answer(self, request: bytes) -> None:
        _, code, unique, node, *_ = _HEADER.unpack_from(request)
        if code in {_FORGET, _FORGETS, _INTERRUPT}:
            return
        body = request[_HEADER.size :]
        error, answer = self._reply(code, node, body)
        os.write(self._device, _OUT.pack(_OUT.size + len(answer), -error, unique) + answer)

    def _reply(self, code: int, node: int, body: bytes) -> tuple[int, bytes]:
        if code == _INIT:
            return 0, struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 0, 0, 65536, 1, 0, 0, 0)
        if code == _LOOKUP:
            if body.rstrip(b"\0") != self._name:
                return errno.ENOENT, b""
            return 0, struct.pack("<QQQQII", _FILE, 0, 0, 0, 0, 0) + self._attributes(_FILE)
        if code == _GETATTR:
            return 0, struct.pack("<QII", 0, 0, 0) + self._attributes(node)
        if code in {_OPEN, _OPENDIR}:
            return 0, struct.pack("<QII", 0, 1, 0)  # FOPEN_DIRECT_IO: no page cache
        if code == _READ:
            _, offset, size = struct.unpack_from("<QQI", body)
            return 0, self._data[offset : offset + size]
        if code in {_READDIR, _RELEASE, _RELEASEDIR, _FLUSH, _ACCESS}:
            return 0, b""
        return errno.ENOSYS, b""

    def _attributes(self, node: int) -> bytes:
        seconds, rest = divmod(self._changed_at, 10**9)
        mode = stat.S_IFDIR | 0o755 if node == _ROOT else stat.S_IFREG | 0o644
        size = 0 if node == _ROOT else len(self._data)
        return struct.pack(
            "<QQQQQQIIIIIIIIII",
            *(node, size, 1, seconds, seconds, seconds, rest, rest, rest),
            *(mode, 2 if node == _ROOT else 1, 0, 0, 0, 4096, 0),
        )


@contextlib.contextmanager
def hanging_mount(folder: Path, data: bytes, name: str = "endpoints.txt") -> Iterator[HangingMount]:
    """Mount a hanging-capable file system on a new folder, which needs root."""
    if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
        skip("no FUSE file system can be mounted here")
    folder.mkdir()
    mount = HangingMount(folder, name, data)
    options = f"fd={mount.device},rootmode=40755,user_id=0,group_id=0,allow_other"
    command = ["mount", "-i", "-t", "fuse", "-o", options, "mop-config", str(folder)]
    mounted = subprocess.run(command, check=False, capture_output=True, pass_fds=[mount.device])
    if mounted.returncode:
        mount.close()
        skip(f"no FUSE file system can be mounted here: {mounted.stderr!r}")
    try:
        yield mount
    finally:
        mount.close()
        subprocess.run(["umount", "-l", str(folder)], check=True)
