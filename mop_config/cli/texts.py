"""The texts of a source: the earlier good texts, and the present text that a command replaces.

``GoodTexts`` reads what the service has kept in its state folder. ``push`` and ``rollback`` write
to a target: a file, or a key in etcd.
"""

import difflib
import errno
import os
import re
import shutil
import sys
import time
from io import FileIO
from pathlib import Path
from typing import NamedTuple

import click

from ..errors import MopConfigError, SourceError
from ..files import replacing
from ..model.address import EtcdAddress, without_userinfo
from ..model.endpoint import Difference, difference
from ..server.parsing.problems import Code
from ..server.parsing.render import EMPTY_BODY, missing_confirmations, render, render_body
from ..server.settings import Settings
from ..server.sources import check_source, open_source
from ..server.sources.etcd import EtcdSource, encode
from ..server.sources.file import FileSource, SourceText
from ..server.state import directory as records
from ..server.state.releases import LastGood, ReleaseStore
from .output import AS_ROOT, COLOURS, say

#: Number of lines above which texts are compared by their endpoints only.
MOST_LINES = 20_000
_RECORDS = re.compile(r"records-([0-9]+)\Z")
#: Form of a release in an argument: a version, or the beginning of an ETag.
_RELEASE = re.compile(r"[0-9a-f]+")
#: Least number of characters of an ETag, so that a mistyped version names no other text.
_LEAST = 4


def is_release(word: str) -> bool:
    """Return whether an argument can name a release; a path can always begin with ``./``."""
    return _RELEASE.fullmatch(word.strip('"').lower()) is not None


class GoodTexts(NamedTuple):
    """The good texts of one source, and the records of the workers that serve it.

    Attributes:
        source: Name of the source.
        texts: The texts, newest first; never empty.
        directory: The folder with the records of the service's user.
    """

    source: str
    texts: list[LastGood]
    directory: records.StateDirectory

    @classmethod
    def of(cls, settings: Settings) -> "GoodTexts":
        """Read the texts of the source that the settings name.

        Raises:
            MopConfigError: If there are no texts, or this user may not read the texts.
        """
        source, state = str(open_source(settings)), settings.state_dir
        if not state:
            from ..server.web import instance_folder  # imports Flask

            state = instance_folder()
        folder = Path(os.path.abspath(state))
        found = []
        for user in _users(folder):
            directory = records.StateDirectory.of_user(folder, user)
            if texts := list(ReleaseStore(directory, records.key(source)).history()):
                found.append(cls(source, texts, directory))
        if not found:
            raise MopConfigError(
                f"{folder} holds no good text of {source}: the service may read another source,"
                " or keep its state in another folder (ENDPOINT_STATE_DIR, --env-file FILE)"
            )
        return max(found, key=lambda kept: kept.texts[0].saved_at)

    def confirmed(self, data: bytes, settings: Settings) -> tuple[bytes, list[str]]:
        """Add the confirming lines that a text needs for the endpoints that it removes.

        Args:
            data: The text, which will replace the list that is served.
            settings: The settings of the service.

        Returns:
            The text, and the lines that were added at its end.
        """
        served = ReleaseStore(self.directory, records.key(self.source)).load() or self.texts[0]
        body = render_body(served.data, settings.rules, served.boundary) or EMPTY_BODY
        rendering = render(data, settings.rules, EMPTY_BODY, time.time())
        added: list[str] = []
        # Repeat, because a confirming line that the served text has too counts only as an addition.
        while lines := missing_confirmations(rendering, settings, body, served.data):
            text = [rendering.data.removesuffix(b"\n"), *map(str.encode, lines), b""]
            rendering = rendering._replace(data=b"\n".join(text))
            added += lines
        return rendering.data, added

    def find(self, release: str) -> LastGood:
        """Return the newest text of a release.

        Args:
            release: The version of the release, or the beginning of its ETag.

        Raises:
            MopConfigError: If no text or more than one list matches.
        """
        wanted = release.strip('"').lower()
        found = [text for text in self.texts if str(text.release.version) == wanted]
        if not found and len(wanted) >= _LEAST:
            found = [text for text in self.texts if text.release.etag.startswith(wanted)]
        meant = sorted({text.release.etag for text in found})
        if len(meant) > 1:
            raise MopConfigError(f"{release} may mean {' or '.join(meant)}: name more of the ETag")
        if not found:
            raise MopConfigError(
                f"there is no good text of release {release}, which is a version or at least"
                f" {_LEAST} characters of an ETag (mop-config history lists {len(self.texts)})"
            )
        return found[0]

    def workers(self) -> list[records.WorkerRecord]:
        """Return the records of the running workers that serve the source, with any settings."""
        of_source = re.compile(rf"{records.key(self.source)}\..*\.{records.place()}")
        stems = {name.partition(records.WORKER)[0] for name in self.directory.names()}
        prefixes = sorted(filter(of_source.fullmatch, stems))
        registries = (records.WorkerRegistry(self.directory, prefix) for prefix in prefixes)
        return [worker for each in registries for worker in each.others(os.getpid())]


def _users(folder: Path) -> list[int]:
    """Return the users whose records this user may read: the user itself, or every user for root.

    Raises:
        MopConfigError: If the folder is missing, or this user may not read its records.
    """
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        raise MopConfigError(
            f"the state folder {folder} is not there; name that of the service by"
            " ENDPOINT_STATE_DIR or --env-file FILE"
        ) from None
    except PermissionError:
        raise MopConfigError(
            f"this user may not read the state folder {folder}; {AS_ROOT}"
        ) from None
    users = [int(match[1]) for match in map(_RECORDS.match, names) if match]
    allowed = [user for user in users if os.geteuid() in {0, user}]
    if users and not allowed:
        raise MopConfigError(f"the records in {folder} belong to another user; {AS_ROOT}")
    return allowed


#: Maximum size in bytes of the present text, which is only shown and may exceed the server's limit.
MOST_BYTES = 64 << 20


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
            MopConfigError: If another client has written the key since ``read``.
            SourceError: If etcd refuses the write, or does not answer; without an answer, the
                key may have been written.
        """
        etcd = self._etcd
        expected = {"target": "MOD", "result": "EQUAL", "mod_revision": str(self.revision or 0)}
        compare = [] if self._force else [{"key": etcd.key, **expected}]
        put = {"request_put": {"key": etcd.key, "value": encode(data)}}
        answer = etcd.ask("/kv/txn", {"compare": compare, "success": [put]})
        if not answer.get("succeeded"):
            # The change may be this very write: a member that failed may have done it.
            advice = "look at the difference again, or use --force"
            raise MopConfigError(f"{etcd} has changed since it was compared: {advice}")
        self.revision = int(answer["header"]["revision"])


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
            MopConfigError: If the file cannot be written, or another program has written it since
                ``read``.
        """
        text = self._text
        if os.path.lexists(self._path) if text is None else not self._source.is_current(text):
            message = "it has changed since it was compared: nothing is written"
            raise MopConfigError(f"{self}: {message}; look at the difference again")
        try:
            if not self._in_place or text is None:
                self._replace(data)
                return
            # One descriptor, since the server reads the file as soon as its writer has closed it.
            with open(self._path, "r+b", buffering=0) as file:
                try:
                    _overwrite(file, data)
                except OSError:
                    _overwrite(file, text.data)
                    raise
        except OSError as error:
            advice = f"; {AS_ROOT}" if isinstance(error, PermissionError) else ""
            if error.errno == errno.EBUSY:
                advice = ": it is mounted by itself; use --in-place"
            reason = error.strerror or error
            raise MopConfigError(f"{self} cannot be written ({reason}){advice}") from None

    def _replace(self, data: bytes) -> None:
        with replacing(self._path, sync=True) as scratch:
            if self._text is None:
                os.fchmod(scratch.fileno(), 0o644)
            else:
                there, ours = os.stat(self._path), os.fstat(scratch.fileno())
                if (there.st_uid, there.st_gid) != (ours.st_uid, ours.st_gid):
                    os.fchown(scratch.fileno(), there.st_uid, there.st_gid)
                # The mode, and the extended attributes with the access control lists.
                shutil.copystat(self._path, scratch.fileno())  # type: ignore[arg-type]
            scratch.write(data)


def _overwrite(file: FileIO, data: bytes) -> None:
    file.seek(0)
    rest = memoryview(data)
    while rest:
        rest = rest[file.write(rest) :]
    file.truncate()
    os.fsync(file.fileno())


def replace_text(target: EtcdTarget | FileTarget, old: bytes, new: bytes, *, sure: bool) -> str:
    """Write a text, unless it is there already; on a terminal, ask before, unless ``sure`` is set.

    Returns:
        ``written`` or ``unchanged``.

    Raises:
        MopConfigError: If the answer is no, or the text cannot be written.
    """
    if old == new:
        return "unchanged"
    asks = not sure and sys.stdin.isatty() and sys.stdout.isatty()
    if asks and not click.confirm(f"Write this to {target}?"):
        raise MopConfigError("nothing is written")
    target.write(new)
    return "written"


class TextDifference:
    """The difference of two texts: their lines, unless there are too many, and their endpoints.

    Args:
        old: The older text.
        new: The newer text.
        settings: Settings by which the endpoints are read.
        at: POSIX seconds for which windows are judged.
        names: The names of the older and the newer text.
    """

    def __init__(self, old: bytes, new: bytes, settings: Settings, at: float, *names: str) -> None:
        before, after = _lines(old), _lines(new)
        older, newer = names
        self._lines: list[str] | None = None
        if max(len(before), len(after)) <= MOST_LINES:
            self._lines = list(difflib.unified_diff(before, after, older, newer, n=1, lineterm=""))
        self._change = changed_endpoints(old, new, settings, at)

    def print(self) -> None:
        """Print the lines, with colours on a terminal, and the number of endpoints."""
        for line in self._lines or []:
            say(line, fg=COLOURS.get(line[:1]))
        if self._change is not None:
            say(str(self._change))

    def as_dict(self) -> dict[str, object]:
        """Return the members ``diff`` and ``change`` of a JSON document."""
        return {"diff": self._lines, "change": self._change and self._change._asdict()}


def changed_endpoints(old: bytes, new: bytes, settings: Settings, at: float) -> Difference | None:
    """Compare the endpoints of two texts at a moment; return None if the newer has no list."""
    before = render_body(old, settings.rules, at) or EMPTY_BODY
    after = render_body(new, settings.rules, at)
    return None if after is None else difference(before, after)


def _lines(data: bytes) -> list[str]:
    text = data.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n")
    lines = [without_userinfo(line) for line in text.split("\n")]
    return lines if lines[-1] else lines[:-1]
