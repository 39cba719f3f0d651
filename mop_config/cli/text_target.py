"""The targets to which ``push`` and ``rollback`` write a text: a file, or a key in etcd."""

import contextlib
import errno
import os
import stat
import sys

import click

from ..errors import MopConfigError, SourceError
from ..files import Scratch
from ..model.address import EtcdAddress
from ..server.parsing.problems import Code
from ..server.settings import Settings
from ..server.sources import check_source
from ..server.sources.etcd import EtcdSource, encode
from ..server.sources.file import FileSource, SourceText
from .env_file import as_root

#: Maximum size in bytes of the present text, which is only shown and may exceed the server's limit.
MOST_BYTES = 64 << 20


class ChangedError(MopConfigError):
    """Another program has written the file or key since the comparison."""


class EtcdTarget:
    """A key in etcd, written in one compare-and-set transaction.

    Args:
        settings: The key, the login and the certificates.
        force: Whether to write even if another client has written the key since ``read``.

    Attributes:
        revision: Revision of etcd's store at which the key was written last, or None if the
            key does not exist.
    """

    def __init__(self, settings: Settings, *, force: bool = False) -> None:
        check_source(settings)
        limit = max(settings.max_bytes, MOST_BYTES)
        self._etcd = EtcdSource(EtcdAddress.parse(settings.source), settings.etcd, limit)
        self._force = force
        self.revision: int | None = None

    def __str__(self) -> str:
        return str(self._etcd)

    def read(self) -> bytes:
        """Return the current text of the key; empty if the key does not exist.

        Raises:
            SourceError: If etcd refuses or does not answer.
        """
        there = self._etcd.get()
        self.revision = there.order.revision if there else None
        return there.data if there else b""

    def write(self, data: bytes) -> None:
        """Write the key in one transaction.

        Raises:
            ChangedError: If another client has written the key since ``read``.
            SourceError: If etcd refuses the write, or does not answer; without an answer, the
                key may have been written.
        """
        etcd = self._etcd
        expected = {"target": "MOD", "result": "EQUAL", "mod_revision": str(self.revision or 0)}
        compare = [] if self._force else [{"key": etcd.key, **expected}]
        put = {"request_put": {"key": etcd.key, "value": encode(data)}}
        try:
            answer = etcd.ask("/kv/txn", {"compare": compare, "success": [put]})
        except SourceError as error:
            if error.code != Code.UNREACHABLE:
                raise
            message = f"{error}; it may have been written all the same"
            raise SourceError(error.code, message) from None
        if answer.get("succeeded"):
            self.revision = int(answer["header"]["revision"])
            return
        there = etcd.get()
        if there is not None and there.data == data:
            self.revision = there.order.revision  # our own write, whose first response was lost
            return
        now = f"now at revision {there.order.revision}" if there else "now not there"
        raise ChangedError(
            f"{etcd} has changed since it was compared ({now}): nothing is written;"
            " look at the difference again, or use --force"
        )


class FileTarget:
    """A file, replaced atomically by a file with the same owner, mode and attributes.

    A symbolic link stays; its target file is replaced.

    Args:
        path: The file.
        in_place: Whether to overwrite the bytes of the existing file instead of replacing it.
    """

    def __init__(self, path: str, *, in_place: bool) -> None:
        self._source = FileSource(path, MOST_BYTES)
        self._path = os.path.realpath(path)
        self._in_place = in_place
        self._text: SourceText | None = None

    def __str__(self) -> str:
        return str(self._source)

    def read(self) -> bytes:
        """Return the current text of the file; empty if the file does not exist.

        Raises:
            MopConfigError: If the file cannot be read, or must not be replaced.
        """
        try:
            self._text = self._source.read()
        except SourceError as error:
            if error.code != Code.MISSING:
                raise
            return b""
        links = os.stat(self._path).st_nlink
        if links > 1 and not self._in_place:
            raise MopConfigError(
                f"{self} has {links} hard links, and a replaced file would lose the others; use"
                " --in-place, which writes into the file itself"
            )
        return self._text.data

    def write(self, data: bytes) -> None:
        """Write the file.

        Raises:
            ChangedError: If another program has written the file since ``read``.
            MopConfigError: If the file cannot be written.
        """
        text = self._text
        if os.path.lexists(self._path) if text is None else not self._source.is_current(text):
            message = "it has changed since it was compared: nothing is written"
            raise ChangedError(f"{self}: {message}; look at the difference again")
        try:
            if not self._in_place or text is None:
                self._replace(data)
                return
            with open(self._path, "r+b") as file:
                file.write(data)
                file.truncate()
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise MopConfigError(self._reason(error)) from None

    def _replace(self, data: bytes) -> None:
        with Scratch(self._path, mode=0o600) as scratch:
            scratch.write(data, sync=True)
            if self._text is None:
                os.fchmod(scratch.descriptor, 0o644)
            else:
                self._copy_attributes(scratch.descriptor)
            scratch.become(self._path)

    def _copy_attributes(self, descriptor: int) -> None:
        there, ours = os.stat(self._path), os.fstat(descriptor)
        if (there.st_uid, there.st_gid) != (ours.st_uid, ours.st_gid):
            os.fchown(descriptor, there.st_uid, there.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(there.st_mode))
        with contextlib.suppress(OSError):  # no attributes, or no permission
            for name in os.listxattr(self._path):  # includes access control lists
                os.setxattr(descriptor, name, os.getxattr(self._path, name))

    def _reason(self, error: OSError) -> str:
        reason = f"{self} cannot be written ({error.strerror or error})"
        if error.errno == errno.EBUSY:
            return f"{reason}: it is mounted by itself; use --in-place"
        if error.errno in {errno.EPERM, errno.EACCES}:
            other = "" if self._in_place else ", or use --in-place where the file is writable"
            return f"{reason}; run: {as_root()}{other}"
        return reason


def confirm(target: EtcdTarget | FileTarget, *, sure: bool) -> None:
    """Ask on a terminal whether to write, unless the user is sure.

    Raises:
        MopConfigError: If the answer is no.
    """
    if sure or not (sys.stdin.isatty() and sys.stdout.isatty()):
        return
    if not click.confirm(f"Write this to {target}?"):
        raise MopConfigError("nothing is written")
