"""StaticExporter: publish the list as files for a static web server.

The files have the paths of the routes, so that a mirror answers like a server, except for long
polls, and everybody may read them.

If another user owns the folder, that user can replace its content at any moment. Therefore each
folder is opened without following a link, and files are created, made readable, dated and renamed
through descriptors. An object that is not a regular file is never replaced.
"""

import contextlib
import errno
import json
import logging
import os
import signal
import stat
import time
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from .. import qr
from ..errors import QrTooLong, SourceError
from ..files import open_flags
from ..model.endpoint import read_own
from ..model.jws import jwk_set
from .parsing.problems import Code
from .parsing.render import EMPTY
from .reload.pipeline import Reloader
from .reload.thread import ReloadThread
from .serving.answers import healthy
from .serving.responder import Signer, check_key
from .serving.store import ServerState, Snapshot, SnapshotStore, SourceState
from .settings import Settings
from .sources import check_source, open_source
from .state.directory import StateDirectory, key, owner_of, replacing
from .state.releases import ReleaseStore

logger = logging.getLogger(__name__)

_FOLDER = os.O_RDONLY | open_flags("O_DIRECTORY", "O_CLOEXEC")
_READ = os.O_RDONLY | open_flags("O_NOFOLLOW", "O_NONBLOCK", "O_CLOEXEC", "O_NOCTTY")
_FOLDER_MODE = 0o755
_FILE_MODE = 0o644

_CONFIG = "api/v1/config"
#: Every file that may be written, by its path, with its ``Content-Type``.
TYPES = {
    f"{_CONFIG}/endpoints": "application/json",
    f"{_CONFIG}/endpoints.gz": "application/json",
    f"{_CONFIG}/endpoints.jws": "application/jose",
    f"{_CONFIG}/keys": "application/jwk-set+json",
    f"{_CONFIG}/qr.svg": "image/svg+xml",
    f"{_CONFIG}/qr.png": "image/png",
    f"{_CONFIG}/qr.json": "application/json",
    "api/v1/health": "application/json",
    "health": "application/json",
}
#: Without a key these files stay, because they may have been signed elsewhere.
_SIGNED = frozenset({f"{_CONFIG}/endpoints.jws", f"{_CONFIG}/keys"})
_EMPTY = "there is no usable endpoint (ENDPOINT_ALLOW_EMPTY=1 would allow it)"
_SIGNALS = {signal.SIGINT, signal.SIGTERM}


def write(folder: Path, wanted: Mapping[str, bytes]) -> list[str]:
    """Bring a folder up to date; files that are up to date are not touched.

    Args:
        folder: The folder; it is made if it is missing.
        wanted: The content of each file by its path. Other files of ours are removed, except for
            the signed ones.

    Returns:
        The paths of the files that were written or removed.

    Raises:
        OSError: If a file cannot be written, or an object that is not a regular file has its
            name. All files keep their old content then.
    """
    with contextlib.ExitStack() as stack:
        folder.mkdir(mode=_FOLDER_MODE, parents=True, exist_ok=True)
        folders: dict[Path, int] = {}
        for path in (folder, folder / "api", folder / "api/v1", folder / _CONFIG):
            folders[path] = _open_or_make(path, folders.get(path.parent))
            stack.callback(os.close, folders[path])
        files = {name: PublicFile(folder / name, folders) for name in TYPES}
        changed = [name for name, data in wanted.items() if files[name].read() != data]
        others = TYPES.keys() - _SIGNED - wanted.keys()
        removed = [name for name in others if files[name].status()]
        for name in changed:
            files[name].stage(wanted[name], stack)
        # Before the stack replaces: an old compressed list must not stand beside a new plain list.
        for name in removed:
            os.unlink(files[name].name, dir_fd=files[name].folder)
    return [*changed, *removed]


class PublicFile:
    """A file that may be in the folder.

    Args:
        path: Its path.
        folders: The descriptors of the folders.
    """

    def __init__(self, path: Path, folders: Mapping[Path, int]) -> None:
        self._path = path
        self.name = path.name
        self.folder = folders[path.parent]

    def status(self) -> os.stat_result | None:
        """Return the ``stat`` result of the file, or None if it is missing.

        Raises:
            OSError: If an object that is not a regular file has the name.
        """
        try:
            status = os.stat(self.name, dir_fd=self.folder, follow_symlinks=False)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise _refusal(self._path, "no regular file")
        return status

    def read(self) -> bytes | None:
        """Return the content of the file; None if it is missing, or not everybody may read it.

        Raises:
            OSError: If an object that is not a regular file has the name.
        """
        status = self.status()
        if status is None or status.st_mode & 0o444 != 0o444:
            return None
        with open(os.open(self.name, _READ, dir_fd=self.folder), "rb") as file:
            return file.read()

    def stage(self, data: bytes, stack: contextlib.ExitStack) -> None:
        """Write the new content of the file beside the file.

        Args:
            data: The content.
            stack: Replaces the file at its end, unless that is an exception.

        Raises:
            OSError: If the new file cannot be written; the error names the file.
        """
        replacement = replacing(self.name, self.folder, sync=False, mode=_FILE_MODE)
        try:
            file = stack.enter_context(replacement)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
            _date(file.fileno(), self.status())
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from None


def _date(descriptor: int, before: os.stat_result | None) -> None:
    """Give a new file a date in another second than the file that it will replace.

    Web servers make the ETag from date and size, so that equal dates could hide a change.
    """
    now = os.fstat(descriptor).st_mtime
    if before is not None and now < int(before.st_mtime) + 1:
        os.utime(descriptor, (now, int(before.st_mtime) + 1))


def _refusal(path: Path, kind: str) -> OSError:
    return OSError(errno.EEXIST, f"it is {kind}, which is not replaced", str(path))


def _open_or_make(path: Path, above: int | None) -> int:
    """Open a folder; make it if it is missing.

    Args:
        path: The folder. Only the top folder may be a link, of this user or of root.
        above: The descriptor of the folder that holds it; None for the top folder.
    """
    name = str(path) if above is None else path.name
    with contextlib.suppress(FileExistsError):
        os.mkdir(name, _FOLDER_MODE, dir_fd=above)
    try:
        return os.open(name, _FOLDER | os.O_NOFOLLOW, dir_fd=above)
    except OSError as error:
        if error.errno not in {errno.ELOOP, errno.ENOTDIR}:
            raise
        status = os.stat(name, dir_fd=above, follow_symlinks=False)
        trusted = stat.S_ISLNK(status.st_mode) and status.st_uid in {0, os.geteuid()}
        if above is not None or not trusted:
            raise _refusal(path, "no folder of ours") from None
        return os.open(path, _FOLDER)


class StaticExporter:
    """Publishes one source into one folder.

    It shares the state folder with a server on this machine, so that both give the same date and
    version to a list.

    Args:
        settings: The source and the signing key.
        folder: The folder that the files are written to.
        state_folder: Folder of the last good list and its release, unless the settings name it.

    Raises:
        SettingsError: If the key or the source cannot be used.
    """

    def __init__(self, settings: Settings, folder: Path, state_folder: str) -> None:
        check_key(settings)
        check_source(settings)
        self._settings = settings
        self._folder = folder
        source = open_source(settings)
        now = time.time()
        state = settings.state_dir or state_folder
        directory = StateDirectory.of_user(state, owner_of(state))
        releases = ReleaseStore(directory, key(str(source)))
        self._store = SnapshotStore(Snapshot.of(EMPTY, settings, now, int(now)))
        self._reloader = Reloader(source, settings, self._store, releases)
        self._signer = Signer(settings)
        self._complained = False

    def publish(self) -> tuple[list[str], ServerState]:
        """Publish the source as it is now.

        Returns:
            The paths of the files that have changed, and the state after reading the source.

        Raises:
            SourceError: If the text is refused; no file has changed then.
            OSError: If a file cannot be written.
        """
        self._reloader.start()
        view = self._store.view
        if view.state is not SourceState.FRESH:
            code = view.problems[0].code if view.problems else Code.UNREADABLE
            raise SourceError(code, view.reason or "there is no list to publish")
        return self._write(), view

    def follow(self) -> signal.Signals:
        """Publish every change of the source, until SIGTERM or Ctrl-C.

        A text that is refused changes nothing; the log says why. Writing to the folder is retried,
        and files that somebody else has changed are written again.

        Returns:
            The signal that ended the process.
        """
        # The threads inherit the mask, and leave these signals to this thread.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        self._reloader.start()
        thread = ReloadThread(self._reloader, self._turn)
        thread.start()
        try:
            return signal.Signals(signal.sigwait(_SIGNALS))
        finally:
            thread.stop()

    def _turn(self) -> None:
        if not self._store.view.loaded:
            return
        reason = ""
        try:
            if changed := self._write():
                logger.info("published %s", ", ".join(changed))
        except SourceError as error:
            reason = str(error)
        except OSError as error:
            reason = f"{error.filename}: {error.strerror}"
        if reason and not self._complained:
            logger.error("the list cannot be published: %s", reason)
        self._complained = bool(reason)

    def _write(self) -> list[str]:
        """Bring the folder up to date, and return the paths of the files that have changed."""
        snapshot = self._store.view.snapshot
        # A server that has served nothing may begin with an empty list, but the folder may hold a
        # list from an earlier run, which an empty list must not replace.
        if not (snapshot.rendering.usable or self._settings.allow_empty):
            raise SourceError(Code.NO_ENDPOINTS, _EMPTY)
        alive = healthy(self._settings.service_name).body
        files = {"api/v1/health": alive, "health": alive, **_qr_files(snapshot.plain.body)}
        files[f"{_CONFIG}/endpoints"] = snapshot.plain.body
        if snapshot.gzip:
            files[f"{_CONFIG}/endpoints.gz"] = snapshot.gzip.body
        if signed := self._signer.signed(snapshot):
            files[f"{_CONFIG}/endpoints.jws"] = signed.plain.body
        if self._signer.key is not None:
            files[f"{_CONFIG}/keys"] = json.dumps(jwk_set([self._signer.key])).encode()
        return write(self._folder, files)


@lru_cache(maxsize=2)  # drawing takes long, and each turn needs the codes
def _qr_files(body: bytes) -> dict[str, bytes]:
    """Return the QR codes of a list by their paths; empty if no form of the list fits."""
    config = read_own(body)
    try:
        text = qr.fit(config).text if config else ""
    except QrTooLong:
        text = ""
    if not text:
        return {}
    images = {f"{_CONFIG}/qr.{form}": qr.image(text, form) for form in ("svg", "png")}
    return {**images, f"{_CONFIG}/qr.json": text.encode()}
